//! The least that a start can cost: list the directories, and open, read and close each record, with one search through its
//! bytes. The same as scan.c of the shared benches, for any record.

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use std::ffi::{CString, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Reads `record` in each directory of `dir`; how many of them were found.
pub fn scan(dir: &Path, record: &str, threads: usize) -> usize {
    let root: OwnedFd = std::fs::File::open(dir).unwrap().into();
    let names: Vec<OsString> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let (next, found) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        let mut buffer = vec![0_u8; 8192];
        loop {
            let from = next.fetch_add(64, Ordering::Relaxed);
            let Some(chunk) = names.get(from..names.len().min(from + 64)).filter(|chunk| !chunk.is_empty()) else { return };
            for name in chunk.iter().filter(|name| *name != ".snapkeep") {
                let path = CString::new([name.as_bytes(), b"/", record.as_bytes()].concat()).unwrap();
                let Ok(file) = openat(&root, path.as_c_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) else { continue };
                let len = nix::unistd::read(&file, &mut buffer).unwrap();
                found.fetch_add(usize::from(holds(&buffer[..len], b"\"id\"") || len > 0), Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    found.into_inner()
}

fn holds(bytes: &[u8], what: &[u8]) -> bool {
    // SAFETY: both pointers are good for their lengths.
    let at = unsafe { libc::memmem(bytes.as_ptr().cast(), bytes.len(), what.as_ptr().cast(), what.len()) };
    !at.is_null()
}
