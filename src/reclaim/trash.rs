//! Unlinking what lies in the trash once its grace has passed on both clocks. Files are unlinked, never truncated.

use super::{Reclaim, ReclaimError};
use crate::event::Event;
use crate::store::trash::{Departed, Trashed};
use std::time::Duration;

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Trees unlinked.
    pub unlinked: u64,
    /// How long until the next entry's grace is over, if one waits.
    pub next: Option<Duration>,
}

impl Reclaim {
    /// Unlinks every entry of both trashes whose grace is over. One that fails is reported and tried again by the next
    /// sweep; the others go on.
    ///
    /// # Errors
    /// [`ReclaimError`] if a trash cannot be listed.
    pub fn sweep(&self, grace: Duration, fork_grace: Duration) -> Result<Swept, ReclaimError> {
        let mut swept = Swept::default();
        for entry in self.store.trash_entries(&self.store.layout.trash())? {
            self.sweep_one(&entry, grace, &mut swept, |entry| Ok(self.store.unlink_trashed_snapshot(entry)?));
        }
        if self.store.prove_root().is_ok() {
            let mut departed = false;
            for entry in self.store.trash_entries(&self.store.layout.root_trash())? {
                let grace = if entry.departed() == Departed::Unforked { fork_grace } else { grace };
                departed |= self.sweep_one(&entry, grace, &mut swept, |entry| Ok(self.store.fs.remove_tree(&entry.path)?));
            }
            // Forks that lay there needed their snapshots until now.
            if departed && let Err(e) = self.forks.reconcile() {
                self.store.events.emit(Event::PruneFailed { snapshot: String::new(), error: e.to_string() });
            }
        }
        self.store.clear_orphan_records()?;
        self.store.save_uptime()?;
        Ok(swept)
    }

    fn sweep_one(
        &self,
        entry: &Trashed,
        grace: Duration,
        swept: &mut Swept,
        unlink: impl Fn(&Trashed) -> Result<(), ReclaimError>,
    ) -> bool {
        let left = self.store.grace_left(entry, grace);
        if !left.is_zero() {
            swept.next = Some(swept.next.map_or(left, |next| next.min(left)));
            return false;
        }
        match unlink(entry) {
            Ok(()) => {
                swept.unlinked += 1;
                true
            }
            Err(e) => {
                let snapshot = entry.what.to_string_lossy().into_owned();
                self.store.events.emit(Event::PruneFailed { snapshot, error: e.to_string() });
                false
            }
        }
    }
}
