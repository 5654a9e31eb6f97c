//! What the outside sees: the fields of the API and of `--json`, which agree. Conversions from the inner types are here
//! too; nothing here reads the disk.

mod plan;
mod timeline;

pub use plan::{
    BlockedView, ConfigText, FailedRemoval, PlanBody, PlanChange, PlanDiff, PlanEntryView, PlanView, PruneBody, PruneReport, ReasonView,
};

pub use timeline::{LaneView, NextPruneView, TimelineBody, TimelineView};

use crate::ids::{ForkId, HoldName, InstanceId, PolicyName, SnapshotId, SnapshotName};
use crate::policy::SnapshotState;
use crate::store::manifest::Kind;
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields of the contract; see the manifest for each")]
pub struct SnapshotView {
    pub id: SnapshotId,
    pub seq: u64,
    pub name: SnapshotName,
    pub instance: InstanceId,
    pub policy: Option<PolicyName>,
    pub parent: Option<SnapshotId>,
    pub kind: Kind,
    pub driver: String,
    pub state: SnapshotState,
    pub created_at: DateTime<Utc>,
    pub tags: BTreeMap<String, String>,
    pub size_bytes: u64,
    pub allocated_bytes: u64,
    pub reclaimable_bytes: u64,
    pub ref_count: u64,
    pub pool_count: u64,
    pub holds: Vec<HoldName>,
    /// `none`, `compressing`, `compressed` or `error`.
    #[schemars(extend("enum" = ["none", "compressing", "compressed", "error"]))]
    pub compression_state: String,
    /// What its memory takes, where it is compressed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub compressed_size_bytes: Option<u64>,
    /// Sum of the memory files' lengths, where they are compressed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uncompressed_size_bytes: Option<u64>,
    /// Why it could not be compressed, if so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub compression_error: Option<String>,
    /// `there`, or `pending`: then nothing can tell yet whether the files are what they were.
    #[serde(default)]
    #[schemars(extend("enum" = ["there", "pending"]))]
    pub digests: String,
    /// The directory that it was imported from, if it was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub imported_from: Option<String>,
    /// Why the instance's tags are not among its tags, if they could not be read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tags_unread: Option<String>,
    /// Why it is quarantined, if it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub quarantined_because: Option<String>,
}

/// All snapshots; those whose manifest cannot be read are listed apart, by directory name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshots {
    /// Newest last.
    pub snapshots: Vec<SnapshotView>,
    /// Directories of the store whose manifest cannot be read: kept, never forked.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub unreadable: Vec<UnreadableSnapshot>,
    /// The cursor of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}

/// A snapshot of which nothing but its id can be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnreadableSnapshot {
    /// Its id.
    pub id: SnapshotId,
    /// What is wrong.
    pub why: String,
    /// How many forks need it.
    pub ref_count: u64,
}

/// Which snapshots to list; nothing given: all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFilter {
    /// Of this instance only.
    pub instance: Option<InstanceId>,
    /// Of this policy only.
    pub policy: Option<PolicyName>,
    /// With all of these tags only.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// In this state only.
    #[serde(default)]
    pub state: Option<SnapshotState>,
    /// So many at most.
    #[serde(default)]
    pub limit: Option<usize>,
    /// Only those behind this place in the order of the list.
    #[serde(default)]
    pub after: Option<Place>,
}

/// A snapshot's place in the order of all, which never changes: the time it is ordered by, nanoseconds, and its `seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place(pub i64, pub u64);

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl std::str::FromStr for Place {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let whole = |at: i128| i64::try_from(at).unwrap_or(if at < 0 { i64::MIN } else { i64::MAX });
        let parts = text.split_once('.').and_then(|(at, seq)| Some(Self(whole(at.parse().ok()?), seq.parse().ok()?)));
        parts.ok_or("a cursor is taken from `next` of the page before, as it is")
    }
}

/// A snapshot to be taken by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TakeBody {
    /// Of what.
    pub instance: InstanceId,
    /// Its name; made from the time if not given.
    #[serde(default)]
    pub name: Option<SnapshotName>,
    /// Its tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

/// Forks to be made: one of `name`, `names`, or `count` with `prefix`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    {"required": ["name"], "properties": {
        "name": {"type": "string"}, "names": {"type": "null"}, "count": {"type": "null"}, "prefix": {"type": "null"}}},
    {"required": ["names"], "properties": {
        "names": {"type": "array"}, "name": {"type": "null"}, "count": {"type": "null"}, "prefix": {"type": "null"}}},
    {"required": ["count", "prefix"], "properties": {
        "count": {"type": "integer"}, "prefix": {"type": "string"}, "name": {"type": "null"}, "names": {"type": "null"}}},
]))]
pub struct ForkBody {
    /// One fork of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::ids::ForkName>")]
    pub name: Option<String>,
    /// One fork for each name, up to 10,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<crate::ids::ForkName>>", length(min = 1, max = 10_000))]
    pub names: Option<Vec<String>>,
    /// So many forks, up to 10,000, named by `prefix`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    #[schemars(range(min = 1, max = 10_000))]
    pub count: Option<u32>,
    /// `P-1`, `P-2`, … going on after the highest there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9-]{0,60}$"))]
    pub prefix: Option<String>,
    /// Idempotency key: the same key gives the same requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[!-~]{1,200}$"))]
    pub key: Option<String>,
}

/// A whole number however it is written: for JSON, and for schemas, 3.0 is one.
fn whole<'de, D: serde::Deserializer<'de>, T: TryFrom<u64>>(from: D) -> Result<Option<T>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(from)? else { return Ok(None) };
    let written = || number.as_f64().filter(|n| n.fract() == 0.0 && (0.0..=9e15).contains(n)).map(|n| n as u64);
    let number = number.as_u64().or_else(written).and_then(|n| T::try_from(n).ok());
    number.map(Some).ok_or_else(|| serde::de::Error::custom("a whole number of this size is wanted"))
}

/// A fork request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields of the contract; see the queue's Request")]
pub struct RequestView {
    pub id: ForkId,
    pub key: Option<String>,
    pub snapshot_id: SnapshotId,
    pub name: String,
    /// `queued`, `running`, `done`, `failed` or `cancelled`.
    #[schemars(extend("enum" = ["queued", "running", "done", "failed", "cancelled"]))]
    pub state: String,
    pub attempts: u32,
    pub error: Option<String>,
    pub memory: Option<String>,
    pub disk: Option<String>,
    pub queued_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
}

impl RequestView {
    /// True if nothing will happen to it any more.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self.state.as_str(), "done" | "failed" | "cancelled")
    }
}

impl From<crate::fork::queue::Request> for RequestView {
    fn from(r: crate::fork::queue::Request) -> Self {
        use crate::fork::queue::RequestState;
        let state = match r.state {
            RequestState::Queued => "queued",
            RequestState::Running | RequestState::Publishing => "running",
            RequestState::Done => "done",
            RequestState::Failed => "failed",
            RequestState::Cancelled => "cancelled",
        };
        Self {
            id: r.id,
            key: r.key,
            snapshot_id: r.snapshot_id,
            name: r.name.to_string(),
            state: state.to_owned(),
            attempts: r.attempts,
            error: r.error,
            memory: r.memory,
            disk: r.disk,
            queued_at: r.queued_at,
            started_at: r.started_at,
            finished_at: r.finished_at,
        }
    }
}

/// Fork requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Requests {
    /// Unfinished ones first, in the order of arrival.
    pub requests: Vec<RequestView>,
    /// The cursor of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}

/// A fork that lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields of the contract; see fork.json")]
pub struct ForkView {
    pub format: u32,
    pub fork_id: ForkId,
    pub fork_of_snapshot: SnapshotId,
    pub key: Option<String>,
    pub created_at: DateTime<Utc>,
    pub name: String,
    pub path: String,
}

/// Forks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ForkViews {
    /// By name.
    pub forks: Vec<ForkView>,
    /// The cursor of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}

/// What `rm` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RemovedView {
    /// Which.
    pub id: SnapshotId,
    /// `removed`, or `expiring` if it goes with its last fork.
    #[schemars(extend("enum" = ["removed", "expiring"]))]
    pub result: String,
    /// The forks it waits for.
    pub forks: Vec<String>,
}

/// What `unfork` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnforkedView {
    /// The instance that it was.
    pub name: InstanceId,
    /// The fork.
    pub fork_id: ForkId,
    /// What it was a fork of.
    pub snapshot_id: SnapshotId,
}

/// What `restore` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RestoredView {
    /// The snapshot.
    pub id: SnapshotId,
    /// The instance.
    pub instance: InstanceId,
    /// Where the instance that was there is now, if there was one.
    pub replaced: Option<String>,
}

/// The state of the worker and of every policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatusView {
    /// The worker, or the store alone if none runs.
    pub worker: WorkerView,
    /// One line per policy and instance.
    pub policies: Vec<PolicyStatus>,
}

/// The worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerView {
    /// Whether a worker runs.
    pub running: bool,
    /// The program's version.
    pub version: String,
    /// When it started.
    pub started_at: Option<DateTime<Utc>>,
    /// How far its start is, if that is not over: until then it only answers who looks.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub starting: Option<String>,
    /// The configuration file.
    pub config: String,
    /// Why the last reload was refused, if it was: every problem.
    pub config_rejected: Vec<String>,
    /// The store.
    pub store: String,
    /// The instances root.
    pub instances: String,
    /// Why the instances root is not proven, if so.
    pub root_lost: Option<String>,
    /// Why the fork queue takes nothing, if so.
    pub queue_closed: Option<String>,
    /// Whether the wall clock is believed; if not, nothing is removed by age.
    pub clock: Option<ClockView>,
    /// Snapshots in the store.
    pub snapshots: u64,
    /// Live forks.
    pub forks: u64,
    /// Fork requests that wait or run.
    pub pending: u64,
    /// Forks since the start whose memory was not made the first way.
    pub memory_fallbacks: u64,
    /// Bytes of raw memory files in the cache.
    #[serde(default)]
    pub cache_bytes: u64,
    /// Compressed snapshots that have some there.
    #[serde(default)]
    pub cache_snapshots: u64,
    /// The ready pool, if there is to be one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pool: Option<PoolView>,
}

/// The ready pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolView {
    /// Forks that lie ready.
    pub ready: u64,
    /// Forks that the configuration asks for; 0 where no worker runs that knows.
    pub wanted: u64,
    /// Bytes that the ready ones take by themselves, likewise.
    pub bytes: u64,
}

/// How a policy does with one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyStatus {
    /// The policy.
    pub policy: PolicyName,
    /// The instance; null if the policy matches none.
    pub instance: Option<InstanceId>,
    /// `ok`, `running`, `due` (its slot waits for its turn), `failing`, `waiting` (nothing was due yet), `gone` (no such instance),
    /// `no instances`, `prune only`, `not selected` (it is there, and was selected before) or `tags unreadable` (why is in
    /// `last_error`).
    #[schemars(extend("enum" = [
        "ok", "running", "due", "failing", "waiting", "gone", "no instances", "prune only", "not selected", "tags unreadable"
    ]))]
    pub state: String,
    /// When the last success was taken.
    pub last_success_at: Option<DateTime<Utc>>,
    /// The snapshot of the last success.
    pub last_snapshot: Option<SnapshotId>,
    /// The last error, in words, if the last attempt failed.
    pub last_error: Option<String>,
    /// Failures in a row.
    pub failures: u32,
    /// The next slot.
    pub next_slot: Option<DateTime<Utc>>,
    /// The same in the policy's zone, with its offset.
    #[serde(default)]
    pub next_slot_local: Option<String>,
    /// The policy's zone.
    #[serde(default)]
    pub timezone: Option<String>,
    /// How much later than its slot (and jitter) the last run began, milliseconds; null if not known.
    #[serde(default)]
    pub late_ms: Option<u64>,
    /// Snapshots that the policy has of the instance.
    pub snapshots: u64,
}

/// What lies in the trash.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrashView {
    /// Newest last.
    pub trash: Vec<TrashedView>,
    /// The cursor of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}

/// One thing in the trash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrashedView {
    /// What it is called there.
    pub entry: String,
    /// `snapshot`, `fork` (removed by `unfork`) or `replaced` (an instance that `restore` replaced).
    #[schemars(extend("enum" = ["snapshot", "fork", "replaced"]))]
    pub kind: String,
    /// The snapshot that it is, or that the fork is a fork of.
    pub snapshot_id: Option<SnapshotId>,
    /// The instance that it is, or is a snapshot of; null if that cannot be read.
    pub instance: Option<InstanceId>,
    /// A snapshot's name.
    pub name: Option<SnapshotName>,
    /// When it was removed.
    pub removed_at: DateTime<Utc>,
    /// How long it can be brought back still, seconds; null once it is being unlinked.
    pub seconds_left: Option<u64>,
    /// What unlinking it frees, bytes.
    pub reclaimable_bytes: u64,
}

/// What to bring back from the trash.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UndeleteBody {
    /// An entry of the trash, or a snapshot, or an instance.
    pub what: String,
    /// Another name for an instance.
    #[serde(default)]
    pub name: Option<InstanceId>,
}

/// What `undelete` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UndeletedView {
    /// `undeleted`; or `kept`, if it was only marked to go with its last fork.
    #[schemars(extend("enum" = ["undeleted", "kept"]))]
    pub result: String,
    /// The snapshot.
    pub id: Option<SnapshotId>,
    /// The instance, if it was one.
    pub instance: Option<InstanceId>,
}

/// How to verify.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VerifyBody {
    /// Mend what can be mended without losing anything.
    pub repair: bool,
    /// Leave out digests that were compared since the last run began that did not come to its end.
    pub resume: bool,
    /// Compare no digests at all.
    pub quick: bool,
    /// Bytes read per second at most; at least 1 MiB.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    #[schemars(range(min = 1_048_576))]
    pub rate: Option<u64>,
}

/// What is thought of the wall clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClockView {
    /// Whether ages are believed.
    pub trusted: bool,
    /// Why not, in words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
    /// When it will be believed by itself, if nothing else happens.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until: Option<DateTime<Utc>>,
}

/// What `verify` found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Findings {
    /// Worst first.
    pub findings: Vec<Finding>,
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Forks looked at.
    pub forks: u64,
    /// Bytes whose digests were compared.
    pub bytes: u64,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// Its stable name, for example `digest.differs`.
    pub name: String,
    /// `error`, `warn` or `info`.
    #[schemars(extend("enum" = ["error", "warn", "info"]))]
    pub severity: String,
    /// What it is about.
    pub path: String,
    /// In words.
    pub what: String,
    /// What `--repair` would do, or has done, in words; null if only a person can tell what to do.
    pub repair: Option<String>,
    /// Whether it was mended.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub repaired: bool,
}
