//! The ballast: a file of ours that is given up when the file system is so full that even removing needs room. A rename
//! into the trash may have to enlarge a directory, and then nothing could ever come free (xfs, btrfs; tmpfs has no such need).

use super::fs::FsError;
use super::open::Store;
use std::path::PathBuf;

/// So much, bytes: a handful of directory blocks and inodes on any file system.
const BALLAST: u64 = 1 << 20;
/// No more than this part of the file system; where that is less than [`LEAST`], none.
const PART: u64 = 1000;
const LEAST: u64 = 64 << 10;
/// It is made where so many times its size is free.
const ROOM: u64 = 16;

impl Store {
    fn ballast(&self) -> PathBuf {
        self.layout.store().join("ballast")
    }

    /// Makes the ballast if it is not there and there is room for it.
    ///
    /// # Errors
    /// [`FsError`]; there is none then, or a shorter one.
    pub fn keep_ballast(&self) -> Result<(), FsError> {
        let path = self.ballast();
        let space = self.fs.space(self.layout.store())?;
        let size = BALLAST.min(space.size / PART);
        match self.fs.stat_if_there(&path)? {
            Some(there) if there.size >= size => return Ok(()),
            // Somebody was stopped while it was made.
            Some(_) => self.fs.unlink(&path)?,
            None => {}
        }
        if size < LEAST || space.free / ROOM < size {
            return Ok(());
        }
        let file = self.fs.create(&path, 0o600)?;
        // No hole and no zeros: what is to give blocks back must have some.
        let block: Vec<u8> = (0..4096_u32).flat_map(u32::to_le_bytes).collect();
        for at in (0..size).step_by(block.len()) {
            self.fs.write_at(&file, &path, &block, at)?;
        }
        self.fs.fsync(&file, &path)
    }

    /// Gives the ballast up; true if there was some.
    pub fn drop_ballast(&self) -> bool {
        let was_there = self.fs.unlink(&self.ballast()).is_ok();
        // Some file systems free blocks only when they commit. If they cannot, whoever needs room finds out.
        let _ = self.fs.open_dir(self.layout.store()).and_then(|dir| self.fs.syncfs(&dir));
        was_there
    }
}
