//! The mark `compressed`: what a snapshot has in the place of its raw memory files, or what became of the attempt.
//!
//! The mark decides. Where it names packed files, they are the snapshot's memory, and raw files that still lie there are only
//! about to go; without it, packed files are only about to come, and the raw ones are its memory. So between any two steps
//! there is one form that counts, and it is whole.

use super::StoreError;
use super::counters::{read_record, write_record};
use super::fs::{Below, Fs};
use super::index::Known;
use super::layout::Layout;
use super::manifest::{FORMAT, RecordError, TextPath};
use super::open::{SnapshotGuard, Store};
use crate::event::Event;
use crate::ids::SnapshotId;
use crate::policy::compress::{Attempt, Method};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The mark's name.
pub(super) const COMPRESSED: &str = "compressed";

/// The mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compression {
    format: u32,
    /// When.
    pub at: DateTime<Utc>,
    /// By which method.
    pub method: Method,
    /// How hard.
    pub level: i32,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The memory is in these files.
    Packed {
        /// One for each memory file.
        files: Vec<PackedFile>,
        /// What the raw files took, bytes.
        raw_allocated_bytes: u64,
    },
    /// It would not have become small enough.
    NoGain,
    /// It could not be done.
    Failed {
        /// Why.
        error: String,
        /// How often in a row.
        times: u32,
    },
}

/// A packed memory file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedFile {
    /// The raw file's path below the snapshot's data.
    pub path: TextPath,
    /// Its name in the snapshot's `packed` directory.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// The raw file's digest, in the manifest's form.
    pub digest: String,
    /// The raw file's owner in the store.
    pub uid: u32,
    /// The raw file's group in the store.
    pub gid: u32,
}

impl Compression {
    /// A mark of now.
    #[must_use]
    pub fn new(at: DateTime<Utc>, method: Method, level: i32, outcome: Outcome) -> Self {
        Self { format: FORMAT, at, method, level, outcome }
    }

    /// The packed files, if there are any.
    #[must_use]
    pub fn packed(&self) -> Option<&[PackedFile]> {
        match &self.outcome {
            Outcome::Packed { files, .. } => Some(files),
            _ => None,
        }
    }

    /// Sum of the packed files' lengths.
    #[must_use]
    pub fn packed_bytes(&self) -> u64 {
        self.packed().unwrap_or_default().iter().map(|file| file.bytes).sum()
    }

    /// Reads a snapshot's mark.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn read(fs: &Fs, layout: &Layout, id: &SnapshotId) -> Result<Option<Self>, RecordError> {
        read_record(fs, &layout.mark(id, COMPRESSED))
    }
}

impl Known {
    /// The mark, if the snapshot's memory is packed.
    #[must_use]
    pub fn packed(&self) -> Option<&Arc<Compression>> {
        self.compression.as_ref().filter(|compression| compression.packed().is_some())
    }

    /// What became of the last attempt to compress it.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        let Some(compression) = &self.compression else { return Attempt::None };
        match &compression.outcome {
            Outcome::Packed { .. } => Attempt::Done,
            Outcome::NoGain => Attempt::NoGain(compression.method, compression.level),
            Outcome::Failed { times, .. } => Attempt::Failed(*times, compression.at),
        }
    }
}

impl Store {
    /// The mark of a snapshot whose memory is packed.
    #[must_use]
    pub fn packed(&self, id: &SnapshotId) -> Option<Arc<Compression>> {
        self.index().get(id).filter(|known| known.present).and_then(|known| known.packed().cloned())
    }

    /// Notes what came of an attempt that packed nothing. In the index whatever happens, so that it is not tried at once.
    ///
    /// # Errors
    /// [`StoreError`] if it is not durable.
    pub fn note_attempt(&self, guard: &SnapshotGuard, compression: Compression) -> Result<(), StoreError> {
        let id = guard.key();
        if self.known(id)?.packed().is_some() || compression.packed().is_some() {
            return Ok(());
        }
        self.change(id, |known| known.compression = Some(Arc::new(compression.clone())));
        write_record(&self.fs, &self.layout.mark(id, COMPRESSED), &compression)
    }

    /// Makes packed files the snapshot's memory: they come in by a rename, and then the mark says so. The caller holds the lock,
    /// has compared the digests, and knows that nobody needs the raw files; these stay for [`Store::drop_raw`].
    ///
    /// # Errors
    /// [`StoreError`]; the raw files are its memory still. Only if the mark cannot be taken back it counts.
    pub fn publish_packed(&self, guard: &SnapshotGuard, compression: Compression) -> Result<(), StoreError> {
        let id = guard.key();
        let dir = self.layout.snapshot(id);
        let packed = Layout::packed_in(&dir);
        // What an attempt left that was cut short: no mark names it.
        self.fs.remove_tree(&packed)?;
        // Dead from here on, the start finds the work's directory in staging, and removes what no mark names.
        self.fs.move_durably(&Layout::packed_in(&self.layout.staged_packing(id)), &packed, &[&dir]).map_err(|e| e.error)?;
        let marked = write_record(&self.fs, &self.layout.mark(id, COMPRESSED), &compression);
        if marked.is_ok() || self.unmark(id, COMPRESSED).is_err() {
            self.change(id, |known| known.compression = Some(Arc::new(compression)));
        } else {
            self.change(id, |known| known.compression = None);
            // The start does it if this cannot.
            let _ = self.fs.remove_tree(&packed);
        }
        self.forget_sizes(id);
        marked
    }

    /// Unlinks the raw files of a snapshot whose memory is packed. What fails is done by the next start, if a directory in
    /// staging says so.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn drop_raw(&self, guard: &SnapshotGuard) -> Result<(), StoreError> {
        let id = guard.key();
        let Some(compression) = self.packed(id) else { return Ok(()) };
        let mut data = Below::open(&self.fs, &Layout::data_in(&self.layout.snapshot(id)))?;
        for file in compression.packed().unwrap_or_default() {
            match data.place(file.path.as_path()).and_then(|place| self.fs.unlink(place)) {
                Err(e) if !e.is_not_found() => return Err(e.into()),
                _ => {}
            }
        }
        self.forget_sizes(id);
        Ok(())
    }

    /// At the start: brings what was cut short to its end. `unfinished` are the snapshots whose directory in staging says that
    /// something is left; those that cannot be settled now are returned, and keep it.
    pub(super) fn settle_packed(&self, unfinished: Vec<SnapshotId>) -> Vec<SnapshotId> {
        let settle = |id: &SnapshotId| match self.settle_one(&self.lock_snapshot(id)) {
            Ok(()) => false,
            Err(e) => {
                self.events.emit(Event::RecordUnreadable {
                    path: Layout::packed_in(&self.layout.snapshot(id)).display().to_string(),
                    why: e.to_string(),
                    blocks: vec![id.to_string()],
                });
                true
            }
        };
        unfinished.into_iter().filter(settle).collect()
    }

    /// One form stays: the one that counts, if it is whole; else the other, if that is.
    fn settle_one(&self, guard: &SnapshotGuard) -> Result<(), StoreError> {
        let id = guard.key();
        let Ok(known) = self.known(id) else { return Ok(()) };
        // What cannot be read may name them.
        if !known.unreadable.is_empty() {
            return Ok(());
        }
        let packed = Layout::packed_in(&self.layout.snapshot(id));
        let raw_is_whole = self.raw_is_whole(id, &known)?;
        match known.packed() {
            None if raw_is_whole => Ok(self.fs.remove_tree(&packed)?),
            None => Ok(()),
            Some(compression) if self.packed_is_whole(id, compression)? => self.drop_raw(guard),
            Some(_) if raw_is_whole => {
                self.unmark(id, COMPRESSED)?;
                self.change(id, |known| known.compression = None);
                Ok(self.fs.remove_tree(&packed)?)
            }
            // Forks of it fail, and a check quarantines it.
            Some(_) => Ok(()),
        }
    }

    fn raw_is_whole(&self, id: &SnapshotId, known: &Known) -> Result<bool, StoreError> {
        let Some(summary) = &known.summary else { return Ok(false) };
        let data = Layout::data_in(&self.layout.snapshot(id));
        for file in &summary.memory {
            let found = self.fs.stat_below(&data, &file.path)?;
            if found.is_none_or(|meta| (meta.size, meta.mtime_ns) != (file.size, file.mtime_ns)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn packed_is_whole(&self, id: &SnapshotId, compression: &Compression) -> Result<bool, StoreError> {
        let packed = Layout::packed_in(&self.layout.snapshot(id));
        for file in compression.packed().unwrap_or_default() {
            if self.fs.stat_if_there(&packed.join(&file.name))?.is_none_or(|meta| meta.size != file.bytes) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
