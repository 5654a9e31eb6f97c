//! How rules compose: every pair of them on one small history, as docs/retention.md explains it.

use super::retention::{Circumstances, plan};
use super::{Counting, Gone, Granularity, Keep, Limit, Plan, Policy, Retention, SnapshotFacts, SnapshotState, TagRule, Verdict};
use crate::ids::{InstanceId, PolicyName, SnapshotId};
use chrono::{DateTime, TimeDelta, TimeZone as _, Utc};
use std::collections::BTreeMap;

/// The history, newest first: when each was taken, how many bytes its removal frees, whether it has the tag.
const HISTORY: [(u32, u32, u64, bool); 6] =
    [(24, 11, 10, false), (24, 6, 10, false), (23, 23, 20, false), (23, 8, 10, true), (22, 10, 10, false), (19, 12, 10, false)];

/// The rules, and what each alone leaves.
const RULES: [(&str, &str); 10] = [
    ("last = 2", "kkrrrr"),
    ("within = 24h", "kkkrrr"),
    // 22 November's is 50 hours old.
    ("within_daily = 60h", "krkrkr"),
    ("daily = 2", "krkrrr"),
    // The newest stays in any case.
    ("tags = release", "krrkrr"),
    ("max_count = 2", "kkrrrr"),
    ("max_age = 30h", "kkkkrr"),
    // With the third it would be 40.
    ("max_bytes = 30", "kkrrrr"),
    // Alone it has nothing to hold against.
    ("min = 5", "kkkkkk"),
    ("gone, min = 1", "krrrrr"),
];

/// What each pair leaves: of the rule with those behind it, in their order.
const PAIRS: [&[&str]; 9] = [
    // Keep rules add up. A limit counts what they claim together. `min` overrides limits, `gone` overrides all.
    &["kkkrrr", "kkkrkr", "kkkrrr", "kkrkrr", "kkrrrr", "kkrrrr", "kkrrrr", "kkkkkr", "krrrrr"],
    // The third is claimed, and too many, or too large.
    &["kkkrkr", "kkkrrr", "kkkkrr", "kkrrrr", "kkkrrr", "kkrrrr", "kkkkkr", "krrrrr"],
    // The second is not claimed: it takes neither a place of `max_count` nor bytes. The fifth is too old for `max_age`.
    &["krkrkr", "krkkkr", "krkrrr", "krkrrr", "krkrrr", "kkkkkr", "krrrrr"],
    &["krkkrr", "krkrrr", "krkrrr", "krkrrr", "kkkkkr", "krrrrr"],
    // The one with the tag is the first of those claimed: the newest, which stays as such, takes no place.
    &["krrkrr", "krrkrr", "krrkrr", "kkkkkr", "krrrrr"],
    // Of two limits the stricter one draws the line.
    &["kkrrrr", "kkrrrr", "kkkkkr", "krrrrr"],
    &["kkrrrr", "kkkkkr", "krrrrr"],
    &["kkkkkr", "krrrrr"],
    &["krrrrr"],
];

/// The same for pairs of keep rules in a cascade.
const CASCADE: [&[&str]; 4] = [
    // `within` comes first: `last` counts the fourth and the fifth. `daily` counts what `last` has not kept.
    &["kkkkkr", "kkkrkr", "kkkrkr", "kkrkrr"],
    // The days of the first three are kept already: `daily` counts the fifth and the sixth.
    &["kkkrkr", "kkkrkk", "kkkkrr"],
    &["krkrkk", "krkkkr"],
    &["krkkrr"],
];

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 24, 12, 0, 0).unwrap()
}

fn web() -> InstanceId {
    InstanceId::parse("web").unwrap()
}

fn golden() -> PolicyName {
    PolicyName::parse("golden").unwrap()
}

fn history() -> Vec<SnapshotFacts> {
    let fact = |(n, (day, hour, bytes, is_tagged)): (usize, (u32, u32, u64, bool))| {
        let created_at = Utc.with_ymd_and_hms(2026, 11, day, hour, 0, 0).unwrap();
        SnapshotFacts {
            id: SnapshotId::parse(&format!("202611{day:02}-{hour:02}0000-aaaaaaaa")).unwrap(),
            instance: web(),
            policy: Some(golden()),
            created_at,
            order_at: created_at,
            seq: 9 - n as u64,
            state: SnapshotState::Ready,
            tags_unread: false,
            tags: is_tagged.then(|| ("release".to_owned(), String::new())).into_iter().collect(),
            forks: Vec::new(),
            queued: Vec::new(),
            holds: Vec::new(),
            pinned: false,
            unreadable: None,
            reclaimable_bytes: bytes,
        }
    };
    HISTORY.into_iter().enumerate().map(fact).collect()
}

/// Adds the rule.
fn add(rule: &str, counting: Counting, to: &mut Retention) {
    let mut keep = to.keep.take().unwrap_or(Keep { counting, ..Keep::default() });
    match rule {
        "last = 2" => keep.last = 2,
        "within = 24h" => keep.within = Some(TimeDelta::hours(24)),
        "within_daily = 60h" => keep.within_buckets.push((Granularity::Daily, TimeDelta::hours(60))),
        "daily = 2" => keep.buckets.push((Granularity::Daily, 2)),
        "tags = release" => keep.tags.push(TagRule { key: "release".to_owned(), value: None }),
        "max_count = 2" => to.limit.max_count = Some(2),
        "max_age = 30h" => to.limit.max_age = Some(TimeDelta::hours(30)),
        "max_bytes = 30" => to.limit.max_bytes = Some(30),
        "min = 5" => to.limit.min = 5,
        "gone, min = 1" => to.gone = Some(Gone { after: TimeDelta::hours(1), min: 1 }),
        other => panic!("{other}"),
    }
    to.keep = Some(keep).filter(|keep| *keep != Keep { counting, ..Keep::default() });
}

/// What these rules together leave, a letter each, newest first.
fn left(rules: &[&str], counting: Counting) -> String {
    let mut retention = Retention { limit: Limit::default(), ..Retention::default() };
    rules.iter().for_each(|rule| add(rule, counting, &mut retention));
    let letter = |verdict| if verdict == Verdict::Keep { 'k' } else { 'r' };
    planned(&history(), retention).entries.iter().map(|entry| letter(entry.verdict)).collect()
}

fn planned(facts: &[SnapshotFacts], retention: Retention) -> Plan {
    let policy = Policy::new(golden(), retention);
    let around = Circumstances {
        policies: &[policy],
        gone_since: &BTreeMap::from([((golden(), web()), now() - TimeDelta::hours(2))]),
        clock_trusted: true,
        root_proven: true,
        pressure: None,
        foresight: crate::policy::retention::Foresight::All,
    };
    plan(facts, &around, now())
}

/// Holds the table of pairs against the rules.
fn hold(pairs: &[&[&str]], rules: &[(&str, &str)], counting: Counting) {
    assert_eq!(pairs.len(), rules.len() - 1);
    for (at, (row, (one, _))) in pairs.iter().zip(rules).enumerate() {
        let others = &rules[at + 1..];
        assert_eq!(row.len(), others.len());
        for (want, (other, _)) in row.iter().zip(others) {
            assert_eq!(left(&[one, other], counting), *want, "{one}, {other}, {counting:?}");
            assert_eq!(left(&[other, one], counting), *want, "{other}, {one}, {counting:?}");
        }
    }
}

#[test]
fn each_rule_alone_leaves_what_it_says() {
    for (rule, want) in RULES {
        assert_eq!(left(&[rule], Counting::Each), want, "{rule}");
    }
}

#[test]
fn every_pair_of_rules_composes_as_documented() {
    hold(&PAIRS, &RULES, Counting::Each);
}

#[test]
fn every_pair_of_keep_rules_composes_as_documented_in_a_cascade() {
    hold(&CASCADE, &RULES[..5], Counting::Cascade);
}

#[test]
fn the_documents_example_of_counting_is_true() {
    let daily: Vec<SnapshotFacts> = (12..=24)
        .map(|day| {
            let created_at = Utc.with_ymd_and_hms(2026, 11, day, 12, 0, 0).unwrap();
            let id = SnapshotId::parse(&format!("202611{day:02}-120000-aaaaaaaa")).unwrap();
            SnapshotFacts { id, created_at, order_at: created_at, seq: u64::from(day), ..history().remove(0) }
        })
        .collect();
    let kept = |counting| {
        let keep = Keep { counting, buckets: vec![(Granularity::Daily, 3), (Granularity::Weekly, 2)], ..Keep::default() };
        let plan = planned(&daily, Retention { keep: Some(keep), ..Retention::default() });
        let kept = plan.entries.into_iter().filter(|entry| entry.verdict == Verdict::Keep);
        kept.map(|entry| entry.created_at.format("%-d").to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(kept(Counting::Each), "24 23 22");
    assert_eq!(kept(Counting::Cascade), "24 23 22 15 12");
}
