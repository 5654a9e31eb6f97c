//! Requests whose asker waits for the fork, and is told nothing before it is made or has taken too long.
//!
//! A fork out of the ready pool takes a few milliseconds, and much of that is what makes its request durable: journal and ref,
//! before a commit that takes both along. Whoever waits has been promised nothing before that commit. So where one order holds for
//! journal, refs and forks ([`Commits`](crate::store::fs::Commits)), such a request is written down with the fork: its record
//! goes into the frame of `publishing`. A power cut leaves fork and ref, or neither; a crash in between a ref that nobody was told of, or a
//! fork that says by itself which one it is. What turns out to take longer is promised first, as anybody's is.

use super::accept::Admitted;
use super::queue::{Ask, Record, Request};
use super::{ForkError, Forks, State};
use crate::ids::{ForkId, SnapshotId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// So long is waited for a fork out of the pool before its request is made durable by itself.
const MOMENT: Duration = Duration::from_millis(20);

/// Requests in the queue that are not known to be durable, with their refs.
#[derive(Debug, Default)]
pub(super) struct Unpromised(BTreeMap<ForkId, SnapshotId>);

impl State {
    fn owes(&self, id: &ForkId) -> bool {
        self.unpromised.0.contains_key(id) && self.queue.get(id).is_some_and(|request| !request.state.is_final())
    }
}

impl Forks {
    /// Whether these new requests may become durable with their forks: all of their askers wait, nobody's are before them, and all
    /// are likely to be handed out of the pool.
    pub(super) fn may_promise_later(&self, asks: &[Ask], new: &[&Request]) -> bool {
        let mut wanted: BTreeMap<&SnapshotId, usize> = BTreeMap::new();
        new.iter().for_each(|request| *wanted.entry(&request.snapshot_id).or_default() += 1);
        !new.is_empty()
            && asks.iter().all(|ask| ask.waits)
            && self.pending() == new.len()
            && wanted.into_iter().all(|(snapshot, count)| self.pool.ready_of(snapshot) >= count)
            && self.has_one_order()
    }

    /// Puts requests into the queue, where they may be built; they are written down with what comes next.
    pub(super) fn accept_unpromised(&self, new: &[&Request]) -> Result<(), ForkError> {
        let record = |request: &&Request| Record::Accepted { request: Box::new((*request).clone()) };
        let mut state = self.state();
        state.commit_later(new.iter().map(record).collect())?;
        // Nobody's were before them, so that those of before are made, or have failed.
        state.unpromised = Unpromised(new.iter().map(|request| (request.id.clone(), request.snapshot_id.clone())).collect());
        Ok(())
    }

    /// Waits a moment for those of these requests that are to become durable with their forks, and promises what is left then.
    ///
    /// # Errors
    /// Those of [`Forks::promise`].
    pub fn keep_promises(&self, requests: &[ForkId]) -> Result<(), ForkError> {
        let waits = |state: &mut State| state.journal().is_ok() && requests.iter().any(|id| state.owes(id));
        drop(self.changed.wait_timeout_while(self.state(), MOMENT, waits));
        self.promise(requests)
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
            let why = e.to_string();
            answers.iter_mut().filter(|answer| answer.id().is_some_and(|id| told.contains(id))).for_each(|answer| {
                *answer = Admitted::No(ForkError::Journal(why.clone()));
            });
        }
    }
}
