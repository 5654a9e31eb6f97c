//! Snapshots: their manifests, and every file against them.

use super::Check;
use super::inodes::{Owner, Role};
use super::packed::is_packed;
use crate::ids::SnapshotId;
use crate::store::Compression;
use crate::store::digests::{Digests, MARK};
use crate::store::fs::{Below, FileType, Found, Meta};
use crate::store::layout::Layout;
use crate::store::manifest::{Entry, FileNode, Manifest, Node, RecordError};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// No manifest is longer.
const LIMIT: u64 = 512 << 20;

impl Check<'_> {
    /// Every snapshot in the store.
    pub(super) fn snapshots(&mut self) {
        for id in self.ids_in(&self.layout.snapshots()) {
            self.one_snapshot(id);
        }
    }

    /// One of them.
    pub(super) fn one_snapshot(&mut self, id: SnapshotId) {
        let place = self.report.place();
        let dir = self.layout.snapshot(&id);
        let wanted = (self.options.compare)(&id);
        let is_whole = self.snapshot(&id, &dir, wanted);
        if self.is_gone(&dir) {
            // It was cut meanwhile, and is looked at in the trash.
            return self.report.back_to(place);
        }
        if wanted && is_whole && !self.is_stopped {
            // One that is not is looked at again by a run that goes on here: it must report it as well.
            if !self.report.has_error_since(place) {
                (self.options.compared)(&id);
                self.sound.insert(id.clone());
            }
        }
        self.present.insert(id);
        self.report.snapshots += 1;
    }

    /// Looks at one; whether all its digests are there.
    fn snapshot(&mut self, id: &SnapshotId, dir: &Path, wanted: bool) -> bool {
        let mut manifest = self.manifest(id, dir);
        let is_whole = manifest.as_mut().is_some_and(|manifest| self.late_digests(manifest, dir));
        let data = Layout::data_in(dir);
        let mut place = self.report.place();
        let mut compression = self.compression(id);
        loop {
            let Some(found) = self.tree(&data) else { return is_whole };
            self.note_snapshot(id, &data, Owner::Snapshot, manifest.as_ref(), &found);
            if let Some(manifest) = &manifest {
                self.compare(manifest, &data, &found, (wanted, compression.as_ref()));
            }
            // It may have been compressed meanwhile: then its memory was looked for in the wrong place.
            let now = Compression::read(self.fs, self.layout, id).ok().flatten().filter(|now| now.packed().is_some());
            if now == compression {
                break;
            }
            self.report.back_to(std::mem::replace(&mut place, self.report.place()));
            compression = now;
        }
        is_whole
    }

    /// Fills in digests that were made after the snapshot was published; whether all are there now.
    fn late_digests(&mut self, manifest: &mut Manifest, dir: &Path) -> bool {
        if manifest.pending().next().is_none() {
            return true;
        }
        let path = self.layout.mark(&manifest.id, MARK);
        match Digests::read(self.fs, &path, &manifest.id) {
            Ok(digests) => digests.iter().for_each(|digests| digests.fill(manifest)),
            // No harm to the snapshot itself: they are as good as not made yet.
            Err(e) => self.report.warn("digests.unreadable", &path, format!("{e}; they are pending again")),
        }
        let pending = manifest.pending().count();
        if pending > 0 {
            let what =
                format!("{pending} of its files have no digest yet: damage to them cannot be found; the worker, or `once`, makes them");
            self.report.info("digests.pending", dir, what);
        }
        pending == 0
    }

    /// Snapshots in the trash: only which there are and what names their files have.
    pub(super) fn trashed_snapshots(&mut self) {
        let trash = self.layout.trash();
        if let Err(e) = crate::store::trash::unlinking(self.fs, self.layout) {
            let what = format!(
                "{e}; nothing in the trash is unlinked, and nothing comes back, until it is away: then what is half unlinked is not known as such"
            );
            self.report.error("trash.unreadable", &self.layout.unlinking(), what);
        }
        for entry in self.names(&trash) {
            let dir = trash.join(&entry.name);
            let name = entry.name.to_str().map(|name| name.strip_prefix("unlinking:").unwrap_or(name));
            let id = name.and_then(|name| name.rsplit_once('@')).map(|(what, _)| SnapshotId::parse(what));
            let Some(Ok(id)) = id else {
                self.report.warn("name.strange", &dir, "its name is not that of a removed snapshot; it stays for ever");
                continue;
            };
            // It may be half unlinked: nothing about it is a finding.
            let place = self.report.place();
            let manifest = self.manifest(&id, &dir);
            if let Some(found) = self.tree(&Layout::data_in(&dir)) {
                self.note_snapshot(&id, &Layout::data_in(&dir), Owner::Trashed, manifest.as_ref(), &found);
            }
            self.report.back_to(place);
            self.trashed.insert(id);
        }
    }

    /// Trees in the store's staging, and directories on their way in.
    pub(super) fn staging(&mut self) {
        let what = "a snapshot that is being taken, or what is left of one; the next start of the worker removes what is left";
        self.half_made(&self.layout.staging(), "staging.stray", what);
        let what = "a directory that is being moved into the store; one that was left here is whole, and the next import or start goes on";
        self.half_made(&self.layout.importing(), "importing.unfinished", what);
    }

    fn half_made(&mut self, parent: &Path, name: &'static str, what: &str) {
        for entry in self.names(parent) {
            let dir = parent.join(&entry.name);
            let place = self.report.place();
            if let Some(found) = self.tree(&dir) {
                self.inodes.note(&dir, Owner::Other, &found, |_| Role::Unknown);
            }
            self.report.back_to(place);
            if !self.is_gone(&dir) {
                self.report.warn(name, &dir, what);
            }
        }
    }

    /// A manifest, if it can be read.
    fn manifest(&mut self, id: &SnapshotId, dir: &Path) -> Option<Manifest> {
        let path = Layout::manifest_in(dir);
        let read = self.fs.read_small(&path, LIMIT).map_err(RecordError::from).and_then(|bytes| Manifest::unseal(&path, &bytes));
        match read {
            Ok(manifest) if manifest.id == *id => return Some(manifest),
            Ok(other) => self.report.error("manifest.foreign", &path, format!("it is the manifest of {}", other.id)),
            Err(e @ RecordError::Newer { .. }) => self.report.error("manifest.newer", &path, e.to_string()),
            Err(e) => self.report.error("manifest.unreadable", &path, e.to_string()),
        }
        None
    }

    /// Everything in a tree; `None` with a finding if that cannot be told.
    pub(super) fn tree(&mut self, root: &Path) -> Option<Vec<Found>> {
        let walked = Below::open(self.fs, root).and_then(|mut below| self.fs.walk(&mut below, &mut |_, _| false));
        match walked {
            Ok(found) => return Some(found),
            Err(e) if e.is_not_found() && e.path == root => self.report.error("file.missing", root, "the whole tree is missing"),
            Err(e) => self.report.error("tree.unreadable", root, e.to_string()),
        }
        None
    }

    /// Notes which names of which files a snapshot has, and which are memory.
    fn note_snapshot(&mut self, id: &SnapshotId, data: &Path, owner: Owner, manifest: Option<&Manifest>, found: &[Found]) {
        let Some(manifest) = manifest else {
            self.inodes.note(data, owner, found, |_| Role::Unknown);
            return;
        };
        let mut memory: HashSet<PathBuf> = manifest.memory_files().map(|(entry, _)| entry.path.as_path().to_owned()).collect();
        for entry in &manifest.entries {
            if let Node::Hardlink(first) = &entry.node
                && memory.contains(first.as_path())
            {
                memory.insert(entry.path.as_path().to_owned());
            }
        }
        self.inodes.note(data, owner, found, |f| if memory.contains(&f.path) { Role::Memory } else { Role::Own });
        self.memory.insert(id.clone(), memory);
    }

    /// The tree against its manifest.
    fn compare(&mut self, manifest: &Manifest, data: &Path, found: &[Found], (wanted, packed): (bool, Option<&Compression>)) {
        let by_path: HashMap<&Path, &Meta> = found.iter().map(|f| (f.path.as_path(), &f.meta)).collect();
        // What is missing or something else, with all below it: one finding is enough.
        let mut lost: HashSet<&Path> = HashSet::new();
        let mut to_hash: Vec<(&Entry, &FileNode, Meta)> = Vec::new();
        for entry in &manifest.entries {
            let path = entry.path.as_path();
            if path.parent().is_some_and(|parent| lost.contains(parent)) {
                lost.insert(path);
                continue;
            }
            let at = full(data, path);
            let Some(meta) = by_path.get(path) else {
                if is_packed(packed, entry) {
                    continue;
                }
                self.report.error("file.missing", &at, "the manifest has it");
                lost.insert(path);
                continue;
            };
            if !is_of_type(&entry.node, meta.kind) {
                self.report.error("type.differs", &at, format!("it is {}, and was {}", kind_words(meta.kind), node_words(&entry.node)));
                lost.insert(path);
                continue;
            }
            match &entry.node {
                Node::Dir => self.mode(&at, entry, meta),
                Node::File(file) => {
                    if self.file(&at, entry, file, meta) && !file.digest.is_empty() {
                        to_hash.push((entry, file, **meta));
                    }
                }
                Node::Hardlink(first) if by_path.get(first.as_path()).is_none_or(|m| m.file_id != meta.file_id) => {
                    let what = format!("it is no longer the same file as {}", first.as_path().display());
                    self.report.error("hardlink.differs", &at, what);
                }
                Node::Symlink(target) => self.symlink(data, path, target.as_os_str()),
                Node::Hardlink(_) => {}
            }
        }
        let listed: HashSet<&Path> = manifest.entries.iter().map(|e| e.path.as_path()).collect();
        for extra in found.iter().filter(|f| !listed.contains(f.path.as_path())) {
            // Only the top of what does not belong here.
            if extra.path.parent().is_none_or(|parent| listed.contains(parent)) {
                self.report.warn("file.extra", &full(data, &extra.path), "the manifest does not have it; no fork will");
            }
        }
        if wanted {
            self.digests(data, &to_hash);
        }
        if let Some(packed) = packed {
            self.packed(manifest, packed, wanted);
        }
    }

    /// A regular file's attributes; true if it is worth hashing.
    fn file(&mut self, at: &Path, entry: &Entry, file: &FileNode, meta: &Meta) -> bool {
        if file.memory && meta.mode & 0o222 != 0 {
            let what = format!("a memory file with mode {:04o}: its forks share it, so nobody may write to it", meta.mode);
            self.report.error("memory.writable", at, what);
        } else {
            self.mode(at, entry, meta);
        }
        if file.memory && meta.mtime_ns != entry.mtime_ns {
            self.report.error("mtime.differs", at, "it was written to: it will not be linked into forks");
        }
        if meta.size != file.size {
            self.report.error("size.differs", at, format!("{} bytes, and was {}", meta.size, file.size));
        }
        meta.size == file.size
    }

    fn mode(&mut self, at: &Path, entry: &Entry, meta: &Meta) {
        let stored = entry.stored_mode();
        if meta.mode != stored {
            self.report.warn("mode.differs", at, format!("mode {:04o}, and was stored with {stored:04o}", meta.mode));
        }
    }

    fn symlink(&mut self, data: &Path, path: &Path, target: &std::ffi::OsStr) {
        let read = Below::open(self.fs, data).and_then(|mut below| self.fs.read_link(below.place(path)?));
        match read {
            Ok(found) if found == target => {}
            Ok(found) => {
                let what = format!("it points to {}, and pointed to {}", found.display(), target.display());
                self.report.error("target.differs", &full(data, path), what);
            }
            Err(e) => self.report.error("file.unreadable", &full(data, path), e.to_string()),
        }
    }
}

/// A path below `root`; `root` itself for the empty path.
pub(super) fn full(root: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { root.to_owned() } else { root.join(path) }
}

fn is_of_type(node: &Node, kind: FileType) -> bool {
    match node {
        Node::Dir => kind == FileType::Directory,
        Node::File(_) | Node::Hardlink(_) => kind == FileType::Regular,
        Node::Symlink(_) => kind == FileType::Symlink,
    }
}

fn node_words(node: &Node) -> &'static str {
    match node {
        Node::Dir => "a directory",
        Node::File(_) | Node::Hardlink(_) => "a regular file",
        Node::Symlink(_) => "a symbolic link",
    }
}

fn kind_words(kind: FileType) -> &'static str {
    match kind {
        FileType::Regular => "a regular file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Socket => "a socket",
        FileType::Fifo => "a FIFO",
        FileType::Device => "a device",
    }
}
