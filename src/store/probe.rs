//! Trying what two directories can do between them: a real link, a real reflink, a real rename.

use super::StoreError;
use super::fs::{Fs, FsError};
use super::layout::Layout;
use nix::errno::Errno;
use serde::Serialize;
use std::path::Path;

/// What worked between store and instances root; an errno in words where it did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// A hard link from the store into the instances root.
    pub link: Outcome,
    /// Sharing extents likewise.
    pub reflink: Outcome,
    /// A rename from the root's staging area to the root itself.
    pub rename: Outcome,
}

/// Whether something worked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It did.
    Works,
    /// It did not, for this reason.
    Fails(String),
}

impl Outcome {
    fn of(result: Result<(), FsError>) -> Self {
        match result {
            Ok(()) => Self::Works,
            Err(e) if e.source == Errno::EXDEV => Self::Fails("they are on different file systems or mounts (EXDEV)".to_owned()),
            Err(e) if e.source == Errno::EOPNOTSUPP => Self::Fails("this file system has none (EOPNOTSUPP)".to_owned()),
            Err(e) => Self::Fails(e.source.desc().to_owned()),
        }
    }

    /// True if it worked.
    #[must_use]
    pub fn works(&self) -> bool {
        *self == Self::Works
    }
}

impl Probe {
    /// Tries all three with small files that are removed again.
    ///
    /// # Errors
    /// [`StoreError::Io`] if not even a file can be made in one of the two.
    pub fn run(fs: &Fs, layout: &Layout) -> Result<Self, StoreError> {
        let from = layout.staging().join(format!(".probe-{}", std::process::id()));
        let to = layout.fork_staging().join(format!(".probe-{}", std::process::id()));
        let moved = layout.root_area().join(format!(".probe-{}", std::process::id()));
        let clear = || [&from, &to, &moved].into_iter().try_for_each(|path| fs.remove_tree(path));
        clear()?;
        fs.write_new(&from, &[0x5a; 4096])?;
        let link = Outcome::of(fs.hard_link(&from, &to));
        fs.remove_tree(&to)?;
        let reflink = Outcome::of(try_reflink(fs, &from, &to)?);
        let rename = Outcome::of(fs.rename_new(&to, &moved));
        clear()?;
        Ok(Self { link, reflink, rename })
    }

    /// What follows, in plain words.
    #[must_use]
    pub fn in_words(&self) -> Vec<String> {
        let link = match &self.link {
            Outcome::Works => "memory files: hard links work; a fork shares its snapshot's memory at no cost, in page cache too".to_owned(),
            Outcome::Fails(why) => format!(
                "memory files: hard links do not work ({why}); each fork gets a {} of its memory. \
                 Put store and instances root on one file system and one mount",
                if self.reflink.works() { "reflink (fast, but page cache is not shared)" } else { "full copy (slow, takes its size)" }
            ),
        };
        let reflink = match &self.reflink {
            Outcome::Works => "disks: reflinks work; snapshots and forks share extents, and cost little time and no space".to_owned(),
            Outcome::Fails(why) => format!(
                "disks: reflinks do not work ({why}); snapshots and forks copy every allocated byte. \
                 xfs (with reflink=1) and btrfs can share"
            ),
        };
        let rename = match &self.rename {
            Outcome::Works => "publishing: renames work; a fork appears whole or not at all".to_owned(),
            Outcome::Fails(why) => format!("publishing: renames do not work ({why}); forks are impossible here"),
        };
        vec![link, reflink, rename]
    }
}

/// Whether files of the store can share extents with files of the instances root; false if that cannot be tried.
#[must_use]
pub fn can_reflink(fs: &Fs, layout: &Layout) -> bool {
    let from = layout.staging().join(format!(".probe-reflink-{}", std::process::id()));
    let to = layout.fork_staging().join(format!(".probe-reflink-{}", std::process::id()));
    let clear = || [&from, &to].into_iter().try_for_each(|path| fs.remove_tree(path));
    let works = clear().and_then(|()| fs.write_new(&from, &[0x5a; 4096])).and_then(|()| try_reflink(fs, &from, &to));
    // What cannot be removed now is removed at the next start, as everything in staging is.
    let _ = clear();
    matches!(works, Ok(Ok(())))
}

/// Makes `to` and tries to share `from`'s extents with it; the outer error is about making it.
fn try_reflink(fs: &Fs, from: &Path, to: &Path) -> Result<Result<(), FsError>, FsError> {
    let source = fs.open_file(from)?;
    let target = fs.create(to, 0o600)?;
    Ok(fs.reflink(&source, &target, to))
}
