//! Changing what belongs to a snapshot: refs, holds, marks, publishing. Each durable first, then in the index.

use super::counters::write_record;
use super::digests;
use super::fs::{Commits, FsError};
use super::index::{Known, RefTarget, Summary};
use super::layout::Layout;
use super::load;
use super::manifest::{FORMAT, Manifest, RecordError};
use super::open::{SnapshotGuard, Store};
use super::refs::Refs;
use super::{RootProof, StoreError};
use crate::ids::{ForkId, HoldName, SnapshotId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The mark of a snapshot that goes with its last fork.
pub(super) const EXPIRING: &str = "expiring";
/// The mark of a snapshot that failed a check.
pub(super) const QUARANTINED: &str = "quarantined";

/// The mark of a snapshot that forks keep past its expiry.
pub(super) const PINNED: &str = "pinned";

/// Since when forks have kept a snapshot past its expiry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    format: u32,
    /// When retention first wanted it to go.
    pub since: DateTime<Utc>,
    /// When that was last reported.
    pub reported: Option<DateTime<Utc>>,
}

impl Pinned {
    /// From now on.
    #[must_use]
    pub fn new(since: DateTime<Utc>) -> Self {
        Self { format: FORMAT, since, reported: None }
    }
}

/// What a mark holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Mark {
    format: u32,
    at: DateTime<Utc>,
    pub(super) why: String,
}

impl Store {
    /// The manifest of a snapshot, read from the disk, with the digests that were made after it was published.
    ///
    /// # Errors
    /// [`StoreError::NoSnapshot`], or what is wrong with the manifest.
    pub fn manifest(&self, id: &SnapshotId) -> Result<Manifest, StoreError> {
        match Manifest::read(&self.fs, &Layout::manifest_in(&self.layout.snapshot(id)), id) {
            Ok(mut manifest) => {
                // Digests that cannot be read are as if they were still to be made; the start has reported them.
                if let Err(error) = digests::complete(&self.fs, &self.layout, &mut manifest) {
                    tracing::debug!(%error, %id, "digests pending");
                }
                Ok(manifest)
            }
            Err(RecordError::Io(e)) if e.is_not_found() => Err(StoreError::no_snapshot(id)),
            Err(e) => Err(e.into()),
        }
    }

    /// A copy of what is known of a snapshot. Who only looks at a field asks [`Store::index`]: as long as there is a copy,
    /// a change of many refs has to copy them all.
    ///
    /// # Errors
    /// [`StoreError::NoSnapshot`].
    pub fn known(&self, id: &SnapshotId) -> Result<Known, StoreError> {
        self.index().get(id).filter(|k| k.present).cloned().ok_or_else(|| StoreError::no_snapshot(id))
    }

    /// Publishes a staged snapshot: rename, sync of the parent, index. Its tree must be durable already, or so with that sync.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the snapshot is in staging again. Only if it cannot be put back there it stays, whole but perhaps not
    /// durable, and is in the index.
    pub fn publish(&self, manifest: &Manifest) -> Result<(), StoreError> {
        self.publish_from(&self.layout.staged(&manifest.id), manifest, || self.sync_snapshots())
    }

    /// Makes the names of snapshots durable. On btrfs, where a sync of their directory is a commit of the transaction in any case, it is
    /// a commit alone: one by one they would wait for the directory's lock, and so would those who move a snapshot there.
    fn sync_snapshots(&self) -> Result<(), FsError> {
        let dir = self.fs.open_dir(&self.layout.snapshots())?;
        if self.fs.commits(&dir) == Commits::Whole { self.fs.commit(&dir) } else { self.fs.fsync(&dir, dir.path()) }
    }

    /// Publishes the directory of a moved tree: as [`Store::publish`] does, and the place that it comes from is synced as well.
    ///
    /// # Errors
    /// [`StoreError::Io`]; it is in its place again, if there is any way.
    pub fn publish_moved(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let dirs: [&Path; 2] = [&self.layout.snapshots(), &self.layout.importing()];
        let sync = || dirs.iter().try_for_each(|dir| self.fs.fsync_dir(dir));
        self.publish_from(&self.layout.importing_of(&manifest.id), manifest, sync)
    }

    fn publish_from(&self, from: &Path, manifest: &Manifest, sync: impl FnOnce() -> Result<(), FsError>) -> Result<(), StoreError> {
        let id = &manifest.id;
        let moved = self.fs.move_and(from, &self.layout.snapshot(id), sync);
        if moved.as_ref().map_or_else(|e| e.is_moved, |()| true) {
            let mut index = self.index_mut();
            let summary = index.share(Arc::new(Summary::from(manifest)));
            index.change(id, |known| {
                known.present = true;
                known.summary = Some(summary);
            });
            drop(index);
            self.note_change();
        }
        Ok(moved.map_err(|e| e.error)?)
    }

    /// Makes refs for forks of one snapshot; durable on return. In the index from the first moment: a ref that may be
    /// on the disk counts.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the caller drops again what it asked for.
    pub fn add_refs(&self, guard: &SnapshotGuard, forks: &[(ForkId, PathBuf)]) -> Result<(), StoreError> {
        self.make_refs(guard, forks)?;
        self.sync_refs(guard.key())
    }

    /// The first part of [`Store::add_refs`]: they are not durable yet.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the caller drops again what it asked for.
    pub fn make_refs(&self, guard: &SnapshotGuard, forks: &[(ForkId, PathBuf)]) -> Result<(), StoreError> {
        let id = guard.key();
        let dir_path = self.layout.refs_of(id);
        self.fs.mkdir_durable(&dir_path, 0o700)?;
        let dir = self.fs.open_dir(&dir_path)?;
        for (fork, target) in forks {
            self.change(id, |known| known.refs.insert(fork.clone(), RefTarget::At(target.clone())));
            self.fs.symlink(target.as_os_str(), dir.at(fork.as_str().as_ref()))?;
        }
        Ok(())
    }

    /// The second part: makes all refs of a snapshot durable.
    ///
    /// # Errors
    /// [`StoreError::Io`]: none that was made since the last time may be taken to be durable.
    pub fn sync_refs(&self, id: &SnapshotId) -> Result<(), StoreError> {
        Ok(self.fs.fsync_dir(&self.layout.refs_of(id))?)
    }

    /// Points a ref at the place where its fork is now. The old one stays until the new one is there.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the old ref stays.
    pub fn point_ref(&self, guard: &SnapshotGuard, fork: &ForkId, to: &Path) -> Result<(), StoreError> {
        let id = guard.key();
        let temp = self.layout.refs_of(id).join(format!(".{fork}"));
        self.unlink_if_there(&temp)?;
        self.fs.symlink(to.as_os_str(), &temp)?;
        self.fs.rename_over(&temp, &self.layout.ref_of(id, fork))?;
        self.fs.fsync_dir(&self.layout.refs_of(id))?;
        self.change(id, |known| known.refs.insert(fork.clone(), RefTarget::At(to.to_owned())));
        Ok(())
    }

    /// Drops a ref; the caller has proven that nothing needs it. Not synced: one that comes back after a power cut is
    /// dropped again at the start. Returns how many refs are left.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the ref stays.
    pub fn drop_ref(&self, guard: &SnapshotGuard, _proof: &RootProof, fork: &ForkId) -> Result<usize, StoreError> {
        let id = guard.key();
        self.unlink_if_there(&self.layout.ref_of(id, fork))?;
        Ok(self.change(id, |known| {
            known.refs.remove(fork);
            known.refs.len()
        }))
    }

    /// Reads all refs from the disk again, where somebody may have been at work: those that are new there come into the
    /// index, and those that are gone from there are made again.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn reread_refs(&self) -> Result<(), StoreError> {
        let listed = self.fs.list_if_there(&self.layout.refs())?;
        let mut ids: BTreeSet<SnapshotId> = listed.iter().filter_map(|e| SnapshotId::parse(e.name.to_str()?).ok()).collect();
        ids.extend(self.index().refs().map(|(id, ..)| id.clone()));
        for id in ids {
            let guard = self.lock_snapshot(&id);
            let dir = self.layout.refs_of(&id);
            let mut there = Refs::default();
            for entry in self.fs.list_if_there(&dir)? {
                if let Some(Ok(fork)) = entry.name.to_str().map(ForkId::parse) {
                    there.insert(fork, load::read_ref(&self.fs, &dir.join(&entry.name)));
                }
            }
            let known = self.index().get(&id).map(|known| known.refs.clone()).unwrap_or_default();
            let lost = known.iter().filter_map(|(fork, target)| match target {
                RefTarget::At(path) if !there.contains_key(fork) => Some((fork.clone(), path.clone())),
                _ => None,
            });
            let lost: Vec<_> = lost.collect();
            // At no moment does one that is made again not count.
            there.extend(lost.iter().map(|(fork, path)| (fork.clone(), RefTarget::At(path.clone()))));
            self.change(&id, |known| known.refs = there);
            if !lost.is_empty() {
                self.add_refs(&guard, &lost)?;
            }
        }
        Ok(())
    }

    /// Takes back refs of requests that nobody was told of. One that cannot be removed goes on counting.
    pub fn undo_refs<'a>(&self, guard: &SnapshotGuard, forks: impl Iterator<Item = &'a ForkId>) {
        let id = guard.key();
        for fork in forks {
            if self.unlink_if_there(&self.layout.ref_of(id, fork)).is_ok() {
                self.change(id, |known| known.refs.remove(fork));
            }
        }
    }

    fn unlink_if_there(&self, path: &Path) -> Result<(), FsError> {
        match self.fs.unlink(path) {
            Err(e) if e.is_not_found() => Ok(()),
            other => other,
        }
    }

    /// Sets a hold; durable on return. Setting it again changes nothing.
    ///
    /// # Errors
    /// [`StoreError`]; a hold that is new is taken back, or it counts.
    pub fn add_hold(&self, guard: &SnapshotGuard, name: &HoldName) -> Result<(), StoreError> {
        self.known(guard.key())?;
        self.make_hold(guard.key(), name)
    }

    /// The same for an id whose snapshot may be in the trash.
    pub(super) fn make_hold(&self, id: &SnapshotId, name: &HoldName) -> Result<(), StoreError> {
        self.fs.mkdir_durable(&self.layout.holds_of(id), 0o700)?;
        let path = self.layout.hold(id, name);
        let is_new = match self.fs.create(&path, 0o600) {
            Ok(_) => true,
            Err(e) if e.is_taken() => false,
            Err(e) => return Err(e.into()),
        };
        // Also one that was there: whoever set it may have been told that it is not durable.
        let synced = self.fs.fsync_dir(&self.layout.holds_of(id));
        if synced.is_ok() || !is_new || self.unlink_if_there(&path).is_err() {
            self.change(id, |known| known.holds.insert(name.clone()));
        }
        Ok(synced?)
    }

    /// Releases a hold; false if there was none of that name.
    ///
    /// # Errors
    /// [`StoreError`]; the hold counts until this is tried again.
    pub fn drop_hold(&self, guard: &SnapshotGuard, name: &HoldName) -> Result<bool, StoreError> {
        let id = guard.key();
        if !self.known(id)?.holds.contains(name) {
            return Ok(false);
        }
        // It may be gone from the disk already, by an attempt whose sync failed.
        self.unlink_if_there(&self.layout.hold(id, name))?;
        self.fs.fsync_dir(&self.layout.holds_of(id))?;
        Ok(self.change(id, |known| known.holds.remove(name)))
    }

    /// Marks a snapshot to go with its last fork; `why` says who wants that.
    ///
    /// # Errors
    /// [`StoreError`]; a mark that is new is taken back, or it counts.
    pub fn mark_expiring(&self, guard: &SnapshotGuard, why: &str) -> Result<(), StoreError> {
        let id = guard.key();
        let was = self.known(id)?.expiring;
        let marked = self.mark(guard, EXPIRING, why);
        if marked.is_ok() || was || self.unlink_if_there(&self.layout.mark(id, EXPIRING)).is_err() {
            self.change(id, |known| known.expiring = true);
        }
        marked
    }

    /// Takes the mark of [`Store::mark_expiring`] back; false if there was none.
    ///
    /// # Errors
    /// [`StoreError`]; the mark stays.
    pub fn clear_expiring(&self, guard: &SnapshotGuard) -> Result<bool, StoreError> {
        let was_marked = self.unmark(guard.key(), EXPIRING)?;
        self.change(guard.key(), |known| known.expiring = false);
        Ok(was_marked)
    }

    /// Marks a snapshot as one that failed a check: never forked, never removed by age.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn mark_quarantined(&self, guard: &SnapshotGuard, why: &str) -> Result<(), StoreError> {
        self.change(guard.key(), |known| known.quarantined = Some(why.to_owned()));
        self.mark(guard, QUARANTINED, why)
    }

    /// Takes the mark of a failed check back: a later check found nothing wrong.
    ///
    /// # Errors
    /// [`StoreError`]; the mark stays.
    pub fn clear_quarantined(&self, guard: &SnapshotGuard) -> Result<(), StoreError> {
        self.unmark(guard.key(), QUARANTINED)?;
        self.change(guard.key(), |known| known.quarantined = None);
        Ok(())
    }

    /// Removes a mark, durably; false if it was not there.
    pub(super) fn unmark(&self, id: &SnapshotId, mark: &str) -> Result<bool, StoreError> {
        match self.fs.unlink(&self.layout.mark(id, mark)) {
            Ok(()) => self.fs.fsync_dir(&self.layout.marks_of(id))?,
            Err(e) if e.is_not_found() => return Ok(false),
            Err(e) => return Err(e.into()),
        }
        Ok(true)
    }

    /// Remembers since when forks keep a snapshot past its expiry; `None` forgets it.
    ///
    /// # Errors
    /// [`StoreError`]; what was remembered stays.
    pub fn set_pinned(&self, guard: &SnapshotGuard, pinned: Option<&Pinned>) -> Result<(), StoreError> {
        let id = guard.key();
        self.known(id)?;
        match pinned {
            Some(pinned) => write_record(&self.fs, &self.layout.mark(id, PINNED), pinned)?,
            None => drop(self.unmark(id, PINNED)?),
        }
        self.change(id, |known| known.pinned = pinned.cloned());
        Ok(())
    }

    fn mark(&self, guard: &SnapshotGuard, mark: &str, why: &str) -> Result<(), StoreError> {
        let id = guard.key();
        self.known(id)?;
        let record = Mark { format: FORMAT, at: self.clock.now(), why: why.to_owned() };
        write_record(&self.fs, &self.layout.mark(id, mark), &record)
    }

    /// Notes that something about a snapshot cannot be told, so that it stays.
    pub fn note_unreadable(&self, id: &SnapshotId, why: &str) -> bool {
        self.change(id, |known| known.unreadable.insert(why.to_owned()))
    }

    /// Takes such a note back.
    pub fn clear_unreadable(&self, id: &SnapshotId, why: &str) {
        self.change(id, |known| known.unreadable.remove(why));
    }

    /// The directory of a snapshot was renamed into the trash: it is out of the index, but for refs and holds of its id.
    pub(super) fn forget_snapshot(&self, id: &SnapshotId) {
        self.change(id, |known| {
            known.present = false;
            known.summary = None;
            known.expiring = false;
            known.quarantined = None;
            known.unreadable.clear();
            known.bad_manifest = None;
            known.pinned = None;
            known.compression = None;
            known.pool = 0;
        });
    }

    /// Removes marks and holds of snapshots that are neither in the store nor in its trash: what a removal left that was
    /// cut short after the tree. Refs are the instances root's to tell.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn clear_orphan_records(&self) -> Result<(), StoreError> {
        let dirs = [self.layout.marks(), self.layout.holds()];
        let mut orphans: BTreeSet<SnapshotId> = BTreeSet::new();
        for dir in &dirs {
            let listed = self.fs.list_if_there(dir)?;
            orphans.extend(listed.iter().filter_map(|entry| SnapshotId::parse(entry.name.to_str()?).ok()));
        }
        orphans.retain(|id| !self.index().get(id).is_some_and(|known| known.present));
        if orphans.is_empty() {
            return Ok(());
        }
        let trashed = self.trashed_snapshots()?;
        let orphans: Vec<SnapshotId> = orphans.into_iter().filter(|id| !trashed.contains(id)).collect();
        for batch in orphans.chunks(1000) {
            // Under their locks, taken in order, all is read again: each may be cut, or brought back, at any other moment.
            let _guards: Vec<SnapshotGuard> = batch.iter().map(|id| self.lock_snapshot(id)).collect();
            let trashed = self.trashed_snapshots()?;
            for id in batch {
                if self.fs.stat_if_there(&self.layout.snapshot(id))?.is_none() && !trashed.contains(id) {
                    dirs.iter().try_for_each(|dir| self.fs.remove_tree(&dir.join(id)))?;
                    self.change(id, |known| known.holds.clear());
                }
            }
        }
        Ok(())
    }
}
