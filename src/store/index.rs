//! What is in the store, in memory: rebuilt from the tree at every start, never written down.

use super::compression::Compression;
use super::intern::Interned;
use super::manifest::{Imported, Kind, Manifest};
use super::records::Pinned;
use super::refs::Refs;
use crate::ids::{ForkId, HoldName, InstanceId, PolicyName, SnapshotId, SnapshotName};
use crate::policy::SnapshotState;
use chrono::{DateTime, Utc};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

/// A manifest without its list of files.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the manifest's field of that name")]
pub struct Summary {
    pub id: SnapshotId,
    pub seq: u64,
    pub name: SnapshotName,
    pub instance: InstanceId,
    pub policy: Option<PolicyName>,
    pub slot: Option<DateTime<Utc>>,
    pub parent: Option<SnapshotId>,
    pub kind: Kind,
    pub driver: Arc<str>,
    pub created_at: DateTime<Utc>,
    pub order_at: DateTime<Utc>,
    pub tags: Arc<BTreeMap<String, String>>,
    pub tags_unread: Option<String>,
    pub imported: Option<Imported>,
    pub size_bytes: u64,
    pub allocated_bytes: u64,
    /// Whether digests of its files are still to be made.
    pub digests_pending: bool,
    /// The memory files.
    pub memory: Vec<MemoryFile>,
}

/// A memory file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryFile {
    /// Path below the snapshot's data.
    pub path: PathBuf,
    /// Length in bytes.
    pub size: u64,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Digest in the manifest's form; empty while it is pending.
    pub digest: String,
}

impl From<&Manifest> for Summary {
    fn from(m: &Manifest) -> Self {
        let memory = m.memory_files().map(|(entry, file)| MemoryFile {
            path: entry.path.as_path().to_owned(),
            size: file.size,
            mtime_ns: entry.mtime_ns,
            digest: file.digest.clone(),
        });
        Self {
            id: m.id.clone(),
            seq: m.seq,
            name: m.name.clone(),
            instance: m.instance.clone(),
            policy: m.policy.clone(),
            slot: m.slot,
            parent: m.parent.clone(),
            kind: m.kind,
            driver: m.driver.as_str().into(),
            created_at: m.created_at,
            order_at: m.order_at,
            tags: Arc::new(m.tags.clone()),
            tags_unread: m.tags_unread.clone(),
            imported: m.imported.clone(),
            size_bytes: m.size_bytes,
            allocated_bytes: m.allocated_bytes,
            digests_pending: m.pending().next().is_some(),
            memory: memory.collect(),
        }
    }
}

/// Where a ref points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefTarget {
    /// The fork's directory.
    At(PathBuf),
    /// Empty, strange or unreadable: which means that the fork is live.
    Unreadable,
}

/// All that is known of one snapshot id.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// From the manifest; `None` if it is unreadable, or if there are refs, marks or holds but no snapshot.
    pub summary: Option<Arc<Summary>>,
    /// Whether its directory is in `snapshots/`.
    pub present: bool,
    /// Marked to go with its last fork.
    pub expiring: bool,
    /// Why it must not be forked, if so.
    pub quarantined: Option<String>,
    /// The forks that need it.
    pub refs: Refs,
    /// Pins by hand.
    pub holds: BTreeSet<HoldName>,
    /// Readers at this moment.
    pub pins: u32,
    /// Whether its memory is packed, or what became of the attempt.
    pub compression: Option<Arc<Compression>>,
    /// Forks that lie ready for it, as far as is known: they keep nothing.
    pub pool: usize,
    /// Since when forks keep it past its expiry.
    pub pinned: Option<Pinned>,
    /// Why something about it cannot be told: it must stay.
    pub unreadable: BTreeSet<String>,
    /// Why its manifest cannot be read, if so. It stays as well, save if somebody removes it by hand.
    pub bad_manifest: Option<String>,
}

impl Known {
    /// What state it is in: manifest and marks together.
    #[must_use]
    pub fn state(&self) -> SnapshotState {
        if self.quarantined.is_some() || (self.present && self.summary.is_none()) {
            SnapshotState::Quarantined
        } else if self.expiring {
            SnapshotState::Expiring
        } else {
            SnapshotState::Ready
        }
    }

    /// Whether digests are to be made of it: not of one that failed a check, so that what is wrong is not made right.
    #[must_use]
    pub fn wants_digests(&self) -> bool {
        self.present && self.quarantined.is_none() && self.summary.as_ref().is_some_and(|summary| summary.digests_pending)
    }

    /// What is wrong with its records, in words.
    #[must_use]
    pub fn damage(&self) -> Option<String> {
        let all: Vec<&str> = self.bad_manifest.iter().chain(&self.unreadable).map(String::as_str).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// True if nothing about this id is left to know.
    fn is_empty(&self) -> bool {
        !self.present && self.refs.is_empty() && self.holds.is_empty() && self.pins == 0 && self.unreadable.is_empty()
    }
}

/// What the other ways into the index know of one id.
struct Trace {
    present: bool,
    refs: usize,
    /// Its summary, if it can be found by instance and name.
    listed: Option<Arc<Summary>>,
}

impl Trace {
    fn of(known: &Known) -> Self {
        Self { present: known.present, refs: known.refs.len(), listed: known.summary.clone().filter(|_| known.present) }
    }
}

/// The snapshots of one instance in their order.
type Line = BTreeMap<(DateTime<Utc>, u64, SnapshotId), Arc<Summary>>;

/// The index: by snapshot id, in the order of ids (which is about the order of time); and by instance and by name, so that
/// nobody who asks for one has to look at all.
#[derive(Debug, Default)]
pub struct Index {
    by_id: BTreeMap<SnapshotId, Known>,
    /// Those whose digests are still to be made: asked for whenever something has changed, so not to be looked for among all.
    unhashed: BTreeSet<SnapshotId>,
    by_instance: HashMap<InstanceId, Line>,
    by_name: HashMap<SnapshotName, Vec<SnapshotId>>,
    present: usize,
    refs: usize,
    instances: Interned<InstanceId>,
    policies: Interned<PolicyName>,
    drivers: Interned<Arc<str>>,
    tags: Interned<Arc<BTreeMap<String, String>>>,
}

impl Index {
    /// What is known of `id`.
    #[must_use]
    pub fn get(&self, id: &SnapshotId) -> Option<&Known> {
        self.by_id.get(id)
    }

    /// Changes what is known of `id`; an id of which nothing is left is forgotten.
    pub fn change<T>(&mut self, id: &SnapshotId, change: impl FnOnce(&mut Known) -> T) -> T {
        let known = self.by_id.entry(id.clone()).or_default();
        let before = Trace::of(known);
        let result = change(known);
        let after = Trace::of(known);
        if known.wants_digests() {
            self.unhashed.insert(id.clone());
        } else {
            self.unhashed.remove(id);
        }
        if known.is_empty() {
            self.by_id.remove(id);
        }
        self.note(id, before, after);
        result
    }

    /// Snapshots whose digests are still to be made, the oldest first.
    pub fn unhashed(&self) -> impl Iterator<Item = &SnapshotId> {
        self.unhashed.iter()
    }

    /// Keeps counts and the other ways in step with what has changed.
    fn note(&mut self, id: &SnapshotId, before: Trace, after: Trace) {
        self.present = self.present + usize::from(after.present) - usize::from(before.present);
        self.refs = self.refs + after.refs - before.refs;
        let is_same = match (&before.listed, &after.listed) {
            (Some(before), Some(after)) => Arc::ptr_eq(before, after),
            (before, after) => before.is_none() && after.is_none(),
        };
        if is_same {
            return;
        }
        if let Some(summary) = before.listed {
            self.unlist(id, &summary);
        }
        if let Some(summary) = after.listed {
            // Most names are of one snapshot.
            self.by_name.entry(summary.name.clone()).or_insert_with(|| Vec::with_capacity(1)).push(id.clone());
            let line = self.by_instance.entry(summary.instance.clone()).or_default();
            line.insert((summary.order_at, summary.seq, id.clone()), summary);
        }
    }

    fn unlist(&mut self, id: &SnapshotId, summary: &Summary) {
        if let Some(line) = self.by_instance.get_mut(&summary.instance) {
            line.remove(&(summary.order_at, summary.seq, id.clone()));
            if line.is_empty() {
                self.by_instance.remove(&summary.instance);
            }
        }
        if let Some(ids) = self.by_name.get_mut(&summary.name) {
            ids.retain(|known| known != id);
            if ids.is_empty() {
                self.by_name.remove(&summary.name);
            }
        }
    }

    /// Takes in snapshots, in the order of their ids; all at once takes less room than one after the other.
    pub(super) fn fill(&mut self, all: Vec<(SnapshotId, Known)>) {
        if !self.by_id.is_empty() {
            for (id, found) in all {
                self.change(&id, |known| {
                    known.present |= found.present;
                    known.summary = found.summary;
                    known.bad_manifest = found.bad_manifest;
                    known.unreadable.extend(found.unreadable);
                });
            }
            return;
        }
        self.by_id = all.into_iter().collect();
        self.unhashed = self.by_id.iter().filter(|(_, known)| known.wants_digests()).map(|(id, _)| id.clone()).collect();
        let traces: Vec<_> = self.by_id.iter().map(|(id, known)| (id.clone(), Trace::of(known))).collect();
        let nothing = || Trace { present: false, refs: 0, listed: None };
        self.by_name.reserve(traces.len());
        traces.into_iter().for_each(|(id, trace)| self.note(&id, nothing(), trace));
    }

    /// The same summary, with what many of them have in common in memory once.
    pub(super) fn share(&mut self, mut summary: Arc<Summary>) -> Arc<Summary> {
        if let Some(own) = Arc::get_mut(&mut summary) {
            self.instances.share(&mut own.instance);
            own.policy.iter_mut().for_each(|policy| self.policies.share(policy));
            self.drivers.share(&mut own.driver);
            self.tags.share(&mut own.tags);
        }
        summary
    }

    /// All ids that have a directory in `snapshots/`.
    pub fn present(&self) -> impl Iterator<Item = (&SnapshotId, &Known)> {
        self.by_id.iter().filter(|(_, known)| known.present)
    }

    /// How many have one.
    #[must_use]
    pub fn count_present(&self) -> usize {
        self.present
    }

    /// Everything, also ids that have only refs or holds.
    pub fn all(&self) -> impl Iterator<Item = (&SnapshotId, &Known)> {
        self.by_id.iter()
    }

    /// All refs.
    pub fn refs(&self) -> impl Iterator<Item = (&SnapshotId, &ForkId, &RefTarget)> {
        self.by_id.iter().flat_map(|(id, known)| known.refs.iter().map(move |(fork, target)| (id, fork, target)))
    }

    /// How many refs there are.
    #[must_use]
    pub fn count_refs(&self) -> usize {
        self.refs
    }

    /// The snapshots of one instance, newest first by (`order_at`, `seq`).
    #[must_use]
    pub fn of_instance(&self, instance: &InstanceId) -> Vec<Arc<Summary>> {
        self.by_instance.get(instance).into_iter().flat_map(|line| line.values().rev().cloned()).collect()
    }

    /// The newest of them.
    #[must_use]
    pub fn newest_of(&self, instance: &InstanceId) -> Option<&Arc<Summary>> {
        self.by_instance.get(instance)?.last_key_value().map(|(_, summary)| summary)
    }

    /// The snapshots of this name, of whichever instance.
    pub fn named(&self, name: &SnapshotName) -> impl Iterator<Item = &Arc<Summary>> {
        let known = |id| self.by_id.get(id).and_then(|known| known.summary.as_ref());
        self.by_name.get(name).into_iter().flatten().filter_map(known)
    }

    /// Whether an instance has a snapshot of this name.
    #[must_use]
    pub fn is_named(&self, instance: &InstanceId, name: &SnapshotName) -> bool {
        self.named(name).any(|summary| summary.instance == *instance)
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
