//! The configuration: one TOML file and `policies.d`, read whole, checked whole, reported whole.

mod check;
mod cron;
mod keys;
mod load;
mod policies;
mod problem;
mod raw;
mod skip;
pub mod units;
mod walk;

pub use check::parse;
pub use load::load;
pub use problem::{ConfigError, Problem};
pub use raw::schema;
pub use skip::Skip;

use crate::policy::Policy;
use chrono::TimeDelta;
use std::path::PathBuf;
use std::time::Duration;

/// The configuration, checked and complete.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    /// Digest of all files' text: equal if nothing has changed.
    pub digest: String,
    /// Where snapshots are kept.
    pub store: PathBuf,
    /// The directory whose subdirectories are instances.
    pub instances: PathBuf,
    /// The worker's unix socket.
    pub socket: PathBuf,
    /// How forks are made.
    pub fork: ForkConfig,
    /// What snapshots leave out.
    pub skip: Skip,
    /// How instances are brought to rest.
    pub driver: DriverConfig,
    /// Threads for copying and unlinking.
    pub threads: usize,
    /// How often retention is applied.
    pub prune_every: TimeDelta,
    /// How long removed snapshots, and instances that `restore` replaced, can be brought back.
    pub trash_grace: Duration,
    /// The same for forks removed by `unfork`.
    pub fork_grace: Duration,
    /// The policies, in the order of the files; names are unique.
    pub policies: Vec<Policy>,
    /// What is odd but not wrong.
    pub warnings: Vec<String>,
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

impl Config {
    /// The policy of this name.
    #[must_use]
    pub fn policy(&self, name: &crate::ids::PolicyName) -> Option<&Policy> {
        self.policies.iter().find(|p| p.name == *name)
    }
}
