//! `[[prefork]]` and `[pool]`: forks that are made ahead of need. Which of them to make and to drop is `fork::pool`'s to say.

use super::policy::{globs, tag_globs};
use super::problem::Report;
use super::raw::{RawConfig, RawPrefork};
use super::resolve::bytes;
use super::{Fill, Reserve};
use crate::ids::{InstanceId, PolicyName};
use crate::policy::Policy;
use globset::{GlobMatcher, GlobSet};
use std::collections::BTreeMap;
use toml::Spanned;

/// The ready pool.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// For which snapshots.
    pub rules: Vec<Prefork>,
    /// So many bytes may all of it take by itself.
    pub max_bytes: Option<u64>,
    /// So much stays free on the file system: the pool is the last to be given room.
    pub reserve: Reserve,
    /// From so much in use on snapshots go early: the pool does not fill the file system so far.
    pub fill: Option<Fill>,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { rules: Vec::new(), max_bytes: None, reserve: Reserve::Bytes(0), fill: None }
    }
}

/// One `[[prefork]]`.
#[derive(Debug, Clone)]
pub struct Prefork {
    /// Taken by this policy.
    pub policy: Option<PolicyName>,
    /// Of instances of these names.
    pub instances: Option<GlobSet>,
    /// But not of these.
    pub exclude: GlobSet,
    /// With these tags.
    pub tags: BTreeMap<String, GlobMatcher>,
    /// So many of each instance, newest first.
    pub newest: u32,
    /// So many forks lie ready for each.
    pub ready: u32,
}

impl Prefork {
    /// Whether a snapshot of `instance` is meant, if it is new enough.
    #[must_use]
    pub fn selects(&self, instance: &InstanceId, policy: Option<&PolicyName>, tags: &BTreeMap<String, String>) -> bool {
        self.policy.as_ref().is_none_or(|wanted| Some(wanted) == policy)
            && self.instances.as_ref().is_none_or(|globs| globs.is_match(instance.as_str()))
            && !self.exclude.is_match(instance.as_str())
            && self.tags.iter().all(|(tag, glob)| tags.get(tag).is_some_and(|value| glob.is_match(value)))
    }
}

/// Resolves the pool's tables of the main file.
pub(super) fn resolve(raw: &RawConfig, (reserve, fill): (Reserve, Option<Fill>), report: &mut Report<'_>) -> PoolConfig {
    let max_bytes = bytes("pool.max_bytes", raw.pool.as_ref().and_then(|pool| pool.max_bytes.as_ref()), report);
    let rules = raw.prefork.iter().flatten().enumerate().filter_map(|(n, table)| rule(table, n, report)).collect();
    PoolConfig { rules, max_bytes, reserve, fill }
}

fn rule(table: &Spanned<RawPrefork>, n: usize, report: &mut Report<'_>) -> Option<Prefork> {
    let (raw, key) = (table.get_ref(), format!("prefork[{n}]"));
    let at = |name: &str| format!("{key}.{name}");
    if raw.policy.is_none() && raw.instances.is_none() && !report.has_problem_below(&key) {
        let help = "add policy = \"golden\", or instances = [\"*\"] for all of them";
        report.wrong_help(&key, table.span(), "[[prefork]] has neither `policy` nor `instances`", help);
    }
    let policy = raw.policy.as_ref().and_then(|text| match PolicyName::parse(text.get_ref()) {
        Ok(name) => Some(name),
        Err(error) => {
            report.wrong(&at("policy"), text.span(), error.to_string());
            None
        }
    });
    if let Some(list) = raw.instances.as_ref().filter(|list| list.get_ref().is_empty()) {
        report.wrong_help(
            &at("instances"),
            list.span(),
            "`instances` is empty: no snapshot would be meant",
            "leave it out for all of them",
        );
    }
    let instances = match &raw.instances {
        Some(list) => Some(globs(&at("instances"), Some(list), report)?),
        None => None,
    };
    let exclude = globs(&at("exclude"), raw.exclude.as_ref(), report)?;
    let tags = tag_globs(&at("tags"), raw.tags.as_ref(), report);
    Some(Prefork { policy, instances, exclude, tags, newest: raw.newest.unwrap_or(1), ready: raw.ready? })
}

/// A policy that does not exist may have left snapshots, so that is odd and no more.
pub(super) fn lint(pool: &PoolConfig, policies: &[Policy]) -> Vec<String> {
    let missing = pool.rules.iter().filter_map(|rule| rule.policy.as_ref()).filter(|name| !policies.iter().any(|p| p.name == **name));
    missing.map(|name| format!("[[prefork]] is for policy `{name}`, which there is not: only snapshots that it left are meant")).collect()
}
