//! Cold snapshots: the worker compresses those whose time has come, one after the other, and drops raw copies from the cache
//! that no fork wants any more. What is due is decided by `policy::compress` and `policy::cache`.

use super::Worker;
use crate::event::Event;
use crate::ids::SnapshotId;
use crate::policy::SnapshotState;
use crate::policy::cache::to_drop;
use crate::policy::compress::{Attempt, Candidate, Compress, next};
use crate::snapshot::pack::{CompressError, Compressed, compress, known_digest};
use crate::store::compression::Outcome;
use crate::store::fs::background::give_way;
use crate::store::{Compression, Known, StoreError, Summary};
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often it is asked what has become cold.
pub const LOOK: Duration = Duration::from_secs(10);

impl Worker {
    /// Compresses all that is due, and drops what no fork wants; ends early once somebody stops the worker. For a thread of its
    /// own, whose priority it lowers.
    pub fn compress_due(&self) {
        give_way();
        self.tidy_cache();
        while !self.stopping.load(Ordering::SeqCst) {
            if !self.compress_next() {
                return;
            }
            self.tidy_cache();
        }
    }

    /// The same for `once`, whose thread has other things to do at its own priority.
    pub(super) fn compress_due_aside(&self) {
        std::thread::scope(|scope| {
            // Without a thread it is left to the next run.
            drop(std::thread::Builder::new().name("compress".to_owned()).spawn_scoped(scope, || self.compress_due()));
        });
    }

    /// Compresses the snapshot that has been cold for longest; false if none is due. At this thread's priority.
    pub fn compress_next(&self) -> bool {
        let Some(candidate) = next(self.compress_candidates(), self.store.clock.now()) else { return false };
        let (id, rule) = (&candidate.id, &candidate.rule);
        let began = self.store.clock.since_boot();
        // One thread for small hosts, and where the order of calls must not change from run to run.
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = if self.config().threads <= 1 { 1 } else { cores };
        match compress(&self.store, id, rule, &|| !self.forks.waiting_for(id).is_empty(), threads) {
            Ok(done) => {
                // What was read of it is what forks must not look for there any more.
                self.forks.forget_recipe(id);
                self.report_compressed(id, rule, &done, self.store.clock.since_boot().saturating_sub(began));
            }
            // It is warm again, or will be asked about when it has been left alone once more.
            Err(CompressError::Cancelled | CompressError::Shared) => self.store.disturb(id),
            Err(CompressError::Store(StoreError::NoSnapshot { .. })) => {}
            Err(CompressError::NoGain) => self.note_attempt(id, rule, Outcome::NoGain),
            Err(e) => self.compress_failed(&candidate, e.to_string()),
        }
        true
    }

    /// Snapshots whose policy wants them compressed.
    fn compress_candidates(&self) -> Vec<Candidate> {
        let config = self.config();
        if config.policies.iter().all(|policy| policy.compress.is_none()) {
            return Vec::new();
        }
        let index = self.store.index();
        let candidate = |(id, known): (&SnapshotId, &Known)| {
            let summary = known.summary.as_ref()?;
            let rule = config.policy(summary.policy.as_ref()?)?.compress?;
            let is_ready = !summary.memory.is_empty() && summary.memory.iter().all(|file| known_digest(&file.digest).is_some());
            is_ready.then(|| Candidate {
                id: id.clone(),
                rule,
                used_at: self.store.used_at(id).map_or(summary.created_at, |used| used.max(summary.created_at)),
                is_busy: is_busy(known, &rule),
                attempt: known.attempt(),
            })
        };
        index.present().filter_map(candidate).collect()
    }

    fn note_attempt(&self, id: &SnapshotId, rule: &Compress, outcome: Outcome) {
        let compression = Compression::new(self.store.clock.now(), rule.method, rule.level, outcome);
        let guard = self.store.lock_snapshot(id);
        if let Err(e) = self.store.note_attempt(&guard, compression) {
            tracing::debug!(error = %e, %id, "not noted: the next start tries again");
        }
    }

    /// A failure is counted, and reported when it is the first one or another one.
    fn compress_failed(&self, candidate: &Candidate, error: String) {
        let id = &candidate.id;
        let Ok(known) = self.store.known(id) else { return };
        let before = known.compression.as_ref().and_then(|compression| match &compression.outcome {
            Outcome::Failed { error, .. } => Some(error.clone()),
            _ => None,
        });
        let times = 1 + if let Attempt::Failed(times, _) = candidate.attempt { times } else { 0 };
        self.note_attempt(id, &candidate.rule, Outcome::Failed { error: error.clone(), times });
        if let Some(summary) = known.summary.as_ref().filter(|_| before.as_ref() != Some(&error)) {
            let instance = summary.instance.clone();
            self.store.events.emit(Event::SnapshotCompressFailed { snapshot: id.clone(), instance, error, times });
        }
    }

    fn report_compressed(&self, id: &SnapshotId, rule: &Compress, done: &Compressed, took: Duration) {
        let Some(summary) = self.store.known(id).ok().and_then(|known| known.summary) else { return };
        let summary: &Summary = &summary;
        self.store.events.emit(Event::SnapshotCompressed {
            snapshot: id.clone(),
            instance: summary.instance.clone(),
            policy: summary.policy.clone(),
            method: rule.method.as_str().to_owned(),
            uncompressed_size_bytes: done.raw_bytes,
            allocated_bytes: done.raw_allocated_bytes,
            compressed_size_bytes: done.packed_bytes,
            duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            at: self.store.clock.now(),
        });
    }

    /// Drops raw copies that no fork wants: unused for long, or too many.
    pub fn tidy_cache(&self) {
        let cache = self.config().cache;
        let is_wanted = |id: &SnapshotId| !self.forks.waiting_for(id).is_empty();
        let entries = self.store.cached(is_wanted);
        if entries.is_empty() {
            return;
        }
        // What cannot be told bounds nothing.
        let max = self.store.fs.space(self.store.layout.store()).map_or(u64::MAX, |space| cache.max.of(space.size));
        for id in to_drop(entries, max, cache.keep, self.store.clock.now()) {
            let guard = self.store.lock_snapshot(&id);
            // Under the lock: nobody can begin to want it now.
            if is_wanted(&id) {
                continue;
            }
            if let Err(e) = self.store.drop_cached(&guard) {
                tracing::debug!(error = %e, %id, "raw memory files stay in the cache until the next start");
            }
        }
    }
}

/// Whether something would end the work, as far as the index knows.
fn is_busy(known: &Known, rule: &Compress) -> bool {
    let is_forked = !known.refs.is_empty() && !rule.while_forked;
    is_forked || known.pins > 0 || known.state() != SnapshotState::Ready || !known.unreadable.is_empty()
}
