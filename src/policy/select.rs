//! Which instances a policy is for: by name, by being a fork or not, by tags. Pure; who reads the tags is the store.

use crate::ids::InstanceId;
use globset::{GlobMatcher, GlobSet};
use std::collections::BTreeMap;

/// An instance, as far as the selection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub instance: InstanceId,
    /// Whether it is, or may be, a fork.
    pub is_fork: bool,
    /// What its tags are.
    pub tags: InstanceTags,
}

/// The tags that somebody gave an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceTags {
    /// These; none if there is no such file.
    Known(BTreeMap<String, String>),
    /// They cannot be told, for this reason.
    Unknown(String),
}

impl Default for InstanceTags {
    fn default() -> Self {
        Self::Known(BTreeMap::new())
    }
}

/// Whether a policy is for an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selected {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// It depends on tags that cannot be told: as it was.
    Unknown,
}

/// Which instances a policy is for.
#[derive(Debug, Clone, Default)]
pub struct Select {
    /// Any of these globs must match the whole name ...
    pub instances: GlobSet,
    /// ... and none of these.
    pub exclude: GlobSet,
    /// Each of these tags must be there, with a value that the glob matches.
    pub tags: BTreeMap<String, GlobMatcher>,
    /// Whether directories that are forks count too.
    pub include_forks: bool,
}

impl Select {
    /// Whether an instance of this name may belong to the policy; only its tags can still speak against it.
    #[must_use]
    pub fn matches(&self, instance: &InstanceId, is_fork: bool) -> bool {
        let name = instance.as_str();
        (self.include_forks || !is_fork) && self.instances.is_match(name) && !self.exclude.is_match(name)
    }

    /// Whether an instance belongs to the policy.
    #[must_use]
    pub fn selects(&self, candidate: &Candidate) -> Selected {
        if !self.matches(&candidate.instance, candidate.is_fork) {
            return Selected::No;
        }
        match &candidate.tags {
            _ if self.tags.is_empty() => Selected::Yes,
            InstanceTags::Unknown(_) => Selected::Unknown,
            InstanceTags::Known(tags) => {
                let fits = |(key, wanted): (&String, &GlobMatcher)| tags.get(key).is_some_and(|value| wanted.is_match(value));
                if self.tags.iter().all(fits) { Selected::Yes } else { Selected::No }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use globset::{Glob, GlobSetBuilder};

    fn globs(patterns: &[&str]) -> GlobSet {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            set.add(Glob::new(pattern).unwrap());
        }
        set.build().unwrap()
    }

    fn candidate(name: &str, tags: &[(&str, &str)]) -> Candidate {
        let tags = tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Candidate { instance: InstanceId::parse(name).unwrap(), is_fork: false, tags: InstanceTags::Known(tags) }
    }

    fn select(tags: &[(&str, &str)]) -> Select {
        let tags = tags.iter().map(|(k, v)| ((*k).to_owned(), Glob::new(v).unwrap().compile_matcher())).collect();
        Select { instances: globs(&["web-*", "db"]), exclude: globs(&["*-tmp", "web-9"]), tags, include_forks: false }
    }

    #[test]
    fn what_is_excluded_is_never_selected() {
        let select = select(&[]);
        let selected: Vec<_> = ["web-1", "web-9", "web-1-tmp", "db", "other"].map(|n| select.selects(&candidate(n, &[]))).into();
        assert_eq!(selected, [Selected::Yes, Selected::No, Selected::No, Selected::Yes, Selected::No]);
    }

    #[test]
    fn every_tag_must_be_there_with_a_value_that_fits() {
        let select = select(&[("tier", "{gold,silver}"), ("zone", "eu-*")]);
        let of = |tags: &[(&str, &str)]| select.selects(&candidate("db", tags));
        assert_eq!(of(&[("tier", "gold"), ("zone", "eu-1"), ("more", "x")]), Selected::Yes);
        assert_eq!(of(&[("tier", "silver"), ("zone", "eu-")]), Selected::Yes);
        for tags in [&[("tier", "gold")][..], &[("tier", "bronze"), ("zone", "eu-1")], &[("tier", "gold"), ("zone", "us-1")], &[]] {
            assert_eq!(of(tags), Selected::No, "{tags:?}");
        }
    }

    #[test]
    fn tags_that_cannot_be_told_matter_only_where_tags_are_asked_for() {
        let unknown = |name: &str| Candidate { tags: InstanceTags::Unknown("why".into()), ..candidate(name, &[]) };
        assert_eq!(select(&[]).selects(&unknown("db")), Selected::Yes);
        assert_eq!(select(&[("tier", "*")]).selects(&unknown("db")), Selected::Unknown);
        assert_eq!(select(&[("tier", "*")]).selects(&unknown("web-9")), Selected::No, "excluded by name");
    }
}
