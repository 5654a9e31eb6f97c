//! What is due now: for `run`, which asks again and again, and for `once`, which works it off.

use super::Worker;
use crate::config::Config;
use crate::event::Event;
use crate::policy::Candidate;
use crate::policy::lapse::{Beat, Lapse, lapse};
use crate::schedule::{Job, Pair, Turn};
use chrono::{DateTime, Utc};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// What `once` has in hand.
#[derive(Default)]
struct Hand {
    /// Their turn has come.
    ready: VecDeque<Job>,
    /// These were due when it began, and have not had their turn.
    waiting: BTreeSet<Pair>,
    running: usize,
    failed: usize,
    /// When all that is due was last looked at.
    looked: Duration,
}

/// On which instances, whether of a proven root, and by which configuration the last tick was.
pub(super) type Ticked = (Arc<Vec<Candidate>>, bool, Arc<Config>);

/// How old a look may be when the next turns are made of it.
const LOOK: Duration = Duration::from_secs(1);

/// Tells the others that a job has ended, also when it unwinds.
struct Ended<'a> {
    worker: &'a Worker,
    hand: &'a Mutex<Hand>,
    changed: &'a Condvar,
    taken: bool,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut hand = self.hand.lock().unwrap_or_else(PoisonError::into_inner);
        hand.running -= 1;
        hand.failed += usize::from(!self.taken);
        self.worker.draw(&mut hand);
        self.changed.notify_all();
    }
}

impl Worker {
    /// The slots that are due now and whose turn it is.
    #[must_use]
    pub fn due_jobs(&self) -> Vec<Job> {
        self.due_jobs_of(None)
    }

    /// The same for somebody who asks every second or two: what the clocks did in between is reported.
    #[must_use]
    pub fn beat(&self) -> Vec<Job> {
        let now = Beat { wall: self.store.clock.now(), since_boot: self.store.clock.since_boot() };
        let last = self.beat.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        let lapse = last.map(|last| lapse(last, now)).unwrap_or_default();
        if let Some(by) = lapse.asleep {
            let for_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            self.store.events.emit(Event::WorkerSuspended { for_ms, at: now.wall });
        }
        if let (Some(by), Some(last)) = (lapse.stepped, last) {
            self.store.events.emit(Event::ClockStepped { from: last.wall, by_ms: by.num_milliseconds(), at: now.wall });
            // What was computed ahead was so by another time; and ages are not believed before the clock is.
            self.schedules.reconsider();
            self.clock.look(&self.store, self.config().wait_for_sync);
        }
        self.due_jobs()
    }

    /// Whether a look would find nothing, as far as clocks and memory can tell: for somebody who asks every second, and need
    /// not have a thread look at the root for that. What else changes there, others watch; the next slot is looked at anyway.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let now = Beat { wall: self.store.clock.now(), since_boot: self.store.clock.since_boot() };
        let mut beat = self.beat.lock().unwrap_or_else(PoisonError::into_inner);
        let is_on_time = beat.is_some_and(|last| lapse(last, now) == Lapse::default());
        let is_quiet = is_on_time && self.is_as_before() && self.schedules.quiet_until(now.wall).is_some();
        if is_quiet {
            *beat = Some(now);
        }
        is_quiet
    }

    /// Whether root and configuration are those of the last tick, and no tags are to be looked at.
    fn is_as_before(&self) -> bool {
        let Ok(ticked) = self.ticked.try_lock() else { return false };
        let Some((instances, true, config)) = ticked.as_ref() else { return false };
        Arc::ptr_eq(config, &self.config()) && self.is_last_selection(instances)
    }

    /// Whose turn it is now that a job has ended, of what was due when somebody last looked.
    #[must_use]
    pub fn next_turns(&self) -> Vec<Job> {
        self.schedules.next_turns()
    }

    /// The next moment at which something may be due, if nothing but time passes until then.
    #[must_use]
    pub fn quiet_until(&self) -> Option<DateTime<Utc>> {
        self.schedules.quiet_until(self.store.clock.now())
    }

    fn due_jobs_of(&self, only: Option<&BTreeSet<Pair>>) -> Vec<Job> {
        let config = self.config();
        let proven = self.store.prove_root().is_ok() && self.forks.has_scanned();
        let instances = if proven { self.candidates(false) } else { Arc::default() };
        let now = self.store.clock.now();
        {
            // Where nothing can have become due since the last tick, ten thousand pairs are not looked at to find that out.
            let mut ticked = self.ticked.lock().unwrap_or_else(PoisonError::into_inner);
            let is_same = |(on, was, by): &Ticked| *was == proven && Arc::ptr_eq(on, &instances) && Arc::ptr_eq(by, &config);
            if only.is_none() && ticked.as_ref().is_some_and(is_same) && self.schedules.quiet_until(now).is_some() {
                return Vec::new();
            }
            *ticked = Some((Arc::clone(&instances), proven, Arc::clone(&config)));
        }
        let turn = Turn { max_running: config.max_running, only };
        self.schedules.tick(&config.policies, proven.then_some(&instances), turn, now)
    }

    /// Runs what is due when it is called, each pair once, within the bounds; returns how many failed.
    pub(super) fn run_all_due(&self) -> usize {
        let ready: VecDeque<Job> = self.due_jobs().into();
        let (waiting, looked) = (self.schedules.waiting(), self.store.clock.since_boot());
        let hand = Mutex::new(Hand { ready, waiting, looked, ..Hand::default() });
        let changed = Condvar::new();
        let threads = {
            let hand = hand.lock().unwrap_or_else(PoisonError::into_inner);
            self.config().max_running.clamp(1, (hand.ready.len() + hand.waiting.len()).max(1))
        };
        let work = || {
            while let Some(job) = self.next_due(&hand, &changed) {
                let mut ended = Ended { worker: self, hand: &hand, changed: &changed, taken: false };
                ended.taken = self.run_job(&job);
            }
        };
        if threads == 1 {
            work();
        } else {
            std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        }
        hand.into_inner().unwrap_or_else(PoisonError::into_inner).failed
    }

    /// The next job whose turn it is; waits for one to come. `None`: there will be none.
    fn next_due(&self, hand: &Mutex<Hand>, changed: &Condvar) -> Option<Job> {
        let mut hand = hand.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = hand.ready.pop_front() {
                hand.running += 1;
                return Some(job);
            }
            if hand.running == 0 || hand.waiting.is_empty() {
                return None;
            }
            hand = changed.wait(hand).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Somebody has ended: whose turn is it now?
    fn draw(&self, hand: &mut Hand) {
        if hand.waiting.is_empty() {
            return;
        }
        // Looking at everything after each job would cost more than the jobs, where there are thousands.
        let now = self.store.clock.since_boot();
        let jobs = if now.saturating_sub(hand.looked) < LOOK { self.next_turns() } else { self.due_jobs_of(Some(&hand.waiting)) };
        if now.saturating_sub(hand.looked) >= LOOK {
            hand.looked = now;
        }
        for job in jobs {
            hand.waiting.remove(&(job.policy.name.clone(), job.instance.clone()));
            hand.ready.push_back(job);
        }
    }
}
