//! Mode, owner, extended attributes and time of something new, with no more calls than it takes.

use crate::store::fs::{Fs, FsError, Place};
use crate::store::manifest::{Entry, Node};
use nix::errno::Errno;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;

/// What is known of something new: what already holds needs no call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// User and group that creation gave it.
    pub owner: (u32, u32),
    /// The mode that creation gave it.
    pub mode: u32,
    /// Whether its owner can be changed.
    pub as_root: bool,
    /// False for contents that are not the manifest's: their time is now.
    pub set_mtime: bool,
}

impl Made {
    /// True if the entry's owner cannot be had.
    #[must_use]
    pub fn loses_owner(&self, entry: &Entry) -> bool {
        !self.as_root && self.owner != (entry.uid, entry.gid)
    }
}

/// An extended attribute that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The file.
    pub path: PathBuf,
    /// The attribute.
    pub name: OsString,
    /// The kernel's answer.
    pub why: Errno,
}

/// Gives the new file or directory at `place`, open as `file`, the entry's owner (if it can), extended attributes, mode
/// and, last, time. Without its owner it gets no set-id bits either.
///
/// # Errors
/// Whatever call fails; attributes outside `user.*` that may not be set are returned instead.
pub fn apply_meta<F>(fs: &Fs, place: Place<'_>, file: &F, entry: &Entry, made: Made) -> Result<Vec<Refused>, FsError>
where
    F: xattr::FileExt,
    for<'a> &'a F: AsFd,
{
    let mut refused = Vec::new();
    // First of all, because it takes set-id bits and capabilities away.
    let has_owner = made.owner == (entry.uid, entry.gid);
    if !has_owner && made.as_root {
        fs.set_owner(place, entry.uid, entry.gid)?;
    }
    for (name, value) in &entry.xattrs {
        match fs.set_xattr(file, &place.path(), name.as_os_str(), &value.0) {
            Ok(()) => {}
            Err(e) if may_be_refused(name.as_os_str().as_encoded_bytes(), e.source) => {
                refused.push(Refused { path: e.path, name: name.as_os_str().to_owned(), why: e.source });
            }
            Err(e) => return Err(e),
        }
    }
    let set_ids = if made.loses_owner(entry) && entry.node != Node::Dir { 0o6000 } else { 0 };
    let mode = entry.mode & !set_ids;
    // A change of owner has cleared set-id bits; an access list may have changed the mode.
    if mode != made.mode || !has_owner || !entry.xattrs.is_empty() {
        fs.set_mode(file, &place.path(), mode)?;
    }
    if made.set_mtime {
        fs.set_mtime(place, entry.mtime_ns)?;
    }
    Ok(refused)
}

fn may_be_refused(name: &[u8], errno: Errno) -> bool {
    !name.starts_with(b"user.") && matches!(errno, Errno::EPERM | Errno::EACCES | Errno::EOPNOTSUPP | Errno::EINVAL)
}
