//! The ledger: one small durable record per pair, and the same in memory.

use super::Pair;
use crate::event::Event;
use crate::fork::group::GroupCommit;
use crate::ids::{InstanceId, PolicyName};
use crate::policy::cadence::LedgerEntry;
use crate::store::counters::{read_record, write_records};
use crate::store::fs::FsError;
use crate::store::manifest::RecordError;
use crate::store::{Store, StoreError};
use chrono::{DateTime, Utc};
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
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
    /// The answer never came: the thread that was to write it is gone.
    #[error("the ledger was not written: whoever did so came to an end")]
    Unanswered,
}

impl From<FsError> for LedgerError {
    fn from(e: FsError) -> Self {
        Self::Store(e.into())
    }
}

/// All entries, by policy and instance.
#[derive(Debug)]
pub struct Ledger {
    store: Arc<Store>,
    entries: Mutex<Entries>,
    /// Goes up with each change: what was computed from the entries holds for as long as it stays.
    changes: AtomicU64,
    asks: GroupCommit<(Pair, LedgerEntry), Result<(), LedgerError>>,
}

type Entries = BTreeMap<PolicyName, BTreeMap<InstanceId, Known>>;

/// An entry, and what follows from it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) entry: LedgerEntry,
    /// Nothing is due before this time; not known after a change of the entry.
    pub(super) quiet_until: Option<DateTime<Utc>>,
    /// The slot that is due and waits for its turn.
    pub(super) seen: Option<DateTime<Utc>>,
    /// When it has gone by two slots without a snapshot, if that was computed; `Some(None)`: never.
    pub(super) overdue_at: Option<Option<DateTime<Utc>>>,
}

impl Known {
    fn new(entry: LedgerEntry) -> Self {
        Self { entry, quiet_until: None, seen: None, overdue_at: None }
    }
}

impl Ledger {
    /// Reads all entries. One that is damaged is reported and left; its pair begins anew, which at the worst misses a slot.
    ///
    /// # Errors
    /// [`LedgerError::Newer`], or [`LedgerError::Store`] if the ledger cannot be listed.
    pub fn load(store: Arc<Store>) -> Result<Self, LedgerError> {
        let mut entries = Entries::new();
        for dir in store.fs.list_if_there(&store.layout.ledger())? {
            let Some(Ok(policy)) = dir.name.to_str().map(PolicyName::parse) else { continue };
            let path = store.layout.ledger_of(&policy);
            for file in store.fs.list_if_there(&path)? {
                let name = file.name.to_str().and_then(|n| n.strip_suffix(".json"));
                let Some(Ok(instance)) = name.map(InstanceId::parse) else { continue };
                match read_record::<LedgerEntry>(&store.fs, &store.layout.ledger_entry(&policy, &instance)) {
                    Ok(Some(entry)) => drop(entries.entry(policy.clone()).or_default().insert(instance, Known::new(entry))),
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
        Ok(Self { store, entries: Mutex::new(entries), changes: AtomicU64::new(0), asks: GroupCommit::default() })
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, (policy, instance): &Pair) -> Option<LedgerEntry> {
        self.entries().get(policy)?.get(instance).map(|known| known.entry.clone())
    }

    /// Whether a pair's slot was due when somebody last looked.
    pub(super) fn is_due(&self, (policy, instance): &Pair) -> bool {
        self.entries().get(policy).and_then(|all| all.get(instance)).is_some_and(|known| known.seen.is_some())
    }

    /// How many pairs failed the last time.
    pub(super) fn failing(&self) -> usize {
        self.entries().values().flat_map(BTreeMap::values).filter(|known| known.entry.failures > 0).count()
    }

    /// All entries.
    #[must_use]
    pub fn all(&self) -> Vec<(Pair, LedgerEntry)> {
        let entries = self.entries();
        let pairs = entries.iter().flat_map(|(policy, all)| all.iter().map(move |(instance, known)| (policy, instance, known)));
        pairs.map(|(policy, instance, known)| ((policy.clone(), instance.clone()), known.entry.clone())).collect()
    }

    /// What is known of a policy's instances, in their order. Nothing is written meanwhile.
    pub(super) fn with_policy<T>(&self, policy: &PolicyName, look: impl FnOnce(&mut BTreeMap<InstanceId, Known>) -> T) -> T {
        let mut entries = self.entries();
        match entries.get_mut(policy) {
            Some(all) => look(all),
            None => look(&mut BTreeMap::new()),
        }
    }

    /// How often anything has changed.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Has everything looked at again that was computed from the entries.
    pub(super) fn touch(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// Forgets when nothing is due: after a change of policies or of the clock.
    pub(super) fn reconsider(&self) {
        self.touch();
        self.entries().values_mut().flat_map(BTreeMap::values_mut).for_each(|known| {
            known.quiet_until = None;
            known.overdue_at = None;
        });
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

    /// Writes an entry, durable on return, and then remembers it. What others write meanwhile is synced with it: where a
    /// thousand slots come at once, they do not wait for a sync of each.
    pub(super) fn set(&self, pair: &Pair, entry: LedgerEntry) -> Result<(), LedgerError> {
        self.set_all(vec![(pair.clone(), entry)]).pop().unwrap_or(Err(LedgerError::Unanswered))
    }

    /// The same for many; the answers are in their order.
    pub(super) fn set_all(&self, all: Vec<(Pair, LedgerEntry)>) -> Vec<Result<(), LedgerError>> {
        let answers = self.asks.submit(all, |batch| self.write(batch));
        answers.into_iter().map(|answer| answer.unwrap_or(Err(LedgerError::Unanswered))).collect()
    }

    /// What is written to one entry twice is written one after the other.
    fn write(&self, batch: Vec<(Pair, LedgerEntry)>) -> Vec<Result<(), LedgerError>> {
        let (mut answers, mut run, mut pairs) = (Vec::with_capacity(batch.len()), Vec::new(), HashSet::new());
        for ask in batch {
            if !pairs.insert(ask.0.clone()) {
                answers.extend(self.write_run(std::mem::take(&mut run)));
                pairs = HashSet::from([ask.0.clone()]);
            }
            run.push(ask);
        }
        answers.extend(self.write_run(run));
        answers
    }

    fn write_run(&self, run: Vec<(Pair, LedgerEntry)>) -> Vec<Result<(), LedgerError>> {
        let layout = &self.store.layout;
        let records: Vec<_> = run.iter().map(|((policy, instance), entry)| (layout.ledger_entry(policy, instance), entry)).collect();
        let written = write_records(&self.store.fs, &records);
        let mut entries = self.entries();
        let remember = |(((policy, instance), entry), written): ((Pair, LedgerEntry), Result<(), StoreError>)| {
            written?;
            entries.entry(policy).or_default().insert(instance, Known::new(entry));
            Ok(())
        };
        let answers = run.into_iter().zip(written).map(remember).collect();
        drop(entries);
        self.touch();
        answers
    }
}
