//! In which order a file system makes things durable, and what of a tree that is to appear whole need not be synced for it.
//!
//! A rename must not reach the disk before what is behind the name. A sync of each file sees to that, on any file system. Where
//! changes of metadata are committed in the order in which they were made, less does: once a file's data is written, and with it
//! the metadata that says where it is, no commit has a rename that comes later and lacks that. Then one commit behind the
//! rename makes name and contents durable at once.
//!
//! * xfs (Documentation/filesystems/xfs/xfs-delayed-logging-design.rst) and ext4 with a journal
//!   (Documentation/filesystems/ext4/journal.rst): the log is one sequence, and a sync of a directory commits it up to the
//!   directory's last change. Writing back ends behind the change of metadata that follows from it.
//! * btrfs: a transaction is durable as a whole, but writing back ends before the extents are in it; FIEMAP with
//!   `FIEMAP_FLAG_SYNC` waits for that (since Linux 6.9 in any case). And a sync may commit one inode alone, through the log
//!   tree; the ioctls of btrfs-ioctl(2) commit the transaction. A sync by somebody else of a directory that was moved in the running
//!   transaction, or of one that it was moved into or out of, is of the whole transaction (fs/btrfs/tree-log.c, `last_unlink_trans`). But
//!   one that was synced before the move, with a new directory in it, has the move in the log tree, and then any sync makes that
//!   durable without what is behind it: so what is new is committed before it is moved.

use super::{Dir, Fs, FsError, Op, Result, sys};
use nix::errno::Errno;
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, fstatfs};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// How changes of metadata become durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Commits {
    /// Nothing is known about it: each file is to be synced before a rename is made that shows it.
    #[default]
    Anyhow,
    /// In the order in which they were made.
    InOrder,
    /// In transactions, of which all or nothing is durable.
    Whole,
}

/// A file system by what is seen of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    device: u64,
    kind: i128,
    blocks: u64,
}

/// What was seen of file systems lately.
pub(super) type Looks = Arc<Mutex<Vec<(FileSystem, Commits)>>>;

/// A store and its root are on one or two.
const MOST_LOOKS: usize = 8;

/// The first Linux of which it is known that FIEMAP waits on btrfs.
const WAITS_ON_BTRFS: (u32, u32) = (6, 9);

/// The first Linux in which writing out leaves no page behind (sync_file_range(2) with all three flags; fs/sync.c).
const WRITES_ALL_OUT: (u32, u32) = (5, 2);

impl Fs {
    /// How the file system of an open directory commits: looked at once, and again when it is another one. A look, and no promise:
    /// whoever cannot look is told [`Commits::Anyhow`]. A gate says it itself.
    #[must_use]
    pub fn commits(&self, dir: &Dir) -> Commits {
        if let Some(gate) = &self.gate {
            return gate.commits();
        }
        let Some(seen) = self.seen(dir) else { return Commits::Anyhow };
        let looks = || self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, commits)) = looks().iter().find(|(before, _)| *before == seen) {
            return *commits;
        }
        // Many may look at once; on btrfs they share a commit.
        let commits = self.look(dir);
        let mut looks = looks();
        if looks.len() >= MOST_LOOKS {
            looks.clear();
        }
        looks.push((seen, commits));
        commits
    }

    /// Whether all changes of metadata below an open directory become durable in the order in which they were made
    /// ([`Commits::InOrder`]), so that one sync of it is enough for what came before.
    #[must_use]
    pub fn keeps_order(&self, dir: &Dir) -> bool {
        // To look how btrfs commits takes a commit.
        let cannot = self.gate.is_none() && self.seen(dir).is_none_or(|seen| seen.kind == i128::from(BTRFS_SUPER_MAGIC.0));
        !cannot && self.commits(dir) == Commits::InOrder
    }

    /// What tells a file system from another one that is mounted in its place, as far as a look does.
    #[must_use]
    pub fn seen(&self, dir: impl AsFd) -> Option<FileSystem> {
        let (stat, meta) = (fstatfs(&dir).ok()?, nix::sys::stat::fstat(&dir).ok()?);
        Some(FileSystem { device: meta.st_dev, kind: i128::from(stat.filesystem_type().0), blocks: stat.blocks() })
    }

    /// Waits until a file's data is written and, where commits have an order, until the metadata that says where it is has its place in
    /// it. Nothing is durable by that; but a failure counts, for the commit behind it will not hear of it.
    pub fn write_back(&self, file: &File, path: &Path, commits: Commits) -> Result<()> {
        let write_out = || unless_unknown(sys::write_out(file), &[]);
        let settle = || if commits == Commits::Whole { unless_unknown(sys::settle_extents(file), &NO_EXTENTS) } else { Ok(true) };
        if commits == Commits::Anyhow {
            // Where it cannot be had the sync does it all.
            return write_out().map(drop).map_err(|source| FsError { op: Op::WriteOut, path: path.to_owned(), source });
        }
        let is_settled = self.change(Op::WriteOut, path.into(), |_| Ok(write_out()? && settle()?))?;
        // More than is needed.
        if is_settled { Ok(()) } else { self.fsync(file, path) }
    }

    /// Commits the running transaction of a file system that commits them whole, without writing anybody's data, together with others
    /// who ask for that meanwhile (`commit.rs`).
    pub fn commit(&self, dir: &Dir) -> Result<()> {
        self.change(Op::Commit, dir.path().into(), |_| self.lines.commit(dir))
    }

    fn look(&self, dir: &Dir) -> Commits {
        let Ok(kind) = fstatfs(dir).map(|stat| stat.filesystem_type()) else { return Commits::Anyhow };
        let Some(mount) = super::mounts::of(dir) else { return Commits::Anyhow };
        let is_split = || mount.options().any(|option| option.starts_with("rtdev=") || option.starts_with("logdev="));
        match mount.kind.as_str() {
            _ if !is_at_least(WRITES_ALL_OUT) => Commits::Anyhow,
            "xfs" if kind == XFS_SUPER_MAGIC && !is_split() => Commits::InOrder,
            // With this option a commit may be on the disk before the data that it waited for is out of the disk's cache (ext4(5)).
            "ext4" if mount.options().any(|option| option == "journal_async_commit") => Commits::Anyhow,
            "ext4" if kind == EXT4_SUPER_MAGIC && mount.has_own_journal() => Commits::InOrder,
            "btrfs" if kind == BTRFS_SUPER_MAGIC && is_at_least(WAITS_ON_BTRFS) && self.lines.commit(dir).is_ok() => Commits::Whole,
            _ => Commits::Anyhow,
        }
    }
}

/// What a file system says that knows no extents.
const NO_EXTENTS: [Errno; 2] = [Errno::ENOTTY, Errno::EOPNOTSUPP];

/// Whether a call is known here: a sandbox may not know it. A failure of one that is counts, and is told to nobody else.
fn unless_unknown(done: nix::Result<()>, also: &[Errno]) -> nix::Result<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(e) if matches!(e, Errno::ENOSYS | Errno::EPERM) || also.contains(&e) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether this is such a Linux or a later one.
fn is_at_least(first: (u32, u32)) -> bool {
    let release = nix::sys::utsname::uname().ok().map(|names| names.release().to_string_lossy().into_owned());
    release.as_deref().and_then(version).is_some_and(|version| version >= first)
}

/// The first two numbers of a release (uname(2)).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_begins_with_two_numbers_or_says_nothing() {
        for (release, numbers) in [
            ("6.18.44-custom", Some((6, 18))),
            ("6.9", Some((6, 9))),
            ("5.10.0-rc1", Some((5, 10))),
            ("next", None),
            ("6", None),
            ("", None),
        ] {
            assert_eq!(version(release), numbers, "{release}");
        }
    }
}
