//! Simulations: a summary, a row for each period, a row for each rule.

use super::{ODD, block, count, paint, size, table};
use crate::policy::simulate::{Period, Simulation, Tier};
use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use chrono_tz::Tz;

/// The longest bar, characters.
const BAR: u64 = 40;

/// `simulate`.
#[must_use]
pub(in crate::cli) fn simulations(all: &[Simulation]) -> String {
    let texts: Vec<String> = all.iter().map(simulation).collect();
    texts.join("\n")
}

fn simulation(s: &Simulation) -> String {
    let mut text = summary(s);
    if let Some(stopped) = &s.stopped {
        let stopped = format!("It ended early, on {}: {}.", stamp(stopped.at, s), stopped.why);
        text.push_str(&format!("{}\n", paint(ODD, &stopped)));
    }
    if s.taken == 0 {
        return text + "\nNo snapshot was taken.\n";
    }
    text.push_str(&format!("\n{}\n{}", periods(s), tiers(s)));
    if s.looked_every > 1 {
        text.push_str(&format!(
            "\nRetention was applied after every {} slots or sooner; --every-slot applies it after each, and is slow.\n",
            s.looked_every
        ));
    }
    text
}

/// A time in the policy's zone; midnight is a date.
fn stamp(at: DateTime<Utc>, s: &Simulation) -> String {
    let local = at.with_timezone(&s.timezone.parse().unwrap_or(Tz::UTC));
    local.format(if local.time() == NaiveTime::MIN { "%Y-%m-%d" } else { "%Y-%m-%d %H:%M" }).to_string()
}

/// In hours, days or years, whichever says enough.
fn long(span: TimeDelta) -> String {
    match (span.num_minutes(), span.num_hours(), span.num_days()) {
        (minutes, 0, _) => format!("{minutes} min"),
        (_, hours, 0..=1) => format!("{hours} h"),
        (_, _, days) if days < 1000 => format!("{days} d"),
        (_, _, days) => format!("{:.1} y", days as f64 / 365.25),
    }
}

fn summary(s: &Simulation) -> String {
    let (held, blocked) = (&s.held, &s.blocked);
    let max_at = held.max_at.map_or_else(String::new, |at| format!(" ({})", stamp(at, s)));
    let missed = if s.missed > 0 { format!(", {} of them missed", s.missed) } else { String::new() };
    let steady = match &s.steady {
        Some(steady) => {
            let since = s.days.iter().position(|day| day.date == steady.since).unwrap_or(0);
            format!("since {} (day {}): {} kept on average", steady.since, since + 1, steady.mean)
        }
        None => "not by the end: it still grows, or the span is too short to tell".to_owned(),
    };
    let mut pairs = vec![
        ("policy", s.policy.to_string()),
        ("time", format!("{} to {} ({}), {}", stamp(s.from, s), stamp(s.to, s), long(s.to - s.from), s.timezone)),
        ("slots", format!("{}{missed}", s.slots)),
        ("held", format!("{} at the end, at most {}{max_at}, median {}", held.end, held.max, held.median)),
        ("steady", steady),
        ("oldest", s.oldest_at.map_or("none".to_owned(), |at| format!("{} ({})", stamp(at, s), long(s.to - at)))),
    ];
    if let Some(bytes) = &s.bytes {
        pairs.push(("bytes", format!("{} at the end, at most {}, median {}", size(bytes.end), size(bytes.max), size(bytes.median))));
    }
    if let Some(forks) = &s.forks {
        let pinned = s.bytes.as_ref().map_or_else(String::new, |bytes| format!(" ({})", size(bytes.pinned_max)));
        let made = format!("{} made, at most {} at once", forks.made, forks.live_max);
        let alone = format!("they alone kept at most {}{pinned}, {} on average", count(blocked.max, "snapshot"), blocked.mean);
        pairs.push(("forks", format!("{made}; {alone}")));
    }
    if s.forks.is_some() || s.missed > 0 {
        pairs.push(("seed", s.seed.to_string()));
    }
    block(&pairs)
}

fn periods(s: &Simulation) -> String {
    let (with_forks, with_bytes) = (s.forks.is_some(), s.bytes.is_some());
    let most = s.held.max.max(1);
    let length = |n: u64| usize::try_from((n * BAR + most / 2) / most).unwrap_or(0);
    let bar = |p: &Period| {
        let kept = length(p.held - p.blocked);
        "█".repeat(kept) + &"░".repeat(length(p.held).saturating_sub(kept))
    };
    let row = |p: &Period| {
        let mut row = vec![p.label.clone(), p.held.to_string(), p.held_max.to_string()];
        if with_forks {
            row.push(p.blocked.to_string());
        }
        if with_bytes {
            row.push(p.bytes.map_or_else(String::new, size));
        }
        row.push(p.oldest_at.map_or("-".to_owned(), |at| long(p.to - at)));
        row.push(bar(p));
        row
    };
    let mut head = vec!["PERIOD", "HELD", "MOST"];
    if with_forks {
        head.push("FORKS ONLY");
    }
    if with_bytes {
        head.push("BYTES");
    }
    head.extend(["OLDEST", ""]);
    table(&head, &["HELD", "MOST", "FORKS ONLY", "BYTES", "OLDEST"], s.periods.iter().map(row).collect())
}

fn tiers(s: &Simulation) -> String {
    let row = |t: &Tier| {
        let first = match t.first_alone_at {
            Some(at) => format!("{} (after {})", stamp(at, s), long(at - s.from)),
            None => "never: other rules keep the same".to_owned(),
        };
        let oldest = t.oldest_at.map_or("-".to_owned(), |at| format!("{} ({})", stamp(at, s), long(s.to - at)));
        vec![t.rule.clone(), t.keeps.to_string(), t.alone.to_string(), oldest, first]
    };
    table(&["RULE", "KEEPS", "ALONE", "OLDEST", "FIRST ALONE"], &["KEEPS", "ALONE"], s.tiers.iter().map(row).collect())
}
