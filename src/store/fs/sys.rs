//! The calls that nix has no safe form of: the only unsafe code of the crate.
#![expect(unsafe_code, reason = "ioctl and fcntl with arguments that nix does not know")]

use nix::errno::Errno;
use std::fs::File;
use std::os::fd::AsRawFd as _;

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
