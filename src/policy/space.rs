//! What goes early because the file system is too full: by bytes really freed for each snapshot lost, oldest and densest
//! first. Those that only the bounds of the config hold (the newest, `min`) and those that something needs stay.
//!
//! A snapshot's worth is what its removal frees now, times its age, divided by the time between its neighbours, which is
//! what is left without a snapshot. So of a dense hour long ago one goes before the only one of a month, and a large
//! one before a small one. The gap of the oldest is taken as twice the time to the next: it has no neighbour behind it.
//! One that would free nothing stays: what it shares with others comes free only with the last of them, and no snapshot is
//! given up for nothing. As neighbours go, what they shared becomes the others' own, so it is measured again after each round.

use chrono::{DateTime, Utc};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// How full the file system is, if it is too full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pressure {
    /// Bytes that are in use, or that others may not use.
    pub used: u64,
    /// All bytes.
    pub size: u64,
    /// How much is to be used at most in the end, bytes.
    pub until: u64,
    /// What will come free without our doing: what lies in the trash, bytes.
    pub coming: u64,
    /// What frees less than this is not given up: its own directory and manifest are no gain.
    pub least: u64,
}

impl Pressure {
    /// Bytes that are to be freed.
    #[must_use]
    pub fn wanted(&self) -> u64 {
        self.used.saturating_sub(self.until).saturating_sub(self.coming)
    }
}

/// A snapshot that stays so far, among those of its policy and instance, which are newest first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    /// Which, for the caller.
    pub(super) place: usize,
    pub(super) created_at: DateTime<Utc>,
    /// What its removal frees now.
    pub(super) bytes: u64,
    /// Whether it may go.
    pub(super) is_spare: bool,
}

/// The places of those that go, most worth first.
pub(super) fn choose(groups: &[Vec<Candidate>], (wanted, least): (u64, u64), now: DateTime<Utc>) -> Vec<usize> {
    let mut chosen = Vec::new();
    let mut left = wanted;
    let mut lines: Vec<Neighbours<'_>> = groups.iter().map(|group| Neighbours::new(group, least)).collect();
    let mut heap = BinaryHeap::new();
    for (group, line) in lines.iter().enumerate() {
        heap.extend((0..line.of.len()).filter_map(|at| Some((line.worth(at, now)?, Reverse(group), at))));
    }
    while left > 0
        && let Some((worth, Reverse(group), at)) = heap.pop()
    {
        let Some(line) = lines.get_mut(group) else { continue };
        match line.worth(at, now) {
            // A neighbour has gone since: its gap is larger now.
            Some(other) if other != worth => heap.push((other, Reverse(group), at)),
            Some(_) => {
                if let Some((place, bytes)) = line.take(at) {
                    chosen.push(place);
                    left = left.saturating_sub(bytes);
                }
            }
            None => {}
        }
    }
    chosen
}

/// The snapshots of a group with links to those next to them that are left.
struct Neighbours<'g> {
    of: &'g [Candidate],
    /// For each the next newer and the next older; itself where there is none.
    next: Vec<(usize, usize)>,
    gone: Vec<bool>,
    least: u64,
}

impl<'g> Neighbours<'g> {
    fn new(of: &'g [Candidate], least: u64) -> Self {
        let last = of.len().saturating_sub(1);
        let next = (0..of.len()).map(|at| (at.saturating_sub(1), (at + 1).min(last))).collect();
        Self { of, next, gone: vec![false; of.len()], least: least.max(1) }
    }

    /// Bytes times age over gap, as a fraction of whole numbers scaled up; `None` if it may not go or frees nothing.
    fn worth(&self, at: usize, now: DateTime<Utc>) -> Option<u128> {
        let candidate = self.of.get(at).filter(|c| c.is_spare && c.bytes >= self.least)?;
        if *self.gone.get(at)? {
            return None;
        }
        let (newer, older) = *self.next.get(at)?;
        let time = |at: usize| self.of.get(at).map(|c| c.created_at);
        let until = time(newer)?;
        let gap = if older == at { (until - candidate.created_at) * 2 } else { until - time(older)? };
        let seconds = |span: chrono::TimeDelta| u128::from(span.num_seconds().max(1).unsigned_abs());
        Some(u128::from(candidate.bytes) * 1024 * seconds(now - candidate.created_at) / seconds(gap))
    }

    /// Takes one out: its place for the caller, and its bytes.
    fn take(&mut self, at: usize) -> Option<(usize, u64)> {
        let candidate = self.of.get(at)?;
        let (newer, older) = *self.next.get(at)?;
        *self.gone.get_mut(at)? = true;
        if newer != at
            && let Some(links) = self.next.get_mut(newer)
        {
            links.1 = if older == at { newer } else { older };
        }
        if older != at
            && let Some(links) = self.next.get_mut(older)
        {
            links.0 = if newer == at { older } else { newer };
        }
        Some((candidate.place, candidate.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;
    use proptest::prelude::*;

    fn now() -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
    }

    fn group(first: usize, ages: &[(i64, u64, bool)]) -> Vec<Candidate> {
        let candidate = |(n, (age, bytes, is_spare)): (usize, &(i64, u64, bool))| Candidate {
            place: first + n,
            created_at: now() - TimeDelta::seconds(*age),
            bytes: *bytes,
            is_spare: *is_spare,
        };
        ages.iter().enumerate().map(candidate).collect()
    }

    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;

    #[test]
    fn of_equal_ones_the_old_and_dense_go_first_and_only_as_many_as_must() {
        // Hourly ones of today, three within an hour of ten days ago, one of a month ago.
        let ages = [
            (0, 10, false),
            (HOUR, 10, true),
            (2 * HOUR, 10, true),
            (10 * DAY, 10, true),
            (10 * DAY + 60, 10, true),
            (10 * DAY + 120, 10, true),
            (30 * DAY, 10, true),
        ];
        let groups = [group(0, &ages)];
        assert_eq!(choose(&groups, (1, 0), now()), [4], "the middle of the three");
        assert_eq!(choose(&groups, (11, 0), now()).len(), 2);
        assert_eq!(choose(&groups, (0, 0), now()), [0; 0]);
        let all = choose(&groups, (1000, 0), now());
        assert_eq!(all.len(), 6, "the one that may not go stays");
        assert_eq!(all[0], 4);
    }

    #[test]
    fn a_large_one_goes_before_many_small_ones_and_one_that_frees_nothing_never() {
        let groups = [
            group(0, &[(0, 1, false), (DAY, 1, true), (2 * DAY, 1000, true), (3 * DAY, 1, true)]),
            group(4, &[(0, 0, false), (DAY, 0, true), (2 * DAY, 0, true)]),
        ];
        assert_eq!(choose(&groups, (500, 0), now()), [2]);
        assert_eq!(choose(&groups, (5000, 2), now()), [2], "the small ones free too little");
        assert_eq!(choose(&groups, (5000, 0), now()).len(), 3, "those of the second group free nothing");
    }

    proptest! {
        #[test]
        fn only_spare_ones_go_each_once_and_no_more_than_must(
            raw in prop::collection::vec(prop::collection::vec((0..100 * DAY, 0..1000u64, any::<bool>()), 0..20), 0..5), wanted in 0..8000u64,
        ) {
            let mut first = 0;
            let groups: Vec<_> = raw.into_iter().map(|mut ages| {
                ages.sort_unstable();
                let made = group(first, &ages);
                first += ages.len();
                made
            }).collect();
            let all: Vec<Candidate> = groups.iter().flatten().copied().collect();
            let chosen = choose(&groups, (wanted, 0), now());
            let mut once = chosen.clone();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), chosen.len());
            prop_assert!(chosen.iter().all(|place| all[*place].is_spare));
            let bytes = |places: &[usize]| places.iter().map(|place| all[*place].bytes).sum::<u64>();
            let spare: u64 = all.iter().filter(|c| c.is_spare).map(|c| c.bytes).sum();
            if let Some((_, but_last)) = chosen.split_last() {
                prop_assert!(bytes(but_last) < wanted, "the last one was needed");
            }
            prop_assert!(bytes(&chosen) >= wanted.min(spare), "as much as there is");
            prop_assert!(chosen.iter().all(|place| all[*place].bytes > 0), "none for nothing");
        }
    }
}
