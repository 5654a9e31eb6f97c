//! One inotify watch on the instances root: the kernel tells when a directory comes, goes or moves (inotify(7)).

use super::fs::{FsError, Op};
use super::layout::Layout;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
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

/// Ends a wait for news: what is written into the second is heard by who waits on the first. Without descriptors to be had
/// for it a wait ends by its time.
#[derive(Debug)]
pub struct Waker(Option<(UnixStream, UnixStream)>);

impl Default for Waker {
    fn default() -> Self {
        let pair = UnixStream::pair().ok();
        Self(pair.filter(|(ear, mouth)| ear.set_nonblocking(true).and_then(|()| mouth.set_nonblocking(true)).is_ok()))
    }
}

impl Waker {
    /// Ends a wait that is under way, or the next one.
    pub fn wake(&self) {
        if let Some((_, mouth)) = &self.0 {
            // One that is full has been written to.
            let _ = (&*mouth).write(&[1]);
        }
    }

    /// Forgets that it was woken.
    fn rest(&self) {
        if let Some((ear, _)) = &self.0 {
            let _ = (&*ear).read(&mut [0; 64]);
        }
    }
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

    /// Waits until there is news or `waker` is used, `most` at the longest; of what there is news.
    #[must_use]
    pub fn ready(&self, most: Duration, waker: &Waker) -> Ready {
        let millis = u16::try_from(most.as_millis()).unwrap_or(u16::MAX);
        let poll_on = |fd, flags| PollFd::new(fd, flags);
        let mounts = self.mounts.as_ref().map(|mounts| poll_on(mounts.as_fd(), PollFlags::POLLPRI));
        let ear = waker.0.as_ref().map(|(ear, _)| poll_on(ear.as_fd(), PollFlags::POLLIN));
        let has_mounts = usize::from(mounts.is_some());
        let mut fds: Vec<PollFd<'_>> = [poll_on(self.inotify.as_fd(), PollFlags::POLLIN)].into_iter().chain(mounts).chain(ear).collect();
        if matches!(nix::poll::poll(&mut fds, PollTimeout::from(millis)), Ok(0) | Err(_)) {
            return Ready::default();
        }
        let has_news = |at: usize| fds.get(at).and_then(PollFd::any).unwrap_or(false);
        if has_news(1 + has_mounts) {
            waker.rest();
        }
        // Once polled, a change of the mounts is told.
        Ready { news: has_news(0), mounts: has_mounts > 0 && has_news(1) }
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
