//! Building one fork in staging: the snapshot's tree with files of its own, linked memory, and its record.

use super::ForkError;
use super::queue::Request;
use super::recipe::Recipe;
use super::rewrite;
use crate::config::ForkConfig;
use crate::snapshot::copy::{Flow, NoProgress, Progress, sync_tree};
use crate::snapshot::materialize::{MaterializeContext, MaterializeError, Materialized, MemoryUsed, materialize};
use crate::store::Store;
use crate::store::fs::{Fs, FsError};
use crate::store::instances::ForkRecord;
use crate::store::layout::Layout;
use crate::store::manifest::{Entry, FORMAT, Node, TextPath};
use std::borrow::Cow;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

/// A fork that is whole in staging, not yet durable.
#[derive(Debug)]
pub(super) struct Built {
    tree: Materialized,
    /// Why memory was not made the first way.
    pub(super) fell_back: Option<String>,
    recipe: Arc<Recipe>,
}

impl Built {
    pub(super) fn memory_text(&self) -> String {
        match self.tree.memory {
            MemoryUsed::None => "none",
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

/// Who builds a fork.
#[derive(Clone, Copy)]
pub(super) struct Crew<'a> {
    /// How many may copy one file.
    pub(super) threads: usize,
    pub(super) progress: &'a dyn Progress,
    pub(super) cancelled: &'a AtomicBool,
}

/// Somebody who watches forks being built, if anybody does.
#[derive(Default)]
pub(super) struct Watcher(OnceLock<Arc<dyn Progress + Send + Sync>>);

impl Watcher {
    /// From now on; a second one changes nothing.
    pub(super) fn set(&self, progress: Arc<dyn Progress + Send + Sync>) {
        let _ = self.0.set(progress);
    }

    pub(super) fn get(&self) -> &dyn Progress {
        self.0.get().map_or(&NoProgress, |progress| progress.as_ref())
    }
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Watcher").field(&self.0.get().is_some()).finish()
    }
}

/// Bytes of data that a fork has to copy where nothing is shared.
fn to_copy(entries: &[Entry]) -> u64 {
    let bytes = entries.iter().filter_map(|entry| match &entry.node {
        Node::File(file) if !file.memory => Some(file.data.unwrap_or(file.size)),
        _ => None,
    });
    bytes.fold(0, u64::saturating_add)
}

/// Step 1 of the protocol *build*.
pub(super) fn build(
    store: &Store,
    recipe: &Arc<Recipe>,
    config: ForkConfig,
    request: &Request,
    crew: Crew<'_>,
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
        memory: &recipe.data,
        memory_method: config.memory,
        as_root: nix::unistd::geteuid().is_root(),
        rewrite: Some(&rewrite),
        flow: Flow { threads: crew.threads, progress: crew.progress, cancelled: crew.cancelled },
    };
    if !store.can_reflink() {
        crew.progress.total(to_copy(&recipe.entries));
    }
    let tree = materialize(&context, &entries(recipe, &target), &staged).map_err(|e| match e {
        MaterializeError::Refused { path, why } => ForkError::NamesSource { path, why },
        MaterializeError::MemoryChanged { path } => ForkError::MemoryChanged { path, why: "its length or time differs".to_owned() },
        other => ForkError::Copy(other),
    })?;
    let fell_back = tree.memory_fell_back.map(|errno| errno.desc().to_owned());
    Ok(Built { tree, fell_back, recipe: Arc::clone(recipe) })
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

/// Step 2 for a few forks: each file and directory by itself. Memory that is a link of the snapshot's is durable already.
pub(super) fn sync(fs: &Fs, staged: &Path, built: &Built) -> Result<(), ForkError> {
    let linked = built.tree.memory == MemoryUsed::Hardlink;
    let own = |entry: &&Entry| !(linked && matches!(&entry.node, Node::File(file) if file.memory));
    let entries: Vec<Entry> = built.recipe.entries.iter().filter(own).cloned().collect();
    let record = Layout::fork_record_in(staged);
    let sync_record = || -> Result<(), FsError> {
        fs.fsync(&fs.open_file(&record)?, &record)?;
        fs.fsync_dir(record.parent().unwrap_or(staged))
    };
    sync_record()?;
    Ok(sync_tree(fs, staged, &entries)?)
}
