//! Which keep rules claim which snapshots. One run over the rules serves two ends: with all reasons for a plan, and as
//! bare claims where only the verdict counts.

use super::bucket::{Bucket, Moment};
use super::plan::{Reason, Rule, Side};
use super::{Counting, Granularity, Keep, SnapshotFacts, SnapshotState, TagRule};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::HashSet;

/// A snapshot with what is looked at most beside each other: of a long line most of the work is fetching it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member<'a> {
    pub(super) order_at: DateTime<Utc>,
    pub(super) seq: u64,
    pub(super) created_at: DateTime<Utc>,
    pub(super) reclaimable_bytes: u64,
    pub(super) state: SnapshotState,
    pub(super) fact: &'a SnapshotFacts,
}

impl<'a> From<&'a SnapshotFacts> for Member<'a> {
    fn from(fact: &'a SnapshotFacts) -> Self {
        let SnapshotFacts { order_at, seq, created_at, reclaimable_bytes, state, .. } = *fact;
        Self { order_at, seq, created_at, reclaimable_bytes, state, fact }
    }
}

/// The snapshots that one policy took of one instance and that count, newest first.
#[derive(Debug, Clone)]
pub(super) struct Line<'a> {
    pub(super) facts: Vec<&'a Member<'a>>,
    /// Where each stands in the calendar of the policy; empty if no rule asks for it.
    moments: Vec<Moment>,
    /// No clock stepped back: dates are in the order of the snapshots.
    is_steady: bool,
}

impl<'a> Line<'a> {
    pub(super) fn new(facts: Vec<&'a Member<'a>>, keep: Option<&Keep>) -> Self {
        let asks = |keep: &&Keep| !keep.buckets.is_empty() || !keep.within_buckets.is_empty();
        let moments =
            keep.filter(asks).map_or_else(Vec::new, |keep| facts.iter().map(|f| Moment::new(f.created_at, keep.timezone)).collect());
        let is_steady = facts.is_sorted_by(|a, b| a.created_at >= b.created_at);
        Self { facts, moments, is_steady }
    }

    /// The same at another time: those that are dated later do not count.
    pub(super) fn at(&self, now: DateTime<Utc>) -> Self {
        let counts: Vec<bool> = self.facts.iter().map(|f| f.created_at <= now).collect();
        let mut line = self.clone();
        let mut each = counts.iter();
        line.facts.retain(|_| each.next().is_some_and(|counts| *counts));
        let mut each = counts.iter();
        line.moments.retain(|_| each.next().is_some_and(|counts| *counts));
        line
    }

    fn bucket(&self, at: usize, unit: Granularity) -> Option<Bucket> {
        self.moments.get(at).map(|moment| moment.bucket(unit))
    }

    /// Whether the one before this place has the same bucket.
    fn is_alike(&self, at: usize, unit: Granularity) -> bool {
        let before = at.checked_sub(1).and_then(|before| self.moments.get(before));
        before.zip(self.moments.get(at)).is_some_and(|(before, moment)| moment.is_alike(before, unit))
    }

    /// The bucket at this place, if it was not met before.
    fn new_bucket(&self, at: usize, unit: Granularity, seen: &mut Seen) -> Option<Bucket> {
        if self.is_alike(at, unit) { None } else { self.bucket(at, unit).filter(|bucket| seen.is_new(*bucket)) }
    }
}

/// Who is told of claims, in the order of the rules.
pub(super) trait Sink {
    /// The rule claims the snapshot at this place; `until`: time alone ends it then.
    fn claim(&mut self, at: usize, until: Option<DateTime<Utc>>, reason: impl FnOnce() -> Reason);
    /// Whether any rule has claimed it so far.
    fn is_claimed(&self, at: usize) -> bool;
}

/// One keep rule.
#[derive(Debug, Clone, Copy)]
enum Step<'k> {
    Tags(&'k [TagRule]),
    Within(TimeDelta),
    Last(u32),
    WithinBucket(Granularity, TimeDelta),
    Bucket(Granularity, u32),
}

/// A rule, and the place from which on it had no counts left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended<'k> {
    step: Step<'k>,
    used_up_at: Option<usize>,
}

/// The rules from fine to coarse; those by age come before those that count, so that a cascade counts what is left.
fn steps(keep: &Keep) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    if !keep.tags.is_empty() {
        steps.push(Step::Tags(&keep.tags));
    }
    steps.extend(keep.within.map(Step::Within));
    if keep.last > 0 {
        steps.push(Step::Last(keep.last));
    }
    for unit in Granularity::ALL {
        let by_age = keep.within_buckets.iter().filter(|(u, _)| *u == unit);
        steps.extend(by_age.map(|(unit, span)| Step::WithinBucket(*unit, *span)));
        let counted = keep.buckets.iter().filter(|(u, n)| *u == unit && *n > 0);
        steps.extend(counted.map(|(unit, n)| Step::Bucket(*unit, *n)));
    }
    steps
}

/// Buckets that were met. In a line that is steady, one that is left does not come again.
struct Seen {
    last: Option<Bucket>,
    all: Option<HashSet<Bucket>>,
}

impl Seen {
    fn new(is_steady: bool) -> Self {
        Self { last: None, all: (!is_steady).then(HashSet::new) }
    }

    fn is_new(&mut self, bucket: Bucket) -> bool {
        if self.last == Some(bucket) {
            return false;
        }
        self.last = Some(bucket);
        self.all.as_mut().is_none_or(|all| all.insert(bucket))
    }
}

/// Has every rule claim what it claims.
pub(super) fn claim<'k>(keep: &'k Keep, line: &Line<'_>, now: DateTime<Utc>, sink: &mut impl Sink) -> Vec<Ended<'k>> {
    let cascade = keep.counting == Counting::Cascade;
    let run = |step| {
        let used_up_at = match step {
            Step::Tags(tags) => by_tags(tags, line, cascade, sink),
            Step::Within(span) => by_age(span, line, (now, cascade), sink),
            Step::Last(n) => newest(n, line, cascade, sink),
            Step::WithinBucket(unit, span) => buckets_by_age((unit, span), line, (now, cascade), sink),
            Step::Bucket(unit, n) => buckets((unit, n), line, cascade, sink),
        };
        Ended { step, used_up_at }
    };
    steps(keep).into_iter().map(run).collect()
}

fn by_tags(tags: &[TagRule], line: &Line<'_>, cascade: bool, sink: &mut impl Sink) -> Option<usize> {
    for (at, fact) in line.facts.iter().enumerate() {
        let tag = tags.iter().find(|tag| tag.matches(&fact.fact.tags));
        if (tag.is_some() || fact.fact.tags_unread) && !(cascade && sink.is_claimed(at)) {
            let named = |tag: &TagRule| tag.value.as_ref().map_or_else(|| tag.key.clone(), |value| format!("{}={value}", tag.key));
            let reason = || Reason::new(Side::Keep, Rule::Tags);
            sink.claim(at, None, || tag.map_or_else(reason, |tag| reason().with(named(tag))));
        }
    }
    None
}

fn by_age(span: TimeDelta, line: &Line<'_>, (now, cascade): (DateTime<Utc>, bool), sink: &mut impl Sink) -> Option<usize> {
    for (at, fact) in line.facts.iter().enumerate() {
        if age(fact.created_at, now) < span && !(cascade && sink.is_claimed(at)) {
            sink.claim(at, fact.created_at.checked_add_signed(span), || Reason::new(Side::Keep, Rule::Within));
        }
    }
    None
}

fn newest(n: u32, line: &Line<'_>, cascade: bool, sink: &mut impl Sink) -> Option<usize> {
    let mut used = 0;
    for at in 0..line.facts.len() {
        if cascade && sink.is_claimed(at) {
            continue;
        }
        used += 1;
        sink.claim(at, None, || Reason::new(Side::Keep, Rule::Last).counted(used, n));
        if used == n {
            return Some(at);
        }
    }
    None
}

fn buckets_by_age(
    (unit, span): (Granularity, TimeDelta),
    line: &Line<'_>,
    (now, cascade): (DateTime<Utc>, bool),
    sink: &mut impl Sink,
) -> Option<usize> {
    let mut seen = Seen::new(line.is_steady);
    for (at, fact) in line.facts.iter().enumerate() {
        let Some(bucket) = line.new_bucket(at, unit, &mut seen) else { continue };
        if age(fact.created_at, now) < span && !(cascade && sink.is_claimed(at)) {
            let until = fact.created_at.checked_add_signed(span);
            sink.claim(at, until, || Reason { bucket: Some(bucket), ..Reason::new(Side::Keep, Rule::WithinBucket(unit)) });
        }
    }
    None
}

fn buckets((unit, n): (Granularity, u32), line: &Line<'_>, cascade: bool, sink: &mut impl Sink) -> Option<usize> {
    let mut seen = Seen::new(line.is_steady);
    let mut used = 0;
    let reason = |nth: u32, bucket| Reason { bucket, ..Reason::new(Side::Keep, Rule::Bucket(unit)).counted(nth, n) };
    for at in 0..line.facts.len() {
        let Some(bucket) = line.new_bucket(at, unit, &mut seen) else { continue };
        if cascade && sink.is_claimed(at) {
            continue;
        }
        used += 1;
        sink.claim(at, None, || reason(used, Some(bucket)));
        if used == n {
            return Some(at);
        }
    }
    if let Some(oldest) = line.facts.len().checked_sub(1).filter(|at| cascade && !sink.is_claimed(*at)) {
        sink.claim(oldest, None, || reason(used + 1, None));
    }
    None
}

impl Ended<'_> {
    /// Whether what [`Ended::passed`] says of the snapshot at this place it says of the one before too.
    pub(super) fn passes_alike(&self, at: usize, line: &Line<'_>, now: DateTime<Utc>) -> bool {
        let Some(before) = at.checked_sub(1) else { return false };
        let is_used_up = |at| self.used_up_at.is_some_and(|end| at > end);
        match self.step {
            Step::Tags(_) | Step::Within(_) | Step::Last(_) => true,
            Step::Bucket(..) if is_used_up(before) => true,
            Step::Bucket(unit, _) => !is_used_up(at) && line.is_alike(at, unit),
            Step::WithinBucket(..) => self.passed(at, line, now) == self.passed(before, line, now),
        }
    }

    /// Why the rule does not claim the snapshot at this place, which it does not.
    pub(super) fn passed(&self, at: usize, line: &Line<'_>, now: DateTime<Utc>) -> Reason {
        let pass = |rule| Reason::new(Side::Pass, rule);
        let used_up = self.used_up_at.is_some_and(|end| at > end);
        match self.step {
            Step::Tags(_) => pass(Rule::Tags),
            Step::Within(_) => pass(Rule::Within),
            Step::Last(n) => pass(Rule::Last).counted(n, n),
            Step::Bucket(unit, n) if used_up => pass(Rule::Bucket(unit)).counted(n, n),
            Step::Bucket(unit, _) => Reason { bucket: line.bucket(at, unit), ..pass(Rule::Bucket(unit)) },
            Step::WithinBucket(unit, span) => {
                let is_young = line.facts.get(at).is_some_and(|fact| age(fact.created_at, now) < span);
                Reason { bucket: line.bucket(at, unit).filter(|_| is_young), ..pass(Rule::WithinBucket(unit)) }
            }
        }
    }
}

/// How old; never negative, whatever the clock did.
pub(super) fn age(created: DateTime<Utc>, now: DateTime<Utc>) -> TimeDelta {
    (now - created).max(TimeDelta::zero())
}

/// Claims without their reasons.
#[derive(Debug, Default)]
pub(super) struct Bare(pub(super) Vec<bool>);

impl Sink for Bare {
    fn claim(&mut self, at: usize, _: Option<DateTime<Utc>>, _: impl FnOnce() -> Reason) {
        if let Some(claimed) = self.0.get_mut(at) {
            *claimed = true;
        }
    }

    fn is_claimed(&self, at: usize) -> bool {
        self.0.get(at).is_some_and(|claimed| *claimed)
    }
}

/// The claims on one snapshot, with their reasons.
#[derive(Debug, Clone, Default)]
pub(super) struct Claim {
    pub(super) reasons: Vec<Reason>,
    /// Time alone does not end all of them.
    pub(super) is_lasting: bool,
    /// When time alone ends the last of those that it ends.
    pub(super) until: Option<DateTime<Utc>>,
}

/// Of a long line only few are claimed: there is a value for those alone.
#[derive(Debug)]
pub(super) struct Claims(pub(super) Vec<Option<Box<Claim>>>);

impl Sink for Claims {
    fn claim(&mut self, at: usize, until: Option<DateTime<Utc>>, reason: impl FnOnce() -> Reason) {
        if let Some(claim) = self.0.get_mut(at) {
            let claim = claim.get_or_insert_default();
            claim.is_lasting |= until.is_none();
            claim.until = claim.until.max(until);
            claim.reasons.push(reason());
        }
    }

    fn is_claimed(&self, at: usize) -> bool {
        self.0.get(at).is_some_and(Option::is_some)
    }
}
