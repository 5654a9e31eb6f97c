//! The digests of a snapshot that was published without all of them: read, checked, written down together.
//!
//! Nothing is pinned and no lock is held meanwhile: a snapshot that is removed is not waited for, its digests are given up.
//! A stop at any moment leaves the snapshot as it was, pending, and the next start asks for it again. Written down is only
//! what was read of files with the length and time of the manifest, before, after, and once more under the lock.

use super::copy::{DataError, Flow, Progress};
use super::digest::digest_file;
use crate::ids::SnapshotId;
use crate::store::fs::{Below, FsError};
use crate::store::layout::Layout;
use crate::store::manifest::{Entry, Manifest, TextPath};
use crate::store::{Store, StoreError};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// What became of a snapshot's pending digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Late {
    /// They are there; of so many files, with so many bytes of data. None: nothing was pending.
    Made {
        /// Files.
        files: u64,
        /// Bytes read.
        bytes: u64,
    },
    /// A file is not the one that the snapshot was published with.
    Changed {
        /// Which, and what about it.
        why: String,
    },
    /// The snapshot was removed, or failed another check meanwhile.
    Gone,
}

/// Stops the reading when nobody wants it any more.
struct Watch<'a> {
    store: &'a Store,
    id: &'a SnapshotId,
    outer: Flow<'a>,
    bytes: std::sync::atomic::AtomicU64,
    is_over: AtomicBool,
}

impl Watch<'_> {
    fn is_wanted(&self) -> bool {
        self.store.index().get(self.id).is_some_and(crate::store::Known::wants_digests)
    }
}

impl Progress for Watch<'_> {
    fn total(&self, bytes: u64) {
        self.outer.progress.total(bytes);
    }

    fn advance(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.outer.progress.advance(bytes);
        self.store.fs.rest_after_copying(bytes, self.outer.cancelled);
        if self.outer.is_cancelled() || !self.is_wanted() {
            self.is_over.store(true, Ordering::Relaxed);
        }
    }
}

/// Makes the digests that a snapshot lacks.
///
/// # Errors
/// [`DataError::Cancelled`] if the work was told to stop; a [`StoreError`] if they could not be read or written down. They
/// are still pending then.
pub fn hash_late(store: &Store, id: &SnapshotId, flow: Flow<'_>) -> Result<Late, LateError> {
    let manifest = match store.manifest(id) {
        Ok(manifest) => manifest,
        Err(StoreError::NoSnapshot { .. }) => return Ok(Late::Gone),
        Err(e) => return Err(e.into()),
    };
    let watch = Watch { store, id, outer: flow, bytes: 0.into(), is_over: AtomicBool::new(false) };
    let inner = Flow { progress: &watch, cancelled: &watch.is_over, ..flow };
    let gone_or = |late: Late| if watch.is_wanted() { late } else { Late::Gone };
    let files = match read(store, &manifest, inner) {
        Ok(Ok(files)) => files,
        Ok(Err(why)) => return Ok(gone_or(Late::Changed { why })),
        Err(LateError::Data(DataError::Cancelled)) if !flow.is_cancelled() => return Ok(Late::Gone),
        Err(e) => return if watch.is_wanted() { Err(e) } else { Ok(Late::Gone) },
    };
    let guard = store.lock_snapshot(id);
    if !watch.is_wanted() {
        return Ok(Late::Gone);
    }
    // They may have been read for minutes.
    if let Some(why) = first_changed(store, &manifest)? {
        return Ok(Late::Changed { why });
    }
    let made = Late::Made { files: files.len() as u64, bytes: watch.bytes.load(Ordering::Relaxed) };
    store.set_digests(&guard, &manifest, files)?;
    Ok(made)
}

/// Why digests were not made.
#[derive(Debug, thiserror::Error)]
pub enum LateError {
    /// A file could not be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<FsError> for LateError {
    fn from(e: FsError) -> Self {
        Self::Data(e.into())
    }
}

type Digests = BTreeMap<TextPath, String>;

/// Memory that was compressed since has its digest in that mark; its raw file is no longer there.
fn of_packed(store: &Store, id: &SnapshotId) -> Digests {
    let compression = store.packed(id);
    let files = compression.iter().flat_map(|compression| compression.packed().unwrap_or_default());
    files.map(|file| (file.path.clone(), file.digest.clone())).collect()
}

/// The digests of all files that lack theirs; the other `Err` says which file is not the manifest's.
fn read(store: &Store, manifest: &Manifest, flow: Flow<'_>) -> Result<Result<Digests, String>, LateError> {
    let fs = &store.fs;
    let packed = of_packed(store, &manifest.id);
    let data = Layout::data_in(&store.layout.snapshot(&manifest.id));
    let mut below = Below::open(fs, &data)?;
    let mut files = Digests::new();
    let to_read = manifest.pending().filter(|(entry, _)| !packed.contains_key(&entry.path)).map(|(_, file)| file.data.unwrap_or(file.size));
    flow.progress.total(to_read.fold(0, u64::saturating_add));
    for (entry, file) in manifest.pending() {
        if let Some(digest) = packed.get(&entry.path) {
            files.insert(entry.path.clone(), digest.clone());
            continue;
        }
        let path = entry.path.as_path();
        let full = below.path_of(path);
        let open = match below.place(path).and_then(|place| fs.open_file(place)) {
            Ok(open) => open,
            Err(e) if e.is_replaced() => return Ok(Err(format!("{}: {}", full.display(), e.source.desc()))),
            Err(e) => return Err(e.into()),
        };
        let is_right = || fs.stat_open(&open, &full).map(|meta| entry.is_unchanged(&meta));
        if !is_right()? {
            return Ok(Err(changed(&full)));
        }
        let digest = match digest_file(fs, &open, &full, file.size, flow) {
            Ok(digest) => digest,
            Err(DataError::Short { path }) => return Ok(Err(changed(&path))),
            Err(e) => return Err(e.into()),
        };
        if !is_right()? {
            return Ok(Err(changed(&full)));
        }
        files.insert(entry.path.clone(), digest);
    }
    Ok(Ok(files))
}

/// The first file whose length or time is not the manifest's.
fn first_changed(store: &Store, manifest: &Manifest) -> Result<Option<String>, FsError> {
    let data = Layout::data_in(&store.layout.snapshot(&manifest.id));
    let mut below = Below::open(&store.fs, &data)?;
    let packed = of_packed(store, &manifest.id);
    for (entry, _) in manifest.pending().filter(|(entry, _)| !packed.contains_key(&entry.path)) {
        let is_right = |entry: &Entry, below: &mut Below<'_>| {
            let found = below.place(entry.path.as_path()).and_then(|place| store.fs.stat_if_there(place))?;
            Ok::<_, FsError>(found.is_some_and(|meta| entry.is_unchanged(&meta)))
        };
        if !is_right(entry, &mut below)? {
            return Ok(Some(changed(&below.path_of(entry.path.as_path()))));
        }
    }
    Ok(None)
}

fn changed(path: &Path) -> String {
    format!("{}: its length or time is not the manifest's, and it had no digest yet", path.display())
}
