//! Who else has a link to a snapshot's memory file: a fork that was moved out of the root, or a copy by `cp -al`, has
//! no ref, but its link shows in the file's count of names.

use super::{Reclaim, ReclaimError};
use crate::ids::SnapshotId;
use crate::store::Summary;
use crate::store::fs::{Below, FileType, Found};
use crate::store::layout::Layout;
use crate::store::pool;
use std::path::{Path, PathBuf};

impl Reclaim {
    /// A memory file of the snapshot with more names than snapshots and forks that we know have.
    pub(super) fn unknown_link(&self, summary: &Summary) -> Result<Option<PathBuf>, ReclaimError> {
        let data = Layout::data_in(&self.store.layout.snapshot(&summary.id));
        for memory in &summary.memory {
            let Some(meta) = self.store.fs.stat_below(&data, &memory.path)? else { continue };
            if meta.links > 1 && meta.links > self.known_links(meta.file_id)? {
                // What the pool dropped may have been unlinked meanwhile: only a link that is there before and after is somebody's.
                let now = self.store.fs.stat_below(&data, &memory.path)?.map_or(0, |now| now.links);
                if now.min(meta.links) > self.known_links(meta.file_id)? {
                    return Ok(Some(data.join(&memory.path)));
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

    /// How many names of an inode we know: in snapshots, in the trash, in forks, and in the ready pool. Walks them all; asked only of a
    /// file that has several names and no ref.
    fn known_links(&self, file_id: (u64, u64)) -> Result<u64, ReclaimError> {
        let summaries: Vec<_> = self.store.index().present().filter_map(|(_, known)| known.summary.clone()).collect();
        let has =
            |root: &Path, path: &Path| self.store.fs.stat_below(root, path).ok().flatten().is_some_and(|meta| meta.file_id == file_id);
        let mut paths: Vec<PathBuf> = summaries.iter().flat_map(|s| s.memory.iter().map(|m| m.path.clone())).collect();
        paths.sort();
        paths.dedup();
        let mut count = 0;
        for summary in &summaries {
            let data = Layout::data_in(&self.store.layout.snapshot(&summary.id));
            count += summary.memory.iter().filter(|m| has(&data, &m.path)).count() as u64;
        }
        for entry in self.store.trash_entries(&self.store.layout.trash())? {
            let data = Layout::data_in(&entry.path);
            count += paths.iter().filter(|p| has(&data, p)).count() as u64;
        }
        let scan = self.forks.scan()?;
        for (dir, _) in scan.carriers(&self.store.layout).into_values().flatten() {
            count += paths.iter().filter(|p| has(&dir, p)).count() as u64;
        }
        Ok(count + pool::links(&self.store.fs, &self.store.layout, &paths, file_id)?)
    }
}
