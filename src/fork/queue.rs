//! The fork queue's state machine, pure: records in, state out; what is next is a function of the state and `now`.
//!
//! ```text
//!            accepted                publishing              done
//!   (ask) ──────────► queued ─► running ─────► publishing ─────────► done
//!                       ▲  │       │ attempt (backoff)  │ conflict
//!                       └──┼───────┘                    ▼
//!                cancelled ◄┘        └──────────────► failed
//! ```
//! `running` is in memory only: after a restart it is `queued` again. Everything else is a record of the journal, and
//! [`Queue::apply`] is the only way a record changes the state, at replay as in normal running.

use crate::ids::{ForkId, ForkName, SnapshotId};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};

/// How long a finished request and its key are remembered.
pub const REMEMBERED: TimeDelta = TimeDelta::hours(24);
/// Attempts before a request fails for good.
pub const MAX_ATTEMPTS: u32 = 5;

/// A fork request, as it is shown and journaled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The request, and the fork that it makes.
    pub id: ForkId,
    /// The caller's idempotency key.
    pub key: Option<String>,
    /// What to fork.
    pub snapshot_id: SnapshotId,
    /// The instance to be.
    pub name: ForkName,
    /// Where it stands.
    pub state: RequestState,
    /// Attempts begun and failed.
    pub attempts: u32,
    /// The last attempt's error.
    pub error: Option<String>,
    /// How the memory file was made.
    pub memory: Option<String>,
    /// How the disks were made.
    pub disk: Option<String>,
    /// When it was accepted.
    pub queued_at: DateTime<Utc>,
    /// When the last attempt began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it came to its end.
    pub finished_at: Option<DateTime<Utc>>,
    /// Not before this time.
    pub retry_at: Option<DateTime<Utc>>,
}

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "see the picture above")]
pub enum RequestState {
    Queued,
    Running,
    Publishing,
    Done,
    Failed,
    Cancelled,
}

impl RequestState {
    /// True if nothing will happen to it any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// One record of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "lowercase")]
#[expect(missing_docs, reason = "the fields are the request's")]
pub enum Record {
    /// A request, whole: when it is accepted, and when the journal is compacted.
    Accepted { request: Box<Request> },
    /// An attempt failed; the next comes at `retry_at`.
    Attempt { id: ForkId, error: String, retry_at: DateTime<Utc> },
    /// The fork is whole and was renamed. Behind a power cut it may lie again where it was built.
    Publishing { id: ForkId, memory: String, disk: String, started_at: Option<DateTime<Utc>> },
    /// The fork is visible and durable.
    Done { id: ForkId, at: DateTime<Utc> },
    /// It failed for good.
    Failed { id: ForkId, at: DateTime<Utc>, error: String },
    /// It was cancelled before it began.
    Cancelled { id: ForkId, at: DateTime<Utc> },
}

/// Somebody asks for a fork.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Idempotency key.
    pub key: Option<String>,
    /// What to fork.
    pub snapshot: SnapshotId,
    /// What to call it.
    pub naming: Naming,
    /// Asks of one batch are accepted together, or none is; 0: on its own.
    pub batch: u64,
    /// Whoever asks is told nothing before the fork is made, or [`Forks::promise`](super::Forks::promise) has promised it.
    pub waits: bool,
}

/// What to call a fork.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Naming {
    /// This.
    Named(ForkName),
    /// The prefix, `-` and the number after the highest there is.
    Prefixed(String),
}

/// Why a request is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The name is an instance, or will be.
    #[error("the name {0} is taken")]
    NameTaken(ForkName),
    /// The key was used before, for something else.
    #[error("the key {0:?} was used for another request")]
    KeyReused(String),
    /// Too many wait already.
    #[error("{0} requests wait already ([fork] max_pending); try again later")]
    Full(usize),
    /// Another one of the same batch is refused.
    #[error("another fork of the same request was refused")]
    Together,
    /// The request is not there, or no longer.
    #[error("there is no fork request {0}")]
    Unknown(ForkId),
    /// It is too late to cancel.
    #[error("request {0} is {1} and cannot be cancelled")]
    TooLate(ForkId, &'static str),
}

/// The answer to an [`Ask`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// A new request with this name.
    New,
    /// The same was asked before.
    Known(Box<Request>),
}

/// All requests that are unfinished or remembered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Queue {
    requests: HashMap<ForkId, Request>,
    /// Waiting and running ones in the order of arrival.
    order: BTreeMap<u64, ForkId>,
    arrival_of: HashMap<ForkId, u64>,
    arrivals: u64,
    /// Names of unfinished and reserved requests.
    names: HashSet<ForkName>,
    keys: HashMap<String, ForkId>,
    /// Admitted, and neither journaled nor left to be (`awaited.rs`).
    reserved: HashMap<ForkId, Request>,
    /// Forks that live, by the key in their record: remembered for as long as they do.
    living: HashMap<String, Request>,
    /// Snapshots whose memory is being unpacked: none of their requests is ready before that is done.
    held_back: HashSet<SnapshotId>,
}

impl Queue {
    /// Replays a journal.
    #[must_use]
    pub fn replay(records: Vec<Record>) -> Self {
        let mut queue = Self::default();
        for record in records {
            queue.apply(record);
        }
        queue
    }

    /// Whether to accept: `name` is the one that the fork would get, `exists` whether the root has it already.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn admit(&self, ask: &Ask, name: &ForkName, exists: bool, max_pending: usize) -> Result<Admission, Denied> {
        if let Some(key) = &ask.key
            && let Some(before) = self.by_key(key)
        {
            let same_name = match &ask.naming {
                Naming::Named(_) => before.name == *name,
                // It has got another number now.
                Naming::Prefixed(prefix) => before.name.as_str().rsplit_once('-').is_some_and(|(own, _)| own == prefix),
            };
            let same = before.snapshot_id == ask.snapshot && same_name;
            return if same { Ok(Admission::Known(Box::new(before.clone()))) } else { Err(Denied::KeyReused(key.clone())) };
        }
        if exists || self.names.contains(name) {
            return Err(Denied::NameTaken(name.clone()));
        }
        let pending = self.pending();
        if pending >= max_pending { Err(Denied::Full(pending)) } else { Ok(Admission::New) }
    }

    /// The request with a key: unfinished, reserved, remembered, or of a fork that lives.
    #[must_use]
    pub fn by_key(&self, key: &str) -> Option<&Request> {
        let known = self.keys.get(key).and_then(|id| self.requests.get(id).or_else(|| self.reserved.get(id)));
        known.or_else(|| self.living.get(key))
    }

    /// Takes name and key for a request that was admitted, until it is applied or given up.
    pub fn reserve(&mut self, request: Request) {
        self.names.insert(request.name.clone());
        if let Some(key) = &request.key {
            self.keys.insert(key.clone(), request.id.clone());
        }
        self.reserved.insert(request.id.clone(), request);
    }

    /// Gives a reservation up.
    pub fn give_up(&mut self, id: &ForkId) {
        if let Some(request) = self.reserved.remove(id) {
            self.names.remove(&request.name);
            if let Some(key) = &request.key {
                self.keys.remove(key);
            }
        }
    }

    /// Remembers the keys of all forks that live (from `fork.json`), in place of those that were known before.
    pub fn remember_living(&mut self, forks: impl Iterator<Item = Request>) {
        self.living = forks.filter_map(|fork| Some((fork.key.clone()?, fork))).collect();
    }

    /// Puts what was running back: for when nothing runs any more, and an attempt ended without a record.
    pub fn requeue_running(&mut self) {
        for request in self.requests.values_mut().filter(|r| r.state == RequestState::Running) {
            request.state = RequestState::Queued;
        }
    }

    /// Changes the state by one record; a record of a request that is not there changes nothing.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Accepted { request } => self.accept(*request),
            Record::Attempt { id, error, retry_at } => {
                if let Some(request) = self.unfinished_mut(&id) {
                    request.state = RequestState::Queued;
                    request.attempts += 1;
                    request.error = Some(error);
                    request.retry_at = Some(retry_at);
                }
            }
            Record::Publishing { id, memory, disk, started_at } => {
                if let Some(request) = self.unfinished_mut(&id) {
                    request.state = RequestState::Publishing;
                    request.memory = Some(memory);
                    request.disk = Some(disk);
                    request.started_at = started_at;
                }
            }
            Record::Done { id, at } => self.finish(&id, RequestState::Done, at, None),
            Record::Failed { id, at, error } => self.finish(&id, RequestState::Failed, at, Some(error)),
            Record::Cancelled { id, at } => self.finish(&id, RequestState::Cancelled, at, None),
        }
    }

    fn accept(&mut self, request: Request) {
        self.reserved.remove(&request.id);
        if !request.state.is_final() {
            self.names.insert(request.name.clone());
            self.order.insert(self.arrivals, request.id.clone());
            self.arrival_of.insert(request.id.clone(), self.arrivals);
            self.arrivals += 1;
        }
        if let Some(key) = &request.key {
            self.keys.insert(key.clone(), request.id.clone());
        }
        self.requests.insert(request.id.clone(), request);
    }

    fn unfinished_mut(&mut self, id: &ForkId) -> Option<&mut Request> {
        self.requests.get_mut(id).filter(|r| !r.state.is_final())
    }

    fn finish(&mut self, id: &ForkId, state: RequestState, at: DateTime<Utc>, error: Option<String>) {
        let Some(request) = self.unfinished_mut(id) else { return };
        request.state = state;
        request.finished_at = Some(at);
        request.retry_at = None;
        if error.is_some() {
            request.error = error;
        }
        let name = request.name.clone();
        self.names.remove(&name);
        if let Some(arrival) = self.arrival_of.remove(id) {
            self.order.remove(&arrival);
        }
    }

    /// The next requests to build, oldest first.
    #[must_use]
    pub fn ready(&self, now: DateTime<Utc>, most: usize) -> Vec<ForkId> {
        let due = |r: &&Request| {
            r.state == RequestState::Queued && r.retry_at.is_none_or(|at| at <= now) && !self.held_back.contains(&r.snapshot_id)
        };
        self.in_order().filter(due).take(most).map(|r| r.id.clone()).collect()
    }

    /// When the next retry is due, if nothing is ready before.
    #[must_use]
    pub fn next_retry(&self) -> Option<DateTime<Utc>> {
        let waits = |r: &&Request| r.state == RequestState::Queued && !self.held_back.contains(&r.snapshot_id);
        self.in_order().filter(waits).filter_map(|r| r.retry_at).min()
    }

    /// No request of this snapshot is ready until [`Queue::let_go`]; false if that was so already.
    pub fn hold_back(&mut self, snapshot: SnapshotId) -> bool {
        self.held_back.insert(snapshot)
    }

    /// The requests of this snapshot are ready again as they would be.
    pub fn let_go(&mut self, snapshot: &SnapshotId) {
        self.held_back.remove(snapshot);
    }

    /// Whether any snapshot's requests are held back.
    #[must_use]
    pub fn is_holding_back(&self) -> bool {
        !self.held_back.is_empty()
    }

    /// A request that was begun goes back to its place: that was no attempt.
    pub fn put_back(&mut self, id: &ForkId) {
        if let Some(request) = self.unfinished_mut(id).filter(|r| r.state == RequestState::Running) {
            request.state = RequestState::Queued;
        }
    }

    /// An attempt begins.
    pub fn begin(&mut self, id: &ForkId, now: DateTime<Utc>) -> Option<Request> {
        let request = self.unfinished_mut(id).filter(|r| r.state == RequestState::Queued)?;
        request.state = RequestState::Running;
        request.started_at = Some(now);
        Some(request.clone())
    }

    /// What to write down about a failed attempt: another try, or the end.
    #[must_use]
    pub fn after_failure(&self, id: &ForkId, error: &str, can_pass: bool, now: DateTime<Utc>) -> Record {
        let failed = self.requests.get(id).map_or(MAX_ATTEMPTS, |r| r.attempts + 1);
        let (id, error) = (id.clone(), error.to_owned());
        if can_pass && failed < MAX_ATTEMPTS {
            let backoff = TimeDelta::seconds(1 << failed.saturating_sub(1).min(6));
            Record::Attempt { id, error, retry_at: now + backoff }
        } else {
            Record::Failed { id, at: now, error }
        }
    }

    /// What to write down to cancel a request.
    ///
    /// # Errors
    /// [`Denied`] if it is not there, or no longer waits.
    pub fn cancel(&self, id: &ForkId, now: DateTime<Utc>) -> Result<Record, Denied> {
        let request = self.requests.get(id).ok_or_else(|| Denied::Unknown(id.clone()))?;
        match request.state {
            RequestState::Queued => Ok(Record::Cancelled { id: id.clone(), at: now }),
            RequestState::Running | RequestState::Publishing => Err(Denied::TooLate(id.clone(), "running")),
            RequestState::Done => Err(Denied::TooLate(id.clone(), "done")),
            RequestState::Failed => Err(Denied::TooLate(id.clone(), "failed")),
            RequestState::Cancelled => Err(Denied::TooLate(id.clone(), "cancelled")),
        }
    }

    /// One request.
    #[must_use]
    pub fn get(&self, id: &ForkId) -> Option<&Request> {
        self.requests.get(id)
    }

    /// All that are unfinished or remembered: unfinished ones in the order of arrival, then the others by end.
    #[must_use]
    pub fn list(&self) -> Vec<Request> {
        let mut finished: Vec<&Request> = self.requests.values().filter(|r| r.state.is_final()).collect();
        finished.sort_by_key(|r| (r.finished_at, r.id.clone()));
        self.in_order().chain(finished).cloned().collect()
    }

    /// How many are unfinished or remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// The forks that a request still needs a ref for, reserved ones too.
    #[must_use]
    pub fn unfinished(&self) -> HashSet<ForkId> {
        self.order.values().chain(self.reserved.keys()).cloned().collect()
    }

    /// Names of unfinished and reserved forks of a snapshot, sorted.
    #[must_use]
    pub fn waiting_for(&self, snapshot: &SnapshotId) -> Vec<(ForkId, ForkName)> {
        let mut forks: Vec<_> = self
            .in_order()
            .chain(self.reserved.values())
            .filter(|r| r.snapshot_id == *snapshot)
            .map(|r| (r.id.clone(), r.name.clone()))
            .collect();
        forks.sort_by(|a, b| a.1.cmp(&b.1));
        forks
    }

    /// The same of all snapshots at once.
    #[must_use]
    pub fn waiting(&self) -> HashMap<SnapshotId, Vec<(ForkId, ForkName)>> {
        let mut all: HashMap<SnapshotId, Vec<_>> = HashMap::new();
        for request in self.in_order().chain(self.reserved.values()) {
            all.entry(request.snapshot_id.clone()).or_default().push((request.id.clone(), request.name.clone()));
        }
        all.values_mut().for_each(|forks| forks.sort_by(|a, b| a.1.cmp(&b.1)));
        all
    }

    /// Names that unfinished and reserved requests have taken.
    pub fn taken_names(&self) -> impl Iterator<Item = &ForkName> {
        self.names.iter()
    }

    /// How many are unfinished or reserved.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.order.len() + self.reserved.len()
    }

    /// Since when the one waits that has waited for longest.
    #[must_use]
    pub fn oldest(&self) -> Option<DateTime<Utc>> {
        self.in_order().chain(self.reserved.values()).map(|r| r.queued_at).min()
    }

    /// Forgets what finished more than [`REMEMBERED`] ago; returns how many.
    pub fn forget(&mut self, now: DateTime<Utc>) -> usize {
        let before = self.requests.len();
        let old = |r: &Request| r.state.is_final() && r.finished_at.is_some_and(|at| now - at > REMEMBERED);
        let keys = &mut self.keys;
        self.requests.retain(|_, request| {
            if old(request)
                && let Some(key) = &request.key
            {
                keys.remove(key);
            }
            !old(request)
        });
        before - self.requests.len()
    }

    /// The records of a compacted journal: replayed, they give this queue again.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let as_queued = |mut request: Request| {
            if request.state == RequestState::Running {
                request.state = RequestState::Queued;
            }
            Record::Accepted { request: Box::new(request) }
        };
        self.list().into_iter().map(as_queued).collect()
    }

    fn in_order(&self) -> impl Iterator<Item = &Request> {
        self.order.values().filter_map(|id| self.requests.get(id))
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
