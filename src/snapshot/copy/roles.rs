//! What each find of a walk becomes in the copy. Pure.

use crate::store::fs::{FileType, Found};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What something becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    Dir,
    Symlink,
    File {
        memory: bool,
    },
    /// One more name of the file at this path, which comes earlier.
    Link(PathBuf),
}

/// The role of each find, in their order. A file with several names in the tree is memory only if all of them say so:
/// forks share memory's inode, and a name that is no memory's may be written through.
pub(super) fn roles(found: &[Found], memory_names: &[String]) -> Vec<Role> {
    let mut first: HashMap<(u64, u64), (&Path, bool)> = HashMap::new();
    for item in found.iter().filter(|item| item.meta.kind == FileType::Regular && item.meta.links > 1) {
        let memory = is_memory(&item.path, memory_names);
        first.entry(item.meta.file_id).and_modify(|known| known.1 &= memory).or_insert((&item.path, memory));
    }
    let role = |item: &Found| match (item.meta.kind, first.get(&item.meta.file_id)) {
        (FileType::Directory, _) => Role::Dir,
        (FileType::Regular, Some((path, _))) if *path != item.path => Role::Link(path.to_path_buf()),
        (FileType::Regular, Some((_, memory))) => Role::File { memory: *memory },
        (FileType::Regular, None) => Role::File { memory: is_memory(&item.path, memory_names) },
        _ => Role::Symlink,
    };
    found.iter().map(role).collect()
}

/// Whether any regular file has a memory file's name.
pub(super) fn has_memory(found: &[Found], memory_names: &[String]) -> bool {
    found.iter().any(|item| item.meta.kind == FileType::Regular && is_memory(&item.path, memory_names))
}

fn is_memory(path: &Path, names: &[String]) -> bool {
    path.file_name().is_some_and(|name| names.iter().any(|memory| name == memory.as_str()))
}
