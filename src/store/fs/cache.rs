//! The page cache: what a copy brought in goes out again, and what was there before stays.
//!
//! A snapshot is written once and rarely read; its gigabytes must not push the pages of running VMs out. `O_DIRECT` would
//! keep them out, but it wants aligned ends, and waits for the disk at each write: 512 MiB on ext4 took 2.2 to 6.5 s that
//! way, and 1.3 to 3.2 s through the cache before its sync (three rounds on a busy machine; with the sync 3.6 to 7.8 s). An
//! instance at rest waits for the copy and not for its sync. So the copy goes through the cache and its pages are dropped
//! behind it (posix_fadvise(2)); of the source only those that mincore(2) did not find before: a memory file that running
//! VMs map is in use.

use super::{Fs, FsError, Op, Result, sys};
use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::fs::File;
use std::ops::Range;
use std::path::Path;

/// A page; where pages are larger, less is dropped than could be.
const PAGE: u64 = 4096;
/// Asked for at once.
const PIECE: u64 = 64 << 20;
/// So far beyond what is read the kernel may read ahead.
const AHEAD: u64 = 1 << 20;

/// Stretches of a file that were not in the page cache at some moment, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Absent(Vec<Range<u64>>);

impl Absent {
    /// Of a file's first `size` bytes, within these stretches of data and where the kernel reads ahead behind them. Where it
    /// cannot be told nothing is absent, so that nothing is dropped.
    #[must_use]
    pub fn of(file: &File, size: u64, stretches: &[Range<u64>]) -> Self {
        let Ok(mapped) = sys::Mapped::new(file, size) else { return Self::default() };
        let mut absent: Vec<Range<u64>> = Vec::new();
        let mut asked = 0;
        for stretch in stretches {
            let end = stretch.end.saturating_add(AHEAD).min(size);
            let mut start = (stretch.start / PAGE * PAGE).max(asked);
            while start < end {
                let piece = start..(start + PIECE).min(end);
                let as_usize = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
                let pages = mapped.resident(as_usize(piece.start)..as_usize(piece.end), as_usize(PAGE));
                // One that could not be told counts as there.
                for (at, _) in pages.iter().flatten().enumerate().filter(|(_, page)| *page & 1 == 0) {
                    let from = piece.start + at as u64 * PAGE;
                    match absent.last_mut() {
                        Some(last) if last.end == from => last.end += PAGE,
                        _ => absent.push(from..from + PAGE),
                    }
                }
                start = piece.end.next_multiple_of(PAGE);
            }
            asked = asked.max(start);
        }
        Self(absent)
    }

    /// How many bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|stretch| stretch.end - stretch.start).sum()
    }

    /// Those among `within`.
    fn among(&self, within: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let first = self.0.partition_point(|stretch| stretch.end <= within.start);
        let (start, end) = (within.start, within.end);
        self.0.iter().skip(first).take_while(move |s| s.start < end).map(move |s| s.start.max(start)..s.end.min(end))
    }
}

impl Fs {
    /// Takes the clean pages of a stretch out of the page cache, and has dirty ones written. A hint: that it cannot be had
    /// changes nothing.
    pub fn drop_cached(&self, file: &File, range: Range<u64>) {
        let offset = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let length = offset(range.end.saturating_sub(range.start));
        let _ = posix_fadvise(file, offset(range.start), length, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }

    /// The same for the pages of a stretch that were absent.
    pub fn drop_what_was_absent(&self, file: &File, absent: &Absent, range: &Range<u64>) {
        absent.among(range).for_each(|stretch| self.drop_cached(file, stretch));
    }

    /// Has the kernel begin to write a stretch's dirty pages. A hint where it cannot be had; but a failure counts: ext4 gives up pages
    /// for which it finds no block, and says so to this call alone (fs/ext4/inode.c, `mpage_map_and_submit_extent`).
    pub fn begin_writing(&self, file: &File, path: &Path, range: Range<u64>) -> Result<()> {
        match sys::begin_writing(file, range) {
            Ok(()) | Err(Errno::ENOSYS | Errno::EPERM) => Ok(()),
            Err(source) => Err(FsError { op: Op::WriteOut, path: path.to_owned(), source }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "tests look at files by other means than the code under test")]

    use super::*;

    #[test]
    fn what_is_absent_is_cut_to_what_is_asked_for() {
        let absent = Absent(vec![0..4096, 8192..16384, 20480..24576]);
        let among = |range| absent.among(&range).collect::<Vec<_>>();
        assert_eq!(among(4096..8192), []);
        assert_eq!(among(0..10000), [0..4096, 8192..10000]);
        assert_eq!(among(12288..u64::MAX), [12288..16384, 20480..24576]);
    }

    #[test]
    fn what_cannot_begin_to_be_written_is_a_failure() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let pipe = File::from(std::os::fd::OwnedFd::from(reader));
        let failed = Fs::real().begin_writing(&pipe, Path::new("copy"), sys::WHOLE).unwrap_err();
        assert_eq!((failed.op, failed.source), (Op::WriteOut, Errno::ESPIPE));
    }

    #[test]
    fn pages_that_were_there_are_not_absent_and_stay() {
        // A file system with a disk behind it: what is in memory only cannot be dropped.
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let (fs, path) = (Fs::real(), dir.path().join("file"));
        std::fs::write(&path, vec![7; 64 * 4096]).unwrap();
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let whole = 0..64 * 4096;
        let of = || Absent::of(&file, whole.end, std::slice::from_ref(&whole)).0;
        assert_eq!(of(), [], "just written");
        file.sync_all().unwrap();
        fs.drop_cached(&file, 0..32 * 4096);
        if of().is_empty() {
            // tmpfs, or an overlay of one.
            return;
        }
        assert_eq!(of(), std::slice::from_ref(&(0..32 * 4096)));
        let absent = Absent::of(&file, whole.end, std::slice::from_ref(&whole));
        std::fs::read(&path).unwrap();
        assert_eq!(of(), []);
        fs.drop_what_was_absent(&file, &absent, &whole);
        assert_eq!(of(), std::slice::from_ref(&(0..32 * 4096)), "the other half is as it was");
    }
}
