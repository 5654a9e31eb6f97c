//! The names by which a file may know the directory that it was copied from.

use crate::ids::InstanceId;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

/// All spellings of a source's directory, and its name for relative paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceNames {
    instance: Vec<u8>,
    dirs: Vec<Vec<Vec<u8>>>,
    wide: Vec<Wide>,
}

/// A directory's path in UTF-16, both byte orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wide {
    pub(super) little: Vec<u8>,
    pub(super) big: Vec<u8>,
}

impl SourceNames {
    /// The names of `instance`, whose directory is known by each of `dirs`: as configured, and as the kernel resolves
    /// it. Relative paths and the root are left out: neither is a name.
    #[must_use]
    pub fn new<'a>(instance: &InstanceId, dirs: impl IntoIterator<Item = &'a Path>) -> Self {
        let mut known: Vec<Vec<Vec<u8>>> = Vec::new();
        for dir in dirs {
            let parts = components(dir);
            if dir.is_absolute() && !parts.is_empty() && !known.contains(&parts) {
                known.push(parts);
            }
        }
        let wide = known.iter().filter_map(|parts| wide(parts)).collect();
        Self { instance: instance.as_str().into(), dirs: known, wide }
    }

    /// True if `dir` is the source's own directory: a fork that takes its gone source's place may keep every name.
    #[must_use]
    pub fn is_source(&self, dir: &Path) -> bool {
        dir.is_absolute() && self.dirs.contains(&components(dir))
    }

    /// A directory beside the source's that no instance can have.
    pub(super) fn trial_sibling(&self) -> PathBuf {
        let parent = self.dirs.first().and_then(|parts| parts.split_last()).map(|(_, parent)| join(parent)).unwrap_or_default();
        PathBuf::from(OsString::from_vec([&parent, b"/.fork".as_slice()].concat()))
    }

    pub(super) fn instance(&self) -> &[u8] {
        &self.instance
    }

    pub(super) fn dirs(&self) -> &[Vec<Vec<u8>>] {
        &self.dirs
    }

    pub(super) fn wide(&self) -> &[Wide] {
        &self.wide
    }
}

/// A path's components, `.` and `..` resolved by their letters.
pub(super) fn components(path: &Path) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.as_bytes().to_vec()),
            Component::ParentDir => drop(parts.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    parts
}

/// The components as one absolute path.
pub(super) fn join(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.iter().flat_map(|part| std::iter::once(&b'/').chain(part)).copied().collect()
}

fn wide(parts: &[Vec<u8>]) -> Option<Wide> {
    let path = join(parts);
    let text = OsStr::from_bytes(&path).to_str()?;
    let units = || text.encode_utf16();
    Some(Wide { little: units().flat_map(u16::to_le_bytes).collect(), big: units().flat_map(u16::to_be_bytes).collect() })
}
