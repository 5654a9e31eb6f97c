//! Each snapshot against its manifest: every name, type, size, mode, link and digest.

use super::Walk;
use crate::ids::SnapshotId;
use crate::snapshot::digest::digest_file;
use crate::store::fs::{Below, FileType, Found, Meta};
use crate::store::layout::Layout;
use crate::store::manifest::{Entry, FileNode, Manifest, Node};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Snapshots whose manifest can be read, with their directories.
pub(super) type Snapshots = BTreeMap<SnapshotId, (PathBuf, Manifest)>;

impl Walk<'_> {
    /// All snapshots of the store.
    pub(super) fn snapshots(&mut self) -> Snapshots {
        let mut snapshots = Snapshots::new();
        let dir = self.layout.snapshots();
        let entries = match self.fs.list_if_there(&dir) {
            Ok(entries) => entries,
            Err(e) => {
                self.error("store.unreadable", &dir, e.to_string());
                return snapshots;
            }
        };
        for entry in entries {
            let path = dir.join(&entry.name);
            let Some(Ok(id)) = entry.name.to_str().map(SnapshotId::parse) else {
                self.warn("name.strange", &path, "its name is not a snapshot id");
                continue;
            };
            self.found.snapshots += 1;
            let manifest = Layout::manifest_in(&path);
            match Manifest::read(self.fs, &manifest, &id) {
                Ok(manifest) => {
                    self.tree(&Layout::data_in(&path), &manifest);
                    snapshots.insert(id, (path, manifest));
                }
                Err(e) => self.error("manifest.unreadable", &manifest, e.to_string()),
            }
        }
        snapshots
    }

    fn tree(&mut self, data: &Path, manifest: &Manifest) {
        let walked = Below::open(self.fs, data).and_then(|mut below| self.fs.walk(&mut below, &mut |_, _| false));
        let found: HashMap<PathBuf, Meta> = match walked {
            Ok(found) => found.into_iter().map(|Found { path, meta, .. }| (path, meta)).collect(),
            Err(e) => return self.error("data.unreadable", data, e.to_string()),
        };
        let known: HashMap<&Path, &Entry> = manifest.entries.iter().map(|e| (e.path.as_path(), e)).collect();
        let mut extra: Vec<&PathBuf> = found.keys().filter(|p| !p.as_os_str().is_empty() && !known.contains_key(p.as_path())).collect();
        extra.sort();
        for path in extra {
            self.error("file.extra", &data.join(path), "it is not in the manifest");
        }
        for entry in manifest.entries.iter().filter(|e| !e.path.as_path().as_os_str().is_empty()) {
            let path = data.join(entry.path.as_path());
            match found.get(entry.path.as_path()) {
                None => self.error("file.missing", &path, "the manifest has it"),
                Some(meta) => self.entry(&path, entry, meta, &found),
            }
        }
    }

    fn entry(&mut self, path: &Path, entry: &Entry, meta: &Meta, found: &HashMap<PathBuf, Meta>) {
        let wanted = match &entry.node {
            Node::Dir => FileType::Directory,
            Node::Symlink(_) => FileType::Symlink,
            Node::File(_) | Node::Hardlink(_) => FileType::Regular,
        };
        if meta.kind != wanted {
            return self.error("type.differs", path, format!("it is a {:?}, and was a {wanted:?}", meta.kind));
        }
        match &entry.node {
            Node::Dir => {}
            Node::Symlink(target) => match self.fs.read_link(path) {
                Ok(now) if now == target.as_os_str() => {}
                Ok(now) => self.error("link.differs", path, format!("it leads to {}", now.display())),
                Err(e) => self.error("file.unreadable", path, e.to_string()),
            },
            Node::Hardlink(first) => {
                if found.get(first.as_path()).is_none_or(|other| other.file_id != meta.file_id) {
                    self.error("link.differs", path, format!("it is no longer the same file as {}", first.as_path().display()));
                }
            }
            Node::File(file) => self.file(path, entry, file, meta),
        }
    }

    fn file(&mut self, path: &Path, entry: &Entry, file: &FileNode, meta: &Meta) {
        if file.memory && meta.mode & 0o222 != 0 {
            self.error("memory.writable", path, format!("its mode is {:o}: forks share it", meta.mode));
        } else if meta.mode != entry.stored_mode() {
            self.warn("mode.differs", path, format!("it is {:o}, and was {:o}", meta.mode, entry.stored_mode()));
        }
        if meta.size != file.size {
            return self.error("size.differs", path, format!("it is {} bytes, and was {}", meta.size, file.size));
        }
        if file.memory && meta.mtime_ns != entry.mtime_ns {
            self.error("mtime.differs", path, "somebody wrote to it");
        }
        let digest = self
            .fs
            .open_file(path)
            .map_err(|e| e.to_string())
            .and_then(|open| digest_file(self.fs, &open, path, file.size, self.flow).map_err(|e| e.to_string()));
        match digest {
            Ok(digest) if digest == file.digest => self.found.bytes += file.size,
            Ok(_) => self.error("digest.differs", path, "its contents are not what was written"),
            Err(e) => self.error("file.unreadable", path, e),
        }
    }
}
