//! snapkeep takes scheduled snapshots of instance directories (microVMs, sandboxes), forks them on demand through a
//! durable queue, and prunes what its retention rules no longer keep, never a snapshot that a live fork still needs.
//!
//! # Code map
//!
//! ```text
//! config ── schedule ──► snapshot ──► store ──► queue ──► fork ──► refs
//! (TOML)   (what is due)  (driver,     (publish)  (durable)  (link, reflink)
//!                         copy)          │                     │
//!                                        └──► policy (plan) ◄──┘
//!                                               │
//!                                            reclaim (cut, trash, unlink) ──► events (log, API)
//! ```
//!
//! Each module uses only those above it in this list (`tests/it/layers.rs` holds that):
//!
//! | module | what it owns |
//! |---|---|
//! | [`ids`], [`clock`], [`event`] | identifiers; the only reading of clocks; every fact that is reported: what of it is written (`flood`), its catalogues, metrics, and the last ones for who follows (`feed`) |
//! | [`policy`] | pure decisions: slots by the calendar, `cadence` (which is due), `turns` (whose turn it is), `retention` (what to keep, by `claims` and `rules`), `space`, `cap`, `bucket`, `simulate` (how that goes on for years), `compress` and `cache` (what is cold, which raw copies go) |
//! | [`config`] | TOML in, a checked configuration or all problems at once out |
//! | [`store`] | the only system calls on store and instances root (`store::fs`); index, records, journal, trash |
//! | [`driver`] | bringing an instance to rest around a copy; whether it runs |
//! | [`snapshot`] | `take`, `import` and `restore`, over `copy`, `digest`, `settle` (what makes it durable) and `materialize`; `late` (digests after publishing), `pack` (memory of cold snapshots) |
//! | [`fork`] | the queue (`queue`, pure), `accept`, `awaited`, `burst`, `reconcile`; forks made ahead of need (`pool`); what of a fork names its source (`rewrite`) |
//! | [`reclaim`] | the cut, and unlinking after the grace |
//! | [`schedule`] | the durable ledger, one slot from begun to its outcome, and how they all do (`health`) |
//! | [`worker`] | one code path behind all verbs: opening, looking, acting, verifying |
//! | [`api`] | HTTP on the worker's unix socket and on loopback: who may do what, OpenAPI, metrics, the client; `feed` (events as they come), `timeline` and `page` (one file, made of those in `api/page/`) |
//! | [`daemon`] | `run`: signals, timers, threads, reload; where log lines go (`log`, `journal`); what the service manager is told (`notify`), and its sockets (`listen`) |
//! | [`cli`] | arguments, text and JSON, exit codes |
//! | [`fuzzing`] | what must hold for any bytes of a config, manifest, journal or fork record; for `fuzz/` and tests |
//!
//! Blocking work is plain synchronous code; async stays in `api` and `daemon`. Locks are taken in the order instance,
//! snapshot, journal. A snapshot's lock is held for metadata only, never for a copy.
//!
//! # Invariants
//!
//! 1. **Pinned before read.** A fork's ref is durable before its request is acknowledged, and until the fork is proven gone.
//! 2. **Checked at the cut.** Removal takes the snapshot's lock, reads refs, pins, holds and the queue again, renames into
//!    the trash, syncs, and unlinks only later. A plan is a proposal.
//! 3. **Visible means whole and durable.** Build, sync, rename, sync the parent. No reader ever sees half a snapshot or
//!    half a fork. For snapshots, forks and records "sync" is less where the file system commits in order (`store::fs::Commits`): no
//!    rename reaches the disk without what is behind it.
//! 4. **Nothing is deleted for lack of information.** An unreadable ref, manifest or fork record, a missing mount, a newer
//!    format, a clock that jumped: kept, and reported by name. One bad record blocks what it may point at and nothing else.
//! 5. **No shared writable inode.** The only inodes that forks share are read-only memory files of a snapshot, or of its
//!    cache. Each disk is its own inode. Before linking, size and mtime must match the manifest. Nothing that was ever linkable is
//!    truncated, punched or written in place, not even to delete it: unlink only.
//! 6. **What we pause we resume.** The thaw runs whatever else fails.
//! 7. **A schedule cannot fail silently.** Each slot ends in taken, failed, skipped (why) or missed. A slot that was begun
//!    and has no outcome at start is `failed, interrupted`. Events are at least once, with an id that does not change.
//! 8. **Deciding is pure.** What is due, what to keep and what the queue does next are functions of data and `now`.
//!
//! What breaks when one is broken: 1 and 3 `tests/it/stops.rs`, `kill.rs`, `faults.rs`, `powercut.rs`, `powercut_steps.rs`,
//! `powercut_take.rs` and `awaited.rs`; 2 `race.rs`, `pairs.rs`, `locks.rs`, `refs_model.rs` and `powercut_unlink.rs`; 4 `lifecycle.rs`,
//! `guards.rs` and `quarantine.rs`; 5 `verify.rs`, `lifecycle.rs` and `compress.rs`; 6 `driver/plain.rs`; 7 `schedule.rs` and
//! `powercut_records.rs`; 8 the properties in `policy/` and `fork/queue_tests.rs`. `docs/reliability.md` has the whole list.

pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod driver;
pub mod event;
pub mod fork;
#[doc(hidden)]
pub mod fuzzing;
pub mod ids;
pub mod policy;
pub mod reclaim;
pub mod schedule;
pub mod snapshot;
pub mod store;
pub mod worker;
