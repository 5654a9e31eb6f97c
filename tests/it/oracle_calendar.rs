//! Slots against `systemd-analyze calendar`, as a black box: the next fifty of schedules that both can express, in six
//! zones, over the days on which the clocks change. Where they differ it must be for a known reason (docs/schedules.md).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use chrono::{DateTime, Datelike as _, LocalResult, NaiveDateTime, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;
use snapkeep::config::parse;
use snapkeep::policy::Schedule;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

const ITERATIONS: usize = 50;
/// So many expressions in one call of systemd-analyze.
const BATCH: usize = 60;

/// A field as cron has it, and as systemd has it.
type Words = (&'static str, &'static str);

const SECONDS: [Words; 5] = [("", "00"), ("", "00"), ("0", "00"), ("*/20", "0/20"), ("15,45", "15,45")];
const MINUTES: [Words; 8] = [
    ("*", "*"),
    ("*/15", "0/15"),
    ("0", "00"),
    ("30", "30"),
    ("5,35", "05,35"),
    ("10-20/5", "10..20/5"),
    ("0-59/20", "0/20"),
    ("50-55", "50..55"),
];
const HOURS: [Words; 9] = [
    ("*", "*"),
    ("*/2", "0/2"),
    ("2", "02"),
    ("0", "00"),
    ("1-3", "01..03"),
    ("2,14", "02,14"),
    ("9-17/4", "09..17/4"),
    ("23", "23"),
    ("0-23", "00..23"),
];
const DAYS: [Words; 6] = [("*", "-*"), ("1", "-01"), ("L", "~01"), ("1,15", "-01,15"), ("10-20", "-10..20"), ("1-31/2", "-01/2")];
const MONTHS: [Words; 5] = [("*", "*"), ("3,10", "03,10"), ("JAN-MAR", "01..03"), ("*/3", "01/3"), ("apr,11", "04,11")];
const WEEKDAYS: [Words; 6] =
    [("*", ""), ("MON-FRI", "Mon..Fri "), ("SUN", "Sun "), ("2,4", "Tue,Thu "), ("SAT,SUN", "Sat,Sun "), ("7", "Sun ")];
const YEARS: [Words; 3] = [("", "*"), ("", "*"), ("2026-2031", "2026..2031")];

/// What has no place in the product: aliases, nth and last weekdays, both kinds of day at once.
const SPECIALS: [Words; 16] = [
    ("@hourly", "hourly"),
    ("@daily", "daily"),
    ("@midnight", "daily"),
    ("@monthly", "monthly"),
    ("@yearly", "yearly"),
    ("0 3 * * FRI#2", "Fri *-*-08..14 03:00:00"),
    ("30 2 * * SUN#5", "Sun *-*-29..31 02:30:00"),
    ("0 0 * * 5L", "Fri *-*~07/1 00:00:00"),
    ("30 2 * 3,10 0L", "Sun *-03,10~07/1 02:30:00"),
    ("0 0 13 * +FRI", "Fri *-*-13 00:00:00"),
    ("*/30 * 1-7 * +SUN", "Sun *-*-01..07 *:00/30:00"),
    ("0 0 29 2 *", "*-02-29 00:00:00"),
    ("59 23 31 12 *", "*-12-31 23:59:00"),
    ("0 0 L 2 *", "*-02~01 00:00:00"),
    ("0 12 */2 * MON", "Mon *-*-01/2 12:00:00"),
    ("0 30 2 * * * 2026-2040/2", "2026..2040/2-*-* 02:30:00"),
];

/// So many schedules, in both languages: the specials, and a fixed pick of the product.
fn schedules(count: usize) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = SPECIALS.iter().map(|(cron, systemd)| ((*cron).to_owned(), (*systemd).to_owned())).collect();
    let mut known: BTreeSet<String> = all.iter().map(|(cron, _)| cron.clone()).collect();
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut pick = |from: &[Words]| {
        // xorshift: the same picks on every run.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        from[usize::try_from(state % from.len() as u64).unwrap()]
    };
    while all.len() < count {
        let (second, minute, hour, month, year) = (pick(&SECONDS), pick(&MINUTES), pick(&HOURS), pick(&MONTHS), pick(&YEARS));
        let (mut day, mut weekday) = (pick(&DAYS), pick(&WEEKDAYS));
        // Two restricted kinds of day are joined by OR in cron, which systemd cannot say.
        if day.0 != "*" && weekday.0 != "*" {
            if day.0.len() > weekday.0.len() { weekday = WEEKDAYS[0] } else { day = DAYS[0] }
        }
        let second = if year.0.is_empty() || !second.0.is_empty() { second } else { ("0", "00") };
        let cron = [second.0, minute.0, hour.0, day.0, month.0, weekday.0, year.0].join(" ").trim().to_owned();
        let systemd = format!("{}{}-{}{} {}:{}:{}", weekday.1, year.1, month.1, day.1, hour.1, minute.1, second.1);
        if known.insert(cron.clone()) {
            all.push((cron, systemd));
        }
    }
    all
}

fn ours(cron: &str, zone: Tz) -> Schedule {
    let text = format!(
        "[store]\npath = \"/s\"\ninstances = \"/i\"\n[[policy]]\nname = \"p\"\ninstances = [\"*\"]\nschedule = \"{cron}\"\ntimezone = \"{zone}\"\nkeep_all = true\n"
    );
    let config = parse(vec![("/c.toml".into(), text)]).unwrap_or_else(|e| panic!("{cron}: {e}"));
    config.policies[0].schedule.clone().unwrap()
}

/// What systemd says of a schedule, in UTC, and whether it gave up there.
#[derive(Default)]
struct Theirs {
    slots: Vec<DateTime<Utc>>,
    gave_up: bool,
}

/// What systemd says for each of these. The zone is the process's, so that it need not fork for each answer.
fn theirs(systemd: &[&str], zone: Tz, base: DateTime<Utc>) -> Vec<Theirs> {
    let output = Command::new("systemd-analyze")
        .args(["calendar", "--iterations", &ITERATIONS.to_string(), "--base-time", &base.format("%Y-%m-%d %H:%M:%S UTC").to_string()])
        .args(systemd)
        .env("TZ", zone.name())
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let (text, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    // Over some changes of clocks systemd 252 finds no way on, says so, and goes on with the next expression.
    let is_stuck =
        |expression: &str| errors.contains(&format!("Failed to determine next elapse for '{expression}': Resource deadlock avoided"));
    assert!(output.status.success() || errors.contains("Infinite loop in calendar calculation"), "{systemd:?}: {text} {errors}");
    let mut blocks: Vec<Vec<DateTime<Utc>>> = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("Normalized form:") {
            blocks.push(Vec::new());
        }
        let is_time = |what: &str| what == "(in UTC)" || zone == Tz::UTC && (what.starts_with("Iter") || what == "Next elapse");
        if let Some((_, time)) = line.split_once(':').filter(|(what, _)| is_time(what))
            && time.trim() != "never"
        {
            let time = NaiveDateTime::parse_from_str(time.trim(), "%a %Y-%m-%d %H:%M:%S UTC").unwrap_or_else(|e| panic!("{line}: {e}"));
            blocks.last_mut().unwrap().push(time.and_utc());
        }
    }
    let mut blocks = blocks.into_iter();
    // Of one that it is stuck with it prints nothing else.
    let all: Vec<Theirs> = systemd
        .iter()
        .map(|expression| match is_stuck(expression) {
            true => Theirs { gave_up: true, ..Theirs::default() },
            false => Theirs { slots: blocks.next().unwrap(), gave_up: false },
        })
        .collect();
    assert_eq!(blocks.next(), None, "{text}");
    all
}

/// Why a slot is in one list only, `other` being the one that it is not in; `None`: for no known reason.
fn class(schedule: &Schedule, zone: Tz, slot: DateTime<Utc>, is_ours: bool, other: &BTreeSet<DateTime<Utc>>) -> Option<&'static str> {
    let local = slot.with_timezone(&zone).naive_local();
    let twins = match zone.from_local_datetime(&local) {
        LocalResult::Ambiguous(first, second) => Some((first.with_timezone(&Utc), second.with_timezone(&Utc))),
        _ => None,
    };
    let offset = |t: DateTime<Utc>| chrono::Offset::fix(&zone.offset_from_utc_datetime(&t.naive_utc())).local_minus_utc();
    let is_after_a_gap = offset(slot) > offset(slot - TimeDelta::hours(3));
    match (is_ours, twins) {
        (true, _) if slot.year() > 2199 => Some("after 2199: systemd's calendar ends there"),
        (true, _) if schedule.is_moved(slot) && is_after_a_gap => {
            Some("spring: a time that does not exist; systemd leaves it out, we take the first moment after it")
        }
        // One of the pair is in each list.
        (true, Some((first, second))) if slot == first && other.contains(&second) => Some(SECOND_PASS),
        (false, Some((first, second))) if slot == second && other.contains(&first) => Some(SECOND_PASS),
        (true, Some(_)) => Some("autumn: an hour that is there twice; systemd leaves real time out, we do not"),
        _ => None,
    }
}

const SECOND_PASS: &str = "autumn: a time of day that is there twice; we take the first, systemd here the second";

/// Zones with a moment shortly before their clocks go forward, and one shortly before they go back.
const ZONES: [(Tz, &str, &str); 6] = [
    (Tz::UTC, "2026-03-28T12:00:00Z", "2026-10-24T12:00:00Z"),
    (Tz::Europe__Vienna, "2026-03-28T12:00:00Z", "2026-10-24T12:00:00Z"),
    (Tz::America__New_York, "2026-03-07T18:00:00Z", "2026-10-31T18:00:00Z"),
    (Tz::Australia__Lord_Howe, "2026-10-03T06:00:00Z", "2026-04-04T06:00:00Z"),
    (Tz::Asia__Kathmandu, "2026-03-28T12:00:00Z", "2026-10-24T12:00:00Z"),
    (Tz::Asia__Beirut, "2026-03-28T12:00:00Z", "2026-10-24T12:00:00Z"),
];

#[test]
fn slots_are_those_of_systemd_but_for_known_reasons() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("skipped: systemd-analyze is not here; install systemd to compare slots with it");
        return;
    }
    let count = if std::env::var_os("FULL").is_some() { 1200 } else { 130 };
    let all = schedules(count);
    let (mut compared, mut equal, mut lists) = (0usize, 0usize, 0usize);
    let mut classes: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    let mut unknown = Vec::new();
    for (zone, forward, back) in ZONES {
        for base in [forward, back] {
            let base: DateTime<Utc> = base.parse().unwrap();
            for batch in all.chunks(BATCH) {
                let systemd: Vec<&str> = batch.iter().map(|(_, systemd)| systemd.as_str()).collect();
                for ((cron, systemd), theirs) in batch.iter().zip(theirs(&systemd, zone, base)) {
                    let schedule = ours(cron, zone);
                    let ours: Vec<_> =
                        std::iter::successors(schedule.slot_after(base), |slot| schedule.slot_after(*slot)).take(ITERATIONS).collect();
                    // Each list ends somewhere: they are compared as far as both go.
                    let end =
                        |list: &[DateTime<Utc>]| if list.len() < ITERATIONS { DateTime::<Utc>::MAX_UTC } else { list[list.len() - 1] };
                    let end =
                        if theirs.gave_up { theirs.slots.last().copied().unwrap_or(base) } else { end(&ours).min(end(&theirs.slots)) };
                    let upto = |list: Vec<DateTime<Utc>>| list.into_iter().filter(|t| *t <= end).collect::<BTreeSet<_>>();
                    let (ours, theirs, gave_up) = (upto(ours), upto(theirs.slots), theirs.gave_up);
                    if gave_up {
                        let example = format!("{cron} ({systemd}) in {zone} from {base}");
                        classes.entry("systemd finds no way on (\"Infinite loop in calendar calculation\")").or_insert((0, example)).0 += 1;
                    }
                    lists += 1;
                    equal += usize::from(ours == theirs);
                    compared += ours.union(&theirs).count();
                    for (slot, is_ours) in ours.difference(&theirs).map(|t| (*t, true)).chain(theirs.difference(&ours).map(|t| (*t, false)))
                    {
                        let example = format!(
                            "{cron} ({systemd}) in {zone}: {} is {}",
                            slot.with_timezone(&zone),
                            if is_ours { "ours" } else { "theirs" }
                        );
                        match class(&schedule, zone, slot, is_ours, if is_ours { &theirs } else { &ours }) {
                            Some(class) => classes.entry(class).or_insert((0, example)).0 += 1,
                            None => unknown.push(example),
                        }
                    }
                }
            }
        }
    }
    println!("{count} schedules in {} zones: {lists} lists, {equal} of them equal; {compared} slots compared", ZONES.len());
    for (class, (times, example)) in &classes {
        println!("  {times} x {class}; such as {example}");
    }
    assert!(unknown.is_empty(), "{} differences without a known reason:\n{}", unknown.len(), unknown[..unknown.len().min(40)].join("\n"));
    assert!(lists >= 100 * 12 && compared > 20_000);
}
