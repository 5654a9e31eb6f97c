//! The words of `simulate`.

use super::{duration, size};
use crate::ids::{InstanceId, PolicyName};
use chrono::{DateTime, Datelike as _, NaiveDate, Utc};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// `simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// This policy only; may be repeated. All that have a schedule if not given.
    #[arg(long)]
    pub policy: Vec<PolicyName>,
    /// How many years.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub years: u32,
    /// How long instead, such as 400d.
    #[arg(long, value_name = "DURATION", value_parser = span, conflicts_with = "years")]
    pub span: Option<Duration>,
    /// Where it begins, with an empty store: a date, or a time (RFC 3339). Today if not given.
    #[arg(long, value_name = "TIME", value_parser = start)]
    pub from: Option<Start>,
    /// A snapshot every so often, instead of by the policy's schedule.
    #[arg(long, value_name = "DURATION", value_parser = interval)]
    pub every: Option<Duration>,
    /// What one snapshot takes by itself, such as 10GiB; then bytes are told.
    #[arg(long, value_parser = size)]
    pub size: Option<u64>,
    /// What each snapshot has alone, where the file system shares the rest. As much as --size if not given.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub exclusive: Option<u64>,
    /// Forks made in a day, of snapshots that are kept, the newest most often.
    #[arg(long, value_name = "N", value_parser = forks)]
    pub forks_per_day: Option<u32>,
    /// How long a fork lives: from half of it to one and a half.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1d", requires = "forks_per_day")]
    pub fork_life: Duration,
    /// The chance that a slot is missed, such as 5%.
    #[arg(long, value_name = "PERCENT", value_parser = percent, default_value = "0%")]
    pub missing: u32,
    /// Another course of chance.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// The instance; jitter depends on its name.
    #[arg(long, default_value = "simulated")]
    pub instance: InstanceId,
    /// Apply retention after every slot, however many there are.
    #[arg(long)]
    pub every_slot: bool,
    /// Draw it: a chart over time, and a calendar of what is kept at the end.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// Where a simulation begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// When this day begins in the policy's zone.
    Day(NaiveDate),
    /// At this time.
    Time(DateTime<Utc>),
}

fn at_least_a_second(text: &str) -> Result<Duration, String> {
    let duration = duration(text).map_err(|e| e.to_string())?;
    if duration < Duration::from_secs(1) { Err("it must be one second at least".to_owned()) } else { Ok(duration) }
}

fn span(text: &str) -> Result<Duration, String> {
    let longest = Duration::from_secs(100 * 366 * 86_400);
    at_least_a_second(text).and_then(|span| if span > longest { Err("a hundred years is the longest span".to_owned()) } else { Ok(span) })
}

fn interval(text: &str) -> Result<Duration, String> {
    at_least_a_second(text)
}

/// A date or a time.
fn start(text: &str) -> Result<Start, String> {
    let time = DateTime::parse_from_rfc3339(text).map(|time| time.with_timezone(&Utc)).map(Start::Time);
    let start = time.or_else(|_| text.parse().map(Start::Day));
    let start = start.map_err(|_| "write a date or a time, such as 2026-01-01 or 2026-01-01T06:00:00Z".to_owned())?;
    let year = match start {
        Start::Day(date) => date.year(),
        Start::Time(time) => time.year(),
    };
    // Before, ages are those of no snapshot; after, names of snapshots have no room for the year.
    if (1970..=9000).contains(&year) { Ok(start) } else { Err("the years are 1970 to 9000".to_owned()) }
}

/// In thousandths.
fn forks(text: &str) -> Result<u32, String> {
    let number: f64 = text.parse().map_err(|_| "write a number, such as 5 or 0.5".to_owned())?;
    if (0.0..=10_000.0).contains(&number) { Ok((number * 1000.0).round() as u32) } else { Err("it must be from 0 to 10000".to_owned()) }
}

/// In millionths.
fn percent(text: &str) -> Result<u32, String> {
    let wrong = || "write a percentage from 0% to 100%, such as 5%".to_owned();
    let number: f64 = text.strip_suffix('%').ok_or_else(wrong)?.trim().parse().map_err(|_| wrong())?;
    if (0.0..=100.0).contains(&number) { Ok((number * 10_000.0).round() as u32) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_or_times() {
        assert_eq!(start("2026-01-01"), Ok(Start::Day(NaiveDate::from_ymd_opt(2026, 1, 1).unwrap())));
        assert_eq!(start("2026-01-01T01:00:00+01:00"), start("2026-01-01T00:00:00Z"));
        for bad in ["2026", "yesterday", "2026-13-01", "9999-01-01", "1969-12-31"] {
            assert!(start(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_that_mean_nothing_are_refused() {
        assert_eq!((percent("5%"), percent("0.5 %"), percent("100%")), (Ok(50_000), Ok(5000), Ok(1_000_000)));
        for bad in ["5", "-1%", "101%", "NaN%", "%"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
        assert_eq!((forks("5"), forks("0.25")), (Ok(5000), Ok(250)));
        for bad in ["-1", "NaN", "inf", "many"] {
            assert!(forks(bad).is_err(), "{bad}");
        }
        assert!(span("400d").is_ok() && span("40000d").is_err() && interval("10ms").is_err());
    }
}
