//! What is in a directory.

use super::{Dir, Fs, Meta, Op, Place, Result, sys};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, fstatfs};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// A name in a directory; its type is not to be trusted on every file system, so it is not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, any bytes.
    pub name: OsString,
    /// Inode number as the directory tells it.
    pub inode: u64,
}

/// Bytes of a listing at a time.
const LISTED: usize = 16 << 10;
/// Room for any entry (struct linux_dirent64 with a name of `NAME_MAX` bytes, getdents64(2)).
const LONGEST: usize = 280;

/// What lists directories, one after the other.
#[derive(Debug)]
pub struct Lister {
    buffer: Vec<u8>,
    /// The device of directories whose size tells how long their names are.
    sized: Option<u64>,
}

impl Default for Lister {
    fn default() -> Self {
        Self { buffer: vec![0; LISTED], sized: None }
    }
}

impl Lister {
    /// For many directories in `dir`. That a listing is at its end takes another call, which on btrfs is two fifths of listing
    /// a few names; there a directory's size tells it too.
    #[must_use]
    pub fn within(dir: &Dir) -> Self {
        let is_btrfs = fstatfs(dir).is_ok_and(|stat| stat.filesystem_type() == BTRFS_SUPER_MAGIC);
        Self { sized: fstat(dir).ok().filter(|_| is_btrfs).map(|stat| stat.st_dev), ..Self::default() }
    }

    /// Whether names of so many bytes are all of a directory of this device and size: that of btrfs is twice the bytes of its
    /// names (`btrfs_add_link`, fs/btrfs/inode.c).
    fn is_all(&self, (device, size): (u64, u64), bytes: usize) -> bool {
        self.sized == Some(device) && size == 2 * bytes as u64
    }

    /// Whether a call that gave so many bytes had room for another entry: who gives less has no more, save if a signal came.
    fn had_room(&self, len: usize) -> bool {
        len + LONGEST <= self.buffer.len()
    }

    /// Tells every name of an open directory but `.` and `..`, from its position on, and whether the directory says that it is
    /// of a directory. `meta` is what it looked like before.
    pub(super) fn each_name(&mut self, dir: &Dir, meta: &Meta, mut tell: impl FnMut(&OsStr, bool)) -> nix::Result<()> {
        let mut bytes = 0;
        loop {
            let len = sys::some_names(dir, &mut self.buffer, |name, is_dir| {
                bytes += name.len();
                tell(name, is_dir);
            })?;
            if len == 0 || (self.had_room(len) && self.is_all((meta.file_id.0, meta.size), bytes)) {
                return Ok(());
            }
        }
    }
}

impl Fs {
    /// The names in a directory, sorted by bytes; `.` and `..` left out.
    pub fn list<'a>(&self, at: impl Into<Place<'a>>) -> Result<Vec<DirEntry>> {
        let dir = self.open_dir(at)?;
        self.list_here(&dir)
    }

    /// The names in an open directory, sorted by bytes.
    pub fn list_open(&self, dir: &Dir) -> Result<Vec<DirEntry>> {
        // A second descriptor, so that the position of the first is nobody's business.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let again = super::beneath::open(dir.at(OsStr::new(".")), flags, Mode::empty());
        let again = again.map_err(|e| Place::Path(dir.path()).failed(Op::List, e))?;
        self.list_here(&Dir::new(again, dir.path().to_owned()))
    }

    /// The names in a directory that was opened for this alone: its descriptor is at the end then.
    pub fn list_here(&self, dir: &Dir) -> Result<Vec<DirEntry>> {
        self.list_by(dir, &mut Lister::default())
    }

    /// The same by a lister of the caller's: for who lists many directories.
    pub fn list_by(&self, dir: &Dir, lister: &mut Lister) -> Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        self.each_entry(dir, lister, |entry| {
            entries.push((beginning(&entry.name), entry));
            true
        })?;
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.name.cmp(&b.1.name)));
        Ok(entries.into_iter().map(|(_, entry)| entry).collect())
    }

    /// Like [`Fs::list`], empty for a directory that does not exist.
    pub fn list_if_there<'a>(&self, at: impl Into<Place<'a>>) -> Result<Vec<DirEntry>> {
        match self.list(at) {
            Ok(entries) => Ok(entries),
            Err(e) if e.is_not_found() => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// The names in a directory, in no order, none if it is not there; `None` if there are more than `most`: then the rest of
    /// it is not read.
    pub fn names_up_to(&self, dir: &Path, most: usize) -> Result<Option<HashSet<OsString>>> {
        let dir = match self.open_dir(dir) {
            Err(e) if e.is_not_found() => return Ok(Some(HashSet::new())),
            dir => dir?,
        };
        let mut names = HashSet::new();
        self.each_entry(&dir, &mut Lister::default(), |entry| {
            names.insert(entry.name);
            names.len() <= most
        })?;
        Ok((names.len() <= most).then_some(names))
    }

    /// Tells what is in an open directory until it is told to stop.
    fn each_entry(&self, dir: &Dir, lister: &mut Lister, mut tell: impl FnMut(DirEntry) -> bool) -> Result<()> {
        self.looks(Op::List, dir.path().into());
        let mut bytes = 0;
        loop {
            let len = sys::getdents(dir, &mut lister.buffer).map_err(|e| Place::Path(dir.path()).failed(Op::List, e))?;
            let mut rest = lister.buffer.get(..len).unwrap_or_default();
            if rest.is_empty() {
                return Ok(());
            }
            while let Some((entry, after)) = entry_of(rest) {
                if entry.name != "." && entry.name != ".." {
                    bytes += entry.name.len();
                    if !tell(entry) {
                        return Ok(());
                    }
                }
                rest = after;
            }
            // Never half a listing: what is not in it may be taken for gone.
            if !rest.is_empty() {
                return Err(Place::Path(dir.path()).failed(Op::List, Errno::EIO));
            }
            let now = || fstat(dir).map_or((0, 0), |stat| (stat.st_dev, u64::try_from(stat.st_size).unwrap_or(0)));
            if lister.sized.is_some() && lister.had_room(len) && lister.is_all(now(), bytes) {
                return Ok(());
            }
        }
    }
}

/// The first sixteen bytes of a name, beside which most need not be looked at to be put in order: that takes half the time where
/// there are a hundred thousand.
fn beginning(name: &OsStr) -> [u8; 16] {
    let mut first = [0; 16];
    first.iter_mut().zip(name.as_bytes()).for_each(|(to, from)| *to = *from);
    first
}

/// The first entry of a listing, and what comes behind it (struct linux_dirent64, getdents64(2)).
fn entry_of(listed: &[u8]) -> Option<(DirEntry, &[u8])> {
    let inode = u64::from_ne_bytes(listed.get(..8)?.try_into().ok()?);
    let len = usize::from(u16::from_ne_bytes(listed.get(16..18)?.try_into().ok()?));
    let name = listed.get(19..len)?.split(|byte| *byte == 0).next()?;
    Some((DirEntry { name: OsStr::from_bytes(name).to_owned(), inode }, listed.get(len..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_tells_that_a_listing_is_whole_only_on_the_device_that_counts_names_by_it() {
        let lister = Lister { sized: Some(7), ..Lister::default() };
        assert!(lister.is_all((7, 0), 0) && lister.is_all((7, 10), 5));
        assert!(!lister.is_all((7, 12), 5) && !lister.is_all((7, 8), 5) && !lister.is_all((8, 10), 5));
        assert!(!Lister::default().is_all((0, 0), 0), "nowhere else");
        // A name more would have been listed too.
        assert!(lister.had_room(LISTED - LONGEST) && !lister.had_room(LISTED - LONGEST + 1));
    }
}
