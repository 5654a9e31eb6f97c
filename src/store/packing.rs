//! Who is being compressed at this moment, how to stop that, and what was used since the start. In memory only.

use super::open::Store;
use crate::ids::SnapshotId;
use chrono::{DateTime, Utc};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Packing(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    running: HashMap<SnapshotId, Arc<AtomicBool>>,
    used: HashMap<SnapshotId, DateTime<Utc>>,
    /// No more begins.
    is_over: bool,
}

impl Packing {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A snapshot that is being compressed, until this is dropped.
#[derive(Debug)]
pub struct Compressing<'s> {
    store: &'s Store,
    id: SnapshotId,
    cancelled: Arc<AtomicBool>,
}

impl Compressing<'_> {
    /// Set once somebody needs the snapshot.
    #[must_use]
    pub fn cancelled(&self) -> &AtomicBool {
        &self.cancelled
    }
}

impl Drop for Compressing<'_> {
    fn drop(&mut self) {
        self.store.packing.state().running.remove(&self.id);
    }
}

impl Store {
    /// Begins to compress a snapshot; `None` if somebody does so already, or nobody is to.
    #[must_use]
    pub fn begin_compressing(&self, id: &SnapshotId) -> Option<Compressing<'_>> {
        let mut state = self.packing.state();
        if state.is_over || state.running.contains_key(id) {
            return None;
        }
        let cancelled = Arc::new(AtomicBool::new(false));
        state.running.insert(id.clone(), Arc::clone(&cancelled));
        Some(Compressing { store: self, id: id.clone(), cancelled })
    }

    /// Whether a snapshot is being compressed.
    #[must_use]
    pub fn is_compressing(&self, id: &SnapshotId) -> bool {
        self.packing.state().running.contains_key(id)
    }

    /// Somebody needs a snapshot: it is not cold, and if it is being compressed, that ends. Waits for nothing: whoever compresses
    /// looks between chunks, and once more under the snapshot's lock before anything changes.
    pub fn disturb(&self, id: &SnapshotId) {
        let now = self.clock.now();
        let mut state = self.packing.state();
        if let Some(cancelled) = state.running.get(id) {
            cancelled.store(true, Ordering::SeqCst);
        }
        // Where nothing is ever compressed, nobody asks; a few thousand are enough to know what is warm.
        if state.used.len() > 10_000 {
            state.used.clear();
        }
        state.used.insert(id.clone(), now);
    }

    /// Ends all compressing, for good: for the stop.
    pub fn cancel_compressing(&self) {
        let mut state = self.packing.state();
        state.is_over = true;
        state.running.values().for_each(|cancelled| cancelled.store(true, Ordering::SeqCst));
    }

    /// When a snapshot was last used, if it was since the start.
    #[must_use]
    pub fn used_at(&self, id: &SnapshotId) -> Option<DateTime<Utc>> {
        self.packing.state().used.get(id).copied()
    }
}
