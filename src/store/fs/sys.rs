//! The calls that nix has no safe form of: the only unsafe code that touches files.
#![expect(unsafe_code, reason = "ioctl and fcntl with arguments that nix does not know")]

use nix::errno::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt as _;

/// fcntl(2); the libc crate lacks it for some targets.
const F_SETSIG: libc::c_int = 10;

/// Shares all of `from`'s extents with `to` (ioctl_ficlone(2)).
///
/// # Errors
/// EOPNOTSUPP, EXDEV, EINVAL and the like where the file system cannot; EIO and ENOSPC when it failed.
pub fn ficlone(to: &File, from: &File) -> nix::Result<()> {
    // SAFETY: both descriptors are open for the length of the call, and FICLONE takes a descriptor by value.
    let rc = unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) };
    Errno::result(rc).map(drop)
}

/// Has the kernel give up the clean pages of an open file that nobody maps (posix_fadvise(2)): the next read is of the disk.
pub fn forget_pages(file: &File) {
    // SAFETY: takes no pointers; advice that is not taken is no error that matters.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

/// Copies a stretch to the same place of another file (copy_file_range(2)); the number of bytes taken.
///
/// # Errors
/// EXDEV, EINVAL, EOPNOTSUPP and ENOSYS where the kernel cannot; EIO and ENOSPC when it failed.
pub fn copy_range(from: &File, to: &File, range: Range<u64>) -> nix::Result<u64> {
    let start = i64::try_from(range.start).map_err(|_| Errno::EFBIG)?;
    let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
    let (mut from_at, mut to_at) = (start, start);
    // SAFETY: both descriptors are open and both offsets are live for the length of the call.
    let rc = unsafe { libc::copy_file_range(from.as_raw_fd(), &raw mut from_at, to.as_raw_fd(), &raw mut to_at, length, 0) };
    Errno::result(rc).map(|taken| u64::try_from(taken).unwrap_or(0))
}

/// All of a file, for [`begin_writing`]: a length of 0 means to the end.
pub const WHOLE: Range<u64> = 0..0;

/// Has the kernel begin to write a stretch's dirty pages, and does not wait for them (sync_file_range(2)).
///
/// # Errors
/// EIO and ENOSPC where the pages have no place to go; ENOSYS and EPERM where it cannot be had.
pub fn begin_writing(file: &File, range: Range<u64>) -> nix::Result<()> {
    let start = i64::try_from(range.start).map_err(|_| Errno::EFBIG)?;
    let length = i64::try_from(range.end.saturating_sub(range.start)).map_err(|_| Errno::EFBIG)?;
    // SAFETY: the descriptor is open, and the arguments are plain integers.
    let rc = unsafe { libc::sync_file_range(file.as_raw_fd(), start, length, libc::SYNC_FILE_RANGE_WRITE) };
    Errno::result(rc).map(drop)
}

/// Writes a file's dirty pages out and waits for them, without making anything durable (sync_file_range(2)).
///
/// # Errors
/// EIO and ENOSPC where they could not be written.
pub fn write_out(file: &File) -> nix::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: the descriptor is open, and the arguments are plain integers; a length of 0 means to the end.
    let rc = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
    Errno::result(rc).map(drop)
}

/// Waits until the extents of what was written to a file are where the file system commits them from (FIEMAP with
/// `FIEMAP_FLAG_SYNC`, Documentation/filesystems/fiemap.rst), without asking for any.
///
/// # Errors
/// EIO and ENOSPC where something could not be written, EOPNOTSUPP or ENOTTY where there are no extents.
pub fn settle_extents(file: &File) -> nix::Result<()> {
    let extents = [Extent::default(); EXTENTS];
    let mut map = Fiemap { start: BEYOND, length: 1, flags: FIEMAP_FLAG_SYNC, mapped: 0, count: 0, reserved: 0, extents };
    // SAFETY: the descriptor is open, and `map` says that it has room for no extent.
    let rc = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, &raw mut map) };
    Errno::result(rc).map(drop)
}

/// Has a btrfs commit its running transaction, and waits until that begins, uninterruptibly (btrfs-ioctl(2),
/// `BTRFS_IOC_START_SYNC`). Unlike syncfs(2) and `BTRFS_IOC_SYNC` it writes no data. What to wait for: the transaction's number.
///
/// # Errors
/// ENOTTY elsewhere; EROFS where a transaction was given up.
pub fn start_commit(dir: &impl AsRawFd) -> nix::Result<u64> {
    let mut transaction = 0_u64;
    // SAFETY: the descriptor is open, and the argument is a number that the kernel writes to.
    Errno::result(unsafe { libc::ioctl(dir.as_raw_fd(), BTRFS_IOC_START_SYNC, &raw mut transaction) })?;
    Ok(transaction)
}

/// Waits until a transaction is committed (`BTRFS_IOC_WAIT_SYNC`), or was given up because another one failed.
///
/// # Errors
/// EINVAL, EIO and EROFS where it was given up, as far as that is known.
pub fn wait_commit(dir: &impl AsRawFd, transaction: u64) -> nix::Result<()> {
    // SAFETY: the descriptor is open; the kernel reads the number.
    Errno::result(unsafe { libc::ioctl(dir.as_raw_fd(), BTRFS_IOC_WAIT_SYNC, &raw const transaction) }).map(drop)
}

/// `_IOR(0x94, 24, __u64)` (linux/btrfs.h).
const BTRFS_IOC_START_SYNC: libc::Ioctl = 0x8008_9418_u32 as libc::Ioctl;
/// `_IOW(0x94, 22, __u64)` (linux/btrfs.h).
const BTRFS_IOC_WAIT_SYNC: libc::Ioctl = 0x4008_9416_u32 as libc::Ioctl;
/// linux/fiemap.h: write and wait before looking; of the whole file, whatever the stretch that is asked for.
const FIEMAP_FLAG_SYNC: u32 = 0x1;
/// No file is so long: there is no extent to be told of.
const BEYOND: u64 = 1 << 62;

/// A file as it would be mapped, to ask which of its pages are in the page cache; never read or written through.
pub struct Mapped {
    at: *mut libc::c_void,
    length: usize,
}

impl Mapped {
    /// Maps the first `size` bytes of a file.
    ///
    /// # Errors
    /// ENOMEM for a file longer than the address space, ENODEV where files cannot be mapped.
    pub fn new(file: &File, size: u64) -> nix::Result<Self> {
        let length = usize::try_from(size).map_err(|_| Errno::ENOMEM)?;
        // SAFETY: a new mapping at a place of the kernel's choice; nobody dereferences it.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(Self { at, length }) }
    }

    /// For each page of a stretch that begins at a page, whether it is in the cache (mincore(2)). The kernel says yes of
    /// everything to those who may not write to the file.
    ///
    /// # Errors
    /// EINVAL for a stretch outside of the mapping.
    pub fn resident(&self, range: Range<usize>, page: usize) -> nix::Result<Vec<u8>> {
        let length = range.end.saturating_sub(range.start);
        if length == 0 || range.end > self.length || !range.start.is_multiple_of(page) {
            return Err(Errno::EINVAL);
        }
        let mut pages = vec![0_u8; length.div_ceil(page)];
        // SAFETY: the stretch lies in the mapping, and `pages` has a byte for each of its pages.
        let rc = unsafe { libc::mincore(self.at.cast::<u8>().add(range.start).cast(), length, pages.as_mut_ptr()) };
        Errno::result(rc).map(|_| pages)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody has a reference into it.
        unsafe { libc::munmap(self.at, self.length) };
    }
}

/// Fills `buffer` with entries of an open directory (getdents64(2)); 0 at its end.
///
/// # Errors
/// As the kernel says.
pub fn getdents(dir: &impl AsRawFd, buffer: &mut [u8]) -> nix::Result<usize> {
    // SAFETY: the descriptor is open, and the kernel writes at most as many bytes as the buffer has.
    let rc = unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) };
    Errno::result(rc).map(|len| usize::try_from(len).unwrap_or(0))
}

/// Extents asked for at once.
const EXTENTS: usize = 128;
/// FS_IOC_FIEMAP, `_IOWR('f', 11, struct fiemap)` (linux/fs.h).
const FS_IOC_FIEMAP: libc::Ioctl = 0xc020_660b_u32 as libc::Ioctl;
/// linux/fiemap.h.
const FIEMAP_EXTENT_LAST: u32 = 0x1;
/// linux/fiemap.h: another file has the same blocks.
const FIEMAP_EXTENT_SHARED: u32 = 0x2000;

/// struct fiemap_extent (linux/fiemap.h).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// struct fiemap with its extents.
#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; EXTENTS],
}

/// Bytes of a file's extents that other files share (ioctl_fiemap, Documentation/filesystems/fiemap.rst).
///
/// # Errors
/// EOPNOTSUPP or ENOTTY where the file system has no extents to tell of.
pub fn shared_bytes(file: &File) -> nix::Result<u64> {
    let (mut start, mut shared) = (0, 0_u64);
    loop {
        let count = u32::try_from(EXTENTS).unwrap_or(0);
        let extents = [Extent::default(); EXTENTS];
        let mut map = Fiemap { start, length: u64::MAX - start, flags: 0, mapped: 0, count, reserved: 0, extents };
        // SAFETY: the descriptor is open, and `map` has room for the `count` extents that it says it has.
        let rc = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, &raw mut map) };
        Errno::result(rc)?;
        let found = map.extents.get(..map.mapped as usize).unwrap_or_default();
        shared = found.iter().filter(|e| e.flags & FIEMAP_EXTENT_SHARED != 0).fold(shared, |sum, e| sum.saturating_add(e.length));
        match found.last() {
            Some(last) if last.flags & FIEMAP_EXTENT_LAST == 0 => start = last.logical.saturating_add(last.length),
            _ => return Ok(shared),
        }
    }
}

/// Whether anybody else has this file open (fcntl(2), `F_SETLEASE` with `F_WRLCK`: granted only if ours is the only
/// open description; it sees other mount and pid namespaces, which /proc does not).
///
/// # Errors
/// EACCES when neither owner nor CAP_LEASE, EINVAL where the file system has no leases: then it cannot be told.
pub fn open_elsewhere(file: &File) -> nix::Result<bool> {
    // Somebody who opens the file between the two calls below would have SIGIO sent to us, which kills; SIGURG does nothing.
    // SAFETY: the descriptor is open, and the arguments are plain integers.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG) })?;
    // SAFETY: the descriptor is open, and the arguments are plain integers.
    let rc = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) };
    match Errno::result(rc) {
        Ok(_) => {
            // SAFETY: as above; gives the lease back.
            let rc = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
            Errno::result(rc).map(|_| false)
        }
        Err(Errno::EAGAIN) => Ok(true),
        Err(e) => Err(e),
    }
}

/// Bytes of struct linux_dirent64 before the name (getdents64(2)): inode, offset, length, type.
const BEFORE_NAME: usize = 19;

/// Tells names of an open directory but `.` and `..`, from its position on, as many as fit into `buffer`, and whether the
/// directory says that each is of a directory: a hint, which not every file system gives (getdents64(2)). How many bytes of
/// the buffer they took; 0 at the end.
///
/// # Errors
/// Those of the call.
pub fn some_names(dir: &impl AsRawFd, buffer: &mut [u8], mut tell: impl FnMut(&OsStr, bool)) -> nix::Result<usize> {
    let len = getdents(dir, buffer)?;
    let mut rest = buffer.get(..len).unwrap_or_default();
    while let Some(([low, high, kind], name)) = rest.get(BEFORE_NAME - 3..).and_then(<[u8]>::split_first_chunk) {
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        if name != b"." && name != b".." {
            tell(OsStr::from_bytes(name), *kind == libc::DT_DIR);
        }
        let len = usize::from(u16::from_ne_bytes([*low, *high]));
        rest = rest.get(len.max(1)..).unwrap_or_default();
    }
    Ok(len)
}
