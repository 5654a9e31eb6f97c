//! When verdicts change by time alone, where the end of one snapshot's claim moves others: every moment at which a rule
//! lets go, or a date in the future comes, is tried in turn.

use super::claims::Line;
use super::rules::Rules;
use chrono::{DateTime, Utc};
use std::collections::BTreeSet;

/// So many steps of a rule over a snapshot are tried; after that a time is said at which a verdict may change.
const STEPS: usize = 20_000_000;

/// For each of a line (those of the future among them), when its going or staying first changes after `now`. `goes` is
/// what becomes of each now.
///
/// With `first_only` it ends at the first moment at which any does.
pub(super) fn next_changes(
    rules: &Rules<'_>,
    line: &Line<'_>,
    (goes, first_only): (&[bool], bool),
    now: DateTime<Utc>,
) -> Vec<Option<DateTime<Utc>>> {
    let mut changes = vec![None; line.facts.len()];
    let steps_each = line.facts.len() * (1 + rules.retention.keep.as_ref().map_or(0, |k| 3 + k.buckets.len() + k.within_buckets.len()));
    let tries = (STEPS / steps_each.max(1)).max(1);
    let mut moments = moments(rules, line, now).into_iter();
    for at in moments.by_ref().take(tries) {
        let present = line.at(at);
        let mut then = rules.goes(&present, at).into_iter();
        for ((fact, goes), change) in line.facts.iter().zip(goes).zip(&mut changes) {
            // One that is dated later still stays.
            let goes_then = if fact.created_at <= at { then.next().unwrap_or(false) } else { false };
            if change.is_none() && goes_then != *goes {
                *change = Some(at);
            }
        }
        if changes.iter().all(Option::is_some) || (first_only && changes.iter().any(Option::is_some)) {
            return changes;
        }
    }
    if let Some(untried) = moments.next() {
        changes.iter_mut().filter(|change| change.is_none()).for_each(|change| *change = Some(untried));
    }
    changes
}

/// All moments after `now` at which anything can change.
fn moments(rules: &Rules<'_>, line: &Line<'_>, now: DateTime<Utc>) -> BTreeSet<DateTime<Utc>> {
    let retention = rules.retention;
    let keep = retention.keep.iter();
    let spans = keep.flat_map(|keep| keep.within.into_iter().chain(keep.within_buckets.iter().map(|(_, span)| *span)));
    let spans: Vec<_> = spans.chain(retention.limit.max_age).collect();
    let ends = line.facts.iter().flat_map(|fact| spans.iter().filter_map(|span| fact.created_at.checked_add_signed(*span)));
    let dates = line.facts.iter().map(|fact| fact.created_at);
    ends.chain(dates).chain(rules.gone_at()).filter(|at| *at > now).collect()
}
