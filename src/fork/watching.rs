//! What is known of the instances root, kept up to date: by the kernel's word for what has changed, at the cost of what has
//! changed; by reading all of it at the start, when that word is lost, and every ten minutes.
//!
//! The kernel tells of directories that come, go and move, not of what is written into one. A directory that has just come
//! may get its fork record later (somebody copies a fork), so such are looked at again for a while. And that a fork is gone
//! is never taken from here: whatever looks so has all of the root read, and only that drops a ref.

use super::reconcile::Action;
use super::{ForkError, Forks};
use crate::ids::{ForkId, SnapshotId};
use crate::store::fs::FsError;
use crate::store::instances::{self, Carriers, Pass, Scan, ScanCache, Standing};
use crate::store::layout::OURS;
use crate::store::watch::{Ready, RootWatch};
use crate::store::{Index, RefTarget};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// All of the root is read this often, whatever the kernel tells; and so long a new directory is looked at again.
const AGAIN: Duration = Duration::from_secs(600);

/// Directories by name, with inode number and what they are.
type Names = BTreeMap<OsString, (u64, Standing)>;
/// What was seen at some names.
type Looked = Vec<(OsString, Option<(u64, Standing)>)>;

/// How the root is looked at. Under one lock, taken after the one of moves in the root.
#[derive(Debug, Default)]
pub(super) struct Eyes {
    cache: ScanCache,
    /// Whether the kernel is to be asked for its word.
    wants_watch: bool,
    watch: Option<Watched>,
    /// How often all was read, and of which reading everything that follows has been done.
    read: u64,
    acted: u64,
    read_at: Option<Duration>,
    /// Directories that may yet get a record that can be read, by when they were last new.
    young: HashMap<OsString, Duration>,
    /// Forks that changed while their requests were unfinished: to be looked at again.
    again: BTreeSet<(SnapshotId, ForkId)>,
}

#[derive(Debug)]
struct Watched {
    watch: Arc<RootWatch>,
    /// The directory that it is on: another one may be mounted over it.
    root: (u64, u64),
}

/// What a look at some names has found.
#[derive(Debug, Default)]
struct Changes {
    /// Forks that came, went or moved.
    forks: BTreeSet<(SnapshotId, ForkId)>,
    /// Where something without a record came or went: a fork whose record was the first of its files to be removed, perhaps.
    /// Whose place it was, the refs tell.
    places: HashSet<PathBuf>,
    /// Only reading all can tell what follows.
    is_unclear: bool,
}

impl Changes {
    /// There was `before` at `place`, and there is `now`.
    fn note(&mut self, place: PathBuf, before: Option<&Standing>, now: Option<&Standing>) {
        let mut is_fork = false;
        for standing in [before, now].into_iter().flatten() {
            match standing {
                Standing::Fork(record) => {
                    is_fork = true;
                    self.forks.insert((record.fork_of_snapshot.clone(), record.fork_id.clone()));
                }
                Standing::Unreadable(_) => self.is_unclear = true,
                Standing::Plain => {}
            }
        }
        if !is_fork {
            self.places.insert(place);
        }
    }
}

/// Who is told that refs were dropped; nobody at first.
#[derive(Default)]
pub(super) struct Released(OnceLock<Box<dyn Fn() + Send + Sync>>);

impl std::fmt::Debug for Released {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Released").finish_non_exhaustive()
    }
}

impl Released {
    pub(super) fn set(&self, wake: impl Fn() + Send + Sync + 'static) {
        // A second one changes nothing: there is one who prunes.
        let _ = self.0.set(Box::new(wake));
    }

    pub(super) fn tell(&self) {
        if let Some(wake) = self.0.get() {
            wake();
        }
    }
}

impl Forks {
    /// From the next time that the root is read, the kernel tells what changes in it.
    pub fn watch_root(&self) {
        self.eyes().wants_watch = true;
    }

    fn eyes(&self) -> MutexGuard<'_, Eyes> {
        self.eyes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in the instances root: all of it, read now. Nothing follows from it; the next look sees to that.
    ///
    /// # Errors
    /// [`FsError`] if the root cannot be listed.
    pub fn scan(&self) -> Result<Arc<Scan>, FsError> {
        self.read_root().map(|(scan, _)| scan)
    }

    /// Reads all of the root; the number is for [`Forks::acted_upon`].
    pub(super) fn read_root(&self) -> Result<(Arc<Scan>, u64), FsError> {
        let _moves = self.store.lock_root_moves();
        let mut eyes = self.eyes();
        eyes.read += 1;
        // What the kernel tells from here on comes on top of what is read behind it.
        self.renew_watch(&mut eyes);
        let pass = Pass { threads: self.threads, progress: &self.progress };
        let last = self.last_scan();
        let scan = instances::scan(&self.store.fs, &self.store.layout, (&mut eyes.cache, &last), pass);
        // Half of what was read is in the cache and in no scan.
        let scan = Arc::new(scan.inspect_err(|_| eyes.cache.clear())?);
        drop(last);
        let now = self.store.clock.since_boot();
        eyes.read_at = Some(now);
        eyes.young.retain(|name, since| is_young(*since, now) && matches!(scan.instances.get(name), Some((_, Standing::Plain))));
        let unreadable = scan.instances.iter().filter(|(_, (_, standing))| matches!(standing, Standing::Unreadable(_)));
        eyes.young.extend(unreadable.map(|(name, _)| (name.clone(), now)));
        let mut last = self.last_scan.write().unwrap_or_else(PoisonError::into_inner);
        if **last != *scan || !self.has_scanned() {
            self.scan_number.fetch_add(1, Ordering::SeqCst);
        }
        *last = Arc::clone(&scan);
        self.has_scanned.store(true, Ordering::SeqCst);
        Ok((scan, eyes.read))
    }

    /// Everything that follows from this reading has been done.
    pub(super) fn acted_upon(&self, number: u64) {
        let mut eyes = self.eyes();
        eyes.acted = eyes.acted.max(number);
    }

    fn renew_watch(&self, eyes: &mut Eyes) {
        if !eyes.wants_watch {
            return;
        }
        let root = self.store.fs.stat(self.store.layout.instances()).ok().map(|meta| meta.file_id);
        // What is told until now is in what will be read.
        let is_good = eyes.watch.as_ref().is_some_and(|known| Some(known.root) == root && !known.watch.news().all);
        if !is_good {
            let watch = root.and_then(|root| Some(Watched { watch: Arc::new(RootWatch::new(&self.store.layout).ok()?), root }));
            // Made after the look at what is there: if another was mounted in between, the next look sees that.
            eyes.watch = watch;
        }
    }

    /// Brings the refs up to what has changed in the root since the last time: follows forks that moved, gives those that
    /// came a ref; what has gone has all of the root read. Returns how many refs were dropped.
    ///
    /// # Errors
    /// [`ForkError`] as of [`Forks::reconcile`]; what was not done is done by the next look.
    pub fn look(&self) -> Result<u64, ForkError> {
        let _one = self.acting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(e) = self.store.prove_root() {
            self.eyes().watch = None;
            self.report_root(Some(&e.to_string()));
            return Ok(0);
        }
        // Before the root: see `decide`. Refs come later here, which at worst has all read.
        let unfinished = self.state().queue.unfinished();
        let had_more = self.has_more_to_look_at();
        let Some(forks) = self.changed_forks()? else { return self.read_all_instead() };
        self.eyes().again.extend(forks.iter().filter(|(_, fork)| unfinished.contains(fork)).cloned());
        if !had_more && self.has_more_to_look_at() {
            // Whoever waits for the kernel's word has more to look at now, without one.
            self.waker.wake();
        }
        if forks.is_empty() {
            return Ok(0);
        }
        let Some(actions) = self.decide_for(forks, &unfinished) else { return self.read_all_instead() };
        let Ok(proof) = self.store.prove_root() else { return self.read_all_instead() };
        for action in actions {
            self.carry_out(action, &proof).inspect_err(|_| self.look_at_all())?;
        }
        Ok(0)
    }

    /// The kernel does not say anything twice: should this fail, the next look reads all as well.
    fn read_all_instead(&self) -> Result<u64, ForkError> {
        self.look_at_all();
        self.read_all_and_act()
    }

    /// What to do for these forks; `None` if one of them seems to be gone.
    fn decide_for(&self, forks: BTreeSet<(SnapshotId, ForkId)>, unfinished: &HashSet<ForkId>) -> Option<Vec<Action>> {
        let scan = self.last_scan();
        // Nearly all have just come to where their refs point; only for others all directories are looked through.
        let forks: BTreeSet<_> = {
            let index = self.store.index();
            forks.into_iter().filter(|(snapshot, fork)| !self.is_in_its_place(&index, &scan, snapshot, fork)).collect()
        };
        if forks.is_empty() {
            return Some(Vec::new());
        }
        let wanted: HashSet<&ForkId> = forks.iter().map(|(_, fork)| fork).collect();
        let (root, trash) = (self.store.layout.instances(), self.store.layout.root_trash());
        let carriers = Carriers::of(&scan, root, &trash, |fork| wanted.contains(fork));
        let refs: Vec<_> = forks.iter().cloned().collect();
        let actions = self.decide_on(&refs, unfinished, &carriers, &scan);
        actions.iter().all(|action| !matches!(action, Action::Drop { .. })).then_some(actions)
    }

    /// Whether a fork's ref points to a directory of the root that carries its id: then nothing follows for it.
    fn is_in_its_place(&self, index: &Index, scan: &Scan, snapshot: &SnapshotId, fork: &ForkId) -> bool {
        let Some(RefTarget::At(at)) = index.get(snapshot).and_then(|known| known.refs.get(fork)) else { return false };
        let name = at.file_name().filter(|_| at.parent() == Some(self.store.layout.instances()));
        let carries = |standing: &Standing| matches!(standing, Standing::Fork(r) if r.fork_id == *fork && r.fork_of_snapshot == *snapshot);
        name.and_then(|name| scan.instances.get(name)).is_some_and(|(_, standing)| carries(standing))
    }

    /// Looks at what has changed since the last look, and remembers it; the forks that this is about. `None`: only reading
    /// all can tell.
    fn changed_forks(&self) -> Result<Option<BTreeSet<(SnapshotId, ForkId)>>, ForkError> {
        let _moves = self.store.lock_root_moves();
        let mut eyes = self.eyes();
        let trashed = instances::scan_trash(&self.store.fs, &self.store.layout)?;
        // From here on news is lost if nobody acts upon it.
        let Some(news) = self.news(&mut eyes)? else { return Ok(None) };
        let again: Vec<OsString> = eyes.young.keys().filter(|name| !news.contains(*name)).cloned().collect();
        let before = std::mem::take(&mut eyes.again);
        if news.is_empty() && again.is_empty() && trashed == self.last_scan().trashed {
            return Ok(Some(before));
        }
        let looked = self.look_at(&mut eyes, news.iter().chain(&again));
        // The kernel does not say it a second time; and half of what was read is in the cache and in no scan.
        let looked = looked.inspect_err(|_| {
            eyes.read += 1;
            eyes.cache.clear();
        })?;
        let mut changes = self.remember(&mut eyes, looked, &news, trashed);
        changes.forks.extend(before);
        if changes.is_unclear {
            return Ok(None);
        }
        if !changes.places.is_empty() {
            let index = self.store.index();
            let is_there = |target: &RefTarget| matches!(target, RefTarget::At(path) if changes.places.contains(path));
            let theirs = index.refs().filter(|(.., target)| is_there(target));
            changes.forks.extend(theirs.map(|(snapshot, fork, _)| (snapshot.clone(), fork.clone())));
        }
        Ok(Some(changes.forks))
    }

    /// The names that the kernel tells of; `None` if its word is not enough.
    fn news(&self, eyes: &mut Eyes) -> Result<Option<BTreeSet<OsString>>, FsError> {
        let Some(known) = eyes.watch.as_ref().filter(|_| eyes.acted == eyes.read) else { return Ok(None) };
        if self.store.fs.stat(self.store.layout.instances())?.file_id != known.root {
            return Ok(None);
        }
        let mut news = known.watch.news();
        news.names.remove(OsStr::new(OURS));
        Ok((!news.all).then_some(news.names))
    }

    fn look_at<'n>(&self, eyes: &mut Eyes, names: impl Iterator<Item = &'n OsString>) -> Result<Looked, FsError> {
        let root = self.store.fs.open_dir(self.store.layout.instances())?;
        let one = |name: &OsString| Ok((name.clone(), instances::look_at_one(&self.store.fs, &root, name, &mut eyes.cache)?));
        names.map(one).collect()
    }

    /// Puts what was seen into what is known.
    fn remember(&self, eyes: &mut Eyes, looked: Looked, news: &BTreeSet<OsString>, trashed: Names) -> Changes {
        let mut changes = Changes::default();
        let now = self.store.clock.since_boot();
        let mut last = self.last_scan.write().unwrap_or_else(PoisonError::into_inner);
        self.scan_number.fetch_add(1, Ordering::SeqCst);
        let scan = Arc::make_mut(&mut last);
        for (name, found) in looked {
            let before = scan.instances.get(&name);
            if news.contains(&name) || before != found.as_ref() {
                let place = self.store.layout.instance_named(&name);
                changes.note(place, before.map(|(_, standing)| standing), found.as_ref().map(|(_, standing)| standing));
            }
            match found.as_ref().map(|(_, standing)| standing) {
                Some(Standing::Plain | Standing::Unreadable(_)) if news.contains(&name) => drop(eyes.young.insert(name.clone(), now)),
                Some(Standing::Plain | Standing::Unreadable(_)) if eyes.young.get(&name).is_some_and(|since| is_young(*since, now)) => {}
                _ => drop(eyes.young.remove(&name)),
            }
            match found {
                Some(found) => drop(scan.instances.insert(name, found)),
                None => drop(scan.instances.remove(&name)),
            }
        }
        let names: BTreeSet<&OsString> = scan.trashed.keys().chain(trashed.keys()).collect();
        for name in names {
            let (before, now) = (scan.trashed.get(name), trashed.get(name));
            if before != now {
                let place = self.store.layout.root_trash().join(name);
                changes.note(place, before.map(|(_, standing)| standing), now.map(|(_, standing)| standing));
            }
        }
        scan.trashed = trashed;
        changes
    }

    /// Waits until there may be something to look at, `most` at the longest; what there is news of. Without a watch there may
    /// be anything.
    #[must_use]
    pub fn wait_for_news(&self, most: Duration) -> Ready {
        let watch = self.eyes().watch.as_ref().map(|known| Arc::clone(&known.watch));
        match watch {
            Some(watch) => {
                let ready = watch.ready(most, &self.waker);
                Ready { news: ready.news || self.has_more_to_look_at() || self.is_due_again(), ..ready }
            }
            None => {
                // No watch to be had: reading it all now and then does the same, later.
                std::thread::sleep(most);
                Ready { news: true, mounts: true }
            }
        }
    }

    /// Whether the kernel says whatever there will be to look at, so that nobody need look without being told.
    #[must_use]
    pub fn is_told_of_changes(&self) -> bool {
        self.eyes().watch.is_some() && !self.has_more_to_look_at()
    }

    fn has_more_to_look_at(&self) -> bool {
        let eyes = self.eyes();
        !eyes.young.is_empty() || !eyes.again.is_empty()
    }

    /// Whether all of the root is to be read again.
    #[must_use]
    pub fn is_due_again(&self) -> bool {
        let now = self.store.clock.since_boot();
        self.eyes().read_at.is_none_or(|at| !is_young(at, now))
    }

    /// The next look reads all of the root, but for records that are the same files still.
    pub fn look_at_all(&self) {
        self.eyes().read += 1;
    }

    /// Forgets all that is known of the root: the next look reads all.
    pub fn forget_all_names(&self) {
        let mut eyes = self.eyes();
        eyes.cache.clear();
        eyes.read += 1;
    }

    /// Whether the root was read since the start: before that nothing is known of it, and nothing is known to be gone.
    #[must_use]
    pub fn has_scanned(&self) -> bool {
        self.has_scanned.load(Ordering::SeqCst)
    }

    /// What is known of the root.
    #[must_use]
    pub fn last_scan(&self) -> Arc<Scan> {
        Arc::clone(&self.last_scan.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes whenever what is known of the root does. To be asked before [`Forks::last_scan`].
    #[must_use]
    pub fn scan_number(&self) -> u64 {
        self.scan_number.load(Ordering::SeqCst)
    }
}

fn is_young(since: Duration, now: Duration) -> bool {
    now.saturating_sub(since) < AGAIN
}
