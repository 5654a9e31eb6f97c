//! The digests of a snapshot's files: small ones side by side, large ones block by block, each inode once.

use super::Check;
use super::snapshots::full;
use crate::snapshot::copy::{DataError, Flow};
use crate::snapshot::digest::{BLOCK, data_below, digest_file};
use crate::store::fs::{Below, Fs, Meta};
use crate::store::manifest::{Entry, FileNode};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

impl Check<'_> {
    /// Hashes files, whose lengths are right, and compares.
    pub(super) fn digests(&mut self, data: &Path, files: &[(&Entry, &FileNode, Meta)]) {
        let (fs, flow) = (self.fs, self.flow);
        let key = |meta: &Meta| (meta.file_id, meta.size);
        let unknown: Vec<_> = files.iter().filter(|(.., meta)| !self.digests.contains_key(&key(meta))).collect();
        flow.progress.total(unknown.iter().map(|(.., meta)| meta.allocated.min(meta.size)).sum());
        let (small, large): (Vec<_>, Vec<_>) = unknown.into_iter().partition(|(_, file, _)| file.size <= BLOCK);
        let one = |index: usize, flow: Flow<'_>, of: &[&(&Entry, &FileNode, Meta)]| {
            let Some((entry, file, _)) = of.get(index) else { return Ok(None) };
            match digest(fs, data, entry.path.as_path(), file.size, flow) {
                Err(DataError::Cancelled) => Err(()),
                result => Ok(Some((entry.path.as_path().to_owned(), result))),
            }
        };
        let alone = Flow { threads: 1, ..flow };
        let job = |(): &mut (), index: usize| if flow.is_cancelled() { Err(()) } else { one(index, alone, &small) };
        let mut done = if self.is_stopped { Err(()) } else { flow.each(small.len(), || (), job) };
        for index in 0..large.len() {
            let Ok(all) = &mut done else { break };
            match one(index, flow, &large) {
                Ok(result) => all.push(result),
                Err(()) => done = Err(()),
            }
        }
        let Ok(done) = done else { return self.stopped() };
        let mut fresh: HashMap<PathBuf, _> = done.into_iter().flatten().collect();
        for (entry, file, meta) in files {
            let at = full(data, entry.path.as_path());
            let digest = match fresh.remove(entry.path.as_path()) {
                Some(Ok(digest)) => digest,
                Some(Err(e)) => {
                    self.report.error("file.unreadable", &at, e.to_string());
                    continue;
                }
                None => self.digests.get(&key(meta)).cloned().unwrap_or_default(),
            };
            if digest != file.digest {
                let now = data_now(fs, data, entry.path.as_path(), file.size);
                match file.data.zip(now).filter(|(was, now)| now < was) {
                    Some((was, now)) => {
                        let what = format!("{now} bytes of it are data, and {was} were: holes have come where data was");
                        self.report.error("hole.where_data_was", &at, what);
                    }
                    None => self.report.error("digest.differs", &at, format!("{digest}, and was {}", file.digest)),
                }
            }
            self.report.bytes = self.report.bytes.saturating_add(file.size);
            if meta.links > 1 {
                self.digests.insert(key(meta), digest);
            }
        }
    }

    /// Says once that nothing is hashed any more.
    pub(super) fn stopped(&mut self) {
        if !std::mem::replace(&mut self.is_stopped, true) {
            self.report.warn("verify.stopped", self.layout.store(), "it was stopped: not every digest was compared");
        }
    }
}

fn digest(fs: &Fs, data: &Path, path: &Path, size: u64, flow: Flow<'_>) -> Result<String, DataError> {
    let mut below = Below::open(fs, data)?;
    let file = fs.open_file(below.place(path)?)?;
    digest_file(fs, &file, &full(data, path), size, flow)
}

/// How many bytes of a file are no hole; `None` if that cannot be told.
fn data_now(fs: &Fs, data: &Path, path: &Path, size: u64) -> Option<u64> {
    let mut below = Below::open(fs, data).ok()?;
    data_below(fs, &mut below, path, size).ok()
}
