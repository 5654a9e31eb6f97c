//! What the page draws, from what is in memory.

use super::backend::Answer;
use super::planning::{self, Purpose};
use super::sight::{LISTED, Sight};
use super::view::{LaneView, NextPruneView, PlanEntryView, TimelineBody, TimelineView};
use crate::fork::queue::Request;
use crate::ids::{ForkId, ForkName, InstanceId, PolicyName, SnapshotId};
use crate::policy::{PlanEntry, SnapshotState, Verdict};
use crate::store::compression::Outcome;
use crate::store::instances::Standing;
use crate::store::manifest::Kind;
use crate::store::{Known, RefTarget, Summary};
use std::collections::{BTreeMap, HashMap};

const STANDBY: u8 = 1;
const HELD: u8 = 2;
const EXPIRING: u8 = 4;
const QUARANTINED: u8 = 8;
const COMPRESSED: u8 = 16;

/// So many verdicts that change by time are told.
const SOON: usize = 50;

/// Policies by the place that they were given.
#[derive(Default)]
struct Policies {
    places: HashMap<PolicyName, i32>,
    names: Vec<PolicyName>,
}

impl Policies {
    fn place(&mut self, policy: Option<&PolicyName>) -> i32 {
        let Some(policy) = policy else { return -1 };
        if let Some(place) = self.places.get(policy) {
            return *place;
        }
        let place = i32::try_from(self.names.len()).unwrap_or(i32::MAX);
        self.names.push(policy.clone());
        self.places.insert(policy.clone(), place);
        place
    }
}

/// All lanes.
pub(super) fn timeline(sight: &dyn Sight, body: &TimelineBody) -> TimelineView {
    let wanted = |instance: &InstanceId| body.instances.is_empty() || body.instances.contains(instance);
    let queued: HashMap<ForkId, ForkName> =
        sight.requests().into_iter().filter(|request| !request.state.is_final()).map(|Request { id, name, .. }| (id, name)).collect();
    let scan = sight.scan();
    let mut lanes: BTreeMap<InstanceId, LaneView> = BTreeMap::new();
    for (instance, is_fork) in scan.names().filter(|(instance, _)| wanted(instance)) {
        let lane = LaneView { instance: instance.to_string(), there: true, ..LaneView::default() };
        if !is_fork || body.instances.contains(&instance) {
            lanes.insert(instance, lane);
        }
    }
    let (mut policies, mut unreadable) = (Policies::default(), 0);
    let index = sight.store().index();
    let mut all: Vec<(&Summary, &Known)> = Vec::with_capacity(index.count_present());
    for (_, known) in index.present() {
        match &known.summary {
            Some(summary) if wanted(&summary.instance) => all.push((summary, known)),
            Some(_) => {}
            None => unreadable += 1,
        }
    }
    // Most come in this order as it is.
    all.sort_by_key(|(summary, _)| (summary.order_at, summary.seq));
    let mut last: HashMap<InstanceId, i64> = HashMap::new();
    for (summary, known) in all {
        let lane = lanes.entry(summary.instance.clone()).or_insert_with(|| LaneView {
            instance: summary.instance.to_string(),
            there: scan.instances.contains_key(std::ffi::OsStr::new(summary.instance.as_str())),
            ..LaneView::default()
        });
        let policy = policies.place(summary.policy.as_ref());
        let before = last.insert(summary.instance.clone(), summary.created_at.timestamp()).unwrap_or(0);
        add(lane, summary, known, (policy, before));
        name_forks(lane, known, &queued, body.forks);
    }
    drop(index);
    for (instance, lane) in &mut lanes {
        if lane.policy.windows(2).all(|pair| pair.first() == pair.last()) {
            lane.policy.truncate(1);
        }
        if let Some((_, Standing::Fork(record))) = scan.instances.get(std::ffi::OsStr::new(instance.as_str())) {
            lane.fork_of = Some(record.fork_of_snapshot.clone());
        }
    }
    TimelineView { policies: policies.names, lanes: lanes.into_values().collect(), unreadable }
}

/// Puts a snapshot at the end of its lane.
fn add(lane: &mut LaneView, summary: &Summary, known: &Known, (policy, before): (i32, i64)) {
    let place = u32::try_from(lane.at.len()).unwrap_or(u32::MAX);
    lane.at.push(summary.created_at.timestamp() - before);
    let (stamp, rest) = summary.id.as_str().split_at(16);
    lane.ids.push_str(rest);
    let stamped = summary.created_at.format("%Y%m%d-%H%M%S").to_string();
    if stamp.get(..15) != Some(stamped.as_str()) {
        lane.other_ids.insert(place, summary.id.clone());
    }
    let state = known.state();
    let is_packed = known.compression.as_ref().is_some_and(|c| matches!(c.outcome, Outcome::Packed { .. }));
    let flag = |is: bool, flag: u8| if is { flag } else { 0 };
    lane.flags.push(
        flag(summary.kind == Kind::Standby, STANDBY)
            | flag(!known.holds.is_empty(), HELD)
            | flag(state == SnapshotState::Expiring, EXPIRING)
            | flag(state == SnapshotState::Quarantined, QUARANTINED)
            | flag(is_packed, COMPRESSED),
    );
    lane.policy.push(policy);
    if !summary.name.as_str().contains(&stamped) {
        lane.names.insert(place, summary.name.to_string());
    }
    lane.allocated_bytes = lane.allocated_bytes.saturating_add(summary.allocated_bytes);
}

fn name_forks(lane: &mut LaneView, known: &Known, queued: &HashMap<ForkId, ForkName>, most: usize) {
    if known.refs.is_empty() {
        return;
    }
    let place = u32::try_from(lane.at.len().saturating_sub(1)).unwrap_or(u32::MAX);
    lane.ref_count.insert(place, known.refs.len() as u64);
    let name = |(fork, target): (&ForkId, &RefTarget)| match (queued.get(fork), target) {
        (Some(name), _) => name.to_string(),
        (None, RefTarget::At(path)) => path.file_name().map_or_else(|| fork.to_string(), |name| name.to_string_lossy().into_owned()),
        (None, RefTarget::Unreadable) => fork.to_string(),
    };
    let mut names: Vec<String> = known.refs.iter().take(most).map(name).collect();
    names.sort();
    if !names.is_empty() {
        lane.forks.insert(place, names);
    }
}

/// What the next prune would do; of what goes and of what must stay `most` each, measured.
pub(super) fn next_prune(sight: &dyn Sight, most: usize) -> Answer<NextPruneView> {
    let config = sight.config();
    let plan = planning::plan(sight, &config, &[], None, Purpose::Glanced)?;
    let count = |verdict: Verdict| plan.entries.iter().filter(|entry| entry.verdict == verdict).count() as u64;
    let (_, capped) = config.caps.apply(&plan, 0);
    let oldest_first = |verdict: Verdict| {
        let mut all: Vec<&PlanEntry> = plan.entries.iter().filter(|entry| entry.verdict == verdict).collect();
        all.sort_by_key(|entry| (entry.created_at, &entry.snapshot_id));
        all.into_iter().take(most)
    };
    let mut entries: Vec<PlanEntryView> =
        oldest_first(Verdict::Remove).chain(oldest_first(Verdict::Blocked)).map(PlanEntryView::from).collect();
    let changes = |entry: &&PlanEntry| entry.verdict == Verdict::Keep && entry.next_change_at.is_some();
    let mut soon: Vec<&PlanEntry> = plan.entries.iter().filter(changes).collect();
    soon.sort_by_key(|entry| entry.next_change_at);
    let mut soon: Vec<PlanEntryView> = soon.into_iter().take(SOON.min(most)).map(PlanEntryView::from).collect();
    let ids: Vec<SnapshotId> = entries.iter().chain(&soon).map(|entry| entry.snapshot_id.clone()).collect();
    let bytes = sight.store().reclaimable_of(&ids, LISTED, config.threads);
    entries.iter_mut().chain(&mut soon).zip(bytes).for_each(|(entry, bytes)| entry.reclaimable_bytes = bytes);
    Ok(NextPruneView {
        every_seconds: config.prune_every.num_seconds().unsigned_abs(),
        keep: count(Verdict::Keep),
        remove: count(Verdict::Remove),
        blocked: count(Verdict::Blocked),
        capped_by: capped.map(|capped| capped.by.to_owned()),
        allowed: capped.map(|capped| capped.allowed as u64),
        entries,
        soon,
        at: plan.at,
        hash: plan.hash,
    })
}
