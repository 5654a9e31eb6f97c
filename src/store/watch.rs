//! One inotify watch on the instances root: the kernel tells when a directory comes, goes or moves (inotify(7)).

use super::fs::{FsError, Op};
use super::layout::Layout;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
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

#[expect(clippy::disallowed_methods, reason = "procfs, not the store")]
fn open_mounts() -> Option<File> {
    File::open("/proc/self/mountinfo").ok()
}

/// What there is news of, and where it is to be looked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ready {
    /// [`RootWatch::news`] has something.
    pub news: bool,
    /// Something was mounted or unmounted, anywhere.
    pub mounts: bool,
}

/// The watch.
#[derive(Debug)]
pub struct RootWatch {
    inotify: Inotify,
    /// The table of mounts, of which the kernel tells when it changes (proc_pid_mountinfo(5)); none: not in this sandbox.
    mounts: Option<File>,
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
        Ok(Self { inotify, mounts: open_mounts() })
    }

    /// Waits until there is news, `most` at the longest; of what.
    #[must_use]
    pub fn ready(&self, most: Duration) -> Ready {
        let millis = u16::try_from(most.as_millis()).unwrap_or(u16::MAX);
        let mounts = self.mounts.as_ref().map(|mounts| PollFd::new(mounts.as_fd(), PollFlags::POLLPRI));
        let mut fds: Vec<PollFd<'_>> = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)].into_iter().chain(mounts).collect();
        if matches!(nix::poll::poll(&mut fds, PollTimeout::from(millis)), Ok(0) | Err(_)) {
            return Ready::default();
        }
        let has_news = |fd: Option<&PollFd<'_>>| fd.and_then(PollFd::any).unwrap_or(false);
        // Once polled, a change of the mounts is told.
        Ready { news: has_news(fds.first()), mounts: has_news(fds.get(1)) }
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
