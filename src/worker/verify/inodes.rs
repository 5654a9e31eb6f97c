//! Files with several names: who has them, and which of them nobody that we know has.

use super::Check;
use crate::store::fs::{FileType, Found, Meta};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Whose name of a file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// A snapshot in the store.
    Snapshot,
    /// A snapshot in the trash.
    Trashed,
    /// Raw memory of a packed snapshot, in the cache.
    Cache,
    /// A fork, published or in the root's trash.
    Fork,
    /// Something that is being built or that lies about: its names are counted, no more.
    Other,
}

/// What a file is to its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Guest memory: may be shared.
    Memory,
    /// Anything else.
    Own,
    /// It cannot be told, for lack of a manifest.
    Unknown,
}

/// One name of a file.
#[derive(Debug)]
struct Name {
    tree: Rc<Path>,
    path: PathBuf,
    owner: Owner,
    role: Role,
}

impl Name {
    fn full(&self) -> PathBuf {
        self.tree.join(&self.path)
    }
}

/// All known names of regular files that have more than one.
#[derive(Debug, Default)]
pub(super) struct Inodes(HashMap<(u64, u64), (Meta, Vec<Name>)>);

impl Inodes {
    /// Notes the files of one tree.
    pub(super) fn note(&mut self, tree: &Path, owner: Owner, found: &[Found], role: impl Fn(&Found) -> Role) {
        let tree: Rc<Path> = tree.into();
        for file in found.iter().filter(|f| f.meta.kind == FileType::Regular && f.meta.links > 1) {
            let name = Name { tree: Rc::clone(&tree), path: file.path.clone(), owner, role: role(file) };
            self.0.entry(file.meta.file_id).or_insert_with(|| (file.meta, Vec::new())).1.push(name);
        }
    }
}

impl Check<'_> {
    /// Invariant 5: a fork shares no inode with a snapshot or another fork, save memory.
    pub(super) fn shared(&mut self) {
        for (meta, names) in self.inodes.0.values() {
            let is_memory = names.iter().any(|n| matches!(n.owner, Owner::Snapshot | Owner::Trashed | Owner::Cache) && n.role != Role::Own);
            if is_memory {
                continue;
            }
            let may_be_memory = |n: &Name| n.role == Role::Memory || n.role == Role::Unknown && meta.mode & 0o222 == 0;
            for name in names.iter().filter(|n| n.owner == Owner::Fork && !may_be_memory(n)) {
                let is_other = |n: &&Name| n.owner != Owner::Other && n.tree != name.tree;
                let full = name.full();
                if let Some(other) = names.iter().find(is_other)
                    && self.fs.stat_if_there(&full).is_ok_and(|now| now.is_some_and(|now| now.file_id == meta.file_id))
                {
                    let what = format!("it is the same file as {}: what is written to one is in the other", other.full().display());
                    self.report.error("shared.writable", &full, what);
                }
            }
        }
    }

    /// Files of snapshots that have more names than snapshots and forks have of them.
    pub(super) fn unknown_links(&mut self) {
        for (meta, names) in self.inodes.0.values() {
            let Some(name) = names.iter().find(|n| matches!(n.owner, Owner::Snapshot | Owner::Cache) && n.role == Role::Memory) else {
                continue;
            };
            let (full, known) = (name.full(), names.len() as u64);
            // Forks come and go meanwhile: only a link that is there before and after the walk is somebody else's.
            let now = self.fs.stat_if_there(&full).ok().flatten().map_or(0, |now| now.links);
            let links = meta.links.min(now);
            if links > known {
                let what =
                    format!("{links} links, of which snapshots and forks have {known}: someone else uses it, and its snapshot stays");
                self.report.info("links.unknown", &full, what);
            }
        }
    }
}
