//! The ready pool as it lies on the disk: forks without a name, made ahead of need, in `.snapkeep/pool/<snapshot-id>/`.
//!
//! A name says all that there is to know of an entry, so that none is read at the start, and none written when one is handed
//! out: `<id>-<stamp>-<memory><disk>`, with `-<errno>` behind it if memory was not made the first way. What is being made
//! begins with a dot. Nothing here decides what to make or to drop.

use super::fs::{Fs, FsError};
use super::layout::Layout;
use super::open::Store;
use crate::ids::{ForkId, SnapshotId};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

/// How a part of an entry was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// There is none.
    None,
    /// A hard link of the snapshot's file.
    Linked,
    /// Its extents are the snapshot's.
    Reflinked,
    /// Read and written.
    Copied,
}

impl Way {
    const ALL: [(Self, char); 4] = [(Self::None, 'n'), (Self::Linked, 'h'), (Self::Reflinked, 'r'), (Self::Copied, 'c')];

    fn letter(self) -> char {
        Self::ALL.iter().find(|(way, _)| *way == self).map_or('n', |(_, letter)| *letter)
    }

    fn of(letter: char) -> Option<Self> {
        Self::ALL.iter().find(|(_, l)| *l == letter).map(|(way, _)| *way)
    }
}

/// The name of a whole entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PoolName {
    /// Random, of the shape of a fork's id; no fork has it.
    pub id: ForkId,
    /// What it was made by: equal only if it would be made the same today.
    pub stamp: String,
    /// How memory was made.
    pub memory: Way,
    /// How the costliest of its other files was made.
    pub disk: Way,
    /// Why memory was not made the first way (an errno), if it was not.
    pub fell_back: Option<i32>,
}

/// What the files of an entry hold that get their contents when it is handed out, where files are written in place. Not nothing, so
/// that they have their block: to find one for each of three thousand files, and to convert it, is much of what ext4 does in a burst.
pub const BLANK: &[u8] = b"\n";

/// Whether a file is as long as one that waits for its contents.
#[must_use]
pub fn is_blank(size: u64) -> bool {
    size <= BLANK.len() as u64
}

/// Characters of a stamp.
pub const STAMP: usize = 16;

impl PoolName {
    /// Reads a name; `None` if it is not of this form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let id = ForkId::parse(parts.next()?).ok()?;
        let stamp = parts.next().filter(|s| s.len() == STAMP && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))?.to_owned();
        let mut ways = parts.next()?.chars();
        let (memory, disk) = (Way::of(ways.next()?)?, Way::of(ways.next()?)?);
        let fell_back = parts.next().map(str::parse::<u16>).transpose().ok()?.map(i32::from);
        let name = Self { id, stamp, memory, disk, fell_back };
        // One way to write each.
        (ways.next().is_none() && parts.next().is_none() && name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}{}", self.id, self.stamp, self.memory.letter(), self.disk.letter())?;
        self.fell_back.map_or(Ok(()), |errno| write!(f, "-{errno}"))
    }
}

/// The name under which an entry is made.
#[must_use]
pub fn unfinished(id: &ForkId) -> String {
    format!(".{id}")
}

/// What lies in the pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolListing {
    /// Whole entries, by snapshot; also those that nobody can use any more.
    pub whole: BTreeMap<SnapshotId, Vec<PoolName>>,
    /// What was being made, or being unlinked: certainly ours, and nobody's.
    pub leftovers: Vec<PathBuf>,
    /// Names that are not ours: they stay.
    pub strange: Vec<PathBuf>,
}

/// Lists the pool, which need not be there.
///
/// # Errors
/// [`FsError`] if a directory of it cannot be listed.
pub fn list(fs: &Fs, layout: &Layout) -> Result<PoolListing, FsError> {
    let mut found = PoolListing::default();
    for top in fs.list_if_there(&layout.pool())? {
        let path = layout.pool().join(&top.name);
        let name = top.name.to_str().unwrap_or_default();
        if let Ok(id) = SnapshotId::parse(name) {
            let entries = found.whole.entry(id).or_default();
            for entry in fs.list_if_there(&path)? {
                match kind_of(&entry.name) {
                    Some(Kind::Whole(name)) => entries.push(name),
                    Some(Kind::Unfinished) => found.leftovers.push(path.join(&entry.name)),
                    None => found.strange.push(path.join(&entry.name)),
                }
            }
        } else if is_random(name, ".gone-") {
            found.leftovers.push(path);
        } else if is_random(name, ".drained-") {
            let strange = fs.list_if_there(&path)?.into_iter().filter(|entry| kind_of(&entry.name).is_none());
            found.strange.extend(strange.map(|entry| path.join(entry.name)));
            found.leftovers.push(path);
        } else {
            found.strange.push(path);
        }
    }
    Ok(found)
}

enum Kind {
    Whole(PoolName),
    Unfinished,
}

/// What an entry of a snapshot's directory is; `None` for what is not ours.
fn kind_of(name: &OsStr) -> Option<Kind> {
    let name = name.to_str()?;
    match PoolName::parse(name) {
        Some(name) => Some(Kind::Whole(name)),
        None => is_random(name, ".").then_some(Kind::Unfinished),
    }
}

fn is_random(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|id| ForkId::parse(id).is_ok())
}

/// Unlinks what was dropped: an entry, or a snapshot's directory of them with what in it is ours.
///
/// # Errors
/// [`FsError`]; also ENOTEMPTY for a directory that has something else in it.
pub fn remove(fs: &Fs, path: &Path) -> Result<(), FsError> {
    let is_shelf = path.file_name().and_then(OsStr::to_str).is_some_and(|name| is_random(name, ".drained-"));
    if !is_shelf {
        return fs.remove_tree(path);
    }
    for entry in fs.list_if_there(path)? {
        if kind_of(&entry.name).is_some() {
            fs.remove_tree(&path.join(&entry.name))?;
        }
    }
    match fs.rmdir(path) {
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    }
}

/// How many of the pool's trees have the inode `file_id` at one of `paths`: whole, being made or being unlinked.
///
/// # Errors
/// [`FsError`] if a directory of the pool cannot be listed.
pub fn links(fs: &Fs, layout: &Layout, paths: &[PathBuf], file_id: (u64, u64)) -> Result<u64, FsError> {
    let has = |root: &Path, path: &PathBuf| fs.stat_below(root, path).ok().flatten().is_some_and(|meta| meta.file_id == file_id);
    let trees = trees(fs, layout)?;
    Ok(trees.iter().map(|tree| paths.iter().filter(|path| has(tree, path)).count() as u64).sum())
}

/// Every directory that may be an entry, or what is left of one.
///
/// # Errors
/// [`FsError`] if a directory of the pool cannot be listed.
pub fn trees(fs: &Fs, layout: &Layout) -> Result<Vec<PathBuf>, FsError> {
    let mut trees = Vec::new();
    for top in fs.list_if_there(&layout.pool())? {
        let top = layout.pool().join(&top.name);
        // One that is being unlinked may be an entry, or all of a snapshot's.
        trees.extend(fs.list_if_there(&top)?.into_iter().map(|entry| top.join(entry.name)));
        trees.push(top);
    }
    Ok(trees)
}

impl Store {
    /// Notes how many forks lie ready for a snapshot, for those who look.
    pub fn note_pool(&self, id: &SnapshotId, count: usize) {
        let is_known = self.index().get(id).is_some_and(|known| known.present && known.pool != count);
        if is_known {
            self.change(id, |known| known.pool = count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn way() -> impl Strategy<Value = Way> {
        prop::sample::select(Way::ALL.map(|(way, _)| way).to_vec())
    }

    proptest! {
        #[test]
        fn a_name_is_read_as_it_was_written(stamp in "[0-9a-f]{16}", memory in way(), disk in way(), errno in prop::option::of(0..200_i32)) {
            let name = PoolName { id: ForkId::generate(), stamp, memory, disk, fell_back: errno };
            prop_assert_eq!(PoolName::parse(&name.to_string()), Some(name));
        }

        #[test]
        fn a_text_that_is_read_as_a_name_is_that_name(text in "f[a-z2-7]{16}-[0-9a-f]{15,17}-[nhrcx]{1,3}(-[0-9]{0,3}){0,2}") {
            if let Some(name) = PoolName::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
