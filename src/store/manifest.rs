//! A snapshot's manifest: what it is and every file in it. Written once, never changed; a checksum covers its exact bytes.

use super::fs::{FileType, Fs, FsError, Meta};
use crate::ids::{InstanceId, PolicyName, SnapshotId, SnapshotName};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// The format that this version writes; a newer one is refused.
pub const FORMAT: u32 = 1;

/// The format of a manifest that was published without all of its digests: an empty one means that it is in the mark
/// `digests.json`, or still to be made (see `store/digests.rs`). A version that does not know of that would take every
/// such file for damaged.
pub const FORMAT_PENDING: u32 = 2;

/// No manifest is longer (a million files at about 300 bytes each).
pub(super) const LIMIT: u64 = 512 << 20;

/// Everything about a snapshot that never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`] of the writer; [`FORMAT_PENDING`] if it lacks digests.
    pub format: u32,
    /// The snapshot.
    pub id: SnapshotId,
    /// Never repeats in this store.
    pub seq: u64,
    /// The name for people.
    pub name: SnapshotName,
    /// What it is a snapshot of.
    pub instance: InstanceId,
    /// The instance's directory at that time: what forks must not point to.
    pub source_dir: TextPath,
    /// The policy that took it; null if by hand.
    pub policy: Option<PolicyName>,
    /// The slot it was taken for; null if by hand.
    pub slot: Option<DateTime<Utc>>,
    /// The snapshot whose fork the instance was.
    pub parent: Option<SnapshotId>,
    /// Disks only, or disks and memory.
    pub kind: Kind,
    /// The driver that brought the instance to rest.
    pub driver: String,
    /// Wall clock at the copy.
    pub created_at: DateTime<Utc>,
    /// Place in the order of the instance's snapshots.
    pub order_at: DateTime<Utc>,
    /// Tags at the time: the instance's, then the policy's, then those given by hand.
    pub tags: BTreeMap<String, String>,
    /// Why the instance's tags are not among them, if they could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags_unread: Option<String>,
    /// Where it was imported from, if it was not taken here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<Imported>,
    /// Sum of the files' lengths.
    pub size_bytes: u64,
    /// Sum of their allocated bytes in the store, right after the copy.
    pub allocated_bytes: u64,
    /// The tree: directories before what is in them.
    pub entries: Vec<Entry>,
    /// What was left out, and why.
    pub skipped: Vec<Skipped>,
}

/// Where a snapshot was imported from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// The directory.
    pub from: TextPath,
    /// How its time was found.
    pub by: TimeFrom,
}

/// How the time of an imported snapshot was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TimeFrom {
    /// It is in the directory's name.
    Name,
    /// It is the directory's time of change.
    Mtime,
}

/// What a snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Disks.
    Stopped,
    /// Disks and memory.
    Standby,
}

/// One file, directory or symbolic link of the tree; mode, owner and time are the source's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Path below the instance's directory; the directory itself is the first entry, with an empty path.
    pub path: TextPath,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Extended attributes; values in base 64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<TextPath, Blob>,
    /// What it is.
    pub node: Node,
}

/// The part of an entry that depends on what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Node {
    /// A directory.
    Dir,
    /// A regular file with data of its own.
    File(FileNode),
    /// One more name of the file at this path, which comes earlier in the list.
    Hardlink(TextPath),
    /// A symbolic link with this target.
    Symlink(TextPath),
}

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileNode {
    /// Length in bytes.
    pub size: u64,
    /// See `snapshot/digest.rs` for what is hashed; empty while it is pending.
    pub digest: String,
    /// Bytes of it that were no hole when it was taken; told only of files of more than 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<u64>,
    /// Whether it is guest memory: read-only and linked into forks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub memory: bool,
}

/// Something that a snapshot leaves out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Path below the instance's directory.
    pub path: TextPath,
    /// `socket`, `fifo`, `device`, `fork record`, `instance tags` or the rule of the config that names it.
    pub why: String,
}

/// A path or name of any bytes, as text: `\` is written `\\`, and bytes that are not UTF-8 are written `\xNN`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TextPath(PathBuf);

impl TextPath {
    /// Wraps a path.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// The same as a name.
    #[must_use]
    pub fn as_os_str(&self) -> &OsStr {
        self.0.as_os_str()
    }
}

impl From<TextPath> for String {
    fn from(path: TextPath) -> String {
        let mut text = String::new();
        for chunk in path.0.as_os_str().as_bytes().utf8_chunks() {
            text.push_str(&chunk.valid().replace('\\', "\\\\"));
            for byte in chunk.invalid() {
                text.push_str(&format!("\\x{byte:02x}"));
            }
        }
        text
    }
}

impl TryFrom<String> for TextPath {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut parts = text.split('\\');
        bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
        while let Some(part) = parts.next() {
            if let Some(hex) = part.strip_prefix('x') {
                let (digits, rest) = hex.split_at_checked(2).ok_or("'\\x' wants two digits")?;
                bytes.push(u8::from_str_radix(digits, 16).map_err(|e| e.to_string())?);
                bytes.extend_from_slice(rest.as_bytes());
            } else if part.is_empty() {
                bytes.push(b'\\');
                bytes.extend_from_slice(parts.next().ok_or("a lone '\\'")?.as_bytes());
            } else {
                return Err(format!("unknown escape \\{part}"));
            }
        }
        Ok(Self(PathBuf::from(OsString::from_vec(bytes))))
    }
}

/// Bytes, in base 64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Blob(pub Vec<u8>);

impl From<Blob> for String {
    fn from(blob: Blob) -> String {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(blob.0)
    }
}

impl TryFrom<String> for Blob {
    type Error = base64::DecodeError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.decode(text).map(Self)
    }
}

/// Why a manifest, or another record with a checksum, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] FsError),
    /// The file is not what was written.
    #[error("{} is damaged: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A later version wrote it.
    #[error("{} has format {found}, newer than this snapkeep knows: use a newer one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    body: &'a RawValue,
    checksum: String,
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

fn checksum(body: &str) -> String {
    blake3::hash(body.as_bytes()).to_hex().to_string()
}

/// The bytes of a record: its JSON, and the BLAKE3 digest of exactly that JSON.
pub fn seal<T: Serialize>(record: &T) -> Result<Vec<u8>, serde_json::Error> {
    let body = serde_json::value::to_raw_value(record)?;
    let checksum = checksum(body.get());
    let mut bytes = serde_json::to_vec(&Envelope { body: &body, checksum })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// How a record of this format begins: with that nobody has to look through all of it for its format.
const OURS: &str = "{\"format\":1,";

/// The JSON of what [`seal`] wrote, checked: that it is what was written, and of no newer format.
///
/// # Errors
/// [`RecordError`]: damaged, or newer.
pub(super) fn body<'b>(path: &Path, bytes: &'b [u8], newest: u32) -> Result<&'b str, RecordError> {
    let damaged = |why: String| RecordError::Damaged { path: path.to_owned(), why };
    let envelope: Envelope<'_> = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
    let body = envelope.body.get();
    if checksum(body) != envelope.checksum {
        return Err(damaged("the checksum does not match".to_owned()));
    }
    if !body.starts_with(OURS) {
        let format: FormatOnly = serde_json::from_str(body).map_err(|e| damaged(e.to_string()))?;
        if format.format > newest {
            return Err(RecordError::Newer { path: path.to_owned(), found: format.format });
        }
    }
    Ok(body)
}

/// Reads and checks what [`seal`] wrote; the record must have a field `format`.
///
/// # Errors
/// [`RecordError`]: unreadable, damaged, or newer.
pub fn unseal<T: for<'de> Deserialize<'de>>(path: &Path, bytes: &[u8]) -> Result<T, RecordError> {
    let damaged = |e: serde_json::Error| RecordError::Damaged { path: path.to_owned(), why: e.to_string() };
    serde_json::from_str(body(path, bytes, FORMAT)?).map_err(damaged)
}

/// That a manifest which says that it is `found`'s is `wanted`'s.
pub(super) fn is_of(wanted: &SnapshotId, found: &SnapshotId, path: &Path) -> Result<(), RecordError> {
    let why = || format!("it is the manifest of {found}");
    if found == wanted { Ok(()) } else { Err(RecordError::Damaged { path: path.to_owned(), why: why() }) }
}

impl Manifest {
    /// Reads a manifest and checks it, also that it belongs to `id`.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn read(fs: &Fs, path: &Path, id: &SnapshotId) -> Result<Self, RecordError> {
        let manifest = Self::unseal(path, &fs.read_small(path, LIMIT)?)?;
        is_of(id, &manifest.id, path)?;
        Ok(manifest)
    }

    /// What [`seal`] wrote of a manifest.
    ///
    /// # Errors
    /// [`RecordError`]: damaged, or newer.
    pub fn unseal(path: &Path, bytes: &[u8]) -> Result<Self, RecordError> {
        let damaged = |e: serde_json::Error| RecordError::Damaged { path: path.to_owned(), why: e.to_string() };
        serde_json::from_str(body(path, bytes, FORMAT_PENDING)?).map_err(damaged)
    }

    /// The files whose digests are not there.
    pub fn pending(&self) -> impl Iterator<Item = (&Entry, &FileNode)> {
        self.entries.iter().filter_map(|entry| match &entry.node {
            Node::File(file) if file.digest.is_empty() => Some((entry, file)),
            _ => None,
        })
    }

    /// The memory files.
    pub fn memory_files(&self) -> impl Iterator<Item = (&Entry, &FileNode)> {
        self.entries.iter().filter_map(|entry| match &entry.node {
            Node::File(file) if file.memory => Some((entry, file)),
            _ => None,
        })
    }
}

impl Entry {
    /// An entry with the attributes of `meta`.
    #[must_use]
    pub fn new(path: &Path, meta: &Meta, node: Node) -> Self {
        Self {
            path: TextPath::new(path),
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            mtime_ns: meta.mtime_ns,
            xattrs: BTreeMap::new(),
            node,
        }
    }

    /// The mode that the entry has inside the store: memory 0444, other files without write bits, directories with the owner's.
    #[must_use]
    pub fn stored_mode(&self) -> u32 {
        match &self.node {
            Node::Dir => self.mode | 0o700,
            Node::File(file) if file.memory => 0o444,
            _ => self.mode & !0o222 & !0o6000 | 0o400,
        }
    }

    /// Whether a file in the store is still the one that was written: length and modification time.
    #[must_use]
    pub fn is_unchanged(&self, found: &Meta) -> bool {
        match &self.node {
            Node::File(file) => found.kind == FileType::Regular && found.size == file.size && found.mtime_ns == self.mtime_ns,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_in_a_path_survive_the_way_through_text() {
        for bytes in [&b"plain"[..], b"back\\slash", b"\xff\xfe/x", b"\\\\x41", b"tail\\", b"\xe4\\\xf6", b""] {
            let path = TextPath::new(OsString::from_vec(bytes.to_vec()));
            let text = String::from(path.clone());
            assert_eq!(TextPath::try_from(text.clone()).as_ref(), Ok(&path), "{text}");
        }
    }

    #[test]
    fn a_record_of_this_format_is_known_by_its_beginning() {
        assert_eq!(OURS, format!("{{\"format\":{FORMAT},"));
    }

    #[test]
    fn a_record_with_one_changed_byte_is_damaged_and_a_newer_one_is_refused() {
        #[derive(Serialize, Deserialize, Debug)]
        struct Record {
            format: u32,
            value: String,
        }
        let path = Path::new("/r");
        let good = seal(&Record { format: 1, value: "x".into() }).unwrap();
        assert!(unseal::<Record>(path, &good).is_ok());
        for i in 0..good.len() - 1 {
            let mut bad = good.clone();
            bad[i] ^= 0x01;
            assert!(unseal::<Record>(path, &bad).is_err(), "byte {i}");
        }
        let newer = seal(&Record { format: 2, value: "x".into() }).unwrap();
        assert!(matches!(unseal::<Record>(path, &newer), Err(RecordError::Newer { found: 2, .. })));
    }
}
