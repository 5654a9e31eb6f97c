//! Plans, and what became of them.

use crate::ids::{HoldName, InstanceId, PolicyName, SnapshotId};
use crate::policy::{Plan, PlanEntry, Reason, Side, Verdict};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What to plan for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigText {
    /// Its path, for messages.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

/// What retention would do with every snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// What to prune.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PruneBody {
    /// For these policies only; empty: all.
    pub policies: Vec<PolicyName>,
    /// Exactly this plan, or nothing; null: whatever the plan is now.
    pub hash: Option<String>,
}

/// What a prune did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneReport {
    /// The hash of the plan that was carried out.
    pub hash: String,
    /// Removed snapshots.
    pub removed: Vec<SnapshotId>,
    /// Snapshots that would go but must stay.
    pub blocked: Vec<BlockedView>,
    /// Snapshots whose removal failed.
    pub failed: Vec<FailedRemoval>,
}

/// A snapshot that would go but must stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockedView {
    /// Which.
    pub id: SnapshotId,
    /// Why, in the words of `prune.blocked`.
    pub why: Vec<String>,
    /// The forks that need it.
    pub forks: Vec<String>,
}

/// A removal that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRemoval {
    /// Which.
    pub id: SnapshotId,
    /// Why.
    pub error: String,
}
