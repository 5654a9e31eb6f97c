//! Deciding, pure: which slot is due, which snapshots to keep. Data and `now` in, a value out; no disk, no clock, no threads.

pub mod bucket;
pub mod cache;
pub mod cadence;
pub mod cap;
mod claims;
#[cfg(test)]
mod compose_tests;
pub mod compress;
mod foresight;
pub mod lapse;
mod plan;
pub mod retention;
mod rules;
mod select;
pub mod simulate;
mod slots;
pub mod space;
mod times;
pub mod trust;
pub mod turns;
mod window;
mod zone;

pub use plan::{Plan, PlanEntry, Reason, Reasons, Rule, Side, Verdict};
pub use select::{Candidate, InstanceTags, Select, Selected};
pub use slots::{Memo, Missed, OnEnable, Rhythm, Schedule};
pub use times::Times;
pub use window::{Window, WindowError};

use crate::ids::{HoldName, InstanceId, PolicyName, SnapshotId};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A `[[policy]]`, checked and complete.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Its name; snapshots carry it, and only they are this policy's to remove.
    pub name: PolicyName,
    /// Which instances it is for.
    pub select: Select,
    /// When a snapshot is due; `None` for a policy that only prunes.
    pub schedule: Option<Schedule>,
    /// What is kept.
    pub retention: Retention,
    /// The first part of the names of its snapshots; the instance's name if not given.
    pub name_prefix: Option<String>,
    /// Tags that its snapshots get.
    pub tags: BTreeMap<String, String>,
    /// Attempts within a slot.
    pub retry: Retry,
    /// `stopped`, `standby`, or found out by looking for a memory file.
    pub kind: KindRule,
    /// What becomes of a snapshot that would go while forks need it.
    pub when_referenced: WhenReferenced,
    /// Whether and how cold snapshots are compressed.
    pub compress: Option<compress::Compress>,
}

impl Policy {
    /// A policy that keeps what this says, and for the rest is what the config says of one with nothing else in it: for no
    /// instance, without a schedule.
    #[must_use]
    pub fn new(name: PolicyName, retention: Retention) -> Self {
        Self {
            name,
            select: Select::default(),
            schedule: None,
            retention,
            name_prefix: None,
            tags: BTreeMap::new(),
            retry: Retry { attempts: 1, backoff: TimeDelta::minutes(1) },
            kind: KindRule::Auto,
            when_referenced: WhenReferenced::Keep,
            compress: None,
        }
    }
}

/// What becomes of a snapshot that retention would remove while forks need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WhenReferenced {
    /// It stays as it is, and is asked about again.
    Keep,
    /// It is marked to go with its last fork.
    Defer,
}

/// How often a failed snapshot is tried within its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in all, at least one.
    pub attempts: u32,
    /// Wait before the second attempt; doubled for each further one.
    pub backoff: TimeDelta,
}

/// Which kind of snapshot a policy takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KindRule {
    /// `standby` if a memory file is there, else `stopped`.
    Auto,
    /// Disks only are expected: a memory file makes the snapshot fail.
    Stopped,
    /// A memory file is expected: its absence makes the snapshot fail.
    Standby,
}

/// What a policy keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// Rules that claim snapshots; `None`: everything that the limits allow.
    pub keep: Option<Keep>,
    /// Caps on what is kept, newest first.
    pub limit: Limit,
    /// What happens when the instance no longer exists; `None`: as if it did.
    pub gone: Option<Gone>,
}

/// Keep rules: a snapshot stays if any of them claims it. Counts of zero claim nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keep {
    /// How rules count what another one keeps already.
    pub counting: Counting,
    /// The newest so many.
    pub last: u32,
    /// All that are younger.
    pub within: Option<TimeDelta>,
    /// The newest of each of the last so many minutes, hours, … that have one; finest first, each unit once.
    pub buckets: Vec<(Granularity, u32)>,
    /// The newest of each hour, day, …, of those that are younger; finest first, each unit once.
    pub within_buckets: Vec<(Granularity, TimeDelta)>,
    /// All that have any of these tags.
    pub tags: Vec<TagRule>,
    /// The zone in which days and longer begin.
    pub timezone: chrono_tz::Tz,
}

/// How keep rules count snapshots that another rule keeps already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Counting {
    /// Each rule counts on its own, as restic has it.
    #[default]
    Each,
    /// Rules go from fine to coarse; a coarser one does not count what a finer one keeps, and one that has counts left
    /// in the end keeps the oldest, as borg 1.2 has it.
    Cascade,
}

/// A tag that keeps: a key with any value, or with this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRule {
    /// The tag's key.
    pub key: String,
    /// Its value; `None`: any.
    pub value: Option<String>,
}

impl TagRule {
    /// Whether these tags have it.
    #[must_use]
    pub fn matches(&self, tags: &BTreeMap<String, String>) -> bool {
        tags.get(&self.key).is_some_and(|value| self.value.as_ref().is_none_or(|wanted| wanted == value))
    }
}

/// The calendar's units, finest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the unit of its name")]
pub enum Granularity {
    Minutely,
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Quarterly,
    Yearly,
}

/// Caps on what the keep rules would keep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limit {
    /// No more than so many.
    pub max_count: Option<u32>,
    /// None older.
    pub max_age: Option<TimeDelta>,
    /// No more than what the newest take, of bytes that no other file shares.
    pub max_bytes: Option<u64>,
    /// But never fewer than so many of the newest.
    pub min: u32,
}

/// What happens to the snapshots of an instance that no longer exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// How long after it was seen gone they go.
    pub after: TimeDelta,
    /// How many of the newest stay.
    pub min: u32,
}

/// What is known of one snapshot when a plan is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFacts {
    /// Which.
    pub id: SnapshotId,
    /// Of which instance.
    pub instance: InstanceId,
    /// Taken by which policy; `None` by hand.
    pub policy: Option<PolicyName>,
    /// When it was taken.
    pub created_at: DateTime<Utc>,
    /// Where it stands in the order of its instance's snapshots, before `seq`.
    pub order_at: DateTime<Utc>,
    /// Never repeats; the second part of the order.
    pub seq: u64,
    /// What it is now.
    pub state: SnapshotState,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Its instance's tags could not be read when it was taken: it may have any.
    pub tags_unread: bool,
    /// Live forks, by name (by fork id where the name is not known), sorted.
    pub forks: Vec<String>,
    /// Forks that are queued or being made, by name, sorted.
    pub queued: Vec<String>,
    /// Holds, sorted.
    pub holds: Vec<HoldName>,
    /// Somebody reads it at this moment.
    pub pinned: bool,
    /// Why something about it cannot be told (an unreadable ref, mark or fork record), if so: it must stay.
    pub unreadable: Option<String>,
    /// What removing it would free, as far as is known (bytes).
    pub reclaimable_bytes: u64,
}

/// A snapshot's state: manifest and marks together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each is what its name says")]
pub enum SnapshotState {
    Ready,
    Expiring,
    Quarantined,
}
