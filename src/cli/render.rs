//! Views as text: pure functions, `now` is an argument.

mod import;
mod plan;
mod simulate;
mod status;

pub(super) use import::imported;
pub(super) use plan::{diff, plan, pruned};
pub(super) use simulate::simulations;
pub(super) use status::status;

use super::width;
use super::words::{age, count, size, span};
use crate::policy::SnapshotState;
use crate::store::manifest::Kind;
use crate::worker::view::{
    ClockView, Findings, ForkViews, RequestView, Requests, SnapshotView, Snapshots, TrashView, TrashedView, UndeletedView,
};
use anstyle::{AnsiColor, Style};
use chrono::{DateTime, TimeDelta, Utc};
use comfy_table::{CellAlignment, ContentArrangement, Table};

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const ODD: Style = AnsiColor::Yellow.on_default();

fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Columns without lines, two spaces apart; those named in `right` are numbers.
fn table(head: &[&str], right: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head);
    for row in &rows {
        table.add_row(row);
    }
    for (at, name) in head.iter().enumerate() {
        if let Some(column) = table.column_mut(at) {
            column.set_padding((0, 2));
            if right.contains(name) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    let text = table.trim_fmt() + "\n";
    match width::bound() {
        Some(bound) if width::widest(&text) > bound => blocks(head, &rows),
        _ => text,
    }
}

/// A table that is wider than the terminal: a block for each row, so that nothing is broken that somebody wants to copy.
fn blocks(head: &[&str], rows: &[Vec<String>]) -> String {
    let one = |row: &Vec<String>| block(&head.iter().copied().zip(row.iter().cloned()).collect::<Vec<_>>());
    rows.iter().map(one).collect::<Vec<_>>().join("\n")
}

fn kind(kind: Kind) -> String {
    if kind == Kind::Standby { "standby" } else { "stopped" }.to_owned()
}

/// What keeps a snapshot, or is wrong with it, in a word or two.
fn state(s: &SnapshotView) -> String {
    let mut words = match s.state {
        SnapshotState::Ready => Vec::new(),
        SnapshotState::Expiring => vec!["expiring".to_owned()],
        SnapshotState::Quarantined => vec!["quarantined".to_owned()],
    };
    words.extend(s.holds.iter().map(|h| format!("held:{h}")));
    if words.is_empty() { "ready".to_owned() } else { words.join(" ") }
}

/// `ls`.
#[must_use]
pub(super) fn snapshots(all: &Snapshots, now: DateTime<Utc>) -> String {
    if all.snapshots.is_empty() && all.unreadable.is_empty() {
        return "No snapshots yet. Take one with: snapkeep snapshot INSTANCE\n".to_owned();
    }
    let row = |s: &SnapshotView| {
        vec![
            s.id.to_string(),
            s.instance.to_string(),
            s.name.to_string(),
            s.policy.as_ref().map_or("by hand".to_owned(), ToString::to_string),
            kind(s.kind),
            age(Some(s.created_at), now),
            size(s.allocated_bytes),
            s.ref_count.to_string(),
            state(s),
        ]
    };
    let head = ["ID", "INSTANCE", "NAME", "POLICY", "KIND", "AGE", "SIZE", "REFS", "STATE"];
    let mut text = table(&head, &["SIZE", "REFS"], all.snapshots.iter().map(row).collect());
    for unreadable in &all.unreadable {
        text.push_str(&format!(
            "{} cannot be read and is kept ({}): {}\n",
            unreadable.id,
            count(unreadable.ref_count, "ref"),
            unreadable.why
        ));
    }
    text
}

/// Names and values, one a line.
fn block(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// `show`.
#[must_use]
pub(super) fn snapshot(s: &SnapshotView, now: DateTime<Utc>) -> String {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
    let tags: Vec<String> = s.tags.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let holds: Vec<String> = s.holds.iter().map(ToString::to_string).collect();
    let mut pairs = vec![
        ("id", s.id.to_string()),
        ("name", s.name.to_string()),
        ("instance", s.instance.to_string()),
        ("policy", s.policy.as_ref().map_or("none (taken by hand)".to_owned(), ToString::to_string)),
        ("parent", or_none(s.parent.as_ref().map(ToString::to_string))),
        ("kind", kind(s.kind)),
        ("state", state(s)),
        ("created", format!("{} ({})", s.created_at.format("%Y-%m-%d %H:%M:%S UTC"), age(Some(s.created_at), now))),
        ("tags", or_none((!tags.is_empty()).then(|| tags.join(" ")))),
        (
            "size",
            format!("{} ({} allocated, {} freed by its removal)", size(s.size_bytes), size(s.allocated_bytes), size(s.reclaimable_bytes)),
        ),
        ("refs", count(s.ref_count, "fork") + if s.ref_count == 0 { "" } else { " need it" }),
        ("holds", or_none((!holds.is_empty()).then(|| holds.join(" ")))),
    ];
    if let Some(text) = compression(s) {
        pairs.push(("compression", text));
    }
    if let Some(from) = &s.imported_from {
        pairs.push(("imported from", from.clone()));
    }
    if let Some(why) = &s.tags_unread {
        pairs.push(("tags unread", format!("the instance's own are not among them: {why}")));
    }
    if s.digests == "pending" {
        pairs.push(("digests", "pending: damage is not found before they are made".to_owned()));
    }
    if let Some(why) = &s.quarantined_because {
        pairs.push(("quarantined", why.clone()));
    }
    block(&pairs)
}

/// How a snapshot's memory is kept; `None` if there is nothing to say.
fn compression(s: &SnapshotView) -> Option<String> {
    match (s.compressed_size_bytes, s.uncompressed_size_bytes, &s.compression_error) {
        (Some(packed), Some(raw), _) => Some(format!("{}: {} of memory in {}", s.compression_state, size(raw), size(packed))),
        (.., Some(why)) => Some(format!("{}: {why}", s.compression_state)),
        _ => (s.compression_state != "none").then(|| s.compression_state.clone()),
    }
}

/// `forks`.
#[must_use]
pub(super) fn forks(all: &ForkViews, now: DateTime<Utc>) -> String {
    if all.forks.is_empty() {
        return "No forks. Make one with: snapkeep fork SNAPSHOT NAME\n".to_owned();
    }
    let row = |f: &crate::worker::view::ForkView| {
        vec![f.name.clone(), f.fork_of_snapshot.to_string(), age(Some(f.created_at), now), f.fork_id.to_string()]
    };
    table(&["NAME", "SNAPSHOT", "AGE", "FORK ID"], &[], all.forks.iter().map(row).collect())
}

/// `queue`, and the answer of `fork`.
#[must_use]
pub(super) fn requests(all: &Requests, now: DateTime<Utc>) -> String {
    if all.requests.is_empty() {
        return "The queue is empty.\n".to_owned();
    }
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let row = |r: &RequestView| {
        let state = match r.state.as_str() {
            "done" => paint(GOOD, "done"),
            "failed" => paint(BAD, "failed"),
            other => other.to_owned(),
        };
        let attempts = r.attempts.to_string();
        vec![
            r.id.to_string(),
            r.name.clone(),
            r.snapshot_id.to_string(),
            state,
            attempts,
            or_dash(&r.memory),
            or_dash(&r.disk),
            age(Some(r.queued_at), now),
            or_dash(&r.error),
        ]
    };
    let head = ["ID", "NAME", "SNAPSHOT", "STATE", "FAILURES", "MEMORY", "DISK", "QUEUED", "ERROR"];
    table(&head, &["FAILURES"], all.requests.iter().map(row).collect())
}

/// `verify`.
#[must_use]
pub(super) fn findings(all: &Findings) -> String {
    let mut text = String::new();
    for f in &all.findings {
        let severity = match f.severity.as_str() {
            "error" => paint(BAD, "error"),
            "warn" => paint(ODD, "warn"),
            other => other.to_owned(),
        };
        text.push_str(&format!("{severity}: {}: {}\n  {}\n", f.name, f.what, f.path));
        match &f.repair {
            Some(repair) if f.repaired => text.push_str(&format!("  {} {repair}\n", paint(GOOD, "done:"))),
            Some(repair) => text.push_str(&format!("  --repair would: {repair}\n")),
            None => {}
        }
    }
    let looked = format!("{}, {}, {} compared", count(all.snapshots, "snapshot"), count(all.forks, "fork"), size(all.bytes));
    let found = if all.findings.is_empty() { "nothing found".to_owned() } else { count(all.findings.len() as u64, "finding") };
    text + &format!("{found} ({looked})\n")
}

/// `ls --trash`.
#[must_use]
pub(super) fn trash(all: &TrashView, now: DateTime<Utc>) -> String {
    if all.trash.is_empty() {
        return "The trash is empty.\n".to_owned();
    }
    let row = |t: &TrashedView| {
        let left =
            |s: u64| if s == 0 { "now".to_owned() } else { format!("in {}", span(TimeDelta::seconds(i64::try_from(s).unwrap_or(0)))) };
        vec![
            t.entry.clone(),
            t.kind.clone(),
            t.instance.as_ref().map_or("?".to_owned(), ToString::to_string),
            t.name.as_ref().map_or("-".to_owned(), ToString::to_string),
            age(Some(t.removed_at), now),
            size(t.reclaimable_bytes),
            t.seconds_left.map_or("being unlinked".to_owned(), left),
        ]
    };
    let head = ["ENTRY", "KIND", "INSTANCE", "NAME", "REMOVED", "FREES", "GOES"];
    table(&head, &["FREES"], all.trash.iter().map(row).collect())
}

/// `undelete`.
#[must_use]
pub(super) fn undeleted(back: &UndeletedView) -> String {
    match (&back.id, &back.instance) {
        (Some(id), _) if back.result == "kept" => format!("{id} is no longer marked to go\n"),
        (Some(id), _) => {
            format!("{id} is back, with a hold named undeleted; `snapkeep release {id} undeleted` lets retention have it again\n")
        }
        (None, Some(instance)) => format!("{instance} is back\n"),
        (None, None) => String::new(),
    }
}

/// `clock`.
#[must_use]
pub(super) fn clock(view: &ClockView) -> String {
    let Some(why) = &view.why else { return format!("{}\n", paint(GOOD, "The clock is believed.")) };
    let until = view
        .until
        .map_or_else(String::new, |at| format!(" It will be at {}, if it goes on like this.", at.format("%Y-%m-%d %H:%M:%S UTC")));
    format!("{} Nothing is removed by age: {why}.{until}\n", paint(ODD, "The clock is not believed."))
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
