//! What the service manager is told (sd_notify(3)): ready, reloading, a line of status, and the watchdog, which is fed
//! only while the worker's own loops make progress. Without a manager nothing of this runs.
//!
//! Progress is: the loop that looks for what is due has come round within half of `WatchdogSec`; and the thread that makes
//! forks is there, and idle, or has ended a burst or copied a byte within five times `WatchdogSec`.

use crate::clock::Clock;
use crate::snapshot::copy::Progress;
use crate::worker::Worker;
use sd_notify::NotifyState;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the line of status is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// A start that gets on may take so much longer each time.
const MORE: Duration = Duration::from_secs(60);
/// No part of the status is longer, in characters.
const LONGEST: usize = 300;

/// What the worker's loops say of themselves.
#[derive(Debug)]
pub(super) struct Pulse {
    clock: Arc<dyn Clock>,
    /// When the loop that looks for what is due last came round, milliseconds since boot; 0 before the first time.
    round: AtomicU64,
    /// Whether the thread that makes forks is at work.
    at_work: AtomicBool,
    /// Whether it has ended, or died.
    is_over: AtomicBool,
    /// Counts whatever gets on: bytes copied, turns begun.
    moved: AtomicU64,
    /// The count, of moves and bursts, that was last seen, and when it was another one.
    seen: Mutex<(u64, Duration)>,
}

impl Pulse {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            round: AtomicU64::new(0),
            at_work: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            moved: AtomicU64::new(0),
            seen: Mutex::default(),
        })
    }

    /// The loop that looks for what is due comes round.
    pub(super) fn come_round(&self) {
        self.round.store(millis(self.clock.since_boot()).max(1), Ordering::Relaxed);
    }

    /// The thread that makes forks begins to work, or to wait for work.
    pub(super) fn forks(&self, at_work: bool) {
        self.moved.fetch_add(1, Ordering::Relaxed);
        self.at_work.store(at_work, Ordering::SeqCst);
    }

    /// Says so when it is dropped, also by a panic: no forks are made any more.
    pub(super) fn until_over(self: &Arc<Self>) -> impl Drop + use<> {
        struct Over(Arc<Pulse>);
        impl Drop for Over {
            fn drop(&mut self) {
                self.0.is_over.store(true, Ordering::SeqCst);
            }
        }
        Over(Arc::clone(self))
    }

    /// Why the watchdog must go hungry; `None` while all is well. `bursts` counts those that have ended.
    fn complaint(&self, bursts: u64, period: Duration) -> Option<String> {
        let now = self.clock.since_boot();
        let silent = now.saturating_sub(Duration::from_millis(self.round.load(Ordering::Relaxed)));
        let count = self.moved.load(Ordering::Relaxed).wrapping_add(bursts);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.0 != count {
            *seen = (count, now);
        }
        let still = now.saturating_sub(seen.1);
        if silent > period / 2 {
            Some(format!("the schedules have not been looked at for {} s", silent.as_secs()))
        } else if self.is_over.load(Ordering::SeqCst) {
            Some("the thread that makes forks is gone".to_owned())
        } else if self.at_work.load(Ordering::SeqCst) && still > period * 5 {
            Some(format!("the forks have not got on for {} s", still.as_secs()))
        } else {
            None
        }
    }
}

/// Counts what is copied.
impl Progress for Pulse {
    fn total(&self, _bytes: u64) {}
    fn advance(&self, _bytes: u64) {
        self.moved.fetch_add(1, Ordering::Relaxed);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Where the worker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Starting,
    Serving,
    Stopping,
}

/// The manager's ear.
pub(super) struct Manager {
    worker: Arc<Worker>,
    pulse: Arc<Pulse>,
    is_there: bool,
    /// The watchdog's period, if there is one.
    period: Option<Duration>,
    stage: Mutex<Stage>,
    said: Mutex<String>,
    is_over: AtomicBool,
}

impl Manager {
    pub(super) fn new(worker: Arc<Worker>, pulse: Arc<Pulse>) -> Arc<Self> {
        Arc::new(Self {
            worker,
            pulse,
            is_there: std::env::var_os("NOTIFY_SOCKET").is_some(),
            period: sd_notify::watchdog_enabled(),
            stage: Mutex::new(Stage::Starting),
            said: Mutex::default(),
            is_over: AtomicBool::new(false),
        })
    }

    /// Keeps the manager informed until [`Manager::end`]; no thread where there is none.
    pub(super) fn start(self: &Arc<Self>) -> std::io::Result<Option<JoinHandle<()>>> {
        if !self.is_there {
            return Ok(None);
        }
        let manager = Arc::clone(self);
        // Not a task: it must not starve with the others, but see that they do.
        std::thread::Builder::new().name("notify".to_owned()).spawn(move || manager.run()).map(Some)
    }

    fn run(&self) {
        let rest = self.period.map_or(LOOK, |period| (period / 4).min(LOOK));
        while !self.is_over.load(Ordering::SeqCst) {
            let complaint = self.period.and_then(|period| self.pulse.complaint(self.worker.forks.bursts_ended(), period));
            self.say(complaint.as_deref(), &[]);
            // Before it is ready, and once it stops, the manager has other limits.
            if complaint.is_none() && self.period.is_some() && self.stage() == Stage::Serving {
                send(&[NotifyState::Watchdog]);
            }
            // Unparked at the end.
            std::thread::park_timeout(rest);
        }
    }

    /// The start is over: work is taken.
    pub(super) fn ready(&self) {
        self.pulse.come_round();
        self.set(Stage::Serving);
        self.say(None, &[NotifyState::Ready]);
    }

    /// A reload begins. Before the worker is ready the manager would take the end of one for that.
    pub(super) fn reloading(&self) {
        if self.is_there && self.stage() == Stage::Serving {
            match NotifyState::monotonic_usec_now() {
                Ok(now) => send(&[NotifyState::Reloading, now]),
                Err(e) => tracing::debug!(error = %e, "no monotonic clock"),
            }
        }
    }

    /// It is over, for good or bad.
    pub(super) fn reloaded(&self) {
        if self.stage() == Stage::Serving {
            self.say(None, &[NotifyState::Ready]);
        }
    }

    /// No new work begins.
    pub(super) fn stopping(&self) {
        self.set(Stage::Stopping);
        self.say(None, &[NotifyState::Stopping]);
    }

    /// Ends the thread.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    fn stage(&self) -> Stage {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    /// Sends the line of status if it is another one than before, with what else there is to say.
    fn say(&self, complaint: Option<&str>, more: &[NotifyState<'_>]) {
        if !self.is_there {
            return;
        }
        let stage = self.stage();
        let line = complaint.filter(|_| stage == Stage::Serving).map_or_else(|| self.line(stage), |why| format!("stuck: {why}"));
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let mut states = more.to_vec();
        if *said != line {
            said.clone_from(&line);
            states.push(NotifyState::Status(&line));
            if stage == Stage::Starting {
                states.push(NotifyState::ExtendTimeoutUsec(u32::try_from(MORE.as_micros()).unwrap_or(u32::MAX)));
            }
        }
        if !states.is_empty() {
            send(&states);
        }
    }

    fn line(&self, stage: Stage) -> String {
        let worker = &self.worker;
        match stage {
            Stage::Starting => format!("starting: {}", worker.starting().unwrap_or_else(|| "about to take work".to_owned())),
            Stage::Stopping => {
                format!("stopping: what runs is brought to its end, {} in the queue wait for the next start", worker.forks.pending())
            }
            Stage::Serving => {
                let (snapshots, forks) = {
                    let index = worker.store.index();
                    (index.count_present(), index.count_refs())
                };
                let mut line = format!("snapshots {snapshots}, forks {forks}, queue {}", worker.forks.pending());
                line.push_str(&format!(", failing schedules {}", worker.schedules.failing()));
                if let Some(why) = worker.forks.closed() {
                    line.push_str(&format!("; the queue takes nothing: {}", one_line(&why)));
                }
                if let Some(first) = worker.rejections().first() {
                    line.push_str(&format!("; reload rejected, the old configuration is in force: {}", one_line(first)));
                }
                line
            }
        }
    }
}

/// What has line breaks would be further assignments to the manager.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(LONGEST).collect()
}

fn send(states: &[NotifyState<'_>]) {
    // A manager that does not listen must not stop the work.
    if let Err(e) = sd_notify::notify(states) {
        tracing::debug!(error = %e, "the service manager was not told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use chrono::{DateTime, TimeDelta};

    const PERIOD: Duration = Duration::from_secs(60);

    fn pulse() -> (ManualClock, Arc<Pulse>) {
        let clock = ManualClock::at(DateTime::UNIX_EPOCH + TimeDelta::days(20_000));
        let pulse = Pulse::new(Arc::new(clock.clone()));
        pulse.come_round();
        (clock, pulse)
    }

    #[test]
    fn the_watchdog_is_fed_while_the_schedules_are_looked_at_and_no_longer() {
        let (clock, pulse) = pulse();
        assert_eq!(pulse.complaint(0, PERIOD), None);
        clock.advance(Duration::from_secs(30));
        assert_eq!(pulse.complaint(0, PERIOD), None);
        clock.advance(Duration::from_secs(1));
        assert_eq!(pulse.complaint(0, PERIOD).unwrap(), "the schedules have not been looked at for 31 s");
        pulse.come_round();
        assert_eq!(pulse.complaint(0, PERIOD), None);
    }

    #[test]
    fn a_long_burst_of_forks_is_well_as_long_as_it_gets_on() {
        let (clock, pulse) = pulse();
        pulse.forks(true);
        for minute in 0..60 {
            clock.advance(Duration::from_secs(60));
            pulse.come_round();
            match minute % 2 {
                0 => pulse.advance(4096),
                _ => assert_eq!(pulse.complaint(minute, PERIOD), None, "bursts end"),
            }
            assert_eq!(pulse.complaint(minute, PERIOD), None);
        }
        for _ in 0..6 {
            clock.advance(Duration::from_secs(60));
            pulse.come_round();
        }
        assert!(pulse.complaint(59, PERIOD).unwrap().contains("forks have not got on for 360 s"));
        pulse.forks(false);
        for _ in 0..60 {
            clock.advance(Duration::from_secs(60));
            pulse.come_round();
            assert_eq!(pulse.complaint(59, PERIOD), None, "idle");
        }
    }

    #[test]
    fn a_thread_that_makes_forks_and_dies_starves_the_watchdog() {
        let (_clock, pulse) = pulse();
        let over = pulse.until_over();
        assert_eq!(pulse.complaint(0, PERIOD), None);
        drop(over);
        assert!(pulse.complaint(0, PERIOD).unwrap().contains("gone"));
    }

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(one_line("a\n  READY=1\nb"), "a READY=1 b");
        assert_eq!(one_line(&"x".repeat(1000)).len(), LONGEST);
    }
}
