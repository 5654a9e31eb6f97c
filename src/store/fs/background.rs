//! Making a thread the last one to get processor and disk, and writing data back ahead of a sync.
#![expect(unsafe_code, reason = "calls that nix does not have")]

/// ioprio_set(2): this thread, best effort, the lowest of its eight levels. Not the idle class: who is in it may hold what
/// others wait for (a journal's transaction) for as long as anybody reads.
const WHO_PROCESS: libc::c_int = 1;
const LOWEST: libc::c_int = 2 << 13 | 7;
/// setpriority(2): the least nice value is the largest.
const NICEST: libc::c_int = 19;

/// Lowers the calling thread's priority, and that of threads that it starts. What the kernel does not grant is no loss.
pub fn give_way() {
    // SAFETY: takes plain integers; on Linux 0 is the calling thread, not its process.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, NICEST);
        libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, LOWEST);
    }
}

/// Begins to write a file's dirty pages, or waits until they are written (sync_file_range(2)).
pub(super) fn write_back(file: &std::fs::File, wait: bool) -> nix::Result<()> {
    use std::os::fd::AsRawFd as _;
    let flags = if wait { libc::SYNC_FILE_RANGE_WAIT_BEFORE } else { libc::SYNC_FILE_RANGE_WRITE };
    // SAFETY: the descriptor is open, and the rest are plain integers.
    let rc = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
    match nix::errno::Errno::result(rc) {
        // A sandbox that does not know the call: the sync does it all.
        Ok(_) | Err(nix::errno::Errno::ENOSYS | nix::errno::Errno::EPERM) => Ok(()),
        Err(e) => Err(e),
    }
}
