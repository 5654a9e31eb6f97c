//! The worker, and how each policy does.

use super::{BAD, GOOD, ODD, block, paint, table};
use crate::cli::words::{age, count, size, span};
use crate::config::show_size;
use crate::worker::view::{PolicyStatus, StatusView, WorkerView};
use chrono::{DateTime, TimeDelta, Utc};

/// `status`.
#[must_use]
pub(in crate::cli) fn status(status: &StatusView, now: DateTime<Utc>) -> String {
    let mut text = worker(&status.worker, now);
    if status.policies.is_empty() {
        return text + "\nNo policies.\n";
    }
    let row = |p: &PolicyStatus| {
        let state = match p.state.as_str() {
            "ok" | "running" => paint(GOOD, &p.state),
            "failing" => paint(BAD, &p.state),
            "gone" | "no instances" | "due" | "not selected" | "tags unreadable" => paint(ODD, &p.state),
            other => other.to_owned(),
        };
        vec![
            p.policy.to_string(),
            p.instance.as_ref().map_or("-".to_owned(), ToString::to_string),
            state,
            age(p.last_success_at, now),
            p.failures.to_string(),
            next(p, now),
            p.late_ms.map_or("-".to_owned(), late),
            p.snapshots.to_string(),
            p.last_error.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    };
    let head = ["POLICY", "INSTANCE", "STATE", "LAST SUCCESS", "FAILURES", "NEXT", "LATE", "SNAPSHOTS", "LAST ERROR"];
    text.push('\n');
    text + &table(&head, &["FAILURES", "SNAPSHOTS"], status.policies.iter().map(row).collect())
}

/// When; what is an hour ahead or more, also in the policy's zone.
fn next(p: &PolicyStatus, now: DateTime<Utc>) -> String {
    let age = age(p.next_slot, now);
    let zone = p.timezone.as_ref().and_then(|zone| zone.parse::<chrono_tz::Tz>().ok());
    match p.next_slot.zip(zone) {
        Some((at, zone)) if at - now >= TimeDelta::hours(1) => format!("{age} ({})", at.with_timezone(&zone).format("%a %d %b %H:%M %Z")),
        _ => age,
    }
}

fn late(ms: u64) -> String {
    if ms < 2000 { "on time".to_owned() } else { span(TimeDelta::milliseconds(i64::try_from(ms).unwrap_or(i64::MAX))) }
}

fn worker(w: &WorkerView, now: DateTime<Utc>) -> String {
    let running = match w.started_at {
        Some(at) if w.running => format!("running, version {}, started {}", w.version, age(Some(at), now)),
        _ => "not running".to_owned(),
    };
    let running = w.starting.as_ref().map_or(running.clone(), |so_far| format!("{running}, starting: {so_far}"));
    let mut pairs = vec![
        ("worker", running),
        ("config", w.config.clone()),
        ("store", format!("{} ({}, {})", w.store, count(w.snapshots, "snapshot"), count(w.forks, "ref"))),
        ("instances", w.instances.clone()),
        ("queue", if w.pending == 0 { "empty".to_owned() } else { format!("{} pending", w.pending) }),
    ];
    if w.memory_fallbacks > 0 {
        pairs.push((
            "memory",
            paint(ODD, &format!("{} got no link to the snapshot's (see fork.created)", count(w.memory_fallbacks, "fork"))),
        ));
    }
    if w.cache_snapshots > 0 {
        pairs.push(("cache", format!("{} of raw memory, of {}", size(w.cache_bytes), count(w.cache_snapshots, "compressed snapshot"))));
    }
    if let Some(pool) = &w.pool {
        let wanted =
            if w.running { format!(" of {} ready, {} of their own", pool.wanted, show_size(pool.bytes)) } else { " ready".to_owned() };
        pairs.push(("pool", format!("{}{wanted}", pool.ready)));
    }
    if let Some(why) = w.clock.as_ref().and_then(|clock| clock.why.as_ref()) {
        pairs.push(("clock", paint(ODD, &format!("not believed, so nothing is removed by age: {why}"))));
    }
    if let Some(why) = &w.root_lost {
        pairs.push(("root", paint(BAD, why)));
    }
    if let Some(why) = &w.queue_closed {
        pairs.push(("queue closed", paint(BAD, why)));
    }
    let mut text = block(&pairs);
    for problem in &w.config_rejected {
        text.push_str(&format!("\n{}\n{problem}\n", paint(BAD, "the last reload was refused; the old configuration goes on:")));
    }
    text
}
