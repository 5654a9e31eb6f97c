//! Simulation by hand, and by properties against a naive one that plans at every moment.

use super::*;
use crate::ids::{InstanceId, PolicyName, SnapshotId};
use crate::policy::retention::{self, Circumstances};
use crate::policy::{Gone, Granularity, Rhythm, SnapshotFacts, Verdict};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn from() -> DateTime<Utc> {
    at("2026-01-01T00:00:00Z")
}

fn policy(retention: Retention) -> Policy {
    Policy::new(PolicyName::parse("golden").unwrap(), retention)
}

fn every(minutes: i64) -> Schedule {
    Schedule::new(Rhythm::Every(TimeDelta::minutes(minutes)), chrono_tz::Tz::UTC)
}

fn cron(text: &str) -> Schedule {
    let parser = croner::parser::CronParser::builder().seconds(croner::parser::Seconds::Optional).year(croner::parser::Year::Optional);
    Schedule::new(Rhythm::Cron([crate::policy::Times::new(parser.build().parse(text).unwrap())].into()), chrono_tz::Tz::UTC)
}

fn model(hours: i64) -> Model {
    Model {
        instance: InstanceId::parse("web").unwrap(),
        from: from(),
        to: from() + TimeDelta::hours(hours),
        bytes: None,
        forks: None,
        missed_per_million: 0,
        seed: 1,
        every_slot: false,
    }
}

fn keep(last: u32, buckets: &[(Granularity, u32)]) -> Keep {
    Keep { last, buckets: buckets.to_vec(), ..Keep::default() }
}

fn kept(keep: Keep) -> Policy {
    policy(Retention { keep: Some(keep), limit: Limit { min: 1, ..Limit::default() }, gone: None })
}

fn simulated(policy: &Policy, schedule: &Schedule, model: &Model) -> Simulation {
    simulate(policy, schedule, model, &mut |_| {})
}

#[test]
fn five_days_by_hand() {
    // Two a day, at midnight and at noon; the newest, and the newest of each of three days.
    let policy = kept(keep(1, &[(Granularity::Daily, 3)]));
    let bytes = Some(ModelBytes { size: 10, exclusive: 2 });
    let s = simulated(&policy, &every(12 * 60), &Model { bytes, ..model(5 * 24) });
    assert_eq!((s.slots, s.taken, s.missed, s.removed), (10, 10, 0, 7));
    let third = at("2026-01-03T00:00:00Z");
    // One for a day, two for a day, three for three days.
    assert_eq!(s.held, Spread { max: 3, max_at: Some(third), median: 3, mean: 2.4, end: 3 });
    assert_eq!(s.blocked, Spread::default());
    assert_eq!(s.days.iter().map(|day| (day.held, day.held_max)).collect::<Vec<_>>(), [(1, 1), (2, 2), (3, 3), (3, 3), (3, 3)]);
    assert_eq!(s.periods.iter().map(|p| p.label.as_str()).collect::<Vec<_>>(), (1..6).map(|d| format!("2026-01-0{d}")).collect::<Vec<_>>());
    // What all share is there once: 8, and 2 for each.
    let bytes = s.bytes.unwrap();
    assert_eq!((bytes.max, bytes.median, bytes.end, bytes.pinned_max), (14, 14, 14, 0));
    assert_eq!(s.periods.iter().map(|p| p.bytes.unwrap()).collect::<Vec<_>>(), [10, 12, 14, 14, 14]);
    // Days 3, 4 and 5 are there, each by its noon.
    assert_eq!(s.oldest_at, Some(at("2026-01-03T12:00:00Z")));
    assert_eq!(s.steady, Some(Steady { since: third.date_naive(), mean: 3.0 }));
    let tier = |rule: &str, keeps, alone, oldest: &str, reach_hours: i64, first_alone: Option<&str>| Tier {
        rule: rule.to_owned(),
        keeps,
        alone,
        oldest_at: Some(at(oldest)),
        reach_seconds: reach_hours * 3600,
        first_at: from(),
        first_alone_at: first_alone.map(at),
    };
    let last = tier("last", 1, 0, "2026-01-05T12:00:00Z", 0, None);
    let daily = tier("daily", 3, 2, "2026-01-03T12:00:00Z", 48, Some("2026-01-02T00:00:00Z"));
    assert_eq!(s.tiers, [last, daily]);
    let rules = |held: &Held| (held.created_at.to_rfc3339(), held.rules.join("+"));
    let wanted = [
        ("2026-01-03T12:00:00+00:00", "daily"),
        ("2026-01-04T12:00:00+00:00", "daily"),
        ("2026-01-05T12:00:00+00:00", "last+daily+limit.min+newest"),
    ];
    let ends = s.snapshots.iter().map(rules).collect::<Vec<_>>();
    for ((time, rules), (wanted_time, wanted_rules)) in ends.iter().zip(wanted) {
        let set = |rules: &str| rules.split('+').map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!((time.as_str(), set(rules)), (wanted_time, set(wanted_rules)));
    }
    assert_eq!((ends.len(), s.looked_every, s.stopped, s.forks), (3, 1, None, None));
}

#[test]
fn the_first_weekly_monthly_and_yearly_appear_when_finer_rules_have_let_go() {
    let buckets = [(Granularity::Daily, 7), (Granularity::Weekly, 4), (Granularity::Monthly, 3), (Granularity::Yearly, 2)];
    let s = simulated(&kept(keep(0, &buckets)), &cron("0 6 * * *"), &model(24 * 365 * 3));
    let first = |rule: &str| s.tiers.iter().find(|t| t.rule == rule).unwrap().first_alone_at.unwrap();
    assert_eq!(first("daily"), at("2026-01-02T06:00:00Z"), "the first that is not also the newest of its week, month and year");
    // 4 January is a Sunday: its week's newest, one of the newest seven days' until the eleventh.
    assert_eq!(first("weekly"), at("2026-01-11T06:00:00Z"));
    // 31 January is a Saturday, so no weekly: one of seven days until 7 February.
    assert_eq!(first("monthly"), at("2026-02-07T06:00:00Z"));
    // The monthly of December 2026 goes when March has begun; then only the yearly has it.
    assert_eq!(first("yearly"), at("2027-03-01T06:00:00Z"));
    assert_eq!(s.tiers.iter().map(|t| t.rule.as_str()).collect::<Vec<_>>(), ["daily", "weekly", "monthly", "yearly"]);
}

#[test]
fn time_alone_removes_also_when_no_slot_comes_any_more() {
    let within = Keep { within: Some(TimeDelta::hours(60)), ..Keep::default() };
    // At midnight, in January 2026 only.
    let s = simulated(&kept(within), &cron("0 0 0 * 1 * 2026"), &model(24 * 60));
    assert_eq!((s.taken, s.held.max, s.held.end), (31, 3, 1));
    let day = |n: usize| (s.days[n].date.to_string(), s.days[n].held_max, s.days[n].held);
    // Three until noon, then two; on the first of February those of the 30th and 31st until noon; then only the newest.
    assert_eq!(day(30), ("2026-01-31".to_owned(), 3, 2));
    assert_eq!(day(31), ("2026-02-01".to_owned(), 2, 1));
    assert_eq!(day(40), ("2026-02-10".to_owned(), 1, 1));
}

#[test]
fn slots_are_missed_by_chance_and_a_hundred_percent_are_all() {
    let policy = kept(keep(3, &[]));
    let run = |missed_per_million, seed| simulated(&policy, &every(60), &Model { missed_per_million, seed, ..model(24 * 400) });
    let s = run(50_000, 1);
    assert_eq!(s.slots, 9600);
    assert!((400..560).contains(&s.missed), "{}", s.missed);
    assert_eq!(s.taken + s.missed, s.slots);
    assert_ne!(s.missed, run(50_000, 2).missed);
    let none = run(1_000_000, 1);
    assert_eq!((none.taken, none.held.max, none.steady, none.oldest_at), (0, 0, None, None));
    assert!(none.tiers.is_empty() && none.snapshots.is_empty() && none.days.len() == 400);
}

#[test]
fn forks_keep_what_rules_let_go_and_let_go_in_their_time() {
    let policy = kept(keep(1, &[]));
    let forks = Some(ModelForks { per_day_thousandths: 2500, life: TimeDelta::hours(20) });
    let s = simulated(&policy, &every(60), &Model { forks, bytes: Some(ModelBytes { size: 8, exclusive: 8 }), ..model(24 * 100) });
    let forks = s.forks.unwrap();
    assert!((200..=300).contains(&forks.made) && forks.live_max <= 9, "{forks:?}");
    // Each fork is of the one that is kept, and nearly always alone with it.
    assert!(s.blocked.mean > 1.5 && s.blocked.mean < 2.6, "{:?}", s.blocked);
    assert_eq!(s.held.max, s.blocked.max + 1);
    assert_eq!(s.bytes.unwrap().pinned_max, 8 * s.blocked.max);
    assert!(s.snapshots.iter().all(|held| (held.verdict == Verdict::Blocked) == held.rules.is_empty()));
    assert_eq!(s.snapshots.iter().filter(|held| held.forks > 0 || held.verdict == Verdict::Keep).count(), s.snapshots.len());
    // None lives for longer than one and a half of its life.
    assert!(s.days.iter().all(|day| day.oldest_at.is_none_or(|oldest| day.to - oldest <= TimeDelta::hours(31))));
}

#[test]
fn jitter_moves_every_slot_by_the_same() {
    let policy = kept(keep(1, &[]));
    let jittered = Schedule { jitter: TimeDelta::minutes(20), ..every(60) };
    let offset = jittered.offset(&policy.name, &model(1).instance, from());
    let s = simulated(&policy, &jittered, &model(48));
    assert!(offset > TimeDelta::zero());
    assert_eq!(s.snapshots[0].created_at, at("2026-01-02T23:00:00Z") + offset);
    assert_eq!(s.slots, 48);
}

#[test]
fn what_would_never_end_is_stopped_and_says_so() {
    let schedule = every(60);
    let (all, model) = (policy(Retention::default()), model(24 * 365));
    let mut unwatched = |_: DateTime<Utc>, _: &World| {};
    for (most_slots, most_held, why) in [(1000, usize::MAX, "there were 1000 slots"), (u64::MAX, 500, "it holds more than 500 snapshots")] {
        let mut run = Run { most_slots, most_held, ..Run::new(&all, &schedule, &model, &mut unwatched) };
        run.go_on(&mut |_| {});
        let s = run.report();
        let stopped = s.stopped.unwrap();
        assert_eq!(stopped.why, why);
        assert_eq!((stopped.at, s.to), (s.to, from() + TimeDelta::hours(s.slots as i64 - 1)));
        assert_eq!((s.taken, s.held.end, s.snapshots.len() as u64), (s.slots, s.slots, s.slots));
    }
}

#[test]
fn days_are_the_zones_own_where_midnight_does_not_exist_or_a_day_is_missing() {
    use chrono_tz::{America, Pacific};
    let policy = kept(keep(1, &[]));
    // The clocks went from 23:59 to 01:00 on 4 November 2018 in Brazil; Samoa had no 30 December 2011.
    for (zone, start, days) in [(America::Sao_Paulo, "2018-11-01T03:00:00Z", 10), (Pacific::Apia, "2011-12-25T10:00:00Z", 10)] {
        let hourly = Schedule { timezone: zone, ..every(60) };
        let from = at(start);
        let s = simulated(&policy, &hourly, &Model { from, to: from + TimeDelta::days(days), ..model(1) });
        let dates: Vec<_> = s.days.iter().map(|day| day.date).collect();
        assert!(dates.windows(2).all(|pair| pair[0] < pair[1]), "{dates:?}");
        assert_eq!(s.days.last().unwrap().to, s.to);
    }
}

#[test]
fn a_bound_on_the_number_makes_plans_depend_on_earlier_ones() {
    // Three of the four hours are there, and the day before goes; then slots are missed, and it would have had its place.
    let keep = Keep { within: Some(TimeDelta::hours(4)), ..keep(0, &[(Granularity::Daily, 5)]) };
    let bounded = |keep| Retention { keep, limit: Limit { max_count: Some(3), ..Limit::default() }, gone: None };
    assert!(depends_on_earlier_plans(&bounded(Some(keep.clone()))));
    assert!(!depends_on_earlier_plans(&bounded(None)), "the newest three are the newest three");
    assert!(!depends_on_earlier_plans(&Retention { keep: Some(keep), ..Retention::default() }));
}

#[test]
fn many_slots_are_looked_at_now_and_then_only() {
    let year = TimeDelta::days(365);
    let hourly = Model { to: from() + year * 5, ..model(1) };
    assert_eq!(stride(&every(60), &hourly), 1);
    assert_eq!(stride(&every(5), &Model { to: from() + year * 10, ..model(1) }), 11);
    assert_eq!(stride(&cron("0 0 1 1 * *"), &hourly), 1);
}

// Properties.

fn any_keep() -> impl Strategy<Value = Option<Keep>> {
    let count = prop_oneof![3 => Just(0_u32), 4 => 1..5_u32, 1 => 5..12_u32];
    let buckets = [Granularity::Hourly, Granularity::Daily, Granularity::Weekly, Granularity::Monthly];
    let counts = proptest::collection::vec(count.clone(), buckets.len());
    let within = proptest::option::weighted(0.4, (1..100_i64).prop_map(TimeDelta::hours));
    let counting = prop_oneof![2 => Just(Counting::Each), 1 => Just(Counting::Cascade)];
    let keep = (counting, count, within, counts).prop_map(move |(counting, last, within, counts)| Keep {
        counting,
        last,
        within,
        buckets: buckets.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect(),
        ..Keep::default()
    });
    proptest::option::weighted(0.9, keep)
}

fn any_retention() -> impl Strategy<Value = Retention> {
    let max_count = proptest::option::weighted(0.3, 1..12_u32);
    let max_age = proptest::option::weighted(0.4, (1..300_i64).prop_map(TimeDelta::hours));
    (any_keep(), max_count, max_age, 0..4_u32).prop_map(|(keep, max_count, max_age, min)| Retention {
        // Without any rule everything is kept, and that is slow to say.
        limit: Limit { max_count: if keep.is_none() { max_count.or(Some(9)) } else { max_count }, max_age, max_bytes: None, min },
        keep,
        gone: Some(Gone { after: TimeDelta::hours(1), min: 0 }),
    })
}

fn each(mut retention: Retention) -> Retention {
    if let Some(keep) = &mut retention.keep {
        keep.counting = Counting::Each;
    }
    retention
}

fn any_model(hours: i64) -> impl Strategy<Value = Model> {
    let forks =
        (0..9000_u32, 1..80_i64).prop_map(|(per_day_thousandths, life)| ModelForks { per_day_thousandths, life: TimeDelta::hours(life) });
    let forks = proptest::option::weighted(0.7, forks);
    let missed = prop_oneof![Just(0), 0..500_000_u32];
    (forks, missed, any::<u64>()).prop_map(move |(forks, missed_per_million, seed)| Model {
        forks,
        missed_per_million,
        seed,
        ..model(hours)
    })
}

fn any_schedule() -> impl Strategy<Value = Schedule> {
    prop_oneof![
        prop_oneof![Just(60), Just(45), Just(7 * 60), Just(24 * 60)].prop_map(every),
        Just(cron("30 0,1,13 * * *")),
        Just(cron("0 */4 * * MON-FRI")),
    ]
}

/// Numbers and verdicts of all that is held.
type State = Vec<(u64, Verdict)>;

fn state(world: &World) -> State {
    world.iter().map(|(fact, mark)| (fact.seq, mark.verdict)).collect()
}

/// What each plan left, the last one of each moment.
fn states(policy: &Policy, schedule: &Schedule, model: &Model, stride: usize) -> BTreeMap<DateTime<Utc>, State> {
    let mut states = BTreeMap::new();
    let mut watch = |at: DateTime<Utc>, world: &World| drop(states.insert(at, state(world)));
    let mut run = Run { stride, ..Run::new(policy, schedule, model, &mut watch) };
    run.go_on(&mut |_| {});
    states
}

/// The same in the plainest way: everything is planned at every event and at every ten minutes, and carried out.
fn naive(policy: &Policy, schedule: &Schedule, model: &Model) -> BTreeMap<DateTime<Utc>, State> {
    let (chance, mut arrivals) = (Chance::new(model.seed), Arrivals::new(model, Chance::new(model.seed)));
    let mut starts = Vec::new();
    while let Some(starts_at) = arrivals.peek() {
        starts.push((starts_at, arrivals.pop().unwrap()));
    }
    let mut slots = Vec::new();
    let mut slot = model.from - TimeDelta::milliseconds(1);
    while let Some(next) = schedule.slot_after(slot).filter(|next| *next < model.to) {
        slots.push((next, !chance.is_missed(slots.len() as u64, model.missed_per_million)));
        slot = next;
    }
    let ticks = (0..).map(|n| model.from + TimeDelta::minutes(10) * n).take_while(|t| *t < model.to);
    let ends = starts.iter().map(|(_, (end, _))| *end);
    let times: BTreeSet<DateTime<Utc>> = ticks
        .chain(slots.iter().map(|(at, _)| *at))
        .chain(starts.iter().map(|(at, _)| *at))
        .chain(ends)
        .filter(|t| *t < model.to)
        .collect();
    let gone_since = BTreeMap::new();
    let policies = [policy.clone()];
    let around = Circumstances {
        policies: &policies,
        gone_since: &gone_since,
        clock_trusted: true,
        root_proven: true,
        pressure: None,
        foresight: crate::policy::retention::Foresight::None,
    };
    let mut held: Vec<SnapshotFacts> = Vec::new();
    let mut living: Vec<(DateTime<Utc>, u64)> = Vec::new();
    let mut states = BTreeMap::new();
    for now in times {
        let mut verdicts: BTreeMap<SnapshotId, Verdict> = BTreeMap::new();
        let mut prune = |held: &mut Vec<SnapshotFacts>, living: &[(DateTime<Utc>, u64)]| {
            for fact in held.iter_mut() {
                fact.forks = living.iter().filter(|(_, seq)| *seq == fact.seq).map(|(end, _)| end.to_rfc3339()).collect();
            }
            let plan = retention::plan(held, &around, now);
            verdicts = plan.entries.into_iter().map(|entry| (entry.snapshot_id, entry.verdict)).collect();
            held.retain(|fact| verdicts[&fact.id] != Verdict::Remove);
            held.iter().map(|fact| (fact.seq, verdicts[&fact.id])).collect::<State>()
        };
        living.retain(|(end, _)| *end > now);
        prune(&mut held, &living);
        if slots.contains(&(now, true)) {
            let seq = slots.iter().filter(|(at, taken)| *taken && *at <= now).count() as u64;
            let mut world = World::new(policy, model);
            world.take(now);
            let fact = world.iter().next().unwrap().0.clone();
            // Numbers go on, and so do ids.
            let id = format!("{}aaaa{:0>4}", &fact.id.as_str()[..16], digits(seq));
            held.push(SnapshotFacts { seq, id: SnapshotId::parse(&id).unwrap(), ..fact });
        }
        let mut state = prune(&mut held, &living);
        for (_, (end, chance)) in starts.iter().filter(|(at, _)| *at == now) {
            let newest: Vec<u64> = state.iter().rev().filter(|(_, verdict)| *verdict == Verdict::Keep).map(|(seq, _)| *seq).collect();
            if let Some(place) = chance::pick(newest.len(), *chance) {
                living.push((*end, newest[place]));
            }
            state = prune(&mut held, &living);
        }
        for (_, seq) in &living {
            assert!(held.iter().any(|fact| fact.seq == *seq), "a snapshot went while it had a fork");
        }
        states.insert(now, state);
    }
    states
}

fn digits(n: u64) -> String {
    (0..4).rev().map(|place| char::from(b"abcdefghijklmnopqrstuvwxyz234567"[(n >> (5 * place)) as usize & 31])).collect()
}

/// The state that is the last one at or before a time.
fn before(states: &BTreeMap<DateTime<Utc>, State>, at: DateTime<Utc>) -> State {
    states.range(..=at).next_back().map_or_else(Vec::new, |(_, state)| state.clone())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if std::env::var_os("FULL").is_some() { 600 } else { 64 }, ..ProptestConfig::default() })]

    // In a cascade what goes is missed by the rules that reached over it, so that a plan right behind another may say other
    // things of what forks block; the simulation sees that at its next look.
    #[test]
    fn skipping_the_moments_at_which_nothing_changes_is_the_same_as_planning_at_each(
        retention in any_retention().prop_map(each), schedule in any_schedule(), model in any_model(24 * 8),
    ) {
        // Where many are held it looks less often by itself, which is the next property.
        let (policy, model) = (policy(retention), Model { every_slot: true, ..model });
        let (smart, naive) = (states(&policy, &schedule, &model, 1), naive(&policy, &schedule, &model));
        for (at, state) in &naive {
            prop_assert_eq!(&before(&smart, *at), state, "at {}", at);
        }
    }

    #[test]
    fn looking_after_every_nth_slot_sees_the_same_as_looking_after_each(
        retention in any_retention(), schedule in any_schedule(), model in any_model(24 * 40), stride in 2..40_usize,
    ) {
        let policy = policy(retention);
        let every_slot = Model { every_slot: true, ..model.clone() };
        let (all, some) = (states(&policy, &schedule, &every_slot, 1), states(&policy, &schedule, &model, stride));
        for (at, state) in &some {
            prop_assert_eq!(&before(&all, *at), state, "at {}", at);
        }
    }

    #[test]
    fn never_fewer_than_the_least_nor_more_than_all_rules_together(
        retention in any_retention(), schedule in any_schedule(), model in any_model(24 * 60),
    ) {
        let policy = policy(retention);
        let limit = &policy.retention.limit;
        let mut most = u64::from(limit.max_count.unwrap_or(u32::MAX));
        if let Some(keep) = policy.retention.keep.as_ref().filter(|keep| keep.within.is_none()) {
            most = most.min(u64::from(keep.last) + keep.buckets.iter().map(|(_, count)| u64::from(*count)).sum::<u64>());
        }
        let most = most.max(u64::from(limit.min)).max(1) + u64::from(limit.min) + 1;
        let mut taken = 0;
        for state in states(&policy, &schedule, &model, 1).values() {
            taken = state.iter().map(|(seq, _)| *seq).max().unwrap_or(0).max(taken);
            let kept = state.iter().filter(|(_, verdict)| *verdict == Verdict::Keep).count() as u64;
            prop_assert!(kept >= u64::from(limit.min.max(1)).min(taken), "{kept} of {taken}");
            prop_assert!(kept <= most, "{kept}, and {most} are allowed");
        }
    }

    #[test]
    fn what_has_a_fork_is_there_as_long_as_the_fork(
        retention in any_retention(), schedule in any_schedule(), model in any_model(24 * 30), stride in 1..9_usize,
    ) {
        let policy = policy(retention);
        let mut unwatched = |_: DateTime<Utc>, _: &World| {};
        let mut run = Run { stride, ..Run::new(&policy, &schedule, &model, &mut unwatched) };
        while let Some((at, event)) = run.next().filter(|(at, _)| *at < model.to) {
            run.tally.advance(at);
            run.happen(at, event);
            for Reverse((end, seq)) in &run.ends {
                prop_assert!(run.world.iter().any(|(fact, _)| fact.seq == *seq), "number {seq} at {at}, with a fork until {end}");
            }
        }
    }

    #[test]
    fn the_same_seed_is_the_same_and_totals_add_up(
        retention in any_retention(), schedule in any_schedule(), model in any_model(24 * 30),
    ) {
        let policy = policy(retention);
        let s = simulated(&policy, &schedule, &model);
        prop_assert_eq!(&s, &simulated(&policy, &schedule, &model));
        prop_assert_eq!(s.taken, s.removed + s.held.end);
        prop_assert_eq!(s.slots, s.taken + s.missed);
        prop_assert_eq!(s.snapshots.len() as u64, s.held.end);
        prop_assert!(s.held.median <= s.held.max && s.held.mean <= s.held.max as f64);
        prop_assert_eq!(s.days.len(), 30);
        prop_assert_eq!(s.days.iter().map(|day| day.held_max).max(), Some(s.held.max));
        let blocked = s.snapshots.iter().filter(|held| held.verdict == Verdict::Blocked).count() as u64;
        prop_assert_eq!((blocked, s.oldest_at), (s.blocked.end, s.snapshots.first().map(|held| held.created_at)));
        for tier in s.tiers {
            prop_assert_eq!(tier.keeps, s.snapshots.iter().filter(|held| held.rules.contains(&tier.rule)).count() as u64);
            prop_assert!(tier.alone <= tier.keeps && tier.first_alone_at.is_none_or(|at| at >= tier.first_at));
        }
    }
}

#[test]
fn forks_come_as_often_as_the_model_says_and_live_as_long() {
    let forks = Some(ModelForks { per_day_thousandths: 3500, life: TimeDelta::hours(10) });
    let model = Model { forks, ..model(24 * 200) };
    let mut arrivals = Arrivals::new(&model, Chance::new(7));
    let (mut made, mut last, mut lives) = (0, from(), TimeDelta::zero());
    while let Some(starts) = arrivals.peek() {
        let (ends, _) = arrivals.pop().unwrap();
        assert!(starts >= last && starts < model.to);
        assert!((TimeDelta::hours(5)..=TimeDelta::hours(15)).contains(&(ends - starts)));
        (made, last, lives) = (made + 1, starts, lives + (ends - starts));
    }
    assert!((650..=750).contains(&made));
    assert!((580..=620).contains(&(lives.num_minutes() / i64::from(made))));
}

#[test]
fn the_newest_is_forked_most_often() {
    let chance = Chance::new(3);
    let mut picked = [0_u32; 4];
    for n in 0..12_000 {
        let place = chance::pick(4, chance.draw_for_test(n)).unwrap();
        picked[place] += 1;
    }
    // 1, 1/2, 1/3, 1/4 of 25/12.
    for (got, wanted) in picked.into_iter().zip([5760, 2880, 1920, 1440]) {
        assert!(got.abs_diff(wanted) < 200, "{got} for {wanted}");
    }
    assert_eq!((chance::pick(0, 1), chance::pick(1, u64::MAX)), (None, Some(0)));
}
