//! What every fork of one snapshot has in common, found out once: the tree, and what of its files names the source.

use super::ForkError;
use super::rewrite::{self, FilePlan, SourceNames};
use crate::config::{ForkConfig, SourcePaths};
use crate::ids::SnapshotId;
use crate::store::fs::{Below, Fs};
use crate::store::layout::{Layout, OURS};
use crate::store::manifest::{Entry, FORMAT, FileNode, Manifest, Node, RecordError};
use crate::store::pool::STAMP;
use crate::store::{Store, StoreError};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// So many recipes are kept; a store rarely forks more snapshots at a time.
pub(super) const CACHED: usize = 32;

/// How to make forks of one snapshot.
#[derive(Debug)]
pub(super) struct Recipe {
    /// The snapshot's files.
    pub(super) data: PathBuf,
    /// The tree, without our own directory, which each fork gets new.
    pub(super) entries: Vec<Entry>,
    /// Files that read otherwise in a fork: what to change, and the snapshot's bytes.
    pub(super) changes: HashMap<PathBuf, (FilePlan, Vec<u8>)>,
    /// The source, by all its names.
    pub(super) names: SourceNames,
    /// Whether links into the source's tree are pointed into the fork.
    pub(super) repoint: bool,
    /// How many names each file has in the tree, if more than one.
    pub(super) names_in_tree: HashMap<PathBuf, u64>,
    /// What makes forks of two recipes the same but for their names: those of the ready pool carry it.
    pub(super) stamp: String,
}

impl Recipe {
    /// Reads a snapshot's manifest and small files.
    pub(super) fn load(store: &Store, id: &SnapshotId, config: ForkConfig) -> Result<Self, ForkError> {
        let manifest = store.manifest(id).map_err(|e| match e {
            StoreError::NoSnapshot { .. } => ForkError::NoSnapshot(id.clone()),
            StoreError::Record(e @ RecordError::Damaged { .. }) => ForkError::Spoilt(e),
            other => ForkError::NotForkable(id.clone(), other.to_string()),
        })?;
        let data = Layout::data_in(&store.layout.snapshot(id));
        let names = source_names(store, &manifest);
        let entries: Vec<Entry> = manifest.entries.into_iter().filter(|e| e.path.as_path() != Path::new(OURS)).collect();
        let mut names_in_tree = HashMap::new();
        for first in entries.iter().filter_map(|e| if let Node::Hardlink(first) = &e.node { Some(first) } else { None }) {
            *names_in_tree.entry(first.as_path().to_owned()).or_insert(1) += 1;
        }
        let repoint = config.source_paths != SourcePaths::Allow;
        let mut recipe = Self { data, entries, changes: HashMap::new(), names, repoint, names_in_tree, stamp: String::new() };
        match config.source_paths {
            SourcePaths::Allow => {}
            SourcePaths::Rewrite => recipe.changes = recipe.look_at_files(&store.fs)?,
            SourcePaths::Refuse => {
                if let Some(path) = recipe.look_at_files(&store.fs)?.into_keys().min() {
                    return Err(ForkError::NamesSource { path, why: "source_paths = \"refuse\"".to_owned() });
                }
                recipe.refuse_links()?;
            }
        }
        recipe.stamp = recipe.stamp_of(id, config);
        Ok(recipe)
    }

    /// Version and user are in it too: another one may make other attributes.
    fn stamp_of(&self, id: &SnapshotId, config: ForkConfig) -> String {
        let mut changes: Vec<&PathBuf> = self.changes.keys().collect();
        changes.sort();
        let user = nix::unistd::geteuid();
        let text = format!(
            "{}\n{FORMAT} {id} {user}\n{:?}\n{:?}\n{changes:?}",
            env!("CARGO_PKG_VERSION"),
            (config.memory, config.source_paths),
            self.names
        );
        blake3::hash(text.as_bytes()).to_hex().chars().take(STAMP).collect()
    }

    /// Plans for all files that name the source; an error for the first that names it where nothing can be rewritten.
    fn look_at_files(&self, fs: &Fs) -> Result<HashMap<PathBuf, (FilePlan, Vec<u8>)>, ForkError> {
        let mut changes = HashMap::new();
        let mut data = Below::open(fs, &self.data)?;
        for entry in &self.entries {
            let Node::File(file) = &entry.node else { continue };
            if file.memory {
                continue;
            }
            let path = entry.path.as_path();
            match self.look_at(fs, &mut data, path, file)? {
                (FilePlan::Verbatim, _) => {}
                (FilePlan::Names { offset }, _) => {
                    return Err(ForkError::NamesSource { path: path.to_owned(), why: format!("at byte {offset}") });
                }
                (plan, bytes) => drop(changes.insert(path.to_owned(), (plan, bytes))),
            }
        }
        Ok(changes)
    }

    fn look_at(&self, fs: &Fs, data: &mut Below<'_>, path: &Path, file: &FileNode) -> Result<(FilePlan, Vec<u8>), ForkError> {
        let stored = data.path_of(path);
        let place = data.place(path)?;
        if file.size <= rewrite::SMALL_FILE {
            let bytes = fs.read_small(place, rewrite::SMALL_FILE)?;
            return Ok((rewrite::plan_small_file(path, &bytes, &self.names), bytes));
        }
        let mut header = vec![0; rewrite::HEADER];
        let read = fs.read_at(&fs.open_file(place)?, &stored, &mut header, 0)?;
        header.truncate(read);
        Ok((rewrite::plan_header(path, &header, &self.names), Vec::new()))
    }

    fn refuse_links(&self) -> Result<(), ForkError> {
        // Any place that is not the source's own shows whether a link leads there.
        let elsewhere = Path::new("/.fork");
        for entry in &self.entries {
            if let Node::Symlink(target) = &entry.node
                && rewrite::repoint_symlink(entry.path.as_path(), target.as_os_str(), &self.names, elsewhere).is_some()
            {
                let why = "source_paths = \"refuse\"".to_owned();
                return Err(ForkError::NamesSource { path: entry.path.as_path().to_owned(), why });
            }
        }
        Ok(())
    }
}

/// The source as it was known when the snapshot was taken, as it would be known now, and as the kernel resolves it.
fn source_names(store: &Store, manifest: &Manifest) -> SourceNames {
    let now = store.layout.instance(&manifest.instance);
    let resolved = store.fs.canonical(store.layout.instances()).map(|root| root.join(&manifest.instance));
    let mut dirs = vec![manifest.source_dir.as_path(), now.as_path()];
    if let Ok(resolved) = &resolved {
        dirs.push(resolved);
    }
    SourceNames::new(&manifest.instance, dirs)
}
