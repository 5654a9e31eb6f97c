//! What to keep: a pure function from snapshots, policies and `now` to a [`Plan`]. A plan is a proposal; the cut checks again.
//!
//! How the parts compose, for the snapshots that one policy took of one instance, newest first by (`order_at`, `seq`):
//! 1. Those dated in the future and those in quarantine stay, and count for nothing below.
//! 2. `keep` rules claim snapshots, each rule on its own; without any rule all are claimed.
//! 3. `limit` drops claimed ones: beyond `max_count`, or not younger than `max_age`.
//! 4. The newest stays in any case, and so do the newest `limit.min`.
//! 5. Once the instance has been gone for `gone.after`, 2 to 4 no longer hold: all but the newest `gone.min` go.
//! 6. What would go stays all the same, as `blocked`, while a fork, a queued fork, a hold or a reader needs it, or while
//!    something about it cannot be told.

use super::bucket::bucket_key;
use super::plan::{Plan, PlanEntry, Reason, Verdict};
use super::{Keep, Policy, SnapshotFacts, SnapshotState};
use crate::ids::{InstanceId, PolicyName};
use chrono::{DateTime, TimeDelta, Utc};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

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
}

/// A verdict before it is known what needs the snapshot.
struct Decided {
    remove: bool,
    by_age: bool,
    reasons: Vec<Reason>,
    next_change_at: Option<DateTime<Utc>>,
}

impl Decided {
    fn keep(rule: &str, text: &str) -> Self {
        Self { remove: false, by_age: false, reasons: vec![reason(rule, text)], next_change_at: None }
    }
}

fn reason(rule: &str, text: impl Into<String>) -> Reason {
    Reason { rule: rule.to_owned(), bucket: None, count: None, text: text.into() }
}

/// What becomes of every snapshot. Entries are ordered by instance and policy, newest first.
#[must_use]
pub fn plan(facts: &[SnapshotFacts], around: &Circumstances<'_>, now: DateTime<Utc>) -> Plan {
    let mut groups: BTreeMap<(&InstanceId, Option<&PolicyName>), Vec<&SnapshotFacts>> = BTreeMap::new();
    for fact in facts {
        groups.entry((&fact.instance, fact.policy.as_ref())).or_default().push(fact);
    }
    let mut entries = Vec::with_capacity(facts.len());
    for ((instance, policy), mut group) in groups {
        group.sort_by_key(|f| Reverse((f.order_at, f.seq)));
        let known = policy.and_then(|name| around.policies.iter().find(|p| p.name == *name));
        let decided = match (policy, known) {
            (None, _) => decide_unruled(&group, "manual", "taken by hand"),
            (Some(_), None) => decide_unruled(&group, "orphan", "its policy is not in the config"),
            (Some(name), Some(policy)) => decide(policy, &group, around.gone_since.get(&(name.clone(), instance.clone())).copied(), now),
        };
        entries.extend(group.into_iter().zip(decided).map(|(fact, decided)| entry(fact, decided, around)));
    }
    Plan { hash: hash(&entries), at: now, entries }
}

/// Snapshots taken by hand, or by a policy that is no more, are nobody's to remove, but for those that were marked to go.
fn decide_unruled(group: &[&SnapshotFacts], rule: &str, text: &str) -> Vec<Decided> {
    let decide = |fact: &&SnapshotFacts| match fact.state {
        SnapshotState::Expiring => expiring(),
        _ => Decided::keep(rule, text),
    };
    group.iter().map(decide).collect()
}

fn expiring() -> Decided {
    let reasons = vec![reason("expiring", "marked to go with its last fork")];
    Decided { remove: true, by_age: false, reasons, next_change_at: None }
}

/// Rules 1 to 5 for one group, newest first.
fn decide(policy: &Policy, group: &[&SnapshotFacts], gone_since: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Vec<Decided> {
    let counts = |fact: &&SnapshotFacts| fact.created_at <= now && fact.state == SnapshotState::Ready;
    let ready: Vec<&SnapshotFacts> = group.iter().copied().filter(counts).collect();
    let mut ruled = rule(policy, &ready, gone_since, now).into_iter();
    group
        .iter()
        .map(|fact| match fact.state {
            SnapshotState::Expiring => expiring(),
            SnapshotState::Quarantined => Decided::keep("quarantined", "it failed a check; look at it, then remove it by hand"),
            SnapshotState::Ready if fact.created_at > now => Decided {
                next_change_at: Some(fact.created_at),
                ..Decided::keep("future", "dated in the future; it counts as none until then")
            },
            SnapshotState::Ready => ruled.next().unwrap_or_else(|| Decided::keep("internal", "not decided")),
        })
        .collect()
}

fn rule(policy: &Policy, ready: &[&SnapshotFacts], gone_since: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Vec<Decided> {
    let retention = &policy.retention;
    let mut gone_at = None;
    if let (Some(gone), Some(since)) = (&retention.gone, gone_since) {
        if age(since, now) >= gone.after {
            return ready.iter().enumerate().map(|(at, _)| decide_gone(at, gone.min)).collect();
        }
        gone_at = since.checked_add_signed(gone.after).map(|at| (at, gone.min as usize));
    }
    let claims = claims(retention.keep.as_ref(), ready, now);
    let mut claimed = 0;
    ready
        .iter()
        .zip(claims)
        .enumerate()
        .map(|(at, (fact, claim))| {
            let mut decided = limit(policy, (at, fact), claim, &mut claimed, now);
            if let Some((gone_at, min)) = gone_at {
                // From then on the newest `min` stay and all others go, whatever the rules say.
                let changes = decided.remove == (at < min);
                let before = decided.next_change_at.filter(|t| *t < gone_at);
                decided.next_change_at = before.or(changes.then_some(gone_at));
            }
            decided
        })
        .collect()
}

fn decide_gone(at: usize, min: u32) -> Decided {
    if at < min as usize {
        return Decided::keep("gone.min", "one of the newest that stay after the instance is gone");
    }
    let reasons = vec![reason("gone.after", "its instance has been gone for long enough")];
    Decided { remove: true, by_age: true, reasons, next_change_at: None }
}

/// Which rules claim a snapshot: those that time alone does not end, and the moment at which `within` lets go.
#[derive(Debug, Clone, Default)]
struct Claim {
    reasons: Vec<Reason>,
    lasting: bool,
    until: Option<DateTime<Utc>>,
}

/// Rule 2.
fn claims(keep: Option<&Keep>, ready: &[&SnapshotFacts], now: DateTime<Utc>) -> Vec<Claim> {
    let mut claims = vec![Claim::default(); ready.len()];
    let Some(keep) = keep else {
        for claim in &mut claims {
            claim.lasting = true;
            claim.reasons.push(reason("keep", "no keep rules: all that the limits allow"));
        }
        return claims;
    };
    for (n, claim) in (1..=keep.last).zip(&mut claims) {
        claim.lasting = true;
        claim.reasons.push(Reason { count: Some(format!("{n} of {}", keep.last)), ..reason("last", "one of the newest") });
    }
    if let Some(within) = keep.within {
        for (fact, claim) in ready.iter().zip(&mut claims).filter(|(fact, _)| age(fact.created_at, now) < within) {
            claim.until = fact.created_at.checked_add_signed(within);
            claim.reasons.push(reason("within", "young enough"));
        }
    }
    for (granularity, count) in &keep.buckets {
        let mut seen = BTreeSet::new();
        let mut used = 0;
        for (fact, claim) in ready.iter().zip(&mut claims) {
            if used == *count {
                break;
            }
            let key = bucket_key(*granularity, keep.timezone, fact.created_at);
            // Seen, not only seen last: after a clock stepped back the order is not that of the dates.
            if !seen.insert(key.clone()) {
                continue;
            }
            used += 1;
            let rule = serde_json::to_value(granularity).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
            claim.lasting = true;
            claim.reasons.push(Reason {
                rule,
                bucket: Some(key.clone()),
                count: Some(format!("{used} of {count}")),
                text: format!("the newest of {key}"),
            });
        }
    }
    claims
}

/// Rules 3 and 4 for the snapshot at place `at`.
fn limit(policy: &Policy, (at, fact): (usize, &SnapshotFacts), claim: Claim, claimed: &mut usize, now: DateTime<Utc>) -> Decided {
    let limit = &policy.retention.limit;
    let mut against = Vec::new();
    let mut by_age = false;
    if claim.reasons.is_empty() {
        against.push(reason("keep", "no keep rule claims it"));
        by_age = policy.retention.keep.as_ref().is_some_and(|k| k.within.is_some());
    } else {
        *claimed += 1;
    }
    if let Some(max) = limit.max_count.filter(|max| !claim.reasons.is_empty() && *claimed > *max as usize) {
        against.push(Reason { count: Some(format!("{claimed} of {max}")), ..reason("limit.max_count", "more than are allowed") });
    }
    let too_old = limit.max_age.filter(|max| age(fact.created_at, now) >= *max);
    if too_old.is_some() {
        // By age alone, if nothing else speaks against it.
        by_age |= against.is_empty();
        against.push(reason("limit.max_age", "older than is allowed"));
    }
    let mut protection = Vec::new();
    if at < limit.min as usize {
        protection.push(Reason { count: Some(format!("{} of {}", at + 1, limit.min)), ..reason("limit.min", "the least that is kept") });
    }
    if at == 0 {
        protection.push(reason("newest", "the newest is never removed by age"));
    }
    if !against.is_empty() && protection.is_empty() {
        return Decided { remove: true, by_age, reasons: against, next_change_at: None };
    }
    let lets_go = if claim.lasting { None } else { claim.until };
    let too_old_at = limit.max_age.and_then(|max| fact.created_at.checked_add_signed(max));
    let next_change_at = if protection.is_empty() { [lets_go, too_old_at].into_iter().flatten().min() } else { None };
    let reasons = claim.reasons.into_iter().chain(protection).collect();
    Decided { remove: false, by_age: false, reasons, next_change_at }
}

/// How old; never negative, whatever the clock did.
fn age(created: DateTime<Utc>, now: DateTime<Utc>) -> TimeDelta {
    (now - created).max(TimeDelta::zero())
}

/// Rule 6.
fn entry(fact: &SnapshotFacts, decided: Decided, around: &Circumstances<'_>) -> PlanEntry {
    let mut reasons = decided.reasons;
    let mut verdict = Verdict::Keep;
    if decided.remove {
        let blocks = blocks(fact, decided.by_age, around);
        verdict = if blocks.is_empty() { Verdict::Remove } else { Verdict::Blocked };
        reasons.extend(blocks);
    }
    let mut forks: Vec<String> = fact.forks.iter().chain(&fact.queued).cloned().collect();
    forks.sort();
    forks.dedup();
    PlanEntry {
        snapshot_id: fact.id.clone(),
        instance: fact.instance.clone(),
        policy: fact.policy.clone(),
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
    let mut block = |is: bool, rule: &str, text: String| {
        if is {
            blocks.push(reason(rule, text));
        }
    };
    block(!fact.forks.is_empty(), "live_forks", format!("needed by {}", fact.forks.join(", ")));
    block(!fact.queued.is_empty(), "queued", format!("{} will be made of it", fact.queued.join(", ")));
    let holds: Vec<&str> = fact.holds.iter().map(AsRef::as_ref).collect();
    block(!holds.is_empty(), "held", format!("held by {}", holds.join(", ")));
    block(fact.pinned, "pinned", "somebody reads it at this moment".to_owned());
    block(fact.unreadable.is_some(), "unreadable", fact.unreadable.clone().unwrap_or_default());
    block(by_age && !around.clock_trusted, "clock", "the clock cannot be believed, so its age is not known".to_owned());
    block(!around.root_proven, "unmounted", "the instances root is away, so its forks are not known".to_owned());
    blocks
}

/// Equal for plans that do the same, whenever they were made: 16 hex digits over all verdicts.
fn hash(entries: &[PlanEntry]) -> String {
    let mut lines: Vec<String> = entries.iter().map(|e| format!("{} {:?}\n", e.snapshot_id, e.verdict)).collect();
    lines.sort();
    blake3::hash(lines.concat().as_bytes()).to_hex().chars().take(16).collect()
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
