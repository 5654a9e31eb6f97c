//! Plans, and what became of them.

use crate::ids::{HoldName, InstanceId, PolicyName, SnapshotId};
use crate::policy::{Plan, PlanEntry, Reason, Side, Verdict};
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::PathBuf;

/// What to plan for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PlanBody {
    /// For these policies only; empty: all.
    pub policies: Vec<PolicyName>,
    /// As of this time; null: now.
    pub at: Option<DateTime<Utc>>,
    /// By another configuration than the one in force: its files, the main one first.
    pub config: Vec<ConfigText>,
}

/// A file of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigText {
    /// Its path, for messages.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

/// What retention would do with every snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanView {
    /// Equal for plans that do the same.
    pub hash: String,
    /// The time it was made for.
    pub at: DateTime<Utc>,
    /// Whether it is by the configuration in force (of the worker, if one runs).
    #[serde(default)]
    pub in_force: bool,
    /// One entry per snapshot, by instance and policy, newest first.
    pub entries: Vec<PlanEntryView>,
}

/// What becomes of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanEntryView {
    /// Which.
    pub snapshot_id: SnapshotId,
    /// Of what.
    pub instance: InstanceId,
    /// Whose; null if taken by hand.
    pub policy: Option<PolicyName>,
    /// When it was taken.
    pub created_at: DateTime<Utc>,
    /// Pins by hand.
    pub holds: Vec<HoldName>,
    /// The verdict.
    pub verdict: Verdict,
    /// All reasons for it.
    pub reasons: Vec<ReasonView>,
    /// Live and queued forks, by name.
    pub forks: Vec<String>,
    /// What its removal would free now, bytes.
    pub reclaimable_bytes: u64,
    /// When the verdict changes by time alone, if it does.
    pub next_change_at: Option<DateTime<Utc>>,
}

/// One reason for a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReasonView {
    /// The rule, as the config or `prune.blocked` names it.
    pub rule: String,
    /// What it speaks for: `keep`, `remove`, `pass` (a keep rule that does not claim it) or `block`.
    pub side: Side,
    /// The bucket it fell in.
    pub bucket: Option<String>,
    /// Which of how many, for example `3 of 7`.
    pub count: Option<String>,
    /// In words.
    pub text: String,
}

impl PlanView {
    /// A plan as it looks from outside.
    #[must_use]
    pub fn new(plan: &Plan, in_force: bool) -> Self {
        Self { hash: plan.hash.clone(), at: plan.at, in_force, entries: plan.entries.iter().map(PlanEntryView::from).collect() }
    }
}

impl From<&PlanEntry> for PlanEntryView {
    fn from(e: &PlanEntry) -> Self {
        Self {
            snapshot_id: e.snapshot_id.clone(),
            instance: e.instance.clone(),
            policy: e.policy.clone(),
            created_at: e.created_at,
            holds: e.holds.clone(),
            verdict: e.verdict,
            reasons: e.reasons.iter().map(ReasonView::from).collect(),
            forks: e.forks.clone(),
            reclaimable_bytes: e.reclaimable_bytes,
            next_change_at: e.next_change_at,
        }
    }
}

impl From<&Reason> for ReasonView {
    fn from(r: &Reason) -> Self {
        Self {
            rule: r.rule.name().to_owned(),
            side: r.side,
            bucket: r.bucket.map(|bucket| bucket.to_string()),
            count: r.count_text(),
            text: r.text(),
        }
    }
}

/// What one plan does otherwise than another of the same snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanDiff {
    /// The time of both.
    pub at: DateTime<Utc>,
    /// The hash of the one.
    pub from_hash: String,
    /// The hash of the other.
    pub to_hash: String,
    /// Snapshots whose verdicts differ.
    pub changes: Vec<PlanChange>,
    /// How many have the same verdict in both.
    pub unchanged: u64,
}

/// A snapshot whose verdict differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanChange {
    /// Its verdict in the one.
    pub from: Verdict,
    /// Its verdict in the other, and all else that it says.
    pub to: PlanEntryView,
    /// The reasons of the one.
    pub from_reasons: Vec<ReasonView>,
}

impl PlanDiff {
    /// What `to` does otherwise than `from`. A snapshot that is in one of them only came or went meanwhile, and does not count.
    #[must_use]
    pub fn new(from: &PlanView, to: &PlanView) -> Self {
        let before: HashMap<_, _> = from.entries.iter().map(|entry| (&entry.snapshot_id, entry)).collect();
        let both = || to.entries.iter().filter_map(|entry| Some((*before.get(&entry.snapshot_id)?, entry)));
        let changes = both().filter(|(was, is)| was.verdict != is.verdict);
        let change = |(was, is): (&PlanEntryView, &PlanEntryView)| PlanChange {
            from: was.verdict,
            to: is.clone(),
            from_reasons: was.reasons.clone(),
        };
        Self {
            at: to.at,
            from_hash: from.hash.clone(),
            to_hash: to.hash.clone(),
            changes: changes.map(change).collect(),
            unchanged: both().filter(|(was, is)| was.verdict == is.verdict).count() as u64,
        }
    }
}

/// What to prune.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PruneBody {
    /// For these policies only; empty: all.
    pub policies: Vec<PolicyName>,
    /// Exactly this plan, or nothing; null: whatever the plan is now.
    pub hash: Option<String>,
}

/// What a prune did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PruneReport {
    /// The hash of the plan that was carried out.
    pub hash: String,
    /// Removed snapshots: they are in the trash until its grace is over.
    pub removed: Vec<SnapshotId>,
    /// What that frees at least, bytes, measured right before each was removed; extents that only removed ones share come
    /// on top.
    #[serde(default)]
    pub freed_bytes: u64,
    /// How long they can be brought back, seconds: the bytes are free after that.
    #[serde(default)]
    pub grace_seconds: u64,
    /// Snapshots that would go, had `[prune]` not bounded the run.
    #[serde(default)]
    pub left: u64,
    /// Snapshots that would go but must stay.
    pub blocked: Vec<BlockedView>,
    /// Snapshots whose removal failed.
    pub failed: Vec<FailedRemoval>,
}

/// A snapshot that would go but must stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlockedView {
    /// Which.
    pub id: SnapshotId,
    /// Why, in the words of `prune.blocked`.
    pub why: Vec<String>,
    /// The forks that need it.
    pub forks: Vec<String>,
}

/// A removal that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailedRemoval {
    /// Which.
    pub id: SnapshotId,
    /// Why.
    pub error: String,
}
