//! Reading the instances root: which directories there are, and which of them are forks of what.

use super::fs::{Dir, DirEntry, FileType, Fs, FsError, Meta, Op};
use super::layout::{Layout, OURS};
use super::par;
use crate::ids::{ForkId, InstanceId, SnapshotId};
use chrono::{DateTime, Utc};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// `fork.json`: what makes an instance a fork. Read by others too, so its format is plain JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkRecord {
    /// Format of the record.
    pub format: u32,
    /// The fork.
    pub fork_id: ForkId,
    /// What it is a fork of.
    pub fork_of_snapshot: SnapshotId,
    /// The caller's idempotency key.
    pub key: Option<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Whoever asked for it waited: a crash may have left it without its request.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub awaited: bool,
}

/// What a directory of the root is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Not a fork of ours.
    Plain,
    /// A fork.
    Fork(ForkRecord),
    /// It has a fork record that cannot be read, for this reason.
    Unreadable(String),
}

/// All directories of the root at about one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// Directories by name, with inode number and what they are.
    pub instances: BTreeMap<OsString, (u64, Standing)>,
    /// The same for the root's trash.
    pub trashed: BTreeMap<OsString, (u64, Standing)>,
}

/// What the next scan may take as known of the last one, to read only what is new: a record whose file is still the same. The
/// directory's name and inode number alone would not tell, since file systems give a number out again at once.
#[derive(Debug, Default)]
pub struct ScanCache(HashMap<OsString, Version>);

/// Which file, as of when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    file_id: (u64, u64),
    ctime_ns: i64,
}

impl From<Meta> for Version {
    fn from(meta: Meta) -> Self {
        Self { file_id: meta.file_id, ctime_ns: meta.ctime_ns }
    }
}

impl ScanCache {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// How a scan is done, and how far it is.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// On so many threads.
    pub threads: usize,
    /// Told of each directory.
    pub progress: &'a ScanProgress,
}

/// How far a scan is.
#[derive(Debug, Default)]
pub struct ScanProgress {
    done: AtomicU64,
    all: AtomicU64,
    /// Once this is set the scan ends with ECANCELED.
    pub stop: AtomicBool,
}

impl ScanProgress {
    /// Directories that were looked at, and those that there are.
    #[must_use]
    pub fn so_far(&self) -> (u64, u64) {
        let all = self.all.load(Ordering::Relaxed);
        (self.done.load(Ordering::Relaxed).min(all), all)
    }
}

/// What the directory `dir` is.
///
/// # Errors
/// [`FsError`] if it cannot even be told whether there is a record.
pub fn standing(fs: &Fs, dir: &Path) -> Result<Standing, FsError> {
    // Below the directory only: a link in the place of ours could have another instance's record read for this one's.
    let record = Layout::fork_record_in(Path::new(""));
    let bytes = match fs.open_dir(dir).and_then(|dir| fs.read_small(dir.at(record.as_os_str()), 64 << 10)) {
        Ok(bytes) => bytes,
        Err(e) if e.is_not_found() => return Ok(Standing::Plain),
        Err(e) => return Ok(Standing::Unreadable(e.to_string())),
    };
    Ok(standing_of(&bytes))
}

/// What a directory is, by the bytes of its fork record.
pub(crate) fn standing_of(bytes: &[u8]) -> Standing {
    match serde_json::from_slice::<ForkRecord>(bytes) {
        Ok(record) if record.format > super::manifest::FORMAT => {
            Standing::Unreadable(format!("format {} is newer than this snapkeep's", record.format))
        }
        Ok(record) => Standing::Fork(record),
        Err(e) => Standing::Unreadable(e.to_string()),
    }
}

/// So many listings more are made for directories that are no longer listed.
const VANISHED: usize = 5;

/// Lists the root until a listing shows no directory, by inode, that has not been read, and then the trash. What is in `cache`
/// is known from the `last` scan.
///
/// # Errors
/// [`FsError`] if a listing fails: then nothing is known.
pub fn scan(fs: &Fs, layout: &Layout, (cache, last): (&mut ScanCache, &Scan), pass: Pass<'_>) -> Result<Scan, FsError> {
    let root = fs.open_dir(layout.instances())?;
    let mut names: Names = Vec::new();
    let mut vanished = 0;
    pass.progress.done.store(0, Ordering::Relaxed);
    loop {
        let mut listing = fs.list_open(&root)?;
        listing.retain(|entry| entry.name != OURS);
        pass.progress.all.store(listing.len() as u64, Ordering::Relaxed);
        // The first listing may have missed a directory that was renamed meanwhile; the second shows it.
        let Compared { known, new, gone } = compare(names, listing);
        // What is no longer listed is gone, or was renamed under this listing, which then shows neither name: the next one tells.
        // A root that loses a directory between any two of them must not keep this from its end.
        let is_last = new.is_empty() && (gone == 0 || vanished >= VANISHED);
        vanished += usize::from(gone > 0);
        names = known;
        if !new.is_empty() {
            names.extend(look_at(fs, &root, new, (cache, last), pass)?);
            // Two runs that are sorted, each in itself: they are only merged.
            names.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        if is_last {
            break;
        }
    }
    if cache.0.len() > names.len() {
        cache.0.retain(|name, _| names.binary_search_by(|(known, _)| known.cmp(name)).is_ok());
    }
    let standing = |(name, (inode, standing)): Named| Some((name, (inode, standing?)));
    Ok(Scan { instances: names.into_iter().filter_map(standing).collect(), trashed: scan_trash(fs, layout)? })
}

/// What a listing shows, beside what was known before it.
struct Compared {
    known: Names,
    new: Vec<DirEntry>,
    /// How many of those that were known it does not show.
    gone: usize,
}

/// Both are sorted by name, and so is what comes out.
fn compare(names: Names, listing: Vec<DirEntry>) -> Compared {
    let mut compared = Compared { known: Vec::with_capacity(names.len()), new: Vec::new(), gone: 0 };
    let mut names = names.into_iter().peekable();
    for entry in listing {
        while names.next_if(|(name, _)| *name < entry.name).is_some() {
            compared.gone += 1;
        }
        match names.next_if(|(name, _)| *name == entry.name) {
            Some(known) if known.1.0 == entry.inode => compared.known.push(known),
            other => {
                compared.gone += usize::from(other.is_some());
                compared.new.push(entry);
            }
        }
    }
    compared.gone += names.count();
    compared
}

/// What lies in the root's trash: a few directories, each read anew.
///
/// # Errors
/// [`FsError`] if it cannot be listed: then nothing is known.
pub fn scan_trash(fs: &Fs, layout: &Layout) -> Result<BTreeMap<OsString, (u64, Standing)>, FsError> {
    let trash = match fs.open_dir(&layout.root_trash()) {
        Ok(trash) => trash,
        Err(e) if e.is_not_found() => return Ok(BTreeMap::new()),
        Err(e) => return Err(e),
    };
    let mut buffer = vec![0; AT_ONCE];
    let mut trashed = BTreeMap::new();
    for entry in fs.list_open(&trash)? {
        if let Some((standing, _)) = look(fs, &trash, &entry.name, None, &mut buffer)? {
            trashed.insert(entry.name, (entry.inode, standing));
        }
    }
    Ok(trashed)
}

/// What the directory of this name in the root is now; `None` if there is none.
///
/// # Errors
/// [`FsError`] if that cannot be told.
pub fn look_at_one(fs: &Fs, root: &Dir, name: &OsStr, cache: &mut ScanCache) -> Result<Option<(u64, Standing)>, FsError> {
    let Some(meta) = fs.stat_if_there(root.at(name))? else {
        cache.0.remove(name);
        return Ok(None);
    };
    let entry = DirEntry { name: name.to_owned(), inode: meta.file_id.1 };
    let found = look(fs, root, name, None, &mut vec![0; AT_ONCE])?;
    note(cache, &entry, found.as_ref());
    Ok(found.map(|(standing, _)| (entry.inode, standing)))
}

/// So long is a record that is read at once.
const AT_ONCE: usize = 16 << 10;

/// What a directory is, and of which version of its record that was read; `None` for what is no directory.
type Seen = Option<(Standing, Option<Version>)>;
/// A name, with its inode's number and what it is: `None` for what is no directory.
type Named = (OsString, (u64, Option<Standing>));
/// Those of a root, sorted by name.
type Names = Vec<Named>;

/// What these entries are.
fn look_at(fs: &Fs, root: &Dir, new: Vec<DirEntry>, (cache, last): (&mut ScanCache, &Scan), pass: Pass<'_>) -> Result<Vec<Named>, FsError> {
    let known = &*cache;
    let looked: Vec<_> = par::each(
        pass.threads,
        &new,
        || vec![0; AT_ONCE],
        |buffer, entry| {
            if pass.progress.stop.load(Ordering::Relaxed) {
                return Err(FsError { op: Op::Read, path: root.path().to_owned(), source: Errno::ECANCELED });
            }
            let before = match last.instances.get(&entry.name) {
                Some((inode, Standing::Fork(record))) if *inode == entry.inode => known.0.get(&entry.name).map(|v| (*v, record)),
                _ => None,
            };
            let found = look(fs, root, &entry.name, before, buffer);
            pass.progress.done.fetch_add(1, Ordering::Relaxed);
            found
        },
    )
    .collect();
    let mut all = Vec::with_capacity(new.len());
    cache.0.reserve(new.len().saturating_sub(cache.0.len()));
    for (entry, found) in new.into_iter().zip(looked) {
        let found = found?;
        note(cache, &entry, found.as_ref());
        all.push((entry.name, (entry.inode, found.map(|(standing, _)| standing))));
    }
    Ok(all)
}

fn note(cache: &mut ScanCache, entry: &DirEntry, found: Option<&(Standing, Option<Version>)>) {
    match found {
        Some((Standing::Fork(_), Some(version))) => drop(cache.0.insert(entry.name.clone(), *version)),
        _ => drop(cache.0.remove(&entry.name)),
    }
}

/// What one entry is, and of which version of its record that was read; `None` if it is no directory, or gone by now.
fn look(fs: &Fs, parent: &Dir, name: &OsStr, known: Option<(Version, &ForkRecord)>, buffer: &mut [u8]) -> Result<Seen, FsError> {
    let record = Layout::fork_record_in(Path::new(name));
    if let Some((version, record_before)) = known
        && fs.stat_if_there(&parent.path().join(&record)).ok().flatten().map(Version::from) == Some(version)
    {
        return Ok(Some((Standing::Fork(record_before.clone()), Some(version))));
    }
    // Below the directory only: a link in the place of ours could have another instance's record read for this one's.
    if let Ok(file) = fs.open_file(parent.at(record.as_os_str())) {
        // Told before it is read: what changes in between is read again by the next scan.
        let version = fs.stat_open(&file, &record).ok().map(Version::from);
        let len = fs.read_once(&file, &record, buffer);
        // One that is longer, or was not read to its end, is no JSON; it is read as any other, below.
        if let Some(standing @ Standing::Fork(_)) = len.ok().and_then(|len| buffer.get(..len)).map(standing_of) {
            return Ok(Some((standing, version)));
        }
    }
    match fs.stat_if_there(parent.at(name))? {
        Some(meta) if meta.kind == FileType::Directory => Ok(Some((standing(fs, &parent.path().join(name))?, None))),
        _ => Ok(None),
    }
}

impl Scan {
    /// All directories that carry a fork id, the live ones before the trashed ones.
    #[must_use]
    pub fn carriers(&self, layout: &Layout) -> HashMap<ForkId, Vec<(PathBuf, ForkRecord)>> {
        let trash = layout.root_trash();
        let mut carriers: HashMap<ForkId, Vec<(PathBuf, ForkRecord)>> = HashMap::new();
        for carrier in Carriers::of(self, layout.instances(), &trash, |_| true).all() {
            carriers.entry(carrier.record.fork_id.clone()).or_default().push((carrier.path(), carrier.record.clone()));
        }
        carriers
    }

    /// The instances whose names are valid, with whether each is (or may be) a fork.
    pub fn names(&self) -> impl Iterator<Item = (InstanceId, bool)> {
        self.instances.iter().filter_map(|(name, (_, standing))| {
            let id = InstanceId::parse(name.to_str()?).ok()?;
            Some((id, *standing != Standing::Plain))
        })
    }
}

/// The directories that carry a fork's id; the live ones of each fork before the trashed ones. Borrowed, and one list:
/// there may be a hundred thousand.
#[derive(Debug)]
pub struct Carriers<'s> {
    all: Vec<Carrier<'s>>,
    /// Where those of a fork begin.
    first: HashMap<&'s ForkId, usize>,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
pub struct Carrier<'s> {
    /// What it says of itself.
    pub record: &'s ForkRecord,
    parent: &'s Path,
    name: &'s OsStr,
}

impl Carrier<'_> {
    /// The directory.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.parent.join(self.name)
    }

    /// Whether it is this directory.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        path.file_name() == Some(self.name) && path.parent() == Some(self.parent)
    }
}

impl<'s> Carriers<'s> {
    /// Those of a scan of `root` with its `trash`, of these forks only.
    pub fn of(scan: &'s Scan, root: &'s Path, trash: &'s Path, wanted: impl Fn(&ForkId) -> bool) -> Self {
        let mut all = Vec::new();
        for (parent, names) in [(root, &scan.instances), (trash, &scan.trashed)] {
            for (name, (_, standing)) in names {
                if let Standing::Fork(record) = standing
                    && wanted(&record.fork_id)
                {
                    all.push(Carrier { record, parent, name });
                }
            }
        }
        let mut first: HashMap<_, _> = all.iter().enumerate().map(|(at, carrier)| (&carrier.record.fork_id, at)).collect();
        if first.len() < all.len() {
            // Somebody copied a fork. Stable: what is live stays before what is trashed.
            all.sort_by(|a, b| a.record.fork_id.cmp(&b.record.fork_id));
            first.clear();
            for (at, carrier) in all.iter().enumerate() {
                first.entry(&carrier.record.fork_id).or_insert(at);
            }
        }
        Self { all, first }
    }

    /// Those of one fork, and where they begin among all.
    #[must_use]
    pub fn get(&self, fork: &ForkId) -> (usize, &[Carrier<'s>]) {
        let from = self.first.get(fork).copied().unwrap_or(self.all.len());
        let rest = self.all.get(from..).unwrap_or_default();
        let len = rest.iter().take_while(|carrier| carrier.record.fork_id == *fork).count();
        (from, rest.get(..len).unwrap_or_default())
    }

    /// All; those of one fork beside each other.
    #[must_use]
    pub fn all(&self) -> &[Carrier<'s>] {
        &self.all
    }
}
