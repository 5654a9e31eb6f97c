//! Makes a copied tree durable.

use crate::store::fs::{Below, Dir, Fs, FsError};
use crate::store::manifest::{Entry, Node};
use std::path::Path;

/// From this many files and directories on one syncfs is cheaper than a sync of each (bench/README.md).
const MANY: usize = 64;

/// Syncs every file and directory of `entries` below `dest`, contents before the directories that name them; `dest`'s own
/// name in its parent is the caller's to sync. A tree of more than 64 files and directories is synced with its whole file system,
/// on which `since` is a directory that is open since before they were written.
///
/// # Errors
/// The first sync that failed: nothing may be taken to be durable then.
pub fn sync_tree(fs: &Fs, dest: &Path, entries: &[Entry], since: &Dir) -> Result<(), FsError> {
    let mut below = Below::open(fs, dest)?;
    let files = entries.iter().filter(|entry| matches!(entry.node, Node::File(_)));
    let dirs = entries.iter().rev().filter(|entry| entry.node == Node::Dir);
    if files.clone().count() + dirs.clone().count() > MANY {
        return fs.syncfs(since);
    }
    for entry in files {
        let file = fs.open_file(below.place(entry.path.as_path())?)?;
        fs.fsync(&file, &below.path_of(entry.path.as_path()))?;
    }
    for entry in dirs {
        let dir = below.dir(entry.path.as_path())?;
        fs.fsync(dir, dir.path())?;
    }
    Ok(())
}
