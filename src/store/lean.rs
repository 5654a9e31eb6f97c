//! Of a manifest only what the index keeps: the list of files, which is nearly all of it, is read over, but for the memory
//! files. That the bytes are those that were written is checked as ever.

use super::index::{MemoryFile, Summary};
use super::manifest::{FORMAT_PENDING, Imported, Kind, RecordError, TextPath, body, is_of};
use crate::ids::{InstanceId, PolicyName, SnapshotId, SnapshotName};
use chrono::{DateTime, Utc};
use serde::de::{Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, de};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The fields of a manifest that a summary has.
#[derive(Deserialize)]
struct Lean<'a> {
    id: SnapshotId,
    seq: u64,
    name: SnapshotName,
    instance: InstanceId,
    policy: Option<PolicyName>,
    slot: Option<DateTime<Utc>>,
    parent: Option<SnapshotId>,
    kind: Kind,
    #[serde(borrow)]
    driver: Cow<'a, str>,
    created_at: DateTime<Utc>,
    order_at: DateTime<Utc>,
    tags: BTreeMap<String, String>,
    #[serde(default)]
    tags_unread: Option<String>,
    #[serde(default)]
    imported: Option<Imported>,
    size_bytes: u64,
    allocated_bytes: u64,
    #[serde(deserialize_with = "files_of")]
    entries: Files,
}

/// What is kept of a list of entries.
#[derive(Default)]
struct Files {
    memory: Vec<MemoryFile>,
    /// Whether any file has no digest yet.
    digests_pending: bool,
}

#[derive(Deserialize)]
struct LeanEntry<'a> {
    #[serde(borrow)]
    path: Cow<'a, str>,
    mtime_ns: i64,
    #[serde(borrow)]
    node: LeanNode<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum LeanNode<'a> {
    Dir,
    #[serde(borrow)]
    File(LeanFile<'a>),
    Hardlink(IgnoredAny),
    Symlink(IgnoredAny),
}

#[derive(Deserialize)]
struct LeanFile<'a> {
    size: u64,
    #[serde(borrow)]
    digest: Cow<'a, str>,
    #[serde(default)]
    memory: bool,
}

/// The memory files of a list of entries, and whether digests are pending.
fn files_of<'de, D: Deserializer<'de>>(entries: D) -> Result<Files, D::Error> {
    struct FilesOnly;
    impl<'de> Visitor<'de> for FilesOnly {
        type Value = Files;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of entries")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Self::Value, A::Error> {
            let mut files = Files::default();
            while let Some(entry) = all.next_element::<LeanEntry<'de>>()? {
                let LeanNode::File(file) = entry.node else { continue };
                files.digests_pending |= file.digest.is_empty();
                if file.memory {
                    files.memory.push(memory_file(&entry.path, entry.mtime_ns, &file).map_err(A::Error::custom)?);
                }
            }
            files.memory.shrink_to_fit();
            Ok(files)
        }
    }
    de::Deserializer::deserialize_seq(entries, FilesOnly)
}

fn memory_file(path: &str, mtime_ns: i64, file: &LeanFile<'_>) -> Result<MemoryFile, String> {
    let path = TextPath::try_from(path.to_owned())?.as_path().to_owned();
    Ok(MemoryFile { path, size: file.size, mtime_ns, digest: file.digest.clone().into_owned() })
}

/// The summary of the snapshot `id` from the bytes of its manifest.
///
/// # Errors
/// [`RecordError`]: damaged, newer, or another snapshot's.
pub(crate) fn summary(path: &Path, bytes: &[u8], id: &SnapshotId) -> Result<Summary, RecordError> {
    let damaged = |e: serde_json::Error| RecordError::Damaged { path: path.to_owned(), why: e.to_string() };
    let lean: Lean<'_> = serde_json::from_str(body(path, bytes, FORMAT_PENDING)?).map_err(damaged)?;
    is_of(id, &lean.id, path)?;
    Ok(Summary {
        id: lean.id,
        seq: lean.seq,
        name: lean.name,
        instance: lean.instance,
        policy: lean.policy,
        slot: lean.slot,
        parent: lean.parent,
        kind: lean.kind,
        driver: lean.driver.as_ref().into(),
        created_at: lean.created_at,
        order_at: lean.order_at,
        tags: Arc::new(lean.tags),
        tags_unread: lean.tags_unread,
        imported: lean.imported,
        size_bytes: lean.size_bytes,
        allocated_bytes: lean.allocated_bytes,
        memory: lean.entries.memory,
        digests_pending: lean.entries.digests_pending,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::manifest::{Blob, Entry, FORMAT, FileNode, Manifest, Node, Skipped, TimeFrom, seal};
    use proptest::prelude::*;

    fn node() -> impl Strategy<Value = Node> {
        let file = (any::<u64>(), "[a-z0-9\"\\\\]{0,20}", any::<bool>(), any::<Option<u64>>());
        prop_oneof![
            Just(Node::Dir),
            file.prop_map(|(size, digest, memory, data)| Node::File(FileNode { size, digest, data, memory })),
            "[a-z/]{1,9}".prop_map(|to| Node::Hardlink(TextPath::new(to))),
            "\\PC{0,9}".prop_map(|to| Node::Symlink(TextPath::new(to))),
        ]
    }

    fn entry() -> impl Strategy<Value = Entry> {
        ("\\PC{0,12}", any::<u32>(), any::<i64>(), node(), any::<bool>()).prop_map(|(path, mode, mtime_ns, node, has_xattrs)| Entry {
            path: TextPath::new(path),
            mode,
            uid: 0,
            gid: 0,
            mtime_ns,
            xattrs: has_xattrs.then(|| (TextPath::new("user.a"), Blob(vec![0, 1, 2]))).into_iter().collect(),
            node,
        })
    }

    fn manifest() -> impl Strategy<Value = Manifest> {
        let some = (any::<bool>(), any::<bool>(), any::<bool>());
        (prop::collection::vec(entry(), 0..8), any::<u64>(), some, "\\PC{0,9}").prop_map(
            |(entries, seq, (policy, parent, imported), text)| {
                let at = DateTime::UNIX_EPOCH + chrono::TimeDelta::milliseconds(i64::from(seq as u32));
                let id = SnapshotId::parse("20261124-090347-abcdefgh").unwrap();
                Manifest {
                    format: FORMAT,
                    id: id.clone(),
                    seq,
                    name: SnapshotName::parse("n").unwrap(),
                    instance: InstanceId::parse("i").unwrap(),
                    source_dir: TextPath::new("/vms/i"),
                    policy: policy.then(|| PolicyName::parse("p").unwrap()),
                    slot: policy.then_some(at),
                    parent: parent.then_some(id),
                    kind: Kind::Standby,
                    driver: text.clone(),
                    created_at: at,
                    order_at: at,
                    tags: BTreeMap::from([(text.clone(), text.clone())]),
                    tags_unread: parent.then(|| text.clone()),
                    imported: imported.then(|| Imported { from: TextPath::new(text.as_str()), by: TimeFrom::Name }),
                    size_bytes: seq,
                    allocated_bytes: seq / 2,
                    entries,
                    skipped: vec![Skipped { path: TextPath::new("s"), why: text }],
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_read_of_a_manifest_is_what_all_of_it_says(manifest in manifest()) {
            let path = Path::new("/manifest.json");
            let bytes = seal(&manifest).unwrap();
            prop_assert_eq!(summary(path, &bytes, &manifest.id).unwrap(), Summary::from(&manifest));
        }

        #[test]
        fn a_manifest_that_was_cut_short_is_never_read(manifest in manifest(), at in any::<prop::sample::Index>()) {
            let mut bytes = seal(&manifest).unwrap();
            // The newline behind it is no part of what is checked.
            bytes.truncate(at.index(bytes.len() - 1));
            prop_assert!(summary(Path::new("/manifest.json"), &bytes, &manifest.id).is_err());
        }
    }
}
