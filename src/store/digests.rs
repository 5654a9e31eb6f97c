//! Digests that are made after a snapshot was published: the mark `digests.json`, sealed as the manifest is.
//!
//! Where extents are shared a snapshot takes milliseconds, and reading all of it for its digests takes the rest. So it may
//! be published without them ([`FORMAT_PENDING`](super::manifest::FORMAT_PENDING)), and they come into this mark at once,
//! all together, when they are made. Whoever asks the store for a manifest gets both as one. A digest that is there is
//! right: nobody writes one that was not made of a file with the manifest's length and time.

use super::fs::Fs;
use super::index::Summary;
use super::layout::Layout;
use super::manifest::{FORMAT, Manifest, Node, RecordError, TextPath, seal, unseal};
use super::marks::Effect;
use super::open::{SnapshotGuard, Store};
use super::{StoreError, counters};
use crate::ids::SnapshotId;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The mark's name.
pub const MARK: &str = "digests";

/// As long as a manifest may be.
pub(super) const LIMIT: u64 = 512 << 20;

/// Digests by path, as the mark has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    format: u32,
    /// Whose files they are of.
    id: SnapshotId,
    /// When they were made.
    pub at: DateTime<Utc>,
    /// Of each file that was pending.
    pub files: BTreeMap<TextPath, String>,
}

impl Digests {
    /// Reads a mark; `None` if there is none.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn read(fs: &Fs, path: &Path, id: &SnapshotId) -> Result<Option<Self>, RecordError> {
        let bytes = match fs.read_small(path, LIMIT) {
            Ok(bytes) => bytes,
            Err(e) if e.is_not_found() => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let digests: Self = unseal(path, &bytes)?;
        if digests.id != *id {
            let why = format!("it is of {}", digests.id);
            return Err(RecordError::Damaged { path: path.to_owned(), why });
        }
        Ok(Some(digests))
    }

    /// Fills the digests that a manifest lacks; one that it has stands.
    pub fn fill(&self, manifest: &mut Manifest) {
        for entry in &mut manifest.entries {
            if let Node::File(file) = &mut entry.node
                && file.digest.is_empty()
                && let Some(digest) = self.files.get(&entry.path)
            {
                file.digest.clone_from(digest);
            }
        }
    }
}

/// Fills the digests that a manifest lacks from the snapshot's mark, if there is one.
///
/// # Errors
/// [`RecordError`] if the mark cannot be read: the manifest is as it was.
pub fn complete(fs: &Fs, layout: &Layout, manifest: &mut Manifest) -> Result<(), RecordError> {
    if manifest.pending().next().is_none() {
        return Ok(());
    }
    if let Some(digests) = Digests::read(fs, &layout.mark(&manifest.id, MARK), &manifest.id)? {
        digests.fill(manifest);
    }
    Ok(())
}

/// What the mark does to what is known of its snapshot. It was written for all files at once that lacked a digest.
///
/// # Errors
/// [`RecordError`]: damaged, newer, or another snapshot's.
pub(super) fn effect(path: &Path, bytes: &[u8]) -> Result<Effect, RecordError> {
    let digests: Digests = unseal(path, bytes)?;
    let of = path.parent().and_then(Path::file_name);
    if of != Some(digests.id.as_str().as_ref()) {
        let why = format!("it is of {}", digests.id);
        return Err(RecordError::Damaged { path: path.to_owned(), why });
    }
    Ok(Box::new(move |known| {
        let Some(summary) = known.summary.as_mut().filter(|summary| summary.digests_pending) else { return };
        let summary = Arc::make_mut(summary);
        for file in summary.memory.iter_mut().filter(|file| file.digest.is_empty()) {
            file.digest = digests.files.get(&TextPath::new(file.path.as_path())).cloned().unwrap_or_default();
        }
        summary.digests_pending = summary.memory.iter().any(|file| file.digest.is_empty());
    }))
}

impl Store {
    /// Writes down digests that a manifest lacks, beside those that the mark has already; durable on return. The caller has
    /// looked, under the same lock, that the files are those of the manifest. Also with none that are new: an attempt whose
    /// sync failed has left a mark that is whole and may not outlast a power cut.
    ///
    /// # Errors
    /// [`StoreError`]; also if the snapshot is gone, or if a newer version has written the mark. They stay pending.
    pub fn set_digests(&self, guard: &SnapshotGuard, manifest: &Manifest, files: BTreeMap<TextPath, String>) -> Result<(), StoreError> {
        let id = guard.key();
        self.known(id)?;
        let path = self.layout.mark(id, MARK);
        let mut all = match Digests::read(&self.fs, &path, id) {
            Ok(there) => there.map(|digests| digests.files).unwrap_or_default(),
            Err(RecordError::Damaged { .. }) => BTreeMap::new(),
            Err(e) => return Err(e.into()),
        };
        all.extend(files);
        let digests = Digests { format: FORMAT, id: id.clone(), at: self.clock.now(), files: all };
        counters::write_record(&self.fs, &path, &digests)?;
        let mut whole = manifest.clone();
        digests.fill(&mut whole);
        self.change(id, |known| known.summary = Some(Arc::new(Summary::from(&whole))));
        Ok(())
    }
}

/// The bytes of a mark, for tests of readers.
///
/// # Errors
/// If it cannot be put into words.
#[doc(hidden)]
pub fn sealed(id: &SnapshotId, at: DateTime<Utc>, files: BTreeMap<TextPath, String>) -> Result<Vec<u8>, serde_json::Error> {
    seal(&Digests { format: FORMAT, id: id.clone(), at, files })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::manifest::{FORMAT_PENDING, FileNode};

    fn manifest(digests: &[(&str, &str)]) -> Manifest {
        let file = |(path, digest): &(&str, &str)| {
            serde_json::json!({
                "path": path, "mode": 0, "uid": 0, "gid": 0, "mtime_ns": 0,
                "node": { "file": { "size": 1, "digest": digest } },
            })
        };
        let entries: Vec<_> = digests.iter().map(file).collect();
        serde_json::from_value(serde_json::json!({
            "format": FORMAT_PENDING, "id": "20261124-090347-aaaaaaaa", "seq": 1, "name": "a", "instance": "a", "source_dir": "/a",
            "policy": null, "slot": null, "parent": null, "kind": "stopped", "driver": "plain",
            "created_at": "2026-11-24T09:03:47Z", "order_at": "2026-11-24T09:03:47Z", "tags": {}, "size_bytes": 1,
            "allocated_bytes": 1, "entries": entries, "skipped": [],
        }))
        .unwrap()
    }

    fn digests_of(manifest: &Manifest) -> Vec<&str> {
        manifest
            .entries
            .iter()
            .map(|entry| if let Node::File(FileNode { digest, .. }) = &entry.node { digest.as_str() } else { "" })
            .collect()
    }

    #[test]
    fn a_mark_fills_what_is_pending_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (fs, layout) = (Fs::real(), Layout::new(dir.path(), &dir.path().join("vms")));
        let mut whole = manifest(&[("a", "blake3:a"), ("b", ""), ("c", "")]);
        complete(&fs, &layout, &mut whole).unwrap();
        assert_eq!(digests_of(&whole), ["blake3:a", "", ""], "there is no mark");
        let files = [("a", "blake3:other"), ("b", "blake3:b"), ("d", "blake3:d")];
        let files: BTreeMap<_, _> = files.map(|(path, digest)| (TextPath::new(path), digest.to_owned())).into();
        fs.mkdir(&layout.marks(), 0o700).unwrap();
        fs.mkdir(&layout.marks_of(&whole.id), 0o700).unwrap();
        let path = layout.mark(&whole.id, MARK);
        let bytes = sealed(&whole.id, DateTime::UNIX_EPOCH, files.clone()).unwrap();
        fs.write_new(&path, &bytes).unwrap();
        complete(&fs, &layout, &mut whole).unwrap();
        assert_eq!(digests_of(&whole), ["blake3:a", "blake3:b", ""]);
        assert_eq!(whole.pending().count(), 1);
        // Any other byte in it, or the mark of another snapshot, and it fills nothing.
        for at in (0..bytes.len() - 1).step_by(7) {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            fs.replace_record(&path, &bad).unwrap();
            let mut pending = manifest(&[("b", "")]);
            assert!(complete(&fs, &layout, &mut pending).is_err(), "byte {at}");
            assert_eq!(digests_of(&pending), [""]);
        }
        let other = SnapshotId::parse("20261124-090347-bbbbbbbb").unwrap();
        fs.replace_record(&path, &sealed(&other, DateTime::UNIX_EPOCH, files).unwrap()).unwrap();
        assert!(matches!(complete(&fs, &layout, &mut manifest(&[("b", "")])), Err(RecordError::Damaged { .. })));
    }
}
