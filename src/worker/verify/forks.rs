//! Forks: who carries which fork id, what of a fork is missing, and what lies about in the instances root.

use super::Check;
use super::inodes::{Owner, Role};
use crate::ids::{ForkId, SnapshotId};
use crate::store::fs::{Below, FileType, Found};
use crate::store::instances::{Standing, standing};
use crate::store::layout::{Layout, OURS};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The forks that were found: every directory that carries the id, and the snapshot that it names.
pub(super) type Carriers = HashMap<ForkId, Vec<(PathBuf, SnapshotId)>>;

impl Check<'_> {
    /// Every directory of the instances root and of its trash, and what is being built there.
    pub(super) fn forks(&mut self) -> Carriers {
        let mut carriers = Carriers::new();
        let (root, trash) = (self.layout.instances().to_owned(), self.layout.root_trash());
        for (parent, is_live) in [(root, true), (trash, false)] {
            for entry in self.names(&parent) {
                let dir = parent.join(&entry.name);
                if is_live && entry.name == OURS {
                    continue;
                }
                if matches!(self.fs.stat_if_there(&dir), Ok(Some(meta)) if meta.kind == FileType::Directory) {
                    let place = self.report.place();
                    self.instance(&dir, is_live, &mut carriers);
                    if self.is_gone(&dir) {
                        self.report.back_to(place);
                    }
                }
            }
        }
        self.root_area();
        carriers
    }

    /// One directory: an instance, or one in the trash.
    fn instance(&mut self, dir: &Path, is_live: bool, carriers: &mut Carriers) {
        let record = match standing(self.fs, dir) {
            Ok(Standing::Fork(record)) => Some(record),
            Ok(Standing::Plain) if is_live => return,
            // It may be half built or half unlinked: only its names count.
            Ok(Standing::Plain) => return self.note_others(dir),
            Ok(Standing::Unreadable(why)) => {
                let what = format!("{why}; what it is a fork of stays");
                self.report.warn("fork.unreadable", &Layout::fork_record_in(dir), what);
                None
            }
            Err(e) => return self.report.warn("fork.unreadable", dir, e.to_string()),
        };
        self.report.forks += 1;
        let walked = Below::open(self.fs, dir).and_then(|mut below| self.fs.walk(&mut below, &mut |_, _| false));
        let found = match walked {
            Ok(found) => found,
            Err(e) => {
                self.report.warn("tree.unreadable", dir, e.to_string());
                Vec::new()
            }
        };
        let memory = record.as_ref().and_then(|r| self.memory.get(&r.fork_of_snapshot));
        let role = |f: &Found| match memory {
            None => Role::Unknown,
            Some(memory) if memory.contains(&f.path) => Role::Memory,
            Some(_) => Role::Own,
        };
        self.inodes.note(dir, Owner::Fork, &found, role);
        if is_live && !found.is_empty() {
            let mut missing: Vec<_> = memory.into_iter().flatten().filter(|path| !found.iter().any(|f| f.path == **path)).collect();
            missing.sort();
            for path in missing {
                self.report.warn("fork.half", &dir.join(path), "its snapshot has this memory file, and the fork has not");
            }
        }
        if let Some(record) = record {
            carriers.entry(record.fork_id).or_default().push((dir.to_owned(), record.fork_of_snapshot));
        }
    }

    /// Our directory in the root, but for its trash: forks that are being built.
    fn root_area(&mut self) {
        let (area, trash) = (self.layout.root_area(), self.layout.root_trash());
        for entry in self.names(&area) {
            let path = area.join(&entry.name);
            if path != trash && matches!(self.fs.stat_if_there(&path), Ok(Some(meta)) if meta.kind == FileType::Directory) {
                self.note_others(&path);
            }
        }
        let staging = self.layout.fork_staging();
        for entry in self.names(&staging) {
            let is_ours = matches!(entry.name.to_str().map(ForkId::parse), Some(Ok(fork)) if self.unfinished.contains(&fork));
            let path = staging.join(&entry.name);
            if !is_ours && !self.is_gone(&path) {
                let what = "no unfinished request has it; the next start of the worker removes it";
                self.report.warn("fork_staging.stray", &path, what);
            }
        }
    }

    /// Counts the names in a tree that may change at any moment.
    fn note_others(&mut self, dir: &Path) {
        let place = self.report.place();
        if let Some(found) = self.tree(dir) {
            self.inodes.note(dir, Owner::Other, &found, |_| Role::Unknown);
        }
        self.report.back_to(place);
    }
}
