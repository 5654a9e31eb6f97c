//! Bringing back what lies in the trash: a rename, under the lock that whoever unlinks it would need. Nothing that is
//! being unlinked comes back.

use super::{Reclaim, ReclaimError};
use crate::event::Event;
use crate::ids::{InstanceId, SnapshotId};
use crate::store::trash::Trashed;

impl Reclaim {
    /// Brings a snapshot back; it has a hold named `undeleted` then, so that retention does not take it again.
    ///
    /// # Errors
    /// [`ReclaimError::NotInTrash`] if it is not there, or is being unlinked.
    pub fn undelete_snapshot(&self, id: &SnapshotId) -> Result<(), ReclaimError> {
        let guard = self.store.lock_snapshot(id);
        let entries = self.store.trash_entries(&self.store.layout.trash())?;
        let entry = newest(entries.into_iter().filter(|entry| entry.snapshot().as_ref() == Some(id)));
        let entry = entry.ok_or_else(|| ReclaimError::NotInTrash(id.to_string()))?;
        self.store.bring_back(&guard, &entry)?;
        drop(guard);
        self.store.events.emit(Event::SnapshotUndeleted { snapshot: id.clone(), removed_at: entry.at, at: self.store.clock.now() });
        Ok(())
    }

    /// Brings an instance back under `name`, with the refs that it has kept.
    ///
    /// # Errors
    /// [`ReclaimError::NotInTrash`] if it is not there, [`ReclaimError::NameTaken`] if another instance has the name.
    pub fn undelete_instance(&self, entry: &Trashed, name: &InstanceId) -> Result<(), ReclaimError> {
        let proof = self.store.prove_root()?;
        let _instance = self.store.instance_locks.lock(name);
        match self.store.bring_instance_back(&proof, entry, name) {
            Ok(()) => {}
            Err(e) if e.is_taken() => return Err(ReclaimError::NameTaken(name.clone())),
            Err(e) if e.is_not_found() => return Err(ReclaimError::NotInTrash(entry.name())),
            Err(e) => return Err(e.into()),
        }
        self.store.events.emit(Event::InstanceUndeleted {
            instance: name.clone(),
            entry: entry.name(),
            removed_at: entry.at,
            at: self.store.clock.now(),
        });
        // It is back, whatever comes now. Its refs count wherever they point, and the next pass points them right.
        if let Err(e) = self.forks.reconcile() {
            self.store.events.emit(Event::RecordUnreadable {
                path: self.store.layout.instances().display().to_string(),
                why: e.to_string(),
                blocks: Vec::new(),
            });
        }
        Ok(())
    }
}

fn newest(entries: impl Iterator<Item = Trashed>) -> Option<Trashed> {
    entries.filter(|entry| !entry.is_doomed).max_by_key(|entry| (entry.at, entry.uptime))
}
