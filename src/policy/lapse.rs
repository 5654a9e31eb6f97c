//! What the clocks did between two looks of a worker that looks every second or two: stepped, or went on while it slept.
//! Slots need no help with either (`cadence` asks the ledger); people want to know why there are none, or late ones.

use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;

/// Smaller differences between the clocks are no step.
const TOLERANCE: TimeDelta = TimeDelta::seconds(5);
/// Crystals drift less than this part of the time that passes.
const DRIFT: i32 = 1000;
/// A worker that has not looked for so long was not running: a slot later than this is not on time.
const ASLEEP: Duration = Duration::from_secs(60);

/// Both clocks at one moment of one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// The wall clock.
    pub wall: DateTime<Utc>,
    /// The boot clock, suspend included.
    pub since_boot: Duration,
}

/// What happened between two beats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lapse {
    /// The wall clock moved by so much more (or less) than time went on.
    pub stepped: Option<TimeDelta>,
    /// The worker did not look for so long: the machine was suspended, or the process stopped.
    pub asleep: Option<Duration>,
}

/// Compares two beats of one boot.
#[must_use]
pub fn lapse(last: Beat, now: Beat) -> Lapse {
    let passed = now.since_boot.saturating_sub(last.since_boot);
    let elapsed = TimeDelta::from_std(passed).unwrap_or(TimeDelta::MAX);
    let unexplained = (now.wall - last.wall).checked_sub(&elapsed).unwrap_or_default();
    Lapse {
        stepped: Some(unexplained).filter(|by| by.abs() > TOLERANCE + elapsed / DRIFT),
        asleep: Some(passed).filter(|passed| *passed > ASLEEP),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(wall_s: i64, boot_s: u64) -> Beat {
        Beat { wall: DateTime::UNIX_EPOCH + TimeDelta::seconds(1_700_000_000 + wall_s), since_boot: Duration::from_secs(boot_s) }
    }

    #[test]
    fn steps_are_what_the_boot_clock_does_not_explain_and_sleep_is_what_it_does() {
        let start = beat(0, 1000);
        let after = |wall, boot| {
            let lapse = lapse(start, beat(wall, boot));
            (lapse.stepped.map(|by| by.num_seconds()), lapse.asleep.map(|by| by.as_secs()))
        };
        assert_eq!(after(1, 1001), (None, None));
        assert_eq!(after(4, 1001), (None, None), "a little is not worth a word");
        assert_eq!(after(3601, 1001), (Some(3600), None));
        assert_eq!(after(-3599, 1001), (Some(-3600), None));
        assert_eq!(after(8 * 3600, 1000 + 8 * 3600), (None, Some(8 * 3600)), "a suspend: the wall clock was right all the time");
        assert_eq!(after(3600, 1000 + 1800), (Some(1800), Some(1800)), "both");
        assert_eq!(after(7 * 86_400 + 300, 1000 + 7 * 86_400), (None, Some(7 * 86_400)), "crystals drift");
    }
}
