//! The command line's words. Nothing here acts.

mod examples;
mod simulate;

pub(super) use simulate::{SimulateArgs, Start};

use crate::ids::{ForkId, HoldName, InstanceId, PolicyName, SnapshotName};
use chrono::{DateTime, Utc};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Scheduled snapshots of instance directories, durable forks, and pruning that never takes what a fork still needs.
#[derive(Debug, Parser)]
#[command(name = "snapkeep", version, max_term_width = 110, after_help = AFTER)]
pub struct Cli {
    /// The configuration.
    #[arg(long, global = true, env = CONFIG_VARIABLE, default_value = USUAL_CONFIG, value_name = "FILE")]
    pub config: PathBuf,
    /// Print JSON: one document on stdout, or one a line; errors as problem documents on stderr.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Names the configuration where `--config` does not.
pub(super) const CONFIG_VARIABLE: &str = "SNAPKEEP_CONFIG";
/// The configuration where nothing names another.
pub(super) const USUAL_CONFIG: &str = "/etc/snapkeep/snapkeep.toml";

const AFTER: &str = "\
SNAPSHOT is an id (20261124-090347-abcdefgh), INSTANCE/NAME, or a name that only one snapshot has.
While a worker runs (`run`), verbs are asked of it over its socket; else they act themselves.
Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 conflict, 75 busy (try again), 78 configuration.

See it at work:  snapkeep demo";

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make or check a store and its instances root, and say what will be fast, slow or impossible
    Init,
    /// The worker, until SIGTERM: schedules, fork queue, pruning, API
    Run,
    /// Everything that is due now: snapshots, the queue, pruning; then exit (for a systemd timer)
    Once {
        /// Leave digests that are pending to the next run or a worker
        #[arg(long)]
        leave_digests: bool,
    },
    /// Validate the configuration; every problem is reported at once
    Check {
        /// Print the configuration's JSON Schema instead.
        #[arg(long)]
        schema: bool,
        /// Print the next so many slots of each policy, in its zone.
        #[arg(long, value_name = "N", conflicts_with = "schema", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        next: Option<u32>,
        /// Those after this time (RFC 3339) instead of now.
        #[arg(long, value_name = "TIME", requires = "next")]
        from: Option<DateTime<Utc>>,
    },
    /// The whole life on a made-up instance in a temporary directory, in half a minute
    Demo {
        /// How long, seconds.
        #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u64).range(5..=600))]
        seconds: u64,
    },
    /// Take a snapshot now
    Snapshot {
        /// The instance: a directory below the instances root.
        instance: InstanceId,
        /// Its name; made from the time if not given.
        #[arg(long)]
        name: Option<SnapshotName>,
        /// A tag; may be repeated.
        #[arg(long, value_name = "K=V", value_parser = tag)]
        tag: Vec<(String, String)>,
    },
    /// Make forks of a snapshot: queued durably, then made
    Fork(ForkArgs),
    /// Remove a fork that does not run
    Unfork {
        /// The fork's name.
        name: InstanceId,
    },
    /// Put an instance back to a snapshot; what is there goes into the trash
    Restore {
        /// The snapshot.
        snapshot: String,
    },
    /// Take directories that a script made of an instance into the store, as snapshots of the time in their names
    #[command(after_help = IMPORT)]
    Import(ImportArgs),
    /// List snapshots
    Ls {
        /// Of this instance only.
        #[arg(long)]
        instance: Option<InstanceId>,
        /// Of this policy only.
        #[arg(long)]
        policy: Option<PolicyName>,
        /// With this tag only; may be repeated.
        #[arg(long, value_name = "K=V", value_parser = tag)]
        tag: Vec<(String, String)>,
        /// What lies in the trash instead: snapshots and instances that can be brought back.
        #[arg(long, conflicts_with_all = ["instance", "policy", "tag"])]
        trash: bool,
    },
    /// Show one snapshot
    Show {
        /// The snapshot.
        snapshot: String,
    },
    /// List forks that live
    Forks {
        /// Of this snapshot only.
        snapshot: Option<String>,
    },
    /// Show the fork queue, or cancel a request that waits
    #[command(args_conflicts_with_subcommands = true)]
    Queue {
        /// What to do with it.
        #[command(subcommand)]
        action: Option<QueueAction>,
    },
    /// The worker, and how each policy does with each instance
    Status,
    /// Remove a snapshot; refused while forks live
    Rm {
        /// The snapshot.
        snapshot: String,
        /// If something needs it: mark it to go with its last fork.
        #[arg(long)]
        defer: bool,
        /// Also if its manifest cannot be read; never while a fork, a hold or another link needs it.
        #[arg(long, conflicts_with = "defer")]
        unreadable: bool,
    },
    /// Bring a snapshot or an instance back from the trash; or keep a snapshot after all that is marked to go
    Undelete {
        /// A snapshot, an instance's name, or the name of an entry of the trash.
        what: String,
        /// Another name for an instance whose name is taken.
        #[arg(long = "as", value_name = "NAME")]
        name: Option<InstanceId>,
    },
    /// Pin a snapshot: it stays until the hold is released
    Hold {
        /// The snapshot.
        snapshot: String,
        /// The hold's name.
        name: HoldName,
    },
    /// Release a hold
    Release {
        /// The snapshot.
        snapshot: String,
        /// The hold's name.
        name: HoldName,
    },
    /// What retention would do, and why
    Plan(PlanArgs),
    /// Do what retention says, within the caps of [prune]
    Prune {
        /// For this policy only; may be repeated.
        #[arg(long)]
        policy: Vec<PolicyName>,
        /// Exactly this plan, whatever the caps, or nothing if it is no longer that (exit 4).
        #[arg(long, value_name = "HASH")]
        plan: Option<String>,
    },
    /// How a policy behaves over years of made-up time: how many snapshots it holds, how old, how many bytes
    Simulate(SimulateArgs),
    /// Check digests, refs and strays on the disk; changes nothing without --repair
    #[command(
        after_help = "Exit code 1 if a finding is an error (with --strict, also for a warning) and was not mended; a snapshot in quarantine is not mended."
    )]
    Verify {
        /// Mend what can be mended without losing anything: quarantine, refs, strays moved aside.
        #[arg(long)]
        repair: bool,
        /// Go on where a run was cut short: leave out what it has compared.
        #[arg(long)]
        resume: bool,
        /// Compare no digests: names, sizes, modes, refs and links only.
        #[arg(long, conflicts_with_all = ["resume", "rate"])]
        quick: bool,
        /// Bytes read per second at most, such as 100MiB.
        #[arg(long, value_parser = size)]
        rate: Option<u64>,
        /// Take warnings for errors.
        #[arg(long)]
        strict: bool,
    },
    /// Whether the wall clock is believed; while it is not, nothing is removed by age
    #[command(args_conflicts_with_subcommands = true)]
    Clock {
        /// What to do about it.
        #[command(subcommand)]
        action: Option<ClockAction>,
    },
}

/// What to do about the clock.
#[derive(Debug, Subcommand)]
pub enum ClockAction {
    /// Believe it as it is
    Accept,
}

/// What to do with the queue.
#[derive(Debug, Subcommand)]
pub enum QueueAction {
    /// Cancel a request that still waits
    Cancel {
        /// The request's id.
        id: ForkId,
    },
}

/// `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// For this policy only; may be repeated.
    #[arg(long)]
    pub policy: Vec<PolicyName>,
    /// As of this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub at: Option<DateTime<Utc>>,
    /// Only what would be otherwise than by the configuration in force (of the worker, or of the usual file), or by FILE.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    pub diff: Option<Option<PathBuf>>,
}

const IMPORT: &str = "\
Without --pattern the first date in the name counts, with the time behind it if there is one, such as 2026-11-24T03-00-00,
20261124-0300 or 2026-11-24; and the time of change of a directory without any. Names that begin with a dot are left.
Files are reflinked where the store can share blocks with them, and copied elsewhere; twice imported is taken once.";

/// `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The directory that they are in.
    pub dir: PathBuf,
    /// What they are snapshots of; it need not be there.
    #[arg(long)]
    pub instance: InstanceId,
    /// The policy whose they become, to remove by its rules; if not given they are nobody's.
    #[arg(long)]
    pub policy: Option<PolicyName>,
    /// The time in their names as strftime writes it, such as %Y-%m-%dT%H-%M-%S; names that do not fit are left.
    #[arg(long)]
    pub pattern: Option<String>,
    /// The zone of times without an offset. Default: UTC.
    #[arg(long, value_name = "ZONE")]
    pub timezone: Option<String>,
    /// A tag for all of them; may be repeated.
    #[arg(long, value_name = "K=V", value_parser = tag)]
    pub tag: Vec<(String, String)>,
    /// The directories go: by a rename into the store where that can be, else once they are copied.
    #[arg(long = "move")]
    pub take_away: bool,
    /// Only say what would be taken, of what time, and what is left and why.
    #[arg(long)]
    pub dry_run: bool,
}

/// `fork`.
#[derive(Debug, Args)]
pub struct ForkArgs {
    /// The snapshot.
    pub snapshot: String,
    /// Names of the forks.
    #[arg(required_unless_present = "count")]
    pub names: Vec<String>,
    /// So many forks, named by the prefix.
    #[arg(long, requires = "prefix", conflicts_with = "names")]
    pub count: Option<u32>,
    /// PREFIX-1, PREFIX-2, … going on after the highest there is.
    #[arg(long, requires = "count", conflicts_with = "names")]
    pub prefix: Option<String>,
    /// Idempotency key: asked again with the same key, the same forks are meant.
    #[arg(long)]
    pub key: Option<String>,
    /// Return once the requests are durable.
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait for the forks at most.
    #[arg(long, value_parser = duration, default_value = "1h", value_name = "DURATION")]
    pub timeout: Duration,
}

/// The whole command line, with examples: what is parsed, and what help, man pages and completions are made of.
#[must_use]
pub fn command() -> clap::Command {
    examples::teach(Cli::command())
}

fn tag(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a tag looks like key=value")?;
    if key.is_empty() { Err("a tag's key must not be empty".to_owned()) } else { Ok((key.to_owned(), value.to_owned())) }
}

fn size(text: &str) -> Result<u64, crate::config::SizeError> {
    crate::config::parse_size(text)
}

fn duration(text: &str) -> Result<Duration, crate::config::DurationError> {
    crate::config::parse_duration(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn global_options_stand_before_or_after_the_verb() {
        for line in ["snapkeep --json --config /c ls", "snapkeep ls --json --config /c"] {
            let cli = parse(line).unwrap();
            assert!(cli.json && cli.config == std::path::Path::new("/c"));
        }
    }

    #[test]
    fn forks_are_named_one_way_or_the_other() {
        assert!(parse("snapkeep fork s a b").is_ok());
        assert!(parse("snapkeep fork s --count 3 --prefix p").is_ok());
        for bad in
            ["snapkeep fork s", "snapkeep fork s a --count 3 --prefix p", "snapkeep fork s --count 3", "snapkeep fork s a --prefix p"]
        {
            assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn names_that_cannot_be_are_refused_at_once() {
        for bad in ["snapkeep snapshot ../x", "snapkeep snapshot a --tag nothing", "snapkeep hold s UPPER", "snapkeep queue cancel x"] {
            assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }
}
