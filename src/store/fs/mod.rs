//! The seam to the file system: every system call on the store and the instances root is made here.
//!
//! Each call that changes something asks the [`Gate`] first. The real program has none; tests put one in that fails
//! or stops everything at the nth call. Nothing here knows what a snapshot is, decides anything, or retries.

pub mod background;
mod below;
mod beneath;
mod cache;
mod commit;
mod gate;
mod list;
mod mounts;
mod order;
mod pace;
mod place;
mod rate;
mod read;
mod record;
mod rights;
pub mod sys;
mod tree;
mod walk;

pub use below::Below;
pub use cache::Absent;
pub use gate::{FailNth, Gate, Op, StopAfter};
pub use list::{DirEntry, Lister};
pub use order::{Commits, FileSystem};
pub use pace::Pace;
pub use place::{Dir, Place};
pub use rate::CopyRate;
pub use read::{FileType, Meta, Space};
pub use rights::gives_owners;
pub use tree::Remover;
pub use walk::Found;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags};
use nix::sys::stat::{Mode, UtimensatFlags};
use nix::unistd::UnlinkatFlags;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A system call that failed, with what it was to do and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {op} {}: {}", path.display(), source.desc())]
pub struct FsError {
    /// What was to be done.
    pub op: Op,
    /// The path it was to be done to.
    pub path: PathBuf,
    /// The kernel's answer (errno(3)).
    pub source: Errno,
}

impl FsError {
    /// True if the path, or a directory on the way to it, does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self.source, Errno::ENOENT | Errno::ENOTDIR)
    }

    /// True if there is no room for it, in blocks or in inodes.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.source, Errno::ENOSPC | Errno::EDQUOT)
    }

    /// True if the name is taken.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        matches!(self.source, Errno::EEXIST | Errno::ENOTEMPTY)
    }
}

/// A move that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotMoved {
    /// Why.
    pub error: FsError,
    /// Whether the name is the new one all the same, and perhaps not durably so.
    pub is_moved: bool,
}

/// What every operation of this module returns.
pub type Result<T> = std::result::Result<T, FsError>;

/// The file system as snapkeep uses it; clones share their gate.
#[derive(Debug, Clone, Default)]
pub struct Fs {
    gate: Option<Arc<dyn Gate>>,
    pace: Option<Pace>,
    copy_rate: Option<Arc<CopyRate>>,
    looks: order::Looks,
    lines: commit::Lines,
}

impl Fs {
    /// The kernel, nothing in between.
    #[must_use]
    pub fn real() -> Self {
        Self::default()
    }

    /// The kernel behind a gate that sees every write-like call before it is made.
    #[must_use]
    pub fn gated(gate: Arc<dyn Gate>) -> Self {
        Self { gate: Some(gate), ..Self::default() }
    }

    /// The same, unlinking at this pace.
    #[must_use]
    pub fn paced(&self, pace: Pace) -> Self {
        Self { pace: Some(pace), ..self.clone() }
    }

    /// The same, copying no more bytes a second than this, in all copies together.
    #[must_use]
    pub fn with_copy_rate(&self, rate: Arc<CopyRate>) -> Self {
        Self { copy_rate: Some(rate), ..self.clone() }
    }

    /// The same, copying as fast as it goes.
    #[must_use]
    pub fn without_copy_rate(&self) -> Self {
        Self { copy_rate: None, ..self.clone() }
    }

    /// To be called behind so many bytes of a copy: rests if all copies together are ahead of their rate, until `stop` is set.
    pub fn rest_after_copying(&self, bytes: u64, stop: &std::sync::atomic::AtomicBool) {
        if let Some(rate) = &self.copy_rate {
            rate.spend(bytes, stop);
        }
    }

    /// Asks the gate, makes the call, and gives a failure its path.
    fn change<T>(&self, op: Op, at: Place<'_>, call: impl FnOnce(Place<'_>) -> nix::Result<T>) -> Result<T> {
        if let Some(gate) = &self.gate {
            gate.before(op, &at.path()).map_err(|source| FsError { op, path: at.path(), source })?;
        }
        if !beneath::is_bounded(at) {
            return Err(at.failed(op, Errno::EXDEV));
        }
        let done = call(at).map_err(|source| FsError { op, path: at.path(), source })?;
        if let Some(gate) = &self.gate {
            gate.after(op, &at.path());
        }
        Ok(done)
    }

    /// Makes one directory (mkdirat(2)).
    pub fn mkdir<'a>(&self, at: impl Into<Place<'a>>, mode: u32) -> Result<()> {
        self.change(Op::Mkdir, at.into(), |p| nix::sys::stat::mkdirat(p.fd(), p.name(), Mode::from_bits_truncate(mode)))
    }

    /// Makes a directory unless it is there; true if it was made.
    pub fn mkdir_if_missing<'a>(&self, at: impl Into<Place<'a>>, mode: u32) -> Result<bool> {
        match self.mkdir(at, mode) {
            Ok(()) => Ok(true),
            Err(e) if e.source == Errno::EEXIST => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Makes a directory whose name is durable on return, unless it is there. One whose name cannot be made durable is
    /// taken back: found by the next try, it would be taken for durable.
    pub fn mkdir_durable(&self, path: &Path, mode: u32) -> Result<()> {
        if !self.mkdir_if_missing(path, mode)? {
            return Ok(());
        }
        self.fsync_dir(path.parent().unwrap_or(Path::new("/"))).inspect_err(|_| drop(self.rmdir(path)))
    }

    /// Makes a symbolic link that holds `target` (symlinkat(2)).
    pub fn symlink<'a>(&self, target: &OsStr, at: impl Into<Place<'a>>) -> Result<()> {
        self.change(Op::Symlink, at.into(), |p| nix::unistd::symlinkat(target, p.fd(), p.name()))
    }

    /// Gives the file at `from` one more name, never following a symbolic link (linkat(2)).
    pub fn hard_link<'a, 'b>(&self, from: impl Into<Place<'a>>, to: impl Into<Place<'b>>) -> Result<()> {
        let from = from.into();
        if !beneath::is_bounded(from) {
            return Err(from.failed(Op::Link, Errno::EXDEV));
        }
        self.change(Op::Link, to.into(), |to| nix::unistd::linkat(from.fd(), from.name(), to.fd(), to.name(), AtFlags::empty()))
    }

    /// Renames; fails with EEXIST if `to` is there (renameat2(2), `RENAME_NOREPLACE`).
    pub fn rename_new<'a, 'b>(&self, from: impl Into<Place<'a>>, to: impl Into<Place<'b>>) -> Result<()> {
        self.rename_with(from.into(), to.into(), RenameFlags::RENAME_NOREPLACE)
    }

    /// Renames over whatever is at `to` (for small records that are replaced whole).
    pub fn rename_over<'a, 'b>(&self, from: impl Into<Place<'a>>, to: impl Into<Place<'b>>) -> Result<()> {
        self.rename_with(from.into(), to.into(), RenameFlags::empty())
    }

    /// Exchanges two names in one step (renameat2(2), `RENAME_EXCHANGE`).
    pub fn exchange<'a, 'b>(&self, one: impl Into<Place<'a>>, other: impl Into<Place<'b>>) -> Result<()> {
        self.rename_with(one.into(), other.into(), RenameFlags::RENAME_EXCHANGE)
    }

    fn rename_with(&self, from: Place<'_>, to: Place<'_>, flags: RenameFlags) -> Result<()> {
        if !beneath::is_bounded(from) {
            return Err(from.failed(Op::Rename, Errno::EXDEV));
        }
        self.change(Op::Rename, to, |to| nix::fcntl::renameat2(from.fd(), from.name(), to.fd(), to.name(), flags))
    }

    /// Renames as [`Fs::rename_new`] does, and makes it durable by syncing `dirs`. If that fails the name is put back, so
    /// that who is told of a failure finds everything as it was.
    ///
    /// # Errors
    /// [`NotMoved`]; only if the name could not be put back either, it says that the move has happened.
    pub fn move_durably(&self, from: &Path, to: &Path, dirs: &[&Path]) -> std::result::Result<(), NotMoved> {
        self.move_and(from, to, || dirs.iter().try_for_each(|dir| self.fsync_dir(dir)))
    }

    /// The same with `sync` making it durable.
    ///
    /// # Errors
    /// [`NotMoved`], as above.
    pub fn move_and(&self, from: &Path, to: &Path, sync: impl FnOnce() -> Result<()>) -> std::result::Result<(), NotMoved> {
        self.rename_new(from, to).map_err(|error| NotMoved { error, is_moved: false })?;
        sync().map_err(|error| NotMoved { error, is_moved: self.rename_new(to, from).is_err() })
    }

    /// Makes a new file for writing; fails if the name is taken.
    pub fn create<'a>(&self, at: impl Into<Place<'a>>, mode: u32) -> Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        let mode = Mode::from_bits_truncate(mode);
        self.change(Op::Create, at.into(), |p| beneath::open(p, flags, mode)).map(File::from)
    }

    /// Opens an existing file of ours for appending, or makes it.
    pub fn open_append(&self, path: &Path) -> Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_APPEND;
        let mode = Mode::from_bits_truncate(0o600);
        self.change(Op::Create, path.into(), |p| beneath::open(p, flags, mode)).map(File::from)
    }

    /// Opens a blank file of ours that is to get its contents now, never one that was ever linked.
    pub fn open_to_fill<'a>(&self, at: impl Into<Place<'a>>) -> Result<File> {
        let at = at.into();
        let fd = beneath::open(at, OFlag::O_RDWR | OFlag::O_NONBLOCK, Mode::empty()).map_err(|e| at.failed(Op::Open, e))?;
        Ok(File::from(fd))
    }

    /// Writes all of `bytes` at the file's position; `path` is for the error only.
    pub fn write_all(&self, file: &File, path: &Path, bytes: &[u8]) -> Result<()> {
        self.write_on(path, bytes, |rest, _| nix::unistd::write(file, rest))
    }

    /// Writes all of `bytes` at `offset` (pwrite(2)).
    pub fn write_at(&self, file: &File, path: &Path, bytes: &[u8], offset: u64) -> Result<()> {
        self.write_on(path, bytes, |rest, done| {
            let at = offset.checked_add(done as u64).and_then(|at| i64::try_from(at).ok()).ok_or(Errno::EFBIG)?;
            nix::sys::uio::pwrite(file, rest, at)
        })
    }

    /// Writes until the kernel has taken every byte: it may take fewer than it is given, and then goes on behind them or
    /// says why it cannot. Each try is a call of its own to the gate.
    fn write_on(&self, path: &Path, bytes: &[u8], write: impl Fn(&[u8], usize) -> nix::Result<usize>) -> Result<()> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let takes = self.gate.as_ref().map_or(rest.len(), |gate| gate.takes(path, rest.len()));
            let part = rest.get(..takes).unwrap_or(rest);
            match self.change(Op::Write, path.into(), |_| write(part, done)) {
                Ok(0) => return Err(FsError { op: Op::Write, path: path.to_owned(), source: Errno::EIO }),
                Ok(n) => done += n,
                Err(e) if e.source == Errno::EINTR => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Sets a new file's length, leaving a hole (ftruncate(2)); never for a file that was ever linkable.
    pub fn set_len(&self, file: &File, path: &Path, len: u64) -> Result<()> {
        self.change(Op::Truncate, path.into(), |_| nix::unistd::ftruncate(file, i64::try_from(len).map_err(|_| Errno::EFBIG)?))
    }

    /// Shares all extents of `from` with the new file `to` (ioctl_ficlone(2)).
    pub fn reflink(&self, from: &File, to: &File, path: &Path) -> Result<()> {
        self.change(Op::Reflink, path.into(), |_| sys::ficlone(to, from))
    }

    /// Copies a stretch of `from` to the same place in `to` inside the kernel, which shares its extents where it can
    /// (copy_file_range(2)); the number of bytes that it took, 0 at the end of `from`.
    pub fn copy_range(&self, from: &File, to: &File, path: &Path, range: std::ops::Range<u64>) -> Result<u64> {
        self.change(Op::Write, path.into(), |_| sys::copy_range(from, to, range.clone()))
    }

    /// Makes a file's data and metadata durable (fsync(2)).
    pub fn fsync(&self, file: impl AsFd, path: &Path) -> Result<()> {
        self.change(Op::Fsync, path.into(), |_| nix::unistd::fsync(file))
    }

    /// Makes a file's data durable, with the metadata needed to read it (fdatasync(2)).
    pub fn fdatasync(&self, file: &File, path: &Path) -> Result<()> {
        self.change(Op::Fsync, path.into(), |_| nix::unistd::fdatasync(file))
    }

    /// Writes a file's dirty pages out, so that the next write through a mapping faults and sets the file's times. Where the
    /// page cache is known to be the file's own, without a flush of the disk's cache: nothing has to be durable here, and an
    /// instance at rest would wait for everybody's. Elsewhere (an overlay has the pages in a file below) as a sync.
    pub fn write_out(&self, file: &File, path: &Path) -> Result<()> {
        if !self.has_own_pages(file) {
            return self.fdatasync(file, path);
        }
        match self.change(Op::Fsync, path.into(), |_| sys::write_out(file)) {
            // A sandbox that does not know the call.
            Err(e) if matches!(e.source, Errno::ENOSYS | Errno::EPERM) => self.fdatasync(file, path),
            done => done,
        }
    }

    /// Makes a directory's entries durable.
    pub fn fsync_dir(&self, path: &Path) -> Result<()> {
        let dir = self.open_dir(path)?;
        self.fsync(&dir, path)
    }

    /// Makes all of a file system durable (syncfs(2)): one call for a burst. `dir` must be open since before the first write that
    /// counts: of what the kernel failed to write before that, somebody else may have been told instead.
    pub fn syncfs(&self, dir: &Dir) -> Result<()> {
        self.change(Op::Syncfs, dir.path().into(), |_| nix::unistd::syncfs(dir))
    }

    /// Removes one name that is not a directory.
    pub fn unlink<'a>(&self, at: impl Into<Place<'a>>) -> Result<()> {
        let at = at.into();
        let unlink = || self.change(Op::Unlink, at, |p| nix::unistd::unlinkat(p.fd(), p.name(), UnlinkatFlags::NoRemoveDir));
        let Some(pace) = &self.pace else { return unlink() };
        if !pace.rest(pace.rest) {
            return Err(at.failed(Op::Unlink, Errno::ECANCELED));
        }
        let freed = match pace.bytes {
            Some(_) => self.stat_if_there(at)?.filter(|meta| meta.links == 1).map_or(0, |meta| meta.allocated),
            None => 0,
        };
        unlink()?;
        pace.rest(pace.after(freed));
        Ok(())
    }

    /// Removes an empty directory.
    pub fn rmdir<'a>(&self, at: impl Into<Place<'a>>) -> Result<()> {
        self.change(Op::Unlink, at.into(), |p| nix::unistd::unlinkat(p.fd(), p.name(), UnlinkatFlags::RemoveDir))
    }

    /// Sets permission bits, set-id and sticky bits included, of an open file or directory (fchmod(2)).
    pub fn set_mode(&self, file: impl AsFd, path: &Path, mode: u32) -> Result<()> {
        self.change(Op::SetMeta, path.into(), |_| nix::sys::stat::fchmod(file, Mode::from_bits_truncate(mode)))
    }

    /// Sets owner and group without following a symbolic link (fchownat(2)).
    pub fn set_owner<'a>(&self, at: impl Into<Place<'a>>, uid: u32, gid: u32) -> Result<()> {
        self.change(Op::SetMeta, at.into(), |p| {
            nix::unistd::fchownat(p.fd(), p.name(), Some(uid.into()), Some(gid.into()), AtFlags::AT_SYMLINK_NOFOLLOW)
        })
    }

    /// Sets the modification time (nanoseconds since the epoch) without following a symbolic link; the access time is set alike.
    pub fn set_mtime<'a>(&self, at: impl Into<Place<'a>>, mtime_ns: i64) -> Result<()> {
        let time = nix::sys::time::TimeSpec::new(mtime_ns.div_euclid(1_000_000_000), mtime_ns.rem_euclid(1_000_000_000));
        self.change(Op::SetMeta, at.into(), |p| nix::sys::stat::utimensat(p.fd(), p.name(), &time, &time, UtimensatFlags::NoFollowSymlink))
    }

    /// Sets an extended attribute of an open file or directory (fsetxattr(2)).
    pub fn set_xattr(&self, file: &impl xattr::FileExt, path: &Path, name: &OsStr, value: &[u8]) -> Result<()> {
        self.change(Op::SetMeta, path.into(), |_| {
            file.set_xattr(name, value).map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
        })
    }

    /// Makes a new file with `bytes` in it, durable but for its directory entry.
    pub fn write_new<'a>(&self, at: impl Into<Place<'a>>, bytes: &[u8]) -> Result<()> {
        let at = at.into();
        let file = self.create(at, 0o600)?;
        self.write_all(&file, &at.path(), bytes)?;
        self.fsync(&file, &at.path())
    }

    /// Opens a directory, not through a symbolic link at its last component; below an open directory, through none at all.
    pub fn open_dir<'a>(&self, at: impl Into<Place<'a>>) -> Result<Dir> {
        let at = at.into();
        self.looks(Op::Open, at);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let fd = beneath::open(at, flags, Mode::empty()).map_err(|e| at.failed(Op::Open, e))?;
        Ok(Dir::new(fd, at.path()))
    }
}

/// The working directory: what absolute paths are relative to.
pub(crate) fn cwd() -> std::os::fd::BorrowedFd<'static> {
    AT_FDCWD
}
