//! What is asked of a simulation, and its answer. The answer's fields are those of `simulate --json` (docs/simulate.md).

use crate::ids::{InstanceId, PolicyName};
use crate::policy::Verdict;
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde::Serialize;

/// What is simulated, besides the policy.
#[derive(Debug, Clone)]
pub struct Model {
    /// Whose snapshots they are: jitter depends on the name.
    pub instance: InstanceId,
    /// The beginning: the store is empty.
    pub from: DateTime<Utc>,
    /// The end; nothing happens at this time any more.
    pub to: DateTime<Utc>,
    /// What snapshots take; `None`: bytes are not told.
    pub bytes: Option<ModelBytes>,
    /// Forks that come and go; `None`: none do.
    pub forks: Option<ModelForks>,
    /// So many of a million slots are missed, by chance.
    pub missed_per_million: u32,
    /// Where chance begins.
    pub seed: u64,
    /// Plan after every slot, however many there are.
    pub every_slot: bool,
}

/// What snapshots take: what is in all of them is on the disk once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelBytes {
    /// One by itself.
    pub size: u64,
    /// What each has alone, at most `size`.
    pub exclusive: u64,
}

impl ModelBytes {
    /// What so many take together.
    #[must_use]
    pub fn of(self, snapshots: u64) -> u64 {
        if snapshots == 0 { 0 } else { (self.size - self.exclusive).saturating_add(self.alone(snapshots)) }
    }

    /// What so many have alone.
    #[must_use]
    pub fn alone(self, snapshots: u64) -> u64 {
        self.exclusive.saturating_mul(snapshots)
    }
}

/// Forks that come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelForks {
    /// How many are made in a day, in thousandths.
    pub per_day_thousandths: u32,
    /// How long they live on average.
    pub life: TimeDelta,
}

/// How a policy behaves.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Simulation {
    /// Whose.
    pub policy: PolicyName,
    /// The beginning.
    pub from: DateTime<Utc>,
    /// The end.
    pub to: DateTime<Utc>,
    /// The zone of days and longer.
    pub timezone: String,
    /// Where chance began.
    pub seed: u64,
    /// How many slots there were.
    pub slots: u64,
    /// Slots that were missed, by chance.
    pub missed: u64,
    /// Snapshots taken.
    pub taken: u64,
    /// Snapshots removed.
    pub removed: u64,
    /// How many snapshots there were, those that only forks keep among them.
    pub held: Spread,
    /// How many of them only forks kept.
    pub blocked: Spread,
    /// When the number that rules keep no longer grew; null if it still did, or the span is too short to tell.
    pub steady: Option<Steady>,
    /// The oldest snapshot at the end.
    pub oldest_at: Option<DateTime<Utc>>,
    /// Bytes; null if sizes were not given.
    pub bytes: Option<Bytes>,
    /// Forks; null if none were asked for.
    pub forks: Option<ForkTotals>,
    /// A line for each rule that kept something, finest first.
    pub tiers: Vec<Tier>,
    /// Days, months, quarters or years, by the span's length.
    pub periods: Vec<Period>,
    /// Every day.
    pub days: Vec<Day>,
    /// What is held at the end, oldest first.
    pub snapshots: Vec<Held>,
    /// Retention was applied after every so many slots at least; 1: after each.
    pub looked_every: u64,
    /// Why it ended before its time, if it did.
    pub stopped: Option<Stopped>,
}

/// A number over time.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Spread {
    /// The largest.
    pub max: u64,
    /// When it was that first.
    pub max_at: Option<DateTime<Utc>>,
    /// Half of the time it was less or the same.
    pub median: u64,
    /// On average over time.
    pub mean: f64,
    /// At the end.
    pub end: u64,
}

/// The number of snapshots that rules keep no longer grows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Steady {
    /// Since which day.
    pub since: NaiveDate,
    /// How many there are then, on average.
    pub mean: f64,
}

/// Bytes over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// What one snapshot takes by itself.
    pub size: u64,
    /// What each has alone.
    pub exclusive: u64,
    /// The most that they took.
    pub max: u64,
    /// Half of the time it was less or the same.
    pub median: u64,
    /// At the end.
    pub end: u64,
    /// The most that was kept by forks only.
    pub pinned_max: u64,
}

/// Forks in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ForkTotals {
    /// How many were made.
    pub made: u64,
    /// The most that lived at once.
    pub live_max: u64,
}

/// What one rule did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tier {
    /// The rule, as a plan's reasons name it.
    pub rule: String,
    /// How many it keeps at the end.
    pub keeps: u64,
    /// How many of them no other rule keeps.
    pub alone: u64,
    /// The oldest that it keeps at the end.
    pub oldest_at: Option<DateTime<Utc>>,
    /// The age of the oldest that it ever kept, seconds.
    pub reach_seconds: i64,
    /// When it first kept one.
    pub first_at: DateTime<Utc>,
    /// When it first kept one that no other rule kept; null: never, so without it the same would be kept.
    pub first_alone_at: Option<DateTime<Utc>>,
}

/// A day, month, quarter or year.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Period {
    /// `2026-01-31`, `2026-01`, `2026-Q1`, `2026`.
    pub label: String,
    /// How many are held at its end.
    pub held: u64,
    /// The most.
    pub held_max: u64,
    /// How many of them only forks keep at its end.
    pub blocked: u64,
    /// The most.
    pub blocked_max: u64,
    /// The oldest at its end.
    pub oldest_at: Option<DateTime<Utc>>,
    /// Its end, or that of the span.
    pub to: DateTime<Utc>,
    /// Bytes at its end; null if sizes were not given.
    pub bytes: Option<u64>,
    /// The most bytes.
    pub bytes_max: Option<u64>,
}

/// A day in the policy's zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Day {
    /// Which.
    pub date: NaiveDate,
    /// Its end, or that of the span.
    pub to: DateTime<Utc>,
    /// How many are held at its end.
    pub held: u64,
    /// The most.
    pub held_max: u64,
    /// How many of them only forks keep at its end.
    pub blocked: u64,
    /// The most.
    pub blocked_max: u64,
    /// The oldest at its end.
    pub oldest_at: Option<DateTime<Utc>>,
}

/// A snapshot that is there at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Held {
    /// When it was taken.
    pub created_at: DateTime<Utc>,
    /// `keep`, or `blocked` if only forks keep it.
    pub verdict: Verdict,
    /// The rules that keep it.
    pub rules: Vec<String>,
    /// Forks that live.
    pub forks: u32,
}

/// The simulation ended before its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stopped {
    /// When.
    pub at: DateTime<Utc>,
    /// Why.
    pub why: String,
}

/// Units of time as rules have them, finest first, with the longest that each can be, in days.
const UNITS: [(&str, u32); 7] =
    [("minutely", 1), ("hourly", 1), ("daily", 1), ("weekly", 7), ("monthly", 31), ("quarterly", 92), ("yearly", 366)];

fn unit(rule: &str) -> Option<usize> {
    let unit = rule.strip_prefix("within_").unwrap_or(rule);
    UNITS.iter().position(|(name, _)| *name == unit)
}

/// Where a rule stands among others, coarsest last.
#[must_use]
pub fn rank(rule: &str) -> usize {
    match rule {
        "newest" => 0,
        limit if limit.starts_with("limit.") => 1,
        "keep" => 2,
        "last" => 3,
        "within" => 4,
        "tags" => 100,
        timed => unit(timed).map_or(5, |unit| 10 + 2 * unit + usize::from(timed.starts_with("within_"))),
    }
}

/// How long one bucket of a rule can be, in whole days; one day for those that have none.
pub(super) fn days_of(rule: &str) -> u32 {
    unit(rule).and_then(|unit| UNITS.get(unit)).map_or(1, |(_, days)| *days)
}
