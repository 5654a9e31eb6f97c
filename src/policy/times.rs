//! One cron expression: the wall times that it names, and the moments at which they are.
//!
//! croner reads expressions and finds wall times; what a change of clocks does to them is decided here, for croner takes
//! every expression with more than one time a day for one that may lose a slot in spring and repeat it in autumn.
//!
//! * **By the hour** (the hour field begins with `*`, or names all 24): follows the time that passes. A wall time that is
//!   there twice is a slot twice; one that was left out is a slot as long after the change as it would have been without
//!   it, unless that is one anyway.
//! * **Times of day** (anything else): each is a slot once. The first time, if it is there twice; the first moment after
//!   the change, if it was left out.

use super::zone::{REACH, Span, spans, wall};
use chrono::NaiveDateTime;
use chrono_tz::Tz;
use croner::Cron;

/// How far ahead one look at the zone goes.
const WINDOW: i64 = 48 * 3600;
/// Looks at the zone before a search is given up; each goes on where the next wall time is.
const MOST_LOOKS: u32 = 64;

/// A cron expression of five to seven fields.
#[derive(Debug, Clone)]
pub struct Times {
    cron: Cron,
    by_hour: bool,
}

impl Times {
    /// The times of an expression.
    #[must_use]
    pub fn new(cron: Cron) -> Self {
        let hours = &cron.pattern.hours;
        let by_hour = hours.from_wildcard || hours.values().len() == 24;
        Self { cron, by_hour }
    }

    /// Whether it follows the time that passes through a change of clocks, rather than times of day.
    #[must_use]
    pub fn is_by_hour(&self) -> bool {
        self.by_hour
    }

    pub(super) fn names(&self, t: i64) -> bool {
        wall(t).is_some_and(|t| self.cron.is_time_matching(&t).unwrap_or(false))
    }

    /// The first wall time at or after `t`.
    fn wall_from(&self, t: i64) -> Option<i64> {
        self.cron.find_next_occurrence(&wall(t)?, true).ok().map(seconds)
    }

    /// The last wall time at or before `t`.
    fn wall_until(&self, t: i64) -> Option<i64> {
        self.cron.find_previous_occurrence(&wall(t)?, true).ok().map(seconds)
    }

    /// The first slot at or after `from` (seconds since the epoch).
    pub(super) fn next(&self, zone: Tz, from: i64) -> Option<i64> {
        let mut from = from;
        for _ in 0..MOST_LOOKS {
            let end = from.checked_add(WINDOW)?;
            let mut ahead = None;
            for span in spans(zone, from.checked_sub(REACH)?, end).iter().filter(|span| span.end > from) {
                let low = span.start.max(from);
                let earliest = if self.by_hour { low + span.offset } else { (low + span.offset).max(span.repeats_until()) };
                ahead = self.wall_from(earliest).map(|wall| wall - span.offset);
                let regular = ahead.filter(|t| *t < span.end);
                let moved = self.next_moved(span, low).filter(|t| *t < span.end);
                if let Some(slot) = regular.into_iter().chain(moved).min() {
                    return Some(slot);
                }
            }
            // Nothing until then, and nothing far from the next wall time.
            from = end.max(ahead? - REACH);
        }
        None
    }

    /// The last slot at or before `until`.
    pub(super) fn last(&self, zone: Tz, until: i64) -> Option<i64> {
        let mut until = until;
        for _ in 0..MOST_LOOKS {
            let begin = until.checked_sub(WINDOW)?;
            let mut back = None;
            let all = spans(zone, begin.checked_sub(REACH)?, until.checked_add(1)?);
            for span in all.iter().rev().filter(|span| span.end > begin) {
                let high = span.end - 1;
                let found = self.wall_until(high + span.offset);
                back = found.map(|wall| wall - span.offset);
                let regular = found.filter(|wall| self.by_hour || *wall >= span.repeats_until()).map(|wall| wall - span.offset);
                let moved = self.last_moved(span, high);
                if let Some(slot) = regular.into_iter().chain(moved).filter(|t| *t >= span.start.max(begin)).max() {
                    return Some(slot);
                }
            }
            until = (begin - 1).min(back? + REACH);
        }
        None
    }

    /// The first slot at or after `low`, in the span, of wall times that the change at its start left out.
    fn next_moved(&self, span: &Span, low: i64) -> Option<i64> {
        let (first, end) = span.gap()?;
        if !self.by_hour {
            return (low == span.start && self.wall_from(first)? < end).then_some(span.start);
        }
        self.wall_from(low + span.before).filter(|wall| *wall < end).map(|wall| wall - span.before)
    }

    /// The last such slot at or before `high`.
    fn last_moved(&self, span: &Span, high: i64) -> Option<i64> {
        let (first, end) = span.gap()?;
        let wall = self.wall_until((high + span.before).min(end - 1)).filter(|wall| *wall >= first);
        if self.by_hour { wall.map(|wall| wall - span.before) } else { (self.wall_from(first)? < end).then_some(span.start) }
    }

    /// Whether a slot is one that the change of clocks has moved: its wall time is not one that the expression names.
    pub(super) fn is_moved(&self, zone: Tz, slot: i64) -> bool {
        !self.names(slot + super::zone::offset_at(zone, slot))
    }
}

fn seconds(wall: NaiveDateTime) -> i64 {
    wall.and_utc().timestamp()
}
