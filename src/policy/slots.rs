//! When snapshots are due by the calendar: a schedule, and its slots before and after any moment.
//!
//! The slots of a schedule are one fixed set of moments; looking ahead and looking back see the same ones. What was done
//! with them is the ledger's matter (`cadence`).

use super::times::Times;
use super::window::Window;
use super::zone::spans;
use crate::ids::{InstanceId, PolicyName};
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Missed slots are counted up to so many.
pub(super) const MOST_MISSED: u32 = 1000;
/// So many slots are looked at to find the shortest.
const SLOTS_MEASURED: u32 = 1000;
/// Slots outside the window are passed over so often before a search is given up: years of daily ones.
const MOST_OUTSIDE: u32 = 1500;
/// Where measuring begins. Fixed, so that a pair's jitter never changes.
const MEASURED_FROM: i64 = 1_767_225_600; // 2026-01-01
/// So many stretches between slots are remembered.
const REMEMBERED: usize = 8;

/// When snapshots are due.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// The moments.
    pub rhythm: Rhythm,
    /// The zone in which cron expressions and `window` are read.
    pub timezone: Tz,
    /// Slots outside these hours do not exist.
    pub window: Window,
    /// Each instance's slots are later by a constant part of this.
    pub jitter: TimeDelta,
    /// What to do about slots that went by unseen.
    pub missed: Missed,
    /// A slot that went by longer ago is not caught up; `None`: however long ago.
    pub missed_within: Option<TimeDelta>,
    /// What a pair gets that is seen for the first time.
    pub on_enable: OnEnable,
    /// So many of its snapshots at once; `None`: as many as the host may run.
    pub max_running: Option<usize>,
    /// What was found out before.
    pub memo: Memo,
}

/// The moments of a schedule.
#[derive(Debug, Clone)]
pub enum Rhythm {
    /// Cron expressions: the slots of all of them.
    Cron(Arc<[Times]>),
    /// Every so often, counted from the Unix epoch; one second at least.
    Every(TimeDelta),
}

/// What to do about slots that went by while nobody looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// Take one snapshot now, however many slots were missed.
    Run,
    /// Log them and wait for the next.
    Skip,
}

/// What a pair of policy and instance gets that is seen for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnEnable {
    /// Its first snapshot at its next slot.
    Wait,
    /// One at once (within `window`), then at its slots.
    Run,
}

/// Slots that went by unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissedSlots {
    /// The first.
    pub first: DateTime<Utc>,
    /// The last.
    pub last: DateTime<Utc>,
    /// How many, up to 1000.
    pub count: u32,
}

/// What was computed of a schedule, for all its instances: ten thousand pairs ask for the same few slots.
/// It changes no answer, so a copy of a schedule begins without.
#[derive(Default)]
pub struct Memo {
    /// Slots next to each other.
    stretches: Mutex<Stretches>,
    /// The shortest time between slots, and from a slot to the end of the window, milliseconds.
    measured: OnceLock<(Option<i64>, Option<i64>)>,
}

#[derive(Default)]
struct Stretches {
    known: [Option<(i64, i64)>; REMEMBERED],
    oldest: usize,
    /// The slots after the first time and before the second.
    missed: Option<(i64, i64, MissedSlots)>,
}

impl Clone for Memo {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl std::fmt::Debug for Memo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memo")
    }
}

/// A number below 2^32 that is a pair's for good: FNV-1a with a finish that spreads names that differ in their last digit.
/// Ten thousand pairs ask each time that they are looked at, so it is no cryptographic digest.
fn share(policy: &str, instance: &str) -> u32 {
    let bytes = policy.bytes().chain([0]).chain(instance.bytes());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    u32::try_from((hash ^ hash >> 33) >> 32).unwrap_or(u32::MAX)
}

fn time(ms: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(ms)
}

impl Rhythm {
    /// The first moment at or after `from`, milliseconds since the epoch.
    fn next(&self, zone: Tz, from: i64) -> Option<i64> {
        match self {
            Self::Cron(all) => {
                let from = from.checked_add(999)?.div_euclid(1000);
                all.iter().filter_map(|times| times.next(zone, from)).min()?.checked_mul(1000)
            }
            Self::Every(interval) => {
                let every = interval.num_milliseconds().max(1);
                (from.checked_sub(1)?.div_euclid(every) + 1).checked_mul(every)
            }
        }
    }

    /// The last moment at or before `until`.
    fn last(&self, zone: Tz, until: i64) -> Option<i64> {
        match self {
            Self::Cron(all) => all.iter().filter_map(|times| times.last(zone, until.div_euclid(1000))).max()?.checked_mul(1000),
            Self::Every(interval) => {
                let every = interval.num_milliseconds().max(1);
                until.div_euclid(every).checked_mul(every)
            }
        }
    }
}

impl Schedule {
    /// A schedule of these moments: without jitter, in any hour, catching up once.
    #[must_use]
    pub fn new(rhythm: Rhythm, timezone: Tz) -> Self {
        Self {
            rhythm,
            timezone,
            window: Window::default(),
            jitter: TimeDelta::zero(),
            missed: Missed::Run,
            missed_within: None,
            on_enable: OnEnable::Wait,
            max_running: None,
            memo: Memo::default(),
        }
    }

    /// The first slot after `t`.
    #[must_use]
    pub fn slot_after(&self, t: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let t = t.timestamp_millis();
        self.stretch(t).map_or_else(|| self.next(t + 1), |(_, next)| Some(next)).and_then(time)
    }

    /// The last slot at or before `t`.
    #[must_use]
    pub fn slot_at_or_before(&self, t: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let t = t.timestamp_millis();
        self.stretch(t).map_or_else(|| self.last(t), |(last, _)| Some(last)).and_then(time)
    }

    /// Whether its wall time is not one that the schedule names: a change of clocks has moved it.
    #[must_use]
    pub fn is_moved(&self, slot: DateTime<Utc>) -> bool {
        match &self.rhythm {
            Rhythm::Cron(all) => all.iter().all(|times| times.is_moved(self.timezone, slot.timestamp())),
            Rhythm::Every(_) => false,
        }
    }

    /// Whether snapshots may begin at `t`.
    #[must_use]
    pub fn is_open(&self, t: DateTime<Utc>) -> bool {
        self.window.is_open(self.timezone, t.timestamp())
    }

    /// The first moment at or after `t` at which snapshots may begin.
    #[must_use]
    pub fn opens(&self, t: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let open = self.window.next_open(self.timezone, t.timestamp())?;
        Some(DateTime::from_timestamp(open, 0)?.max(t))
    }

    /// How much later than its slots a pair runs: constant for the pair, spread over the jitter, never more than half of
    /// the shortest slot, and never so much that a slot leaves the window.
    #[must_use]
    pub fn offset(&self, policy: &PolicyName, instance: &InstanceId, _now: DateTime<Utc>) -> TimeDelta {
        if self.jitter <= TimeDelta::zero() {
            return TimeDelta::zero();
        }
        let (shortest, room) = *self.memo.measured.get_or_init(|| self.measure());
        let caps = [shortest.map(|ms| ms / 2), room.map(|ms| ms - 1)];
        let most = caps.into_iter().flatten().fold(self.jitter.num_milliseconds(), i64::min).max(0);
        let part = share(policy.as_str(), instance.as_str());
        // In 128 bits: jitter of weeks times 32 bits is more than 64 can hold.
        TimeDelta::milliseconds(i64::try_from((i128::from(part) * i128::from(most)) >> 32).unwrap_or(0))
    }

    /// The shortest time between two slots.
    #[must_use]
    pub fn shortest_slot(&self) -> Option<TimeDelta> {
        self.memo.measured.get_or_init(|| self.measure()).0.map(TimeDelta::milliseconds)
    }

    /// The shortest time between slots, and from one to the end of its window. They are the same whenever one asks:
    /// `0 0,1 * * *` has long and short slots, and an offset that followed them would run a slot late by the length of
    /// another.
    fn measure(&self) -> (Option<i64>, Option<i64>) {
        let mut least = (None, None);
        let year = spans(self.timezone, MEASURED_FROM, MEASURED_FROM + 366 * 86_400);
        // From a fixed day on, and over the days on which the clocks change.
        self.measure_from(MEASURED_FROM * 1000, SLOTS_MEASURED, &mut least);
        year.iter().skip(1).for_each(|span| self.measure_from((span.start - 86_400) * 1000, SLOTS_MEASURED / 10, &mut least));
        if let Rhythm::Cron(all) = &self.rhythm
            && all.len() > 1
        {
            // A rare expression comes close to a frequent one rarely.
            for times in all.iter() {
                let mut at = MEASURED_FROM;
                for _ in 0..SLOTS_MEASURED / 20 {
                    let Some(slot) = times.next(self.timezone, at) else { break };
                    let before = self.last(slot * 1000 - 1).unwrap_or(slot * 1000);
                    self.measure_from(before - 1, 3, &mut least);
                    at = slot + 1;
                }
            }
        }
        least
    }

    fn measure_from(&self, from: i64, slots: u32, least: &mut (Option<i64>, Option<i64>)) {
        let shorter = |was: Option<i64>, new: i64| Some(was.map_or(new, |was| was.min(new)));
        let mut slot = self.next(from);
        for _ in 0..slots {
            let Some(this) = slot else { return };
            if let Some(room) = self.window.open_for(self.timezone, this.div_euclid(1000)) {
                least.1 = shorter(least.1, room * 1000);
            }
            slot = self.next(this + 1);
            if let Some(next) = slot {
                least.0 = shorter(least.0, next - this);
            }
        }
    }

    /// Slots after `from`, before `to`: the first, and how many up to [`MOST_MISSED`].
    pub(super) fn slots_between(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> Option<MissedSlots> {
        let first = self.slot_after(from).filter(|slot| *slot < to)?;
        let key = (first.timestamp_millis(), to.timestamp_millis());
        let known = self.stretches().missed.filter(|(from, to, _)| (*from, *to) == key);
        if let Some((.., missed)) = known {
            return Some(missed);
        }
        let (mut last, mut count) = (key.0, 1);
        while count < MOST_MISSED
            && let Some(slot) = self.next(last + 1).filter(|slot| *slot < key.1)
        {
            last = slot;
            count += 1;
        }
        if count == MOST_MISSED {
            last = self.last(key.1 - 1).unwrap_or(last);
        }
        let missed = MissedSlots { first, last: time(last)?, count };
        self.stretches().missed = Some((key.0, key.1, missed));
        Some(missed)
    }

    fn stretches(&self) -> std::sync::MutexGuard<'_, Stretches> {
        self.memo.stretches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slots around `t`: at or before it, and after it.
    fn stretch(&self, t: i64) -> Option<(i64, i64)> {
        let known = self.stretches().known.iter().flatten().find(|(last, next)| *last <= t && t < *next).copied();
        if known.is_some() {
            return known;
        }
        let found = (self.last(t)?, self.next(t + 1)?);
        let mut stretches = self.stretches();
        let at = stretches.oldest;
        if let Some(place) = stretches.known.get_mut(at) {
            *place = Some(found);
        }
        stretches.oldest = (at + 1) % REMEMBERED;
        Some(found)
    }

    /// The first slot at or after `from`, milliseconds since the epoch.
    fn next(&self, mut from: i64) -> Option<i64> {
        for _ in 0..MOST_OUTSIDE {
            let slot = self.rhythm.next(self.timezone, from)?;
            let second = slot.div_euclid(1000);
            if self.window.is_open(self.timezone, second) {
                return Some(slot);
            }
            from = self.window.next_open(self.timezone, second)? * 1000;
        }
        None
    }

    /// The last slot at or before `until`.
    fn last(&self, mut until: i64) -> Option<i64> {
        for _ in 0..MOST_OUTSIDE {
            let slot = self.rhythm.last(self.timezone, until)?;
            let second = slot.div_euclid(1000);
            if self.window.is_open(self.timezone, second) {
                return Some(slot);
            }
            until = self.window.last_open(self.timezone, second)? * 1000 + 999;
        }
        None
    }
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
