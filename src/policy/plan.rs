//! The plan: a value that says of every snapshot what becomes of it, and why.

use crate::ids::{HoldName, InstanceId, PolicyName, SnapshotId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What retention would do with every snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Digest of all verdicts: two plans with the same hash remove the same.
    pub hash: String,
    /// The time it was made for.
    pub at: DateTime<Utc>,
    /// One entry per snapshot, by instance, newest first.
    pub entries: Vec<PlanEntry>,
}

/// What becomes of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanEntry {
    /// Which.
    pub snapshot_id: SnapshotId,
    /// Of what.
    pub instance: InstanceId,
    /// Whose; null if taken by hand.
    pub policy: Option<PolicyName>,
    /// Pins by hand.
    pub holds: Vec<HoldName>,
    /// The verdict.
    pub verdict: Verdict,
    /// All reasons for it.
    pub reasons: Vec<Reason>,
    /// Live and queued forks, by name.
    pub forks: Vec<String>,
    /// What its removal would free, bytes.
    pub reclaimable_bytes: u64,
    /// When the verdict changes by time alone, if it does.
    pub next_change_at: Option<DateTime<Utc>>,
}

/// Keep, remove, or would go but must stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each is what its name says")]
pub enum Verdict {
    Keep,
    Remove,
    Blocked,
}

/// One reason for a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The rule, as the config or `prune.blocked` names it.
    pub rule: String,
    /// The bucket it fell in.
    pub bucket: Option<String>,
    /// Which of how many, for example `3 of 7`.
    pub count: Option<String>,
    /// In words.
    pub text: String,
}
