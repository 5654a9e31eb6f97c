//! The ready pool: forks of chosen snapshots, made ahead of need, whole and durable but for what carries a name or a path.
//!
//! `plan` says what it should hold; `fill` makes and drops, on one thread of low priority; `hand_out` makes a fork of an entry.
//! An entry is in memory exactly while it may be handed out: whoever takes its name from the list owns it, so that no two
//! forks get the same one, and a fork that finds none looks at no directory.
//!
//! On the disk a crash leaves: an entry that was being made, under a name that says so (the next start forgets it, and it is
//! unlinked); one that was claimed, in its place, with a record in it that says whose it was to be (unlinked as well); or one that
//! was dropped, as `.gone-…`. An entry with its own name and a blank record is whole, and durable: it was synced before it got it.

mod claim;
mod fill;
mod hand_out;
pub mod plan;

pub(super) use claim::Claim;
pub use fill::Turn;
pub(super) use hand_out::{Written, hand_out};

use super::recipe::Recipe;
use crate::config::{ForkConfig, PoolConfig};
use crate::event::Event;
use crate::ids::{ForkId, SnapshotId};
use crate::policy::SnapshotState;
use crate::store::fs::{FileType, Fs, FsError};
use crate::store::layout::Layout;
use crate::store::pool::{self, PoolName, unfinished};
use crate::store::{RootProof, SnapshotGuard, Store};
use chrono::{DateTime, Utc};
use plan::{Plan, Shelf};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

/// What the pool holds, for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// Forks that lie ready.
    pub ready: u64,
    /// Forks that the configuration asks for.
    pub wanted: u64,
    /// Bytes that the ready ones take by themselves.
    pub bytes: u64,
}

/// The pool of one store.
#[derive(Debug, Default)]
pub struct Pool {
    config: RwLock<PoolConfig>,
    state: Mutex<State>,
    /// Entries were taken, or something else is wanted.
    changed: Condvar,
    /// One at a time unlinks what was dropped.
    clearing: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Whole entries that nobody has taken.
    shelves: BTreeMap<SnapshotId, Vec<PoolName>>,
    /// How many were claimed of a snapshot, and are neither forks yet nor given up.
    claims: HashMap<SnapshotId, usize>,
    /// What is to be unlinked.
    leftovers: BTreeSet<PathBuf>,
    making: Option<Making>,
    /// What is known of snapshots that forks are wanted of, by this configuration.
    kits: HashMap<SnapshotId, Kit>,
    failures: HashMap<SnapshotId, Failure>,
    /// What rules ask for, of the snapshots as they were at a time ([`Store::changes`]).
    wanted: Option<(u64, Arc<Wanted>)>,
    /// Differs whenever something happened that may leave something to do.
    version: u64,
    /// What `version` and the snapshots were when there was nothing to do.
    settled: Option<Seen>,
}

/// At a moment: [`State::version`] and [`Store::changes`].
type Seen = (u64, u64);

/// What rules ask for: how many of which snapshot, and where that one stands.
type Wanted = BTreeMap<SnapshotId, (usize, (DateTime<Utc>, u64))>;

/// The entry that is being made.
#[derive(Debug)]
struct Making {
    snapshot: SnapshotId,
    path: PathBuf,
    cancelled: Arc<AtomicBool>,
}

/// How entries of a snapshot are made.
#[derive(Debug, Clone)]
struct Kit {
    recipe: Arc<Recipe>,
    config: ForkConfig,
    /// Bytes that one takes by itself.
    cost: u64,
    /// So many were made since it was reported that the shelf is full.
    made: u64,
}

/// Entries that must go.
#[derive(Debug)]
struct Unwanted {
    snapshot: SnapshotId,
    names: Vec<PoolName>,
    /// How many stay; `None` if nobody wants any.
    left: Option<usize>,
}

/// A snapshot of which none could be made, or none handed out, is left alone for so long.
const REST: Duration = Duration::from_secs(60);

/// Why none is made for now.
#[derive(Debug)]
struct Failure {
    error: String,
    /// Tried again from here on (time since boot).
    until: Duration,
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config(&self) -> PoolConfig {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether any forks are to be made ahead of need.
    #[must_use]
    pub fn is_asked_for(&self) -> bool {
        !self.config.read().unwrap_or_else(PoisonError::into_inner).rules.is_empty()
    }

    /// Takes another configuration; what it makes of the entries that are there is the next turn's matter.
    pub(super) fn configure(&self, config: PoolConfig) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        self.reconsider();
    }

    /// Forgets what was known of how forks are made: their configuration has changed.
    pub(super) fn reconsider(&self) {
        let mut state = self.state();
        state.kits.clear();
        state.failures.clear();
        state.wanted = None;
        state.version += 1;
        if let Some(making) = &state.making {
            making.cancelled.store(true, Ordering::SeqCst);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Reads what lies in the pool; what is not whole is to be unlinked. Nobody hands anything out meanwhile.
    pub(super) fn load(&self, store: &Store) -> Result<(), FsError> {
        // What is being unlinked has the name of an entry, if it could not be renamed: nobody is to get a part of one.
        let _clearing = self.clearing.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: an entry that gets its name meanwhile is listed, or put beside what was.
        let mut state = self.state();
        let listing = pool::list(&store.fs, &store.layout)?;
        let old: Vec<SnapshotId> = std::mem::take(&mut state.shelves).into_keys().collect();
        let own = state.making.as_ref().map(|making| making.path.clone());
        let dropped = std::mem::take(&mut state.leftovers);
        state.shelves = listing.whole;
        state.leftovers = listing.leftovers.into_iter().filter(|path| Some(path) != own.as_ref()).chain(dropped).collect();
        let State { shelves, leftovers, .. } = &mut *state;
        for (id, names) in shelves {
            for name in std::mem::take(names) {
                let entry = store.layout.pool_entry(id, &name.to_string());
                if own.as_ref() == Some(&store.layout.pool_entry(id, &unfinished(&name.id))) {
                    // It has just got its name: whoever made it puts it on the shelf when that is durable.
                    continue;
                }
                if is_unclaimed(&store.fs, &entry) && !leftovers.contains(&entry) {
                    names.push(name);
                } else {
                    leftovers.insert(entry);
                }
            }
        }
        state.version += 1;
        for id in old.iter().chain(state.shelves.keys()) {
            store.note_pool(id, state.shelves.get(id).map_or(0, Vec::len));
        }
        Ok(())
    }

    fn seen(&self, store: &Store) -> Seen {
        (self.state().version, store.changes())
    }

    /// Whether there is still nothing to do.
    fn is_settled(&self, seen: Seen, now: Duration) -> bool {
        let state = self.state();
        state.settled == Some(seen) && state.failures.values().all(|failure| now < failure.until)
    }

    /// There was nothing to do; what happened meanwhile has made another version.
    fn settle(&self, seen: Seen) {
        self.state().settled = Some(seen);
    }

    /// What rules ask for; `find` looks at all snapshots, which need not be done again while none came or went.
    fn wanted(&self, changes: u64, find: impl FnOnce(&PoolConfig) -> Wanted) -> Arc<Wanted> {
        if let Some((_, wanted)) = self.state().wanted.as_ref().filter(|(of, _)| *of == changes) {
            return Arc::clone(wanted);
        }
        let version = self.state().version;
        let wanted = Arc::new(find(&self.config()));
        let mut state = self.state();
        if state.version == version {
            state.wanted = Some((changes, Arc::clone(&wanted)));
        }
        wanted
    }

    /// How many entries of a snapshot can be handed out, what one takes, and whether no more are made for now.
    fn shelf(&self, id: &SnapshotId, kit: &Kit, now: Duration) -> (usize, u64, bool) {
        let mut state = self.state();
        let usable = || state.shelves.get(id).into_iter().flatten().filter(|name| name.stamp == kit.recipe.stamp);
        let ready = usable().count();
        // One that came out dearer than was thought: the next one will, too.
        let cost = usable().map(|name| fill::cost(&kit.recipe, name.memory, name.disk)).max().unwrap_or(0).max(kit.cost);
        let rests = state.failures.get(id).is_some_and(|failure| now < failure.until);
        if let Some(known) = state.kits.get_mut(id) {
            known.cost = cost;
        }
        (ready, cost, rests)
    }

    /// Forgets what is known of snapshots that forks are not wanted of.
    fn forget_others(&self, wanted: &Wanted) {
        let mut state = self.state();
        state.kits.retain(|id, _| wanted.contains_key(id));
        state.failures.retain(|id, _| wanted.contains_key(id));
    }

    /// Takes entries off their shelves that must go, so that nobody gets them.
    fn take_unwanted(&self, plan: &Plan, wanted: &BTreeMap<SnapshotId, Shelf>) -> Vec<Unwanted> {
        let mut state = self.state();
        let State { shelves, kits, claims, .. } = &mut *state;
        let mut all: Vec<Unwanted> = shelves
            // A directory stays where it is while forks are made in it.
            .extract_if(.., |id, _| !wanted.contains_key(id) && !claims.contains_key(id))
            .map(|(snapshot, names)| Unwanted { snapshot, names, left: None })
            .collect();
        for (id, shelf) in shelves.iter_mut().filter(|(id, _)| wanted.contains_key(id)) {
            let stamp = kits.get(id).map(|kit| &kit.recipe.stamp);
            let mut excess = plan.drop.get(id).copied().unwrap_or(0);
            let must_go = |name: &mut PoolName| {
                let is_current = Some(&name.stamp) == stamp;
                let is_excess = is_current && excess > 0;
                excess -= usize::from(is_excess);
                is_excess || !is_current
            };
            let names: Vec<PoolName> = shelf.extract_if(.., must_go).collect();
            if !names.is_empty() {
                all.push(Unwanted { snapshot: id.clone(), names, left: Some(shelf.len()) });
            }
        }
        all
    }

    /// An entry is whole and has its name. Returns how many the snapshot has.
    fn put(&self, id: &SnapshotId, name: PoolName) -> usize {
        let mut state = self.state();
        // Under the same lock: from here on a start finds it on the disk.
        state.making = None;
        state.failures.remove(id);
        if let Some(kit) = state.kits.get_mut(id) {
            kit.made += 1;
        }
        let shelf = state.shelves.entry(id.clone()).or_default();
        shelf.push(name);
        shelf.len()
    }

    /// None could be made of a snapshot, or what was made is of no use: it is left alone for a while. A reason is told once, and
    /// again when one was made since.
    fn failed(&self, store: &Store, id: &SnapshotId, error: String) {
        let until = store.clock.since_boot() + REST;
        let before = self.state().failures.insert(id.clone(), Failure { error: error.clone(), until });
        if before.is_none_or(|before| before.error != error) {
            store.events.emit(Event::PoolFailed { snapshot: id.clone(), error });
        }
    }

    /// Whether there may be something to hand out: for who would have to prepare for it.
    fn has(&self, snapshot: &SnapshotId, stamp: &str) -> bool {
        self.state().shelves.get(snapshot).is_some_and(|shelf| shelf.iter().any(|name| name.stamp == stamp))
    }

    /// How many lie ready for a snapshot, however they were made.
    pub(in crate::fork) fn ready_of(&self, snapshot: &SnapshotId) -> usize {
        self.state().shelves.get(snapshot).map_or(0, Vec::len)
    }

    /// Something to be unlinked when there is time for it.
    fn leave(&self, path: PathBuf) {
        let mut state = self.state();
        state.leftovers.insert(path);
        state.version += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// Takes all entries of a snapshot out of the pool, for the cut: under the snapshot's lock, by one rename, none if there
    /// are none. Nothing of it is durable, nor needs to be: what comes back is not handed out, for its snapshot is gone.
    ///
    /// # Errors
    /// [`FsError`]; then the entries stay, and can be handed out.
    pub fn drain(&self, store: &Store, guard: &SnapshotGuard, _proof: &RootProof, why: &str) -> Result<usize, FsError> {
        let id = guard.key();
        let shelf = {
            let mut state = self.state();
            if let Some(making) = state.making.as_ref().filter(|making| making.snapshot == *id) {
                // Whoever makes it finds out before it would get its name, for that is done under this lock.
                making.cancelled.store(true, Ordering::SeqCst);
            }
            state.kits.remove(id);
            state.failures.remove(id);
            state.shelves.remove(id)
        };
        let Some(shelf) = shelf else { return Ok(0) };
        let gone = store.layout.pool_drained(&ForkId::generate());
        match store.fs.rename_new(&store.layout.pool_of(id), &gone) {
            Err(e) if !e.is_not_found() => {
                self.state().shelves.insert(id.clone(), shelf);
                return Err(e);
            }
            moved => {
                if moved.is_ok() {
                    self.leave(gone);
                }
            }
        }
        store.note_pool(id, 0);
        if !shelf.is_empty() {
            store.events.emit(Event::PoolDrained {
                snapshot: id.clone(),
                count: shelf.len() as u64,
                why: why.to_owned(),
                at: store.clock.now(),
            });
        }
        Ok(shelf.len())
    }

    /// Unlinks what was dropped; what cannot be unlinked is tried again.
    pub fn clear(&self, fs: &Fs) -> u64 {
        let Ok(_one) = self.clearing.try_lock() else { return 0 };
        let leftovers: Vec<PathBuf> = self.state().leftovers.iter().cloned().collect();
        let mut cleared = 0;
        for path in leftovers {
            match pool::remove(fs, &path) {
                Ok(()) => {
                    self.state().leftovers.remove(&path);
                    cleared += 1;
                }
                Err(e) => tracing::debug!(error = %e, "something dropped from the pool stays for now"),
            }
        }
        cleared
    }

    /// What it holds.
    #[must_use]
    pub fn counts(&self) -> PoolCounts {
        let state = self.state();
        let cost = |id: &SnapshotId| state.kits.get(id).map_or(0, |kit| kit.cost);
        PoolCounts {
            ready: state.shelves.values().map(|shelf| shelf.len() as u64).sum(),
            wanted: state.wanted.iter().flat_map(|(_, wanted)| wanted.values()).map(|(count, _)| *count as u64).sum(),
            bytes: state.shelves.iter().map(|(id, shelf)| cost(id).saturating_mul(shelf.len() as u64)).sum(),
        }
    }

    /// Waits until somebody changed something or says `stop`, `most` at the longest.
    pub fn wait(&self, most: Duration, stop: &AtomicBool) {
        let state = self.state();
        if !stop.load(Ordering::SeqCst) && state.settled.is_some_and(|(version, _)| version == state.version) {
            drop(self.changed.wait_timeout(state, most));
        }
    }

    /// Wakes who waits, for example at the stop, which must have been said before.
    pub fn wake(&self) {
        // Whoever has looked and does not wait yet has the lock.
        drop(self.state());
        self.changed.notify_all();
    }
}

/// What lies in the pool of a store that somebody else works on: `wanted` and `bytes` are not known from outside.
#[must_use]
pub fn look(store: &Store) -> PoolCounts {
    let listing = if store.prove_root().is_ok() { pool::list(&store.fs, &store.layout).unwrap_or_default() } else { Default::default() };
    let mut ready = 0;
    for (id, entries) in &listing.whole {
        let is_ready = |name: &&PoolName| is_unclaimed(&store.fs, &store.layout.pool_entry(id, &name.to_string()));
        let count = entries.iter().filter(is_ready).count();
        store.note_pool(id, count);
        ready += count as u64;
    }
    PoolCounts { ready, ..PoolCounts::default() }
}

/// Whether an entry is nobody's fork: what is claimed gets its record first.
fn is_unclaimed(fs: &Fs, entry: &Path) -> bool {
    let record = fs.stat_below(entry, &Layout::fork_record_in(Path::new("")));
    record.is_ok_and(|record| record.is_some_and(|record| record.kind == FileType::Regular && pool::is_blank(record.size)))
}

/// Whether forks may be made of a snapshot ahead of need.
fn is_ready(store: &Store, id: &SnapshotId) -> bool {
    store.index().get(id).is_some_and(|known| known.present && known.state() == SnapshotState::Ready)
}
