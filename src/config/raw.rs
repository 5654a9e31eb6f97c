//! The configuration file as types, for its JSON Schema (`check --schema`): what an editor needs to help. The walk in
//! `check.rs` reads the file itself, since it reports all problems and not only the first.
#![expect(dead_code, reason = "the fields are read by the schema's derivation only")]

use super::{MemoryMethod, SourcePaths};
use crate::policy::{KindRule, Missed};
use schemars::JsonSchema;
use std::collections::BTreeMap;

/// A snapkeep configuration. Durations are strings like "90s", "15m", "36h", "7d".
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct File {
    /// The two roots.
    store: Store,
    /// The worker's socket.
    api: Option<Api>,
    /// How forks are made.
    fork: Option<Fork>,
    /// What snapshots leave out.
    snapshot: Option<Snapshot>,
    /// How instances are brought to rest.
    driver: Option<Driver>,
    /// The worker.
    worker: Option<Worker>,
    /// When retention is applied.
    prune: Option<Prune>,
    /// How long removed things can be found.
    trash: Option<Trash>,
    /// What to snapshot, when, and what to keep.
    policy: Option<Vec<Policy>>,
}

/// The two roots: on one file system and one mount, so that memory can be linked.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Store {
    /// Where snapshots are kept; an absolute path.
    path: String,
    /// The directory whose subdirectories are instances; an absolute path.
    instances: String,
}

/// The worker's socket.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Api {
    /// Path of the unix socket; default: snapkeep.sock in the store.
    socket: Option<String>,
}

/// How forks are made.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Fork {
    /// The first method tried for memory files; the others follow. Default: hardlink.
    memory: Option<MemoryMethod>,
    /// What to do about files that name their source's directory. Default: rewrite.
    source_paths: Option<SourcePaths>,
    /// How many requests may wait. Default: 10000.
    max_pending: Option<u32>,
}

/// What snapshots leave out.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Snapshot {
    /// Globs; a trailing slash names a directory at the top. Default: logs/, *.tmp, *.pid, *.lock.
    skip: Option<Vec<String>>,
}

/// How instances are brought to rest around the copy.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Driver {
    /// Names of files that hold guest memory. Default: memory, memory-ranges, mem.
    memory_names: Option<Vec<String>>,
    /// Command lines run before the copy.
    freeze: Option<Vec<String>>,
    /// Command lines run after it, whatever happened.
    thaw: Option<Vec<String>>,
    /// How long each may take. Default: 30s.
    timeout: Option<String>,
}

/// The worker.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Worker {
    /// Threads for copying and unlinking. Default: 4.
    threads: Option<u32>,
}

/// When retention is applied.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Prune {
    /// How often, besides after each snapshot and when a fork has gone. Default: 10m.
    every: Option<String>,
}

/// How long removed things can be found.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Trash {
    /// Snapshots, and instances that restore replaced. Default: 1h.
    grace: Option<String>,
    /// Forks removed by unfork. Default: 0s.
    fork_grace: Option<String>,
}

/// What to snapshot, when, and what to keep.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Policy {
    /// Its name; its snapshots carry it.
    name: String,
    /// Globs over instance names.
    instances: Vec<String>,
    /// Whether forks count too. Default: false.
    include_forks: Option<bool>,
    /// Cron expression of 5 to 7 fields, or @hourly and the like.
    schedule: Option<String>,
    /// Instead of a schedule: every so often, 1s at least, counted from the Unix epoch.
    every: Option<String>,
    /// IANA time zone of the schedule and of days and longer in keep rules. Default: UTC.
    timezone: Option<String>,
    /// Spreads instances over this time; stable per instance. Default: 0s.
    jitter: Option<String>,
    /// What to do about missed slots. Default: run (once).
    missed: Option<Missed>,
    /// Attempts within a slot.
    retry: Option<Retry>,
    /// What kind of snapshot is expected. Default: auto.
    kind: Option<KindRule>,
    /// First part of snapshot names. Default: the instance's name.
    name_prefix: Option<String>,
    /// Tags of its snapshots.
    tags: Option<BTreeMap<String, String>>,
    /// Keep everything: instead of keep and limit.
    keep_all: Option<bool>,
    /// Rules that claim snapshots.
    keep: Option<Keep>,
    /// Caps on what is kept.
    limit: Option<Limit>,
    /// What happens when the instance no longer exists.
    gone: Option<Gone>,
}

/// Attempts within a slot.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Retry {
    /// In all. Default: 1.
    attempts: Option<u32>,
    /// Wait before the second; doubled each time. Default: 1m.
    backoff: Option<String>,
}

/// How rules count.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Counting {
    /// Each rule on its own.
    Each,
}

/// Rules that claim snapshots: one stays if any claims it.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Keep {
    /// Default: each.
    counting: Option<Counting>,
    /// The newest so many.
    last: Option<u32>,
    /// All that are younger.
    within: Option<String>,
    /// The newest of each of so many minutes.
    minutely: Option<u32>,
    /// Hours.
    hourly: Option<u32>,
    /// Days.
    daily: Option<u32>,
    /// ISO weeks.
    weekly: Option<u32>,
    /// Months.
    monthly: Option<u32>,
    /// Quarters.
    quarterly: Option<u32>,
    /// Years.
    yearly: Option<u32>,
}

/// Caps on what is kept, newest first.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Limit {
    /// No more than so many.
    max_count: Option<u32>,
    /// None older.
    max_age: Option<String>,
    /// But never fewer than so many of the newest. Default: 1.
    min: Option<u32>,
}

/// What happens when the instance no longer exists.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Gone {
    /// How long after it was seen gone its snapshots go.
    after: String,
    /// How many of the newest stay. Default: 0.
    min: Option<u32>,
}

/// The JSON Schema (draft 2020-12) of a configuration file.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(File).to_value()
}
