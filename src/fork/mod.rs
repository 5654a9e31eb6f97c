//! Forks: new instances made from snapshots, through a durable queue.
//!
//! A fork shares nothing writable with its source or its siblings, and keeps no way to its source's disk. The steps are
//! the protocols accept (`accept.rs`, `awaited.rs`), build (`burst.rs`), fail (`burst.rs`), start and release (`reconcile.rs`).

mod accept;
mod awaited;
mod build;
mod burst;
mod durable;
pub(crate) mod group;
pub mod pool;
pub mod queue;
mod recipe;
pub mod reconcile;
mod remove;
pub mod rewrite;
mod thaw;
mod watching;

pub use remove::RemovedFork;

use crate::config::{ForkConfig, PoolConfig};
use crate::event::Event;
use crate::ids::{ForkId, ForkName, InstanceId, SnapshotId};
use crate::store::fs::FsError;
use crate::store::instances::{Scan, ScanProgress};
use crate::store::journal::{Journal, JournalError};
use crate::store::root::RootError;
use crate::store::{Store, StoreError};
use chrono::{DateTime, Utc};
use queue::{Ask, Denied, Queue, Record, Request};
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

/// What can go wrong with forks.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// The queue says no.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The snapshot is not there.
    #[error("there is no snapshot {0}")]
    NoSnapshot(SnapshotId),
    /// The snapshot must not be forked.
    #[error("snapshot {0} cannot be forked: {1}")]
    NotForkable(SnapshotId, String),
    /// The instances root is not proven.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The journal takes no records.
    #[error("the fork queue is closed: {0}")]
    Journal(String),
    /// The ref that a request needs cannot be made durable: it was not accepted.
    #[error("the snapshot cannot be kept for the fork: {0}")]
    Ref(String),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] FsError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of the fork would lead to its source.
    #[error("{} names the source's directory ({why}); see `source_paths` in [fork]", path.display())]
    NamesSource {
        /// The file, below the instance.
        path: PathBuf,
        /// What in it.
        why: String,
    },
    /// The snapshot's memory file is not the one that was written.
    #[error("{} in the snapshot has changed since it was taken: {why}", path.display())]
    MemoryChanged {
        /// The file.
        path: PathBuf,
        /// What about it.
        why: String,
    },
    /// The snapshot's manifest is not the one that was written.
    #[error("the snapshot was spoilt since it was taken: {0}")]
    Spoilt(crate::store::manifest::RecordError),
    /// Copying failed.
    #[error(transparent)]
    Copy(#[from] crate::snapshot::materialize::MaterializeError),
    /// The snapshot's memory could not be unpacked.
    #[error("the snapshot's memory cannot be unpacked: {0}")]
    Unpack(String),
    /// Not a fork, or not there.
    #[error("there is no fork {0}")]
    NoFork(InstanceId),
    /// It runs, or that cannot be told.
    #[error("{name} is in use: {why}")]
    InUse {
        /// The instance.
        name: InstanceId,
        /// How it is known.
        why: String,
    },
    /// The answer never came: the thread that was to give it is gone.
    #[error("the request was not answered")]
    Unanswered,
}

impl From<JournalError> for ForkError {
    fn from(e: JournalError) -> Self {
        Self::Journal(e.to_string())
    }
}

/// The forks of a store: its queue, and the refs that follow from the instances root.
#[derive(Debug)]
pub struct Forks {
    store: Arc<Store>,
    config: RwLock<ForkConfig>,
    threads: usize,
    state: Mutex<State>,
    /// Somebody waits for requests to become ready, or to end.
    changed: Condvar,
    asks: group::GroupCommit<Ask, Result<Request, ForkError>>,
    recipes: Mutex<HashMap<SnapshotId, Arc<recipe::Recipe>>>,
    pool: Arc<pool::Pool>,
    /// One brings the refs up to what the root shows at a time; taken before all other locks.
    acting: Mutex<()>,
    eyes: Mutex<watching::Eyes>,
    noted: Mutex<BTreeSet<(SnapshotId, String)>>,
    last_scan: RwLock<Arc<Scan>>,
    scan_number: std::sync::atomic::AtomicU64,
    /// How far a reading of the root is.
    pub progress: ScanProgress,
    watcher: build::Watcher,
    /// Whether the root was read since the start.
    has_scanned: std::sync::atomic::AtomicBool,
    root_was_lost: std::sync::atomic::AtomicBool,
    fell_back: std::sync::atomic::AtomicU64,
    durability: Mutex<durable::Durability>,
    /// Ends a wait for news of the root.
    waker: crate::store::watch::Waker,
    /// Who is told when forks have let go of their snapshots.
    released: watching::Released,
    /// How many bursts have ended.
    bursts_ended: std::sync::atomic::AtomicU64,
    /// Held for reading by each burst, for writing by a recovery.
    bursts: RwLock<()>,
    /// A recovery is due before the next burst: the root was away at the start, or an attempt ended without a record.
    unsettled: std::sync::atomic::AtomicBool,
    /// Why a snapshot's memory could not be unpacked, until its requests have been told.
    unpack_errors: Mutex<HashMap<SnapshotId, crate::snapshot::pack::PackError>>,
}

impl Drop for Forks {
    /// Writes down what was left for later. Without that nothing is lost: a start finds it out, or nobody was told of it.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Ok(journal) = &mut state.journal {
            let _ = journal.flush();
        }
    }
}

/// Queue and journal, under one lock: the last in the order of locks.
#[derive(Debug)]
struct State {
    queue: Queue,
    journal: Result<Journal<Record>, String>,
    unpromised: awaited::Unpromised,
}

impl State {
    fn of(queue: Queue, journal: Result<Journal<Record>, String>) -> Self {
        Self { queue, journal, unpromised: awaited::Unpromised::default() }
    }

    fn journal(&mut self) -> Result<&mut Journal<Record>, ForkError> {
        match &mut self.journal {
            Ok(journal) => {
                journal.usable()?;
                Ok(journal)
            }
            Err(why) => Err(ForkError::Journal(why.clone())),
        }
    }

    /// Writes records down; durable on return, and not applied yet.
    fn write(&mut self, records: &[Record]) -> Result<(), ForkError> {
        Ok(self.journal()?.append(records)?)
    }

    /// Writes records down and, once they are durable, applies them.
    fn commit(&mut self, records: Vec<Record>) -> Result<(), ForkError> {
        self.write(&records)?;
        for record in records {
            self.queue.apply(record);
        }
        Ok(())
    }

    /// Applies records that a start would find out by itself, or that nobody was told of; they are written down with the next ones.
    fn commit_later(&mut self, records: Vec<Record>) -> Result<(), ForkError> {
        self.journal()?.defer(records.iter().cloned())?;
        for record in records {
            self.queue.apply(record);
        }
        Ok(())
    }
}

impl Forks {
    /// Opens the queue of a store whose lock is held. A damaged journal is kept and reported: then no fork is accepted
    /// and no ref dropped, and everything else works. Returns the bytes of a torn tail that were cut.
    #[must_use]
    pub fn open(store: Arc<Store>, config: ForkConfig, threads: usize) -> (Self, u64) {
        let path = store.layout.journal();
        let (state, torn) = match Journal::open(&store.fs, &path) {
            Ok((journal, replay)) => (State::of(Queue::replay(replay.records), Ok(journal)), replay.torn_bytes),
            Err(e) => {
                let why = e.to_string();
                store.events.emit(Event::QueueDamaged { path: path.display().to_string(), why: why.clone() });
                (State::of(Queue::default(), Err(why)), 0)
            }
        };
        let forks = Self {
            store,
            config: RwLock::new(config),
            threads: threads.max(1),
            state: Mutex::new(state),
            changed: Condvar::new(),
            asks: group::GroupCommit::default(),
            recipes: Mutex::default(),
            pool: Arc::default(),
            acting: Mutex::default(),
            eyes: Mutex::default(),
            noted: Mutex::default(),
            last_scan: RwLock::default(),
            scan_number: std::sync::atomic::AtomicU64::default(),
            progress: ScanProgress::default(),
            watcher: build::Watcher::default(),
            has_scanned: std::sync::atomic::AtomicBool::new(false),
            root_was_lost: std::sync::atomic::AtomicBool::new(false),
            fell_back: std::sync::atomic::AtomicU64::new(0),
            durability: Mutex::default(),
            released: watching::Released::default(),
            waker: crate::store::watch::Waker::default(),
            bursts_ended: std::sync::atomic::AtomicU64::new(0),
            bursts: RwLock::new(()),
            unsettled: std::sync::atomic::AtomicBool::new(true),
            unpack_errors: Mutex::default(),
        };
        (forks, torn)
    }

    /// The queue as it is on the disk, for looking while somebody else has the lock.
    ///
    /// # Errors
    /// [`ForkError::Journal`] if the journal is damaged.
    pub fn peek(store: &Store) -> Result<Queue, ForkError> {
        Ok(Queue::replay(Journal::peek(&store.fs, &store.layout.journal())?))
    }

    /// From now on somebody sees how far copies for forks are.
    pub fn watch(&self, progress: Arc<dyn crate::snapshot::copy::Progress + Send + Sync>) {
        self.watcher.set(progress);
    }

    /// From now on `wake` is called when refs were dropped, whoever noticed: a snapshot may have waited for the last of them.
    pub fn when_released(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.released.set(wake);
    }

    /// Takes a new configuration for forks that begin from now on.
    pub fn configure(&self, config: ForkConfig) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        self.recipes.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.pool.reconsider();
    }

    /// Takes what forks are to be made ahead of need.
    pub fn configure_pool(&self, config: PoolConfig) {
        self.pool.configure(config);
    }

    /// The forks made ahead of need.
    #[must_use]
    pub fn pool(&self) -> &pool::Pool {
        &self.pool
    }

    fn config(&self) -> ForkConfig {
        *self.config.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All requests that are unfinished or remembered.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.state().queue.list()
    }

    /// One request.
    #[must_use]
    pub fn request(&self, id: &ForkId) -> Option<Request> {
        self.state().queue.get(id).cloned()
    }

    /// Whether a request, or a fork that lives, has this idempotency key.
    #[must_use]
    pub fn knows_key(&self, key: &str) -> bool {
        self.state().queue.by_key(key).is_some()
    }

    /// How many requests are unfinished.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.state().queue.pending()
    }

    /// How many requests are unfinished, and since when the oldest of them waits.
    #[must_use]
    pub fn backlog(&self) -> (usize, Option<DateTime<Utc>>) {
        let state = self.state();
        let pending = state.queue.pending();
        let oldest = if pending == 0 { None } else { state.queue.oldest() };
        (pending, oldest)
    }

    /// How many bursts have ended: whether the thread that makes forks gets on.
    #[must_use]
    pub fn bursts_ended(&self) -> u64 {
        self.bursts_ended.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// How many forks since the start did not get their memory the first way.
    #[must_use]
    pub fn fallbacks(&self) -> u64 {
        self.fell_back.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Whether nothing waits to be made, and nothing stands in the way of what will be asked for.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let mut state = self.state();
        state.queue.pending() == 0 && state.journal().is_ok() && !self.unsettled.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// Why the queue is closed, if it is.
    #[must_use]
    pub fn closed(&self) -> Option<String> {
        self.state().journal().err().map(|e| e.to_string())
    }

    /// Forks of a snapshot that wait or are being made.
    #[must_use]
    pub fn waiting_for(&self, snapshot: &SnapshotId) -> Vec<(ForkId, ForkName)> {
        self.state().queue.waiting_for(snapshot)
    }

    /// The same of all snapshots at once. For those whose locks the caller holds it stays so until they are let go.
    #[must_use]
    pub fn waiting(&self) -> HashMap<SnapshotId, Vec<(ForkId, ForkName)>> {
        self.state().queue.waiting()
    }

    /// Cancels a request that still waits: journal, then the ref.
    ///
    /// # Errors
    /// [`ForkError::Denied`] if it is too late.
    pub fn cancel(&self, id: &ForkId) -> Result<Request, ForkError> {
        let snapshot = self.request(id).map(|r| r.snapshot_id).ok_or_else(|| Denied::Unknown(id.clone()))?;
        let guard = self.store.lock_snapshot(&snapshot);
        let request = {
            let mut state = self.state();
            let record = state.queue.cancel(id, self.store.clock.now())?;
            state.commit(vec![record])?;
            state.queue.get(id).cloned()
        };
        self.store.undo_refs(&guard, std::iter::once(id));
        self.changed.notify_all();
        request.ok_or_else(|| Denied::Unknown(id.clone()).into())
    }

    /// Writes down what was left for later; puts a journal of what is still known in the place of one that has grown (over
    /// 1 MiB and four times what is needed).
    ///
    /// # Errors
    /// [`ForkError::Journal`]; the old one goes on.
    pub fn compact(&self) -> Result<(), ForkError> {
        let now = self.store.clock.now();
        let mut state = self.state();
        state.queue.forget(now);
        let needed = 400 * (state.queue.len() as u64 + 1);
        let grown = state.journal()?.bytes() > (1 << 20).max(4 * needed);
        if grown && state.queue.pending() == 0 {
            let records = state.queue.records();
            state.journal()?.compact(&records)?;
            return Ok(());
        }
        Ok(state.journal()?.flush()?)
    }
}
