//! The log does not flood: a trouble that was written down is counted while it comes again, and now and then one line says
//! how often that was. Deciding is pure ([`Flood`]); [`Calm`] is the sink around it.

use super::{CATALOGUE, Event, Level, Record, Sink};
use crate::clock::Clock;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A trouble that was written is not written again for so long; each time that it comes again, for twice as long.
const FIRST: Duration = Duration::from_secs(60);
/// But for no longer than this.
const LONGEST: Duration = Duration::from_secs(3600);
/// Lines of one event in a minute, whatever they are about.
const LINES: u32 = 100;
/// Troubles that are remembered.
const KNOWN: usize = 4096;
/// How often counts are looked at for whether they are to be written.
const LOOK: Duration = Duration::from_secs(10);

/// What is to be done with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Write it.
    Write,
    /// It was counted.
    Count,
}

/// What of one event was counted, and is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The event's place in the catalogue.
    pub place: usize,
    /// How many were not written.
    pub times: u64,
    /// Of how many different troubles.
    pub kinds: u64,
    /// What one of these is about.
    pub like: String,
    /// When the first was counted, on the boot clock.
    pub since: Duration,
}

#[derive(Debug)]
struct Trouble {
    window: Duration,
    until: Duration,
    counted: u64,
    since: Duration,
}

/// What was written lately. `now` is always time since boot.
#[derive(Debug, Default)]
pub struct Flood {
    troubles: HashMap<(usize, String), Trouble>,
    /// Of each event: since when, and how many lines.
    spent: HashMap<usize, (Duration, u32)>,
    /// Of each event: troubles beyond what may be written or remembered.
    others: BTreeMap<usize, Counted>,
}

impl Flood {
    /// Decides on an event: its place in the catalogue, and what makes it the same trouble as another.
    pub fn look(&mut self, place: usize, key: &str, now: Duration) -> Verdict {
        let name = (place, key.to_owned());
        if let Some(trouble) = self.troubles.get_mut(&name).filter(|trouble| now < trouble.until) {
            trouble.count(now);
            return Verdict::Count;
        }
        let may_write = self.may_write(place, now);
        let room = self.troubles.len() < KNOWN;
        match self.troubles.get_mut(&name) {
            Some(trouble) if may_write => {
                trouble.window = (trouble.window * 2).min(LONGEST);
                trouble.until = now + trouble.window;
                Verdict::Write
            }
            Some(trouble) => {
                trouble.count(now);
                Verdict::Count
            }
            None if may_write && room => {
                self.troubles.insert(name, Trouble { window: FIRST, until: now + FIRST, counted: 0, since: now });
                Verdict::Write
            }
            None => {
                let fresh = || Counted { place, times: 0, kinds: 0, like: key.to_owned(), since: now };
                let others = self.others.entry(place).or_insert_with(fresh);
                others.times += 1;
                // Who they are is not remembered: as many as came.
                others.kinds += 1;
                Verdict::Count
            }
        }
    }

    fn may_write(&mut self, place: usize, now: Duration) -> bool {
        let (since, lines) = self.spent.entry(place).or_insert((now, 0));
        if now.saturating_sub(*since) >= FIRST {
            (*since, *lines) = (now, 0);
        }
        *lines = lines.saturating_add(1);
        *lines <= LINES
    }

    /// What was counted and whose time has come, at most one line for each event; what has not come again for long is
    /// forgotten.
    pub fn due(&mut self, now: Duration) -> Vec<Counted> {
        self.take(|until| until <= now, now)
    }

    /// All that was counted: for the end.
    pub fn rest(&mut self) -> Vec<Counted> {
        self.take(|_| true, Duration::ZERO)
    }

    fn take(&mut self, is_due: impl Fn(Duration) -> bool, now: Duration) -> Vec<Counted> {
        let mut found: BTreeMap<usize, Counted> = BTreeMap::new();
        for ((place, key), trouble) in &mut self.troubles {
            if trouble.counted == 0 || !is_due(trouble.until) {
                continue;
            }
            let fresh = || Counted { place: *place, times: 0, kinds: 0, like: key.clone(), since: trouble.since };
            let counted = found.entry(*place).or_insert_with(fresh);
            counted.times += std::mem::take(&mut trouble.counted);
            counted.kinds += 1;
            counted.since = counted.since.min(trouble.since);
        }
        self.others.retain(|place, others| {
            if !is_due(others.since + FIRST) {
                return true;
            }
            let counted = found.entry(*place).or_insert_with(|| Counted { times: 0, kinds: 0, ..others.clone() });
            counted.times += others.times;
            counted.kinds += others.kinds;
            counted.since = counted.since.min(others.since);
            false
        });
        self.troubles.retain(|_, trouble| trouble.counted > 0 || now < trouble.until + trouble.window);
        found.into_values().collect()
    }
}

impl Trouble {
    fn count(&mut self, now: Duration) {
        if self.counted == 0 {
            self.since = now;
        }
        self.counted += 1;
    }
}

/// Words without what differs from time to time: numbers, and paths.
#[must_use]
pub fn likeness(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        if word.contains('/') {
            out.push('/');
            continue;
        }
        let mut was_digit = false;
        for c in word.chars() {
            let is_digit = c.is_ascii_digit();
            if !(is_digit && was_digit) {
                out.push(if is_digit { '#' } else { c });
            }
            was_digit = is_digit;
        }
    }
    out
}

/// What makes an event the same trouble as another; `None` if it is always a fact of its own.
fn key(event: &Event) -> Option<String> {
    let repeats = event.described().repeats?;
    let fields = serde_json::to_value(event).ok()?;
    let text = |name: &str| fields.get(name).map(super::plain).unwrap_or_default();
    let same = repeats.same.iter().map(|name| format!("{name}={}", text(name)));
    let alike = repeats.alike.iter().map(|name| format!("{name}={}", likeness(&text(name))));
    Some(same.chain(alike).collect::<Vec<_>>().join(" "))
}

/// A sink that writes each trouble once, and then how often it came again.
pub struct Calm<S> {
    inner: S,
    clock: Arc<dyn Clock>,
    state: Mutex<(Flood, Duration)>,
}

impl<S: Sink> Calm<S> {
    /// Around a sink; time since boot is the clock's.
    #[must_use]
    pub fn new(inner: S, clock: Arc<dyn Clock>) -> Self {
        Self { inner, clock, state: Mutex::default() }
    }

    fn say(&self, counted: Vec<Counted>, now: Duration) {
        let ts = self.clock.now();
        for one in counted {
            let since = chrono::TimeDelta::from_std(now.saturating_sub(one.since)).map_or(ts, |ago| ts - ago);
            let Some(described) = CATALOGUE.get(one.place) else { continue };
            let (of, of_level) = (described.name.to_owned(), described.level.as_str().to_owned());
            let event = Event::LogRepeated { of, of_level, times: one.times, kinds: one.kinds, like: one.like, since, at: ts };
            self.inner.write(&Record { ts, event });
        }
    }
}

impl<S: Sink> Sink for Calm<S> {
    fn write(&self, record: &Record) {
        let now = self.clock.since_boot();
        let key = key(&record.event);
        let (verdict, counted) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let is_time = now.saturating_sub(state.1) >= LOOK;
            if is_time {
                state.1 = now;
            }
            let counted = if is_time { state.0.due(now) } else { Vec::new() };
            (key.map_or(Verdict::Write, |key| state.0.look(record.event.place(), &key, now)), counted)
        };
        self.say(counted, now);
        if verdict == Verdict::Write {
            self.inner.write(record);
        } else {
            debug_assert!(record.event.level() >= Level::Info, "only what may repeat is counted");
        }
    }

    fn flush(&self) {
        let rest = self.state.lock().unwrap_or_else(PoisonError::into_inner).0.rest();
        self.say(rest, self.clock.since_boot());
        self.inner.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Collected;
    use super::*;
    use crate::clock::ManualClock;
    use crate::ids::{InstanceId, PolicyName};
    use chrono::{TimeZone as _, Utc};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn none_is_lost_and_a_new_trouble_is_written_and_lines_are_bounded(
            looks in prop::collection::vec((0_usize..3, 0_u32..300, 0_u64..3_000), 1..600),
        ) {
            let (mut flood, mut now) = (Flood::default(), Duration::from_secs(5));
            let (mut written, mut counted, mut lines) = (0_u64, 0_u64, Vec::new());
            let mut seen: HashMap<(usize, u32), Duration> = HashMap::new();
            for (place, trouble, step) in &looks {
                now += Duration::from_millis(*step);
                counted += flood.due(now).iter().map(|c| c.times).sum::<u64>();
                let is_new = !seen.contains_key(&(*place, *trouble));
                let in_a_minute = lines.iter().filter(|(p, at)| p == place && now.saturating_sub(*at) < FIRST).count();
                match flood.look(*place, &trouble.to_string(), now) {
                    Verdict::Write => {
                        written += 1;
                        if let Some(last) = seen.insert((*place, *trouble), now) {
                            prop_assert!(now - last >= FIRST, "written twice within a minute");
                        }
                        lines.push((*place, now));
                    }
                    Verdict::Count => prop_assert!(!is_new || in_a_minute >= LINES as usize / 2, "a new trouble was not written"),
                }
                // A minute of the counter may lie across two of ours.
                let most = lines.iter().filter(|(p, at)| p == place && now.saturating_sub(*at) < FIRST).count();
                prop_assert!(most <= 2 * LINES as usize);
            }
            counted += flood.rest().iter().map(|c| c.times).sum::<u64>();
            prop_assert_eq!(written + counted, looks.len() as u64);
        }

        #[test]
        fn what_stays_away_for_long_is_news_again_and_forgotten(times in 1_u64..40) {
            let mut flood = Flood::default();
            for n in 0..times {
                flood.look(0, "x", Duration::from_secs(n));
            }
            let later = Duration::from_secs(4 * 3600);
            let counted: u64 = flood.due(later).iter().map(|c| c.times).sum();
            prop_assert_eq!(counted, times - 1);
            flood.due(later * 2);
            prop_assert!(flood.troubles.is_empty());
            prop_assert_eq!(flood.look(0, "x", later * 2), Verdict::Write);
        }
    }

    #[test]
    fn a_trouble_of_every_second_is_written_less_and_less_often() {
        let mut flood = Flood::default();
        let day = 24 * 3600;
        let mut lines = 0;
        for second in 0..day {
            lines += flood.due(Duration::from_secs(second)).len();
            lines += usize::from(flood.look(0, "x", Duration::from_secs(second)) == Verdict::Write);
        }
        assert!((48..=70).contains(&lines), "{lines} lines in a day");
    }

    #[test]
    fn numbers_and_paths_make_no_difference() {
        assert_eq!(likeness("cannot sync /a/b/20261128-01: No space (os error 28)"), likeness("cannot sync /c: No space (os error 5)"));
        assert_ne!(likeness("no space"), likeness("no memory"));
    }

    #[test]
    fn the_sink_writes_the_first_then_a_count_and_never_holds_a_fact_back() {
        let clock = Arc::new(ManualClock::at(Utc.with_ymd_and_hms(2026, 11, 24, 12, 0, 0).unwrap()));
        let collected = Collected::default();
        let calm = Calm::new(collected.clone(), Arc::clone(&clock) as Arc<dyn Clock>);
        let failed = |n: u32| Event::ScheduleFailing {
            policy: PolicyName::parse("p").unwrap(),
            instance: InstanceId::parse("i").unwrap(),
            failures: n,
            last_success: None,
            error: format!("no space, {n} bytes are missing"),
        };
        let write = |event| calm.write(&Record { ts: clock.now(), event });
        for n in 0..20 {
            write(failed(n));
            write(Event::ClockStepped { from: clock.now(), by_ms: 1, at: clock.now() });
            clock.advance(Duration::from_secs(1));
        }
        clock.advance(Duration::from_secs(60));
        write(failed(20));
        calm.flush();
        let names: Vec<_> = collected.events().iter().map(Event::name).filter(|name| *name != "clock.stepped").collect();
        assert_eq!(names, ["schedule.failing", "log.repeated", "schedule.failing"]);
        assert_eq!(collected.events().len(), 3 + 20);
        let repeated = collected.events().into_iter().find(|e| e.name() == "log.repeated");
        assert!(matches!(repeated, Some(Event::LogRepeated { of, times: 19, kinds: 1, .. }) if of == "schedule.failing"));
    }
}
