//! Cron expressions: read, and complained about in words. What is due when is decided elsewhere.

use crate::policy::Times;
use chrono::{DateTime, Utc};
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

/// Reads five to seven fields or an alias. Day of month and day of week are joined by OR if both are restricted, as cron
/// has it: a field that begins with `*` (also `*/2`) is not restricted, and then both must match.
pub(super) fn parse(text: &str) -> Result<Times, CronProblem> {
    let problem = |message: String, help: Option<String>| Err(CronProblem { message, help });
    let plain = text.trim().to_uppercase();
    if let Some(alias) = plain.strip_prefix('@') {
        return parse_alias(text.trim(), alias);
    }
    let parts: Vec<&str> = plain.split_whitespace().collect();
    if !(5..=7).contains(&parts.len()) {
        let has = if parts.len() == 1 { "1 field".to_owned() } else { format!("{} fields", parts.len()) };
        let help = "five fields are minute, hour, day of month, month and day of week; six have the second in front, seven the year behind";
        return problem(format!("`{text}` is not a cron expression: it has {has}, not five to seven"), Some(help.to_owned()));
    }
    let first = usize::from(parts.len() == 5);
    for (field, part) in FIELDS.iter().skip(first).zip(&parts) {
        if let Err(wrong) = field.check(part) {
            return problem(format!("`{text}` is not a cron expression: {}", wrong.message), wrong.help);
        }
    }
    let (day, weekday) = (parts.get(3 - first).copied().unwrap_or("*"), parts.get(5 - first).copied().unwrap_or("*"));
    let is_open = |part: &str| part == "*" || part == "?";
    let both = !is_open(day) && !is_open(weekday) && (day.starts_with('*') || weekday.starts_with('*'));
    match parser(both).parse(&plain) {
        Err(error) => problem(format!("`{text}` is not a cron expression: {}", in_words(&error)), None),
        Ok(cron) if cron.find_next_occurrence(&reference(), true).is_err() => problem(
            format!("`{text}` never occurs"),
            Some("no day in the future has this date: look at the day of the month, the month and the year".to_owned()),
        ),
        Ok(cron) => Ok(Times::new(cron)),
    }
}

/// A field of an expression, and what may stand in it.
struct Field {
    name: &'static str,
    least: u32,
    most: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 7] = [
    Field { name: "second", least: 0, most: 59, names: &[] },
    Field { name: "minute", least: 0, most: 59, names: &[] },
    Field { name: "hour", least: 0, most: 23, names: &[] },
    Field { name: "day of the month", least: 1, most: 31, names: &[] },
    Field {
        name: "month",
        least: 1,
        most: 12,
        names: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    },
    Field { name: "day of the week", least: 0, most: 7, names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"] },
    Field { name: "year", least: 1970, most: 2199, names: &[] },
];

type Checked<T> = Result<T, CronProblem>;

fn wrong<T>(message: String, help: impl Into<Option<String>>) -> Checked<T> {
    Err(CronProblem { message, help: help.into() })
}

impl Field {
    /// Says what is wrong with a field (in capitals), in its own words: croner knows no names of fields, lets empty items
    /// and steps that are too long pass, and rewrites names within longer words.
    fn check(&self, part: &str) -> Checked<()> {
        let part = part.strip_prefix('+').filter(|_| self.is_weekday()).unwrap_or(part);
        if part == "?" && (self.is_day() || self.is_weekday()) {
            return Ok(());
        }
        let items: Vec<&str> = part.split(',').collect();
        if items.contains(&"") {
            return wrong(format!("`{part}` has an empty item"), "leave the extra comma out".to_owned());
        }
        if items.contains(&"L") && items.contains(&"LW") {
            return wrong("`L` and `LW` cannot stand in one field".to_owned(), "write two expressions".to_owned());
        }
        items.into_iter().try_for_each(|item| self.check_item(item))
    }

    fn one(&self) -> String {
        format!("{} {}", if self.name == "hour" { "an" } else { "a" }, self.name)
    }

    fn is_day(&self) -> bool {
        self.most == 31
    }

    fn is_weekday(&self) -> bool {
        self.most == 7
    }

    fn check_item(&self, item: &str) -> Checked<()> {
        if let Some((range, step)) = item.split_once('/') {
            return self.check_step(item, range, step);
        }
        if self.is_day() {
            if item == "L" || item == "LW" {
                return Ok(());
            }
            if item.starts_with("L-") {
                return wrong(
                    format!("`{item}` cannot be written: days are not counted back from the last"),
                    "`L` is the last day, `LW` the last Monday to Friday".to_owned(),
                );
            }
            if let Some(day) = item.strip_suffix('W') {
                if day.contains('-') {
                    return wrong(
                        format!("`{item}` has a W after a range"),
                        "W is for one day: `15W` is the Monday to Friday nearest to the 15th".to_owned(),
                    );
                }
                return self.value(day).map(drop);
            }
        }
        if self.is_weekday() {
            if item == "L" {
                return wrong(
                    "`L` says not which day of the week".to_owned(),
                    "`5L` or `FRIL` is the last Friday of the month; the last day is `L` in the day of the month".to_owned(),
                );
            }
            if let Some((days, which)) = item.split_once('#') {
                if which != "L" && !matches!(which, "1" | "2" | "3" | "4" | "5") {
                    return wrong(format!("`{item}` has no such day: after # stands 1 to 5, or L for the last"), None);
                }
                return self.range(days).map(drop);
            }
            if let Some(day) = item.strip_suffix('L') {
                return self.range(day).map(drop);
            }
        }
        if item == "*" { Ok(()) } else { self.range(item).map(drop) }
    }

    fn check_step(&self, item: &str, range: &str, step: &str) -> Checked<()> {
        let Some(step) = number(step).filter(|step| *step > 0) else {
            return wrong(format!("`{item}` has no step: after the / stands a number from 1"), None);
        };
        let (first, last) = if range == "*" { (self.least, self.most) } else { self.range(range)? };
        if range != "*" && !range.contains('-') {
            let whole = if first == self.least { format!("*/{step}") } else { format!("{first}-{}/{step}", self.most) };
            return wrong(format!("`{item}` has a step, but no range"), format!("write `{whole}`"));
        }
        if step > last - first && self.name != "year" {
            let unit = match self.name {
                "second" => Some('s'),
                "minute" => Some('m'),
                "hour" => Some('h'),
                _ => None,
            };
            let help = unit
                .filter(|_| range == "*")
                .map(|unit| format!("for every {step} {}s write every = \"{step}{unit}\" instead of schedule", self.name));
            return wrong(format!("the step of `{item}` is longer than the {}s from {first} to {last}", self.name), help);
        }
        Ok(())
    }

    /// A value, or two with a dash between them.
    fn range(&self, text: &str) -> Checked<(u32, u32)> {
        let Some((from, to)) = text.split_once('-') else { return self.value(text).map(|value| (value, value)) };
        let (first, mut last) = (self.value(from)?, self.value(to)?);
        if to == "SUN" {
            last = 7;
        }
        if first > last {
            let most = if self.is_weekday() { 6 } else { self.most };
            let join = |from: u32, to: u32| if from == to { from.to_string() } else { format!("{from}-{to}") };
            let help = format!("ranges do not wrap: write `{},{}`", join(first, most), join(self.least, last));
            return wrong(format!("`{text}` goes backwards"), help);
        }
        Ok((first, last))
    }

    fn value(&self, text: &str) -> Checked<u32> {
        if let Some(place) = self.names.iter().position(|name| *name == text) {
            return Ok(u32::try_from(place).unwrap_or(0) + self.least);
        }
        let range = || match self.names {
            [] => format!("{} to {}", self.least, self.most),
            [first, .., last] => format!("{} to {}, or {first} to {last}", self.least, self.most),
            [only] => (*only).to_owned(),
        };
        match number(text).filter(|n| (self.least..=self.most).contains(n)) {
            Some(value) => Ok(value),
            None => {
                let near = text.get(..3).filter(|short| self.names.contains(short)).map(|short| format!("write `{short}`"));
                wrong(format!("`{text}` is not {}: {}", self.one(), range()), near)
            }
        }
    }
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|_| text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit()))
}

fn parse_alias(text: &str, alias: &str) -> Result<Times, CronProblem> {
    let fields = match alias {
        "HOURLY" => "0 * * * *",
        "DAILY" | "MIDNIGHT" => "0 0 * * *",
        "WEEKLY" => "0 0 * * 0",
        "MONTHLY" => "0 0 1 * *",
        "YEARLY" | "ANNUALLY" => "0 0 1 1 *",
        other => {
            let help = match other.strip_prefix("EVERY") {
                Some(interval) if !interval.trim().is_empty() => {
                    format!("write every = \"{}\" instead of schedule", interval.trim().to_lowercase())
                }
                _ => format!("the aliases are {}", ALIASES.join(", ")),
            };
            return Err(CronProblem { message: format!("`{text}` is not an alias of a cron expression"), help: Some(help) });
        }
    };
    parser(false).parse(fields).map(Times::new).map_err(|error| CronProblem { message: in_words(&error), help: None })
}

fn parser(both_days: bool) -> CronParser {
    CronParser::builder().seconds(Seconds::Optional).year(Year::Optional).dom_and_dow(both_days).build()
}

/// Where the search for an occurrence begins: what does not occur after this version was made is a mistake. It is
/// fixed so that the same file is always judged in the same way.
pub(super) fn reference() -> DateTime<Utc> {
    DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default() // 2026-01-01
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
#[path = "cron_tests.rs"]
mod tests;
