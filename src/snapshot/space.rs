//! Whether a snapshot would fit, asked before any byte of it is written.

use crate::config::{Reserve, Skip};
use crate::ids::SnapshotId;
use crate::store::Store;
use crate::store::fs::{Below, FileType, FsError};
use crate::store::instances::{Standing, standing};
use crate::store::layout::Layout;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// A snapshot that would not fit, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// What it would take.
    pub needed: u64,
    /// What is free on the store's file system.
    pub free: u64,
    /// How much of that is to stay free.
    pub reserve: u64,
}

/// Whether a snapshot of `source` would fit now, beside what is to stay free; `None` if it would. Where files can be
/// reflinked a copy takes nothing; elsewhere it takes what the files have allocated, but for memory that is linked.
///
/// # Errors
/// [`FsError`] if the file system or the source cannot be examined.
pub fn shortage(store: &Store, source: &Path, skip: &Skip, reserve: Reserve) -> Result<Option<Shortage>, FsError> {
    shortage_for(store, source, skip, reserve, store.can_reflink())
}

/// The same for a tree that may lie somewhere else: whether its files can be reflinked is the caller's to know.
///
/// # Errors
/// [`FsError`], likewise.
pub fn shortage_for(store: &Store, source: &Path, skip: &Skip, reserve: Reserve, shares: bool) -> Result<Option<Shortage>, FsError> {
    let space = store.fs.space(store.layout.store())?;
    let reserve = reserve.of(space.size);
    let needed = if shares { 0 } else { needed(store, source, skip)? };
    let fits = space.free >= needed.saturating_add(reserve);
    Ok((!fits).then_some(Shortage { needed, free: space.free, reserve }))
}

fn needed(store: &Store, source: &Path, skip: &Skip) -> Result<u64, FsError> {
    let mut below = match Below::open(&store.fs, source) {
        Ok(below) => below,
        // Whoever takes it says so better.
        Err(e) if e.is_not_found() => return Ok(0),
        Err(e) => return Err(e),
    };
    let linked = match standing(&store.fs, source)? {
        Standing::Fork(record) => memory_of(store, &record.fork_of_snapshot),
        _ => HashSet::new(),
    };
    let mut is_left_out = |path: &Path, meta: &crate::store::fs::Meta| skip.rule_for(path, meta.kind == FileType::Directory).is_some();
    let found = store.fs.walk(&mut below, &mut is_left_out)?;
    let files = found.iter().filter(|f| f.meta.kind == FileType::Regular && !linked.contains(&f.meta.file_id));
    let each_once: HashMap<_, u64> = files.map(|f| (f.meta.file_id, f.meta.allocated)).collect();
    Ok(each_once.into_values().fold(0, u64::saturating_add))
}

/// The inodes of a snapshot's memory files.
fn memory_of(store: &Store, id: &SnapshotId) -> HashSet<(u64, u64)> {
    let Some(summary) = store.known(id).ok().and_then(|known| known.summary) else { return HashSet::new() };
    let data = Layout::data_in(&store.layout.snapshot(id));
    let inode = |path: &Path| store.fs.stat_below(&data, path).ok().flatten().map(|meta| meta.file_id);
    summary.memory.iter().filter_map(|file| inode(&file.path)).collect()
}
