//! The protocol *take*: copy into staging, manifest, sync, rename, sync the parent. Ledger and events are the caller's.

use super::copy::{CopiedTree, CopyContext, CopyError, DataError, Flow, ParentFile, ParentMemory, copy_tree, flush_tree};
use super::digest::{hash_small, hash_tree, note_data};
use super::settle::settle;
use super::space::{Shortage, shortage};
use crate::config::{DigestTime, Reserve, Skip, show_size};
use crate::driver::{Driver, DriverError};
use crate::ids::{InstanceId, PolicyName, SnapshotId, SnapshotName};
use crate::policy::{InstanceTags, KindRule};
use crate::store::fs::{Below, FileType, Fs, FsError};
use crate::store::instances::{Standing, standing};
use crate::store::layout::Layout;
use crate::store::manifest::{FORMAT, FORMAT_PENDING, Imported, Kind, Manifest, TextPath};
use crate::store::root::RootError;
use crate::store::{Store, StoreError, StorePin, Summary};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tracing::debug_span;

/// What to take, and for whom.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Of what.
    pub instance: InstanceId,
    /// For which policy and slot; `None` by hand.
    pub policy: Option<(PolicyName, DateTime<Utc>)>,
    /// A name, or the first part of one (the instance's name if neither is given).
    pub name: Option<SnapshotName>,
    /// The first part of a name that is made from the time.
    pub name_prefix: Option<String>,
    /// Tags besides the instance's own, which they go before.
    pub tags: BTreeMap<String, String>,
    /// What kind is expected.
    pub kind: KindRule,
}

/// How to take it.
#[derive(Debug, Clone, Copy)]
pub struct How<'a> {
    /// Brings the instance to rest.
    pub driver: &'a dyn Driver,
    /// What to leave out.
    pub skip: &'a Skip,
    /// Which files are memory.
    pub memory_names: &'a [String],
    /// How much of the file system stays free.
    pub reserve: Reserve,
    /// Whether files that share their extents are hashed before the snapshot is published, or after that by somebody else.
    pub digests: DigestTime,
    /// Threads, progress, request to stop.
    pub flow: Flow<'a>,
}

/// A snapshot that was published.
#[derive(Debug, Clone)]
pub struct Taken {
    /// What it is.
    pub summary: Arc<Summary>,
    /// How long the instance was at rest.
    pub frozen: Duration,
    /// What went wrong when it was let go on, if something did: the snapshot is whole all the same.
    pub thaw_error: Option<String>,
    /// How many files share their extents with the source's.
    pub reflinked: usize,
}

/// Why no snapshot was taken. Nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// There is no such instance.
    #[error("there is no instance {0}")]
    NoInstance(InstanceId),
    /// The name is another snapshot's.
    #[error("instance {0} has a snapshot {1} already")]
    NameTaken(InstanceId, SnapshotName),
    /// It would not fit.
    #[error(
        "there is no room for it: it would take {}, and {} are free, of which {} are to stay so; remove snapshots, empty \
         the trash ([trash] grace), or make the file system larger",
        show_size(.0.needed), show_size(.0.free), show_size(.0.reserve)
    )]
    NoSpace(Shortage),
    /// The policy expects another kind.
    #[error("the snapshot would be {}, but the policy says kind = \"{}\"", format!("{found:?}").to_lowercase(), format!("{wanted:?}").to_lowercase())]
    WrongKind {
        /// What the instance is.
        found: Kind,
        /// What the policy says.
        wanted: KindRule,
    },
    /// The root is not proven.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The instance could not be brought to rest.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The tree could not be copied.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The copy could not be hashed.
    #[error(transparent)]
    Hash(#[from] DataError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<FsError> for TakeError {
    fn from(e: FsError) -> Self {
        Self::Store(e.into())
    }
}

impl TakeError {
    /// True if the work was told to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Copy(CopyError::Cancelled) | Self::Hash(DataError::Cancelled))
    }
}

/// Takes a snapshot; on return it is published and durable.
///
/// # Errors
/// [`TakeError`]; what was staged is removed, or at the next start.
pub fn take(store: &Arc<Store>, wanted: &Wanted, how: How<'_>) -> Result<Taken, TakeError> {
    store.prove_root()?;
    let _instance = store.instance_locks.lock(&wanted.instance);
    let source = store.layout.instance(&wanted.instance);
    if store.fs.stat_if_there(&source)?.is_none_or(|meta| meta.kind != FileType::Directory) {
        return Err(TakeError::NoInstance(wanted.instance.clone()));
    }
    if let Some(shortage) = shortage(store, &source, how.skip, how.reserve)? {
        return Err(TakeError::NoSpace(shortage));
    }
    let now = store.clock.now();
    let policy = wanted.policy.clone();
    let origin = Origin {
        source: &source,
        source_dir: TextPath::new(source.as_path()),
        policy: policy.clone().map(|(policy, _)| policy),
        slot: policy.map(|(_, slot)| slot),
        created_at: now,
        imported: None,
    };
    build(store, wanted, how, &origin)
}

/// Where a snapshot's tree is, and what its manifest says of it besides.
#[derive(Debug, Clone)]
pub(super) struct Origin<'a> {
    /// The tree.
    pub(super) source: &'a Path,
    /// The directory that its files may name as theirs.
    pub(super) source_dir: TextPath,
    pub(super) policy: Option<PolicyName>,
    pub(super) slot: Option<DateTime<Utc>>,
    pub(super) created_at: DateTime<Utc>,
    /// Where it was imported from, if so: then it stands in the order where its own time is.
    pub(super) imported: Option<Imported>,
}

/// Builds a snapshot of the tree and publishes it; the caller has the instance's lock.
pub(super) fn build(store: &Arc<Store>, wanted: &Wanted, how: How<'_>, origin: &Origin<'_>) -> Result<Taken, TakeError> {
    let name = choose_name(store, wanted, origin.created_at)?;
    let id = SnapshotId::generate(origin.created_at);
    let taken = stage(store, wanted, how, origin, (id.clone(), name));
    if taken.is_err() {
        // The error that is reported is the first one; what cannot be removed now is removed at the start.
        let _ = store.fs.remove_tree(&store.layout.staged(&id));
    }
    taken
}

pub(super) fn choose_name(store: &Store, wanted: &Wanted, now: DateTime<Utc>) -> Result<SnapshotName, TakeError> {
    let index = store.index();
    let is_taken = |name: &SnapshotName| index.is_named(&wanted.instance, name);
    match &wanted.name {
        Some(name) if is_taken(name) => Err(TakeError::NameTaken(wanted.instance.clone(), name.clone())),
        Some(name) => Ok(name.clone()),
        None => {
            let prefix = wanted.name_prefix.as_deref().unwrap_or(wanted.instance.as_str());
            let first = SnapshotName::stamped(prefix, now);
            let numbered = (2..u32::MAX).map(|n| first.numbered(n));
            Ok(std::iter::once(first.clone()).chain(numbered).find(|n| !is_taken(n)).unwrap_or(first))
        }
    }
}

fn stage(
    store: &Arc<Store>,
    wanted: &Wanted,
    how: How<'_>,
    origin: &Origin<'_>,
    (id, name): (SnapshotId, SnapshotName),
) -> Result<Taken, TakeError> {
    let fs = &store.fs;
    let source = origin.source;
    let _span = debug_span!("snapshot", snapshot = %id, instance = %wanted.instance).entered();
    let staged = store.layout.staged(&id);
    let data = Layout::data_in(&staged);
    fs.mkdir(&staged, 0o700)?;
    let since = fs.open_dir(&staged)?;
    fs.mkdir(&data, 0o700)?;
    let parent = parent_of(store, source)?;
    // Who stands still is not made to wait for a rate.
    let at_once = fs.without_copy_rate();
    let context = CopyContext {
        fs: if how.driver.holds_still() { &at_once } else { fs },
        skip: how.skip,
        memory_names: how.memory_names,
        parent_memory: parent.as_ref().map(|p| &p.memory),
        flow: how.flow,
    };
    debug_span!("flush").in_scope(|| flush_tree(&context, source, store.clock.as_ref()));
    let rest = debug_span!("quiesce").in_scope(|| how.driver.quiesce(&wanted.instance, source))?;
    let copied = debug_span!("copy").in_scope(|| copy_tree(&context, source, &data));
    let thawed = debug_span!("thaw").in_scope(|| rest.thaw());
    let mut copied = copied?;
    check_kind(&copied, wanted.kind)?;
    debug_span!("digest").in_scope(|| match how.digests {
        DigestTime::Before => hash_tree(fs, &data, &mut copied.entries, how.flow),
        DigestTime::After => hash_small(fs, &data, &mut copied.entries, how.flow),
    })?;
    note_data(fs, &data, &mut copied.entries)?;
    let (reflinked, copied_bytes, in_cache) = (copied.reflinked, copied.copied_bytes, std::mem::take(&mut copied.copied));
    let drawn = Drawn { driver: how.driver.name(), parent: parent.map(|p| p.id), tree: copied };
    let manifest = draw_up(store, wanted, origin, (id, name), drawn)?;
    debug_span!("sync").in_scope(|| settle(store, &manifest, &since, copied_bytes))?;
    leave_cache(fs, &data, &in_cache);
    debug_span!("publish").in_scope(|| store.publish(&manifest))?;
    let thaw_error = thawed.result.err().map(|e| e.to_string());
    Ok(Taken { summary: Arc::new(Summary::from(&manifest)), frozen: thawed.frozen, thaw_error, reflinked })
}

/// A tree, and how it came to rest.
pub(super) struct Drawn<'a> {
    pub(super) driver: &'a str,
    pub(super) parent: Option<SnapshotId>,
    pub(super) tree: CopiedTree,
}

/// The manifest of a tree, with a number of its own.
pub(super) fn draw_up(
    store: &Store,
    wanted: &Wanted,
    origin: &Origin<'_>,
    (id, name): (SnapshotId, SnapshotName),
    drawn: Drawn<'_>,
) -> Result<Manifest, TakeError> {
    let (tags, tags_unread) = tags_of(store, origin.source, wanted);
    let at = origin.created_at;
    let last = store.index().newest_of(&wanted.instance).map(|s| s.order_at).filter(|_| origin.imported.is_none());
    let tree = drawn.tree;
    let mut manifest = Manifest {
        format: FORMAT,
        seq: store.next_seq()?,
        name,
        instance: wanted.instance.clone(),
        source_dir: origin.source_dir.clone(),
        policy: origin.policy.clone(),
        slot: origin.slot,
        parent: drawn.parent,
        kind: tree.kind,
        driver: drawn.driver.to_owned(),
        created_at: at,
        order_at: last.map_or(at, |last| last.max(at)),
        tags,
        tags_unread,
        imported: origin.imported.clone(),
        size_bytes: tree.size_bytes,
        allocated_bytes: tree.allocated_bytes,
        entries: tree.entries,
        skipped: tree.skipped,
        id,
    };
    if manifest.pending().next().is_some() {
        manifest.format = FORMAT_PENDING;
    }
    Ok(manifest)
}

/// The instance's tags and the wanted ones, which win; and why the instance's are not among them, if they are not.
fn tags_of(store: &Store, source: &Path, wanted: &Wanted) -> (BTreeMap<String, String>, Option<String>) {
    let (mut tags, unread) = match crate::store::tags::read(&store.fs, source) {
        InstanceTags::Known(tags) => (tags, None),
        InstanceTags::Unknown(why) => (BTreeMap::new(), Some(why)),
    };
    tags.extend(wanted.tags.clone());
    (tags, unread)
}

/// Takes the pages of copied files out of the page cache, now that they are written: nobody else has these files yet.
fn leave_cache(fs: &Fs, data: &Path, copied: &[TextPath]) {
    let Ok(mut below) = Below::open(fs, data) else { return };
    for path in copied {
        // A help and no promise.
        if let Ok(file) = below.place(path.as_path()).and_then(|place| fs.open_file(place)) {
            fs.drop_cached(&file, 0..u64::MAX);
        }
    }
}

fn check_kind(copied: &CopiedTree, wanted: KindRule) -> Result<(), TakeError> {
    let fits = match wanted {
        KindRule::Auto => true,
        KindRule::Stopped => copied.kind == Kind::Stopped,
        KindRule::Standby => copied.kind == Kind::Standby,
    };
    if fits { Ok(()) } else { Err(TakeError::WrongKind { found: copied.kind, wanted }) }
}

/// The snapshot that the instance is a fork of, pinned for as long as its memory may be linked.
struct Parent {
    id: SnapshotId,
    memory: ParentMemory,
    _pin: Option<StorePin>,
}

fn parent_of(store: &Arc<Store>, source: &Path) -> Result<Option<Parent>, FsError> {
    let Standing::Fork(record) = standing(&store.fs, source)? else { return Ok(None) };
    let id = record.fork_of_snapshot;
    let pin = store.pin(&id);
    let mut files = Vec::new();
    if pin.is_some()
        && let Some(summary) = store.known(&id).ok().and_then(|known| known.summary)
    {
        let data = Layout::data_in(&store.layout.snapshot(&id));
        for memory in &summary.memory {
            let path = data.join(&memory.path);
            if let Some(meta) = store.fs.stat_below(&data, &memory.path)? {
                files.push(ParentFile {
                    path,
                    file_id: meta.file_id,
                    size: memory.size,
                    mtime_ns: memory.mtime_ns,
                    digest: memory.digest.clone(),
                });
            }
        }
    }
    Ok(Some(Parent { id, memory: ParentMemory { files }, _pin: pin }))
}
