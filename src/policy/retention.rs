//! What to keep: a pure function from snapshots, policies and `now` to a [`Plan`]. A plan is a proposal; the cut checks again.
//!
//! How the parts compose, for the snapshots that one policy took of one instance, newest first by (`order_at`, `seq`):
//! 1. Those dated in the future and those in quarantine stay, and count for nothing below.
//! 2. `keep` rules claim snapshots (`claims`), each rule on its own or in a cascade; without any rule all are claimed.
//! 3. `limit` drops claimed ones: beyond `max_count`, not younger than `max_age`, or beyond `max_bytes`. Count and bytes
//!    are those of the snapshot and of all newer ones that are claimed, so each limit draws one line through them.
//! 4. The newest stays in any case, and so do the newest `limit.min`.
//! 5. Once the instance has been gone for `gone.after`, 2 to 4 no longer hold: all but the newest `gone.min` go.
//! 6. If the file system is too full, more of them go (`space`), but for those of 4.
//! 7. What would go stays all the same, as `blocked`, while a fork, a queued fork, a hold or a reader needs it, or while
//!    something about it cannot be told.

use super::claims::{Line, Member};
use super::foresight;
use super::plan::{Plan, PlanEntry, Reason, Rule, Side, Verdict};
use super::rules::{Decided, Rules};
use super::space::{self, Candidate, Pressure};
use super::{Policy, SnapshotFacts, SnapshotState};
use crate::ids::{InstanceId, PolicyName};
use chrono::{DateTime, Utc};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// What a plan depends on besides the snapshots.
#[derive(Debug, Clone)]
pub struct Circumstances<'a> {
    /// The policies of the config.
    pub policies: &'a [Policy],
    /// Since when instances are gone, as each policy has noticed.
    pub gone_since: &'a BTreeMap<(PolicyName, InstanceId), DateTime<Utc>>,
    /// Whether the wall clock can be believed; if not, nothing goes by age.
    pub clock_trusted: bool,
    /// Whether the instances root is proven; if not, nothing goes.
    pub root_proven: bool,
    /// How full the file system is, if it is too full.
    pub pressure: Option<Pressure>,
    /// How much to find out of when verdicts change, where that takes many tries.
    pub foresight: Foresight,
}

/// How much to find out of when verdicts change by time alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foresight {
    /// Nothing that takes tries.
    None,
    /// When the first does.
    First,
    /// When each does.
    All,
}

type Group<'a> = (&'a InstanceId, Option<&'a PolicyName>);

/// What becomes of every snapshot. Entries are ordered by instance and policy, newest first.
#[must_use]
pub fn plan(facts: &[SnapshotFacts], around: &Circumstances<'_>, now: DateTime<Utc>) -> Plan {
    let mut entries = Vec::with_capacity(facts.len());
    let mut candidates = Vec::new();
    for ((instance, policy), group) in groups(facts) {
        let known = policy.and_then(|name| around.policies.iter().find(|p| p.name == *name));
        let decided = match (policy, known) {
            (None, _) => decide_unruled(&group, Rule::Manual),
            (Some(_), None) => decide_unruled(&group, Rule::Orphan),
            (Some(name), Some(policy)) => {
                let gone_since = around.gone_since.get(&(name.clone(), instance.clone())).copied();
                decide((policy, gone_since), &group, around.foresight, now)
            }
        };
        if around.pressure.is_some() {
            candidates.push(spare(&group, &decided, around, entries.len()));
        }
        entries.extend(group.into_iter().zip(decided).map(|(fact, decided)| entry((instance, policy), fact.fact, decided, around)));
    }
    if let Some(pressure) = &around.pressure {
        relieve(pressure, &candidates, &mut entries, now);
    }
    Plan { hash: hash(&entries), at: now, entries }
}

/// What stays of a group so far, and may go where space is short: nothing needs it, and it is not one of the least.
fn spare(group: &[Member<'_>], decided: &[Decided], around: &Circumstances<'_>, first: usize) -> Vec<Candidate> {
    let stays =
        |(_, (fact, decided)): &(usize, (&Member<'_>, &Decided))| !decided.remove || !blocks(fact.fact, decided.by_age, around).is_empty();
    let candidate = |(at, (fact, decided)): (usize, (&Member<'_>, &Decided))| Candidate {
        place: first + at,
        created_at: fact.created_at,
        bytes: fact.reclaimable_bytes,
        is_spare: decided.is_spare && blocks(fact.fact, false, around).is_empty(),
    };
    group.iter().zip(decided).enumerate().filter(stays).map(candidate).collect()
}

/// Rule 6.
fn relieve(pressure: &Pressure, groups: &[Vec<Candidate>], entries: &mut [PlanEntry], now: DateTime<Utc>) {
    let freed =
        entries.iter().filter(|entry| entry.verdict == Verdict::Remove).fold(0, |sum: u64, e| sum.saturating_add(e.reclaimable_bytes));
    let percent = |bytes: u64| u128::from(bytes) * 100 / u128::from(pressure.size.max(1));
    let why = format!("{}% is used, and {}% is wanted", percent(pressure.used), percent(pressure.until));
    for place in space::choose(groups, (pressure.wanted().saturating_sub(freed), pressure.least), now) {
        if let Some(entry) = entries.get_mut(place) {
            entry.verdict = Verdict::Remove;
            entry.next_change_at = None;
            entry.reasons.insert(0, Reason::new(Side::Remove, Rule::Space).with(why.as_str()));
        }
    }
}

/// The snapshots of each instance and policy, newest first.
fn groups(facts: &[SnapshotFacts]) -> impl Iterator<Item = (Group<'_>, Vec<Member<'_>>)> {
    let mut groups: BTreeMap<Group<'_>, Vec<Member<'_>>> = BTreeMap::new();
    // Neighbours are mostly of one group: each run of them is looked up once.
    for run in facts.chunk_by(|a, b| a.instance == b.instance && a.policy == b.policy) {
        if let Some(first) = run.first() {
            groups.entry((&first.instance, first.policy.as_ref())).or_default().extend(run.iter().map(Member::from));
        }
    }
    groups.into_iter().map(|(key, mut group)| {
        group.sort_by_key(|fact| Reverse((fact.order_at, fact.seq)));
        (key, group)
    })
}

/// Snapshots taken by hand, or by a policy that is no more, are nobody's to remove, but for those that were marked to go.
fn decide_unruled(group: &[Member<'_>], rule: Rule) -> Vec<Decided> {
    let decide = |fact: &Member<'_>| match fact.state {
        SnapshotState::Expiring => Decided::remove(Rule::Expiring, false),
        _ => Decided::keep(rule),
    };
    group.iter().map(decide).collect()
}

/// Rules 1 to 5 for one group, newest first.
fn decide(
    (policy, gone_since): (&Policy, Option<DateTime<Utc>>),
    group: &[Member<'_>],
    foresight: Foresight,
    now: DateTime<Utc>,
) -> Vec<Decided> {
    let ready = group.iter().filter(|fact| fact.state == SnapshotState::Ready).collect();
    let all = Line::new(ready, policy.retention.keep.as_ref());
    let rules = Rules { retention: &policy.retention, gone_since };
    let has_future = all.facts.iter().any(|fact| fact.created_at > now);
    let past = has_future.then(|| all.at(now));
    let mut ruled = rules.decide(past.as_ref().unwrap_or(&all), now);
    let mut decided: Vec<Decided> = group
        .iter()
        .map(|fact| match fact.state {
            SnapshotState::Expiring => Decided::remove(Rule::Expiring, false),
            SnapshotState::Quarantined => Decided::keep(Rule::Quarantined),
            SnapshotState::Ready if fact.created_at > now => Decided::keep(Rule::Future),
            SnapshotState::Ready => ruled.next().unwrap_or_else(|| Decided::keep(Rule::Future)),
        })
        .collect();
    if foresight != Foresight::None && (has_future || rules.lapses_move_others()) {
        let is_ready = |fact: &Member<'_>| fact.state == SnapshotState::Ready;
        let removed: Vec<bool> = group.iter().zip(&decided).filter(|(f, _)| is_ready(f)).map(|(_, d)| d.remove).collect();
        let mut changes = foresight::next_changes(&rules, &all, (&removed, foresight == Foresight::First), now).into_iter();
        for (_, decided) in group.iter().zip(&mut decided).filter(|(fact, _)| is_ready(fact)) {
            decided.next_change_at = changes.next().flatten();
        }
    }
    decided
}

/// Rule 7.
fn entry((instance, policy): Group<'_>, fact: &SnapshotFacts, decided: Decided, around: &Circumstances<'_>) -> PlanEntry {
    let mut reasons = decided.reasons;
    let mut verdict = Verdict::Keep;
    if decided.remove {
        let blocks = blocks(fact, decided.by_age, around);
        verdict = Verdict::Remove;
        if !blocks.is_empty() {
            verdict = Verdict::Blocked;
            reasons.extend(blocks);
        }
    }
    let mut forks: Vec<String> = fact.forks.iter().chain(&fact.queued).cloned().collect();
    forks.sort();
    forks.dedup();
    PlanEntry {
        snapshot_id: fact.id.clone(),
        instance: instance.clone(),
        policy: policy.cloned(),
        created_at: fact.created_at,
        holds: fact.holds.clone(),
        verdict,
        reasons,
        forks,
        reclaimable_bytes: fact.reclaimable_bytes,
        next_change_at: decided.next_change_at,
    }
}

fn blocks(fact: &SnapshotFacts, by_age: bool, around: &Circumstances<'_>) -> Vec<Reason> {
    let mut blocks = Vec::new();
    let mut block = |is: bool, rule: Rule, detail: &dyn Fn() -> String| {
        if is {
            blocks.push(Reason::new(Side::Block, rule).with(detail()));
        }
    };
    let holds = || fact.holds.iter().map(AsRef::<str>::as_ref).collect::<Vec<_>>().join(", ");
    block(!fact.forks.is_empty(), Rule::LiveForks, &|| fact.forks.join(", "));
    block(!fact.queued.is_empty(), Rule::Queued, &|| fact.queued.join(", "));
    block(!fact.holds.is_empty(), Rule::Held, &holds);
    block(fact.pinned, Rule::Pinned, &String::new);
    block(fact.unreadable.is_some(), Rule::Unreadable, &|| fact.unreadable.clone().unwrap_or_default());
    block(by_age && !around.clock_trusted, Rule::Clock, &String::new);
    block(!around.root_proven, Rule::Unmounted, &String::new);
    blocks
}

/// How many bytes are hashed at once.
const LINES: usize = 16 << 10;

/// Equal for plans that do the same, whenever they were made: 16 hex digits over all that goes, or would but must stay.
/// What is kept is left out: a snapshot that was taken since changes nothing of what a plan does, unless it pushes another out.
fn hash(entries: &[PlanEntry]) -> String {
    let mut hasher = blake3::Hasher::new();
    // The hasher is quick with much at once only.
    let mut lines = Vec::with_capacity(LINES);
    for entry in entries.iter().filter(|entry| entry.verdict != Verdict::Keep) {
        let verdict: &[u8] = if entry.verdict == Verdict::Remove { b" remove\n" } else { b" blocked\n" };
        lines.extend_from_slice(entry.snapshot_id.as_str().as_bytes());
        lines.extend_from_slice(verdict);
        if lines.len() > LINES - 64 {
            hasher.update(&lines);
            lines.clear();
        }
    }
    hasher.update(&lines);
    hasher.finalize().to_hex().chars().take(16).collect()
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "retention_properties.rs"]
mod properties;
