//! From a `[[policy]]` table to a [`Policy`]: which instances, when, what to keep. Decides nothing.

mod keep;
mod when;

use super::problem::Report;
use super::raw::{RawPolicy, Text};
use super::resolve::period_from;
use crate::ids::{PolicyName, SnapshotName};
use crate::policy::{KindRule, Policy, Select, WhenReferenced};
use globset::{Glob, GlobSet, GlobSetBuilder};
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
    let instances = table.instances();
    let timezone = table.timezone();
    let schedule = table.schedule(timezone);
    let retention = table.retention(timezone);
    let retry = table.retry();
    let name_prefix = table.name_prefix();
    let tags = table.tags();
    let raw = table.raw;
    Some(Policy {
        name: name?,
        select: Select { instances: instances?, include_forks: raw.include_forks.unwrap_or(false) },
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

    fn instances(&mut self) -> Option<GlobSet> {
        let list = self.raw.instances.as_ref()?;
        if list.get_ref().is_empty() {
            let help = "write instances = [\"*\"] for all of them";
            self.report.wrong_help(&self.at("instances"), list.span(), "`instances` is empty: the policy would be for none", help);
        }
        let mut set = GlobSetBuilder::new();
        for (n, text) in list.get_ref().iter().enumerate() {
            let key = format!("instances[{n}]");
            let pattern = text.get_ref();
            if pattern.is_empty() {
                self.wrong(&key, text, "an empty pattern matches no instance", None);
            } else if pattern.contains('/') {
                let help = "instances are directories directly under the instances root: write their names only";
                self.wrong(&key, text, format!("\"{pattern}\" matches no instance, for it has a `/`"), Some(help));
            } else {
                match Glob::new(pattern) {
                    Ok(glob) => drop(set.add(glob)),
                    Err(error) => self.wrong(&key, text, format!("\"{pattern}\" is not a glob: {}", error.kind()), None),
                }
            }
        }
        set.build().map_err(|error| self.report.wrong(&self.at("instances"), list.span(), error.to_string())).ok()
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
        for (key, _) in tags.clone().filter(|(key, _)| key.get_ref().is_empty() || key.get_ref().contains(['=', '\n'])) {
            let message = format!("\"{}\" is not the name of a tag: it must have a character, and no `=`", key.get_ref().escape_debug());
            self.report.wrong(&self.at("tags"), key.span(), message);
        }
        tags.map(|(key, value)| (key.get_ref().clone(), value.get_ref().clone())).collect()
    }
}
