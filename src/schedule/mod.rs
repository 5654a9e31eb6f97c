//! Schedules at work: the durable ledger, what is due at a tick, and one slot from `begun` to its outcome.
//!
//! Pairs of policy and instance are independent: each has its own ledger entry, and one that runs or fails holds up no
//! other. What is due is decided in `policy/cadence.rs`; here it is only remembered and carried out.

mod health;
mod job;
mod ledger;

pub use health::Health;
pub use job::{Job, taken_event};
pub use ledger::{Ledger, LedgerError};

use crate::event::Event;
use crate::ids::{InstanceId, PolicyName};
use crate::policy::cadence::{Due, LedgerEntry, MissedSlots, due_for};
use crate::policy::turns::{Bounds, Waiting, turns};
use crate::policy::{Candidate, Policy, Selected};
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
    /// What was due at the last tick and has not begun, in its order.
    line: Vec<DueSlot>,
    /// How many may run, as of the last tick.
    bounds: Bounds,
    /// Pairs whose ledger could not be written are left alone until then.
    troubled: HashMap<Pair, DateTime<Utc>>,
    last_tick: Option<DateTime<Utc>>,
    matched: Matched,
    quiet: Option<Quiet>,
    /// Why an instance's tags could not be read when its last snapshot was taken.
    unread: HashMap<InstanceId, String>,
}

/// What the last tick found out: with the same policies and instances another one before `until` finds nothing to do.
#[derive(Debug, Clone, Copy)]
struct Quiet {
    /// The ledger's count of changes before that tick.
    changes: u64,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
}

/// Which instances each policy is for, as of the last tick: they are compared with globs only when something is new.
#[derive(Debug, Default)]
struct Matched {
    /// Where the policies lay in memory, and how many there were; [`Schedules::reconsider`] forgets it all.
    policies: (usize, usize),
    instances: Vec<Candidate>,
    /// The places of all instances, by their names.
    all: Arc<[usize]>,
    /// Those that each policy may be for.
    of_policy: Vec<Places>,
}

/// Places of instances, by their names; and whether a policy is for them hangs on tags that cannot be told.
type Places = Arc<[(usize, bool)]>;

impl Matched {
    fn of(&mut self, policies: &[Policy], instances: &[Candidate]) -> (Arc<[usize]>, Vec<Places>) {
        let here = (policies.as_ptr().addr(), policies.len());
        if self.policies != here || self.instances != instances {
            self.policies = here;
            self.instances = instances.to_vec();
            let mut all: Vec<(usize, &Candidate)> = instances.iter().enumerate().collect();
            all.sort_by_key(|(_, candidate)| &candidate.instance);
            self.of_policy = policies.iter().map(|policy| matching(policy, &all)).collect();
            self.all = all.into_iter().map(|(place, _)| place).collect();
        }
        (Arc::clone(&self.all), self.of_policy.clone())
    }
}

fn matching(policy: &Policy, all: &[(usize, &Candidate)]) -> Places {
    let selected = |(place, candidate): &(usize, &Candidate)| match policy.select.selects(candidate) {
        Selected::Yes => Some((*place, false)),
        Selected::Unknown => Some((*place, true)),
        Selected::No => None,
    };
    all.iter().filter_map(selected).collect()
}

impl DueSlot {
    fn pair(&self) -> Pair {
        (self.job.policy.name.clone(), self.job.instance.clone())
    }

    fn waiting(&self) -> Waiting<'_> {
        Waiting { policy: &self.job.policy.name, due_since: self.due_since, served: self.served }
    }
}

impl Live {
    fn runs(&self, policy: &PolicyName, instance: &InstanceId) -> bool {
        self.running.get(policy).is_some_and(|all| all.contains(instance))
    }

    fn is_troubled(&self, policy: &PolicyName, instance: &InstanceId, now: DateTime<Utc>) -> bool {
        let until = if self.troubled.is_empty() { None } else { self.troubled.get(&(policy.clone(), instance.clone())) };
        until.is_some_and(|until| now < *until)
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
#[derive(Debug)]
struct DueSlot {
    job: Job,
    missed: Option<MissedSlots>,
    due_since: DateTime<Utc>,
    served: Option<DateTime<Utc>>,
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

    /// How many pairs failed the last time.
    #[must_use]
    pub fn failing(&self) -> usize {
        self.ledger.failing()
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
        self.live().runs(&pair.0, &pair.1)
    }

    /// Forgets what was computed ahead, after the policies have changed.
    pub fn reconsider(&self) {
        self.ledger.reconsider();
        let mut live = self.live();
        live.troubled.clear();
        live.matched = Matched::default();
    }

    /// Whether a pair's slot is due and waits for its turn.
    #[must_use]
    pub fn is_waiting(&self, pair: &Pair) -> bool {
        self.ledger.is_due(pair)
    }

    /// The pairs whose slot is due and waits for its turn.
    #[must_use]
    pub fn waiting(&self) -> BTreeSet<Pair> {
        self.live().line.iter().map(DueSlot::pair).collect()
    }

    /// Until when nothing is to do, if nobody waits and nothing but time has passed since the last tick. Instances, their tags
    /// and the policies are the caller's to compare.
    #[must_use]
    pub fn quiet_until(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let live = self.live();
        let quiet = live.quiet.filter(|quiet| live.line.is_empty() && quiet.changes == self.ledger.changes())?;
        (quiet.from <= now && now < quiet.until).then_some(quiet.until)
    }

    /// The jobs whose turn it is now, each marked as running until [`Schedules::run`] ends it; what else is due waits, and
    /// has not begun. `instances` are those of the proven root; `None` if it is not proven: then nothing is known to
    /// be gone. Errors of single pairs are reported, and stop no other.
    pub fn tick(&self, policies: &[Policy], instances: Option<&[Candidate]>, turn: Turn<'_>, now: DateTime<Utc>) -> Vec<Job> {
        let stepped_back = self.live().last_tick.replace(now).is_some_and(|last| last > now);
        if stepped_back {
            self.ledger.reconsider();
        }
        let changes = self.ledger.changes();
        let (mut due, mut quiet_until) = (Vec::new(), DateTime::<Utc>::MAX_UTC);
        let mut bounds = Bounds { host: turn.max_running, ..Bounds::default() };
        let all = instances.unwrap_or_default();
        let (there, matched) = self.live().matched.of(policies, all);
        let name = |place: &usize| all.get(*place).map(|candidate| &candidate.instance);
        let there: Vec<&InstanceId> = there.iter().filter_map(name).collect();
        for (policy, places) in policies.iter().zip(matched) {
            if let Some(most) = policy.schedule.as_ref().and_then(|schedule| schedule.max_running) {
                bounds.of_policy.insert(policy.name.clone(), most);
            }
            let selected = places.iter().filter_map(|(place, is_unknown)| Some((name(place)?, *is_unknown)));
            let matching: Vec<&InstanceId> = selected.filter(|place| self.is_selected(policy, *place)).map(|(name, _)| name).collect();
            self.note_presence(policy, &matching, instances.is_some().then_some(&there), now);
            due.extend(self.look_at(policy, &matching, now, &mut quiet_until));
        }
        due.retain(|slot| turn.only.is_none_or(|only| only.contains(&slot.pair())));
        // Those that stand equal stay in the order of policies and names.
        due.sort_by_key(|slot| slot.waiting().place());
        {
            let mut live = self.live();
            live.line = due;
            live.bounds = bounds;
            let again = live.troubled.values().filter(|until| now < **until).min();
            let until = again.map_or(quiet_until, |again| quiet_until.min(*again));
            live.quiet = turn.only.is_none().then_some(Quiet { changes, from: now, until });
        }
        self.next_turns()
    }

    /// The jobs whose turn it is now, of what was due at the last tick; for when a job has ended. What was missed is
    /// reported with the slot that makes up for it.
    pub fn next_turns(&self) -> Vec<Job> {
        let mut live = self.live();
        if live.line.is_empty() {
            return Vec::new();
        }
        let running = live.running.iter().map(|(policy, all)| (policy.clone(), all.len())).collect();
        let places = turns(live.line.iter().map(DueSlot::waiting), &running, &live.bounds);
        let mut begun = Vec::with_capacity(places.len());
        for place in places.into_iter().rev() {
            let slot = live.line.remove(place);
            let pair = slot.pair();
            live.running.entry(pair.0).or_default().insert(pair.1);
            begun.push(slot);
        }
        drop(live);
        begun.reverse();
        for slot in &begun {
            if let Some(slots) = slot.missed {
                self.report_missed(&slot.pair(), slots);
            }
        }
        begun.into_iter().map(|slot| slot.job).collect()
    }

    /// Whether a policy takes snapshots of an instance that its names match. While its tags cannot be told that is as it was:
    /// whoever was selected before stays so, and nobody else becomes it.
    fn is_selected(&self, policy: &Policy, (instance, is_unknown): (&InstanceId, bool)) -> bool {
        !is_unknown || self.ledger.get(&(policy.name.clone(), instance.clone())).is_some()
    }

    /// Writes down which instances of a policy are new, gone, and there again. One that is there and no longer selected, by
    /// its tags or by the config, is not gone. `matching` and `there` are in order; `there` is `None` if it is not known.
    fn note_presence(&self, policy: &Policy, matching: &[&InstanceId], there: Option<&Vec<&InstanceId>>, now: DateTime<Utc>) {
        let mut news: Vec<(Pair, LedgerEntry)> = Vec::new();
        let live = self.live();
        self.ledger.with_policy(&policy.name, |known| {
            let mut rest = matching.iter().copied().peekable();
            let mut all = there.into_iter().flatten().copied().peekable();
            let pair = |instance: &InstanceId| (policy.name.clone(), instance.clone());
            for (instance, known) in known.iter() {
                while let Some(new) = rest.next_if(|next| *next < instance) {
                    news.push((pair(new), self.first_entry(policy, now)));
                }
                rest.next_if(|next| *next == instance);
                while all.next_if(|next| *next < instance).is_some() {}
                let is_there = all.next_if(|next| *next == instance).is_some();
                // One that runs is left alone: its outcome must not be overwritten.
                if there.is_some() && is_there == known.entry.gone_since.is_some() && !live.runs(&policy.name, instance) {
                    news.push((pair(instance), known.entry.seen(is_there, now)));
                }
            }
            news.extend(rest.map(|new| (pair(new), self.first_entry(policy, now))));
        });
        news.retain(|(pair, _)| !live.is_troubled(&pair.0, &pair.1, now));
        drop(live);
        let pairs: Vec<Pair> = news.iter().map(|(pair, _)| pair.clone()).collect();
        for (pair, written) in pairs.iter().zip(self.ledger.set_all(news)) {
            if let Err(e) = written {
                self.report_ledger_error(pair, &e, now);
            }
        }
    }

    /// What is due of a policy's instances; what was missed for good is written down. `matching` is in order, and `quiet_until`
    /// becomes the first moment at which more may be due, if that is earlier.
    fn look_at(&self, policy: &Policy, matching: &[&InstanceId], now: DateTime<Utc>, quiet_until: &mut DateTime<Utc>) -> Vec<DueSlot> {
        let Some(schedule) = &policy.schedule else { return Vec::new() };
        let (mut due, mut gone_by) = (Vec::new(), Vec::new());
        let live = self.live();
        let mut shared = None;
        self.ledger.with_policy(&policy.name, |known| {
            let mut there = matching.iter().copied().peekable();
            for (instance, known) in known.iter_mut() {
                while there.next_if(|next| *next < instance).is_some() {}
                if there.next_if(|next| *next == instance).is_none() {
                    continue;
                }
                if let Some(until) = known.quiet_until.filter(|until| now < *until) {
                    *quiet_until = until.min(*quiet_until);
                    continue;
                }
                if live.runs(&policy.name, instance) || live.is_troubled(&policy.name, instance, now) {
                    continue;
                }
                let offset = schedule.offset(&policy.name, instance, now);
                let found = due_for(schedule, offset, &known.entry, now, known.seen.take());
                match found {
                    Due::NotYet(until) => {
                        let until = until.unwrap_or(DateTime::<Utc>::MAX_UTC);
                        known.quiet_until = Some(until);
                        *quiet_until = until.min(*quiet_until);
                    }
                    Due::Missed(slots) => gone_by.push(((policy.name.clone(), instance.clone()), known.entry.missed(slots), slots)),
                    Due::Run { slot, attempt, missed } => {
                        known.seen = Some(slot);
                        let retried = known.entry.retry_at.filter(|_| known.entry.retry_slot == Some(slot));
                        let due_since = retried.unwrap_or_else(|| missed.map_or(slot, |missed| missed.first) + offset);
                        let policy = Arc::clone(shared.get_or_insert_with(|| Arc::new(policy.clone())));
                        let job = Job { policy, instance: instance.clone(), slot, attempt, offset };
                        due.push(DueSlot { job, missed, due_since, served: known.entry.last_slot });
                    }
                }
            }
        });
        drop(live);
        let (entries, missed): (Vec<_>, Vec<_>) =
            gone_by.into_iter().map(|(pair, entry, slots)| ((pair.clone(), entry), (pair, slots))).unzip();
        for ((pair, slots), written) in missed.iter().zip(self.ledger.set_all(entries)) {
            match written {
                Ok(()) => self.report_missed(pair, *slots),
                Err(e) => self.report_ledger_error(pair, &e, now),
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
                    self.store.events.emit(taken_event(&summary, None, std::time::Duration::ZERO, now));
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
