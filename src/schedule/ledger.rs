//! The ledger: one small durable record per pair, and the same in memory.

use super::Pair;
use crate::event::Event;
use crate::ids::{InstanceId, PolicyName};
use crate::policy::cadence::LedgerEntry;
use crate::store::counters::{read_record, write_record};
use crate::store::fs::FsError;
use crate::store::manifest::RecordError;
use crate::store::{Store, StoreError};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What can go wrong with the ledger.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A later version wrote an entry.
    #[error(transparent)]
    Newer(RecordError),
    /// An entry cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<FsError> for LedgerError {
    fn from(e: FsError) -> Self {
        Self::Store(e.into())
    }
}

/// All entries.
#[derive(Debug)]
pub struct Ledger {
    store: Arc<Store>,
    entries: Mutex<BTreeMap<Pair, LedgerEntry>>,
}

impl Ledger {
    /// Reads all entries. One that is damaged is reported and left; its pair begins anew, which at the worst misses a slot.
    ///
    /// # Errors
    /// [`LedgerError::Newer`], or [`LedgerError::Store`] if the ledger cannot be listed.
    pub fn load(store: Arc<Store>) -> Result<Self, LedgerError> {
        let mut entries = BTreeMap::new();
        for dir in store.fs.list_if_there(&store.layout.ledger())? {
            let Some(Ok(policy)) = dir.name.to_str().map(PolicyName::parse) else { continue };
            let path = store.layout.ledger_of(&policy);
            for file in store.fs.list_if_there(&path)? {
                let name = file.name.to_str().and_then(|n| n.strip_suffix(".json"));
                let Some(Ok(instance)) = name.map(InstanceId::parse) else { continue };
                match read_record::<LedgerEntry>(&store.fs, &store.layout.ledger_entry(&policy, &instance)) {
                    Ok(Some(entry)) => drop(entries.insert((policy.clone(), instance), entry)),
                    Ok(None) => {}
                    Err(e @ RecordError::Newer { .. }) => return Err(LedgerError::Newer(e)),
                    Err(e) => store.events.emit(Event::RecordUnreadable {
                        path: path.join(&file.name).display().to_string(),
                        why: e.to_string(),
                        blocks: Vec::new(),
                    }),
                }
            }
        }
        Ok(Self { store, entries: Mutex::new(entries) })
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<Pair, LedgerEntry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, pair: &Pair) -> Option<LedgerEntry> {
        self.entries().get(pair).cloned()
    }

    /// All entries.
    #[must_use]
    pub fn all(&self) -> Vec<(Pair, LedgerEntry)> {
        self.entries().iter().map(|(pair, entry)| (pair.clone(), entry.clone())).collect()
    }

    pub(super) fn of_policy(&self, policy: &PolicyName) -> Vec<(Pair, LedgerEntry)> {
        let entries = self.entries();
        entries.iter().filter(|((p, _), _)| p == policy).map(|(pair, entry)| (pair.clone(), entry.clone())).collect()
    }

    /// The entry of a pair; a pair that is new gets one that begins now.
    pub(super) fn get_or_begin(&self, pair: &Pair, now: DateTime<Utc>) -> Result<LedgerEntry, LedgerError> {
        if let Some(entry) = self.get(pair) {
            return Ok(entry);
        }
        let entry = LedgerEntry::new(now);
        self.set(pair, entry.clone())?;
        Ok(entry)
    }

    /// Writes an entry, durable on return, and then remembers it.
    pub(super) fn set(&self, pair: &Pair, entry: LedgerEntry) -> Result<(), LedgerError> {
        write_record(&self.store.fs, &self.store.layout.ledger_entry(&pair.0, &pair.1), &entry)?;
        self.entries().insert(pair.clone(), entry);
        Ok(())
    }
}
