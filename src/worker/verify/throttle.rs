//! A limit on bytes per second, put where progress is told: whoever is ahead of the rate rests there.

use crate::clock::Clock;
use crate::snapshot::copy::Progress;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Longest rest between looks at the request to stop.
const NAP: Duration = Duration::from_millis(100);

/// Progress that may not go faster than a rate.
pub struct Throttled<'a> {
    inner: &'a dyn Progress,
    clock: &'a dyn Clock,
    stop: &'a AtomicBool,
    began: Duration,
    bytes_per_second: u64,
    done: AtomicU64,
}

impl<'a> Throttled<'a> {
    /// From now on, no more than so many bytes per second.
    #[must_use]
    pub fn new(inner: &'a dyn Progress, clock: &'a dyn Clock, stop: &'a AtomicBool, bytes_per_second: u64) -> Self {
        Self { inner, clock, stop, began: clock.since_boot(), bytes_per_second: bytes_per_second.max(1), done: AtomicU64::new(0) }
    }

    /// How long to rest until the rate is right again.
    fn ahead(&self, done: u64) -> Duration {
        let due = Duration::from_secs_f64(done as f64 / self.bytes_per_second as f64);
        due.saturating_sub(self.clock.since_boot().saturating_sub(self.began))
    }
}

impl Progress for Throttled<'_> {
    fn total(&self, bytes: u64) {
        self.inner.total(bytes);
    }

    fn advance(&self, bytes: u64) {
        self.inner.advance(bytes);
        let done = self.done.fetch_add(bytes, Ordering::SeqCst) + bytes;
        loop {
            let rest = self.ahead(done);
            if rest.is_zero() || self.stop.load(Ordering::SeqCst) {
                return;
            }
            std::thread::sleep(rest.min(NAP));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::snapshot::copy::NoProgress;

    #[test]
    fn whoever_is_ahead_of_the_rate_rests_and_a_stop_ends_the_rest() {
        let (clock, stop) = (SystemClock, AtomicBool::new(false));
        let began = clock.since_boot();
        let throttled = Throttled::new(&NoProgress, &clock, &stop, 1000);
        throttled.advance(150);
        assert!(clock.since_boot() - began >= Duration::from_millis(150));
        stop.store(true, Ordering::SeqCst);
        throttled.advance(1_000_000_000);
        assert!(clock.since_boot() - began < Duration::from_secs(60));
    }
}
