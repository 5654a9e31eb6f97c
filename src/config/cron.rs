//! Cron expressions: read, complained about in words, measured. What is due when is decided elsewhere.

use chrono::{DateTime, TimeDelta, Utc};
use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};

/// What can be written instead of five to seven fields.
const ALIASES: [&str; 7] = ["@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"];

/// Why a string is not a cron expression, and what to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CronProblem {
    pub(super) message: String,
    pub(super) help: Option<String>,
}

/// Reads five to seven fields or an alias. Day of month and day of week are joined by OR if both are restricted, as
/// cron has it.
pub(super) fn parse(text: &str) -> Result<Cron, CronProblem> {
    let problem = |message: String, help: Option<String>| Err(CronProblem { message, help });
    let plain = text.trim();
    if let Some(alias) = plain.strip_prefix('@') {
        return parse_alias(plain, alias);
    }
    let fields = plain.split_whitespace().count();
    if !(5..=7).contains(&fields) {
        let has = if fields == 1 { "1 field".to_owned() } else { format!("{fields} fields") };
        let help = "five fields are minute, hour, day of month, month and day of week; six have the second in front, seven the year behind";
        return problem(format!("`{text}` is not a cron expression: it has {has}, not five to seven"), Some(help.to_owned()));
    }
    match parser().parse(plain) {
        Err(error) => problem(format!("`{text}` is not a cron expression: {}", in_words(&error)), None),
        Ok(cron) if cron.find_next_occurrence(&reference(), true).is_err() => problem(
            format!("`{text}` never occurs"),
            Some("no day in the future has this date: look at the day of the month, the month and the year".to_owned()),
        ),
        Ok(cron) => Ok(cron),
    }
}

fn parse_alias(text: &str, alias: &str) -> Result<Cron, CronProblem> {
    let fields = match alias.to_ascii_lowercase().as_str() {
        "hourly" => "0 * * * *",
        "daily" | "midnight" => "0 0 * * *",
        "weekly" => "0 0 * * 0",
        "monthly" => "0 0 1 * *",
        "yearly" | "annually" => "0 0 1 1 *",
        other => {
            let help = match other.strip_prefix("every") {
                Some(interval) if !interval.trim().is_empty() => format!("write every = \"{}\" instead of schedule", interval.trim()),
                _ => format!("the aliases are {}", ALIASES.join(", ")),
            };
            return Err(CronProblem { message: format!("`{text}` is not an alias of a cron expression"), help: Some(help) });
        }
    };
    parser().parse(fields).map_err(|error| CronProblem { message: in_words(&error), help: None })
}

fn parser() -> CronParser {
    CronParser::builder().seconds(Seconds::Optional).year(Year::Optional).dom_and_dow(false).build()
}

/// Where the search for an occurrence begins: what does not occur after this version was made is a mistake. It is
/// fixed so that the same file is always judged in the same way.
fn reference() -> DateTime<Utc> {
    DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default() // 2026-01-01
}

/// The shortest time between two of the next occurrences.
pub(super) fn shortest_gap(cron: &Cron) -> Option<TimeDelta> {
    let times: Vec<_> = cron.iter_after(reference()).take(32).collect();
    times.iter().zip(times.iter().skip(1)).map(|(a, b)| *b - *a).min()
}

/// croner's reasons without its names of types.
fn in_words(error: &CronError) -> String {
    let text = match error {
        CronError::InvalidPattern(text) | CronError::ComponentError(text) => text.clone(),
        CronError::IllegalCharacters(text) => text.replace("CronPattern contains illegal character", "it has the illegal character"),
        other => other.to_string(),
    };
    let text = text.trim_end_matches('.');
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeZone as _;

    fn next(text: &str) -> DateTime<Utc> {
        let from = Utc.with_ymd_and_hms(2026, 11, 24, 9, 3, 47).unwrap();
        parse(text).unwrap().find_next_occurrence(&from, false).unwrap()
    }

    #[test]
    fn five_to_seven_fields_are_read() {
        assert_eq!(next("*/15 * * * *").to_rfc3339(), "2026-11-24T09:15:00+00:00");
        assert_eq!(next("*/10 * * * * *").to_rfc3339(), "2026-11-24T09:03:50+00:00");
        assert_eq!(next("0 0 0 1 1 * 2030").to_rfc3339(), "2030-01-01T00:00:00+00:00");
        assert_eq!(next("0 3 * * MON-FRI").to_rfc3339(), "2026-11-25T03:00:00+00:00");
    }

    #[test]
    fn aliases_are_read_in_any_case() {
        assert_eq!(next("@hourly").to_rfc3339(), "2026-11-24T10:00:00+00:00");
        assert_eq!(next("@midnight"), next("@daily"));
        assert_eq!(next("@Weekly").to_rfc3339(), "2026-11-29T00:00:00+00:00");
        assert_eq!(next("@monthly").to_rfc3339(), "2026-12-01T00:00:00+00:00");
        assert_eq!(next("@yearly"), next("@annually"));
    }

    #[test]
    fn a_day_of_the_month_and_a_day_of_the_week_are_joined_by_or() {
        // Cron's meaning: the 13th and every Friday; 27 November 2026 is a Friday.
        assert_eq!(next("0 0 13 * 5").to_rfc3339(), "2026-11-27T00:00:00+00:00");
    }

    #[test]
    fn what_never_occurs_is_refused() {
        for text in ["0 3 30 2 *", "0 0 0 1 1 * 2020", "0 0 31 4,6,9,11 *"] {
            assert_eq!(parse(text).unwrap_err().message, format!("`{text}` never occurs"));
        }
        assert!(parse("0 0 29 2 *").is_ok(), "leap days occur");
    }

    #[test]
    fn complaints_say_what_is_wrong_and_what_to_write() {
        let complaint = |text: &str| parse(text).unwrap_err();
        assert_eq!(complaint("*/15 * *").message, "`*/15 * *` is not a cron expression: it has 3 fields, not five to seven");
        assert_eq!(complaint("").message, "`` is not a cron expression: it has 0 fields, not five to seven");
        assert!(complaint("61 * * * *").message.starts_with("`61 * * * *` is not a cron expression: "), "{:?}", complaint("61 * * * *"));
        assert_eq!(complaint("x * * * *").message, "`x * * * *` is not a cron expression: it has the illegal character 'X' in part 'X'");
        assert_eq!(complaint("@every 5m").help.as_deref(), Some("write every = \"5m\" instead of schedule"));
        let aliases = "the aliases are @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually";
        assert_eq!(complaint("@reboot").help.as_deref(), Some(aliases));
    }

    #[test]
    fn the_shortest_gap_is_found_among_uneven_ones() {
        assert_eq!(shortest_gap(&parse("0,50 * * * *").unwrap()), Some(TimeDelta::minutes(10)));
        assert_eq!(shortest_gap(&parse("0 0 0 1 1 * 2030").unwrap()), None);
    }
}
