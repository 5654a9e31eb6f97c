//! The verbs, carried out by the one who has the lock.

use super::backend::{Answer, Backend, Removal};
use super::checking::verify_store;
use super::importing::{ImportBody, ImportView};
use super::problem::{Problem, ProblemKind};
use super::prune::{For, problem_of_reclaim};
use super::sight::{self, Sight};
use super::view::{
    ClockView, Findings, ForkBody, ForkView, ForkViews, NextPruneView, PlanBody, PlanView, PruneBody, PruneReport, RemovedView,
    RequestView, Requests, RestoredView, SnapshotFilter, SnapshotView, Snapshots, StatusView, TakeBody, TimelineBody, TimelineView,
    TrashView, UndeletedView, UnforkedView, VerifyBody,
};
use super::{Worker, planning, problem_of_fork, problem_of_store, status, timeline, trashed};
use crate::config::Config;
use crate::driver::Plain;
use crate::event::Event;
use crate::event::feed::Feed;
use crate::fork::ForkError;
use crate::fork::pool::PoolCounts;
use crate::fork::queue::{Ask, Denied, Naming, Request, RequestState};
use crate::ids::{ForkId, ForkName, HoldName, InstanceId, SnapshotId};
use crate::policy::cadence::LedgerEntry;
use crate::policy::{Candidate, KindRule};
use crate::reclaim::ReclaimError;
use crate::schedule::Pair;
use crate::snapshot::restore::{RestoreError, restore};
use crate::snapshot::take::{TakeError, Wanted, take};
use crate::store::Store;
use crate::store::instances::Scan;
use chrono::{DateTime, Utc};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most forks that one request may ask for.
const MOST_FORKS: usize = 10_000;
/// The number of the next batch: its requests are accepted together, or not at all.
static BATCHES: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);

impl Sight for Worker {
    fn store(&self) -> &Store {
        &self.store
    }
    fn config(&self) -> Arc<Config> {
        Worker::config(self)
    }
    fn requests(&self) -> Vec<Request> {
        self.forks.requests()
    }
    fn ledger(&self) -> Vec<(Pair, LedgerEntry)> {
        self.schedules.pairs()
    }
    fn is_running(&self, pair: &Pair) -> bool {
        self.schedules.is_running(pair)
    }
    fn is_waiting(&self, pair: &Pair) -> bool {
        self.schedules.is_waiting(pair)
    }
    fn scan(&self) -> Arc<Scan> {
        self.last_scan()
    }
    fn candidates(&self) -> Vec<Candidate> {
        Worker::candidates(self, true).to_vec()
    }
    fn queue_closed(&self) -> Option<String> {
        self.forks.closed()
    }
    fn clock(&self) -> ClockView {
        self.clock.look(&self.store, Worker::config(self).wait_for_sync)
    }
    fn pool(&self) -> PoolCounts {
        self.forks.pool().counts()
    }
    fn fallbacks(&self) -> u64 {
        self.forks.fallbacks()
    }
    fn started_at(&self) -> Option<DateTime<Utc>> {
        Some(self.started_at)
    }
    fn starting(&self) -> Option<String> {
        Worker::starting(self)
    }
    fn rejected(&self) -> Vec<String> {
        self.rejections()
    }
}

impl Worker {
    fn resolve(&self, snapshot: &str) -> Answer<SnapshotId> {
        sight::resolve(&self.store, snapshot)
    }

    /// Waits until all these requests have come to their end, or cannot any more, or the time is over. Whoever has the lock without a
    /// worker's threads does the work meanwhile.
    fn wait_for(&self, requests: &mut [Request], wait: Duration) {
        let deadline = Instant::now().checked_add(wait);
        let ids: Vec<ForkId> = requests.iter().map(|request| request.id.clone()).collect();
        loop {
            let mut pending = false;
            for request in requests.iter_mut() {
                if let Some(now) = self.forks.request(&request.id) {
                    *request = now;
                }
                pending |= !request.state.is_final();
            }
            let left = deadline.map_or(Duration::MAX, |d| d.saturating_duration_since(Instant::now()));
            let cannot_end = self.forks.closed().is_some();
            if !pending || cannot_end || left.is_zero() || self.stopping.load(std::sync::atomic::Ordering::SeqCst) {
                return;
            }
            self.forks.wait_for_ends(&ids, left.min(Duration::from_millis(200)));
        }
    }
}

impl Worker {
    /// Waits as [`Worker::wait_for`] does; a queue that was closed meanwhile makes nothing any more.
    fn wait_until_settled(&self, requests: &mut [Request], wait: Duration) -> Answer<()> {
        self.wait_for(requests, wait);
        let pending: Vec<&str> = requests.iter().filter(|r| !r.state.is_final()).map(|r| r.name.as_str()).collect();
        match self.forks.closed().filter(|_| !pending.is_empty()) {
            None => Ok(()),
            Some(why) => {
                let detail = format!("{why}; accepted, and to be made after the next start: {}", pending.join(", "));
                Err(Problem::new(ProblemKind::Failed, detail))
            }
        }
    }

    /// Requests that could not be promised; one that was begun by then may be made all the same.
    fn unkept(&self, requests: &[Request], error: &ForkError) -> Problem {
        let is_there = |request: &Request| {
            let path = self.store.layout.instance(&request.name.clone().into());
            self.store.fs.stat_if_there(&path).map_or(true, |found| found.is_some())
        };
        let is_begun = |request: &Request| {
            let now = self.forks.request(&request.id);
            now.is_some_and(|now| matches!(now.state, RequestState::Running | RequestState::Publishing))
        };
        let made: Vec<&str> = requests.iter().filter(|r| is_there(r) || is_begun(r)).map(|r| r.name.as_str()).collect();
        let mut problem = problem_of_fork(error);
        if !made.is_empty() {
            problem.detail =
                format!("{}; made all the same, or being made, and known again behind a start: {}", problem.detail, made.join(", "));
        }
        problem
    }

    /// A key stands for one body: one fork, or so many. The queue compares snapshot and names itself.
    fn refuse_reused_key(&self, body: &ForkBody, count: usize) -> Answer<()> {
        let Some(key) = &body.key else { return Ok(()) };
        let is_known = |at: usize| self.forks.knows_key(&format!("{key}/{at}"));
        let is_another = match count {
            1 => is_known(0),
            _ => self.forks.knows_key(key) || is_known(count) || is_known(0) != is_known(count - 1),
        };
        if is_another { Err(problem_of_fork(&Denied::KeyReused(key.clone()).into())) } else { Ok(()) }
    }

    /// `undelete` of a snapshot that is not in the trash: it may be marked to go with its last fork.
    fn keep_after_all(&self, what: &str) -> Answer<UndeletedView> {
        let not_there = || problem_of_reclaim(&ReclaimError::NotInTrash(what.to_owned()));
        let id = self.resolve(what).map_err(|_| not_there())?;
        let guard = self.store.lock_snapshot(&id);
        if self.store.clear_expiring(&guard).map_err(|e| problem_of_store(&e))? {
            Ok(UndeletedView { result: "kept".to_owned(), id: Some(id), instance: None })
        } else {
            Err(not_there())
        }
    }
}

impl Backend for Worker {
    fn snapshots(&self, filter: &SnapshotFilter) -> Answer<Snapshots> {
        Ok(sight::snapshots(self, filter))
    }

    fn snapshot(&self, snapshot: &str) -> Answer<SnapshotView> {
        sight::snapshot(self, snapshot)
    }

    fn take(&self, body: &TakeBody) -> Answer<SnapshotView> {
        self.ready()?;
        let config = Worker::config(self);
        let driver = Plain::new(config.driver.clone());
        let wanted = Wanted {
            instance: body.instance.clone(),
            policy: None,
            name: body.name.clone(),
            name_prefix: None,
            tags: body.tags.clone(),
            kind: KindRule::Auto,
        };
        let began = self.store.clock.now();
        self.make_room(&body.instance);
        match take(&self.store, &wanted, self.how(&config, &driver)) {
            Ok(taken) => {
                self.schedules.report_taken(&taken, None, self.store.clock.now());
                sight::snapshot(self, taken.summary.id.as_str())
            }
            Err(e) => {
                self.store.events.emit(Event::SnapshotFailed {
                    instance: body.instance.clone(),
                    policy: None,
                    slot: None,
                    attempt: 1,
                    at: began,
                    error: e.to_string(),
                    interrupted: e.is_cancelled(),
                    retry_at: None,
                });
                Err(problem_of_take(&e))
            }
        }
    }

    fn metrics(&self) -> Answer<String> {
        self.open_metrics()
    }

    fn after_take(&self, snapshot: &SnapshotId) {
        self.hash_one(snapshot);
    }

    fn fork(&self, snapshot: &str, body: &ForkBody, wait: Option<Duration>) -> Answer<Requests> {
        self.ready()?;
        let id = self.resolve(snapshot)?;
        let asks = asks(&id, body, wait.is_some())?;
        self.refuse_reused_key(body, asks.len())?;
        let mut requests = Vec::with_capacity(asks.len());
        let mut refused: Option<ForkError> = None;
        for answer in self.forks.accept(asks) {
            match answer {
                Ok(request) => requests.push(request),
                // Of a batch all but one are refused for the sake of that one.
                Err(e) if refused.as_ref().is_none_or(|first| matches!(first, ForkError::Denied(Denied::Together))) => refused = Some(e),
                Err(_) => {}
            }
        }
        if let Some(e) = refused {
            return Err(problem_of_fork(&e));
        }
        if let Some(wait) = wait {
            let ids: Vec<ForkId> = requests.iter().map(|request| request.id.clone()).collect();
            self.forks.keep_promises(&ids).map_err(|e| self.unkept(&requests, &e))?;
            self.wait_until_settled(&mut requests, wait)?;
        }
        Ok(Requests { requests: requests.into_iter().map(RequestView::from).collect(), next: None })
    }

    fn settle(&self, ids: &[ForkId], wait: Duration) -> Answer<Requests> {
        let unknown = |id: &ForkId| problem_of_fork(&Denied::Unknown(id.clone()).into());
        let mut requests = ids.iter().map(|id| self.forks.request(id).ok_or_else(|| unknown(id))).collect::<Answer<Vec<Request>>>()?;
        self.wait_until_settled(&mut requests, wait)?;
        Ok(Requests { requests: requests.into_iter().map(RequestView::from).collect(), next: None })
    }

    fn forks(&self, snapshot: Option<&str>) -> Answer<ForkViews> {
        self.ready()?;
        let id = snapshot.map(|s| self.resolve(s)).transpose()?;
        // A fork that was made just now is to be in it.
        self.forks.look().map_err(|e| problem_of_fork(&e))?;
        Ok(sight::forks(self, id.as_ref()))
    }

    fn fork_named(&self, name: &InstanceId) -> Answer<ForkView> {
        self.ready()?;
        self.forks.look().map_err(|e| problem_of_fork(&e))?;
        sight::fork(self, name)
    }

    fn unfork(&self, name: &InstanceId) -> Answer<UnforkedView> {
        self.ready()?;
        let removed = self.forks.unfork(name).map_err(|e| problem_of_fork(&e))?;
        // With no grace its files and its ref go at once; what fails is tried again by the next sweep.
        self.sweep_soon();
        Ok(UnforkedView { name: name.clone(), fork_id: removed.fork, snapshot_id: removed.snapshot })
    }

    fn queue(&self) -> Answer<Requests> {
        Ok(Requests { requests: self.forks.told().into_iter().map(RequestView::from).collect(), next: None })
    }

    fn request(&self, id: &ForkId) -> Answer<RequestView> {
        let unknown = || problem_of_fork(&crate::fork::queue::Denied::Unknown(id.clone()).into());
        self.forks.request(id).filter(|_| !self.forks.is_owed(id)).map(RequestView::from).ok_or_else(unknown)
    }

    fn cancel(&self, id: &ForkId) -> Answer<RequestView> {
        self.ready()?;
        self.forks.cancel(id).map(RequestView::from).map_err(|e| problem_of_fork(&e))
    }

    fn remove(&self, snapshot: &str, how: Removal) -> Answer<RemovedView> {
        self.ready()?;
        let id = self.resolve(snapshot)?;
        self.look_at_root();
        let grace = Worker::config(self).trash.grace;
        match self.reclaim.remove_even(&id, &["by hand".to_owned()], grace, how == Removal::Unreadable) {
            Ok(_) => {
                self.sweep_soon();
                Ok(RemovedView { id, result: "removed".to_owned(), forks: Vec::new() })
            }
            Err(ReclaimError::Blocked { blocked, .. }) if how == Removal::Defer && !blocked.why.contains(&"unreadable") => {
                let guard = self.store.lock_snapshot(&id);
                self.store.mark_expiring(&guard, "by hand").map_err(|e| problem_of_store(&e))?;
                Ok(RemovedView { id, result: "expiring".to_owned(), forks: blocked.forks })
            }
            Err(e) => Err(problem_of_reclaim(&e)),
        }
    }

    fn hold(&self, snapshot: &str, name: &HoldName) -> Answer<SnapshotView> {
        self.ready()?;
        let id = self.resolve(snapshot)?;
        let guard = self.store.lock_snapshot(&id);
        self.store.add_hold(&guard, name).map_err(|e| problem_of_store(&e))?;
        drop(guard);
        sight::snapshot(self, id.as_str())
    }

    fn release(&self, snapshot: &str, name: &HoldName) -> Answer<SnapshotView> {
        self.ready()?;
        let id = self.resolve(snapshot)?;
        let guard = self.store.lock_snapshot(&id);
        let was_there = self.store.drop_hold(&guard, name).map_err(|e| problem_of_store(&e))?;
        drop(guard);
        if was_there {
            sight::snapshot(self, id.as_str())
        } else {
            Err(Problem::new(ProblemKind::NotFound, format!("snapshot {id} has no hold {name}")))
        }
    }

    fn restore(&self, snapshot: &str) -> Answer<RestoredView> {
        self.ready()?;
        let id = self.resolve(snapshot)?;
        let config = Worker::config(self);
        let driver = Plain::new(config.driver.clone());
        let restored = restore(&self.store, &id, &driver, &config.skip, self.flow()).map_err(|e| problem_of_restore(&e))?;
        self.store.events.emit(Event::SnapshotRestored {
            snapshot: id.clone(),
            instance: restored.instance.clone(),
            at: self.store.clock.now(),
            replaced: restored.replaced.is_some(),
        });
        self.look_at_root();
        let replaced = restored.replaced.map(|path| path.display().to_string());
        Ok(RestoredView { id, instance: restored.instance, replaced })
    }

    fn import(&self, body: &ImportBody) -> Answer<ImportView> {
        self.ready()?;
        self.import_all(body)
    }

    fn plan(&self, body: &PlanBody) -> Answer<PlanView> {
        planning::view(self, body)
    }

    fn prune(&self, body: &PruneBody) -> Answer<PruneReport> {
        self.ready()?;
        let mut report = self.prune_by(body, For::Somebody)?;
        self.sweep_soon();
        // Where space was short they have been unlinked already.
        if !report.removed.is_empty() && !self.are_in_trash(&report.removed) {
            report.grace_seconds = 0;
        }
        Ok(report)
    }

    fn status(&self) -> Answer<StatusView> {
        Ok(status::status(self, self.store.clock.now()))
    }

    fn verify(&self, body: &VerifyBody) -> Answer<Findings> {
        if body.repair {
            self.ready()?;
        }
        let mut findings = verify_store(&self.store, &self.forks.requests(), body, self.flow());
        if body.repair {
            self.repair(&mut findings);
        }
        Ok(findings)
    }

    fn trash(&self) -> Answer<TrashView> {
        trashed::list(self)
    }

    fn undelete(&self, what: &str, name: Option<&InstanceId>) -> Answer<UndeletedView> {
        self.ready()?;
        let Some(entry) = trashed::find(self, what)? else { return self.keep_after_all(what) };
        let view = match (entry.snapshot(), entry.instance()) {
            (Some(id), _) => {
                if name.is_some() {
                    return Err(Problem::new(ProblemKind::BadRequest, "only an instance can come back under another name"));
                }
                self.reclaim.undelete_snapshot(&id).map_err(|e| problem_of_reclaim(&e))?;
                UndeletedView { result: "undeleted".to_owned(), id: Some(id), instance: None }
            }
            (None, was) => {
                let instance = name.cloned().or(was).ok_or_else(|| problem_of_reclaim(&ReclaimError::NotInTrash(what.to_owned())))?;
                self.reclaim.undelete_instance(&entry, &instance).map_err(|e| problem_of_reclaim(&e))?;
                UndeletedView { result: "undeleted".to_owned(), id: None, instance: Some(instance) }
            }
        };
        Ok(view)
    }

    fn timeline(&self, body: &TimelineBody) -> Answer<TimelineView> {
        Ok(timeline::timeline(self, body))
    }

    fn next_prune(&self, most: usize) -> Answer<NextPruneView> {
        timeline::next_prune(self, most)
    }

    fn feed(&self) -> Option<Arc<Feed>> {
        self.store.events.feed()
    }

    fn clock(&self, accept: bool) -> Answer<ClockView> {
        if accept {
            self.clock.accept(&self.store).map_err(|e| problem_of_store(&e))?;
        }
        Ok(Sight::clock(self))
    }
}

/// What a fork body asks for: one of `name`, `names`, or `count` with `prefix`. A key covers all of it: each fork gets
/// one of its own, made of the key and its place.
fn asks(id: &SnapshotId, body: &ForkBody, waits: bool) -> Answer<Vec<Ask>> {
    let bad = |why: String| Problem::new(ProblemKind::BadRequest, why);
    let named = |name: &String| ForkName::parse(name).map(Naming::Named).map_err(|e| bad(e.to_string()));
    let namings: Vec<Naming> = match (&body.name, &body.names, body.count, &body.prefix) {
        (Some(name), None, None, None) => vec![named(name)?],
        (None, Some(names), None, None) => names.iter().map(named).collect::<Answer<_>>()?,
        (None, None, Some(count), Some(prefix)) => {
            ForkName::parse(&format!("{prefix}-1")).map_err(|e| bad(e.to_string()))?;
            vec![Naming::Prefixed(prefix.clone()); (count as usize).min(MOST_FORKS + 1)]
        }
        _ => return Err(bad("give one of \"name\", \"names\", or \"count\" with \"prefix\"".to_owned())),
    };
    if namings.is_empty() || namings.len() > MOST_FORKS {
        return Err(bad(format!("ask for 1 to {MOST_FORKS} forks at a time")));
    }
    let single = namings.len() == 1;
    let key = |at: usize| body.key.as_ref().map(|key| if single { key.clone() } else { format!("{key}/{at}") });
    let batch = if single { 0 } else { BATCHES.fetch_add(1, std::sync::atomic::Ordering::Relaxed) };
    let ask = |(at, naming)| Ask { key: key(at), snapshot: id.clone(), naming, batch, waits };
    Ok(namings.into_iter().enumerate().map(ask).collect())
}

fn problem_of_take(e: &TakeError) -> Problem {
    let kind = match e {
        TakeError::NoInstance(_) => ProblemKind::NotFound,
        TakeError::NameTaken(..) | TakeError::WrongKind { .. } => ProblemKind::Conflict,
        TakeError::Store(e) => return problem_of_store(e),
        _ => ProblemKind::Failed,
    };
    Problem::new(kind, e.to_string())
}

fn problem_of_restore(e: &RestoreError) -> Problem {
    match e {
        RestoreError::InUse { .. } => Problem::new(ProblemKind::InUse, e.to_string()),
        RestoreError::Quarantined(..) => Problem::new(ProblemKind::Conflict, e.to_string()),
        RestoreError::Store(e) => problem_of_store(e),
        _ => Problem::new(ProblemKind::Failed, e.to_string()),
    }
}
