//! What stands before every write-like call: nothing in the program, a fault in tests.

use super::Commits;
use nix::errno::Errno;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// The kinds of system calls, as errors and gates name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the call of its name")]
pub enum Op {
    Mkdir,
    Symlink,
    Link,
    Rename,
    Create,
    Write,
    Truncate,
    Reflink,
    Fsync,
    Syncfs,
    WriteOut,
    Commit,
    Unlink,
    SetMeta,
    Open,
    Read,
    List,
    Stat,
    Lock,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mkdir => "make the directory",
            Self::Symlink => "make the symbolic link",
            Self::Link => "make the hard link",
            Self::Rename => "rename to",
            Self::Create => "create",
            Self::Write => "write",
            Self::Truncate => "set the length of",
            Self::Reflink => "reflink to",
            Self::Fsync => "sync",
            Self::Syncfs => "sync the file system of",
            Self::WriteOut => "write out",
            Self::Commit => "commit",
            Self::Unlink => "remove",
            Self::SetMeta => "set the attributes of",
            Self::Open => "open",
            Self::Read => "read",
            Self::List => "list",
            Self::Stat => "examine",
            Self::Lock => "lock",
        })
    }
}

/// Sees each write-like call before it is made, and may fail it; and each look, which it cannot fail.
pub trait Gate: Send + Sync + fmt::Debug {
    /// `Err` fails the call with that errno, without making it.
    ///
    /// # Errors
    /// Whatever fault this gate injects.
    fn before(&self, op: Op, path: &Path) -> Result<(), Errno>;

    /// How many of the `len` bytes of one write the kernel is to take: fewer is a short write.
    fn takes(&self, path: &Path, len: usize) -> usize {
        let _ = path;
        len
    }

    /// How the file system behind it is to be taken to commit.
    fn commits(&self) -> Commits {
        Commits::Anyhow
    }

    /// A call that only looks is about to be made.
    fn looks(&self, op: Op, path: &Path) {
        let _ = (op, path);
    }

    /// The call was made, and succeeded.
    fn after(&self, op: Op, path: &Path) {
        let _ = (op, path);
    }
}

/// Lets `n` calls pass and then none, for ever: to the disk this is the death of the process after its nth write.
#[derive(Debug)]
pub struct StopAfter {
    left: AtomicU64,
    stopped: AtomicU64,
}

impl StopAfter {
    /// A gate that stops everything after `n` calls.
    #[must_use]
    pub fn new(n: u64) -> Self {
        Self { left: AtomicU64::new(n), stopped: AtomicU64::new(0) }
    }

    /// True once a call was refused.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst) > 0
    }
}

impl Gate for StopAfter {
    fn before(&self, _op: Op, _path: &Path) -> Result<(), Errno> {
        let take = |left: u64| left.checked_sub(1);
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            return Ok(());
        }
        self.stopped.fetch_add(1, Ordering::SeqCst);
        Err(Errno::ENOTRECOVERABLE)
    }
}

/// Fails only the nth call (counted from 1), with the errno it is given.
#[derive(Debug)]
pub struct FailNth {
    n: u64,
    errno: Errno,
    seen: AtomicU64,
}

impl FailNth {
    /// A gate that fails call number `n` with `errno`.
    #[must_use]
    pub fn new(n: u64, errno: Errno) -> Self {
        Self { n, errno, seen: AtomicU64::new(0) }
    }

    /// How many calls came by.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }
}

impl Gate for FailNth {
    fn before(&self, _op: Op, _path: &Path) -> Result<(), Errno> {
        if self.seen.fetch_add(1, Ordering::SeqCst) + 1 == self.n { Err(self.errno) } else { Ok(()) }
    }
}
