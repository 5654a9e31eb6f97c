//! Which instances there are for the policies to choose from: what a scan of the root found, and the tags of those that
//! a policy asks for tags.

use super::Worker;
use crate::config::Config;
use crate::event::Event;
use crate::ids::InstanceId;
use crate::policy::{Candidate, InstanceTags};
use crate::store::Store;
use crate::store::instances::Scan;
use crate::store::layout::Layout;
use crate::store::tags::TagCache;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// The instances of a scan, with tags: unchanged files are not read again. Also those whose tags became unreadable, and why.
pub(super) fn candidates(store: &Store, config: &Config, scan: &Scan, cache: &mut TagCache) -> (Vec<Candidate>, Vec<(InstanceId, String)>) {
    let instances: Vec<(InstanceId, bool)> = scan.names().collect();
    let asking: Vec<_> = config.policies.iter().map(|p| &p.select).filter(|s| !s.tags.is_empty()).collect();
    let is_asked = |(instance, is_fork): &&(InstanceId, bool)| asking.iter().any(|select| select.matches(instance, *is_fork));
    let asked: Vec<&InstanceId> = instances.iter().filter(is_asked).map(|(instance, _)| instance).collect();
    let now = store.clock.now().timestamp_nanos_opt().unwrap_or(0);
    let (news, all_unknown) = match cache.look(&store.fs, &store.layout, asked.iter().copied(), now) {
        _ if asked.is_empty() => (Vec::new(), None),
        Ok(news) => (news, None),
        // The root went since it was read: whoever works on it says so.
        Err(e) => (Vec::new(), Some(e.to_string())),
    };
    let asked: std::collections::HashSet<InstanceId> = asked.into_iter().cloned().collect();
    let tags = |instance: &InstanceId| match &all_unknown {
        _ if !asked.contains(instance) => InstanceTags::default(),
        Some(why) => InstanceTags::Unknown(why.clone()),
        None => cache.of(instance),
    };
    let all = instances.into_iter().map(|(instance, is_fork)| Candidate { tags: tags(&instance), instance, is_fork }).collect();
    (all, news)
}

/// How long an answer is believed while root and configuration stay as they are, if a policy asks for tags: to look at those
/// of 10,000 instances takes 55 ms, and a tick comes every second. Without tags it holds for as long as they stay.
const BELIEVED: Duration = Duration::from_secs(5);

/// What was seen last.
#[derive(Debug, Default)]
pub(super) struct Selection {
    cache: TagCache,
    last: Option<Last>,
}

#[derive(Debug)]
struct Last {
    at: Duration,
    /// Of which state of the root.
    scan: u64,
    config: Arc<Config>,
    all: Arc<Vec<Candidate>>,
}

impl Last {
    /// Without tags to look at an answer holds until root or configuration change.
    fn asks_for_tags(&self) -> bool {
        self.config.policies.iter().any(|policy| !policy.select.tags.is_empty())
    }
}

impl Worker {
    /// Whether these are the instances that would be found now, as far as memory can tell.
    pub(super) fn is_last_selection(&self, instances: &Arc<Vec<Candidate>>) -> bool {
        let Ok(selection) = self.selection.try_lock() else { return false };
        let scan = self.forks.scan_number();
        selection.last.as_ref().is_some_and(|last| Arc::ptr_eq(&last.all, instances) && last.scan == scan && !last.asks_for_tags())
    }

    /// The instances of the root as of the last scan, with their tags: as they are now if they are wanted `fresh`, else as
    /// they were within the last five seconds. Tags that became unreadable are reported, once.
    pub(super) fn candidates(&self, fresh: bool) -> Arc<Vec<Candidate>> {
        let mut selection = self.selection.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, config, now) = (self.forks.scan_number(), self.config(), self.store.clock.since_boot());
        let is_current = |last: &&Last| {
            let is_same = last.scan == number && Arc::ptr_eq(&last.config, &config);
            !fresh && is_same && (!last.asks_for_tags() || now.saturating_sub(last.at) < BELIEVED)
        };
        if let Some(last) = selection.last.as_ref().filter(is_current) {
            return Arc::clone(&last.all);
        }
        let (all, news) = candidates(&self.store, &config, &self.forks.last_scan(), &mut selection.cache);
        let all = Arc::new(all);
        selection.last = Some(Last { at: now, scan: number, config, all: Arc::clone(&all) });
        drop(selection);
        for (instance, why) in news {
            let path = Layout::tags_in(&self.store.layout.instance(&instance)).display().to_string();
            self.store.events.emit(Event::RecordUnreadable { path, why, blocks: Vec::new() });
        }
        all
    }
}
