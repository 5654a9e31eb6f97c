//! The cut, of one snapshot or of many: lock, read all that protects each, rename into the trash, one sync for a batch,
//! unlock, report. What one removal finds in its way stops no other.

use super::links::KnownLinks;
use super::{Blocked, Reclaim, ReclaimError, Removed, fork_names};
use crate::event::Event;
use crate::ids::{ForkId, ForkName, SnapshotId};
use crate::store::layout::Layout;
use crate::store::leftovers::Leftovers;
use crate::store::manifest::Manifest;
use crate::store::{Known, RootProof, SnapshotGuard, StoreError};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// So many are cut with one sync, and are locked for that long: whoever wants a fork of one of them waits for it.
const BATCH: usize = 1000;

/// One snapshot that is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Which.
    pub id: SnapshotId,
    /// Why, for the event.
    pub reasons: Vec<String>,
}

/// One that may go, locked since that was found out.
struct Going<'r> {
    /// Its place among the answers.
    place: usize,
    removal: &'r Removal,
    guard: SnapshotGuard,
    known: Known,
}

/// What is read once for a batch, while all its locks are held.
struct Around {
    queued: std::collections::HashMap<SnapshotId, Vec<(ForkId, ForkName)>>,
    links: KnownLinks,
    records: Leftovers,
    /// Also what has no readable manifest may go: somebody has looked at it.
    unreadable: bool,
}

type Answer = Result<Removed, ReclaimError>;

fn end_of(grace: Duration, cut: DateTime<Utc>) -> DateTime<Utc> {
    TimeDelta::from_std(grace).ok().and_then(|grace| cut.checked_add_signed(grace)).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

impl Reclaim {
    /// Cuts one snapshot. The caller has brought the refs up to date ([`crate::fork::Forks::reconcile`]).
    ///
    /// # Errors
    /// [`ReclaimError::Blocked`] with everything that needs it; others as they say.
    pub fn remove(&self, id: &SnapshotId, reasons: &[String], grace: Duration) -> Answer {
        self.remove_even(id, reasons, grace, false)
    }

    /// The same, and with `unreadable` also a snapshot whose manifest cannot be read: somebody has looked at it.
    ///
    /// # Errors
    /// Those of [`Reclaim::remove`].
    pub fn remove_even(&self, id: &SnapshotId, reasons: &[String], grace: Duration, unreadable: bool) -> Answer {
        let removal = [Removal { id: id.clone(), reasons: reasons.to_vec() }];
        match self.cut(&removal, grace, unreadable).pop() {
            Some(Err(ReclaimError::Blocked { id, blocked })) => {
                let reclaimable_bytes = self.store.reclaimable_bytes(&id, Duration::ZERO).ok();
                Err(ReclaimError::Blocked { id, blocked: Blocked { reclaimable_bytes, ..blocked } })
            }
            Some(answer) => answer,
            None => Err(StoreError::no_snapshot(id).into()),
        }
    }

    /// Cuts many, a bounded number at a time; the answers are in the order of the removals, and each is what
    /// [`Reclaim::remove`] would say, but for what a removal that is blocked would free.
    pub fn remove_all(&self, removals: &[Removal], grace: Duration) -> Vec<Answer> {
        removals.chunks(BATCH).flat_map(|batch| self.cut(batch, grace, false)).collect()
    }

    fn cut(&self, batch: &[Removal], grace: Duration, unreadable: bool) -> Vec<Answer> {
        let _reported = self.cutting.lock().unwrap_or_else(PoisonError::into_inner);
        self.store.expect_cut();
        batch.iter().for_each(|removal| self.store.disturb(&removal.id));
        // In the order of ids, as whoever else takes several.
        let mut guards: BTreeMap<&SnapshotId, Option<SnapshotGuard>> = batch.iter().map(|removal| (&removal.id, None)).collect();
        guards.iter_mut().for_each(|(id, guard)| *guard = Some(self.store.lock_snapshot(id)));
        // Behind the locks, which may have taken a while to come by.
        let proof = match self.store.prove_root().map_err(Arc::new) {
            Ok(proof) => proof,
            Err(e) => return batch.iter().map(|_| Err(ReclaimError::Unmounted(Arc::clone(&e)))).collect(),
        };
        let mut around = Around {
            queued: self.forks.waiting(),
            links: KnownLinks::default(),
            records: self.store.refs_and_holds_of_many(batch.len()),
            unreadable,
        };
        let mut answers: Vec<Answer> = Vec::with_capacity(batch.len());
        let mut going = Vec::with_capacity(batch.len());
        for (place, removal) in batch.iter().enumerate() {
            // One that is asked for twice goes once.
            let guard = guards.get_mut(&removal.id).and_then(Option::take);
            let checked =
                guard.ok_or_else(|| StoreError::no_snapshot(&removal.id).into()).and_then(|guard| self.check(guard, &proof, &mut around));
            match checked {
                Ok((guard, known)) => {
                    answers.push(Ok(Removed { id: removal.id.clone(), trashed: PathBuf::new() }));
                    going.push(Going { place, removal, guard, known });
                }
                Err(e) => answers.push(Err(e)),
            }
        }
        let cut = self.rename_all(&going, &proof);
        let mut gone = Vec::with_capacity(going.len());
        // The locks end here.
        for (Going { place, removal, known, guard }, cut) in going.into_iter().zip(cut) {
            let Some(answer) = answers.get_mut(place) else { continue };
            match cut {
                Ok(trashed) => {
                    // Nobody is left to use them. What cannot be unlinked now goes with the snapshot's files.
                    if known.compression.is_some()
                        && let Err(e) = self.store.drop_cached(&guard)
                    {
                        tracing::debug!(error = %e, id = %removal.id, "raw memory files stay in the cache for now");
                    }
                    *answer = Ok(Removed { id: removal.id.clone(), trashed });
                    gone.push((removal, known));
                }
                Err(e) => *answer = Err(e.into()),
            }
        }
        self.report(&gone, grace);
        answers
    }

    /// Whether a snapshot may go, under its lock; then nothing is handed out of the pool any more that was made for it.
    fn check(&self, guard: SnapshotGuard, proof: &RootProof, around: &mut Around) -> Result<(SnapshotGuard, Known), ReclaimError> {
        let id = guard.key();
        let known = self.store.known(id)?;
        let blocked = self.blocked(id, &known, around)?;
        if !blocked.why.is_empty() {
            return Err(ReclaimError::Blocked { id: id.clone(), blocked });
        }
        let drain = || self.forks.pool().drain(&self.store, &guard, proof, "its snapshot was removed");
        match drain() {
            Err(e) if e.is_full() && self.store.drop_ballast() => drain()?,
            // Whatever comes behind it fails: its forks are made again while the snapshot is there.
            done => done?,
        };
        Ok((guard, known))
    }

    /// If there is no room for the renames, the ballast makes some.
    fn rename_all(&self, going: &[Going<'_>], proof: &RootProof) -> Vec<Result<PathBuf, StoreError>> {
        let guards: Vec<&SnapshotGuard> = going.iter().map(|going| &going.guard).collect();
        let mut cut = self.store.cut(&guards, proof);
        let lacks_room = |cut: &Result<PathBuf, StoreError>| matches!(cut, Err(StoreError::Io(e)) if e.is_full());
        if cut.iter().any(lacks_room) && self.store.drop_ballast() {
            let again: Vec<&SnapshotGuard> = guards.iter().zip(&cut).filter(|(_, cut)| lacks_room(cut)).map(|(guard, _)| *guard).collect();
            let retried = self.store.cut(&again, proof);
            cut.iter_mut().filter(|cut| lacks_room(cut)).zip(retried).for_each(|(cut, retried)| *cut = retried);
        }
        cut
    }

    fn report(&self, gone: &[(&Removal, Known)], grace: Duration) {
        let until = end_of(grace, self.store.clock.now());
        for (removal, known) in gone {
            self.forks.forget_recipe(&removal.id);
            self.store.events.emit(Event::PruneRemoved {
                snapshot: removal.id.clone(),
                instance: known.summary.as_ref().map(|summary| summary.instance.clone()),
                policy: known.summary.as_ref().and_then(|summary| summary.policy.clone()),
                reasons: removal.reasons.clone(),
                until,
            });
        }
    }

    /// The start: reports what the last process may have cut without coming to report it. That is what was cut since it wrote
    /// the sum of boot time down; what it did report is reported once more, under the same id.
    ///
    /// # Errors
    /// [`ReclaimError`] if the trash cannot be listed.
    pub fn report_again(&self, grace: Duration) -> Result<u64, ReclaimError> {
        let entries = self.store.trash_listed(&self.store.layout.trash())?;
        let mut reported = 0;
        for entry in entries.iter().filter(|entry| entry.uptime >= self.store.reported_seconds()) {
            let Some(id) = entry.snapshot() else { continue };
            let manifest = Manifest::read(&self.store.fs, &Layout::manifest_in(&entry.path), &id).ok();
            reported += 1;
            self.store.events.emit(Event::PruneRemoved {
                snapshot: id,
                instance: manifest.as_ref().map(|manifest| manifest.instance.clone()),
                policy: manifest.and_then(|manifest| manifest.policy),
                reasons: vec!["before the last start".to_owned()],
                until: end_of(grace, entry.at),
            });
        }
        if reported > 0 {
            self.save_uptime()?;
        }
        Ok(reported)
    }

    /// Writes the sum of boot time down, when no cut waits to be reported: what was cut before, has been.
    ///
    /// # Errors
    /// [`StoreError`]; the old sum stays.
    pub fn save_uptime(&self) -> Result<(), StoreError> {
        let _reported = self.cutting.lock().unwrap_or_else(PoisonError::into_inner);
        self.store.save_uptime()
    }

    /// Everything that needs a snapshot: index, queue, and the disk's own lists of refs and holds.
    fn blocked(&self, id: &SnapshotId, known: &Known, around: &mut Around) -> Result<Blocked, ReclaimError> {
        let queued = around.queued.get(id).map(Vec::as_slice).unwrap_or_default();
        let (refs, holds) = self.store.refs_and_holds_on_disk(id, &around.records)?;
        let mut blocked = Blocked {
            forks: fork_names(known, queued),
            holds: known.holds.iter().map(ToString::to_string).collect(),
            details: known.damage().into_iter().collect(),
            ..Blocked::default()
        };
        let live = known.refs.keys().any(|fork| !queued.iter().any(|(q, _)| q == fork));
        let mut because = |is: bool, why: &'static str| {
            if is {
                blocked.why.push(why);
            }
        };
        because(live || refs > known.refs.len(), "live_forks");
        because(!queued.is_empty(), "queued");
        because(known.pins > 0, "pinned");
        because(!known.holds.is_empty() || holds > 0, "held");
        because(!known.unreadable.is_empty() || (known.summary.is_none() && !around.unreadable), "unreadable");
        if blocked.why.is_empty()
            && let Some(path) = match &known.summary {
                Some(summary) => self.unknown_link(summary, &mut around.links)?,
                None => self.any_link(id)?,
            }
        {
            blocked.why.push("linked");
            blocked.details.push(format!("{} has a link that is no known fork's", path.display()));
        }
        Ok(blocked)
    }
}
