//! Symbolic links of a fork: those that led into the source's tree lead into the fork's.

use super::names::{SourceNames, components};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path};

/// The new target of a link at `link` (below its instance) whose target leads into the source's tree from outside of
/// it: by an absolute path, or by one that leaves the instance and comes back in by its name. `None`: keep the target
/// as it is. Paths are resolved by their letters; links on the way are not followed.
#[must_use]
pub fn repoint_symlink(link: &Path, target: &OsStr, names: &SourceNames, dest_dir: &Path) -> Option<OsString> {
    if names.is_source(dest_dir) {
        return None;
    }
    let target = Path::new(target);
    if target.is_absolute() {
        let parts = components(target);
        let below = names.dirs().iter().find_map(|dir| parts.strip_prefix(dir.as_slice()))?;
        let mut new = dest_dir.to_path_buf();
        new.extend(below.iter().map(|part| OsStr::from_bytes(part)));
        return Some(new.into_os_string());
    }
    let depth = link.parent().map_or(0, |parent| components(parent).len());
    let below = comes_back(link, target, names)?;
    let mut new = b"../".repeat(depth);
    new.extend(below.join(&b'/'));
    if new.is_empty() {
        new.push(b'.');
    }
    Some(OsString::from_vec(new))
}

/// Where in the source's tree a relative path leads that was seen in `file` (below its instance), if it leaves that
/// tree on the way.
pub(super) fn comes_back(file: &Path, path: &Path, names: &SourceNames) -> Option<Vec<Vec<u8>>> {
    let own = |dir: &Vec<Vec<u8>>| dir.split_last().map(|(_, parent)| [parent, &[names.instance().to_vec()]].concat());
    // The instance may be known by one name and resolve to another: `..` is taken from both.
    names.dirs().iter().cloned().chain(names.dirs().iter().filter_map(own)).find_map(|dir| {
        let mut at: Vec<Vec<u8>> = dir.clone();
        at.extend(file.parent().map(components).unwrap_or_default());
        let mut left = false;
        for part in path.components() {
            match part {
                Component::Normal(name) => at.push(name.as_bytes().to_vec()),
                Component::ParentDir => drop(at.pop()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
            left |= at.len() < dir.len();
        }
        at.strip_prefix(dir.as_slice()).filter(|_| left).map(<[_]>::to_vec)
    })
}
