//! Who else has a link to a snapshot's memory file: a fork that was moved out of the root, or a copy by `cp -al`, has
//! no ref, but its link shows in the file's count of names.

use super::{Reclaim, ReclaimError};
use crate::ids::SnapshotId;
use crate::store::Summary;
use crate::store::fs::{Below, FileType, Found};
use crate::store::layout::Layout;
use crate::store::pool;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// How many names of each memory file are known, once somebody had to ask: for one batch of cuts, whose locks are held.
#[derive(Debug, Default)]
pub(super) struct KnownLinks(Option<HashMap<(u64, u64), u64>>);

impl Reclaim {
    /// A memory file of the snapshot with more names than snapshots and forks that we know have.
    pub(super) fn unknown_link(&self, summary: &Summary, known: &mut KnownLinks) -> Result<Option<PathBuf>, ReclaimError> {
        // Of a packed snapshot whose raw files are nowhere, forks have inodes of their own.
        let dir = self.store.memory_dir(&summary.id);
        for memory in &summary.memory {
            let Some(meta) = self.store.fs.stat_below(&dir, &memory.path)? else { continue };
            if meta.links > 1 && meta.links > self.known_links(known, &memory.path, meta.file_id)? {
                // What the pool dropped may have been unlinked meanwhile: only a link that is there before and after is somebody's.
                let now = self.store.fs.stat_below(&dir, &memory.path)?.map_or(0, |now| now.links);
                if now > self.known_links(known, &memory.path, meta.file_id)? {
                    return Ok(Some(dir.join(&memory.path)));
                }
            }
        }
        Ok(None)
    }

    /// A file of a snapshot without a manifest that has more names than the snapshot: somebody may need it.
    pub(super) fn any_link(&self, id: &SnapshotId) -> Result<Option<PathBuf>, ReclaimError> {
        let data = Layout::data_in(&self.store.layout.snapshot(id));
        let mut below = match Below::open(&self.store.fs, data.as_path()) {
            Ok(below) => below,
            Err(e) if e.is_not_found() => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let found = self.store.fs.walk(&mut below, &mut |_, _| false)?;
        let names_here = |file: &Found| found.iter().filter(|f| f.meta.file_id == file.meta.file_id).count() as u64;
        for file in found.iter().filter(|f| f.meta.kind == FileType::Regular && f.meta.links > 1 && f.meta.links > names_here(f)) {
            let pooled = pool::links(&self.store.fs, &self.store.layout, std::slice::from_ref(&file.path), file.meta.file_id)?;
            if file.meta.links > names_here(file) + pooled {
                return Ok(Some(data.join(&file.path)));
            }
        }
        Ok(None)
    }

    /// How many names of an inode we know. They are all counted when the first file is asked for that has several names and
    /// no ref: a cut of many that share a file with each other and with forks must not walk everything for each of them. Those in
    /// the ready pool, which may be unlinked beside a cut, are counted for each file at its time: one that is counted and no
    /// longer there would hide somebody else's.
    fn known_links(&self, known: &mut KnownLinks, path: &Path, file_id: (u64, u64)) -> Result<u64, ReclaimError> {
        let counts = match &known.0 {
            Some(counts) => counts,
            None => known.0.insert(self.count_links()?),
        };
        let pooled = pool::links(&self.store.fs, &self.store.layout, &[path.to_owned()], file_id)?;
        Ok(counts.get(&file_id).copied().unwrap_or(0) + pooled)
    }

    /// All names of memory files: in snapshots, in the cache, in the trash, and in forks.
    fn count_links(&self) -> Result<HashMap<(u64, u64), u64>, ReclaimError> {
        let summaries: Vec<_> = self.store.index().present().filter_map(|(_, known)| known.summary.clone()).collect();
        let mut counts = HashMap::new();
        let mut count = |root: &Path, path: &Path| {
            // What cannot be looked at is not known.
            if let Ok(Some(meta)) = self.store.fs.stat_below(root, path) {
                *counts.entry(meta.file_id).or_insert(0) += 1;
            }
        };
        let mut paths: Vec<&PathBuf> = summaries.iter().flat_map(|summary| summary.memory.iter().map(|memory| &memory.path)).collect();
        paths.sort();
        paths.dedup();
        for summary in &summaries {
            let dir = self.store.memory_dir(&summary.id);
            summary.memory.iter().for_each(|memory| count(&dir, &memory.path));
        }
        for entry in self.store.trash_listed(&self.store.layout.trash())? {
            let data = Layout::data_in(&entry.path);
            paths.iter().for_each(|path| count(&data, path));
        }
        let scan = self.forks.scan()?;
        for (dir, _) in scan.carriers(&self.store.layout).into_values().flatten() {
            paths.iter().for_each(|path| count(&dir, path));
        }
        Ok(counts)
    }
}
