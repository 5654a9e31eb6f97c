//! Which instances a policy is for.

use super::Table;
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

    /// The patterns of a list, which match names of instances; what is wrong with one is reported.
    fn globs(&mut self, key: &str, list: Option<&Spanned<Vec<Text>>>) -> Option<GlobSet> {
        let mut set = GlobSetBuilder::new();
        let Some(list) = list else { return set.build().ok() };
        for (n, text) in list.get_ref().iter().enumerate() {
            let key = format!("{key}[{n}]");
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
        set.build().map_err(|error| self.report.wrong(&self.at(key), list.span(), error.to_string())).ok()
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
        let wanted = self.raw.instance_tags.iter().flatten();
        self.names_of_tags("instance_tags", wanted.clone().map(|(key, _)| key));
        let mut globs = BTreeMap::new();
        for (tag, text) in wanted {
            match Glob::new(text.get_ref()) {
                Ok(glob) => drop(globs.insert(tag.get_ref().clone(), glob.compile_matcher())),
                Err(error) => {
                    let message = format!("\"{}\" is not a glob: {}", text.get_ref(), error.kind());
                    self.wrong(&format!("instance_tags.{}", tag.get_ref()), text, message, None);
                }
            }
        }
        globs
    }

    /// Reports names that no tag can have.
    pub(super) fn names_of_tags<'t>(&mut self, table: &str, names: impl Iterator<Item = &'t Text>) {
        for key in names.filter(|key| key.get_ref().is_empty() || key.get_ref().contains(['=', '\n'])) {
            let message = format!("\"{}\" is not the name of a tag: it must have a character, and no `=`", key.get_ref().escape_debug());
            self.report.wrong(&self.at(table), key.span(), message);
        }
    }
}
