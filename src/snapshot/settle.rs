//! What makes a snapshot durable, step 3 of the protocol *take*: its contents before its name, or both at once.
//!
//! Where the store's file system commits in an order ([`Commits`]), contents only wait for their data. Then one commit behind the rename
//! makes contents and name durable together; on btrfs one comes before it as well, for a name may come with somebody else's sync, through
//! the log tree, and what is behind it need not. Elsewhere each file is synced before the rename.

use super::copy::{MANY, count, sync_each, write_back_each};
use crate::store::fs::sys::WHOLE;
use crate::store::fs::{Commits, Dir, Fs, FsError};
use crate::store::layout::Layout;
use crate::store::manifest::{Manifest, seal};
use crate::store::syncing::{Costs, Way};
use crate::store::{Store, StoreError};
use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

/// So many bytes that were copied are no matter beside the syncs themselves.
const LITTLE: u64 = 1 << 20;

/// Writes the manifest and sees to it that the rename may come, whose sync is of all of it; `staged` is open since nothing was in it.
/// What was copied takes as long as its bytes take, either way; where next to nothing was, it is done the way that is likely to take
/// less, and what it took is remembered.
///
/// # Errors
/// [`StoreError`]: it must not be published.
pub(super) fn settle(store: &Store, manifest: &Manifest, staged: &Dir, copied_bytes: u64) -> Result<(), StoreError> {
    let fs = &store.fs;
    let bytes = seal(manifest).map_err(|source| StoreError::Encode { path: Layout::manifest_in(staged.path()), source })?;
    let commits = fs.commits(staged);
    // The manifest and its directory as well.
    let (count, dirty) = (count(&manifest.entries) + 2, fs.dirty_mib());
    let is_little = copied_bytes <= LITTLE;
    let way = match commits {
        _ if !is_little && count > MANY => Way::Whole,
        _ if !is_little => Way::Each,
        Commits::InOrder | Commits::Whole => costs(store).choose_in_order(count, dirty),
        Commits::Anyhow => costs(store).choose(count, dirty),
    };
    let began = Instant::now();
    match way {
        Way::Each if commits == Commits::Anyhow => sync_all(fs, manifest, staged, &bytes)?,
        Way::Each => {
            write_all_back(fs, manifest, staged, &bytes, commits)?;
            if commits == Commits::Whole {
                fs.commit(staged)?;
            }
        }
        Way::Whole => {
            let path = Layout::manifest_in(staged.path());
            fs.write_all(&fs.create(&path, 0o600)?, &path, &bytes)?;
            fs.syncfs(staged)?;
        }
    }
    if is_little {
        costs(store).learn(way, count, dirty, began.elapsed());
    }
    Ok(())
}

fn costs(store: &Store) -> MutexGuard<'_, Costs> {
    store.sync_costs.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Each file and directory by itself, contents before what names them.
fn sync_all(fs: &Fs, manifest: &Manifest, staged: &Dir, bytes: &[u8]) -> Result<(), FsError> {
    sync_each(fs, &Layout::data_in(staged.path()), &manifest.entries)?;
    fs.write_new(&Layout::manifest_in(staged.path()), bytes)?;
    fs.fsync(staged, staged.path())
}

/// The data of all files: what says where it is then comes before the rename in the order of commits.
fn write_all_back(fs: &Fs, manifest: &Manifest, staged: &Dir, bytes: &[u8], commits: Commits) -> Result<(), FsError> {
    let path = Layout::manifest_in(staged.path());
    let file = fs.create(&path, 0o600)?;
    fs.write_all(&file, &path, bytes)?;
    fs.begin_writing(&file, &path, WHOLE)?;
    write_back_each(fs, &Layout::data_in(staged.path()), &manifest.entries, commits)?;
    fs.write_back(&file, &path, commits)
}
