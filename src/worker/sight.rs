//! Looking: what a snapshot, a fork, the queue, a plan and the schedules look like from outside. The same for the
//! worker and for a reader without the lock; both are a [`Sight`].

use super::backend::Answer;
use super::problem::{Problem, ProblemKind};
use super::view::{ClockView, ForkView, ForkViews, Place, SnapshotFilter, SnapshotView, Snapshots, UnreadableSnapshot};
use crate::config::Config;
use crate::fork::pool::PoolCounts;
use crate::fork::queue::Request;
use crate::ids::{InstanceId, SnapshotId, SnapshotName};
use crate::policy::Candidate;
use crate::policy::cadence::LedgerEntry;
use crate::schedule::Pair;
use crate::store::compression::Outcome;
use crate::store::instances::{ForkRecord, Scan, Standing};
use crate::store::{Known, Store, Summary};
use chrono::{DateTime, Utc};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

/// What looking needs to know.
pub(super) trait Sight {
    /// The store.
    fn store(&self) -> &Store;
    /// The configuration in force.
    fn config(&self) -> Arc<Config>;
    /// All requests.
    fn requests(&self) -> Vec<Request>;
    /// The ledger.
    fn ledger(&self) -> Vec<(Pair, LedgerEntry)>;
    /// Whether a slot of the pair is being taken.
    fn is_running(&self, pair: &Pair) -> bool;
    /// Whether a slot of the pair is due and waits for its turn.
    fn is_waiting(&self, _pair: &Pair) -> bool {
        false
    }
    /// What is in the instances root.
    fn scan(&self) -> Arc<Scan>;
    /// The instances in it, with their tags as far as a policy asks for them.
    fn candidates(&self) -> Vec<Candidate>;
    /// Why the queue is closed, if it is.
    fn queue_closed(&self) -> Option<String>;
    /// How many forks did not get their memory the first way.
    fn fallbacks(&self) -> u64 {
        0
    }
    /// What the ready pool holds.
    fn pool(&self) -> PoolCounts;
    /// What is thought of the wall clock.
    fn clock(&self) -> ClockView;
    /// When the worker started, if this is one.
    fn started_at(&self) -> Option<DateTime<Utc>>;
    /// How far the worker's start is, if it is not over.
    fn starting(&self) -> Option<String> {
        None
    }
    /// Problems of a refused reload.
    fn rejected(&self) -> Vec<String>;
}

/// So long listings believe a size that was measured.
pub(super) const LISTED: Duration = Duration::from_secs(60);

/// `ls`.
pub(super) fn snapshots(sight: &dyn Sight, filter: &SnapshotFilter) -> Snapshots {
    let mut all = Snapshots::default();
    let mut found = Vec::new();
    let index = sight.store().index();
    for (id, known) in index.present() {
        match &known.summary {
            // They have no place in the order: the first page has them.
            None if filter.after.is_some() => {}
            None => {
                let why = known.damage().unwrap_or_default();
                all.unreadable.push(UnreadableSnapshot { id: id.clone(), why, ref_count: known.refs.len() as u64 });
            }
            Some(summary) => {
                let instance = filter.instance.as_ref().is_none_or(|i| *i == summary.instance);
                let policy = filter.policy.as_ref().is_none_or(|p| Some(p) == summary.policy.as_ref());
                let tags = filter.tags.iter().all(|(key, value)| summary.tags.get(key) == Some(value));
                let state = filter.state.is_none_or(|state| state == known.state());
                // Not by `seq` alone: what was imported is older than what was taken before it came.
                let place = Place(summary.order_at.timestamp_nanos_opt().unwrap_or(i64::MAX), summary.seq);
                if instance && policy && tags && state && filter.after.is_none_or(|after| place > after) {
                    found.push((place, summary, known));
                }
            }
        }
    }
    found.sort_unstable_by_key(|(place, ..)| *place);
    if let Some(limit) = filter.limit.filter(|limit| *limit < found.len()) {
        found.truncate(limit);
        all.next = found.last().map(|(place, ..)| place.to_string());
    }
    all.snapshots = found.into_iter().map(|(_, summary, known)| view(sight.store(), summary, known)).collect();
    drop(index);
    // Only now, with the index free: measuring reads the disk.
    let ids: Vec<SnapshotId> = all.snapshots.iter().map(|view| view.id.clone()).collect();
    let bytes = sight.store().reclaimable_of(&ids, LISTED, sight.config().threads);
    all.snapshots.iter_mut().zip(bytes).for_each(|(view, bytes)| view.reclaimable_bytes = bytes);
    all
}

/// One snapshot, by what is in memory: what its removal would free is not measured yet.
pub(super) fn view(store: &Store, summary: &Summary, known: &Known) -> SnapshotView {
    let compression = Compression::of(store, summary, known);
    SnapshotView {
        id: summary.id.clone(),
        seq: summary.seq,
        name: summary.name.clone(),
        instance: summary.instance.clone(),
        policy: summary.policy.clone(),
        parent: summary.parent.clone(),
        kind: summary.kind,
        driver: summary.driver.to_string(),
        state: known.state(),
        created_at: summary.created_at,
        tags: summary.tags.as_ref().clone(),
        size_bytes: summary.size_bytes,
        allocated_bytes: compression.allocated_bytes,
        reclaimable_bytes: 0,
        ref_count: known.refs.len() as u64,
        pool_count: known.pool as u64,
        holds: known.holds.iter().cloned().collect(),
        compression_state: compression.state.to_owned(),
        compressed_size_bytes: compression.packed_bytes,
        uncompressed_size_bytes: compression.packed_bytes.map(|_| summary.memory.iter().map(|file| file.size).sum()),
        compression_error: compression.error,
        digests: if summary.digests_pending { "pending" } else { "there" }.to_owned(),
        imported_from: summary.imported.as_ref().map(|i| i.from.as_path().display().to_string()),
        tags_unread: summary.tags_unread.clone(),
        quarantined_because: known.quarantined.clone(),
    }
}

/// How a snapshot's memory is kept.
struct Compression {
    state: &'static str,
    packed_bytes: Option<u64>,
    error: Option<String>,
    /// Of the whole snapshot.
    allocated_bytes: u64,
}

impl Compression {
    fn of(store: &Store, summary: &Summary, known: &Known) -> Self {
        let plain = Self { state: "none", packed_bytes: None, error: None, allocated_bytes: summary.allocated_bytes };
        match known.compression.as_ref().map(|compression| (compression, &compression.outcome)) {
            Some((compression, Outcome::Packed { raw_allocated_bytes, .. })) => {
                let bytes = compression.packed_bytes();
                let allocated_bytes = summary.allocated_bytes.saturating_sub(*raw_allocated_bytes).saturating_add(bytes);
                Self { state: "compressed", packed_bytes: Some(bytes), allocated_bytes, ..plain }
            }
            _ if store.is_compressing(&summary.id) => Self { state: "compressing", ..plain },
            Some((_, Outcome::Failed { error, .. })) => Self { state: "error", error: Some(error.clone()), ..plain },
            Some((_, Outcome::NoGain)) | None => plain,
        }
    }
}

/// Finds a snapshot by id, by `INSTANCE/NAME`, or by a name that only one has.
pub(super) fn resolve(store: &Store, text: &str) -> Answer<SnapshotId> {
    if let Ok(id) = SnapshotId::parse(text) {
        let is_there = store.index().get(&id).is_some_and(|known| known.present);
        return if is_there { Ok(id) } else { Err(not_found(text)) };
    }
    let (instance, name) = match text.rsplit_once('/') {
        Some((instance, name)) => (Some(InstanceId::parse(instance).map_err(|_| not_found(text))?), name),
        None => (None, text),
    };
    let name = SnapshotName::parse(name).map_err(|_| not_found(text))?;
    let index = store.index();
    let mut found = index.named(&name).filter(|s| instance.as_ref().is_none_or(|i| *i == s.instance));
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only.id.clone()),
        (Some(_), Some(_)) => {
            Err(Problem::new(ProblemKind::BadRequest, format!("several snapshots are called {name}; give the id, or INSTANCE/{name}")))
        }
        (None, _) => Err(not_found(text)),
    }
}

fn not_found(text: &str) -> Problem {
    Problem::new(ProblemKind::NotFound, format!("there is no snapshot {text}; `snapkeep ls` lists them"))
}

/// `show`.
pub(super) fn snapshot(sight: &dyn Sight, text: &str) -> Answer<SnapshotView> {
    let id = resolve(sight.store(), text)?;
    let store = sight.store();
    let seen = {
        let index = store.index();
        let known = index.get(&id).filter(|known| known.present).ok_or_else(|| not_found(text))?;
        match &known.summary {
            Some(summary) => Ok(view(store, summary, known)),
            None => Err(known.damage().unwrap_or_default()),
        }
    };
    match seen {
        Ok(view) => Ok(SnapshotView { reclaimable_bytes: store.reclaimable_bytes(&id, Duration::ZERO).unwrap_or(0), ..view }),
        Err(why) => Err(Problem::new(ProblemKind::Failed, format!("snapshot {id} is kept, but cannot be read: {why}"))),
    }
}

/// `forks`.
pub(super) fn forks(sight: &dyn Sight, of: Option<&SnapshotId>) -> ForkViews {
    let scan = sight.scan();
    let forks = scan.instances.iter().filter_map(|(name, (_, standing))| Some((name, record_of(standing)?)));
    let wanted = forks.filter(|(_, record)| of.is_none_or(|id| *id == record.fork_of_snapshot));
    ForkViews { forks: wanted.map(|(name, record)| fork_view(sight, name, record)).collect(), next: None }
}

/// The fork of this name, without looking at any other.
pub(super) fn fork(sight: &dyn Sight, name: &InstanceId) -> Answer<ForkView> {
    let scan = sight.scan();
    let name = OsStr::new(name.as_str());
    let record = scan.instances.get(name).and_then(|(_, standing)| record_of(standing));
    record
        .map(|record| fork_view(sight, name, record))
        .ok_or_else(|| Problem::new(ProblemKind::NotFound, format!("there is no fork {}", name.display())))
}

fn record_of(standing: &Standing) -> Option<&ForkRecord> {
    if let Standing::Fork(record) = standing { Some(record) } else { None }
}

fn fork_view(sight: &dyn Sight, name: &OsStr, record: &ForkRecord) -> ForkView {
    ForkView {
        format: record.format,
        fork_id: record.fork_id.clone(),
        fork_of_snapshot: record.fork_of_snapshot.clone(),
        key: record.key.clone(),
        created_at: record.created_at,
        name: name.to_string_lossy().into_owned(),
        path: sight.store().layout.instance_named(name).display().to_string(),
    }
}
