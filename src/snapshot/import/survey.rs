//! Which directories there are, of what time each is, and which of them are left where they are, and why. Only looks.

use super::stamp::{Stamp, Stamps};
use super::ways::ASIDE;
use crate::ids::{InstanceId, SnapshotId};
use crate::store::Store;
use crate::store::fs::{FileType, FsError, Meta};
use crate::store::manifest::TimeFrom;
use chrono::{DateTime, Utc};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// An entry of the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: OsString,
    /// Its time, and where that is from.
    pub at: Option<(DateTime<Utc>, TimeFrom)>,
    /// What is to become of it.
    pub fate: Fate,
}

/// What is to become of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It becomes a snapshot.
    Taken,
    /// It is this snapshot already.
    Known(SnapshotId),
    /// It stays what it is, for this reason.
    Left(String),
}

/// All entries of a directory: those that become snapshots in the order of their times, and then the others by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The directory, links on the way to it resolved.
    pub dir: PathBuf,
    /// What is in it.
    pub candidates: Vec<Candidate>,
}

/// Looks at the directory `dir`.
///
/// # Errors
/// [`FsError`] if it cannot be read.
pub fn survey(store: &Store, dir: &Path, instance: &InstanceId, stamps: &Stamps) -> Result<Survey, FsError> {
    let dir = store.fs.canonical(dir)?;
    let known = imported(store, instance);
    let open = store.fs.open_dir(&dir)?;
    let mut candidates = Vec::new();
    for entry in store.fs.list_open(&open)? {
        // What has gone since is nobody's.
        let Some(meta) = store.fs.stat_if_there(open.at(&entry.name))? else { continue };
        candidates.push(judge(store, &dir, &entry.name, &meta, stamps, &known));
    }
    let order = |c: &Candidate| (c.fate != Fate::Taken, c.at.map(|(at, _)| at).filter(|_| c.fate == Fate::Taken), c.name.clone());
    candidates.sort_by_key(order);
    Ok(Survey { dir, candidates })
}

/// The snapshots of an instance that were imported, by time and by the name that their directories had.
fn imported(store: &Store, instance: &InstanceId) -> HashMap<(DateTime<Utc>, OsString), SnapshotId> {
    let key = |from: &Path| from.file_name().map(OsStr::to_owned).unwrap_or_default();
    let all = store.index().of_instance(instance);
    all.iter().filter_map(|s| Some(((s.created_at, key(s.imported.as_ref()?.from.as_path())), s.id.clone()))).collect()
}

fn judge(
    store: &Store,
    dir: &Path,
    name: &OsStr,
    meta: &Meta,
    stamps: &Stamps,
    known: &HashMap<(DateTime<Utc>, OsString), SnapshotId>,
) -> Candidate {
    let left = |why: &str, at| Candidate { name: name.to_owned(), at, fate: Fate::Left(why.to_owned()) };
    if meta.kind != FileType::Directory {
        let kind = match meta.kind {
            FileType::Symlink => "a symbolic link",
            FileType::Regular => "a file",
            _ => "a socket, a FIFO or a device",
        };
        return left(&format!("it is {kind}, not a directory"), None);
    }
    let text = name.to_string_lossy();
    if text.starts_with(ASIDE) {
        return left("an earlier import took it in and was stopped while it removed it", None);
    }
    if text.starts_with('.') {
        return left("its name begins with a dot", None);
    }
    let path = dir.join(name);
    let is_ours = |ours: &Path| {
        let real = store.fs.canonical(ours).unwrap_or_else(|_| ours.to_owned());
        ours.starts_with(&path) || real.starts_with(&path) || store.fs.stat(ours).is_ok_and(|found| found.file_id == meta.file_id)
    };
    if is_ours(store.layout.store()) || is_ours(store.layout.instances()) {
        return left("the store or the instances root is in it", None);
    }
    let (at, from) = match stamps.read(&text) {
        Stamp::At(at) => (at, TimeFrom::Name),
        Stamp::None if stamps.has_pattern() => return left("its name does not fit the pattern", None),
        Stamp::None => (of_change(meta), TimeFrom::Mtime),
        Stamp::Twice(one, other) => {
            let (one, other) = (one.format("%H:%M"), other.format("%H:%M"));
            return left(
                &format!("the clocks showed that time twice ({one} and {other} UTC): put an offset into the name, such as +02:00"),
                None,
            );
        }
        Stamp::Never(local) => {
            return left(&format!("the clocks of that zone never showed {}: is --timezone right?", local.format("%F %T")), None);
        }
    };
    let found = Some((at, from));
    if at > store.clock.now() {
        return left("it is dated in the future", found);
    }
    if at < DateTime::UNIX_EPOCH {
        return left("it is dated before 1970", found);
    }
    let fate = known.get(&(at, name.to_owned())).map_or(Fate::Taken, |id| Fate::Known(id.clone()));
    Candidate { name: name.to_owned(), at: found, fate }
}

/// The time of change, in whole seconds, as names have them.
fn of_change(meta: &Meta) -> DateTime<Utc> {
    DateTime::from_timestamp(meta.mtime_ns.div_euclid(1_000_000_000), 0).unwrap_or_default()
}
