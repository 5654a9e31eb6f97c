//! The bytes of one file into another: shared where the file system can, else its stretches of data; holes stay holes.
//!
//! Knows nothing of trees, names or attributes, and never writes to a file that it was not given as new.

use super::Flow;
use crate::store::fs::{Fs, FsError};
use nix::errno::Errno;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes read and written at once: measured, see bench/README.md.
pub(crate) const CHUNK: usize = 1 << 20;

/// Below this many bytes of data a second thread costs more than it brings.
const WORTH_THREADS: u64 = 32 << 20;

/// How the bytes of a file got where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// Its extents are shared with the original's.
    Reflink,
    /// Its data was read and written.
    Copied,
}

/// Why a file's bytes were not copied.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] FsError),
    /// The work was told to stop.
    #[error("stopped before the copy was complete")]
    Cancelled,
    /// The source ended before the length it had: somebody cut it short.
    #[error("{} became shorter while it was read", path.display())]
    Short {
        /// The source.
        path: PathBuf,
    },
}

/// Copies files' bytes; remembers for one pair of trees whether reflinks work there.
#[derive(Debug)]
pub struct Cloner<'a> {
    fs: &'a Fs,
    flow: Flow<'a>,
    try_reflink: AtomicBool,
}

impl<'a> Cloner<'a> {
    /// A cloner for one source tree and one destination.
    #[must_use]
    pub fn new(fs: &'a Fs, flow: Flow<'a>) -> Self {
        Self { fs, flow, try_reflink: AtomicBool::new(true) }
    }

    /// A cloner that only reads and writes.
    #[must_use]
    pub fn without_reflink(fs: &'a Fs, flow: Flow<'a>) -> Self {
        Self { fs, flow, try_reflink: AtomicBool::new(false) }
    }

    /// Fills the new, empty file `to` with the first `size` bytes of `from`; a reflink takes the file as it is.
    ///
    /// # Errors
    /// [`DataError`]; also EIO and ENOSPC of a reflink: those are not reasons to try a copy.
    pub fn fill(&self, from: &File, from_path: &Path, to: &File, to_path: &Path, size: u64) -> Result<Method, DataError> {
        if self.flow.is_cancelled() {
            return Err(DataError::Cancelled);
        }
        if size == 0 {
            return Ok(Method::Copied);
        }
        if self.try_reflink.load(Ordering::Relaxed) {
            match self.fs.reflink(from, to, to_path) {
                Ok(()) => {
                    self.flow.progress.advance(size);
                    return Ok(Method::Reflink);
                }
                Err(e) if cannot_share(e.source) => {
                    // EINVAL is about this pair of files (btrfs: one is nodatacow); the others are about the file systems.
                    if e.source != Errno::EINVAL {
                        self.try_reflink.store(false, Ordering::Relaxed);
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
        self.fs.set_len(to, to_path, size)?;
        let stretches = stretches(self.fs, from, from_path, size)?;
        let data: u64 = stretches.iter().map(|s| s.end - s.start).sum();
        let threads = if data < WORTH_THREADS { 1 } else { self.flow.threads };
        let chunks = chunks(&stretches);
        let length = usize::try_from(data).unwrap_or(CHUNK).min(CHUNK);
        Flow { threads, ..self.flow }.each(
            chunks.len(),
            || vec![0; length],
            |buffer, index| {
                let Some(chunk) = chunks.get(index) else { return Ok(()) };
                self.copy_chunk(buffer, (from, from_path), (to, to_path), chunk)
            },
        )?;
        Ok(Method::Copied)
    }

    fn copy_chunk(&self, buffer: &mut [u8], from: (&File, &Path), to: (&File, &Path), chunk: &Range<u64>) -> Result<(), DataError> {
        if self.flow.is_cancelled() {
            return Err(DataError::Cancelled);
        }
        let length = usize::try_from(chunk.end - chunk.start).unwrap_or(CHUNK);
        let part = buffer.get_mut(..length).unwrap_or_default();
        if self.fs.read_at(from.0, from.1, part, chunk.start)? < length {
            return Err(DataError::Short { path: from.1.to_owned() });
        }
        self.fs.write_at(to.0, to.1, part, chunk.start)?;
        self.flow.progress.advance(chunk.end - chunk.start);
        Ok(())
    }
}

/// Errors of FICLONE that only say that it is not to be had.
pub(crate) fn cannot_share(errno: Errno) -> bool {
    matches!(errno, Errno::EOPNOTSUPP | Errno::EXDEV | Errno::EINVAL | Errno::ENOTTY | Errno::ENOSYS)
}

/// The stretches of data among the first `size` bytes, in order. Moves the position of `file`.
pub(crate) fn stretches(fs: &Fs, file: &File, path: &Path, size: u64) -> Result<Vec<Range<u64>>, FsError> {
    let mut all = Vec::new();
    let mut from = 0;
    while from < size {
        let Some(data) = fs.next_data(file, path, from)? else { break };
        let stretch = data.start.min(size)..data.end.min(size);
        from = data.end.max(from + 1);
        if !stretch.is_empty() {
            all.push(stretch);
        }
    }
    Ok(all)
}

/// The stretches, cut into pieces of at most [`CHUNK`] at multiples of it.
fn chunks(stretches: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut all = Vec::with_capacity(stretches.len());
    for stretch in stretches {
        let mut start = stretch.start;
        while start < stretch.end {
            let end = (start / CHUNK as u64 + 1).saturating_mul(CHUNK as u64).min(stretch.end);
            all.push(start..end);
            start = end;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "tests look at files by other means than the code under test")]

    use super::*;
    use crate::store::fs::{Gate, Op};
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    fn file(dir: &Path, name: &str) -> (File, PathBuf) {
        let path = dir.join(name);
        (Fs::real().create(&path, 0o600).unwrap(), path)
    }

    #[test]
    fn a_stretch_is_cut_at_multiples_of_a_chunk() {
        let mib = CHUNK as u64;
        assert_eq!(chunks(&[5..10, mib - 1..2 * mib + 1]), [5..10, mib - 1..mib, mib..2 * mib, 2 * mib..2 * mib + 1]);
    }

    #[test]
    fn data_arrives_with_many_threads_and_holes_stay_holes() {
        let temp = tempfile::tempdir().unwrap();
        let fs = Fs::real();
        let (from, from_path) = file(temp.path(), "from");
        let size = 200 << 20;
        fs.set_len(&from, &from_path, size).unwrap();
        let block: Vec<u8> = (0..5 << 20).map(|i: u32| i.to_le_bytes()[0] ^ i.to_le_bytes()[2]).collect();
        for at in (0..8).map(|i| i * (25 << 20) + 4096) {
            fs.write_at(&from, &from_path, &block, at).unwrap();
        }
        let (to, to_path) = file(temp.path(), "to");
        let flow = Flow { threads: 3, ..Flow::quiet() };
        assert_eq!(Cloner::without_reflink(&fs, flow).fill(&from, &from_path, &to, &to_path, size).unwrap(), Method::Copied);
        assert!(std::fs::read(&from_path).unwrap() == std::fs::read(&to_path).unwrap());
        assert!(fs.stat(&to_path).unwrap().allocated < 41 << 20);
    }

    #[derive(Debug)]
    struct NoReflink(Errno, AtomicU64);
    impl Gate for NoReflink {
        fn before(&self, op: Op, _path: &Path) -> Result<(), Errno> {
            if op != Op::Reflink {
                return Ok(());
            }
            self.1.fetch_add(1, Ordering::SeqCst);
            Err(self.0)
        }
    }

    #[test]
    fn a_file_system_without_reflinks_is_asked_once_and_a_broken_disk_is_an_error() {
        let temp = tempfile::tempdir().unwrap();
        for (errno, asked, works) in
            [(Errno::EOPNOTSUPP, 1, true), (Errno::EINVAL, 3, true), (Errno::ENOSPC, 3, false), (Errno::EIO, 3, false)]
        {
            let gate = Arc::new(NoReflink(errno, AtomicU64::new(0)));
            let fs = Fs::gated(gate.clone());
            let cloner = Cloner::new(&fs, Flow::quiet());
            for i in 0..3 {
                let (from, from_path) = file(temp.path(), &format!("from-{errno:?}-{i}"));
                fs.write_at(&from, &from_path, b"data", 0).unwrap();
                let (to, to_path) = file(temp.path(), &format!("to-{errno:?}-{i}"));
                assert_eq!(cloner.fill(&from, &from_path, &to, &to_path, 4).is_ok(), works, "{errno}");
            }
            assert_eq!(gate.1.load(Ordering::SeqCst), asked, "{errno}");
        }
    }

    #[test]
    fn a_source_that_is_cut_short_and_a_request_to_stop_end_the_copy() {
        let temp = tempfile::tempdir().unwrap();
        let fs = Fs::real();
        let (from, from_path) = file(temp.path(), "from");
        fs.write_at(&from, &from_path, &[1; 5000], 0).unwrap();
        let (to, to_path) = file(temp.path(), "to");
        // Five thousand bytes lie in two blocks; to ask for more than there is finds the end.
        let short =
            Cloner::without_reflink(&fs, Flow::quiet()).copy_chunk(&mut [0; 9000], (&from, &from_path), (&to, &to_path), &(0..9000));
        assert!(matches!(short, Err(DataError::Short { .. })));
        let stop = AtomicBool::new(true);
        let flow = Flow { cancelled: &stop, ..Flow::quiet() };
        assert!(matches!(Cloner::new(&fs, flow).fill(&from, &from_path, &to, &to_path, 5000), Err(DataError::Cancelled)));
    }
}
