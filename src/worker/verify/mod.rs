//! `verify`: an independent walk over the store and the instances root, which shares no code with the store's index.
//!
//! It changes nothing, and no problem ends it: each becomes a finding. What may vanish under it while a worker runs (a
//! snapshot that is cut, a fork that is removed) is looked at once more before it is called a problem.

mod content;
mod forks;
mod inodes;
pub mod log;
mod packed;
mod pool;
mod records;
pub mod repair;
mod report;
mod snapshots;
pub mod throttle;

use crate::ids::{ForkId, SnapshotId};
use crate::snapshot::copy::Flow;
use crate::store::fs::{DirEntry, Fs};
use crate::store::layout::Layout;
use crate::store::root::Identity;
use crate::worker::view::Findings;
use inodes::Inodes;
use report::Report;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Checks everything: every file of every snapshot against its manifest, every ref, every fork, and what lies about.
/// `journal_unfinished` are the forks that the journal still has to finish.
#[must_use]
pub fn verify(fs: &Fs, layout: &Layout, journal_unfinished: &HashSet<ForkId>, flow: Flow<'_>) -> Findings {
    verify_with(fs, layout, journal_unfinished, &Options::default(), flow)
}

/// Which digests are compared, and who is told.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Whether a snapshot's digests are compared.
    pub compare: &'a dyn Fn(&SnapshotId) -> bool,
    /// Told of each snapshot whose digests were all compared, and found right.
    pub compared: &'a dyn Fn(&SnapshotId),
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { compare: &|_| true, compared: &|_| {} }
    }
}

/// The same, with a choice of digests.
#[must_use]
pub fn verify_with(fs: &Fs, layout: &Layout, journal_unfinished: &HashSet<ForkId>, options: &Options<'_>, flow: Flow<'_>) -> Findings {
    let mut check = Check::new(fs, layout, journal_unfinished, options, flow);
    check.snapshots();
    check.trashed_snapshots();
    check.cache();
    check.staging();
    let forks = if check.prove_root() { Some(check.forks()) } else { None };
    check.refs(forks.as_ref());
    check.holds();
    check.marks();
    if forks.is_some() {
        check.pool();
        check.shared();
        check.unknown_links();
    }
    check.report.finish(layout)
}

/// Checks one snapshot's tree and digests only.
#[must_use]
pub fn verify_one(fs: &Fs, layout: &Layout, id: &SnapshotId, flow: Flow<'_>) -> Findings {
    let (nothing, options) = (HashSet::new(), Options::default());
    let mut check = Check::new(fs, layout, &nothing, &options, flow);
    check.one_snapshot(id.clone());
    check.report.finish(layout)
}

/// What is known so far.
struct Check<'a> {
    fs: &'a Fs,
    layout: &'a Layout,
    unfinished: &'a HashSet<ForkId>,
    options: &'a Options<'a>,
    flow: Flow<'a>,
    report: Report,
    inodes: Inodes,
    /// The memory files of each snapshot (in the store or its trash) whose manifest can be read, every name of them.
    memory: BTreeMap<SnapshotId, HashSet<PathBuf>>,
    /// Snapshots in the store, readable or not.
    present: HashSet<SnapshotId>,
    /// Snapshots in the trash.
    trashed: HashSet<SnapshotId>,
    /// Digests of files with several names, by inode and length, so that each is read once.
    digests: HashMap<((u64, u64), u64), String>,
    /// Snapshots whose every digest was compared, and found right.
    sound: HashSet<SnapshotId>,
    /// Somebody asked to stop: nothing is hashed any more.
    is_stopped: bool,
}

impl<'a> Check<'a> {
    fn new(fs: &'a Fs, layout: &'a Layout, unfinished: &'a HashSet<ForkId>, options: &'a Options<'a>, flow: Flow<'a>) -> Self {
        Self {
            fs,
            layout,
            unfinished,
            options,
            flow,
            report: Report::default(),
            inodes: Inodes::default(),
            memory: BTreeMap::new(),
            present: HashSet::new(),
            trashed: HashSet::new(),
            digests: HashMap::new(),
            sound: HashSet::new(),
            is_stopped: false,
        }
    }

    /// The names in a directory, none if it is not there; a listing that fails is a finding.
    fn names(&mut self, dir: &Path) -> Vec<DirEntry> {
        self.fs.list_if_there(dir).unwrap_or_else(|e| {
            self.report.error("tree.unreadable", dir, e.to_string());
            Vec::new()
        })
    }

    /// The entries of a directory whose names are snapshot ids; any other is a finding.
    fn ids_in(&mut self, dir: &Path) -> Vec<SnapshotId> {
        let mut ids = Vec::new();
        for entry in self.names(dir) {
            match entry.name.to_str().map(SnapshotId::parse) {
                Some(Ok(id)) => ids.push(id),
                _ => self.report.warn("name.strange", &dir.join(&entry.name), "its name is not a snapshot id"),
            }
        }
        ids
    }

    /// Whether anything at all is known of a snapshot's tree.
    fn is_anywhere(&self, id: &SnapshotId) -> bool {
        self.present.contains(id) || self.trashed.contains(id)
    }

    /// Whether a path is gone for certain.
    fn is_gone(&self, path: &Path) -> bool {
        matches!(self.fs.stat_if_there(path), Ok(None))
    }

    /// Whether the instances root is the store's own.
    fn prove_root(&mut self) -> bool {
        let without = "refs were not compared with forks, and links and the root's staging were not checked";
        let (path, why) = match Identity::of_store(self.fs, self.layout) {
            Ok(Some(identity)) => match identity.prove(self.fs, self.layout) {
                Ok(_) => return true,
                Err(e) => (self.layout.root_proof(), e.to_string()),
            },
            Ok(None) => (self.layout.format(), "the store has no FORMAT".to_owned()),
            Err(e) => (self.layout.format(), e.to_string()),
        };
        self.report.error("root.unproven", &path, format!("{why}; {without}"));
        false
    }
}
