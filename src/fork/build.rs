//! Building one fork in staging: the snapshot's tree with files of its own, linked memory, and its record.

use super::ForkError;
use super::queue::Request;
use super::recipe::Recipe;
use super::rewrite;
use super::thaw::Source;
use crate::config::ForkConfig;
use crate::snapshot::copy::{Flow, NoProgress};
use crate::snapshot::materialize::{MaterializeContext, MaterializeError, Materialized, MemoryUsed, materialize};
use crate::store::Store;
use crate::store::fs::{Below, Fs};
use crate::store::instances::ForkRecord;
use crate::store::layout::Layout;
use crate::store::manifest::{Entry, FORMAT, Node, TextPath};
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A fork that is whole in staging, not yet durable.
#[derive(Debug)]
pub(super) struct Built {
    tree: Materialized,
    /// Why memory was not made the first way.
    pub(super) fell_back: Option<String>,
    recipe: Arc<Recipe>,
    /// The raw memory was unpacked for this fork.
    is_unpacked: bool,
}

impl Built {
    pub(super) fn memory_text(&self) -> String {
        match self.tree.memory {
            MemoryUsed::None => "none",
            _ if self.is_unpacked => "decompressed",
            MemoryUsed::Hardlink => "hardlink",
            MemoryUsed::Reflink => "reflink",
            MemoryUsed::Copied => "copied",
        }
        .to_owned()
    }

    pub(super) fn disk_text(&self) -> String {
        match (self.tree.reflinked, self.tree.copied) {
            (0, 0) => "none",
            (_, 0) => "reflink",
            _ => "copied",
        }
        .to_owned()
    }
}

/// Step 1 of the protocol *build*.
pub(super) fn build(
    store: &Store,
    recipe: &Arc<Recipe>,
    source: Option<&Source>,
    config: ForkConfig,
    request: &Request,
    stop: &AtomicBool,
) -> Result<Built, ForkError> {
    let staged = store.layout.staged_fork(&request.id);
    let target = store.layout.instance(&request.name.clone().into());
    // What an attempt left that was cut short.
    store.fs.remove_tree(&staged)?;
    store.fs.mkdir(&staged, 0o700)?;
    write_record(store, &staged, request)?;
    let rewrite = |entry: &Entry, _: &std::fs::File| match recipe.changes.get(entry.path.as_path()) {
        None => Ok(None),
        Some((plan, bytes)) => rewrite::rewrite(bytes, plan, &recipe.names, &target)
            .map(Some)
            .map_err(|e| MaterializeError::Refused { path: entry.path.as_path().to_owned(), why: e.to_string() }),
    };
    let context = MaterializeContext {
        fs: &store.fs,
        data: &recipe.data,
        memory: source.map_or(&recipe.data, Source::dir),
        memory_method: config.memory,
        as_root: nix::unistd::geteuid().is_root(),
        rewrite: Some(&rewrite),
        flow: Flow { threads: 1, progress: &NoProgress, cancelled: stop },
    };
    let tree = materialize(&context, &entries(recipe, &target), &staged).map_err(|e| match e {
        MaterializeError::Refused { path, why } => ForkError::NamesSource { path, why },
        // The snapshot itself is well: the next attempt has the raw files made anew.
        MaterializeError::MemoryChanged { path } if source.is_some() => {
            store.distrust_cached(&request.snapshot_id);
            ForkError::Unpack(format!("somebody wrote to {}", path.display()))
        }
        MaterializeError::MemoryChanged { path } => ForkError::MemoryChanged { path, why: "its length or time differs".to_owned() },
        other => ForkError::Copy(other),
    })?;
    let fell_back = tree.memory_fell_back.map(|errno| errno.desc().to_owned());
    let is_unpacked = source.is_some_and(|source| source.is_made_for(&request.id));
    Ok(Built { tree, fell_back, recipe: Arc::clone(recipe), is_unpacked })
}

fn write_record(store: &Store, staged: &Path, request: &Request) -> Result<(), ForkError> {
    let record = ForkRecord {
        format: FORMAT,
        fork_id: request.id.clone(),
        fork_of_snapshot: request.snapshot_id.clone(),
        key: request.key.clone(),
        created_at: store.clock.now(),
    };
    let path = Layout::fork_record_in(staged);
    let mut bytes = serde_json::to_vec(&record).map_err(|source| crate::store::StoreError::Encode { path: path.clone(), source })?;
    bytes.push(b'\n');
    store.fs.mkdir(path.parent().unwrap_or(staged), 0o755)?;
    let file = store.fs.create(&path, 0o644)?;
    store.fs.write_all(&file, &path, &bytes)?;
    Ok(())
}

/// The tree's entries, with links into the source's tree pointed into the fork's.
fn entries<'r>(recipe: &'r Recipe, target: &Path) -> Cow<'r, [Entry]> {
    let mut entries = Cow::Borrowed(recipe.entries.as_slice());
    if !recipe.repoint {
        return entries;
    }
    for (at, entry) in recipe.entries.iter().enumerate() {
        if let Node::Symlink(link) = &entry.node
            && let Some(new) = rewrite::repoint_symlink(entry.path.as_path(), link.as_os_str(), &recipe.names, target)
            && let Some(entry) = entries.to_mut().get_mut(at)
        {
            entry.node = Node::Symlink(TextPath::new(new));
        }
    }
    entries
}

/// Step 2 for each fork by itself, first half: has the kernel begin to write what is new, without waiting.
pub(super) fn start_writing(fs: &Fs, staged: &Path, built: &Built) -> Result<(), ForkError> {
    fs.start_writing(&fs.open_file(&Layout::fork_record_in(staged))?);
    let mut below = Below::open(fs, staged)?;
    for entry in own_entries(built).filter(|entry| matches!(entry.node, Node::File(_))) {
        fs.start_writing(&fs.open_file(below.place(entry.path.as_path())?)?);
    }
    Ok(())
}

/// Second half: waits until each file is durable, then each directory, contents before what names them.
pub(super) fn sync(fs: &Fs, staged: &Path, built: &Built) -> Result<(), ForkError> {
    let record = Layout::fork_record_in(staged);
    fs.fsync(&fs.open_file(&record)?, &record)?;
    let mut below = Below::open(fs, staged)?;
    for entry in own_entries(built).filter(|entry| matches!(entry.node, Node::File(_))) {
        let file = fs.open_file(below.place(entry.path.as_path())?)?;
        fs.fsync(&file, &below.path_of(entry.path.as_path()))?;
    }
    fs.fsync_dir(record.parent().unwrap_or(staged))?;
    for entry in own_entries(built).rev().filter(|entry| entry.node == Node::Dir) {
        let dir = below.dir(entry.path.as_path())?;
        fs.fsync(dir, dir.path())?;
    }
    Ok(())
}

/// How many files and directories [`sync`] syncs.
pub(super) fn count(built: &Built) -> usize {
    2 + own_entries(built).filter(|entry| !matches!(entry.node, Node::Symlink(_))).count()
}

/// What is the fork's own. Memory that is a link of the snapshot's is durable already.
fn own_entries(built: &Built) -> impl DoubleEndedIterator<Item = &Entry> {
    let linked = built.tree.memory == MemoryUsed::Hardlink;
    built.recipe.entries.iter().filter(move |entry| !(linked && matches!(&entry.node, Node::File(file) if file.memory)))
}
