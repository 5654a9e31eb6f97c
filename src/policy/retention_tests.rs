//! Retention by cases; properties are in `retention_properties`.

use super::*;
use crate::ids::{HoldName, SnapshotId};
use crate::policy::claims::age;
use crate::policy::{Gone, Granularity, Limit, Retention, TagRule};
use crate::policy::{Keep, SnapshotFacts};
use chrono::{TimeDelta, TimeZone as _};

pub(super) const HOUR: i64 = 3600;
pub(super) const DAY: i64 = 24 * HOUR;

pub(super) fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 24, 12, 0, 0).unwrap()
}

pub(super) fn secs(n: i64) -> TimeDelta {
    TimeDelta::seconds(n)
}

pub(super) fn id(n: usize) -> SnapshotId {
    let letters: String = (0..8).rev().map(|place| char::from(b"abcdefghijklmnopqrstuvwxyz234567"[(n >> (5 * place)) & 31])).collect();
    SnapshotId::parse(&format!("20261124-090347-{letters}")).unwrap()
}

pub(super) fn web() -> InstanceId {
    InstanceId::parse("web").unwrap()
}

pub(super) fn golden() -> PolicyName {
    PolicyName::parse("golden").unwrap()
}

pub(super) fn policy(retention: Retention) -> Policy {
    Policy::new(golden(), retention)
}

/// A ready snapshot of `golden`, so many seconds old.
pub(super) fn fact(n: usize, age: i64) -> SnapshotFacts {
    let created_at = now() - secs(age);
    SnapshotFacts {
        id: id(n),
        instance: web(),
        policy: Some(golden()),
        created_at,
        order_at: created_at,
        seq: n as u64,
        state: SnapshotState::Ready,
        tags: BTreeMap::new(),
        tags_unread: false,
        forks: Vec::new(),
        queued: Vec::new(),
        holds: Vec::new(),
        pinned: false,
        unreadable: None,
        reclaimable_bytes: 1,
    }
}

/// Snapshots of these ages; number 0 has the first.
pub(super) fn facts(ages: &[i64]) -> Vec<SnapshotFacts> {
    let oldest_first = |n: usize| ages.len() - n;
    ages.iter().enumerate().map(|(n, age)| SnapshotFacts { seq: oldest_first(n) as u64, ..fact(n, *age) }).collect()
}

pub(super) struct World {
    pub(super) policies: Vec<Policy>,
    pub(super) gone_since: BTreeMap<(PolicyName, InstanceId), DateTime<Utc>>,
    pub(super) clock_trusted: bool,
    pub(super) root_proven: bool,
    pub(super) pressure: Option<Pressure>,
}

impl World {
    pub(super) fn new(retention: Retention) -> Self {
        Self { policies: vec![policy(retention)], gone_since: BTreeMap::new(), clock_trusted: true, root_proven: true, pressure: None }
    }

    pub(super) fn gone(mut self, ago: i64) -> Self {
        self.gone_since.insert((golden(), web()), now() - secs(ago));
        self
    }

    pub(super) fn plan(&self, facts: &[SnapshotFacts], now: DateTime<Utc>) -> Plan {
        let around = Circumstances {
            policies: &self.policies,
            gone_since: &self.gone_since,
            clock_trusted: self.clock_trusted,
            root_proven: self.root_proven,
            pressure: self.pressure,
            foresight: crate::policy::retention::Foresight::All,
        };
        plan(facts, &around, now)
    }

    /// The verdicts as one letter each (k, r, b), in the order of `facts`.
    pub(super) fn verdicts(&self, facts: &[SnapshotFacts]) -> String {
        let plan = self.plan(facts, now());
        facts.iter().map(|f| letter(of(&plan, &f.id).verdict)).collect()
    }
}

pub(super) fn letter(verdict: Verdict) -> char {
    match verdict {
        Verdict::Keep => 'k',
        Verdict::Remove => 'r',
        Verdict::Blocked => 'b',
    }
}

pub(super) fn of<'a>(plan: &'a Plan, id: &SnapshotId) -> &'a PlanEntry {
    plan.entries.iter().find(|e| e.snapshot_id == *id).unwrap()
}

/// All that speaks for the verdict: keep rules that have nothing to say are left out.
pub(super) fn rules(entry: &PlanEntry) -> Vec<&str> {
    entry.reasons.iter().filter(|r| r.side != Side::Pass).map(|r| r.rule.name()).collect()
}

pub(super) fn keep(keep: Keep) -> Retention {
    Retention { keep: Some(keep), ..Retention::default() }
}

pub(super) fn last(n: u32) -> Retention {
    keep(Keep { last: n, ..Keep::default() })
}

pub(super) fn limit(max_count: Option<u32>, max_age: Option<i64>, min: u32) -> Retention {
    Retention { limit: Limit { max_count, max_age: max_age.map(secs), max_bytes: None, min }, ..Retention::default() }
}

pub(super) fn gone(after: i64, min: u32) -> Option<Gone> {
    Some(Gone { after: secs(after), min })
}

pub(super) fn removed(plan: &Plan) -> Vec<SnapshotId> {
    let mut ids: Vec<_> = plan.entries.iter().filter(|e| e.verdict == Verdict::Remove).map(|e| e.snapshot_id.clone()).collect();
    ids.sort();
    ids
}

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
    assert!(entry.reasons.iter().any(|r| r.text().contains("dev-1, dev-2")));
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
    assert_eq!((rules(future), future.next_change_at), (vec!["future"], None), "it stays when its time comes");
    assert_eq!(of(&plan, &all[1].id).next_change_at, Some(now() + secs(HOUR)), "the other is not the newest any more then");
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
    assert_eq!(plan.entries[1].reasons[0].count, Some((2, 2)));
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
        assert_eq!(reason.rule.name(), format!("{granularity:?}").to_lowercase());
        assert_eq!((reason.count, reason.bucket.is_some()), (Some((2, 2)), true));
    }
}

#[test]
fn tags_keep_what_has_them_and_what_may_have_them() {
    let tag = |key: &str, value: Option<&str>| TagRule { key: key.to_owned(), value: value.map(str::to_owned) };
    let world = World::new(keep(Keep { tags: vec![tag("release", None), tag("tier", Some("gold"))], ..Keep::default() }));
    let mut all = facts(&[HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR, 5 * HOUR]);
    for (at, key, value) in [(1, "release", "v1"), (2, "tier", "gold"), (3, "tier", "silver")] {
        all[at].tags.insert(key.to_owned(), value.to_owned());
    }
    assert_eq!(world.verdicts(&all), "kkkrr");
    all[4].tags_unread = true;
    assert_eq!(world.verdicts(&all), "kkkrk");
    let plan = world.plan(&all, now());
    let text = |n: usize| of(&plan, &all[n].id).reasons[0].text();
    assert_eq!((text(1), text(2)), ("it has the tag release".to_owned(), "it has the tag tier=gold".to_owned()));
    assert!(text(4).contains("could not be read"), "{}", text(4));
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
    assert_eq!(base.hash, fewer.hash, "what is kept does not count: both do nothing");
    let hashes = [&base.hash, &too_old.hash, &blocked.hash];
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

#[test]
fn where_space_is_short_more_goes_but_never_the_least_nor_what_is_needed_nor_what_is_nobodys() {
    let pressure = |used| Some(Pressure { used, size: 100, until: 75, coming: 2, least: 0 });
    let mut all = facts(&[HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR, 5 * HOUR, 6 * HOUR]);
    all[2].forks = vec!["dev".to_owned()];
    all[3].holds = vec![HoldName::parse("release").unwrap()];
    // The second of the least that is kept; then one that a fork needs, one that is held, and two that may go.
    let retention = Retention { limit: Limit { min: 2, ..Limit::default() }, ..last(9) };
    let mut world = World::new(retention.clone());
    for (used, want) in [(77, "kkkkkk"), (78, "kkkkkr"), (79, "kkkkrr"), (99, "kkkkrr")] {
        world.pressure = pressure(used);
        assert_eq!(world.verdicts(&all), want, "{used}");
    }
    let plan = world.plan(&all, now());
    let entry = of(&plan, &all[5].id);
    assert_eq!((rules(entry)[0], entry.next_change_at), ("space", None));
    assert!(entry.reasons[0].text().contains("99% is used, and 75% is wanted"), "{}", entry.reasons[0].text());
    for nobodys in [None, Some(PolicyName::parse("old").unwrap())] {
        let others: Vec<_> = all.iter().map(|f| SnapshotFacts { policy: nobodys.clone(), ..f.clone() }).collect();
        assert_eq!(world.verdicts(&others), "kkkkkk");
    }
    let keep_all = World { pressure: pressure(99), ..World::new(Retention::default()) };
    assert_eq!(keep_all.verdicts(&all), "kkkkkk", "keep_all means all");
    let mut away = World { pressure: pressure(99), ..World::new(retention) };
    away.root_proven = false;
    assert_eq!(away.verdicts(&all), "kkkkkk", "it is not known what needs them");
    away.root_proven = true;
    away.clock_trusted = false;
    assert_eq!(away.verdicts(&all), "kkkkrr", "it does not go by age");
    // What the rules remove anyway counts first.
    let mut few = World { pressure: pressure(79), ..World::new(last(5)) };
    assert_eq!(few.verdicts(&all), "kkkkrr");
    few.pressure = pressure(78);
    assert_eq!(few.verdicts(&all), "kkkkkr");
}
