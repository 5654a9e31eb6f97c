//! Plans, and what became of them.

use super::{BAD, GOOD, ODD, paint, size, table};
use crate::cli::words::count;
use crate::config::show_duration;
use crate::policy::{Side, Verdict};
use crate::worker::view::{PlanChange, PlanDiff, PlanEntryView, PlanView, PruneReport, ReasonView};
use std::path::Path;
use std::time::Duration;

/// `plan`; `prune` is the command line that carries one out, if it is of now.
#[must_use]
pub(in crate::cli) fn plan(plan: &PlanView, config: &Path, prune: Option<&str>) -> String {
    if plan.entries.is_empty() {
        return "No snapshots, nothing to plan.\n".to_owned();
    }
    let mut text = String::new();
    if !plan.in_force {
        text.push_str(&format!("By {}, which is not the configuration in force.\n\n", config.display()));
    }
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
    if let Some(prune) = prune.filter(|_| counts.1 > 0 && plan.in_force) {
        text.push_str(&format!("Do exactly this: {prune} --plan {}\n", plan.hash));
    }
    text
}

fn verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::Keep => paint(GOOD, "keep"),
        Verdict::Remove => paint(BAD, "remove"),
        Verdict::Blocked => paint(ODD, "blocked"),
    }
}

/// `plan --diff`.
#[must_use]
pub(in crate::cli) fn diff(diff: &PlanDiff, from: &str, to: &str) -> String {
    let mut text = format!("Now: {from}\nNew: {to}\n\n");
    if diff.changes.is_empty() {
        return text + &format!("Nothing changes: {} have the same verdict by both.\n", count(diff.unchanged, "snapshot"));
    }
    let row = |change: &PlanChange| {
        let to = &change.to;
        let whose = to.policy.as_ref().map_or_else(|| to.instance.to_string(), |policy| format!("{} ({policy})", to.instance));
        vec![verdict(change.from), verdict(to.verdict), to.snapshot_id.to_string(), whose, size(to.reclaimable_bytes), whys(&to.reasons)]
    };
    let rows = diff.changes.iter().map(row).collect();
    text.push_str(&table(&["NOW", "NEW", "SNAPSHOT", "INSTANCE", "FREES", "WHY"], &["FREES"], rows));
    let to = |verdict| diff.changes.iter().filter(move |change| change.to.verdict == verdict);
    let freed = to(Verdict::Remove).map(|change| change.to.reclaimable_bytes).sum();
    let counts = (to(Verdict::Remove).count(), to(Verdict::Blocked).count(), to(Verdict::Keep).count());
    text + &format!(
        "\n{} more removed ({}), {} blocked, {} kept after all; {} as before\n",
        counts.0,
        size(freed),
        counts.1,
        counts.2,
        diff.unchanged
    )
}

fn plan_row(e: &PlanEntryView) -> Vec<String> {
    let changes = e.next_change_at.map_or_else(String::new, |at| at.format("%Y-%m-%d %H:%M:%S").to_string());
    vec![verdict(e.verdict), e.snapshot_id.to_string(), size(e.reclaimable_bytes), changes, whys(&e.reasons)]
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
    let freed = match (removed, report.grace_seconds) {
        (0, _) => String::new(),
        (_, 0) => format!(" ({} free)", size(report.freed_bytes)),
        (_, grace) => {
            format!(" ({} free once their {} in the trash is over)", size(report.freed_bytes), show_duration(Duration::from_secs(grace)))
        }
    };
    text.push_str(&format!("{removed} removed{freed}, {blocked} blocked, {failed} failed\n"));
    if report.left > 0 {
        let left = count(report.left, "snapshot");
        text.push_str(&format!(
            "{left} more would go, but for the caps of [prune]; see `snapkeep plan`, then `snapkeep prune --plan HASH` does it all\n"
        ));
    }
    text
}
