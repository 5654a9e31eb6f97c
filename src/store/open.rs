//! Opening a store: its lock, its identity, its index.

use super::counters::{Sequence, Uptime};
use super::fs::{Fs, FsError, Op};
use super::index::{Index, Known};
use super::keyed::{KeyGuard, KeyedLocks};
use super::layout::Layout;
use super::root::{Identity, RootError, RootProof};
use super::{StoreError, load};
use crate::clock::Clock;
use crate::event::Events;
use crate::ids::{InstanceId, SnapshotId};
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

/// What a store is opened with.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The seam to the kernel.
    pub fs: Fs,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where facts go.
    pub events: Events,
    /// The store.
    pub store: PathBuf,
    /// The instances root.
    pub instances: PathBuf,
    /// On how many threads the tree is read.
    pub threads: usize,
}

/// An open store. With its lock it may write; a reader has none.
#[derive(Debug)]
pub struct Store {
    /// The seam to the kernel.
    pub fs: Fs,
    /// Path names.
    pub layout: Layout,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where facts go.
    pub events: Events,
    /// Who the store is.
    pub identity: Identity,
    /// One holder per instance; taken before any snapshot's lock.
    pub instance_locks: KeyedLocks<InstanceId>,
    /// Held while a directory of the root is moved by us, and while the root is scanned.
    pub root_moves: Mutex<()>,
    pub(super) index: RwLock<Index>,
    pub(super) snapshot_locks: KeyedLocks<SnapshotId>,
    pub(super) sequence: Mutex<Sequence>,
    pub(super) uptime: Uptime,
    reported: AtomicU64,
    pub(super) sizes: super::sizes::SizeCache,
    pub(super) cache: super::cache::RawCache,
    pub(super) packing: super::packing::Packing,
    /// One at a time makes the raw files of a packed snapshot; taken before the snapshot's lock.
    pub thaw_locks: KeyedLocks<SnapshotId>,
    reflinks: OnceLock<bool>,
    /// What it took to make snapshots durable.
    pub sync_costs: Mutex<super::syncing::Costs>,
    /// How often snapshots came, went or changed their state.
    changes: AtomicU64,
    /// Who waits for that.
    waiting: (Mutex<()>, Condvar),
    _lock: Option<Flock<File>>,
}

/// A snapshot's lock: for metadata only, never held for a copy.
pub type SnapshotGuard = KeyGuard<SnapshotId>;

impl Store {
    /// Opens a store for writing, alone; makes one at an empty or missing path whose root has no other owner.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if another process has it; others as they say.
    pub fn open(options: &OpenOptions) -> Result<Arc<Self>, StoreError> {
        let layout = Layout::new(&options.store, &options.instances);
        let fs = &options.fs;
        if fs.stat_if_there(layout.store())?.is_none() {
            return Err(StoreError::NoStore { path: layout.store().to_owned() });
        }
        let lock = lock(fs, &layout)?;
        let identity = match Identity::of_store(fs, &layout)? {
            Some(identity) => identity,
            None => super::open::found(fs, &layout)?,
        };
        ensure_root(fs, &layout, &identity)?;
        for dir in [layout.staging(), layout.snapshots(), layout.marks(), layout.refs(), layout.holds()] {
            fs.mkdir_if_missing(&dir, 0o700)?;
        }
        for dir in [layout.trash(), layout.queue(), layout.ledger()] {
            fs.mkdir_if_missing(&dir, 0o700)?;
        }
        fs.fsync_dir(layout.store())?;
        // What the last process published and did not live to commit is acted on from here on.
        fs.fsync_dir(&layout.snapshots())?;
        Self::assemble(options, layout, identity, Some(lock))
    }

    /// Makes the snapshots that are there durable, also one whose commit failed: before what they were made of goes.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn settle_snapshots(&self) -> Result<(), FsError> {
        self.fs.fsync_dir(&self.layout.snapshots())
    }

    /// Opens a store for looking only, without its lock: somebody may change it meanwhile.
    ///
    /// # Errors
    /// [`StoreError::NoStore`] if there is none.
    pub fn open_reader(options: &OpenOptions) -> Result<Arc<Self>, StoreError> {
        let layout = Layout::new(&options.store, &options.instances);
        let identity = Identity::of_store(&options.fs, &layout)?.ok_or(StoreError::NoStore { path: options.store.clone() })?;
        let store = Self::assemble(options, layout, identity, None)?;
        if let Err(e) = store.load_cache(false) {
            tracing::debug!(error = %e, "the cache is not counted");
        }
        Ok(store)
    }

    fn assemble(options: &OpenOptions, layout: Layout, identity: Identity, lock: Option<Flock<File>>) -> Result<Arc<Self>, StoreError> {
        let fs = options.fs.clone();
        let loaded = load::Loader { fs: &fs, layout: &layout, events: &options.events, threads: options.threads }.index()?;
        let sequence = Sequence::load(&fs, &layout, loaded.highest_seq, loaded.is_fresh)?;
        let uptime = Uptime::load(&fs, &layout, options.clock.as_ref());
        Ok(Arc::new(Self {
            layout,
            clock: Arc::clone(&options.clock),
            events: options.events.clone(),
            identity,
            instance_locks: KeyedLocks::default(),
            root_moves: Mutex::new(()),
            index: RwLock::new(loaded.index),
            snapshot_locks: KeyedLocks::default(),
            sequence: Mutex::new(sequence),
            reported: AtomicU64::new(uptime.reported()),
            uptime,
            sizes: super::sizes::SizeCache::default(),
            cache: super::cache::RawCache::default(),
            packing: super::packing::Packing::default(),
            thaw_locks: KeyedLocks::default(),
            reflinks: OnceLock::new(),
            sync_costs: Mutex::default(),
            changes: AtomicU64::new(0),
            waiting: Default::default(),
            fs,
            _lock: lock,
        }))
    }

    /// Proves that the instances root is the one that belongs to this store.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn prove_root(&self) -> Result<RootProof, RootError> {
        self.identity.prove(&self.fs, &self.layout)
    }

    /// The index, for reading.
    pub fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn index_mut(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change<T>(&self, id: &SnapshotId, change: impl FnOnce(&mut Known) -> T) -> T {
        let mut index = self.index_mut();
        let standing =
            |index: &Index| index.get(id).map(|known| (known.present, known.summary.is_some(), known.state(), known.packed().is_some()));
        let before = standing(&index);
        let result = index.change(id, change);
        if before != standing(&index) {
            self.note_change();
        }
        result
    }

    /// A snapshot came, went, or is another kind of one now.
    pub(super) fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.wake();
    }

    /// Wakes who waits for a change, for example at the stop, which must have been said before.
    pub fn wake(&self) {
        // Whoever has looked and does not wait yet has the lock.
        drop(self.waiting.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.waiting.1.notify_all();
    }

    /// Waits while [`Store::changes`] is what it was and nobody says `stop`, `most` at the longest.
    pub fn wait_for_change(&self, was: u64, most: Duration, stop: &AtomicBool) {
        let lock = self.waiting.0.lock().unwrap_or_else(PoisonError::into_inner);
        if self.changes() == was && !stop.load(Ordering::SeqCst) {
            drop(self.waiting.1.wait_timeout(lock, most));
        }
    }

    /// A number that differs if snapshots came, went or changed their state since: for who would look at all of them again.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Waits for a snapshot's lock.
    #[must_use]
    pub fn lock_snapshot(&self, id: &SnapshotId) -> SnapshotGuard {
        self.snapshot_locks.lock(id)
    }

    /// Keeps others from moving directories of the root, or from scanning it meanwhile.
    pub fn lock_root_moves(&self) -> MutexGuard<'_, ()> {
        self.root_moves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes half-made snapshots, and brings what was being packed to its end; only at the start, before anything is
    /// taken. Returns how many were removed.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn clear_staging(&self) -> Result<u64, StoreError> {
        let entries = self.fs.list_if_there(&self.layout.staging())?;
        let packing: Vec<SnapshotId> = entries.iter().filter_map(|entry| Layout::packing_of(&entry.name)).collect();
        let unsettled = self.settle_packed(packing);
        self.load_cache(true)?;
        for entry in entries.iter().filter(|entry| Layout::packing_of(&entry.name).is_none_or(|id| !unsettled.contains(&id))) {
            self.fs.remove_tree(&self.layout.staging().join(&entry.name))?;
        }
        Ok(entries.len() as u64)
    }

    /// The next sequence number.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be reserved durably.
    pub fn next_seq(&self) -> Result<u64, StoreError> {
        self.sequence.lock().unwrap_or_else(PoisonError::into_inner).take(&self.fs, &self.layout)
    }

    /// Whether files can be reflinked between the store and the instances root; tried once.
    pub fn can_reflink(&self) -> bool {
        *self.reflinks.get_or_init(|| super::probe::can_reflink(&self.fs, &self.layout))
    }

    /// Boot time added up over boots, seconds.
    #[must_use]
    pub fn uptime_seconds(&self) -> u64 {
        self.uptime.seconds(self.clock.as_ref())
    }

    /// Cuts of a lower second of it than this have been reported.
    #[must_use]
    pub fn reported_seconds(&self) -> u64 {
        self.reported.load(Ordering::SeqCst)
    }

    /// Writes the sum of boot time down, now and then, at a moment at which every cut has been reported.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn save_uptime(&self) -> Result<(), StoreError> {
        self.save_reported(self.uptime_seconds() + 1)
    }

    /// Something is to be cut. In the second of the last save it would count as reported: that is taken back first. Where it
    /// cannot be written down, on a full disk, that is no reason to keep anything.
    pub fn expect_cut(&self) {
        let seconds = self.uptime_seconds();
        if seconds < self.reported_seconds()
            && let Err(e) = self.save_reported(seconds)
        {
            tracing::debug!(error = %e, "a cut that a crash keeps from being reported would not be reported by the next start");
        }
    }

    fn save_reported(&self, reported: u64) -> Result<(), StoreError> {
        self.uptime.save(&self.fs, &self.layout, self.clock.as_ref(), reported)?;
        self.reported.store(reported, Ordering::SeqCst);
        Ok(())
    }

    /// Keeps a snapshot from removal while it is read; `None` if it is not there.
    #[must_use]
    pub fn pin(self: &Arc<Self>, id: &SnapshotId) -> Option<StorePin> {
        let _guard = self.lock_snapshot(id);
        let present = self.change(id, |known| {
            known.pins += u32::from(known.present);
            known.present
        });
        present.then(|| StorePin { store: Arc::clone(self), id: id.clone() })
    }
}

/// A pin: a ref in memory, for as long as somebody reads.
#[derive(Debug)]
pub struct StorePin {
    store: Arc<Store>,
    id: SnapshotId,
}

impl Drop for StorePin {
    fn drop(&mut self) {
        self.store.change(&self.id, |known| known.pins = known.pins.saturating_sub(1));
    }
}

/// Takes the store's lock, or says that somebody has it (flock(2): it dies with its holder).
fn lock(fs: &Fs, layout: &Layout) -> Result<Flock<File>, StoreError> {
    let path = layout.lock();
    let file = fs.open_append(&path)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => StoreError::Busy { path },
        source => StoreError::Io(FsError { op: Op::Lock, path, source }),
    })
}

/// Gives a store that holds nothing yet its identity.
///
/// # Errors
/// [`StoreError::NoStore`] if something is in it already: a lost FORMAT file is not made up.
pub(super) fn found(fs: &Fs, layout: &Layout) -> Result<Identity, StoreError> {
    let occupied = |path: PathBuf| fs.list_if_there(&path).map(|entries| !entries.is_empty());
    if occupied(layout.snapshots())? || occupied(layout.refs())? {
        return Err(StoreError::NoStore { path: layout.format() });
    }
    let identity = Identity::generate();
    let bytes = identity.bytes().map_err(|source| StoreError::Encode { path: layout.format(), source })?;
    fs.replace_record(&layout.format(), &bytes)?;
    Ok(identity)
}

/// Makes the proof in the instances root, only for a store that has neither snapshots nor refs.
fn ensure_root(fs: &Fs, layout: &Layout, identity: &Identity) -> Result<(), StoreError> {
    match identity.prove(fs, layout) {
        Ok(_) => {}
        Err(RootError::Missing { .. }) => {
            let occupied = |path: PathBuf| fs.list_if_there(&path).map(|entries| !entries.is_empty());
            let root_is_there = fs.stat_if_there(layout.instances())?.is_some();
            if root_is_there && !occupied(layout.snapshots())? && !occupied(layout.refs())? {
                let bytes = identity.bytes().map_err(|source| StoreError::Encode { path: layout.root_proof(), source })?;
                fs.mkdir_if_missing(&layout.root_area(), 0o755)?;
                fs.replace_record(&layout.root_proof(), &bytes)?;
                fs.fsync_dir(layout.instances())?;
            } else {
                return Ok(());
            }
        }
        // A store whose root is away still opens: it keeps everything, and says so.
        Err(_) => return Ok(()),
    }
    fs.mkdir_if_missing(&layout.fork_staging(), 0o700)?;
    fs.mkdir_if_missing(&layout.root_trash(), 0o700)?;
    fs.fsync_dir(&layout.root_area())?;
    Ok(())
}
