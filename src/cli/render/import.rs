//! What became of directories, or would.

use super::{BAD, GOOD, ODD, count, paint, table};
use crate::store::manifest::TimeFrom;
use crate::worker::importing::{ImportView, ImportedView};

/// `import`.
#[must_use]
pub(in crate::cli) fn imported(view: &ImportView) -> String {
    let mut text = String::new();
    if view.entries.is_empty() {
        text.push_str(&format!("There is nothing in {}.\n", view.dir.display()));
    } else {
        let head = ["NAME", "TIME", "BY", "RESULT", "SNAPSHOT", "WHY"];
        text.push_str(&table(&head, &[], view.entries.iter().map(|entry| row(view, entry)).collect()));
    }
    let of = |result: &str| view.entries.iter().filter(|e| e.result == result).count() as u64;
    let policy = view.policy.as_ref().map_or("by hand".to_owned(), |policy| format!("of policy {policy}"));
    let taken = if view.dry_run { "would be taken" } else { "taken" };
    let rest = format!("{} before, {} left, {} failed", of("known"), of("left"), of("failed"));
    text.push_str(&format!("\n{} of {} {taken} ({policy}), {rest}\n", count(of("taken"), "snapshot"), view.instance));
    for note in &view.notes {
        text.push_str(&format!("{} {note}\n", paint(ODD, "note:")));
    }
    text
}

fn row(view: &ImportView, entry: &ImportedView) -> Vec<String> {
    let result = match entry.result.as_str() {
        "taken" if view.dry_run => paint(GOOD, "would be taken"),
        "taken" => paint(GOOD, entry.way.as_deref().unwrap_or("taken")),
        "known" => "taken before".to_owned(),
        "failed" => paint(BAD, "failed"),
        other => other.to_owned(),
    };
    let snapshot = entry.snapshot.as_ref().map(ToString::to_string).or_else(|| entry.id.as_ref().map(ToString::to_string));
    vec![
        shown(&entry.name),
        entry.at.map_or("-".to_owned(), |at| at.format("%Y-%m-%d %H:%M:%S UTC").to_string()),
        entry.by.map_or("-", |by| if by == TimeFrom::Name { "name" } else { "mtime" }).to_owned(),
        result,
        snapshot.unwrap_or_else(|| "-".to_owned()),
        entry.why.clone().unwrap_or_default(),
    ]
}

/// No name is shown longer, characters.
const LONGEST: usize = 40;

/// A name may be made to be obeyed by a terminal, to look like another one, or to fill the screen.
fn shown(name: &str) -> String {
    let plain = |c: char| if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') { '?' } else { c };
    let text: String = name.chars().take(LONGEST).map(plain).collect();
    if name.chars().nth(LONGEST).is_some() { text + "..." } else { text }
}
