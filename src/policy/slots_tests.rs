//! Slots by brute force: every second is asked whether it is one, and looking ahead and back must find just those.

use super::*;
use chrono::{Datelike as _, NaiveDateTime, TimeZone as _, Timelike as _};
use croner::parser::{CronParser, Seconds, Year};
use proptest::prelude::*;

#[expect(clippy::disallowed_macros, reason = "a test says what it has tried")]
fn say(what: &str) {
    println!("{what}");
}

fn times(text: &str) -> Times {
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Optional).dom_and_dow(false).build();
    Times::new(parser.parse(text).unwrap())
}

fn cron(texts: &[&str], zone: Tz) -> Schedule {
    Schedule::new(Rhythm::Cron(texts.iter().map(|text| times(text)).collect()), zone)
}

fn local(zone: Tz, y: i32, m: u32, d: u32, h: u32, min: u32) -> DateTime<Utc> {
    zone.with_ymd_and_hms(y, m, d, h, min, 0).earliest().unwrap().with_timezone(&Utc)
}

fn slots(schedule: &Schedule, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    let mut all = Vec::new();
    let mut at = from - TimeDelta::milliseconds(1);
    while let Some(slot) = schedule.slot_after(at).filter(|slot| *slot < to) {
        all.push(slot);
        at = slot;
    }
    all
}

/// Slots of a day in its zone, as wall time and offset.
fn day(text: &[&str], zone: Tz, y: i32, m: u32, d: u32) -> Vec<String> {
    let noon = local(zone, y, m, d, 12, 0);
    let (from, to) = (noon - TimeDelta::hours(15), noon + TimeDelta::hours(15));
    let all = slots(&cron(text, zone), from, to).into_iter().map(|slot| slot.with_timezone(&zone));
    all.filter(|slot| slot.date_naive() == chrono::NaiveDate::from_ymd_opt(y, m, d).unwrap())
        .map(|slot| slot.format("%H:%M%z").to_string())
        .collect()
}

type Date = (i32, u32, u32);

/// Zones with what they are known for, and a day on which their clocks go forward and one on which they go back.
const ZONES: [(Tz, Date, Date); 9] = [
    (Tz::Europe__Vienna, (2026, 3, 29), (2026, 10, 25)),
    (Tz::America__New_York, (2026, 3, 8), (2026, 11, 1)),
    // By half an hour.
    (Tz::Australia__Lord_Howe, (2026, 10, 4), (2026, 4, 5)),
    // By two hours.
    (Tz::Antarctica__Troll, (2026, 3, 29), (2026, 10, 25)),
    // Never, and by a quarter of an hour off the others.
    (Tz::Asia__Kathmandu, (2026, 3, 29), (2026, 10, 25)),
    // Back for Ramadan, forward after it.
    (Tz::Africa__Casablanca, (2026, 3, 22), (2026, 2, 15)),
    // At midnight.
    (Tz::America__Sao_Paulo, (2018, 11, 4), (2019, 2, 16)),
    (Tz::Asia__Beirut, (2026, 3, 29), (2026, 10, 24)),
    // A day was left out.
    (Tz::Pacific__Apia, (2011, 12, 30), (2012, 4, 1)),
];

const EXPRESSIONS: [&str; 24] = [
    "0 * * * *",
    "*/15 * * * *",
    "30 2 * * *",
    "30 0 * * *",
    "0 0 * * *",
    "15,45 1-3 * * *",
    "*/20 2 * * *",
    "30 */2 * * *",
    "0 2,14 * * *",
    "7 0-23 * * *",
    "0 0 L * *",
    "0 3 15W * *",
    "0 2 LW * *",
    "30 1 * * FRI#2",
    "30 2 * * 0L",
    "0 0 1 1 *",
    "59 23 31 12 *",
    "0 12 * * MON-FRI",
    "0 0 13 * FRI",
    "*/10 30 2 * * *",
    "0 0 2 29 3 * 2026-2028",
    "45 1,2 * 3,4,10,11 SUN",
    "10 * * * 0,6",
    "0 2 28-31 3,10 *",
];

/// What a slot is, said again without looking for it: every second of a stretch is asked.
fn model(texts: &[&str], zone: Tz, from: i64, to: i64) -> Vec<i64> {
    let mut found = std::collections::BTreeSet::new();
    for text in texts {
        let times = times(text);
        let fields: Vec<&str> = text.split_whitespace().collect();
        let hour = fields[if fields.len() > 5 { 2 } else { 1 }];
        let by_hour = hour.starts_with('*') || hour == "0-23";
        assert_eq!(times.is_by_hour(), by_hour, "{text}");
        let step = if fields.len() > 5 { 1 } else { 60 };
        // Every wall time of the stretch and around it.
        let reach = 27 * 3600;
        let mut wall = (from - reach).div_euclid(60) * 60;
        while wall < to + reach {
            let naive: NaiveDateTime = DateTime::from_timestamp(wall, 0).unwrap().naive_utc();
            if times.names(naive.and_utc().timestamp()) {
                match zone.from_local_datetime(&naive) {
                    chrono::LocalResult::Single(t) => drop(found.insert(t.timestamp())),
                    chrono::LocalResult::Ambiguous(a, b) => {
                        found.insert(a.timestamp());
                        if by_hour {
                            found.insert(b.timestamp());
                        }
                    }
                    chrono::LocalResult::None => {
                        // The last moment before the gap has the offset from before; the first one after it ends the gap.
                        let mut earlier = naive;
                        while zone.from_local_datetime(&earlier).latest().is_none() {
                            earlier -= TimeDelta::seconds(60);
                        }
                        let before = zone.from_local_datetime(&earlier).latest().unwrap();
                        let shifted = before + (naive - earlier);
                        if by_hour {
                            found.insert(shifted.timestamp());
                        } else {
                            let mut first = before.timestamp().div_euclid(60) * 60;
                            let offset = super::super::zone::offset_at(zone, before.timestamp());
                            while super::super::zone::offset_at(zone, first) == offset {
                                first += 60;
                            }
                            found.insert(first);
                        }
                    }
                }
            }
            wall += step;
        }
    }
    found.into_iter().filter(|t| (from..to).contains(t)).collect()
}

/// Ahead, back and the model agree on a stretch.
fn check(texts: &[&str], zone: Tz, from: i64, hours: i64) -> usize {
    let schedule = cron(texts, zone);
    let to = from + hours * 3600;
    let want = model(texts, zone, from, to);
    let time = |t: i64| DateTime::from_timestamp(t, 0).unwrap();
    let ahead: Vec<i64> = slots(&schedule, time(from), time(to)).iter().map(|t| t.timestamp()).collect();
    assert_eq!(ahead, want, "{texts:?} {zone} ahead");
    let (mut back, mut at) = (Vec::new(), time(to) - TimeDelta::milliseconds(1));
    while let Some(slot) = schedule.slot_at_or_before(at).filter(|slot| *slot >= time(from)) {
        back.insert(0, slot.timestamp());
        at = slot - TimeDelta::milliseconds(1);
    }
    assert_eq!(back, want, "{texts:?} {zone} back");
    // Asked at any moment, without what was asked before.
    for minutes in (0..hours * 60).step_by(37) {
        let now = time(from + minutes * 60 + 11);
        let fresh = schedule.clone();
        let next = want.iter().find(|t| **t > now.timestamp());
        if let Some(next) = next {
            assert_eq!(fresh.slot_after(now), Some(time(*next)), "{texts:?} {zone} {now}");
        }
        if let Some(last) = want.iter().rfind(|t| **t <= now.timestamp()) {
            assert_eq!(schedule.clone().slot_at_or_before(now), Some(time(*last)), "{texts:?} {zone} {now}");
        }
    }
    want.len()
}

#[test]
fn every_second_around_a_change_of_clocks_is_a_slot_or_not_whichever_way_one_looks() {
    let (mut tried, mut found) = (0, 0);
    for (zone, forward, back) in ZONES {
        for (y, m, d) in [forward, back] {
            let noon = Utc.with_ymd_and_hms(y, m, d, 12, 0, 0).unwrap().timestamp();
            for text in EXPRESSIONS {
                found += check(&[text], zone, noon - 36 * 3600, 60);
                tried += 1;
            }
            found += check(&["30 2 * * *", "*/15 1-2 * * *", "0 * * * SUN"], zone, noon - 36 * 3600, 60);
        }
    }
    say(&format!("{tried} expressions over days on which clocks change, {found} slots"));
    assert!(found > 5000);
}

#[test]
fn a_time_that_does_not_exist_is_the_first_moment_after_the_gap_and_one_that_is_there_twice_is_the_first() {
    let vienna = Tz::Europe__Vienna;
    assert_eq!(day(&["30 2 * * *"], vienna, 2026, 3, 29), ["03:00+0200"]);
    assert_eq!(day(&["30 2 * * *"], vienna, 2026, 10, 25), ["02:30+0200"]);
    // croner takes these for intervals: nothing in spring, twice in autumn.
    assert_eq!(day(&["30 2,14 * * *"], vienna, 2026, 3, 29), ["03:00+0200", "14:30+0200"]);
    assert_eq!(day(&["30 2,14 * * *"], vienna, 2026, 10, 25), ["02:30+0200", "14:30+0100"]);
    assert_eq!(day(&["*/15 2 * * *"], vienna, 2026, 3, 29), ["03:00+0200"]);
    assert_eq!(day(&["*/15 2 * * *"], vienna, 2026, 10, 25), ["02:00+0200", "02:15+0200", "02:30+0200", "02:45+0200"]);
    assert_eq!(day(&["0 2 * * *", "0 3 * * *"], vienna, 2026, 3, 29), ["03:00+0200"], "one slot, not two");
    assert_eq!(day(&["0 0 * * *"], Tz::America__Sao_Paulo, 2018, 11, 4), ["01:00-0200"]);
    assert_eq!(day(&["30 0 * * *"], Tz::Asia__Beirut, 2026, 3, 29), ["01:00+0300"]);
    assert_eq!(day(&["15 2 * * *"], Tz::Australia__Lord_Howe, 2026, 10, 4), ["02:30+1100"]);
}

#[test]
fn by_the_hour_no_real_hour_and_no_real_quarter_is_left_out_or_there_twice() {
    let mut tried = 0;
    for (zone, forward, back) in ZONES {
        for ((y, m, d), goes_back) in [(forward, false), (back, true)] {
            let from = Utc.with_ymd_and_hms(y, m, d, 12, 0, 0).unwrap() - TimeDelta::hours(48);
            for (text, minutes) in
                [("0 * * * *", 60), ("30 * * * *", 60), ("10 0-23 * * *", 60), ("*/15 * * * *", 15), ("*/30 * * * *", 30), ("* * * * *", 1)]
            {
                let all = slots(&cron(&[text], zone), from, from + TimeDelta::hours(96));
                let gaps: Vec<i64> = all.windows(2).map(|w| (w[1] - w[0]).num_minutes()).collect();
                // Half an hour back on Lord Howe: 01:00 and 02:00 are an hour and a half apart, and each hour has its slot.
                let most = if zone == Tz::Australia__Lord_Howe && goes_back && minutes > 30 { 90 } else { minutes };
                assert!(gaps.iter().all(|gap| 0 < *gap && *gap <= most), "{text} {zone}: {gaps:?}");
                let whole = zone != Tz::Australia__Lord_Howe;
                assert!(!whole || gaps.iter().all(|gap| *gap == minutes), "{text} {zone}: {gaps:?}");
                tried += 1;
            }
        }
    }
    say(&format!("{tried} hourly and finer schedules over days on which clocks change"));
}

#[test]
fn slots_of_a_list_are_those_of_all_its_expressions_once() {
    let utc = Tz::UTC;
    assert_eq!(
        day(&["0 9 * * *", "0 17 * * *", "0 */8 * * *"], utc, 2026, 11, 24),
        ["00:00+0000", "08:00+0000", "09:00+0000", "16:00+0000", "17:00+0000"]
    );
    assert_eq!(day(&["0 */6 * * *", "0 */4 * * *"], utc, 2026, 11, 24).len(), 8);
    let over = cron(&["0 0 0 1 1 * 2025", "0 0 * * *"], utc);
    assert_eq!(over.slot_after(local(utc, 2026, 1, 1, 5, 0)), Some(local(utc, 2026, 1, 2, 0, 0)));
}

#[test]
fn slots_outside_the_window_do_not_exist_and_the_window_wraps_over_midnight() {
    let with = |texts: &[&str], hours: &str, zone| Schedule { window: Window::parse([hours]).unwrap(), ..cron(texts, zone) };
    let vienna = Tz::Europe__Vienna;
    let night = with(&["0 */4 * * *"], "22:00-06:00", vienna);
    let from = local(vienna, 2026, 11, 24, 0, 0);
    let hours: Vec<u32> = slots(&night, from, from + TimeDelta::days(1)).iter().map(|s| s.with_timezone(&vienna).hour()).collect();
    assert_eq!(hours, [0, 4]);
    assert_eq!(night.slot_at_or_before(local(vienna, 2026, 11, 24, 21, 0)), Some(local(vienna, 2026, 11, 24, 4, 0)));
    assert!(night.is_open(local(vienna, 2026, 11, 24, 22, 0)) && !night.is_open(local(vienna, 2026, 11, 24, 6, 0)));
    assert_eq!(night.opens(local(vienna, 2026, 11, 24, 6, 0)), Some(local(vienna, 2026, 11, 24, 22, 0)));
    assert_eq!(night.opens(local(vienna, 2026, 11, 24, 5, 59)), Some(local(vienna, 2026, 11, 24, 5, 59)));
    // Every second, one minute a day: what is outside is not walked through.
    let seconds = with(&["* * * * * *"], "02:00-02:01", Tz::UTC);
    assert_eq!(slots(&seconds, from, from + TimeDelta::days(3)).len(), 180);
    // The window's hour does not exist on that day, or is there twice.
    assert_eq!(
        slots(&with(&["30 2 * * *"], "02:00-03:00", vienna), local(vienna, 2026, 3, 29, 0, 0), local(vienna, 2026, 3, 30, 0, 0)).len(),
        0
    );
    let twice = with(&["*/30 * * * *"], "02:00-03:00", vienna);
    assert_eq!(slots(&twice, local(vienna, 2026, 10, 25, 0, 0), local(vienna, 2026, 10, 26, 0, 0)).len(), 4);
    let every = Schedule {
        window: Window::parse(["09:00-10:00", "10:00-12:00"]).unwrap(),
        ..Schedule::new(Rhythm::Every(TimeDelta::minutes(20)), Tz::Asia__Kathmandu)
    };
    assert_eq!(slots(&every, from, from + TimeDelta::days(1)).len(), 9);
    assert_eq!(with(&["0 12 * * *"], "22:00-06:00", vienna).slot_after(from), None);
}

#[test]
fn what_is_no_window_is_answered_with_what_to_write() {
    for good in ["22:00-06:00", " 9:30 - 17:00 ", "00:00-24:00", "22:00–06:00"] {
        assert!(Window::parse([good]).is_ok(), "{good}");
    }
    assert_eq!(Window::parse(["22:00-06:00", "9:30-17:00"]).unwrap().show(), "22:00-06:00, 09:30-17:00");
    assert!(Window::parse(["09:00-10:00", "00:00-24:00"]).unwrap().is_always());
    for (bad, why) in [
        ("22", "`22` is not a range of hours, such as \"22:00-06:00\""),
        ("22-6", "`22` is not a time of day, such as \"22:00\""),
        ("22:00-25:00", "`25:00` is not a time of day, such as \"22:00\""),
        ("22:60-23:00", "`22:60` is not a time of day, such as \"22:00\""),
        ("22:00-+6:00", "`+6:00` is not a time of day, such as \"22:00\""),
        ("24:00-06:00", "`24:00-06:00` begins at 24:00: write 00:00"),
        ("06:00-06:00", "`06:00-06:00` begins and ends at the same time: leave it out for the whole day"),
    ] {
        assert_eq!(Window::parse([bad]).unwrap_err().to_string(), why);
    }
}

#[test]
fn jitter_is_at_most_half_of_the_shortest_slot_also_of_a_list_and_never_leaves_the_window() {
    let most = |schedule: Schedule| {
        let schedule = Schedule { jitter: TimeDelta::days(400), ..schedule };
        let offsets = (0..400).map(|n| {
            let (policy, instance) = (PolicyName::parse("p").unwrap(), InstanceId::parse(&format!("vm-{n}")).unwrap());
            schedule.offset(&policy, &instance, DateTime::UNIX_EPOCH)
        });
        offsets.max().unwrap().num_seconds()
    };
    let near = |seconds: i64, cap: i64| assert!(cap * 9 / 10 <= seconds && seconds <= cap, "{seconds} {cap}");
    near(most(cron(&["0 * * * *", "10 * * * *"], Tz::UTC)), 300);
    // A rare expression that comes close to a frequent one.
    near(most(cron(&["0 * * * *", "10 0 29 2 *"], Tz::UTC)), 300);
    // Only on the day on which 02:30 is 03:00.
    near(most(cron(&["30 2 * * *", "20 3 * * *"], Tz::Europe__Vienna)), 600);
    let with = |schedule, hours| Schedule { window: Window::parse([hours]).unwrap(), ..schedule };
    near(most(with(cron(&["0 * * * *"], Tz::Europe__Vienna), "22:00-06:00")), 1800);
    near(most(with(cron(&["50 * * * *"], Tz::Europe__Vienna), "22:00-06:00")), 600);
    near(most(with(Schedule::new(Rhythm::Every(TimeDelta::hours(1)), Tz::Asia__Kathmandu), "22:00-06:00")), 900);
}

#[test]
fn a_slot_that_was_moved_is_known_as_such() {
    let vienna = Tz::Europe__Vienna;
    let schedule = cron(&["30 2 * * *", "0 5 * * *"], vienna);
    assert!(schedule.is_moved(local(vienna, 2026, 3, 29, 3, 0)));
    assert!(!schedule.is_moved(local(vienna, 2026, 3, 29, 5, 0)) && !schedule.is_moved(local(vienna, 2026, 3, 30, 2, 30)));
}

proptest! {
    #[test]
    fn ahead_and_back_enclose_any_moment_in_any_zone(
        picks in prop::collection::vec(0..EXPRESSIONS.len(), 1..4),
        zone in prop::sample::select(ZONES.map(|z| z.0).to_vec()),
        t in 1_300_000_000_000i64..1_900_000_000_000,
        window in prop::option::of((0..24u32, 1..24u32)),
    ) {
        let texts: Vec<&str> = picks.iter().map(|n| EXPRESSIONS[*n]).collect();
        let window = window.map_or_else(Window::default, |(from, length)| {
            Window::parse([format!("{from:02}:00-{:02}:00", (from + length) % 24).as_str()]).unwrap()
        });
        let schedule = Schedule { window, ..cron(&texts, zone) };
        let now = DateTime::from_timestamp_millis(t).unwrap();
        let (last, next) = (schedule.slot_at_or_before(now), schedule.slot_after(now));
        if let Some(next) = next {
            prop_assert!(next > now);
            prop_assert_eq!(schedule.clone().slot_at_or_before(next), Some(next));
            prop_assert_eq!(schedule.clone().slot_at_or_before(next - TimeDelta::milliseconds(1)), last);
            prop_assert!(schedule.is_open(next));
        }
        if let Some(last) = last {
            prop_assert!(last <= now);
            prop_assert_eq!(schedule.clone().slot_after(last), next);
        }
        // With what is remembered and without, the answers are the same.
        prop_assert_eq!((schedule.slot_at_or_before(now), schedule.slot_after(now)), (schedule.clone().slot_at_or_before(now), schedule.clone().slot_after(now)));
    }

    #[test]
    fn day_words_are_what_a_calendar_says(day in 0..20_000i64, text in prop::sample::select(vec![
        "0 0 L * *", "0 0 15W * *", "0 0 1W * *", "0 0 31W * *", "0 0 LW * *", "0 0 * * FRI#2", "0 0 * * 0#5", "0 0 * * 5L", "0 0 * * 7L", "0 0 L 2,4 *",
        "0 0 0 LW 6 * 2020-2040/2", "0 0 0 * * MON#1 2024-2030", "0 0 1,15W,L * *", "0 0 * 3-5 1#1,3L",
    ])) {
        let date = DateTime::from_timestamp(day * 86_400, 0).unwrap().date_naive();
        let (month_length, weekday) = (i64::from(date.num_days_in_month()), date.weekday().num_days_from_sunday());
        let in_month = |d: i64| date.with_day(u32::try_from(d).unwrap());
        let nearest_weekday = |d: i64| -> Option<i64> {
            let there = (1..=month_length).filter(|x| !matches!(in_month(*x).unwrap().weekday().num_days_from_sunday(), 0 | 6));
            (d <= month_length).then(|| there.min_by_key(|x| ((x - d).abs(), (*x - d).abs() == 1 && *x > d)).unwrap())
        };
        let last_weekday = nearest_weekday(month_length).filter(|d| *d <= month_length).unwrap();
        let d = i64::from(date.day());
        let nth = |day: u32, n: i64| weekday == day && (d - 1) / 7 + 1 == n;
        let last = |day: u32| weekday == day && d + 7 > month_length;
        let (year, month) = (date.year(), date.month());
        let want = match text {
            "0 0 L * *" => d == month_length,
            "0 0 15W * *" => Some(d) == nearest_weekday(15),
            "0 0 1W * *" => Some(d) == nearest_weekday(1),
            "0 0 31W * *" => Some(d) == nearest_weekday(31),
            "0 0 LW * *" => d == last_weekday,
            "0 0 * * FRI#2" => nth(5, 2),
            "0 0 * * 0#5" => nth(0, 5),
            "0 0 * * 5L" => last(5),
            "0 0 * * 7L" => last(0),
            "0 0 L 2,4 *" => d == month_length && [2, 4].contains(&month),
            "0 0 0 LW 6 * 2020-2040/2" => d == last_weekday && month == 6 && year % 2 == 0 && (2020..=2040).contains(&year),
            "0 0 0 * * MON#1 2024-2030" => nth(1, 1) && (2024..=2030).contains(&year),
            "0 0 1,15W,L * *" => d == 1 || Some(d) == nearest_weekday(15) || d == month_length,
            _ => (nth(1, 1) || last(3)) && (3..=5).contains(&month),
        };
        let midnight = date.and_hms_opt(0, 0, 0).unwrap().and_utc();
        let schedule = cron(&[text], Tz::UTC);
        prop_assert_eq!(schedule.slot_after(midnight - TimeDelta::seconds(1)) == Some(midnight), want, "{} {}", text, date);
        prop_assert_eq!(schedule.slot_at_or_before(midnight) == Some(midnight), want, "{} {}", text, date);
    }
}

proptest! {
    // Measuring a schedule takes a while.
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn jitter_pushes_no_slot_out_of_its_window_or_past_half_the_way_to_the_next(
        picks in prop::collection::vec(0..EXPRESSIONS.len(), 1..4),
        zone in prop::sample::select(ZONES.map(|z| z.0).to_vec()),
        t in 1_767_300_000i64..1_798_000_000,
        (from, length, n) in (0..24u32, 1..24u32, 0..1000u32),
    ) {
        let texts: Vec<&str> = picks.iter().map(|n| EXPRESSIONS[*n]).collect();
        let window = Window::parse([format!("{from:02}:00-{:02}:00", (from + length) % 24).as_str()]).unwrap();
        let schedule = Schedule { window, jitter: TimeDelta::days(400), ..cron(&texts, zone) };
        let offset = schedule.offset(&PolicyName::parse("p").unwrap(), &InstanceId::parse(&format!("vm-{n}")).unwrap(), DateTime::UNIX_EPOCH);
        let first = schedule.slot_after(DateTime::from_timestamp(t, 0).unwrap());
        for slot in std::iter::successors(first, |slot| schedule.slot_after(*slot)).take(50).filter(|slot| slot.timestamp() < 1_798_761_600) {
            prop_assert!(schedule.is_open(slot + offset), "{slot} + {offset}");
            prop_assert!(schedule.slot_after(slot).is_none_or(|next| offset * 2 <= next - slot), "{slot} + {offset}");
        }
    }
}
