//! From a `[[policy]]` table to a [`Policy`]: which instances, when, what to keep. Decides nothing.

mod compress;
mod keep;
mod select;
mod when;

pub(super) use select::{globs, tag_globs};

use super::problem::Report;
use super::raw::{RawPolicy, Text};
use super::resolve::period_from;
use crate::ids::{PolicyName, SnapshotName};
use crate::policy::{KindRule, Policy, WhenReferenced};
use std::collections::BTreeMap;
use std::time::Duration;
use toml::Spanned;

const SECOND: Duration = Duration::from_secs(1);
/// `-YYYYMMDD-HHMMSS` must fit behind it.
const LONGEST_PREFIX: usize = 47;

/// One table of a file: its values, its place, its key.
struct Table<'r, 's> {
    raw: &'r RawPolicy,
    start: usize,
    key: String,
    report: &'r mut Report<'s>,
}

/// Resolves the `n`th policy of a file; `None` if that cannot be done, which is reported then.
pub(super) fn resolve(raw: &Spanned<RawPolicy>, n: usize, report: &mut Report<'_>) -> Option<Policy> {
    let mut table = Table { raw: raw.get_ref(), start: raw.span().start, key: format!("policy[{n}]"), report };
    let name = table.name();
    let select = table.select();
    let timezone = table.timezone();
    let schedule = table.schedule(timezone);
    let retention = table.retention(timezone);
    let retry = table.retry();
    let name_prefix = table.name_prefix();
    let tags = table.tags();
    let raw = table.raw;
    let compress = table.compress(raw.compress.as_ref());
    Some(Policy {
        compress,
        name: name?,
        select: select?,
        schedule,
        retention,
        name_prefix,
        tags,
        retry,
        kind: raw.kind.unwrap_or(KindRule::Auto),
        when_referenced: raw.when_referenced.unwrap_or(WhenReferenced::Keep),
    })
}

impl Table<'_, '_> {
    fn at(&self, key: &str) -> String {
        format!("{}.{key}", self.key)
    }

    fn wrong(&mut self, key: &str, text: &Text, message: impl Into<String>, help: Option<&str>) {
        let key = self.at(key);
        match help {
            Some(help) => self.report.wrong_help(&key, text.span(), message, help),
            None => self.report.wrong(&key, text.span(), message),
        }
    }

    fn warn(&mut self, message: &str) {
        let name = self.raw.name.as_ref().map_or("", |name| name.get_ref());
        self.report.warn(self.start, format_args!("policy `{name}` {message}"));
    }

    fn period(&mut self, key: &str, text: Option<&Text>, least: Duration) -> Option<Duration> {
        period_from(&self.at(key), text, least, self.report)
    }

    fn name(&mut self) -> Option<PolicyName> {
        let text = self.raw.name.as_ref()?;
        PolicyName::parse(text.get_ref()).map_err(|error| self.wrong("name", text, error.to_string(), None)).ok()
    }

    fn name_prefix(&mut self) -> Option<String> {
        let text = self.raw.name_prefix.as_ref()?;
        match SnapshotName::parse(text.get_ref()) {
            Err(error) => self.wrong("name_prefix", text, format!("`name_prefix`: {}", error.why), None),
            Ok(name) if name.as_str().len() > LONGEST_PREFIX => {
                self.wrong("name_prefix", text, format!("`name_prefix` is longer than {LONGEST_PREFIX} characters"), None);
            }
            Ok(_) => {}
        }
        Some(text.get_ref().clone())
    }

    fn tags(&mut self) -> BTreeMap<String, String> {
        let tags = self.raw.tags.iter().flatten();
        self.names_of_tags("tags", tags.clone().map(|(key, _)| key));
        tags.map(|(key, value)| (key.get_ref().clone(), value.get_ref().clone())).collect()
    }
}
