//! Copies an instance's directory into the store: the walk, what is copied how, and the proof that the copy is of one moment.
//!
//! **One moment.** A pass walks the source and copies what is not yet copied as found. The next pass walks again; if it
//! finds every directory with the times it had before it was listed, and every file with the size and times it had before
//! it was read, then nothing changed between the end of the copying and the second walk: the copy is the source as it
//! was at that moment. Whatever differs is copied again, into a fresh inode, and looked at once more.
//!
//! Two things make times trustworthy. A file is flushed before it is read: its pages become clean, so the next write
//! through a mapping must fault and set the times (and FICLONE has nothing left to write out). And a file or directory
//! that changed within the last clock tick is looked at again after it: a second change in the same tick leaves no trace.
//!
//! Nothing here publishes, names a snapshot or runs a freeze command; the source is only read.

mod blocks;
mod data;
mod flow;
mod flush;
mod one;
mod roles;
pub(super) mod stock;
mod sync;

pub use data::{Cloner, DataError, Method};
pub(crate) use data::{cannot_share, stretches};
pub use flow::{Flow, NoProgress, Progress, copy_threads};
pub use flush::flush_tree;
pub use sync::{MANY, count, sync_each, sync_tree, write_back_each};

use crate::config::Skip;
use crate::snapshot::digest::BLOCK;
use crate::store::fs::{Below, FileType, Found, Fs, FsError, Meta, Op};
use crate::store::manifest::{Entry, Kind, Node, Skipped, TextPath};
use nix::errno::Errno;
use roles::{Role, roles};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often what changed under the copy is copied again.
pub const REPEATS: usize = 3;

/// Longer than any kernel's clock tick: two changes this far apart have different times.
const TICK: Duration = Duration::from_millis(20);

/// What a copy needs to know.
#[derive(Debug, Clone, Copy)]
pub struct CopyContext<'a> {
    /// The file system.
    pub fs: &'a Fs,
    /// What is left out.
    pub skip: &'a Skip,
    /// Names of files that hold guest memory, at any depth.
    pub memory_names: &'a [String],
    /// The memory of the snapshot whose fork the instance is.
    pub parent_memory: Option<&'a ParentMemory>,
    /// Threads, progress, request to stop.
    pub flow: Flow<'a>,
}

/// The memory files of a parent snapshot, as its manifest has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParentMemory {
    /// Each of them.
    pub files: Vec<ParentFile>,
}

/// One memory file of a parent snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentFile {
    /// Where it is in the store.
    pub path: PathBuf,
    /// Its device and inode number there.
    pub file_id: (u64, u64),
    /// Its length in bytes, by the manifest.
    pub size: u64,
    /// Its modification time, by the manifest.
    pub mtime_ns: i64,
    /// Its digest, by the manifest.
    pub digest: String,
}

impl ParentMemory {
    /// The parent's file that `meta` proves to be the same unchanged inode.
    fn same(&self, meta: &Meta) -> Option<&ParentFile> {
        self.files.iter().find(|file| is_parents(file, meta))
    }
}

fn is_parents(file: &ParentFile, meta: &Meta) -> bool {
    meta.kind == FileType::Regular && (meta.file_id, meta.size, meta.mtime_ns) == (file.file_id, file.size, file.mtime_ns)
}

/// A tree that was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedTree {
    /// Directories before what is in them; digests of files whose bytes nobody saw are still empty (see `hash_tree`).
    pub entries: Vec<Entry>,
    /// What was left out.
    pub skipped: Vec<Skipped>,
    /// Sum of the files' lengths.
    pub size_bytes: u64,
    /// Sum of what their copies take, those bytes included that a copy shares.
    pub allocated_bytes: u64,
    /// Standby if any file has a memory file's name.
    pub kind: Kind,
    /// Memory files linked from the parent snapshot.
    pub linked: usize,
    /// Files whose extents are shared with the source's.
    pub reflinked: usize,
    /// Long files whose data was read and written: their pages are in the page cache.
    pub copied: Vec<TextPath>,
    /// Bytes of data that share their place on the disk with nothing: of the long files and of all others.
    pub copied_bytes: u64,
    /// How many passes found something that had changed.
    pub repeats: usize,
}

/// Why a tree was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] FsError),
    /// The work was told to stop.
    #[error("stopped before the copy was complete")]
    Cancelled,
    /// The instance does not hold still.
    #[error("{} keeps changing: copied {} times, and it changed again", path.display(), REPEATS + 1)]
    Changing {
        /// What changed last.
        path: PathBuf,
    },
}

/// Copies the tree at `source` into the existing empty directory `dest`, both absolute paths. See the module for what it
/// promises. Nothing is synced (see [`sync_tree`] and [`write_back_each`]) or hashed; on an error `dest` holds a part.
///
/// # Errors
/// [`CopyError`].
pub fn copy_tree(ctx: &CopyContext<'_>, source: &Path, dest: &Path) -> Result<CopiedTree, CopyError> {
    let mut copier = Copier {
        ctx,
        cloner: Cloner::new(ctx.fs, ctx.flow).leaving_cache(),
        source: Below::open(ctx.fs, source)?,
        dest: Below::open(ctx.fs, dest)?,
        linked_from: Below::open(ctx.fs, dest)?,
        done: HashMap::new(),
    };
    let mut repeats = 0;
    loop {
        let (found, skipped) = copier.walk()?;
        let roles = roles(&found, ctx.memory_names);
        let changed = copier.changed(&found, &roles);
        if changed.is_empty() {
            return copier.finish(&found, skipped, repeats);
        }
        if repeats == 0 && copier.done.is_empty() {
            ctx.flow
                .progress
                .total(found.iter().filter(|f| f.meta.kind == FileType::Regular).map(|f| f.meta.allocated.min(f.meta.size)).sum());
        } else {
            repeats += 1;
        }
        if repeats > REPEATS {
            if let Some(restless) = changed.iter().find(|change| !copier.is_only_touched(change, &found)) {
                return Err(CopyError::Changing { path: source.join(restless) });
            }
            // Names come and go that snapshots leave out: the directory's own times are all that moved.
            copier.copy(&found, &roles, &changed)?;
            return copier.finish(&found, skipped, repeats);
        }
        copier.copy(&found, &roles, &changed)?;
        if copier.done.values().any(|done| done.too_fresh) {
            std::thread::sleep(TICK);
        }
    }
}

/// What is known of something that was copied.
#[derive(Debug)]
struct Done {
    /// The source before it was read.
    seen: Meta,
    role: Role,
    entry: Entry,
    /// Bytes that the copy takes.
    allocated: u64,
    how: How,
    /// It changed so shortly before it was read that one more change might not show, or while it was read.
    too_fresh: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Made,
    Copied,
    Reflinked,
    /// The parent's inode; its ctime changes with each fork that is made of it.
    Parents {
        linked: bool,
    },
}

impl Done {
    fn is_current(&self, meta: &Meta, role: &Role) -> bool {
        if self.too_fresh || self.role != *role {
            return false;
        }
        match self.how {
            How::Parents { .. } => {
                let key = |m: &Meta| (m.kind, m.file_id, m.size, m.mtime_ns);
                key(&self.seen) == key(meta)
            }
            _ => !meta.differs_from(&self.seen),
        }
    }
}

struct Copier<'a> {
    ctx: &'a CopyContext<'a>,
    cloner: Cloner<'a>,
    source: Below<'a>,
    dest: Below<'a>,
    /// A second way into the destination: a hard link has two names.
    linked_from: Below<'a>,
    done: HashMap<PathBuf, Done>,
}

impl Copier<'_> {
    fn walk(&mut self) -> Result<(Vec<Found>, Vec<Skipped>), CopyError> {
        if self.ctx.flow.is_cancelled() {
            return Err(CopyError::Cancelled);
        }
        self.source.forget();
        let mut skipped = Vec::new();
        let skip = self.ctx.skip;
        let found = self.ctx.fs.walk(&mut self.source, &mut |path, meta| {
            let why = why_left_out(skip, path, meta);
            skipped.extend(why.map(|why| Skipped { path: TextPath::new(path), why: why.to_owned() }));
            why.is_some()
        })?;
        // A directory that was removed lists as empty; an empty snapshot is not what anybody meant.
        if found.first().is_none_or(|root| root.meta.links == 0) {
            let path = self.source.root().path().to_owned();
            return Err(FsError { op: Op::List, path, source: Errno::ENOENT }.into());
        }
        Ok((found, skipped))
    }

    /// The paths that are not, or no longer, copied as found; and those that are copied but no longer there.
    fn changed(&self, found: &[Found], roles: &[Role]) -> Vec<PathBuf> {
        let there: HashSet<&Path> = found.iter().map(|f| f.path.as_path()).collect();
        let mut gone: Vec<_> = self.done.keys().filter(|path| !there.contains(path.as_path())).cloned().collect();
        gone.sort();
        let stale = found.iter().zip(roles).filter(|(f, role)| !self.done.get(&f.path).is_some_and(|d| d.is_current(&f.meta, role)));
        // What is gone comes last: its directory has changed too, and says more.
        stale.map(|(f, _)| f.path.clone()).chain(gone).collect()
    }

    /// True if `path` is a directory of which nothing but the times and link count changed since it was copied.
    fn is_only_touched(&self, path: &Path, found: &[Found]) -> bool {
        let now = found.iter().find(|f| f.path == *path);
        let (Some(now), Some(before)) = (now, self.done.get(path)) else { return false };
        let key = |m: &Meta| (m.kind, m.file_id, m.mode, m.uid, m.gid);
        before.role == Role::Dir && key(&now.meta) == key(&before.seen)
    }

    /// Brings the copies of `changed` up to what was found.
    fn copy(&mut self, found: &[Found], roles: &[Role], changed: &[PathBuf]) -> Result<(), CopyError> {
        let wanted: BTreeMap<&Path, &Role> = found.iter().map(|f| f.path.as_path()).zip(roles).collect();
        let mut again: HashSet<PathBuf> = changed.iter().cloned().collect();
        for path in changed {
            let Some(done) = self.done.get(path) else { continue };
            // A directory that is still one keeps what is in it; everything else gets a fresh inode.
            if done.role == Role::Dir && wanted.get(path.as_path()) == Some(&&Role::Dir) {
                continue;
            }
            self.remove(path)?;
        }
        for (found, role) in found.iter().zip(roles) {
            if self.ctx.flow.is_cancelled() {
                return Err(CopyError::Cancelled);
            }
            if let Role::Link(first) = role
                && again.contains(first)
                && again.insert(found.path.clone())
            {
                self.remove(&found.path)?;
            }
            if !again.contains(&found.path) {
                continue;
            }
            // Its directory went while we came, perhaps to come back: the next pass sees what has become of both.
            if found.path.parent().is_some_and(|parent| self.done.get(parent).is_none_or(|dir| dir.role != Role::Dir)) {
                self.remove(&found.path)?;
                continue;
            }
            match self.copy_one(found, role) {
                Ok(Some(done)) => drop(self.done.insert(found.path.clone(), done)),
                // It went while we came: the next pass sees what has become of it.
                Ok(None) => self.remove(&found.path)?,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Takes a copy, with all below it, out of the destination again.
    fn remove(&mut self, path: &Path) -> Result<(), CopyError> {
        // The root has no name here and is never copied anew.
        let place = match self.dest.place(path) {
            Ok(_) if path.as_os_str().is_empty() => return Ok(()),
            Ok(place) => place,
            // Its directory went before it, or is something else by now.
            Err(e) if e.is_replaced() => {
                self.forget(path);
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        };
        self.ctx.fs.remove_tree(place)?;
        self.forget(path);
        Ok(())
    }

    fn forget(&mut self, path: &Path) {
        if let Some(Done { role: Role::Dir, .. }) = self.done.remove(path) {
            self.done.retain(|other, _| !other.starts_with(path));
            self.dest.forget();
            self.linked_from.forget();
        }
    }

    fn finish(mut self, found: &[Found], skipped: Vec<Skipped>, repeats: usize) -> Result<CopiedTree, CopyError> {
        let kind = if roles::has_memory(found, self.ctx.memory_names) { Kind::Standby } else { Kind::Stopped };
        let mut tree = CopiedTree {
            entries: Vec::new(),
            skipped,
            size_bytes: 0,
            allocated_bytes: 0,
            kind,
            linked: 0,
            reflinked: 0,
            copied: Vec::new(),
            copied_bytes: 0,
            repeats,
        };
        for path in found.iter().map(|f| &f.path) {
            let Some(done) = self.done.remove(path) else { continue };
            if let Node::File(file) = &done.entry.node {
                tree.size_bytes = tree.size_bytes.saturating_add(file.size);
                tree.allocated_bytes = tree.allocated_bytes.saturating_add(done.allocated);
                if matches!(done.how, How::Copied | How::Parents { linked: false }) {
                    tree.copied_bytes = tree.copied_bytes.saturating_add(done.allocated.min(file.size));
                    if file.size > BLOCK {
                        tree.copied.push(done.entry.path.clone());
                    }
                }
            }
            tree.linked += usize::from(done.how == How::Parents { linked: true });
            tree.reflinked += usize::from(done.how == How::Reflinked);
            tree.entries.push(done.entry);
        }
        // After everything below them: each new name sets its directory's time.
        for entry in tree.entries.iter().rev().filter(|entry| entry.node == Node::Dir) {
            self.ctx.fs.set_mtime(self.dest.place(entry.path.as_path())?, entry.mtime_ns)?;
        }
        Ok(tree)
    }
}

/// Why a snapshot leaves `path` out, if it does.
fn why_left_out<'a>(skip: &'a Skip, path: &Path, meta: &Meta) -> Option<&'a str> {
    match meta.kind {
        FileType::Socket => Some("socket"),
        FileType::Fifo => Some("fifo"),
        FileType::Device => Some("device"),
        _ if path == Path::new(".snapkeep/fork.json") => Some("fork record"),
        // Of this instance, now: the manifest has them, and a fork is not to be chosen by its source's.
        _ if path == Path::new(".snapkeep/tags.toml") => Some("instance tags"),
        kind => skip.rule_for(path, kind == FileType::Directory),
    }
}

#[cfg(test)]
mod tests;
