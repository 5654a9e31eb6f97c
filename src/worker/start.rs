//! The start, in two steps: first what makes it possible to look (index, journal, ledger), then the pass over the instances
//! root and over what was unfinished. In between the worker answers whoever only looks, and changes nothing.

use super::backend::Answer;
use super::problem::{Problem, ProblemKind};
use super::{Surroundings, Worker, WorkerError, importing};
use crate::clock::Clock;
use crate::config::Config;
use crate::event::Event;
use crate::snapshot::copy::Progress;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a verb that changes something waits for the start to be over: as long as the command line waits for a lock.
const PATIENCE: Duration = Duration::from_secs(10);

/// How far the start is.
#[derive(Debug)]
pub(super) struct Start {
    began: Duration,
    torn_bytes: u64,
    /// How long it took, once it is over.
    took: Mutex<Option<Duration>>,
    over: Condvar,
}

impl Start {
    pub(super) fn new(clock: &dyn Clock, torn_bytes: u64, began: Duration) -> Self {
        debug_assert!(began <= clock.since_boot(), "the boot clock does not step");
        Self { began, torn_bytes, took: Mutex::default(), over: Condvar::new() }
    }

    fn took(&self) -> Option<Duration> {
        *self.took.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    /// Opens the store and brings what was unfinished to its end: journal, refs, instances, staging. Nothing is removed
    /// before that first pass is complete.
    ///
    /// # Errors
    /// [`WorkerError`]; [`crate::store::StoreError::Busy`] if another worker has the store.
    pub fn open(config: Config, around: &Surroundings, progress: Arc<dyn Progress + Send + Sync>) -> Result<Arc<Self>, WorkerError> {
        let worker = Self::begin(config, around, progress)?;
        worker.recover()?;
        Ok(worker)
    }

    /// The second step of the start. Whatever it does not come to is done by the next start.
    ///
    /// # Errors
    /// [`WorkerError::Recover`] if the root cannot be read, or what was unfinished not be ended.
    pub fn recover(&self) -> Result<(), WorkerError> {
        let recovered = self.forks.recover()?;
        let staging = self.store.clear_staging()? + recovered.staging;
        importing::finish(&self.store)?;
        if staging + recovered.finished + recovered.dropped_refs + self.start.torn_bytes > 0 {
            let (finished, dropped_refs, torn_bytes) = (recovered.finished, recovered.dropped_refs, self.start.torn_bytes);
            self.store.events.emit(Event::StoreRecovered { staging, finished, dropped_refs, torn_bytes, at: self.started_at });
        }
        if let Err(e) = self.reclaim.report_again(self.config().trash.grace) {
            self.store.events.emit(Event::PruneFailed { snapshot: String::new(), error: e.to_string() });
        }
        let took = self.store.clock.since_boot().saturating_sub(self.start.began);
        *self.start.took.lock().unwrap_or_else(PoisonError::into_inner) = Some(took);
        self.start.over.notify_all();
        Ok(())
    }

    /// Reports that this worker takes work: for `run` and `once`.
    pub fn announce(&self) {
        let (snapshots, forks) = {
            let index = self.store.index();
            (index.count_present() as u64, index.count_refs() as u64)
        };
        self.store.events.emit(Event::WorkerStarted {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            snapshots,
            forks,
            startup_ms: u64::try_from(self.start.took().unwrap_or_default().as_millis()).unwrap_or(u64::MAX),
            at: self.started_at,
        });
    }

    /// Tells a start that is under way to end where it is; the next one goes on from there.
    pub fn stop_starting(&self) {
        if self.start.took().is_none() {
            self.forks.progress.stop.store(true, Ordering::SeqCst);
        }
    }

    /// How far the start is, in words; `None` once it is over.
    #[must_use]
    pub fn starting(&self) -> Option<String> {
        if self.start.took().is_some() {
            return None;
        }
        Some(match self.forks.progress.so_far() {
            (_, 0) => "about to read the instances root".to_owned(),
            (done, all) => format!("reading the instances root: {done} of {all}"),
        })
    }

    /// Waits until the start is over: before that nothing is changed.
    ///
    /// # Errors
    /// [`ProblemKind::Busy`] if that takes long, or the worker is told to stop.
    pub(super) fn ready(&self) -> Answer<()> {
        let until = Instant::now() + PATIENCE;
        let mut took = self.start.took.lock().unwrap_or_else(PoisonError::into_inner);
        while took.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stopping.load(Ordering::SeqCst) {
                drop(took);
                let how_far = self.starting().unwrap_or_default();
                return Err(Problem::new(
                    ProblemKind::Busy,
                    format!("the worker is starting ({how_far}); try again, or look with `snapkeep status`"),
                ));
            }
            // Not all at once: a stop wakes nobody here.
            let turn = left.min(Duration::from_millis(200));
            took = self.start.over.wait_timeout(took, turn).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}
