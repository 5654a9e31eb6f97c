//! Rules 2 to 5 of `retention` for the snapshots that one policy took of one instance.

use super::claims::{Bare, Claim, Claims, Ended, Line, Sink as _, age, claim};
use super::plan::{Reason, Reasons, Rule, Side};
use super::{Counting, Keep, Retention};
use chrono::{DateTime, Utc};

/// A verdict before it is known what needs the snapshot.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) remove: bool,
    pub(super) by_age: bool,
    /// Kept by what the policy wishes, not by what it must have: it may go where space is short.
    pub(super) is_spare: bool,
    pub(super) reasons: Reasons,
    pub(super) next_change_at: Option<DateTime<Utc>>,
}

impl Decided {
    pub(super) fn keep(rule: Rule) -> Self {
        Self { remove: false, by_age: false, is_spare: false, reasons: vec![Reason::new(Side::Keep, rule)].into(), next_change_at: None }
    }

    pub(super) fn remove(rule: Rule, by_age: bool) -> Self {
        Self { remove: true, by_age, is_spare: false, reasons: vec![Reason::new(Side::Remove, rule)].into(), next_change_at: None }
    }
}

/// Rules 2 to 5 for one policy and instance.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'p> {
    pub(super) retention: &'p Retention,
    pub(super) gone_since: Option<DateTime<Utc>>,
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

    /// `keep_all`: somebody wants them all, come what may.
    fn keeps_all(&self) -> bool {
        let limit = &self.retention.limit;
        self.retention.keep.is_none() && limit.max_count.is_none() && limit.max_age.is_none() && limit.max_bytes.is_none()
    }

    fn is_gone(&self, now: DateTime<Utc>) -> bool {
        let gone = self.retention.gone.as_ref().zip(self.gone_since);
        gone.is_some_and(|(gone, since)| age(since, now) >= gone.after)
    }

    fn gone_min(&self) -> usize {
        self.retention.gone.as_ref().map_or(0, |gone| gone.min as usize)
    }

    /// Whether the end of one snapshot's claim by age can change what becomes of another.
    pub(super) fn lapses_move_others(&self) -> bool {
        let ends = self.retention.keep.as_ref().filter(|keep| keep.within.is_some() || !keep.within_buckets.is_empty());
        let limit = &self.retention.limit;
        ends.is_some_and(|keep| keep.counting == Counting::Cascade || limit.max_count.is_some() || limit.max_bytes.is_some())
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
    pub(super) fn decide<'l>(&'l self, line: &'l Line<'_>, now: DateTime<Utc>) -> Box<dyn Iterator<Item = Decided> + 'l> {
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
        Decided { remove: true, by_age, is_spare: false, reasons, next_change_at }
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
        Decided { remove: false, by_age: false, is_spare: !is_protected && !self.keeps_all(), reasons: reasons.into(), next_change_at }
    }
}

pub(super) fn goes_by_age(keep: &Keep) -> bool {
    keep.within.is_some() || !keep.within_buckets.is_empty()
}
