//! Copies one find of the walk: a directory, a symbolic link, a file or one more name of a file.

use super::{Copier, CopyError, DataError, Done, How, Method, ParentFile, Role, TICK, is_parents};
use crate::store::fs::{Dir, FileType, Found, Fs, FsError, Meta};
use crate::store::manifest::{Blob, Entry, FileNode, Node, TextPath};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::Path;

/// A copy, or `None` if the source is no longer what was found.
type Copied = Result<Option<Done>, CopyError>;

impl From<DataError> for CopyError {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Io(e) => Self::Io(e),
            DataError::Cancelled => Self::Cancelled,
            DataError::Short { path } => Self::Changing { path },
        }
    }
}

/// `None` if the source is gone or replaced.
fn if_there<T>(result: Result<T, FsError>) -> Result<Option<T>, FsError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.is_replaced() => Ok(None),
        Err(e) => Err(e),
    }
}

impl Copier<'_> {
    pub(super) fn copy_one(&mut self, found: &Found, role: &Role) -> Copied {
        match role {
            Role::Dir => self.copy_dir(found),
            Role::Symlink => self.copy_symlink(found),
            Role::File { memory } => self.copy_file(found, *memory),
            Role::Link(first) => self.copy_link(found, first),
        }
    }

    fn copy_dir(&mut self, found: &Found) -> Copied {
        let fs = self.ctx.fs;
        let Some(xattrs) = if_there(self.source.dir(&found.path).and_then(|dir| fs.xattrs(dir, dir.path())))? else {
            return Ok(None);
        };
        if !found.path.as_os_str().is_empty() {
            fs.mkdir_if_missing(self.dest.place(&found.path)?, 0o700)?;
        }
        let entry = Entry { xattrs: blobs(xattrs), ..Entry::new(&found.path, &found.meta, Node::Dir) };
        let dir: &Dir = self.dest.dir(&found.path)?;
        fs.set_mode(dir, dir.path(), entry.stored_mode())?;
        // The mode was set just now, so the copy's ctime is the file system's idea of now.
        let now = fs.stat_open(dir, dir.path())?.ctime_ns;
        let too_fresh = is_fresh(&found.meta, now);
        Ok(Some(Done { seen: found.meta, role: Role::Dir, entry, allocated: 0, how: How::Made, too_fresh }))
    }

    fn copy_symlink(&mut self, found: &Found) -> Copied {
        let fs = self.ctx.fs;
        let target = match self.source.place(&found.path).and_then(|place| fs.read_link(place)) {
            Ok(target) => target,
            // EINVAL: something else has its name now.
            Err(e) if e.is_replaced() || e.source == Errno::EINVAL => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        fs.symlink(&target, self.dest.place(&found.path)?)?;
        let entry = Entry::new(&found.path, &found.meta, Node::Symlink(TextPath::new(target)));
        fs.set_mtime(self.dest.place(&found.path)?, entry.mtime_ns)?;
        // A link's target never changes, and one made anew has another inode.
        Ok(Some(Done { seen: found.meta, role: Role::Symlink, entry, allocated: 0, how: How::Made, too_fresh: false }))
    }

    fn copy_link(&mut self, found: &Found, first: &Path) -> Copied {
        let Some(of) = self.done.get(first) else { return Ok(None) };
        if of.seen.file_id != found.meta.file_id {
            return Ok(None);
        }
        let (seen, how) = (of.seen, if matches!(of.how, How::Parents { .. }) { How::Parents { linked: false } } else { How::Made });
        let entry = Entry { xattrs: of.entry.xattrs.clone(), ..Entry::new(&found.path, &seen, Node::Hardlink(TextPath::new(first))) };
        self.ctx.fs.hard_link(self.linked_from.place(first)?, self.dest.place(&found.path)?)?;
        Ok(Some(Done { seen, role: Role::Link(first.to_owned()), entry, allocated: 0, how, too_fresh: false }))
    }

    fn copy_file(&mut self, found: &Found, memory: bool) -> Copied {
        let fs = self.ctx.fs;
        let path = self.source.path_of(&found.path);
        let Some(from) = if_there(self.source.place(&found.path).and_then(|place| fs.open_file(place)))? else {
            return Ok(None);
        };
        let seen = flushed(fs, &from, &path)?;
        if seen.kind != FileType::Regular || seen.file_id != found.meta.file_id {
            return Ok(None);
        }
        let xattrs = blobs(fs.xattrs(&from, &path)?);
        let node = |digest: String| Node::File(FileNode { size: seen.size, digest, data: None, memory });
        let mut done = Done {
            seen,
            role: Role::File { memory },
            entry: Entry { xattrs, ..Entry::new(&found.path, &seen, node(String::new())) },
            allocated: seen.allocated,
            how: How::Copied,
            too_fresh: false,
        };
        let parent = self.ctx.parent_memory.filter(|_| memory).and_then(|parent| parent.same(&seen));
        if let Some(parent) = parent {
            if self.link_parent(found, parent)? {
                self.ctx.flow.progress.advance(seen.allocated.min(seen.size));
                done.entry.node = node(parent.digest.clone());
                done.how = How::Parents { linked: true };
                return Ok(Some(done));
            }
            done.how = How::Parents { linked: false };
        }
        if self.fill(found, &from, &path, &mut done)? { Ok(Some(done)) } else { Ok(None) }
    }

    /// Makes the copy of a file of its own; false if the source was cut short meanwhile.
    fn fill(&mut self, found: &Found, from: &File, path: &Path, done: &mut Done) -> Result<bool, CopyError> {
        let fs = self.ctx.fs;
        let to_path = self.dest.path_of(&found.path);
        let place = self.dest.place(&found.path)?;
        let to = fs.create(place, 0o600)?;
        if done.how == How::Copied {
            // The new file's ctime is the file system's idea of now.
            let now = fs.stat_open(&to, &to_path)?.ctime_ns;
            if is_fresh(&done.seen, now) {
                std::thread::sleep(TICK);
                let later = flushed(fs, from, path)?;
                done.too_fresh = later.differs_from(&done.seen);
            }
        }
        match self.cloner.fill_and_hash((from, path), (&to, &to_path), done.seen.size, true) {
            Ok((method, digest)) => {
                if method == Method::Reflink && done.how == How::Copied {
                    done.how = How::Reflinked;
                }
                if let Node::File(file) = &mut done.entry.node {
                    file.digest = digest.unwrap_or_default();
                }
            }
            Err(DataError::Short { .. }) => return Ok(false),
            Err(e) => return Err(e.into()),
        }
        let mode = done.entry.stored_mode();
        if mode != 0o600 {
            fs.set_mode(&to, &to_path, mode)?;
        }
        fs.set_mtime(place, done.entry.mtime_ns)?;
        let stored = fs.stat_open(&to, &to_path)?;
        done.allocated = stored.allocated;
        // A file system may round times; the store's word is what links are checked against.
        done.entry.mtime_ns = stored.mtime_ns;
        Ok(true)
    }

    /// Gives the parent's memory file a name in the copy; false if it cannot be had or is not what it was.
    fn link_parent(&mut self, found: &Found, parent: &ParentFile) -> Result<bool, CopyError> {
        let fs = self.ctx.fs;
        let place = self.dest.place(&found.path)?;
        match fs.hard_link(parent.path.as_path(), place) {
            Ok(()) => {}
            // EMLINK: it has as many names as it can; the others: another mount, or links are not allowed. ENOENT: it is
            // compressed or in the trash. ENAMETOOLONG: it is that deep in the snapshot. A copy does as well.
            Err(e)
                if matches!(
                    e.source,
                    Errno::EMLINK | Errno::EXDEV | Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOENT | Errno::ENAMETOOLONG
                ) =>
            {
                return Ok(false);
            }
            Err(e) => return Err(e.into()),
        }
        if is_parents(parent, &fs.stat(place)?) {
            return Ok(true);
        }
        fs.unlink(place)?;
        Ok(false)
    }
}

/// Writes the source's dirty pages out and looks at it.
pub(super) fn flushed(fs: &Fs, from: &File, path: &Path) -> Result<Meta, FsError> {
    match fs.write_out(from, path) {
        // A read-only or strange file system has nothing to flush.
        Err(e) if !matches!(e.source, Errno::EROFS | Errno::EINVAL) => return Err(e),
        _ => {}
    }
    fs.stat_open(from, path)
}

/// Whether something changed within a clock tick of `now`. Times far ahead are not fresh: the clock stepped back.
fn is_fresh(meta: &Meta, now_ns: i64) -> bool {
    u128::from(now_ns.abs_diff(meta.ctime_ns)) < TICK.as_nanos()
}

pub(super) fn blobs(xattrs: Vec<(OsString, Vec<u8>)>) -> BTreeMap<TextPath, Blob> {
    xattrs.into_iter().map(|(name, value)| (TextPath::new(name), Blob(value))).collect()
}
