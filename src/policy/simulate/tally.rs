//! Counts over time: how many snapshots, how old, by which rules.

use super::report::{Bytes, Day, ForkTotals, Held, Model, Period, Simulation, Spread, Steady, Tier, days_of, rank};
use super::steady;
use super::world::World;
use crate::ids::PolicyName;
use crate::policy::bucket::bucket;
use crate::policy::{Granularity, Verdict};
use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;
use std::collections::BTreeMap;

/// Up to so many days there is a line for each.
const BY_DAY: usize = 45;
/// Up to so many there is one for each month.
const BY_MONTH: usize = 800;
/// Up to so many there is one for each quarter; then one for each year.
const BY_QUARTER: usize = 2600;

/// A number over time.
#[derive(Debug, Default)]
struct Weighted {
    now: u64,
    max: u64,
    max_at: Option<DateTime<Utc>>,
    /// How long it was each number, milliseconds.
    times: BTreeMap<u64, i64>,
}

impl Weighted {
    fn set(&mut self, n: u64, at: DateTime<Utc>) {
        self.now = n;
        if n > self.max {
            (self.max, self.max_at) = (n, Some(at));
        }
    }

    fn pass(&mut self, ms: i64) {
        *self.times.entry(self.now).or_default() += ms;
    }

    fn spread(&self) -> Spread {
        let all: i64 = self.times.values().sum();
        let mut passed = 0;
        let median = self.times.iter().find(|(_, ms)| {
            passed += *ms;
            2 * passed >= all
        });
        let sum: f64 = self.times.iter().map(|(n, ms)| *n as f64 * *ms as f64).sum();
        let mean = round(sum / (all.max(1) as f64));
        Spread { max: self.max, max_at: self.max_at, median: median.map_or(0, |(n, _)| *n), mean, end: self.now }
    }
}

/// To hundredths: more would be noise.
fn round(x: f64) -> f64 {
    (x * 100.0).round() / 100.0
}

/// The day that it is.
#[derive(Debug)]
struct Today {
    date: NaiveDate,
    end: DateTime<Utc>,
    held_max: u64,
    blocked_max: u64,
    /// Snapshots that rules keep, times milliseconds.
    kept: f64,
    ms: i64,
}

impl Today {
    fn new(start: DateTime<Utc>, tz: Tz, held: u64, blocked: u64) -> Self {
        let date = start.with_timezone(&tz).date_naive();
        Self { date, end: midnight_after(date, start, tz), held_max: held, blocked_max: blocked, kept: 0.0, ms: 0 }
    }
}

/// When the day after `date` begins; where its midnight does not exist, soon after.
fn midnight_after(date: NaiveDate, start: DateTime<Utc>, tz: Tz) -> DateTime<Utc> {
    let midnight = date.succ_opt().map(|next| next.and_time(NaiveTime::MIN));
    let quarters = (0..=4 * 26).map(|n| TimeDelta::minutes(15 * n));
    let mut times = quarters.filter_map(|later| tz.from_local_datetime(&midnight?.checked_add_signed(later)?).earliest());
    times.find(|t| *t > start).map_or(start + TimeDelta::days(1), |t| t.with_timezone(&Utc))
}

/// What a rule has done so far.
#[derive(Debug, Default, Clone)]
struct Seen {
    keeps: u64,
    alone: u64,
    oldest: Option<DateTime<Utc>>,
    reach: TimeDelta,
    first: Option<DateTime<Utc>>,
    first_alone: Option<DateTime<Utc>>,
}

#[derive(Debug)]
pub(super) struct Tally {
    tz: Tz,
    since: DateTime<Utc>,
    slots: u64,
    missed: u64,
    taken: u64,
    removed: u64,
    last_taken: Option<DateTime<Utc>>,
    last_seen: Option<DateTime<Utc>>,
    /// The longest time without a snapshot, or without a plan.
    longest_gap: TimeDelta,
    forks: ForkTotals,
    held: Weighted,
    blocked: Weighted,
    oldest: Option<DateTime<Utc>>,
    today: Today,
    days: Vec<Day>,
    /// How many rules kept on average, by day, since the first snapshot.
    means: Vec<f64>,
    /// By the order of [`World::rules`].
    rules: Vec<String>,
    seen: Vec<Seen>,
}

impl Tally {
    pub(super) fn new(from: DateTime<Utc>, tz: Tz) -> Self {
        Self {
            tz,
            since: from,
            slots: 0,
            missed: 0,
            taken: 0,
            removed: 0,
            last_taken: None,
            last_seen: None,
            longest_gap: TimeDelta::zero(),
            forks: ForkTotals { made: 0, live_max: 0 },
            held: Weighted::default(),
            blocked: Weighted::default(),
            oldest: None,
            today: Today::new(from, tz, 0, 0),
            days: Vec::new(),
            means: Vec::new(),
            rules: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// Up to where it has counted.
    pub(super) fn now(&self) -> DateTime<Utc> {
        self.since
    }

    pub(super) fn slots(&self) -> u64 {
        self.slots
    }

    pub(super) fn missed(&mut self) {
        self.slots += 1;
        self.missed += 1;
    }

    pub(super) fn taken(&mut self, at: DateTime<Utc>) {
        self.slots += 1;
        self.taken += 1;
        self.longest_gap = self.longest_gap.max(self.last_taken.map_or(TimeDelta::zero(), |last| at - last));
        self.last_taken = Some(at);
    }

    pub(super) fn removed(&mut self, snapshots: u64) {
        self.removed += snapshots;
    }

    pub(super) fn forked(&mut self, live: usize) {
        self.forks.made += 1;
        self.forks.live_max = self.forks.live_max.max(live as u64);
    }

    /// Time goes by, and nothing changes until `to`.
    pub(super) fn advance(&mut self, to: DateTime<Utc>) {
        while self.today.end <= to {
            self.pass(self.today.end);
            self.close_day();
            self.today = Today::new(self.since, self.tz, self.held.now, self.blocked.now);
        }
        self.pass(to);
    }

    fn pass(&mut self, to: DateTime<Utc>) {
        let ms = (to - self.since).num_milliseconds();
        self.held.pass(ms);
        self.blocked.pass(ms);
        self.today.kept += (self.held.now - self.blocked.now) as f64 * ms as f64;
        self.today.ms += ms;
        self.since = to;
    }

    fn close_day(&mut self) {
        let today = &self.today;
        if today.ms == 0 {
            return;
        }
        if self.taken > 0 {
            self.means.push(today.kept / today.ms as f64);
        }
        self.days.push(Day {
            date: today.date,
            to: self.since,
            held: self.held.now,
            held_max: today.held_max,
            blocked: self.blocked.now,
            blocked_max: today.blocked_max,
            oldest_at: self.oldest,
        });
    }

    /// What a plan has made of the store.
    pub(super) fn see(&mut self, at: DateTime<Utc>, world: &World) {
        // A rule keeps its place: new ones come behind.
        self.rules.extend(world.rules().iter().skip(self.rules.len()).cloned());
        self.seen.resize(self.rules.len(), Seen::default());
        for seen in &mut self.seen {
            (seen.keeps, seen.alone, seen.oldest) = (0, 0, None);
        }
        let protections = Protections::of(&self.rules);
        let mut blocked = 0;
        for (fact, mark) in world.iter() {
            blocked += u64::from(mark.verdict == Verdict::Blocked);
            let alone = protections.only_claim(mark.rules);
            for (n, seen) in self.seen.iter_mut().enumerate().filter(|(n, _)| mark.rules >> n & 1 == 1) {
                seen.keeps += 1;
                seen.oldest = seen.oldest.or(Some(fact.created_at));
                seen.reach = seen.reach.max(at - fact.created_at);
                seen.first = seen.first.or(Some(at));
                if alone == Some(n) {
                    seen.alone += 1;
                    seen.first_alone = seen.first_alone.or(Some(at));
                }
            }
        }
        self.longest_gap = self.longest_gap.max(self.last_seen.map_or(TimeDelta::zero(), |last| at - last));
        self.last_seen = Some(at);
        self.held.set(world.len() as u64, at);
        self.blocked.set(blocked, at);
        self.oldest = world.iter().next().map(|(fact, _)| fact.created_at);
        self.today.held_max = self.today.held_max.max(self.held.now);
        self.today.blocked_max = self.today.blocked_max.max(blocked);
    }

    pub(super) fn finish(&mut self, end: DateTime<Utc>) {
        self.advance(end);
        self.close_day();
    }

    pub(super) fn report(self, policy: PolicyName, model: &Model, snapshots: Vec<Held>) -> Simulation {
        let (held, blocked) = (self.held.spread(), self.blocked.spread());
        let bytes = model.bytes.map(|bytes| Bytes {
            size: bytes.size,
            exclusive: bytes.exclusive,
            max: bytes.of(held.max),
            median: bytes.of(held.median),
            end: bytes.of(held.end),
            pinned_max: bytes.alone(blocked.max),
        });
        Simulation {
            policy,
            from: model.from,
            to: self.since,
            timezone: self.tz.name().to_owned(),
            seed: model.seed,
            slots: self.slots,
            missed: self.missed,
            taken: self.taken,
            removed: self.removed,
            held,
            blocked,
            steady: self.steady(),
            oldest_at: self.oldest,
            bytes,
            forks: model.forks.map(|_| self.forks),
            tiers: self.tiers(),
            periods: self.periods(model),
            days: self.days,
            snapshots,
            looked_every: 1,
            stopped: None,
        }
    }

    /// The periods compared are as long as a bucket of the coarsest rule, or as the longest time without anything new.
    fn steady(&self) -> Option<Steady> {
        let rule = self.rules.iter().map(|rule| days_of(rule)).max()? as usize;
        let gap = usize::try_from(self.longest_gap.num_seconds().max(0)).unwrap_or(0).div_ceil(86_400);
        let (day, mean) = steady::since(&self.means, rule.max(gap))?;
        let date = self.days.get(self.days.len() - self.means.len() + day)?.date;
        Some(Steady { since: date, mean: round(mean) })
    }

    fn tiers(&self) -> Vec<Tier> {
        let tier = |(rule, seen): (&String, &Seen)| {
            // What only protects says nothing as long as others keep the same.
            let is_worth_a_line = rule != "newest" && !rule.starts_with("limit.") || seen.first_alone.is_some();
            Some(Tier {
                rule: rule.clone(),
                keeps: seen.keeps,
                alone: seen.alone,
                oldest_at: seen.oldest,
                reach_seconds: seen.reach.num_seconds(),
                first_at: seen.first.filter(|_| is_worth_a_line)?,
                first_alone_at: seen.first_alone,
            })
        };
        let mut tiers: Vec<Tier> = self.rules.iter().zip(&self.seen).filter_map(tier).collect();
        tiers.sort_by(|a, b| (rank(&a.rule), &a.rule).cmp(&(rank(&b.rule), &b.rule)));
        tiers
    }

    fn periods(&self, model: &Model) -> Vec<Period> {
        let longest = [(BY_DAY, Granularity::Daily), (BY_MONTH, Granularity::Monthly), (BY_QUARTER, Granularity::Quarterly)];
        let fits = longest.into_iter().find(|(days, _)| self.days.len() <= *days);
        let unit = fits.map_or(Granularity::Yearly, |(_, unit)| unit);
        // The date is the policy's zone's already: it is taken for one of UTC.
        let label = |day: &Day| bucket(unit, Tz::UTC, day.date.and_time(NaiveTime::MIN).and_utc()).to_string();
        let period = |days: &[Day]| {
            let last = days.last()?;
            let held_max = days.iter().map(|day| day.held_max).max()?;
            Some(Period {
                label: label(last),
                held: last.held,
                held_max,
                blocked: last.blocked,
                blocked_max: days.iter().map(|day| day.blocked_max).max()?,
                oldest_at: last.oldest_at,
                to: last.to,
                bytes: model.bytes.map(|bytes| bytes.of(last.held)),
                bytes_max: model.bytes.map(|bytes| bytes.of(held_max)),
            })
        };
        self.days.chunk_by(|a, b| label(a) == label(b)).filter_map(period).collect()
    }
}

/// Which rules only protect what others would let go.
struct Protections {
    newest: u64,
    limits: u64,
}

impl Protections {
    fn of(rules: &[String]) -> Self {
        let bits = |is: fn(&str) -> bool| rules.iter().enumerate().filter(|(_, rule)| is(rule)).fold(0, |bits, (n, _)| bits | 1 << n);
        Self { newest: bits(|rule| rule == "newest"), limits: bits(|rule| rule.starts_with("limit.")) }
    }

    /// The place of the rule that keeps it, if there is one only. What a protection does counts where no rule claims it.
    fn only_claim(&self, rules: u64) -> Option<usize> {
        let claims = [rules & !self.newest & !self.limits, rules & !self.newest, rules];
        let claims = claims.into_iter().find(|bits| *bits != 0)?;
        (claims.count_ones() == 1).then(|| claims.trailing_zeros() as usize)
    }
}
