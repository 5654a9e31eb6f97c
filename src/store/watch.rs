//! One inotify watch on the instances root: the kernel tells when a directory comes, goes or moves (inotify(7)).

use super::fs::{FsError, Op};
use super::layout::Layout;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::AsFd as _;
use std::time::Duration;

/// What has changed since the last look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    /// Names that came, went or moved.
    pub names: BTreeSet<OsString>,
    /// Events were lost, or the watch ended (unmounted, removed): everything must be read anew, and the watch set anew.
    pub all: bool,
}

/// The watch.
#[derive(Debug)]
pub struct RootWatch {
    inotify: Inotify,
}

impl RootWatch {
    /// Watches the instances root. It keeps nothing mounted.
    ///
    /// # Errors
    /// [`FsError`]: not there, or too many watches (`fs.inotify.max_user_watches`).
    pub fn new(layout: &Layout) -> Result<Self, FsError> {
        let failed = |source| FsError { op: Op::Open, path: layout.instances().to_owned(), source };
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(failed)?;
        let what = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(layout.instances(), what).map_err(failed)?;
        Ok(Self { inotify })
    }

    /// Waits until there is news, `most` at the longest; whether there is.
    #[must_use]
    pub fn is_ready(&self, most: Duration) -> bool {
        let millis = u16::try_from(most.as_millis()).unwrap_or(u16::MAX);
        let mut fds = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
        !matches!(nix::poll::poll(&mut fds, PollTimeout::from(millis)), Ok(0) | Err(_))
    }

    /// All news that there is now; it is told once.
    #[must_use]
    pub fn news(&self) -> News {
        let mut news = News::default();
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    for event in events {
                        match event.name {
                            Some(name) => {
                                news.names.insert(name);
                            }
                            // Overflow, unmount, or the end of the watch.
                            None => news.all = true,
                        }
                    }
                }
                Err(Errno::EAGAIN) => return news,
                Err(_) => {
                    news.all = true;
                    return news;
                }
            }
        }
    }
}
