//! Opening below a directory: no step leads out of it or through a symbolic link.
//!
//! openat2(2) with `RESOLVE_NO_SYMLINKS`, one call at any depth that a path can name; and with `RESOLVE_BENEATH` where the
//! path has `..` in it or begins at the root. Any other leads down only, and for the kernel to watch over that takes a
//! fifteenth of the call. A kernel or a sandbox that does not have it gets one openat(2) with `O_NOFOLLOW` for each component:
//! only plain names are followed then, so that is as strong, and slower.

use super::{Place, cwd};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The longest path that the kernel takes at once (`PATH_MAX`, the zero behind it not counted).
const LONGEST: usize = 4095;

/// Set once the kernel said that it does not know openat2.
static IS_MISSING: AtomicBool = AtomicBool::new(false);

/// Opens what `at` names: below an open directory never outside of it and never through a symbolic link; an absolute path
/// of ours as it is, but for a link at its end.
pub(super) fn open(at: Place<'_>, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let Place::In(dir, name) = at else { return openat(cwd(), at.name(), flags, mode) };
    if IS_MISSING.load(Ordering::Relaxed) {
        return open_by_components(dir, name, flags, mode);
    }
    let mut resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    resolve.set(ResolveFlag::RESOLVE_BENEATH, !leads_down(name));
    match openat2(dir, name, OpenHow::new().flags(flags).mode(mode).resolve(resolve)) {
        Err(Errno::ENOSYS) => {
            IS_MISSING.store(true, Ordering::Relaxed);
            open_by_components(dir, name, flags, mode)
        }
        // EPERM: a sandbox that does not know the call says so (or it is the file's own answer, and comes again). EAGAIN:
        // something was renamed meanwhile.
        Err(Errno::EPERM | Errno::EAGAIN) => open_by_components(dir, name, flags, mode),
        other => other,
    }
}

/// Whether a path leads nowhere but down, links aside.
fn leads_down(name: &OsStr) -> bool {
    !name.as_bytes().starts_with(b"/") && name.as_bytes().split(|byte| *byte == b'/').all(|component| component != b"..")
}

/// The same with openat(2) alone.
fn open_by_components(dir: impl AsFd, name: &OsStr, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
    let path = Path::new(name);
    if path == Path::new(".") {
        return openat(dir, name, flags, mode);
    }
    let way = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut at: Option<OwnedFd> = None;
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        let Component::Normal(name) = component else { return Err(Errno::EXDEV) };
        let from = at.as_ref().map_or(dir.as_fd(), AsFd::as_fd);
        if components.peek().is_none() {
            return openat(from, name, flags, mode);
        }
        at = Some(openat(from, name, way, Mode::empty())?);
    }
    Err(Errno::ENOENT)
}

/// A relative path in pieces that the kernel takes, each as long as may be; `None` if it has anything but plain names in it.
pub(super) fn pieces(path: &Path) -> Option<Vec<PathBuf>> {
    let mut pieces: Vec<PathBuf> = Vec::new();
    for component in path.components() {
        let Component::Normal(name) = component else { return None };
        match pieces.last_mut() {
            Some(piece) if piece.as_os_str().len() + 1 + name.len() <= LONGEST => piece.push(name),
            _ => pieces.push(PathBuf::from(name)),
        }
    }
    Some(pieces)
}

/// Whether `at` may be given to a call that takes a name and no directory's bounds: one plain name, or an absolute path of ours.
pub(super) fn is_bounded(at: Place<'_>) -> bool {
    match at {
        Place::Path(_) => true,
        Place::In(_, name) => name != ".." && !name.as_bytes().contains(&b'/'),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Fs;
    use super::*;

    #[test]
    fn nothing_outside_is_opened_by_either_way() {
        let temp = tempfile::tempdir().unwrap();
        let fs = Fs::real();
        for name in ["outside", "root", "root/a", "root/a/b"] {
            fs.mkdir(&temp.path().join(name), 0o700).unwrap();
        }
        let links = [("up", "../outside"), ("far", "/etc"), ("loop", "loop"), ("inside", "a"), ("a/out", "../../outside")];
        for (link, target) in links {
            fs.symlink(OsStr::new(target), &temp.path().join("root").join(link)).unwrap();
        }
        let root = fs.open_dir(&temp.path().join("root")).unwrap();
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let both = |name: &str| {
            let name = OsStr::new(name);
            (open(root.at(name), flags, Mode::empty()), open_by_components(&root, name, flags, Mode::empty()))
        };
        for bad in ["..", "a/../..", "a/../../outside", "/etc", "up", "far/ssl", "loop", "loop/x", "inside", "inside/b", "a/out", ""] {
            let (one, other) = both(bad);
            assert!(one.is_err() && other.is_err(), "{bad:?}");
        }
        for good in [".", "a", "a/b"] {
            let (one, other) = both(good);
            let id = |fd: OwnedFd| fs.stat_open(fd, Path::new(good)).unwrap().file_id;
            assert_eq!(id(one.unwrap()), id(other.unwrap()), "{good}");
        }
    }

    #[test]
    fn a_call_that_changes_something_takes_one_plain_name() {
        let temp = tempfile::tempdir().unwrap();
        let fs = Fs::real();
        fs.mkdir(&temp.path().join("root"), 0o700).unwrap();
        fs.create(&temp.path().join("canary"), 0o600).unwrap();
        let root = fs.open_dir(&temp.path().join("root")).unwrap();
        let (canary, absolute) = (OsStr::new("../canary"), temp.path().join("canary"));
        for name in [canary, absolute.as_os_str(), OsStr::new("..")] {
            assert!(fs.unlink(root.at(name)).is_err());
            assert!(fs.create(root.at(name), 0o600).is_err());
            assert!(fs.hard_link(root.at(name), root.at(OsStr::new("new"))).is_err());
            assert!(fs.rename_over(root.at(name), root.at(OsStr::new("new"))).is_err());
            assert!(fs.stat(root.at(name)).is_err());
        }
        assert!(fs.stat(&absolute).is_ok());
    }

    #[test]
    fn a_long_path_is_cut_between_names() {
        let deep: PathBuf = std::iter::repeat_n("d".repeat(200), 100).collect();
        let pieces = pieces(&deep).unwrap();
        assert!(pieces.len() > 4 && pieces.iter().all(|piece| piece.as_os_str().len() <= LONGEST));
        assert_eq!(pieces.iter().collect::<PathBuf>(), deep);
        assert_eq!(super::pieces(Path::new("a/../b")), None);
    }
}
