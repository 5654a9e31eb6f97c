//! The plan: a value that says of every snapshot what becomes of it, and why. Reasons are data; their words are made when
//! somebody wants to read them.

use super::Granularity;
use super::bucket::Bucket;
use crate::ids::{HoldName, InstanceId, PolicyName, SnapshotId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// What retention would do with every snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Digest of all that would go, and of what would but must stay: two plans with the same hash do the same.
    pub hash: String,
    /// The time it was made for.
    pub at: DateTime<Utc>,
    /// One entry per snapshot, by instance and policy, newest first.
    pub entries: Vec<PlanEntry>,
}

/// What becomes of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanEntry {
    /// Which.
    pub snapshot_id: SnapshotId,
    /// Of what.
    pub instance: InstanceId,
    /// Whose; null if taken by hand.
    pub policy: Option<PolicyName>,
    /// When it was taken.
    pub created_at: DateTime<Utc>,
    /// Pins by hand.
    pub holds: Vec<HoldName>,
    /// The verdict.
    pub verdict: Verdict,
    /// All reasons for it.
    pub reasons: Reasons,
    /// Live and queued forks, by name.
    pub forks: Vec<String>,
    /// What its removal would free, bytes.
    pub reclaimable_bytes: u64,
    /// When the verdict changes by time alone, if it does.
    pub next_change_at: Option<DateTime<Utc>>,
}

impl PlanEntry {
    /// The rules that speak on this side.
    pub fn rules(&self, side: Side) -> impl Iterator<Item = Rule> {
        self.reasons.iter().filter(move |reason| reason.side == side).map(|reason| reason.rule)
    }
}

/// Keep, remove, or would go but must stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each is what its name says")]
pub enum Verdict {
    Keep,
    Remove,
    Blocked,
}

/// What a reason speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// It keeps the snapshot.
    Keep,
    /// It wants it to go.
    Remove,
    /// A keep rule that has nothing to say for it.
    Pass,
    /// It would go, but for this.
    Block,
}

/// Everything that has a say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named as the config or `prune.blocked` names it")]
pub enum Rule {
    Keep,
    Last,
    Within,
    Bucket(Granularity),
    WithinBucket(Granularity),
    Tags,
    MaxCount,
    MaxAge,
    MaxBytes,
    Min,
    Newest,
    GoneAfter,
    GoneMin,
    Space,
    Future,
    Quarantined,
    Manual,
    Orphan,
    Expiring,
    LiveForks,
    Queued,
    Held,
    Pinned,
    Unreadable,
    Clock,
    Unmounted,
}

impl Rule {
    /// Its name, as the config or `prune.blocked` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Last => "last",
            Self::Within => "within",
            Self::Bucket(unit) => unit.name(),
            Self::WithinBucket(unit) => unit.within_name(),
            Self::Tags => "tags",
            Self::MaxCount => "limit.max_count",
            Self::MaxAge => "limit.max_age",
            Self::MaxBytes => "limit.max_bytes",
            Self::Min => "limit.min",
            Self::Newest => "newest",
            Self::GoneAfter => "gone.after",
            Self::GoneMin => "gone.min",
            Self::Space => "space",
            Self::Future => "future",
            Self::Quarantined => "quarantined",
            Self::Manual => "manual",
            Self::Orphan => "orphan",
            Self::Expiring => "expiring",
            Self::LiveForks => "live_forks",
            Self::Queued => "queued",
            Self::Held => "held",
            Self::Pinned => "pinned",
            Self::Unreadable => "unreadable",
            Self::Clock => "clock",
            Self::Unmounted => "unmounted",
        }
    }
}

impl Granularity {
    /// All, finest first.
    pub const ALL: [Self; 7] = [Self::Minutely, Self::Hourly, Self::Daily, Self::Weekly, Self::Monthly, Self::Quarterly, Self::Yearly];

    /// Its rule's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Minutely => "minutely",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Quarterly => "quarterly",
            Self::Yearly => "yearly",
        }
    }

    /// The name of its rule by age.
    #[must_use]
    pub fn within_name(self) -> &'static str {
        match self {
            Self::Minutely => "within_minutely",
            Self::Hourly => "within_hourly",
            Self::Daily => "within_daily",
            Self::Weekly => "within_weekly",
            Self::Monthly => "within_monthly",
            Self::Quarterly => "within_quarterly",
            Self::Yearly => "within_yearly",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One reason for a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// What it speaks for.
    pub side: Side,
    /// The rule.
    pub rule: Rule,
    /// The bucket it fell in.
    pub bucket: Option<Bucket>,
    /// Which of how many.
    pub count: Option<(u32, u32)>,
    /// Names and numbers that belong to it.
    pub detail: Option<Box<str>>,
}

/// The reasons for a verdict. Those of neighbours are mostly the same, which they share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reasons(Arc<Vec<Reason>>);

impl From<Vec<Reason>> for Reasons {
    fn from(reasons: Vec<Reason>) -> Self {
        Self(Arc::new(reasons))
    }
}

impl Deref for Reasons {
    type Target = Vec<Reason>;

    fn deref(&self) -> &Vec<Reason> {
        &self.0
    }
}

/// What is changed is shared no longer.
impl DerefMut for Reasons {
    fn deref_mut(&mut self) -> &mut Vec<Reason> {
        Arc::make_mut(&mut self.0)
    }
}

impl Reason {
    pub(super) fn new(side: Side, rule: Rule) -> Self {
        Self { side, rule, bucket: None, count: None, detail: None }
    }

    pub(super) fn counted(self, nth: u32, of: u32) -> Self {
        Self { count: Some((nth, of)), ..self }
    }

    pub(super) fn with(self, detail: impl Into<Box<str>>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    /// `3 of 7`.
    #[must_use]
    pub fn count_text(&self) -> Option<String> {
        self.count.map(|(nth, of)| format!("{nth} of {of}"))
    }

    /// It, in words.
    #[must_use]
    pub fn text(&self) -> String {
        if self.side == Side::Pass {
            return self.passed();
        }
        let detail = self.detail.as_deref().unwrap_or_default();
        match (self.rule, &self.bucket) {
            (Rule::Keep, _) if self.side == Side::Keep => "no keep rules: all that the limits allow".to_owned(),
            (Rule::Keep, _) => "no keep rule claims it".to_owned(),
            (Rule::Last, _) => "one of the newest".to_owned(),
            (Rule::Within, _) => "young enough".to_owned(),
            (Rule::Bucket(_) | Rule::WithinBucket(_), Some(bucket)) => format!("the newest of {bucket}"),
            (Rule::Bucket(_) | Rule::WithinBucket(_), None) => "the oldest: the rule has counts left".to_owned(),
            (Rule::Tags, _) if detail.is_empty() => "the instance's tags could not be read when it was taken".to_owned(),
            (Rule::Tags, _) => format!("it has the tag {detail}"),
            (Rule::MaxCount, _) => "more than are allowed".to_owned(),
            (Rule::MaxAge, _) => "older than is allowed".to_owned(),
            (Rule::MaxBytes, _) => format!("with the newer ones it takes {detail}"),
            (Rule::Min, _) => "the least that is kept".to_owned(),
            (Rule::Newest, _) => "the newest is never removed by age".to_owned(),
            (Rule::GoneAfter, _) => "its instance has been gone for long enough".to_owned(),
            (Rule::GoneMin, _) => "one of the newest that stay after the instance is gone".to_owned(),
            (Rule::Space, _) => format!("the file system is too full: {detail}"),
            (Rule::Future, _) => "dated in the future; it counts as none until then".to_owned(),
            (Rule::Quarantined, _) => "it failed a check; look at it, then remove it by hand".to_owned(),
            (Rule::Manual, _) => "taken by hand".to_owned(),
            (Rule::Orphan, _) => "its policy is not in the config".to_owned(),
            (Rule::Expiring, _) => "marked to go with its last fork".to_owned(),
            (Rule::LiveForks, _) => format!("needed by {detail}"),
            (Rule::Queued, _) => format!("{detail} will be made of it"),
            (Rule::Held, _) => format!("held by {detail}"),
            (Rule::Pinned, _) => "somebody reads it at this moment".to_owned(),
            (Rule::Unreadable, _) => detail.to_owned(),
            (Rule::Clock, _) => "the clock cannot be believed, so its age is not known".to_owned(),
            (Rule::Unmounted, _) => "the instances root is away, so its forks are not known".to_owned(),
        }
    }

    /// Why a keep rule does not claim a snapshot.
    fn passed(&self) -> String {
        match (self.rule, &self.bucket, self.count) {
            (Rule::Within, ..) => "too old".to_owned(),
            (Rule::Tags, ..) => "it has none of the tags".to_owned(),
            (_, Some(bucket), _) => format!("{bucket} has a newer one"),
            (_, None, Some((_, of))) => format!("all {of} are newer"),
            (Rule::WithinBucket(_), None, None) => "too old".to_owned(),
            (_, None, None) => "nothing to claim".to_owned(),
        }
    }
}
