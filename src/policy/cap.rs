//! How much of a plan is carried out at once: a bound against a slip in the configuration, which leaves time to see it.

use super::{Plan, PlanEntry, Verdict};

/// `[prune] max_removals` and `max_fraction`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caps {
    /// Snapshots removed in one run at most.
    pub max_removals: Option<u32>,
    /// The same, in hundredths of a percent of all snapshots that the plan is about; one at least.
    pub max_fraction: Option<u64>,
}

/// What bites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capped {
    /// `max_removals` or `max_fraction`.
    pub by: &'static str,
    /// Removals that the plan wants.
    pub wanted: usize,
    /// Removals that are allowed.
    pub allowed: usize,
}

impl Caps {
    /// The removals of a plan that may be carried out now, the oldest first; and what cut them short, if something did.
    /// `gone` snapshots went in the same run, by earlier plans.
    #[must_use]
    pub fn apply<'p>(&self, plan: &'p Plan, gone: usize) -> (Vec<&'p PlanEntry>, Option<Capped>) {
        let mut removals: Vec<&PlanEntry> = plan.entries.iter().filter(|entry| entry.verdict == Verdict::Remove).collect();
        let wanted = removals.len();
        let all = (plan.entries.len() + gone) as u128;
        let fraction = |parts: u64| usize::try_from(all * u128::from(parts) / 10_000).unwrap_or(usize::MAX).max(1);
        let caps = [("max_removals", self.max_removals.map(|n| n as usize)), ("max_fraction", self.max_fraction.map(fraction))];
        let tightest =
            caps.into_iter().filter_map(|(by, allowed)| Some((by, allowed?.saturating_sub(gone)))).min_by_key(|(_, allowed)| *allowed);
        let Some((by, allowed)) = tightest.filter(|(_, allowed)| *allowed < wanted) else { return (removals, None) };
        removals.sort_by(|a, b| (a.created_at, &a.snapshot_id).cmp(&(b.created_at, &b.snapshot_id)));
        removals.truncate(allowed);
        (removals, Some(Capped { by, wanted, allowed }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{InstanceId, SnapshotId};
    use chrono::{DateTime, TimeDelta};
    use proptest::prelude::*;

    fn plan(verdicts: &[(i64, Verdict)]) -> Plan {
        let entry = |(n, (age, verdict)): (usize, &(i64, Verdict))| {
            let letter = |at: usize| char::from(b'a' + u8::try_from(n >> (4 * at) & 15).unwrap());
            PlanEntry {
                snapshot_id: SnapshotId::parse(&format!("20261124-090347-aaaaaa{}{}", letter(1), letter(0))).unwrap(),
                instance: InstanceId::parse("web").unwrap(),
                policy: None,
                created_at: DateTime::UNIX_EPOCH - TimeDelta::seconds(*age),
                holds: Vec::new(),
                verdict: *verdict,
                reasons: Vec::new().into(),
                forks: Vec::new(),
                reclaimable_bytes: 0,
                next_change_at: None,
            }
        };
        Plan { entries: verdicts.iter().enumerate().map(entry).collect(), ..Plan::default() }
    }

    #[test]
    fn what_went_in_the_same_run_counts() {
        let plan = plan(&[(1, Verdict::Remove); 5]);
        let caps = Caps { max_removals: Some(3), max_fraction: None };
        assert_eq!([0, 2, 3, 9].map(|gone| caps.apply(&plan, gone).0.len()), [3, 1, 0, 0]);
        let half = Caps { max_removals: None, max_fraction: Some(5000) };
        assert_eq!([0, 1, 3, 5].map(|gone| half.apply(&plan, gone).0.len()), [2, 2, 1, 0], "of those that were there");
    }

    proptest! {
        #[test]
        fn no_more_go_than_either_cap_allows_and_the_oldest_go_first(
            verdicts in prop::collection::vec((0..50i64, prop::sample::select(vec![Verdict::Keep, Verdict::Remove, Verdict::Blocked])), 0..60),
            max_removals in prop::option::of(1..30u32), max_fraction in prop::option::of(1..10_000u64),
        ) {
            let plan = plan(&verdicts);
            let (go, capped) = Caps { max_removals, max_fraction }.apply(&plan, 0);
            let wanted: Vec<_> = plan.entries.iter().filter(|e| e.verdict == Verdict::Remove).collect();
            prop_assert!(go.iter().all(|entry| entry.verdict == Verdict::Remove));
            prop_assert!(max_removals.is_none_or(|max| go.len() <= max as usize));
            prop_assert!(max_fraction.is_none_or(|parts| go.len() <= 1.max(plan.entries.len() * usize::try_from(parts).unwrap() / 10_000)));
            prop_assert_eq!(capped.is_some(), go.len() < wanted.len());
            prop_assert_eq!(go.is_empty(), wanted.is_empty(), "some go at each run, so that it comes to an end");
            let left = wanted.iter().filter(|entry| !go.iter().any(|gone| gone.snapshot_id == entry.snapshot_id));
            let newest_gone = go.iter().map(|entry| entry.created_at).max();
            prop_assert!(left.clone().all(|entry| newest_gone.is_some_and(|newest| entry.created_at >= newest)));
        }
    }
}
