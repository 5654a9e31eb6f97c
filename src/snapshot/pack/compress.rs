//! The protocol *compress*: 1 pack into staging, sync; 2 read it back and compare digests; 3 under the snapshot's lock, look
//! once more whether nobody needs the raw files; 4 rename into the snapshot, sync; 5 the mark; 6 unlink the raw files.
//!
//! A crash before 4 leaves the raw files and something in staging, which the start removes. After 4, packed files that no mark
//! names: the start removes them. After 5 the packed ones count, and the start does 6. Whoever needs the snapshot meanwhile
//! sets a flag and waits for nothing: it is looked at between chunks, and at 3, where it ends the work.

use super::{How, PackError, pack_file, unpack_file};
use crate::ids::SnapshotId;
use crate::policy::compress::{Compress, Method};
use crate::snapshot::copy::Flow;
use crate::store::compression::{Outcome, PackedFile};
use crate::store::fs::{Below, Fs, Meta};
use crate::store::layout::Layout;
use crate::store::manifest::{Entry, FileNode, Manifest, Node};
use crate::store::{Compressing, Compression, Known, Store, StoreError};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A snapshot that is compressed now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compressed {
    /// Sum of the memory files' lengths.
    pub raw_bytes: u64,
    /// What they took.
    pub raw_allocated_bytes: u64,
    /// What the packed files take.
    pub packed_bytes: u64,
}

/// Why a snapshot was not compressed. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CompressError {
    /// Somebody needs it, or it is not what it was.
    #[error("somebody needs the snapshot")]
    Cancelled,
    /// It would not be worth it, for as long as it is compressed this way.
    #[error("it does not become small enough")]
    NoGain,
    /// It would free nothing now, because something shares the raw file's blocks.
    #[error("others share the raw file's blocks")]
    Shared,
    /// It cannot be done.
    #[error(transparent)]
    Pack(PackError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<PackError> for CompressError {
    fn from(error: PackError) -> Self {
        match error {
            PackError::Cancelled => Self::Cancelled,
            PackError::NoGain => Self::NoGain,
            other => Self::Pack(other),
        }
    }
}

impl From<crate::store::fs::FsError> for CompressError {
    fn from(error: crate::store::fs::FsError) -> Self {
        Self::Store(error.into())
    }
}

/// The digest that a memory file of a snapshot must have; `None` if it is not known yet: then it is not packed.
#[must_use]
pub fn known_digest(digest: &str) -> Option<&str> {
    (!digest.is_empty()).then_some(digest)
}

/// Compresses a snapshot's memory files. `is_wanted` says whether a request waits for the snapshot; it is asked under its lock.
///
/// # Errors
/// [`CompressError`]; the raw files are there, and nothing else is.
pub fn compress(
    store: &Store,
    id: &SnapshotId,
    rule: &Compress,
    is_wanted: &dyn Fn() -> bool,
    threads: usize,
) -> Result<Compressed, CompressError> {
    let running = store.begin_compressing(id).ok_or(CompressError::Cancelled)?;
    let manifest = store.manifest(id)?;
    let flow = Flow { threads, cancelled: running.cancelled(), ..Flow::quiet() };
    let work = Work { store, id, rule, is_wanted, flow, staged: store.layout.staged_packing(id) };
    let (done, is_settled) = match work.run(&manifest, &running) {
        Ok((done, is_settled)) => (Ok(done), is_settled),
        // A mark that could not be made durable, nor taken back, counts: both forms are there.
        Err(e) => (Err(e), store.packed(id).is_none()),
    };
    if is_settled {
        // Also behind a success: that it is gone says to the start that nothing is left to be done.
        let _ = store.fs.remove_tree(&work.staged);
    }
    done
}

struct Work<'a> {
    store: &'a Store,
    id: &'a SnapshotId,
    rule: &'a Compress,
    is_wanted: &'a dyn Fn() -> bool,
    flow: Flow<'a>,
    staged: PathBuf,
}

/// An open raw file.
struct Raw<'m> {
    entry: &'m Entry,
    node: &'m FileNode,
    file: File,
    path: PathBuf,
    meta: Meta,
}

impl Work<'_> {
    /// Also whether nothing is left for the next start.
    fn run(&self, manifest: &Manifest, running: &Compressing<'_>) -> Result<(Compressed, bool), CompressError> {
        let fs = &self.store.fs;
        // What is plain before the work need not be found behind it.
        if self.is_needed(&self.store.known(self.id)?) {
            return Err(CompressError::Cancelled);
        }
        let raws = self.open(manifest)?;
        let shared = raws.iter().try_fold(0_u64, |sum, raw| Ok(sum + fs.shared_bytes(&raw.file, &raw.path)?));
        let shared = shared.map_err(|e: crate::store::fs::FsError| CompressError::Store(e.into()))?;
        let raw_allocated_bytes: u64 = raws.iter().map(|raw| raw.meta.allocated).sum();
        let mut left = self.rule.at_most(raw_allocated_bytes.saturating_sub(shared));
        fs.remove_tree(&self.staged)?;
        fs.mkdir(&self.staged, 0o700)?;
        let packed = Layout::packed_in(&self.staged);
        fs.mkdir(&packed, 0o700)?;
        let mut files = Vec::new();
        for (n, raw) in raws.iter().enumerate() {
            let file = self.pack(raw, &packed, n, left).map_err(|e| match e {
                CompressError::NoGain if shared > 0 => CompressError::Shared,
                other => other,
            })?;
            left = left.saturating_sub(file.bytes);
            files.push(file);
        }
        fs.fsync_dir(&packed)?;
        let done = Compressed {
            raw_bytes: raws.iter().map(|raw| raw.node.size).sum(),
            raw_allocated_bytes,
            packed_bytes: files.iter().map(|file| file.bytes).sum(),
        };
        let now = self.store.clock.now();
        let mark = Compression::new(now, self.rule.method, self.rule.level, Outcome::Packed { files, raw_allocated_bytes });
        let is_settled = self.publish(&raws, running, mark)?;
        Ok((done, is_settled))
    }

    fn open<'m>(&self, manifest: &'m Manifest) -> Result<Vec<Raw<'m>>, CompressError> {
        let mut data = Below::open(&self.store.fs, &Layout::data_in(&self.store.layout.snapshot(self.id)))?;
        let mut raws = Vec::new();
        for (entry, node) in manifest.memory_files() {
            // More names of it in the snapshot itself would all have to come back.
            let has_names = manifest.entries.iter().any(|e| matches!(&e.node, Node::Hardlink(first) if *first == entry.path));
            let path = data.path_of(entry.path.as_path());
            let file = self.store.fs.open_file(data.place(entry.path.as_path())?)?;
            let meta = self.store.fs.stat_open(&file, &path)?;
            if !entry.is_unchanged(&meta) {
                let why = "its length or time is not the manifest's".to_owned();
                return Err(PackError::Damaged { path, why }.into());
            }
            if has_names {
                return Err(CompressError::NoGain);
            }
            if meta.links > 1 && !self.rule.while_forked {
                return Err(CompressError::Cancelled);
            }
            raws.push(Raw { entry, node, file, path, meta });
        }
        Ok(raws)
    }

    /// Steps 1 and 2.
    fn pack(&self, raw: &Raw<'_>, dir: &Path, n: usize, at_most: u64) -> Result<PackedFile, CompressError> {
        let fs = &self.store.fs;
        let name = format!("{n}.{}", ending(self.rule.method));
        let path = dir.join(&name);
        let wanted = known_digest(&raw.node.digest).ok_or(CompressError::Cancelled)?;
        let how = How { method: self.rule.method, level: self.rule.level, at_most };
        let file = fs.create(&path, 0o400)?;
        let packed = pack_file(fs, (&raw.file, &raw.path), (&file, &path), raw.node.size, how, self.flow)?;
        // It goes, or stays cold.
        fs.forget_pages(&raw.file);
        self.same_digest(&raw.path, &packed.digest, wanted)?;
        fs.fsync(&file, &path)?;
        drop(file);
        let back = self.read_back(&path, raw.node.size)?;
        self.same_digest(&path, &back, wanted)?;
        let (uid, gid) = (raw.meta.uid, raw.meta.gid);
        Ok(PackedFile { path: raw.entry.path.clone(), name, bytes: packed.bytes, digest: packed.digest, uid, gid })
    }

    fn same_digest(&self, path: &Path, found: &str, wanted: &str) -> Result<(), CompressError> {
        if found == wanted {
            return Ok(());
        }
        let why = format!("its digest is {found}, and the manifest has {wanted}");
        Err(PackError::Damaged { path: path.to_owned(), why }.into())
    }

    /// The digest of what is in a packed file, read from the disk as far as the kernel can be had to do so.
    fn read_back(&self, path: &Path, size: u64) -> Result<String, CompressError> {
        let fs: &Fs = &self.store.fs;
        let file = fs.open_file(path)?;
        fs.forget_pages(&file);
        let digest = unpack_file(fs, (&file, path), None, size, self.rule.method, self.flow)?.digest;
        // It is cold: others need the memory more.
        fs.forget_pages(&file);
        Ok(digest)
    }

    /// Steps 3 to 6; false if the last one is left to the next start.
    fn publish(&self, raws: &[Raw<'_>], running: &Compressing<'_>, mark: Compression) -> Result<bool, CompressError> {
        let guard = self.store.lock_snapshot(self.id);
        let known = self.store.known(self.id)?;
        if running.cancelled().load(std::sync::atomic::Ordering::SeqCst) || self.is_needed(&known) {
            return Err(CompressError::Cancelled);
        }
        for raw in raws {
            let now = self.store.fs.stat(&raw.path)?;
            if now.file_id != raw.meta.file_id || !raw.entry.is_unchanged(&now) {
                return Err(CompressError::Cancelled);
            }
            // Whoever has the other name need not be known to us.
            if now.links > 1 && !self.rule.while_forked {
                return Err(CompressError::Cancelled);
            }
        }
        self.store.publish_packed(&guard, mark)?;
        // The files are open here: their blocks go when the caller closes them, not under the lock. Both forms are whole, so
        // what fails now is left to the next start.
        let dropped = self.store.drop_raw(&guard);
        if let Err(e) = &dropped {
            tracing::debug!(error = %e, id = %self.id, "raw files stay until the next start");
        }
        Ok(dropped.is_ok())
    }

    fn is_needed(&self, known: &Known) -> bool {
        let is_forked = !known.refs.is_empty() && !self.rule.while_forked;
        is_forked
            || known.pins > 0
            || known.state() != crate::policy::SnapshotState::Ready
            || known.packed().is_some()
            || (self.is_wanted)()
    }
}

fn ending(method: Method) -> &'static str {
    match method {
        Method::Zstd => "zst",
        Method::Lz4 => "lz4",
    }
}
