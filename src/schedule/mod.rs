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
use crate::policy::Policy;
use crate::policy::cadence::{Due, LedgerEntry, MissedSlots, due_for};
use crate::policy::turns::{Bounds, Waiting, turns};
use crate::store::Store;
use chrono::{DateTime, Utc};
use std::collections::{BTreeMap, BTreeSet, HashMap};
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
    running: BTreeMap<PolicyName, BTreeSet<InstanceId>>,
    /// The slots that are due and wait for their turn.
    waiting: HashMap<Pair, DateTime<Utc>>,
    /// Pairs whose ledger could not be written are left alone until then.
    troubled: HashMap<Pair, DateTime<Utc>>,
    last_tick: Option<DateTime<Utc>>,
}

impl Live {
    fn runs(&self, policy: &PolicyName, instance: &InstanceId) -> bool {
        self.running.get(policy).is_some_and(|all| all.contains(instance))
    }

    fn is_troubled(&self, pair: &Pair, now: DateTime<Utc>) -> bool {
        self.troubled.get(pair).is_some_and(|until| now < *until)
    }
}

/// Which of the pairs that are due may begin.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'t> {
    /// Snapshots at once, of all policies.
    pub max_running: usize,
    /// These pairs only; `None`: any.
    pub only: Option<&'t BTreeSet<Pair>>,
}

/// A slot that is due, and who waits for it.
struct DueSlot {
    job: Job,
    missed: Option<MissedSlots>,
    waiting: Waiting,
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

    /// Whether a pair's slot is being taken at this moment.
    #[must_use]
    pub fn is_running(&self, pair: &Pair) -> bool {
        self.live().runs(&pair.0, &pair.1)
    }

    /// Forgets what was computed ahead, after the policies have changed.
    pub fn reconsider(&self) {
        self.ledger.reconsider();
        self.live().troubled.clear();
    }

    /// Whether a pair's slot is due and waits for its turn.
    #[must_use]
    pub fn is_waiting(&self, pair: &Pair) -> bool {
        self.live().waiting.contains_key(pair)
    }

    /// The pairs whose slot is due and waits for its turn.
    #[must_use]
    pub fn waiting(&self) -> BTreeSet<Pair> {
        self.live().waiting.keys().cloned().collect()
    }

    /// Since when each pair's instance is gone.
    #[must_use]
    pub fn gone_since(&self) -> BTreeMap<Pair, DateTime<Utc>> {
        self.ledger.all().into_iter().filter_map(|(pair, entry)| Some((pair, entry.gone_since?))).collect()
    }

    /// The jobs whose turn it is now, each marked as running until [`Schedules::run`] ends it; what else is due waits, and
    /// has not begun. `instances` are those of the proven root (with whether each is a fork); `None` if it is not proven:
    /// then nothing is known to be gone. Errors of single pairs are reported, and stop no other.
    pub fn tick(&self, policies: &[Policy], instances: Option<&[(InstanceId, bool)]>, turn: Turn<'_>, now: DateTime<Utc>) -> Vec<Job> {
        let stepped_back = self.live().last_tick.replace(now).is_some_and(|last| last > now);
        if stepped_back {
            self.ledger.reconsider();
        }
        let mut due = Vec::new();
        let mut bounds = Bounds { host: turn.max_running, ..Bounds::default() };
        for policy in policies {
            if let Some(most) = policy.schedule.as_ref().and_then(|schedule| schedule.max_running) {
                bounds.of_policy.insert(policy.name.clone(), most);
            }
            let matching = instances.unwrap_or_default().iter().filter(|(instance, is_fork)| policy.select.matches(instance, *is_fork));
            let mut matching: Vec<&InstanceId> = matching.map(|(instance, _)| instance).collect();
            if !matching.is_sorted() {
                matching.sort();
            }
            self.note_presence(policy, &matching, instances.is_some(), now);
            due.extend(self.look_at(policy, &matching, now));
        }
        self.begin(due, turn, &bounds)
    }

    /// Whose turn it is of all that is due. What was missed is reported with the slot that makes up for it.
    fn begin(&self, mut due: Vec<DueSlot>, turn: Turn<'_>, bounds: &Bounds) -> Vec<Job> {
        let pair_of = |slot: &DueSlot| (slot.waiting.policy.clone(), slot.waiting.instance.clone());
        due.retain(|slot| turn.only.is_none_or(|only| only.contains(&pair_of(slot))));
        let waiting: Vec<Waiting> = due.iter().map(|slot| slot.waiting.clone()).collect();
        let mut live = self.live();
        let running = live.running.iter().map(|(policy, all)| (policy.clone(), all.len())).collect();
        let begun = turns(&waiting, &running, bounds);
        live.waiting = due.iter().map(|slot| (pair_of(slot), slot.job.slot)).collect();
        let mut slots: Vec<Option<DueSlot>> = due.into_iter().map(Some).collect();
        let (mut jobs, mut missed) = (Vec::with_capacity(begun.len()), Vec::new());
        for slot in begun.into_iter().filter_map(|place| slots.get_mut(place)?.take()) {
            let pair = pair_of(&slot);
            live.waiting.remove(&pair);
            live.running.entry(pair.0.clone()).or_default().insert(pair.1.clone());
            missed.extend(slot.missed.map(|slots| (pair, slots)));
            jobs.push(slot.job);
        }
        drop(live);
        missed.iter().for_each(|(pair, slots)| self.report_missed(pair, *slots));
        jobs
    }

    /// Writes down which instances of a policy are new, gone, and there again. `matching` is in order.
    fn note_presence(&self, policy: &Policy, matching: &[&InstanceId], is_proven: bool, now: DateTime<Utc>) {
        let mut news: Vec<(Pair, LedgerEntry)> = Vec::new();
        let live = self.live();
        self.ledger.with_policy(&policy.name, |known| {
            let mut rest = matching.iter().copied().peekable();
            let pair = |instance: &InstanceId| (policy.name.clone(), instance.clone());
            for (instance, known) in known.iter() {
                while let Some(new) = rest.next_if(|next| *next < instance) {
                    news.push((pair(new), self.first_entry(policy, now)));
                }
                let is_there = rest.next_if(|next| *next == instance).is_some();
                // One that runs is left alone: its outcome must not be overwritten.
                if is_proven && is_there == known.entry.gone_since.is_some() && !live.runs(&policy.name, instance) {
                    news.push((pair(instance), known.entry.seen(is_there, now)));
                }
            }
            news.extend(rest.map(|new| (pair(new), self.first_entry(policy, now))));
        });
        news.retain(|(pair, _)| !live.is_troubled(pair, now));
        drop(live);
        for (pair, entry) in news {
            if let Err(e) = self.ledger.set(&pair, entry) {
                self.report_ledger_error(&pair, &e, now);
            }
        }
    }

    /// What is due of a policy's instances; what was missed for good is written down. `matching` is in order.
    fn look_at(&self, policy: &Policy, matching: &[&InstanceId], now: DateTime<Utc>) -> Vec<DueSlot> {
        let Some(schedule) = &policy.schedule else { return Vec::new() };
        let (mut due, mut gone_by) = (Vec::new(), Vec::new());
        let live = self.live();
        let mut shared = None;
        self.ledger.with_policy(&policy.name, |known| {
            let mut there = matching.iter().copied().peekable();
            for (instance, known) in known.iter_mut() {
                while there.next_if(|next| *next < instance).is_some() {}
                if there.next_if(|next| *next == instance).is_none() || known.quiet_until.is_some_and(|until| now < until) {
                    continue;
                }
                let pair = (policy.name.clone(), instance.clone());
                if live.runs(&pair.0, instance) || live.is_troubled(&pair, now) {
                    continue;
                }
                let offset = schedule.offset(&policy.name, instance, now);
                match due_for(schedule, offset, &known.entry, now, live.waiting.get(&pair).copied()) {
                    Due::NotYet(until) => known.quiet_until = Some(until.unwrap_or(DateTime::<Utc>::MAX_UTC)),
                    Due::Missed(slots) => gone_by.push((pair, known.entry.missed(slots), slots)),
                    Due::Run { slot, attempt, missed } => {
                        let retried = known.entry.retry_at.filter(|_| known.entry.retry_slot == Some(slot));
                        let due_since = retried.unwrap_or_else(|| missed.map_or(slot, |missed| missed.first) + offset);
                        let policy = Arc::clone(shared.get_or_insert_with(|| Arc::new(policy.clone())));
                        let waiting = Waiting { policy: pair.0, instance: pair.1, due_since, served: known.entry.last_slot };
                        due.push(DueSlot { job: Job { policy, instance: instance.clone(), slot, attempt, offset }, missed, waiting });
                    }
                }
            }
        });
        drop(live);
        for (pair, entry, slots) in gone_by {
            match self.ledger.set(&pair, entry) {
                Ok(()) => self.report_missed(&pair, slots),
                Err(e) => self.report_ledger_error(&pair, &e, now),
            }
        }
        due
    }

    fn first_entry(&self, policy: &Policy, now: DateTime<Utc>) -> LedgerEntry {
        policy.schedule.as_ref().map_or_else(|| LedgerEntry::new(now), |schedule| LedgerEntry::enabled(schedule, now))
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
        self.live().troubled.insert(pair.clone(), now + chrono::TimeDelta::minutes(1));
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
