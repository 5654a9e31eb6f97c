//! Building one fork, in staging or of an entry of the ready pool: the snapshot's tree with files of its own, linked memory, and its
//! record.

use super::ForkError;
use super::pool::{Claim, Pool, Written, hand_out};
use super::queue::Request;
use super::recipe::Recipe;
use super::rewrite;
use super::thaw::Source;
use crate::config::ForkConfig;
use crate::snapshot::copy::{Flow, NoProgress, Progress};
use crate::snapshot::materialize::{MaterializeContext, MaterializeError, Materialized, MemoryUsed, materialize};
use crate::store::fs::sys::WHOLE;
use crate::store::fs::{Below, Commits, Fs};
use crate::store::instances::ForkRecord;
use crate::store::layout::Layout;
use crate::store::manifest::{Entry, FORMAT, Node, TextPath};
use crate::store::{Store, StoreError};
use std::borrow::Cow;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use tracing::debug_span;

/// A fork that is whole but for its name, not yet durable.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) memory: MemoryUsed,
    pub(super) disk: &'static str,
    /// Why memory was not made the first way.
    pub(super) fell_back: Option<String>,
    /// What is not durable of it.
    pub(super) fresh: Fresh,
    pub(super) recipe: Arc<Recipe>,
    /// The raw memory was unpacked for this fork.
    pub(super) is_unpacked: bool,
}

/// What of a fork was made for it, and is to be synced.
#[derive(Debug)]
pub(super) enum Fresh {
    /// All of it.
    All,
    /// It is an entry of the ready pool: the rest is durable already.
    Only(Claim, Written),
}

impl Built {
    pub(super) fn memory_text(&self) -> String {
        match self.memory {
            MemoryUsed::None => "none",
            _ if self.is_unpacked => "decompressed",
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
        matches!(self.fresh, Fresh::Only(..))
    }

    /// Where it lies until it has its name.
    pub(super) fn place(&self, layout: &Layout, request: &Request) -> Cow<'_, Path> {
        match &self.fresh {
            Fresh::All => Cow::Owned(layout.staged_fork(&request.id)),
            Fresh::Only(claim, _) => Cow::Borrowed(claim.path()),
        }
    }

    /// It has its name.
    pub(super) fn became_visible(&mut self) {
        if let Fresh::Only(claim, _) = &mut self.fresh {
            claim.became_fork();
        }
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

/// Step 1 of the protocol *build* where a fork lies ready; `None` if none does.
pub(super) fn build_ready(
    store: &Store,
    pool: &Arc<Pool>,
    recipe: &Arc<Recipe>,
    request: &Request,
    awaited: bool,
) -> Result<Option<Built>, ForkError> {
    if request.attempts > 0 {
        // What an attempt left that was cut short; behind a crash the start clears it.
        store.fs.remove_tree(&store.layout.staged_fork(&request.id))?;
    }
    debug_span!("hand_out").in_scope(|| hand_out(store, pool, recipe, request, awaited))
}

/// Step 1 of the protocol *build* where none does.
pub(super) fn build(
    store: &Store,
    recipe: &Arc<Recipe>,
    source: Option<&Source>,
    config: ForkConfig,
    request: &Request,
    crew: Crew<'_>,
) -> Result<Built, ForkError> {
    let staged = store.layout.staged_fork(&request.id);
    let target = store.layout.instance(&request.name.clone().into());
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
        as_root: crate::store::fs::gives_owners(),
        rewrite: Some(&rewrite),
        flow: Flow { threads: crew.threads, progress: crew.progress, cancelled: crew.cancelled },
    };
    if !store.can_reflink() {
        crew.progress.total(to_copy(&recipe.entries));
    }
    let made = debug_span!("materialize").in_scope(|| materialize(&context, &entries(recipe, &target), &staged));
    let tree = made.map_err(|e| match e {
        // The snapshot itself is well: the next attempt has the raw files made anew.
        MaterializeError::MemoryChanged { path } if source.is_some() => {
            store.distrust_cached(&request.snapshot_id);
            ForkError::Unpack(format!("somebody wrote to {}", path.display()))
        }
        other => why_not(other),
    })?;
    let fell_back = tree.memory_fell_back.map(|errno| errno.desc().to_owned());
    let is_unpacked = source.is_some_and(|source| source.is_made_for(&request.id));
    let (memory, disk, recipe) = (tree.memory, disk_of(&tree), Arc::clone(recipe));
    Ok(Built { memory, disk, fell_back, fresh: Fresh::All, recipe, is_unpacked })
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
    let bytes = record(store, request, false)?;
    store.fs.mkdir(path.parent().unwrap_or(staged), 0o755)?;
    let file = store.fs.create(&path, 0o644)?;
    store.fs.write_all(&file, &path, &bytes)?;
    Ok(())
}

/// The bytes of a fork's record.
pub(super) fn record(store: &Store, request: &Request, awaited: bool) -> Result<Vec<u8>, ForkError> {
    let record = ForkRecord {
        format: FORMAT,
        fork_id: request.id.clone(),
        fork_of_snapshot: request.snapshot_id.clone(),
        key: request.key.clone(),
        created_at: store.clock.now(),
        awaited,
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

/// Step 2 for each fork by itself, first half: the data of what is new, which the kernel only begins to write, or which is waited
/// for as the file system's commits want it.
pub(super) fn write_back(fs: &Fs, place: &Path, built: &Built, wait: Option<Commits>) -> Result<(), ForkError> {
    let mut below = Below::open(fs, place)?;
    let record = Layout::fork_record_in(Path::new(""));
    let files: Vec<&Path> = match &built.fresh {
        Fresh::All => own_files(&built.recipe, built.memory).chain([record.as_path()]).collect(),
        Fresh::Only(_, written) => written.files().collect(),
    };
    for path in files {
        let file = fs.open_file(below.place(path)?)?;
        match wait {
            None => fs.begin_writing(&file, &below.path_of(path), WHOLE)?,
            Some(commits) => fs.write_back(&file, &below.path_of(path), commits)?,
        }
    }
    Ok(())
}

/// Second half, where commits have no order: waits until each file and directory that is new is durable.
pub(super) fn sync(fs: &Fs, place: &Path, built: &Built) -> Result<(), ForkError> {
    match &built.fresh {
        Fresh::All => sync_all(fs, place, &built.recipe, built.memory),
        Fresh::Only(_, written) => Ok(written.sync(fs, place)?),
    }
}

/// Syncs a whole tree and its record: files, then directories, contents before what names them.
pub(super) fn sync_all(fs: &Fs, place: &Path, recipe: &Recipe, memory: MemoryUsed) -> Result<(), ForkError> {
    let mut below = Below::open(fs, place)?;
    let record = Layout::fork_record_in(Path::new(""));
    for path in own_files(recipe, memory).chain([record.as_path()]) {
        let file = fs.open_file(below.place(path)?)?;
        fs.fsync(&file, &below.path_of(path))?;
    }
    for path in record.parent().into_iter().chain(own_dirs(recipe)) {
        let dir = below.dir(path)?;
        fs.fsync(dir, dir.path())?;
    }
    Ok(())
}

/// How many files and directories [`sync`] syncs.
pub(super) fn count(built: &Built) -> usize {
    match &built.fresh {
        Fresh::All => 2 + own_files(&built.recipe, built.memory).count() + own_dirs(&built.recipe).count(),
        Fresh::Only(_, written) => written.count(),
    }
}

/// Files that are the fork's own. Memory that is a link of the snapshot's is durable already.
fn own_files(recipe: &Recipe, memory: MemoryUsed) -> impl Iterator<Item = &Path> {
    let linked = memory == MemoryUsed::Hardlink;
    let is_own = move |node: &Node| matches!(node, Node::File(file) if !(linked && file.memory));
    recipe.entries.iter().filter(move |entry| is_own(&entry.node)).map(|entry| entry.path.as_path())
}

fn own_dirs(recipe: &Recipe) -> impl Iterator<Item = &Path> {
    recipe.entries.iter().rev().filter(|entry| entry.node == Node::Dir).map(|entry| entry.path.as_path())
}
