//! Retention by properties, against naive models.

use super::tests::*;
use super::*;
use crate::ids::{HoldName, SnapshotId};
use crate::policy::bucket::bucket;
use crate::policy::rules::goes_by_age;
use crate::policy::{Counting, Granularity, Keep, Limit, Retention, TagRule};
use chrono::TimeDelta;
use proptest::prelude::*;

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
                7 => drop(fact.tags.insert("release".to_owned(), String::new())),
                _ => {}
            }
            fact
        };
        raw.into_iter().enumerate().map(make).collect()
    })
}

fn a_limit() -> impl Strategy<Value = Limit> {
    let max_age = prop::option::of((0..60 * DAY).prop_map(secs));
    (prop::option::of(0..10u32), max_age, prop::option::weighted(0.2, 0..20u64), 0..6u32)
        .prop_map(|(max_count, max_age, max_bytes, min)| Limit { max_count, max_age, max_bytes, min })
}

fn a_keep() -> impl Strategy<Value = Keep> {
    let unit = || prop::sample::select(Granularity::ALL.to_vec());
    let zone = prop::sample::select(vec![chrono_tz::Tz::UTC, chrono_tz::Tz::Europe__Vienna, chrono_tz::Tz::America__New_York]);
    let within = prop::option::of((0..30 * DAY).prop_map(secs));
    let counted = prop::collection::vec((unit(), 0..5u32), 0..3);
    let by_age = prop::collection::vec((unit(), (0..60 * DAY).prop_map(secs)), 0..2);
    let tags = prop::option::weighted(0.2, Just(TagRule { key: "release".to_owned(), value: None }));
    let counting = prop::sample::select(vec![Counting::Each, Counting::Cascade]);
    (counting, 0..5u32, within, counted, by_age, tags, zone).prop_map(
        |(counting, last, within, buckets, within_buckets, tags, timezone)| Keep {
            counting,
            last,
            within,
            buckets,
            within_buckets,
            tags: tags.into_iter().collect(),
            timezone,
        },
    )
}

fn each(keep: Keep) -> Keep {
    Keep { counting: Counting::Each, ..keep }
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
    // Each has one byte.
    let too_large = limit.max_bytes.is_some_and(|max| claimed_newer as u64 >= max);
    let too_old = limit.max_age.is_some_and(|max| now() - fact.created_at >= max);
    !is_protected && (!is_claimed(fact) || too_many || too_large || too_old)
}

/// Whether a keep rule claims it when each counts on its own: for buckets, by counting the distinct buckets of all newer ones.
fn naive_claims(facts: &[SnapshotFacts], fact: &SnapshotFacts, keep: &Keep) -> bool {
    let ready = ready(facts);
    let newer: Vec<_> = ready.iter().filter(|f| (f.order_at, f.seq) > (fact.order_at, fact.seq)).collect();
    let newer_buckets =
        |unit| -> std::collections::BTreeSet<_> { newer.iter().map(|f| bucket(unit, keep.timezone, f.created_at)).collect() };
    let is_head = |unit| !newer_buckets(unit).contains(&bucket(unit, keep.timezone, fact.created_at));
    let is_younger = |span: TimeDelta| now() - fact.created_at < span;
    keep.buckets.iter().any(|(unit, count)| newer_buckets(*unit).len() < *count as usize && is_head(*unit))
        || keep.within_buckets.iter().any(|(unit, span)| is_head(*unit) && is_younger(*span))
        || newer.len() < keep.last as usize
        || keep.within.is_some_and(is_younger)
        || keep.tags.iter().any(|tag| fact.tags.contains_key(&tag.key))
}

/// What a cascade claims, by its words: rule after rule, each over the newest of every bucket, passing over what is kept.
fn naive_cascade(facts: &[SnapshotFacts], keep: &Keep) -> Vec<SnapshotId> {
    let ready = ready(facts);
    let mut kept: Vec<usize> = Vec::new();
    let young = |at: usize, span: TimeDelta| now() - ready[at].created_at < span;
    let tagged = |at: usize| keep.tags.iter().any(|tag| ready[at].tags.contains_key(&tag.key));
    kept.extend((0..ready.len()).filter(|at| tagged(*at) || keep.within.is_some_and(|span| young(*at, span))));
    let mut count_among = |heads: Vec<usize>, n: u32| {
        let mut left = n;
        for at in heads {
            if left > 0 && !kept.contains(&at) {
                kept.push(at);
                left -= 1;
            }
        }
        // Without a count of its own a rule has none left.
        if left > 0 && n < u32::MAX && !ready.is_empty() && !kept.contains(&(ready.len() - 1)) {
            kept.push(ready.len() - 1);
        }
    };
    count_among((0..ready.len()).collect(), keep.last);
    for unit in Granularity::ALL {
        let key = |at: usize| bucket(unit, keep.timezone, ready[at].created_at);
        let heads = || (0..ready.len()).filter(|at| (0..*at).all(|newer| key(newer) != key(*at))).collect::<Vec<_>>();
        for (_, span) in keep.within_buckets.iter().filter(|(u, _)| *u == unit) {
            count_among(heads().into_iter().filter(|at| young(*at, *span)).collect(), u32::MAX);
        }
        for (_, n) in keep.buckets.iter().filter(|(u, _)| *u == unit) {
            count_among(heads(), *n);
        }
    }
    kept.into_iter().map(|at| ready[at].id.clone()).collect()
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
    fn keep_rules_claim_what_counting_buckets_claims(facts in history(true), rules in a_keep().prop_map(each)) {
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
        used in prop::option::of(0..100u64),
    ) {
        let min = retention.limit.min.max(1) as usize;
        let pressure = used.map(|used| Pressure { used, size: 100, until: 50, coming: 3, least: 0 });
        let world = World { root_proven, clock_trusted, pressure, ..World::new(retention) };
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

    #[test]
    fn a_cascade_claims_rule_after_rule(facts in history(true), mut rules in a_keep()) {
        rules.counting = Counting::Cascade;
        let plan = World::new(keep(rules.clone())).plan(&facts, now());
        let kept = naive_cascade(&facts, &rules);
        for (at, fact) in ready(&facts).into_iter().enumerate() {
            prop_assert_eq!(goes(&plan, fact), at > 0 && !kept.contains(&fact.id), "{:?}", fact);
        }
    }

    // Without max_count and max_bytes, which give places to the newest claimed: there a new claim may take an older one's place.
    // It holds in a cascade too: what another rule keeps, coarser ones pass over, and so reach further back.
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
        both.within_buckets.extend(more.within_buckets);
        both.tags.extend(more.tags);
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
            retention.limit.max_bytes = None;
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
        facts in history(true), rules in prop::option::of(a_keep()), limit in a_limit(),
        gone_rule in prop::option::of((0..60 * DAY, 0..4u32)), gone_for in prop::option::of(0..30 * DAY),
    ) {
        let gone = gone_rule.and_then(|(after, min)| gone(after, min));
        let mut world = World::new(Retention { keep: rules, gone, limit });
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

    // A verdict is the same however often plans were carried out before. These would break that, and are left out: clocks
    // that step back; a count or a size that the end of `within` makes room in; in a cascade, limits that take the oldest
    // (the rule that kept it keeps the oldest that is left then), and rules by age (while they keep one, the rules that
    // count reach further back than before and after).
    #[test]
    fn the_plan_is_the_same_however_often_it_was_carried_out_before(
        ages in prop::collection::btree_set(0..60 * DAY, 0..40), mut retention in a_retention(), times in prop::collection::vec(0..60 * DAY, 1..4),
    ) {
        if retention.keep.as_ref().is_some_and(goes_by_age) {
            retention.limit.max_count = None;
            retention.limit.max_bytes = None;
        }
        if let Some(keep) = retention.keep.as_mut().filter(|keep| keep.counting == Counting::Cascade) {
            (keep.within, keep.within_buckets) = (None, Vec::new());
            retention.limit = Limit { min: retention.limit.min, ..Limit::default() };
        }
        let world = World::new(retention);
        let ages: Vec<i64> = ages.into_iter().collect();
        let all = facts(&ages);
        let mut left = all.clone();
        let mut times = times;
        times.sort_unstable_by_key(|ago| Reverse(*ago));
        for ago in times {
            let then = now() - secs(ago);
            let there: Vec<_> = left.iter().filter(|f| f.created_at <= then).cloned().collect();
            let gone = removed(&world.plan(&there, then));
            left.retain(|f| !gone.contains(&f.id));
        }
        let keeps = |facts: &[SnapshotFacts]| -> Vec<SnapshotId> {
            let plan = world.plan(facts, now());
            plan.entries.iter().filter(|e| e.verdict == Verdict::Keep).map(|e| e.snapshot_id.clone()).collect()
        };
        prop_assert_eq!(keeps(&all), keeps(&left));
    }

    #[test]
    fn the_hash_is_equal_exactly_if_the_same_goes_or_is_blocked(facts in history(true), retention in a_retention(), later in 0..40 * DAY) {
        let world = World::new(retention);
        let plans = [world.plan(&facts, now()), world.plan(&facts, now() + secs(later))];
        let verdicts = |p: &Plan| facts.iter().map(|f| letter(of(p, &f.id).verdict)).collect::<String>();
        prop_assert_eq!(plans[0].hash == plans[1].hash, verdicts(&plans[0]) == verdicts(&plans[1]));
    }
}
