//! Which snapshots are to be compressed now: those of policies that say so, once they are cold. Pure.

use crate::ids::SnapshotId;
use chrono::{DateTime, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a file is compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Zstandard, in the seekable format.
    #[default]
    Zstd,
    /// LZ4 frames: much faster, and larger.
    Lz4,
}

impl Method {
    /// Its name, which is also what a file's name ends with, as far as `zstd` and `lz4` are concerned.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
        }
    }
}

/// `[policy.compress]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compress {
    /// How long a snapshot must have been left alone.
    pub after: TimeDelta,
    /// How.
    pub method: Method,
    /// How hard to try; means nothing to LZ4.
    pub level: i32,
    /// How much smaller it must become, hundredths of a percent of what dropping the raw file frees.
    pub min_gain: u64,
    /// Whether also while forks share the raw file: that frees nothing before they are gone.
    pub while_forked: bool,
}

impl Compress {
    /// The most bytes that what frees `bytes` may take to be worth it.
    #[must_use]
    pub fn at_most(&self, bytes: u64) -> u64 {
        let parts = 10_000_u64.saturating_sub(self.min_gain);
        u64::try_from(u128::from(bytes) * u128::from(parts) / 10_000).unwrap_or(bytes)
    }
}

/// What became of the last attempt, as far as the next one is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// There was none.
    None,
    /// It is compressed.
    Done,
    /// It did not gain enough, by this method and level.
    NoGain(Method, i32),
    /// So many failed, the last one at this time.
    Failed(u32, DateTime<Utc>),
}

/// A snapshot with memory files whose policy wants it compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub id: SnapshotId,
    /// What its policy says.
    pub rule: Compress,
    /// When it was taken, or last used.
    pub used_at: DateTime<Utc>,
    /// Whether forks or requests need it, somebody reads it, or it is marked as one to leave alone.
    pub is_busy: bool,
    /// What became of the last attempt.
    pub attempt: Attempt,
}

/// The wait after the first failure; doubled after each further one.
const BACKOFF: TimeDelta = TimeDelta::minutes(10);
/// The longest wait.
const MOST_BACKOFF: TimeDelta = TimeDelta::hours(24);

impl Candidate {
    /// When its turn comes, if nothing changes; `None`: never.
    #[must_use]
    pub fn due_at(&self) -> Option<DateTime<Utc>> {
        let cold_at = self.used_at.checked_add_signed(self.rule.after)?;
        match &self.attempt {
            _ if self.is_busy => None,
            Attempt::Done => None,
            Attempt::NoGain(method, level) if (*method, *level) == (self.rule.method, self.rule.level) => None,
            Attempt::None | Attempt::NoGain(..) => Some(cold_at),
            Attempt::Failed(times, at) => {
                let wait = MOST_BACKOFF.min(BACKOFF * (1 << times.saturating_sub(1).min(10)));
                Some(cold_at.max(at.checked_add_signed(wait)?))
            }
        }
    }
}

/// The one to compress now: the one that has been cold for longest.
#[must_use]
pub fn next(candidates: impl IntoIterator<Item = Candidate>, now: DateTime<Utc>) -> Option<Candidate> {
    let due = candidates.into_iter().filter_map(|c| Some((c.due_at()?, c))).filter(|(at, _)| *at <= now);
    due.min_by(|a, b| (a.0, &a.1.id).cmp(&(b.0, &b.1.id))).map(|(_, c)| c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(n: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::seconds(n)
    }

    fn rule(after: i64) -> Compress {
        Compress { after: TimeDelta::seconds(after), method: Method::Zstd, level: 3, min_gain: 1000, while_forked: false }
    }

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let attempt = prop_oneof![
            Just(Attempt::None),
            Just(Attempt::Done),
            Just(Attempt::NoGain(Method::Zstd, 3)),
            Just(Attempt::NoGain(Method::Lz4, 3)),
            (1..9_u32, 0..9000_i64).prop_map(|(n, t)| Attempt::Failed(n, at(t))),
        ];
        prop::collection::vec((0..9000_i64, 1..5000_i64, any::<bool>(), attempt), 0..20).prop_map(|all| {
            let one = |(n, (used, after, is_busy, attempt)): (usize, (i64, i64, bool, Attempt))| {
                let id = SnapshotId::parse(&format!(
                    "20261124-090347-aaaaaa{}{}",
                    char::from(b'a' + (n / 26) as u8),
                    char::from(b'a' + (n % 26) as u8)
                ));
                Candidate { id: id.unwrap(), rule: rule(after), used_at: at(used), is_busy, attempt }
            };
            all.into_iter().enumerate().map(one).collect()
        })
    }

    proptest! {
        #[test]
        fn only_what_is_cold_idle_and_may_gain_is_next_and_each_once(all in candidates(), now in 0..200_000_i64) {
            let now = at(now);
            let mut left = all.clone();
            let mut last = None;
            while let Some(c) = next(left.clone(), now) {
                prop_assert!(!c.is_busy && c.attempt != Attempt::Done && c.attempt != Attempt::NoGain(Method::Zstd, 3));
                prop_assert!(now - c.used_at >= c.rule.after);
                if let Attempt::Failed(_, at) = c.attempt {
                    prop_assert!(now - at >= BACKOFF);
                }
                prop_assert!(last <= c.due_at(), "the one that waits longest first");
                last = c.due_at();
                left.iter_mut().find(|l| l.id == c.id).unwrap().attempt = Attempt::Done;
            }
            // What is left has a reason to be.
            for c in left {
                let is_cold = c.due_at().is_some_and(|at| at <= now);
                prop_assert!(!is_cold, "{c:?}");
            }
        }
    }

    #[test]
    fn a_clock_that_stands_before_the_snapshot_makes_nothing_cold_and_failures_wait_longer_each_time() {
        let id = SnapshotId::parse("20261124-090347-aaaaaaaa").unwrap();
        let c = |attempt| Candidate { id: id.clone(), rule: rule(60), used_at: at(0), is_busy: false, attempt };
        assert_eq!(next([c(Attempt::None)], at(-5000)), None);
        let waits = (1..12).map(|n| c(Attempt::Failed(n, at(0))).due_at().unwrap() - at(0)).collect::<Vec<_>>();
        assert!(waits.is_sorted() && waits[0] == TimeDelta::minutes(10) && waits[10] == TimeDelta::hours(24));
        assert_eq!(rule(1).at_most(1000), 900);
    }
}
