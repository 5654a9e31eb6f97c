//! Filling: what the plan asks for is made and dropped, one entry at a time, so that anything can come between.
//!
//! An entry is built under a name that says so, synced, and gets its own name under the snapshot's lock: by then it is known
//! that the snapshot is still there and may be forked. A cut that comes first takes the directory away under it.

use super::plan::{Fact, Plan, Shelf, plan, wanted};
use super::{Kit, Making, Unwanted, Wanted, is_ready};
use crate::config::{MemoryMethod, PoolConfig, Reserve};
use crate::event::Event;
use crate::fork::build::{disk_of, sync_all, why_not};
use crate::fork::recipe::Recipe;
use crate::fork::{ForkError, Forks};
use crate::ids::{ForkId, SnapshotId};
use crate::policy::SnapshotState;
use crate::snapshot::copy::{Flow, Progress};
use crate::snapshot::materialize::{MaterializeContext, Materialized, MemoryUsed, materialize};
use crate::store::layout::Layout;
use crate::store::manifest::{Entry, Node};
use crate::store::pool::{BLANK, PoolName, Way, unfinished};
use crate::store::{Known, Summary};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How long an entry that is being made waits in all for requests to end: with more of them than there is time for, an empty
/// pool would otherwise stay empty.
const PATIENCE: Duration = Duration::from_secs(5);
/// One wait for them.
const NAP: Duration = Duration::from_millis(2);

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Something was done, and more may be to do.
    Done,
    /// The pool is as it should be.
    Settled,
    /// Not now: requests wait, the root is away, or something failed.
    Later,
}

impl Forks {
    /// Does the next thing that the pool needs: unlinks or drops something, or makes one entry. It gives way to requests.
    pub fn tend_pool(&self, stop: &AtomicBool) -> Turn {
        if self.is_busy() || !self.has_recovered() {
            return Turn::Later;
        }
        let seen = self.pool.seen(&self.store);
        if self.pool.is_settled(seen, self.store.clock.since_boot()) {
            return Turn::Settled;
        }
        if self.store.prove_root().is_err() {
            return Turn::Later;
        }
        if self.pool.clear(&self.store.fs) > 0 {
            return Turn::Done;
        }
        let (plan, shelves) = self.pool_plan();
        if self.drop_unwanted(&plan, &shelves) {
            return Turn::Done;
        }
        let Some(next) = plan.make.first() else {
            self.pool.settle(seen);
            return Turn::Settled;
        };
        self.make(next, plan.make.iter().filter(|id| *id == next).count() == 1, stop)
    }

    /// Fills the pool as far as it goes, for a process that ends then; no entry is begun later than `most` from now.
    pub fn fill_pool_once(&self, stop: &AtomicBool, most: Duration) {
        let until = self.store.clock.since_boot() + most;
        while !stop.load(Ordering::SeqCst) && self.store.clock.since_boot() < until && self.tend_pool(stop) == Turn::Done {}
    }

    /// Whether somebody waits for a fork.
    fn is_busy(&self) -> bool {
        let burst = self.bursts.try_write().is_err();
        burst || !self.state().queue.ready(self.store.clock.now(), 1).is_empty()
    }

    fn has_recovered(&self) -> bool {
        !self.unsettled.load(Ordering::SeqCst)
    }

    fn pool_plan(&self) -> (Plan, BTreeMap<SnapshotId, Shelf>) {
        let config = self.pool.config();
        let all = self.pool.wanted(self.store.changes(), |config| self.find_wanted(config));
        let now = self.store.clock.since_boot();
        let mut shelves = BTreeMap::new();
        for (id, (wanted, order)) in all.iter() {
            // One whose recipe cannot be had is as if nobody wanted it, for a while.
            let Some(kit) = self.kit(id) else { continue };
            let (ready, cost, rests) = self.pool.shelf(id, &kit, now);
            let wanted = if rests { ready.min(*wanted) } else { *wanted };
            shelves.insert(id.clone(), Shelf { wanted, ready, cost, order: *order });
        }
        self.pool.forget_others(&all);
        let used = shelves.values().fold(0_u64, |sum, s| sum.saturating_add(s.cost.saturating_mul(s.ready as u64)));
        let most = config.max_bytes.unwrap_or(u64::MAX).min(used.saturating_add(self.room(&config)));
        (plan(&shelves, most), shelves)
    }

    /// What the rules ask for, of all snapshots that can be forked.
    fn find_wanted(&self, config: &PoolConfig) -> Wanted {
        if config.rules.is_empty() {
            return Wanted::new();
        }
        let fact = |summary: &Summary| Fact {
            id: summary.id.clone(),
            instance: summary.instance.clone(),
            policy: summary.policy.clone(),
            tags: summary.tags.clone(),
            order: (summary.order_at, summary.seq),
        };
        let means = |s: &Summary| config.rules.iter().any(|rule| rule.selects(&s.instance, s.policy.as_ref(), &s.tags));
        let facts: Vec<Fact> = {
            let index = self.store.index();
            // Of one that is compressed an entry would have a memory file of its own: it is cold, and its forks wait for that.
            let can_be_forked = |known: &Known| known.state() == SnapshotState::Ready && known.packed().is_none();
            let ready = index.present().filter(|(_, known)| can_be_forked(known));
            ready.filter_map(|(_, known)| known.summary.as_deref()).filter(|s| means(s)).map(fact).collect()
        };
        let mut wanted = wanted(&config.rules, &facts);
        facts.into_iter().filter_map(|fact| wanted.remove(&fact.id).map(|count| (fact.id, (count, fact.order)))).collect()
    }

    /// Bytes that the file system has for the pool, besides those that it has.
    fn room(&self, config: &PoolConfig) -> u64 {
        let Ok(space) = self.store.fs.space(self.store.layout.instances()) else { return 0 };
        let free = space.free.saturating_sub(config.reserve.of(space.size));
        let until = config.fill.map_or(u64::MAX, |fill| Reserve::Share(fill.above).of(space.size));
        free.min(until.saturating_sub(space.size.saturating_sub(space.free)))
    }

    /// How entries of a snapshot are made; read by this thread, and not under the lock that requests take.
    fn kit(&self, id: &SnapshotId) -> Option<Kit> {
        let now = self.store.clock.since_boot();
        {
            let state = self.pool.state();
            if let Some(kit) = state.kits.get(id) {
                return Some(kit.clone());
            }
            if state.failures.get(id).is_some_and(|failure| now < failure.until) {
                return None;
            }
        }
        let config = self.config();
        match Recipe::load(&self.store, id, config) {
            Ok(recipe) => {
                let memory = if config.memory == MemoryMethod::Hardlink { Way::Linked } else { Way::Copied };
                let copies = !self.store.can_reflink();
                let way = |copied: Way| if copies || copied == Way::Linked { copied } else { Way::Reflinked };
                let cost = cost(&recipe, way(memory), way(Way::Copied));
                let kit = Kit { recipe: Arc::new(recipe), config, cost, made: 0 };
                self.pool.state().kits.insert(id.clone(), kit.clone());
                Some(kit)
            }
            Err(e) => {
                self.pool_failed(id, &e);
                None
            }
        }
    }

    fn pool_failed(&self, id: &SnapshotId, error: &ForkError) {
        self.quarantine_if_changed(id, error);
        self.pool.failed(&self.store, id, error.to_string());
    }

    /// Drops what nobody wants, what is made otherwise by now, and what there is no room for; true if anything was.
    fn drop_unwanted(&self, plan: &Plan, shelves: &BTreeMap<SnapshotId, Shelf>) -> bool {
        let fs = &self.store.fs;
        let all = self.pool.take_unwanted(plan, shelves);
        for Unwanted { snapshot, names, left } in &all {
            let entries = || names.iter().map(|name| self.store.layout.pool_entry(snapshot, &name.to_string()));
            let move_away = |from: PathBuf, to: PathBuf| match fs.rename_new(&from, &to) {
                Ok(()) => self.pool.leave(to),
                Err(e) if e.is_not_found() => {}
                Err(_) => entries().filter(|entry| entry.starts_with(&from)).for_each(|entry| self.pool.leave(entry)),
            };
            let why = if left.is_some() {
                entries().for_each(|from| move_away(from, self.store.layout.pool_gone(&ForkId::generate())));
                "made by another configuration, or more than there is room for"
            } else {
                move_away(self.store.layout.pool_of(snapshot), self.store.layout.pool_drained(&ForkId::generate()));
                "no rule asks for it, or it must not be forked"
            };
            self.store.note_pool(snapshot, left.unwrap_or(0));
            if !names.is_empty() {
                let (snapshot, count, at) = (snapshot.clone(), names.len() as u64, self.store.clock.now());
                self.store.events.emit(Event::PoolDrained { snapshot, count, why: why.to_owned(), at });
            }
        }
        !all.is_empty()
    }

    /// Makes one entry; `is_last` if none more is wanted of its snapshot.
    fn make(&self, id: &SnapshotId, is_last: bool, stop: &AtomicBool) -> Turn {
        let Some(kit) = self.kit(id) else { return Turn::Later };
        let new = ForkId::generate();
        let path = self.store.layout.pool_entry(id, &unfinished(&new));
        let cancelled = Arc::new(AtomicBool::new(false));
        {
            let mut state = self.pool.state();
            // From here on a cut knows that there is something to drain.
            state.shelves.entry(id.clone()).or_default();
            state.making = Some(Making { snapshot: id.clone(), path: path.clone(), cancelled: Arc::clone(&cancelled) });
        }
        let made = self
            .build_entry(id, &kit, &path, (stop, &cancelled))
            .and_then(|tree| self.name_entry(id, &kit, (&new, &path), &tree, &cancelled));
        self.pool.state().making = None;
        match made {
            Ok(Some(ready)) => {
                if is_last {
                    self.report_filled(id, ready);
                }
                Turn::Done
            }
            other => {
                // It may be gone from there, with its directory. If it cannot be unlinked now, the next turn tries.
                if self.store.fs.remove_tree(&path).is_err() {
                    self.pool.leave(path);
                }
                match other {
                    Err(e) if !cancelled.load(Ordering::SeqCst) => {
                        self.pool_failed(id, &e);
                        Turn::Later
                    }
                    _ if stop.load(Ordering::SeqCst) => Turn::Later,
                    _ => Turn::Done,
                }
            }
        }
    }

    /// Builds the entry, durable but for its name. Files that carry names or paths are blank, and all links as they were.
    fn build_entry(
        &self,
        id: &SnapshotId,
        kit: &Kit,
        path: &Path,
        (stop, cancelled): (&AtomicBool, &AtomicBool),
    ) -> Result<Materialized, ForkError> {
        let (fs, recipe) = (&self.store.fs, &kit.recipe);
        fs.mkdir_durable(&self.store.layout.pool(), 0o700)?;
        fs.mkdir_durable(&self.store.layout.pool_of(id), 0o700)?;
        fs.mkdir(path, 0o700)?;
        let record = Layout::fork_record_in(path);
        fs.mkdir(record.parent().unwrap_or(path), 0o755)?;
        // Where nothing is ever written in place a block is of no use.
        let blank = if self.commits_whole()? { &[] } else { BLANK };
        fs.write_all(&fs.create(&record, 0o644)?, &record, blank)?;
        let blank = |entry: &Entry, _: &std::fs::File| Ok(recipe.changes.contains_key(entry.path.as_path()).then(|| blank.to_vec()));
        let progress = GivesWay { forks: self, stop, cancelled, waited: AtomicU64::new(0) };
        let context = MaterializeContext {
            fs,
            data: &recipe.data,
            memory: &recipe.data,
            memory_method: kit.config.memory,
            as_root: crate::store::fs::gives_owners(),
            rewrite: Some(&blank),
            flow: Flow { threads: 1, progress: &progress, cancelled },
        };
        let tree = materialize(&context, &blank_entries(recipe), path).map_err(why_not)?;
        sync_all(fs, path, recipe, tree.memory)?;
        // The references to shared extents that it made are counted when they are committed: not at the cost of the next fork.
        self.settle_transaction()?;
        Ok(tree)
    }

    /// Gives a built entry its name, and hands it to the pool; `None` if nobody may have it any more.
    fn name_entry(
        &self,
        id: &SnapshotId,
        kit: &Kit,
        (new, path): (&ForkId, &Path),
        tree: &Materialized,
        cancelled: &AtomicBool,
    ) -> Result<Option<usize>, ForkError> {
        let name = PoolName {
            id: new.clone(),
            stamp: kit.recipe.stamp.clone(),
            memory: match tree.memory {
                MemoryUsed::None => Way::None,
                MemoryUsed::Hardlink => Way::Linked,
                MemoryUsed::Reflink => Way::Reflinked,
                MemoryUsed::Copied => Way::Copied,
            },
            disk: match disk_of(tree) {
                "none" => Way::None,
                "reflink" => Way::Reflinked,
                _ => Way::Copied,
            },
            fell_back: tree.memory_fell_back.map(|errno| errno as i32),
        };
        let guard = self.store.lock_snapshot(id);
        if cancelled.load(Ordering::SeqCst) || !is_ready(&self.store, id) {
            return Ok(None);
        }
        let to = self.store.layout.pool_entry(id, &name.to_string());
        self.store.fs.rename_new(path, &to)?;
        // Its name need not outlive a power cut, but a disk that cannot sync is not to be trusted with its contents either.
        if let Err(e) = self.store.fs.fsync_dir(&self.store.layout.pool_of(id)) {
            self.pool.leave(to);
            return Err(e.into());
        }
        let ready = self.pool.put(id, name);
        drop(guard);
        self.store.note_pool(id, ready);
        Ok(Some(ready))
    }

    fn report_filled(&self, id: &SnapshotId, ready: usize) {
        let made = self.pool.state().kits.get_mut(id).map_or(0, |kit| std::mem::take(&mut kit.made));
        let (snapshot, ready, at) = (id.clone(), ready as u64, self.store.clock.now());
        self.store.events.emit(Event::PoolFilled { snapshot, ready, made, at });
    }
}

/// Bytes that an entry takes by itself: what is copied, and a block for each name.
pub(super) fn cost(recipe: &Recipe, memory: Way, disk: Way) -> u64 {
    let own = |entry: &Entry| match &entry.node {
        Node::File(file) => {
            let way = if file.memory { memory } else { disk };
            if way == Way::Copied { file.data.unwrap_or(file.size) } else { 0 }
        }
        _ => 0,
    };
    recipe.entries.iter().fold(0_u64, |sum, entry| sum.saturating_add(own(entry)).saturating_add(4096))
}

/// The tree as an entry has it. What is blank for now can be opened by its owner, and gets owner, extended attributes and set-id bits,
/// which writing would take away, with its contents.
fn blank_entries(recipe: &Recipe) -> Vec<Entry> {
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let blank = |entry: &Entry| match recipe.changes.contains_key(entry.path.as_path()) {
        true => Entry { mode: (entry.mode & 0o1777) | 0o600, uid, gid, xattrs: BTreeMap::new(), ..entry.clone() },
        false => entry.clone(),
    };
    recipe.entries.iter().map(blank).collect()
}

/// Waits between chunks while requests wait, and carries the stop over.
struct GivesWay<'a> {
    forks: &'a Forks,
    stop: &'a AtomicBool,
    cancelled: &'a AtomicBool,
    /// Milliseconds.
    waited: AtomicU64,
}

impl Progress for GivesWay<'_> {
    fn total(&self, _bytes: u64) {}

    fn advance(&self, _bytes: u64) {
        let patience = u64::try_from(PATIENCE.as_millis()).unwrap_or(u64::MAX);
        loop {
            if self.stop.load(Ordering::SeqCst) {
                self.cancelled.store(true, Ordering::SeqCst);
            }
            let is_over = self.cancelled.load(Ordering::SeqCst) || self.waited.load(Ordering::Relaxed) >= patience;
            if is_over || !self.forks.is_busy() {
                return;
            }
            std::thread::sleep(NAP);
            self.waited.fetch_add(u64::try_from(NAP.as_millis()).unwrap_or(1), Ordering::Relaxed);
        }
    }
}
