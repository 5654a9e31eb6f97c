//! Who has an entry while a fork is made of it.

use super::{Pool, is_ready};
use crate::ids::{ForkId, SnapshotId};
use crate::store::Store;
use crate::store::pool::PoolName;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An entry that is off its shelf: it becomes a fork, or it is unlinked, for something may have been written into it.
#[derive(Debug)]
pub(in crate::fork) struct Claim {
    pool: Arc<Pool>,
    snapshot: SnapshotId,
    name: PoolName,
    path: PathBuf,
    is_fork: bool,
}

impl Claim {
    /// Takes an entry, if there is one that is made as a fork would be made now; it is the caller's alone from here on.
    pub(super) fn take(pool: &Arc<Pool>, store: &Store, snapshot: &SnapshotId, stamp: &str) -> Option<Self> {
        // Of one that is quarantined or about to go nothing is handed out, whoever asked for it before.
        if !is_ready(store, snapshot) {
            return None;
        }
        let mut state = pool.state();
        let shelf = state.shelves.get_mut(snapshot)?;
        let at = shelf.iter().position(|name| name.stamp == stamp)?;
        let name = shelf.swap_remove(at);
        let left = shelf.len();
        *state.claims.entry(snapshot.clone()).or_default() += 1;
        state.version += 1;
        drop(state);
        store.note_pool(snapshot, left);
        let path = store.layout.pool_entry(snapshot, &name.to_string());
        Some(Self { pool: Arc::clone(pool), snapshot: snapshot.clone(), name, path, is_fork: false })
    }

    /// What the entry says of itself.
    pub(super) fn name(&self) -> &PoolName {
        &self.name
    }

    /// Where it lies.
    pub(in crate::fork) fn path(&self) -> &Path {
        &self.path
    }

    /// It lies there no longer: it has a fork's name.
    pub(in crate::fork) fn became_fork(&mut self) {
        self.is_fork = true;
    }

    /// It is not as it was made: under a name that says so, if that can be had, no later process takes it for whole.
    pub(super) fn discard(mut self, store: &Store) {
        let gone = store.layout.pool_gone(&ForkId::generate());
        if store.fs.rename_new(&self.path, &gone).is_ok() {
            self.path = gone;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        if !self.is_fork {
            state.leftovers.insert(std::mem::take(&mut self.path));
        }
        state.version += 1;
        let left = state.claims.get(&self.snapshot).map_or(0, |count| count.saturating_sub(1));
        if left > 0 {
            state.claims.insert(self.snapshot.clone(), left);
        } else {
            state.claims.remove(&self.snapshot);
            drop(state);
            // Whoever fills waits for the last of them in any case.
            self.pool.changed.notify_all();
        }
    }
}
