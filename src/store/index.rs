//! What is in the store, in memory: rebuilt from the tree at every start, never written down.

use super::compression::Compression;
use super::manifest::{Imported, Kind, Manifest};
use super::records::Pinned;
use crate::ids::{ForkId, HoldName, InstanceId, PolicyName, SnapshotId, SnapshotName};
use crate::policy::SnapshotState;
use chrono::{DateTime, Utc};
use std::collections::{BTreeMap, BTreeSet};
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
    pub driver: String,
    pub created_at: DateTime<Utc>,
    pub order_at: DateTime<Utc>,
    pub tags: BTreeMap<String, String>,
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
            driver: m.driver.clone(),
            created_at: m.created_at,
            order_at: m.order_at,
            tags: m.tags.clone(),
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
    pub refs: BTreeMap<ForkId, RefTarget>,
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

/// The index: by snapshot id, in the order of ids (which is about the order of time).
#[derive(Debug, Default)]
pub struct Index {
    by_id: BTreeMap<SnapshotId, Known>,
    /// Those whose digests are still to be made: asked for every second, so not to be looked for among all.
    unhashed: BTreeSet<SnapshotId>,
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
        let result = change(known);
        if known.wants_digests() {
            self.unhashed.insert(id.clone());
        } else {
            self.unhashed.remove(id);
        }
        if known.is_empty() {
            self.by_id.remove(id);
        }
        result
    }

    /// Snapshots whose digests are still to be made, the oldest first.
    pub fn unhashed(&self) -> impl Iterator<Item = &SnapshotId> {
        self.unhashed.iter()
    }

    /// All ids that have a directory in `snapshots/`.
    pub fn present(&self) -> impl Iterator<Item = (&SnapshotId, &Known)> {
        self.by_id.iter().filter(|(_, known)| known.present)
    }

    /// Everything, also ids that have only refs or holds.
    pub fn all(&self) -> impl Iterator<Item = (&SnapshotId, &Known)> {
        self.by_id.iter()
    }

    /// All refs.
    pub fn refs(&self) -> impl Iterator<Item = (&SnapshotId, &ForkId, &RefTarget)> {
        self.by_id.iter().flat_map(|(id, known)| known.refs.iter().map(move |(fork, target)| (id, fork, target)))
    }

    /// The snapshots of one instance, newest first by (`order_at`, `seq`).
    #[must_use]
    pub fn of_instance(&self, instance: &InstanceId) -> Vec<Arc<Summary>> {
        let mut all: Vec<Arc<Summary>> =
            self.present().filter_map(|(_, known)| known.summary.clone()).filter(|s| s.instance == *instance).collect();
        all.sort_by_key(|s| std::cmp::Reverse((s.order_at, s.seq)));
        all
    }
}
