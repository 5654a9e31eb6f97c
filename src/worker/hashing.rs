//! Digests that are made after snapshots were published: one snapshot at a time, behind everything else.
//!
//! Which are pending is in the index, and so in the store: a restart goes on. Each is begun from its start again; a
//! snapshot that is removed meanwhile is let go at once.

use super::Worker;
use crate::event::Event;
use crate::ids::SnapshotId;
use crate::snapshot::copy::{DataError, Flow, NoProgress};
use crate::snapshot::late::{Late, LateError, hash_late};
use crate::store::fs::Op;
use chrono::TimeDelta;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long one that could not be made is left alone.
const RETRY: Duration = Duration::from_secs(60);

/// What is known of digests besides the index.
#[derive(Debug, Default)]
pub(super) struct Hashing {
    /// One at a time.
    alone: Mutex<()>,
    /// Since boot, when those that failed may be tried again.
    failed: Mutex<BTreeMap<SnapshotId, Duration>>,
}

impl Worker {
    /// Makes the digests of the oldest snapshot that lacks some, slowly; false if there is none to do now.
    pub fn hash_next(&self) -> bool {
        let Some(id) = self.next_to_hash() else { return false };
        let flow = Flow { threads: 1, progress: &NoProgress, cancelled: &self.stopping };
        self.hash(&id, flow);
        true
    }

    /// Makes all digests that are pending: for `once`. Those that fail are left to the next run.
    pub fn hash_all(&self) {
        while let Some(id) = self.next_to_hash() {
            if !self.hash(&id, self.flow()) {
                return;
            }
        }
    }

    /// Makes those of one snapshot, for somebody who has the lock and no worker to do it for them.
    pub(super) fn hash_one(&self, id: &SnapshotId) {
        if self.store.index().get(id).is_some_and(crate::store::Known::wants_digests) {
            self.hash(id, self.flow());
        }
    }

    fn next_to_hash(&self) -> Option<SnapshotId> {
        let now = self.store.clock.since_boot();
        let mut failed = self.hashing.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.retain(|_, until| now < *until);
        self.store.index().unhashed().find(|id| !failed.contains_key(*id)).cloned()
    }

    /// False if the work was told to stop.
    fn hash(&self, id: &SnapshotId, flow: Flow<'_>) -> bool {
        let _alone = self.hashing.alone.lock().unwrap_or_else(PoisonError::into_inner);
        let began = self.store.clock.since_boot();
        match hash_late(&self.store, id, flow) {
            Ok(Late::Made { files, bytes }) => {
                let took = self.store.clock.since_boot().saturating_sub(began);
                let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                self.store.events.emit(Event::SnapshotHashed { snapshot: id.clone(), files, bytes, duration_ms });
            }
            // Somebody took its files away and left it in the index: others are not to wait for it.
            Ok(Late::Gone) if self.store.index().get(id).is_some_and(crate::store::Known::wants_digests) => {
                self.later(id, "its manifest is not there");
            }
            Ok(Late::Gone) => {}
            Ok(Late::Changed { why }) => self.spoilt(id, &why),
            Err(LateError::Data(DataError::Cancelled)) => return false,
            // What cannot be read of its files is damage, as it is to the scrub; what cannot be opened may be our own lack.
            Err(LateError::Data(DataError::Io(e))) if e.op == Op::Read => self.spoilt(id, &e.to_string()),
            Err(e) => self.later(id, &e.to_string()),
        }
        true
    }

    fn spoilt(&self, id: &SnapshotId, why: &str) {
        if let Err(e) = self.quarantine(id, why) {
            self.later(id, &e.to_string());
        }
    }

    fn later(&self, id: &SnapshotId, error: &str) {
        let until = self.store.clock.since_boot() + RETRY;
        self.hashing.failed.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), until);
        let at = self.store.clock.now();
        let retry_at = at + TimeDelta::from_std(RETRY).unwrap_or_default();
        self.store.events.emit(Event::SnapshotHashFailed { snapshot: id.clone(), error: error.to_owned(), at, retry_at });
    }
}
