//! Looking without the lock, for when no worker runs: what changes something says so and does nothing.

use super::backend::{Answer, Backend};
use super::problem::{Problem, ProblemKind};
use super::sight::{self, Sight};
use super::view::{
    Findings, ForkBody, ForkViews, PruneReport, RemovedView, RequestView, Requests, RestoredView, SnapshotFilter, SnapshotView, Snapshots,
    StatusView, TakeBody, UnforkedView,
};
use super::{Surroundings, problem_of_fork, problem_of_store, status};
use crate::config::Config;
use crate::fork::Forks;
use crate::fork::queue::{Queue, Request};
use crate::ids::{ForkId, HoldName, InstanceId, PolicyName};
use crate::policy::Plan;
use crate::policy::cadence::LedgerEntry;
use crate::schedule::{Ledger, Pair};
use crate::store::Store;
use crate::store::instances::{Scan, ScanCache, scan};
use chrono::{DateTime, Utc};
use std::sync::Arc;
use std::time::Duration;

/// A look at a store at one moment.
#[derive(Debug)]
pub struct Reader {
    store: Arc<Store>,
    config: Arc<Config>,
    queue: Result<Queue, String>,
    ledger: Ledger,
    scan: Arc<Scan>,
}

impl Reader {
    /// Reads a store as it is now.
    ///
    /// # Errors
    /// [`Problem`] if there is none, or it cannot be read.
    pub fn open(config: Config, around: &Surroundings) -> Answer<Self> {
        let store = Store::open_reader(&around.options(&config)).map_err(|e| problem_of_store(&e))?;
        let queue = Forks::peek(&store).map_err(|e| e.to_string());
        let ledger = Ledger::load(Arc::clone(&store)).map_err(|e| Problem::new(ProblemKind::Failed, e.to_string()))?;
        let scan = match store.prove_root() {
            Ok(_) => scan(&store.fs, &store.layout, &mut ScanCache::default()).unwrap_or_default(),
            Err(_) => Scan::default(),
        };
        Ok(Self { store, config: Arc::new(config), queue, ledger, scan: Arc::new(scan) })
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
    fn unfork(&self, _name: &InstanceId) -> Answer<UnforkedView> {
        read_only()
    }
    fn queue(&self) -> Answer<Requests> {
        match &self.queue {
            Ok(queue) => Ok(Requests { requests: queue.list().into_iter().map(RequestView::from).collect() }),
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
    fn remove(&self, _snapshot: &str, _defer: bool) -> Answer<RemovedView> {
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
    fn plan(&self, policies: &[PolicyName], at: Option<DateTime<Utc>>) -> Answer<Plan> {
        sight::plan(self, policies, at.unwrap_or_else(|| self.store.clock.now()))
    }
    fn prune(&self, _policies: &[PolicyName], _hash: Option<&str>) -> Answer<PruneReport> {
        read_only()
    }
    fn status(&self) -> Answer<StatusView> {
        Ok(status::status(self, self.store.clock.now()))
    }
    fn verify(&self) -> Answer<Findings> {
        Ok(super::verify_store(&self.store, &self.requests(), crate::snapshot::copy::Flow::quiet()))
    }
}
