//! Retention against another program: the moments and policies that both are asked about, and the comparison. A
//! difference is let pass only if it is of a known class: then our own engine, asked the bent question that the class
//! says the peer answers, must give the peer's answer for every one of the moments.

use chrono::{DateTime, NaiveDateTime, Offset as _, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;
use snapkeep::ids::{InstanceId, PolicyName, SnapshotId};
use snapkeep::policy::retention::{Circumstances, plan};
use snapkeep::policy::{Granularity, Keep, Limit, Policy, Retention, Rule, Side, SnapshotFacts, SnapshotState, TagRule, Verdict};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// How many moments are asked about at once.
pub const STAMPS: usize = 60;
/// The tag that policies may keep.
pub const TAG: &str = "release";

pub const UTC: Tz = Tz::UTC;
pub const BERLIN: Tz = Tz::Europe__Berlin;
pub const NEW_YORK: Tz = Tz::America__New_York;
/// Its hours begin at a quarter to, and it has no summer time.
pub const KATHMANDU: Tz = Tz::Asia__Kathmandu;

/// Splitmix64: the same numbers on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: i64) -> i64 {
        i64::try_from(self.next() % u64::try_from(n).unwrap()).unwrap()
    }

    pub fn is(&mut self, percent: i64) -> bool {
        self.below(100) < percent
    }

    /// Between 1 and `most`, small ones more often.
    pub fn count(&mut self, most: i64) -> u32 {
        let cap = 1 + self.below(most);
        u32::try_from(1 + self.below(cap)).unwrap()
    }

    /// So many seconds, each order of magnitude as often: from two hours to seven years.
    pub fn age(&mut self) -> i64 {
        let doublings = u32::try_from(self.below(15)).unwrap();
        let from = 7200_i64 << doublings;
        from + self.below(from)
    }
}

/// One moment at which a snapshot was taken.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Its place in the order, oldest first.
    pub n: usize,
    pub at: DateTime<Utc>,
    pub is_tagged: bool,
    order_at: DateTime<Utc>,
}

pub fn time(text: &str) -> DateTime<Utc> {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S").unwrap().and_utc()
}

/// New Year (ISO weeks that span it and that do not), leap days, ends of months, both days of summer time on both sides
/// of the Atlantic with the hour that comes twice, seconds that come more than once.
const EDGES: &[&str] = &[
    "2018-12-31T00:00:00",
    "2020-02-29T12:00:00",
    "2020-12-31T23:59:59",
    "2021-01-01T00:00:00",
    "2021-01-03T23:59:59",
    "2021-01-04T00:00:00",
    "2022-12-31T12:00:00",
    "2023-01-01T12:00:00",
    "2023-12-31T23:59:59",
    "2024-01-01T00:00:00",
    "2024-02-28T23:59:59",
    "2024-02-29T23:59:59",
    "2024-03-01T00:00:00",
    "2024-03-10T06:59:59",
    "2024-03-10T07:00:00",
    "2024-03-31T00:59:59",
    "2024-03-31T01:00:00",
    "2024-03-31T23:30:00",
    "2024-06-15T12:00:00",
    "2024-06-15T12:00:00",
    "2024-06-30T23:59:59",
    "2024-10-27T00:10:00",
    "2024-10-27T00:30:30",
    "2024-10-27T01:30:20",
    "2024-10-27T01:45:00",
    "2024-10-27T02:05:00",
    "2024-11-03T05:10:00",
    "2024-11-03T05:30:30",
    "2024-11-03T06:30:20",
    "2024-11-03T06:45:00",
    "2024-12-29T23:59:59",
    "2024-12-30T00:00:00",
    "2024-12-31T23:59:59",
    "2025-01-01T00:00:00",
    "2025-03-09T06:59:59",
    "2025-03-09T07:00:00",
    "2025-03-30T00:59:59",
    "2025-03-30T01:00:00",
];

/// Named sets of moments, with the newest of each.
const SETS: &[(&str, &str)] = &[
    ("autumn", "2024-11-03T20:17:23"),
    ("newyear", "2025-01-02T09:31:05"),
    ("spring", "2025-03-31T15:02:59"),
    // Its two newest are dated far ahead of anybody's clock.
    ("future", "2024-10-27T12:17:23"),
];

pub struct Set {
    pub name: &'static str,
    pub stamps: Vec<Stamp>,
}

pub fn sets(names: &[&str]) -> Vec<Set> {
    SETS.iter().enumerate().filter(|(_, (name, _))| names.contains(name)).map(|(n, (name, newest))| set(name, newest, n as u64)).collect()
}

fn set(name: &'static str, newest: &str, seed: u64) -> Set {
    let mut random = Random(seed);
    let newest = time(newest);
    // The newest but one has its second with two others.
    let thrice = newest - TimeDelta::minutes(40);
    let mut moments: Vec<_> =
        EDGES.iter().map(|text| time(text)).filter(|at| *at < thrice).chain([newest, thrice, thrice, thrice]).collect();
    if name == "future" {
        moments.extend([time("2199-01-01T00:30:00"), time("2199-01-01T23:30:00")]);
    }
    while moments.len() < STAMPS {
        // Half of them within two days, the others in ever wider steps; some in the minute of another.
        let age = if random.is(50) { random.below(2 * 86_400) } else { random.age() };
        let at = newest - TimeDelta::seconds(1 + age);
        let is_free = |at: DateTime<Utc>| !moments.contains(&at) && !comes_twice(at, BERLIN) && !comes_twice(at, NEW_YORK);
        let (at, neighbour) = (Some(at).filter(|at| is_free(*at)), at - TimeDelta::seconds(20));
        let neighbour = Some(neighbour).filter(|at| random.is(10) && is_free(*at));
        moments.extend(at.into_iter().chain(neighbour).take(STAMPS - moments.len()));
    }
    moments.sort_unstable();
    let is_alone = |at: &DateTime<Utc>| moments.iter().filter(|other| *other == at).count() == 1;
    let stamp = |(n, at): (usize, &DateTime<Utc>)| Stamp { n, at: *at, is_tagged: random.is(12) && is_alone(at), order_at: *at };
    Set { name, stamps: moments.iter().enumerate().map(stamp).collect() }
}

/// How far ahead of UTC the zone is then, in seconds.
pub fn offset(at: DateTime<Utc>, zone: Tz) -> i64 {
    i64::from(at.with_timezone(&zone).offset().fix().local_minus_utc())
}

/// Whether the clocks of the zone show this moment a second time, or will.
fn comes_twice(at: DateTime<Utc>, zone: Tz) -> bool {
    zone.from_local_datetime(&at.with_timezone(&zone).naive_local()).latest()
        != zone.from_local_datetime(&at.with_timezone(&zone).naive_local()).earliest()
}

fn is_second_time(at: DateTime<Utc>, zone: Tz) -> bool {
    comes_twice(at, zone) && zone.from_local_datetime(&at.with_timezone(&zone).naive_local()).latest() == Some(at.with_timezone(&zone))
}

/// What both are asked.
#[derive(Debug, Clone)]
pub struct Question {
    pub stamps: Vec<Stamp>,
    pub keep: Keep,
    pub now: DateTime<Utc>,
    /// The rules with the peer's lengths of months and years.
    pub calendar: Keep,
    pub newest_stays: bool,
    /// Those that a bend has answered already.
    pub answered: Vec<(usize, bool)>,
}

impl Question {
    pub fn new(stamps: &[Stamp], keep: Keep, now: DateTime<Utc>) -> Self {
        Self { stamps: stamps.to_vec(), calendar: keep.clone(), keep, now, newest_stays: true, answered: Vec::new() }
    }

    /// Whether we keep each.
    pub fn answer(&self) -> Vec<bool> {
        let retention = Retention { keep: Some(self.keep.clone()), limit: Limit::default(), gone: None };
        let policies = [policy(retention)];
        let around = Circumstances {
            policies: &policies,
            gone_since: &BTreeMap::new(),
            clock_trusted: true,
            root_proven: true,
            pressure: None,
            foresight: snapkeep::policy::retention::Foresight::None,
        };
        let facts: Vec<_> = self.stamps.iter().map(fact).collect();
        let places: BTreeMap<_, _> = facts.iter().map(|fact| (&fact.id, fact.seq)).collect();
        let mut kept = vec![false; STAMPS];
        for entry in plan(&facts, &around, self.now).entries {
            let by_rule = entry.reasons.iter().any(|reason| reason.side == Side::Keep && reason.rule != Rule::Newest);
            let place = usize::try_from(*places.get(&entry.snapshot_id).unwrap()).unwrap();
            *kept.get_mut(place).unwrap() = entry.verdict == Verdict::Keep && (self.newest_stays || by_rule);
        }
        for (place, is_kept) in &self.answered {
            *kept.get_mut(*place).unwrap() = *is_kept;
        }
        kept
    }
}

fn policy(retention: Retention) -> Policy {
    Policy::new(PolicyName::parse("p").unwrap(), retention)
}

fn fact(stamp: &Stamp) -> SnapshotFacts {
    let letter = |place: usize| char::from(b'a' + u8::try_from(stamp.n / 26_usize.pow(u32::try_from(place).unwrap()) % 26).unwrap());
    let letters: String = (0..8).rev().map(letter).collect();
    let tag = stamp.is_tagged.then(|| (TAG.to_owned(), String::new()));
    SnapshotFacts {
        id: SnapshotId::parse(&format!("20261124-090347-{letters}")).unwrap(),
        instance: InstanceId::parse("web").unwrap(),
        policy: Some(PolicyName::parse("p").unwrap()),
        created_at: stamp.at,
        order_at: stamp.order_at,
        seq: stamp.n as u64,
        state: SnapshotState::Ready,
        tags_unread: false,
        tags: tag.into_iter().collect(),
        forks: Vec::new(),
        queued: Vec::new(),
        holds: Vec::new(),
        pinned: false,
        unreadable: None,
        reclaimable_bytes: 1,
    }
}

/// Counts for a policy: `last`, then of each unit that the peer has.
pub fn counts(random: &mut Random, units: &[Granularity]) -> Keep {
    let most = |unit| match unit {
        Granularity::Minutely | Granularity::Hourly => 45,
        Granularity::Daily => 30,
        Granularity::Weekly => 20,
        Granularity::Monthly => 26,
        Granularity::Quarterly | Granularity::Yearly => 9,
    };
    let last = if random.is(40) { random.count(12) } else { 0 };
    let mut counted = |unit: &Granularity| random.is(40).then(|| (*unit, random.count(most(*unit))));
    Keep { last, buckets: units.iter().filter_map(&mut counted).collect(), ..Keep::default() }
}

/// Whether a line drawn `age` before `now` is far from all of these moments, and from an hour that comes twice.
pub fn is_clear(stamps: &[Stamp], now: DateTime<Utc>, age: TimeDelta, zone: Tz) -> bool {
    stamps.iter().all(|stamp| {
        let near = if comes_twice(stamp.at, zone) { TimeDelta::hours(2) } else { TimeDelta::minutes(10) };
        (now - stamp.at - age).abs() > near
    })
}

/// A directory in memory where there is one: what is asked is no matter of disks.
pub fn in_memory() -> tempfile::TempDir {
    if std::path::Path::new("/dev/shm").is_dir() { tempfile::tempdir_in("/dev/shm") } else { tempfile::tempdir() }.unwrap()
}

// ------------------------------------------------------------ classes of differences

/// A class of differences: its name, and the question that the peer answers instead of ours.
pub type Class = (&'static str, fn(Question) -> Question);

/// The peer counts hours and minutes by the zone's clocks, on which one hour of the year comes twice; we by UTC.
pub const TWICE: Class = ("an hour that comes twice", |mut q| {
    let zone = q.keep.timezone;
    q.stamps.iter_mut().filter(|stamp| is_second_time(stamp.at, zone)).for_each(|stamp| stamp.at -= TimeDelta::hours(1));
    q
});

/// In a zone that is a broken number of hours ahead the peer's hours begin with the zone's.
pub const BROKEN: Class = ("hours of a zone that is not whole hours ahead", |mut q| {
    let zone = std::mem::replace(&mut q.keep.timezone, UTC);
    q.now += TimeDelta::seconds(offset(q.now, zone));
    for stamp in &mut q.stamps {
        stamp.at += TimeDelta::seconds(offset(stamp.at, zone));
        stamp.order_at = stamp.at;
    }
    q
});

/// To the peer one that is dated in the future is the newest; to us it is none.
pub const FUTURE: Class = ("dated in the future", |mut q| {
    let newest = q.stamps.iter().map(|stamp| stamp.at).max().unwrap();
    let ahead = (newest - q.now).max(TimeDelta::zero());
    let spans = |keep: &mut Keep| {
        keep.within.iter_mut().chain(keep.within_buckets.iter_mut().map(|(_, span)| span)).for_each(|span| *span += ahead);
    };
    spans(&mut q.keep);
    spans(&mut q.calendar);
    q.now += ahead;
    q
});

/// To the peer months and years are the calendar's; to us a month is 30.44 days and a year 365.25.
pub const CALENDAR: Class = ("months and years of the calendar", |mut q| {
    q.keep = Keep { timezone: q.keep.timezone, ..q.calendar.clone() };
    q
});

/// We never remove the newest.
pub const NEWEST: Class = ("the newest stays", |mut q| {
    q.newest_stays = false;
    q
});

/// To the peer those of one second are one: of them `last` counts, and keeps, the newest only.
pub const SECONDS: Class = ("last counts seconds", |mut q| {
    let newest_of_second = |n: usize, at| q.stamps.iter().all(|other| other.at != at || other.n <= n);
    let (heads, others): (Vec<Stamp>, Vec<Stamp>) = q.stamps.iter().copied().partition(|stamp| newest_of_second(stamp.n, stamp.at));
    let is_young = |stamp: &Stamp| q.keep.within.is_some_and(|span| q.now - stamp.at < span);
    q.answered.extend(others.iter().map(|stamp| (stamp.n, is_young(stamp))));
    q.stamps = heads;
    q
});

/// What the peer keeps, with those of one second in our order; and how many decisions that changes.
fn in_order(stamps: &[Stamp], theirs: &[bool]) -> (Vec<bool>, usize) {
    let mut sorted = theirs.to_vec();
    for same in stamps.chunk_by(|a, b| a.at == b.at) {
        let kept = same.iter().filter(|stamp| *theirs.get(stamp.n).unwrap()).count();
        for (nth, stamp) in same.iter().rev().enumerate() {
            *sorted.get_mut(stamp.n).unwrap() = nth < kept;
        }
    }
    let moved = sorted.iter().zip(theirs).filter(|(a, b)| a != b).count();
    (sorted, moved)
}

/// What was compared.
#[derive(Debug, Default)]
pub struct Tally {
    pub policies: usize,
    pub questions: usize,
    pub decisions: usize,
    pub equal: usize,
    pub classes: BTreeMap<String, usize>,
    pub failures: Vec<String>,
}

impl Tally {
    /// Compares the peer's answer with ours; a difference that no classes together explain is a failure.
    pub fn compare(&mut self, question: &Question, theirs: &[bool], classes: &[Class], what: &str) {
        let ours = question.answer();
        let (theirs, moved) = in_order(&question.stamps, theirs);
        self.questions += 1;
        self.decisions += ours.len();
        let differing = ours.iter().zip(&theirs).filter(|(a, b)| a != b).count();
        self.equal += ours.len() - differing - moved;
        if moved > 0 {
            *self.classes.entry("which of one second is newer".to_owned()).or_default() += moved;
        }
        if differing == 0 {
            return;
        }
        match explained(question, &theirs, classes) {
            Some(class) => *self.classes.entry(class).or_default() += differing,
            None => self.failures.push(describe(question, &ours, &theirs, what)),
        }
    }

    pub fn add(&mut self, other: Self) {
        self.policies += other.policies;
        self.questions += other.questions;
        self.decisions += other.decisions;
        self.equal += other.equal;
        for (class, n) in other.classes {
            *self.classes.entry(class).or_default() += n;
        }
        self.failures.extend(other.failures);
    }

    /// Prints the counts, and fails if a difference is of no known class.
    #[allow(clippy::disallowed_macros, reason = "a test says what it tried")]
    pub fn finish(self, peer: &str) {
        let Self { policies, questions, decisions, equal, classes, failures } = self;
        let differing: usize = classes.values().sum();
        println!(
            "{peer}: {policies} policies, {questions} questions of {STAMPS} stamps, {decisions} decisions: {equal} equal, {differing} differ for a known reason"
        );
        for (class, n) in &classes {
            println!("{peer}: {n} differ: {class}");
        }
        assert!(
            decisions > 0 && failures.is_empty(),
            "{} questions without agreement, such as\n{}",
            failures.len(),
            failures.iter().take(3).cloned().collect::<String>()
        );
        assert_eq!(equal + differing, decisions);
    }
}

/// The fewest classes whose bends together make our answer the peer's.
fn explained(question: &Question, theirs: &[bool], classes: &[Class]) -> Option<String> {
    let mut subsets: Vec<u32> = (1..1_u32 << classes.len()).collect();
    subsets.sort_by_key(|subset| subset.count_ones());
    subsets.into_iter().find_map(|subset| {
        let taken: Vec<_> = classes.iter().enumerate().filter(|(n, _)| subset & (1 << n) != 0).map(|(_, class)| class).collect();
        let bent = taken.iter().fold(question.clone(), |question, (_, bend)| bend(question));
        (bent.answer() == theirs).then(|| taken.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" + "))
    })
}

fn describe(question: &Question, ours: &[bool], theirs: &[bool], what: &str) -> String {
    let mut text = format!("{what}\n{:?}, now {}\n", question.keep, question.now);
    for stamp in question.stamps.iter().rev() {
        let (ours, theirs) = (ours.get(stamp.n).unwrap(), theirs.get(stamp.n).unwrap());
        let mark = if ours == theirs { ' ' } else { '*' };
        let tag = if stamp.is_tagged { TAG } else { "" };
        writeln!(text, "{mark} {} {:5} {:5} {tag}", stamp.at.with_timezone(&question.keep.timezone), ours, theirs).unwrap();
    }
    text
}

/// A policy that keeps what has the tag.
pub fn tag_rule() -> TagRule {
    TagRule { key: TAG.to_owned(), value: None }
}
