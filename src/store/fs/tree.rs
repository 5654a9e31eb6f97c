//! Removing a tree: the one place that does, always below an open directory, never through a symbolic link.

use super::{Dir, FileType, Fs, Place, Result};

impl Fs {
    /// Unlinks everything below and at `at`; a path that is not there is fine. Files are unlinked, never truncated.
    ///
    /// Iterative, so that a tree of any depth can go: each directory is emptied before its turn to be removed comes.
    pub fn remove_tree<'a>(&self, at: impl Into<Place<'a>>) -> Result<()> {
        let at = at.into();
        match self.stat_if_there(at)? {
            None => return Ok(()),
            Some(meta) if meta.kind != FileType::Directory => return self.unlink(at),
            Some(_) => {}
        }
        let mut open: Vec<(Dir, Vec<super::DirEntry>)> = vec![self.open_for_removal(at)?];
        while let Some((dir, rest)) = open.last_mut() {
            let Some(entry) = rest.pop() else {
                let name = dir.path().file_name().map(std::ffi::OsStr::to_owned);
                open.pop();
                match (open.last(), name) {
                    (Some((parent, _)), Some(name)) => self.rmdir(parent.at(&name))?,
                    _ => self.rmdir(at)?,
                }
                continue;
            };
            if self.stat(dir.at(&entry.name))?.kind == FileType::Directory {
                let next = self.open_for_removal(dir.at(&entry.name))?;
                open.push(next);
            } else {
                self.unlink(dir.at(&entry.name))?;
            }
        }
        Ok(())
    }

    /// Opens and lists a directory, with the owner's write bit so that its entries can go.
    fn open_for_removal(&self, at: Place<'_>) -> Result<(Dir, Vec<super::DirEntry>)> {
        let dir = self.open_dir(at)?;
        let meta = self.stat_open(&dir, dir.path())?;
        if meta.mode & 0o700 != 0o700 {
            self.set_mode(&dir, dir.path(), meta.mode | 0o700)?;
        }
        let entries = self.list_open(&dir)?;
        Ok((dir, entries))
    }
}
