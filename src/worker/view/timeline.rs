//! What the page draws: every snapshot in few bytes, and what the next prune would do.

use super::PlanEntryView;
use crate::ids::{InstanceId, PolicyName, SnapshotId};
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What to draw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TimelineBody {
    /// These instances only; none: all.
    pub instances: Vec<InstanceId>,
    /// So many forks of each snapshot are named.
    pub forks: usize,
}

/// All snapshots of all instances: columns, for there may be a hundred thousand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TimelineView {
    /// The policies that lanes refer to by place.
    pub policies: Vec<PolicyName>,
    /// One per instance that has snapshots, or is there and is no fork; by name.
    pub lanes: Vec<LaneView>,
    /// How many snapshots there are of which nothing but the id can be read.
    pub unreadable: u64,
}

/// The snapshots of one instance, oldest first. The n-th of each column is of the n-th snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LaneView {
    /// The instance.
    pub instance: String,
    /// Whether its directory is there.
    pub there: bool,
    /// If it is a fork: of which snapshot.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fork_of: Option<SnapshotId>,
    /// The last eight characters of each id, one after the other. What is before them is the time (UTC) as `YYYYMMDD-HHMMSS-`.
    pub ids: String,
    /// When each was taken, seconds: the first since the Unix epoch, each other since the one before.
    pub at: Vec<i64>,
    /// Whole ids of those whose id does not begin with that time (imported ones).
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub other_ids: BTreeMap<u32, SnapshotId>,
    /// The sum of: 1 standby, 2 held, 4 expiring, 8 quarantined, 16 compressed.
    pub flags: Vec<u8>,
    /// The place of each one's policy in `policies`, -1 by hand; a single number if it is the same for all.
    pub policy: Vec<i32>,
    /// Names that somebody chose: those that are not made from the time.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub names: BTreeMap<u32, String>,
    /// How many live and queued forks need it, of those that any need.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub ref_count: BTreeMap<u32, u64>,
    /// Names of some of them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub forks: BTreeMap<u32, Vec<String>>,
    /// What all of them take, bytes, as far as it is known without looking at the disk.
    pub allocated_bytes: u64,
}

/// What the next prune would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NextPruneView {
    /// The plan's hash.
    pub hash: String,
    /// The time it was made for.
    pub at: DateTime<Utc>,
    /// Retention is applied this often, seconds, and after each snapshot.
    pub every_seconds: u64,
    /// How many snapshots stay.
    pub keep: u64,
    /// How many go.
    pub remove: u64,
    /// How many would go but must stay.
    pub blocked: u64,
    /// What `[prune]` bounds the run by, if it does: `max_removals` or `max_fraction`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub capped_by: Option<String>,
    /// How many may go in one run, if it does.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub allowed: Option<u64>,
    /// Those that go, the oldest first, and those that would but must stay; the first so many of each.
    pub entries: Vec<PlanEntryView>,
    /// The next that change by time alone, soonest first; what new snapshots push out is not among them.
    pub soon: Vec<PlanEntryView>,
}
