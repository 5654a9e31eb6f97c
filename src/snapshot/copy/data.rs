//! The bytes of one file into another: shared where the file system can, else its stretches of data; holes stay holes.
//!
//! A clone of the whole file first (FICLONE). Where that is not to be had, on file systems that share extents, a copy of each
//! stretch inside the kernel, which shares them as well; and everywhere else reading and writing (`blocks`).
//!
//! Knows nothing of trees, names or attributes, and never writes to a file that it was not given as new.

use super::Flow;
use super::blocks::Job;
use crate::snapshot::digest::digest_of;
use crate::store::fs::{Fs, FsError};
use nix::errno::Errno;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes that the kernel shares at once, so that a request to stop is heard.
const RANGE: u64 = 256 << 20;

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

/// Copies files' bytes; remembers for one pair of trees what works there.
#[derive(Debug)]
pub struct Cloner<'a> {
    fs: &'a Fs,
    flow: Flow<'a>,
    try_reflink: AtomicBool,
    /// Whether a copy inside the kernel shares extents there: looked up once, and given up where it is refused.
    try_ranges: OnceLock<AtomicBool>,
    cache: Cache,
}

/// What is to become of the pages that a copy brings into the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cache {
    /// They stay: somebody is about to use the copy, or to copy the same file again.
    Keep,
    /// They go, as soon as they are on the disk.
    Leave,
}

impl<'a> Cloner<'a> {
    /// A cloner for one source tree and one destination.
    #[must_use]
    pub fn new(fs: &'a Fs, flow: Flow<'a>) -> Self {
        Self { fs, flow, try_reflink: AtomicBool::new(true), try_ranges: OnceLock::new(), cache: Cache::Keep }
    }

    /// A cloner that clones no whole files.
    #[must_use]
    pub fn without_reflink(fs: &'a Fs, flow: Flow<'a>) -> Self {
        Self { try_reflink: AtomicBool::new(false), ..Self::new(fs, flow) }
    }

    /// A cloner that only reads and writes.
    #[must_use]
    pub fn without_sharing(fs: &'a Fs, flow: Flow<'a>) -> Self {
        Self { try_ranges: AtomicBool::new(false).into(), ..Self::without_reflink(fs, flow) }
    }

    /// The same, leaving the page cache as it was found, as far as the copy has not to be written first.
    #[must_use]
    pub fn leaving_cache(self) -> Self {
        Self { cache: Cache::Leave, ..self }
    }

    /// Fills the new, empty file `to` with the first `size` bytes of `from`; a reflink takes the file as it is.
    ///
    /// # Errors
    /// [`DataError`]; also EIO and ENOSPC of a reflink: those are not reasons to try a copy.
    pub fn fill(&self, from: &File, from_path: &Path, to: &File, to_path: &Path, size: u64) -> Result<Method, DataError> {
        self.fill_and_hash((from, from_path), (to, to_path), size, false).map(|(method, _)| method)
    }

    /// The same, with the digest of what was written if its bytes went by here: that is read once, not twice.
    ///
    /// # Errors
    /// Those of [`Cloner::fill`].
    pub(crate) fn fill_and_hash(
        &self,
        from: (&File, &Path),
        to: (&File, &Path),
        size: u64,
        hash: bool,
    ) -> Result<(Method, Option<String>), DataError> {
        if self.flow.is_cancelled() {
            return Err(DataError::Cancelled);
        }
        if size == 0 {
            return Ok((Method::Copied, hash.then(|| digest_of(0, Vec::new()))));
        }
        if self.reflink(from, to, size)? {
            return Ok((Method::Reflink, None));
        }
        self.fs.set_len(to.0, to.1, size)?;
        let stretches = stretches(self.fs, from.0, from.1, size)?;
        if self.shares_ranges(from.0, to.0) && self.copy_ranges(from, to, &stretches)? {
            return Ok((Method::Copied, None));
        }
        let hashes = Job { hash, ..self.job(from, to, size) }.run(&stretches)?;
        Ok((Method::Copied, hash.then(|| digest_of(size, hashes))))
    }

    /// Shares all extents; false if that is not to be had.
    fn reflink(&self, from: (&File, &Path), to: (&File, &Path), size: u64) -> Result<bool, DataError> {
        if !self.try_reflink.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match self.fs.reflink(from.0, to.0, to.1) {
            Ok(()) => {
                self.flow.progress.advance(size);
                Ok(true)
            }
            Err(e) if cannot_share(e.source) => {
                // EINVAL is about this pair of files (btrfs: one is nodatacow); the others are about the file systems.
                if e.source != Errno::EINVAL {
                    self.try_reflink.store(false, Ordering::Relaxed);
                }
                Ok(false)
            }
            Err(e) => Err(e.into()),
        }
    }

    fn job<'j>(&'j self, from: (&'j File, &'j Path), to: (&'j File, &'j Path), size: u64) -> Job<'j> {
        Job { fs: self.fs, flow: self.flow, from, to, size, hash: false, cache: self.cache }
    }

    fn shares_ranges(&self, from: &File, to: &File) -> bool {
        self.try_ranges.get_or_init(|| self.fs.shares_ranges(from, to).into()).load(Ordering::Relaxed)
    }

    /// Shares the extents of each stretch; false if the kernel will not: what it took before is then copied again.
    fn copy_ranges(&self, from: (&File, &Path), to: (&File, &Path), stretches: &[Range<u64>]) -> Result<bool, DataError> {
        for stretch in stretches {
            let mut rest = stretch.clone();
            while !rest.is_empty() {
                if self.flow.is_cancelled() {
                    return Err(DataError::Cancelled);
                }
                match self.fs.copy_range(from.0, to.0, to.1, rest.start..rest.end.min(rest.start + RANGE)) {
                    Ok(0) => return Err(DataError::Short { path: from.1.to_owned() }),
                    Ok(taken) => {
                        rest.start += taken;
                        self.flow.progress.advance(taken);
                    }
                    Err(e) if cannot_share(e.source) => {
                        if let Some(tries) = self.try_ranges.get() {
                            tries.store(false, Ordering::Relaxed);
                        }
                        return Ok(false);
                    }
                    Err(e) => return Err(e.into()),
                }
            }
        }
        Ok(true)
    }
}

/// Errors of FICLONE and copy_file_range that only say that it is not to be had.
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
        assert_eq!(Cloner::without_sharing(&fs, flow).fill(&from, &from_path, &to, &to_path, size).unwrap(), Method::Copied);
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
        // The file system says that there is more than there is to read: to ask for it finds the end.
        let short = Cloner::without_sharing(&fs, Flow::quiet());
        let job = short.job((&from, &from_path), (&to, &to_path), 9000);
        assert!(matches!(job.run(std::slice::from_ref(&(0..9000))), Err(DataError::Short { .. })));
        let stop = AtomicBool::new(true);
        let flow = Flow { cancelled: &stop, ..Flow::quiet() };
        assert!(matches!(Cloner::new(&fs, flow).fill(&from, &from_path, &to, &to_path, 5000), Err(DataError::Cancelled)));
    }
}
