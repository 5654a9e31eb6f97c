//! How fast files go: a file system that frees much at once holds up whoever wants to change something meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How fast files are unlinked, and a way to stop it. A file goes in one step: what may have been linked is never truncated.
#[derive(Debug, Clone)]
pub struct Pace {
    /// A rest before each file.
    pub rest: Duration,
    /// So many bytes per second come free at most: behind a large file there is a long rest. None: as many as there are.
    pub bytes: Option<u64>,
    /// Once this is set, the next unlink fails with ECANCELED.
    pub stop: Arc<AtomicBool>,
}

impl Pace {
    /// The rest behind a file whose unlinking freed so many bytes.
    pub(super) fn after(&self, freed: u64) -> Duration {
        self.bytes.filter(|_| freed > 0).map_or(Duration::ZERO, |rate| Duration::from_secs_f64(freed as f64 / rate.max(1) as f64))
    }

    /// Rests; false once it is to stop.
    pub(super) fn rest(&self, mut left: Duration) -> bool {
        while !left.is_zero() && !self.stop.load(Ordering::SeqCst) {
            let part = left.min(Duration::from_millis(100));
            std::thread::sleep(part);
            left -= part;
        }
        !self.stop.load(Ordering::SeqCst)
    }
}
