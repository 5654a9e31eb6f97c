//! Reading a table key by key: each getter reports what is wrong with its value and goes on, so that every problem of
//! every file is found in one go.

use super::problem::{Problem, Source};
use super::units;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One table of a file, and where problems go.
pub(super) struct Section<'a> {
    source: &'a Source,
    table: Option<&'a DeTable<'a>>,
    /// Where the table is named.
    pub(super) span: Range<usize>,
    problems: &'a std::cell::RefCell<Vec<Problem>>,
}

impl<'a> Section<'a> {
    /// The table, with keys that it does not have reported.
    pub(super) fn new(
        source: &'a Source,
        table: Option<&'a DeTable<'a>>,
        span: Range<usize>,
        known: &[&str],
        problems: &'a std::cell::RefCell<Vec<Problem>>,
    ) -> Self {
        let section = Self { source, table, span, problems };
        for key in table.into_iter().flat_map(DeTable::keys) {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                section.unknown(name, key.span(), known);
            }
        }
        section
    }

    fn unknown(&self, name: &str, span: Range<usize>, known: &[&str]) {
        let distance = |k: &&str| strsim::damerau_levenshtein(name, k);
        let nearest = known.iter().copied().min_by_key(distance).filter(|k| distance(k) <= 1 + name.len() / 3);
        let message = match nearest {
            Some(nearest) => format!("unknown key `{name}`, did you mean `{nearest}`?"),
            None => format!("unknown key `{name}`"),
        };
        let help = nearest.is_none().then(|| format!("known here: {}", known.join(", ")));
        self.report(span, message, help);
    }

    /// Reports a problem at a place of this file.
    pub(super) fn report(&self, span: Range<usize>, message: impl Into<String>, help: Option<String>) {
        self.problems.borrow_mut().push(self.source.problem(span, message, help));
    }

    /// Reports a problem with a key of this table, or with the table if it lacks the key.
    pub(super) fn report_key(&self, key: &str, message: impl Into<String>, help: Option<String>) {
        let span = self.get(key).map_or_else(|| self.span.clone(), Spanned::span);
        self.report(span, message, help);
    }

    fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table?.get(key)
    }

    /// Whether the table has the key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The value of a key by `read`; a value that it does not take is reported as not being `wanted`.
    fn value<T>(&self, key: &str, wanted: &str, read: impl FnOnce(&'a DeValue<'a>) -> Option<T>) -> Option<T> {
        let value = self.get(key)?;
        let read = read(value.get_ref());
        if read.is_none() {
            self.report(value.span(), format!("`{key}` must be {wanted}, not {}", value.get_ref().type_str()), None);
        }
        read
    }

    pub(super) fn string(&self, key: &str) -> Option<String> {
        self.value(key, "a string", |v| v.as_str().map(str::to_owned))
    }

    pub(super) fn boolean(&self, key: &str) -> Option<bool> {
        self.value(key, "true or false", DeValue::as_bool)
    }

    /// A whole number of at least `least`.
    pub(super) fn number(&self, key: &str, least: u32) -> Option<u32> {
        let read = |v: &DeValue<'_>| {
            let digits = v.as_integer()?;
            Some(i64::from_str_radix(digits.as_str(), digits.radix()))
        };
        let number = self.value(key, "a whole number", read)?;
        match number.ok().and_then(|n| u32::try_from(n).ok()).filter(|n| *n >= least) {
            Some(number) => Some(number),
            None => {
                self.report_key(key, format!("`{key}` must be a whole number from {least} to {}", u32::MAX), None);
                None
            }
        }
    }

    pub(super) fn strings(&self, key: &str) -> Option<Vec<String>> {
        self.value(key, "a list of strings", |v| v.as_array()?.iter().map(|s| s.get_ref().as_str().map(str::to_owned)).collect())
    }

    /// A string that `parse` reads; its error is reported.
    pub(super) fn parsed<T>(&self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.string(key)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(why) => {
                self.report_key(key, why, None);
                None
            }
        }
    }

    pub(super) fn duration(&self, key: &str) -> Option<Duration> {
        self.parsed(key, |text| units::parse_duration(text).map_err(|why| format!("`{key}`: {why}")))
    }

    pub(super) fn delta(&self, key: &str) -> Option<chrono::TimeDelta> {
        let duration = self.duration(key)?;
        match chrono::TimeDelta::from_std(duration) {
            Ok(delta) => Some(delta),
            Err(_) => {
                self.report_key(key, format!("`{key}` is too long"), None);
                None
            }
        }
    }

    /// One of some words.
    pub(super) fn choice<T: Clone>(&self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        self.parsed(key, |text| {
            let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| value.clone());
            found.ok_or_else(|| format!("`{key}` must be {}, not {text:?}", words.join(" or ")))
        })
    }

    /// A value with a parser of its own.
    pub(super) fn read<T: FromStr>(&self, key: &str) -> Option<T>
    where
        T::Err: std::fmt::Display,
    {
        self.parsed(key, |text| text.parse().map_err(|e: T::Err| e.to_string()))
    }

    /// A table inside this one; empty if it is not there.
    pub(super) fn section(&self, key: &str, known: &[&str]) -> Section<'a> {
        let table = self.value(key, "a table", DeValue::as_table);
        let span = self.get(key).map_or_else(|| self.span.clone(), Spanned::span);
        Section::new(self.source, table, span, known, self.problems)
    }

    /// The tables of a list.
    pub(super) fn sections(&self, key: &str, known: &[&str]) -> Vec<Section<'a>> {
        let array = self.value(key, "a list of tables ([[…]])", DeValue::as_array);
        let mut sections = Vec::new();
        for value in array.into_iter().flat_map(|a| a.iter()) {
            match value.get_ref().as_table() {
                Some(table) => sections.push(Section::new(self.source, Some(table), value.span(), known, self.problems)),
                None => self.report(value.span(), format!("`{key}` must be a list of tables ([[{key}]])"), None),
            }
        }
        sections
    }

    /// The string entries of a table with any keys.
    pub(super) fn string_map(&self, key: &str) -> Option<std::collections::BTreeMap<String, String>> {
        self.value(key, "a table of strings", |v| {
            v.as_table()?.iter().map(|(k, v)| Some((k.get_ref().to_string(), v.get_ref().as_str()?.to_owned()))).collect()
        })
    }
}
