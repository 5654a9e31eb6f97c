//! Removing: the protocol *remove*, one snapshot at a time, and unlinking what lies in the trash. A plan is a proposal;
//! everything that protects a snapshot is read again here, at the cut. Nothing here decides what should go.

mod links;
mod trash;

pub use trash::Swept;

use crate::event::Event;
use crate::fork::Forks;
use crate::ids::{ForkName, SnapshotId};
use crate::store::fs::FsError;
use crate::store::root::RootError;
use crate::store::{Known, RefTarget, Store, StoreError};
use chrono::TimeDelta;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
    /// The instances root is not proven, so it cannot be told what needs it.
    #[error("nothing is removed while the instances root is not proven: {0}")]
    Unmounted(#[from] RootError),
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
#[derive(Debug, Clone)]
pub struct Reclaim {
    store: Arc<Store>,
    forks: Arc<Forks>,
}

impl Reclaim {
    /// Over a store and its forks.
    #[must_use]
    pub fn new(store: Arc<Store>, forks: Arc<Forks>) -> Self {
        Self { store, forks }
    }

    /// Cuts one snapshot: lock, read all that protects it, rename into the trash, sync, unlock. The caller has brought
    /// the refs up to date ([`Forks::reconcile`]).
    ///
    /// # Errors
    /// [`ReclaimError::Blocked`] with everything that needs it; others as they say.
    pub fn remove(&self, id: &SnapshotId, reasons: &[String], grace: Duration) -> Result<Removed, ReclaimError> {
        let proof = self.store.prove_root()?;
        let guard = self.store.lock_snapshot(id);
        let known = self.store.known(id)?;
        let blocked = self.blocked(id, &known)?;
        if !blocked.why.is_empty() {
            return Err(ReclaimError::Blocked { id: id.clone(), blocked });
        }
        let trashed = self.store.cut(&guard, &proof)?;
        drop(guard);
        self.forks.forget_recipe(id);
        if let Some(summary) = &known.summary {
            let until = self.store.clock.now() + TimeDelta::from_std(grace).unwrap_or(TimeDelta::MAX);
            self.store.events.emit(Event::PruneRemoved {
                snapshot: id.clone(),
                instance: summary.instance.clone(),
                policy: summary.policy.clone(),
                reasons: reasons.to_vec(),
                until,
            });
        }
        Ok(Removed { id: id.clone(), trashed })
    }

    /// Everything that needs a snapshot: index, queue, and the disk's own lists of refs and holds.
    fn blocked(&self, id: &SnapshotId, known: &Known) -> Result<Blocked, ReclaimError> {
        let queued = self.forks.waiting_for(id);
        let (refs, holds) = self.store.refs_and_holds_on_disk(id)?;
        let mut blocked = Blocked {
            forks: fork_names(known, &queued),
            holds: known.holds.iter().map(ToString::to_string).collect(),
            details: known.unreadable.iter().cloned().collect(),
            ..Blocked::default()
        };
        let live = known.refs.keys().any(|fork| !queued.iter().any(|(q, _)| q == fork));
        let mut because = |is: bool, why: &'static str| {
            if is {
                blocked.why.push(why);
            }
        };
        because(live || refs > known.refs.len(), "live_forks");
        because(!queued.is_empty(), "queued");
        because(known.pins > 0, "pinned");
        because(!known.holds.is_empty() || holds > 0, "held");
        because(!known.unreadable.is_empty() || known.summary.is_none(), "unreadable");
        if blocked.why.is_empty()
            && let Some(summary) = &known.summary
            && let Some(path) = self.unknown_link(summary)?
        {
            blocked.why.push("linked");
            blocked.details.push(format!("{} has a link that is no known fork's", path.display()));
        }
        Ok(blocked)
    }
}

/// The forks that need a snapshot, by name: where their refs point, else by id.
#[must_use]
pub fn fork_names(known: &Known, queued: &[(crate::ids::ForkId, ForkName)]) -> Vec<String> {
    let name = |(fork, target): (&crate::ids::ForkId, &RefTarget)| {
        let queued = queued.iter().find(|(id, _)| id == fork).map(|(_, name)| name.to_string());
        queued.unwrap_or_else(|| match target {
            RefTarget::At(path) => path.file_name().map_or_else(|| fork.to_string(), |n| n.to_string_lossy().into_owned()),
            RefTarget::Unreadable => fork.to_string(),
        })
    };
    let mut names: Vec<String> = known.refs.iter().map(name).collect();
    names.sort();
    names
}
