//! Every fact that snapkeep reports: one enum, one catalogue, one way out. Nothing else writes log lines.
//!
//! An event's `id` is a digest of its name and of the fields that make it this fact and no other, so that a fact
//! which is reported again after a crash has the same id (events come at least once).

mod catalogue;
pub mod feed;
pub mod flood;
pub mod metrics;

pub use catalogue::{catalogue_json, catalogue_page, journal_catalogue, journal_field, message_id};

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
    /// What to do about it; nothing, if empty.
    pub act: &'static str,
    /// Its fields.
    pub fields: &'static [Field],
    /// The fields that its id is made of.
    pub identity: &'static [&'static str],
    /// What makes two of them the same trouble, reported again; `None`: each is a fact of its own, and written down.
    pub repeats: Option<Repeats>,
}

/// One field of an event.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its type, as the code has it.
    pub rust: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

/// When an event is one that was reported before, and no news: then the log counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeats {
    /// The fields that are equal.
    pub same: &'static [&'static str],
    /// Fields in words that are alike: equal but for numbers and paths in them.
    pub alike: &'static [&'static str],
}

/// The first of one or two: what an optional part of a macro says, else what stands behind it.
macro_rules! first {
    ($only:expr) => {
        $only
    };
    ($first:expr; $otherwise:expr) => {
        $first
    };
}

macro_rules! events {
    ($($variant:ident = $name:literal, $level:ident, $when:literal, $(act $act:literal,)? $(same[$($same:ident),*] alike[$($alike:ident),*],)?
       id[$($id:ident),*] {
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
                name: $name,
                level: Level::$level,
                when: $when,
                act: first!($($act;)? ""),
                fields: &[$(Field { name: stringify!($field), rust: stringify!($ty), meaning: $doc }),*],
                identity: &[$(stringify!($id)),*],
                repeats: first!($(Some(Repeats { same: &[$(stringify!($same)),*], alike: &[$(stringify!($alike)),*] });)? None),
            }),*
        ];

        /// Where in the catalogue each is.
        enum Place {
            $($variant,)*
        }

        impl Event {
            /// Its place in the catalogue.
            #[must_use]
            pub fn place(&self) -> usize {
                match self { $(Self::$variant { .. } => Place::$variant as usize,)* }
            }

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

            /// Its line of the catalogue.
            #[must_use]
            #[expect(clippy::indexing_slicing, reason = "catalogue and places are made of the same list")]
            pub fn described(&self) -> &'static Described {
                &CATALOGUE[self.place()]
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
        size_bytes: u64 = "sum of the files' lengths, bytes",
        late_ms: Option<u64> = "how much later than it was due (slot and jitter) its slot was begun, milliseconds; null if by hand, or after a restart",
        frozen_ms: u64 = "how long the instance was held at rest, milliseconds",
        duration_ms: u64 = "from begin to published, milliseconds",
    }
    SnapshotFailed = "snapshot.failed", Error, "An attempt to take a snapshot failed; nothing was published.", act "See `error`. It is tried again at `retry_at`, else in the next slot; `snapkeep status` shows how often it failed in a row.", same[policy, instance] alike[error], id[policy, instance, slot, attempt, at] {
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
    InstanceStuck = "instance.stuck", Error, "The thaw after a snapshot failed: the instance may still be at rest.", act "Let the instance go on by hand (what `[driver] thaw` does), then find out why its command failed.", same[instance] alike[error], id[instance, at] {
        instance: InstanceId = "the instance",
        error: String = "what went wrong",
        at: DateTime<Utc> = "when",
    }
    SlotMissed = "slot.missed", Warn, "Slots went by: nobody looked, or others had their turn. At most the newest of them is caught up.", act "Nothing if the host or the worker was down. Else see `worker.suspended`, or give `[worker] max_running` more.", id[policy, instance, last] {
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
        queued_ms: u64 = "of that, from accepted to begun, milliseconds",
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
    PoolDamaged = "pool.damaged", Warn, "A fork made ahead of need was not as it was made: it was dropped, and another one taken or made.", act "Nothing; if it comes again, find out who writes into the instances root's `.snapkeep/pool`.", same[snapshot] alike[why], id[snapshot, entry] {
        snapshot: SnapshotId = "what it was a fork of",
        entry: String = "its name in the pool",
        why: String = "what about it",
    }
    PoolFailed = "pool.failed", Warn, "No fork can be made ahead of need for now; reported once for each reason, and tried again.", act "See `error`; forks are made when they are asked for, only slower.", same[snapshot] alike[error], id[snapshot, error] {
        snapshot: SnapshotId = "what it was to be a fork of",
        error: String = "why, in words",
    }
    ForkFailed = "fork.failed", Error, "An attempt to make a fork failed; nothing is visible of it.", act "See `error`; with `retry_at` it is tried again, else ask for it again when the cause is gone.", same[snapshot] alike[error], id[fork, attempt] {
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
    ForkAdopted = "fork.adopted", Warn, "A fork without a ref was found; it has one again.", act "Find out who removed the ref from the store's `refs` directory: only snapkeep may.", id[fork] {
        fork: ForkId = "the fork",
        name: String = "the instance",
        snapshot: SnapshotId = "what it is a fork of",
    }
    SnapshotQuarantined = "snapshot.quarantined", Error, "A snapshot failed a check: it is listed, but not forked and not removed by age.", act "Run `snapkeep verify`; compare with a copy from elsewhere. If the file is right after all, `snapkeep verify --repair` says so; else `snapkeep rm` it. See the runbook.", same[snapshot] alike[why], id[snapshot, why] {
        snapshot: String = "the snapshot (its directory's name)",
        why: String = "what is wrong",
    }
    SnapshotHashed = "snapshot.hashed", Info, "The digests of a snapshot that was published without them are there: from now on damage to it is found.", id[snapshot] {
        snapshot: SnapshotId = "the snapshot",
        files: u64 = "files that lacked theirs",
        bytes: u64 = "data read, bytes",
        duration_ms: u64 = "how long it took, milliseconds",
    }
    SnapshotHashFailed = "snapshot.hash_failed", Warn, "The digests of a snapshot could not be made or written down; the snapshot is whole, and it is tried again.", act "See `error`; if it is EIO, the disk is failing.", same[snapshot] alike[error], id[snapshot, at] {
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
        size_bytes: u64 = "sum of the files' lengths, bytes",
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
        uncompressed_size_bytes: u64 = "sum of the memory files' lengths, bytes",
        allocated_bytes: u64 = "what they took, bytes",
        compressed_size_bytes: u64 = "what the packed files take, bytes",
        duration_ms: u64 = "how long it took, milliseconds",
        at: DateTime<Utc> = "when",
    }
    SnapshotCompressFailed = "snapshot.compress_failed", Warn, "A snapshot could not be compressed; it is as it was. Tried again later, and reported again when the reason is another.", act "See `error`; the snapshot is whole and stays uncompressed.", same[snapshot] alike[error], id[snapshot, error] {
        snapshot: SnapshotId = "the snapshot",
        instance: InstanceId = "what it is a snapshot of",
        error: String = "why, in words",
        times: u32 = "how often in a row",
    }
    SnapshotDecompressed = "snapshot.decompressed", Info, "The memory of a compressed snapshot was unpacked into the cache, for its next forks.", id[snapshot, at] {
        snapshot: SnapshotId = "the snapshot",
        bytes: u64 = "sum of the memory files' lengths, bytes",
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
    ForkPinnedLong = "fork.pinned_long", Warn, "Forks have kept a snapshot past its expiry for longer than `warn_pinned_after`; once a day.", act "Remove the forks that are no longer needed (`snapkeep unfork`), or keep the snapshot on purpose (`snapkeep hold`).", id[snapshot, at] {
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
    TrashEvicted = "trash.evicted", Warn, "The trash held more than `[trash] max_bytes`, or the file system is fuller than `[space] prune_above`: an entry goes before its grace is over.", act "Give `[trash] max_bytes`, or the file system, more room if removals are to be undone for longer.", id[what] {
        what: String = "the entry",
        bytes: u64 = "what that frees, bytes",
        max_bytes: u64 = "how much the trash may hold now, bytes",
        at: DateTime<Utc> = "when",
    }
    PruneCapped = "prune.capped", Warn, "Retention wants more to go than `[prune]` allows in one run: the oldest went. Look at `snapkeep plan`; if it is meant, `snapkeep prune --plan HASH` does it all, else the next runs go on.", act "Look at `snapkeep plan`; if it is meant, `snapkeep prune --plan HASH` does it all, else the next runs go on.", id[hash, at] {
        hash: String = "the plan's hash",
        by: String = "what bounds it: max_removals or max_fraction",
        wanted: u64 = "snapshots that the plan wants to go",
        allowed: u64 = "snapshots that went or were tried",
        at: DateTime<Utc> = "the plan's time",
    }
    SpaceShort = "space.short", Error, "The file system is fuller than `[space] prune_above`, and nothing is left that may go for it: the rest is held, referenced, the least that is kept, or not a policy's. Give it room, or lower what is kept.", act "Give the file system room, or keep less; `snapkeep plan` says what keeps each snapshot.", id[at] {
        used: u64 = "what is used, bytes",
        size: u64 = "how large it is, bytes",
        until: u64 = "what may be used, by `until`, bytes",
        at: DateTime<Utc> = "when",
    }
    PruneBlocked = "prune.blocked", Info, "A snapshot would go but must stay.", id[snapshot, why] {
        snapshot: SnapshotId = "the snapshot",
        why: Vec<String> = "live_forks, queued, pinned, held, unreadable, linked, unmounted or clock",
        forks: Vec<String> = "the forks that need it",
    }
    PruneFailed = "prune.failed", Error, "Removing a snapshot failed; the others went on.", act "See `error`; it is tried again at the next run. A read-only or failing file system wants repair.", same[snapshot] alike[error], id[snapshot, error] {
        snapshot: String = "the snapshot",
        error: String = "why, in words",
    }
    PruneFinished = "prune.finished", Info, "A run of retention in which snapshots went, or should have.", id[hash, at] {
        hash: String = "the plan's hash",
        removed: u64 = "snapshots that went",
        failed: u64 = "snapshots that should have gone, and could not be removed",
        blocked: u64 = "snapshots that would go but must stay",
        left: u64 = "snapshots left for the next run by `[prune] max_removals` or `max_fraction`",
        duration_ms: u64 = "how long it took, milliseconds",
        at: DateTime<Utc> = "when it was over",
    }
    ScrubFound = "scrub.found", Error, "The background check found something; `snapkeep verify` tells more.", act "Run `snapkeep verify`, which says what each finding means and what `--repair` would do.", same[name, path] alike[what], id[name, path, what] {
        name: String = "the finding's name",
        severity: String = "error, warn or info",
        path: String = "what it is about",
        what: String = "in words",
    }
    ScrubFinished = "scrub.finished", Info, "The background check has been through every snapshot.", id[at] {
        snapshots: u64 = "snapshots whose digests were compared",
        bytes: u64 = "data read, bytes",
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
    ConfigRejected = "config.rejected", Error, "A reload was refused; the old configuration goes on.", act "Mend what `problems` names (`snapkeep check` says the same) and reload again.", same[file] alike[problems], id[file, at] {
        file: String = "the file",
        problems: Vec<String> = "every problem in it",
        at: DateTime<Utc> = "when it was refused",
    }
    ScheduleFailing = "schedule.failing", Error, "A policy's snapshots of an instance fail again and again.", act "See `error`; `snapkeep snapshot INSTANCE` tries it at once.", same[policy, instance] alike[error], id[policy, instance, failures] {
        policy: PolicyName = "the policy",
        instance: InstanceId = "the instance",
        failures: u32 = "failures in a row",
        last_success: Option<DateTime<Utc>> = "the last slot that succeeded",
        error: String = "the last error",
    }
    StoreRecovered = "store.recovered", Warn, "The start found unfinished work and brought it to an end.", act "Nothing; find out why the last worker did not end in order.", id[at] {
        staging: u64 = "half-made snapshots and forks removed",
        finished: u64 = "forks that were being published and are done now",
        dropped_refs: u64 = "refs that nobody was told of, dropped",
        torn_bytes: u64 = "what was cut of a torn last journal record, bytes",
        at: DateTime<Utc> = "when",
    }
    RecordUnreadable = "record.unreadable", Error, "A record cannot be read: what it may point at stays, everything else goes on.", act "Run `snapkeep verify`; put the record back from a backup, or let `snapkeep verify --repair` do what it can.", same[path] alike[why], id[path, why] {
        path: String = "the record",
        why: String = "what is wrong with it",
        blocks: Vec<String> = "snapshots that must stay because of it",
    }
    QueueDamaged = "queue.damaged", Error, "The fork journal is damaged: no fork is accepted and no ref dropped until it is mended.", act "Stop the worker, keep the journal's copy, and follow the runbook: forks that exist are safe.", same[path] alike[why], id[path] {
        path: String = "the journal, kept as it is",
        why: String = "what is wrong with it",
    }
    RootLost = "root.lost", Error, "The instances root is not the one this store belongs to (unmounted?): no ref is dropped, nothing is removed.", act "Mount the instances root; the worker finds it by itself.", same[path] alike[why], id[at] {
        path: String = "the instances root",
        why: String = "what is there instead",
        at: DateTime<Utc> = "when it was noticed",
    }
    RootFound = "root.found", Info, "The instances root is proven again.", id[at] {
        path: String = "the instances root",
        at: DateTime<Utc> = "when it was noticed",
    }
    ApiRefused = "api.refused", Warn, "Somebody asked the API for what they may not do; the same of the same caller is counted for a minute before it is reported again.", act "If they should be allowed to: put them into `[api] read`, `write` or `admin`. Else ask them, or look at what runs as that user.", id[who, wanted, at] {
        who: String = "the caller: user and group, or an address",
        wanted: String = "the right that it takes: read, write or admin",
        method: String = "the method of the last such request",
        path: String = "its path",
        count: u64 = "how many there were since the last report, with this one",
        at: DateTime<Utc> = "when",
    }
    WorkerStarted = "worker.started", Info, "The worker has recovered and takes work.", id[at] {
        version: String = "its version",
        snapshots: u64 = "snapshots in the store",
        forks: u64 = "refs in the store",
        startup_ms: u64 = "from open to ready, milliseconds",
        at: DateTime<Utc> = "when",
    }
    ClockStepped = "clock.stepped", Warn, "The wall clock was set: it moved by more than the time that passed. Slots go on by the new time; none is taken twice.", act "Nothing if it was set on purpose; else look at the time synchronisation (`timedatectl`).", id[at] {
        from: DateTime<Utc> = "what it showed at the last look: a second or two before, or when the last worker looked",
        by_ms: i64 = "how far it moved beyond the time that passed, milliseconds; negative if back",
        at: DateTime<Utc> = "what it shows now",
    }
    ClockDistrusted = "clock.distrusted", Info, "The wall clock is not believed: nothing is removed by age. So it is for ten minutes after each boot, and after each step of the clock.", act "Nothing for ten minutes. If it lasts: `snapkeep status` says why. Have the clock synchronised (`timedatectl`); a gap of more than 30 days wants `snapkeep clock accept`; hosts without NTP want `[clock] wait_for_sync = false`.", same[] alike[why], id[at] {
        why: String = "why not",
        until: Option<DateTime<Utc>> = "when it will be by itself, at the soonest; null: somebody has to say so",
        at: DateTime<Utc> = "when",
    }
    ClockTrusted = "clock.trusted", Info, "The wall clock is believed again.", same[] alike[], id[at] {
        at: DateTime<Utc> = "when",
    }
    MetricsFailed = "metrics.failed", Warn, "The file of `[metrics] textfile` could not be written: what is there is old.", act "Make its directory, and let the worker's user write there; or leave `textfile` away.", same[path] alike[error], id[path, at] {
        path: String = "the file",
        error: String = "why, in words",
        at: DateTime<Utc> = "when",
    }
    WorkerSuspended = "worker.suspended", Warn, "The worker did not look at its schedules for longer than a minute: the machine was suspended, or the process stopped.", act "Nothing if the host was suspended; else find out what stopped the process (memory pressure, SIGSTOP, a stalled disk).", id[at] {
        for_ms: u64 = "for how long, by the boot clock, milliseconds",
        at: DateTime<Utc> = "when it looked again",
    }
    WorkerHeartbeat = "worker.heartbeat", Info, "The worker's loop goes round (once a minute).", id[at] {
        pending: u64 = "fork requests that wait or run",
        oldest_ms: u64 = "how long the oldest of them has waited, milliseconds; 0 if there is none",
        failing: u64 = "policy-instance pairs whose last attempt failed",
        failures: u64 = "most failed attempts in a row of any pair",
        overdue: u64 = "pairs that have gone by two slots, and more, without a snapshot",
        snapshots: u64 = "snapshots in the store",
        forks: u64 = "refs in the store: forks that live or wait",
        quarantined: u64 = "snapshots that failed a check",
        blocked: u64 = "snapshots that retention wanted to go when it last looked, and that must stay",
        stuck: u64 = "those of them that nothing but a person can free: unreadable, linked, unmounted, or the clock is not believed",
        pinned_bytes: u64 = "what forks alone keep from coming free, as it was last measured, bytes",
        free_bytes: u64 = "what is free on the store's file system, bytes",
        size_bytes: u64 = "how large that is, bytes",
        queue_open: bool = "whether forks are accepted: false if the journal is damaged or cannot be written",
        root_proven: bool = "whether the instances root is the one that this store belongs to",
        clock_trusted: bool = "whether the wall clock is believed: else nothing is removed by age",
        config_rejected: bool = "whether the last reload was refused",
        next_at: DateTime<Utc> = "when the next one is due: a worker that is silent for much longer does not work",
        at: DateTime<Utc> = "when",
    }
    LogRepeated = "log.repeated", Info, "Troubles that had been written down before came again and were counted, not written: the log does not flood.", id[of, at] {
        of: String = "the name of the event that came again",
        of_level: String = "its level",
        times: u64 = "how many of them were not written",
        kinds: u64 = "of how many different troubles",
        like: String = "what one of these troubles is about",
        since: DateTime<Utc> = "when the first of them came",
        at: DateTime<Utc> = "when this was written",
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
        for name in self.event.described().identity {
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

    /// Writes what it holds back, if anything: for the end.
    fn flush(&self) {}
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

/// Reports events; clones share clock, sink, metrics and feed.
#[derive(Clone)]
pub struct Events {
    clock: Arc<dyn Clock>,
    sink: Arc<dyn Sink>,
    metrics: Option<Arc<metrics::Metrics>>,
    feed: Option<Arc<feed::Feed>>,
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
        Self { clock, sink, metrics: None, feed: None }
    }

    /// The same, with metrics that are fed by what is reported from here on.
    #[must_use]
    pub fn with_metrics(self) -> Self {
        Self { metrics: Some(Arc::default()), ..self }
    }

    /// The metrics, if they are kept.
    #[must_use]
    pub fn metrics(&self) -> Option<&metrics::Metrics> {
        self.metrics.as_deref()
    }

    /// The same, with a feed of the last ones beside the sink.
    #[must_use]
    pub fn with_feed(self, bounds: feed::Bounds) -> Self {
        Self { feed: Some(Arc::new(feed::Feed::new(bounds))), ..self }
    }

    /// The feed, if there is one.
    #[must_use]
    pub fn feed(&self) -> Option<Arc<feed::Feed>> {
        self.feed.clone()
    }

    /// Reports one fact.
    pub fn emit(&self, event: Event) {
        let record = Record { ts: self.clock.now(), event };
        if let Some(metrics) = &self.metrics {
            metrics.observe(&record.event, record.ts);
        }
        self.sink.write(&record);
        if let Some(feed) = &self.feed {
            feed.push(&record);
        }
    }

    /// Has what was only counted written down: for the end of a process.
    pub fn flush(&self) {
        self.sink.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use chrono::TimeZone as _;

    fn noon() -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2026, 11, 24, 12, 0, 0).unwrap()
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
