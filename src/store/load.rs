//! Reading the whole tree into the index, tolerant of anything: what cannot be read is kept and named, and blocks nothing else.

use super::StoreError;
use super::compression::Compression;
use super::counters::read_record;
use super::digests;
use super::fs::Fs;
use super::index::{Index, RefTarget, Summary};
use super::layout::Layout;
use super::manifest::{Manifest, RecordError};
use super::records;
use crate::event::{Event, Events};
use crate::ids::{ForkId, HoldName, SnapshotId};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

/// What the tree holds.
pub(super) struct Loaded {
    pub(super) index: Index,
    pub(super) highest_seq: u64,
    /// No snapshot and no trash: nothing was ever here, as far as can be seen.
    pub(super) is_fresh: bool,
}

/// Reads snapshots, marks, refs and holds.
///
/// # Errors
/// [`StoreError::Io`] only if a top directory cannot be listed.
pub(super) fn index(fs: &Fs, layout: &Layout, events: &Events) -> Result<Loaded, StoreError> {
    let mut loaded = Loaded { index: Index::default(), highest_seq: 0, is_fresh: true };
    loaded.is_fresh = fs.list_if_there(&layout.trash())?.is_empty();
    let ids = ids_in(fs, &layout.snapshots(), events)?;
    loaded.is_fresh &= ids.is_empty();
    for (id, manifest) in read_manifests(fs, layout, &ids, events) {
        if let Ok(summary) = &manifest {
            loaded.highest_seq = loaded.highest_seq.max(summary.seq);
        }
        load_snapshot(&id, manifest, &mut loaded.index, events);
    }
    for id in ids_in(fs, &layout.marks(), events)? {
        load_marks(fs, layout, &id, &mut loaded.index, events);
    }
    for id in ids_in(fs, &layout.refs(), events)? {
        load_refs(fs, layout, &id, &mut loaded.index, events);
    }
    for id in ids_in(fs, &layout.holds(), events)? {
        load_holds(fs, layout, &id, &mut loaded.index, events);
    }
    Ok(loaded)
}

fn load_snapshot(id: &SnapshotId, manifest: Result<Summary, RecordError>, index: &mut Index, events: &Events) {
    index.change(id, |known| {
        known.present = true;
        match manifest {
            Ok(summary) => known.summary = Some(Arc::new(summary)),
            Err(e) => {
                let why = e.to_string();
                events.emit(Event::SnapshotQuarantined { snapshot: id.to_string(), why: why.clone() });
                // A later version may know of something that needs it.
                match e {
                    RecordError::Newer { .. } => drop(known.unreadable.insert(why)),
                    _ => known.bad_manifest = Some(why),
                }
            }
        }
    });
}

/// Reads one snapshot that has come into `snapshots/`, with its marks, refs and holds.
pub(super) fn one(fs: &Fs, layout: &Layout, id: &SnapshotId, index: &mut Index, events: &Events) {
    for (id, manifest) in read_manifests(fs, layout, std::slice::from_ref(id), events) {
        load_snapshot(&id, manifest, index, events);
    }
    load_marks(fs, layout, id, index, events);
    let is_there = |dir: &Path| !matches!(fs.stat_if_there(dir), Ok(None));
    if is_there(&layout.refs_of(id)) {
        load_refs(fs, layout, id, index, events);
    }
    if is_there(&layout.holds_of(id)) {
        load_holds(fs, layout, id, index, events);
    }
}

/// The names in a directory that are snapshot ids; any other is reported, and left alone.
fn ids_in(fs: &Fs, dir: &Path, events: &Events) -> Result<Vec<SnapshotId>, StoreError> {
    let mut ids = Vec::new();
    for entry in fs.list_if_there(dir)? {
        match entry.name.to_str().map(SnapshotId::parse) {
            Some(Ok(id)) => ids.push(id),
            _ => unreadable(events, &dir.join(&entry.name), "its name is not a snapshot id", &[]),
        }
    }
    Ok(ids)
}

fn unreadable(events: &Events, path: &Path, why: &str, blocks: &[&SnapshotId]) {
    events.emit(Event::RecordUnreadable {
        path: path.display().to_string(),
        why: why.to_owned(),
        blocks: blocks.iter().map(ToString::to_string).collect(),
    });
}

/// Reads manifests on two threads: with many of them it is all parsing.
fn read_manifests(fs: &Fs, layout: &Layout, ids: &[SnapshotId], events: &Events) -> Vec<(SnapshotId, Result<Summary, RecordError>)> {
    let read = |id: &SnapshotId| {
        let path = Layout::manifest_in(&layout.snapshot(id));
        let manifest = Manifest::read(fs, &path, id).map(|mut manifest| {
            // One that cannot be read leaves them pending: they are made again, save over one of a newer version.
            if let Err(e) = digests::complete(fs, layout, &mut manifest) {
                unreadable(events, &layout.mark(id, digests::MARK), &e.to_string(), &[]);
            }
            Summary::from(&manifest)
        });
        (id.clone(), manifest)
    };
    if ids.len() < 64 {
        return ids.iter().map(read).collect();
    }
    let (first, second) = ids.split_at(ids.len() / 2);
    std::thread::scope(|scope| {
        let half = scope.spawn(|| first.iter().map(read).collect::<Vec<_>>());
        let rest: Vec<_> = second.iter().map(read).collect();
        let mut all = half.join().unwrap_or_default();
        all.extend(rest);
        all
    })
}

fn load_marks(fs: &Fs, layout: &Layout, id: &SnapshotId, index: &mut Index, events: &Events) {
    // One that cannot be read is made anew: it protects nothing.
    if let Ok(Some(pinned)) = read_record(fs, &layout.mark(id, records::PINNED))
        && index.get(id).is_some_and(|k| k.present)
    {
        index.change(id, |known| known.pinned = Some(pinned));
    }
    load_compression(fs, layout, id, index, events);
    for (mark, set) in [(records::EXPIRING, true), (records::QUARANTINED, false)] {
        match records::read_mark(fs, layout, id, mark) {
            Ok(None) => {}
            Ok(Some(found)) if index.get(id).is_some_and(|k| k.present) => {
                index.change(id, |known| if set { known.expiring = true } else { known.quarantined = Some(found.why) })
            }
            // Marks of a snapshot in the trash, or of none.
            Ok(Some(_)) => {}
            Err(e) => {
                unreadable(events, &layout.mark(id, mark), &e.to_string(), &[id]);
                if index.get(id).is_some_and(|k| k.present) {
                    index.change(id, |known| known.unreadable.insert(e.to_string()));
                }
            }
        }
    }
}

/// One that cannot be read may name the files that the snapshot's memory is in: the snapshot stays, with all its files.
fn load_compression(fs: &Fs, layout: &Layout, id: &SnapshotId, index: &mut Index, events: &Events) {
    if index.get(id).is_none_or(|known| !known.present) {
        return;
    }
    match Compression::read(fs, layout, id) {
        Ok(compression) => index.change(id, |known| known.compression = compression.map(Arc::new)),
        Err(e) => {
            unreadable(events, &layout.marks_of(id), &e.to_string(), &[id]);
            index.change(id, |known| known.unreadable.insert(e.to_string()));
        }
    }
}

fn load_refs(fs: &Fs, layout: &Layout, id: &SnapshotId, index: &mut Index, events: &Events) {
    let dir = layout.refs_of(id);
    let block = |index: &mut Index, path: &Path, why: String| {
        unreadable(events, path, &why, &[id]);
        index.change(id, |known| known.unreadable.insert(format!("{}: {why}", path.display())));
    };
    let entries = match fs.list(&dir) {
        Ok(entries) => entries,
        Err(e) => return block(index, &dir, e.to_string()),
    };
    for entry in entries {
        let path = dir.join(&entry.name);
        match entry.name.to_str().map(ForkId::parse) {
            Some(Ok(fork)) => {
                let target = read_ref(fs, &path);
                if target == RefTarget::Unreadable {
                    unreadable(events, &path, "not a symbolic link to a directory's path; the fork counts as live", &[id]);
                }
                index.change(id, |known| known.refs.insert(fork, target));
            }
            _ if is_temporary(&entry.name) => {}
            _ => block(index, &path, "its name is not a fork id".to_owned()),
        }
    }
}

/// A ref that was being pointed anew when the process died; the old one is still there.
pub(super) fn is_temporary(name: &OsStr) -> bool {
    name.to_str().is_some_and(|n| n.starts_with('.'))
}

/// Where a ref points; empty, relative or no link at all is unreadable.
pub(super) fn read_ref(fs: &Fs, path: &Path) -> RefTarget {
    match fs.read_link(path) {
        Ok(target) if Path::new(&target).is_absolute() => RefTarget::At(target.into()),
        _ => RefTarget::Unreadable,
    }
}

fn load_holds(fs: &Fs, layout: &Layout, id: &SnapshotId, index: &mut Index, events: &Events) {
    let dir = layout.holds_of(id);
    let entries = match fs.list(&dir) {
        Ok(entries) => entries,
        Err(e) => {
            unreadable(events, &dir, &e.to_string(), &[id]);
            index.change(id, |known| known.unreadable.insert(e.to_string()));
            return;
        }
    };
    for entry in entries {
        match entry.name.to_str().map(HoldName::parse) {
            Some(Ok(hold)) => {
                index.change(id, |known| known.holds.insert(hold));
            }
            _ => {
                let why = "its name is not a hold name; it holds all the same";
                unreadable(events, &dir.join(&entry.name), why, &[id]);
                index.change(id, |known| known.unreadable.insert(format!("{}: {why}", dir.join(&entry.name).display())));
            }
        }
    }
}
