//! The trash: where the cut moves things by a rename, and from where they are unlinked after their grace.
//!
//! An entry is named `<what>@<wall time>.<uptime>`: the wall clock and the boot clock (added up over boots, seconds) of
//! the cut, so that the grace passes on both without another record. Before its first file is unlinked an entry is
//! *doomed*, so that nothing that is half unlinked can ever be brought back: a snapshot's name is in a record of those that
//! are being unlinked, one for all of a sweep; an instance, and where there is no room for a record a snapshot, is renamed to
//! `unlinking:<name>`.

use super::counters::{grace_left, read_record, write_record};
use super::fs::{Fs, FsError, Remover};
use super::layout::Layout;
use super::leftovers::Leftovers;
use super::manifest::{FORMAT, RecordError};
use super::open::{SnapshotGuard, Store};
use super::{RootProof, StoreError, load, records};
use crate::ids::{HoldName, InstanceId, SnapshotId};
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One entry of a trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trashed {
    /// Its path.
    pub path: PathBuf,
    /// What it was: a snapshot id, or an instance's name.
    pub what: OsString,
    /// When it was cut.
    pub at: DateTime<Utc>,
    /// Uptime at the cut, seconds.
    pub uptime: u64,
    /// It is being unlinked, and perhaps half gone.
    pub is_doomed: bool,
}

/// What the name of an instance in the root's trash begins with: how it came there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departed {
    /// A fork that `unfork` removed.
    Unforked,
    /// An instance that `restore` replaced.
    Replaced,
}

impl Departed {
    fn prefix(self) -> &'static str {
        match self {
            Self::Unforked => "unfork:",
            Self::Replaced => "restore:",
        }
    }
}

/// What the name of an entry begins with that was doomed by its name.
const DOOMED: &str = "unlinking:";

/// The names of snapshots' entries that are being unlinked, and perhaps half gone. Names do not repeat: one that is in it
/// and not in the trash is gone.
#[derive(Debug, Serialize, Deserialize)]
struct Unlinking {
    format: u32,
    entries: Vec<String>,
}

const STAMP: &str = "%Y%m%d-%H%M%S%.6f";

/// The name of a trash entry.
fn entry_name(what: &OsStr, at: DateTime<Utc>, uptime: u64) -> OsString {
    let mut name = what.to_owned();
    name.push(format!("@{}.{uptime}", at.format(STAMP)));
    name
}

/// Reads a trash entry's name back.
fn parse_name(name: &OsStr) -> Option<(OsString, DateTime<Utc>, u64)> {
    let text = name.to_str()?;
    let text = text.strip_prefix(DOOMED).unwrap_or(text);
    let (what, stamp) = text.rsplit_once('@')?;
    let (at, uptime) = stamp.rsplit_once('.')?;
    let at = NaiveDateTime::parse_from_str(at, STAMP).ok()?.and_utc();
    Some((what.into(), at, uptime.parse().ok()?))
}

/// What people call the instance that has this name in the root's trash.
#[must_use]
pub fn name_before(name: &OsStr) -> Option<String> {
    let (what, ..) = parse_name(name)?;
    let text = what.to_str()?;
    [Departed::Unforked, Departed::Replaced].iter().find_map(|how| text.strip_prefix(how.prefix())).map(str::to_owned)
}

impl Trashed {
    /// How an entry of the root's trash came there.
    #[must_use]
    pub fn departed(&self) -> Departed {
        let text = self.what.to_string_lossy();
        if text.starts_with(Departed::Unforked.prefix()) { Departed::Unforked } else { Departed::Replaced }
    }

    /// The snapshot that it was; `None` for an instance.
    #[must_use]
    pub fn snapshot(&self) -> Option<SnapshotId> {
        SnapshotId::parse(self.what.to_str()?).ok()
    }

    /// The instance that it was; `None` for a snapshot.
    #[must_use]
    pub fn instance(&self) -> Option<InstanceId> {
        InstanceId::parse(self.what.to_str()?.strip_prefix(self.departed().prefix())?).ok()
    }

    /// Its name in the trash.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// Names of snapshots' entries that are being unlinked.
///
/// # Errors
/// [`RecordError`] if that cannot be told.
pub fn unlinking(fs: &Fs, layout: &Layout) -> Result<HashSet<String>, RecordError> {
    let record = read_record::<Unlinking>(fs, &layout.unlinking())?;
    Ok(record.map(|record| record.entries.into_iter().collect()).unwrap_or_default())
}

impl Store {
    /// A new name in the root's trash for an instance that departs now.
    #[must_use]
    pub fn root_trash_path(&self, how: Departed, name: &crate::ids::InstanceId) -> PathBuf {
        let mut what = OsString::from(how.prefix());
        what.push(name.as_str());
        self.trash_path(&self.layout.root_trash(), &what)
    }

    /// A new name in a trash directory for `what`, cut now. A clock that stood still or stepped back gives no name twice;
    /// the caller has the lock of `what`.
    #[must_use]
    pub fn trash_path(&self, trash: &Path, what: &OsStr) -> PathBuf {
        let (now, uptime) = (self.clock.now(), self.uptime_seconds());
        let at = |micros: i64| trash.join(entry_name(what, now + TimeDelta::microseconds(micros), uptime));
        let is_free = |path: &PathBuf| matches!(self.fs.stat_if_there(path), Ok(None) | Err(_));
        (0..1_000_000).map(at).find(is_free).unwrap_or_else(|| at(0))
    }

    /// The cut: moves snapshots into the trash, and makes it durable for all of them with one sync of each of the two
    /// directories. The caller holds the lock of each and has checked all that protects it.
    ///
    /// A process that dies between the first rename and the last sync has told nobody of a removal. To the next start each
    /// snapshot is where its directory is, whole, with its marks, refs and holds: a rename is never half done. After a power
    /// cut that may be either place, for each by itself, until the sync has returned.
    ///
    /// # Errors
    /// [`StoreError::Io`] for each by itself, or for all if they cannot be made durable; the snapshot is where it was. Only
    /// if it cannot be put back it is in the trash, and may be back after a power cut.
    pub fn cut(&self, guards: &[&SnapshotGuard], _proof: &RootProof) -> Vec<Result<PathBuf, StoreError>> {
        let (snapshots, trash) = (self.layout.snapshots(), self.layout.trash());
        let stamp = (self.clock.now(), self.uptime_seconds());
        let mut moved: Vec<Result<PathBuf, FsError>> = guards.iter().map(|guard| self.rename_away(guard.key(), &trash, stamp)).collect();
        let is_moved = moved.iter().any(Result::is_ok);
        let synced = [&trash, &snapshots].into_iter().filter(|_| is_moved).try_for_each(|dir| self.fs.fsync_dir(dir));
        for (guard, moved) in guards.iter().zip(&mut moved) {
            let (Ok(to), id) = (&*moved, guard.key()) else { continue };
            match &synced {
                Ok(()) => self.forget_snapshot(id),
                Err(error) => {
                    if self.fs.rename_new(to, &self.layout.snapshot(id)).is_err() {
                        self.forget_snapshot(id);
                    }
                    *moved = Err(error.clone());
                }
            }
        }
        moved.into_iter().map(|moved| moved.map_err(StoreError::from)).collect()
    }

    /// Renames a snapshot to a name in the trash that nothing has: a clock that stood still or stepped back gives none twice.
    fn rename_away(&self, id: &SnapshotId, trash: &Path, (now, uptime): (DateTime<Utc>, u64)) -> Result<PathBuf, FsError> {
        let from = self.layout.snapshot(id);
        let mut micros = 0;
        loop {
            let to = trash.join(entry_name(id.as_str().as_ref(), now + TimeDelta::microseconds(micros), uptime));
            match self.fs.rename_new(&from, &to) {
                Err(e) if e.is_taken() && micros < 1_000_000 => micros += 1,
                done => return done.map(|()| to),
            }
        }
    }

    /// What is in a trash directory; names that are not ours are left out, and stay.
    ///
    /// # Errors
    /// [`StoreError`], also if it cannot be told what of it is being unlinked: then nothing may come back, and nothing goes.
    pub fn trash_entries(&self, trash: &Path) -> Result<Vec<Trashed>, StoreError> {
        if trash != self.layout.trash() {
            return Ok(self.trash_listed(trash)?);
        }
        // Before the listing: what is in that and gone by now must not look as if it were not doomed.
        let unlinking = unlinking(&self.fs, &self.layout)?;
        let mut entries = self.trash_listed(trash)?;
        entries.iter_mut().for_each(|entry| entry.is_doomed |= unlinking.contains(&entry.name()));
        Ok(entries)
    }

    /// The same, without a word on which snapshots are being unlinked.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn trash_listed(&self, trash: &Path) -> Result<Vec<Trashed>, FsError> {
        let entries = self.fs.list_if_there(trash)?;
        Ok(entries
            .iter()
            .filter_map(|e| {
                let (what, at, uptime) = parse_name(&e.name)?;
                let is_doomed = e.name.as_encoded_bytes().starts_with(DOOMED.as_bytes());
                Some(Trashed { path: trash.join(&e.name), what, at, uptime, is_doomed })
            })
            .collect())
    }

    /// The snapshots that lie in the trash.
    pub(super) fn trashed_snapshots(&self) -> Result<HashSet<SnapshotId>, FsError> {
        Ok(self.trash_listed(&self.layout.trash())?.iter().filter_map(Trashed::snapshot).collect())
    }

    /// Notes snapshots in the trash as being unlinked, so that nothing can bring them back; durable on return. All that were
    /// noted before and are there still must be among them. One that somebody has brought back meanwhile is not there any more.
    ///
    /// # Errors
    /// [`StoreError`]; then those that were noted before are.
    pub fn doom_snapshots(&self, entries: &[Trashed]) -> Result<Vec<Trashed>, StoreError> {
        // What the last record had and this one has not is gone, also after a power cut; and so are names of before a rename.
        self.settle_trash()?;
        let record = Unlinking { format: FORMAT, entries: entries.iter().map(Trashed::name).collect() };
        write_record(&self.fs, &self.layout.unlinking(), &record)?;
        // Whoever brings one back has its lock from its look at the record until the rename: that is over behind this.
        entries.iter().filter_map(Trashed::snapshot).for_each(|id| drop(self.lock_snapshot(&id)));
        Ok(entries.iter().map(|entry| Trashed { is_doomed: true, ..entry.clone() }).collect())
    }

    /// Nothing that was noted as being unlinked is there any more, also after a power cut: then nothing need say so.
    ///
    /// # Errors
    /// [`FsError`]; names that are gone do no harm.
    pub fn forget_doomed(&self) -> Result<(), FsError> {
        self.settle_trash()?;
        match self.fs.unlink(&self.layout.unlinking()) {
            Err(e) if e.is_not_found() => Ok(()),
            done => done,
        }
    }

    /// What is gone from the trash is so before the record of it changes. Where the file system commits in order that is so by itself.
    fn settle_trash(&self) -> Result<(), FsError> {
        let path = self.layout.trash();
        let trash = self.fs.open_dir(&path)?;
        let record = self.layout.unlinking();
        let beside = record.parent().and_then(|ledger| self.fs.open_dir(ledger).ok()).and_then(|ledger| self.fs.seen(ledger));
        if self.fs.keeps_order(&trash) && beside == self.fs.seen(&trash) {
            return Ok(());
        }
        self.fs.fsync(&trash, &path)
    }

    /// Renames an entry so that nothing can bring it back; durable once its trash is synced. Returns what it is then.
    ///
    /// # Errors
    /// [`StoreError::Io`], also if somebody has brought it back meanwhile.
    pub fn doom_by_name(&self, entry: &Trashed) -> Result<Trashed, StoreError> {
        if entry.is_doomed {
            return Ok(entry.clone());
        }
        let mut name = OsString::from(DOOMED);
        name.push(entry.path.file_name().unwrap_or_default());
        let path = entry.path.with_file_name(name);
        // Whoever brings something back has the one lock or the other while it renames.
        let _snapshot = entry.snapshot().map(|id| self.lock_snapshot(&id));
        let _moves = entry.instance().map(|_| self.lock_root_moves());
        self.fs.rename_new(&entry.path, &path)?;
        Ok(Trashed { path, is_doomed: true, ..entry.clone() })
    }

    /// Brings a snapshot back from the trash, with a hold named `undeleted` and without the mark that it is to go. The
    /// caller holds its lock.
    ///
    /// # Errors
    /// [`StoreError::Io`]; then it is still in the trash, if there is any way.
    pub fn bring_back(&self, guard: &SnapshotGuard, entry: &Trashed) -> Result<(), StoreError> {
        let id = guard.key();
        let hold = HoldName::parse("undeleted")?;
        self.make_hold(id, &hold)?;
        self.unmark(id, records::EXPIRING)?;
        let (snapshots, trash) = (self.layout.snapshots(), self.layout.trash());
        let moved = self.fs.move_durably(&entry.path, &self.layout.snapshot(id), &[&snapshots, &trash]);
        if moved.as_ref().map_or_else(|e| e.is_moved, |()| true) {
            load::Loader { fs: &self.fs, layout: &self.layout, events: &self.events, threads: 1 }.one(id, &mut self.index_mut());
            self.note_change();
        }
        moved.map_err(|e| e.error.into())
    }

    /// Brings an instance back from the root's trash under a name that is free.
    ///
    /// # Errors
    /// [`FsError`] with EEXIST if the name is taken; after another error it is still in the trash, if there is any way.
    pub fn bring_instance_back(&self, _proof: &RootProof, entry: &Trashed, name: &InstanceId) -> Result<(), FsError> {
        let _moves = self.lock_root_moves();
        let (root, trash) = (self.layout.instances(), self.layout.root_trash());
        self.fs.move_durably(&entry.path, &self.layout.instance(name), &[root, &trash]).map_err(|e| e.error)
    }

    /// How long an entry must still wait until `grace` has passed on both clocks.
    #[must_use]
    pub fn grace_left(&self, entry: &Trashed, grace: Duration) -> Duration {
        let wall = self.clock.now().signed_duration_since(entry.at).to_std().ok();
        grace_left(grace, wall, self.uptime_seconds().saturating_sub(entry.uptime))
    }

    /// Unlinks a doomed entry, and then, of a snapshot, its marks, refs and holds. Files are unlinked by `remover`, which
    /// may be paced.
    ///
    /// # Errors
    /// [`StoreError::Io`]; what is left is found again by the next sweep.
    pub fn unlink_doomed(&self, remover: &mut Remover, entry: &Trashed, leftovers: &Leftovers) -> Result<(), StoreError> {
        remover.remove(&entry.path)?;
        if let Some(Ok(id)) = entry.what.to_str().map(SnapshotId::parse)
            && self.fs.stat_if_there(&self.layout.snapshot(&id))?.is_none()
        {
            self.remove_records(&id, leftovers)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeZone as _;

    #[test]
    fn a_trash_name_tells_what_it_was_and_when_on_both_clocks() {
        let at = Utc.timestamp_opt(1_800_000_000, 123_456_000).unwrap();
        for what in ["20261124-090347-abcdefgh", "web@prod", "a.b"] {
            let name = entry_name(what.as_ref(), at, 77);
            assert_eq!(parse_name(&name), Some((what.into(), at, 77)));
            let mut doomed = OsString::from(DOOMED);
            doomed.push(&name);
            assert_eq!(parse_name(&doomed), Some((what.into(), at, 77)));
        }
        assert_eq!(parse_name("lost+found".as_ref()), None);
    }
}
