//! What a tree takes and what unlinking it would free: names counted by inode, extents that others share left out.
//!
//! Both change with what others do to their files, so they are measured when somebody asks, and remembered for a while
//! for listings.

use super::fs::{Below, FileType, Fs, FsError};
use super::open::Store;
use super::{StoreError, par};
use crate::ids::SnapshotId;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Measured sizes, with the time since boot at which they were true.
#[derive(Debug, Default)]
pub(super) struct SizeCache(Mutex<HashMap<SnapshotId, (Duration, u64)>>);

/// What unlinking everything below and at `root` would free, bytes: no file that has a name elsewhere, no extent that
/// another file has. Blocks of the file system's own tables are not counted. None for a path that is not there.
///
/// # Errors
/// [`FsError`] if something in the tree cannot be examined.
pub fn reclaimable(fs: &Fs, root: &Path) -> Result<u64, FsError> {
    reclaimable_beside(fs, root, &|_, _| Ok(0))
}

/// How many names of a file, by its path and inode, lie somewhere else and go with the tree.
type Beside<'a> = dyn Fn(&Path, (u64, u64)) -> Result<u64, FsError> + 'a;

/// The same, with names that go with the tree.
fn reclaimable_beside(fs: &Fs, root: &Path, beside: &Beside<'_>) -> Result<u64, FsError> {
    let mut below = match Below::open(fs, root) {
        Ok(below) => below,
        Err(e) if e.is_not_found() => return Ok(0),
        Err(e) => return Err(e),
    };
    let found = fs.walk(&mut below, &mut |_, _| false)?;
    let mut names: HashMap<(u64, u64), u64> = HashMap::new();
    for file in found.iter().filter(|file| file.meta.kind != FileType::Directory) {
        *names.entry(file.meta.file_id).or_default() += 1;
    }
    let mut bytes = 0_u64;
    // In the order of the walk: neighbours are opened in one directory.
    for file in &found {
        let allocated = file.meta.allocated;
        if file.meta.kind == FileType::Directory {
            bytes += allocated;
        } else if let Some(count) = names.remove(&file.meta.file_id) {
            if file.meta.links > count && file.meta.links > count + beside(&file.path, file.meta.file_id)? {
                continue;
            }
            // A file of ours that others write to at this moment is measured as it was.
            let shared = if file.meta.kind == FileType::Regular && allocated > 0 { shared(fs, &mut below, &file.path)? } else { 0 };
            bytes += allocated.saturating_sub(shared);
        }
    }
    Ok(bytes)
}

fn shared(fs: &Fs, below: &mut Below<'_>, path: &Path) -> Result<u64, FsError> {
    let full = below.path_of(path);
    match below.place(path).and_then(|place| fs.open_file(place)) {
        Ok(file) => fs.shared_bytes(&file, &full),
        Err(e) if e.is_replaced() => Ok(0),
        Err(e) => Err(e),
    }
}

/// What everything below `root` takes, bytes, each file once.
///
/// # Errors
/// [`FsError`] if something in it cannot be examined.
pub fn allocated(fs: &Fs, root: &Path) -> Result<u64, FsError> {
    let found = fs.walk(&mut Below::open(fs, root)?, &mut |_, _| false)?;
    let each_once: HashMap<(u64, u64), u64> = found.iter().map(|file| (file.meta.file_id, file.meta.allocated)).collect();
    Ok(each_once.into_values().fold(0, u64::saturating_add))
}

impl Store {
    /// Forgets what was measured of a snapshot: it has changed.
    pub(super) fn forget_sizes(&self, id: &SnapshotId) {
        self.sizes.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// The same of many snapshots, in their order, measured on several threads; 0 for one that cannot be measured.
    #[must_use]
    pub fn reclaimable_of(&self, ids: &[SnapshotId], max_age: Duration, threads: usize) -> Vec<u64> {
        par::each(threads, ids, || (), |(), id| self.reclaimable_bytes(id, max_age).unwrap_or(0)).collect()
    }

    /// What removing a snapshot would free now, bytes, measured not longer ago than `max_age`.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn reclaimable_bytes(&self, id: &SnapshotId, max_age: Duration) -> Result<u64, StoreError> {
        let now = self.clock.since_boot();
        let lock = || self.sizes.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, bytes)) = lock().get(id).filter(|(at, _)| now.saturating_sub(*at) < max_age) {
            debug_assert!(*at <= now, "the boot clock does not step");
            return Ok(*bytes);
        }
        let pooled = self.index().get(id).map_or(0, |known| known.pool);
        // The ready pool's links of memory go with the snapshot.
        let in_pool = |path: &Path, file_id| match (pooled, path.strip_prefix("data")) {
            (1.., Ok(path)) => super::pool::links(&self.fs, &self.layout, &[path.to_owned()], file_id),
            _ => Ok(0),
        };
        let mut bytes = reclaimable_beside(&self.fs, &self.layout.snapshot(id), &in_pool)?;
        if self.packed(id).is_some() {
            bytes += reclaimable(&self.fs, &self.layout.cache_of(id))?;
        }
        let mut known = lock();
        // Those that are gone are not worth a line of code: all go, now and then.
        if known.len() > 200_000 {
            known.clear();
        }
        known.insert(id.clone(), (now, bytes));
        Ok(bytes)
    }
}
