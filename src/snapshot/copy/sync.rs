//! Makes a copied tree durable, or has it written so that a commit does.

use crate::store::fs::sys::WHOLE;
use crate::store::fs::{Below, Commits, Dir, Fs, FsError};
use crate::store::manifest::{Entry, Node};
use std::fs::File;
use std::path::{Path, PathBuf};

/// From this many files and directories on one syncfs is cheaper than a sync of each (bench/README.md).
pub const MANY: usize = 64;
/// So many are open at a time: there may be a thousand who do this.
const AT_ONCE: usize = 8;

/// Syncs every file and directory of `entries` below `dest`, contents before the directories that name them; `dest`'s own
/// name in its parent is the caller's to sync. A tree of more than 64 files and directories is synced with its whole file system,
/// on which `since` is a directory that is open since before they were written.
///
/// # Errors
/// The first sync that failed: nothing may be taken to be durable then.
pub fn sync_tree(fs: &Fs, dest: &Path, entries: &[Entry], since: &Dir) -> Result<(), FsError> {
    if count(entries) > MANY {
        return fs.syncfs(since);
    }
    sync_each(fs, dest, entries)
}

/// How many files and directories there are to be synced.
pub fn count(entries: &[Entry]) -> usize {
    entries.iter().filter(|entry| matches!(entry.node, Node::File(_) | Node::Dir)).count()
}

/// Syncs each file and directory by itself, however many there are.
///
/// # Errors
/// The first sync that failed.
pub fn sync_each(fs: &Fs, dest: &Path, entries: &[Entry]) -> Result<(), FsError> {
    let mut below = Below::open(fs, dest)?;
    for entry in entries.iter().filter(|entry| matches!(entry.node, Node::File(_))) {
        let file = fs.open_file(below.place(entry.path.as_path())?)?;
        fs.fsync(&file, &below.path_of(entry.path.as_path()))?;
    }
    for entry in entries.iter().rev().filter(|entry| entry.node == Node::Dir) {
        let dir = below.dir(entry.path.as_path())?;
        fs.fsync(dir, dir.path())?;
    }
    Ok(())
}

/// Waits until the data of each file is written, and what says where it is has its place in the order in which the file system
/// commits ([`Commits`]). Nothing is durable by that.
///
/// # Errors
/// The first file that could not be written: no commit may be taken to have its data.
pub fn write_back_each(fs: &Fs, dest: &Path, entries: &[Entry], commits: Commits) -> Result<(), FsError> {
    let mut below = Below::open(fs, dest)?;
    let files: Vec<&Entry> = entries.iter().filter(|entry| matches!(entry.node, Node::File(_))).collect();
    for some in files.chunks(AT_ONCE) {
        // All of them begin to be written before one is waited for.
        let begun: Vec<(File, PathBuf)> = some
            .iter()
            .map(|entry| {
                let path = below.path_of(entry.path.as_path());
                let file = fs.open_file(below.place(entry.path.as_path())?)?;
                fs.begin_writing(&file, &path, WHOLE)?;
                Ok((file, path))
            })
            .collect::<Result<_, FsError>>()?;
        begun.iter().try_for_each(|(file, path)| fs.write_back(file, path, commits))?;
    }
    Ok(())
}
