//! `check --next`: the slots to come of each policy, from the configuration alone.

use crate::config::{Config, show_duration};
use crate::policy::{Policy, Rhythm};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

/// The next slots of one policy.
#[derive(Debug, Serialize)]
pub(super) struct NextSlots {
    policy: String,
    timezone: String,
    /// Comes on top, a constant part of it for each instance.
    jitter: Option<String>,
    /// At these hours only.
    window: Option<String>,
    slots: Vec<Slot>,
}

/// A slot to come.
#[derive(Debug, Serialize)]
struct Slot {
    at: DateTime<Utc>,
    /// In the policy's zone, with its offset.
    local: String,
    /// The time that the schedule names does not exist on this day.
    moved: bool,
    #[serde(skip)]
    shown: String,
}

/// So many slots after `from` of each policy.
pub(super) fn next_slots(config: &Config, count: u32, from: DateTime<Utc>) -> Vec<NextSlots> {
    config.policies.iter().map(|policy| of_policy(policy, count, from)).collect()
}

fn of_policy(policy: &Policy, count: u32, from: DateTime<Utc>) -> NextSlots {
    let schedule = policy.schedule.as_ref();
    let after = |at: DateTime<Utc>| schedule.and_then(|schedule| schedule.slot_after(at));
    let slots = std::iter::successors(after(from), |slot| after(*slot)).take(usize::try_from(count).unwrap_or(usize::MAX));
    let zone = schedule.map_or(chrono_tz::Tz::UTC, |schedule| schedule.timezone);
    let slots = slots.map(|at| {
        let local = at.with_timezone(&zone);
        // Slots of `every` may have a fraction of a second.
        let part = if at.timestamp_subsec_millis() == 0 { "" } else { "%.3f" };
        Slot {
            at,
            local: local.to_rfc3339_opts(SecondsFormat::AutoSi, false),
            moved: schedule.is_some_and(|schedule| schedule.is_moved(at)),
            shown: local.format(&format!("%a %Y-%m-%d %H:%M:%S{part} %z")).to_string(),
        }
    });
    let jitter = schedule.and_then(|schedule| schedule.jitter.to_std().ok()).filter(|jitter| !jitter.is_zero());
    NextSlots {
        policy: policy.name.to_string(),
        timezone: zone.to_string(),
        jitter: jitter.map(show_duration),
        window: schedule.map(|schedule| &schedule.window).filter(|window| !window.is_always()).map(|window| window.show()),
        slots: slots.collect(),
    }
}

/// The same for people.
pub(super) fn show(all: &[NextSlots], config: &Config) -> String {
    let mut text = String::new();
    for (next, policy) in all.iter().zip(&config.policies) {
        let mut notes = vec![next.timezone.clone()];
        notes.extend(next.window.as_ref().map(|window| format!("only at {window}")));
        notes.extend(next.jitter.as_ref().map(|jitter| format!("each instance later by a constant part of {jitter}, half a slot at most")));
        text.push_str(&format!("\n{} ({})\n", next.policy, notes.join("; ")));
        if next.slots.is_empty() {
            let why = if policy.schedule.is_none() { "it has no schedule and only prunes" } else { "its schedule is over" };
            text.push_str(&format!("  none: {why}\n"));
        }
        let is_cron = policy.schedule.as_ref().is_some_and(|schedule| matches!(schedule.rhythm, Rhythm::Cron(_)));
        for slot in &next.slots {
            let note = if slot.moved && is_cron { "  moved: the clocks go forward over its time" } else { "" };
            text.push_str(&format!("  {}{note}\n", slot.shown));
        }
    }
    text
}
