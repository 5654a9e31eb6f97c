//! When a snapshot is due: a pure function of schedule, ledger entry and `now`. The ledger entry is the memory of what
//! was done, so a restart, a suspend, a stepped clock and normal running are one path.

use super::slots::MOST_MISSED;
use super::{Missed, OnEnable, Retry, Rhythm, Schedule};
use crate::ids::SnapshotId;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// A slot that is noticed later than this was missed, as far as `missed = "skip"` goes.
const ON_TIME: TimeDelta = TimeDelta::seconds(60);
/// A ledger entry this far ahead of the clock (and beyond the next slot) is from a clock that was set wrong.
const AHEAD: TimeDelta = TimeDelta::hours(1);
/// One this far ahead makes the slot before the clock's time due at once.
const FAR_AHEAD: TimeDelta = TimeDelta::days(1);

pub use super::slots::MissedSlots;

/// What a policy has done with an instance, as it is on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// Format of the record.
    pub format: u32,
    /// Slots at or before this time are nobody's: the pair was not known yet.
    pub since: DateTime<Utc>,
    /// The last slot that has an outcome.
    pub last_slot: Option<DateTime<Utc>>,
    /// A slot that was begun and has no outcome.
    pub begun: Option<Begun>,
    /// Attempts that failed in the slot that is being retried.
    pub attempts: u32,
    /// When the slot is tried again.
    pub retry_at: Option<DateTime<Utc>>,
    /// The slot that is being retried.
    pub retry_slot: Option<DateTime<Utc>>,
    /// The last outcome.
    pub outcome: Option<Outcome>,
    /// The last success.
    pub last_success: Option<Success>,
    /// The last error in words, until the next success.
    pub last_error: Option<String>,
    /// Failed attempts since the last success.
    pub failures: u32,
    /// Since when the instance is gone.
    pub gone_since: Option<DateTime<Utc>>,
    /// How much later than its slot (and jitter) the last run began, milliseconds; entries of old have it not.
    #[serde(default)]
    pub late_ms: Option<u64>,
}

/// A slot that was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is what its name says")]
pub struct Begun {
    pub slot: DateTime<Utc>,
    pub at: DateTime<Utc>,
    pub attempt: u32,
}

/// How a slot ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each is what its name says")]
pub enum Outcome {
    Taken { slot: DateTime<Utc>, snapshot: SnapshotId },
    Failed { slot: DateTime<Utc>, error: String, interrupted: bool },
    Skipped { slot: DateTime<Utc>, why: String },
    Missed { slot: DateTime<Utc>, count: u32 },
}

/// The last success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is what its name says")]
pub struct Success {
    pub slot: DateTime<Utc>,
    pub at: DateTime<Utc>,
    pub snapshot: SnapshotId,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// Nothing before this time; `None`: never again.
    NotYet(Option<DateTime<Utc>>),
    /// Take a snapshot for this slot; others may have been missed before it.
    Run {
        /// The slot.
        slot: DateTime<Utc>,
        /// Which attempt, from 1.
        attempt: u32,
        /// Slots before it that nobody saw.
        missed: Option<MissedSlots>,
    },
    /// Slots were missed, and are not to be caught up.
    Missed(MissedSlots),
}

/// What is due for a pair that does not run at this moment. `offset` is [`Schedule::offset`].
#[must_use]
pub fn due(schedule: &Schedule, offset: TimeDelta, entry: &LedgerEntry, now: DateTime<Utc>) -> Due {
    due_for(schedule, offset, entry, now, None)
}

/// The same for a pair that was due before and waits for its turn: the slot that was `seen` is not missed for that.
#[must_use]
pub fn due_for(schedule: &Schedule, offset: TimeDelta, entry: &LedgerEntry, now: DateTime<Utc>, seen: Option<DateTime<Utc>>) -> Due {
    match due_at_any_hour(schedule, offset, entry, now, seen) {
        // Outside the window nothing begins: neither what is caught up nor what is tried again.
        Due::Run { .. } if !schedule.is_open(now) => Due::NotYet(schedule.opens(now)),
        due => due,
    }
}

fn due_at_any_hour(schedule: &Schedule, offset: TimeDelta, entry: &LedgerEntry, now: DateTime<Utc>, seen: Option<DateTime<Utc>>) -> Due {
    // With the offset taken off, slots are as the schedule has them.
    let time = now - offset;
    let next = || schedule.slot_after(time).map(|slot| slot + offset);
    let handled = handled_until(schedule, entry, time);
    let Some(slot) = schedule.slot_at_or_before(time).filter(|slot| *slot > handled) else {
        return due_again(entry, next(), now);
    };
    let missed = schedule.slots_between(handled, slot);
    let is_current = time - slot <= ON_TIME
        || seen == Some(slot)
        || matches!(schedule.rhythm, Rhythm::Every(every) if time - slot < every && every <= ON_TIME);
    let is_caught_up = schedule.missed == Missed::Run && schedule.missed_within.is_none_or(|within| time - slot <= within);
    if is_current || is_caught_up {
        return Due::Run { slot, attempt: 1, missed };
    }
    let first = missed.map_or(slot, |m| m.first);
    Due::Missed(MissedSlots { first, last: slot, count: missed.map_or(1, |m| m.count.saturating_add(1).min(MOST_MISSED)) })
}

/// No new slot: perhaps the last one is to be tried again.
fn due_again(entry: &LedgerEntry, next: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Due {
    match (entry.retry_slot, entry.retry_at) {
        (Some(slot), Some(at)) if at <= now => Due::Run { slot, attempt: entry.attempts + 1, missed: None },
        (Some(_), Some(at)) => Due::NotYet(Some(next.map_or(at, |next| next.min(at)))),
        _ => Due::NotYet(next),
    }
}

/// The time up to which slots have been dealt with. One that lies far ahead of the clock, beyond the next slot, is from
/// a clock that was set wrong once: it must not stop the schedule until that time comes. Slots are due
/// then as they come; the one before `time` may have been run before the clock stepped back, so it is left out, unless
/// the clock was wrong by so much that whoever looks rarely (`once`) must not wait for a slot on time.
fn handled_until(schedule: &Schedule, entry: &LedgerEntry, time: DateTime<Utc>) -> DateTime<Utc> {
    let handled = entry.last_slot.map_or(entry.since, |slot| slot.max(entry.since));
    let is_wrong = handled > time + AHEAD && schedule.slot_after(time).is_some_and(|next| handled > next);
    if !is_wrong {
        return handled;
    }
    let is_due = |slot: &DateTime<Utc>| time - *slot <= ON_TIME || handled - time > FAR_AHEAD;
    schedule.slot_at_or_before(time).filter(is_due).map_or(time, |slot| slot - TimeDelta::milliseconds(1))
}

impl LedgerEntry {
    /// The entry of a pair that is known from now on.
    #[must_use]
    pub fn new(since: DateTime<Utc>) -> Self {
        Self {
            format: 1,
            since,
            last_slot: None,
            begun: None,
            attempts: 0,
            retry_at: None,
            retry_slot: None,
            outcome: None,
            last_success: None,
            last_error: None,
            failures: 0,
            gone_since: None,
            late_ms: None,
        }
    }

    /// The entry of a pair that is known from now on, by the schedule's `on_enable`: with a snapshot at once, it is as if
    /// one was to be tried again now.
    #[must_use]
    pub fn enabled(schedule: &Schedule, now: DateTime<Utc>) -> Self {
        let entry = Self::new(now);
        match schedule.on_enable {
            OnEnable::Wait => entry,
            OnEnable::Run => {
                // Slots are whole seconds.
                let slot = DateTime::from_timestamp(now.timestamp(), 0).unwrap_or(now);
                Self { retry_slot: Some(slot), retry_at: Some(slot), ..entry }
            }
        }
    }

    /// How late the slot that is begun is; `offset` is the pair's.
    #[must_use]
    pub fn late(&self, slot: DateTime<Utc>, offset: TimeDelta, now: DateTime<Utc>) -> Self {
        Self { late_ms: Some(u64::try_from((now - offset - slot).num_milliseconds()).unwrap_or(0)), ..self.clone() }
    }

    /// A slot is begun.
    #[must_use]
    pub fn begin(&self, slot: DateTime<Utc>, attempt: u32, now: DateTime<Utc>) -> Self {
        let since = self.since.min(slot - TimeDelta::milliseconds(1));
        Self { begun: Some(Begun { slot, at: now, attempt }), since, ..self.clone() }
    }

    /// The slot that was begun ended with a snapshot.
    #[must_use]
    pub fn taken(&self, slot: DateTime<Utc>, snapshot: SnapshotId, now: DateTime<Utc>) -> Self {
        Self {
            outcome: Some(Outcome::Taken { slot, snapshot: snapshot.clone() }),
            last_success: Some(Success { slot, at: now, snapshot }),
            last_error: None,
            failures: 0,
            ..self.ended(slot)
        }
    }

    /// The slot that was begun failed; it is tried again if attempts are left and the next slot has not come by then.
    #[must_use]
    pub fn failed(
        &self,
        begun: Begun,
        error: &str,
        interrupted: bool,
        retry: Retry,
        next_slot: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Self {
        let wait = retry.backoff.checked_mul(1 << begun.attempt.saturating_sub(1).min(16)).unwrap_or(TimeDelta::MAX);
        let again = now.checked_add_signed(wait).filter(|at| begun.attempt < retry.attempts && next_slot.is_none_or(|next| *at < next));
        Self {
            outcome: Some(Outcome::Failed { slot: begun.slot, error: error.to_owned(), interrupted }),
            last_error: Some(error.to_owned()),
            failures: self.failures.saturating_add(1),
            attempts: if again.is_some() { begun.attempt } else { 0 },
            retry_at: again,
            retry_slot: again.map(|_| begun.slot),
            ..self.ended(begun.slot)
        }
    }

    /// Slots were missed.
    #[must_use]
    pub fn missed(&self, slots: MissedSlots) -> Self {
        Self { outcome: Some(Outcome::Missed { slot: slots.last, count: slots.count }), ..self.ended(slots.last) }
    }

    /// A slot was passed over on purpose.
    #[must_use]
    pub fn skipped(&self, slot: DateTime<Utc>, why: &str) -> Self {
        Self { outcome: Some(Outcome::Skipped { slot, why: why.to_owned() }), ..self.ended(slot) }
    }

    /// The instance is gone, or there again.
    #[must_use]
    pub fn seen(&self, is_there: bool, now: DateTime<Utc>) -> Self {
        let gone_since = if is_there { None } else { self.gone_since.or(Some(now)) };
        Self { gone_since, ..self.clone() }
    }

    fn ended(&self, slot: DateTime<Utc>) -> Self {
        // As `begin` does: a slot that is missed or skipped was not begun, and `since` may be from a clock that was wrong.
        let since = self.since.min(slot - TimeDelta::milliseconds(1));
        Self { since, last_slot: Some(slot), begun: None, attempts: 0, retry_at: None, retry_slot: None, ..self.clone() }
    }
}

#[cfg(test)]
#[path = "cadence_tests.rs"]
mod tests;
