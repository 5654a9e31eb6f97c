//! What is odd in a configuration as a whole: rules that can never bite, schedules denser than what their rules keep,
//! policies that match nothing. Pure: over the policies alone, or with what somebody saw in the root and in the store.
//!
//! Each lint is one function, and says nothing unless it is sure: a warning that is wrong teaches people to skip them all.
//! What is proven here is proven for snapshots that are taken when they are due; what holds only where each rule counts on
//! its own is left out in a cascade, whose coarser rules reach further back.

use super::units::show_duration;
use crate::ids::{InstanceId, PolicyName};
use crate::policy::bucket::bucket;
use crate::policy::{Candidate, Counting, Granularity, Keep, Limit, Policy, Retention, Schedule, Selected};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, HashSet};

/// The calendar's units: the shortest each can be, and its name in words.
const UNITS: [(Granularity, TimeDelta, &str, &str); 7] = [
    (Granularity::Minutely, TimeDelta::minutes(1), "minutely", "minute"),
    (Granularity::Hourly, TimeDelta::hours(1), "hourly", "hour"),
    (Granularity::Daily, TimeDelta::days(1), "daily", "day"),
    (Granularity::Weekly, TimeDelta::days(7), "weekly", "week"),
    (Granularity::Monthly, TimeDelta::days(28), "monthly", "month"),
    (Granularity::Quarterly, TimeDelta::days(90), "quarterly", "quarter"),
    (Granularity::Yearly, TimeDelta::days(365), "yearly", "year"),
];

/// So many slots of a schedule are looked at.
const SLOTS: usize = 32;
/// Slots of one bucket are counted up to so many.
const MOST_SLOTS: usize = 500;
/// Fewer instances with one snapshot each may be a coincidence.
const GROUPS_OF_ONE: usize = 5;
/// So many slots must have gone by since the one snapshot.
const SLOTS_IN_VAIN: usize = 3;

/// Where schedules are looked at: fixed, so that the same file is always judged in the same way. A Thursday, 2026-01-01.
fn reference() -> DateTime<Utc> {
    DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default()
}

/// What is odd in these policies, one sentence each.
#[must_use]
pub fn lint(policies: &[Policy]) -> Vec<String> {
    let mut all = Vec::new();
    for policy in policies {
        let pace = policy.schedule.as_ref().and_then(Pace::of);
        let retention = &policy.retention;
        let mut found = Vec::new();
        if let Some(keep) = &retention.keep {
            found.extend(used_up(keep, &retention.limit));
            if keep.counting == Counting::Each {
                found.extend(only_the_newest(keep));
                found.extend(out_of_reach(keep, &retention.limit));
                found.extend(pace.iter().flat_map(|pace| finer_than_the_schedule(keep, pace)));
            }
            if let Some(pace) = &pace {
                found.extend(coarser_than_the_schedule(keep, &retention.limit, pace));
                found.extend(within_one_slot(keep, pace));
            }
        }
        found.extend(never_reached(retention));
        if let Some(pace) = &pace {
            found.extend(gone_before_the_next(&retention.limit, pace));
        }
        all.extend(found.into_iter().map(|what| format!("policy `{}`: {what}", policy.name)));
    }
    all
}

/// How a schedule runs.
struct Pace<'a> {
    schedule: &'a Schedule,
    slots: Vec<DateTime<Utc>>,
    shortest: TimeDelta,
}

impl<'a> Pace<'a> {
    /// `None` if it has too few slots to tell.
    fn of(schedule: &'a Schedule) -> Option<Self> {
        let next = |slot: &DateTime<Utc>| schedule.slot_after(*slot).filter(|later| later > slot);
        let slots: Vec<_> = std::iter::successors(next(&reference()), next).take(SLOTS).collect();
        let shortest = slots.iter().zip(slots.iter().skip(1)).map(|(a, b)| *b - *a).min()?;
        Some(Self { schedule, slots, shortest })
    }

    /// How many slots a span has at the most, in words.
    fn slots_in(&self, span: TimeDelta) -> String {
        let end = reference() + span;
        let next = |slot: &DateTime<Utc>| self.schedule.slot_after(*slot).filter(|later| later > slot && *later <= end);
        let counted = std::iter::successors(next(&reference()), next).take(MOST_SLOTS).count();
        if counted < MOST_SLOTS { counted.to_string() } else { format!("{}", span.num_seconds() / self.shortest.num_seconds().max(1)) }
    }
}

fn words(span: TimeDelta) -> String {
    span.to_std().map(show_duration).unwrap_or_default()
}

fn unit(granularity: Granularity) -> (TimeDelta, &'static str, &'static str) {
    let (_, least, rule, word) = UNITS.iter().find(|(unit, ..)| *unit == granularity).copied().unwrap_or(UNITS[0]);
    (least, rule, word)
}

fn rules(keep: &Keep) -> usize {
    let by_age = usize::from(keep.within.is_some()) + keep.within_buckets.len();
    keep.buckets.len() + usize::from(keep.last > 0) + by_age + usize::from(!keep.tags.is_empty())
}

/// Rules that keep as many as there are: by age, and by tags.
fn is_open(keep: &Keep) -> bool {
    keep.within.is_some() || !keep.within_buckets.is_empty() || !keep.tags.is_empty()
}

/// The most snapshots of an instance that the rules can claim; `None` if that depends on how many are taken.
fn most_claimed(keep: &Keep) -> Option<u64> {
    let counts = keep.buckets.iter().map(|(_, n)| u64::from(*n)).sum::<u64>() + u64::from(keep.last);
    (!is_open(keep)).then_some(counts)
}

/// A rule with a count of one, beside others: people who write `yearly = 1` want one of last year.
fn only_the_newest(keep: &Keep) -> Vec<String> {
    if rules(keep) < 2 {
        return Vec::new();
    }
    let says = |rule: &str| format!("`{rule} = 1` adds nothing: it keeps the newest snapshot, which stays in any case");
    let last = (keep.last == 1).then(|| says("last"));
    last.into_iter().chain(keep.buckets.iter().filter(|(_, n)| *n == 1).map(|(g, _)| says(unit(*g).1))).collect()
}

/// `last` alone takes all that `max_count` allows.
fn used_up(keep: &Keep, limit: &Limit) -> Option<String> {
    let max = limit.max_count?;
    if keep.last > max {
        return Some(format!("`last = {}` is more than `max_count = {max}`: the newest {max} are kept, and nothing else", keep.last));
    }
    let is_last_of_many = keep.last == max && rules(keep) > 1;
    is_last_of_many.then(|| format!("`last = {max}` uses up `max_count = {max}`: the other rules never get to keep anything"))
}

/// Buckets further back than `max_age` reaches. The k-th bucket from now ended at least k - 2 of its lengths ago.
fn out_of_reach(keep: &Keep, limit: &Limit) -> Vec<String> {
    let Some(max_age) = limit.max_age else { return Vec::new() };
    let mut found = Vec::new();
    for (granularity, n) in keep.buckets.iter().filter(|(_, n)| *n > 1) {
        let (least, rule, word) = unit(*granularity);
        let seconds = (max_age.num_seconds(), least.num_seconds().max(1));
        let reach = seconds.0.div_euclid(seconds.1) + i64::from(seconds.0.rem_euclid(seconds.1) > 0) + 1;
        if max_age < least {
            found.push(format!("`{rule} = {n}` cannot do what it says: `max_age = {}` is less than a {word}", words(max_age)));
        } else if i64::from(*n) > reach {
            found.push(format!("`{rule} = {n}` never keeps more than {reach}: what is older than `max_age = {}` goes", words(max_age)));
        }
    }
    found
}

/// No two snapshots ever fall into one bucket of a coarser rule either: the finer one is the same under another name.
fn finer_than_the_schedule(keep: &Keep, pace: &Pace<'_>) -> Vec<String> {
    let are_alone = |granularity: Granularity| {
        let keys: HashSet<_> = pace.slots.iter().map(|slot| bucket(granularity, keep.timezone, *slot)).collect();
        keys.len() == pace.slots.len()
    };
    let same_as = |finer: Granularity| UNITS.iter().rev().find(|(coarser, ..)| *coarser > finer && are_alone(*coarser));
    let mut found = Vec::new();
    for (granularity, n) in &keep.buckets {
        if let Some((_, _, coarser, word)) = same_as(*granularity) {
            let rule = unit(*granularity).1;
            found.push(format!("`{rule} = {n}` is the same as `{coarser} = {n}`: the schedule never gives two snapshots in one {word}"));
        }
    }
    found
}

/// Many snapshots in each bucket of the finest rule, and no other that keeps more than one of them: all but the newest of
/// a bucket go at the next prune.
fn coarser_than_the_schedule(keep: &Keep, limit: &Limit, pace: &Pace<'_>) -> Option<String> {
    // `limit.min` keeps the newest as `last` does.
    let keeps_some = is_open(keep) || keep.last.max(limit.min) > 1;
    let (granularity, n) = keep.buckets.iter().min_by_key(|(granularity, _)| *granularity)?;
    let (least, rule, word) = unit(*granularity);
    if keeps_some || pace.shortest * 2 > least {
        return None;
    }
    let slots = pace.slots_in(least);
    Some(format!(
        "the schedule gives up to {slots} snapshots a {word}, and `{rule} = {n}` is the finest rule: all but the newest of a {word} go at the \
         next prune; add `last` or `within`, or take fewer"
    ))
}

/// `within` is no longer than the time between two snapshots.
fn within_one_slot(keep: &Keep, pace: &Pace<'_>) -> Option<String> {
    let within = keep.within.filter(|within| *within <= pace.shortest)?;
    let apart = words(pace.shortest);
    Some(format!("`within = {}` adds nothing: snapshots are {apart} apart, and the newest stays in any case", words(within)))
}

/// Caps above what the rules can ever keep.
fn never_reached(retention: &Retention) -> Vec<String> {
    let mut found = Vec::new();
    let limit = &retention.limit;
    let claimed = retention.keep.as_ref().and_then(most_claimed);
    if let (Some(max), Some(most)) = (limit.max_count, claimed)
        && u64::from(max) >= most
    {
        found.push(format!("`max_count = {max}` never bites: the keep rules keep no more than {most}"));
    }
    if let (Some(max), Some(max_age), None) = (limit.max_count, limit.max_age, &retention.keep)
        && limit.min >= max
    {
        let age = words(max_age);
        found.push(format!("`max_age = {age}` never bites: `min = {}` keeps all that `max_count = {max}` allows, at any age", limit.min));
    }
    let caps = [claimed, limit.max_count.map(u64::from)].into_iter().flatten().min();
    if let (Some(gone), Some(most)) = (&retention.gone, caps.map(|cap| cap.max(u64::from(limit.min))))
        && u64::from(gone.min) >= most
    {
        let after = words(gone.after);
        found
            .push(format!("`gone.after = {after}` never bites: `gone.min = {}` keeps all, for there are never more than {most}", gone.min));
    }
    found
}

/// Each snapshot is too old before the next one comes.
fn gone_before_the_next(limit: &Limit, pace: &Pace<'_>) -> Option<String> {
    let max_age = limit.max_age.filter(|max| *max <= pace.shortest)?;
    let stays = if limit.min > 1 { format!("only the newest {} stay", limit.min) } else { "only the newest stays".to_owned() };
    Some(format!("`max_age = {}` is no longer than the time between two snapshots ({}): {stays}", words(max_age), words(pace.shortest)))
}

/// The snapshots that one policy has of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The policy.
    pub policy: PolicyName,
    /// The instance.
    pub instance: InstanceId,
    /// When each was taken.
    pub taken: Vec<DateTime<Utc>>,
}

/// What is odd in these policies, given the instances that there are.
#[must_use]
pub fn lint_instances(policies: &[Policy], instances: &[Candidate]) -> Vec<String> {
    if instances.is_empty() && !policies.is_empty() {
        return vec!["there are no instances yet: no policy matches anything".to_owned()];
    }
    policies.iter().filter_map(|policy| matches_nothing(policy, instances)).collect()
}

fn matches_nothing(policy: &Policy, instances: &[Candidate]) -> Option<String> {
    let select = &policy.select;
    if instances.iter().any(|candidate| select.selects(candidate) != Selected::No) {
        return None;
    }
    let fits = |with_forks: bool| instances.iter().filter(|c| (with_forks || !c.is_fork) && select.matches(&c.instance, false)).count();
    let why = match (fits(false), fits(true)) {
        (0, 0) if instances.iter().any(|c| select.instances.is_match(c.instance.as_str())) => {
            "`exclude` leaves out all that `instances` matches".to_owned()
        }
        (0, 0) => "no name fits".to_owned(),
        (0, forks) if !select.include_forks => format!("all whose names fit are forks ({forks}), and it has no `include_forks = true`"),
        (named, _) => format!("of those whose names fit ({named}) none has the tags"),
    };
    Some(format!("policy `{}` matches no instance: {why}", policy.name))
}

/// What is odd in these policies, given the snapshots that there are.
///
/// Keep rules count for each instance on its own. Where names of instances are made anew for every run (`ci-7f3a`), every
/// instance is a group of one: its one snapshot is the newest, the newest stays for ever, and the store only grows. People
/// see that late, for every rule looks right. The sign: many instances with one snapshot each, none with a second, although
/// slots have gone by since. Not where the policy keeps one only, nor where `gone` takes the last one too.
#[must_use]
pub fn lint_groups(policies: &[Policy], groups: &[Group], now: DateTime<Utc>) -> Vec<String> {
    let mut of: BTreeMap<&PolicyName, Vec<&Group>> = BTreeMap::new();
    for group in groups {
        of.entry(&group.policy).or_default().push(group);
    }
    let mut found = Vec::new();
    for policy in policies {
        let Some(groups) = of.get(&policy.name) else { continue };
        found.extend(groups_of_one(policy, groups, now));
    }
    found
}

fn groups_of_one(policy: &Policy, groups: &[&Group], now: DateTime<Utc>) -> Option<String> {
    let retention = &policy.retention;
    let keeps_one = retention.limit.max_count == Some(1) || retention.keep.as_ref().and_then(most_claimed) == Some(1);
    let lets_go = retention.gone.as_ref().is_some_and(|gone| gone.min == 0);
    if keeps_one || lets_go || groups.len() < GROUPS_OF_ONE {
        return None;
    }
    let schedule = policy.schedule.as_ref()?;
    let had_time = |taken: &DateTime<Utc>| {
        let slots = std::iter::successors(schedule.slot_after(*taken), |slot| schedule.slot_after(*slot));
        slots.take_while(|slot| *slot < now).take(SLOTS_IN_VAIN).count() == SLOTS_IN_VAIN
    };
    let is_alone = |group: &&Group| matches!(group.taken.as_slice(), [only] if had_time(only));
    groups.iter().all(is_alone).then(|| {
        format!(
            "policy `{}` has one snapshot of each of {} instances, and two of none: rules count per instance, so each of these is the newest and \
             stays for ever; if names are made anew for each run, let [policy.gone] with min = 0 take them",
            policy.name,
            groups.len()
        )
    })
}

#[cfg(test)]
#[path = "lint_tests.rs"]
mod tests;
