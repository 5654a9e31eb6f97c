//! What `check` sees besides the configuration: the instances root and the store, if they are there. It looks without the
//! lock and changes nothing; what it cannot look at it says, and then says nothing about what would follow.

use super::words::count;
use crate::config::Config;
use crate::config::lint::{Group, lint_groups, lint_instances};
use crate::policy::Candidate;
use crate::store::fs::Fs;
use crate::store::instances::{Pass, Scan, ScanCache, ScanProgress, scan};
use crate::store::layout::Layout;
use crate::store::{Store, StoreError, tags};
use crate::worker::Surroundings;
use std::collections::BTreeMap;

/// What was seen.
pub(super) struct Seen {
    /// What is odd.
    pub(super) warnings: Vec<String>,
    /// What was looked at, and what was not and why; one line each.
    pub(super) looked_at: Vec<String>,
}

/// Looks at the root and the store of a configuration.
pub(super) fn look(config: &Config, around: &Surroundings) -> Seen {
    let mut seen = Seen { warnings: Vec::new(), looked_at: Vec::new() };
    if config.policies.is_empty() {
        return seen;
    }
    let root = config.instances.display();
    match instances(config, &around.fs) {
        Ok(Some(instances)) => {
            seen.looked_at.push(format!("looked at {root}: {}", count(instances.len() as u64, "instance")));
            seen.warnings.extend(lint_instances(&config.policies, &instances));
        }
        Ok(None) => seen.looked_at.push(format!("{root} is not there yet: not looked at which instances match")),
        Err(why) => seen.looked_at.push(format!("not looked at which instances match: {why}")),
    }
    let store = config.store.display();
    match groups(config, around) {
        Ok(groups) => {
            let snapshots: usize = groups.iter().map(|group| group.taken.len()).sum();
            seen.looked_at.push(format!("looked at {store}: {} of policies", count(snapshots as u64, "snapshot")));
            seen.warnings.extend(lint_groups(&config.policies, &groups, around.clock.now()));
        }
        Err(StoreError::NoStore { .. }) => {}
        Err(e) => seen.looked_at.push(format!("not looked at the snapshots that there are: {e}")),
    }
    seen
}

/// The instances of the root with their tags; `None` if there is no root.
fn instances(config: &Config, fs: &Fs) -> Result<Option<Vec<Candidate>>, String> {
    let layout = Layout::new(&config.store, &config.instances);
    match fs.stat_if_there(layout.instances()) {
        Ok(None) => return Ok(None),
        Ok(Some(_)) => {}
        Err(e) => return Err(e.to_string()),
    }
    let pass = Pass { threads: config.threads, progress: &ScanProgress::default() };
    let found = scan(fs, &layout, (&mut ScanCache::default(), &Scan::default()), pass).map_err(|e| e.to_string())?;
    let candidate = |(instance, is_fork)| Candidate { tags: tags::read(fs, &layout.instance(&instance)), instance, is_fork };
    Ok(Some(found.names().map(candidate).collect()))
}

/// The snapshots of the store, by policy and instance.
fn groups(config: &Config, around: &Surroundings) -> Result<Vec<Group>, StoreError> {
    let store = Store::open_reader(&around.options(config))?;
    let mut groups = BTreeMap::new();
    let index = store.index();
    for summary in index.present().filter_map(|(_, known)| known.summary.as_ref()) {
        if let Some(policy) = &summary.policy {
            let taken: &mut Vec<_> = groups.entry((policy.clone(), summary.instance.clone())).or_default();
            taken.push(summary.created_at);
        }
    }
    Ok(groups.into_iter().map(|((policy, instance), taken)| Group { policy, instance, taken }).collect())
}
