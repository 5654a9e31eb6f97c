//! Plans, and what became of them.

use super::{BAD, GOOD, ODD, paint, size, table};
use crate::policy::{Side, Verdict};
use crate::worker::view::{PlanEntryView, PlanView, PruneReport, ReasonView};

/// `plan`.
#[must_use]
pub(in crate::cli) fn plan(plan: &PlanView) -> String {
    if plan.entries.is_empty() {
        return "No snapshots, nothing to plan.\n".to_owned();
    }
    let mut text = String::new();
    let groups = plan.entries.chunk_by(|a, b| (&a.instance, &a.policy) == (&b.instance, &b.policy));
    for group in groups {
        if let Some(first) = group.first() {
            let policy = first.policy.as_ref().map_or("taken by hand".to_owned(), |p| format!("policy {p}"));
            text.push_str(&format!("{}, {policy}\n", first.instance));
        }
        text.push_str(&table(&["VERDICT", "SNAPSHOT", "FREES", "CHANGES (UTC)", "WHY"], &["FREES"], group.iter().map(plan_row).collect()));
        text.push('\n');
    }
    let of = |verdict| plan.entries.iter().filter(move |e| e.verdict == verdict);
    let freed: u64 = of(Verdict::Remove).map(|e| e.reclaimable_bytes).sum();
    let counts = (of(Verdict::Keep).count(), of(Verdict::Remove).count(), of(Verdict::Blocked).count());
    text.push_str(&format!("{} kept, {} to remove ({}), {} blocked\n", counts.0, counts.1, size(freed), counts.2));
    if counts.1 > 0 {
        text.push_str(&format!("Do exactly this: snapkeep prune --plan {}\n", plan.hash));
    }
    text
}

fn plan_row(e: &PlanEntryView) -> Vec<String> {
    let verdict = match e.verdict {
        Verdict::Keep => paint(GOOD, "keep"),
        Verdict::Remove => paint(BAD, "remove"),
        Verdict::Blocked => paint(ODD, "blocked"),
    };
    let changes = e.next_change_at.map_or_else(String::new, |at| at.format("%Y-%m-%d %H:%M:%S").to_string());
    vec![verdict, e.snapshot_id.to_string(), size(e.reclaimable_bytes), changes, whys(&e.reasons)]
}

/// `daily 2 of 7 (the newest of 2026-11-24); …`; keep rules that do not claim it stand behind the one that says so.
fn whys(reasons: &[ReasonView]) -> String {
    let passes: Vec<String> = reasons.iter().filter(|r| r.side == Side::Pass).map(|r| format!("{}: {}", r.rule, r.text)).collect();
    let why = |r: &ReasonView| {
        let count = r.count.as_ref().map_or_else(String::new, |count| format!(" {count}"));
        match r.rule.as_str() {
            "keep" if !passes.is_empty() => format!("{} ({}: {})", r.rule, r.text, passes.join(", ")),
            _ => format!("{}{count} ({})", r.rule, r.text),
        }
    };
    let whys: Vec<String> = reasons.iter().filter(|r| r.side != Side::Pass).map(why).collect();
    whys.join("; ")
}

/// `prune`.
#[must_use]
pub(in crate::cli) fn pruned(report: &PruneReport) -> String {
    let mut text = String::new();
    for id in &report.removed {
        text.push_str(&format!("removed {id}\n"));
    }
    for blocked in &report.blocked {
        let forks = if blocked.forks.is_empty() { String::new() } else { format!(" ({})", blocked.forks.join(", ")) };
        text.push_str(&format!("kept    {}: {}{forks}\n", blocked.id, blocked.why.join(", ")));
    }
    for failed in &report.failed {
        text.push_str(&format!("failed  {}: {}\n", failed.id, failed.error));
    }
    let (removed, blocked, failed) = (report.removed.len(), report.blocked.len(), report.failed.len());
    text + &format!("{removed} removed, {blocked} blocked, {failed} failed\n")
}
