//! The only place that reads a clock. Everything else takes time as an argument or holds a [`Clock`].

use chrono::{DateTime, Utc};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Two clocks and the identity of this boot.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Wall-clock time; may step in both directions.
    fn now(&self) -> DateTime<Utc>;
    /// Time since boot, suspend included (`CLOCK_BOOTTIME`, clock_gettime(2)); never steps.
    fn since_boot(&self) -> Duration;
    /// `/proc/sys/kernel/random/boot_id` (random(4)): new at every boot.
    fn boot_id(&self) -> String;
    /// Whether the kernel holds the wall clock for synchronised (adjtimex(2): `STA_UNSYNC` is not set).
    fn is_synchronised(&self) -> bool;
}

/// The kernel's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    fn since_boot(&self) -> Duration {
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
    }

    #[expect(clippy::disallowed_methods, reason = "a kernel file, not one of the store's")]
    fn boot_id(&self) -> String {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| "unknown".to_owned(), |s| s.trim().to_owned())
    }

    #[expect(unsafe_code, reason = "a call that nix lacks")]
    fn is_synchronised(&self) -> bool {
        // SAFETY: the struct is plain integers; `modes` of zero makes the call read only.
        let (rc, status) = unsafe {
            let mut timex: libc::timex = std::mem::zeroed();
            (libc::adjtimex(&raw mut timex), timex.status)
        };
        rc >= 0 && status & libc::STA_UNSYNC == 0
    }
}

/// A clock that stands still until it is moved: for tests and `--at`.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Mutex<ManualTimes>>);

#[derive(Debug)]
struct ManualTimes {
    now: DateTime<Utc>,
    since_boot: Duration,
    boot: u32,
    synchronised: bool,
}

impl ManualClock {
    /// A clock that shows `now`, an hour after its boot.
    #[must_use]
    pub fn at(now: DateTime<Utc>) -> Self {
        Self(Arc::new(Mutex::new(ManualTimes { now, since_boot: Duration::from_secs(3600), boot: 0, synchronised: true })))
    }

    fn with<T>(&self, change: impl FnOnce(&mut ManualTimes) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Both clocks go on by `by`, as they do when time passes.
    pub fn advance(&self, by: Duration) {
        self.with(|t| {
            t.now += by;
            t.since_boot += by;
        });
    }

    /// Only the wall clock moves, as when somebody sets it.
    pub fn step_to(&self, now: DateTime<Utc>) {
        self.with(|t| t.now = now);
    }

    /// What the kernel says of the wall clock from now on.
    pub fn set_synchronised(&self, synchronised: bool) {
        self.with(|t| t.synchronised = synchronised);
    }

    /// The machine starts again: the boot clock begins at zero.
    pub fn reboot(&self) {
        self.with(|t| {
            t.since_boot = Duration::ZERO;
            t.boot += 1;
        });
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        self.with(|t| t.now)
    }
    fn since_boot(&self) -> Duration {
        self.with(|t| t.since_boot)
    }
    fn boot_id(&self) -> String {
        self.with(|t| format!("boot-{}", t.boot))
    }
    fn is_synchronised(&self) -> bool {
        self.with(|t| t.synchronised)
    }
}
