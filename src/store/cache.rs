//! The cache: raw memory files of packed snapshots, while somebody wants them.
//!
//! A generation is published whole and durable by a rename, as a snapshot is, because forks link to its files: dropping it is
//! only an unlink, and what is linked lives on in the forks. A new generation has new inodes.

use super::fs::FsError;
use super::layout::Layout;
use super::open::{SnapshotGuard, Store};
use super::{StoreError, sizes};
use crate::ids::SnapshotId;
use crate::policy::cache::Entry;
use chrono::{DateTime, Utc};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is in the cache.
#[derive(Debug, Default)]
pub(super) struct RawCache(Mutex<HashMap<SnapshotId, Cached>>);

#[derive(Debug)]
struct Cached {
    generation: u64,
    bytes: u64,
    used_at: DateTime<Utc>,
    users: u32,
    /// Nobody has used it since it was made.
    is_fresh: bool,
}

impl RawCache {
    fn lock(&self) -> MutexGuard<'_, HashMap<SnapshotId, Cached>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Raw files that stay for as long as this does.
#[derive(Debug)]
pub struct CacheUse {
    store: Arc<Store>,
    id: SnapshotId,
    generation: u64,
    dir: PathBuf,
    is_first: bool,
}

impl CacheUse {
    /// Where they are, under the same paths as in the snapshot's data.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether they were made for this use.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.is_first
    }

    /// Gives them back as if nobody had used them: whoever has them made is not who uses them first.
    pub fn not_used(self) {
        if let Some(cached) = self.store.cache.lock().get_mut(&self.id).filter(|cached| cached.generation == self.generation) {
            cached.is_fresh |= self.is_first;
        }
    }
}

impl Drop for CacheUse {
    fn drop(&mut self) {
        let now = self.store.clock.now();
        // Others may have been made in the place of those that were written to.
        if let Some(cached) = self.store.cache.lock().get_mut(&self.id).filter(|cached| cached.generation == self.generation) {
            cached.users = cached.users.saturating_sub(1);
            cached.used_at = now;
        }
    }
}

impl Store {
    /// The raw files of a packed snapshot, if they are in the cache.
    #[must_use]
    pub fn use_cached(self: &Arc<Self>, id: &SnapshotId) -> Option<CacheUse> {
        let mut all = self.cache.lock();
        let cached = all.get_mut(id)?;
        cached.users += 1;
        let is_first = std::mem::take(&mut cached.is_fresh);
        let dir = self.layout.cached(id, cached.generation);
        Some(CacheUse { store: Arc::clone(self), id: id.clone(), generation: cached.generation, dir, is_first })
    }

    /// Where a snapshot's memory files are now, if they are anywhere raw: its data, or the cache.
    #[must_use]
    pub fn memory_dir(&self, id: &SnapshotId) -> PathBuf {
        let generation = self.cache.lock().get(id).map(|cached| cached.generation);
        let data = || Layout::data_in(&self.layout.snapshot(id));
        generation.map_or_else(data, |generation| self.layout.cached(id, generation))
    }

    /// Publishes raw files that were made in staging, whole and durable but for their name. The caller holds the lock, and
    /// the snapshot is packed.
    ///
    /// # Errors
    /// [`FsError`]; they are in staging still.
    pub fn publish_cached(&self, guard: &SnapshotGuard) -> Result<(), FsError> {
        let id = guard.key();
        let dir = self.layout.cache_of(id);
        let there = self.fs.list_if_there(&dir)?;
        let highest = there.iter().filter_map(|e| e.name.to_str()?.parse::<u64>().ok()).max().unwrap_or(0);
        let generation = highest.saturating_add(1);
        if !there.is_empty() {
            // Nobody is given these any more.
            self.retire(id)?;
        }
        self.fs.mkdir_durable(&self.layout.cache(), 0o700)?;
        self.fs.mkdir_durable(&dir, 0o700)?;
        let place = self.layout.cached(id, generation);
        self.fs.move_durably(&self.layout.staged_raw(id), &place, &[&dir]).map_err(|e| e.error)?;
        self.note_cached(id, generation, true)
    }

    fn note_cached(&self, id: &SnapshotId, generation: u64, is_fresh: bool) -> Result<(), FsError> {
        let bytes = sizes::allocated(&self.fs, &self.layout.cached(id, generation))?;
        let cached = Cached { generation, bytes, used_at: self.clock.now(), users: 0, is_fresh };
        self.cache.lock().insert(id.clone(), cached);
        Ok(())
    }

    /// What is in the cache; `is_wanted` says whether a request waits for it.
    #[must_use]
    pub fn cached(&self, is_wanted: impl Fn(&SnapshotId) -> bool) -> Vec<Entry> {
        let all = self.cache.lock();
        let entry = |(id, cached): (&SnapshotId, &Cached)| Entry {
            id: id.clone(),
            bytes: cached.bytes,
            used_at: cached.used_at,
            is_wanted: cached.users > 0,
        };
        let mut entries: Vec<Entry> = all.iter().map(entry).collect();
        drop(all);
        entries.iter_mut().for_each(|entry| entry.is_wanted |= is_wanted(&entry.id));
        entries
    }

    /// Bytes in the cache, and of how many snapshots.
    #[must_use]
    pub fn cache_size(&self) -> (u64, u64) {
        let all = self.cache.lock();
        (all.values().map(|cached| cached.bytes).sum(), all.len() as u64)
    }

    /// Gives a snapshot's raw files to nobody any more: somebody wrote to them. They are unlinked with the next that are dropped.
    pub fn distrust_cached(&self, id: &SnapshotId) {
        self.cache.lock().remove(id);
    }

    /// Drops a snapshot's raw files from the cache, unless they are in use; true if they are gone. The caller holds the lock and
    /// knows that no request waits for them.
    ///
    /// # Errors
    /// [`StoreError::Io`]; they are all there, or in staging, where the next drop or the next start removes them.
    pub fn drop_cached(&self, guard: &SnapshotGuard) -> Result<bool, StoreError> {
        let id = guard.key();
        let was = {
            let mut all = self.cache.lock();
            if all.get(id).is_some_and(|cached| cached.users > 0) {
                return Ok(false);
            }
            all.remove(id)
        };
        if let Err(e) = self.retire(id) {
            if let Some(was) = was.filter(|_| matches!(self.fs.stat_if_there(&self.layout.cache_of(id)), Ok(Some(_)))) {
                self.cache.lock().entry(id.clone()).or_insert(was);
            }
            return Err(e.into());
        }
        self.forget_sizes(id);
        Ok(true)
    }

    /// Takes all generations out of the cache by one rename, and unlinks them then: nobody finds a part of one.
    fn retire(&self, id: &SnapshotId) -> Result<(), FsError> {
        let (dir, retired) = (self.layout.cache_of(id), self.layout.staged_retired(id));
        self.fs.remove_tree(&retired)?;
        match self.fs.rename_new(&dir, &retired) {
            Err(e) if e.is_not_found() => Ok(()),
            Ok(()) => self.fs.remove_tree(&retired),
            Err(e) => Err(e),
        }
    }

    /// At the start: what is whole and belongs to a packed snapshot may be used again; the rest goes, if `is_ours`.
    ///
    /// # Errors
    /// [`StoreError::Io`]; what was not looked at is not used.
    pub(super) fn load_cache(&self, is_ours: bool) -> Result<(), StoreError> {
        for entry in self.fs.list_if_there(&self.layout.cache())? {
            let path = self.layout.cache().join(&entry.name);
            let id = entry.name.to_str().and_then(|name| SnapshotId::parse(name).ok());
            // Nothing goes while it cannot be told what there is, and of what.
            let is_unclear = id.as_ref().is_some_and(|id| self.index().get(id).is_some_and(|known| known.damage().is_some()));
            let Some(generations) = self.fs.list(&path).ok().filter(|_| !is_unclear) else { continue };
            let newest = generations.iter().filter_map(|e| e.name.to_str()?.parse::<u64>().ok()).max();
            match id.zip(newest) {
                Some((id, generation)) if generations.len() == 1 && self.is_whole(&id, generation)? => {
                    self.note_cached(&id, generation, false)?;
                }
                _ if is_ours => self.fs.remove_tree(&path)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn is_whole(&self, id: &SnapshotId, generation: u64) -> Result<bool, StoreError> {
        let Some(summary) = self.known(id).ok().filter(|k| k.packed().is_some()).and_then(|k| k.summary) else { return Ok(false) };
        let dir = self.layout.cached(id, generation);
        for file in &summary.memory {
            let found = self.fs.stat_below(&dir, &file.path)?;
            if found.is_none_or(|meta| (meta.size, meta.mtime_ns, meta.mode) != (file.size, file.mtime_ns, 0o444)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
