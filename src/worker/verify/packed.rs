//! Packed memory files, against the manifest's digests; and the raw copies in the cache.

use super::Check;
use super::inodes::{Owner, Role};
use crate::ids::SnapshotId;
use crate::snapshot::copy::DataError;
use crate::snapshot::digest::digest_file;
use crate::snapshot::pack::{PackError, known_digest, unpack_file};
use crate::store::Compression;
use crate::store::compression::PackedFile;
use crate::store::layout::Layout;
use crate::store::manifest::{Entry, FileNode, Manifest, Node};
use std::path::{Path, PathBuf};

/// Whether an entry's file is not in the data because it is packed.
pub(super) fn is_packed(packed: Option<&Compression>, entry: &Entry) -> bool {
    packed.and_then(Compression::packed).unwrap_or_default().iter().any(|file| file.path == entry.path)
}

impl Check<'_> {
    /// The mark of a snapshot that is packed; one that cannot be read is a finding, and the raw files are looked for.
    pub(super) fn compression(&mut self, id: &SnapshotId) -> Option<Compression> {
        match Compression::read(self.fs, self.layout, id) {
            Ok(compression) => compression.filter(|compression| compression.packed().is_some()),
            Err(e) => {
                self.report.error_for_people("mark.unreadable", &self.layout.marks_of(id), e.to_string());
                None
            }
        }
    }

    /// Every packed file.
    pub(super) fn packed(&mut self, manifest: &Manifest, compression: &Compression, wanted: bool) {
        let dir = Layout::packed_in(&self.layout.snapshot(&manifest.id));
        let files = compression.packed().unwrap_or_default();
        for (entry, node) in manifest.memory_files() {
            match files.iter().find(|file| file.path == entry.path) {
                Some(file) => self.packed_file(&dir.join(&file.name), file, node, compression, wanted),
                None => self.report.error("file.missing", &dir, format!("{} is in no packed file", entry.path.as_path().display())),
            }
        }
        for entry in self.names(&dir) {
            if !files.iter().any(|file| entry.name == *file.name) {
                self.report.warn("file.extra", &dir.join(&entry.name), "the snapshot's mark does not have it");
            }
        }
    }

    fn packed_file(&mut self, path: &Path, file: &PackedFile, node: &FileNode, compression: &Compression, wanted: bool) {
        match self.fs.stat_if_there(path) {
            Ok(Some(meta)) if meta.size == file.bytes => {}
            Ok(Some(meta)) => return self.report.error("size.differs", path, format!("{} bytes, and was {}", meta.size, file.bytes)),
            Ok(None) => return self.report.error("file.missing", path, "the snapshot's memory is in it"),
            Err(e) => return self.report.error("file.unreadable", path, e.to_string()),
        }
        if !wanted || self.is_stopped {
            return;
        }
        let opened = self.fs.open_file(path).map_err(PackError::from);
        let unpacked = opened.and_then(|from| unpack_file(self.fs, (&from, path), None, node.size, compression.method, self.flow));
        match unpacked {
            Ok(unpacked) => {
                self.report.bytes = self.report.bytes.saturating_add(node.size);
                let wanted = known_digest(&node.digest).unwrap_or(&file.digest);
                if wanted != unpacked.digest {
                    let what = format!("what it holds has the digest {}, and had {wanted}", unpacked.digest);
                    self.report.error("digest.differs", path, what);
                }
            }
            Err(PackError::Cancelled) => self.stopped(),
            Err(e @ PackError::Damaged { .. }) => self.report.error("digest.differs", path, e.to_string()),
            Err(e) => self.report.error("file.unreadable", path, e.to_string()),
        }
    }

    /// Raw copies: forks are linked to them, so they must be what the manifest has.
    pub(super) fn cache(&mut self) {
        let cache = self.layout.cache();
        for entry in self.names(&cache) {
            let dir = cache.join(&entry.name);
            let place = self.report.place();
            match entry.name.to_str().map(SnapshotId::parse) {
                Some(Ok(id)) => self.cache_of(&id, &dir),
                _ => self.report.warn("cache.stray", &dir, "its name is not a snapshot id"),
            }
            // It may go at any moment.
            if self.is_gone(&dir) {
                self.report.back_to(place);
            }
        }
    }

    fn cache_of(&mut self, id: &SnapshotId, dir: &Path) {
        let memory = self.memory.get(id).cloned().unwrap_or_default();
        let is_packed = self.present.contains(id) && self.compression(id).is_some();
        if !is_packed {
            self.report.warn("cache.stray", dir, "raw copies of a snapshot that is not compressed; the next start drops them");
        }
        let manifest = Manifest::read(self.fs, &Layout::manifest_in(&self.layout.snapshot(id)), id).ok();
        for entry in self.names(dir) {
            let generation = dir.join(&entry.name);
            let place = self.report.place();
            if let Some(found) = self.tree(&generation) {
                self.inodes.note(
                    &generation,
                    Owner::Cache,
                    &found,
                    |f| if memory.contains(&f.path) { Role::Memory } else { Role::Unknown },
                );
            }
            if let Some(manifest) = manifest.as_ref().filter(|_| is_packed) {
                manifest.memory_files().for_each(|(entry, node)| self.cached_file(&generation, entry, node, id));
            }
            if self.is_gone(&generation) {
                self.report.back_to(place);
            }
        }
    }

    /// What a memory file's digest is: the manifest may have been written before it was made, the mark never is.
    fn raw_digest(&mut self, id: &SnapshotId, entry: &Entry, node: &FileNode) -> Option<String> {
        if let Some(digest) = known_digest(&node.digest) {
            return Some(digest.to_owned());
        }
        let compression = self.compression(id)?;
        compression.packed()?.iter().find(|file| file.path == entry.path).map(|file| file.digest.clone())
    }

    fn cached_file(&mut self, dir: &Path, entry: &Entry, node: &FileNode, id: &SnapshotId) {
        let path: PathBuf = dir.join(entry.path.as_path());
        let why = match self.fs.stat_below(dir, entry.path.as_path()) {
            Ok(Some(meta)) if !entry.is_unchanged(&meta) => "its length or time is not the manifest's".to_owned(),
            Ok(Some(meta)) if meta.mode != 0o444 => format!("mode {:04o}: its forks share it, so nobody may write to it", meta.mode),
            Ok(Some(_)) if !(self.options.compare)(id) || self.is_stopped => return,
            Ok(Some(_)) => {
                let opened = self.fs.open_file(&path).map_err(DataError::from);
                match opened.and_then(|file| digest_file(self.fs, &file, &path, node.size, self.flow)) {
                    Ok(digest) => match self.raw_digest(id, entry, node).filter(|wanted| *wanted != digest) {
                        None => return,
                        Some(wanted) => format!("its digest is {digest}, and it should be {wanted}"),
                    },
                    Err(DataError::Cancelled) => return self.stopped(),
                    Err(e) => e.to_string(),
                }
            }
            Ok(None) => "it is missing".to_owned(),
            Err(e) => e.to_string(),
        };
        // The snapshot itself is well; what was linked is not.
        debug_assert!(matches!(entry.node, Node::File(_)), "memory is a file");
        self.report.error("cache.differs", &path, why);
    }
}
