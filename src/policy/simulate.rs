//! How a policy behaves over years: its real schedule and its real retention over made-up time, with forks that come and
//! go. Pure, and the same for the same seed.
//!
//! The model: one instance, an empty store at the beginning. A snapshot is taken at each slot, at no cost of time, unless the slot
//! is missed. Retention is applied after each snapshot, when a fork that blocked a removal goes, and as soon as time
//! alone changes a verdict. A fork is made of a snapshot that is kept, of the newest most often, and pins it while it lives.
//!
//! Planning costs by the snapshots that are held, so where they are many, or the slots are, retention is applied after every
//! n-th slot only ([`Simulation::looked_every`]), if what a plan keeps does not depend on how often one was carried out
//! before: then what is kept is the same as if it had been applied after each slot (a property that the tests hold).
//!
//! `world` is the store that is made up, `chance` what happens by chance, `tally` counts, `report` is the answer.

mod chance;
mod report;
mod steady;
mod tally;
mod world;

pub use report::{Day, ForkTotals, Held, Model, ModelBytes, ModelForks, Period, Simulation, Spread, Steady, Stopped, Tier, rank};

use super::{Counting, Keep, Limit, Policy, Retention, Schedule};
use chance::{Arrivals, Chance};
use chrono::{DateTime, TimeDelta, Utc};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use tally::Tally;
use world::World;

/// About so many plans are made of a span that has more slots.
const PLANS: u64 = 100_000;
/// One slot more goes by between two plans for each so many snapshots that are held.
const HELD_PER_SLOT: usize = 128;
/// More slots than this are nothing to wait for.
const MOST_SLOTS: u64 = 6_000_000;
/// A policy that holds more is not going to say anything new.
const MOST_HELD: usize = 100_000;
/// So many slots are looked at to tell how many there will be.
const SLOTS_MEASURED: u32 = 512;

/// Told how far it is, now and then.
pub type Progress<'a> = &'a mut dyn FnMut(DateTime<Utc>);

/// Runs `policy` by `schedule` over the model's time.
#[must_use]
pub fn simulate(policy: &Policy, schedule: &Schedule, model: &Model, progress: Progress<'_>) -> Simulation {
    let mut unwatched = |_: DateTime<Utc>, _: &World| {};
    let mut run = Run::new(policy, schedule, model, &mut unwatched);
    run.go_on(progress);
    run.report()
}

/// What is seen of the store after each plan; for tests.
type Watch<'a> = &'a mut dyn FnMut(DateTime<Utc>, &World);

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    ForkEnds,
    Slot,
    ForkStarts,
    /// Time alone changes a verdict.
    Verdict,
}

struct Run<'a> {
    schedule: &'a Schedule,
    model: &'a Model,
    watch: Watch<'a>,
    chance: Chance,
    world: World,
    tally: Tally,
    offset: TimeDelta,
    /// The next slot, as the schedule has it.
    slot: Option<DateTime<Utc>>,
    arrivals: Arrivals,
    /// Ends of living forks, soonest first, and which snapshot each is of.
    ends: BinaryHeap<Reverse<(DateTime<Utc>, u64)>>,
    /// A plan is made after so many slots at least.
    stride: usize,
    every_slot: bool,
    widest_stride: usize,
    /// Snapshots that no plan has seen.
    pending: usize,
    most_slots: u64,
    most_held: usize,
    stopped: Option<Stopped>,
}

impl<'a> Run<'a> {
    fn new(policy: &Policy, schedule: &'a Schedule, model: &'a Model, watch: Watch<'a>) -> Self {
        let world = World::new(policy, model);
        let offset = schedule.offset(&policy.name, &model.instance, model.from);
        let before = model.from - offset - TimeDelta::milliseconds(1);
        let chance = Chance::new(model.seed);
        Self {
            schedule,
            model,
            watch,
            chance,
            world,
            tally: Tally::new(model.from, schedule.timezone),
            offset,
            slot: schedule.slot_after(before),
            arrivals: Arrivals::new(model, chance),
            ends: BinaryHeap::new(),
            stride: stride(schedule, model),
            every_slot: model.every_slot || depends_on_earlier_plans(&policy.retention),
            widest_stride: 1,
            pending: 0,
            most_slots: MOST_SLOTS,
            most_held: MOST_HELD,
            stopped: None,
        }
    }

    /// Up to the end.
    fn go_on(&mut self, progress: Progress<'_>) {
        let mut steps = 0_u32;
        while let Some((at, event)) = self.next().filter(|(at, _)| *at < self.model.to) {
            self.tally.advance(at);
            self.happen(at, event);
            steps = steps.wrapping_add(1);
            if steps.is_multiple_of(256) {
                progress(at);
            }
            if let Some(why) = self.too_much() {
                self.stopped = Some(Stopped { at, why });
                break;
            }
        }
        let end = self.stopped.as_ref().map_or(self.model.to, |stopped| stopped.at);
        // What happens at the end itself does not belong to it any more.
        let last = if self.stopped.is_some() { end } else { (end - TimeDelta::milliseconds(1)).max(self.tally.now()) };
        if self.is_stale(last) {
            self.tally.advance(last);
            self.look(last);
        }
        self.tally.finish(end);
    }

    /// The next event; of those at one time the first in the order of [`Event`].
    fn next(&self) -> Option<(DateTime<Utc>, Event)> {
        let slot = self.slot.map(|slot| slot + self.offset);
        let is_exact = self.stride_now() == 1 || slot.is_none();
        let events = [
            (self.ends.peek().map(|Reverse((at, _))| *at), Event::ForkEnds),
            (slot, Event::Slot),
            (self.arrivals.peek(), Event::ForkStarts),
            (self.world.next_change_at().filter(|_| is_exact), Event::Verdict),
        ];
        events.into_iter().filter_map(|(at, event)| Some((at?, event))).min()
    }

    fn happen(&mut self, at: DateTime<Utc>, event: Event) {
        match event {
            Event::Slot => {
                self.slot = self.slot.and_then(|slot| self.schedule.slot_after(slot).filter(|next| *next > slot));
                if self.chance.is_missed(self.tally.slots(), self.model.missed_per_million) {
                    self.tally.missed();
                    return;
                }
                self.world.take(at);
                self.tally.taken(at);
                self.pending += 1;
                if self.pending >= self.stride_now() {
                    self.look(at);
                }
            }
            Event::ForkStarts => {
                let Some((end, chance)) = self.arrivals.pop() else { return };
                // It is made of one that is kept now.
                if self.is_stale(at) {
                    self.look(at);
                }
                if let Some(seq) = self.world.pick(chance) {
                    self.world.pin(seq);
                    self.ends.push(Reverse((end, seq)));
                    self.tally.forked(self.ends.len());
                }
            }
            Event::ForkEnds => {
                let Some(Reverse((_, seq))) = self.ends.pop() else { return };
                if self.world.unpin(seq) {
                    self.look(at);
                }
            }
            Event::Verdict => self.look(at),
        }
    }

    /// Whether the last plan is out of date.
    fn is_stale(&self, at: DateTime<Utc>) -> bool {
        self.pending > 0 || self.world.next_change_at().is_some_and(|change| change <= at)
    }

    /// Plans, removes, counts.
    fn look(&mut self, at: DateTime<Utc>) {
        self.widest_stride = self.widest_stride.max(self.pending);
        self.pending = 0;
        let removed = self.world.prune(at);
        self.tally.removed(removed);
        self.tally.see(at, &self.world);
        (self.watch)(at, &self.world);
    }

    fn stride_now(&self) -> usize {
        if self.every_slot { 1 } else { self.stride.max(1 + self.world.len() / HELD_PER_SLOT) }
    }

    fn too_much(&self) -> Option<String> {
        if self.world.len() > self.most_held {
            return Some(format!("it holds more than {} snapshots", self.most_held));
        }
        (self.tally.slots() >= self.most_slots).then(|| format!("there were {} slots", self.most_slots))
    }

    fn report(self) -> Simulation {
        let policy = self.world.policy_name().clone();
        let held = self.world.held();
        let mut report = self.tally.report(policy, self.model, held);
        report.looked_every = self.widest_stride as u64;
        report.stopped = self.stopped;
        report
    }
}

/// Whether what a plan keeps may depend on how often one was carried out before. All parts are named, so that who adds one
/// has to think of this.
fn depends_on_earlier_plans(retention: &Retention) -> bool {
    let Retention { keep, limit, gone: _ } = retention;
    let Limit { max_count, max_age: _, max_bytes, min: _ } = limit;
    let Some(Keep { counting, last: _, within: _, buckets: _, within_buckets: _, tags: _, timezone: _ }) = keep else { return false };
    // While several rules claim many, a count or a size takes a snapshot that would have been among the first when they claim
    // fewer. A cascade keeps the oldest that is there, so it matters what there was, also what a fork held for a while.
    max_count.is_some() || max_bytes.is_some() || *counting == Counting::Cascade
}

/// How many slots may go by between two plans, by how many there will be.
fn stride(schedule: &Schedule, model: &Model) -> usize {
    let mut last = model.from;
    for n in 1..=SLOTS_MEASURED {
        match schedule.slot_after(last).filter(|next| *next > last) {
            Some(next) if next < model.to => last = next,
            _ => return 1,
        }
        if n == SLOTS_MEASURED {
            let gap = ((last - model.from) / i32::try_from(n).unwrap_or(1)).num_milliseconds().max(1);
            let slots = u64::try_from((model.to - model.from).num_milliseconds() / gap).unwrap_or(0);
            return usize::try_from(slots.div_ceil(PLANS)).unwrap_or(1).max(1);
        }
    }
    1
}

#[cfg(test)]
#[path = "simulate_tests.rs"]
mod tests;
