//! The hours in which a policy may take snapshots.

use super::zone::{offset_at, spans};
use chrono_tz::Tz;

const DAY: i64 = 86_400;
/// How far one look goes, and how many there are: also a day that a zone leaves out has an end.
const LOOK: i64 = 2 * DAY;
const LOOKS: i64 = 4;

/// Hours of the wall clock; all of them if there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Window {
    /// From the first to before the second (seconds of the day); over midnight if the second is not later.
    hours: Vec<(i64, i64)>,
}

/// Why a string is not a range of hours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct WindowError {
    /// In words.
    pub message: String,
}

impl Window {
    /// Reads ranges such as `22:00-06:00`: from the first minute to before the second, over midnight if that is earlier.
    ///
    /// # Errors
    /// [`WindowError`] for anything else.
    pub fn parse<'t>(ranges: impl IntoIterator<Item = &'t str>) -> Result<Self, WindowError> {
        let hours: Vec<_> = ranges.into_iter().map(range).collect::<Result<_, _>>()?;
        let is_whole_day = hours.contains(&(0, DAY));
        Ok(Self { hours: if is_whole_day { Vec::new() } else { hours } })
    }

    /// Whether it leaves any hour out.
    #[must_use]
    pub fn is_always(&self) -> bool {
        self.hours.is_empty()
    }

    /// The ranges as they are written.
    #[must_use]
    pub fn show(&self) -> String {
        let time = |s: i64| format!("{:02}:{:02}", s / 3600, s / 60 % 60);
        self.hours.iter().map(|(from, to)| format!("{}-{}", time(*from), time(*to))).collect::<Vec<_>>().join(", ")
    }

    fn has(&self, wall: i64) -> bool {
        let time = wall.rem_euclid(DAY);
        self.is_always()
            || self.hours.iter().any(|(from, to)| if from < to { (*from..*to).contains(&time) } else { time >= *from || time < *to })
    }

    /// Whether it is open at `t` (seconds since the epoch).
    pub(super) fn is_open(&self, zone: Tz, t: i64) -> bool {
        self.is_always() || self.has(t + offset_at(zone, t))
    }

    /// The first second at or after `t` in which it is open.
    pub(super) fn next_open(&self, zone: Tz, t: i64) -> Option<i64> {
        let look = |n: i64| spans(zone, t + n * LOOK, t + (n + 1) * LOOK);
        if self.is_always() {
            return Some(t);
        }
        (0..LOOKS).flat_map(look).find_map(|span| {
            let wall = span.start + span.offset;
            let wait = if self.has(wall) { 0 } else { self.hours.iter().map(|(from, _)| (from - wall).rem_euclid(DAY)).min()? };
            Some(span.start + wait).filter(|open| *open < span.end)
        })
    }

    /// The last second at or before `t` in which it was open.
    pub(super) fn last_open(&self, zone: Tz, t: i64) -> Option<i64> {
        let look = |n: i64| spans(zone, t + 1 - (n + 1) * LOOK, t + 1 - n * LOOK).into_iter().rev();
        if self.is_always() {
            return Some(t);
        }
        (0..LOOKS).flat_map(look).find_map(|span| {
            let wall = span.end - 1 + span.offset;
            let since = if self.has(wall) { 0 } else { self.hours.iter().map(|(_, to)| (wall - (to - 1)).rem_euclid(DAY)).min()? };
            Some(span.end - 1 - since).filter(|open| *open >= span.start)
        })
    }

    /// For how many seconds from `t` on it stays open, if it closes at all within days.
    pub(super) fn open_for(&self, zone: Tz, t: i64) -> Option<i64> {
        for span in spans(zone, t, t + LOOK).into_iter().filter(|_| !self.is_always()) {
            let mut at = span.start;
            while at < span.end {
                let wall = at + span.offset;
                if !self.has(wall) {
                    return Some(at - t);
                }
                // Where ranges touch or overlap, the end of one is not the end.
                at += self.hours.iter().map(|(_, to)| (to - wall - 1).rem_euclid(DAY) + 1).min()?;
            }
        }
        None
    }
}

fn range(text: &str) -> Result<(i64, i64), WindowError> {
    let error = |message: String| WindowError { message };
    let (from, to) =
        text.split_once(['-', '–']).ok_or_else(|| error(format!("`{text}` is not a range of hours, such as \"22:00-06:00\"")))?;
    let time = |part: &str| {
        let wrong = || error(format!("`{}` is not a time of day, such as \"22:00\"", part.trim()));
        let (hour, minute) = part.trim().split_once(':').ok_or_else(wrong)?;
        let number = |digits: &str| {
            let plain = (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse::<i64>().ok().filter(|_| plain).ok_or_else(wrong)
        };
        let (hour, minute) = (number(hour)?, number(minute)?);
        if minute > 59 || hour * 60 + minute > 24 * 60 { Err(wrong()) } else { Ok(hour * 3600 + minute * 60) }
    };
    let (from, to) = (time(from)?, time(to)?);
    if from == DAY {
        return Err(error(format!("`{text}` begins at 24:00: write 00:00")));
    }
    if from == to {
        return Err(error(format!("`{text}` begins and ends at the same time: leave it out for the whole day")));
    }
    Ok((from, to))
}
