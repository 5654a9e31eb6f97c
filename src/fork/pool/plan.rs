//! What the pool should hold, from facts and configuration: which forks to make next, and which to drop. Pure: nothing here
//! looks at a disk or a clock.

use crate::config::Prefork;
use crate::ids::{InstanceId, PolicyName, SnapshotId};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A snapshot that can be forked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Which.
    pub id: SnapshotId,
    /// Of what.
    pub instance: InstanceId,
    /// Who took it.
    pub policy: Option<PolicyName>,
    /// Its tags.
    pub tags: Arc<BTreeMap<String, String>>,
    /// Where it stands among its instance's snapshots.
    pub order: (DateTime<Utc>, u64),
}

/// What is wanted and there for one snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shelf {
    /// Forks that rules ask for.
    pub wanted: usize,
    /// Forks that lie ready.
    pub ready: usize,
    /// Bytes that one of them takes by itself.
    pub cost: u64,
    /// Newer snapshots come first.
    pub order: (DateTime<Utc>, u64),
}

/// What follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// So many go, of these snapshots.
    pub drop: BTreeMap<SnapshotId, usize>,
    /// These come, in this order, one at a time.
    pub make: Vec<SnapshotId>,
}

/// How many forks the rules ask for: the largest number of any rule that means the snapshot.
#[must_use]
pub fn wanted(rules: &[Prefork], snapshots: &[Fact]) -> BTreeMap<SnapshotId, usize> {
    let mut wanted = BTreeMap::new();
    for rule in rules {
        let mut of_instance: BTreeMap<&InstanceId, Vec<&Fact>> = BTreeMap::new();
        for fact in snapshots.iter().filter(|fact| rule.selects(&fact.instance, fact.policy.as_ref(), &fact.tags)) {
            of_instance.entry(&fact.instance).or_default().push(fact);
        }
        for mut facts in of_instance.into_values() {
            facts.sort_by_key(|fact| std::cmp::Reverse(fact.order));
            for fact in facts.into_iter().take(rule.newest as usize) {
                let most = wanted.entry(fact.id.clone()).or_insert(0);
                *most = rule.ready.max(u32::try_from(*most).unwrap_or(u32::MAX)) as usize;
            }
        }
    }
    wanted
}

/// What to drop and what to make, so that no more than `most` bytes are taken. Every snapshot gets its first fork before
/// any gets its second, newer snapshots before older ones; what does not fit leaves its place to what does.
#[must_use]
pub fn plan(shelves: &BTreeMap<SnapshotId, Shelf>, most: u64) -> Plan {
    let mut order: Vec<(&SnapshotId, &Shelf)> = shelves.iter().collect();
    order.sort_by_key(|(id, shelf)| (std::cmp::Reverse(shelf.order), *id));
    let mut target: BTreeMap<&SnapshotId, usize> = BTreeMap::new();
    let mut plan = Plan::default();
    let mut left = most;
    let highest = order.iter().map(|(_, shelf)| shelf.wanted).max().unwrap_or(0);
    for level in 1..=highest {
        let mut is_full = true;
        for (id, shelf) in &order {
            // One that did not fit on the level before has its number.
            if shelf.wanted < level || target.get(id).copied().unwrap_or(0) + 1 < level {
                continue;
            }
            if let Some(rest) = left.checked_sub(shelf.cost) {
                left = rest;
                is_full = false;
                target.insert(id, level);
                if level > shelf.ready {
                    plan.make.push((*id).clone());
                }
            }
        }
        if is_full {
            break;
        }
    }
    for (id, shelf) in order {
        let excess = shelf.ready.saturating_sub(target.get(id).copied().unwrap_or(0));
        if excess > 0 {
            plan.drop.insert(id.clone(), excess);
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeZone as _;
    use proptest::prelude::*;

    fn id(n: usize) -> SnapshotId {
        let letter = |n: usize| char::from(b'a' + u8::try_from(n % 26).unwrap());
        SnapshotId::parse(&format!("20261124-090347-aaaaaa{}{}", letter(n / 26), letter(n))).unwrap()
    }

    fn at(n: u64) -> (DateTime<Utc>, u64) {
        (Utc.timestamp_opt(1_700_000_000, 0).unwrap(), n)
    }

    fn shelves() -> impl Strategy<Value = BTreeMap<SnapshotId, Shelf>> {
        let shelf = (0..6_usize, 0..6_usize, 0..50_u64, 0..8_u64);
        prop::collection::vec(shelf, 0..8).prop_map(|all| {
            let shelf = |(n, (wanted, ready, cost, order))| (id(n), Shelf { wanted, ready, cost, order: at(order) });
            all.into_iter().enumerate().map(shelf).collect()
        })
    }

    /// What the shelves hold once the plan is carried out.
    fn after(shelves: &BTreeMap<SnapshotId, Shelf>, plan: &Plan) -> BTreeMap<SnapshotId, Shelf> {
        let mut shelves = shelves.clone();
        for (id, count) in &plan.drop {
            shelves.get_mut(id).unwrap().ready -= count;
        }
        for id in &plan.make {
            shelves.get_mut(id).unwrap().ready += 1;
        }
        shelves
    }

    proptest! {
        #[test]
        fn the_bound_is_kept_and_nothing_is_made_that_nobody_wants(shelves in shelves(), most in 0..400_u64) {
            let after = after(&shelves, &plan(&shelves, most));
            prop_assert!(after.values().map(|s| s.cost * s.ready as u64).sum::<u64>() <= most);
            prop_assert!(after.values().all(|s| s.ready <= s.wanted));
        }

        #[test]
        fn a_plan_that_was_carried_out_leaves_nothing_to_do(shelves in shelves(), most in 0..400_u64) {
            let after = after(&shelves, &plan(&shelves, most));
            prop_assert_eq!(plan(&after, most), Plan::default());
        }

        #[test]
        fn nothing_is_dropped_to_be_made_again(shelves in shelves(), most in 0..400_u64) {
            let plan = plan(&shelves, most);
            prop_assert!(plan.make.iter().all(|id| !plan.drop.contains_key(id)));
        }

        #[test]
        fn without_a_bound_everything_that_is_wanted_is_there(shelves in shelves()) {
            let after = after(&shelves, &plan(&shelves, u64::MAX));
            prop_assert!(after.values().all(|s| s.ready == s.wanted));
        }

        #[test]
        fn who_is_left_out_would_not_have_fitted(shelves in shelves(), most in 0..400_u64) {
            let after = after(&shelves, &plan(&shelves, most));
            let left = most - after.values().map(|s| s.cost * s.ready as u64).sum::<u64>();
            prop_assert!(after.values().all(|s| s.ready == s.wanted || s.cost > left));
        }
    }

    #[test]
    fn every_snapshot_has_its_first_fork_before_any_has_its_second_and_the_newest_comes_first() {
        let shelf = |order| Shelf { wanted: 2, ready: 0, cost: 10, order: at(order) };
        let shelves: BTreeMap<_, _> = [(id(0), shelf(1)), (id(1), shelf(3)), (id(2), shelf(2))].into();
        assert_eq!(plan(&shelves, 40).make, [id(1), id(2), id(0), id(1)]);
    }

    fn rule(newest: u32, ready: u32, policy: Option<&str>) -> Prefork {
        Prefork {
            policy: policy.map(|p| PolicyName::parse(p).unwrap()),
            instances: None,
            exclude: globset::GlobSet::empty(),
            tags: BTreeMap::new(),
            newest,
            ready,
        }
    }

    #[test]
    fn rules_mean_the_newest_of_each_instance_and_the_largest_number_counts() {
        let fact = |n: usize, instance: &str, policy: Option<&str>| Fact {
            id: id(n),
            instance: InstanceId::parse(instance).unwrap(),
            policy: policy.map(|p| PolicyName::parse(p).unwrap()),
            tags: Arc::default(),
            order: at(n as u64),
        };
        let facts = [fact(0, "a", Some("p")), fact(1, "a", Some("p")), fact(2, "a", None), fact(3, "b", Some("p"))];
        let of_policy = wanted(&[rule(1, 4, Some("p"))], &facts);
        assert_eq!(of_policy, [(id(1), 4), (id(3), 4)].into());
        let both = wanted(&[rule(1, 4, Some("p")), rule(2, 6, None)], &facts);
        assert_eq!(both, [(id(1), 6), (id(2), 6), (id(3), 6)].into());
    }
}
