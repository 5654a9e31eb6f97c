//! A gate that makes one call of one operation go wrong, in every way that a kernel has, and that knows what is not yet
//! durable.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, dead_code, unreachable_pub, reason = "support of tests")]

use nix::errno::Errno;
use snapkeep::store::fs::{Commits, Gate, Op};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails, once.
    Fails(Errno),
    /// A write takes half of its bytes, and the next one finds the disk full.
    ShortThenFull,
    /// A write takes half of its bytes, and nothing else is wrong.
    ShortThenOn,
    /// It and every later one fails: to the disk, the process is dead.
    Stop,
}

impl Fault {
    pub const ALL: [Self; 8] = [
        Self::Fails(Errno::EIO),
        Self::Fails(Errno::ENOSPC),
        Self::Stop,
        Self::Fails(Errno::EMLINK),
        Self::Fails(Errno::EXDEV),
        Self::Fails(Errno::EPERM),
        Self::ShortThenFull,
        Self::ShortThenOn,
    ];

    /// The ones that are tried at every call also where time is short.
    pub fn is_everywhere(self) -> bool {
        !matches!(self, Self::Fails(Errno::EMLINK | Errno::EXDEV | Errno::EPERM))
    }
}

#[derive(Debug, Default)]
struct State {
    /// The durable text of the record of doomed snapshots while another is on its way.
    said: String,
    is_armed: bool,
    /// Calls (for short writes: writes) since it was armed.
    seen: u64,
    hit: Option<String>,
    /// What the call that is made now opens was there before: its name is durable already.
    is_there: bool,
    is_short_now: bool,
    is_full_next: bool,
    /// Names made, and files written to, that no sync has made durable yet.
    names: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
    /// Of the files, those that are written out: where commits have an order, durable with whatever comes behind that.
    written_out: BTreeSet<PathBuf>,
}

/// The gate: the nth call from when it is armed goes wrong.
#[derive(Debug)]
pub struct Faulty {
    fault: Fault,
    n: u64,
    commits: Commits,
    state: Mutex<State>,
}

/// The directory in staging or in the pool that becomes a fork, of a path in it.
fn built_as(root: &Path, part: &Path) -> Option<PathBuf> {
    let ours = root.join(".snapkeep");
    let steps: Vec<_> = part.strip_prefix(&ours).ok()?.components().collect();
    let depth = if steps.first()?.as_os_str() == "pool" { 3 } else { 2 };
    Some(ours.join(steps.get(..depth)?.iter().collect::<PathBuf>()))
}

impl Faulty {
    pub fn new(fault: Fault, n: u64, commits: Commits) -> Self {
        Self { fault, n, commits, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn arm(&self) {
        self.state().is_armed = true;
    }

    pub fn disarm(&self) {
        self.state().is_armed = false;
    }

    /// What call went wrong.
    pub fn hit(&self) -> Option<String> {
        self.state().hit.clone()
    }

    /// What a power cut may lose now, save what is only being built.
    pub fn not_durable(&self) -> Vec<PathBuf> {
        let state = self.state();
        // A doomed name need not be durable before the first file below it goes, which `after` sees to.
        // What was taken out of the pool may come back: then it is dropped again. What is a fork by now was looked at when it got its name.
        let is_nothing = |part: &std::ffi::OsStr| {
            part == "staging" || part.as_encoded_bytes().starts_with(b".gone-") || part.as_encoded_bytes().starts_with(b".drained-")
        };
        let is_fork = |path: &Path| path.components().any(|c| c.as_os_str() == "pool") && path.symlink_metadata().is_err();
        let is_built = |path: &&PathBuf| !path.components().any(|c| is_nothing(c.as_os_str())) && !is_doomed(path) && !is_fork(path);
        // A name that was made and has become another one is nobody's.
        let is_there = |path: &&PathBuf| path.symlink_metadata().is_ok();
        state.names.iter().chain(&state.files).filter(is_built).filter(is_there).cloned().collect()
    }

    /// Forgets what is not durable so far: the operation that is looked at begins now.
    pub fn begin(&self) {
        let mut state = self.state();
        state.names.clear();
        state.files.clear();
    }

    /// A fork or snapshot that gets its name must be such that no power cut leaves the name without what is behind it.
    fn check_published(&self, path: &Path, state: &State) {
        self.check_snapshot(path, state);
        let Some(root) = path.parent().filter(|root| root.join(".snapkeep/root").exists()) else { return };
        if !path.join(".snapkeep/fork.json").exists() {
            return;
        }
        // What it was built as is not there any more; its own name there need not be durable.
        let was_built = |part: &Path| built_as(root, part).is_some_and(|tree| tree != part && tree.symlink_metadata().is_err());
        let is_in_order = self.commits != Commits::Anyhow;
        let is_late = |file: &&PathBuf| was_built(file) && !(is_in_order && state.written_out.contains(*file));
        let files: Vec<_> = state.files.iter().filter(is_late).collect();
        assert!(files.is_empty(), "{} is published before these are written: {files:?}", path.display());
        let names: Vec<_> = state.names.iter().filter(|name| was_built(name) && !is_in_order).collect();
        assert!(names.is_empty(), "{} is published before these are durable: {names:?}", path.display());
    }
}

/// Where a snapshot of this path was built.
fn staged_as(path: &Path) -> Option<PathBuf> {
    let store = path.parent().filter(|dir| dir.ends_with("store/snapshots"))?.parent()?;
    Some(store.join("staging").join(path.file_name()?))
}

impl State {
    /// What was built is known by its new name: a commit that does not come is missed there.
    fn become_snapshot(&mut self, path: &Path) {
        let Some(staged) = staged_as(path) else { return };
        let renamed = |old: &PathBuf| old.strip_prefix(&staged).map_or_else(|_| old.clone(), |rest| path.join(rest));
        for paths in [&mut self.files, &mut self.written_out] {
            *paths = paths.iter().map(renamed).collect();
        }
    }
}

impl Faulty {
    fn check_snapshot(&self, path: &Path, state: &State) {
        let Some(staged) = staged_as(path) else { return };
        let is_in_order = self.commits != Commits::Anyhow;
        let is_late = |file: &&PathBuf| file.starts_with(&staged) && !(is_in_order && state.written_out.contains(*file));
        let files: Vec<_> = state.files.iter().filter(is_late).collect();
        assert!(files.is_empty(), "{} is published before these are written: {files:?}", path.display());
        let is_unnamed = |name: &&PathBuf| !is_in_order && name.starts_with(&staged) && **name != staged;
        let names: Vec<_> = state.names.iter().filter(is_unnamed).collect();
        assert!(names.is_empty(), "{} is published before these are durable: {names:?}", path.display());
    }
}

impl Gate for Faulty {
    fn commits(&self) -> Commits {
        self.commits
    }

    fn before(&self, op: Op, path: &Path) -> Result<(), Errno> {
        let mut state = self.state();
        state.is_there = op == Op::Create && path.exists();
        // What the record of doomed snapshots says before it is replaced it says until the new one is durable.
        let record = path.with_file_name(RECORD);
        if op == Op::Create && path.parent().is_some_and(|dir| dir.ends_with("ledger")) && !state.names.contains(&record) {
            state.said = std::fs::read_to_string(record).unwrap_or_default();
        }
        if !state.is_armed {
            return Ok(());
        }
        if op == Op::Write && std::mem::take(&mut state.is_short_now) {
            state.is_full_next = self.fault == Fault::ShortThenFull;
            return Ok(());
        }
        if op == Op::Write && std::mem::take(&mut state.is_full_next) {
            return Err(Errno::ENOSPC);
        }
        let errno = match self.fault {
            Fault::Fails(errno) => errno,
            Fault::Stop => Errno::ENOTRECOVERABLE,
            Fault::ShortThenFull | Fault::ShortThenOn => return Ok(()),
        };
        state.seen += 1;
        if state.seen == self.n || (state.seen > self.n && self.fault == Fault::Stop) {
            state.hit.get_or_insert_with(|| format!("{op} {}", path.display()));
            return Err(errno);
        }
        Ok(())
    }

    fn takes(&self, path: &Path, len: usize) -> usize {
        let mut state = self.state();
        if !state.is_armed || !matches!(self.fault, Fault::ShortThenFull | Fault::ShortThenOn) {
            return len;
        }
        state.seen += 1;
        if state.seen != self.n {
            return len;
        }
        state.is_short_now = true;
        state.hit = Some(format!("write {} of {len} bytes to {}", (len / 2).max(1), path.display()));
        (len / 2).max(1)
    }

    fn after(&self, op: Op, path: &Path) {
        let mut state = self.state();
        match op {
            Op::Create if state.is_there => {}
            Op::Rename => {
                if state.is_armed {
                    self.check_published(path, &state);
                }
                state.become_snapshot(path);
                state.names.insert(path.to_owned());
            }
            Op::Mkdir | Op::Symlink | Op::Link | Op::Create => drop(state.names.insert(path.to_owned())),
            Op::Write | Op::Truncate | Op::Reflink => {
                state.written_out.remove(path);
                state.files.insert(path.to_owned());
            }
            Op::WriteOut => drop(state.written_out.insert(path.to_owned())),
            // What comes first is durable first: one sync is of all that came before.
            Op::Commit | Op::Fsync if op == Op::Commit || self.commits == Commits::InOrder => {
                let State { names, files, written_out, .. } = &mut *state;
                names.clear();
                files.retain(|file| file != path && !written_out.contains(file));
            }
            Op::Syncfs => {
                state.files.clear();
                state.names.clear();
            }
            Op::Fsync => {
                state.files.remove(path);
                state.names.retain(|name| name.parent() != Some(path));
            }
            Op::Unlink => {
                let is_early = doom_of(path).is_some_and(|doom| !doom.is_durable(path, &state));
                assert!(!is_early, "{} is unlinked before its doom is durable", path.display());
                state.names.retain(|name| !name.starts_with(path));
                state.files.retain(|file| !file.starts_with(path));
            }
            _ => {}
        }
    }
}

/// Whether it is the name of something that was doomed by its name.
fn is_doomed(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"unlinking:"))
}

/// The record of snapshots that are being unlinked.
const RECORD: &str = "unlinking.json";

/// What says that something in a trash is being unlinked.
enum Doom {
    /// Its name there.
    Name(PathBuf),
    /// The record at this path, for what has this name.
    Record(PathBuf, String),
}

impl Doom {
    fn is_durable(&self, unlinked: &Path, state: &State) -> bool {
        match self {
            Self::Name(path) => path == unlinked || !state.names.contains(path),
            Self::Record(path, name) if state.names.contains(path) => state.said.contains(name),
            Self::Record(path, name) => std::fs::read_to_string(path).is_ok_and(|text| text.contains(name)),
        }
    }
}

/// What has to say so if `path` is part of something in a trash.
fn doom_of(path: &Path) -> Option<Doom> {
    if let Some(renamed) = path.ancestors().find(|p| is_doomed(p)) {
        return Some(Doom::Name(renamed.to_owned()));
    }
    let (entry, trash) = path.ancestors().zip(path.ancestors().skip(1)).find(|(_, trash)| trash.ends_with("store/trash"))?;
    let name = entry.file_name()?.to_string_lossy().into_owned();
    Some(Doom::Record(trash.parent()?.join("ledger").join(RECORD), name))
}

/// Fails every call of one kind whose path ends so, until it is let go.
#[derive(Debug)]
pub struct Only(pub Op, pub &'static str);

impl Gate for Only {
    fn before(&self, op: Op, path: &Path) -> Result<(), Errno> {
        if op == self.0 && path.ends_with(self.1) { Err(Errno::EIO) } else { Ok(()) }
    }
}

/// The process is dead to the disk from the first call of one kind whose path ends so.
#[derive(Debug)]
pub struct DeadFrom {
    op: Op,
    path: &'static str,
    is_dead: AtomicBool,
}

impl DeadFrom {
    pub fn new(op: Op, path: &'static str) -> Self {
        Self { op, path, is_dead: AtomicBool::new(false) }
    }

    pub fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::SeqCst)
    }
}

impl Gate for DeadFrom {
    fn before(&self, op: Op, path: &Path) -> Result<(), Errno> {
        if op == self.op && path.ends_with(self.path) {
            self.is_dead.store(true, Ordering::SeqCst);
        }
        if self.is_dead() { Err(Errno::ENOTRECOVERABLE) } else { Ok(()) }
    }
}
