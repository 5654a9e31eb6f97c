//! What tests share: a store with its instances root in a temporary directory, and short words for the protocols.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    dead_code,
    unreachable_pub,
    reason = "support of tests: it works on its own directories and may panic"
)]

pub mod browser;
pub mod counts;
pub mod deb;
pub mod faulty;
pub mod fixture;
pub mod http;
pub mod many;
pub mod mounts;
pub mod nspawn;
pub mod oracle;
pub mod program;
pub mod sweep;

use chrono::{TimeZone as _, Utc};
use snapkeep::clock::{Clock, ManualClock};
use snapkeep::config::{DigestTime, DriverConfig, ForkConfig, MemoryMethod, Reserve, Skip, SourcePaths, parse};
use snapkeep::driver::Plain;
use snapkeep::event::{Collected, Event, Events};
use snapkeep::fork::queue::{Ask, Naming, Request, RequestState};
use snapkeep::fork::{ForkError, Forks};
use snapkeep::ids::{ForkName, InstanceId, SnapshotId};
use snapkeep::policy::KindRule;
use snapkeep::reclaim::{Reclaim, ReclaimError};
use snapkeep::snapshot::copy::{Flow, NoProgress};
use snapkeep::snapshot::take::{How, TakeError, Wanted, take};
use snapkeep::store::fs::Fs;
use snapkeep::store::{OpenOptions, Store, StoreError};
use snapkeep::worker::{Surroundings, Worker, WorkerError};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Two directories, and a clock that stands still.
pub struct World {
    _dir: Option<tempfile::TempDir>,
    pub store: PathBuf,
    pub vms: PathBuf,
    pub clock: ManualClock,
    pub events: Collected,
}

/// An open store with everything that works on it.
pub struct Open {
    pub store: Arc<Store>,
    pub forks: Arc<Forks>,
    pub reclaim: Reclaim,
}

pub static NEVER: AtomicBool = AtomicBool::new(false);

pub fn fork_config() -> ForkConfig {
    ForkConfig { memory: MemoryMethod::Hardlink, source_paths: SourcePaths::Rewrite, max_pending: 10_000, allow_expiring: false }
}

pub fn instance(name: &str) -> InstanceId {
    InstanceId::parse(name).unwrap()
}

pub fn ask(snapshot: &SnapshotId, name: &str) -> Ask {
    Ask { key: None, snapshot: snapshot.clone(), naming: Naming::Named(ForkName::parse(name).unwrap()), batch: 0, waits: false }
}

impl World {
    /// A world in a temporary directory.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut world = Self::at(dir.path());
        world._dir = Some(dir);
        world
    }

    /// A world in an existing directory, for example a file system of its own.
    pub fn at(path: &Path) -> Self {
        let (store, vms) = (path.join("store"), path.join("vms"));
        fs::create_dir_all(&store).unwrap();
        fs::create_dir_all(&vms).unwrap();
        let clock = ManualClock::at(Utc.with_ymd_and_hms(2026, 11, 24, 12, 0, 0).unwrap());
        Self { _dir: None, store, vms, clock, events: Collected::default() }
    }

    /// A small instance: a sparse disk, a memory file, JSON that names its directory, a link, a log.
    pub fn make_instance(&self, name: &str) -> PathBuf {
        let dir = self.vms.join(name);
        fs::create_dir(&dir).unwrap();
        write_sparse(&dir.join("overlay.raw"), 1 << 20, &[(0, b"boot"), (512 << 10, b"root")]);
        write_sparse(&dir.join("memory"), 256 << 10, &[(64 << 10, b"ram of ")]);
        fs::write(dir.join("config.json"), format!(r#"{{"drive": "{}/overlay.raw", "vcpus": 2}}"#, dir.display())).unwrap();
        std::os::unix::fs::symlink(dir.join("overlay.raw"), dir.join("disk")).unwrap();
        fs::create_dir(dir.join("logs")).unwrap();
        fs::write(dir.join("logs/app.log"), "started\n").unwrap();
        dir
    }

    pub fn options(&self, fs: Fs) -> OpenOptions {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let events = Events::new(Arc::clone(&clock), Arc::new(self.events.clone()));
        OpenOptions { fs, clock, events, store: self.store.clone(), instances: self.vms.clone(), threads: 2 }
    }

    pub fn try_open(&self, fs: Fs) -> Result<Open, StoreError> {
        let store = Store::open(&self.options(fs))?;
        let forks = Arc::new(Forks::open(Arc::clone(&store), fork_config(), 1).0);
        let reclaim = Reclaim::new(Arc::clone(&store), Arc::clone(&forks));
        Ok(Open { store, forks, reclaim })
    }

    /// Opens the store and recovers it, as every start does.
    pub fn open(&self) -> Open {
        let open = self.try_open(Fs::real()).unwrap();
        open.recover().unwrap();
        open
    }

    /// A worker with this configuration behind `[store]`.
    pub fn try_worker(&self, rest: &str, fs: Fs) -> Result<Arc<Worker>, WorkerError> {
        let text = format!("[store]\npath = \"{}\"\ninstances = \"{}\"\n{rest}", self.store.display(), self.vms.display());
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let events = Events::new(Arc::clone(&clock), Arc::new(self.events.clone()));
        let config = parse(vec![("/c.toml".into(), text)]).unwrap();
        Worker::open(config, &Surroundings { fs, clock, events }, Arc::new(NoProgress))
    }

    pub fn worker(&self, rest: &str) -> Arc<Worker> {
        self.try_worker(rest, Fs::real()).unwrap()
    }

    /// Names of all events so far.
    pub fn event_names(&self) -> Vec<&'static str> {
        self.events.events().iter().map(Event::name).collect()
    }
}

impl Open {
    pub fn recover(&self) -> Result<(), ForkError> {
        self.store.clear_staging()?;
        self.forks.recover().map(drop)
    }

    pub fn take(&self, name: &str) -> Result<SnapshotId, TakeError> {
        self.take_with(name, DigestTime::Before, Flow::quiet())
    }

    pub fn take_with(&self, name: &str, digests: DigestTime, flow: Flow<'_>) -> Result<SnapshotId, TakeError> {
        let driver =
            Plain::new(DriverConfig { memory_names: vec!["memory".into()], freeze: vec![], thaw: vec![], timeout: Duration::from_secs(5) });
        let skip = Skip::new(&["logs/", "*.tmp"]).unwrap();
        let wanted = Wanted {
            instance: instance(name),
            policy: None,
            name: None,
            name_prefix: None,
            tags: std::collections::BTreeMap::new(),
            kind: KindRule::Auto,
        };
        let how = How { driver: &driver, skip: &skip, memory_names: &["memory".to_owned()], reserve: Reserve::Bytes(0), digests, flow };
        take(&self.store, &wanted, how).map(|taken| taken.summary.id.clone())
    }

    pub fn accept(&self, snapshot: &SnapshotId, name: &str) -> Result<Request, ForkError> {
        self.forks.accept(vec![ask(snapshot, name)]).pop().unwrap()
    }

    /// Asks for a fork and makes it.
    pub fn fork(&self, snapshot: &SnapshotId, name: &str) -> Result<Request, ForkError> {
        self.make(ask(snapshot, name))
    }

    /// The same for somebody who is told nothing before it is made.
    pub fn fork_awaited(&self, snapshot: &SnapshotId, name: &str) -> Result<Request, ForkError> {
        self.make(Ask { waits: true, ..ask(snapshot, name) })
    }

    fn make(&self, ask: Ask) -> Result<Request, ForkError> {
        let request = self.forks.accept(vec![ask]).pop().unwrap()?;
        loop {
            self.forks.run_ready(&NEVER, &NEVER)?;
            // Another thread may be making it.
            let now = self.forks.request(&request.id).unwrap();
            if now.state.is_final() || now.state == RequestState::Queued {
                return Ok(now);
            }
            self.forks.wait_for_change(Duration::from_millis(5));
        }
    }

    pub fn remove(&self, snapshot: &SnapshotId) -> Result<(), ReclaimError> {
        self.reclaim.remove(snapshot, &[], Duration::ZERO).map(drop)
    }

    pub fn ref_count(&self, snapshot: &SnapshotId) -> usize {
        self.store.index().get(snapshot).map_or(0, |known| known.refs.len())
    }
}

/// A file of `size` bytes that is a hole but for some places.
pub fn write_sparse(path: &Path, size: u64, data: &[(u64, &[u8])]) {
    use std::os::unix::fs::FileExt as _;
    let file = fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (offset, bytes) in data {
        let block: Vec<u8> = bytes.iter().copied().cycle().take(4096).collect();
        file.write_all_at(&block, *offset).unwrap();
    }
}

/// A tree as text: every path with kind, mode, size, a digest of contents or a target.
pub fn listing(dir: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(dir).unwrap().display().to_string();
            let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions());
            if meta.is_dir() {
                out.push(format!("{name}/ {mode:o}"));
                todo.push(path);
            } else if meta.is_symlink() {
                out.push(format!("{name} -> {}", fs::read_link(&path).unwrap().display()));
            } else if meta.is_file() {
                out.push(format!("{name} {mode:o} {} {}", meta.len(), blake3::hash(&fs::read(&path).unwrap()).to_hex()));
            }
        }
    }
    out.sort();
    out
}
