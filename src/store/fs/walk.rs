//! Walking a tree that may change under the walk: what is found is what was there when its directory was listed.

use super::{Below, FileType, Fs, FsError, Meta, Result};
use nix::errno::Errno;
use std::path::{Path, PathBuf};

/// Something in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Path below the root; empty for the root.
    pub path: PathBuf,
    /// What it was: of a directory before it was listed.
    pub meta: Meta,
}

impl FsError {
    /// True if the path is not what it was a moment ago: gone, or something of another type.
    #[must_use]
    pub fn is_replaced(&self) -> bool {
        self.is_not_found() || matches!(self.source, Errno::ELOOP | Errno::ENXIO | Errno::EISDIR | Errno::ESTALE)
    }
}

impl Fs {
    /// Everything below `root`, the root first: each directory, then what is in it but is no directory (sorted), then
    /// its directories (sorted). `leave_out` is asked about each find; a directory that it refuses is not entered.
    /// Iterative, with two descriptors at any depth. What vanishes in the meantime is left out.
    ///
    /// # Errors
    /// Whatever cannot be listed or examined, save that it is gone.
    pub fn walk(&self, root: &mut Below<'_>, leave_out: &mut dyn FnMut(&Path, &Meta) -> bool) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        let mut pending = vec![PathBuf::new()];
        while let Some(path) = pending.pop() {
            let dir = match root.dir(&path) {
                Ok(dir) => dir,
                Err(e) if e.is_replaced() => continue,
                Err(e) => return Err(e),
            };
            let meta = self.stat_open(dir, dir.path())?;
            let names = self.list_open(dir)?;
            found.push(Found { path: path.clone(), meta });
            let mut inner = Vec::new();
            for entry in names {
                let Some(meta) = self.stat_if_there(dir.at(&entry.name))? else { continue };
                let child = path.join(&entry.name);
                if leave_out(&child, &meta) {
                    continue;
                }
                if meta.kind == FileType::Directory {
                    inner.push(child);
                } else {
                    found.push(Found { path: child, meta });
                }
            }
            pending.extend(inner.into_iter().rev());
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_comes_before_its_files_and_they_before_its_directories() {
        let temp = tempfile::tempdir().unwrap();
        let fs = Fs::real();
        for dir in ["a", "a/z", "c", "skip", "skip/in"] {
            fs.mkdir(&temp.path().join(dir), 0o700).unwrap();
        }
        for file in ["b", "a/z/f", "a/zz", "d"] {
            fs.create(&temp.path().join(file), 0o600).unwrap();
        }
        let mut root = Below::open(&fs, temp.path()).unwrap();
        let found = fs.walk(&mut root, &mut |path, _| path.ends_with("skip")).unwrap();
        let paths: Vec<_> = found.iter().map(|f| f.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["", "b", "d", "a", "a/zz", "a/z", "a/z/f", "c"]);
    }

    #[test]
    fn a_tree_deeper_than_any_path_may_be_long_is_walked() {
        let temp = tempfile::tempdir().unwrap();
        let fs = Fs::real();
        let mut dir = fs.open_dir(temp.path()).unwrap();
        let name = std::ffi::OsString::from("d".repeat(50));
        for _ in 0..300 {
            fs.mkdir(dir.at(&name), 0o700).unwrap();
            dir = fs.open_dir(dir.at(&name)).unwrap();
        }
        let mut root = Below::open(&fs, temp.path()).unwrap();
        assert_eq!(fs.walk(&mut root, &mut |_, _| false).unwrap().len(), 301);
        fs.remove_tree(&temp.path().join(&name)).unwrap();
    }
}
