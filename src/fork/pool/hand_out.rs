//! Handing out: an entry of the pool becomes a fork by a few small writes where it lies, and the rename that shows it.
//!
//! Files that carry names or paths lie in an entry blank, so that no directory changes when they get their contents and only
//! they are to be synced. Everything else of an entry is looked at, not read: what is not as it was made is dropped. The record is
//! the first of them to be written: an entry that has one is nobody's any more, also behind a crash.

use super::Pool;
use super::claim::Claim;
use crate::event::Event;
use crate::fork::ForkError;
use crate::fork::build::{Built, Fresh, record, why_not};
use crate::fork::queue::Request;
use crate::fork::recipe::Recipe;
use crate::fork::rewrite;
use crate::snapshot::materialize::{Made, MaterializeError, MemoryUsed, apply_meta};
use crate::store::Store;
use crate::store::fs::{Below, FileType, Fs, FsError, Meta};
use crate::store::layout::{Layout, OURS};
use crate::store::manifest::{Entry, FileNode, Node};
use crate::store::pool::{self, BLANK, PoolName, Way};
use nix::errno::Errno;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What was written into an entry when it was handed out: the rest of it is durable.
#[derive(Debug, Default)]
pub(in crate::fork) struct Written {
    files: Vec<PathBuf>,
    dirs: Vec<PathBuf>,
}

impl Written {
    /// The files, below the fork.
    pub(in crate::fork) fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(PathBuf::as_path)
    }

    /// How many files and directories.
    pub(in crate::fork) fn count(&self) -> usize {
        self.files.len() + self.dirs.len()
    }

    /// Makes it durable.
    pub(in crate::fork) fn sync(&self, fs: &Fs, entry: &Path) -> Result<(), FsError> {
        let mut below = Below::open(fs, entry)?;
        for path in &self.files {
            let file = fs.open_file(below.place(path)?)?;
            fs.fsync(&file, &below.path_of(path))?;
        }
        for path in &self.dirs {
            let dir = below.dir(path)?;
            fs.fsync(dir, dir.path())?;
        }
        Ok(())
    }
}

/// What a fork has of its own: made before an entry is claimed, so that a name that cannot be written costs none.
struct Own<'r> {
    record: Vec<u8>,
    files: Vec<(&'r Entry, Vec<u8>)>,
    links: Vec<(&'r Entry, OsString)>,
}

/// Makes a fork of an entry, whole but for its name; `None` if there is no entry for it.
pub(in crate::fork) fn hand_out(
    store: &Store,
    pool: &Arc<Pool>,
    recipe: &Arc<Recipe>,
    request: &Request,
    awaited: bool,
) -> Result<Option<Built>, ForkError> {
    let id = &request.snapshot_id;
    if !pool.has(id, &recipe.stamp) {
        return Ok(None);
    }
    let own = Own::of(store, recipe, request, awaited)?;
    while let Some(claim) = Claim::take(pool, store, id, &recipe.stamp) {
        let opened = match Below::open(&store.fs, claim.path()) {
            // Somebody removed it: nobody has it.
            Err(e) if e.is_not_found() => continue,
            opened => opened.map_err(|e| e.to_string()),
        };
        match opened.and_then(|mut entry| check(store, recipe, claim.name(), &mut entry).map(|()| entry)) {
            Ok(mut entry) => match own.write(store, &mut entry, recipe) {
                Ok(written) => return Ok(Some(built(claim, written, recipe))),
                // What only a right of root's would write, as a link in a directory that is read-only, is made on demand.
                Err(e) if matches!(e.source, Errno::EACCES | Errno::EPERM) => {
                    // Below the entry, and so the same for each of them.
                    let what = e.path.strip_prefix(claim.path()).unwrap_or(&e.path).display();
                    pool.failed(store, id, format!("{what} of one that lay ready cannot be written: {}", e.source.desc()));
                    return Ok(None);
                }
                Err(e) => return Err(e.into()),
            },
            Err(why) => {
                store.events.emit(Event::PoolDamaged { snapshot: id.clone(), entry: claim.name().to_string(), why });
                claim.discard(store);
            }
        }
    }
    Ok(None)
}

fn built(claim: Claim, written: Written, recipe: &Arc<Recipe>) -> Built {
    let name = claim.name();
    Built {
        memory: match name.memory {
            Way::None => MemoryUsed::None,
            Way::Linked => MemoryUsed::Hardlink,
            Way::Reflinked => MemoryUsed::Reflink,
            Way::Copied => MemoryUsed::Copied,
        },
        disk: match name.disk {
            Way::None | Way::Linked => "none",
            Way::Reflinked => "reflink",
            Way::Copied => "copied",
        },
        fell_back: name.fell_back.map(|errno| Errno::from_raw(errno).desc().to_owned()),
        fresh: Fresh::Only(claim, written),
        recipe: Arc::clone(recipe),
        is_unpacked: false,
    }
}

impl<'r> Own<'r> {
    fn of(store: &Store, recipe: &'r Recipe, request: &Request, awaited: bool) -> Result<Self, ForkError> {
        let target = store.layout.instance(&request.name.clone().into());
        let mut own = Self { record: record(store, request, awaited)?, files: Vec::new(), links: Vec::new() };
        for entry in &recipe.entries {
            let path = entry.path.as_path();
            match &entry.node {
                Node::File(_) => {
                    let Some((plan, bytes)) = recipe.changes.get(path) else { continue };
                    let refused = |e: rewrite::RewriteError| MaterializeError::Refused { path: path.to_owned(), why: e.to_string() };
                    let bytes = rewrite::rewrite(bytes, plan, &recipe.names, &target).map_err(refused).map_err(why_not)?;
                    own.files.push((entry, bytes));
                }
                Node::Symlink(link) if recipe.repoint => {
                    let new = rewrite::repoint_symlink(path, link.as_os_str(), &recipe.names, &target);
                    own.links.extend(new.map(|new| (entry, new)));
                }
                _ => {}
            }
        }
        Ok(own)
    }

    /// Writes it into the entry. Its attributes follow by the calls by which a fork without a pool gets them, so that they come out
    /// the same.
    fn write(&self, store: &Store, dest: &mut Below<'_>, recipe: &Recipe) -> Result<Written, FsError> {
        let fs = &store.fs;
        let as_root = crate::store::fs::gives_owners();
        let mut written = Written::default();
        let record = Layout::fork_record_in(Path::new(""));
        let file = fs.open_to_fill(dest.place(&record)?)?;
        fs.write_at(&file, &dest.path_of(&record), &self.record, 0)?;
        written.files.push(record);
        for (entry, bytes) in &self.files {
            let path = entry.path.as_path();
            let place = dest.place(path)?;
            let file = fs.open_to_fill(place)?;
            fs.write_at(&file, &place.path(), bytes, 0)?;
            if bytes.len() < BLANK.len() {
                fs.set_len(&file, &place.path(), bytes.len() as u64)?;
            }
            // Behind the writes, which may take set-id bits away.
            let now = fs.stat_open(&file, path)?;
            apply_meta(fs, place, &file, entry, Made { owner: (now.uid, now.gid), mode: now.mode, as_root, set_mtime: false })?;
            written.files.push(path.to_owned());
        }
        for (entry, target) in &self.links {
            point(fs, dest, (entry, target), as_root)?;
            let parent = entry.path.as_path().parent().unwrap_or(Path::new("")).to_owned();
            if !written.dirs.contains(&parent) {
                written.dirs.push(parent);
            }
        }
        if !self.links.is_empty() {
            for entry in recipe.entries.iter().filter(|e| written.dirs.iter().any(|dir| dir == e.path.as_path())) {
                fs.set_mtime(dest.place(entry.path.as_path())?, entry.mtime_ns)?;
            }
            written.dirs.push(PathBuf::from(OURS));
        }
        Ok(written)
    }
}

/// Puts a link with another target in the place of one. It is made in our own directory: there it belongs to whom it would
/// belong to without a pool, whatever bits the other one has by now.
fn point(fs: &Fs, dest: &mut Below<'_>, (entry, target): (&Entry, &OsStr), as_root: bool) -> Result<(), FsError> {
    let temp = Path::new(OURS).join("link");
    {
        let place = dest.place(&temp)?;
        match fs.symlink(target, place) {
            // A power cut left it, and nothing else of who had the entry.
            Err(e) if e.is_taken() => fs.unlink(place).and_then(|()| fs.symlink(target, place))?,
            made => made?,
        }
        let made = fs.stat(place)?;
        if as_root && (made.uid, made.gid) != (entry.uid, entry.gid) {
            fs.set_owner(place, entry.uid, entry.gid)?;
        }
        fs.set_mtime(place, entry.mtime_ns)?;
    }
    let mut from = Below::open(fs, dest.root().path())?;
    fs.rename_over(from.place(&temp)?, dest.place(entry.path.as_path())?)
}

/// Whether an entry is as it was made, by what its files look like: nothing is read. In words why not.
///
/// It sees whatever was added, removed, renamed, written, linked to or given another owner or mode. It does not see who wrote
/// contents and then set the old time, nor other extended attributes.
fn check(store: &Store, recipe: &Recipe, name: &PoolName, dest: &mut Below<'_>) -> Result<(), String> {
    let fs = &store.fs;
    let is_root = crate::store::fs::gives_owners();
    let text = |e: FsError| e.to_string();
    let mut data = Below::open(fs, &recipe.data).map_err(text)?;
    let record = look(fs, dest, &Layout::fork_record_in(Path::new(""))).map_err(text)?;
    if !is_blank(&record, 1) {
        return Err("its place for the record is not blank".to_owned());
    }
    for entry in &recipe.entries {
        let path = entry.path.as_path();
        let now = look(fs, dest, path).map_err(text)?;
        let names = recipe.names_in_tree.get(path).copied().unwrap_or(1);
        let same = match &entry.node {
            Node::File(_) if recipe.changes.contains_key(path) => is_blank(&now, names),
            Node::File(FileNode { memory: true, .. }) if name.memory == Way::Linked => {
                let there = data.place(path).and_then(|place| fs.stat(place)).map_err(text)?;
                there.file_id == now.file_id && entry.is_unchanged(&now)
            }
            Node::File(_) => entry.is_unchanged(&now) && now.links == names && has_meta(&now, entry, is_root),
            Node::Dir => now.kind == FileType::Directory && now.mtime_ns == entry.mtime_ns && has_meta(&now, entry, is_root),
            // Read, for a power cut may leave one that was pointed somewhere else, and nothing else of who had the entry.
            Node::Symlink(target) if now.kind == FileType::Symlink => {
                let there = dest.place(path).and_then(|place| fs.read_link(place)).map_err(text)?;
                there == target.as_os_str() && now.mtime_ns == entry.mtime_ns
            }
            Node::Symlink(_) => false,
            Node::Hardlink(first) => look(fs, dest, first.as_path()).map_err(text)?.file_id == now.file_id,
        };
        if !same {
            let what = if path.as_os_str().is_empty() { Path::new("its directory") } else { path };
            return Err(format!("{} is not as it was made", what.display()));
        }
    }
    Ok(())
}

fn look(fs: &Fs, entry: &mut Below<'_>, path: &Path) -> Result<Meta, FsError> {
    fs.stat(entry.place(path)?)
}

fn is_blank(file: &Meta, names: u64) -> bool {
    file.kind == FileType::Regular && pool::is_blank(file.size) && file.links == names
}

/// Owner and mode; without the right to give files away neither owner nor set-id bits are what the manifest says.
fn has_meta(now: &Meta, entry: &Entry, is_root: bool) -> bool {
    if is_root { (now.mode, now.uid, now.gid) == (entry.mode, entry.uid, entry.gid) } else { (now.mode ^ entry.mode) & 0o777 == 0 }
}
