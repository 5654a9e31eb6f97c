//! Which instances a policy is for.

use super::Table;
use crate::config::problem::Report;
use crate::config::raw::Text;
use crate::policy::Select;
use globset::{Glob, GlobMatcher, GlobSet, GlobSetBuilder};
use std::collections::BTreeMap;
use toml::Spanned;

impl Table<'_, '_> {
    pub(super) fn select(&mut self) -> Option<Select> {
        let raw = self.raw;
        if let Some(list) = raw.instances.as_ref().filter(|list| list.get_ref().is_empty()) {
            let help = "write instances = [\"*\"] for all of them";
            self.report.wrong_help(&self.at("instances"), list.span(), "`instances` is empty: the policy would be for none", help);
        }
        let instances = self.globs("instances", raw.instances.as_ref());
        let exclude = self.globs("exclude", raw.exclude.as_ref());
        let tags = self.instance_tags();
        if let (Some(list), Some(exclude)) = (&raw.instances, &exclude) {
            self.all_excluded(list, exclude);
        }
        raw.instances.as_ref()?;
        Some(Select { instances: instances?, exclude: exclude?, tags, include_forks: raw.include_forks.unwrap_or(false) })
    }

    fn globs(&mut self, key: &str, list: Option<&Spanned<Vec<Text>>>) -> Option<GlobSet> {
        globs(&self.at(key), list, self.report)
    }

    /// Warns if no name is left. Told for certain only of patterns that are plain names, and of an `exclude` of everything.
    fn all_excluded(&mut self, instances: &Spanned<Vec<Text>>, exclude: &GlobSet) {
        let is_excluded = |text: &Text| {
            let is_name = !text.get_ref().contains(['*', '?', '[', ']', '{', '}', '\\']);
            is_name && exclude.is_match(text.get_ref())
        };
        let everything = self.raw.exclude.iter().flat_map(|list| list.get_ref()).any(|text| text.get_ref() == "*");
        let list = instances.get_ref();
        if !list.is_empty() && (everything || list.iter().all(is_excluded)) {
            self.report.warn(instances.span().start, "the policy matches nothing: `exclude` leaves out every name of `instances`");
        }
    }

    fn instance_tags(&mut self) -> BTreeMap<String, GlobMatcher> {
        tag_globs(&self.at("instance_tags"), self.raw.instance_tags.as_ref(), self.report)
    }

    /// Reports names that no tag can have.
    pub(super) fn names_of_tags<'t>(&mut self, table: &str, names: impl Iterator<Item = &'t Text>) {
        names_of_tags(&self.at(table), names, self.report);
    }
}

/// The patterns of a list, which match names of instances; what is wrong with one is reported. No list matches nothing.
pub(in crate::config) fn globs(key: &str, list: Option<&Spanned<Vec<Text>>>, report: &mut Report<'_>) -> Option<GlobSet> {
    let mut set = GlobSetBuilder::new();
    let Some(list) = list else { return set.build().ok() };
    for (n, text) in list.get_ref().iter().enumerate() {
        let key = format!("{key}[{n}]");
        let pattern = text.get_ref();
        if pattern.is_empty() {
            report.wrong(&key, text.span(), "an empty pattern matches no instance");
        } else if pattern.contains('/') {
            let help = "instances are directories directly under the instances root: write their names only";
            report.wrong_help(&key, text.span(), format!("\"{pattern}\" matches no instance, for it has a `/`"), help);
        } else {
            match Glob::new(pattern) {
                Ok(glob) => drop(set.add(glob)),
                Err(error) => report.wrong(&key, text.span(), format!("\"{pattern}\" is not a glob: {}", error.kind())),
            }
        }
    }
    set.build().map_err(|error| report.wrong(key, list.span(), error.to_string())).ok()
}

/// Tags, each with the pattern that its value must match; what is wrong with one is reported.
pub(in crate::config) fn tag_globs(
    key: &str,
    wanted: Option<&BTreeMap<Text, Text>>,
    report: &mut Report<'_>,
) -> BTreeMap<String, GlobMatcher> {
    let wanted = wanted.into_iter().flatten();
    names_of_tags(key, wanted.clone().map(|(tag, _)| tag), report);
    let mut globs = BTreeMap::new();
    for (tag, text) in wanted {
        match Glob::new(text.get_ref()) {
            Ok(glob) => drop(globs.insert(tag.get_ref().clone(), glob.compile_matcher())),
            Err(error) => {
                let message = format!("\"{}\" is not a glob: {}", text.get_ref(), error.kind());
                report.wrong(&format!("{key}.{}", tag.get_ref()), text.span(), message);
            }
        }
    }
    globs
}

fn names_of_tags<'t>(table: &str, names: impl Iterator<Item = &'t Text>, report: &mut Report<'_>) {
    for key in names.filter(|key| key.get_ref().is_empty() || key.get_ref().contains(['=', '\n'])) {
        let message = format!("\"{}\" is not the name of a tag: it must have a character, and no `=`", key.get_ref().escape_debug());
        report.wrong(table, key.span(), message);
    }
}
