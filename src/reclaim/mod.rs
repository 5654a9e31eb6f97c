//! Removing: the protocol *remove*, one snapshot at a time, and unlinking what lies in the trash. A plan is a proposal;
//! everything that protects a snapshot is read again here, at the cut. Nothing here decides what should go.

mod links;
mod trash;
mod undelete;

pub use trash::{SweepRules, Swept};

use crate::event::Event;
use crate::fork::Forks;
use crate::ids::{ForkName, InstanceId, SnapshotId};
use crate::store::fs::FsError;
use crate::store::root::RootError;
use crate::store::trash::name_before;
use crate::store::{Known, RefTarget, Store, StoreError};
use chrono::{DateTime, TimeDelta, Utc};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
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
    /// It is not in the trash, or its files are being unlinked.
    #[error("{0} is not in the trash; `snapkeep ls --trash` shows what is")]
    NotInTrash(String),
    /// Another instance has the name.
    #[error("there is an instance {0}; bring it back under another name with --as")]
    NameTaken(InstanceId),
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
}

impl Reclaim {
    /// Over a store and its forks.
    #[must_use]
    pub fn new(store: Arc<Store>, forks: Arc<Forks>) -> Self {
        Self { store, forks, sweeping: Mutex::default(), memory: Mutex::default() }
    }

    /// Cuts one snapshot: lock, read all that protects it, rename into the trash, sync, unlock. The caller has brought
    /// the refs up to date ([`Forks::reconcile`]).
    ///
    /// # Errors
    /// [`ReclaimError::Blocked`] with everything that needs it; others as they say.
    pub fn remove(&self, id: &SnapshotId, reasons: &[String], grace: Duration) -> Result<Removed, ReclaimError> {
        self.remove_even(id, reasons, grace, false)
    }

    /// The same, and with `unreadable` also a snapshot whose manifest cannot be read: somebody has looked at it.
    ///
    /// # Errors
    /// Those of [`Reclaim::remove`].
    pub fn remove_even(&self, id: &SnapshotId, reasons: &[String], grace: Duration, unreadable: bool) -> Result<Removed, ReclaimError> {
        let proof = self.store.prove_root()?;
        let guard = self.store.lock_snapshot(id);
        let known = self.store.known(id)?;
        let blocked = self.blocked(id, &known, unreadable)?;
        if !blocked.why.is_empty() {
            drop(guard);
            let reclaimable_bytes = self.store.reclaimable_bytes(id, Duration::ZERO).ok();
            return Err(ReclaimError::Blocked { id: id.clone(), blocked: Blocked { reclaimable_bytes, ..blocked } });
        }
        // Whatever comes behind it fails: its forks are made again while the snapshot is there.
        self.with_ballast(|| Ok(self.forks.pool().drain(&self.store, &guard, &proof, "its snapshot was removed")?))?;
        let trashed = self.with_ballast(|| self.store.cut(&guard, &proof))?;
        drop(guard);
        self.forks.forget_recipe(id);
        let now = self.store.clock.now();
        let until = TimeDelta::from_std(grace).ok().and_then(|grace| now.checked_add_signed(grace));
        self.store.events.emit(Event::PruneRemoved {
            snapshot: id.clone(),
            instance: known.summary.as_ref().map(|summary| summary.instance.clone()),
            policy: known.summary.as_ref().and_then(|summary| summary.policy.clone()),
            reasons: reasons.to_vec(),
            until: until.unwrap_or(DateTime::<Utc>::MAX_UTC),
        });
        Ok(Removed { id: id.clone(), trashed })
    }

    /// Does something that frees space in the end; if it needs room first and there is none, the ballast makes some.
    fn with_ballast<T>(&self, act: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
        match act() {
            Err(StoreError::Io(e)) if e.is_full() && self.store.drop_ballast() => act(),
            done => done,
        }
    }

    /// Everything that needs a snapshot: index, queue, and the disk's own lists of refs and holds.
    fn blocked(&self, id: &SnapshotId, known: &Known, unreadable: bool) -> Result<Blocked, ReclaimError> {
        let queued = self.forks.waiting_for(id);
        let (refs, holds) = self.store.refs_and_holds_on_disk(id)?;
        let mut blocked = Blocked {
            forks: fork_names(known, &queued),
            holds: known.holds.iter().map(ToString::to_string).collect(),
            details: known.damage().into_iter().collect(),
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
        because(!known.unreadable.is_empty() || (known.summary.is_none() && !unreadable), "unreadable");
        if blocked.why.is_empty()
            && let Some(path) = match &known.summary {
                Some(summary) => self.unknown_link(summary)?,
                None => self.any_link(id)?,
            }
        {
            blocked.why.push("linked");
            blocked.details.push(format!("{} has a link that is no known fork's", path.display()));
        }
        Ok(blocked)
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
