//! The rules of `retention.rs`, one by one and against a naive model.

use super::*;
use crate::ids::{HoldName, SnapshotId};
use crate::policy::{Gone, Granularity, KindRule, Limit, Retention, Retry, Select};
use chrono::TimeZone as _;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 24, 12, 0, 0).unwrap()
}

fn name(text: &str) -> PolicyName {
    PolicyName::parse(text).unwrap()
}

fn policy(keep: Option<Keep>, limit: Limit) -> Policy {
    let instances = globset::GlobSetBuilder::new().add(globset::Glob::new("*").unwrap()).build().unwrap();
    Policy {
        name: name("p"),
        select: Select { instances, include_forks: false },
        schedule: None,
        retention: Retention { keep, limit, gone: None },
        name_prefix: None,
        tags: BTreeMap::new(),
        retry: Retry { attempts: 1, backoff: TimeDelta::zero() },
        kind: KindRule::Auto,
    }
}

fn keep_last(last: u32) -> Option<Keep> {
    Some(Keep { last, ..Keep::default() })
}

/// A ready snapshot of policy `p`, so old; `n` makes its id and its place in the order.
fn aged(n: u64, age: TimeDelta) -> SnapshotFacts {
    let created_at = now() - age;
    let tail: String = format!("{n:08}").bytes().map(|b| char::from(b'a' + b - b'0')).collect();
    SnapshotFacts {
        id: SnapshotId::parse(&format!("20261124-090347-{tail}")).unwrap(),
        instance: InstanceId::parse("i").unwrap(),
        policy: Some(name("p")),
        created_at,
        order_at: created_at,
        seq: n,
        state: SnapshotState::Ready,
        forks: vec![],
        queued: vec![],
        holds: vec![],
        pinned: false,
        unreadable: None,
        reclaimable_bytes: 0,
    }
}

/// So many snapshots, an hour apart, the first an hour old and the newest.
fn hourly(count: u64) -> Vec<SnapshotFacts> {
    (1..=count).map(|n| aged(1000 - n, TimeDelta::hours(i64::try_from(n).unwrap()))).collect()
}

fn plan_with(facts: &[SnapshotFacts], policy: &Policy, gone: Option<DateTime<Utc>>, at: DateTime<Utc>) -> Plan {
    let gone_since: BTreeMap<_, _> = gone.map(|g| ((name("p"), InstanceId::parse("i").unwrap()), g)).into_iter().collect();
    let around = Circumstances { policies: std::slice::from_ref(policy), gone_since: &gone_since, clock_trusted: true, root_proven: true };
    plan(facts, &around, at)
}

/// Places in `facts` of those with a verdict.
fn of(verdict: Verdict, facts: &[SnapshotFacts], plan: &Plan) -> Vec<usize> {
    let is = |f: &SnapshotFacts| plan.entries.iter().any(|e| e.snapshot_id == f.id && e.verdict == verdict);
    facts.iter().enumerate().filter(|(_, f)| is(f)).map(|(at, _)| at).collect()
}

fn removed(facts: &[SnapshotFacts], policy: &Policy) -> Vec<usize> {
    of(Verdict::Remove, facts, &plan_with(facts, policy, None, now()))
}

fn rules(plan: &Plan, facts: &SnapshotFacts) -> Vec<String> {
    plan.entries.iter().find(|e| e.snapshot_id == facts.id).unwrap().reasons.iter().map(|r| r.rule.clone()).collect()
}

#[test]
fn the_newest_are_kept_and_manual_ones_and_those_of_unknown_policies_always() {
    let mut facts = hourly(6);
    facts[3].policy = None;
    facts[4].policy = Some(name("forgotten"));
    assert_eq!(removed(&facts, &policy(keep_last(2), Limit::default())), [2, 5]);
}

#[test]
fn counts_and_ages_compose_and_min_holds_against_both() {
    let facts = hourly(6);
    let limit = |max_count, hours: Option<i64>, min| Limit { max_count, max_age: hours.map(TimeDelta::hours), min };
    let with = |limit| removed(&facts, &policy(None, limit));
    assert_eq!(with(limit(Some(2), None, 0)), [2, 3, 4, 5]);
    assert_eq!(with(limit(None, Some(4), 0)), [3, 4, 5], "four hours old is not younger than four hours");
    assert_eq!(with(limit(Some(5), Some(3), 0)), [2, 3, 4, 5]);
    assert_eq!(with(limit(Some(1), Some(1), 3)), [3, 4, 5]);
    assert_eq!(removed(&facts, &policy(keep_last(5), limit(Some(2), None, 0))), [2, 3, 4, 5]);
}

#[test]
fn the_newest_is_not_removed_by_age() {
    let facts = [aged(2, TimeDelta::days(900)), aged(1, TimeDelta::days(901))];
    let old = Limit { max_age: Some(TimeDelta::days(1)), ..Limit::default() };
    assert_eq!(removed(&facts, &policy(None, old)), [1]);
    let within = Some(Keep { within: Some(TimeDelta::days(1)), ..Keep::default() });
    assert_eq!(removed(&facts, &policy(within, Limit::default())), [1]);
}

#[test]
fn each_bucket_keeps_its_newest_and_empty_ones_take_no_count() {
    let days = [0, 0, 1, 5, 5, 40, 80].map(|d| TimeDelta::days(d) + TimeDelta::minutes(d));
    let facts: Vec<_> =
        days.iter().zip(0u64..).map(|(age, n)| aged(100 - n, *age + TimeDelta::seconds(i64::try_from(n).unwrap()))).collect();
    let buckets = |buckets: &[(Granularity, u32)]| Some(Keep { buckets: buckets.to_vec(), ..Keep::default() });
    let kept = |keep| {
        let gone = removed(&facts, &policy(keep, Limit::default()));
        (0..facts.len()).filter(|n| !gone.contains(n)).collect::<Vec<_>>()
    };
    assert_eq!(kept(buckets(&[(Granularity::Daily, 3)])), [0, 2, 3]);
    assert_eq!(kept(buckets(&[(Granularity::Monthly, 9)])), [0, 5, 6]);
    assert_eq!(kept(buckets(&[(Granularity::Daily, 2), (Granularity::Monthly, 2)])), [0, 2, 5]);
    assert_eq!(kept(buckets(&[(Granularity::Yearly, 5)])), [0]);
}

#[test]
fn one_that_is_needed_is_blocked_with_its_reason_and_goes_when_it_is_not() {
    let p = policy(keep_last(1), Limit::default());
    type Need = fn(&mut SnapshotFacts);
    let needs: &[(&str, Need)] = &[
        ("live_forks", |f| f.forks = vec!["web-1".into()]),
        ("queued", |f| f.queued = vec!["web-2".into()]),
        ("held", |f| f.holds = vec![HoldName::parse("h").unwrap()]),
        ("pinned", |f| f.pinned = true),
        ("unreadable", |f| f.unreadable = Some("a bad ref".into())),
    ];
    for (rule, need) in needs {
        let mut facts = hourly(3);
        need(&mut facts[1]);
        let plan = plan_with(&facts, &p, None, now());
        assert_eq!((of(Verdict::Blocked, &facts, &plan), of(Verdict::Remove, &facts, &plan)), (vec![1], vec![2]), "{rule}");
        assert_eq!(rules(&plan, &facts[1]), ["keep", rule]);
        assert_eq!(removed(&hourly(3), &p), [1, 2]);
    }
}

#[test]
fn nothing_goes_with_the_root_away_and_nothing_by_age_with_a_clock_that_cannot_be_believed() {
    let facts = hourly(4);
    let p = policy(keep_last(3), Limit { max_age: Some(TimeDelta::minutes(90)), ..Limit::default() });
    let around = |clock_trusted, root_proven| {
        let (policies, gone_since) = (std::slice::from_ref(&p), BTreeMap::new());
        let plan = plan(&facts, &Circumstances { policies, gone_since: &gone_since, clock_trusted, root_proven }, now());
        (of(Verdict::Remove, &facts, &plan), of(Verdict::Blocked, &facts, &plan))
    };
    assert_eq!(around(true, true), (vec![1, 2, 3], vec![]));
    assert_eq!(around(true, false), (vec![], vec![1, 2, 3]));
    assert_eq!(around(false, true), (vec![3], vec![1, 2]), "the fourth goes by count");
}

#[test]
fn quarantined_and_future_ones_stay_and_count_for_nothing() {
    let mut facts = hourly(4);
    facts[0].state = SnapshotState::Quarantined;
    facts.push(aged(2000, TimeDelta::hours(-5)));
    let p = policy(keep_last(1), Limit { min: 1, ..Limit::default() });
    assert_eq!(removed(&facts, &p), [2, 3], "the newest that can be forked is the second");
    let plan = plan_with(&facts, &p, None, now());
    assert_eq!((rules(&plan, &facts[0]), rules(&plan, &facts[4])), (vec!["quarantined".to_owned()], vec!["future".to_owned()]));
}

#[test]
fn a_clock_that_went_back_makes_nothing_older() {
    let facts = hourly(3);
    let p = policy(None, Limit { max_age: Some(TimeDelta::minutes(30)), ..Limit::default() });
    let plan = plan_with(&facts, &p, None, now() - TimeDelta::days(300));
    assert_eq!(of(Verdict::Keep, &facts, &plan), [0, 1, 2]);
}

#[test]
fn when_the_instance_is_gone_for_long_enough_all_but_min_go() {
    let mut facts = hourly(3);
    facts[1].forks = vec!["f".into()];
    let mut p = policy(None, Limit { min: 5, ..Limit::default() });
    p.retention.gone = Some(Gone { after: TimeDelta::days(1), min: 1 });
    let since = now() - TimeDelta::hours(23);
    let early = plan_with(&facts, &p, Some(since), now());
    assert_eq!(of(Verdict::Keep, &facts, &early), [0, 1, 2]);
    assert_eq!(early.entries[2].next_change_at, Some(since + TimeDelta::days(1)));
    let late = plan_with(&facts, &p, Some(since), now() + TimeDelta::hours(1));
    assert_eq!((of(Verdict::Keep, &facts, &late), of(Verdict::Blocked, &facts, &late)), (vec![0], vec![1]));
    assert_eq!(of(Verdict::Remove, &facts, &late), [2]);
}

#[test]
fn one_that_is_marked_goes_with_its_last_fork_also_if_taken_by_hand() {
    let mut facts = hourly(2);
    facts[0].policy = None;
    facts.iter_mut().for_each(|f| f.state = SnapshotState::Expiring);
    facts[0].forks = vec!["f".into()];
    let plan = plan_with(&facts, &policy(None, Limit::default()), None, now());
    assert_eq!((of(Verdict::Blocked, &facts, &plan), of(Verdict::Remove, &facts, &plan)), (vec![0], vec![1]));
}

#[test]
fn the_hash_is_that_of_the_decisions_and_not_of_the_time() {
    let (facts, p) = (hourly(4), policy(keep_last(2), Limit::default()));
    let hash = |facts: &[SnapshotFacts], at| plan_with(facts, &p, None, at).hash;
    assert_eq!(hash(&facts, now()), hash(&facts, now() + TimeDelta::hours(1)));
    assert_ne!(hash(&facts, now()), hash(&facts[1..], now()));
}

#[test]
fn a_verdict_changes_when_the_plan_says_so() {
    let within = Some(Keep { within: Some(TimeDelta::hours(7)), ..Keep::default() });
    for p in [policy(None, Limit { max_age: Some(TimeDelta::hours(7)), ..Limit::default() }), policy(within, Limit::default())] {
        let facts = hourly(5);
        let before = plan_with(&facts, &p, None, now());
        for entry in &before.entries[1..] {
            let at = entry.next_change_at.unwrap();
            let verdict = |at| plan_with(&facts, &p, None, at).entries.iter().find(|e| e.snapshot_id == entry.snapshot_id).unwrap().verdict;
            assert_eq!((verdict(at - TimeDelta::seconds(1)), verdict(at)), (Verdict::Keep, Verdict::Remove));
        }
        assert_eq!(before.entries[0].next_change_at, None, "the newest never goes by age");
    }
}

fn some_facts() -> impl Strategy<Value = Vec<SnapshotFacts>> {
    let one = (0i64..4000, 0u8..12);
    proptest::collection::vec(one, 0..40).prop_map(|all| {
        let fact = |(n, (minutes, what)): (u64, (i64, u8))| {
            let mut fact = aged(n + 1, TimeDelta::minutes(minutes * 17));
            match what {
                0 => fact.forks = vec!["f".into()],
                1 => fact.queued = vec!["q".into()],
                2 => fact.holds = vec![HoldName::parse("h").unwrap()],
                3 => fact.pinned = true,
                4 => fact.state = SnapshotState::Quarantined,
                5 => fact.policy = None,
                _ => {}
            }
            fact
        };
        (0u64..).zip(all).map(fact).collect()
    })
}

proptest! {
    #[test]
    fn the_plan_is_that_of_a_naive_reading_of_the_rules(
        facts in some_facts(), last in 0u32..6, within in 0i64..40, max_count in 1u32..9, max_age in 1i64..60, min in 0u32..4,
    ) {
        let keep = Keep { last, within: Some(TimeDelta::hours(within)), ..Keep::default() };
        let p = policy(Some(keep), Limit { max_count: Some(max_count), max_age: Some(TimeDelta::hours(max_age)), min });
        let plan = plan_with(&facts, &p, None, now());
        let mine = |f: &&SnapshotFacts| f.policy.is_some() && f.state == SnapshotState::Ready;
        for fact in &facts {
            let newer = facts.iter().filter(mine).filter(|f| (f.order_at, f.seq) > (fact.order_at, fact.seq));
            let claimed = |f: &SnapshotFacts| {
                let before = facts.iter().filter(mine).filter(|g| (g.order_at, g.seq) > (f.order_at, f.seq)).count();
                before < last as usize || now() - f.created_at < TimeDelta::hours(within)
            };
            let claimed_newer = newer.clone().filter(|f| claimed(f)).count();
            let place = newer.count();
            let goes = mine(&fact)
                && place > 0 && place >= min as usize
                && (!claimed(fact) || claimed_newer >= max_count as usize || now() - fact.created_at >= TimeDelta::hours(max_age));
            let needed = !fact.forks.is_empty() || !fact.queued.is_empty() || !fact.holds.is_empty() || fact.pinned;
            let wanted = match (goes, needed) { (false, _) => Verdict::Keep, (true, true) => Verdict::Blocked, (true, false) => Verdict::Remove };
            let entry = plan.entries.iter().find(|e| e.snapshot_id == fact.id).unwrap();
            prop_assert_eq!(entry.verdict, wanted, "{:?}", entry);
            prop_assert!(!entry.reasons.is_empty());
        }
    }

    #[test]
    fn the_order_of_the_facts_does_not_matter_and_a_second_plan_removes_nothing_more(facts in some_facts(), last in 0u32..6) {
        let p = policy(keep_last(last), Limit::default());
        let plan = plan_with(&facts, &p, None, now());
        let mut shuffled = facts.clone();
        shuffled.reverse();
        prop_assert_eq!(&plan, &plan_with(&shuffled, &p, None, now()));
        let gone: BTreeSet<_> = plan.entries.iter().filter(|e| e.verdict == Verdict::Remove).map(|e| e.snapshot_id.clone()).collect();
        let left: Vec<_> = facts.into_iter().filter(|f| !gone.contains(&f.id)).collect();
        prop_assert!(plan_with(&left, &p, None, now()).entries.iter().all(|e| e.verdict != Verdict::Remove));
    }

    #[test]
    fn one_more_keep_rule_never_removes_more(facts in some_facts(), last in 1u32..6, hours in 0u32..9, days in 0u32..9) {
        let less = Keep { last, ..Keep::default() };
        let more = Keep { buckets: vec![(Granularity::Hourly, hours), (Granularity::Daily, days)], ..less.clone() };
        let few = removed(&facts, &policy(Some(more), Limit::default()));
        let many = removed(&facts, &policy(Some(less), Limit::default()));
        prop_assert!(few.iter().all(|n| many.contains(n)));
    }
}
