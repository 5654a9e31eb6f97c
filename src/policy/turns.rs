//! Whose turn it is when more is due than may run at once. Pure; who waits and who runs is told.
//!
//! Oldest due slot first, then whoever was served longest ago. The slot that counts is the first one that a pair has not
//! been served for: one that is due again while it waits keeps its place. So each pair that stands before another is
//! served at most once before that one's turn comes, and nobody starves, however short the slots of the others are. A pair
//! whose policy runs all that it may is passed over and holds up nobody.

use crate::ids::PolicyName;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

/// A pair that is due and does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting<'w> {
    /// Its policy.
    pub policy: &'w PolicyName,
    /// The first slot that it has not been served for.
    pub due_since: DateTime<Utc>,
    /// The last slot that it has been served for.
    pub served: Option<DateTime<Utc>>,
}

/// How many may run at once.
#[derive(Debug, Clone, Default)]
pub struct Bounds {
    /// In all.
    pub host: usize,
    /// Of each policy; one that is not there is bounded by `host` alone.
    pub of_policy: BTreeMap<PolicyName, usize>,
}

impl Waiting<'_> {
    /// Where it stands: the smaller first; who is equal, in any order that stays.
    #[must_use]
    pub fn place(&self) -> (DateTime<Utc>, Option<DateTime<Utc>>) {
        (self.due_since, self.served)
    }
}

/// The places (in the line of who waits, in their order) of those that begin now. `running` is how many of each policy run already.
#[must_use]
pub fn turns<'w>(line: impl IntoIterator<Item = Waiting<'w>>, running: &BTreeMap<PolicyName, usize>, bounds: &Bounds) -> Vec<usize> {
    let mut free = bounds.host.saturating_sub(running.values().sum());
    let mut room: BTreeMap<&PolicyName, usize> =
        bounds.of_policy.iter().map(|(policy, most)| (policy, most.saturating_sub(running.get(policy).copied().unwrap_or(0)))).collect();
    let mut begin = Vec::new();
    for (place, pair) in line.into_iter().enumerate() {
        if free == 0 {
            break;
        }
        match room.get_mut(pair.policy) {
            Some(0) => continue,
            Some(room) => *room -= 1,
            None => {}
        }
        free -= 1;
        begin.push(place);
    }
    begin
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;
    use proptest::prelude::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    fn policy(n: usize) -> PolicyName {
        PolicyName::parse(&format!("p{n}")).unwrap()
    }

    /// A policy, since when it is due, when it was served.
    type Pair = (PolicyName, i64, Option<i64>);

    fn pair(n: usize, due_since: i64, served: Option<i64>) -> Pair {
        (policy(n), due_since, served)
    }

    /// In a line, and whose turn it is.
    fn turns(pairs: &[Pair], running: &BTreeMap<PolicyName, usize>, bounds: &Bounds) -> Vec<usize> {
        let waiting: Vec<Waiting<'_>> =
            pairs.iter().map(|(policy, due_since, served)| Waiting { policy, due_since: at(*due_since), served: served.map(at) }).collect();
        let mut line: Vec<usize> = (0..waiting.len()).collect();
        line.sort_by_key(|n| waiting[*n].place());
        super::turns(line.iter().map(|n| waiting[*n]), running, bounds).into_iter().map(|place| line[place]).collect()
    }

    #[test]
    fn the_oldest_slot_goes_first_then_who_was_served_longest_ago() {
        let waiting = [pair(0, 30, None), pair(0, 20, Some(10)), pair(0, 20, Some(5)), pair(0, 20, None)];
        let bounds = |host| Bounds { host, ..Bounds::default() };
        assert_eq!(turns(&waiting, &BTreeMap::new(), &bounds(9)), [3, 2, 1, 0]);
        assert_eq!(turns(&waiting, &BTreeMap::from([(policy(7), 1)]), &bounds(3)), [3, 2]);
        assert_eq!(turns(&waiting, &BTreeMap::from([(policy(7), 3)]), &bounds(2)), [0; 0], "also when the bound was lowered");
    }

    #[test]
    fn a_policy_that_runs_all_it_may_holds_up_no_other() {
        let waiting = [pair(0, 1, None), pair(0, 2, None), pair(1, 3, None)];
        let bounds = Bounds { host: 2, of_policy: BTreeMap::from([(policy(0), 1)]) };
        assert_eq!(turns(&waiting, &BTreeMap::new(), &bounds), [0, 2]);
        assert_eq!(turns(&waiting, &BTreeMap::from([(policy(0), 1)]), &bounds), [2]);
    }

    /// A pair with slots of its own, in a host that is too small for all.
    #[derive(Debug, Clone)]
    struct Life {
        policy: usize,
        every: i64,
        phase: i64,
        takes: i64,
        served: Option<i64>,
        busy_until: Option<i64>,
    }

    impl Life {
        fn last_slot(&self, now: i64) -> i64 {
            (now - self.phase).div_euclid(self.every) * self.every + self.phase
        }
        fn due_since(&self, now: i64) -> Option<i64> {
            let handled = self.served.unwrap_or(-1);
            let first = self.last_slot(handled) + self.every;
            (self.busy_until.is_none() && first <= now).then_some(first)
        }
    }

    fn a_life() -> impl Strategy<Value = Life> {
        (0..3usize, 1..60i64, 0..60i64, 1..40i64).prop_map(|(policy, every, phase, takes)| Life {
            policy,
            every,
            phase: phase % every,
            takes,
            served: None,
            busy_until: None,
        })
    }

    proptest! {
        #[test]
        fn no_bound_is_exceeded_and_nobody_is_passed_twice_by_another(
            mut lives in prop::collection::vec(a_life(), 1..14), host in 1..5usize, limits in prop::collection::vec(prop::option::of(1..3usize), 3),
        ) {
            let of_policy: BTreeMap<_, _> = limits.iter().enumerate().filter_map(|(n, limit)| Some((policy(n), (*limit)?))).collect();
            let bounds = Bounds { host, of_policy };
            // Who has begun since each began to wait.
            let mut passed: Vec<BTreeMap<usize, u32>> = vec![BTreeMap::new(); lives.len()];
            for now in 0..900i64 {
                for life in &mut lives {
                    life.busy_until = life.busy_until.filter(|until| *until > now);
                }
                let mut running = BTreeMap::new();
                lives.iter().filter(|l| l.busy_until.is_some()).for_each(|l| *running.entry(policy(l.policy)).or_insert(0) += 1);
                let who: Vec<usize> = (0..lives.len()).filter(|n| lives[*n].due_since(now).is_some()).collect();
                let waiting: Vec<Pair> = who.iter().map(|n| pair(lives[*n].policy, lives[*n].due_since(now).unwrap(), lives[*n].served)).collect();
                for place in turns(&waiting, &running, &bounds) {
                    let n = who[place];
                    for other in who.iter().filter(|m| **m != n && lives[**m].busy_until.is_none()) {
                        // A pair of the same policy, or of any when the host is full, may go before it once.
                        let times = passed[*other].entry(n).or_insert(0);
                        *times += 1;
                        let is_own = lives[n].policy == lives[*other].policy;
                        prop_assert!(!is_own || *times <= 1, "{n} went before {other} twice");
                    }
                    passed[n].clear();
                    lives[n].served = Some(lives[n].last_slot(now));
                    lives[n].busy_until = Some(now + lives[n].takes);
                    *running.entry(policy(lives[n].policy)).or_insert(0) += 1;
                }
                prop_assert!(running.values().sum::<usize>() <= host);
                for (policy, most) in &bounds.of_policy {
                    prop_assert!(running.get(policy).copied().unwrap_or(0) <= *most);
                }
                // Work is kept going: what waits does so for a bound.
                let is_full = running.values().sum::<usize>() == host;
                for life in lives.iter().filter(|l| l.due_since(now).is_some()) {
                    let own = policy(life.policy);
                    prop_assert!(is_full || bounds.of_policy.get(&own).is_some_and(|most| running.get(&own) == Some(most)));
                }
            }
            // Nobody has waited longer than all others take, each once, on one place.
            let longest: i64 = lives.iter().map(|l| l.takes).sum::<i64>() * 2;
            for life in &lives {
                let since = life.due_since(899).unwrap_or(899);
                prop_assert!(899 - since <= longest, "{life:?} waits since {since}");
            }
        }
    }
}
