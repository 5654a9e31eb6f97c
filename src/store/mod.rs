//! The store and the instances root: the only layer that touches them.
//!
//! What lies below is the truth; the [`Index`] in memory is rebuilt from it. Nothing here decides what is due, what to
//! keep, or what the queue does next.

mod ballast;
mod cache;
pub mod compression;
pub mod counters;
pub mod digests;
pub mod fs;
pub mod index;
pub mod instances;
mod intern;
pub mod journal;
pub mod keyed;
#[cfg(test)]
mod keyed_tests;
pub mod layout;
pub(crate) mod lean;
pub(crate) mod leftovers;
mod load;
pub mod manifest;
mod marks;
mod open;
mod packing;
pub(crate) mod par;
pub mod pool;
pub mod probe;
mod records;
mod refs;
pub mod root;
pub mod sizes;
pub mod syncing;
pub mod tags;
pub mod trash;
pub mod watch;

/// What locks are made of.
mod sync {
    pub(super) use std::sync::{Arc, Condvar, Mutex, PoisonError};
}

pub use cache::CacheUse;
pub use compression::Compression;
pub use index::{Index, Known, MemoryFile, RefTarget, Summary};
pub use open::{OpenOptions, SnapshotGuard, Store, StorePin};
pub use packing::Compressing;
pub use records::Pinned;
pub use refs::Refs;
pub use root::RootProof;

use crate::ids::{IdError, SnapshotId};
use std::path::PathBuf;

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] fs::FsError),
    /// A record is damaged, or newer than this program.
    #[error(transparent)]
    Record(#[from] manifest::RecordError),
    /// The instances root is not proven.
    #[error(transparent)]
    Root(#[from] root::RootError),
    /// Somebody else has the lock.
    #[error("another snapkeep works on {}; wait for it, or ask it by its socket", path.display())]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
    /// There is no store yet.
    #[error("{} is not a snapkeep store; make it with `snapkeep init`", path.display())]
    NoStore {
        /// The store's path.
        path: PathBuf,
    },
    /// No such snapshot.
    #[error("there is no snapshot {id}")]
    NoSnapshot {
        /// The id, or the name, that was asked for.
        id: String,
    },
    /// A name of ours is not what it should be.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A record cannot be put into words.
    #[error("cannot encode {}: {source}", path.display())]
    Encode {
        /// The record's path.
        path: PathBuf,
        /// The reason.
        source: serde_json::Error,
    },
}

impl StoreError {
    /// No such snapshot.
    #[must_use]
    pub fn no_snapshot(id: &SnapshotId) -> Self {
        Self::NoSnapshot { id: id.to_string() }
    }
}
