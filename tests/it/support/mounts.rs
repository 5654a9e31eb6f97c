//! Real file systems for tests and benches: ext4, xfs and btrfs on loop devices, seen by this thread alone.
//!
//! Needs root, a loop device and the file system's tools; where one is missing it says so and the caller goes on.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::unwrap_used,
    unsafe_code,
    dead_code,
    unreachable_pub,
    reason = "support of tests and benches: each uses a part, mounts its own images and says what it skips"
)]

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system to test on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No reflinks, at most 65,000 links of a file.
    Ext4,
    /// Reflinks.
    Xfs,
    /// Reflinks, at most 65,535 links of a file.
    Btrfs,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    fn mkfs(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Ext4 => ("mkfs.ext4", &["-q", "-F"]),
            Self::Xfs => ("mkfs.xfs", &["-q", "-f", "-m", "reflink=1"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q", "-f"]),
        }
    }

    /// The smallest image (bytes) that each `mkfs` takes.
    pub const SMALLEST: u64 = 512 << 20;
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A mounted file system; unmounted and detached when dropped, on the thread that made it, and by the kernel when that
/// thread and its children are gone.
#[derive(Debug)]
pub struct Mounted {
    /// Where it is.
    pub path: PathBuf,
    kind: Option<Kind>,
    // Holds the image and the mount point; removed after the unmount.
    _dir: tempfile::TempDir,
}

/// A file system whose disk is a file that can be cloned in a moment, whatever is being written.
#[derive(Debug)]
pub struct Clonable {
    /// The file system.
    pub mounted: Mounted,
    // Unmounted behind it.
    _below: Mounted,
}

/// A fresh file system on a disk that can be cloned, or `None` after a line that says what is missing.
pub fn clonable(kind: Kind) -> Option<Clonable> {
    let below = mounted(Kind::Xfs, 4 * Kind::SMALLEST)?;
    match try_mounted_in(kind, Kind::SMALLEST, &below.path) {
        Ok(mounted) => Some(Clonable { mounted, _below: below }),
        Err(why) => {
            eprintln!("skipped: {kind}: {why}");
            None
        }
    }
}

impl Clonable {
    /// Where the disk is: beside it clones of it find room.
    pub fn disk(&self) -> PathBuf {
        self.mounted.path.with_file_name("image")
    }

    /// Unmounts the file system and mounts it as it was when its disk was cloned to `clone`, which becomes the disk. Nobody may have a
    /// file open there.
    pub fn as_of(&mut self, clone: &Path) -> Result<(), String> {
        unmount(&self.mounted.path)?;
        std::fs::rename(clone, self.disk()).map_err(|e| format!("cannot take {}: {e}", clone.display()))?;
        attach(self.mounted.kind.ok_or("it has no image")?, &self.mounted.path)
    }
}

/// Clones the disk at `disk`: the clone is what a power cut would leave of it now, with all that was written in the disk's own cache.
pub fn clone_disk(disk: &Path, clone: &Path) {
    use std::os::fd::AsRawFd as _;
    let (from, to) = (File::open(disk).unwrap(), File::create_new(clone).unwrap());
    // SAFETY: both descriptors are open for the length of the call, and FICLONE takes a descriptor by value.
    let rc = unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) };
    nix::errno::Errno::result(rc).unwrap();
}

impl Mounted {
    /// Unmounts it and mounts the same image again, as after a power cut. Nobody may have a file open there.
    pub fn again(&mut self) -> Result<(), String> {
        let kind = self.kind.ok_or("it has no image")?;
        unmount(&self.path)?;
        attach(kind, &self.path)
    }

    /// From now on its disk fails: nothing is read from it or written to it, until it is mounted again. (An image that lacks room is no such
    /// disk: of a write that is cut short drivers/block/loop.c says that all of it was done.)
    pub fn break_disk(&self) -> Result<(), String> {
        use std::os::fd::AsRawFd as _;
        let mounts = std::fs::read_to_string("/proc/thread-self/mounts").map_err(|e| format!("cannot look: {e}"))?;
        let mut lines = mounts.lines().filter_map(|line| line.split_once(' '));
        let is_ours = |rest: &str| rest.split(' ').next().map(Path::new) == Some(self.path.as_path());
        let (device, _) = lines.find(|(_, rest)| is_ours(rest)).ok_or("it is not mounted")?;
        let device = File::open(device).map_err(|e| format!("cannot open {device}: {e}"))?;
        let mut info = [0_u64; LOOP_INFO_WORDS];
        // SAFETY: the descriptor is open, and the kernel reads and writes a `loop_info64`, which is as long as `info`.
        nix::errno::Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, info.as_mut_ptr()) })
            .and_then(|_| {
                info[LOOP_INFO_SIZE_LIMIT] = 512;
                // SAFETY: as above.
                nix::errno::Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_STATUS64, info.as_mut_ptr()) })
            })
            .map(drop)
            .map_err(|e| format!("cannot shorten its disk: {e}"))
    }

    /// Makes it read-only, or writable again.
    pub fn read_only(&self, is: bool) -> Result<(), String> {
        let flags = if is { MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY } else { MsFlags::MS_REMOUNT };
        mount(None::<&str>, &self.path, None::<&str>, flags, None::<&str>).map_err(|e| format!("cannot remount: {e}"))
    }
}

/// linux/loop.h: what is behind the new end of a device fails, and stays in its file.
const LOOP_SET_STATUS64: libc::Ioctl = 0x4c04;
const LOOP_GET_STATUS64: libc::Ioctl = 0x4c05;
/// `struct loop_info64` by words, and that of `lo_sizelimit`.
const LOOP_INFO_WORDS: usize = 29;
const LOOP_INFO_SIZE_LIMIT: usize = 4;

impl Drop for Mounted {
    fn drop(&mut self) {
        if umount2(&self.path, MntFlags::empty()).is_err() {
            // Somebody still has a file open there: it goes when they do.
            let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        }
    }
}

/// A fresh file system of `size` bytes (a sparse image, at least [`Kind::SMALLEST`]), or `None` after a line that says
/// what is missing.
pub fn mounted(kind: Kind, size: u64) -> Option<Mounted> {
    match try_mounted(kind, size) {
        Ok(mounted) => Some(mounted),
        Err(why) => {
            eprintln!("skipped: {kind}: {why}");
            None
        }
    }
}

/// As [`mounted`], with the reason why not.
pub fn try_mounted(kind: Kind, size: u64) -> Result<Mounted, String> {
    try_mounted_in(kind, size, &std::env::temp_dir())
}

/// The same, with its image below this directory.
fn try_mounted_in(kind: Kind, size: u64, parent: &Path) -> Result<Mounted, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("not root, so no loop devices and no mounts".to_owned());
    }
    let (mkfs, options) = kind.mkfs();
    let mkfs = tool(mkfs)?;
    private_namespace()?;
    let dir = tempfile::Builder::new().prefix("snapkeep-mount-").tempdir_in(parent).map_err(|e| format!("no temporary directory: {e}"))?;
    let (image, path) = (dir.path().join("image"), dir.path().join("mnt"));
    let made = File::create_new(&image).and_then(|file| file.set_len(size)).and_then(|()| std::fs::create_dir(&path));
    made.map_err(|e| format!("cannot make an image: {e}"))?;
    run(Command::new(&mkfs).args(options).arg(&image))?;
    attach(kind, &path)?;
    Ok(Mounted { path, kind: Some(kind), _dir: dir })
}

/// Unmounts what nobody has a file open on. A process that another test starts has copies of ours until it is another program.
fn unmount(path: &Path) -> Result<(), String> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    loop {
        match umount2(path, MntFlags::empty()) {
            Err(nix::errno::Errno::EBUSY) if std::time::Instant::now() < deadline => {
                std::thread::sleep(std::time::Duration::from_millis(5))
            }
            done => return done.map_err(|e| format!("cannot unmount {}: {e}", path.display())),
        }
    }
}

/// Mounts the image beside the mount point `path`, on a loop device that goes with the mount.
fn attach(kind: Kind, path: &Path) -> Result<(), String> {
    let losetup = tool("losetup")?;
    let device = run(Command::new(&losetup).args(["-f", "--show"]).arg(path.with_file_name("image")))?;
    let done = mount(Some(device.as_str()), path, Some(kind.name()), MsFlags::empty(), None::<&str>);
    // Detaching a device in use takes effect with its unmount, also if this process is killed.
    let detached = run(Command::new(&losetup).args(["-d", &device]));
    done.map_err(|e| format!("cannot mount {device}: {e}"))?;
    detached.map(drop)
}

/// A fresh tmpfs with these options (`size=`, `nr_inodes=`), or `None` after a line that says what is missing.
pub fn tmpfs(options: &str) -> Option<Mounted> {
    match try_tmpfs(options) {
        Ok(mounted) => Some(mounted),
        Err(why) => {
            eprintln!("skipped: tmpfs: {why}");
            None
        }
    }
}

fn try_tmpfs(options: &str) -> Result<Mounted, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("not root, so no mounts".to_owned());
    }
    private_namespace()?;
    let dir = tempfile::Builder::new().prefix("snapkeep-mount-").tempdir().map_err(|e| format!("no temporary directory: {e}"))?;
    let path = dir.path().join("mnt");
    std::fs::create_dir(&path).map_err(|e| format!("no mount point: {e}"))?;
    mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some(options)).map_err(|e| format!("cannot mount: {e}"))?;
    Ok(Mounted { path, kind: None, _dir: dir })
}

/// Gives this thread (and those and the processes it starts from now on) mounts of its own.
pub fn private_namespace() -> Result<(), String> {
    thread_local!(static DONE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) });
    if DONE.get() {
        return Ok(());
    }
    // SAFETY: takes no pointers, and changes only what this thread sees.
    let rc = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    nix::errno::Errno::result(rc).map_err(|e| format!("no private mounts: unshare: {e}"))?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(|e| format!("no private mounts: {e}"))?;
    DONE.set(true);
    Ok(())
}

/// A program's place; those for administrators are not on everybody's path.
pub fn tool(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let found = std::env::split_paths(&path).chain(more).map(|dir| dir.join(name)).find(|file| Path::is_file(file));
    found.ok_or_else(|| format!("{name} is missing"))
}

fn run(command: &mut Command) -> Result<String, String> {
    let out = command.stdin(std::process::Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    } else {
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&out.stderr).trim()))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_mounted_file_system_is_gone_after_its_drop() {
        for kind in super::Kind::ALL {
            let Some(mounted) = super::mounted(kind, super::Kind::SMALLEST) else { continue };
            let path = mounted.path.clone();
            std::fs::write(path.join("file"), "x").unwrap();
            let lines = || std::fs::read_to_string("/proc/thread-self/mounts").unwrap();
            assert!(lines().contains(path.to_str().unwrap()), "{kind}");
            drop(mounted);
            assert!(!lines().contains(path.to_str().unwrap()), "{kind}");
            assert!(!path.exists(), "{kind}");
        }
    }
}
