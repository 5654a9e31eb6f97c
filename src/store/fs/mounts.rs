//! Where something is mounted in our mount namespace (proc_pid_mountinfo(5)): what lies behind it belongs to somebody else.
#![expect(clippy::disallowed_methods, reason = "procfs, not the store")]

use super::{Dir, Fs, Op, Place, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// Of this thread: it may have a mount namespace of its own.
const TABLE: &str = "/proc/thread-self/mountinfo";

/// The mount points, read again only when the kernel says that they have changed: it formats all of them for each reading.
#[derive(Debug, Default)]
pub(super) struct Mounts(Option<(File, Vec<PathBuf>)>);

impl Mounts {
    /// The first mount point below an open directory, if there is one.
    ///
    /// # Errors
    /// What procfs says.
    pub(super) fn below(&mut self, dir: &Dir) -> Result<Option<PathBuf>> {
        let failed = |e: io::Error| Place::Path(dir.path()).failed(Op::Stat, Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)));
        let here = std::fs::read_link(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd())).map_err(failed)?;
        let points = self.points().map_err(failed)?;
        Ok(points.iter().find(|point| point.starts_with(&here) && **point != here).cloned())
    }

    fn points(&mut self) -> io::Result<&[PathBuf]> {
        let known = match self.0.take() {
            Some((table, points)) if !has_changed(&table)? => (table, points),
            _ => {
                // Opened before it is read: what changes meanwhile is told by the next look.
                let mut table = File::open(TABLE)?;
                let mut text = Vec::new();
                table.read_to_end(&mut text)?;
                let points = text.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(4)).map(unescaped).collect();
                (table, points)
            }
        };
        Ok(&self.0.insert(known).1)
    }
}

fn has_changed(table: &File) -> io::Result<bool> {
    let mut fds = [PollFd::new(table.as_fd(), PollFlags::POLLPRI)];
    Ok(nix::poll::poll(&mut fds, PollTimeout::ZERO)? > 0)
}

/// What is mounted somewhere.
pub(super) struct Mount {
    /// The file system's type.
    pub(super) kind: String,
    /// `major:minor` of its device.
    device: String,
    options: String,
}

impl Mount {
    /// Options of the file system, not of this mount of it.
    pub(super) fn options(&self) -> impl Iterator<Item = &str> {
        self.options.split(',')
    }

    /// Whether it is an ext4 with a journal that is a file of its own: such a one is in procfs as device and inode.
    pub(super) fn has_own_journal(&self) -> bool {
        let device = std::fs::read_link(format!("/sys/dev/block/{}", self.device)).ok();
        let name = device.as_deref().and_then(std::path::Path::file_name).map(|name| name.to_string_lossy().into_owned());
        name.is_some_and(|name| std::fs::metadata(format!("/proc/fs/jbd2/{name}-{JOURNAL_INODE}")).is_ok())
    }
}

/// `EXT4_JOURNAL_INO` (Documentation/filesystems/ext4/special_inodes.rst).
const JOURNAL_INODE: u32 = 8;

/// What an open directory is on; `None` if that cannot be told.
pub(super) fn of(dir: &Dir) -> Option<Mount> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", dir.as_fd().as_raw_fd())).ok()?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().to_owned();
    let table = std::fs::read(TABLE).ok()?;
    table.split(|b| *b == b'\n').map(String::from_utf8_lossy).find_map(|line| mount_on(&line, &id))
}

/// What a line of the table says, if it is the one with this id (proc_pid_mountinfo(5)).
fn mount_on(line: &str, id: &str) -> Option<Mount> {
    let (before, behind) = line.split_once(" - ")?;
    let (mut before, mut behind) = (before.split(' '), behind.split(' '));
    (before.next() == Some(id)).then_some(())?;
    let device = before.nth(1)?.to_owned();
    Some(Mount { kind: behind.next()?.to_owned(), device, options: behind.nth(1).unwrap_or_default().to_owned() })
}

impl Fs {
    /// The first mount point below an open directory, if there is one.
    ///
    /// # Errors
    /// What procfs says.
    pub fn mount_below(&self, dir: &Dir) -> Result<Option<PathBuf>> {
        Mounts::default().below(dir)
    }
}

/// A path as mountinfo writes it: space, tab, newline and backslash as three octal digits behind a backslash.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let octal = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok();
        match after.get(..3).filter(|_| *first == b'\\').and_then(octal) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_says_type_device_and_options_of_the_mount_that_is_asked_for() {
        let line = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - xfs /dev/loop0 rw,attr2,logdev=/dev/loop1";
        let mount = mount_on(line, "36").unwrap();
        assert_eq!((mount.kind.as_str(), mount.device.as_str()), ("xfs", "98:0"));
        assert!(mount.options().any(|option| option == "logdev=/dev/loop1"));
        assert!(mount_on(line, "35").is_none() && mount_on("", "36").is_none());
    }
}
