//! Where a call acts: an absolute path, or one name inside an open directory.

use super::{FsError, Op};
use nix::errno::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// An open directory that remembers the path it was opened by, for messages.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    pub(super) fn new(fd: OwnedFd, path: PathBuf) -> Self {
        Self { fd, path }
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The entry `name` of this directory.
    #[must_use]
    pub fn at<'a>(&'a self, name: &'a OsStr) -> Place<'a> {
        Place::In(self, name)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Dir {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl xattr::FileExt for Dir {}

/// An absolute path, or a single name in an open directory (so that no symbolic link on the way is ever followed).
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// An absolute path of our own making.
    Path(&'a Path),
    /// A name in an open directory; for opening, also a path of plain names below it.
    In(&'a Dir, &'a OsStr),
}

impl<'a> Place<'a> {
    /// The whole path, for messages.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Path(path) => path.to_path_buf(),
            Self::In(dir, name) => dir.path.join(name),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'a> {
        match *self {
            Self::Path(_) => super::cwd(),
            Self::In(dir, _) => dir.as_fd(),
        }
    }

    pub(super) fn name(&self) -> &'a OsStr {
        match self {
            Self::Path(path) => path.as_os_str(),
            Self::In(_, name) => name,
        }
    }

    pub(super) fn failed(&self, op: Op, source: Errno) -> FsError {
        FsError { op, path: self.path(), source }
    }
}

impl<'a> From<&'a Path> for Place<'a> {
    fn from(path: &'a Path) -> Self {
        Self::Path(path)
    }
}

impl<'a> From<&'a PathBuf> for Place<'a> {
    fn from(path: &'a PathBuf) -> Self {
        Self::Path(path)
    }
}

impl<'a> From<(&'a Dir, &'a OsStr)> for Place<'a> {
    fn from((dir, name): (&'a Dir, &'a OsStr)) -> Self {
        Self::In(dir, name)
    }
}
