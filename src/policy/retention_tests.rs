//! Retention by cases, and by properties against naive models.

use super::*;
use crate::ids::{HoldName, SnapshotId};
use crate::policy::{Gone, Granularity, KindRule, Limit, Retention, Retry, Select};
use chrono::TimeZone as _;
use proptest::prelude::*;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 24, 12, 0, 0).unwrap()
}

fn secs(n: i64) -> TimeDelta {
    TimeDelta::seconds(n)
}

fn id(n: usize) -> SnapshotId {
    let letters: String = (0..8).rev().map(|place| char::from(b"abcdefghijklmnopqrstuvwxyz234567"[(n >> (5 * place)) & 31])).collect();
    SnapshotId::parse(&format!("20261124-090347-{letters}")).unwrap()
}

fn web() -> InstanceId {
    InstanceId::parse("web").unwrap()
}

fn golden() -> PolicyName {
    PolicyName::parse("golden").unwrap()
}

fn policy(retention: Retention) -> Policy {
    Policy {
        name: golden(),
        select: Select::default(),
        schedule: None,
        retention,
        name_prefix: None,
        tags: BTreeMap::new(),
        retry: Retry { attempts: 1, backoff: TimeDelta::zero() },
        kind: KindRule::Auto,
        when_referenced: crate::policy::WhenReferenced::Keep,
    }
}

/// A ready snapshot of `golden`, so many seconds old.
fn fact(n: usize, age: i64) -> SnapshotFacts {
    let created_at = now() - secs(age);
    SnapshotFacts {
        id: id(n),
        instance: web(),
        policy: Some(golden()),
        created_at,
        order_at: created_at,
        seq: n as u64,
        state: SnapshotState::Ready,
        forks: Vec::new(),
        queued: Vec::new(),
        holds: Vec::new(),
        pinned: false,
        unreadable: None,
        reclaimable_bytes: 1,
    }
}

/// Snapshots of these ages; number 0 has the first.
fn facts(ages: &[i64]) -> Vec<SnapshotFacts> {
    let oldest_first = |n: usize| ages.len() - n;
    ages.iter().enumerate().map(|(n, age)| SnapshotFacts { seq: oldest_first(n) as u64, ..fact(n, *age) }).collect()
}

struct World {
    policies: Vec<Policy>,
    gone_since: BTreeMap<(PolicyName, InstanceId), DateTime<Utc>>,
    clock_trusted: bool,
    root_proven: bool,
}

impl World {
    fn new(retention: Retention) -> Self {
        Self { policies: vec![policy(retention)], gone_since: BTreeMap::new(), clock_trusted: true, root_proven: true }
    }

    fn gone(mut self, ago: i64) -> Self {
        self.gone_since.insert((golden(), web()), now() - secs(ago));
        self
    }

    fn plan(&self, facts: &[SnapshotFacts], now: DateTime<Utc>) -> Plan {
        let around = Circumstances {
            policies: &self.policies,
            gone_since: &self.gone_since,
            clock_trusted: self.clock_trusted,
            root_proven: self.root_proven,
        };
        plan(facts, &around, now)
    }

    /// The verdicts as one letter each (k, r, b), in the order of `facts`.
    fn verdicts(&self, facts: &[SnapshotFacts]) -> String {
        let plan = self.plan(facts, now());
        facts.iter().map(|f| letter(of(&plan, &f.id).verdict)).collect()
    }
}

fn letter(verdict: Verdict) -> char {
    match verdict {
        Verdict::Keep => 'k',
        Verdict::Remove => 'r',
        Verdict::Blocked => 'b',
    }
}

fn of<'a>(plan: &'a Plan, id: &SnapshotId) -> &'a PlanEntry {
    plan.entries.iter().find(|e| e.snapshot_id == *id).unwrap()
}

fn rules(entry: &PlanEntry) -> Vec<&str> {
    entry.reasons.iter().map(|r| r.rule.as_str()).collect()
}

fn keep(keep: Keep) -> Retention {
    Retention { keep: Some(keep), ..Retention::default() }
}

fn last(n: u32) -> Retention {
    keep(Keep { last: n, ..Keep::default() })
}

fn limit(max_count: Option<u32>, max_age: Option<i64>, min: u32) -> Retention {
    Retention { limit: Limit { max_count, max_age: max_age.map(secs), min }, ..Retention::default() }
}

fn gone(after: i64, min: u32) -> Option<Gone> {
    Some(Gone { after: secs(after), min })
}

fn removed(plan: &Plan) -> Vec<SnapshotId> {
    let mut ids: Vec<_> = plan.entries.iter().filter(|e| e.verdict == Verdict::Remove).map(|e| e.snapshot_id.clone()).collect();
    ids.sort();
    ids
}

// ---------------------------------------------------------------- cases

#[test]
fn a_snapshot_taken_by_hand_is_never_removed() {
    let world = World::new(Retention { gone: gone(0, 0), ..limit(Some(0), Some(1), 0) }).gone(DAY);
    let manual: Vec<_> = facts(&[HOUR, 9 * DAY, 999 * DAY]).into_iter().map(|f| SnapshotFacts { policy: None, ..f }).collect();
    assert_eq!(world.verdicts(&manual), "kkk");
    assert!(world.plan(&manual, now()).entries.iter().all(|e| rules(e) == ["manual"]));
}

#[test]
fn snapshots_taken_by_hand_count_for_no_policy() {
    let mut all = facts(&[HOUR, 2 * HOUR, 3 * HOUR]);
    all[0].policy = None;
    assert_eq!(World::new(last(1)).verdicts(&all), "kkr");
    assert_eq!(World::new(limit(None, Some(HOUR), 0)).verdicts(&all), "kkr");
}

#[test]
fn the_newest_is_not_removed_by_any_limit() {
    for retention in [limit(None, Some(1), 0), limit(Some(0), None, 0), last(0), keep(Keep { within: Some(secs(1)), ..Keep::default() })] {
        let world = World::new(retention);
        assert_eq!(world.verdicts(&facts(&[99 * DAY, 100 * DAY])), "kr", "{:?}", world.policies[0].retention);
        let plan = world.plan(&facts(&[99 * DAY]), now());
        assert!(rules(&plan.entries[0]).contains(&"newest"));
        assert_eq!(plan.entries[0].next_change_at, None);
    }
}

#[test]
fn one_with_forks_is_blocked_and_goes_when_the_fork_is_gone() {
    let world = World::new(last(1));
    let mut all = facts(&[HOUR, 2 * HOUR]);
    all[1].forks = vec!["dev-1".to_owned(), "dev-2".to_owned()];
    let plan = world.plan(&all, now());
    let entry = of(&plan, &all[1].id);
    assert_eq!((entry.verdict, rules(entry)), (Verdict::Blocked, vec!["keep", "live_forks"]));
    assert_eq!(entry.forks, ["dev-1", "dev-2"]);
    assert!(entry.reasons[1].text.contains("dev-1, dev-2"));
    all[1].forks.clear();
    assert_eq!(world.verdicts(&all), "kr");
}

#[test]
fn whatever_needs_a_snapshot_blocks_it_with_its_own_reason_beside_the_rules() {
    type Change = fn(&mut SnapshotFacts, &mut World);
    let changes: [(&str, Change); 7] = [
        ("live_forks", |f, _| f.forks = vec!["dev".to_owned()]),
        ("queued", |f, _| f.queued = vec!["dev".to_owned()]),
        ("held", |f, _| f.holds = vec![HoldName::parse("release-1").unwrap()]),
        ("pinned", |f, _| f.pinned = true),
        ("unreadable", |f, _| f.unreadable = Some("refs/x: not JSON".to_owned())),
        ("clock", |_, w| w.clock_trusted = false),
        ("unmounted", |_, w| w.root_proven = false),
    ];
    for (block, change) in changes {
        let mut world = World::new(limit(None, Some(DAY), 0));
        let mut all = facts(&[HOUR, 2 * DAY]);
        change(&mut all[1], &mut world);
        let plan = world.plan(&all, now());
        let entry = of(&plan, &all[1].id);
        assert_eq!((entry.verdict, rules(entry)), (Verdict::Blocked, vec!["limit.max_age", block]));
        assert_eq!(of(&plan, &all[0].id).verdict, Verdict::Keep);
    }
    let mut world = World::new(limit(None, Some(DAY), 0));
    let mut all = facts(&[HOUR, 2 * DAY]);
    for (_, change) in changes {
        change(&mut all[1], &mut world);
    }
    let want = ["limit.max_age", "live_forks", "queued", "held", "pinned", "unreadable", "clock", "unmounted"];
    assert_eq!(rules(of(&world.plan(&all, now()), &all[1].id)), want);
}

#[test]
fn a_kept_one_is_kept_whatever_needs_it() {
    let mut all = facts(&[HOUR]);
    all[0].forks = vec!["dev".to_owned()];
    all[0].queued = vec!["dev".to_owned(), "ci".to_owned()];
    let plan = World::new(last(1)).plan(&all, now());
    assert_eq!(plan.entries[0].verdict, Verdict::Keep);
    assert_eq!(plan.entries[0].forks, ["ci", "dev"]);
}

#[test]
fn a_clock_that_is_not_believed_blocks_what_goes_by_age_and_nothing_else() {
    let ages = facts(&[HOUR, 2 * DAY, 3 * DAY]);
    let within = Keep { within: Some(secs(DAY)), ..Keep::default() };
    for (retention, want) in [
        (limit(None, Some(DAY), 0), "kbb"),
        (limit(Some(1), None, 0), "krr"),
        (limit(Some(2), Some(DAY), 0), "kbr"),
        (last(1), "krr"),
        (keep(within), "kbb"),
        (Retention { gone: gone(HOUR, 0), ..Retention::default() }, "bbb"),
    ] {
        let mut world = World::new(retention).gone(DAY);
        world.clock_trusted = false;
        assert_eq!(world.verdicts(&ages), want, "{:?}", world.policies[0].retention);
    }
}

#[test]
fn one_in_quarantine_stays_and_counts_for_nothing() {
    let mut all = facts(&[HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR]);
    all[0].state = SnapshotState::Quarantined;
    for (retention, want) in [
        (limit(None, Some(1), 2), "kkkr"),
        (limit(None, Some(1), 0), "kkrr"),
        (limit(Some(2), None, 0), "kkkr"),
        (last(2), "kkkr"),
        (Retention { gone: gone(0, 1), ..Retention::default() }, "kkrr"),
    ] {
        let world = World::new(retention).gone(DAY);
        assert_eq!(world.verdicts(&all), want, "{:?}", world.policies[0].retention);
        assert_eq!(rules(of(&world.plan(&all, now()), &all[0].id)), ["quarantined"]);
    }
}

#[test]
fn future_dated_ones_stay_and_count_as_none() {
    let mut all = facts(&[-HOUR, HOUR, 2 * HOUR, 3 * HOUR]);
    for (retention, want) in
        [(limit(None, Some(1), 0), "kkrr"), (limit(None, Some(1), 2), "kkkr"), (limit(Some(2), None, 0), "kkkr"), (last(1), "kkrr")]
    {
        assert_eq!(World::new(retention).verdicts(&all), want);
    }
    let plan = World::new(last(1)).plan(&all, now());
    let future = of(&plan, &all[0].id);
    assert_eq!((rules(future), future.next_change_at), (vec!["future"], Some(now() + secs(HOUR))));
    // The clock went back below all of them: nothing is the newest, and nothing goes.
    all.iter_mut().for_each(|f| f.created_at += secs(DAY));
    let world = World::new(Retention { gone: gone(0, 0), ..limit(Some(0), Some(0), 0) }).gone(DAY);
    assert_eq!(world.verdicts(&all), "kkkk");
}

#[test]
fn a_clock_that_went_back_makes_nothing_older() {
    assert_eq!(age(now(), now() - secs(DAY)), TimeDelta::zero());
    // Noticed gone in what is the future now: no time has gone by.
    let world = World::new(Retention { gone: gone(1, 0), ..Retention::default() }).gone(-DAY);
    assert_eq!(world.verdicts(&facts(&[HOUR, DAY])), "kk");
    // Extremes do not overflow.
    let ends = [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC];
    let mut all = facts(&[0, 0]);
    (all[0].created_at, all[1].created_at) = (ends[0], ends[1]);
    let keep = Some(Keep { within: Some(TimeDelta::MAX), ..Keep::default() });
    let gone = Some(Gone { after: TimeDelta::MAX, min: 0 });
    let limit = Limit { max_age: Some(TimeDelta::MAX), ..Limit::default() };
    let world = World::new(Retention { keep, limit, gone }).gone(0);
    for at in [ends[0], now(), ends[1]] {
        assert!(world.plan(&all, at).entries.iter().all(|e| e.verdict == Verdict::Keep));
    }
}

#[test]
fn limits_compose_and_min_overrides_them() {
    let ages: Vec<i64> = (0..6).map(|n| n * DAY + HOUR).collect();
    for (max_count, max_age, min, want) in [
        (None, None, 0, "kkkkkk"),
        (Some(3), None, 0, "kkkrrr"),
        (None, Some(2 * DAY), 0, "kkrrrr"),
        (Some(3), Some(2 * DAY), 0, "kkrrrr"),
        (Some(1), Some(4 * DAY), 0, "krrrrr"),
        (Some(1), None, 3, "kkkrrr"),
        (None, Some(HOUR), 3, "kkkrrr"),
        (Some(2), Some(2 * DAY), 5, "kkkkkr"),
        (Some(0), Some(0), 9, "kkkkkk"),
        (Some(9), Some(99 * DAY), 1, "kkkkkk"),
    ] {
        assert_eq!(World::new(limit(max_count, max_age, min)).verdicts(&facts(&ages)), want, "{max_count:?} {max_age:?} {min}");
    }
}

#[test]
fn a_snapshot_is_too_old_at_its_max_age_to_the_second() {
    let world = World::new(limit(None, Some(DAY), 0));
    assert_eq!(world.verdicts(&facts(&[0, DAY - 1, DAY, DAY + 1])), "kkrr");
    let world = World::new(keep(Keep { within: Some(secs(DAY)), ..Keep::default() }));
    assert_eq!(world.verdicts(&facts(&[0, DAY - 1, DAY, DAY + 1])), "kkrr");
}

#[test]
fn a_limit_counts_only_what_the_keep_rules_claim() {
    // 12:00 and 00:00 of each day: the newest of a day is claimed, the other takes no place of the limit's.
    let ages: Vec<i64> = (0..6).map(|n| n * DAY / 2).collect();
    let claims = Keep { buckets: vec![(Granularity::Daily, 3)], ..Keep::default() };
    assert_eq!(World::new(keep(claims.clone())).verdicts(&facts(&ages)), "krkrkr");
    let limited = Retention { limit: Limit { max_count: Some(2), ..Limit::default() }, ..keep(claims) };
    assert_eq!(World::new(limited).verdicts(&facts(&ages)), "krkrrr");
}

#[test]
fn keep_last_keeps_the_newest_so_many() {
    let ages = [HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR];
    for (n, want) in [(0, "krrr"), (1, "krrr"), (2, "kkrr"), (4, "kkkk"), (u32::MAX, "kkkk")] {
        assert_eq!(World::new(last(n)).verdicts(&facts(&ages)), want, "last = {n}");
    }
    let plan = World::new(last(2)).plan(&facts(&ages), now());
    assert_eq!(plan.entries[1].reasons[0].count.as_deref(), Some("2 of 2"));
}

#[test]
fn each_bucket_rule_keeps_the_newest_of_each_bucket_and_empty_ones_take_no_count() {
    use Granularity::{Daily, Hourly, Minutely, Monthly, Quarterly, Weekly, Yearly};
    // Newest first: two in the newest bucket, two in one much further back, one further still.
    let at = |y, m, d, h, min, s| Utc.with_ymd_and_hms(y, m, d, h, min, s).unwrap();
    let cases = [
        (Minutely, [at(2026, 11, 24, 11, 59, 50), at(2026, 11, 24, 11, 59, 0), at(2026, 11, 24, 9, 30, 59), at(2026, 11, 24, 9, 30, 1)]),
        (Hourly, [at(2026, 11, 24, 11, 59, 0), at(2026, 11, 24, 11, 0, 0), at(2026, 11, 23, 4, 59, 0), at(2026, 11, 23, 4, 1, 0)]),
        (Daily, [at(2026, 11, 24, 11, 0, 0), at(2026, 11, 24, 0, 0, 0), at(2026, 11, 20, 23, 59, 0), at(2026, 11, 20, 0, 0, 0)]),
        // Mondays begin weeks; the second week spans New Year.
        (Weekly, [at(2026, 11, 24, 1, 0, 0), at(2026, 11, 23, 0, 0, 0), at(2026, 1, 4, 23, 0, 0), at(2025, 12, 29, 0, 0, 0)]),
        (Monthly, [at(2026, 11, 24, 1, 0, 0), at(2026, 11, 1, 0, 0, 0), at(2026, 3, 31, 23, 0, 0), at(2026, 3, 1, 0, 0, 0)]),
        (Quarterly, [at(2026, 11, 24, 1, 0, 0), at(2026, 10, 1, 0, 0, 0), at(2026, 3, 31, 23, 0, 0), at(2026, 1, 1, 0, 0, 0)]),
        (Yearly, [at(2026, 11, 24, 1, 0, 0), at(2026, 1, 1, 0, 0, 0), at(2019, 12, 31, 23, 0, 0), at(2019, 1, 1, 0, 0, 0)]),
    ];
    for (granularity, times) in cases {
        let mut ages: Vec<i64> = times.iter().map(|t| (now() - t).num_seconds()).collect();
        ages.push(40 * 365 * DAY);
        for (n, want) in [(0, "krrrr"), (1, "krrrr"), (2, "krkrr"), (3, "krkrk"), (9, "krkrk")] {
            let world = World::new(keep(Keep { buckets: vec![(granularity, n)], ..Keep::default() }));
            assert_eq!(world.verdicts(&facts(&ages)), want, "{granularity:?} = {n}");
        }
        let world = World::new(keep(Keep { buckets: vec![(granularity, 2)], ..Keep::default() }));
        let reason = &world.plan(&facts(&ages), now()).entries[2].reasons[0];
        assert_eq!(reason.rule, format!("{granularity:?}").to_lowercase());
        assert_eq!((reason.count.as_deref(), reason.bucket.is_some()), (Some("2 of 2"), true));
    }
}

#[test]
fn days_begin_in_the_policys_zone() {
    // 23:30 and 22:30 UTC are two days in Vienna.
    let ages = [(12 * 60 + 30) * 60, (13 * 60 + 30) * 60];
    let daily = |timezone| keep(Keep { buckets: vec![(Granularity::Daily, 5)], timezone, ..Keep::default() });
    assert_eq!(World::new(daily(chrono_tz::Tz::UTC)).verdicts(&facts(&ages)), "kr");
    assert_eq!(World::new(daily(chrono_tz::Tz::Europe__Vienna)).verdicts(&facts(&ages)), "kk");
}

#[test]
fn a_bucket_takes_one_count_though_a_clock_that_stepped_back_put_another_between() {
    // Taken today, then two days ahead of it, then (the clock was put right) today again; and yesterday.
    let mut all = facts(&[0, -2 * DAY, HOUR, DAY]);
    let later = now() + secs(3 * DAY);
    for at in [0, 1] {
        all[at].order_at = now() + secs(2 * DAY);
    }
    let world = World::new(keep(Keep { buckets: vec![(Granularity::Daily, 3)], ..Keep::default() }));
    let plan = world.plan(&all, later);
    let verdicts: String = all.iter().map(|f| letter(of(&plan, &f.id).verdict)).collect();
    assert_eq!(verdicts, "kkrk");
}

#[test]
fn nothing_goes_before_gone_after_and_all_but_gone_min_do_then() {
    let ages = facts(&[HOUR, 2 * HOUR, 3 * HOUR]);
    let retention = |min| Retention { gone: gone(30 * DAY, min), ..limit(None, None, 3) };
    for (ago, min, want) in [
        (0, 0, "kkk"),
        (30 * DAY - 1, 0, "kkk"),
        (30 * DAY, 0, "rrr"),
        (30 * DAY, 1, "krr"),
        (99 * DAY, 2, "kkr"),
        (99 * DAY, 9, "kkk"),
        (-DAY, 0, "kkk"),
    ] {
        assert_eq!(World::new(retention(min)).gone(ago).verdicts(&ages), want, "{ago} {min}");
    }
    assert_eq!(World::new(limit(None, None, 0)).gone(99 * DAY).verdicts(&ages), "kkk", "no gone: as if it were there");
    assert_eq!(World::new(retention(0)).verdicts(&ages), "kkk", "it is there");
}

#[test]
fn gone_is_for_its_policy_and_instance_only() {
    let other = PolicyName::parse("other").unwrap();
    let retention = Retention { gone: gone(DAY, 0), ..Retention::default() };
    let mut world = World::new(retention.clone()).gone(2 * DAY);
    world.policies.push(Policy { name: other.clone(), ..policy(retention) });
    let mut all = facts(&[HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR]);
    all[1].policy = Some(other);
    all[2].instance = InstanceId::parse("db").unwrap();
    all[3].policy = None;
    assert_eq!(world.verdicts(&all), "rkkk");
}

#[test]
fn snapshots_of_a_policy_that_is_not_in_the_config_stay() {
    let mut all = facts(&[HOUR, 99 * DAY, 100 * DAY]);
    let old = PolicyName::parse("old").unwrap();
    all.iter_mut().for_each(|f| f.policy = Some(old.clone()));
    let mut world = World::new(Retention { gone: gone(0, 0), ..limit(Some(0), Some(0), 0) });
    world.gone_since.insert((old, web()), now() - secs(DAY));
    assert_eq!(world.verdicts(&all), "kkk");
    assert_eq!(rules(&world.plan(&all, now()).entries[0]), ["orphan"]);
}

#[test]
fn an_expiring_one_goes_with_its_last_fork_whoever_took_it() {
    for by in [Some(golden()), None, Some(PolicyName::parse("old").unwrap())] {
        let mut all = facts(&[HOUR]);
        all[0] = SnapshotFacts { state: SnapshotState::Expiring, forks: vec!["dev".to_owned()], policy: by, ..all[0].clone() };
        let mut world = World::new(limit(None, None, 9));
        world.clock_trusted = false;
        let plan = world.plan(&all, now());
        assert_eq!(rules(&plan.entries[0]), ["expiring", "live_forks"], "{:?}", all[0].policy);
        all[0].forks.clear();
        assert_eq!(world.verdicts(&all), "r", "{:?}", all[0].policy);
    }
}

#[test]
fn an_expiring_one_counts_for_nothing() {
    let mut all = facts(&[HOUR, 2 * HOUR, 3 * HOUR]);
    all[0].state = SnapshotState::Expiring;
    assert_eq!(World::new(last(1)).verdicts(&all), "rkr");
    assert_eq!(World::new(limit(None, Some(1), 2)).verdicts(&all), "rkk");
}

#[test]
fn equal_decisions_have_equal_hashes_and_others_do_not() {
    let world = World::new(limit(None, Some(10 * DAY), 0));
    let all = facts(&[HOUR, DAY, 9 * DAY]);
    let base = world.plan(&all, now());
    assert_eq!(base.hash.len(), 16);
    let later = world.plan(&all, now() + secs(HOUR));
    assert_ne!(base.at, later.at);
    assert_eq!(base.hash, later.hash);
    let too_old = world.plan(&all, now() + secs(DAY));
    let mut blocked = all.clone();
    blocked[2].forks = vec!["dev".to_owned()];
    let blocked = world.plan(&blocked, now() + secs(DAY));
    let fewer = world.plan(&all[..2], now());
    let hashes = [&base.hash, &too_old.hash, &blocked.hash, &fewer.hash];
    let distinct: std::collections::BTreeSet<_> = hashes.iter().collect();
    assert_eq!(distinct.len(), hashes.len());
}

#[test]
fn the_time_of_the_next_change_is_to_the_second() {
    let within = Keep { within: Some(secs(2 * DAY)), ..Keep::default() };
    let both = Retention { limit: Limit { max_age: Some(secs(DAY)), ..Limit::default() }, ..keep(within.clone()) };
    let lasting = Keep { last: 2, ..within.clone() };
    // Of the second of two, one hour and two hours old; the instance has been gone for an hour.
    for (retention, want) in [
        (limit(None, Some(DAY), 0), Some(DAY - 2 * HOUR)),
        (keep(within), Some(2 * DAY - 2 * HOUR)),
        (both, Some(DAY - 2 * HOUR)),
        (keep(lasting), None),
        (limit(None, Some(DAY), 2), None),
        (Retention { gone: gone(5 * HOUR, 0), ..Retention::default() }, Some(4 * HOUR)),
        (Retention { gone: gone(5 * HOUR, 0), ..limit(None, Some(3 * HOUR), 0) }, Some(HOUR)),
        (Retention { gone: gone(5 * HOUR, 0), ..limit(None, None, 2) }, Some(4 * HOUR)),
        (Retention { gone: gone(5 * HOUR, 2), ..limit(None, Some(DAY), 0) }, None),
    ] {
        let world = World::new(retention).gone(HOUR);
        let all = facts(&[HOUR, 2 * HOUR]);
        let plan = world.plan(&all, now());
        assert_eq!(plan.entries[1].next_change_at, want.map(|s| now() + secs(s)), "{:?}", world.policies[0].retention);
    }
}

#[test]
fn entries_are_by_instance_newest_first_and_carry_their_facts() {
    let mut all = facts(&[3 * HOUR, HOUR, 2 * HOUR]);
    all[2].instance = InstanceId::parse("db").unwrap();
    all[1].holds = vec![HoldName::parse("release-1").unwrap()];
    let plan = World::new(last(9)).plan(&all, now());
    let order: Vec<_> = plan.entries.iter().map(|e| &e.snapshot_id).collect();
    assert_eq!(order, [&all[2].id, &all[1].id, &all[0].id]);
    assert_eq!((&plan.entries[1].holds, plan.entries[1].reclaimable_bytes), (&all[1].holds, 1));
}

// ---------------------------------------------------------------- properties

/// Histories as they come about: clocks that step, states, needs.
fn history(future: bool) -> impl Strategy<Value = Vec<SnapshotFacts>> {
    let from = if future { -20 * HOUR } else { 0 };
    let one = (from..60 * DAY, 0..16u8, 0..3usize, any::<bool>());
    (prop::collection::vec(one, 0..14), any::<bool>()).prop_map(|(mut raw, steady)| {
        if steady {
            raw.sort_by_key(|r| Reverse(r.0));
        }
        let mut order_at = DateTime::<Utc>::MIN_UTC;
        let make = |(n, (age, what, by, needed)): (usize, (i64, u8, usize, bool))| {
            let mut fact = fact(n, age);
            order_at = order_at.max(fact.created_at);
            fact.order_at = order_at;
            fact.policy = [Some(golden()), Some(golden()), None][by].clone();
            match what {
                0 => fact.state = SnapshotState::Quarantined,
                1 => fact.state = SnapshotState::Expiring,
                2 if needed => fact.forks = vec!["dev".to_owned()],
                3 if needed => fact.queued = vec!["ci".to_owned()],
                4 if needed => fact.holds = vec![HoldName::parse("release").unwrap()],
                5 => fact.pinned = needed,
                6 if needed => fact.unreadable = Some("refs".to_owned()),
                _ => {}
            }
            fact
        };
        raw.into_iter().enumerate().map(make).collect()
    })
}

fn a_limit() -> impl Strategy<Value = Limit> {
    let max_age = prop::option::of((0..60 * DAY).prop_map(secs));
    (prop::option::of(0..10u32), max_age, 0..6u32).prop_map(|(max_count, max_age, min)| Limit { max_count, max_age, min })
}

fn a_keep() -> impl Strategy<Value = Keep> {
    use Granularity::{Daily, Hourly, Minutely, Monthly, Quarterly, Weekly, Yearly};
    let unit = prop::sample::select(vec![Minutely, Hourly, Daily, Weekly, Monthly, Quarterly, Yearly]);
    let zone = prop::sample::select(vec![chrono_tz::Tz::UTC, chrono_tz::Tz::Europe__Vienna, chrono_tz::Tz::America__New_York]);
    let within = prop::option::of((0..30 * DAY).prop_map(secs));
    (0..5u32, within, prop::collection::vec((unit, 0..5u32), 0..3), zone).prop_map(|(last, within, buckets, timezone)| Keep {
        last,
        within,
        buckets,
        timezone,
    })
}

fn a_retention() -> impl Strategy<Value = Retention> {
    (prop::option::of(a_keep()), a_limit()).prop_map(|(keep, limit)| Retention { keep, limit, gone: None })
}

/// The ready snapshots of the policy that are not future-dated, newest first.
fn ready(facts: &[SnapshotFacts]) -> Vec<&SnapshotFacts> {
    let is_ready = |f: &&SnapshotFacts| f.policy.is_some() && f.state == SnapshotState::Ready && f.created_at <= now();
    let mut ready: Vec<_> = facts.iter().filter(is_ready).collect();
    ready.sort_by_key(|f| Reverse((f.order_at, f.seq)));
    ready
}

/// Whether the rules let go of it: by counting, for each, all that are newer.
fn naive_goes(facts: &[SnapshotFacts], fact: &SnapshotFacts, last: Option<u32>, limit: &Limit) -> bool {
    let ready = ready(facts);
    let newer = |of: &SnapshotFacts| ready.iter().filter(|f| (f.order_at, f.seq) > (of.order_at, of.seq)).count();
    let is_claimed = |of: &SnapshotFacts| last.is_none_or(|last| newer(of) < last as usize);
    let claimed_newer = ready.iter().filter(|f| (f.order_at, f.seq) > (fact.order_at, fact.seq) && is_claimed(f)).count();
    let is_protected = newer(fact) == 0 || newer(fact) < limit.min as usize;
    let too_many = limit.max_count.is_some_and(|max| claimed_newer >= max as usize);
    let too_old = limit.max_age.is_some_and(|max| now() - fact.created_at >= max);
    !is_protected && (!is_claimed(fact) || too_many || too_old)
}

/// Whether a keep rule claims it: for buckets, by counting the distinct buckets of all newer ones.
fn naive_claims(facts: &[SnapshotFacts], fact: &SnapshotFacts, keep: &Keep) -> bool {
    let ready = ready(facts);
    let newer: Vec<_> = ready.iter().filter(|f| (f.order_at, f.seq) > (fact.order_at, fact.seq)).collect();
    let by_bucket = keep.buckets.iter().any(|(unit, count)| {
        let key = |f: &SnapshotFacts| bucket_key(*unit, keep.timezone, f.created_at);
        let buckets: std::collections::BTreeSet<_> = newer.iter().map(|f| key(f)).collect();
        buckets.len() < *count as usize && !buckets.contains(&key(fact))
    });
    by_bucket || newer.len() < keep.last as usize || keep.within.is_some_and(|within| now() - fact.created_at < within)
}

fn is_needed(fact: &SnapshotFacts) -> bool {
    !(fact.forks.is_empty() && fact.queued.is_empty() && fact.holds.is_empty()) || fact.pinned || fact.unreadable.is_some()
}

/// A verdict, were nothing to block.
fn goes(plan: &Plan, fact: &SnapshotFacts) -> bool {
    of(plan, &fact.id).verdict != Verdict::Keep
}

proptest! {
    #[test]
    fn the_plan_is_the_same_whatever_the_order_of_its_input(
        (facts, shuffled) in history(true).prop_flat_map(|f| (Just(f.clone()), Just(f).prop_shuffle())),
        retention in a_retention(),
    ) {
        let world = World::new(retention);
        prop_assert_eq!(world.plan(&facts, now()), world.plan(&shuffled, now()));
    }

    #[test]
    fn last_and_limits_are_as_counting_has_them(facts in history(true), last in prop::option::of(0..8u32), limit in a_limit()) {
        let keep = last.map(|last| Keep { last, ..Keep::default() });
        let plan = World::new(Retention { keep, limit: limit.clone(), gone: None }).plan(&facts, now());
        for fact in ready(&facts) {
            prop_assert_eq!(goes(&plan, fact), naive_goes(&facts, fact, last, &limit), "{:?}", fact);
        }
    }

    #[test]
    fn keep_rules_claim_what_counting_buckets_claims(facts in history(true), rules in a_keep()) {
        let plan = World::new(keep(rules.clone())).plan(&facts, now());
        for (at, fact) in ready(&facts).into_iter().enumerate() {
            prop_assert_eq!(goes(&plan, fact), at > 0 && !naive_claims(&facts, fact, &rules), "{:?}", fact);
        }
    }

    #[test]
    fn nothing_that_is_needed_or_among_the_newest_is_removed(
        facts in history(true),
        retention in a_retention(),
        root_proven in any::<bool>(),
        clock_trusted in any::<bool>(),
    ) {
        let min = retention.limit.min.max(1) as usize;
        let world = World { root_proven, clock_trusted, ..World::new(retention) };
        let plan = world.plan(&facts, now());
        prop_assert_eq!(plan.entries.len(), facts.len());
        for fact in &facts {
            let entry = of(&plan, &fact.id);
            prop_assert!(!entry.reasons.is_empty());
            if is_needed(fact) || !root_proven || fact.state == SnapshotState::Quarantined {
                prop_assert_ne!(entry.verdict, Verdict::Remove);
            }
            if fact.state != SnapshotState::Expiring && (fact.policy.is_none() || fact.created_at > now()) {
                prop_assert_eq!(entry.verdict, Verdict::Keep);
            }
        }
        for fact in ready(&facts).into_iter().take(min) {
            prop_assert_eq!(of(&plan, &fact.id).verdict, Verdict::Keep);
        }
    }

    // Without max_count, which gives places to the newest claimed: there a new claim may take an older one's place.
    #[test]
    fn another_keep_rule_never_removes_more(
        facts in history(true), rules in a_keep(), more in a_keep(), max_age in prop::option::of(0..60 * DAY), min in 0..4u32,
    ) {
        let plan = |keep: &Keep| {
            World::new(Retention { keep: Some(keep.clone()), ..limit(None, max_age, min) }).plan(&facts, now())
        };
        let mut both = rules.clone();
        both.last = both.last.max(more.last);
        both.within = both.within.max(more.within);
        both.buckets.extend(more.buckets);
        let (before, after) = (removed(&plan(&rules)), removed(&plan(&both)));
        prop_assert!(after.iter().all(|id| before.contains(id)), "{:?} {:?}", before, after);
    }

    #[test]
    fn after_a_plan_is_carried_out_the_next_removes_nothing_more(
        facts in history(true), mut retention in a_retention(), gone_for in prop::option::of(0..3 * DAY), gone_min in 0..4u32,
    ) {
        // After clocks that stepped back one in the middle may be too old; its buckets pass to others, and max_count sees more.
        let steady = facts.is_sorted_by_key(|f| f.created_at);
        if !steady && retention.limit.max_age.is_some() {
            retention.limit.max_count = None;
        }
        let mut world = World::new(Retention { gone: gone(DAY, gone_min), ..retention });
        if let Some(ago) = gone_for {
            world = world.gone(ago);
        }
        let gone = removed(&world.plan(&facts, now()));
        let left: Vec<_> = facts.iter().filter(|f| !gone.contains(&f.id)).cloned().collect();
        prop_assert_eq!(removed(&world.plan(&left, now())), Vec::<SnapshotId>::new());
    }

    #[test]
    fn a_clock_that_steps_back_removes_no_more(facts in history(false), last in prop::option::of(0..8u32), limit in a_limit(), back in 0..90 * DAY) {
        let keep = last.map(|last| Keep { last, ..Keep::default() });
        let world = World::new(Retention { keep, limit, gone: None });
        let (before, after) = (removed(&world.plan(&facts, now())), removed(&world.plan(&facts, now() - secs(back))));
        prop_assert!(after.iter().all(|id| before.contains(id)), "{:?} {:?}", before, after);
    }

    #[test]
    fn a_verdict_changes_when_it_is_said_to_and_not_before(
        facts in history(false), rules in prop::option::of(a_keep()), max_age in prop::option::of(0..90 * DAY), min in 0..4u32,
        gone_rule in prop::option::of((0..60 * DAY, 0..4u32)), gone_for in prop::option::of(0..30 * DAY),
    ) {
        let gone = gone_rule.and_then(|(after, min)| gone(after, min));
        let mut world = World::new(Retention { keep: rules, gone, ..limit(None, max_age, min) });
        if let Some(ago) = gone_for {
            world = world.gone(ago);
        }
        let plan = world.plan(&facts, now());
        let far = world.plan(&facts, now() + secs(9999 * DAY));
        for entry in &plan.entries {
            match entry.next_change_at {
                None => prop_assert_eq!(entry.verdict, of(&far, &entry.snapshot_id).verdict, "{:?}", entry),
                Some(at) => {
                    prop_assert!(at > now());
                    let (before, then) = (world.plan(&facts, at - secs(1)), world.plan(&facts, at));
                    prop_assert_eq!(entry.verdict, of(&before, &entry.snapshot_id).verdict, "{:?}", entry);
                    prop_assert_ne!(entry.verdict, of(&then, &entry.snapshot_id).verdict, "{:?}", entry);
                }
            }
        }
    }

    #[test]
    fn the_hash_is_equal_exactly_if_the_verdicts_are(facts in history(true), retention in a_retention(), later in 0..40 * DAY) {
        let world = World::new(retention);
        let plans = [world.plan(&facts, now()), world.plan(&facts, now() + secs(later))];
        let verdicts = |p: &Plan| facts.iter().map(|f| letter(of(p, &f.id).verdict)).collect::<String>();
        prop_assert_eq!(plans[0].hash == plans[1].hash, verdicts(&plans[0]) == verdicts(&plans[1]));
    }
}
