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

const TABLE: &str = "/proc/self/mountinfo";

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
