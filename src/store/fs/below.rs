//! Paths below a root directory: no symbolic link on the way is ever followed, no step leads out, and no path is too long.

use super::{Dir, Fs, FsError, Meta, Op, Place, Result, beneath};
use nix::errno::Errno;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// A root directory and, for neighbours, the directory below it that was asked for last: two descriptors at any depth.
#[derive(Debug)]
pub struct Below<'f> {
    fs: &'f Fs,
    root: Dir,
    last: Option<(PathBuf, Dir)>,
}

impl<'f> Below<'f> {
    /// Opens the root.
    pub fn open<'a>(fs: &'f Fs, root: impl Into<Place<'a>>) -> Result<Self> {
        Ok(Self { fs, root: fs.open_dir(root)?, last: None })
    }

    /// The root itself.
    #[must_use]
    pub fn root(&self) -> &Dir {
        &self.root
    }

    /// The whole path of `relative`, for messages.
    #[must_use]
    pub fn path_of(&self, relative: &Path) -> PathBuf {
        if relative.as_os_str().is_empty() { self.root.path().to_owned() } else { self.root.path().join(relative) }
    }

    /// The directory at `relative`; the root for an empty path.
    ///
    /// # Errors
    /// EINVAL for a path with anything but plain names in it.
    pub fn dir(&mut self, relative: &Path) -> Result<&Dir> {
        let (known, mut at) = match self.last.take() {
            Some((path, dir)) if relative.starts_with(&path) => (path, Some(dir)),
            _ => (PathBuf::new(), None),
        };
        let rest = relative.strip_prefix(&known).unwrap_or(relative);
        let Some(pieces) = beneath::pieces(rest) else {
            return Err(FsError { op: Op::Open, path: self.path_of(relative), source: Errno::EINVAL });
        };
        for piece in &pieces {
            at = Some(self.fs.open_dir(at.as_ref().unwrap_or(&self.root).at(piece.as_os_str()))?);
        }
        match at {
            Some(dir) => Ok(&self.last.insert((relative.to_owned(), dir)).1),
            None => Ok(&self.root),
        }
    }

    /// The place of `relative`: a name in its open parent directory.
    pub fn place<'a>(&'a mut self, relative: &'a Path) -> Result<Place<'a>> {
        let Some(name) = relative.file_name() else {
            return if relative.as_os_str().is_empty() {
                Ok(Place::In(&self.root, OsStr::new(".")))
            } else {
                Err(FsError { op: Op::Open, path: self.path_of(relative), source: Errno::EINVAL })
            };
        };
        let dir = self.dir(relative.parent().unwrap_or(Path::new("")))?;
        Ok(dir.at(name))
    }

    /// Forgets the directory that was asked for last: to be called when directories below the root were removed.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

impl Fs {
    /// Looks at `relative` below the directory `root`, however long the path; `None` if it is not there, or only through a
    /// symbolic link.
    pub fn stat_below(&self, root: &Path, relative: &Path) -> Result<Option<Meta>> {
        let found = Below::open(self, root).and_then(|mut below| self.stat(below.place(relative)?));
        match found {
            Ok(meta) => Ok(Some(meta)),
            Err(e) if e.is_replaced() => Ok(None),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_lead_below_the_root_and_links_are_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let fs = Fs::real();
        fs.mkdir(&temp.path().join("a"), 0o700).unwrap();
        fs.mkdir(&temp.path().join("a/b"), 0o700).unwrap();
        fs.symlink(OsStr::new("a"), &temp.path().join("link")).unwrap();
        let mut below = Below::open(&fs, temp.path()).unwrap();
        let b = fs.stat(below.place(Path::new("a/b")).unwrap()).unwrap();
        assert_eq!(fs.stat_open(below.dir(Path::new("a/b")).unwrap(), Path::new("b")).unwrap().file_id, b.file_id);
        assert_eq!(below.dir(Path::new("")).unwrap().path(), temp.path());
        for bad in ["../x", "/etc/passwd", "a/../..", ".."] {
            assert_eq!(below.place(Path::new(bad)).unwrap_err().source, Errno::EINVAL, "{bad}");
        }
        assert!(below.place(Path::new("link/b")).is_err());
    }
}
