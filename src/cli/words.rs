//! Ages, sizes and counts in words.

pub(super) use crate::config::show_size as size;
use chrono::{DateTime, TimeDelta, Utc};

/// `3 min ago`, `in 2 h`; `-` for none.
#[must_use]
pub(super) fn age(at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> String {
    match at {
        None => "-".to_owned(),
        Some(at) if at > now + TimeDelta::seconds(1) => format!("in {}", span(at - now)),
        Some(at) if now - at < TimeDelta::seconds(1) => "now".to_owned(),
        Some(at) => format!("{} ago", span(now - at)),
    }
}

/// The largest unit of a span that is at least one, rounded down.
#[must_use]
pub(super) fn span(span: TimeDelta) -> String {
    let seconds = span.num_seconds();
    let units = [(86_400 * 365, "y"), (86_400, "d"), (3600, "h"), (60, "min")];
    match units.iter().find(|(length, _)| seconds >= *length) {
        Some((length, unit)) => format!("{} {unit}", seconds / length),
        None => format!("{seconds} s"),
    }
}

/// `1 fork`, `3 forks`.
#[must_use]
pub(super) fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_unit_and_say_which_way() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let shown = [0, 5, 59, 60, 3599, 3600, 86_399, 86_400, 86_400 * 400, -90].map(|s| age(Some(now - TimeDelta::seconds(s)), now));
        let wanted = ["now", "5 s ago", "59 s ago", "1 min ago", "59 min ago", "1 h ago", "23 h ago", "1 d ago", "1 y ago", "in 1 min"];
        assert_eq!(shown, wanted);
        assert_eq!(age(None, now), "-");
    }
}
