//! Building one fork in staging: the snapshot's tree with files of its own, linked memory, and its record.

use super::ForkError;
use super::pool::{Pool, Written, hand_out};
use super::queue::Request;
use super::recipe::Recipe;
use super::rewrite;
use crate::config::ForkConfig;
use crate::snapshot::copy::{Flow, NoProgress, sync_tree};
use crate::snapshot::materialize::{MaterializeContext, MaterializeError, Materialized, MemoryUsed, materialize};
use crate::store::fs::{Fs, FsError};
use crate::store::instances::ForkRecord;
use crate::store::layout::Layout;
use crate::store::manifest::{Entry, FORMAT, Node, TextPath};
use crate::store::{Store, StoreError};
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A fork that is whole in staging, not yet durable.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) memory: MemoryUsed,
    pub(super) disk: &'static str,
    /// Why memory was not made the first way.
    pub(super) fell_back: Option<String>,
    /// What is not durable of it.
    pub(super) fresh: Fresh,
    pub(super) recipe: Arc<Recipe>,
}

/// What of a fork was made for it, and is to be synced.
#[derive(Debug)]
pub(super) enum Fresh {
    /// All of it.
    All,
    /// It was in the ready pool: the rest is durable already.
    Only(Written),
}

impl Built {
    pub(super) fn memory_text(&self) -> String {
        match self.memory {
            MemoryUsed::None => "none",
            MemoryUsed::Hardlink => "hardlink",
            MemoryUsed::Reflink => "reflink",
            MemoryUsed::Copied => "copied",
        }
        .to_owned()
    }

    pub(super) fn disk_text(&self) -> String {
        self.disk.to_owned()
    }

    /// Whether it was made of an entry of the ready pool.
    pub(super) fn is_pooled(&self) -> bool {
        matches!(self.fresh, Fresh::Only(_))
    }
}

/// How the files of a tree that are no memory were made, in the contract's words.
pub(super) fn disk_of(tree: &Materialized) -> &'static str {
    match (tree.reflinked, tree.copied) {
        (0, 0) => "none",
        (_, 0) => "reflink",
        _ => "copied",
    }
}

/// Step 1 of the protocol *build*.
pub(super) fn build(
    store: &Store,
    pool: &Pool,
    recipe: &Arc<Recipe>,
    config: ForkConfig,
    request: &Request,
    stop: &AtomicBool,
) -> Result<Built, ForkError> {
    let staged = store.layout.staged_fork(&request.id);
    let target = store.layout.instance(&request.name.clone().into());
    // What an attempt left that was cut short.
    store.fs.remove_tree(&staged)?;
    if let Some(built) = hand_out(store, pool, recipe, request, &staged)? {
        return Ok(built);
    }
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
        memory: &recipe.data,
        memory_method: config.memory,
        as_root: nix::unistd::geteuid().is_root(),
        rewrite: Some(&rewrite),
        flow: Flow { threads: 1, progress: &NoProgress, cancelled: stop },
    };
    let tree = materialize(&context, &entries(recipe, &target), &staged).map_err(why_not)?;
    let fell_back = tree.memory_fell_back.map(|errno| errno.desc().to_owned());
    Ok(Built { memory: tree.memory, disk: disk_of(&tree), fell_back, fresh: Fresh::All, recipe: Arc::clone(recipe) })
}

/// What building a tree says, as a fork's failure.
pub(super) fn why_not(error: MaterializeError) -> ForkError {
    match error {
        MaterializeError::Refused { path, why } => ForkError::NamesSource { path, why },
        MaterializeError::MemoryChanged { path } => ForkError::MemoryChanged { path, why: "its length or time differs".to_owned() },
        other => ForkError::Copy(other),
    }
}

fn write_record(store: &Store, staged: &Path, request: &Request) -> Result<(), ForkError> {
    let path = Layout::fork_record_in(staged);
    let bytes = record(store, request)?;
    store.fs.mkdir(path.parent().unwrap_or(staged), 0o755)?;
    let file = store.fs.create(&path, 0o644)?;
    store.fs.write_all(&file, &path, &bytes)?;
    Ok(())
}

/// The bytes of a fork's record.
pub(super) fn record(store: &Store, request: &Request) -> Result<Vec<u8>, ForkError> {
    let record = ForkRecord {
        format: FORMAT,
        fork_id: request.id.clone(),
        fork_of_snapshot: request.snapshot_id.clone(),
        key: request.key.clone(),
        created_at: store.clock.now(),
    };
    let encoded = serde_json::to_vec(&record);
    let mut bytes = encoded.map_err(|source| StoreError::Encode { path: Layout::fork_record_in(Path::new("")), source })?;
    bytes.push(b'\n');
    Ok(bytes)
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

/// Step 2 for a few forks: each file and directory by itself. Memory that is a link of the snapshot's is durable already.
pub(super) fn sync(fs: &Fs, staged: &Path, built: &Built) -> Result<(), ForkError> {
    match &built.fresh {
        Fresh::All => sync_all(fs, staged, &built.recipe, built.memory),
        Fresh::Only(written) => Ok(written.sync(fs, staged)?),
    }
}

/// Syncs a whole tree and its record.
pub(super) fn sync_all(fs: &Fs, staged: &Path, recipe: &Recipe, memory: MemoryUsed) -> Result<(), ForkError> {
    let linked = memory == MemoryUsed::Hardlink;
    let own = |entry: &&Entry| !(linked && matches!(&entry.node, Node::File(file) if file.memory));
    let entries: Vec<Entry> = recipe.entries.iter().filter(own).cloned().collect();
    let record = Layout::fork_record_in(staged);
    let sync_record = || -> Result<(), FsError> {
        fs.fsync(&fs.open_file(&record)?, &record)?;
        fs.fsync_dir(record.parent().unwrap_or(staged))
    };
    sync_record()?;
    Ok(sync_tree(fs, staged, &entries)?)
}
