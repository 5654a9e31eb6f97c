//! Two small durable numbers: the high-water mark of `seq`, and boot time added up over boots.

use super::StoreError;
use super::fs::Fs;
use super::layout::Layout;
use super::manifest::{FORMAT, RecordError, seal, unseal};
use crate::clock::Clock;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// So many numbers are reserved with one write; those that are not used before a restart are never used.
const RESERVE: u64 = 64;
/// How far the sequence jumps when its high-water mark is lost: further than any store has counted.
const JUMP: u64 = 1 << 32;

/// Gives out sequence numbers, each once.
#[derive(Debug)]
pub struct Sequence {
    next: u64,
    reserved: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct SeqRecord {
    format: u32,
    high_water: u64,
}

impl Sequence {
    /// Goes on after the high-water mark and after the highest number seen in a manifest. `fresh` says that the
    /// store has never held a snapshot; otherwise a lost mark makes the sequence jump, so that nothing repeats.
    ///
    /// # Errors
    /// [`RecordError`] if the mark is of a newer format.
    pub fn load(fs: &Fs, layout: &Layout, highest_seen: u64, fresh: bool) -> Result<Self, RecordError> {
        let path = layout.seq();
        let mark = match read_record::<SeqRecord>(fs, &path) {
            Ok(Some(record)) => record.high_water,
            Err(e @ RecordError::Newer { .. }) => return Err(e),
            Ok(None) if fresh => 0,
            Ok(None) | Err(_) => highest_seen + JUMP,
        };
        let next = mark.max(highest_seen) + 1;
        Ok(Self { next, reserved: next })
    }

    /// The next number; its reservation is durable on return.
    ///
    /// # Errors
    /// [`StoreError`] if the mark cannot be written: then no number is given.
    pub fn take(&mut self, fs: &Fs, layout: &Layout) -> Result<u64, StoreError> {
        if self.next >= self.reserved {
            let high_water = self.next + RESERVE;
            write_record(fs, &layout.seq(), &SeqRecord { format: FORMAT, high_water })?;
            self.reserved = high_water;
        }
        self.next += 1;
        Ok(self.next - 1)
    }
}

/// Boot time (suspend included), added up over all boots in which this store was open.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Uptime {
    format: u32,
    boot_id: String,
    seconds_at_save: u64,
    boot_seconds_at_save: u64,
    /// Cuts of a lower second than this have been reported.
    #[serde(default)]
    reported: u64,
}

impl Uptime {
    /// Reads the sum and adds what has passed since it was saved. Lost or damaged: it begins again at zero, which
    /// only makes waits longer.
    #[must_use]
    pub fn load(fs: &Fs, layout: &Layout, clock: &dyn Clock) -> Self {
        let saved = read_record::<Self>(fs, &layout.uptime()).ok().flatten();
        let boot_seconds = clock.since_boot().as_secs();
        let boot_id = clock.boot_id();
        let reported = saved.as_ref().map_or(0, |s| s.reported);
        let seconds = saved.map_or(0, |s| {
            let same_boot = s.boot_id == boot_id;
            s.seconds_at_save + if same_boot { boot_seconds.saturating_sub(s.boot_seconds_at_save) } else { boot_seconds }
        });
        Self { format: FORMAT, boot_id, seconds_at_save: seconds, boot_seconds_at_save: boot_seconds, reported }
    }

    /// Cuts of a lower second than this were reported when this was loaded.
    #[must_use]
    pub fn reported(&self) -> u64 {
        self.reported
    }

    /// The sum at this moment, in seconds.
    #[must_use]
    pub fn seconds(&self, clock: &dyn Clock) -> u64 {
        self.seconds_at_save + clock.since_boot().as_secs().saturating_sub(self.boot_seconds_at_save)
    }

    /// Writes the sum down, and that cuts of a lower second than `reported` have been reported.
    ///
    /// # Errors
    /// [`StoreError`]; the old sum stays.
    pub fn save(&self, fs: &Fs, layout: &Layout, clock: &dyn Clock, reported: u64) -> Result<(), StoreError> {
        let (seconds_at_save, boot_seconds_at_save) = (self.seconds(clock), clock.since_boot().as_secs());
        write_record(fs, &layout.uptime(), &Self { seconds_at_save, boot_seconds_at_save, reported, ..self.clone() })
    }
}

/// No record is longer: a log with a line for each of a hundred thousand snapshots is not.
pub(super) const LIMIT: u64 = 64 << 20;

/// Reads a sealed record; `None` if there is none.
///
/// # Errors
/// [`RecordError`].
pub fn read_record<T: for<'de> Deserialize<'de>>(fs: &Fs, path: &Path) -> Result<Option<T>, RecordError> {
    match fs.read_small(path, LIMIT) {
        Ok(bytes) => unseal(path, &bytes).map(Some),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Writes a sealed record, durable on return; its directory is made if it is missing.
///
/// # Errors
/// [`StoreError`]; the old record stays.
pub fn write_record<T: Serialize>(fs: &Fs, path: &Path, record: &T) -> Result<(), StoreError> {
    if let Some(dir) = path.parent() {
        fs.mkdir_durable(dir, 0o700)?;
    }
    let bytes = seal(record).map_err(|source| StoreError::Encode { path: path.to_owned(), source })?;
    Ok(fs.replace_record(path, &bytes)?)
}

/// The same for many, of which no two have the same path: the syncs are shared.
#[must_use]
pub fn write_records<T: Serialize>(fs: &Fs, records: &[(PathBuf, &T)]) -> Vec<Result<(), StoreError>> {
    let mut dirs: Vec<&Path> = records.iter().filter_map(|(path, _)| path.parent()).collect();
    dirs.sort();
    dirs.dedup();
    // One that cannot be made is found out about by each record in it.
    dirs.into_iter().for_each(|dir| drop(fs.mkdir_durable(dir, 0o700)));
    let encoded: Vec<Result<Vec<u8>, StoreError>> =
        records.iter().map(|(path, record)| seal(record).map_err(|source| StoreError::Encode { path: path.clone(), source })).collect();
    let good: Vec<(&Path, &[u8])> =
        records.iter().zip(&encoded).filter_map(|((path, _), bytes)| Some((path.as_path(), bytes.as_ref().ok()?.as_slice()))).collect();
    let mut written = fs.replace_records(&good).into_iter();
    encoded.into_iter().map(|bytes| bytes.and_then(|_| written.next().map_or(Ok(()), |done| Ok(done?)))).collect()
}

/// How long something that was cut at `cut_wall` and `cut_uptime` (seconds) must still wait for its grace to have
/// passed on the wall clock and on the boot clock.
#[must_use]
pub fn grace_left(grace: Duration, wall_age: Option<Duration>, uptime_age: u64) -> Duration {
    let wall = grace.saturating_sub(wall_age.unwrap_or(Duration::ZERO));
    wall.max(grace.saturating_sub(Duration::from_secs(uptime_age)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use chrono::{TimeZone as _, Utc};

    fn scratch() -> (tempfile::TempDir, Layout, Fs) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), &dir.path().join("vms"));
        (dir, layout, Fs::real())
    }

    #[test]
    fn a_sequence_number_never_repeats_over_restarts_also_when_all_snapshots_are_gone() {
        let (_dir, layout, fs) = scratch();
        let mut given = std::collections::BTreeSet::new();
        for round in 0..5 {
            let mut sequence = Sequence::load(&fs, &layout, 0, round == 0).unwrap();
            for _ in 0..100 {
                assert!(given.insert(sequence.take(&fs, &layout).unwrap()));
            }
        }
        fs.unlink(layout.seq().as_path()).unwrap();
        let mut sequence = Sequence::load(&fs, &layout, 3, false).unwrap();
        assert!(given.insert(sequence.take(&fs, &layout).unwrap()));
    }

    #[test]
    fn uptime_adds_up_over_boots_and_does_not_follow_the_wall_clock() {
        let (_dir, layout, fs) = scratch();
        let clock = ManualClock::at(Utc.with_ymd_and_hms(2026, 1, 1, 0, 0, 0).unwrap());
        let uptime = Uptime::load(&fs, &layout, &clock);
        assert_eq!(uptime.seconds(&clock), 0);
        clock.advance(Duration::from_secs(100));
        clock.step_to(Utc.with_ymd_and_hms(2030, 1, 1, 0, 0, 0).unwrap());
        uptime.save(&fs, &layout, &clock, 0).unwrap();
        clock.reboot();
        clock.advance(Duration::from_secs(7));
        assert_eq!(Uptime::load(&fs, &layout, &clock).seconds(&clock), 107);
    }
}
