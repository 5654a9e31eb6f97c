//! Reading the instances root: which directories there are, and which of them are forks of what.

use super::fs::{DirEntry, FileType, Fs, FsError};
use super::layout::{Layout, OURS};
use crate::ids::{ForkId, InstanceId, SnapshotId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

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
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// Directories by name, with inode number and what they are.
    pub instances: BTreeMap<OsString, (u64, Standing)>,
    /// The same for the root's trash.
    pub trashed: BTreeMap<OsString, (u64, Standing)>,
}

/// What a scan may take as known, to read only what is new: a record whose file is still the same. The directory's name
/// and inode number alone would not tell, since file systems give a number out again at once.
#[derive(Debug, Default)]
pub struct ScanCache(HashMap<(OsString, u64), (Version, ForkRecord)>);

/// Which file, as of when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    file_id: (u64, u64),
    ctime_ns: i64,
}

impl Version {
    /// `None` if there is no record, or it cannot be told: then it is read.
    fn of(fs: &Fs, record: &Path) -> Option<Self> {
        fs.stat_if_there(record).ok().flatten().map(|meta| Self { file_id: meta.file_id, ctime_ns: meta.ctime_ns })
    }
}

impl ScanCache {
    /// Forgets a name of which the kernel reported a change.
    pub fn forget(&mut self, name: &OsStr) {
        self.0.retain(|(known, _), _| known != name);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.clear();
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

/// Lists the root until a listing shows no directory, by inode, that has not been read, and then the trash.
///
/// # Errors
/// [`FsError`] if a listing fails: then nothing is known.
pub fn scan(fs: &Fs, layout: &Layout, cache: &mut ScanCache) -> Result<Scan, FsError> {
    let mut found = Scan::default();
    let mut read: HashSet<(OsString, u64)> = HashSet::new();
    // The first listing may have missed a directory that was renamed meanwhile; the second shows it.
    let mut again = true;
    while again {
        again = false;
        let listing = fs.list(layout.instances())?;
        found.instances.clear();
        for entry in listing.into_iter().filter(|e| e.name != OURS) {
            again |= read.insert((entry.name.clone(), entry.inode));
            if let Some(standing) = look(fs, &layout.instance_named(&entry.name), &entry, cache)? {
                found.instances.insert(entry.name, (entry.inode, standing));
            }
        }
    }
    let trash = layout.root_trash();
    for entry in fs.list_if_there(&trash)? {
        if let Some(standing) = look(fs, &trash.join(&entry.name), &entry, cache)? {
            found.trashed.insert(entry.name, (entry.inode, standing));
        }
    }
    Ok(found)
}

/// What one entry is; `None` if it is no directory, or gone by now.
fn look(fs: &Fs, path: &Path, entry: &DirEntry, cache: &mut ScanCache) -> Result<Option<Standing>, FsError> {
    let key = (entry.name.clone(), entry.inode);
    // Told before it is read: what changes in between is read again by the next scan.
    let version = Version::of(fs, &Layout::fork_record_in(path));
    if let Some((known, record)) = cache.0.get(&key)
        && Some(*known) == version
    {
        return Ok(Some(Standing::Fork(record.clone())));
    }
    match fs.stat_if_there(path)? {
        Some(meta) if meta.kind == FileType::Directory => {}
        _ => return Ok(None),
    }
    let standing = standing(fs, path)?;
    match (&standing, version) {
        (Standing::Fork(record), Some(version)) => drop(cache.0.insert(key, (version, record.clone()))),
        _ => drop(cache.0.remove(&key)),
    }
    Ok(Some(standing))
}

impl Scan {
    /// All directories that carry a fork id, the live ones before the trashed ones.
    #[must_use]
    pub fn carriers(&self, layout: &Layout) -> HashMap<ForkId, Vec<(PathBuf, ForkRecord)>> {
        let mut carriers: HashMap<ForkId, Vec<(PathBuf, ForkRecord)>> = HashMap::new();
        let live = self.instances.iter().map(|(name, known)| (layout.instance_named(name), known));
        let trashed = self.trashed.iter().map(|(name, known)| (layout.root_trash().join(name), known));
        for (path, (_, standing)) in live.chain(trashed) {
            if let Standing::Fork(record) = standing {
                carriers.entry(record.fork_id.clone()).or_default().push((path, record.clone()));
            }
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
