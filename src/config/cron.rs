//! Cron expressions: five to seven fields, and the usual aliases.

use croner::Cron;
use croner::parser::CronParser;

/// Parses an expression; day of month OR day of week, as cron has it. One that never comes is an error.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse_cron(text: &str) -> Result<Cron, String> {
    let expression = match text.trim() {
        "@hourly" => "0 * * * *",
        "@daily" | "@midnight" => "0 0 * * *",
        "@weekly" => "0 0 * * 0",
        "@monthly" => "0 0 1 * *",
        "@yearly" | "@annually" => "0 0 1 1 *",
        alias if alias.starts_with('@') => {
            return Err(format!("{alias} is not known; there are @hourly, @daily, @midnight, @weekly, @monthly and @yearly"));
        }
        other => other,
    };
    let cron = CronParser::builder().build().parse(expression).map_err(|e| format!("{text:?} is not a cron expression: {e}"))?;
    // A leap day that is a Sunday comes every 28 years, or 40 over a century.
    let from = chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::days(56 * 365);
    match cron.find_next_occurrence(&from, true) {
        Ok(_) => Ok(cron),
        Err(_) => Err(format!("{text:?} never comes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, TimeZone as _, Utc};

    fn next(text: &str, from: DateTime<Utc>) -> String {
        parse_cron(text).unwrap().find_next_occurrence(&from, false).unwrap().format("%a %F %T").to_string()
    }

    #[test]
    fn five_six_and_seven_fields_and_aliases_are_read() {
        let from = Utc.with_ymd_and_hms(2026, 11, 24, 12, 3, 4).unwrap();
        assert_eq!(next("*/15 * * * *", from), "Tue 2026-11-24 12:15:00");
        assert_eq!(next("30 */15 * * * *", from), "Tue 2026-11-24 12:15:30");
        assert_eq!(next("0 0 0 1 1 * 2030", from), "Tue 2030-01-01 00:00:00");
        assert_eq!(next("@daily", from), "Wed 2026-11-25 00:00:00");
        assert_eq!(next("0 3 * * FRI#2", from), "Fri 2026-12-11 03:00:00");
        assert_eq!(next("0 3 L * *", from), "Mon 2026-11-30 03:00:00");
    }

    #[test]
    fn the_thirteenth_or_a_friday_as_cron_has_it() {
        let from = Utc.with_ymd_and_hms(2026, 11, 24, 12, 0, 0).unwrap();
        assert_eq!(next("0 3 13 * 5", from), "Fri 2026-11-27 03:00:00");
    }

    #[test]
    fn what_never_comes_is_refused() {
        for bad in ["0 0 30 2 *", "61 * * * *", "* * *", "@reboot", "every day", ""] {
            assert!(parse_cron(bad).is_err(), "{bad}");
        }
    }
}
