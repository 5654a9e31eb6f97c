//! The two roots against each other: refs against forks, forks against refs, links against names, and strays.

use super::Walk;
use super::snapshot::Snapshots;
use crate::ids::{ForkId, SnapshotId};
use crate::store::fs::{Below, FileType, FsError};
use crate::store::instances::{ForkRecord, Standing, standing};
use crate::store::layout::{Layout, OURS};
use crate::store::manifest::Node;
use crate::store::root::Identity;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Where each fork id was found.
type Carriers = BTreeMap<ForkId, Vec<(PathBuf, ForkRecord)>>;

impl Walk<'_> {
    pub(super) fn roots(&mut self, snapshots: &Snapshots, unfinished: &HashSet<ForkId>) {
        let trashed = self.trashed();
        self.strays(snapshots, &trashed, unfinished);
        let proof = match Identity::of_store(self.fs, self.layout) {
            Ok(Some(identity)) => identity.prove(self.fs, self.layout).map(drop).map_err(|e| e.to_string()),
            Ok(None) => Err("the store has no FORMAT".to_owned()),
            Err(e) => Err(e.to_string()),
        };
        if let Err(why) = proof {
            let path = self.layout.root_proof();
            return self.error("root.unproven", &path, format!("{why}; forks and refs were not compared"));
        }
        let carriers = match self.carriers() {
            Ok(carriers) => carriers,
            Err(e) => {
                let path = self.layout.instances().to_owned();
                return self.error("root.unreadable", &path, e.to_string());
            }
        };
        let refs = self.refs(snapshots, &trashed, unfinished, &carriers);
        for (fork, places) in &carriers {
            for (path, record) in places {
                if snapshots.contains_key(&record.fork_of_snapshot) && !refs.contains(fork) {
                    self.error("fork.without_ref", path, format!("nothing protects {} for it", record.fork_of_snapshot));
                }
            }
        }
        self.inodes(snapshots, &carriers);
    }

    /// Snapshots in the trash, by id.
    fn trashed(&mut self) -> BTreeMap<SnapshotId, PathBuf> {
        let dir = self.layout.trash();
        let mut trashed = BTreeMap::new();
        for entry in self.fs.list_if_there(&dir).unwrap_or_default() {
            let id = entry.name.to_str().and_then(|n| n.split_once('@')).map(|(id, _)| SnapshotId::parse(id));
            match id {
                Some(Ok(id)) => drop(trashed.insert(id, dir.join(&entry.name))),
                _ => self.warn("name.strange", &dir.join(&entry.name), "it is in the trash and was no snapshot"),
            }
        }
        trashed
    }

    fn strays(&mut self, snapshots: &Snapshots, trashed: &BTreeMap<SnapshotId, PathBuf>, unfinished: &HashSet<ForkId>) {
        let staging = self.layout.staging();
        for entry in self.fs.list_if_there(&staging).unwrap_or_default() {
            self.warn("staging.stray", &staging.join(&entry.name), "a half-made snapshot; the next start removes it");
        }
        let forks = self.layout.fork_staging();
        for entry in self.fs.list_if_there(&forks).unwrap_or_default() {
            let is_ours = entry.name.to_str().and_then(|n| ForkId::parse(n).ok()).is_some_and(|id| unfinished.contains(&id));
            if !is_ours {
                self.warn("staging.stray", &forks.join(&entry.name), "a half-made fork; the next start removes it");
            }
        }
        for dir in [self.layout.marks(), self.layout.holds()] {
            for entry in self.fs.list_if_there(&dir).unwrap_or_default() {
                let path = dir.join(&entry.name);
                match entry.name.to_str().map(SnapshotId::parse) {
                    Some(Ok(id)) => {
                        let is_there = self.fs.stat_if_there(&self.layout.snapshot(&id)).is_ok_and(|m| m.is_some());
                        if !is_there && !trashed.contains_key(&id) && !snapshots.contains_key(&id) {
                            self.info("record.stray", &path, "its snapshot is gone; the next sweep removes it");
                        }
                    }
                    _ => self.warn("name.strange", &path, "its name is not a snapshot id"),
                }
            }
        }
    }

    /// Directories that carry a fork id, in the root and in its trash.
    fn carriers(&mut self) -> Result<Carriers, FsError> {
        let mut carriers = Carriers::new();
        let trash = self.layout.root_trash();
        let live = self.fs.list(self.layout.instances())?.into_iter().filter(|e| e.name != OURS);
        let mut dirs: Vec<PathBuf> = live.map(|e| self.layout.instance_named(&e.name)).collect();
        dirs.extend(self.fs.list_if_there(&trash)?.into_iter().map(|e| trash.join(e.name)));
        for dir in dirs {
            if self.fs.stat_if_there(&dir)?.is_none_or(|m| m.kind != FileType::Directory) {
                continue;
            }
            match standing(self.fs, &dir)? {
                Standing::Plain => {}
                Standing::Fork(record) => {
                    self.found.forks += 1;
                    carriers.entry(record.fork_id.clone()).or_default().push((dir, record));
                }
                Standing::Unreadable(why) => self.warn("fork.unreadable", &Layout::fork_record_in(&dir), why),
            }
        }
        Ok(carriers)
    }

    /// All refs; each must lead to something.
    fn refs(
        &mut self,
        snapshots: &Snapshots,
        trashed: &BTreeMap<SnapshotId, PathBuf>,
        unfinished: &HashSet<ForkId>,
        carriers: &Carriers,
    ) -> HashSet<ForkId> {
        let mut refs = HashSet::new();
        for entry in self.fs.list_if_there(&self.layout.refs()).unwrap_or_default() {
            let dir = self.layout.refs().join(&entry.name);
            let Some(Ok(id)) = entry.name.to_str().map(SnapshotId::parse) else {
                self.warn("name.strange", &dir, "its name is not a snapshot id");
                continue;
            };
            let is_there = snapshots.contains_key(&id) || trashed.contains_key(&id) || self.fs.stat(&self.layout.snapshot(&id)).is_ok();
            for entry in self.fs.list_if_there(&dir).unwrap_or_default() {
                let path = dir.join(&entry.name);
                let Some(Ok(fork)) = entry.name.to_str().map(ForkId::parse) else {
                    self.error("ref.unreadable", &path, "its name is not a fork id");
                    continue;
                };
                match self.fs.read_link(&path) {
                    Ok(target) if Path::new(&target).is_absolute() => {
                        let has_dir = self.fs.stat_if_there(Path::new(&target)).is_ok_and(|m| m.is_some());
                        if !unfinished.contains(&fork) && !carriers.contains_key(&fork) && !has_dir {
                            self.warn("ref.dangling", &path, "its fork is nowhere; a running worker drops it within a second");
                        }
                    }
                    _ => self.error("ref.unreadable", &path, "it is no symbolic link to a path; its fork counts as live"),
                }
                if !is_there {
                    self.warn("ref.without_snapshot", &path, "there is no such snapshot");
                }
                refs.insert(fork);
            }
        }
        refs
    }

    /// Memory files have as many names as we know; no other file is shared.
    fn inodes(&mut self, snapshots: &Snapshots, carriers: &Carriers) {
        let mut memory: HashMap<(u64, u64), (PathBuf, u64, u64)> = HashMap::new();
        let mut disks: HashMap<(u64, u64), PathBuf> = HashMap::new();
        for (dir, manifest) in snapshots.values() {
            for entry in &manifest.entries {
                let (path, Node::File(file)) = (Layout::data_in(dir).join(entry.path.as_path()), &entry.node) else { continue };
                let Ok(Some(meta)) = self.fs.stat_if_there(&path) else { continue };
                if file.memory {
                    memory.entry(meta.file_id).or_insert((path, meta.links, 0)).2 += 1;
                } else {
                    disks.insert(meta.file_id, path);
                }
            }
        }
        let mut owners: HashMap<(u64, u64), PathBuf> = HashMap::new();
        for (dir, _) in carriers.values().flatten() {
            let walked = Below::open(self.fs, dir).and_then(|mut below| self.fs.walk(&mut below, &mut |_, _| false));
            for found in walked.unwrap_or_default().iter().filter(|f| f.meta.kind == FileType::Regular) {
                let path = dir.join(&found.path);
                let id = found.meta.file_id;
                if let Some(known) = memory.get_mut(&id) {
                    known.2 += 1;
                } else if let Some(disk) = disks.get(&id) {
                    self.error("file.shared", &path, format!("a fork's own file is the snapshot's {}", disk.display()));
                } else if found.meta.links > 1
                    && let Some(other) = owners.insert(id, dir.clone()).filter(|other| other != dir)
                {
                    self.error("file.shared", &path, format!("it is also a file of {}", other.display()));
                }
            }
        }
        let known_elsewhere = self.trashed_names(&memory);
        for (id, (path, links, names)) in memory {
            let names = names + known_elsewhere.get(&id).copied().unwrap_or(0);
            if links > names {
                self.info("links.unknown", &path, format!("it has {links} names, and {names} are known: somebody else uses it"));
            }
        }
    }

    /// Names that memory files have in the store's trash.
    fn trashed_names(&mut self, memory: &HashMap<(u64, u64), (PathBuf, u64, u64)>) -> HashMap<(u64, u64), u64> {
        let mut names = HashMap::new();
        for dir in self.trashed().into_values() {
            let walked = Below::open(self.fs, &dir).and_then(|mut below| self.fs.walk(&mut below, &mut |_, _| false));
            for found in walked.unwrap_or_default().iter().filter(|f| memory.contains_key(&f.meta.file_id)) {
                *names.entry(found.meta.file_id).or_default() += 1;
            }
        }
        names
    }
}
