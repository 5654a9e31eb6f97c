//! One directory on its way to being a snapshot.

use super::survey::Candidate;
use super::ways::{ASIDE, Moved, Theirs, finish, is_remainder, move_in, not_its_own, remove_aside, take_away};
use crate::config::DigestTime;
use crate::driver::{Driver, DriverError, Quiesced};
use crate::ids::{InstanceId, PolicyName, SnapshotId};
use crate::policy::KindRule;
use crate::snapshot::copy::stock::{Stock, holds, look, take_stock};
use crate::snapshot::copy::{CopyContext, CopyError, DataError};
use crate::snapshot::digest::{hash_tree, note_data};
use crate::snapshot::space::shortage_for;
use crate::snapshot::take::{Drawn, How, Origin, TakeError, Wanted, build, choose_name, draw_up};
use crate::store::fs::FsError;
use crate::store::layout::Layout;
use crate::store::manifest::{Imported, Manifest, Node, TextPath};
use crate::store::{Store, StoreError, Summary};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// What is to be made of the directories.
#[derive(Debug, Clone)]
pub struct Errand {
    /// Snapshots of this instance, which need not be there.
    pub instance: InstanceId,
    /// For this policy to remove one day; none: for nobody.
    pub policy: Option<PolicyName>,
    /// With these tags.
    pub tags: BTreeMap<String, String>,
    /// Whether the directories are to go.
    pub take_away: bool,
}

/// How a directory came into the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Its files share their extents with the snapshot's.
    Reflinked,
    /// Byte by byte.
    Copied,
    /// By a rename.
    Moved,
}

impl Way {
    /// In a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Reflinked => "reflinked",
            Self::Copied => "copied",
            Self::Moved => "moved",
        }
    }
}

/// A directory that is a snapshot now.
#[derive(Debug, Clone)]
pub struct Entered {
    /// The snapshot.
    pub summary: Arc<Summary>,
    /// How it came in.
    pub way: Way,
    /// Why the directory is still there, though it was to go.
    pub stays: Option<String>,
}

/// Why a directory is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It could not be copied or published; it is where it was.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// It is whole in the store and no snapshot yet.
    #[error("it is whole at {} and no snapshot yet ({why}); the next import, or start, goes on", path.display())]
    Unfinished {
        /// Where it is.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

impl From<FsError> for ImportError {
    fn from(e: FsError) -> Self {
        Self::Take(e.into())
    }
}
impl From<StoreError> for ImportError {
    fn from(e: StoreError) -> Self {
        Self::Take(e.into())
    }
}
impl From<CopyError> for ImportError {
    fn from(e: CopyError) -> Self {
        Self::Take(e.into())
    }
}
impl From<DataError> for ImportError {
    fn from(e: DataError) -> Self {
        Self::Take(e.into())
    }
}

impl ImportError {
    /// True if the work was told to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Take(e) if e.is_cancelled())
    }
}

/// What lies there does not run: nothing is brought to rest.
#[derive(Debug)]
struct AtRest;

impl Driver for AtRest {
    fn name(&self) -> &'static str {
        "import"
    }
    fn holds_still(&self) -> bool {
        false
    }

    fn quiesce<'a>(&'a self, _instance: &'a InstanceId, _dir: &'a Path) -> Result<Quiesced<'a>, DriverError> {
        Ok(Quiesced::new(Instant::now(), || Ok(())))
    }
}

fn context<'a>(store: &'a Store, how: How<'a>) -> CopyContext<'a> {
    CopyContext { fs: &store.fs, skip: how.skip, memory_names: how.memory_names, parent_memory: None, flow: how.flow }
}

/// Makes a snapshot of a directory of `dir` that a survey found; on return it is published and durable.
///
/// # Errors
/// [`ImportError`]; the directory is whole, in its place or, as the error says, in the store.
pub fn take_in(store: &Arc<Store>, dir: &Path, candidate: &Candidate, errand: &Errand, how: How<'_>) -> Result<Entered, ImportError> {
    // What is imported may be all that there is of it, and its directory may be taken away: never without digests.
    let how = How { driver: &AtRest, digests: DigestTime::Before, ..how };
    let path = dir.join(&candidate.name);
    let open = store.fs.open_dir(dir)?;
    let theirs = Theirs { dir: &open, name: &candidate.name, path: &path };
    let Some((created_at, by)) = candidate.at else {
        return Err(TakeError::NoInstance(errand.instance.clone()).into());
    };
    let wanted = Wanted {
        instance: errand.instance.clone(),
        policy: None,
        name: None,
        name_prefix: None,
        tags: errand.tags.clone(),
        kind: KindRule::Auto,
    };
    let origin = Origin {
        source: &path,
        // It was made of the instance: what its files name is where that is.
        source_dir: TextPath::new(store.layout.instance(&errand.instance)),
        policy: errand.policy.clone(),
        slot: None,
        created_at,
        imported: Some(Imported { from: TextPath::new(path.as_path()), by }),
    };
    let _instance = store.instance_locks.lock(&errand.instance);
    if errand.take_away
        && let Some(summary) = moved(store, theirs, &wanted, &origin, how)?
    {
        return Ok(Entered { summary, way: Way::Moved, stays: None });
    }
    let shares = store.can_reflink() && device(store, &path)? == device(store, store.layout.store())?;
    if let Some(shortage) = shortage_for(store, &path, how.skip, how.reserve, shares)? {
        return Err(TakeError::NoSpace(shortage).into());
    }
    let taken = build(store, &wanted, how, &origin)?;
    let way = if taken.reflinked > 0 { Way::Reflinked } else { Way::Copied };
    let mut stays = None;
    if errand.take_away {
        stays = match store.manifest(&taken.summary.id) {
            Ok(manifest) => take_away(store, &context(store, how), theirs, &manifest),
            Err(e) => Some(e.to_string()),
        };
    }
    Ok(Entered { summary: taken.summary, way, stays })
}

fn device(store: &Store, path: &Path) -> Result<u64, FsError> {
    Ok(store.fs.stat(path)?.file_id.0)
}

/// A directory made a snapshot by a rename; `None` if that cannot be: it is where it was, and may be copied.
fn moved(
    store: &Arc<Store>,
    theirs: Theirs<'_>,
    wanted: &Wanted,
    origin: &Origin<'_>,
    how: How<'_>,
) -> Result<Option<Arc<Summary>>, ImportError> {
    let ctx = context(store, how);
    let mut stock = match take_stock(&ctx, theirs.path) {
        Ok(stock) => stock,
        // A copy says better what is wrong, or bears it.
        Err(CopyError::Io(_) | CopyError::Changing { .. }) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    if !can_move(store, &stock)? || not_its_own(store, theirs.path, &stock.found)?.is_some() {
        return Ok(None);
    }
    hash_tree(&store.fs, theirs.path, &mut stock.tree.entries, how.flow)?;
    note_data(&store.fs, theirs.path, &mut stock.tree.entries)?;
    let name = choose_name(store, wanted, origin.created_at)?;
    let id = SnapshotId::generate(origin.created_at);
    let drawn = Drawn { driver: how.driver.name(), parent: None, tree: stock.tree };
    let manifest = draw_up(store, wanted, origin, (id, name), drawn)?;
    match move_in(store, &ctx, theirs, &manifest, &stock.found)? {
        Moved::No(why) => {
            tracing::debug!(%why, path = %theirs.path.display(), "not moved");
            Ok(None)
        }
        Moved::Yes => {
            finish(store, &manifest)?;
            Ok(Some(Arc::new(Summary::from(&manifest))))
        }
    }
}

/// Whether a tree may become the store's as it is: all of it, nobody else's, and with modes that are ours to set.
fn can_move(store: &Store, stock: &Stock) -> Result<bool, FsError> {
    let device = device(store, store.layout.store())?;
    let (us, gives_owners) = (nix::unistd::geteuid(), crate::store::fs::gives_owners());
    let is_ours = |f: &crate::store::fs::Found| f.meta.file_id.0 == device && (gives_owners || f.meta.uid == us.as_raw());
    Ok(stock.tree.skipped.is_empty() && !stock.has_outside_links && stock.found.iter().all(is_ours))
}

/// Takes a directory away that is a snapshot already, and is still what that was made of; says why it stays, if it does.
///
/// # Errors
/// [`ImportError`] if the snapshot's manifest cannot be read.
pub fn take_known_away(
    store: &Store,
    dir: &Path,
    candidate: &Candidate,
    id: &SnapshotId,
    how: How<'_>,
) -> Result<Option<String>, ImportError> {
    let path = dir.join(&candidate.name);
    let open = store.fs.open_dir(dir)?;
    let manifest = store.manifest(id)?;
    if manifest.pending().next().is_some() {
        return Ok(Some(format!("not all digests of snapshot {id} are made yet")));
    }
    // Length and time are not enough here: it may have been written again since.
    let mut entries = manifest.entries.clone();
    for entry in &mut entries {
        if let Node::File(file) = &mut entry.node {
            file.digest.clear();
        }
    }
    hash_tree(&store.fs, &path, &mut entries, how.flow)?;
    if entries != manifest.entries {
        return Ok(Some(format!("its files are not those of snapshot {id}")));
    }
    store.settle_snapshots()?;
    Ok(take_away(store, &context(store, how), Theirs { dir: &open, name: &candidate.name, path: &path }, &manifest))
}

/// Whether a directory is still what a snapshot was taken of, as far as can be told without reading it.
///
/// # Errors
/// [`ImportError`] if either cannot be looked at.
pub fn is_the_same(store: &Store, dir: &Path, candidate: &Candidate, id: &SnapshotId, how: How<'_>) -> Result<bool, ImportError> {
    let path = dir.join(&candidate.name);
    let (found, _) = look(&context(store, how), &path)?;
    Ok(holds(&store.fs, &path, &found, &store.manifest(id)?.entries)?)
}

/// Moves that had been stopped.
#[derive(Debug, Default)]
pub struct Pending {
    /// What became a snapshot.
    pub finished: Vec<Arc<Summary>>,
    /// What could not, and why.
    pub failed: Vec<(PathBuf, String)>,
}

/// Goes on with moves that were stopped: what became a snapshot, and what could not, with its path and why. Not while an
/// import is under way.
///
/// # Errors
/// [`FsError`] if it cannot be told which there are.
pub fn finish_pending(store: &Store) -> Result<Pending, FsError> {
    let mut ended = Pending::default();
    for entry in store.fs.list_if_there(&store.layout.importing())? {
        let Some(Ok(id)) = entry.name.to_str().map(SnapshotId::parse) else { continue };
        let pending = store.layout.importing_of(&id);
        match store.fs.stat_if_there(&Layout::data_in(&pending)) {
            // The directory is where it was.
            Ok(None) => prune_pending(store, &pending),
            Ok(Some(_)) => match one_pending(store, &pending, &id) {
                Ok(summary) => ended.finished.push(summary),
                Err(e) => ended.failed.push((pending, e.to_string())),
            },
            Err(e) => ended.failed.push((pending, e.to_string())),
        }
    }
    Ok(ended)
}

fn one_pending(store: &Store, pending: &Path, id: &SnapshotId) -> Result<Arc<Summary>, ImportError> {
    let manifest = Manifest::read(&store.fs, &Layout::manifest_in(pending), id).map_err(StoreError::from)?;
    let _instance = store.instance_locks.lock(&manifest.instance);
    finish(store, &manifest)?;
    Ok(Arc::new(Summary::from(&manifest)))
}

/// Removes what was prepared for a move, and never a tree: the manifest, and then the directory if nothing else is in it.
/// What cannot be removed now is removed by the next start.
pub(super) fn prune_pending(store: &Store, pending: &Path) {
    let fs = &store.fs;
    let _ = fs.unlink(&Layout::manifest_in(pending)).and_then(|()| fs.rmdir(pending)).or_else(|_| fs.rmdir(pending));
}

/// Removes directories of `dir` that an earlier import renamed aside, if their snapshots are there. Returns how many.
///
/// # Errors
/// [`FsError`].
pub fn finish_asides(store: &Store, dir: &Path) -> Result<usize, FsError> {
    let open = store.fs.open_dir(dir)?;
    let mut removed = 0;
    for entry in store.fs.list_open(&open)? {
        let id = entry.name.to_str().and_then(|name| SnapshotId::parse(name.strip_prefix(ASIDE)?).ok());
        let summary = id.as_ref().and_then(|id| store.known(id).ok()?.summary);
        let was_here = summary.and_then(|s| s.imported.clone()).is_some_and(|i| i.from.as_path().parent() == Some(dir));
        let manifest = id.filter(|_| was_here).and_then(|id| store.manifest(&id).ok());
        // One that cannot go, or that somebody has written into, stays, and holds up no other: the survey shows it.
        let is_rest = |manifest| is_remainder(&store.fs, &open, &entry.name, &manifest).unwrap_or(false);
        if manifest.is_some_and(is_rest) && store.settle_snapshots().is_ok() && remove_aside(&store.fs, &open, &entry.name).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}
