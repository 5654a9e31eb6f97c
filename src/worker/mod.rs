//! The worker: one code path behind the command line, `once` and `run`. It owns the store's lock, and puts schedule,
//! queue and pruning together; when each runs is its caller's matter.

pub mod backend;
mod checking;
mod clock;
pub mod compressing;
mod due;
mod hashing;
pub mod importing;
mod pinned;
mod planning;
pub mod problem;
mod prune;
mod pulse;
mod reader;
mod scrub;
mod selection;
mod sight;
mod start;
mod status;
mod timeline;
mod trashed;
mod verbs;
pub mod verify;
pub mod view;

pub use reader::Reader;

use crate::clock::Clock;
use crate::config::Config;
use crate::driver::Plain;
use crate::event::{Event, Events};
use crate::fork::{ForkError, Forks};
use crate::ids::InstanceId;
use crate::reclaim::Reclaim;
use crate::schedule::{Job, LedgerError, Schedules};
use crate::snapshot::copy::{Flow, Progress};
use crate::snapshot::space::shortage;
use crate::snapshot::take::How;
use crate::store::fs::{CopyRate, Fs};
use crate::store::instances::Scan;
use crate::store::{OpenOptions, Store, StoreError};
use chrono::{DateTime, Utc};
use problem::{Problem, ProblemKind};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

/// How long `once` begins forks for the ready pool.
const FILL_ONCE: Duration = Duration::from_secs(30);

/// What a worker is opened with, besides its configuration.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The seam to the kernel.
    pub fs: Fs,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where facts go.
    pub events: Events,
}

impl Surroundings {
    /// The same, with metrics fed by the facts that are reported.
    #[must_use]
    pub fn with_metrics(self) -> Self {
        Self { events: self.events.with_metrics(), ..self }
    }

    pub(crate) fn options(&self, config: &Config) -> OpenOptions {
        OpenOptions {
            fs: self.fs.clone(),
            clock: Arc::clone(&self.clock),
            events: self.events.clone(),
            store: config.store.clone(),
            instances: config.instances.clone(),
            threads: config.threads,
        }
    }
}

/// Why a worker cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What was unfinished could not be brought to its end.
    #[error(transparent)]
    Recover(#[from] ForkError),
}

/// A worker: the one writer of a store.
pub struct Worker {
    /// The store, locked.
    pub store: Arc<Store>,
    /// The queue, and the refs.
    pub forks: Arc<Forks>,
    /// The schedules.
    pub schedules: Schedules,
    reclaim: Reclaim,
    config: RwLock<Arc<Config>>,
    rejected: Mutex<Vec<String>>,
    blocked: Mutex<BTreeSet<(String, String)>>,
    /// How the policies did when that was last looked at.
    health: Mutex<Vec<(crate::ids::PolicyName, crate::schedule::Health)>>,
    /// Snapshots that would go, and that nothing but forks keeps, as of the last prune.
    kept_by_forks: Mutex<Vec<crate::ids::SnapshotId>>,
    started_at: DateTime<Utc>,
    start: start::Start,
    progress: Arc<dyn Progress + Send + Sync>,
    /// The file system was still too full after the last prune.
    space_pressed: AtomicBool,
    /// It was, and nothing more may go for it: that was reported.
    space_short: AtomicBool,
    /// One import at a time.
    importing: Mutex<()>,
    /// One prune at a time.
    pruning: Mutex<()>,
    clock: clock::ClockWatch,
    /// When `run` last looked at its schedules.
    beat: Mutex<Option<crate::policy::lapse::Beat>>,
    /// What the last tick was made of.
    ticked: Mutex<Option<due::Ticked>>,
    /// The instances that policies choose from, as they were when they were last looked at.
    selection: Mutex<selection::Selection>,
    /// The pass of the background check.
    scrub: Mutex<scrub::Pass>,
    /// Digests that are made after snapshots were published.
    hashing: hashing::Hashing,
    /// How fast all copies together may go.
    copy_rate: Arc<CopyRate>,
    /// Who looks at the trash, if somebody does so in the background.
    sweeper: std::sync::OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// No new work is to begin.
    pub stopping: Arc<AtomicBool>,
    /// Work in progress is to be rolled back.
    pub cancelled: AtomicBool,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("store", &self.store.layout.store()).finish_non_exhaustive()
    }
}

impl Worker {
    /// The first step of the start: whoever only looks can be answered from here on. Nothing is changed before
    /// [`Worker::recover`] is done, and nothing by anybody else.
    ///
    /// # Errors
    /// [`WorkerError`]; [`StoreError::Busy`] if another worker has the store.
    pub fn begin(config: Config, around: &Surroundings, progress: Arc<dyn Progress + Send + Sync>) -> Result<Arc<Self>, WorkerError> {
        let began = around.clock.since_boot();
        let copy_rate = Arc::new(CopyRate::new(Arc::clone(&around.clock), config.copy_rate));
        let fs = around.fs.with_copy_rate(Arc::clone(&copy_rate));
        let store = Store::open(&OpenOptions { fs, ..around.options(&config) })?;
        let (forks, torn_bytes) = Forks::open(Arc::clone(&store), config.fork, config.threads);
        forks.watch_root();
        let forks = Arc::new(forks);
        forks.configure_pool(config.pool.clone());
        forks.watch(Arc::clone(&progress));
        let schedules = Schedules::open(Arc::clone(&store), &config.policies)?;
        let now = around.clock.now();
        let reclaim = Reclaim::new(Arc::clone(&store), Arc::clone(&forks));
        Ok(Arc::new(Self {
            clock: clock::ClockWatch::open(&store, config.wait_for_sync),
            reclaim,
            schedules,
            forks,
            store,
            config: RwLock::new(Arc::new(config)),
            rejected: Mutex::default(),
            blocked: Mutex::default(),
            health: Mutex::default(),
            kept_by_forks: Mutex::default(),
            started_at: now,
            start: start::Start::new(around.clock.as_ref(), torn_bytes, began),
            progress,
            space_pressed: AtomicBool::new(false),
            space_short: AtomicBool::new(false),
            pruning: Mutex::default(),
            beat: Mutex::default(),
            ticked: Mutex::default(),
            importing: Mutex::default(),
            selection: Mutex::default(),
            scrub: Mutex::default(),
            hashing: hashing::Hashing::default(),
            copy_rate,
            sweeper: std::sync::OnceLock::new(),
            stopping: Arc::default(),
            cancelled: AtomicBool::new(false),
        }))
    }

    /// From now on somebody looks at the trash in the background, and `wake` tells them to do so at once.
    pub fn set_sweeper(&self, wake: impl Fn() + Send + Sync + 'static) {
        // A second one changes nothing: the first still comes by.
        let _ = self.sweeper.set(Box::new(wake));
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another configuration into force. Store, instances root, socket and threads stay what they were.
    pub fn reload(&self, config: Config) {
        self.forks.configure(config.fork);
        self.forks.configure_pool(config.pool.clone());
        self.copy_rate.set(config.copy_rate);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.schedules.reconsider();
    }

    /// Remembers why a reload was refused, for `status`.
    pub fn reject(&self, problems: Vec<String>) {
        *self.rejected.lock().unwrap_or_else(PoisonError::into_inner) = problems;
    }

    /// Why the last reload was refused, if it was: every problem.
    pub fn rejections(&self) -> Vec<String> {
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks running work to roll back: for a stop that has waited long enough.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        self.forks.wake();
        self.forks.pool().wake();
    }

    fn flow(&self) -> Flow<'_> {
        Flow { threads: self.config().threads, progress: self.progress.as_ref(), cancelled: &self.cancelled }
    }

    /// Takes the snapshot of a slot; true if there is one now.
    pub fn run_job(&self, job: &Job) -> bool {
        let config = self.config();
        let driver = Plain::new(config.driver.clone());
        self.make_room(&job.instance);
        self.schedules.run(job, self.how(&config, &driver))
    }

    /// Prunes first if a snapshot of the instance would not fit. What cannot be found out is found out by the copy.
    fn make_room(&self, instance: &InstanceId) {
        let config = self.config();
        let source = self.store.layout.instance(instance);
        if let Ok(Some(_)) = shortage(&self.store, &source, &config.skip, config.reserve) {
            // Failures are reported where they happen.
            let _ = self.prune_pass().and_then(|_| self.sweep());
        }
    }

    /// Like [`Worker::run_job`]; a slot whose turn comes after the stop is left for the next start.
    pub fn run_or_leave(&self, job: &Job) -> bool {
        if self.stopping.load(Ordering::SeqCst) {
            self.schedules.leave(job);
            return false;
        }
        self.run_job(job)
    }

    fn how<'a>(&'a self, config: &'a Config, driver: &'a Plain) -> How<'a> {
        How {
            driver,
            skip: &config.skip,
            memory_names: &config.driver.memory_names,
            reserve: config.reserve,
            digests: config.digests,
            flow: self.flow(),
        }
    }

    /// Brings the refs up to what has changed in the instances root; how many were dropped.
    pub fn look_at_root(&self) -> u64 {
        match self.forks.look() {
            Ok(dropped) => dropped,
            Err(e) => {
                self.store.events.emit(Event::RecordUnreadable {
                    path: self.store.layout.instances().display().to_string(),
                    why: e.to_string(),
                    blocks: Vec::new(),
                });
                0
            }
        }
    }

    /// Everything that is due now, once: slots, the queue, pruning, the trash, and then the ready pool for half a minute. Digests
    /// that are pending are the caller's to ask for ([`Worker::hash_all`]).
    ///
    /// # Errors
    /// [`Problem`] if the queue or the trash cannot be worked on. Slots that failed are in ledger and log; the number
    /// of slots that failed is returned.
    pub fn once(&self) -> Result<usize, Problem> {
        let failed = self.run_all_due();
        self.forks.run_ready(&self.stopping, &self.cancelled).map_err(|e| problem_of_fork(&e))?;
        self.prune_pass()?;
        self.sweep()?;
        self.forks.compact().map_err(|e| problem_of_fork(&e))?;
        self.compress_due_aside();
        // Behind everything that somebody waits for, and not so long that the next one would come too late.
        self.forks.fill_pool_once(&self.stopping, FILL_ONCE);
        Ok(failed)
    }

    /// Writes the sum of boot time down, for the end.
    ///
    /// # Errors
    /// [`StoreError`]; the old sum stays.
    pub fn save_uptime(&self) -> Result<(), StoreError> {
        self.reclaim.save_uptime()
    }

    fn last_scan(&self) -> Arc<Scan> {
        self.forks.last_scan()
    }
}

/// A store's error as the outside sees it.
pub(crate) fn problem_of_store(e: &StoreError) -> Problem {
    let kind = match e {
        StoreError::NoSnapshot { .. } => ProblemKind::NotFound,
        StoreError::Busy { .. } => ProblemKind::Busy,
        StoreError::NoStore { .. } => ProblemKind::Config,
        StoreError::Id(_) => ProblemKind::BadRequest,
        _ => ProblemKind::Failed,
    };
    let next = match e {
        StoreError::Io(e) => remedy(e.source),
        _ => None,
    };
    Problem::new(kind, next.map_or_else(|| e.to_string(), |next| format!("{e}; {next}")))
}

/// What to do about an answer of the kernel, where that is the same whatever was tried.
fn remedy(errno: nix::errno::Errno) -> Option<&'static str> {
    use nix::errno::Errno;
    match errno {
        Errno::EACCES | Errno::EPERM => {
            Some("run this as the user who has it, or give it to this one (chown); docs/install.md says which capability is for what")
        }
        Errno::ENOSPC | Errno::EDQUOT => Some("make room: `snapkeep prune`, a shorter [trash] grace, or a larger file system"),
        Errno::EROFS => Some("mount it writable; in a systemd unit it has to be below ReadWritePaths"),
        Errno::EMFILE | Errno::ENFILE => Some("allow more open files (LimitNOFILE in the unit, ulimit -n)"),
        Errno::EIO => Some("the device or its file system fails: look at `dmesg`"),
        _ => None,
    }
}

/// A fork's error as the outside sees it.
pub(crate) fn problem_of_fork(e: &ForkError) -> Problem {
    use crate::fork::queue::Denied;
    let kind = match e {
        ForkError::Denied(Denied::Unknown(_)) | ForkError::NoSnapshot(_) | ForkError::NoFork(_) => ProblemKind::NotFound,
        ForkError::Denied(Denied::Full(_)) => ProblemKind::QueueFull,
        ForkError::Denied(Denied::KeyReused(_)) => ProblemKind::KeyReused,
        ForkError::InUse { .. } => ProblemKind::InUse,
        ForkError::Denied(_) | ForkError::NotForkable(..) | ForkError::NamesSource { .. } => ProblemKind::Conflict,
        ForkError::Store(e) => return problem_of_store(e),
        _ => ProblemKind::Failed,
    };
    Problem::new(kind, e.to_string())
}

/// The error of opening a worker as the outside sees it.
#[must_use]
pub fn problem_of_open(e: &WorkerError) -> Problem {
    match e {
        WorkerError::Store(e) => problem_of_store(e),
        other => Problem::new(ProblemKind::Failed, other.to_string()),
    }
}
