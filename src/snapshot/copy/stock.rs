//! What a tree is as it lies there, for one that is to be moved instead of copied. Only read, and nothing is changed in it.

use super::one::{blobs, flushed};
use super::roles::{Role, has_memory, roles};
use super::{CopiedTree, CopyContext, CopyError, why_left_out};
use crate::store::fs::{Below, FileType, Found, Fs, FsError, Meta};
use crate::store::manifest::{Entry, FileNode, Kind, Node, Skipped, TextPath};
use std::collections::HashMap;
use std::path::Path;

/// A tree that was looked at.
#[derive(Debug)]
pub(crate) struct Stock {
    /// As if it had been copied; digests are still empty.
    pub(crate) tree: CopiedTree,
    /// What was found, for [`is_still`].
    pub(crate) found: Vec<Found>,
    /// Whether a file has names outside of it: then somebody else can write to it, or looks at its mode.
    pub(crate) has_outside_links: bool,
}

/// Walks a tree with the rules of a copy.
///
/// # Errors
/// [`CopyError`].
pub(crate) fn look(ctx: &CopyContext<'_>, source: &Path) -> Result<(Vec<Found>, Vec<Skipped>), CopyError> {
    let mut below = Below::open(ctx.fs, source)?;
    let mut skipped = Vec::new();
    let found = ctx.fs.walk(&mut below, &mut |path, meta| {
        let why = why_left_out(ctx.skip, path, meta);
        skipped.extend(why.map(|why| Skipped { path: TextPath::new(path), why: why.to_owned() }));
        why.is_some()
    })?;
    Ok((found, skipped))
}

/// Takes stock of a tree. Files are flushed before they are looked at: a later write through a mapping shows in their times.
///
/// # Errors
/// [`CopyError`]; [`CopyError::Changing`] if something in it changes meanwhile.
pub(crate) fn take_stock(ctx: &CopyContext<'_>, source: &Path) -> Result<Stock, CopyError> {
    let (found, skipped) = look(ctx, source)?;
    let roles = roles(&found, ctx.memory_names);
    let kind = if has_memory(&found, ctx.memory_names) { Kind::Standby } else { Kind::Stopped };
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
        repeats: 0,
    };
    let mut below = Below::open(ctx.fs, source)?;
    for (item, role) in found.iter().zip(&roles) {
        if ctx.flow.is_cancelled() {
            return Err(CopyError::Cancelled);
        }
        let entry = entry(ctx.fs, &mut below, item, role)?.ok_or_else(|| CopyError::Changing { path: source.join(&item.path) })?;
        if let Node::File(file) = &entry.node {
            tree.size_bytes = tree.size_bytes.saturating_add(file.size);
            tree.allocated_bytes = tree.allocated_bytes.saturating_add(item.meta.allocated);
        }
        tree.entries.push(entry);
    }
    let has_outside_links = has_outside_links(&found);
    Ok(Stock { tree, found, has_outside_links })
}

/// `None` if it is no longer what was found.
fn entry(fs: &Fs, below: &mut Below<'_>, found: &Found, role: &Role) -> Result<Option<Entry>, FsError> {
    let path = found.path.as_path();
    let full = below.path_of(path);
    Ok(Some(match role {
        Role::Dir => {
            let dir = below.dir(path)?;
            Entry { xattrs: blobs(fs.xattrs(dir, &full)?), ..Entry::new(path, &found.meta, Node::Dir) }
        }
        Role::Symlink => Entry::new(path, &found.meta, Node::Symlink(TextPath::new(fs.read_link(below.place(path)?)?))),
        Role::Link(first) => Entry::new(path, &found.meta, Node::Hardlink(TextPath::new(first.as_path()))),
        Role::File { memory } => {
            let file = fs.open_file(below.place(path)?)?;
            let seen = flushed(fs, &file, &full)?;
            if seen.differs_from(&found.meta) {
                return Ok(None);
            }
            let node = Node::File(FileNode { size: seen.size, digest: String::new(), data: None, memory: *memory });
            Entry { xattrs: blobs(fs.xattrs(&file, &full)?), ..Entry::new(path, &seen, node) }
        }
    }))
}

fn has_outside_links(found: &[Found]) -> bool {
    let mut names: HashMap<(u64, u64), (u64, u64)> = HashMap::new();
    for meta in found.iter().map(|f| &f.meta).filter(|m| m.kind == FileType::Regular && m.links > 1) {
        names.entry(meta.file_id).or_insert((meta.links, 0)).1 += 1;
    }
    names.values().any(|(links, seen)| links != seen)
}

/// Whether a tree is still what was found. Its own directory may have been renamed since, which shows in its times.
#[must_use]
pub(crate) fn is_still(before: &[Found], now: &[Found]) -> bool {
    let same = |(a, b): (&Found, &Found)| {
        let is_same = |a: &Meta, b: &Meta| if a.kind == FileType::Directory { a.file_id == b.file_id } else { !a.differs_from(b) };
        a.path == b.path && is_same(&a.meta, &b.meta)
    };
    before.len() == now.len() && before.iter().zip(now).all(same)
}

/// Whether a tree holds what a manifest's entries say, as far as can be told without reading it: names, kinds, targets, and
/// lengths and times of files.
///
/// # Errors
/// [`FsError`] if that cannot be looked at.
pub(crate) fn holds(fs: &Fs, root: &Path, found: &[Found], entries: &[Entry]) -> Result<bool, FsError> {
    let by_path: HashMap<&Path, &Meta> = found.iter().map(|f| (f.path.as_path(), &f.meta)).collect();
    let mut below = Below::open(fs, root)?;
    for entry in entries {
        let path = entry.path.as_path();
        let Some(meta) = by_path.get(path) else { return Ok(false) };
        let is_right = match &entry.node {
            Node::Dir => meta.kind == FileType::Directory,
            Node::File(_) => entry.is_unchanged(meta),
            Node::Hardlink(first) => by_path.get(first.as_path()).is_some_and(|m| m.file_id == meta.file_id),
            Node::Symlink(target) => meta.kind == FileType::Symlink && fs.read_link(below.place(path)?)? == target.as_os_str(),
        };
        if !is_right {
            return Ok(false);
        }
    }
    Ok(found.len() == entries.len())
}
