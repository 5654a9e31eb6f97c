//! The tables of the ready pool as they are written.

use super::{Bytes, Text};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use toml::Spanned;

/// `[[prefork]]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawPrefork {
    /// Snapshots that this policy took. At least one of `policy` and `instances` must be there; a snapshot is meant only if all
    /// that is given agrees.
    #[schemars(with = "Option<String>")]
    pub(in crate::config) policy: Option<Text>,
    /// Globs: snapshots of instances whose whole name any of them matches.
    #[schemars(with = "Option<Vec<String>>", length(min = 1))]
    pub(in crate::config) instances: Option<Spanned<Vec<Text>>>,
    /// Globs: snapshots of instances whose name one of them matches are left out all the same.
    #[schemars(with = "Option<Vec<String>>")]
    pub(in crate::config) exclude: Option<Spanned<Vec<Text>>>,
    /// Tags that a snapshot must have, all of them; values are globs.
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub(in crate::config) tags: Option<BTreeMap<Text, Text>>,
    /// Of each instance only so many of these snapshots, newest first; those that cannot be forked do not count.
    #[schemars(range(min = 1, max = 10_000), extend("default" = 1))]
    pub(in crate::config) newest: Option<u32>,
    /// Forks that lie ready for each of these snapshots. What is used is made again in the background.
    #[schemars(required, range(min = 1, max = 10_000))]
    pub(in crate::config) ready: Option<u32>,
}

/// `[pool]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawPool {
    /// Bytes that all forks of the pool may take by themselves: what they share with their snapshots does not count. Not given:
    /// no bound but those of [space].
    #[schemars(with = "Option<Bytes>")]
    pub(in crate::config) max_bytes: Option<Text>,
}
