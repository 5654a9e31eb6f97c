//! The protocols *build* and *fail*: a burst does each step for all before the next. 1 build in staging, or of an entry of the ready
//! pool where that lies; 2 sync; 3 rename all; 4 journal `publishing`; 5 sync the parent; 6 `done`. No name is durable before what
//! is behind it (`durable.rs`).
//!
//! After step 3 a start finds the fork in its place by its id, or in staging or in the pool and makes it anew; after step 4 it finishes
//! it from its place or from staging, and makes it anew if it is in the pool; and once it has been finished, also if the fork is gone
//! again by then. That is why `publishing` comes before the answer, why it need not come before the rename, so that both share a
//! commit of the file system's log, and why `done` is not written by itself. Of a request that is not promised yet a start knows by its
//! fork alone, or not at all (`awaited.rs`).

use super::build::{self, Built, Crew};
use super::durable::{Done, Synced};
use super::queue::{Record, Request};
use super::thaw::{Lane, Source, Todo};
use super::{ForkError, Forks};
use crate::event::Event;
use crate::ids::{ForkId, SnapshotId};
use crate::snapshot::copy::copy_threads;
use crate::store::RootProof;
use chrono::{DateTime, Utc};
use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tracing::{Span, debug_span};

/// No burst is larger: what comes meanwhile makes the next one.
const MOST: usize = 1000;

/// How a burst ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BurstReport {
    /// Forks that are instances now.
    pub done: usize,
    /// Attempts that failed, for now or for good.
    pub failed: usize,
}

/// A request whose attempt failed.
type Undone = (Request, ForkError);
/// What became of one request in a burst.
type Outcome = (Request, Result<Built, ForkError>);

impl Forks {
    /// Makes the forks that are ready, a thousand at a time; returns when nothing is ready now, and no memory is being unpacked
    /// for one. Once `stop` is set no burst
    /// begins; once `cancelled` is set the one that is being built is rolled back, and its requests wait for the next start.
    ///
    /// # Errors
    /// [`ForkError::Journal`] if records cannot be written: then a restart finds out what is done.
    pub fn run_ready(&self, stop: &AtomicBool, cancelled: &AtomicBool) -> Result<BurstReport, ForkError> {
        let (quit, todo) = (AtomicBool::new(false), Todo::default());
        std::thread::scope(|scope| {
            let total = self.run_bursts(stop, cancelled, &Lane::new(scope, self, &quit, &todo));
            // Nobody is left to make forks of what is being unpacked still: the requests wait.
            quit.store(true, Ordering::SeqCst);
            total
        })
    }

    fn run_bursts(&self, stop: &AtomicBool, cancelled: &AtomicBool, lane: &Lane<'_, '_>) -> Result<BurstReport, ForkError> {
        let mut total = BurstReport::default();
        while !stop.load(Ordering::SeqCst) {
            let (report, has_waiting) = self.run_burst(cancelled, lane)?;
            self.bursts_ended.fetch_add(1, Ordering::Relaxed);
            if report == BurstReport::default() && !has_waiting && !self.wait_for_memory() {
                break;
            }
            total.done += report.done;
            total.failed += report.failed;
        }
        Ok(total)
    }

    /// Waits until a request may be ready, `most` at the longest.
    pub fn wait_for_work(&self, most: Duration) {
        let mut state = self.state();
        let now = self.store.clock.now();
        // What is ready cannot be made while the journal is closed or the root is away: trying at once would be a busy loop.
        let cannot = state.journal().is_err() || self.unsettled.load(Ordering::SeqCst);
        if cannot || state.queue.ready(now, 1).is_empty() {
            let until_retry = state.queue.next_retry().and_then(|at| (at - now).to_std().ok()).unwrap_or(most);
            drop(self.changed.wait_timeout(state, if cannot { most } else { most.min(until_retry) }));
        }
    }

    /// Waits until a request changes, `most` at the longest.
    pub fn wait_for_change(&self, most: Duration) {
        drop(self.changed.wait_timeout(self.state(), most));
    }

    /// The same, unless each of these has come to its end.
    pub fn wait_for_ends(&self, requests: &[ForkId], most: Duration) {
        let state = self.state();
        if requests.iter().any(|id| state.queue.get(id).is_some_and(|r| !r.state.is_final())) {
            drop(self.changed.wait_timeout(state, most));
        }
    }

    /// Wakes everybody who waits, for example at the stop.
    pub fn wake(&self) {
        self.changed.notify_all();
        self.waker.wake();
    }

    /// One burst, and whether requests went back to the queue until their memory is unpacked.
    fn run_burst(&self, cancelled: &AtomicBool, lane: &Lane<'_, '_>) -> Result<(BurstReport, bool), ForkError> {
        let nothing = Ok((BurstReport::default(), false));
        if self.unsettled.load(Ordering::SeqCst) {
            self.recover()?;
            if self.unsettled.load(Ordering::SeqCst) {
                // The root is still away.
                return nothing;
            }
        }
        let _burst = self.bursts.read().unwrap_or_else(PoisonError::into_inner);
        let requests = self.begin_ready();
        if requests.is_empty() {
            return nothing;
        }
        let burst = debug_span!("burst", forks = requests.len());
        let _span = burst.enter();
        let proof = match self.store.prove_root() {
            Ok(proof) => proof,
            Err(e) => {
                self.report_root(Some(&e.to_string()));
                let failed = requests.into_iter().map(|r| (r, ForkError::Journal(e.to_string()))).collect();
                return Ok((self.fail(failed, None)?, false));
            }
        };
        // Before anything is written: see `Fs::syncfs`.
        let since = self.store.fs.open_dir(&self.store.layout.fork_staging());
        let mut sorted = self.sort_by_memory(requests, lane);
        let outcomes = self.build_all(std::mem::take(&mut sorted.ready), &sorted.sources, cancelled, &burst);
        let (built, mut failed) = split(outcomes);
        failed.append(&mut sorted.failed);
        for (request, _) in failed.extract_if(.., |(_, e)| is_cancelled(e)) {
            // No failure: it is queued again by the next start, which also removes what this cannot.
            let _ = self.store.fs.remove_tree(&self.store.layout.staged_fork(&request.id));
        }
        let done = match debug_span!("sync").in_scope(|| self.sync(&built, since)) {
            Ok(synced) => debug_span!("publish").in_scope(|| self.publish(built, &synced, &mut failed))?,
            Err(e) => {
                let why = e.to_string();
                failed.extend(built.into_iter().map(|(r, _)| (r, ForkError::Journal(why.clone()))));
                0
            }
        };
        let report = self.fail(failed, Some(&proof))?;
        Ok((BurstReport { done, ..report }, sorted.has_waiting))
    }

    fn begin_ready(&self) -> Vec<Request> {
        let mut state = self.state();
        // With the journal closed nothing could be published.
        if state.journal().is_err() {
            return Vec::new();
        }
        let now = self.store.clock.now();
        let ready = state.queue.ready(now, MOST);
        ready.iter().filter_map(|id| state.queue.begin(id, now)).collect()
    }

    /// Step 1, on all threads: whoever is free takes the next request.
    fn build_all(
        &self,
        requests: Vec<Request>,
        sources: &HashMap<SnapshotId, Source>,
        cancelled: &AtomicBool,
        burst: &Span,
    ) -> Vec<Outcome> {
        let next = AtomicUsize::new(0);
        let threads = self.threads.min(requests.len()).max(1);
        let crew = Crew { threads: copy_threads(self.threads, threads), progress: self.watcher.get(), cancelled };
        let work = || {
            let mut mine = Vec::new();
            while let Some(request) = requests.get(next.fetch_add(1, Ordering::SeqCst)) {
                let (fork, name, snapshot) = (&request.id, &request.name, &request.snapshot_id);
                let _span = debug_span!(parent: burst, "fork", %fork, %name, %snapshot).entered();
                mine.push((request.clone(), self.build_one(request, sources.get(&request.snapshot_id), crew)));
            }
            mine
        };
        if threads <= 1 {
            return work();
        }
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut all = work();
            for other in others {
                all.extend(other.join().unwrap_or_default());
            }
            all
        })
    }

    fn build_one(&self, request: &Request, source: Option<&Source>, crew: Crew<'_>) -> Result<Built, ForkError> {
        let recipe = self.recipe(&request.snapshot_id)?;
        if let Some(built) = build::build_ready(&self.store, &self.pool, &recipe, request, self.is_owed(&request.id))? {
            return Ok(built);
        }
        self.promise_all()?;
        build::build(&self.store, &recipe, source, self.config(), request, crew)
    }

    /// Steps 3 to 6, and the event. Those whose name was taken meanwhile are added to `failed`.
    fn publish(&self, built: Vec<Done>, synced: &Synced, failed: &mut Vec<Undone>) -> Result<usize, ForkError> {
        if built.is_empty() {
            return Ok(0);
        }
        let mut visible = Vec::new();
        for (request, mut built) in built {
            let layout = &self.store.layout;
            let target = layout.instance(&request.name.clone().into());
            match self.store.fs.rename_new(&*built.place(layout, &request), &target) {
                Ok(()) => {
                    built.became_visible();
                    visible.push((request, built));
                }
                Err(e) if e.is_taken() => failed.push((request.clone(), super::queue::Denied::NameTaken(request.name).into())),
                // Neither done nor failed: the next recovery finds out, and makes it anew.
                Err(_) => self.unsettled.store(true, Ordering::SeqCst),
            }
        }
        self.settle(&visible, synced).inspect_err(|_| {
            self.unsettled.store(true, Ordering::SeqCst);
            self.changed.notify_all();
        })?;
        self.report_promised(visible.iter().map(|(request, _)| &request.id));
        let now = self.store.clock.now();
        self.state().commit_later(visible.iter().map(|(r, _)| Record::Done { id: r.id.clone(), at: now }).collect())?;
        self.changed.notify_all();
        for (request, built) in &visible {
            self.fell_back.fetch_add(u64::from(built.fell_back.is_some()), Ordering::Relaxed);
            self.request(&request.id).iter().for_each(|done| self.report_created(done, built.is_pooled(), built.fell_back.clone()));
        }
        Ok(visible.len())
    }

    /// The event of a fork that is done.
    pub(super) fn report_created(&self, request: &Request, pool: bool, fell_back: Option<String>) {
        let Some(finished) = request.finished_at.filter(|_| request.state == super::queue::RequestState::Done) else { return };
        let millis = |until: DateTime<Utc>| u64::try_from((until - request.queued_at).num_milliseconds()).unwrap_or(0);
        self.store.events.emit(Event::ForkCreated {
            fork: request.id.clone(),
            name: request.name.to_string(),
            snapshot: request.snapshot_id.clone(),
            memory: request.memory.clone().unwrap_or_default(),
            disk: request.disk.clone().unwrap_or_default(),
            pool,
            fell_back,
            waited_ms: millis(finished),
            queued_ms: millis(request.started_at.unwrap_or(finished)),
        });
    }

    /// The protocol *fail*: the staging goes, then the journal says so, then the ref is dropped. An attempt that will
    /// be made again keeps its ref.
    fn fail(&self, failed: Vec<(Request, ForkError)>, proof: Option<&RootProof>) -> Result<BurstReport, ForkError> {
        if failed.is_empty() {
            return Ok(BurstReport::default());
        }
        let now = self.store.clock.now();
        if proof.is_some() {
            // Entries that were given up: the next attempt may lack the room that they take.
            self.pool.clear(&self.store.fs);
        }
        // What is said of a request that is not durable yet would be said of nothing behind a power cut. One that cannot be
        // promised fails all the same.
        let _ = self.promise(failed.iter().map(|(request, _)| &request.id));
        let mut records = Vec::new();
        for (request, error) in &failed {
            self.quarantine_if_changed(&request.snapshot_id, error);
            // With the root away there is nothing to remove, or it cannot be reached: the start removes it.
            let cleared = proof.is_none() || self.store.fs.remove_tree(&self.store.layout.staged_fork(&request.id)).is_ok();
            let can_pass = can_pass(error) || !cleared;
            records.push(self.state().queue.after_failure(&request.id, &error.to_string(), can_pass, now));
        }
        let report = BurstReport { done: 0, failed: failed.len() };
        for ((request, error), record) in failed.iter().zip(&records) {
            let retry_at = match record {
                Record::Attempt { retry_at, .. } => Some(*retry_at),
                _ => None,
            };
            self.store.events.emit(Event::ForkFailed {
                fork: request.id.clone(),
                name: request.name.to_string(),
                snapshot: request.snapshot_id.clone(),
                attempt: request.attempts + 1,
                error: error.to_string(),
                retry_at,
            });
        }
        match proof {
            Some(proof) => self.conclude(records, proof)?,
            None => self.state().commit(records)?,
        }
        Ok(report)
    }

    /// Writes ends down, and drops the refs of those that failed for good.
    pub(super) fn conclude(&self, records: Vec<Record>, proof: &RootProof) -> Result<(), ForkError> {
        let ended = |record: &Record| match record {
            Record::Failed { id, .. } | Record::Done { id, .. } => Some(id.clone()),
            _ => None,
        };
        let is_failed = |record: &&Record| matches!(record, Record::Failed { .. });
        let failed: Vec<ForkId> = records.iter().filter(is_failed).filter_map(ended).collect();
        let all: Vec<ForkId> = records.iter().filter_map(ended).collect();
        self.state().commit(records)?;
        self.report_promised(&all);
        for request in failed.iter().filter_map(|id| self.request(id)) {
            let guard = self.store.lock_snapshot(&request.snapshot_id);
            self.store.drop_ref(&guard, proof, &request.id)?;
        }
        self.changed.notify_all();
        Ok(())
    }

    /// A memory file or a manifest that is not the one that was written must not be used again.
    pub(super) fn quarantine_if_changed(&self, id: &SnapshotId, error: &ForkError) {
        if let ForkError::MemoryChanged { .. } | ForkError::Spoilt(_) = error {
            let why = error.to_string();
            let guard = self.store.lock_snapshot(id);
            if self.store.known(id).is_ok_and(|known| known.quarantined.is_none()) {
                self.store.events.emit(Event::SnapshotQuarantined { snapshot: id.to_string(), why: why.clone() });
                if let Err(e) = self.store.mark_quarantined(&guard, &why) {
                    self.store.events.emit(Event::RecordUnreadable {
                        path: self.store.layout.marks_of(id).display().to_string(),
                        why: e.to_string(),
                        blocks: Vec::new(),
                    });
                }
            }
        }
    }

    /// Forgets how to fork a snapshot that is gone.
    pub fn forget_recipe(&self, id: &crate::ids::SnapshotId) {
        self.recipes.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    fn recipe(&self, id: &crate::ids::SnapshotId) -> Result<std::sync::Arc<super::recipe::Recipe>, ForkError> {
        // Loaded under the lock: a burst's threads want the same one, and one of them reads it for all.
        let mut recipes: std::sync::MutexGuard<'_, HashMap<_, _>> = self.recipes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(recipe) = recipes.get(id) {
            return Ok(std::sync::Arc::clone(recipe));
        }
        if recipes.len() >= super::recipe::CACHED {
            recipes.clear();
        }
        let recipe = std::sync::Arc::new(super::recipe::Recipe::load(&self.store, id, self.config())?);
        recipes.insert(id.clone(), std::sync::Arc::clone(&recipe));
        Ok(recipe)
    }
}

fn split(outcomes: Vec<Outcome>) -> (Vec<Done>, Vec<Undone>) {
    let (mut built, mut failed) = (Vec::new(), Vec::new());
    for (request, outcome) in outcomes {
        match outcome {
            Ok(fork) => built.push((request, fork)),
            Err(e) => failed.push((request, e)),
        }
    }
    (built, failed)
}

fn is_cancelled(error: &ForkError) -> bool {
    matches!(error, ForkError::Copy(crate::snapshot::materialize::MaterializeError::Cancelled))
}

/// Whether another attempt may succeed: not if the answer lies in the snapshot or in the name.
fn can_pass(error: &ForkError) -> bool {
    let is_final = |e: &ForkError| matches!(e, ForkError::NamesSource { .. } | ForkError::NoSnapshot(_) | ForkError::Denied(_));
    !is_final(error) && !matches!(error, ForkError::MemoryChanged { .. } | ForkError::Spoilt(_))
}
