//! How the schedules do, in numbers: for the heartbeat and for metrics. Cheap for ten thousand pairs: when one is overdue is
//! computed once after each change of its entry.

use super::Schedules;
use crate::ids::PolicyName;
use crate::policy::cadence::{LedgerEntry, Outcome};
use crate::policy::{Policy, Schedule};
use chrono::{DateTime, TimeDelta, Utc};

/// How a policy does with the instances that it selects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// Pairs of it and an instance.
    pub pairs: u64,
    /// Those whose last attempt failed.
    pub failing: u64,
    /// Most failed attempts in a row.
    pub failures: u32,
    /// Those that have gone by two slots, and more, without a snapshot.
    pub overdue: u64,
    /// The oldest of their last successes.
    pub oldest_success: Option<DateTime<Utc>>,
}

impl Health {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            pairs: self.pairs + other.pairs,
            failing: self.failing + other.failing,
            failures: self.failures.max(other.failures),
            overdue: self.overdue + other.overdue,
            oldest_success: [self.oldest_success, other.oldest_success].into_iter().flatten().min(),
        }
    }
}

/// When a pair has gone by two slots without a snapshot: the second slot after the last that was taken, or passed over on
/// purpose. `None`: never.
fn overdue_at(schedule: &Schedule, offset: TimeDelta, entry: &LedgerEntry) -> Option<DateTime<Utc>> {
    let taken = entry.last_success.as_ref().map(|success| success.slot);
    let skipped = match &entry.outcome {
        Some(Outcome::Skipped { slot, .. }) => Some(*slot),
        _ => None,
    };
    let from = [taken, skipped].into_iter().flatten().max().unwrap_or(entry.since);
    Some(schedule.slot_after(schedule.slot_after(from)?)? + offset)
}

impl Schedules {
    /// How each policy does, as of the last tick's instances; `None` before the first tick by these policies.
    #[must_use]
    pub fn health(&self, policies: &[Policy], now: DateTime<Utc>) -> Option<Vec<(PolicyName, Health)>> {
        let (instances, matched) = {
            let live = self.live();
            if live.matched.policies != (policies.as_ptr().addr(), policies.len()) {
                return None;
            }
            (live.matched.instances.clone(), live.matched.of_policy.clone())
        };
        let of = |(policy, places): (&Policy, super::Places)| {
            let mut health = Health::default();
            self.ledger.with_policy(&policy.name, |known| {
                for instance in places.iter().filter_map(|(place, _)| instances.get(*place)) {
                    let Some(known) = known.get_mut(&instance.instance) else { continue };
                    let Some(schedule) = &policy.schedule else { continue };
                    let entry = &known.entry;
                    let offset = schedule.offset(&policy.name, &instance.instance, now);
                    let overdue_at = *known.overdue_at.get_or_insert_with(|| overdue_at(schedule, offset, entry));
                    health = health.and(Health {
                        pairs: 1,
                        failing: u64::from(entry.failures > 0),
                        failures: entry.failures,
                        overdue: u64::from(overdue_at.is_some_and(|at| at <= now)),
                        oldest_success: entry.last_success.as_ref().map(|success| success.at),
                    });
                }
            });
            (policy.name.clone(), health)
        };
        Some(policies.iter().zip(matched).map(of).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::minutes(minute)
    }

    #[test]
    fn a_pair_is_overdue_at_the_second_slot_after_its_last_success_or_skip() {
        let schedule = Schedule::new(crate::policy::Rhythm::Every(TimeDelta::minutes(10)), chrono_tz::UTC);
        let id = crate::ids::SnapshotId::generate(at(0));
        let entry = LedgerEntry::new(at(3));
        assert_eq!(overdue_at(&schedule, TimeDelta::zero(), &entry), Some(at(20)));
        let entry = entry.begin(at(20), 1, at(20)).taken(at(20), id, at(20));
        assert_eq!(overdue_at(&schedule, TimeDelta::minutes(1), &entry), Some(at(41)));
        let entry = entry.begin(at(30), 1, at(30)).skipped(at(30), "on purpose");
        assert_eq!(overdue_at(&schedule, TimeDelta::zero(), &entry), Some(at(50)));
    }
}
