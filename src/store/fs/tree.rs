//! Removing a tree: the one place that does, always below an open directory, never through a symbolic link.

use super::mounts::Mounts;
use super::{Below, Dir, Fs, FsError, Lister, Op, Place, Result};
use nix::errno::Errno;
use std::ffi::OsString;
use std::path::PathBuf;

/// Removes trees, one after the other: what is the same for all of them is looked up once.
#[derive(Debug)]
pub struct Remover {
    fs: Fs,
    mounts: Mounts,
    lister: Option<Lister>,
}

impl Fs {
    /// Removes one tree: see [`Remover::remove`].
    pub fn remove_tree<'a>(&self, at: impl Into<Place<'a>>) -> Result<()> {
        self.remover().remove(at)
    }

    /// What removes many.
    #[must_use]
    pub fn remover(&self) -> Remover {
        Remover { fs: self.clone(), mounts: Mounts::default(), lister: None }
    }
}

impl Remover {
    /// Unlinks everything below and at `at`; a path that is not there is fine, and so is what somebody else removes
    /// meanwhile. Files are unlinked, never truncated.
    ///
    /// Iterative, with a few descriptors at any depth: of each directory first what is no directory goes, then each that is
    /// in it, and the one above is opened anew from the top before it goes itself. Opened from there it is in the tree,
    /// whatever was moved meanwhile; `..` of a directory that was moved out would not be.
    pub fn remove<'a>(&mut self, at: impl Into<Place<'a>>) -> Result<()> {
        let at = at.into();
        let fs = &self.fs;
        let mut tree = match Below::open(fs, at) {
            Ok(tree) => tree,
            Err(e) if matches!(e.source, Errno::ENOTDIR | Errno::ELOOP) => match fs.unlink(at) {
                Err(e) if e.is_not_found() => return Ok(()),
                done => return done,
            },
            Err(e) if e.is_not_found() => return Ok(()),
            Err(e) => return Err(e),
        };
        // Nothing of it goes if something is mounted in it: its files are not the tree's.
        if let Some(path) = self.mounts.below(tree.root())? {
            return Err(FsError { op: Op::Unlink, path, source: Errno::EBUSY });
        }
        let lister = self.lister.get_or_insert_with(|| Lister::within(tree.root()));
        let mut path = PathBuf::new();
        let mut pending = vec![fs.unlink_files(tree.root(), lister)?];
        while let Some(rest) = pending.last_mut() {
            if let Some(name) = rest.pop() {
                path.push(name);
                pending.push(fs.unlink_files(tree.dir(&path)?, lister)?);
            } else {
                pending.pop();
                if !pending.is_empty() {
                    unless_gone(fs.rmdir(tree.place(&path)?))?;
                    path.pop();
                }
            }
        }
        unless_gone(fs.rmdir(at))
    }
}

impl Fs {
    /// Unlinks what is in an open directory and is no directory; returns the names of those that are, sorted. The directory
    /// gets all the owner's bits, so that its entries can go.
    fn unlink_files(&self, dir: &Dir, lister: &mut Lister) -> Result<Vec<OsString>> {
        let meta = self.stat_open(dir, dir.path())?;
        if meta.mode & 0o700 != 0o700 {
            self.set_mode(dir, dir.path(), meta.mode | 0o700)?;
        }
        let (mut dirs, mut others) = (Vec::new(), Vec::new());
        let list = |name: &std::ffi::OsStr, is_dir: bool| if is_dir { &mut dirs } else { &mut others }.push(name.to_owned());
        lister.each_name(dir, &meta, list).map_err(|e| Place::Path(dir.path()).failed(Op::List, e))?;
        others.sort();
        for name in others {
            match self.unlink(dir.at(&name)) {
                // The directory's own list did not say so, or it has become one.
                Err(e) if e.source == Errno::EISDIR => dirs.push(name),
                done => unless_gone(done)?,
            }
        }
        dirs.sort();
        Ok(dirs)
    }
}

fn unless_gone(removed: Result<()>) -> Result<()> {
    match removed {
        Err(FsError { source: nix::errno::Errno::ENOENT, .. }) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "tests look at directories by other means than the code under test")]

    use super::super::Gate;
    use super::*;
    use std::ffi::OsStr;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// The most descriptors below a directory that were open at any write-like call.
    #[derive(Debug)]
    struct Descriptors(PathBuf, AtomicUsize);

    impl Gate for Descriptors {
        fn before(&self, _op: Op, _path: &Path) -> std::result::Result<(), Errno> {
            let links = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|e| std::fs::read_link(e.ok()?.path()).ok());
            self.1.fetch_max(links.filter(|link| link.starts_with(&self.0)).count(), Ordering::SeqCst);
            Ok(())
        }
    }

    #[test]
    fn a_tree_of_any_depth_is_removed_with_a_few_descriptors() {
        let temp = tempfile::tempdir().unwrap();
        let fs = Fs::real();
        let mut dir = fs.open_dir(temp.path()).unwrap();
        let (name, file) = (OsStr::new("d"), OsStr::new("f"));
        // Not so deep that /proc could not tell the path of a descriptor.
        for _ in 0..1200 {
            fs.mkdir(dir.at(name), 0o500).unwrap();
            dir = fs.open_dir(dir.at(name)).unwrap();
            fs.set_mode(&dir, dir.path(), 0o700).unwrap();
            fs.create(dir.at(file), 0o400).unwrap();
        }
        drop(dir);
        let gate = Arc::new(Descriptors(temp.path().canonicalize().unwrap(), AtomicUsize::new(0)));
        Fs::gated(gate.clone()).remove_tree(&temp.path().join("d")).unwrap();
        assert_eq!(fs.list(temp.path()).unwrap(), []);
        let most = gate.1.load(Ordering::SeqCst);
        assert!((1..=4).contains(&most), "{most} descriptors");
    }

    /// Moves a directory out of the tree, and puts a link to it in its place, when the file in it was removed.
    #[derive(Debug)]
    struct MovesOut {
        from: PathBuf,
        to: PathBuf,
    }

    impl Gate for MovesOut {
        fn before(&self, _op: Op, _path: &Path) -> std::result::Result<(), Errno> {
            Ok(())
        }
        fn after(&self, op: Op, path: &Path) {
            if op == Op::Unlink && path.ends_with("b/file") {
                std::fs::rename(&self.from, &self.to).unwrap();
                std::os::unix::fs::symlink(&self.to, &self.from).unwrap();
            }
        }
    }

    #[test]
    fn a_directory_that_is_moved_out_of_the_tree_is_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        for dir in ["tree", "tree/a", "tree/a/0", "tree/a/b", "elsewhere", "elsewhere/0"] {
            std::fs::create_dir(at(dir)).unwrap();
        }
        for file in ["tree/a/0/file", "tree/a/b/file", "elsewhere/0/file"] {
            std::fs::write(at(file), b"x").unwrap();
        }
        let gate = Arc::new(MovesOut { from: at("tree/a"), to: at("elsewhere/a") });
        let failed = Fs::gated(gate).remove_tree(&at("tree")).unwrap_err();
        assert!(failed.path.starts_with(at("tree/a")), "{failed}");
        assert!(at("elsewhere/a/0/file").exists() && at("elsewhere/0/file").exists() && at("elsewhere/a/b").exists());
        Fs::real().remove_tree(&at("tree")).unwrap();
        assert!(!at("tree").exists() && at("elsewhere/a/0/file").exists());
    }

    /// Once puts a file where one was unlinked.
    #[derive(Debug)]
    struct Late(std::sync::Mutex<Option<PathBuf>>);

    impl Gate for Late {
        fn before(&self, _op: Op, _path: &Path) -> std::result::Result<(), Errno> {
            Ok(())
        }
        fn after(&self, op: Op, path: &Path) {
            let mut late = self.0.lock().unwrap();
            if op == Op::Unlink && late.as_ref().is_some_and(|at| path.parent() == at.parent()) {
                std::fs::write(late.take().unwrap(), b"x").unwrap();
            }
        }
    }

    #[test]
    fn however_many_names_go_and_one_that_comes_meanwhile_stays() {
        let temp = tempfile::tempdir().unwrap();
        let tree = temp.path().join("tree");
        std::fs::create_dir_all(tree.join("a")).unwrap();
        // More than are listed at once.
        (0..1000).for_each(|n| std::fs::write(tree.join(format!("a/{n:0100}")), b"x").unwrap());
        let gate = Arc::new(Late(std::sync::Mutex::new(Some(tree.join("a/late")))));
        let failed = Fs::gated(gate).remove_tree(&tree).unwrap_err();
        assert_eq!(failed.source, Errno::ENOTEMPTY);
        assert_eq!(std::fs::read_dir(tree.join("a")).unwrap().count(), 1);
        Fs::real().remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }
}
