//! Snapshots that retention wants to go and forks keep: deferred where the policy says so, reported where it takes long.

use super::Worker;
use crate::event::Event;
use crate::policy::{Plan, PlanEntry, Rule, Side, Verdict, WhenReferenced};
use crate::store::{Pinned, StoreError};
use chrono::{DateTime, TimeDelta, Utc};
use std::sync::PoisonError;
use std::time::Duration;

/// A pin that lasts is reported this often.
const AGAIN: TimeDelta = TimeDelta::days(1);

/// True if nothing but forks keeps a snapshot that would go.
fn is_kept_by_forks_only(entry: &PlanEntry) -> bool {
    let is_fork = |rule| matches!(rule, Rule::LiveForks | Rule::Queued);
    entry.verdict == Verdict::Blocked && entry.rules(Side::Block).next().is_some() && entry.rules(Side::Block).all(is_fork)
}

impl Worker {
    /// Marks and reports what a plan could not remove for forks' sake.
    pub(super) fn note_pinned(&self, plan: &Plan) {
        let config = self.config();
        let kept = plan.entries.iter().filter(|entry| is_kept_by_forks_only(entry)).map(|entry| entry.snapshot_id.clone());
        *self.kept_by_forks.lock().unwrap_or_else(PoisonError::into_inner) = kept.collect();
        for entry in &plan.entries {
            let is_kept = is_kept_by_forks_only(entry);
            let result = if is_kept { self.defer(entry) } else { Ok(()) };
            let result = result.and_then(|()| self.note_since(entry, is_kept, config.warn_pinned_after, plan.at));
            match result {
                // It went meanwhile.
                Ok(()) | Err(StoreError::NoSnapshot { .. }) => {}
                Err(e) => self.store.events.emit(Event::PruneFailed { snapshot: entry.snapshot_id.to_string(), error: e.to_string() }),
            }
        }
    }

    /// `when_referenced = "defer"`: no new forks, and it goes with its last.
    fn defer(&self, entry: &PlanEntry) -> Result<(), StoreError> {
        let config = self.config();
        let policy = entry.policy.as_ref().and_then(|name| config.policy(name));
        if policy.is_none_or(|policy| policy.when_referenced != WhenReferenced::Defer) {
            return Ok(());
        }
        let guard = self.store.lock_snapshot(&entry.snapshot_id);
        if self.store.known(&entry.snapshot_id)?.expiring {
            return Ok(());
        }
        self.store.mark_expiring(&guard, "retention, and forks need it")?;
        drop(guard);
        self.store.events.emit(Event::PruneDeferred {
            snapshot: entry.snapshot_id.clone(),
            instance: entry.instance.clone(),
            policy: entry.policy.clone(),
            forks: entry.forks.clone(),
        });
        Ok(())
    }

    /// Remembers since when forks keep a snapshot, and reports it once a day when it is long.
    fn note_since(&self, entry: &PlanEntry, is_kept: bool, after: Duration, now: DateTime<Utc>) -> Result<(), StoreError> {
        let guard = self.store.lock_snapshot(&entry.snapshot_id);
        let known = self.store.known(&entry.snapshot_id)?.pinned;
        let Some(mut pinned) = known.clone().or_else(|| is_kept.then(|| Pinned::new(now))) else { return Ok(()) };
        if !is_kept || after.is_zero() {
            return if known.is_some() { self.store.set_pinned(&guard, None) } else { Ok(()) };
        }
        let is_long = (now - pinned.since).to_std().is_ok_and(|kept| kept >= after);
        let is_due = is_long && pinned.reported.is_none_or(|at| now - at >= AGAIN || at > now);
        if is_due {
            pinned.reported = Some(now);
        }
        if known.is_none() || is_due {
            self.store.set_pinned(&guard, Some(&pinned))?;
        }
        drop(guard);
        if is_due {
            self.store.events.emit(Event::ForkPinnedLong {
                snapshot: entry.snapshot_id.clone(),
                instance: entry.instance.clone(),
                forks: entry.forks.clone(),
                since: pinned.since,
                bytes: self.store.reclaimable_bytes(&entry.snapshot_id, Duration::from_secs(60)).unwrap_or(0),
                at: now,
            });
        }
        Ok(())
    }
}
