//! Every fact that snapkeep reports: one enum, one catalogue, one way out. Nothing else writes log lines.
//!
//! An event's `id` is a digest of its name and of the fields that make it this fact and no other, so that a fact
//! which is reported again after a crash has the same id (events come at least once).

use crate::clock::Clock;
use crate::ids::{ForkId, InstanceId, PolicyName, SnapshotId};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use std::sync::{Arc, Mutex, PoisonError};

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Info,
    /// Somebody should look, some day.
    Warn,
    /// Somebody should look now.
    Error,
}

impl Level {
    /// The level as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// One line of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    /// The event's name.
    pub name: &'static str,
    /// Its level.
    pub level: Level,
    /// When it is reported.
    pub when: &'static str,
    /// Its fields, and what each means.
    pub fields: &'static [(&'static str, &'static str)],
    /// The fields that its id is made of.
    pub identity: &'static [&'static str],
}

macro_rules! events {
    ($($variant:ident = $name:literal, $level:ident, $when:literal, id[$($id:ident),*] {
        $($field:ident : $ty:ty = $doc:literal,)*
    })*) => {
        /// A fact. The fields of each variant are described in [`CATALOGUE`].
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[serde(tag = "event")]
        pub enum Event {
            $(#[doc = $when] #[serde(rename = $name)] $variant { $(#[doc = $doc] $field: $ty,)* },)*
        }

        /// All events in the order of the source: what `docs/events.md` is generated from.
        pub const CATALOGUE: &[Described] = &[
            $(Described {
                name: $name, level: Level::$level, when: $when,
                fields: &[$((stringify!($field), $doc)),*], identity: &[$(stringify!($id)),*],
            }),*
        ];

        impl Event {
            /// Its stable name.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant { .. } => $name,)* }
            }

            /// How much it matters.
            #[must_use]
            pub fn level(&self) -> Level {
                match self { $(Self::$variant { .. } => Level::$level,)* }
            }

            fn identity(&self) -> &'static [&'static str] {
                match self { $(Self::$variant { .. } => &[$(stringify!($id)),*],)* }
            }
        }
    };
}

events! {
    SnapshotTaken = "snapshot.taken", Info, "A snapshot was published and is durable.", id[snapshot] {
        snapshot: SnapshotId = "the new snapshot",
        name: String = "its name for people",
        instance: InstanceId = "what it is a snapshot of",
        policy: Option<PolicyName> = "the policy that took it; null if by hand",
        slot: Option<DateTime<Utc>> = "the slot it was due in; null if by hand",
        kind: String = "stopped or standby",
        size_bytes: u64 = "sum of the files' lengths",
        frozen_ms: u64 = "how long the instance was held at rest, milliseconds",
        duration_ms: u64 = "from begin to published, milliseconds",
    }
    SnapshotFailed = "snapshot.failed", Error, "An attempt to take a snapshot failed; nothing was published.", id[policy, instance, slot, attempt, at] {
        instance: InstanceId = "what was to be snapshotted",
        policy: Option<PolicyName> = "the policy; null if by hand",
        slot: Option<DateTime<Utc>> = "the slot; null if by hand",
        attempt: u32 = "which attempt within the slot, from 1",
        at: DateTime<Utc> = "when the attempt began",
        error: String = "why, in words",
        interrupted: bool = "true if the worker ended while it ran",
        retry_at: Option<DateTime<Utc>> = "when it is tried again within the slot; null if not",
    }
    SnapshotSkipped = "snapshot.skipped", Info, "A slot was passed over on purpose.", id[policy, instance, slot] {
        instance: InstanceId = "the instance",
        policy: PolicyName = "the policy",
        slot: DateTime<Utc> = "the slot",
        why: String = "why",
    }
    InstanceStuck = "instance.stuck", Error, "The thaw after a snapshot failed: the instance may still be at rest.", id[instance, at] {
        instance: InstanceId = "the instance",
        error: String = "what went wrong",
        at: DateTime<Utc> = "when",
    }
    SlotMissed = "slot.missed", Warn, "Slots went by: nobody looked, or others had their turn. At most the newest of them is caught up.", id[policy, instance, last] {
        instance: InstanceId = "the instance",
        policy: PolicyName = "the policy",
        first: DateTime<Utc> = "the first of them",
        last: DateTime<Utc> = "the last of them",
        count: u32 = "how many, counted up to 1000",
    }
    ForkQueued = "fork.queued", Info, "A fork request was accepted; it and its ref are durable.", id[fork] {
        fork: ForkId = "the fork, and the request",
        name: String = "the instance it will be",
        snapshot: SnapshotId = "what it is a fork of",
        key: Option<String> = "the caller's idempotency key",
    }
    ForkCreated = "fork.created", Info, "A fork is an instance now, whole and durable.", id[fork] {
        fork: ForkId = "the fork",
        name: String = "the instance",
        snapshot: SnapshotId = "what it is a fork of",
        memory: String = "how it got its memory file: hardlink, reflink, copied, decompressed (the first fork of a compressed snapshot) or none",
        disk: String = "how it got its disks: reflink, copied or none",
        pool: bool = "whether it was handed out of the ready pool",
        fell_back: Option<String> = "why memory was not made the first way, if it was not",
        waited_ms: u64 = "from accepted to done, milliseconds",
    }
    PoolFilled = "pool.filled", Info, "As many forks as are wanted of a snapshot lie ready, or as many as there is room for.", id[snapshot, at] {
        snapshot: SnapshotId = "what they are forks of",
        ready: u64 = "how many there are",
        made: u64 = "how many of them were made since the last time",
        at: DateTime<Utc> = "when",
    }
    PoolDrained = "pool.drained", Info, "Forks that were made ahead of need were dropped, and nobody's.", id[snapshot, at] {
        snapshot: SnapshotId = "what they were forks of",
        count: u64 = "how many",
        why: String = "why, in words",
        at: DateTime<Utc> = "when",
    }
    PoolDamaged = "pool.damaged", Warn, "A fork made ahead of need was not as it was made: it was dropped, and another one taken or made.", id[snapshot, entry] {
        snapshot: SnapshotId = "what it was a fork of",
        entry: String = "its name in the pool",
        why: String = "what about it",
    }
    PoolFailed = "pool.failed", Warn, "No fork can be made ahead of need for now; reported once for each reason, and tried again.", id[snapshot, error] {
        snapshot: SnapshotId = "what it was to be a fork of",
        error: String = "why, in words",
    }
    ForkFailed = "fork.failed", Error, "An attempt to make a fork failed; nothing is visible of it.", id[fork, attempt] {
        fork: ForkId = "the fork",
        name: String = "the instance it was to be",
        snapshot: SnapshotId = "what it was to be a fork of",
        attempt: u32 = "which attempt, from 1",
        error: String = "why, in words",
        retry_at: Option<DateTime<Utc>> = "when it is tried again; null if it failed for good",
    }
    ForkRemoved = "fork.removed", Info, "A fork was removed by `unfork`: it is in the trash of the instances root.", id[fork] {
        fork: ForkId = "the fork",
        name: String = "the instance it was",
        snapshot: SnapshotId = "what it was a fork of",
    }
    ForkReleased = "fork.released", Info, "A fork is proven gone and its ref is dropped: its snapshot is needed by one fork less.", id[fork] {
        fork: ForkId = "the fork",
        snapshot: SnapshotId = "what it was a fork of",
        ref_count: u64 = "how many forks still need the snapshot",
    }
    ForkMoved = "fork.moved", Info, "A fork's directory has another name now; its ref was pointed there.", id[fork, to] {
        fork: ForkId = "the fork",
        to: String = "its new name",
    }
    ForkAdopted = "fork.adopted", Warn, "A fork without a ref was found; it has one again.", id[fork] {
        fork: ForkId = "the fork",
        name: String = "the instance",
        snapshot: SnapshotId = "what it is a fork of",
    }
    SnapshotQuarantined = "snapshot.quarantined", Error, "A snapshot failed a check: it is listed, but not forked and not removed by age.", id[snapshot, why] {
        snapshot: String = "the snapshot (its directory's name)",
        why: String = "what is wrong",
    }
    SnapshotHashed = "snapshot.hashed", Info, "The digests of a snapshot that was published without them are there: from now on damage to it is found.", id[snapshot] {
        snapshot: SnapshotId = "the snapshot",
        files: u64 = "files that lacked theirs",
        bytes: u64 = "bytes of data read",
        duration_ms: u64 = "how long it took, milliseconds",
    }
    SnapshotHashFailed = "snapshot.hash_failed", Warn, "The digests of a snapshot could not be made or written down; the snapshot is whole, and it is tried again.", id[snapshot, at] {
        snapshot: SnapshotId = "the snapshot",
        error: String = "why, in words",
        at: DateTime<Utc> = "when",
        retry_at: DateTime<Utc> = "not before this it is tried again",
    }
    SnapshotImported = "snapshot.imported", Info, "A directory that something else made became a snapshot; it is published and durable.", id[snapshot] {
        snapshot: SnapshotId = "the new snapshot",
        name: String = "its name for people",
        instance: InstanceId = "what it is a snapshot of",
        policy: Option<PolicyName> = "the policy that removes it one day; null if none",
        created_at: DateTime<Utc> = "the time that it is of",
        from: String = "the directory",
        way: String = "reflinked, copied or moved",
        size_bytes: u64 = "sum of the files' lengths",
    }
    SnapshotRestored = "snapshot.restored", Info, "An instance was put back to a snapshot; what was there is in the trash.", id[snapshot, instance, at] {
        snapshot: SnapshotId = "the snapshot",
        instance: InstanceId = "the instance",
        at: DateTime<Utc> = "when",
        replaced: bool = "whether there was an instance of that name",
    }
    SnapshotCompressed = "snapshot.compressed", Info, "The memory of a cold snapshot is packed; its raw files are gone.", id[snapshot, at] {
        snapshot: SnapshotId = "the snapshot",
        instance: InstanceId = "what it is a snapshot of",
        policy: Option<PolicyName> = "the policy that wants it",
        method: String = "zstd or lz4",
        uncompressed_size_bytes: u64 = "sum of the memory files' lengths",
        allocated_bytes: u64 = "what they took",
        compressed_size_bytes: u64 = "what the packed files take",
        duration_ms: u64 = "how long it took, milliseconds",
        at: DateTime<Utc> = "when",
    }
    SnapshotCompressFailed = "snapshot.compress_failed", Warn, "A snapshot could not be compressed; it is as it was. Tried again later, and reported again when the reason is another.", id[snapshot, error] {
        snapshot: SnapshotId = "the snapshot",
        instance: InstanceId = "what it is a snapshot of",
        error: String = "why, in words",
        times: u32 = "how often in a row",
    }
    SnapshotDecompressed = "snapshot.decompressed", Info, "The memory of a compressed snapshot was unpacked into the cache, for its next forks.", id[snapshot, at] {
        snapshot: SnapshotId = "the snapshot",
        bytes: u64 = "sum of the memory files' lengths",
        duration_ms: u64 = "how long it took, milliseconds",
        at: DateTime<Utc> = "when",
    }
    PrunePlanned = "prune.planned", Info, "Retention decided; only what is listed as remove will be touched.", id[hash, at] {
        hash: String = "the plan's hash",
        at: DateTime<Utc> = "the plan's time",
        keep: u64 = "snapshots kept",
        remove: u64 = "snapshots to be removed",
        blocked: u64 = "snapshots that would go but must stay",
    }
    PruneRemoved = "prune.removed", Info, "A snapshot was cut: it is in the trash, out of every listing.", id[snapshot] {
        snapshot: SnapshotId = "the snapshot",
        instance: Option<InstanceId> = "what it was a snapshot of; null if its manifest could not be read",
        policy: Option<PolicyName> = "its policy; null if taken by hand",
        reasons: Vec<String> = "why it went",
        until: DateTime<Utc> = "how long it can be found in the trash at least",
    }
    PruneDeferred = "prune.deferred", Info, "Retention wants a snapshot to go that forks need; its policy says that it goes with the last of them.", id[snapshot] {
        snapshot: SnapshotId = "the snapshot",
        instance: InstanceId = "what it is a snapshot of",
        policy: Option<PolicyName> = "its policy",
        forks: Vec<String> = "the forks that need it",
    }
    ForkPinnedLong = "fork.pinned_long", Warn, "Forks have kept a snapshot past its expiry for longer than `warn_pinned_after`; once a day.", id[snapshot, at] {
        snapshot: SnapshotId = "the snapshot",
        instance: InstanceId = "what it is a snapshot of",
        forks: Vec<String> = "the forks that need it",
        since: DateTime<Utc> = "when retention first wanted it to go",
        bytes: u64 = "what its removal would free, bytes",
        at: DateTime<Utc> = "when this was found",
    }
    SnapshotUndeleted = "snapshot.undeleted", Info, "A snapshot was brought back from the trash; it has a hold named `undeleted`.", id[snapshot, at] {
        snapshot: SnapshotId = "the snapshot",
        removed_at: DateTime<Utc> = "when it was removed",
        at: DateTime<Utc> = "when it was brought back",
    }
    InstanceUndeleted = "instance.undeleted", Info, "An instance was brought back from the trash of the instances root.", id[entry, at] {
        instance: InstanceId = "its name now",
        entry: String = "what it was called in the trash",
        removed_at: DateTime<Utc> = "when it was removed or replaced",
        at: DateTime<Utc> = "when it was brought back",
    }
    TrashEvicted = "trash.evicted", Warn, "The trash held more than `[trash] max_bytes`, or the file system is fuller than `[space] prune_above`: an entry goes before its grace is over.", id[what] {
        what: String = "the entry",
        bytes: u64 = "what that frees, bytes",
        max_bytes: u64 = "how much the trash may hold now, bytes",
        at: DateTime<Utc> = "when",
    }
    PruneCapped = "prune.capped", Warn, "Retention wants more to go than `[prune]` allows in one run: the oldest went. Look at `snapkeep plan`; if it is meant, `snapkeep prune --plan HASH` does it all, else the next runs go on.", id[hash, at] {
        hash: String = "the plan's hash",
        by: String = "what bounds it: max_removals or max_fraction",
        wanted: u64 = "snapshots that the plan wants to go",
        allowed: u64 = "snapshots that went or were tried",
        at: DateTime<Utc> = "the plan's time",
    }
    SpaceShort = "space.short", Error, "The file system is fuller than `[space] prune_above`, and nothing is left that may go for it: the rest is held, referenced, the least that is kept, or not a policy's. Give it room, or lower what is kept.", id[at] {
        used: u64 = "bytes that are used",
        size: u64 = "bytes in all",
        until: u64 = "bytes that may be used, by `until`",
        at: DateTime<Utc> = "when",
    }
    PruneBlocked = "prune.blocked", Info, "A snapshot would go but must stay.", id[snapshot, why] {
        snapshot: SnapshotId = "the snapshot",
        why: Vec<String> = "live_forks, queued, pinned, held, unreadable, linked, unmounted or clock",
        forks: Vec<String> = "the forks that need it",
    }
    PruneFailed = "prune.failed", Error, "Removing a snapshot failed; the others went on.", id[snapshot, error] {
        snapshot: String = "the snapshot",
        error: String = "why, in words",
    }
    ScrubFound = "scrub.found", Error, "The background check found something; `snapkeep verify` tells more.", id[name, path, what] {
        name: String = "the finding's name",
        severity: String = "error, warn or info",
        path: String = "what it is about",
        what: String = "in words",
    }
    ScrubFinished = "scrub.finished", Info, "The background check has been through every snapshot.", id[at] {
        snapshots: u64 = "snapshots whose digests were compared",
        bytes: u64 = "bytes read",
        findings: u64 = "what was found",
        at: DateTime<Utc> = "when",
    }
    ConfigLoaded = "config.loaded", Info, "A configuration is in force.", id[digest, at] {
        file: String = "the file",
        digest: String = "digest of all its text",
        policies: u64 = "how many policies",
        warnings: Vec<String> = "what is odd in it",
        at: DateTime<Utc> = "when it came into force",
    }
    ConfigRejected = "config.rejected", Error, "A reload was refused; the old configuration goes on.", id[file, at] {
        file: String = "the file",
        problems: Vec<String> = "every problem in it",
        at: DateTime<Utc> = "when it was refused",
    }
    ScheduleFailing = "schedule.failing", Error, "A policy's snapshots of an instance fail again and again.", id[policy, instance, failures] {
        policy: PolicyName = "the policy",
        instance: InstanceId = "the instance",
        failures: u32 = "failures in a row",
        last_success: Option<DateTime<Utc>> = "the last slot that succeeded",
        error: String = "the last error",
    }
    StoreRecovered = "store.recovered", Warn, "The start found unfinished work and brought it to an end.", id[at] {
        staging: u64 = "half-made snapshots and forks removed",
        finished: u64 = "forks that were being published and are done now",
        dropped_refs: u64 = "refs that nobody was told of, dropped",
        torn_bytes: u64 = "bytes of a torn last journal record, cut",
        at: DateTime<Utc> = "when",
    }
    RecordUnreadable = "record.unreadable", Error, "A record cannot be read: what it may point at stays, everything else goes on.", id[path, why] {
        path: String = "the record",
        why: String = "what is wrong with it",
        blocks: Vec<String> = "snapshots that must stay because of it",
    }
    QueueDamaged = "queue.damaged", Error, "The fork journal is damaged: no fork is accepted and no ref dropped until it is mended.", id[path] {
        path: String = "the journal, kept as it is",
        why: String = "what is wrong with it",
    }
    RootLost = "root.lost", Error, "The instances root is not the one this store belongs to (unmounted?): no ref is dropped, nothing is removed.", id[at] {
        path: String = "the instances root",
        why: String = "what is there instead",
        at: DateTime<Utc> = "when it was noticed",
    }
    RootFound = "root.found", Info, "The instances root is proven again.", id[at] {
        path: String = "the instances root",
        at: DateTime<Utc> = "when it was noticed",
    }
    WorkerStarted = "worker.started", Info, "The worker has recovered and takes work.", id[at] {
        version: String = "its version",
        snapshots: u64 = "snapshots in the store",
        forks: u64 = "refs in the store",
        startup_ms: u64 = "from open to ready, milliseconds",
        at: DateTime<Utc> = "when",
    }
    ClockStepped = "clock.stepped", Warn, "The wall clock was set: it moved by more than the time that passed. Slots go on by the new time; none is taken twice.", id[at] {
        from: DateTime<Utc> = "what it showed at the last look: a second or two before, or when the last worker looked",
        by_ms: i64 = "how far it moved beyond the time that passed, milliseconds; negative if back",
        at: DateTime<Utc> = "what it shows now",
    }
    WorkerSuspended = "worker.suspended", Warn, "The worker did not look at its schedules for longer than a minute: the machine was suspended, or the process stopped.", id[at] {
        for_ms: u64 = "for how long, by the boot clock, milliseconds",
        at: DateTime<Utc> = "when it looked again",
    }
    WorkerHeartbeat = "worker.heartbeat", Info, "The worker's loop goes round (once a minute).", id[at] {
        pending: u64 = "fork requests that wait or run",
        failing: u64 = "policy-instance pairs whose last attempt failed",
        at: DateTime<Utc> = "when",
    }
    WorkerStopped = "worker.stopped", Info, "The worker ended in order.", id[at] {
        why: String = "the signal, or the error",
        at: DateTime<Utc> = "when",
    }
}

/// An event with its time, level and id: what a sink gets.
#[derive(Debug, Clone)]
pub struct Record {
    /// When it was reported.
    pub ts: DateTime<Utc>,
    /// The fact.
    pub event: Event,
}

impl Record {
    /// The stable id: 32 hex digits.
    #[must_use]
    pub fn id(&self) -> String {
        let fields = serde_json::to_value(&self.event).unwrap_or_default();
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.event.name().as_bytes());
        for name in self.event.identity() {
            hasher.update(b"\0");
            hasher.update(fields.get(name).map(ToString::to_string).unwrap_or_default().as_bytes());
        }
        hasher.finalize().to_hex().chars().take(32).collect()
    }

    /// One line of JSON: `ts`, `level`, `event`, `id`, and the event's fields.
    #[must_use]
    pub fn json(&self) -> String {
        let mut line = serde_json::Map::new();
        line.insert("ts".into(), self.ts.to_rfc3339_opts(SecondsFormat::Millis, true).into());
        line.insert("level".into(), self.event.level().as_str().into());
        line.insert("event".into(), self.event.name().into());
        line.insert("id".into(), self.id().into());
        if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(&self.event) {
            line.extend(fields.into_iter().filter(|(name, _)| name != "event"));
        }
        serde_json::Value::Object(line).to_string()
    }

    /// One line for people: time, event, and the fields that say something.
    #[must_use]
    pub fn text(&self) -> String {
        let mut line = format!("{} {:5} {:22}", self.ts.format("%H:%M:%S"), self.event.level().as_str(), self.event.name());
        if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(&self.event) {
            for (name, value) in fields.iter().filter(|(name, value)| *name != "event" && *name != "at" && !is_nothing(value)) {
                line.push_str(&format!(" {name}={}", plain(value)));
            }
        }
        line
    }
}

fn is_nothing(value: &serde_json::Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) if text.contains(' ') => format!("{text:?}"),
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Where events go.
pub trait Sink: Send + Sync {
    /// Takes one event; must not fail and must not block for long.
    fn write(&self, record: &Record);
}

/// Hands events to `tracing`, target `snapkeep::event`, with the JSON line and the text as fields; the subscriber prints one.
#[derive(Debug, Clone, Copy, Default)]
pub struct TracingSink;

impl Sink for TracingSink {
    fn write(&self, record: &Record) {
        let (json, text) = (record.json(), record.text());
        match record.event.level() {
            Level::Info => tracing::event!(target: "snapkeep::event", tracing::Level::INFO, json, text),
            Level::Warn => tracing::event!(target: "snapkeep::event", tracing::Level::WARN, json, text),
            Level::Error => tracing::event!(target: "snapkeep::event", tracing::Level::ERROR, json, text),
        }
    }
}

/// Keeps events in memory: for tests, and for verbs that print what happened.
#[derive(Debug, Clone, Default)]
pub struct Collected(Arc<Mutex<Vec<Event>>>);

impl Collected {
    /// What came so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Sink for Collected {
    fn write(&self, record: &Record) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(record.event.clone());
    }
}

/// Reports events; clones share clock and sink.
#[derive(Clone)]
pub struct Events {
    clock: Arc<dyn Clock>,
    sink: Arc<dyn Sink>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("clock", &self.clock).finish_non_exhaustive()
    }
}

impl Events {
    /// Events with this clock's time, into this sink.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, sink: Arc<dyn Sink>) -> Self {
        Self { clock, sink }
    }

    /// Reports one fact.
    pub fn emit(&self, event: Event) {
        self.sink.write(&Record { ts: self.clock.now(), event });
    }
}

/// The catalogue as a page of Markdown.
#[must_use]
pub fn catalogue_page() -> String {
    let mut page = String::from(
        "# Events\n\nOne line of JSON per fact: `ts`, `level`, `event`, `id`, and the fields below. Names are stable. \
         Events come at least once; one that is reported again has the same `id`, which is made of the fields marked *.\n\
         This page is generated from `src/event.rs` (`UPDATE_DOCS=1 cargo test --lib event`); a test holds the two together.\n",
    );
    for event in CATALOGUE {
        page.push_str(&format!("\n## `{}` ({})\n\n{}\n\n| field | meaning |\n|---|---|\n", event.name, event.level.as_str(), event.when));
        for (field, meaning) in event.fields {
            let star = if event.identity.contains(field) { " *" } else { "" };
            page.push_str(&format!("| `{field}`{star} | {meaning} |\n"));
        }
    }
    page
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests read and write the checkout")]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use chrono::TimeZone as _;

    fn noon() -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2026, 11, 24, 12, 0, 0).unwrap()
    }

    #[test]
    fn the_catalogue_page_is_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/events.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, catalogue_page()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), catalogue_page(), "run UPDATE_DOCS=1 cargo test --lib event");
    }

    #[test]
    fn a_fact_that_is_reported_again_has_the_same_id_and_another_fact_has_not() {
        let clock = ManualClock::at(noon());
        let fact = |failures| Event::ScheduleFailing {
            policy: PolicyName::parse("p").unwrap(),
            instance: InstanceId::parse("i").unwrap(),
            failures,
            last_success: None,
            error: format!("at {}", clock.now()),
        };
        let first = Record { ts: clock.now(), event: fact(3) };
        clock.advance(std::time::Duration::from_secs(60));
        let again = Record { ts: clock.now(), event: fact(3) };
        let other = Record { ts: clock.now(), event: fact(4) };
        assert_eq!(first.id(), again.id());
        assert_ne!(first.id(), other.id());
    }

    #[test]
    fn a_line_of_json_begins_with_the_four_fields_that_every_event_has() {
        let record = Record { ts: noon(), event: Event::WorkerStopped { why: "SIGTERM".into(), at: noon() } };
        let id = record.id();
        assert_eq!(
            record.json(),
            format!(
                r#"{{"ts":"2026-11-24T12:00:00.000Z","level":"info","event":"worker.stopped","id":"{id}","why":"SIGTERM","at":"2026-11-24T12:00:00Z"}}"#
            )
        );
    }
}
