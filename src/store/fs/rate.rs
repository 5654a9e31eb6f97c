//! How fast bytes are copied, by all who copy together.

use crate::clock::Clock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Longest rest between looks at the request to stop, and at the rate.
const NAP: Duration = Duration::from_millis(100);
/// What was not used within this time is lost: a copy that begins after a quiet hour does not go at full speed first.
const BURST: Duration = Duration::from_millis(250);

/// A bound on the bytes per second of all copies; 0 is none.
#[derive(Debug)]
pub struct CopyRate {
    clock: Arc<dyn Clock>,
    bytes_per_second: AtomicU64,
    /// When all that was spent so far is paid for, since boot.
    paid_until: Mutex<Duration>,
}

impl CopyRate {
    /// No more than so many bytes a second; 0: no bound.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, bytes_per_second: u64) -> Self {
        Self { clock, bytes_per_second: AtomicU64::new(bytes_per_second), paid_until: Mutex::default() }
    }

    /// From now on another bound.
    pub fn set(&self, bytes_per_second: u64) {
        self.bytes_per_second.store(bytes_per_second, Ordering::SeqCst);
        *self.paid_until.lock().unwrap_or_else(PoisonError::into_inner) = Duration::ZERO;
    }

    /// Accounts for so many bytes, and rests until they are paid for or `stop` is set.
    pub(super) fn spend(&self, bytes: u64, stop: &AtomicBool) {
        let rate = self.bytes_per_second.load(Ordering::SeqCst);
        if rate == 0 {
            return;
        }
        let until = {
            let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
            *paid_until = paid(*paid_until, self.clock.since_boot(), bytes, rate);
            *paid_until
        };
        loop {
            let rest = until.saturating_sub(self.clock.since_boot());
            if rest.is_zero() || stop.load(Ordering::SeqCst) || self.bytes_per_second.load(Ordering::SeqCst) != rate {
                return;
            }
            std::thread::sleep(rest.min(NAP));
        }
    }
}

/// When so many more bytes are paid for, if those before them are at `paid_until`.
fn paid(paid_until: Duration, now: Duration, bytes: u64, rate: u64) -> Duration {
    paid_until.max(now.saturating_sub(BURST)) + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn over_any_time_no_more_is_spent_than_the_rate_allows_and_a_burst(
            rate in 1_000_u64..1_000_000, steps in prop::collection::vec((0_u64..50_000, 0_u64..2_000), 1..60)
        ) {
            let (mut now, mut until, mut spent) = (Duration::from_secs(100), Duration::ZERO, 0);
            let began = now;
            for (bytes, idle_ms) in steps {
                now += Duration::from_millis(idle_ms);
                until = paid(until, now, bytes, rate);
                spent += bytes;
                // Whoever copies rests until then.
                now = now.max(until);
                let allowed = (now - began + BURST).as_secs_f64() * rate as f64;
                prop_assert!(spent as f64 <= allowed + 1.0, "{spent} in {:?}, {allowed} allowed", now - began);
            }
        }
    }

    #[test]
    fn a_stop_another_rate_and_no_rate_end_the_rest() {
        // A clock that stands still: a rest would never end by itself.
        let clock = ManualClock::at(chrono::DateTime::UNIX_EPOCH);
        let rate = CopyRate::new(Arc::new(clock.clone()), 1000);
        let stop = AtomicBool::new(true);
        rate.spend(1_000_000, &stop);
        stop.store(false, Ordering::SeqCst);
        std::thread::scope(|scope| {
            scope.spawn(|| rate.spend(1_000_000, &stop));
            rate.set(0);
        });
        rate.spend(u64::MAX, &stop);
        rate.set(1000);
        clock.advance(Duration::from_secs(60));
        rate.spend(250, &stop);
    }
}
