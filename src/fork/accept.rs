//! The protocol *accept*: 1 lock and check, 2 make the refs, 3 journal, 4 sync the refs, 5 unlock and answer. Many
//! requests share the syncs of 3 and 4, and those two one commit of the file system's log: which is why the refs are
//! synced last. A start that finds a request without its ref makes it (`reconcile.rs`), before anything is removed.
//! What is promised later, to those who wait, is in `awaited.rs`.

use super::queue::{Admission, Ask, Denied, Naming, Record, Request, RequestState};
use super::{ForkError, Forks};
use crate::event::Event;
use crate::ids::{ForkId, ForkName, SnapshotId};
use crate::policy::SnapshotState;
use crate::store::SnapshotGuard;
use crate::store::fs::FsError;
use std::collections::{BTreeMap, HashMap, HashSet};

type Answer = Result<Request, ForkError>;

impl Forks {
    /// Accepts requests; each that is answered with a request is durable, as is its ref, or its asker waits: see [`Ask::waits`]. One that
    /// was asked before (same key) is answered as before.
    #[must_use]
    pub fn accept(&self, asks: Vec<Ask>) -> Vec<Answer> {
        let answers = self.asks.submit(asks, |batch| self.accept_batch(batch));
        self.changed.notify_all();
        answers.into_iter().map(|a| a.unwrap_or(Err(ForkError::Unanswered))).collect()
    }

    fn accept_batch(&self, asks: Vec<Ask>) -> Vec<Answer> {
        if let Err(e) = self.store.prove_root() {
            let why = e.to_string();
            return asks.iter().map(|ask| Err(ForkError::NotForkable(ask.snapshot.clone(), why.clone()))).collect();
        }
        let mut ids: Vec<&SnapshotId> = asks.iter().map(|ask| &ask.snapshot).collect();
        ids.sort();
        ids.dedup();
        // Whoever compresses one of them is told before its lock is waited for.
        ids.iter().for_each(|id| self.store.disturb(id));
        let guards: BTreeMap<SnapshotId, SnapshotGuard> = ids.into_iter().map(|id| (id.clone(), self.store.lock_snapshot(id))).collect();
        let mut answers = self.admit(&asks);
        self.make_refs(&guards, &mut answers);
        let are_durable = self.make_durable(&asks, &guards, &mut answers);
        drop(guards);
        answers.iter().filter_map(Admitted::new_request).filter(|_| are_durable).for_each(|request| self.report_queued(request));
        answers.into_iter().map(Admitted::answer).collect()
    }

    /// Step 1: checks each ask and reserves its name and key.
    fn admit(&self, asks: &[Ask]) -> Vec<Admitted> {
        let mut names = Namer::default();
        let max_pending = self.config().max_pending;
        let admit = |ask| self.admit_one(ask, &mut names, max_pending).unwrap_or_else(Admitted::No);
        let mut answers: Vec<Admitted> = asks.iter().map(admit).collect();
        self.break_batches(asks, &mut answers);
        answers
    }

    /// Of a batch all are refused if one is; and with a request of it whoever was to have the same one, by its key: nobody is
    /// told of a request that is not made. That may break their batch in turn.
    fn break_batches(&self, asks: &[Ask], answers: &mut [Admitted]) {
        let is_refused = |answer: &Admitted| matches!(answer, Admitted::No(_));
        loop {
            let refused = asks.iter().zip(answers.iter()).filter(|(ask, answer)| ask.batch != 0 && is_refused(answer));
            let broken: HashSet<u64> = refused.map(|(ask, _)| ask.batch).collect();
            let is_to_go = |ask: &Ask, answer: &Admitted| broken.contains(&ask.batch) && !is_refused(answer);
            let to_go = asks.iter().zip(answers.iter()).filter(|(ask, answer)| is_to_go(ask, answer));
            let given_up: HashSet<ForkId> = to_go.filter_map(|(_, answer)| answer.new_request()).map(|r| r.id.clone()).collect();
            given_up.iter().for_each(|id| self.state().queue.give_up(id));
            refuse(answers, |request| given_up.contains(&request.id), || Denied::Together.into());
            // What was asked for before goes on; here it is not the answer.
            asks.iter().zip(answers.iter_mut()).filter(|(ask, answer)| is_to_go(ask, answer)).for_each(|(_, answer)| {
                *answer = Admitted::No(Denied::Together.into());
            });
            if given_up.is_empty() {
                return;
            }
        }
    }

    fn admit_one(&self, ask: &Ask, names: &mut Namer, max_pending: usize) -> Result<Admitted, ForkError> {
        let mut state = self.state();
        state.journal()?;
        // A key that is known answers for itself, also when its snapshot is gone by now.
        let known = ask.key.as_deref().and_then(|key| state.queue.by_key(key)).map(|r| r.name.clone());
        let name = match (&ask.naming, known) {
            (Naming::Named(name), _) => name.clone(),
            (Naming::Prefixed(_), Some(name)) => name,
            (Naming::Prefixed(prefix), None) => names.next(self, &state.queue, prefix)?,
        };
        let exists = self.store.fs.stat_if_there(&self.store.layout.instance(&name.clone().into()))?.is_some();
        match state.queue.admit(ask, &name, exists, max_pending)? {
            Admission::Known(request) => Ok(Admitted::Before(request)),
            Admission::New => {
                self.check_forkable(&ask.snapshot)?;
                let request = Request {
                    id: ForkId::generate(),
                    key: ask.key.clone(),
                    snapshot_id: ask.snapshot.clone(),
                    name,
                    state: RequestState::Queued,
                    attempts: 0,
                    error: None,
                    memory: None,
                    disk: None,
                    queued_at: self.store.clock.now(),
                    started_at: None,
                    finished_at: None,
                    retry_at: None,
                };
                state.queue.reserve(request.clone());
                Ok(Admitted::New(Box::new(request)))
            }
        }
    }

    /// The snapshot is there, ready, not quarantined, not expiring.
    fn check_forkable(&self, id: &SnapshotId) -> Result<(), ForkError> {
        let known = self.store.known(id).map_err(|_| ForkError::NoSnapshot(id.clone()))?;
        match known.state() {
            SnapshotState::Ready => Ok(()),
            SnapshotState::Expiring if self.config().allow_expiring => Ok(()),
            SnapshotState::Expiring => Err(ForkError::NotForkable(id.clone(), "it is marked to go with its last fork".to_owned())),
            SnapshotState::Quarantined => {
                let why = known.quarantined.unwrap_or_else(|| "its manifest cannot be read".to_owned());
                Err(ForkError::NotForkable(id.clone(), format!("it is quarantined: {why}")))
            }
        }
    }

    /// Step 2: the refs of each snapshot.
    fn make_refs(&self, guards: &BTreeMap<SnapshotId, SnapshotGuard>, answers: &mut [Admitted]) {
        for (id, guard) in guards {
            let place = |r: &Request| (r.id.clone(), self.store.layout.instance(&r.name.clone().into()));
            let refs: Vec<_> = new_of(answers, id).map(place).collect();
            if refs.is_empty() {
                continue;
            }
            if let Err(e) = self.store.make_refs(guard, &refs) {
                self.store.undo_refs(guard, refs.iter().map(|(fork, _)| fork));
                let mut state = self.state();
                refs.iter().for_each(|(fork, _)| state.queue.give_up(fork));
                refuse(answers, |r| r.snapshot_id == *id, || ForkError::Ref(e.to_string()));
            }
        }
    }

    /// Steps 3 and 4; or later, if all who asked wait (`awaited.rs`): then false.
    fn make_durable(&self, asks: &[Ask], guards: &BTreeMap<SnapshotId, SnapshotGuard>, answers: &mut [Admitted]) -> bool {
        self.promise_known(asks, answers);
        let new: Vec<&Request> = answers.iter().filter_map(Admitted::new_request).collect();
        if self.may_promise_later(asks, &new) {
            if let Err(e) = self.accept_unpromised(&new) {
                refuse(answers, |_| true, || ForkError::Journal(e.to_string()));
            }
            return false;
        }
        self.journal_accepted(answers);
        self.sync_refs(guards, answers);
        true
    }

    /// The event of a request that is durable, as is its ref.
    pub(super) fn report_queued(&self, request: &Request) {
        self.store.events.emit(Event::ForkQueued {
            fork: request.id.clone(),
            name: request.name.to_string(),
            snapshot: request.snapshot_id.clone(),
            key: request.key.clone(),
        });
    }

    /// Step 4. From here only requests whose refs are durable come into the queue, where they may be built; the others end here, before
    /// anybody was told of them.
    fn sync_refs(&self, guards: &BTreeMap<SnapshotId, SnapshotGuard>, answers: &mut [Admitted]) {
        for (id, guard) in guards {
            let new: Vec<Request> = new_of(answers, id).cloned().collect();
            if new.is_empty() {
                continue;
            }
            match self.store.sync_refs(id) {
                Ok(()) => {
                    let mut state = self.state();
                    new.into_iter().for_each(|request| state.queue.apply(Record::Accepted { request: Box::new(request) }));
                }
                Err(e) => {
                    self.take_back(guard, &new, &e.to_string());
                    refuse(answers, |r| r.snapshot_id == *id, || ForkError::Ref(e.to_string()));
                }
            }
        }
    }

    /// Requests that are in the journal, and must not be made. If that cannot be written down, they are requests that a start
    /// finds, and that nobody waits for: refs and names stay taken until then.
    fn take_back(&self, guard: &SnapshotGuard, requests: &[Request], error: &str) {
        let at = self.store.clock.now();
        let failed = |r: &Request| Record::Failed { id: r.id.clone(), at, error: error.to_owned() };
        let mut state = self.state();
        if state.write(&requests.iter().map(failed).collect::<Vec<_>>()).is_ok() {
            requests.iter().for_each(|request| state.queue.give_up(&request.id));
            drop(state);
            self.store.undo_refs(guard, requests.iter().map(|request| &request.id));
        }
    }

    /// Step 3: one frame for all. If it fails it is not known whether a restart will find it: refs and names stay taken.
    fn journal_accepted(&self, answers: &mut [Admitted]) {
        let accepted = |r: &Request| Record::Accepted { request: Box::new(r.clone()) };
        let records: Vec<Record> = answers.iter().filter_map(Admitted::new_request).map(accepted).collect();
        if records.is_empty() {
            return;
        }
        if let Err(e) = self.state().write(&records) {
            refuse(answers, |_| true, || ForkError::Journal(e.to_string()));
        }
    }
}

/// Where an ask stands between the steps.
pub(super) enum Admitted {
    New(Box<Request>),
    Before(Box<Request>),
    No(ForkError),
}

impl Admitted {
    /// Which request it is, if it is one.
    pub(super) fn id(&self) -> Option<&ForkId> {
        match self {
            Self::New(request) | Self::Before(request) => Some(&request.id),
            Self::No(_) => None,
        }
    }

    fn new_request(&self) -> Option<&Request> {
        match self {
            Self::New(request) => Some(request),
            _ => None,
        }
    }

    fn answer(self) -> Answer {
        match self {
            Self::New(request) | Self::Before(request) => Ok(*request),
            Self::No(e) => Err(e),
        }
    }
}

fn new_of<'a>(answers: &'a [Admitted], id: &'a SnapshotId) -> impl Iterator<Item = &'a Request> {
    answers.iter().filter_map(Admitted::new_request).filter(move |r| r.snapshot_id == *id)
}

/// Also whoever asked for the same, with the same key, in the same batch.
fn refuse(answers: &mut [Admitted], which: impl Fn(&Request) -> bool, why: impl Fn() -> ForkError) {
    let refused: HashSet<ForkId> = answers.iter().filter_map(Admitted::new_request).filter(|r| which(r)).map(|r| r.id.clone()).collect();
    for answer in answers {
        if let Admitted::New(request) | Admitted::Before(request) = answer
            && refused.contains(&request.id)
        {
            *answer = Admitted::No(why());
        }
    }
}

/// Finds free names for prefixes; lists the root once a batch.
#[derive(Default)]
struct Namer {
    highest: HashMap<String, u64>,
    in_root: Option<HashSet<String>>,
}

impl Namer {
    fn next(&mut self, forks: &Forks, queue: &super::queue::Queue, prefix: &str) -> Result<ForkName, ForkError> {
        if self.in_root.is_none() {
            self.in_root = Some(names_in_root(forks)?);
        }
        let in_root = self.in_root.get_or_insert_default();
        let highest = self.highest.entry(prefix.to_owned()).or_insert_with(|| {
            let number = |name: &str| name.strip_prefix(prefix)?.strip_prefix('-')?.parse::<u64>().ok();
            let taken = queue.taken_names().map(ForkName::as_str).chain(in_root.iter().map(String::as_str));
            taken.filter_map(number).max().unwrap_or(0)
        });
        *highest += 1;
        let text = format!("{prefix}-{highest}");
        ForkName::parse(&text).map_err(|e| ForkError::Store(e.into()))
    }
}

fn names_in_root(forks: &Forks) -> Result<HashSet<String>, FsError> {
    let entries = forks.store.fs.list(forks.store.layout.instances())?;
    Ok(entries.into_iter().filter_map(|e| e.name.into_string().ok()).collect())
}
