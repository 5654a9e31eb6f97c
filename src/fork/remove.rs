//! `unfork`: a fork that does not run goes into the root's trash in one rename; its ref follows once it is unlinked.

use super::{ForkError, Forks};
use crate::driver::running;
use crate::event::Event;
use crate::ids::{ForkId, InstanceId, SnapshotId};
use crate::store::instances::{self, Standing};
use crate::store::trash::Departed;
use std::path::PathBuf;

/// A fork that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovedFork {
    /// Which.
    pub fork: ForkId,
    /// What it was a fork of.
    pub snapshot: SnapshotId,
    /// Where it is now.
    pub trashed: PathBuf,
}

impl Forks {
    /// Moves a fork into the trash.
    ///
    /// # Errors
    /// [`ForkError::NoFork`] if it is no fork, [`ForkError::InUse`] if another process has one of its files open or
    /// that cannot be told. It stays where it is then.
    pub fn unfork(&self, name: &InstanceId) -> Result<RemovedFork, ForkError> {
        self.store.prove_root()?;
        let _instance = self.store.instance_locks.lock(name);
        let dir = self.store.layout.instance(name);
        let Standing::Fork(record) = instances::standing(&self.store.fs, &dir)? else {
            return Err(ForkError::NoFork(name.clone()));
        };
        let in_use = |why: String| Err(ForkError::InUse { name: name.clone(), why });
        match running::in_use(&self.store.fs, &dir) {
            Ok(None) => {}
            Ok(Some(found)) => return in_use(format!("{} ({})", found.path.display(), found.why)),
            Err(cannot_tell) => return in_use(cannot_tell.to_string()),
        }
        let trash = self.store.layout.root_trash();
        let trashed = self.store.root_trash_path(Departed::Unforked, name);
        {
            let _moves = self.store.lock_root_moves();
            self.store.fs.move_durably(&dir, &trashed, &[&trash, self.store.layout.instances()]).map_err(|e| match e.error {
                // Somebody deleted it meanwhile.
                gone if gone.is_not_found() => ForkError::NoFork(name.clone()),
                other => other.into(),
            })?;
        }
        let removed = RemovedFork { fork: record.fork_id, snapshot: record.fork_of_snapshot, trashed };
        self.store.events.emit(Event::ForkRemoved {
            fork: removed.fork.clone(),
            name: name.to_string(),
            snapshot: removed.snapshot.clone(),
        });
        Ok(removed)
    }
}
