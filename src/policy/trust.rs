//! Whether the wall clock can be believed: a pure function of what was seen of both clocks before, and of what they show
//! now. Where it cannot, nothing is removed by age.
//!
//! The clock is unsettled after a boot, and after a step: the wall clock moved further than the boot clock explains. It
//! settles when it is back where it should be; or ten minutes later, if the kernel says that it is synchronised and it is
//! not more than thirty days away from where it was when it was last believed. Beyond that a person has to say so.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// So long the clock must have run without a step.
const SETTLE: Duration = Duration::from_secs(600);
/// A larger gap wants a person.
const GAP: TimeDelta = TimeDelta::days(30);
/// Smaller differences between the clocks are no step.
const TOLERANCE: TimeDelta = TimeDelta::seconds(30);
/// Crystals drift less than this part of the time that passes.
const DRIFT: i32 = 1000;

/// What the clocks show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The wall clock.
    pub wall: DateTime<Utc>,
    /// Which boot this is.
    pub boot_id: String,
    /// The boot clock, suspend included.
    pub since_boot: Duration,
    /// Whether the kernel says that the wall clock is synchronised.
    pub synchronised: bool,
}

/// Both clocks at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    wall: DateTime<Utc>,
    boot_id: String,
    boot_ms: u64,
}

/// What was seen of the clocks, as it is on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockRecord {
    format: u32,
    /// When they were last looked at.
    last: Stamp,
    /// When they were last believed.
    trusted: Stamp,
    /// The boot clock (ms) when it was noticed that they cannot be; 0 for a boot.
    unsettled_ms: Option<u64>,
}

/// What is thought of the wall clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// It is believed.
    Trusted,
    /// It is not, for this reason; it will be at this time at the soonest, if ever by itself.
    Unsettled {
        /// In words.
        why: String,
        /// `None`: somebody has to say so.
        until: Option<DateTime<Utc>>,
    },
}

impl Reading {
    fn boot_ms(&self) -> u64 {
        u64::try_from(self.since_boot.as_millis()).unwrap_or(u64::MAX)
    }

    fn stamp(&self) -> Stamp {
        Stamp { wall: self.wall, boot_id: self.boot_id.clone(), boot_ms: self.boot_ms() }
    }

    /// How much further the wall clock moved since `stamp` than the boot clock explains; across boots, how far at all.
    fn unexplained(&self, stamp: &Stamp) -> TimeDelta {
        let passed = if self.boot_id == stamp.boot_id { millis(self.boot_ms().saturating_sub(stamp.boot_ms)) } else { TimeDelta::zero() };
        self.wall - stamp.wall - passed
    }

    fn agrees_with(&self, stamp: &Stamp) -> bool {
        let passed = millis(self.boot_ms().saturating_sub(stamp.boot_ms));
        self.boot_id == stamp.boot_id && self.unexplained(stamp).abs() <= TOLERANCE + passed / DRIFT
    }
}

fn millis(ms: u64) -> TimeDelta {
    TimeDelta::milliseconds(i64::try_from(ms).unwrap_or(i64::MAX / 2))
}

impl ClockRecord {
    /// A record of clocks that are believed: those of a store that holds nothing yet, or that somebody has accepted.
    #[must_use]
    pub fn trusting(now: &Reading) -> Self {
        Self { format: 1, last: now.stamp(), trusted: now.stamp(), unsettled_ms: None }
    }

    /// A record of clocks of which nothing is known: as after a boot.
    #[must_use]
    pub fn unknown(now: &Reading) -> Self {
        Self { unsettled_ms: Some(0), ..Self::trusting(now) }
    }

    /// The boot clock at the last look, if that was in this boot.
    #[must_use]
    pub fn last_seen(&self, boot_id: &str) -> Option<Duration> {
        (self.last.boot_id == boot_id).then(|| Duration::from_millis(self.last.boot_ms))
    }

    /// What the wall clock showed at the last look, and how far it has moved since beyond the time that passed; if that was
    /// in this boot, and more than crystals drift.
    #[must_use]
    pub fn stepped(&self, now: &Reading) -> Option<(DateTime<Utc>, TimeDelta)> {
        let is_step = now.boot_id == self.last.boot_id && !now.agrees_with(&self.last);
        is_step.then(|| (self.last.wall, now.unexplained(&self.last)))
    }

    /// Whether the clocks were believed at the last look.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.unsettled_ms.is_none()
    }

    /// Looks at the clocks. With `wait_for_sync` off, time alone settles them.
    #[must_use]
    pub fn look(&self, now: &Reading, wait_for_sync: bool) -> (Self, Trust) {
        let unsettled_ms = if now.boot_id != self.last.boot_id {
            Some(0)
        } else if now.agrees_with(&self.last) {
            self.unsettled_ms
        } else {
            Some(now.boot_ms())
        };
        let Some(since) = unsettled_ms.filter(|_| !now.agrees_with(&self.trusted) || self.is_unknown()) else {
            return (Self::trusting(now), Trust::Trusted);
        };
        let away = now.unexplained(&self.trusted);
        let settles = millis(since) + TimeDelta::from_std(SETTLE).unwrap_or_default() - millis(now.boot_ms());
        let waits_for_sync = wait_for_sync && !now.synchronised;
        let why = if away.abs() > GAP {
            format!("it moved by {} days; if it is right now, say so with `snapkeep clock accept`", away.num_days())
        } else if waits_for_sync {
            "it is not synchronised yet; without NTP, set wait_for_sync = false in [clock], or say `snapkeep clock accept`".to_owned()
        } else if settles > TimeDelta::zero() {
            let cause = if since == 0 { "the machine has started".to_owned() } else { format!("it moved by {} s", away.num_seconds()) };
            format!("{cause}, and ten minutes have not passed since")
        } else {
            return (Self::trusting(now), Trust::Trusted);
        };
        let until = (away.abs() <= GAP && !waits_for_sync).then(|| now.wall + settles);
        (Self { last: now.stamp(), unsettled_ms, ..self.clone() }, Trust::Unsettled { why, until })
    }

    /// Made by [`ClockRecord::unknown`] and nothing learned since: agreeing with it means nothing.
    fn is_unknown(&self) -> bool {
        self.unsettled_ms == Some(0) && self.trusted.boot_id == self.last.boot_id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reading(boot: &str, wall_s: i64, boot_s: u64) -> Reading {
        let wall = DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::seconds(wall_s);
        Reading { wall, boot_id: boot.to_owned(), since_boot: Duration::from_secs(boot_s), synchronised: true }
    }

    /// Looks again and again; what was thought each time.
    fn history(first: ClockRecord, readings: &[Reading]) -> Vec<bool> {
        let mut record = first;
        readings
            .iter()
            .map(|now| {
                let (next, trust) = record.look(now, true);
                record = next;
                trust == Trust::Trusted
            })
            .collect()
    }

    const DAY: i64 = 86_400;

    #[test]
    fn a_clock_that_goes_with_the_boot_clock_is_believed_also_over_a_suspend() {
        let start = ClockRecord::trusting(&reading("a", 0, 100));
        assert_eq!(history(start, &[reading("a", 1, 101), reading("a", 3600, 3700), reading("a", 40 * DAY, 40 * 86_400 + 110)]), [true; 3]);
    }

    #[test]
    fn a_step_is_not_believed_for_ten_minutes_and_one_of_more_than_thirty_days_until_somebody_says_so() {
        let start = ClockRecord::trusting(&reading("a", 0, 100));
        let hour = [reading("a", 3601, 101), reading("a", 3600 + 599, 699), reading("a", 3600 + 602, 702)];
        assert_eq!(history(start.clone(), &hour), [false, false, true]);
        let year = [reading("a", 365 * DAY, 101), reading("a", 365 * DAY + 7 * DAY, 100 + 7 * 86_400)];
        assert_eq!(history(start.clone(), &year), [false, false]);
        let back = [reading("a", 365 * DAY, 101), reading("a", 2, 102)];
        assert_eq!(history(start.clone(), &back), [false, true], "it is where it should be again");
        let (_, trust) = start.look(&reading("a", 365 * DAY, 101), true);
        assert!(matches!(trust, Trust::Unsettled { until: None, why } if why.contains("clock accept") && why.contains("364 days")));
        assert_eq!(history(ClockRecord::trusting(&reading("a", 365 * DAY, 101)), &[reading("a", 365 * DAY + 5, 106)]), [true], "accepted");
    }

    #[test]
    fn a_step_since_the_last_look_is_told_apart_from_time_that_passed_and_from_a_boot() {
        let start = ClockRecord::trusting(&reading("a", 0, 100));
        let stepped = |now: &Reading| start.stepped(now).map(|(from, by)| ((now.wall - from).num_seconds(), by.num_seconds()));
        assert_eq!(stepped(&reading("a", 3600, 3700)), None);
        assert_eq!(stepped(&reading("a", 7200, 3700)), Some((7200, 3600)));
        assert_eq!(stepped(&reading("a", -3600, 3700)), Some((-3600, -7200)));
        assert_eq!(stepped(&reading("b", 7200, 10)), None);
    }

    #[test]
    fn after_a_boot_it_waits_for_a_synchronised_clock_and_ten_minutes() {
        let start = ClockRecord::trusting(&reading("a", 0, 100));
        let unsynced = |wall, boot| Reading { synchronised: false, ..reading("b", wall, boot) };
        let readings = [reading("b", 60, 20), unsynced(700, 660), reading("b", 701, 661)];
        assert_eq!(history(start.clone(), &readings), [false, false, true]);
        let (_, trust) = start.look(&unsynced(700, 660), false);
        assert_eq!(trust, Trust::Trusted, "a host without NTP waits for the time only");
        assert_eq!(history(start, &[reading("b", 31 * DAY, 660)]), [false], "a month in the cupboard wants a person");
    }

    #[test]
    fn a_store_whose_record_is_lost_waits_as_after_a_boot() {
        let lost = ClockRecord::unknown(&reading("a", 0, 100));
        assert_eq!(history(lost, &[reading("a", 1, 101), reading("a", 499, 599), reading("a", 501, 601)]), [false, false, true]);
    }

    proptest! {
        #[test]
        fn no_step_of_more_than_a_minute_is_believed_at_once(step in prop_oneof![-400 * DAY..-61, 61..400 * DAY], passed in 0u64..3600) {
            let start = ClockRecord::trusting(&reading("a", 0, 1000));
            let now = reading("a", i64::try_from(passed).unwrap() + step, 1000 + passed);
            prop_assert_ne!(start.look(&now, true).1, Trust::Trusted);
        }

        #[test]
        fn looking_twice_at_the_same_moment_says_the_same(wall in -100 * DAY..100 * DAY, boot in 0u64..5000, same in any::<bool>(), synchronised in any::<bool>()) {
            let start = ClockRecord::trusting(&reading("a", 0, 1000));
            let now = Reading { synchronised, ..reading(if same { "a" } else { "b" }, wall, if same { 1000 + boot } else { boot }) };
            let (next, first) = start.look(&now, true);
            prop_assert_eq!(next.look(&now, true).1, first);
        }
    }
}
