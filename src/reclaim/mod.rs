//! Removing: the protocol *remove* (`cut.rs`), and unlinking what lies in the trash (`trash.rs`). A plan is a proposal;
//! everything that protects a snapshot is read again here, at the cut. Nothing here decides what should go.

mod cut;
mod links;
mod trash;
mod undelete;

pub use cut::Removal;
pub use trash::{SweepRules, Swept};

use crate::fork::Forks;
use crate::ids::{ForkName, InstanceId, SnapshotId};
use crate::store::fs::FsError;
use crate::store::root::RootError;
use crate::store::trash::name_before;
use crate::store::{Known, RefTarget, Store, StoreError};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Why a snapshot was not removed.
#[derive(Debug, thiserror::Error)]
pub enum ReclaimError {
    /// Something needs it, or it cannot be told.
    #[error("snapshot {id} must stay: {blocked}")]
    Blocked {
        /// Which.
        id: SnapshotId,
        /// What needs it.
        blocked: Blocked,
    },
    /// The store failed, or there is no such snapshot.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not in the trash, or its files are being unlinked.
    #[error("{0} is not in the trash; `snapkeep ls --trash` shows what is")]
    NotInTrash(String),
    /// Another instance has the name.
    #[error("there is an instance {0}; bring it back under another name with --as")]
    NameTaken(InstanceId),
    /// The instances root is not proven, so it cannot be told what needs it.
    #[error("nothing is removed while the instances root is not proven: {0}")]
    Unmounted(#[source] Arc<RootError>),
}

impl From<RootError> for ReclaimError {
    fn from(e: RootError) -> Self {
        Self::Unmounted(Arc::new(e))
    }
}

impl From<FsError> for ReclaimError {
    fn from(e: FsError) -> Self {
        Self::Store(e.into())
    }
}

/// All that keeps a snapshot from removal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blocked {
    /// `live_forks`, `queued`, `pinned`, `held`, `unreadable` or `linked`.
    pub why: Vec<&'static str>,
    /// Live and queued forks, by name.
    pub forks: Vec<String>,
    /// Holds.
    pub holds: Vec<String>,
    /// What cannot be read, or who else has a link, in words.
    pub details: Vec<String>,
    /// What its removal would free, bytes; `None` if that cannot be told.
    pub reclaimable_bytes: Option<u64>,
}

impl std::fmt::Display for Blocked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        let mut list = |what: &str, names: &[String]| {
            if !names.is_empty() {
                parts.push(format!("{what} {}", names.join(", ")));
            }
        };
        list("needed by", &self.forks);
        list("held by", &self.holds);
        list("", &self.details);
        if self.why.contains(&"pinned") {
            parts.push("somebody reads it at this moment".to_owned());
        }
        f.write_str(parts.join("; ").trim())
    }
}

/// A snapshot that was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Which.
    pub id: SnapshotId,
    /// Where it is until its grace is over.
    pub trashed: PathBuf,
}

/// Removes from one store.
#[derive(Debug)]
pub struct Reclaim {
    store: Arc<Store>,
    forks: Arc<Forks>,
    /// One sweep at a time.
    sweeping: Mutex<()>,
    memory: Mutex<trash::Memory>,
    /// Held by each cut until it is reported: see [`Reclaim::save_uptime`]. Taken before any snapshot's lock.
    cutting: Mutex<()>,
}

impl Reclaim {
    /// Over a store and its forks.
    #[must_use]
    pub fn new(store: Arc<Store>, forks: Arc<Forks>) -> Self {
        Self { store, forks, sweeping: Mutex::default(), memory: Mutex::default(), cutting: Mutex::default() }
    }
}

/// A fork by the name of its directory, also in the trash.
fn in_words(name: &std::ffi::OsStr) -> String {
    match name_before(name) {
        Some(before) => format!("{before} (in the trash)"),
        None => name.to_string_lossy().into_owned(),
    }
}

/// The forks that need a snapshot, by name: where their refs point, else by id.
#[must_use]
pub fn fork_names(known: &Known, queued: &[(crate::ids::ForkId, ForkName)]) -> Vec<String> {
    let name = |(fork, target): (&crate::ids::ForkId, &RefTarget)| {
        let queued = queued.iter().find(|(id, _)| id == fork).map(|(_, name)| name.to_string());
        queued.unwrap_or_else(|| match target {
            RefTarget::At(path) => path.file_name().map_or_else(|| fork.to_string(), in_words),
            RefTarget::Unreadable => fork.to_string(),
        })
    };
    let mut names: Vec<String> = known.refs.iter().map(name).collect();
    names.sort();
    names
}
