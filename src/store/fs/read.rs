//! Calls that only look: a gate is told of them, and cannot fail them.

use super::{Fs, FsError, Op, Place, Result};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd;
use std::path::Path;

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is what its name says")]
pub enum FileType {
    Regular,
    Directory,
    Symlink,
    Socket,
    Fifo,
    Device,
}

/// The part of stat(2) that snapkeep uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// What it is.
    pub kind: FileType,
    /// Device and inode number: what makes two names the same file.
    pub file_id: (u64, u64),
    /// Permission, set-id and sticky bits (`st_mode & 07777`).
    pub mode: u32,
    /// Number of names.
    pub links: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes, holes included.
    pub size: u64,
    /// Bytes allocated (`st_blocks * 512`).
    pub allocated: u64,
    /// Modification time in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Time of the last change of data or metadata, likewise; cannot be set by hand.
    pub ctime_ns: i64,
}

impl Meta {
    #[expect(clippy::useless_conversion, reason = "the fields' widths differ between architectures")]
    fn of(st: &nix::libc::stat) -> Self {
        let kind = match SFlag::from_bits_truncate(st.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFDIR => FileType::Directory,
            SFlag::S_IFLNK => FileType::Symlink,
            SFlag::S_IFSOCK => FileType::Socket,
            SFlag::S_IFIFO => FileType::Fifo,
            SFlag::S_IFREG => FileType::Regular,
            _ => FileType::Device,
        };
        let ns = |s: i64, n: i64| s.saturating_mul(1_000_000_000).saturating_add(n);
        Self {
            kind,
            file_id: (st.st_dev.into(), st.st_ino.into()),
            mode: st.st_mode & 0o7777,
            links: st.st_nlink.into(),
            uid: st.st_uid,
            gid: st.st_gid,
            size: u64::try_from(st.st_size).unwrap_or(0),
            allocated: u64::try_from(st.st_blocks).unwrap_or(0) * 512,
            mtime_ns: ns(st.st_mtime, st.st_mtime_nsec),
            ctime_ns: ns(st.st_ctime, st.st_ctime_nsec),
        }
    }

    /// True if data or metadata of the file may have changed between the two looks.
    #[must_use]
    pub fn differs_from(&self, earlier: &Self) -> bool {
        let key = |m: &Self| (m.kind, m.file_id, m.size, m.mtime_ns, m.ctime_ns);
        key(self) != key(earlier)
    }
}

/// Room on a file system, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub size: u64,
    /// What may be written still.
    pub free: u64,
}

impl Fs {
    /// Tells the gate, if there is one.
    pub(super) fn looks(&self, op: Op, at: Place<'_>) {
        if let Some(gate) = &self.gate {
            gate.looks(op, &at.path());
        }
    }

    /// Looks at a path without following a symbolic link at its end.
    pub fn stat<'a>(&self, at: impl Into<Place<'a>>) -> Result<Meta> {
        let at = at.into();
        if !super::beneath::is_bounded(at) {
            return Err(at.failed(Op::Stat, Errno::EXDEV));
        }
        self.looks(Op::Stat, at);
        let st = nix::sys::stat::fstatat(at.fd(), at.name(), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|e| at.failed(Op::Stat, e))?;
        Ok(Meta::of(&st))
    }

    /// Looks at what a path leads to, links followed: only for `/proc/<pid>/fd`, whose links lead to the open file itself.
    pub fn stat_target(&self, path: &Path) -> Result<Meta> {
        self.looks(Op::Stat, path.into());
        let st = nix::sys::stat::stat(path).map_err(|e| Place::Path(path).failed(Op::Stat, e))?;
        Ok(Meta::of(&st))
    }

    /// Looks at an open file.
    pub fn stat_open(&self, file: impl AsFd, path: &Path) -> Result<Meta> {
        self.looks(Op::Stat, path.into());
        let st = nix::sys::stat::fstat(file).map_err(|source| FsError { op: Op::Stat, path: path.to_owned(), source })?;
        Ok(Meta::of(&st))
    }

    /// Like [`Fs::stat`], with `None` for a path that does not exist.
    pub fn stat_if_there<'a>(&self, at: impl Into<Place<'a>>) -> Result<Option<Meta>> {
        match self.stat(at) {
            Ok(meta) => Ok(Some(meta)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The path as the kernel resolves it, symbolic links followed (realpath(3)).
    pub fn canonical(&self, path: &Path) -> Result<std::path::PathBuf> {
        std::fs::canonicalize(path).map_err(|e| Place::Path(path).failed(Op::Stat, e.raw_os_error().map_or(Errno::EIO, Errno::from_raw)))
    }

    /// Opens a file for reading; never a symbolic link, never blocks on a FIFO.
    pub fn open_file<'a>(&self, at: impl Into<Place<'a>>) -> Result<File> {
        let at = at.into();
        self.looks(Op::Open, at);
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let fd = super::beneath::open(at, flags, Mode::empty()).map_err(|e| at.failed(Op::Open, e))?;
        Ok(File::from(fd))
    }

    /// Reads a small file of ours; one that is longer than `limit` bytes is an error (EFBIG).
    pub fn read_small<'a>(&self, at: impl Into<Place<'a>>, limit: u64) -> Result<Vec<u8>> {
        let at = at.into();
        let file = self.open_file(at)?;
        self.looks(Op::Read, at);
        // Most are read at once, and not thirty-two bytes at first.
        let mut bytes = Vec::with_capacity(SMALL);
        let failed = |e: std::io::Error| at.failed(Op::Read, e.raw_os_error().map_or(Errno::EIO, Errno::from_raw));
        file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > limit {
            return Err(at.failed(Op::Read, Errno::EFBIG));
        }
        Ok(bytes)
    }

    /// Fills `buffer` with the beginning of an open file, as much as one read gives, and says how much that was. Of a short
    /// file that is nearly always all; whoever asks must be able to tell by what it holds.
    pub fn read_once(&self, file: &File, path: &Path, buffer: &mut [u8]) -> Result<usize> {
        self.looks(Op::Read, path.into());
        nix::unistd::read(file, buffer).map_err(|e| Place::Path(path).failed(Op::Read, e))
    }

    /// Looks at what `at` names without opening it: below an open directory a path of plain names, no step of which leads out
    /// or through a symbolic link; one at its end is an error (ELOOP). `None` if it is not there.
    pub fn stat_bounded<'a>(&self, at: impl Into<Place<'a>>) -> Result<Option<Meta>> {
        let at = at.into();
        self.looks(Op::Open, at);
        // With O_PATH the end of the path may be a link: it is told as what it is, not followed.
        match super::beneath::open(at, OFlag::O_PATH, Mode::empty()) {
            Ok(fd) => self.stat_open(fd, &at.path()).map(Some),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(e) => Err(at.failed(Op::Open, e)),
        }
    }

    /// What a symbolic link holds.
    pub fn read_link<'a>(&self, at: impl Into<Place<'a>>) -> Result<OsString> {
        let at = at.into();
        if !super::beneath::is_bounded(at) {
            return Err(at.failed(Op::Read, Errno::EXDEV));
        }
        self.looks(Op::Read, at);
        nix::fcntl::readlinkat(at.fd(), at.name()).map_err(|e| at.failed(Op::Read, e))
    }

    /// Extended attributes of an open file or directory, sorted by name; none where the file system has none.
    pub fn xattrs(&self, file: &impl xattr::FileExt, path: &Path) -> Result<Vec<(OsString, Vec<u8>)>> {
        let errno = |e: &std::io::Error| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        let failed = |e: std::io::Error| Place::Path(path).failed(Op::Read, errno(&e));
        let names = match file.list_xattr() {
            Ok(names) => names,
            Err(e) if matches!(errno(&e), Errno::EOPNOTSUPP | Errno::ENOSYS) => return Ok(Vec::new()),
            Err(e) => return Err(failed(e)),
        };
        let mut all = Vec::new();
        for name in names {
            if let Some(value) = file.get_xattr(&name).map_err(failed)? {
                all.push((name, value));
            }
        }
        all.sort();
        Ok(all)
    }

    /// Whether copy_file_range(2) from one open file to another shares extents instead of copying bytes: where both are on
    /// xfs or btrfs. On ext4 it copies, and takes half as long again as reading and writing a mebibyte at a time (89 ms to 60,
    /// bench/README.md); across file systems it is not to be had. A look at the type, not a try: a try would have to be timed.
    #[must_use]
    pub fn shares_ranges(&self, from: &File, to: &File) -> bool {
        use nix::sys::statfs::{BTRFS_SUPER_MAGIC, XFS_SUPER_MAGIC, fstatfs};
        let kind = |file: &File| fstatfs(file).map(|stat| stat.filesystem_type()).ok();
        let shares = |kind| kind == XFS_SUPER_MAGIC || kind == BTRFS_SUPER_MAGIC;
        kind(from).is_some_and(|from| shares(from) && kind(to) == Some(from))
    }

    /// Whether two threads unlink sooner than one on the file system of `path`: 10,000 snapshots in 0.62 s instead of 0.86 on ext4
    /// (docs/performance.md). On btrfs they take a third longer, on xfs a tenth, as its own threads free the inodes meanwhile.
    #[must_use]
    pub fn unlinks_side_by_side(&self, path: &Path) -> bool {
        use nix::sys::statfs::{BTRFS_SUPER_MAGIC, XFS_SUPER_MAGIC, statfs};
        statfs(path).is_ok_and(|stat| ![BTRFS_SUPER_MAGIC, XFS_SUPER_MAGIC].contains(&stat.filesystem_type()))
    }

    /// Whether the pages of an open file are its own inode's: on the file systems that are known for it.
    pub(super) fn has_own_pages(&self, file: &File) -> bool {
        use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs};
        let known = [BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC];
        fstatfs(file).is_ok_and(|stat| known.contains(&stat.filesystem_type()))
    }

    /// Bytes of an open file that others share as extents; none where the file system has no such thing.
    pub fn shared_bytes(&self, file: &File, path: &Path) -> Result<u64> {
        match super::sys::shared_bytes(file) {
            Err(Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::EINVAL) => Ok(0),
            other => other.map_err(|e| Place::Path(path).failed(Op::Read, e)),
        }
    }

    /// Has the next read of an open file, which was synced, be one of the disk, as far as the kernel lets us.
    pub fn forget_pages(&self, file: &File) {
        super::sys::forget_pages(file);
    }

    /// Size and free bytes (for us) of the file system that `path` is on (statvfs(3)).
    pub fn space(&self, path: &Path) -> Result<Space> {
        let stat = nix::sys::statvfs::statvfs(path).map_err(|e| Place::Path(path).failed(Op::Stat, e))?;
        let unit = stat.fragment_size();
        Ok(Space { size: stat.blocks().saturating_mul(unit), free: stat.blocks_available().saturating_mul(unit) })
    }

    /// Mebibytes that wait in the page cache to be written, anybody's and to any file system (proc_meminfo(5), `Dirty`): an
    /// upper bound of what a syncfs(2) has to write. `None` where it cannot be told, and behind a gate, which is to see the
    /// same calls each time.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "procfs, not the store")]
    pub fn dirty_mib(&self) -> Option<f64> {
        if self.gate.is_some() {
            return None;
        }
        // It is made anew for each reader, and looked at for each fork: in one piece, as much of it as is needed.
        let mut table = [0; 4096];
        let len = File::open("/proc/meminfo").ok()?.read(&mut table).ok()?;
        let line = std::str::from_utf8(table.get(..len)?).ok()?.lines().find_map(|line| line.strip_prefix("Dirty:"))?;
        line.trim().strip_suffix(" kB")?.parse::<f64>().ok().map(|kib| kib / 1024.0)
    }

    /// The next stretch of data at or after `from`, as `start..end` in bytes; `None` if only a hole is left
    /// (lseek(2), `SEEK_DATA`, `SEEK_HOLE`).
    pub fn next_data(&self, file: &File, path: &Path, from: u64) -> Result<Option<std::ops::Range<u64>>> {
        use nix::unistd::{Whence, lseek};
        let failed = |e| Place::Path(path).failed(Op::Read, e);
        let position = |n: u64| i64::try_from(n).map_err(|_| failed(Errno::EFBIG));
        let start = match lseek(file, position(from)?, Whence::SeekData) {
            Ok(start) => start,
            Err(Errno::ENXIO) => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let end = lseek(file, start, Whence::SeekHole).map_err(failed)?;
        let unsigned = |n: i64| u64::try_from(n).unwrap_or(0);
        Ok(Some(unsigned(start)..unsigned(end)))
    }

    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    pub fn read_at(&self, file: &File, path: &Path, buffer: &mut [u8], offset: u64) -> Result<usize> {
        use std::os::unix::fs::FileExt as _;
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Place::Path(path).failed(Op::Read, e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))),
            }
        }
        Ok(done)
    }
}

/// Most records of ours are no longer.
const SMALL: usize = 1024;
