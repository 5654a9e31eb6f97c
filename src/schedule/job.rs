//! One slot: begun durably, taken, ended durably with its outcome, reported.

use super::{LedgerError, Pair, Schedules};
use crate::event::Event;
use crate::ids::InstanceId;
use crate::policy::cadence::{Begun, Success};
use crate::policy::{Policy, Retry};
use crate::snapshot::take::{How, TakeError, Taken, Wanted, take};
use crate::store::Summary;
use crate::store::instances::{Standing, standing};
use crate::store::layout::Layout;
use crate::store::manifest::Kind;
use chrono::{DateTime, TimeDelta, Utc};
use std::sync::Arc;
use std::time::Duration;

/// A slot that is due.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its policy, as it was when the slot came due.
    pub policy: Arc<Policy>,
    /// Its instance.
    pub instance: InstanceId,
    /// The slot.
    pub slot: DateTime<Utc>,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// How much later than the slot it was to run.
    pub offset: TimeDelta,
}

/// The event of a snapshot that was published.
#[must_use]
pub fn taken_event(summary: &Summary, late_ms: Option<u64>, frozen: Duration, now: DateTime<Utc>) -> Event {
    let millis = |d: i64| u64::try_from(d).unwrap_or(0);
    Event::SnapshotTaken {
        snapshot: summary.id.clone(),
        name: summary.name.to_string(),
        instance: summary.instance.clone(),
        policy: summary.policy.clone(),
        slot: summary.slot,
        kind: if summary.kind == Kind::Standby { "standby" } else { "stopped" }.to_owned(),
        size_bytes: summary.size_bytes,
        late_ms,
        frozen_ms: u64::try_from(frozen.as_millis()).unwrap_or(u64::MAX),
        duration_ms: millis((now - summary.created_at).num_milliseconds()),
    }
}

/// Ends a pair's being marked as running, also when the job unwinds.
struct Running<'a>(&'a Schedules, Pair);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.no_longer_runs(&self.1);
    }
}

impl Schedules {
    /// Runs a job to its outcome. Returns whether a snapshot was taken; the failure of one is in ledger and log.
    pub fn run(&self, job: &Job, how: How<'_>) -> bool {
        let pair = (job.policy.name.clone(), job.instance.clone());
        let _running = Running(self, pair.clone());
        match self.run_slot(job, &pair, how) {
            Ok(taken) => taken,
            Err(e) => {
                self.report_ledger_error(&pair, &e, self.store.clock.now());
                false
            }
        }
    }

    /// Gives a job back that was not begun.
    pub fn leave(&self, job: &Job) {
        self.no_longer_runs(&(job.policy.name.clone(), job.instance.clone()));
    }

    fn no_longer_runs(&self, (policy, instance): &Pair) {
        let mut live = self.live();
        if let Some(all) = live.running.get_mut(policy) {
            all.remove(instance);
        }
        // One that was left has no new entry, and is due as before.
        self.ledger.touch();
    }

    fn run_slot(&self, job: &Job, pair: &Pair, how: How<'_>) -> Result<bool, LedgerError> {
        let now = self.store.clock.now();
        let mut entry = self.ledger.get_or_begin(pair, now)?.begin(job.slot, job.attempt, now);
        if job.attempt == 1 {
            entry = entry.late(job.slot, job.offset, now);
        }
        if !job.policy.select.include_forks && self.is_fork(&job.instance)? {
            // It became one since the root was read: a copy of a fork gets its record last.
            let why = "it is a fork, and the policy leaves forks out".to_owned();
            self.ledger.set(pair, entry.skipped(job.slot, &why))?;
            self.store.events.emit(Event::SnapshotSkipped { instance: pair.1.clone(), policy: pair.0.clone(), slot: job.slot, why });
            return Ok(false);
        }
        let begun = Begun { slot: job.slot, at: now, attempt: job.attempt };
        self.ledger.set(pair, entry.clone())?;
        let wanted = Wanted {
            instance: job.instance.clone(),
            policy: Some((job.policy.name.clone(), job.slot)),
            name: None,
            name_prefix: job.policy.name_prefix.clone(),
            tags: job.policy.tags.clone(),
            kind: job.policy.kind,
        };
        let result = take(&self.store, &wanted, how);
        let now = self.store.clock.now();
        match result {
            Ok(taken) => {
                self.ledger.set(pair, entry.taken(job.slot, taken.summary.id.clone(), now))?;
                self.report_taken(&taken, entry.late_ms, now);
                Ok(true)
            }
            Err(TakeError::NoInstance(instance)) => {
                // Gone between the tick and now: no failure of the schedule.
                let why = format!("there is no instance {instance}");
                self.ledger.set(pair, entry.skipped(job.slot, &why))?;
                self.store.events.emit(Event::SnapshotSkipped { instance, policy: pair.0.clone(), slot: job.slot, why });
                Ok(false)
            }
            Err(e) => {
                self.fail(pair, Some(job.policy.as_ref()), (begun, &e.to_string(), e.is_cancelled()), now)?;
                Ok(false)
            }
        }
    }

    fn is_fork(&self, instance: &InstanceId) -> Result<bool, LedgerError> {
        Ok(standing(&self.store.fs, &self.store.layout.instance(instance))? != Standing::Plain)
    }

    /// Reports a snapshot; also one whose instance could not be let go on, and, once and not at each slot, that it lacks its
    /// instance's tags: somebody must look at these.
    pub fn report_taken(&self, taken: &Taken, late_ms: Option<u64>, now: DateTime<Utc>) {
        self.store.events.emit(taken_event(&taken.summary, late_ms, taken.frozen, now));
        let instance = &taken.summary.instance;
        let before = match &taken.summary.tags_unread {
            Some(why) => self.live().unread.insert(instance.clone(), why.clone()),
            None => self.live().unread.remove(instance),
        };
        if let Some(why) = taken.summary.tags_unread.as_ref().filter(|why| before.as_ref() != Some(why)) {
            let path = Layout::tags_in(&self.store.layout.instance(instance)).display().to_string();
            self.store.events.emit(Event::RecordUnreadable { path, why: why.clone(), blocks: Vec::new() });
        }
        if let Some(error) = &taken.thaw_error {
            self.store.events.emit(Event::InstanceStuck { instance: taken.summary.instance.clone(), error: error.clone(), at: now });
        }
    }

    /// Writes a failed attempt down and reports it.
    pub(super) fn fail(
        &self,
        pair: &Pair,
        policy: Option<&Policy>,
        (begun, error, interrupted): (Begun, &str, bool),
        now: DateTime<Utc>,
    ) -> Result<(), LedgerError> {
        let retry = policy.map_or(Retry { attempts: 1, backoff: TimeDelta::zero() }, |p| p.retry);
        let next = policy.and_then(|p| p.schedule.as_ref()).and_then(|s| s.slot_after(begun.slot));
        let entry = self.ledger.get_or_begin(pair, now)?.failed(begun, error, interrupted, retry, next, now);
        self.ledger.set(pair, entry.clone())?;
        self.store.events.emit(Event::SnapshotFailed {
            instance: pair.1.clone(),
            policy: Some(pair.0.clone()),
            slot: Some(begun.slot),
            attempt: begun.attempt,
            at: begun.at,
            error: error.to_owned(),
            interrupted,
            retry_at: entry.retry_at,
        });
        if entry.failures >= 3 {
            self.store.events.emit(Event::ScheduleFailing {
                policy: pair.0.clone(),
                instance: pair.1.clone(),
                failures: entry.failures,
                last_success: entry.last_success.map(|Success { slot, .. }| slot),
                error: error.to_owned(),
            });
        }
        Ok(())
    }
}
