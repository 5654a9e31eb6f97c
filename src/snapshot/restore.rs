//! The protocol *restore*: build the old tree in the root's trash, exchange the two names. The tree that was there is in
//! the trash at every moment, and nothing of it is lost.

use super::copy::{DataError, Flow, sync_tree};
use super::materialize::{MaterializeContext, MaterializeError, clone_file, materialize};
use crate::config::{MemoryMethod, Skip};
use crate::driver::Driver;
use crate::ids::{InstanceId, SnapshotId};
use crate::snapshot::copy::Cloner;
use crate::store::fs::{Below, FileType, Found, Fs, FsError, Op};
use crate::store::layout::{Layout, OURS};
use crate::store::manifest::Manifest;
use crate::store::root::RootError;
use crate::store::trash::Departed;
use crate::store::{CacheUse, Store, StoreError};
use nix::errno::Errno;
use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An instance that was put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Which.
    pub instance: InstanceId,
    /// Where the tree is now that was there, if one was.
    pub replaced: Option<PathBuf>,
}

/// Why an instance was not put back. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It runs, or that cannot be told.
    #[error("{instance} is in use: {why}; stop it first")]
    InUse {
        /// The instance.
        instance: InstanceId,
        /// How it is known.
        why: String,
    },
    /// The snapshot must not be used.
    #[error("snapshot {0} is quarantined: {1}")]
    Quarantined(SnapshotId, String),
    /// The root is not proven.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The tree could not be built.
    #[error(transparent)]
    Build(#[from] MaterializeError),
    /// The live files that snapshots skip could not be copied.
    #[error("cannot keep the instance's own files: {0}")]
    Keep(#[from] DataError),
    /// The snapshot's memory could not be unpacked.
    #[error(transparent)]
    Unpack(#[from] super::pack::PackError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<FsError> for RestoreError {
    fn from(e: FsError) -> Self {
        Self::Store(e.into())
    }
}

/// Puts an instance back to a snapshot.
///
/// # Errors
/// [`RestoreError`]; the instance is as it was.
pub fn restore(store: &Arc<Store>, id: &SnapshotId, driver: &dyn Driver, skip: &Skip, flow: Flow<'_>) -> Result<Restored, RestoreError> {
    store.prove_root()?;
    let _pin = store.pin(id).ok_or_else(|| StoreError::no_snapshot(id))?;
    let known = store.known(id)?;
    if let Some(why) = known.quarantined {
        return Err(RestoreError::Quarantined(id.clone(), why));
    }
    store.disturb(id);
    // Pinned, so it is not packed from here on.
    let raw = super::pack::thaw(store, id, flow)?;
    let manifest = store.manifest(id)?;
    let instance = manifest.instance.clone();
    let _instance = store.instance_locks.lock(&instance);
    let live = store.layout.instance(&instance);
    let is_there = store.fs.stat_if_there(&live)?.is_some();
    let still = || match driver.in_use(&store.fs, &live) {
        _ if !is_there => Ok(()),
        Ok(None) => Ok(()),
        Ok(Some(use_)) => Err(RestoreError::InUse { instance: instance.clone(), why: format!("{} ({})", use_.path.display(), use_.why) }),
        Err(cannot_tell) => Err(RestoreError::InUse { instance: instance.clone(), why: cannot_tell.to_string() }),
    };
    still()?;
    let built = store.root_trash_path(Departed::Replaced, &instance);
    // Before what is removed after a failure: a name that is taken is another's.
    store.fs.mkdir(&built, 0o700)?;
    // The build takes its time: whether the instance runs is asked again behind it.
    let made = build(store, (&manifest, raw.as_ref()), is_there.then_some(live.as_path()), &built, skip, flow).and_then(|()| still());
    if let Err(e) = made {
        // Half a tree, and not the instance's. What cannot be removed now goes with its grace.
        let _ = store.fs.remove_tree(&built);
        return Err(e);
    }
    // From here on nothing is removed: after a failure only the names tell which tree is which.
    exchange(store, &live, &built, is_there)?;
    Ok(Restored { instance, replaced: is_there.then_some(built) })
}

/// Steps 1 and 2: the tree, with the live instance's own directory and the live files that snapshots skip; durable.
fn build(
    store: &Store,
    (manifest, raw): (&Manifest, Option<&CacheUse>),
    live: Option<&Path>,
    built: &Path,
    skip: &Skip,
    flow: Flow<'_>,
) -> Result<(), RestoreError> {
    let fs = &store.fs;
    let data = Layout::data_in(&store.layout.snapshot(&manifest.id));
    let context = MaterializeContext {
        fs,
        data: &data,
        memory: raw.map_or(&data, CacheUse::dir),
        // An instance is written by its owner: it shares no inode with the store.
        memory_method: MemoryMethod::Reflink,
        as_root: crate::store::fs::gives_owners(),
        rewrite: None,
        flow,
    };
    // Our own directory is the live instance's, not the snapshot's.
    let is_ours = |path: &Path| path.starts_with(OURS);
    let entries: Vec<_> = manifest.entries.iter().filter(|e| live.is_none() || !is_ours(e.path.as_path())).cloned().collect();
    let since = fs.open_dir(built)?;
    materialize(&context, &entries, built)?;
    sync_tree(fs, built, &entries, &since)?;
    if let Some(live) = live {
        keep_live_files(store, live, built, skip, flow)?;
    }
    Ok(())
}

/// Copies `.snapkeep/` and what snapshots skip from the live instance into the new tree, each durable. What has no place
/// there, because the snapshot has no directory for it, stays in the tree that is replaced: a link that the snapshot has
/// in the place of a directory is never written through.
fn keep_live_files(store: &Store, live: &Path, built: &Path, skip: &Skip, flow: Flow<'_>) -> Result<(), RestoreError> {
    let fs = &store.fs;
    let mut keep = Keep {
        fs,
        cloner: Cloner::new(fs, flow),
        from: Below::open(fs, live)?,
        to: Below::open(fs, built)?,
        is_root: crate::store::fs::gives_owners(),
        changed: BTreeSet::from([PathBuf::new()]),
    };
    let found = fs.walk(&mut keep.from, &mut |_, _| false)?;
    // A directory comes before what is in it, so each path is held against the rules once, whatever its depth.
    let mut kept: HashSet<&Path> = HashSet::new();
    for file in found.iter().filter(|f| !f.path.as_os_str().is_empty()) {
        let path = file.path.as_path();
        let is_dir = file.meta.kind == FileType::Directory;
        let is_below = path.parent().is_some_and(|parent| kept.contains(parent));
        if !is_below && path != Path::new(OURS) && skip.rule_for(path, is_dir).is_none() {
            continue;
        }
        if is_dir {
            kept.insert(path);
        }
        match keep.to.dir(file.path.parent().unwrap_or(Path::new(""))) {
            Ok(_) => keep.one(file)?,
            Err(e) if e.is_replaced() => {}
            Err(e) => return Err(e.into()),
        }
    }
    keep.sync()
}

struct Keep<'a> {
    fs: &'a Fs,
    cloner: Cloner<'a>,
    from: Below<'a>,
    to: Below<'a>,
    is_root: bool,
    /// Directories of the new tree that have a name more, synced once they have them all.
    changed: BTreeSet<PathBuf>,
}

impl Keep<'_> {
    /// Copies one find of the walk into a directory that is there.
    fn one(&mut self, file: &Found) -> Result<(), RestoreError> {
        let fs = self.fs;
        let path = file.path.as_path();
        match file.meta.kind {
            FileType::Directory => {
                if !fs.mkdir_if_missing(self.to.place(path)?, file.meta.mode)? && fs.stat(self.to.place(path)?)?.kind != FileType::Directory
                {
                    return Ok(());
                }
                if self.is_root {
                    fs.set_owner(self.to.place(path)?, file.meta.uid, file.meta.gid)?;
                }
                self.changed.insert(path.to_owned());
            }
            FileType::Symlink => fs.symlink(&fs.read_link(self.from.place(path)?)?, self.to.place(path)?)?,
            FileType::Regular => self.file(file)?,
            // Sockets and FIFOs are made anew by those who use them.
            _ => return Ok(()),
        }
        self.changed.insert(path.parent().unwrap_or(Path::new("")).to_owned());
        Ok(())
    }

    fn sync(mut self) -> Result<(), RestoreError> {
        for path in &self.changed {
            let dir = self.to.dir(path)?;
            self.fs.fsync(dir, dir.path())?;
        }
        Ok(())
    }

    fn file(&mut self, found: &Found) -> Result<(), RestoreError> {
        let (fs, path) = (self.fs, found.path.as_path());
        let (from_path, to_path) = (self.from.path_of(path), self.to.path_of(path));
        let source = fs.open_file(self.from.place(path)?)?;
        let meta = fs.stat_open(&source, &from_path)?;
        if meta.kind != FileType::Regular {
            return Err(FsError { op: Op::Read, path: from_path, source: Errno::ESTALE }.into());
        }
        let place = self.to.place(path)?;
        let (new, _) = clone_file(fs, &self.cloner, (&source, &from_path), place, meta.size)?;
        if self.is_root {
            fs.set_owner(place, meta.uid, meta.gid)?;
        }
        fs.set_mode(&new, &to_path, meta.mode)?;
        fs.set_mtime(place, meta.mtime_ns)?;
        Ok(fs.fsync(&new, &to_path)?)
    }
}

/// Step 3. If it cannot be made durable the names are exchanged back; that they could not be is the only way in which the
/// instance is another one after an error.
fn exchange(store: &Store, live: &Path, built: &Path, is_there: bool) -> Result<(), FsError> {
    let _moves = store.lock_root_moves();
    let (fs, root, trash) = (&store.fs, store.layout.instances(), store.layout.root_trash());
    fs.fsync_dir(&trash)?;
    if !is_there {
        return fs.move_durably(built, live, &[root, &trash]).map_err(|e| e.error);
    }
    fs.exchange(built, live)?;
    let synced = fs.fsync_dir(root).and_then(|()| fs.fsync_dir(&trash));
    synced.inspect_err(|_| drop(fs.exchange(built, live)))
}
