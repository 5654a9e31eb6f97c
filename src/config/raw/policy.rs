//! The tables of a policy as they are written.

use super::{Bytes, CronExpressions, Hours, OneOrMany, Percent, Period, Text, Zone};
use crate::policy::compress::Method;
use crate::policy::{Counting, KindRule, Missed, OnEnable, WhenReferenced};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use toml::Spanned;

/// `[[policy]]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawPolicy {
    /// The policy's name, unique over all files: a-z, 0-9 and '-', at most 63 characters.
    #[schemars(required, with = "String")]
    pub(in crate::config) name: Option<Text>,
    /// Globs: an instance belongs to the policy if any of them matches its whole name.
    #[schemars(required, with = "Vec<String>", length(min = 1))]
    pub(in crate::config) instances: Option<Spanned<Vec<Text>>>,
    /// Globs: an instance whose name one of them matches does not belong to the policy, whatever `instances` says.
    #[schemars(with = "Option<Vec<String>>")]
    pub(in crate::config) exclude: Option<Spanned<Vec<Text>>>,
    /// Tags that an instance must have in its `.snapkeep/tags.toml`, all of them; values are globs.
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub(in crate::config) instance_tags: Option<BTreeMap<Text, Text>>,
    /// Whether instances that are forks count too.
    #[schemars(extend("default" = false))]
    pub(in crate::config) include_forks: Option<bool>,
    /// Cron expression of 5 to 7 fields, or an alias such as `@hourly`; or a list of them: a slot is due when any of them
    /// says so. Not together with `every`.
    #[schemars(with = "Option<CronExpressions>")]
    pub(in crate::config) schedule: Option<Spanned<OneOrMany>>,
    /// Interval of at least one second, counted from the Unix epoch. Not together with `schedule`.
    #[schemars(with = "Option<Period>")]
    pub(in crate::config) every: Option<Text>,
    /// The zone that `schedule` and `window` are read in, and in which days and longer begin for `keep`.
    #[schemars(with = "Option<Zone>", extend("default" = "UTC"))]
    pub(in crate::config) timezone: Option<Text>,
    /// Each instance's slots are later by a constant part of this.
    #[schemars(with = "Option<Period>", extend("default" = "0s"))]
    pub(in crate::config) jitter: Option<Text>,
    /// What to do about slots that went by while nobody looked.
    #[schemars(extend("default" = "run"))]
    pub(in crate::config) missed: Option<Missed>,
    /// With `missed = "run"`: a slot that went by longer ago is not caught up. Not given: however long ago.
    #[schemars(with = "Option<Period>")]
    pub(in crate::config) missed_within: Option<Text>,
    /// Only at these hours of `timezone`: slots outside them do not exist, and what is caught up or tried again waits for
    /// them. A range may go over midnight. Not given: at any hour.
    #[schemars(with = "Option<Hours>")]
    pub(in crate::config) window: Option<Spanned<OneOrMany>>,
    /// Whether an instance that the policy sees for the first time waits for its next slot or gets a snapshot at once.
    #[schemars(extend("default" = "wait"))]
    pub(in crate::config) on_enable: Option<OnEnable>,
    /// Snapshots of this policy at once. Not given: `max_running` of [worker] alone bounds them.
    #[schemars(range(min = 1, max = 4096))]
    pub(in crate::config) max_running: Option<u32>,
    /// Attempts within a slot.
    pub(in crate::config) retry: Option<RawRetry>,
    /// Which kind of snapshot to take.
    #[schemars(extend("default" = "auto"))]
    pub(in crate::config) kind: Option<KindRule>,
    /// The first part of the names of its snapshots; the instance's name if not given.
    #[schemars(with = "Option<String>")]
    pub(in crate::config) name_prefix: Option<Text>,
    /// Tags that its snapshots get.
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub(in crate::config) tags: Option<BTreeMap<Text, Text>>,
    /// Keep everything for ever; instead of `keep` and `limit`.
    #[schemars(with = "Option<bool>", extend("default" = false))]
    pub(in crate::config) keep_all: Option<Spanned<bool>>,
    /// A snapshot is kept if any of these claims it.
    #[schemars(with = "Option<RawKeep>")]
    pub(in crate::config) keep: Option<Spanned<RawKeep>>,
    /// Caps on what is kept, newest first.
    #[schemars(with = "Option<RawLimit>")]
    pub(in crate::config) limit: Option<Spanned<RawLimit>>,
    /// What becomes of a snapshot that would go while forks need it: keep it as it is, or let it go with its last fork,
    /// with no new forks of it until then.
    #[schemars(extend("default" = "keep"))]
    pub(in crate::config) when_referenced: Option<WhenReferenced>,
    /// What happens to its snapshots when the instance no longer exists; without this table, nothing special.
    pub(in crate::config) gone: Option<RawGone>,
    /// Whether and how the memory files of cold snapshots are compressed; without this table, they are not.
    pub(in crate::config) compress: Option<RawCompress>,
}

/// `[policy.compress]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawCompress {
    /// How long a snapshot was neither taken, nor forked, nor restored.
    #[schemars(required, with = "Period")]
    pub(in crate::config) after: Option<Text>,
    /// By which method.
    #[schemars(extend("default" = "zstd"))]
    pub(in crate::config) method: Option<Method>,
    /// How hard zstd tries.
    #[schemars(with = "Option<u32>", range(min = 1, max = 19), extend("default" = 3))]
    pub(in crate::config) level: Option<Spanned<u32>>,
    /// A snapshot stays as it is if its memory would not become so much smaller.
    #[schemars(with = "Option<Percent>", extend("default" = "10%"))]
    pub(in crate::config) min_gain: Option<Text>,
    /// Whether also while forks share the raw file: that frees nothing before the last of them has gone.
    #[schemars(extend("default" = false))]
    pub(in crate::config) while_forked: Option<bool>,
}

/// `retry`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawRetry {
    /// Attempts in all.
    #[schemars(range(min = 1, max = 100), extend("default" = 1))]
    pub(in crate::config) attempts: Option<u32>,
    /// Wait before the second attempt; doubled for each further one.
    #[schemars(with = "Option<Period>", extend("default" = "1m"))]
    pub(in crate::config) backoff: Option<Text>,
}

/// `[policy.keep]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawKeep {
    /// `each`: each rule counts on its own, as restic has it. `cascade`: rules go from fine to coarse, a coarser one does
    /// not count what a finer one keeps, and one with counts left keeps the oldest, as borg 1.2 has it.
    #[schemars(extend("default" = "each"))]
    pub(in crate::config) counting: Option<Counting>,
    /// The newest so many.
    #[schemars(extend("default" = 0))]
    pub(in crate::config) last: Option<u32>,
    /// All that are younger.
    #[schemars(with = "Option<Period>")]
    pub(in crate::config) within: Option<Text>,
    /// The newest of each of the last so many minutes that have one.
    #[schemars(extend("default" = 0))]
    pub(in crate::config) minutely: Option<u32>,
    /// The newest of each of the last so many hours that have one.
    #[schemars(extend("default" = 0))]
    pub(in crate::config) hourly: Option<u32>,
    /// The newest of each of the last so many days that have one.
    #[schemars(extend("default" = 0))]
    pub(in crate::config) daily: Option<u32>,
    /// The newest of each of the last so many ISO weeks that have one.
    #[schemars(extend("default" = 0))]
    pub(in crate::config) weekly: Option<u32>,
    /// The newest of each of the last so many months that have one.
    #[schemars(extend("default" = 0))]
    pub(in crate::config) monthly: Option<u32>,
    /// The newest of each of the last so many quarters that have one.
    #[schemars(extend("default" = 0))]
    pub(in crate::config) quarterly: Option<u32>,
    /// The newest of each of the last so many years that have one.
    #[schemars(extend("default" = 0))]
    pub(in crate::config) yearly: Option<u32>,
    /// The newest of each minute, of those that are younger.
    #[schemars(with = "Option<Period>")]
    pub(in crate::config) within_minutely: Option<Text>,
    /// The newest of each hour, of those that are younger.
    #[schemars(with = "Option<Period>")]
    pub(in crate::config) within_hourly: Option<Text>,
    /// The newest of each day, of those that are younger.
    #[schemars(with = "Option<Period>")]
    pub(in crate::config) within_daily: Option<Text>,
    /// The newest of each ISO week, of those that are younger.
    #[schemars(with = "Option<Period>")]
    pub(in crate::config) within_weekly: Option<Text>,
    /// The newest of each month, of those that are younger.
    #[schemars(with = "Option<Period>")]
    pub(in crate::config) within_monthly: Option<Text>,
    /// The newest of each quarter, of those that are younger.
    #[schemars(with = "Option<Period>")]
    pub(in crate::config) within_quarterly: Option<Text>,
    /// The newest of each year, of those that are younger.
    #[schemars(with = "Option<Period>")]
    pub(in crate::config) within_yearly: Option<Text>,
    /// All that have any of these tags: `key` with any value, or `key=value`.
    #[schemars(with = "Option<Vec<String>>")]
    pub(in crate::config) tags: Option<Vec<Text>>,
}

/// `[policy.limit]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawLimit {
    /// No more than so many.
    #[schemars(with = "Option<u32>")]
    pub(in crate::config) max_count: Option<Spanned<u32>>,
    /// None older.
    #[schemars(with = "Option<Period>")]
    pub(in crate::config) max_age: Option<Text>,
    /// No more than this, newest first, of what each alone takes: bytes that its removal would free now.
    #[schemars(with = "Option<Bytes>")]
    pub(in crate::config) max_bytes: Option<Text>,
    /// But never fewer than so many of the newest.
    #[schemars(with = "Option<u32>", extend("default" = 1))]
    pub(in crate::config) min: Option<Spanned<u32>>,
}

/// `[policy.gone]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawGone {
    /// How long after the instance was seen gone its snapshots go.
    #[schemars(required, with = "Period")]
    pub(in crate::config) after: Option<Text>,
    /// How many of the newest stay.
    #[schemars(extend("default" = 1))]
    pub(in crate::config) min: Option<u32>,
}
