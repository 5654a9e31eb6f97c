//! Every path name of the store and the instances root; nobody else joins path parts of theirs.

use crate::ids::{ForkId, HoldName, InstanceId, PolicyName, SnapshotId};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The name of our directory, in the instances root and in each fork.
pub const OURS: &str = ".snapkeep";

/// What the name of a directory ends with in which memory is being packed.
const PACKING: &str = ".packing";

/// The two roots.
#[derive(Debug, Clone)]
pub struct Layout {
    store: PathBuf,
    instances: PathBuf,
}

impl Layout {
    /// The layout over a store and an instances root; both absolute.
    #[must_use]
    pub fn new(store: &Path, instances: &Path) -> Self {
        Self { store: store.to_owned(), instances: instances.to_owned() }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// The instances root.
    #[must_use]
    pub fn instances(&self) -> &Path {
        &self.instances
    }

    /// Format number and identities.
    #[must_use]
    pub fn format(&self) -> PathBuf {
        self.store.join("FORMAT")
    }

    /// The lock of the one writer.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.store.join("lock")
    }

    /// All snapshots.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.store.join("snapshots")
    }

    /// One snapshot.
    #[must_use]
    pub fn snapshot(&self, id: &SnapshotId) -> PathBuf {
        self.snapshots().join(id)
    }

    /// The manifest inside a snapshot's directory, wherever that is.
    #[must_use]
    pub fn manifest_in(dir: &Path) -> PathBuf {
        dir.join("manifest.json")
    }

    /// The tree inside a snapshot's directory, wherever that is.
    #[must_use]
    pub fn data_in(dir: &Path) -> PathBuf {
        dir.join("data")
    }

    /// Snapshots being built.
    #[must_use]
    pub fn staging(&self) -> PathBuf {
        self.store.join("staging")
    }

    /// One snapshot being built.
    #[must_use]
    pub fn staged(&self, id: &SnapshotId) -> PathBuf {
        self.staging().join(id)
    }

    /// Where a snapshot's memory is being packed: the files are in `packed` below it, and it stays until their mark is there.
    #[must_use]
    pub fn staged_packing(&self, id: &SnapshotId) -> PathBuf {
        self.staging().join(format!("{id}{PACKING}"))
    }

    /// The snapshot whose memory is being packed in the directory of this name in staging.
    #[must_use]
    pub fn packing_of(name: &OsStr) -> Option<SnapshotId> {
        SnapshotId::parse(name.to_str()?.strip_suffix(PACKING)?).ok()
    }

    /// Where a snapshot's memory is being unpacked.
    #[must_use]
    pub fn staged_raw(&self, id: &SnapshotId) -> PathBuf {
        self.staging().join(format!("{id}.raw"))
    }

    /// Raw memory files that were taken out of the cache and are being unlinked.
    #[must_use]
    pub fn staged_retired(&self, id: &SnapshotId) -> PathBuf {
        self.staging().join(format!("{id}.retired"))
    }

    /// The packed memory files inside a snapshot's directory, wherever that is.
    #[must_use]
    pub fn packed_in(dir: &Path) -> PathBuf {
        dir.join("packed")
    }

    /// Raw memory files of packed snapshots.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.store.join("cache")
    }

    /// Those of one snapshot.
    #[must_use]
    pub fn cache_of(&self, id: &SnapshotId) -> PathBuf {
        self.cache().join(id)
    }

    /// One generation of them.
    #[must_use]
    pub fn cached(&self, id: &SnapshotId, generation: u64) -> PathBuf {
        self.cache_of(id).join(generation.to_string())
    }

    /// Directories that are being moved into the store: nothing in here is ever removed with data in it.
    #[must_use]
    pub fn importing(&self) -> PathBuf {
        self.store.join("importing")
    }

    /// One of them.
    #[must_use]
    pub fn importing_of(&self, id: &SnapshotId) -> PathBuf {
        self.importing().join(id)
    }

    /// Marks of all snapshots.
    #[must_use]
    pub fn marks(&self) -> PathBuf {
        self.store.join("marks")
    }

    /// Marks of one.
    #[must_use]
    pub fn marks_of(&self, id: &SnapshotId) -> PathBuf {
        self.marks().join(id)
    }

    /// One mark.
    #[must_use]
    pub fn mark(&self, id: &SnapshotId, mark: &str) -> PathBuf {
        self.marks_of(id).join(format!("{mark}.json"))
    }

    /// Refs of all snapshots.
    #[must_use]
    pub fn refs(&self) -> PathBuf {
        self.store.join("refs")
    }

    /// Refs of one.
    #[must_use]
    pub fn refs_of(&self, id: &SnapshotId) -> PathBuf {
        self.refs().join(id)
    }

    /// One ref.
    #[must_use]
    pub fn ref_of(&self, id: &SnapshotId, fork: &ForkId) -> PathBuf {
        self.refs_of(id).join(fork)
    }

    /// Holds of all snapshots.
    #[must_use]
    pub fn holds(&self) -> PathBuf {
        self.store.join("holds")
    }

    /// Holds of one.
    #[must_use]
    pub fn holds_of(&self, id: &SnapshotId) -> PathBuf {
        self.holds().join(id)
    }

    /// One hold.
    #[must_use]
    pub fn hold(&self, id: &SnapshotId, name: &HoldName) -> PathBuf {
        self.holds_of(id).join(name)
    }

    /// Removed snapshots, until their grace is over.
    #[must_use]
    pub fn trash(&self) -> PathBuf {
        self.store.join("trash")
    }

    /// The directory of the fork journal.
    #[must_use]
    pub fn queue(&self) -> PathBuf {
        self.store.join("queue")
    }

    /// The fork journal.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.queue().join("journal")
    }

    /// What schedules have done.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        self.store.join("ledger")
    }

    /// What one policy has done.
    #[must_use]
    pub fn ledger_of(&self, policy: &PolicyName) -> PathBuf {
        self.ledger().join(policy)
    }

    /// What one policy has done with one instance.
    #[must_use]
    pub fn ledger_entry(&self, policy: &PolicyName, instance: &InstanceId) -> PathBuf {
        self.ledger_of(policy).join(format!("{instance}.json"))
    }

    /// High-water mark of `seq`.
    #[must_use]
    pub fn seq(&self) -> PathBuf {
        self.ledger().join("seq.json")
    }

    /// Boot time, added up over boots.
    #[must_use]
    pub fn uptime(&self) -> PathBuf {
        self.ledger().join("uptime.json")
    }

    /// Which of the trash is being unlinked.
    #[must_use]
    pub fn unlinking(&self) -> PathBuf {
        self.ledger().join("unlinking.json")
    }

    /// What was seen of the clocks.
    #[must_use]
    pub fn clock(&self) -> PathBuf {
        self.ledger().join("clock.json")
    }

    /// Which snapshots were verified when.
    #[must_use]
    pub fn verified(&self) -> PathBuf {
        self.ledger().join("verified.json")
    }

    /// What `verify --repair` moved out of the way.
    #[must_use]
    pub fn aside(&self) -> PathBuf {
        self.store.join("aside")
    }

    /// An instance.
    #[must_use]
    pub fn instance(&self, id: &InstanceId) -> PathBuf {
        self.instances.join(id)
    }

    /// A directory of the instances root whose name need not be valid.
    #[must_use]
    pub fn instance_named(&self, name: &OsStr) -> PathBuf {
        self.instances.join(name)
    }

    /// The fork record inside an instance's directory, wherever that is.
    #[must_use]
    pub fn fork_record_in(dir: &Path) -> PathBuf {
        dir.join(OURS).join("fork.json")
    }

    /// The file of tags inside an instance's directory, wherever that is.
    #[must_use]
    pub fn tags_in(dir: &Path) -> PathBuf {
        dir.join(OURS).join("tags.toml")
    }

    /// Our directory in the instances root.
    #[must_use]
    pub fn root_area(&self) -> PathBuf {
        self.instances.join(OURS)
    }

    /// What proves the instances root.
    #[must_use]
    pub fn root_proof(&self) -> PathBuf {
        self.root_area().join("root")
    }

    /// Forks being built.
    #[must_use]
    pub fn fork_staging(&self) -> PathBuf {
        self.root_area().join("staging")
    }

    /// One fork being built.
    #[must_use]
    pub fn staged_fork(&self, fork: &ForkId) -> PathBuf {
        self.fork_staging().join(fork)
    }

    /// Forks made ahead of need.
    #[must_use]
    pub fn pool(&self) -> PathBuf {
        self.root_area().join("pool")
    }

    /// Those of one snapshot.
    #[must_use]
    pub fn pool_of(&self, id: &SnapshotId) -> PathBuf {
        self.pool().join(id)
    }

    /// One of them, whole or being made.
    #[must_use]
    pub fn pool_entry(&self, id: &SnapshotId, name: &str) -> PathBuf {
        self.pool_of(id).join(name)
    }

    /// A snapshot's entries that were taken out of the pool together, and are to be unlinked.
    #[must_use]
    pub fn pool_drained(&self, name: &ForkId) -> PathBuf {
        self.pool().join(format!(".drained-{name}"))
    }

    /// An entry that was taken out of the pool, and is to be unlinked.
    #[must_use]
    pub fn pool_gone(&self, name: &ForkId) -> PathBuf {
        self.pool().join(format!(".gone-{name}"))
    }

    /// Instances replaced by `restore` or removed by `unfork`.
    #[must_use]
    pub fn root_trash(&self) -> PathBuf {
        self.root_area().join("trash")
    }
}
