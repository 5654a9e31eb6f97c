//! A zone's offsets over a stretch of time: spans between changes of clocks. The time zone database answers for one moment
//! only, so changes are found by asking twice a day and halving.

use chrono::{DateTime, NaiveDateTime, Offset as _, TimeZone as _};
use chrono_tz::Tz;

/// The database is asked this often: no zone changes its clocks twice within it.
const STEP: i64 = 12 * 3600;
/// Nothing that a change of clocks does to the wall clock reaches further than this: the longest jump is Samoa's day.
pub(super) const REACH: i64 = 26 * 3600;

/// A stretch of time with one offset. Times are seconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// Its first second.
    pub(super) start: i64,
    /// The second after its last.
    pub(super) end: i64,
    /// What the wall clock is ahead of UTC.
    pub(super) offset: i64,
    /// The same before `start`; equal to `offset` if nothing changed there.
    pub(super) before: i64,
}

impl Span {
    /// The wall times that the change at `start` left out: from the first to before the second.
    pub(super) fn gap(&self) -> Option<(i64, i64)> {
        (self.offset > self.before).then_some((self.start + self.before, self.start + self.offset))
    }

    /// Before this wall time, the span's wall times are ones that the span before it had too.
    pub(super) fn repeats_until(&self) -> i64 {
        self.start + self.before.max(self.offset)
    }
}

/// What the wall clock is ahead of UTC.
pub(super) fn offset_at(zone: Tz, t: i64) -> i64 {
    if zone == Tz::UTC {
        return 0;
    }
    let utc = DateTime::from_timestamp(t, 0).unwrap_or_default().naive_utc();
    i64::from(zone.offset_from_utc_datetime(&utc).fix().local_minus_utc())
}

/// The spans that together make up `from` to before `to`.
pub(super) fn spans(zone: Tz, from: i64, to: i64) -> Vec<Span> {
    let mut all = Vec::with_capacity(2);
    let mut span = Span { start: from, end: to, offset: offset_at(zone, from), before: 0 };
    span.before = span.offset;
    let mut at = from;
    while at < to && zone != Tz::UTC {
        let next = (at + STEP).min(to);
        let offset = offset_at(zone, next);
        if offset != span.offset {
            let change = change_between(zone, at, next);
            all.push(Span { end: change, ..span });
            span = Span { start: change, end: to, offset, before: span.offset };
        }
        at = next;
    }
    if span.start < to {
        all.push(span);
    }
    all
}

/// The first second with the offset that `to` has, given that `from` has another.
fn change_between(zone: Tz, mut from: i64, mut to: i64) -> i64 {
    let new = offset_at(zone, to);
    while to - from > 1 {
        let middle = from + (to - from) / 2;
        if offset_at(zone, middle) == new { to = middle } else { from = middle }
    }
    to
}

/// Seconds of the wall clock as a date and time without a zone; `None` beyond the calendar.
pub(super) fn wall(seconds: i64) -> Option<NaiveDateTime> {
    DateTime::from_timestamp(seconds, 0).map(|t| t.naive_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_end_where_the_clocks_change_and_fill_the_time() {
        let day = 86_400;
        let from = 1_767_225_600; // 2026-01-01
        for (zone, changes) in [
            (Tz::UTC, vec![]),
            (Tz::Asia__Kathmandu, vec![]),
            (Tz::Europe__Vienna, vec![(1_774_746_000, 3600), (1_792_890_000, -3600)]),
            (Tz::Australia__Lord_Howe, vec![(1_775_314_800, -1800), (1_791_041_400, 1800)]),
        ] {
            let all = spans(zone, from, from + 365 * day);
            let found: Vec<_> = all.iter().skip(1).map(|s| (s.start, s.offset - s.before)).collect();
            assert_eq!(found, changes, "{zone}");
            assert_eq!((all[0].start, all[all.len() - 1].end), (from, from + 365 * day));
            assert!(all.windows(2).all(|w| w[0].end == w[1].start && w[0].offset == w[1].before));
        }
    }

    #[test]
    fn a_day_that_was_left_out_is_a_gap() {
        // Samoa had no 30 December 2011.
        let change = 1_325_239_200;
        let all = spans(Tz::Pacific__Apia, change - 100_000, change + 100_000);
        assert_eq!(all[1].gap().map(|(from, to)| to - from), Some(86_400));
        assert_eq!(all[0].gap(), None);
    }
}
