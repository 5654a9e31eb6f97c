//! The way out: builds a tree from a snapshot's files and entries, for `fork` and `restore` alike.
//!
//! Memory is linked, everything else gets an inode of its own. Modes, owners, extended attributes and times are those of
//! the manifest; directories get theirs after what is in them. Forks are made thousands at a time, so nothing is looked
//! at that is known. Publishing, syncing and what belongs into a fork's files are the callers' matters.

mod memory;
mod meta;
#[cfg(test)]
mod tests;

pub use memory::{MemoryUsed, link_memory};
pub use meta::{Made, Refused, apply_meta};

use crate::config::MemoryMethod;
use crate::snapshot::copy::{Cloner, DataError, Flow, Method};
use crate::store::fs::{Below, Fs, FsError, Place};
use crate::store::manifest::{Entry, FileNode, Node};
use nix::errno::Errno;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Asked about each regular file that is no memory, with the snapshot's open file: other contents for the new file, none
/// for the same, or why there must be no such tree.
pub type Rewrite<'a> = dyn Fn(&Entry, &File) -> Result<Option<Vec<u8>>, MaterializeError> + 'a;

/// What building a tree needs to know.
#[derive(Clone, Copy)]
pub struct MaterializeContext<'a> {
    /// The file system.
    pub fs: &'a Fs,
    /// The snapshot's files.
    pub data: &'a Path,
    /// Where its memory files are, under the same relative paths: `data`, or the cache of a compressed snapshot.
    pub memory: &'a Path,
    /// The first method tried for memory.
    pub memory_method: MemoryMethod,
    /// Whether owners can be set; otherwise they are left as creation makes them.
    pub as_root: bool,
    /// Changes contents on the way.
    pub rewrite: Option<&'a Rewrite<'a>>,
    /// Threads, progress, request to stop.
    pub flow: Flow<'a>,
}

impl fmt::Debug for MaterializeContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MaterializeContext").field("data", &self.data).field("memory", &self.memory).finish_non_exhaustive()
    }
}

/// How a tree was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Materialized {
    /// How it got its memory; the costliest way, if there are several files.
    pub memory: MemoryUsed,
    /// Why the first method did not do for memory.
    pub memory_fell_back: Option<Errno>,
    /// Other files that share extents with the snapshot.
    pub reflinked: usize,
    /// Other files whose data was read and written.
    pub copied: usize,
    /// Files with other contents than the snapshot's.
    pub rewritten: usize,
    /// Extended attributes that the kernel did not let us set.
    pub refused: Vec<Refused>,
    /// Files whose owner could not be kept.
    pub owners_lost: usize,
}

/// Why a tree was not built.
#[derive(Debug, thiserror::Error)]
pub enum MaterializeError {
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] FsError),
    /// The work was told to stop.
    #[error("stopped before the tree was complete")]
    Cancelled,
    /// A file of the snapshot is not as long as its manifest says.
    #[error("{} of the snapshot is shorter than its manifest says", path.display())]
    Short {
        /// The file in the store.
        path: PathBuf,
    },
    /// A memory file of the snapshot has another length or time than its manifest says: somebody wrote to it.
    #[error("{} of the snapshot was changed: its length or time is not the manifest's", path.display())]
    MemoryChanged {
        /// The file in the store.
        path: PathBuf,
    },
    /// The rewriting said no.
    #[error("{}: {why}", path.display())]
    Refused {
        /// The file, below the instance.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

impl From<DataError> for MaterializeError {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Io(e) => Self::Io(e),
            DataError::Cancelled => Self::Cancelled,
            DataError::Short { path } => Self::Short { path },
        }
    }
}

/// Makes the new file `to` with mode 0600 and the first `size` bytes of `from`.
///
/// # Errors
/// [`DataError`]; the new file may then be there in part.
pub fn clone_file(fs: &Fs, cloner: &Cloner<'_>, from: (&File, &Path), to: Place<'_>, size: u64) -> Result<(File, Method), DataError> {
    let file = fs.create(to, 0o600)?;
    let method = cloner.fill(from.0, from.1, &file, &to.path(), size)?;
    Ok((file, method))
}

/// Builds the tree of `entries` in the existing empty directory `dest`. On an error `dest` holds a part.
///
/// # Errors
/// [`MaterializeError`].
pub fn materialize(ctx: &MaterializeContext<'_>, entries: &[Entry], dest: &Path) -> Result<Materialized, MaterializeError> {
    let mut builder = Builder {
        ctx,
        cloner: Cloner::new(ctx.fs, ctx.flow),
        data: Below::open(ctx.fs, ctx.data)?,
        memory: Below::open(ctx.fs, ctx.memory)?,
        dest: Below::open(ctx.fs, dest)?,
        linked_from: Below::open(ctx.fs, dest)?,
        owner: None,
        tree: Materialized {
            memory: MemoryUsed::None,
            memory_fell_back: None,
            reflinked: 0,
            copied: 0,
            rewritten: 0,
            refused: Vec::new(),
            owners_lost: 0,
        },
    };
    for entry in entries {
        if ctx.flow.is_cancelled() {
            return Err(MaterializeError::Cancelled);
        }
        builder.make(entry)?;
    }
    for entry in entries.iter().rev().filter(|entry| entry.node == Node::Dir) {
        builder.finish_dir(entry)?;
    }
    Ok(builder.tree)
}

struct Builder<'a> {
    ctx: &'a MaterializeContext<'a>,
    cloner: Cloner<'a>,
    data: Below<'a>,
    memory: Below<'a>,
    dest: Below<'a>,
    /// A second way into the destination: a hard link has two names.
    linked_from: Below<'a>,
    /// Whom what we make belongs to: looked up once.
    owner: Option<(u32, u32)>,
    tree: Materialized,
}

impl Builder<'_> {
    fn make(&mut self, entry: &Entry) -> Result<(), MaterializeError> {
        let (fs, path) = (self.ctx.fs, entry.path.as_path());
        match &entry.node {
            Node::Dir if path.as_os_str().is_empty() => Ok(()),
            Node::Dir => Ok(fs.mkdir(self.dest.place(path)?, 0o700)?),
            Node::Symlink(target) => self.make_symlink(entry, target.as_os_str()),
            Node::Hardlink(first) => Ok(fs.hard_link(self.linked_from.place(first.as_path())?, self.dest.place(path)?)?),
            Node::File(file) if file.memory => self.make_memory(entry),
            Node::File(file) => self.make_file(entry, file),
        }
    }

    fn make_symlink(&mut self, entry: &Entry, target: &std::ffi::OsStr) -> Result<(), MaterializeError> {
        let fs = self.ctx.fs;
        let place = self.dest.place(entry.path.as_path())?;
        fs.symlink(target, place)?;
        let owner = match self.owner {
            Some(owner) => owner,
            None => owner_of(fs, place)?,
        };
        if owner != (entry.uid, entry.gid) {
            if self.ctx.as_root {
                fs.set_owner(place, entry.uid, entry.gid)?;
            } else {
                self.tree.owners_lost += 1;
            }
        }
        fs.set_mtime(place, entry.mtime_ns)?;
        self.owner = Some(owner);
        Ok(())
    }

    fn make_memory(&mut self, entry: &Entry) -> Result<(), MaterializeError> {
        let path = entry.path.as_path();
        let (from, to) = (self.memory.place(path)?, self.dest.place(path)?);
        let (used, why, file) = memory::give(self.ctx.fs, from, entry, to, self.ctx.memory_method, self.ctx.flow)?;
        self.tree.memory = self.tree.memory.max(used);
        self.tree.memory_fell_back = self.tree.memory_fell_back.or(why);
        match file {
            // Its own inode, so its own attributes; a link has the snapshot's.
            Some(file) => self.finish_file(entry, &file, true),
            None => Ok(()),
        }
    }

    fn make_file(&mut self, entry: &Entry, node: &FileNode) -> Result<(), MaterializeError> {
        let (fs, path) = (self.ctx.fs, entry.path.as_path());
        let from = fs.open_file(self.data.place(path)?)?;
        let other = match self.ctx.rewrite {
            Some(rewrite) => rewrite(entry, &from)?,
            None => None,
        };
        let to = self.dest.place(path)?;
        if let Some(bytes) = other {
            let file = fs.create(to, 0o600)?;
            fs.write_at(&file, &to.path(), &bytes, 0)?;
            self.tree.rewritten += 1;
            return self.finish_file(entry, &file, false);
        }
        let (file, method) = clone_file(fs, &self.cloner, (&from, &self.data.path_of(path)), to, node.size)?;
        match method {
            Method::Reflink => self.tree.reflinked += 1,
            Method::Copied => self.tree.copied += 1,
        }
        self.finish_file(entry, &file, true)
    }

    fn finish_file(&mut self, entry: &Entry, file: &File, is_same: bool) -> Result<(), MaterializeError> {
        let fs = self.ctx.fs;
        let place = self.dest.place(entry.path.as_path())?;
        let owner = match self.owner {
            Some(owner) => owner,
            None => owner_of(fs, place)?,
        };
        self.owner = Some(owner);
        let made = Made { owner, mode: 0o600, as_root: self.ctx.as_root, set_mtime: is_same };
        self.tree.owners_lost += usize::from(made.loses_owner(entry));
        self.tree.refused.extend(apply_meta(fs, place, file, entry, made)?);
        Ok(())
    }

    fn finish_dir(&mut self, entry: &Entry) -> Result<(), MaterializeError> {
        let (fs, path) = (self.ctx.fs, entry.path.as_path());
        let dir = fs.open_dir(self.dest.place(path)?)?;
        let now = fs.stat_open(&dir, dir.path())?;
        let made = Made { owner: (now.uid, now.gid), mode: now.mode, as_root: self.ctx.as_root, set_mtime: true };
        self.tree.owners_lost += usize::from(made.loses_owner(entry));
        self.tree.refused.extend(apply_meta(fs, self.dest.place(path)?, &dir, entry, made)?);
        Ok(())
    }
}

/// Whom something that was made just now belongs to: not always us (set-gid directories, mount options).
fn owner_of(fs: &Fs, place: Place<'_>) -> Result<(u32, u32), FsError> {
    fs.stat(place).map(|meta| (meta.uid, meta.gid))
}
