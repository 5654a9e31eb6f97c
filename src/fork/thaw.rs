//! Forks of compressed snapshots: where a burst gets their memory from, and the lane that unpacks it.
//!
//! A request whose snapshot's raw memory is not there goes back to the queue, and is not ready until it is: no thread that
//! makes forks waits for it, and forks of other snapshots go on. With one thread to work on, unpacking is done at once.

use super::queue::Request;
use super::{ForkError, Forks};
use crate::ids::{ForkId, SnapshotId};
use crate::snapshot::copy::{Flow, NoProgress};
use crate::snapshot::materialize::MaterializeError;
use crate::snapshot::pack::{PackError, thaw};
use crate::store::CacheUse;
use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, Scope};
use std::time::Duration;

/// How long a burst waits for news while something is being unpacked.
const LOOK: Duration = Duration::from_millis(100);

impl From<PackError> for ForkError {
    fn from(error: PackError) -> Self {
        match error {
            PackError::Io(e) => Self::Io(e),
            PackError::Cancelled => Self::Copy(MaterializeError::Cancelled),
            PackError::Damaged { path, why } => Self::MemoryChanged { path, why },
            other => Self::Unpack(other.to_string()),
        }
    }
}

/// Raw memory files that are not in the snapshot's data.
pub(super) struct Source {
    used: CacheUse,
    /// The fork that they were made for.
    first: Option<ForkId>,
}

impl Source {
    pub(super) fn dir(&self) -> &Path {
        self.used.dir()
    }

    pub(super) fn is_made_for(&self, fork: &ForkId) -> bool {
        self.first.as_ref() == Some(fork)
    }
}

/// A burst's requests, sorted by what is there for them.
#[derive(Default)]
pub(super) struct Sorted {
    /// Those to be built now.
    pub(super) ready: Vec<Request>,
    /// Those whose memory could not be unpacked.
    pub(super) failed: Vec<(Request, ForkError)>,
    /// Where the memory of those snapshots is whose own data does not have it.
    pub(super) sources: HashMap<SnapshotId, Source>,
    /// Some went back to the queue.
    pub(super) has_waiting: bool,
}

/// Unpacks one snapshot after the other, beside the bursts that need them.
pub(super) struct Lane<'s, 'e> {
    scope: &'s Scope<'s, 'e>,
    forks: &'e Forks,
    /// Set to end it early.
    quit: &'e AtomicBool,
    todo: &'e Todo,
}

/// What a lane has to do.
#[derive(Default)]
pub(super) struct Todo(Mutex<(VecDeque<SnapshotId>, bool)>);

impl<'s, 'e> Lane<'s, 'e> {
    pub(super) fn new(scope: &'s Scope<'s, 'e>, forks: &'e Forks, quit: &'e AtomicBool, todo: &'e Todo) -> Self {
        Self { scope, forks, quit, todo }
    }

    /// Has a snapshot's memory unpacked, whose requests are held back until then.
    fn push(&self, id: SnapshotId) {
        let (forks, quit, todo) = (self.forks, self.quit, self.todo);
        if forks.threads <= 1 {
            return forks.unpack(id, quit);
        }
        let mut state = todo.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.push_back(id);
        if std::mem::replace(&mut state.1, true) {
            return;
        }
        drop(state);
        let work = move || {
            while let Some(id) = todo.next() {
                forks.unpack(id, quit)
            }
        };
        if Builder::new().name("thaw".to_owned()).spawn_scoped(self.scope, work).is_err() {
            // A thread that cannot be had: this one does its work.
            work();
        }
    }
}

impl Todo {
    fn next(&self) -> Option<SnapshotId> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = state.0.pop_front();
        state.1 = next.is_some();
        next
    }
}

/// Lets the requests of a snapshot go on, also when unpacking it unwinds.
struct LetGo<'f>(&'f Forks, SnapshotId);

impl Drop for LetGo<'_> {
    fn drop(&mut self) {
        self.0.state().queue.let_go(&self.1);
        self.0.changed.notify_all();
    }
}

impl Forks {
    /// What can be built now of requests that were begun, and where its memory is. The others are back in the queue.
    pub(super) fn sort_by_memory(&self, requests: Vec<Request>, lane: &Lane<'_, '_>) -> Sorted {
        let mut sorted = Sorted::default();
        let mut waiting: HashMap<SnapshotId, Vec<Request>> = HashMap::new();
        for request in requests {
            let id = &request.snapshot_id;
            if self.store.packed(id).is_none() || sorted.sources.contains_key(id) {
                sorted.ready.push(request);
            } else if let Some(used) = self.store.use_cached(id).filter(|_| !waiting.contains_key(id)) {
                let first = used.is_first().then(|| request.id.clone());
                sorted.sources.insert(id.clone(), Source { used, first });
                sorted.ready.push(request);
            } else {
                waiting.entry(id.clone()).or_default().push(request);
            }
        }
        for (id, requests) in waiting {
            // It takes long; a request that cannot be promised says so to whoever waits for it.
            let _ = self.promise(requests.iter().map(|request| &request.id));
            if let Some(error) = self.unpack_errors().remove(&id) {
                sorted.failed.extend(requests.into_iter().map(|request| (request, error.clone().into())));
                continue;
            }
            sorted.has_waiting = true;
            let is_new = {
                let mut state = self.state();
                requests.iter().for_each(|request| state.queue.put_back(&request.id));
                state.queue.hold_back(id.clone())
            };
            if is_new {
                lane.push(id);
            }
        }
        sorted
    }

    /// Waits while something is being unpacked, for a moment; false if nothing is.
    pub(super) fn wait_for_memory(&self) -> bool {
        let state = self.state();
        let is_waiting = state.queue.is_holding_back();
        if is_waiting {
            drop(self.changed.wait_timeout(state, LOOK));
        }
        is_waiting
    }

    fn unpack(&self, id: SnapshotId, quit: &AtomicBool) {
        let let_go = LetGo(self, id);
        // Of an attempt whose requests are gone by now.
        drop(self.unpack_errors().remove(&let_go.1));
        let flow = Flow { threads: self.threads, progress: &NoProgress, cancelled: quit };
        // What was made is kept for the burst that comes now by the requests that wait for it.
        match thaw(&self.store, &let_go.1, flow) {
            Ok(used) => drop(used.map(CacheUse::not_used)),
            // Whoever needs it comes again, after the next start if need be.
            Err(PackError::Cancelled) => {}
            Err(e) => drop(self.unpack_errors().insert(let_go.1.clone(), e)),
        }
    }

    fn unpack_errors(&self) -> std::sync::MutexGuard<'_, HashMap<SnapshotId, PackError>> {
        self.unpack_errors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
