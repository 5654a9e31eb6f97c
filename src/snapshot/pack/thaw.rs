//! The protocol *thaw*: the raw memory files of a packed snapshot, into the cache. 1 unpack into staging, all frames side by
//! side, and compare digests; 2 owner, mode and time, as they were in the store; sync; 3 under the snapshot's lock, rename into
//! `cache/`. A crash before 3 leaves something in staging, which the start removes; behind it, the start finds it whole.

use super::{PackError, unpack_file};
use crate::event::Event;
use crate::ids::SnapshotId;
use crate::snapshot::copy::Flow;
use crate::store::compression::PackedFile;
use crate::store::fs::{Below, Fs, FsError};
use crate::store::layout::Layout;
use crate::store::{CacheUse, Compression, MemoryFile, Store};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The raw files of a snapshot whose memory is packed, made if they are not in the cache; `None` if it is not packed. One
/// caller makes them, and the others wait for that.
///
/// # Errors
/// [`PackError`]; nothing of it is left.
pub fn thaw(store: &Arc<Store>, id: &SnapshotId, flow: Flow<'_>) -> Result<Option<CacheUse>, PackError> {
    let _one = store.thaw_locks.lock(id);
    let Some(compression) = store.packed(id) else { return Ok(None) };
    if let Some(used) = store.use_cached(id) {
        return Ok(Some(used));
    }
    let began = store.clock.since_boot();
    let staged = store.layout.staged_raw(id);
    let made = make(store, id, &compression, &staged, flow).and_then(|bytes| publish(store, id).map(|()| bytes));
    let bytes = match made {
        Ok(bytes) => bytes,
        Err(e) => {
            // What cannot be removed now is by the next try, or the next start.
            let _ = store.fs.remove_tree(&staged);
            return Err(e);
        }
    };
    let took = store.clock.since_boot().saturating_sub(began);
    store.events.emit(Event::SnapshotDecompressed {
        snapshot: id.clone(),
        bytes,
        duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        at: store.clock.now(),
    });
    Ok(store.use_cached(id))
}

fn make(store: &Store, id: &SnapshotId, compression: &Compression, staged: &Path, flow: Flow<'_>) -> Result<u64, PackError> {
    let fs = &store.fs;
    let gone = || PackError::Damaged { path: store.layout.snapshot(id), why: "it is no longer there".to_owned() };
    let summary = store.known(id).ok().and_then(|known| known.summary).ok_or_else(gone)?;
    fs.remove_tree(staged)?;
    fs.mkdir(staged, 0o700)?;
    let packed = Layout::packed_in(&store.layout.snapshot(id));
    let mut to = Below::open(fs, staged)?;
    let mut dirs = BTreeSet::from([PathBuf::new()]);
    let mut bytes = 0;
    for file in compression.packed().unwrap_or_default() {
        let wanted = summary.memory.iter().find(|memory| memory.path == file.path.as_path());
        let Some(wanted) = wanted else {
            let why = format!("it holds {}, which the manifest does not have", file.path.as_path().display());
            return Err(PackError::Damaged { path: packed.join(&file.name), why });
        };
        make_parents(fs, &mut to, &wanted.path, &mut dirs)?;
        one(fs, &packed, file, wanted, compression, &mut to, flow)?;
        bytes += wanted.size;
    }
    for dir in dirs.iter().rev() {
        let dir = to.dir(dir)?;
        fs.fsync(dir, dir.path())?;
    }
    Ok(bytes)
}

fn make_parents(fs: &Fs, to: &mut Below<'_>, path: &Path, made: &mut BTreeSet<PathBuf>) -> Result<(), FsError> {
    let mut parents: Vec<&Path> = path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).collect();
    parents.reverse();
    for parent in parents {
        if made.insert(parent.to_owned()) {
            fs.mkdir(to.place(parent)?, 0o700)?;
        }
    }
    Ok(())
}

/// Steps 1 and 2 for one file.
fn one(
    fs: &Fs,
    packed: &Path,
    file: &PackedFile,
    wanted: &MemoryFile,
    compression: &Compression,
    to: &mut Below<'_>,
    flow: Flow<'_>,
) -> Result<(), PackError> {
    let from_path = packed.join(&file.name);
    let from = match fs.open_file(&from_path) {
        Err(e) if e.is_not_found() => return Err(PackError::Damaged { path: from_path, why: "it is missing".to_owned() }),
        other => other?,
    };
    let to_path = to.path_of(&wanted.path);
    let place = to.place(&wanted.path)?;
    let raw = fs.create(place, 0o600)?;
    let unpacked = unpack_file(fs, (&from, &from_path), Some((&raw, &to_path)), wanted.size, compression.method, flow)?;
    if unpacked.digest != file.digest {
        let why = format!("what it holds has the digest {}, and had {}", unpacked.digest, file.digest);
        return Err(PackError::Damaged { path: from_path, why });
    }
    // Forks use the raw one.
    fs.forget_pages(&from);
    let made = fs.stat_open(&raw, &to_path)?;
    if (made.uid, made.gid) != (file.uid, file.gid) && crate::store::fs::gives_owners() {
        fs.set_owner(place, file.uid, file.gid)?;
    }
    fs.set_mode(&raw, &to_path, 0o444)?;
    fs.set_mtime(place, wanted.mtime_ns)?;
    Ok(fs.fsync(&raw, &to_path)?)
}

/// Step 3.
fn publish(store: &Store, id: &SnapshotId) -> Result<(), PackError> {
    let guard = store.lock_snapshot(id);
    if store.packed(id).is_none() {
        // It was cut meanwhile.
        return Err(PackError::Cancelled);
    }
    Ok(store.publish_cached(&guard)?)
}
