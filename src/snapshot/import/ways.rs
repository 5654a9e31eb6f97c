//! The two things that are done to somebody else's directory: moving it into the store, and taking it away once it is a
//! snapshot. Whatever stops them, the tree is whole in the one place or in the other.

use super::take_in::{ImportError, prune_pending};
use crate::driver::running::in_use;
use crate::snapshot::copy::stock::{holds, is_still, look};
use crate::snapshot::copy::{CopyContext, CopyError, sync_tree};
use crate::store::fs::{Below, Dir, FileType, Found, Fs, FsError};
use crate::store::layout::Layout;
use crate::store::manifest::{Entry, Manifest, Node, Skipped, seal};
use crate::store::{Store, StoreError};
use nix::errno::Errno;
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// What the name of a directory begins with that is being taken away; its snapshot's id follows.
pub(super) const ASIDE: &str = ".snapkeep-imported-";

/// A directory in somebody else's directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theirs<'a> {
    pub(super) dir: &'a Dir,
    pub(super) name: &'a OsStr,
    /// Both together.
    pub(super) path: &'a Path,
}

/// Whether a directory became the store's.
pub(super) enum Moved {
    Yes,
    /// It is where it was, for this reason.
    No(String),
}

/// Steps 2 and 3 of a move. `before` is the tree that the manifest is of.
pub(super) fn move_in(
    store: &Store,
    ctx: &CopyContext<'_>,
    from: Theirs<'_>,
    manifest: &Manifest,
    before: &[Found],
) -> Result<Moved, ImportError> {
    let fs = &store.fs;
    let pending = store.layout.importing_of(&manifest.id);
    let data = Layout::data_in(&pending);
    if let Err(e) = prepare(store, manifest, &pending) {
        prune_pending(store, &pending);
        return Err(e);
    }
    if let Err(e) = fs.rename_new(from.dir.at(from.name), data.as_path()) {
        prune_pending(store, &pending);
        // Another mount; not ours to move; a mount point.
        let cannot = matches!(e.source, Errno::EXDEV | Errno::EPERM | Errno::EACCES | Errno::EBUSY | Errno::EROFS);
        return if cannot { Ok(Moved::No(e.to_string())) } else { Err(e.into()) };
    }
    // From here on the tree is the store's, unless it goes back by a rename.
    let unfinished = |e: FsError| ImportError::Unfinished { path: data.clone(), why: e.to_string() };
    let sync = || fs.fsync_dir(&pending).and_then(|()| fs.fsync(from.dir, from.dir.path()));
    sync().map_err(unfinished)?;
    let why = match look(ctx, &data) {
        Ok((now, _)) if is_still(before, &now) => match in_use(fs, &data) {
            Ok(None) => return Ok(Moved::Yes),
            Ok(Some(user)) => format!("{}: {}", user.path.display(), user.why),
            Err(cannot_tell) => cannot_tell.to_string(),
        },
        Ok(_) => "it changed while it was looked at".to_owned(),
        Err(CopyError::Io(e)) => return Err(unfinished(e)),
        Err(_) => "it was stopped".to_owned(),
    };
    fs.rename_new(data.as_path(), from.dir.at(from.name)).and_then(|()| sync()).map_err(unfinished)?;
    prune_pending(store, &pending);
    Ok(Moved::No(why))
}

fn prepare(store: &Store, manifest: &Manifest, pending: &Path) -> Result<(), ImportError> {
    let fs = &store.fs;
    let path = Layout::manifest_in(pending);
    let bytes = seal(manifest).map_err(|source| StoreError::Encode { path: path.clone(), source })?;
    fs.mkdir_durable(&store.layout.importing(), 0o700)?;
    fs.mkdir(pending, 0o700)?;
    fs.write_new(&path, &bytes)?;
    fs.fsync_dir(pending)?;
    Ok(fs.fsync_dir(&store.layout.importing())?)
}

/// Steps 4 and 5 of a move: may be done any number of times.
pub(super) fn finish(store: &Store, manifest: &Manifest) -> Result<(), ImportError> {
    let fs = &store.fs;
    let pending = store.layout.importing_of(&manifest.id);
    let data = Layout::data_in(&pending);
    let unfinished = |why: String| ImportError::Unfinished { path: data.clone(), why };
    let settled = || -> Result<bool, FsError> {
        let mut below = Below::open(fs, &data)?;
        let found = fs.walk(&mut below, &mut |_, _| false)?;
        if !holds(fs, &data, &found, &manifest.entries)? {
            return Ok(false);
        }
        settle(fs, &data, manifest, &found)?;
        sync_tree(fs, &data, &manifest.entries, below.root())?;
        fs.fsync_dir(&pending)?;
        Ok(true)
    };
    match settled() {
        Ok(true) => {}
        Ok(false) => return Err(unfinished("it is no longer what it was: look at it, and move it back by hand".to_owned())),
        Err(e) => return Err(unfinished(e.to_string())),
    }
    store.publish_moved(manifest).map_err(|e| unfinished(e.to_string()))
}

/// Modes and owners as a copy has them.
fn settle(fs: &Fs, data: &Path, manifest: &Manifest, found: &[Found]) -> Result<(), FsError> {
    let ours = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let now: std::collections::HashMap<&Path, _> = found.iter().map(|f| (f.path.as_path(), &f.meta)).collect();
    let mut below = Below::open(fs, data)?;
    for entry in &manifest.entries {
        let path = entry.path.as_path();
        let Some(meta) = now.get(path) else { continue };
        let is_foreign = (meta.uid, meta.gid) != ours;
        if is_foreign {
            fs.set_owner(below.place(path)?, ours.0, ours.1)?;
        }
        let mode = entry.stored_mode();
        if meta.mode == mode && !is_foreign {
            continue;
        }
        match &entry.node {
            Node::Dir => {
                let dir = below.dir(path)?;
                fs.set_mode(dir, dir.path(), mode)?;
            }
            Node::File(_) => {
                let file = fs.open_file(below.place(path)?)?;
                fs.set_mode(&file, &below.path_of(path), mode)?;
            }
            Node::Hardlink(_) | Node::Symlink(_) => {}
        }
    }
    Ok(())
}

/// Removes a directory of which there is a snapshot; says why it stays, if it does. Half of it is never to be seen under
/// its name: it is renamed first.
pub(super) fn take_away(store: &Store, ctx: &CopyContext<'_>, from: Theirs<'_>, manifest: &Manifest) -> Option<String> {
    let fs = &store.fs;
    let aside = aside(manifest);
    let removed = || -> Result<Option<String>, CopyError> {
        let (found, skipped) = look(ctx, from.path)?;
        if let Some(why) = not_its_own(store, from.path, &found)? {
            return Ok(Some(why));
        }
        if let Some(kept) = worth_keeping(fs, from.path, &skipped) {
            return Ok(Some(format!("it has what snapshots leave out ({kept})")));
        }
        if !holds(fs, from.path, &found, &manifest.entries)? {
            return Ok(Some("it changed after it was copied".to_owned()));
        }
        match in_use(fs, from.path) {
            Ok(None) => {}
            Ok(Some(user)) => return Ok(Some(format!("{}: {}", user.path.display(), user.why))),
            Err(cannot_tell) => return Ok(Some(cannot_tell.to_string())),
        }
        fs.rename_new(from.dir.at(from.name), from.dir.at(&aside))?;
        // Nobody finds it by its name any more: what came since the look above was the last.
        if !look(ctx, &from.dir.path().join(&aside)).is_ok_and(|(now, _)| is_still(&found, &now)) {
            fs.rename_new(from.dir.at(&aside), from.dir.at(from.name))?;
            fs.fsync(from.dir, from.dir.path())?;
            return Ok(Some("it changed after it was copied".to_owned()));
        }
        remove_aside(fs, from.dir, &aside)?;
        Ok(None)
    };
    removed().unwrap_or_else(|e| Some(e.to_string()))
}

/// Why a tree is not only its own, if so: something is mounted in it, or the store or the instances root is in it, by
/// whatever path.
pub(super) fn not_its_own(store: &Store, path: &Path, found: &[Found]) -> Result<Option<String>, FsError> {
    let fs = &store.fs;
    if let Some(point) = fs.mount_below(&fs.open_dir(path)?)? {
        return Ok(Some(format!("something is mounted at {}", point.display())));
    }
    let ours = [fs.stat(store.layout.store())?.file_id, fs.stat(store.layout.instances())?.file_id];
    let ours = found.iter().find(|f| ours.contains(&f.meta.file_id));
    Ok(ours.map(|f| format!("the store or the instances root is in it, at {}", path.join(&f.path).display())))
}

/// The first thing left out of a snapshot that somebody may miss: all but what holds no data of the instance.
fn worth_keeping(fs: &Fs, root: &Path, skipped: &[Skipped]) -> Option<String> {
    let is_special = |path: &Path| {
        let kind = fs.stat_below(root, path).ok().flatten().map(|meta| meta.kind);
        kind.is_some_and(|kind| !matches!(kind, FileType::Regular | FileType::Directory | FileType::Symlink))
    };
    // A rule of the config may be called as one of these is: what is there decides.
    let is_worthless = |s: &&Skipped| match s.why.as_str() {
        "socket" | "fifo" | "device" => is_special(s.path.as_path()),
        "fork record" | "instance tags" => is_our_record(s.path.as_path()),
        _ => false,
    };
    skipped.iter().find(|s| !is_worthless(s)).map(|s| s.path.as_path().display().to_string())
}

/// Whether it is one of the two files of ours that no snapshot has, and that say nothing without their instance.
fn is_our_record(path: &Path) -> bool {
    let instance = Path::new("");
    path == Layout::fork_record_in(instance) || path == Layout::tags_in(instance)
}

/// Whether a directory that was renamed aside has nothing but what is left of the snapshot's own files: whoever was in it
/// may have written there.
pub(super) fn is_remainder(fs: &Fs, dir: &Dir, name: &OsStr, manifest: &Manifest) -> Result<bool, FsError> {
    let entries: std::collections::HashMap<&Path, &Entry> = manifest.entries.iter().map(|e| (e.path.as_path(), e)).collect();
    let found = fs.walk(&mut Below::open(fs, dir.at(name))?, &mut |_, _| false)?;
    let is_known = |f: &Found| match entries.get(f.path.as_path()).map(|e| (&e.node, e)) {
        Some((Node::Dir, _)) => f.meta.kind == FileType::Directory,
        Some((Node::File(_), entry)) => entry.is_unchanged(&f.meta),
        Some((Node::Hardlink(first), _)) => entries.get(first.as_path()).is_some_and(|e| e.is_unchanged(&f.meta)),
        Some((Node::Symlink(_), _)) => f.meta.kind == FileType::Symlink,
        None => !matches!(f.meta.kind, FileType::Regular | FileType::Directory | FileType::Symlink) || is_our_record(&f.path),
    };
    Ok(found.iter().all(is_known))
}

/// The name of a directory that is being taken away.
fn aside(manifest: &Manifest) -> OsString {
    OsString::from(format!("{ASIDE}{}", manifest.id))
}

/// Removes a directory that was renamed aside; its new name is durable before its first file goes.
pub(super) fn remove_aside(fs: &Fs, dir: &Dir, name: &OsStr) -> Result<(), FsError> {
    fs.fsync(dir, dir.path())?;
    fs.remove_tree(dir.at(name))?;
    fs.fsync(dir, dir.path())
}
