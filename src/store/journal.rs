//! An append-only file of checksummed frames. A frame holds all records of one group commit: it is there whole or not at all.
//!
//! A bad last frame is a torn tail and is cut: nobody was told of it. A bad frame with a good one behind it means
//! damage: the file is left alone. After a failed write or sync nothing more goes through that descriptor, since the
//! kernel may have dropped the pages that failed (fsync(2), "errors").

use super::fs::{Fs, FsError};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The format that this version writes.
const FORMAT: u32 = 1;
/// No journal is longer.
const LIMIT: u64 = 1 << 30;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] FsError),
    /// A frame before the last is bad.
    #[error("{} is damaged at byte {offset}: {why}; it is kept as it is, move it away only if no fork matters", path.display())]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// Where the bad frame begins.
        offset: usize,
        /// What is wrong with it.
        why: String,
    },
    /// A later version wrote it.
    #[error("{} has format {found}, newer than {FORMAT}: use a newer snapkeep", path.display())]
    Newer {
        /// The journal.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// An earlier write or sync failed; a restart reads what is really there.
    #[error("{} had a failed write and takes no more: {why}; restart the worker", path.display())]
    Poisoned {
        /// The journal.
        path: PathBuf,
        /// The failure.
        why: String,
    },
    /// A record cannot be put into words.
    #[error("cannot encode a record for {}: {source}", path.display())]
    Encode {
        /// The journal.
        path: PathBuf,
        /// The reason.
        source: serde_json::Error,
    },
}

/// An open journal of records `R`.
#[derive(Debug)]
pub struct Journal<R> {
    fs: Fs,
    path: PathBuf,
    file: File,
    poisoned: Option<String>,
    bytes: u64,
    /// Records that the next frame takes along.
    deferred: Vec<R>,
}

/// What a journal held when it was opened.
#[derive(Debug)]
pub struct Replay<R> {
    /// The records in order.
    pub records: Vec<R>,
    /// Bytes of a torn last frame that were cut.
    pub torn_bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
}

/// Length of a frame's head: eight hex digits of the body's length, sixteen of its checksum, a space behind each.
const HEAD: usize = 8 + 1 + 16 + 1;

pub(crate) fn frame<T: Serialize>(path: &Path, body: &T) -> Result<Vec<u8>, JournalError> {
    let body = serde_json::to_vec(body).map_err(|source| JournalError::Encode { path: path.to_owned(), source })?;
    let mut line = format!("{:08x} {} ", body.len(), checksum(&body)).into_bytes();
    line.extend_from_slice(&body);
    line.push(b'\n');
    Ok(line)
}

/// Sixteen hex digits of BLAKE3 over a frame's JSON.
fn checksum(body: &[u8]) -> String {
    blake3::hash(body).to_hex().chars().take(16).collect()
}

/// The frame that begins at `offset`, if a good one does: its JSON, and where the next begins.
fn frame_at(bytes: &[u8], offset: usize) -> Option<(&[u8], usize)> {
    let head = std::str::from_utf8(bytes.get(offset..offset + HEAD)?).ok()?;
    let (len, rest) = head.split_once(' ')?;
    let len = usize::from_str_radix(len, 16).ok()?;
    let begin = offset + HEAD;
    let body = bytes.get(begin..begin.checked_add(len)?)?;
    let good = rest.strip_suffix(' ')? == checksum(body) && bytes.get(begin + len) == Some(&b'\n');
    good.then_some((body, begin + len + 1))
}

/// The JSON of good frames, and the length of the part they fill.
type Frames<'a> = (Vec<&'a [u8]>, usize);

/// Splits a journal's bytes into good frames and the length of the good part; `Err` with offset and reason if damaged.
/// What is bad is a torn tail only if no other frame, good or bad, is behind it.
fn good_frames(bytes: &[u8]) -> Result<Frames<'_>, (usize, &'static str)> {
    let (mut frames, mut good) = (Vec::new(), 0);
    while let Some((body, next)) = frame_at(bytes, good) {
        frames.push(body);
        good = next;
    }
    if (good + 1..bytes.len()).any(|offset| frame_at(bytes, offset).is_some()) {
        return Err((good, "a bad record with good ones behind it"));
    }
    // JSON has no line break in it: a frame that never became whole has none but at its very end.
    let bad = bytes.get(good..bytes.len().saturating_sub(1)).unwrap_or_default();
    if bad.contains(&b'\n') {
        return Err((good, "a bad record with others behind it"));
    }
    Ok((frames, good))
}

impl<R: Serialize + for<'de> Deserialize<'de>> Journal<R> {
    /// Reads a journal without changing it: for looking while somebody else writes.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn peek(fs: &Fs, path: &Path) -> Result<Vec<R>, JournalError> {
        match fs.read_small(path, LIMIT) {
            Ok(bytes) => Ok(parse(path, &bytes)?.0),
            Err(e) if e.is_not_found() => Ok(Vec::new()),
            Err(e) => Err(e.into()),
        }
    }

    /// Opens a journal, cuts a torn tail, and gives back what it holds; makes it if it is not there.
    ///
    /// # Errors
    /// [`JournalError`]; the file is left as it is.
    pub fn open(fs: &Fs, path: &Path) -> Result<(Self, Replay<R>), JournalError> {
        let bytes = match fs.read_small(path, LIMIT) {
            Ok(bytes) => bytes,
            Err(e) if e.is_not_found() => Vec::new(),
            Err(e) => return Err(e.into()),
        };
        let (records, good) = parse(path, &bytes)?;
        let torn_bytes = (bytes.len() - good) as u64;
        // A torn tail is not cut in place: the good part is written anew, and the old file goes by the rename.
        if good == 0 || torn_bytes > 0 {
            return Ok((Self::rewrite(fs, path, &records)?, Replay { records, torn_bytes }));
        }
        let file = fs.open_append(path)?;
        let journal = Self { fs: fs.clone(), path: path.to_owned(), file, poisoned: None, bytes: good as u64, deferred: Vec::new() };
        Ok((journal, Replay { records, torn_bytes }))
    }

    /// Writes a new journal with these records and puts it in the place of the old one.
    fn rewrite(fs: &Fs, path: &Path, records: &[R]) -> Result<Self, JournalError> {
        let mut bytes = frame(path, &Header { format: FORMAT })?;
        if !records.is_empty() {
            bytes.extend(frame(path, &records)?);
        }
        fs.replace_record(path, &bytes)?;
        let file = fs.open_append(path)?;
        Ok(Self { fs: fs.clone(), path: path.to_owned(), file, poisoned: None, bytes: bytes.len() as u64, deferred: Vec::new() })
    }

    /// Appends records as one frame, behind those that were deferred, and makes them durable.
    ///
    /// # Errors
    /// [`JournalError`]. After an I/O failure it is not known whether the frame will be found after a restart,
    /// and every later call fails.
    pub fn append(&mut self, records: &[R]) -> Result<(), JournalError> {
        self.append_before(records, |_, _| Ok(()))
    }

    /// The same, with something to be done between writing and syncing, which may make the sync cheap: it is given the file and its path.
    ///
    /// # Errors
    /// Those of [`Journal::append`]; a failure in between counts as one of the sync.
    pub fn append_before(&mut self, records: &[R], then: impl FnOnce(&File, &Path) -> Result<(), FsError>) -> Result<(), JournalError> {
        let all: Vec<&R> = self.deferred.iter().chain(records).collect();
        if all.is_empty() {
            return Ok(());
        }
        self.usable()?;
        let bytes = frame(&self.path, &all)?;
        let written = self.fs.write_all(&self.file, &self.path, &bytes).and_then(|()| then(&self.file, &self.path));
        let written = written.and_then(|()| self.fs.fdatasync(&self.file, &self.path));
        if let Err(e) = written {
            self.poisoned = Some(e.to_string());
            return Err(e.into());
        }
        self.deferred.clear();
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Keeps records for the next frame: for those that a start finds out without them, or does without. They are not written at once,
    /// since two frames that are not durable could reach the disk in the wrong order, which would be damage.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`].
    pub fn defer(&mut self, records: impl IntoIterator<Item = R>) -> Result<(), JournalError> {
        self.usable()?;
        self.deferred.extend(records);
        Ok(())
    }

    /// Writes down what was deferred.
    ///
    /// # Errors
    /// Those of [`Journal::append`].
    pub fn flush(&mut self) -> Result<(), JournalError> {
        self.append(&[])
    }

    /// Puts a journal with only these records in the place of this one; they say what was deferred as well.
    ///
    /// # Errors
    /// [`JournalError`]; the old journal goes on, if it is still the one that a start would read. If not, every later call
    /// fails: what is appended to a file that has no name any more is lost.
    pub fn compact(&mut self, records: &[R]) -> Result<(), JournalError> {
        self.usable()?;
        match Self::rewrite(&self.fs, &self.path, records) {
            Ok(new) => *self = new,
            Err(e) => {
                if !self.is_at_its_path() {
                    self.poisoned = Some(e.to_string());
                }
                return Err(e);
            }
        }
        Ok(())
    }

    /// Whether the file that is appended to is the one that has the journal's name; no, if it cannot be told.
    fn is_at_its_path(&self) -> bool {
        let ours = self.fs.stat_open(&self.file, &self.path);
        let named = self.fs.stat_if_there(&self.path);
        matches!((ours, named), (Ok(ours), Ok(Some(named))) if ours.file_id == named.file_id)
    }

    /// Fails if an earlier write failed.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`].
    pub fn usable(&self) -> Result<(), JournalError> {
        match &self.poisoned {
            Some(why) => Err(JournalError::Poisoned { path: self.path.clone(), why: why.clone() }),
            None => Ok(()),
        }
    }

    /// Its length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The records of a journal's bytes, and the length of its good part.
pub(crate) fn parse<R: for<'de> Deserialize<'de>>(path: &Path, bytes: &[u8]) -> Result<(Vec<R>, usize), JournalError> {
    let damaged = |offset, why| JournalError::Damaged { path: path.to_owned(), offset, why };
    let (frames, good) = good_frames(bytes).map_err(|(offset, why)| damaged(offset, why.to_owned()))?;
    let mut frames = frames.into_iter();
    let Some(first) = frames.next() else { return Ok((Vec::new(), 0)) };
    let header: Header = serde_json::from_slice(first).map_err(|e| damaged(0, e.to_string()))?;
    if header.format > FORMAT {
        return Err(JournalError::Newer { path: path.to_owned(), found: header.format });
    }
    let mut records = Vec::new();
    for body in frames {
        let offset = body.as_ptr() as usize - bytes.as_ptr() as usize;
        let group: Vec<R> = serde_json::from_slice(body).map_err(|e| damaged(offset, e.to_string()))?;
        records.extend(group);
    }
    Ok((records, good))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests scribble on the file")]
mod tests {
    use super::*;
    use crate::store::fs::FailNth;
    use nix::errno::Errno;
    use std::sync::Arc;

    fn three_frames() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, _) = Journal::<u32>::open(&Fs::real(), &path).unwrap();
        for group in [&[1, 2][..], &[3], &[4, 5, 6]] {
            journal.append(group).unwrap();
        }
        (dir, path)
    }

    #[test]
    fn a_journal_cut_at_any_byte_gives_back_whole_groups_only() {
        let (_dir, path) = three_frames();
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (mut journal, replay) = Journal::<u32>::open(&Fs::real(), &path).unwrap();
            assert!([&[][..], &[1, 2], &[1, 2, 3]].contains(&&replay.records[..]), "cut at {cut}: {:?}", replay.records);
            journal.append(&[9]).unwrap();
            let again = Journal::<u32>::open(&Fs::real(), &path).unwrap().1;
            assert_eq!(again.records.last(), Some(&9));
            assert_eq!(again.torn_bytes, 0);
        }
    }

    #[test]
    fn a_bad_byte_before_the_last_frame_is_damage_and_the_file_stays_as_it_is() {
        let (_dir, path) = three_frames();
        let whole = std::fs::read(&path).unwrap();
        let last = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
        assert!(frame_at(&whole, last).is_some());
        for at in 0..last {
            let mut bad = whole.clone();
            bad[at] ^= 0x40;
            std::fs::write(&path, &bad).unwrap();
            assert!(matches!(Journal::<u32>::open(&Fs::real(), &path), Err(JournalError::Damaged { .. })), "byte {at}");
            assert_eq!(std::fs::read(&path).unwrap(), bad);
        }
    }

    #[test]
    fn two_bad_frames_at_the_end_are_damage_and_no_torn_tail() {
        let (_dir, path) = three_frames();
        let mut bytes = std::fs::read(&path).unwrap();
        let breaks: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == b'\n').collect();
        for end in &breaks[breaks.len() - 2..] {
            bytes[end - 2] ^= 0x40;
        }
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(Journal::<u32>::open(&Fs::real(), &path), Err(JournalError::Damaged { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn whatever_call_of_a_compaction_fails_no_record_that_is_acknowledged_behind_it_is_lost() {
        let (mut points, mut is_over) = (0, false);
        while !is_over {
            let (_dir, path) = three_frames();
            points += 1;
            // The first call opens for appending.
            let gate = Arc::new(FailNth::new(points + 1, Errno::EIO));
            let (mut journal, _) = Journal::<u32>::open(&Fs::gated(Arc::clone(&gate) as _), &path).unwrap();
            is_over = journal.compact(&[6]).is_ok() && gate.seen() <= points;
            let acknowledged = journal.append(&[7]).is_ok();
            let found = Journal::<u32>::peek(&Fs::real(), &path).unwrap();
            assert!(found.contains(&6) && found.contains(&7) == acknowledged, "call {points}: {found:?}, {acknowledged}");
        }
        assert!(points > 5, "{points}");
    }

    #[test]
    fn deferred_records_come_with_the_next_frame_in_front_of_it_or_when_they_are_flushed() {
        let (_dir, path) = three_frames();
        let (mut journal, _) = Journal::<u32>::open(&Fs::real(), &path).unwrap();
        let read = || Journal::<u32>::peek(&Fs::real(), &path).unwrap();
        journal.defer([7, 8]).unwrap();
        assert_eq!(read(), [1, 2, 3, 4, 5, 6]);
        journal.append(&[9]).unwrap();
        assert_eq!(read(), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        journal.defer([10]).unwrap();
        journal.flush().unwrap();
        assert_eq!(read().last(), Some(&10));
        let bytes = journal.bytes();
        journal.flush().unwrap();
        assert_eq!(journal.bytes(), bytes);
    }

    #[test]
    fn after_a_failed_sync_nothing_more_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        drop(Journal::<u32>::open(&Fs::real(), &path).unwrap());
        // Open for append, write, sync: the third call fails.
        let fs = Fs::gated(Arc::new(FailNth::new(3, Errno::EIO)));
        let (mut journal, _) = Journal::<u32>::open(&fs, &path).unwrap();
        assert!(matches!(journal.append(&[1]), Err(JournalError::Io(_))));
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(journal.append(&[2]), Err(JournalError::Poisoned { .. })));
        assert!(matches!(journal.compact(&[2]), Err(JournalError::Poisoned { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}
