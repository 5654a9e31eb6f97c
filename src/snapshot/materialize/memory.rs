//! Memory files: linked, so that forks share the page cache; else reflinked; else copied.

use super::MaterializeError;
use crate::config::MemoryMethod;
use crate::snapshot::copy::{Cloner, Flow, cannot_share};
use crate::store::fs::{Fs, Place};
use crate::store::manifest::{Entry, Node};
use nix::errno::Errno;
use std::fs::File;

/// How a fork got its memory; later ones cost more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MemoryUsed {
    /// The snapshot has none.
    None,
    /// It is the snapshot's own inode, read-only.
    Hardlink,
    /// Its extents are the snapshot's.
    Reflink,
    /// Its data was read and written.
    Copied,
}

/// Gives `to` the memory file at `from`, beginning with the method `first`; also the errno that made the first method
/// fall back, if it did. A link has the snapshot's attributes; any other is a new file with mode 0600, whose attributes
/// are the caller's to set.
///
/// # Errors
/// `MemoryChanged` if `from` is not as the manifest's entry has it; otherwise [`MaterializeError`].
pub fn link_memory(
    fs: &Fs,
    from: Place<'_>,
    entry: &Entry,
    to: Place<'_>,
    first: MemoryMethod,
    flow: Flow<'_>,
) -> Result<(MemoryUsed, Option<Errno>), MaterializeError> {
    give(fs, from, entry, to, first, flow).map(|(used, why, _)| (used, why))
}

/// The same, with the new file unless it is a link.
pub(super) fn give(
    fs: &Fs,
    from: Place<'_>,
    entry: &Entry,
    to: Place<'_>,
    first: MemoryMethod,
    flow: Flow<'_>,
) -> Result<(MemoryUsed, Option<Errno>, Option<File>), MaterializeError> {
    let changed = || MaterializeError::MemoryChanged { path: from.path() };
    let mut why = None;
    if first == MemoryMethod::Hardlink {
        let before = fs.stat(from)?;
        if !entry.is_unchanged(&before) {
            return Err(changed());
        }
        match fs.hard_link(from, to) {
            Ok(()) => {
                let linked = fs.stat(to)?;
                if linked.file_id == before.file_id && entry.is_unchanged(&linked) {
                    return Ok((MemoryUsed::Hardlink, None, None));
                }
                fs.unlink(to)?;
                return Err(changed());
            }
            Err(e) if matches!(e.source, Errno::EXDEV | Errno::EMLINK | Errno::EPERM | Errno::EOPNOTSUPP) => why = Some(e.source),
            Err(e) => return Err(e.into()),
        }
    }
    let file = fs.open_file(from)?;
    if !entry.is_unchanged(&fs.stat_open(&file, &from.path())?) {
        return Err(changed());
    }
    let size = if let Node::File(node) = &entry.node { node.size } else { 0 };
    let new = fs.create(to, 0o600)?;
    if first <= MemoryMethod::Reflink {
        match fs.reflink(&file, &new, &to.path()) {
            Ok(()) => return Ok((MemoryUsed::Reflink, why, Some(new))),
            Err(e) if cannot_share(e.source) => why = why.or(Some(e.source)),
            Err(e) => return Err(e.into()),
        }
    }
    Cloner::without_reflink(fs, flow).fill(&file, &from.path(), &new, &to.path(), size)?;
    Ok((MemoryUsed::Copied, why, Some(new)))
}
