//! The configuration: one TOML file and `policies.d`, read whole, checked whole, reported whole.
//!
//! `raw` describes every key once, and the schema is made from it; `shape` holds a document against that schema;
//! `resolve`, `policy` and `cron` give values their meaning; `problem` says what is wrong and where. Nothing here
//! touches the store or the instances root, or knows whether a worker runs.

mod access;
mod cron;
pub mod lint;
mod load;
mod policy;
mod prefork;
mod problem;
mod raw;
mod resolve;
mod shape;
mod skip;
#[cfg(test)]
mod tests;
mod units;

pub use access::{ApiConfig, Principal};
pub use load::{load, parse, read_files};
pub use prefork::{PoolConfig, Prefork};
pub use problem::{ConfigError, Problem};
pub use raw::schema;
pub use skip::Skip;
pub use units::{DurationError, SizeError, parse_duration, parse_size, show_duration, show_size};

use crate::ids::PolicyName;
use crate::policy::Policy;
use crate::policy::cap::Caps;
use chrono::TimeDelta;
use std::path::PathBuf;
use std::time::Duration;

/// The configuration, checked and complete.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    /// BLAKE3 of all files' texts: equal if a reload changes nothing.
    pub digest: String,
    /// Where snapshots are kept.
    pub store: PathBuf,
    /// The directory whose subdirectories are instances.
    pub instances: PathBuf,
    /// The worker's unix socket.
    pub socket: PathBuf,
    /// Who may use the API, and from where.
    pub api: ApiConfig,
    /// How forks are made.
    pub fork: ForkConfig,
    /// Forks made ahead of need.
    pub pool: PoolConfig,
    /// What snapshots leave out.
    pub skip: Skip,
    /// When the files of a snapshot are hashed that share their extents.
    pub digests: DigestTime,
    /// How instances are brought to rest.
    pub driver: DriverConfig,
    /// Threads for copying and unlinking.
    pub threads: usize,
    /// Scheduled snapshots at once.
    pub max_running: usize,
    /// Bytes per second that are copied at most; 0: no bound.
    pub copy_rate: u64,
    /// How often retention is applied.
    pub prune_every: TimeDelta,
    /// How long forks may keep a snapshot past its expiry before that is reported; zero: never.
    pub warn_pinned_after: Duration,
    /// How much of a plan is carried out at once.
    pub caps: Caps,
    /// What becomes of removed things.
    pub trash: TrashConfig,
    /// Kept free on the file system.
    pub reserve: Reserve,
    /// How full the file system may become before snapshots go early; `None`: as full as it can.
    pub fill: Option<Fill>,
    /// Raw copies of compressed memory files.
    pub cache: CacheConfig,
    /// Checking digests in the background; `None`: not at all.
    pub scrub: Option<ScrubConfig>,
    /// Whether ages wait for a synchronised clock after a boot.
    pub wait_for_sync: bool,
    /// Metrics in a file.
    pub metrics: MetricsConfig,
    /// The policies, in the order of the files; names are unique.
    pub policies: Vec<Policy>,
    /// What is odd but not wrong.
    pub warnings: Vec<String>,
}

impl Config {
    /// The policy of this name.
    #[must_use]
    pub fn policy(&self, name: &PolicyName) -> Option<&Policy> {
        self.policies.iter().find(|policy| policy.name == *name)
    }

    /// The keys in which `new` differs and which a running worker cannot change: they need a restart.
    #[must_use]
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let keys = [
            ("store.path", self.store != new.store),
            ("store.instances", self.instances != new.instances),
            ("api.socket", self.socket != new.socket),
            ("api.mode", self.api.mode != new.api.mode),
            ("api.tcp", self.api.tcp != new.api.tcp),
            ("worker.threads", self.threads != new.threads),
        ];
        keys.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }
}

/// `[fork]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForkConfig {
    /// The first method tried for memory files.
    pub memory: MemoryMethod,
    /// What to do about files that name their source's directory.
    pub source_paths: SourcePaths,
    /// How many requests may wait.
    pub max_pending: usize,
    /// Whether snapshots that are to go with their last fork may be forked.
    pub allow_expiring: bool,
}

/// `[trash]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrashConfig {
    /// How long removed snapshots, and instances that `restore` replaced, can be brought back.
    pub grace: Duration,
    /// The same for forks removed by `unfork`.
    pub fork_grace: Duration,
    /// More than this (bytes) is not kept for the grace's sake.
    pub max_bytes: Option<u64>,
    /// Files unlinked per second at most; 0: no bound.
    pub unlink_rate: u32,
    /// Bytes that come free per second at most; none: no bound.
    pub unlink_bytes: Option<u64>,
}

/// `[metrics]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsConfig {
    /// The file for node_exporter's textfile collector, if there is to be one.
    pub textfile: Option<PathBuf>,
    /// How often `once` is run.
    pub once_every: std::time::Duration,
}

/// `[cache]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheConfig {
    /// More than this does not stay, save what forks wait for.
    pub max: Reserve,
    /// How long a raw copy stays after its last use.
    pub keep: TimeDelta,
}

/// How much of the file system stays free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserve {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of a percent of its size.
    Share(u64),
}

impl Reserve {
    /// In bytes, on a file system of `size` bytes.
    #[must_use]
    pub fn of(self, size: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Share(parts) => u64::try_from(u128::from(size) * u128::from(parts) / 10_000).unwrap_or(u64::MAX),
        }
    }
}

/// `[space] prune_above` and `until`, in hundredths of a percent of the file system's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// More than this in use is too much.
    pub above: u64,
    /// So much may be in use then.
    pub until: u64,
}

/// `[scrub]`.
#[derive(Debug, Clone)]
pub struct ScrubConfig {
    /// From each of its slots on, every snapshot is checked once.
    pub rhythm: crate::policy::Rhythm,
    /// Bytes read per second.
    pub rate: u64,
}

/// When the files of a snapshot are hashed that share their extents with the instance's. What is copied byte by byte is
/// hashed on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DigestTime {
    /// Before it is published: whoever sees it can check it.
    Before,
    /// After it was published, in the background: it is published within milliseconds.
    After,
}

/// How a fork gets its memory file; tried in this order from the configured one on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each is what its name says")]
pub enum MemoryMethod {
    Hardlink,
    Reflink,
    Copy,
}

/// What to do about files of a fork that name their source's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SourcePaths {
    /// Rewrite strings of JSON and TOML files; fail the fork if another file names it.
    Rewrite,
    /// Fail the fork if any file names it.
    Refuse,
    /// Leave everything as it is.
    Allow,
}

/// `[driver]`: the plain one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverConfig {
    /// File names that hold guest memory.
    pub memory_names: Vec<String>,
    /// Command lines run before the copy.
    pub freeze: Vec<String>,
    /// Command lines run after it, whatever happened.
    pub thaw: Vec<String>,
    /// How long each may take.
    pub timeout: Duration,
}
