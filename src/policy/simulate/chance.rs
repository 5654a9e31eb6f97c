//! What happens by chance, the same for the same seed: which slots are missed, when forks come, how long they live. Each
//! answer depends on the seed and a number only, so that it is the same in whatever order one asks.

use super::Model;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::VecDeque;

const MISSED: u64 = 1;
const FORKS_OF_DAY: u64 = 2;
const FORK_STARTS: u64 = 3;
const FORK_LIVES: u64 = 4;
const FORK_PICKS: u64 = 5;

/// Numbers by chance.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chance {
    seed: u64,
}

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// SplitMix64 over seed, what it is for, and which one.
    fn draw(self, purpose: u64, n: u64) -> u64 {
        let mut z = self.seed ^ purpose.wrapping_mul(0xA076_1D64_78BD_642F);
        for word in [n, purpose] {
            z = z.wrapping_add(word.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
        }
        z
    }

    /// Evenly in `0..below`.
    fn below(self, purpose: u64, n: u64, below: u64) -> u64 {
        u64::try_from((u128::from(self.draw(purpose, n)) * u128::from(below)) >> 64).unwrap_or(0)
    }

    #[cfg(test)]
    pub(super) fn draw_for_test(self, n: u64) -> u64 {
        self.draw(FORK_PICKS, n)
    }

    pub(super) fn is_missed(self, slot: u64, per_million: u32) -> bool {
        self.below(MISSED, slot, 1_000_000) < u64::from(per_million)
    }
}

/// One of so many places by chance: that of a place is that of the first, divided by its rank.
pub(super) fn pick(places: usize, chance: u64) -> Option<usize> {
    let weight = |place: usize| (1_u64 << 32) / (place as u64 + 1);
    let all: u64 = (0..places).map(weight).sum();
    let mut left = u64::try_from((u128::from(chance) * u128::from(all)) >> 64).unwrap_or(0);
    (0..places).find(|place| match left.checked_sub(weight(*place)) {
        Some(less) => {
            left = less;
            false
        }
        None => true,
    })
}

/// A fork that is to come.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    starts: DateTime<Utc>,
    ends: DateTime<Utc>,
    chance: u64,
}

/// Forks to come, by time: each day of 24 hours has as many as the model says (one more on some days, if that is no whole
/// number), spread evenly by chance; each lives for between a half and one and a half of the model's life.
#[derive(Debug)]
pub(super) struct Arrivals {
    chance: Chance,
    per_day_thousandths: u64,
    life_ms: i64,
    next_day: DateTime<Utc>,
    to: DateTime<Utc>,
    day: u64,
    made: u64,
    waiting: VecDeque<Arrival>,
}

impl Arrivals {
    pub(super) fn new(model: &Model, chance: Chance) -> Self {
        let mut arrivals = Self {
            chance,
            per_day_thousandths: model.forks.map_or(0, |forks| u64::from(forks.per_day_thousandths)),
            life_ms: model.forks.map_or(0, |forks| forks.life.num_milliseconds()),
            next_day: model.from,
            to: model.to,
            day: 0,
            made: 0,
            waiting: VecDeque::new(),
        };
        arrivals.fill();
        arrivals
    }

    pub(super) fn peek(&self) -> Option<DateTime<Utc>> {
        self.waiting.front().map(|arrival| arrival.starts)
    }

    /// The next one's end, and a number to pick its snapshot by.
    pub(super) fn pop(&mut self) -> Option<(DateTime<Utc>, u64)> {
        let arrival = self.waiting.pop_front()?;
        self.fill();
        Some((arrival.ends, arrival.chance))
    }

    /// Makes days until one has a fork.
    fn fill(&mut self) {
        while self.waiting.is_empty() && self.next_day < self.to && self.per_day_thousandths > 0 {
            let more = u64::from(self.chance.below(FORKS_OF_DAY, self.day, 1000) < self.per_day_thousandths % 1000);
            let mut arrivals: Vec<Arrival> = (0..self.per_day_thousandths / 1000 + more).map(|_| self.arrival()).collect();
            arrivals.sort_by_key(|arrival| arrival.starts);
            self.waiting.extend(arrivals);
            self.next_day += TimeDelta::days(1);
            self.day += 1;
        }
    }

    fn arrival(&mut self) -> Arrival {
        let n = self.made;
        self.made += 1;
        let ms = |ms: u64| TimeDelta::milliseconds(i64::try_from(ms).unwrap_or(0));
        let starts = self.next_day + ms(self.chance.below(FORK_STARTS, n, 86_400_000));
        let life = u64::try_from(self.life_ms).unwrap_or(0);
        let ends = starts + ms(life / 2 + self.chance.below(FORK_LIVES, n, life.saturating_add(1)));
        Arrival { starts, ends, chance: self.chance.draw(FORK_PICKS, n) }
    }
}
