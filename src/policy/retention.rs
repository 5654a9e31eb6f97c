//! What to keep: a pure function from snapshots, policies and `now` to a [`Plan`]. A plan is a proposal; the cut checks again.
//!
//! How the parts compose, for the snapshots that one policy took of one instance, newest first by (`order_at`, `seq`):
//! 1. Those dated in the future and those in quarantine stay, and count for nothing below.
//! 2. `keep` rules claim snapshots (`claims`), each rule on its own or in a cascade; without any rule all are claimed.
//! 3. `limit` drops claimed ones: beyond `max_count`, not younger than `max_age`, or beyond `max_bytes`. Count and bytes
//!    are those of the snapshot and of all newer ones that are claimed, so each limit draws one line through them.
//! 4. The newest stays in any case, and so do the newest `limit.min`.
//! 5. Once the instance has been gone for `gone.after`, 2 to 4 no longer hold: all but the newest `gone.min` go.
//! 6. If the file system is too full, more of them go (`space`), but for those of 4.
//! 7. What would go stays all the same, as `blocked`, while a fork, a queued fork, a hold or a reader needs it, or while
//!    something about it cannot be told.

use super::claims::{Bare, Claim, Claims, Ended, Line, Member, Sink as _, age, claim};
use super::foresight;
use super::plan::{Plan, PlanEntry, Reason, Reasons, Rule, Side, Verdict};
use super::{Keep, Policy, Retention, SnapshotFacts, SnapshotState};
use crate::ids::{InstanceId, PolicyName};
use chrono::{DateTime, Utc};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// What a plan depends on besides the snapshots.
#[derive(Debug, Clone)]
pub struct Circumstances<'a> {
    /// The policies of the config.
    pub policies: &'a [Policy],
    /// Since when instances are gone, as each policy has noticed.
    pub gone_since: &'a BTreeMap<(PolicyName, InstanceId), DateTime<Utc>>,
    /// Whether the wall clock can be believed; if not, nothing goes by age.
    pub clock_trusted: bool,
    /// Whether the instances root is proven; if not, nothing goes.
    pub root_proven: bool,
    /// Whether to find out when verdicts change, also where that takes many tries.
    pub foresight: bool,
}

/// A verdict before it is known what needs the snapshot.
#[derive(Debug)]
struct Decided {
    remove: bool,
    by_age: bool,
    reasons: Reasons,
    next_change_at: Option<DateTime<Utc>>,
}

impl Decided {
    fn keep(rule: Rule) -> Self {
        Self { remove: false, by_age: false, reasons: vec![Reason::new(Side::Keep, rule)].into(), next_change_at: None }
    }

    fn remove(rule: Rule, by_age: bool) -> Self {
        Self { remove: true, by_age, reasons: vec![Reason::new(Side::Remove, rule)].into(), next_change_at: None }
    }
}

type Group<'a> = (&'a InstanceId, Option<&'a PolicyName>);

/// What becomes of every snapshot. Entries are ordered by instance and policy, newest first.
#[must_use]
pub fn plan(facts: &[SnapshotFacts], around: &Circumstances<'_>, now: DateTime<Utc>) -> Plan {
    let mut entries = Vec::with_capacity(facts.len());
    for ((instance, policy), group) in groups(facts) {
        let known = policy.and_then(|name| around.policies.iter().find(|p| p.name == *name));
        let decided = match (policy, known) {
            (None, _) => decide_unruled(&group, Rule::Manual),
            (Some(_), None) => decide_unruled(&group, Rule::Orphan),
            (Some(name), Some(policy)) => {
                let gone_since = around.gone_since.get(&(name.clone(), instance.clone())).copied();
                decide((policy, gone_since), &group, around.foresight, now)
            }
        };
        entries.extend(group.into_iter().zip(decided).map(|(fact, decided)| entry((instance, policy), fact.fact, decided, around)));
    }
    Plan { hash: hash(&entries), at: now, entries }
}

/// The snapshots of each instance and policy, newest first.
fn groups(facts: &[SnapshotFacts]) -> impl Iterator<Item = (Group<'_>, Vec<Member<'_>>)> {
    let mut groups: BTreeMap<Group<'_>, Vec<Member<'_>>> = BTreeMap::new();
    // Neighbours are mostly of one group: each run of them is looked up once.
    for run in facts.chunk_by(|a, b| a.instance == b.instance && a.policy == b.policy) {
        if let Some(first) = run.first() {
            groups.entry((&first.instance, first.policy.as_ref())).or_default().extend(run.iter().map(Member::from));
        }
    }
    groups.into_iter().map(|(key, mut group)| {
        group.sort_by_key(|fact| Reverse((fact.order_at, fact.seq)));
        (key, group)
    })
}

/// Snapshots taken by hand, or by a policy that is no more, are nobody's to remove, but for those that were marked to go.
fn decide_unruled(group: &[Member<'_>], rule: Rule) -> Vec<Decided> {
    let decide = |fact: &Member<'_>| match fact.state {
        SnapshotState::Expiring => Decided::remove(Rule::Expiring, false),
        _ => Decided::keep(rule),
    };
    group.iter().map(decide).collect()
}

/// Rules 1 to 5 for one group, newest first.
fn decide(
    (policy, gone_since): (&Policy, Option<DateTime<Utc>>),
    group: &[Member<'_>],
    foresight: bool,
    now: DateTime<Utc>,
) -> Vec<Decided> {
    let ready = group.iter().filter(|fact| fact.state == SnapshotState::Ready).collect();
    let all = Line::new(ready, policy.retention.keep.as_ref());
    let rules = Rules { retention: &policy.retention, gone_since };
    let has_future = all.facts.iter().any(|fact| fact.created_at > now);
    let past = has_future.then(|| all.at(now));
    let mut ruled = rules.decide(past.as_ref().unwrap_or(&all), now);
    let mut decided: Vec<Decided> = group
        .iter()
        .map(|fact| match fact.state {
            SnapshotState::Expiring => Decided::remove(Rule::Expiring, false),
            SnapshotState::Quarantined => Decided::keep(Rule::Quarantined),
            SnapshotState::Ready if fact.created_at > now => Decided::keep(Rule::Future),
            SnapshotState::Ready => ruled.next().unwrap_or_else(|| Decided::keep(Rule::Future)),
        })
        .collect();
    if foresight && (has_future || rules.lapses_move_others()) {
        let is_ready = |fact: &Member<'_>| fact.state == SnapshotState::Ready;
        let removed: Vec<bool> = group.iter().zip(&decided).filter(|(f, _)| is_ready(f)).map(|(_, d)| d.remove).collect();
        let mut changes = foresight::next_changes(&rules, &all, &removed, now).into_iter();
        for (_, decided) in group.iter().zip(&mut decided).filter(|(fact, _)| is_ready(fact)) {
            decided.next_change_at = changes.next().flatten();
        }
    }
    decided
}

/// Rules 2 to 5 for one policy and instance.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'p> {
    pub(super) retention: &'p Retention,
    gone_since: Option<DateTime<Utc>>,
}

/// What the limits say of a snapshot.
#[derive(Debug, Clone, Copy)]
struct Judged {
    is_claimed: bool,
    nth: u32,
    bytes: u64,
    is_over_count: bool,
    is_over_bytes: bool,
    is_too_old: bool,
    is_in_min: bool,
    is_newest: bool,
}

/// What was said of the last one that no rule claims: before which place, and whether it was too old.
#[derive(Debug, Default)]
struct Unclaimed {
    before: Option<(usize, bool)>,
    reasons: Reasons,
}

impl Judged {
    fn goes(&self) -> bool {
        (!self.is_claimed || self.is_over_count || self.is_over_bytes || self.is_too_old) && !self.is_in_min && !self.is_newest
    }
}

impl Rules<'_> {
    /// When the instance will have been gone for long enough, or was.
    pub(super) fn gone_at(&self) -> Option<DateTime<Utc>> {
        self.gone_since?.checked_add_signed(self.retention.gone.as_ref()?.after)
    }

    fn is_gone(&self, now: DateTime<Utc>) -> bool {
        let gone = self.retention.gone.as_ref().zip(self.gone_since);
        gone.is_some_and(|(gone, since)| age(since, now) >= gone.after)
    }

    fn gone_min(&self) -> usize {
        self.retention.gone.as_ref().map_or(0, |gone| gone.min as usize)
    }

    /// Whether the end of one snapshot's claim by age can change what becomes of another.
    fn lapses_move_others(&self) -> bool {
        let ends = self.retention.keep.as_ref().filter(|keep| keep.within.is_some() || !keep.within_buckets.is_empty());
        let limit = &self.retention.limit;
        ends.is_some_and(|keep| keep.counting == super::Counting::Cascade || limit.max_count.is_some() || limit.max_bytes.is_some())
    }

    /// Whether each of a line goes: the same as [`Rules::decide`], without its reasons.
    pub(super) fn goes(&self, line: &Line<'_>, now: DateTime<Utc>) -> Vec<bool> {
        if self.is_gone(now) {
            return (0..line.facts.len()).map(|at| at >= self.gone_min()).collect();
        }
        let claimed = match &self.retention.keep {
            None => vec![true; line.facts.len()],
            Some(keep) => {
                let mut bare = Bare(vec![false; line.facts.len()]);
                claim(keep, line, now, &mut bare);
                bare.0
            }
        };
        self.judge(line, claimed.into_iter(), now).map(|judged| judged.goes()).collect()
    }

    /// One after the other: a list of them all is as long again as the plan.
    fn decide<'l>(&'l self, line: &'l Line<'_>, now: DateTime<Utc>) -> Box<dyn Iterator<Item = Decided> + 'l> {
        if self.is_gone(now) {
            let decide = |at| if at < self.gone_min() { Decided::keep(Rule::GoneMin) } else { Decided::remove(Rule::GoneAfter, true) };
            return Box::new((0..line.facts.len()).map(decide));
        }
        let mut claims = Claims(vec![None; line.facts.len()]);
        let ended = match &self.retention.keep {
            Some(keep) => claim(keep, line, now, &mut claims),
            None => {
                (0..line.facts.len()).for_each(|at| claims.claim(at, None, || Reason::new(Side::Keep, Rule::Keep)));
                Vec::new()
            }
        };
        let claimed: Vec<bool> = claims.0.iter().map(Option::is_some).collect();
        let judged = self.judge(line, claimed.into_iter(), now);
        let mut unclaimed = Unclaimed::default();
        let decide = move |(at, (claim, judged)): (usize, (Option<Box<Claim>>, Judged))| match (judged.goes(), claim) {
            (false, claim) => self.kept((at, line), &judged, claim.map(|claim| *claim).unwrap_or_default()),
            (true, Some(claim)) => self.dropped(at, &judged, claim.reasons),
            (true, None) => self.unclaimed((at, line), judged.is_too_old, (&ended, &mut unclaimed), now),
        };
        Box::new(claims.0.into_iter().zip(judged).enumerate().map(decide))
    }

    /// Rules 3 and 4.
    fn judge<'l>(
        &'l self,
        line: &'l Line<'_>,
        claimed: impl Iterator<Item = bool> + 'l,
        now: DateTime<Utc>,
    ) -> impl Iterator<Item = Judged> + 'l {
        let limit = &self.retention.limit;
        let (mut nth, mut bytes) = (0_u32, 0_u64);
        line.facts.iter().zip(claimed).enumerate().map(move |(at, (fact, is_claimed))| {
            if is_claimed {
                nth = nth.saturating_add(1);
                bytes = bytes.saturating_add(fact.reclaimable_bytes);
            }
            Judged {
                is_claimed,
                nth,
                bytes,
                is_over_count: is_claimed && limit.max_count.is_some_and(|max| nth > max),
                is_over_bytes: is_claimed && limit.max_bytes.is_some_and(|max| bytes > max),
                is_too_old: limit.max_age.is_some_and(|max| age(fact.created_at, now) >= max),
                is_in_min: at < limit.min as usize,
                is_newest: at == 0,
            }
        })
    }

    /// One that a rule claims, and a limit drops.
    fn dropped(&self, at: usize, judged: &Judged, claims: Vec<Reason>) -> Decided {
        let limit = &self.retention.limit;
        let mut reasons = Vec::with_capacity(1 + claims.len());
        let against = |rule| Reason::new(Side::Remove, rule);
        if judged.is_over_count {
            reasons.push(against(Rule::MaxCount).counted(judged.nth, limit.max_count.unwrap_or_default()));
        }
        if judged.is_over_bytes {
            reasons.push(against(Rule::MaxBytes).with(format!("{} bytes of {}", judged.bytes, limit.max_bytes.unwrap_or_default())));
        }
        // By age alone, if nothing else speaks against it.
        let by_age = reasons.is_empty();
        if judged.is_too_old {
            reasons.push(against(Rule::MaxAge));
        }
        reasons.extend(claims.into_iter().filter(|reason| reason.rule != Rule::Keep));
        self.removed(at, by_age, reasons.into())
    }

    /// One that no rule claims. Of a long line these are the most, and what is said of one mostly holds of the next.
    fn unclaimed(
        &self,
        (at, line): (usize, &Line<'_>),
        is_too_old: bool,
        (ended, last): (&[Ended<'_>], &mut Unclaimed),
        now: DateTime<Utc>,
    ) -> Decided {
        let is_alike = last.before == Some((at, is_too_old)) && ended.iter().all(|ended| ended.passes_alike(at, line, now));
        if !is_alike {
            let against = [Rule::Keep].into_iter().chain(is_too_old.then_some(Rule::MaxAge)).map(|rule| Reason::new(Side::Remove, rule));
            last.reasons = against.chain(ended.iter().map(|ended| ended.passed(at, line, now))).collect::<Vec<_>>().into();
        }
        last.before = Some((at + 1, is_too_old));
        self.removed(at, self.retention.keep.as_ref().is_some_and(goes_by_age), last.reasons.clone())
    }

    fn removed(&self, at: usize, by_age: bool, reasons: Reasons) -> Decided {
        // Should it still be there then, it is one of those that stay.
        let next_change_at = self.gone_at().filter(|_| at < self.gone_min());
        Decided { remove: true, by_age, reasons, next_change_at }
    }

    fn kept(&self, (at, line): (usize, &Line<'_>), judged: &Judged, claim: Claim) -> Decided {
        let limit = &self.retention.limit;
        let mut reasons = claim.reasons;
        if judged.is_in_min {
            reasons.push(Reason::new(Side::Keep, Rule::Min).counted(u32::try_from(at + 1).unwrap_or(u32::MAX), limit.min));
        }
        if judged.is_newest {
            reasons.push(Reason::new(Side::Keep, Rule::Newest));
        }
        let is_protected = judged.is_in_min || judged.is_newest;
        let lets_go = if claim.is_lasting { None } else { claim.until };
        let too_old_at = limit.max_age.zip(line.facts.get(at)).and_then(|(max, fact)| fact.created_at.checked_add_signed(max));
        let goes_at = [lets_go, too_old_at].into_iter().flatten().min().filter(|_| !is_protected);
        // From then on the newest `gone.min` stay and all others go, whatever the rules say.
        let next_change_at = match self.gone_at() {
            Some(gone_at) => goes_at.filter(|at| *at < gone_at).or((at >= self.gone_min()).then_some(gone_at)),
            None => goes_at,
        };
        Decided { remove: false, by_age: false, reasons: reasons.into(), next_change_at }
    }
}

fn goes_by_age(keep: &Keep) -> bool {
    keep.within.is_some() || !keep.within_buckets.is_empty()
}

/// Rule 7.
fn entry((instance, policy): Group<'_>, fact: &SnapshotFacts, decided: Decided, around: &Circumstances<'_>) -> PlanEntry {
    let mut reasons = decided.reasons;
    let mut verdict = Verdict::Keep;
    if decided.remove {
        let blocks = blocks(fact, decided.by_age, around);
        verdict = Verdict::Remove;
        if !blocks.is_empty() {
            verdict = Verdict::Blocked;
            reasons.extend(blocks);
        }
    }
    let mut forks: Vec<String> = fact.forks.iter().chain(&fact.queued).cloned().collect();
    forks.sort();
    forks.dedup();
    PlanEntry {
        snapshot_id: fact.id.clone(),
        instance: instance.clone(),
        policy: policy.cloned(),
        created_at: fact.created_at,
        holds: fact.holds.clone(),
        verdict,
        reasons,
        forks,
        reclaimable_bytes: fact.reclaimable_bytes,
        next_change_at: decided.next_change_at,
    }
}

fn blocks(fact: &SnapshotFacts, by_age: bool, around: &Circumstances<'_>) -> Vec<Reason> {
    let mut blocks = Vec::new();
    let mut block = |is: bool, rule: Rule, detail: &dyn Fn() -> String| {
        if is {
            blocks.push(Reason::new(Side::Block, rule).with(detail()));
        }
    };
    let holds = || fact.holds.iter().map(AsRef::<str>::as_ref).collect::<Vec<_>>().join(", ");
    block(!fact.forks.is_empty(), Rule::LiveForks, &|| fact.forks.join(", "));
    block(!fact.queued.is_empty(), Rule::Queued, &|| fact.queued.join(", "));
    block(!fact.holds.is_empty(), Rule::Held, &holds);
    block(fact.pinned, Rule::Pinned, &String::new);
    block(fact.unreadable.is_some(), Rule::Unreadable, &|| fact.unreadable.clone().unwrap_or_default());
    block(by_age && !around.clock_trusted, Rule::Clock, &String::new);
    block(!around.root_proven, Rule::Unmounted, &String::new);
    blocks
}

/// How many bytes are hashed at once.
const LINES: usize = 16 << 10;

/// Equal for plans that do the same, whenever they were made: 16 hex digits over all that goes, or would but must stay.
/// What is kept is left out: a snapshot that was taken since changes nothing of what a plan does, unless it pushes another out.
fn hash(entries: &[PlanEntry]) -> String {
    let mut hasher = blake3::Hasher::new();
    // The hasher is quick with much at once only.
    let mut lines = Vec::with_capacity(LINES);
    for entry in entries.iter().filter(|entry| entry.verdict != Verdict::Keep) {
        let verdict: &[u8] = if entry.verdict == Verdict::Remove { b" remove\n" } else { b" blocked\n" };
        lines.extend_from_slice(entry.snapshot_id.as_str().as_bytes());
        lines.extend_from_slice(verdict);
        if lines.len() > LINES - 64 {
            hasher.update(&lines);
            lines.clear();
        }
    }
    hasher.update(&lines);
    hasher.finalize().to_hex().chars().take(16).collect()
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
