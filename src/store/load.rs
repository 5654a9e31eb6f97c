//! Reading the whole tree into the index, tolerant of anything: what cannot be read is kept and named, and blocks nothing else.
//!
//! Each top directory is listed once, and what is in it is opened below it, on as many threads as there may be; where there
//! may be more than one, refs are read while what was read before is put in. The index, and what is reported, come out the same on any
//! number of them: one thread puts everything in, in the order of ids.

use super::fs::{Dir, DirEntry, Fs, FsError, Lister};
use super::index::{Index, Known, RefTarget, Summary};
use super::layout::Layout;
use super::manifest::{LIMIT, RecordError};
use super::marks::{Effect, KINDS, MarkKind, Unread};
use super::{StoreError, lean, par};
use crate::event::{Event, Events};
use crate::ids::{ForkId, HoldName, SnapshotId};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the tree holds.
pub(super) struct Loaded {
    pub(super) index: Index,
    pub(super) highest_seq: u64,
    /// No snapshot and no trash: nothing was ever here, as far as can be seen.
    pub(super) is_fresh: bool,
}

/// So long are records that are read at once; of one that is longer this is the beginning.
const AT_ONCE: usize = 64 << 10;

/// A top directory with the snapshots that are named in it, and what else is.
struct Listing {
    dir: Dir,
    ids: Vec<SnapshotId>,
    strays: Vec<OsString>,
}

/// The marks of one snapshot, and what each does.
type FoundMarks = Vec<(&'static MarkKind, Result<Effect, RecordError>)>;
/// A snapshot by its manifest.
type FoundSummary = Result<Arc<Summary>, RecordError>;
/// What lies where the refs of one snapshot are.
type FoundRefs = Vec<(OsString, Option<(ForkId, RefTarget)>)>;

/// Whence, on how many threads, and who is told.
#[derive(Clone, Copy)]
pub(super) struct Loader<'a> {
    pub(super) fs: &'a Fs,
    pub(super) layout: &'a Layout,
    pub(super) events: &'a Events,
    pub(super) threads: usize,
}

impl Loader<'_> {
    /// Reads snapshots, marks, refs and holds.
    ///
    /// # Errors
    /// [`StoreError::Io`] only if a top directory cannot be listed.
    pub(super) fn index(&self) -> Result<Loaded, StoreError> {
        let mut loaded = Loaded { index: Index::default(), highest_seq: 0, is_fresh: true };
        loaded.is_fresh = self.fs.list_if_there(&self.layout.trash())?.is_empty();
        let snapshots = self.top(&self.layout.snapshots())?;
        loaded.is_fresh &= snapshots.as_ref().is_none_or(|(_, ids)| ids.is_empty());
        let found = snapshots.as_ref().map(|(dir, ids)| self.read_snapshots(dir, ids)).unwrap_or_default();
        let marks = self.top(&self.layout.marks())?;
        // Read soon after they are listed: a reader's store goes on changing.
        let read_refs = || -> Result<_, StoreError> {
            let Some(listing) = self.listing(&self.layout.refs())? else { return Ok(None) };
            let found = self.read_refs(&listing.dir, &listing.ids);
            Ok(Some((listing, found)))
        };
        let put = || {
            if let Some((_, ids)) = &snapshots {
                loaded.highest_seq = self.put_snapshots(ids, found, &mut loaded.index);
            }
            if let Some((dir, ids)) = &marks {
                self.marks(dir, ids, &mut loaded.index);
            }
        };
        let refs = if self.threads <= 1 {
            let refs = read_refs();
            put();
            refs
        } else {
            // Only one thread puts in what was read; the others go on reading meanwhile.
            std::thread::scope(|scope| {
                let reading = scope.spawn(read_refs);
                put();
                // Half of the refs would be taken for all.
                reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        };
        if let Some((listing, found)) = refs? {
            let (_, ids) = self.named_in(listing);
            self.put_refs(&ids, found, &mut loaded.index);
        }
        if let Some((dir, ids)) = self.top(&self.layout.holds())? {
            self.holds(&dir, &ids, &mut loaded.index);
        }
        Ok(loaded)
    }

    /// Reads one snapshot that has come into `snapshots/`, with its marks, refs and holds.
    pub(super) fn one(&self, id: &SnapshotId, index: &mut Index) {
        let only = std::slice::from_ref(id);
        match self.fs.open_dir(&self.layout.snapshots()) {
            Ok(dir) => drop(self.snapshots(&dir, only, index)),
            Err(e) => {
                let known = self.known(id, Err(e.into()), index);
                index.fill(vec![(id.clone(), known)]);
            }
        }
        for (top, load) in [
            (self.layout.marks(), Self::marks as fn(&Self, &Dir, &[SnapshotId], &mut Index)),
            (self.layout.refs(), Self::refs),
            (self.layout.holds(), Self::holds),
        ] {
            match self.fs.open_dir(&top) {
                Ok(dir) if matches!(self.fs.stat_if_there(dir.at(id.as_str().as_ref())), Ok(None)) => {}
                Ok(dir) => load(self, &dir, only, index),
                Err(e) if e.is_not_found() => {}
                Err(e) => self.stays(id, &top, &e.to_string(), index),
            }
        }
    }

    /// What a top directory names. `None` if it is not there.
    fn listing(&self, path: &Path) -> Result<Option<Listing>, StoreError> {
        let dir = match self.fs.open_dir(path) {
            Ok(dir) => dir,
            Err(e) if e.is_not_found() => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let (mut ids, mut strays) = (Vec::new(), Vec::new());
        for entry in self.fs.list_open(&dir)? {
            match entry.name.to_str().map(SnapshotId::parse) {
                Some(Ok(id)) => ids.push(id),
                _ => strays.push(entry.name),
            }
        }
        Ok(Some(Listing { dir, ids, strays }))
    }

    /// The snapshots that a top directory names; what else is in it is reported, and left alone.
    fn named_in(&self, Listing { dir, ids, strays }: Listing) -> (Dir, Vec<SnapshotId>) {
        for stray in strays {
            self.unreadable(&dir.path().join(stray), "its name is not a snapshot id", &[]);
        }
        (dir, ids)
    }

    /// A top directory with the snapshots that are named in it, if it is there.
    fn top(&self, path: &Path) -> Result<Option<(Dir, Vec<SnapshotId>)>, StoreError> {
        Ok(self.listing(path)?.map(|listing| self.named_in(listing)))
    }

    fn unreadable(&self, path: &Path, why: &str, blocks: &[&SnapshotId]) {
        self.events.emit(Event::RecordUnreadable {
            path: path.display().to_string(),
            why: why.to_owned(),
            blocks: blocks.iter().map(ToString::to_string).collect(),
        });
    }

    /// The record `name` below `dir`, as `parse` understands it. A short one is read with three calls; whether that was all
    /// of it, `parse` tells: if it fails, the file is read to its end, and that counts.
    fn record<T>(
        &self,
        (dir, name): (&Dir, &OsStr),
        limit: u64,
        buffer: &mut [u8],
        parse: impl Fn(&Path, &[u8]) -> Result<T, RecordError>,
    ) -> Result<T, RecordError> {
        let path = dir.path().join(name);
        let file = self.fs.open_file(dir.at(name))?;
        let len = self.fs.read_once(&file, &path, buffer)?;
        let read = buffer.get(..len).filter(|_| len < buffer.len());
        match read.map(|bytes| parse(&path, bytes)) {
            Some(Ok(record)) => Ok(record),
            _ => parse(&path, &self.fs.read_small(dir.at(name), limit)?),
        }
    }

    /// Manifests; the highest sequence number that is in one.
    fn snapshots(&self, dir: &Dir, ids: &[SnapshotId], index: &mut Index) -> u64 {
        self.put_snapshots(ids, self.read_snapshots(dir, ids), index)
    }

    fn read_snapshots(&self, dir: &Dir, ids: &[SnapshotId]) -> Vec<FoundSummary> {
        let read = |buffer: &mut Vec<u8>, id: &SnapshotId| {
            let name = Layout::manifest_in(id.as_ref());
            self.record((dir, name.as_os_str()), LIMIT, buffer, |path, bytes| lean::summary(path, bytes, id)).map(Arc::new)
        };
        par::each(self.threads, ids, || vec![0; AT_ONCE], read).collect()
    }

    fn put_snapshots(&self, ids: &[SnapshotId], found: Vec<FoundSummary>, index: &mut Index) -> u64 {
        let mut highest = 0;
        let mut all = Vec::with_capacity(ids.len());
        for (id, summary) in ids.iter().zip(found) {
            if let Ok(summary) = &summary {
                highest = highest.max(summary.seq);
            }
            all.push((id.clone(), self.known(id, summary, index)));
        }
        index.fill(all);
        highest
    }

    /// A snapshot that is there, by its manifest.
    fn known(&self, id: &SnapshotId, summary: Result<Arc<Summary>, RecordError>, index: &mut Index) -> Known {
        let mut known = Known { present: true, ..Known::default() };
        match summary {
            Ok(summary) => known.summary = Some(index.share(summary)),
            Err(e) => {
                let why = e.to_string();
                self.events.emit(Event::SnapshotQuarantined { snapshot: id.to_string(), why: why.clone() });
                // A later version may know of something that needs it.
                match e {
                    RecordError::Newer { .. } => drop(known.unreadable.insert(why)),
                    _ => known.bad_manifest = Some(why),
                }
            }
        }
        known
    }

    /// Marks of snapshots that are there; those of one in the trash, or of none, say nothing.
    fn marks(&self, dir: &Dir, ids: &[SnapshotId], index: &mut Index) {
        let read = |buffer: &mut Vec<u8>, id: &SnapshotId| -> Result<FoundMarks, FsError> {
            let of = self.fs.open_dir(dir.at(id.as_str().as_ref()))?;
            let names = self.fs.list_here(&of)?;
            let there = KINDS.iter().filter_map(|kind| Some((kind, names.iter().find(|entry| kind.is(&entry.name))?)));
            let read = |(kind, entry): (&'static MarkKind, &DirEntry)| {
                (kind, self.record((&of, &entry.name), kind.limit, buffer, |path, bytes| kind.read(path, bytes)))
            };
            Ok(there.map(read).collect())
        };
        for (id, found) in ids.iter().zip(par::each(self.threads, ids, || vec![0; AT_ONCE], read)) {
            let mut unread = Vec::new();
            match found {
                Ok(found) => {
                    for (kind, effect) in found {
                        match effect {
                            Ok(effect) if index.get(id).is_some_and(|known| known.present) => index.change(id, effect),
                            Err(e) if kind.unread == Unread::Stays => unread.push((self.layout.mark(id, kind.name), e)),
                            Err(e) if kind.unread == Unread::Reported => {
                                self.unreadable(&self.layout.mark(id, kind.name), &e.to_string(), &[])
                            }
                            _ => {}
                        }
                    }
                }
                Err(e) => unread.push((self.layout.marks_of(id), e.into())),
            }
            for (path, e) in unread.into_iter().filter(|(_, e)| !is_gone(e)) {
                self.unreadable(&path, &e.to_string(), &[id]);
                if index.get(id).is_some_and(|known| known.present) {
                    index.change(id, |known| known.unreadable.insert(e.to_string()));
                }
            }
        }
    }

    fn refs(&self, dir: &Dir, ids: &[SnapshotId], index: &mut Index) {
        self.put_refs(ids, self.read_refs(dir, ids), index);
    }

    fn read_refs(&self, dir: &Dir, ids: &[SnapshotId]) -> Vec<Result<FoundRefs, FsError>> {
        let read = |lister: &mut Lister, id: &SnapshotId| -> Result<FoundRefs, FsError> {
            let of = self.fs.open_dir(dir.at(id.as_str().as_ref()))?;
            let all = self.fs.list_by(&of, lister)?.into_iter().filter(|entry| !is_temporary(&entry.name));
            let one = |entry: DirEntry| {
                let fork = entry.name.to_str().and_then(|name| ForkId::parse(name).ok());
                let found = fork.map(|fork| (fork, target_of(self.fs.read_link(of.at(&entry.name)))));
                (entry.name, found)
            };
            Ok(all.map(one).collect())
        };
        let lister = || if ids.len() > 1 { Lister::within(dir) } else { Lister::default() };
        par::each(self.threads, ids, lister, read).collect()
    }

    fn put_refs(&self, ids: &[SnapshotId], found: Vec<Result<FoundRefs, FsError>>, index: &mut Index) {
        for (id, found) in ids.iter().zip(found) {
            let path = self.layout.refs_of(id);
            let found = match found {
                Ok(found) => found,
                Err(e) => {
                    self.stays(id, &path, &e.to_string(), index);
                    continue;
                }
            };
            let mut refs = Vec::with_capacity(found.len());
            for (name, found) in found {
                match found {
                    Some((fork, target)) => {
                        if target == RefTarget::Unreadable {
                            let why = "not a symbolic link to a directory's path; the fork counts as live";
                            self.unreadable(&path.join(&name), why, &[id]);
                        }
                        refs.push((fork, target));
                    }
                    None => self.stays(id, &path.join(&name), "its name is not a fork id", index),
                }
            }
            index.change(id, |known| known.refs.extend(refs));
        }
    }

    /// Something about a snapshot cannot be told: it is reported, and the snapshot stays.
    fn stays(&self, id: &SnapshotId, path: &Path, why: &str, index: &mut Index) {
        self.unreadable(path, why, &[id]);
        index.change(id, |known| known.unreadable.insert(format!("{}: {why}", path.display())));
    }

    fn holds(&self, dir: &Dir, ids: &[SnapshotId], index: &mut Index) {
        let read = |_: &mut (), id: &SnapshotId| self.fs.list(dir.at(id.as_str().as_ref()));
        for (id, entries) in ids.iter().zip(par::each(self.threads, ids, || (), read)) {
            let dir: PathBuf = self.layout.holds_of(id);
            let entries = match entries {
                Ok(entries) => entries,
                Err(e) => {
                    self.unreadable(&dir, &e.to_string(), &[id]);
                    index.change(id, |known| known.unreadable.insert(e.to_string()));
                    continue;
                }
            };
            for entry in entries {
                match entry.name.to_str().map(HoldName::parse) {
                    Some(Ok(hold)) => drop(index.change(id, |known: &mut Known| known.holds.insert(hold))),
                    _ => self.stays(id, &dir.join(&entry.name), "its name is not a hold name; it holds all the same", index),
                }
            }
        }
    }
}

fn is_gone(e: &RecordError) -> bool {
    matches!(e, RecordError::Io(e) if e.is_not_found())
}

/// A ref that was being pointed anew when the process died; the old one is still there.
pub(super) fn is_temporary(name: &OsStr) -> bool {
    name.to_str().is_some_and(|n| n.starts_with('.'))
}

/// Where a ref points; empty, relative or no link at all is unreadable.
pub(super) fn read_ref(fs: &Fs, path: &Path) -> RefTarget {
    target_of(fs.read_link(path))
}

fn target_of(link: Result<OsString, FsError>) -> RefTarget {
    match link {
        Ok(target) if Path::new(&target).is_absolute() => RefTarget::At(target.into()),
        _ => RefTarget::Unreadable,
    }
}
