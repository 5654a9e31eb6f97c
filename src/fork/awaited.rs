//! Requests whose asker waits for the fork, and is told nothing before it is made or has taken too long.
//!
//! A fork out of the ready pool takes a few milliseconds, and much of that is what makes its request durable: journal and ref,
//! before a commit that takes both along. Whoever waits has been promised nothing before that commit. So where one order holds for
//! journal, refs and forks ([`Commits`](crate::store::fs::Commits)), such a request is written down with the fork: its record
//! goes into the frame of `publishing`. A power cut leaves fork and ref, or neither; a crash in between leaves a ref that nobody was told
//! of, or a fork whose record says that its request may be missing, and a start takes that for it. What turns out to take longer is
//! promised first, as anybody's is. So is a batch: of that a crash must not leave a part.

use super::accept::Admitted;
use super::queue::{Ask, REMEMBERED, Record, Request, RequestState};
use super::reconcile::finished;
use super::{ForkError, Forks, State};
use crate::ids::{ForkId, ForkName, SnapshotId};
use crate::store::instances::{ForkRecord, Scan, Standing};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// So long is waited for a fork out of the pool before its request is made durable by itself.
const MOMENT: Duration = Duration::from_millis(20);

/// Requests in the queue that are not known to be durable, with their refs.
#[derive(Debug, Default)]
pub(super) struct Unpromised(BTreeMap<ForkId, SnapshotId>);

impl State {
    /// Whether a request is neither durable nor made yet.
    fn owes(&self, id: &ForkId) -> bool {
        self.unpromised.0.contains_key(id) && self.queue.get(id).is_some_and(|request| !request.state.is_final())
    }
}

impl Forks {
    /// Whether these new requests may become durable with their forks: each stands for itself, all of their askers wait, nobody's are
    /// before them, and all are likely to be handed out of the pool.
    pub(super) fn may_promise_later(&self, asks: &[Ask], new: &[&Request]) -> bool {
        let mut wanted: BTreeMap<&SnapshotId, usize> = BTreeMap::new();
        new.iter().for_each(|request| *wanted.entry(&request.snapshot_id).or_default() += 1);
        !new.is_empty()
            && asks.iter().all(|ask| ask.waits && ask.batch == 0)
            && self.pending() == new.len()
            && wanted.into_iter().all(|(snapshot, count)| self.pool.ready_of(snapshot) >= count)
            && self.has_one_order()
    }

    /// Puts requests into the queue, where they may be built; they are written down with what comes next.
    pub(super) fn accept_unpromised(&self, new: &[&Request]) -> Result<(), ForkError> {
        let record = |request: &&Request| Record::Accepted { request: Box::new((*request).clone()) };
        let mut state = self.state();
        state.commit_later(new.iter().map(record).collect())?;
        state.unpromised.0.extend(new.iter().map(|request| (request.id.clone(), request.snapshot_id.clone())));
        Ok(())
    }

    /// Whether a request is neither durable nor made yet: then nobody is to be told of it.
    #[must_use]
    pub fn is_owed(&self, request: &ForkId) -> bool {
        self.state().owes(request)
    }

    /// All requests that are unfinished or remembered, and that somebody may be told of.
    #[must_use]
    pub fn told(&self) -> Vec<Request> {
        let state = self.state();
        state.queue.list().into_iter().filter(|request| !state.owes(&request.id)).collect()
    }

    /// Waits a moment for those of these requests that are to become durable with their forks, and promises what is left then. What
    /// cannot be promised, and has not been begun, is not made.
    ///
    /// # Errors
    /// Those of [`Forks::promise`].
    pub fn keep_promises(&self, requests: &[ForkId]) -> Result<(), ForkError> {
        let waits = |state: &mut State| state.journal().is_ok() && requests.iter().any(|id| state.owes(id));
        drop(self.changed.wait_timeout_while(self.state(), MOMENT, waits));
        self.promise(requests).inspect_err(|e| self.take_back_owed(requests, &e.to_string()))
    }

    fn take_back_owed(&self, requests: &[ForkId], error: &str) {
        let owed: Vec<Request> = requests.iter().filter(|id| self.is_owed(id)).filter_map(|id| self.request(id)).collect();
        for request in owed {
            let guard = self.store.lock_snapshot(&request.snapshot_id);
            let mut state = self.state();
            let waits = state.queue.get(&request.id).is_some_and(|now| now.state == RequestState::Queued);
            let record = Record::Failed { id: request.id.clone(), at: self.store.clock.now(), error: error.to_owned() };
            // With the journal closed nothing is made any more, and a start knows nothing of it.
            if waits && state.commit(vec![record]).is_ok() {
                state.unpromised.0.remove(&request.id);
                drop(state);
                self.store.undo_refs(&guard, std::iter::once(&request.id));
                self.changed.notify_all();
            }
        }
    }

    /// Makes requests durable that are not yet, with their refs: before somebody is told of them, or before they take long.
    ///
    /// # Errors
    /// [`ForkError`]; they are in the queue still, and no start may find them.
    pub fn promise<'a>(&self, requests: impl IntoIterator<Item = &'a ForkId>) -> Result<(), ForkError> {
        let mut state = self.state();
        let owed = requests.into_iter().filter(|id| state.owes(id));
        let late: Vec<(ForkId, SnapshotId)> = owed.filter_map(|id| Some((id.clone(), state.unpromised.0.get(id)?.clone()))).collect();
        if late.is_empty() {
            return Ok(());
        }
        state.journal()?.flush()?;
        drop(state);
        let snapshots: BTreeSet<&SnapshotId> = late.iter().map(|(_, snapshot)| snapshot).collect();
        snapshots.into_iter().try_for_each(|snapshot| self.store.sync_refs(snapshot)).map_err(|e| ForkError::Ref(e.to_string()))?;
        self.report_promised(late.iter().map(|(id, _)| id));
        Ok(())
    }

    /// The same for all that there are.
    pub(super) fn promise_all(&self) -> Result<(), ForkError> {
        let all: Vec<ForkId> = self.state().unpromised.0.keys().cloned().collect();
        self.promise(&all)
    }

    /// Requests are durable by now, with their refs: of those that were not before it is said that they are queued.
    pub(super) fn report_promised<'a>(&self, requests: impl IntoIterator<Item = &'a ForkId>) {
        let mut state = self.state();
        let late: Vec<&ForkId> = requests.into_iter().filter(|id| state.unpromised.0.remove(*id).is_some()).collect();
        let late: Vec<Request> = late.into_iter().filter_map(|id| state.queue.get(id).cloned()).collect();
        drop(state);
        late.iter().for_each(|request| self.report_queued(request));
    }

    /// The same for requests that were asked for again by somebody who does not wait.
    pub(super) fn promise_known(&self, asks: &[Ask], answers: &mut [Admitted]) {
        let known = |(ask, answer): &(&Ask, &Admitted)| !ask.waits && matches!(answer, Admitted::Before(_));
        let told: Vec<ForkId> = asks.iter().zip(&*answers).filter(known).filter_map(|(_, answer)| answer.id().cloned()).collect();
        if let Err(e) = self.promise(&told) {
            let why = || match &e {
                ForkError::Ref(why) => ForkError::Ref(why.clone()),
                other => ForkError::Journal(other.to_string()),
            };
            let is_told = |answer: &&mut Admitted| answer.id().is_some_and(|id| told.contains(id));
            answers.iter_mut().filter(is_told).for_each(|answer| *answer = Admitted::No(why()));
        }
    }

    /// Forks that a crash left without their requests: the queue knows them from here on, as made, and it is said that they are.
    pub(super) fn remember_unpromised(&self, scan: &Scan) {
        let now = self.store.clock.now();
        let is_young = |record: &ForkRecord| record.awaited && now - record.created_at <= REMEMBERED;
        for (name, record) in scan.instances.iter().filter_map(|(name, (_, standing))| match standing {
            Standing::Fork(record) if is_young(record) => Some((ForkName::parse(name.to_str()?).ok()?, record)),
            _ => None,
        }) {
            let is_ours = self.store.index().get(&record.fork_of_snapshot).is_some_and(|known| known.present);
            let mut state = self.state();
            if !is_ours || state.queue.get(&record.fork_id).is_some() {
                continue;
            }
            let request = finished(name, record);
            let is_noted = state.commit_later(vec![Record::Accepted { request: Box::new(request.clone()) }]).is_ok();
            drop(state);
            // With the journal closed the next start finds it again.
            if is_noted {
                self.report_queued(&request);
                self.report_created(&request, true, None);
            }
        }
    }
}
