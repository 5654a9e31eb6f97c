//! Whether an instance runs, for drivers that have nothing but its directory: another process has one of its files open.
//!
//! Each file is asked for a lease, which is exact in all namespaces: granted, nobody has it open. One that is refused for a
//! file that forks share may be about a sibling; there `/proc` tells by which directory it was opened. In doubt: cannot tell.

use crate::store::fs::{Below, FileType, Found, Fs, FsError, sys};
use crate::store::layout::OURS;
use nix::errno::Errno;
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// No process has more mappings than this, in bytes of text.
const MAPS_LIMIT: u64 = 256 << 20;

/// `PF_KTHREAD` of the kernel's sched.h, in the flags of `/proc/<pid>/stat`.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// What seems to be in use is looked at again after rests of 1, 2, 4 ms and so on up to this one, before that is believed:
/// a process that another thread starts at this moment has copies of all our descriptors until it executes its program,
/// and so keeps open what we have just closed.
const LONGEST_REST: Duration = Duration::from_millis(64);

/// A file that another process has open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// The file.
    pub path: PathBuf,
    /// Who has it, as far as it is known.
    pub why: String,
}

/// Nothing was found open, but not everything could be looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot tell whether it runs: {why}")]
pub struct CannotTell {
    /// What could not be looked at.
    pub why: String,
}

impl From<FsError> for CannotTell {
    fn from(error: FsError) -> Self {
        Self { why: error.to_string() }
    }
}

/// The first regular file below `dir` that another process, or another part of this one, has open. A directory that does
/// not exist is in nobody's use. Without root, files of other users cannot be told; nor can, while a sibling runs, files
/// that are shared with it, if a process cannot be looked at.
///
/// # Errors
/// [`CannotTell`].
pub fn in_use(fs: &Fs, dir: &Path) -> Result<Option<InUse>, CannotTell> {
    let mut rest = Duration::from_millis(1);
    loop {
        let found = look(fs, dir)?;
        if found.is_none() || rest > LONGEST_REST {
            return Ok(found);
        }
        std::thread::sleep(rest);
        rest *= 2;
    }
}

fn look(fs: &Fs, dir: &Path) -> Result<Option<InUse>, CannotTell> {
    let mut root = match Below::open(fs, dir) {
        Ok(root) => root,
        Err(e) if e.is_not_found() => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    // Our own directory is read by ourselves, whenever the root is looked at; nothing runs from it.
    let found = fs.walk(&mut root, &mut |path, _| path == Path::new(OURS))?;
    let mut names: HashMap<(u64, u64), u64> = HashMap::new();
    for file in regular(&found) {
        *names.entry(file.meta.file_id).or_default() += 1;
    }
    let mut shared = HashMap::new();
    for file in regular(&found) {
        let open = match root.place(&file.path).and_then(|place| fs.open_file(place)) {
            Ok(open) => open,
            Err(e) if e.is_replaced() => continue,
            Err(e) => return Err(e.into()),
        };
        let is_shared = names.get(&file.meta.file_id).is_none_or(|inside| *inside < file.meta.links);
        match sys::open_elsewhere(&open) {
            Ok(false) => {}
            Ok(true) if !is_shared => {
                return Ok(Some(InUse { path: dir.join(&file.path), why: "another process has it open".to_owned() }));
            }
            // Open by a sibling, perhaps; or no right to a lease, or no leases on this file system.
            _ => drop(shared.insert(file.meta.file_id, file.path.as_path())),
        }
    }
    if shared.is_empty() {
        return Ok(None);
    }
    let directories = found.iter().filter(|f| f.meta.kind == FileType::Directory).map(|f| f.meta.file_id).collect();
    Scan { fs, dir, shared, directories }.run()
}

fn regular(found: &[Found]) -> impl Iterator<Item = &Found> {
    found.iter().filter(|f| f.meta.kind == FileType::Regular)
}

/// A look at all processes for files that have names elsewhere too.
struct Scan<'a> {
    fs: &'a Fs,
    dir: &'a Path,
    shared: HashMap<(u64, u64), &'a Path>,
    directories: HashSet<(u64, u64)>,
}

impl Scan<'_> {
    fn run(&self) -> Result<Option<InUse>, CannotTell> {
        let own = std::process::id().to_string();
        let processes = self.fs.list(Path::new("/proc"))?;
        let mut blind = None;
        if !processes.iter().any(|p| p.name == "1") {
            blind = Some("/proc does not show all processes".to_owned());
        }
        for process in processes.iter().filter(|p| p.name.as_bytes().iter().all(u8::is_ascii_digit) && *p.name != *own) {
            let proc = Path::new("/proc").join(&process.name);
            match self.process(&proc) {
                Ok(Some(path)) => {
                    let name = self.fs.read_small(&proc.join("comm"), 64).unwrap_or_default();
                    let (pid, name) = (process.name.display(), String::from_utf8_lossy(&name));
                    return Ok(Some(InUse { path, why: format!("process {pid} ({}) has it open", name.trim_end()) }));
                }
                Ok(None) => {}
                Err(e) if e.is_not_found() || e.source == Errno::ESRCH => {}
                // Init runs no instance, and where we are root without its capabilities it lets nobody look.
                Err(e) if process.name == "1" || has_no_files(self.fs, &proc) => drop(e),
                Err(e) => blind = Some(e.to_string()),
            }
        }
        blind.map_or(Ok(None), |why| Err(CannotTell { why }))
    }

    /// Our file that the process has open or mapped.
    fn process(&self, proc: &Path) -> Result<Option<PathBuf>, FsError> {
        let fds = proc.join("fd");
        for entry in self.fs.list(&fds)? {
            let fd = fds.join(&entry.name);
            let meta = match self.fs.stat_target(&fd) {
                Ok(meta) => meta,
                Err(e) if matches!(e.source, Errno::EACCES | Errno::EPERM) => return Err(e),
                // Closed since, or no file at all.
                Err(_) => continue,
            };
            if self.shared.contains_key(&meta.file_id)
                && let Some(path) = self.opened_here(proc, &self.fs.read_link(&fd)?)?
            {
                return Ok(Some(path));
            }
        }
        // By inode number alone: the device in this list is not stat's on every file system. The directory decides.
        let inodes: HashSet<u64> = self.shared.keys().map(|id| id.1).collect();
        let mut seen = HashSet::new();
        for line in self.fs.read_small(&proc.join("maps"), MAPS_LIMIT)?.split(|byte| *byte == b'\n') {
            let Some((inode, path)) = mapped(line).filter(|(inode, _)| inodes.contains(inode)) else { continue };
            if seen.insert((inode, path.to_owned()))
                && let Some(path) = self.opened_here(proc, path)?
            {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// The file's path here, if the path that a process opened it by leads into one of our directories.
    fn opened_here(&self, proc: &Path, text: &OsStr) -> Result<Option<PathBuf>, FsError> {
        let opened = Path::new(text);
        let (Some(parent), Some(name)) = (opened.parent(), opened.file_name()) else { return Ok(None) };
        // A name that was removed is not one of ours.
        if text.as_bytes().ends_with(b" (deleted)") {
            return Ok(None);
        }
        let mounts = |proc: &Path| self.fs.read_link(&proc.join("ns/mnt"));
        let base = if mounts(proc)? == mounts(Path::new("/proc/self"))? {
            parent.to_owned()
        } else {
            // Seen from there; the dot at the end leads through the link that `root` is.
            proc.join("root").join(parent.strip_prefix("/").unwrap_or(parent)).join(".")
        };
        // Not as `base.join("x")` would have it: the dot is lost on the way through `Path`.
        let mut path: OsString = base.into_os_string();
        path.push("/.");
        let directory = match self.fs.stat_target(Path::new(&path)) {
            Ok(meta) => meta,
            // Nothing is there by that name: we may not be able to see where it leads.
            Err(e) if e.is_not_found() => return Err(FsError { source: Errno::EACCES, ..e }),
            Err(e) => return Err(e),
        };
        Ok(self.directories.contains(&directory.file_id).then(|| self.dir.join(name)))
    }
}

/// Inode and path of a line of `/proc/<pid>/maps` (proc_pid_maps(5)).
fn mapped(line: &[u8]) -> Option<(u64, &OsStr)> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let inode = std::str::from_utf8(fields.nth(4)?).ok()?.parse().ok()?;
    let path = fields.next()?.trim_ascii_start();
    (inode != 0).then(|| (inode, OsStr::from_bytes(path)))
}

/// True for a kernel thread and for a process that has ended but is not reaped (proc_pid_stat(5)).
fn has_no_files(fs: &Fs, proc: &Path) -> bool {
    let Ok(stat) = fs.read_small(&proc.join("stat"), 4096) else { return false };
    // The name may hold anything, also brackets and spaces: the fields begin after the last one.
    let text = String::from_utf8_lossy(&stat);
    let Some((_, fields)) = text.rsplit_once(") ") else { return false };
    let fields: Vec<&str> = fields.split(' ').collect();
    let flags = fields.get(6).and_then(|flags| flags.parse::<u64>().ok()).unwrap_or(0);
    matches!(fields.first(), Some(&"Z" | &"X")) || flags & KERNEL_THREAD != 0
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "tests make files by other means than the code under test")]

    use super::*;
    use std::process::{Child, Command, Stdio};

    struct Reader(Child);

    impl Reader {
        /// A process that has `path` open, and nothing else of ours.
        fn of(path: &Path) -> Self {
            let mut sleep = Command::new("sleep");
            sleep.arg("600").stdin(std::fs::File::open(path).unwrap()).stdout(Stdio::null()).stderr(Stdio::null());
            Self(sleep.spawn().unwrap())
        }

        fn end(self) {}
    }

    impl Drop for Reader {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn instance() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        for name in ["vm", "vm/sub", "sibling"] {
            std::fs::create_dir(temp.path().join(name)).unwrap();
        }
        let vm = temp.path().join("vm");
        for name in ["disk", "sub/state", "memory"] {
            std::fs::write(vm.join(name), b"x").unwrap();
        }
        (temp, vm)
    }

    #[test]
    fn a_file_that_another_process_has_open_is_in_use_until_that_ends() {
        let (_temp, vm) = instance();
        let fs = Fs::real();
        assert_eq!(in_use(&fs, &vm), Ok(None));
        for name in ["disk", "sub/state"] {
            let reader = Reader::of(&vm.join(name));
            assert_eq!(in_use(&fs, &vm).unwrap().unwrap().path, vm.join(name));
            reader.end();
            assert_eq!(in_use(&fs, &vm), Ok(None));
        }
        assert_eq!(in_use(&fs, &vm.join("missing")), Ok(None));
    }

    #[test]
    fn a_process_that_is_being_started_does_not_make_an_instance_seem_to_run() {
        let (_temp, vm) = instance();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    Command::new("true").status().unwrap();
                }
            });
            let write_and_look = |_| {
                drop(std::fs::OpenOptions::new().write(true).open(vm.join("disk")).unwrap());
                in_use(&Fs::real(), &vm)
            };
            let other = (0..400).map(write_and_look).find(|found| *found != Ok(None));
            stop.store(true, std::sync::atomic::Ordering::SeqCst);
            assert_eq!(other, None);
        });
    }

    #[test]
    fn two_names_within_the_instance_are_as_one() {
        let (_temp, vm) = instance();
        std::fs::hard_link(vm.join("disk"), vm.join("disk-too")).unwrap();
        assert_eq!(in_use(&Fs::real(), &vm), Ok(None));
        let reader = Reader::of(&vm.join("disk-too"));
        assert!(in_use(&Fs::real(), &vm).unwrap().is_some());
        reader.end();
    }

    #[test]
    fn shared_memory_is_in_use_by_the_one_whose_name_was_opened() {
        let (temp, vm) = instance();
        let (fs, sibling) = (Fs::real(), temp.path().join("sibling"));
        std::fs::hard_link(vm.join("memory"), sibling.join("memory")).unwrap();
        let reader = Reader::of(&sibling.join("memory"));
        assert_eq!(in_use(&fs, &vm), Ok(None));
        let used = in_use(&fs, &sibling).unwrap().unwrap();
        assert_eq!(used.path, sibling.join("memory"));
        assert_eq!(used.why, format!("process {} (sleep) has it open", reader.0.id()));
        reader.end();
        assert_eq!(in_use(&fs, &sibling), Ok(None));
    }

    #[test]
    fn shared_memory_that_is_only_mapped_is_in_use() {
        let (temp, vm) = instance();
        std::fs::hard_link(vm.join("memory"), temp.path().join("sibling/memory")).unwrap();
        let code = "import mmap,os,sys;f=os.open(sys.argv[1],os.O_RDONLY);m=mmap.mmap(f,1,mmap.MAP_PRIVATE,mmap.PROT_READ);os.close(f);\
                    [os.close(i) for i in range(3,20) if os.path.exists(f'/proc/self/fd/{i}')];print(1,flush=True);sys.stdin.read()";
        let mut python = Command::new("python3");
        python.args(["-c", code]).arg(vm.join("memory")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut child) = python.spawn() else { return };
        let mut ready = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        assert_eq!(in_use(&Fs::real(), &vm).unwrap().unwrap().path, vm.join("memory"));
        assert_eq!(in_use(&Fs::real(), &temp.path().join("sibling")), Ok(None));
        Reader(child).end();
    }

    #[test]
    fn a_process_in_a_jail_with_other_mounts_is_seen_through_its_root() {
        let (temp, vm) = instance();
        std::fs::hard_link(vm.join("memory"), temp.path().join("sibling/memory")).unwrap();
        let script = "mount --bind \"$1\" /mnt && exec sleep 600 < /mnt/memory";
        let mut jail = Command::new("unshare");
        jail.args(["-m", "sh", "-c", script, "sh"]).arg(&vm).stderr(Stdio::null());
        let Ok(child) = jail.spawn() else { return };
        let jailed = Reader(child);
        let is_ready = || std::fs::read_to_string(format!("/proc/{}/comm", jailed.0.id())).is_ok_and(|name| name == "sleep\n");
        if !(0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            is_ready()
        }) {
            // Not root: no such jail to be had.
            return jailed.end();
        }
        assert!(in_use(&Fs::real(), &vm).unwrap().is_some());
        assert_eq!(in_use(&Fs::real(), &temp.path().join("sibling")), Ok(None));
        jailed.end();
    }

    #[test]
    fn a_line_of_mappings_is_read_with_its_spaces() {
        let line = b"7f0-7f1 r--p 00000000 fe:00 1234                       /a dir/the file";
        assert_eq!(mapped(line), Some((1234, OsStr::new("/a dir/the file"))));
        assert_eq!(mapped(b"7f0-7f1 rw-p 00000000 00:00 0 "), None);
        assert_eq!(mapped(b""), None);
    }
}
