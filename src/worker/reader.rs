//! Looking without the lock, for when no worker runs: what changes something says so and does nothing.

use super::backend::{Answer, Backend, Removal};
use super::importing::{self, ImportBody, ImportView};
use super::problem::{Problem, ProblemKind};
use super::sight::{self, Sight};
use super::view::{
    ClockView, Findings, ForkBody, ForkView, ForkViews, NextPruneView, PlanBody, PlanView, PruneBody, PruneReport, RemovedView,
    RequestView, Requests, RestoredView, SnapshotFilter, SnapshotView, Snapshots, StatusView, TakeBody, TimelineBody, TimelineView,
    TrashView, UndeletedView, UnforkedView, VerifyBody,
};
use super::{Surroundings, clock, planning, problem_of_fork, problem_of_store, selection, status, timeline, trashed};
use crate::config::Config;
use crate::fork::Forks;
use crate::fork::pool::PoolCounts;
use crate::fork::queue::{Queue, Request};
use crate::ids::{ForkId, HoldName, InstanceId};
use crate::policy::Candidate;
use crate::policy::cadence::LedgerEntry;
use crate::schedule::{Ledger, Pair};
use crate::snapshot::copy::{Flow, Progress};
use crate::store::Store;
use crate::store::instances::{Pass, Scan, ScanCache, ScanProgress, scan};
use crate::store::tags::TagCache;
use chrono::{DateTime, Utc};
use std::sync::Arc;
use std::time::Duration;

/// A look at a store at one moment.
pub struct Reader {
    store: Arc<Store>,
    config: Arc<Config>,
    queue: Result<Queue, String>,
    ledger: Ledger,
    scan: Arc<Scan>,
    pool: PoolCounts,
    progress: Arc<dyn Progress + Send + Sync>,
}

impl Reader {
    /// Reads a store as it is now.
    ///
    /// # Errors
    /// [`Problem`] if there is none, or it cannot be read.
    pub fn open(config: Config, around: &Surroundings, progress: Arc<dyn Progress + Send + Sync>) -> Answer<Self> {
        let store = Store::open_reader(&around.options(&config)).map_err(|e| problem_of_store(&e))?;
        let queue = Forks::peek(&store).map_err(|e| e.to_string());
        let ledger = Ledger::load(Arc::clone(&store)).map_err(|e| Problem::new(ProblemKind::Failed, e.to_string()))?;
        let scan = match store.prove_root() {
            Ok(_) => {
                let pass = Pass { threads: config.threads, progress: &ScanProgress::default() };
                scan(&store.fs, &store.layout, (&mut ScanCache::default(), &Scan::default()), pass).unwrap_or_default()
            }
            Err(_) => Scan::default(),
        };
        let pool = crate::fork::pool::look(&store);
        Ok(Self { store, config: Arc::new(config), queue, ledger, scan: Arc::new(scan), pool, progress })
    }
}

impl Sight for Reader {
    fn store(&self) -> &Store {
        &self.store
    }
    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config)
    }
    fn requests(&self) -> Vec<Request> {
        self.queue.as_ref().map(Queue::list).unwrap_or_default()
    }
    fn ledger(&self) -> Vec<(Pair, LedgerEntry)> {
        self.ledger.all()
    }
    fn is_running(&self, _pair: &Pair) -> bool {
        false
    }
    fn scan(&self) -> Arc<Scan> {
        Arc::clone(&self.scan)
    }
    fn candidates(&self) -> Vec<Candidate> {
        selection::candidates(&self.store, &self.config, &self.scan, &mut TagCache::default()).0
    }
    fn pool(&self) -> PoolCounts {
        self.pool
    }
    fn clock(&self) -> ClockView {
        clock::look_once(&self.store, self.config.wait_for_sync)
    }
    fn queue_closed(&self) -> Option<String> {
        self.queue.as_ref().err().cloned()
    }
    fn started_at(&self) -> Option<DateTime<Utc>> {
        None
    }
    fn rejected(&self) -> Vec<String> {
        Vec::new()
    }
}

fn read_only<T>() -> Answer<T> {
    Err(Problem::new(ProblemKind::Failed, "this needs the store's lock"))
}

impl Backend for Reader {
    fn snapshots(&self, filter: &SnapshotFilter) -> Answer<Snapshots> {
        Ok(sight::snapshots(self, filter))
    }
    fn snapshot(&self, snapshot: &str) -> Answer<SnapshotView> {
        sight::snapshot(self, snapshot)
    }
    fn take(&self, _body: &TakeBody) -> Answer<SnapshotView> {
        read_only()
    }
    fn fork(&self, _snapshot: &str, _body: &ForkBody, _wait: Option<Duration>) -> Answer<Requests> {
        read_only()
    }
    fn forks(&self, snapshot: Option<&str>) -> Answer<ForkViews> {
        let id = snapshot.map(|s| sight::resolve(&self.store, s)).transpose()?;
        Ok(sight::forks(self, id.as_ref()))
    }
    fn fork_named(&self, name: &InstanceId) -> Answer<ForkView> {
        sight::fork(self, name)
    }
    fn unfork(&self, _name: &InstanceId) -> Answer<UnforkedView> {
        read_only()
    }
    fn queue(&self) -> Answer<Requests> {
        match &self.queue {
            Ok(queue) => Ok(Requests { requests: queue.list().into_iter().map(RequestView::from).collect(), next: None }),
            Err(why) => Err(Problem::new(ProblemKind::Failed, why.clone())),
        }
    }
    fn request(&self, id: &ForkId) -> Answer<RequestView> {
        let unknown = || problem_of_fork(&crate::fork::queue::Denied::Unknown(id.clone()).into());
        self.requests().into_iter().find(|r| r.id == *id).map(RequestView::from).ok_or_else(unknown)
    }
    fn cancel(&self, _id: &ForkId) -> Answer<RequestView> {
        read_only()
    }
    fn remove(&self, _snapshot: &str, _how: Removal) -> Answer<RemovedView> {
        read_only()
    }
    fn hold(&self, _snapshot: &str, _name: &HoldName) -> Answer<SnapshotView> {
        read_only()
    }
    fn release(&self, _snapshot: &str, _name: &HoldName) -> Answer<SnapshotView> {
        read_only()
    }
    fn restore(&self, _snapshot: &str) -> Answer<RestoredView> {
        read_only()
    }
    fn import(&self, body: &ImportBody) -> Answer<ImportView> {
        if body.dry_run { importing::look(&self.store, &self.config, body).map(|(_, view)| view) } else { read_only() }
    }
    fn plan(&self, body: &PlanBody) -> Answer<PlanView> {
        planning::view(self, body)
    }
    fn prune(&self, _body: &PruneBody) -> Answer<PruneReport> {
        read_only()
    }
    fn status(&self) -> Answer<StatusView> {
        Ok(status::status(self, self.store.clock.now()))
    }
    fn verify(&self, body: &VerifyBody) -> Answer<Findings> {
        if body.repair {
            return read_only();
        }
        let flow = Flow { progress: self.progress.as_ref(), threads: self.config.threads, ..Flow::quiet() };
        Ok(super::checking::verify_store(&self.store, &self.requests(), body, flow))
    }
    fn trash(&self) -> Answer<TrashView> {
        trashed::list(self)
    }
    fn undelete(&self, _what: &str, _name: Option<&InstanceId>) -> Answer<UndeletedView> {
        read_only()
    }
    fn timeline(&self, body: &TimelineBody) -> Answer<TimelineView> {
        Ok(timeline::timeline(self, body))
    }
    fn next_prune(&self, most: usize) -> Answer<NextPruneView> {
        timeline::next_prune(self, most)
    }
    fn clock(&self, accept: bool) -> Answer<ClockView> {
        if accept { read_only() } else { Ok(Sight::clock(self)) }
    }
}
