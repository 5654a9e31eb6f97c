//! The least that a fork can cost: the bare system calls, one after the other, with nothing decided or checked.
//!
//! What snapkeep takes beyond this is its own doing. One fork is: mkdir, link the memory file, link, clone or copy the
//! disk, write 1 KiB of JSON, sync as asked, rename.

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode as Bits, mkdirat};
use nix::unistd::{UnlinkatFlags, Whence, fsync, linkat, lseek, syncfs, unlinkat};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// How the disk gets into the fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Not at all.
    Link,
    /// FICLONE.
    Clone,
    /// SEEK_DATA and copy_file_range.
    Copy,
    /// SEEK_DATA, pread and pwrite.
    ReadWrite,
}

/// What is synced, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    None = 0,
    /// The JSON and the parent, for each fork.
    FileAndParent = 1,
    /// Also the fork's directory.
    Directory = 2,
    /// One syncfs at the end.
    EndOfAll = 3,
    /// Build all, one syncfs, rename all, sync the parent: nothing is visible before it is durable.
    BurstSyncfs = 4,
    /// The same, with the JSON and the directory of each fork synced by themselves.
    BurstFsync = 5,
}

impl Level {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::None, Self::FileAndParent, Self::Directory, Self::EndOfAll, Self::BurstSyncfs, Self::BurstFsync];

    fn file(self) -> bool {
        matches!(self, Self::FileAndParent | Self::Directory | Self::BurstFsync)
    }

    fn directory(self) -> bool {
        matches!(self, Self::Directory | Self::BurstFsync)
    }

    fn parent(self) -> bool {
        matches!(self, Self::FileAndParent | Self::Directory)
    }

    fn burst(self) -> bool {
        matches!(self, Self::BurstSyncfs | Self::BurstFsync)
    }
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub struct Floor<'a> {
    /// A directory with `memory` and `overlay.raw`.
    pub source: &'a Path,
    /// The directory that the forks are made in.
    pub root: &'a Path,
    /// How the disk gets there.
    pub mode: Mode,
    /// What is synced.
    pub level: Level,
    /// How many forks.
    pub forks: usize,
    /// On how many threads.
    pub threads: usize,
    /// Also copy `state` and `config.json`, as a real fork does.
    pub small_files: bool,
    /// How many files like `metadata.json`: a fork of the fixture has three that carry names and paths.
    pub json_files: usize,
    /// Remove each fork after it was timed.
    pub remove: bool,
}

/// What it took.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// Microseconds that half of the forks took at most.
    pub median_us: f64,
    /// Microseconds that 95 of 100 took at most.
    pub p95_us: f64,
    /// Microseconds, all by their number.
    pub mean_us: f64,
    /// Seconds from the first call to the last, syncs of a burst included.
    pub wall_s: f64,
    /// Forks by those seconds.
    pub per_second: f64,
}

/// Makes the forks and says what they took.
pub fn run(floor: &Floor<'_>) -> io::Result<Figures> {
    let (source, root) = (directory(floor.source)?, directory(floor.root)?);
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    let work = || -> io::Result<Vec<f64>> {
        let mut buffer = vec![0u8; 1 << 20];
        let mut times = Vec::new();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= floor.forks {
                return Ok(times);
            }
            let start = Instant::now();
            fork(floor, &source, &root, n, &mut buffer)?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
            if floor.remove && !floor.level.burst() {
                remove(&root, &visible(n))?;
            }
        }
    };
    let mut times = std::thread::scope(|scope| -> io::Result<Vec<f64>> {
        let threads: Vec<_> = (0..floor.threads).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| io::Error::other("a thread panicked"))??);
        }
        Ok(all)
    })?;
    if matches!(floor.level, Level::EndOfAll | Level::BurstSyncfs) {
        syncfs(&root)?;
    }
    if floor.level.burst() {
        for n in 0..floor.forks {
            renameat(&root, hidden(n).as_str(), &root, visible(n).as_str())?;
        }
        fsync(&root)?;
    }
    let wall_s = begun.elapsed().as_secs_f64();
    if floor.remove && floor.level.burst() {
        for n in 0..floor.forks {
            remove(&root, &visible(n))?;
        }
    }
    times.sort_by(f64::total_cmp);
    let at = |index: usize| times.get(index).copied().unwrap_or(f64::NAN);
    let count = floor.forks as f64;
    Ok(Figures {
        median_us: at(floor.forks / 2),
        p95_us: at(floor.forks * 95 / 100),
        mean_us: times.iter().sum::<f64>() / count,
        wall_s,
        per_second: count / wall_s,
    })
}

fn fork(floor: &Floor<'_>, source: &OwnedFd, root: &OwnedFd, n: usize, buffer: &mut [u8]) -> io::Result<()> {
    let name = hidden(n);
    mkdirat(root, name.as_str(), Bits::from_bits_truncate(0o755))?;
    let dir = openat(root, name.as_str(), OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Bits::empty())?;
    linkat(source, "memory", &dir, "memory", AtFlags::empty())?;
    match floor.mode {
        Mode::Link => {}
        Mode::Clone => clone(&open(source, "overlay.raw")?, &create(&dir, "overlay.raw", 0o600)?)?,
        Mode::Copy => copy(source, &dir, "overlay.raw", None)?,
        Mode::ReadWrite => copy(source, &dir, "overlay.raw", Some(buffer))?,
    }
    if floor.small_files {
        copy(source, &dir, "state", Some(buffer))?;
        copy(source, &dir, "config.json", Some(buffer))?;
    }
    for n in 0..floor.json_files {
        let name = if n == 0 { "metadata.json".to_owned() } else { format!("metadata-{n}.json") };
        let mut json = create(&dir, &name, 0o644)?;
        json.write_all(format!("{{{:1022}}}", "").as_bytes())?;
        if floor.level.file() {
            fsync(&json)?;
        }
    }
    if floor.level.directory() {
        fsync(&dir)?;
    }
    drop(dir);
    if !floor.level.burst() {
        renameat(root, name.as_str(), root, visible(n).as_str())?;
    }
    if floor.level.parent() {
        fsync(root)?;
    }
    Ok(())
}

fn hidden(n: usize) -> String {
    format!(".t{n:06}")
}

fn visible(n: usize) -> String {
    format!("f{n:06}")
}

fn directory(path: &Path) -> io::Result<OwnedFd> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path)?;
    Ok(file.into())
}

fn open(dir: impl AsFd, name: &str) -> io::Result<File> {
    Ok(openat(dir, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Bits::empty())?.into())
}

fn create(dir: impl AsFd, name: &str, mode: u32) -> io::Result<File> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    Ok(openat(dir, name, flags, Bits::from_bits_truncate(mode))?.into())
}

fn clone(from: &File, to: &File) -> io::Result<()> {
    // SAFETY: both descriptors are open for the length of the call, and FICLONE takes a descriptor by value.
    let rc = unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) };
    Ok(Errno::result(rc).map(drop)?)
}

/// Copies what is not a hole: by read and write through the buffer, or by copy_file_range without one.
fn copy(source: &OwnedFd, dir: &OwnedFd, name: &str, mut buffer: Option<&mut [u8]>) -> io::Result<()> {
    let (from, to) = (open(source, name)?, create(dir, name, 0o600)?);
    let size = i64::try_from(from.metadata()?.len()).map_err(io::Error::other)?;
    nix::unistd::ftruncate(&to, size)?;
    let mut at = 0;
    while at < size {
        let start = match lseek(&from, at, Whence::SeekData) {
            Ok(start) => start,
            Err(Errno::ENXIO) => break,
            Err(e) => return Err(e.into()),
        };
        at = lseek(&from, start, Whence::SeekHole)?;
        match &mut buffer {
            Some(buffer) => read_write(&from, &to, start, at, buffer)?,
            None => copy_range(&from, &to, start, at)?,
        }
    }
    Ok(())
}

fn read_write(from: &File, to: &File, start: i64, end: i64, buffer: &mut [u8]) -> io::Result<()> {
    let (mut at, end) = (start.unsigned_abs(), end.unsigned_abs());
    while at < end {
        let want = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let piece = buffer.get_mut(..want).unwrap_or_default();
        let n = from.read_at(piece, at)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all_at(piece.get(..n).unwrap_or_default(), at)?;
        at += n as u64;
    }
    Ok(())
}

fn copy_range(from: &File, to: &File, start: i64, end: i64) -> io::Result<()> {
    let (mut from_at, mut to_at) = (start, start);
    while from_at < end {
        let want = usize::try_from(end - from_at).unwrap_or(usize::MAX);
        // SAFETY: both descriptors are open and both offsets are live for the length of the call.
        let rc = unsafe { libc::copy_file_range(from.as_raw_fd(), &raw mut from_at, to.as_raw_fd(), &raw mut to_at, want, 0) };
        if Errno::result(rc)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

fn remove(root: &OwnedFd, name: &str) -> io::Result<()> {
    let dir = openat(root, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Bits::empty())?;
    for file in ["memory", "overlay.raw", "metadata.json", "state", "config.json"] {
        match unlinkat(&dir, file, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(unlinkat(root, name, UnlinkatFlags::RemoveDir)?)
}
