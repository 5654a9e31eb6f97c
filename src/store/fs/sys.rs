//! The calls that nix has no safe form of: the only unsafe code that touches files.
#![expect(unsafe_code, reason = "ioctl and fcntl with arguments that nix does not know")]

use nix::errno::Errno;
use std::fs::File;
use std::os::fd::AsRawFd;

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
