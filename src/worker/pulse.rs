//! How the worker does, in one look: the heartbeat's numbers.

use super::Worker;
use super::backend::Answer;
use super::problem::{Problem, ProblemKind};
use crate::event::Event;
use crate::event::metrics::PolicyNumbers;
use crate::ids::PolicyName;
use crate::schedule::Health;
use chrono::TimeDelta;
use std::sync::PoisonError;
use std::time::Duration;

/// So old may be what removals would free, when forks keep snapshots from going: measuring reads the disk.
const MEASURED: Duration = Duration::from_secs(3600);
/// So many are measured at most.
const MEASURED_MOST: usize = 1000;
/// Reasons to keep a snapshot which nothing but a person takes away.
const STUCK: [&str; 4] = ["unreadable", "linked", "unmounted", "clock"];

impl Worker {
    /// The heartbeat, of which the next is due in `next`. Reads what is in memory, the file systems' free space and, once an
    /// hour, what forks keep from coming free.
    #[must_use]
    pub fn pulse(&self, next: Duration) -> Event {
        let config = self.config();
        let now = self.store.clock.now();
        let health = self.health().into_iter().fold(Health::default(), |all, (_, one)| all.and(one));
        let (pending, oldest) = self.forks.backlog();
        let (snapshots, forks, quarantined) = {
            let index = self.store.index();
            let quarantined = index.present().filter(|(_, known)| known.quarantined.is_some()).count();
            (index.count_present() as u64, index.count_refs() as u64, quarantined as u64)
        };
        let (blocked, stuck) = {
            let blocked = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
            let is_stuck = |why: &str| why.split(',').any(|why| STUCK.contains(&why));
            (blocked.len() as u64, blocked.iter().filter(|(_, why)| is_stuck(why)).count() as u64)
        };
        let space = self.store.fs.space(self.store.layout.store()).ok();
        Event::WorkerHeartbeat {
            pending: pending as u64,
            oldest_ms: oldest.map_or(0, |since| u64::try_from((now - since).num_milliseconds()).unwrap_or(0)),
            failing: health.failing,
            failures: u64::from(health.failures),
            overdue: health.overdue,
            snapshots,
            forks,
            quarantined,
            blocked,
            stuck,
            pinned_bytes: self.pinned_bytes(),
            free_bytes: space.as_ref().map_or(0, |space| space.free),
            size_bytes: space.as_ref().map_or(0, |space| space.size),
            queue_open: self.forks.closed().is_none(),
            root_proven: self.store.prove_root().is_ok(),
            clock_trusted: self.clock.look(&self.store, config.wait_for_sync).trusted,
            config_rejected: !self.rejected.lock().unwrap_or_else(PoisonError::into_inner).is_empty(),
            next_at: now + TimeDelta::from_std(next).unwrap_or_default(),
            at: now,
        }
    }

    /// All metrics as they are now, in OpenMetrics.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`] if this process keeps none.
    pub fn open_metrics(&self) -> Answer<String> {
        let metrics = self.store.events.metrics().ok_or_else(|| Problem::new(ProblemKind::NotFound, "this process keeps no metrics"))?;
        if self.starting().is_none() {
            metrics.look(&self.pulse(Duration::ZERO));
            metrics.policies(&self.policy_numbers());
        }
        Ok(metrics.open_metrics())
    }

    /// Reports the heartbeat, of which the next is due in `next`, and writes `[metrics] textfile`, if there is to be one.
    pub fn beat_heart(&self, next: Duration) {
        self.store.events.emit(self.pulse(next));
        let config = self.config();
        let (Some(path), Some(metrics)) = (&config.metrics.textfile, self.store.events.metrics()) else { return };
        metrics.policies(&self.policy_numbers());
        if let Err(e) = self.store.fs.replace_report(path, metrics.textfile().as_bytes()) {
            let (path, at) = (path.display().to_string(), self.store.clock.now());
            self.store.events.emit(Event::MetricsFailed { path, error: e.to_string(), at });
        }
    }

    /// How each policy does; for the moment between a reload and the next tick, how it did.
    fn health(&self) -> Vec<(PolicyName, Health)> {
        let mut last = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(health) = self.schedules.health(&self.config().policies, self.store.clock.now()) {
            *last = health;
        }
        last.clone()
    }

    fn policy_numbers(&self) -> Vec<PolicyNumbers> {
        let numbers = |(policy, health): (PolicyName, Health)| PolicyNumbers {
            policy: policy.to_string(),
            pairs: health.pairs,
            failing: health.failing,
            failures: u64::from(health.failures),
            overdue: health.overdue,
            oldest_success: health.oldest_success,
        };
        self.health().into_iter().map(numbers).collect()
    }

    fn pinned_bytes(&self) -> u64 {
        let mut ids = self.kept_by_forks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ids.truncate(MEASURED_MOST);
        self.store.reclaimable_of(&ids, MEASURED, 1).iter().sum()
    }
}
