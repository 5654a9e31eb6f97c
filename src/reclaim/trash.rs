//! Unlinking what lies in the trash once its grace has passed on both clocks, or once the trash is too full. Files are
//! unlinked, never truncated; what is to go is doomed first, so that nothing half unlinked can be brought back.

use super::{Reclaim, ReclaimError};
use crate::event::Event;
use crate::store::StoreError;
use crate::store::fs::Pace;
use crate::store::sizes;
use crate::store::trash::{Departed, Trashed};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// When entries go, and how fast.
#[derive(Debug, Clone, Default)]
pub struct SweepRules {
    /// How long snapshots, and instances that `restore` replaced, stay.
    pub grace: Duration,
    /// How long forks that `unfork` removed stay.
    pub fork_grace: Duration,
    /// More bytes than this do not stay, whatever the grace; the oldest go first.
    pub max_bytes: Option<u64>,
    /// So many bytes are to come free at once, whatever the grace; the oldest go first.
    pub free: u64,
    /// How fast files are unlinked, by each thread.
    pub pace: Option<Pace>,
    /// Threads that unlink, one at least.
    pub threads: usize,
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Trees unlinked.
    pub unlinked: u64,
    /// How long until the next entry's grace is over, if one waits.
    pub next: Option<Duration>,
}

/// What sweeps remember of one another.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Measured bytes of entries that wait.
    bytes: HashMap<PathBuf, u64>,
    /// Failures that were reported: once each, not at every sweep.
    reported: BTreeSet<(String, String)>,
    /// No removal has left records behind.
    is_clear: bool,
    /// When the sum of boot time was written down, by the boot clock.
    saved: Option<Duration>,
}

/// No more snapshots are doomed by one record.
const MOST_DOOMED: usize = 100_000;

/// So long the sum of boot time is in memory only. What a crash loses of it makes graces longer.
const SAVE: Duration = Duration::from_secs(60);

impl Reclaim {
    /// [`Reclaim::sweep_by`] with these graces, no bound and no pace.
    ///
    /// # Errors
    /// The same.
    pub fn sweep(&self, grace: Duration, fork_grace: Duration) -> Result<Swept, ReclaimError> {
        self.sweep_by(&SweepRules { grace, fork_grace, ..SweepRules::default() })
    }

    /// Unlinks every entry of both trashes whose time has come. One that fails is reported and tried again by the next
    /// sweep; the others go on.
    ///
    /// # Errors
    /// [`ReclaimError`] if a trash cannot be listed.
    pub fn sweep_by(&self, rules: &SweepRules) -> Result<Swept, ReclaimError> {
        let _one = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        let layout = &self.store.layout;
        let (trash, root_trash) = (layout.trash(), layout.root_trash());
        // Where it cannot be told what of them is half gone, no snapshots go; instances do when their grace is over.
        let (snapshots, unknown) = self.store.trash_entries(&trash).map_or_else(|e| (Vec::new(), Some(e)), |entries| (entries, None));
        let instances = if self.store.prove_root().is_ok() { self.store.trash_entries(&root_trash)? } else { Vec::new() };
        if self.store.prove_root().is_ok() {
            let paced = rules.pace.clone().map_or_else(|| self.store.fs.clone(), |pace| self.store.fs.paced(pace));
            self.forks.pool().clear(&paced);
        }
        // Nor are instances to go early in their place.
        let excess = if unknown.is_none() { self.excess(rules, &snapshots, &instances) } else { HashSet::new() };
        let mut swept = Swept::default();
        let mut is_due = |entry: &Trashed| {
            let left = self.store.grace_left(entry, grace_of(entry, rules));
            let is_due = entry.is_doomed || left.is_zero() || excess.contains(&entry.path);
            if !is_due {
                swept.next = Some(swept.next.map_or(left, |next| next.min(left)));
            }
            is_due
        };
        let (snapshots, waiting): (Vec<_>, Vec<_>) = snapshots.into_iter().partition(&mut is_due);
        let (instances, others): (Vec<_>, Vec<_>) = instances.into_iter().partition(is_due);
        self.forget_all_but(waiting.iter().chain(&others));
        // Before the disk has much to do. What cannot be written now may be when there is more room.
        let noted = self.note_uptime();
        swept.unlinked = self.unlink(&self.doom_by_name(&instances, &root_trash), rules) + self.unlink_snapshots(snapshots, &trash, rules);
        self.settle()?;
        noted.or_else(|_| self.note_uptime())?;
        unknown.map_or(Ok(swept), |e| Err(e.into()))
    }

    /// Looks for records that nothing is left of, after a start and behind a failure.
    fn settle(&self) -> Result<(), ReclaimError> {
        if !self.memory().is_clear {
            self.store.clear_orphan_records()?;
            self.memory().is_clear = true;
        }
        Ok(())
    }

    /// Writes the sum of boot time down, once a minute.
    fn note_uptime(&self) -> Result<(), ReclaimError> {
        let now = self.store.clock.since_boot();
        let is_old = self.memory().saved.is_none_or(|at| now.saturating_sub(at) >= SAVE);
        if is_old {
            self.save_uptime()?;
            self.memory().saved = Some(now);
        }
        Ok(())
    }

    /// Unlinks snapshots, behind one record of them all; no more at once than one record may hold.
    fn unlink_snapshots(&self, mut due: Vec<Trashed>, trash: &Path, rules: &SweepRules) -> u64 {
        // What is doomed already is in each record until it is gone, so it goes first.
        due.sort_by_key(|entry| !entry.is_doomed);
        let mut unlinked = 0;
        for batch in due.chunks(MOST_DOOMED) {
            let doomed = self.doom(batch, trash);
            let gone = self.unlink(&doomed, rules);
            unlinked += gone;
            // The next record would not have what is left of these.
            if gone < batch.len() as u64 {
                break;
            }
            if let Err(e) = self.store.forget_doomed() {
                tracing::debug!(error = %e, "the record of what was unlinked stays for now");
            }
        }
        unlinked
    }

    /// Dooms snapshots, all at once; if that cannot be written, for lack of room for example, each by its name.
    fn doom(&self, due: &[Trashed], trash: &Path) -> Vec<Trashed> {
        self.with_ballast(|| self.store.doom_snapshots(due)).unwrap_or_else(|e| {
            tracing::debug!(error = %e, "snapshots that are unlinked are renamed first");
            self.doom_by_name(due, trash)
        })
    }

    /// Renames what is to go, with one sync. What cannot be renamed durably is not unlinked.
    fn doom_by_name(&self, due: &[Trashed], trash: &Path) -> Vec<Trashed> {
        let mut doomed = Vec::new();
        for entry in due {
            // Whoever restores an instance builds it in the trash, with the instance's lock: the next sweep comes back.
            let locked = entry.instance().filter(|_| !entry.is_doomed).map(|name| self.store.instance_locks.try_lock(&name));
            if matches!(locked, Some(None)) {
                continue;
            }
            match self.with_ballast(|| self.store.doom_by_name(entry)) {
                Ok(entry) => doomed.push(entry),
                Err(e) => self.report_once(entry, &e.to_string()),
            }
        }
        if !doomed.is_empty()
            && let Err(e) = self.store.fs.fsync_dir(trash)
        {
            doomed.drain(..).for_each(|entry| self.report_once(&entry, &e.to_string()));
        }
        doomed
    }

    /// Does something that frees space in the end; if it needs room first and there is none, the ballast makes some.
    fn with_ballast<T>(&self, act: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
        match act() {
            Err(StoreError::Io(e)) if e.is_full() && self.store.drop_ballast() => act(),
            done => done,
        }
    }

    fn unlink(&self, doomed: &[Trashed], rules: &SweepRules) -> u64 {
        let (next, unlinked, departed) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let leftovers = self.store.leftovers_of_many(doomed.len());
        let is_stopped = || rules.pace.as_ref().is_some_and(|pace| pace.stop.load(Ordering::SeqCst));
        let work = || {
            let fs = &self.store.fs;
            let mut remover = rules.pace.as_ref().map_or_else(|| fs.remover(), |pace| fs.paced(pace.clone()).remover());
            while let Some(entry) = doomed.get(next.fetch_add(1, Ordering::SeqCst)) {
                match self.store.unlink_doomed(&mut remover, entry, &leftovers) {
                    Ok(()) => {
                        unlinked.fetch_add(1, Ordering::SeqCst);
                        departed.fetch_or(entry.instance().is_some(), Ordering::SeqCst);
                    }
                    // Somebody wants it to stop: the next start goes on.
                    Err(_) if is_stopped() => return,
                    Err(e) => {
                        self.memory().is_clear = false;
                        self.report_once(entry, &e.to_string());
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            (1..rules.threads.min(doomed.len())).for_each(|_| drop(scope.spawn(work)));
            work();
        });
        // Forks that lay there needed their snapshots until now.
        if departed.into_inner()
            && let Err(e) = self.forks.reconcile()
        {
            self.store.events.emit(Event::PruneFailed { snapshot: String::new(), error: e.to_string() });
        }
        unlinked.into_inner()
    }

    /// The oldest entries, as many as must go so that the rest takes no more bytes than it may.
    fn excess(&self, rules: &SweepRules, snapshots: &[Trashed], instances: &[Trashed]) -> HashSet<PathBuf> {
        if rules.max_bytes.is_none() && rules.free == 0 {
            return HashSet::new();
        }
        let mut entries: Vec<&Trashed> = snapshots.iter().chain(instances).filter(|entry| !entry.is_doomed).collect();
        entries.sort_by_key(|entry| std::cmp::Reverse((entry.at, entry.uptime)));
        let all = || entries.iter().fold(0_u64, |sum, entry| sum.saturating_add(self.bytes_of(entry)));
        let spared = if rules.free == 0 { u64::MAX } else { all().saturating_sub(rules.free) };
        let max = rules.max_bytes.map_or(spared, |max| max.min(spared));
        let mut kept = 0_u64;
        let mut excess = HashSet::new();
        for entry in entries {
            let bytes = self.bytes_of(entry);
            // Once one does not fit, no older one does: what stays is what was removed last.
            if excess.is_empty() && kept.saturating_add(bytes) <= max {
                kept += bytes;
                continue;
            }
            excess.insert(entry.path.clone());
            self.store.events.emit(Event::TrashEvicted { what: entry.name(), bytes, max_bytes: max, at: self.store.clock.now() });
        }
        excess
    }

    fn bytes_of(&self, entry: &Trashed) -> u64 {
        let known = |reclaim: &Self| reclaim.memory().bytes.get(&entry.path).copied();
        known(self).unwrap_or_else(|| {
            // What cannot be measured does not count.
            let bytes = sizes::reclaimable(&self.store.fs, &entry.path).unwrap_or(0);
            self.memory().bytes.insert(entry.path.clone(), bytes);
            bytes
        })
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_all_but<'a>(&self, waiting: impl Iterator<Item = &'a Trashed>) {
        let paths: HashSet<&PathBuf> = waiting.map(|entry| &entry.path).collect();
        self.memory().bytes.retain(|path, _| paths.contains(path));
    }

    fn report_once(&self, entry: &Trashed, error: &str) {
        let what = entry.what.to_string_lossy().into_owned();
        if self.memory().reported.insert((what.clone(), error.to_owned())) {
            self.store.events.emit(Event::PruneFailed { snapshot: what, error: error.to_owned() });
        }
    }
}

fn grace_of(entry: &Trashed, rules: &SweepRules) -> Duration {
    match entry.departed() {
        Departed::Unforked => rules.fork_grace,
        Departed::Replaced => rules.grace,
    }
}
