//! The small records beside snapshots: refs (against forks), holds, marks.

use super::Check;
use super::forks::Carriers;
use crate::ids::{ForkId, HoldName, SnapshotId};
use crate::store::fs::DirEntry;
use crate::store::layout::Layout;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

impl Check<'_> {
    /// Every ref; against the forks, if those are known.
    pub(super) fn refs(&mut self, forks: Option<&Carriers>) {
        let mut refs: HashSet<(SnapshotId, ForkId)> = HashSet::new();
        for id in self.ids_in(&self.layout.refs()) {
            let dir = self.layout.refs_of(&id);
            let names = self.names(&dir);
            if !names.is_empty() && !self.is_anywhere(&id) && !self.is_gone(&dir) {
                self.refs_of_nothing(&id, &dir, &names, forks);
            }
            for entry in names {
                let path = dir.join(&entry.name);
                match entry.name.to_str().map(ForkId::parse) {
                    Some(Ok(fork)) => {
                        self.one_ref(&path, &fork, forks);
                        refs.insert((id.clone(), fork));
                    }
                    _ if is_temporary(&entry.name) => {}
                    _ => self.report.warn("name.strange", &path, "its name is not a fork id; its snapshot stays"),
                }
            }
        }
        if let Some(forks) = forks {
            self.forks_without_ref(forks, &refs);
        }
    }

    /// Refs of a snapshot that is nowhere: garbage, unless a fork says that it was made of it.
    fn refs_of_nothing(&mut self, id: &SnapshotId, dir: &Path, names: &[DirEntry], forks: Option<&Carriers>) {
        let is_needed = |fork: ForkId| {
            let carriers = forks.and_then(|forks| forks.get(&fork));
            self.unfinished.contains(&fork) || carriers.is_some_and(|all| all.iter().any(|(_, snapshot)| snapshot == id))
        };
        let parsed = |entry: &DirEntry| entry.name.to_str().and_then(|name| ForkId::parse(name).ok());
        if names.iter().filter_map(parsed).any(is_needed) {
            let what = "forks live whose snapshot is neither in the store nor in its trash; their refs stay, should it come back";
            self.report.warn("fork.without_snapshot", dir, what);
        } else {
            let what = "refs of a snapshot that is neither in the store nor in its trash";
            self.report.warn("ref.without_snapshot", dir, what);
        }
    }

    fn one_ref(&mut self, path: &Path, fork: &ForkId, forks: Option<&Carriers>) {
        let target = match self.fs.read_link(path) {
            Ok(target) if Path::new(&target).is_absolute() => PathBuf::from(target),
            Err(e) if e.is_not_found() => return,
            _ => {
                let what = "not a symbolic link to a directory's path; the fork counts as live";
                let is_known = forks.is_some_and(|forks| forks.contains_key(fork));
                return match is_known {
                    true => self.report.error("ref.unreadable", path, what),
                    // Where it pointed to is lost, and so is the proof that nobody needs it.
                    false => self.report.error_for_people("ref.unreadable", path, what),
                };
            }
        };
        let Some(forks) = forks else { return };
        let is_needed = forks.contains_key(fork) || self.unfinished.contains(fork);
        if !is_needed && self.is_gone(&target) && !self.is_gone(path) {
            let what = format!("{} does not exist and nothing else carries this fork's id: it is about to be dropped", target.display());
            self.report.warn("ref.dangling", path, what);
        }
    }

    /// Invariant 1: a fork whose snapshot is there has a ref.
    fn forks_without_ref(&mut self, forks: &Carriers, refs: &HashSet<(SnapshotId, ForkId)>) {
        for (fork, carriers) in forks {
            for (dir, snapshot) in carriers {
                if !self.present.contains(snapshot) || refs.contains(&(snapshot.clone(), fork.clone())) {
                    continue;
                }
                // Made or removed meanwhile: look again, the fork last.
                let path = self.layout.ref_of(snapshot, fork);
                if self.is_gone(&path) && !self.is_gone(&Layout::fork_record_in(dir)) {
                    let what = format!("{} is missing: nothing keeps the snapshot for this fork", path.display());
                    self.report.error("fork.without_ref", dir, what);
                }
            }
        }
    }

    /// Every hold.
    pub(super) fn holds(&mut self) {
        for id in self.ids_in(&self.layout.holds()) {
            let dir = self.layout.holds_of(&id);
            self.nowhere(&id, &dir, "hold.without_snapshot", "holds");
            for entry in self.names(&dir) {
                if !matches!(entry.name.to_str().map(HoldName::parse), Some(Ok(_))) {
                    self.report.warn("name.strange", &dir.join(&entry.name), "its name is not a hold's; it holds all the same");
                }
            }
        }
    }

    /// Every mark.
    pub(super) fn marks(&mut self) {
        for id in self.ids_in(&self.layout.marks()) {
            let dir = self.layout.marks_of(&id);
            self.nowhere(&id, &dir, "mark.without_snapshot", "marks");
            let quarantine = self.layout.mark(&id, "quarantined");
            let is_marked = !self.is_gone(&quarantine);
            if is_marked {
                self.report.quarantined.insert(id.clone());
            }
            if self.sound.contains(&id) && is_marked {
                let what = "the snapshot is quarantined, and everything in it is right now";
                self.report.info("quarantine.stale", &quarantine, what);
            }
            for entry in self.names(&dir) {
                // A mark is written under its name and `.new`, and then renamed.
                let name = entry.name.to_string_lossy();
                if !name.trim_end_matches(".new").ends_with(".json") {
                    self.report.warn("name.strange", &dir.join(&entry.name), "its name is not a mark's");
                }
            }
        }
    }

    fn nowhere(&mut self, id: &SnapshotId, dir: &Path, name: &str, words: &str) {
        if !self.is_anywhere(id) && !self.is_gone(dir) && self.is_gone(&self.layout.snapshot(id)) {
            let what = format!("{words} of a snapshot that is neither in the store nor in its trash");
            self.report.info(name, dir, what);
        }
    }
}

/// What a ref that is being pointed anew is called until it is renamed to its name.
fn is_temporary(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with('.'))
}
