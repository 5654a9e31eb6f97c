//! The protocols *start* and *release*: what the instances root shows decides which refs there are. The decision is
//! pure; carrying it out takes each snapshot's lock.

use super::queue::{Record, Request, RequestState};
use super::{ForkError, Forks};
use crate::event::Event;
use crate::ids::{ForkId, ForkName, SnapshotId};
use crate::store::instances::{self, Carrier, Carriers, ForkRecord, Scan, Standing};
use crate::store::layout::Layout;
use crate::store::{RefTarget, RootProof, par};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// A change to the refs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The fork is proven gone.
    Drop {
        /// The snapshot that it needed.
        snapshot: SnapshotId,
        /// The fork.
        fork: ForkId,
    },
    /// The fork is somewhere else now.
    Point {
        /// The snapshot that it needs.
        snapshot: SnapshotId,
        /// The fork.
        fork: ForkId,
        /// Its directory.
        to: PathBuf,
    },
    /// A fork has no ref.
    Adopt {
        /// The snapshot that it needs.
        snapshot: SnapshotId,
        /// The fork.
        fork: ForkId,
        /// Its directory.
        at: PathBuf,
    },
}

/// What refs are decided by, besides themselves.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    /// Requests that were unfinished before the scan.
    pub unfinished: &'a HashSet<ForkId>,
    /// The directories that carry the forks in question.
    pub carriers: &'a Carriers<'a>,
    /// All directories.
    pub scan: &'a Scan,
    /// Path names.
    pub layout: &'a Layout,
}

/// What follows from a scan for `refs`, and for the forks that `carriers` tells of. The refs and then `unfinished` were read
/// *before* the scan: a fork that was unfinished then may have been published since, and one that was finished then is in the
/// scan if it is anywhere. Where they point (`target`), and which there are besides (`has_ref`), is as of now. On so many
/// `threads`: there may be a hundred thousand.
#[must_use]
pub fn decide<'i>(
    refs: &[(SnapshotId, ForkId)],
    target: impl Fn(&SnapshotId, &ForkId) -> Option<&'i RefTarget> + Sync,
    has_ref: impl Fn(&SnapshotId, &ForkId) -> bool,
    shown: Shown<'_>,
    threads: usize,
) -> Vec<Action> {
    let one = |_: &mut (), (snapshot, fork): &(SnapshotId, ForkId)| {
        let target = target(snapshot, fork).filter(|_| !shown.unfinished.contains(fork))?;
        let (first, carriers) = shown.carriers.get(fork);
        Some((follows(snapshot, fork, target, carriers, shown), first..first + carriers.len()))
    };
    let mut actions = Vec::new();
    let mut with_ref = vec![false; shown.carriers.all().len()];
    for ((snapshot, _), decided) in refs.iter().zip(par::each(threads, refs, || (), one)) {
        let Some((action, places)) = decided else { continue };
        actions.extend(action);
        let carriers = shown.carriers.all().get(places.clone()).unwrap_or_default();
        for (has, carrier) in with_ref.get_mut(places).unwrap_or_default().iter_mut().zip(carriers) {
            *has |= carrier.record.fork_of_snapshot == *snapshot;
        }
    }
    let mut adopted = HashSet::new();
    // Those that have one need not be looked for among all refs.
    for (carrier, _) in shown.carriers.all().iter().zip(with_ref).filter(|(_, has)| !has) {
        let (snapshot, fork) = (&carrier.record.fork_of_snapshot, &carrier.record.fork_id);
        if !shown.unfinished.contains(fork) && !has_ref(snapshot, fork) && adopted.insert((snapshot, fork)) {
            actions.push(Action::Adopt { snapshot: snapshot.clone(), fork: fork.clone(), at: carrier.path() });
        }
    }
    actions
}

/// What follows for one ref, whose fork these directories carry.
fn follows(snapshot: &SnapshotId, fork: &ForkId, target: &RefTarget, carriers: &[Carrier<'_>], shown: Shown<'_>) -> Option<Action> {
    // One that says that it was made of another snapshot does not need this one.
    let mut places = carriers.iter().filter(|carrier| carrier.record.fork_of_snapshot == *snapshot);
    match (places.next(), target) {
        (Some(first), RefTarget::At(at)) if first.is_at(at) || places.any(|carrier| carrier.is_at(at)) => None,
        // Also an unreadable ref of a fork that is there: point it right.
        (Some(first), _) => Some(Action::Point { snapshot: snapshot.clone(), fork: fork.clone(), to: first.path() }),
        (None, RefTarget::Unreadable) => None,
        (None, RefTarget::At(at)) if is_unreadable_fork(shown.scan, shown.layout, at) => None,
        (None, RefTarget::At(_)) => Some(Action::Drop { snapshot: snapshot.clone(), fork: fork.clone() }),
    }
}

/// Whether there is a directory at a ref's target that does not say which fork it is: then it counts as live.
fn is_unreadable_fork(scan: &Scan, layout: &Layout, at: &Path) -> bool {
    let holds_a_directory = |parent: &Path, known: &std::collections::BTreeMap<std::ffi::OsString, (u64, Standing)>| {
        at.parent() == Some(parent) && at.file_name().and_then(|n| known.get(n)).is_some_and(|(_, s)| !matches!(s, Standing::Fork(_)))
    };
    holds_a_directory(layout.instances(), &scan.instances) || holds_a_directory(&layout.root_trash(), &scan.trashed)
}

/// What the start found and mended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Half-made forks removed.
    pub staging: u64,
    /// Forks that were being published and are done now.
    pub finished: u64,
    /// Refs that nobody was told of.
    pub dropped_refs: u64,
}

impl Forks {
    /// The start: brings requests that were being published to their end, removes half-made forks, and puts the refs
    /// right. With the root away nothing is touched.
    ///
    /// # Errors
    /// [`ForkError`] if the root cannot be read; nothing is lost, and the next pass tries again.
    pub fn recover(&self) -> Result<Recovered, ForkError> {
        // No burst is under way: what is in staging, or running, is nobody's.
        let _alone = self.bursts.write().unwrap_or_else(PoisonError::into_inner);
        let mut recovered = Recovered::default();
        let proof = match self.store.prove_root() {
            Ok(proof) => proof,
            Err(e) => {
                self.report_root(Some(&e.to_string()));
                return Ok(recovered);
            }
        };
        if self.closed().is_none() {
            self.restore_refs();
            recovered.finished = self.finish_publishing(&proof)?;
        }
        self.pool.load(&self.store)?;
        self.state().queue.requeue_running();
        recovered.dropped_refs = self.reconcile()?;
        // Nothing is removed before all of the root was read.
        if self.closed().is_none() {
            recovered.staging = self.clear_staging()?;
        }
        self.unsettled.store(false, Ordering::SeqCst);
        Ok(recovered)
    }

    /// Requests whose refs were not durable yet when the journal was: they get them now, before anything is removed. A ref that
    /// cannot be made keeps its snapshot, and nothing else waits for it.
    fn restore_refs(&self) {
        let unfinished = self.requests().into_iter().filter(|r| !r.state.is_final());
        let mut missing: BTreeMap<SnapshotId, Vec<(ForkId, PathBuf)>> = BTreeMap::new();
        for request in unfinished {
            let index = self.store.index();
            if index.get(&request.snapshot_id).is_some_and(|known| known.present && !known.refs.contains_key(&request.id)) {
                let place = self.store.layout.instance(&request.name.into());
                missing.entry(request.snapshot_id).or_default().push((request.id, place));
            }
        }
        for (snapshot, refs) in missing {
            let guard = self.store.lock_snapshot(&snapshot);
            if let Err(e) = self.store.add_refs(&guard, &refs) {
                let (path, why) = (self.store.layout.refs_of(&snapshot).display().to_string(), e.to_string());
                self.store.note_unreadable(&snapshot, &why);
                self.store.events.emit(Event::RecordUnreadable { path, why, blocks: vec![snapshot.to_string()] });
            }
        }
    }

    /// Unfinished requests whose fork may be made: done if the target carries our id, or if it was being published and the
    /// staging is gone; failed if the target is someone else's; else renamed now, if it was being published. Where it cannot be
    /// told whose the target is, and nothing is staged, it counts as ours: then its ref stays.
    fn finish_publishing(&self, proof: &RootProof) -> Result<u64, ForkError> {
        let unfinished: Vec<Request> = self.requests().into_iter().filter(|r| !r.state.is_final()).collect();
        let now = self.store.clock.now();
        let mut records = Vec::new();
        for request in &unfinished {
            let target = self.store.layout.instance(&request.name.clone().into());
            let staged = self.store.layout.staged_fork(&request.id);
            let done = Record::Done { id: request.id.clone(), at: now };
            let conflict = || Record::Failed { id: request.id.clone(), at: now, error: format!("the name {} was taken", request.name) };
            let is_staged = self.store.fs.stat_if_there(&staged)?.is_some();
            let carries = match instances::standing(&self.store.fs, &target)? {
                Standing::Fork(fork) => fork.fork_id == request.id,
                Standing::Unreadable(_) => !is_staged,
                Standing::Plain => false,
            };
            if !carries && request.state != RequestState::Publishing {
                continue;
            }
            records.push(if carries {
                done
            } else if !is_staged {
                if self.is_back_in_the_pool(request)? {
                    let error = "a crash undid the rename of an entry of the ready pool".to_owned();
                    Record::Attempt { id: request.id.clone(), error, retry_at: now }
                } else {
                    done
                }
            } else {
                match self.store.fs.rename_new(&staged, &target) {
                    Ok(()) => done,
                    Err(e) if e.is_taken() => {
                        self.store.fs.remove_tree(&staged)?;
                        conflict()
                    }
                    Err(e) => return Err(e.into()),
                }
            });
        }
        let finished = records.len() as u64;
        if finished > 0 {
            self.settle_names()?;
            self.conclude(records, proof)?;
            // Whether the last process came to say so is not known.
            unfinished.iter().filter_map(|r| self.request(&r.id)).for_each(|r| self.report_created(&r, false, None));
        }
        Ok(finished)
    }

    /// Whether a fork that was made of an entry of the ready pool is an entry again: a power cut may undo the rename of it and
    /// leave what was written into it (btrfs: a sync of its files does not take the new name of their directory along).
    fn is_back_in_the_pool(&self, request: &Request) -> Result<bool, ForkError> {
        let shelf = self.store.layout.pool_of(&request.snapshot_id);
        for entry in self.store.fs.list_if_there(&shelf)? {
            let standing = instances::standing(&self.store.fs, &shelf.join(&entry.name))?;
            if matches!(standing, Standing::Fork(fork) if fork.fork_id == request.id) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes what is in staging and belongs to no request that is being published.
    fn clear_staging(&self) -> Result<u64, ForkError> {
        let keep: HashSet<String> =
            self.requests().into_iter().filter(|r| r.state == RequestState::Publishing).map(|r| r.id.to_string()).collect();
        let staging = self.store.layout.fork_staging();
        let mut removed = 0;
        for entry in self.store.fs.list_if_there(&staging)? {
            if entry.name.to_str().is_none_or(|name| !keep.contains(name)) {
                self.store.fs.remove_tree(&staging.join(&entry.name))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// One pass over the instances root: drops refs of forks that are proven gone, follows those that moved, gives
    /// those without a ref one again. Returns how many refs were dropped.
    ///
    /// # Errors
    /// [`ForkError`] if the root cannot be listed or a ref not be changed; what was not done is done by the next pass.
    pub fn reconcile(&self) -> Result<u64, ForkError> {
        let _one = self.acting.lock().unwrap_or_else(PoisonError::into_inner);
        self.read_all_and_act()
    }

    /// The same for one who has the lock of it.
    pub(super) fn read_all_and_act(&self) -> Result<u64, ForkError> {
        if let Err(e) = self.store.prove_root() {
            self.report_root(Some(&e.to_string()));
            return Ok(0);
        }
        let refs: Vec<_> = self.store.index().refs().map(|(snapshot, fork, _)| (snapshot.clone(), fork.clone())).collect();
        let unfinished = self.state().queue.unfinished();
        let (scan, number) = self.read_root()?;
        // The root must have been the right one during the whole scan.
        let proof = match self.store.prove_root() {
            Ok(proof) => proof,
            Err(e) => {
                self.report_root(Some(&e.to_string()));
                return Ok(0);
            }
        };
        self.report_root(None);
        self.note_unreadable_forks(&scan);
        self.remember_keys(&scan);
        self.remember_unpromised(&scan);
        let (layout, trash) = (&self.store.layout, self.store.layout.root_trash());
        let carriers = Carriers::of(&scan, layout.instances(), &trash, |_| true);
        let actions = self.decide_on(&refs, &unfinished, &carriers, &scan);
        let mut dropped = 0;
        for action in actions {
            dropped += u64::from(self.carry_out(action, &proof)?);
        }
        self.acted_upon(number);
        if dropped > 0 {
            self.released.tell();
        }
        Ok(dropped)
    }

    /// What follows for these refs, of those that are there still.
    pub(super) fn decide_on(
        &self,
        refs: &[(SnapshotId, ForkId)],
        unfinished: &HashSet<ForkId>,
        carriers: &Carriers<'_>,
        scan: &Scan,
    ) -> Vec<Action> {
        let index = self.store.index();
        let target = |snapshot: &SnapshotId, fork: &ForkId| index.get(snapshot)?.refs.get(fork);
        let has_ref = |snapshot: &SnapshotId, fork: &ForkId| target(snapshot, fork).is_some();
        decide(refs, target, has_ref, Shown { unfinished, carriers, scan, layout: &self.store.layout }, self.threads)
    }

    pub(super) fn carry_out(&self, action: Action, proof: &RootProof) -> Result<bool, ForkError> {
        let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        match action {
            Action::Drop { snapshot, fork } => {
                // A damaged journal may hold an unfinished request for any ref.
                if self.closed().is_some() {
                    return Ok(false);
                }
                let guard = self.store.lock_snapshot(&snapshot);
                let left = self.store.drop_ref(&guard, proof, &fork)?;
                drop(guard);
                self.store.events.emit(Event::ForkReleased { fork, snapshot, ref_count: left as u64 });
                Ok(true)
            }
            Action::Point { snapshot, fork, to } => {
                let guard = self.store.lock_snapshot(&snapshot);
                self.store.point_ref(&guard, &fork, &to)?;
                self.store.events.emit(Event::ForkMoved { fork, to: name(&to) });
                Ok(false)
            }
            Action::Adopt { snapshot, fork, at } => {
                let guard = self.store.lock_snapshot(&snapshot);
                // One that was asked for and made since the refs were read has its ref.
                if self.store.known(&snapshot).is_ok_and(|known| !known.refs.contains_key(&fork)) {
                    self.store.add_refs(&guard, &[(fork.clone(), at.clone())])?;
                    self.store.events.emit(Event::ForkAdopted { fork, name: name(&at), snapshot });
                }
                Ok(false)
            }
        }
    }

    /// An unreadable fork record blocks the snapshot that it may belong to: the one whose ref points there (which
    /// stays, see [`decide`]), else the one whose memory file it has. No other.
    fn note_unreadable_forks(&self, scan: &Scan) {
        let mut blocks = BTreeSet::new();
        for (name, (_, standing)) in &scan.instances {
            let Standing::Unreadable(why) = standing else { continue };
            let dir = self.store.layout.instance_named(name);
            let why = format!("{}: {why}", Layout::fork_record_in(&dir).display());
            let at = RefTarget::At(dir.clone());
            let mut parents: Vec<SnapshotId> =
                self.store.index().refs().filter(|(.., target)| **target == at).map(|(snapshot, ..)| snapshot.clone()).collect();
            if parents.is_empty() {
                parents = self.snapshots_with_memory_of(&dir);
            }
            blocks.extend(parents.into_iter().map(|snapshot| (snapshot, why.clone())));
        }
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        for (snapshot, why) in noted.difference(&blocks) {
            self.store.clear_unreadable(snapshot, why);
        }
        for (snapshot, why) in blocks.difference(&noted) {
            self.store.note_unreadable(snapshot, why);
            let (path, reason) = why.split_once(": ").unwrap_or((why, ""));
            self.store.events.emit(Event::RecordUnreadable {
                path: path.to_owned(),
                why: reason.to_owned(),
                blocks: vec![snapshot.to_string()],
            });
        }
        *noted = blocks;
    }

    /// The snapshots whose memory file's inode is in `dir` too.
    fn snapshots_with_memory_of(&self, dir: &Path) -> Vec<SnapshotId> {
        let summaries: Vec<_> = self.store.index().present().filter_map(|(_, known)| known.summary.clone()).collect();
        let file_id = |root: &Path, path: &Path| self.store.fs.stat_below(root, path).ok().flatten().map(|meta| meta.file_id);
        let shares = |summary: &crate::store::Summary| {
            let memory = self.store.memory_dir(&summary.id);
            summary.memory.iter().any(|m| file_id(dir, &m.path).is_some_and(|id| Some(id) == file_id(&memory, &m.path)))
        };
        summaries.iter().filter(|s| shares(s)).map(|s| s.id.clone()).collect()
    }

    /// Keys are remembered for as long as their forks live.
    fn remember_keys(&self, scan: &Scan) {
        let keyed = scan.instances.iter().filter_map(|(name, (_, standing))| match standing {
            Standing::Fork(record) if record.key.is_some() => Some(finished(ForkName::parse(name.to_str()?).ok()?, record)),
            _ => None,
        });
        self.state().queue.remember_living(keyed);
    }

    /// Reports once that the root is away, and once that it is back.
    pub(super) fn report_root(&self, lost: Option<&str>) {
        let was_lost = self.root_was_lost.swap(lost.is_some(), Ordering::SeqCst);
        let (path, at) = (self.store.layout.instances().display().to_string(), self.store.clock.now());
        match (was_lost, lost) {
            (false, Some(why)) => self.store.events.emit(Event::RootLost { path, why: why.to_owned(), at }),
            (true, None) => self.store.events.emit(Event::RootFound { path, at }),
            _ => {}
        }
    }
}

/// The request that a fork's record stands for.
pub(super) fn finished(name: ForkName, record: &ForkRecord) -> Request {
    Request {
        id: record.fork_id.clone(),
        key: record.key.clone(),
        snapshot_id: record.fork_of_snapshot.clone(),
        name,
        state: RequestState::Done,
        attempts: 0,
        error: None,
        memory: None,
        disk: None,
        queued_at: record.created_at,
        started_at: None,
        finished_at: Some(record.created_at),
        retry_at: None,
    }
}
