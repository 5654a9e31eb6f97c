//! Schedules at work: the durable ledger, what is due at a tick, and one slot from `begun` to its outcome.
//!
//! Pairs of policy and instance are independent: each has its own ledger entry, and one that runs or fails holds up no
//! other. What is due is decided in `policy/cadence.rs`; here it is only remembered and carried out.

mod job;
mod ledger;

pub use job::{Job, taken_event};
pub use ledger::{Ledger, LedgerError};

use crate::event::Event;
use crate::ids::{InstanceId, PolicyName};
use crate::policy::cadence::{Due, LedgerEntry, MissedSlots, due};
use crate::policy::{Candidate, Policy, Selected};
use crate::store::Store;
use chrono::{DateTime, Utc};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A policy and an instance.
pub type Pair = (PolicyName, InstanceId);

/// The schedules of a store.
#[derive(Debug)]
pub struct Schedules {
    store: Arc<Store>,
    ledger: Ledger,
    live: Mutex<Live>,
}

/// What is in memory only.
#[derive(Debug, Default)]
struct Live {
    running: HashSet<Pair>,
    /// Nothing is due for a pair before this time.
    quiet_until: HashMap<Pair, DateTime<Utc>>,
    last_tick: Option<DateTime<Utc>>,
}

impl Schedules {
    /// Reads the ledger, and ends what was begun when the process died: taken if the snapshot is there, else failed.
    ///
    /// # Errors
    /// [`LedgerError`] if an entry is of a newer format, or cannot be written.
    pub fn open(store: Arc<Store>, policies: &[Policy]) -> Result<Self, LedgerError> {
        let ledger = Ledger::load(Arc::clone(&store))?;
        let schedules = Self { store, ledger, live: Mutex::default() };
        schedules.end_interrupted(policies)?;
        Ok(schedules)
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the ledger says of a pair.
    #[must_use]
    pub fn entry(&self, pair: &Pair) -> Option<LedgerEntry> {
        self.ledger.get(pair)
    }

    /// All pairs that the ledger knows.
    #[must_use]
    pub fn pairs(&self) -> Vec<(Pair, LedgerEntry)> {
        self.ledger.all()
    }

    /// Makes a pair known that has no instance yet, or none any more: its snapshots came from elsewhere.
    ///
    /// # Errors
    /// [`LedgerError`] if its entry cannot be written.
    pub fn know(&self, pair: &Pair) -> Result<(), LedgerError> {
        self.ledger.get_or_begin(pair, self.store.clock.now()).map(drop)
    }

    /// Whether a pair's slot is being taken at this moment.
    #[must_use]
    pub fn is_running(&self, pair: &Pair) -> bool {
        self.live().running.contains(pair)
    }

    /// Forgets what was computed ahead, after the policies have changed.
    pub fn reconsider(&self) {
        self.live().quiet_until.clear();
    }

    /// Since when each pair's instance is gone.
    #[must_use]
    pub fn gone_since(&self) -> BTreeMap<Pair, DateTime<Utc>> {
        self.ledger.all().into_iter().filter_map(|(pair, entry)| Some((pair, entry.gone_since?))).collect()
    }

    /// The jobs that are due now, each marked as running until [`Schedules::run`] ends it. `instances` are those of the
    /// proven root; `None` if it is not proven: then nothing is known to be gone.
    /// Errors of single pairs are reported, and stop no other.
    pub fn tick(&self, policies: &[Policy], instances: Option<&[Candidate]>, now: DateTime<Utc>) -> Vec<Job> {
        {
            let mut live = self.live();
            if live.last_tick.is_some_and(|last| last > now) {
                live.quiet_until.clear();
            }
            live.last_tick = Some(now);
        }
        let mut jobs = Vec::new();
        for policy in policies {
            if let Some(instances) = instances {
                self.note_gone(policy, instances, now);
            }
            for instance in instances.unwrap_or_default().iter().filter(|c| self.is_selected(policy, c)).map(|c| &c.instance) {
                let pair = (policy.name.clone(), instance.clone());
                match self.look_at(policy, &pair, now) {
                    Ok(job) => jobs.extend(job),
                    Err(e) => self.report_ledger_error(&pair, &e, now),
                }
            }
        }
        // Fair among policies and instances: whose slot is oldest goes first.
        jobs.sort_by_key(|job| job.slot);
        jobs
    }

    fn look_at(&self, policy: &Policy, pair: &Pair, now: DateTime<Utc>) -> Result<Option<Job>, LedgerError> {
        let Some(schedule) = &policy.schedule else {
            self.ledger.get_or_begin(pair, now)?;
            return Ok(None);
        };
        {
            let live = self.live();
            if live.running.contains(pair) || live.quiet_until.get(pair).is_some_and(|until| now < *until) {
                return Ok(None);
            }
        }
        let entry = self.ledger.get_or_begin(pair, now)?;
        let offset = schedule.offset(&pair.0, &pair.1, now);
        match due(schedule, offset, &entry, now) {
            Due::NotYet(until) => {
                let until = until.unwrap_or(DateTime::<Utc>::MAX_UTC);
                self.live().quiet_until.insert(pair.clone(), until);
                Ok(None)
            }
            Due::Missed(slots) => {
                self.ledger.set(pair, entry.missed(slots))?;
                self.report_missed(pair, slots);
                Ok(None)
            }
            Due::Run { slot, attempt, missed } => {
                if let Some(slots) = missed {
                    self.report_missed(pair, slots);
                }
                self.live().running.insert(pair.clone());
                Ok(Some(Job { policy: policy.clone(), instance: pair.1.clone(), slot, attempt }))
            }
        }
    }

    /// Whether a policy takes snapshots of an instance. While its tags cannot be told that is as it was: whoever was
    /// selected before stays so, and nobody else becomes it.
    fn is_selected(&self, policy: &Policy, candidate: &Candidate) -> bool {
        match policy.select.selects(candidate) {
            Selected::Yes => true,
            Selected::No => false,
            Selected::Unknown => self.ledger.get(&(policy.name.clone(), candidate.instance.clone())).is_some(),
        }
    }

    /// Notes which instances of a policy are gone, and which are there again. One that is there and no longer selected, by
    /// its tags or by the config, is not gone.
    fn note_gone(&self, policy: &Policy, instances: &[Candidate], now: DateTime<Utc>) {
        let there: HashSet<&InstanceId> = instances.iter().map(|c| &c.instance).collect();
        for (pair, entry) in self.ledger.of_policy(&policy.name) {
            let is_there = there.contains(&pair.1);
            if is_there == entry.gone_since.is_some()
                && let Err(e) = self.ledger.set(&pair, entry.seen(is_there, now))
            {
                self.report_ledger_error(&pair, &e, now);
            }
        }
    }

    fn report_missed(&self, (policy, instance): &Pair, slots: MissedSlots) {
        self.store.events.emit(Event::SlotMissed {
            instance: instance.clone(),
            policy: policy.clone(),
            first: slots.first,
            last: slots.last,
            count: slots.count,
        });
    }

    /// A slot whose ledger cannot be written is not begun: it failed. Reported, and not again before a minute has passed.
    fn report_ledger_error(&self, pair: &Pair, error: &LedgerError, now: DateTime<Utc>) {
        self.live().quiet_until.insert(pair.clone(), now + chrono::TimeDelta::minutes(1));
        self.store.events.emit(Event::SnapshotFailed {
            instance: pair.1.clone(),
            policy: Some(pair.0.clone()),
            slot: None,
            attempt: 1,
            at: now,
            error: format!("the ledger cannot be kept: {error}"),
            interrupted: false,
            retry_at: Some(now + chrono::TimeDelta::minutes(1)),
        });
    }

    /// The start: a slot that was begun is taken if its snapshot is there, else failed, interrupted.
    fn end_interrupted(&self, policies: &[Policy]) -> Result<(), LedgerError> {
        let now = self.store.clock.now();
        for (pair, entry) in self.ledger.all() {
            let Some(begun) = entry.begun else { continue };
            let published = self
                .store
                .index()
                .of_instance(&pair.1)
                .into_iter()
                .find(|s| s.policy.as_ref() == Some(&pair.0) && s.slot == Some(begun.slot));
            match published {
                Some(summary) => {
                    self.ledger.set(&pair, entry.taken(begun.slot, summary.id.clone(), now))?;
                    self.store.events.emit(taken_event(&summary, std::time::Duration::ZERO, now));
                }
                None => {
                    let policy = policies.iter().find(|p| p.name == pair.0);
                    let why = "the worker ended while the snapshot was being taken";
                    self.fail(&pair, policy, (begun, why, true), now)?;
                }
            }
        }
        Ok(())
    }
}
