//! Counts what an operation asks of the kernel: the same on every machine and at any load.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub, reason = "support of tests and benches: each uses a part, and may panic")]

use nix::errno::Errno;
use snapkeep::store::fs::{Commits, Fs, Gate, Op};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A seam that counts every call that goes through it.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<Tally>);

#[derive(Debug, Default)]
struct Tally(Mutex<Vec<(Op, PathBuf, u64)>>);

/// What was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls, by [`Op`] in small letters; of those, looks are `stat`, `open`, `read` and `list`.
    pub calls: BTreeMap<String, u64>,
    /// Bytes given to writes.
    pub bytes: u64,
}

impl Gate for Tally {
    /// As on xfs, and on ext4 with a journal.
    fn commits(&self) -> Commits {
        Commits::InOrder
    }

    fn before(&self, op: Op, path: &Path) -> Result<(), Errno> {
        // A write comes by with its length, right before this.
        if op != Op::Write {
            self.0.lock().unwrap().push((op, path.to_owned(), 0));
        }
        Ok(())
    }

    fn takes(&self, path: &Path, len: usize) -> usize {
        self.0.lock().unwrap().push((Op::Write, path.to_owned(), len as u64));
        len
    }

    fn looks(&self, op: Op, path: &Path) {
        self.0.lock().unwrap().push((op, path.to_owned(), 0));
    }
}

impl Counter {
    /// The seam.
    pub fn fs(&self) -> Fs {
        Fs::gated(Arc::clone(&self.0) as _)
    }

    /// What `work` asks of the kernel, by whichever thread.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> (T, Counts) {
        self.0.0.lock().unwrap().clear();
        let result = work();
        let mut counts = Counts::default();
        for (op, _, bytes) in self.0.0.lock().unwrap().iter() {
            *counts.calls.entry(format!("{op:?}").to_lowercase()).or_default() += 1;
            counts.bytes += bytes;
        }
        (result, counts)
    }

    /// The calls since [`Counter::during`] last began, with their paths: to see where a count comes from.
    pub fn calls(&self) -> Vec<(Op, PathBuf)> {
        self.0.0.lock().unwrap().iter().map(|(op, path, _)| (*op, path.clone())).collect()
    }
}

impl Counts {
    /// Calls of all kinds.
    pub fn total(&self) -> u64 {
        self.calls.values().sum()
    }
}

/// Counts the allocations of each thread.
struct Counting;

thread_local!(static ALLOCATIONS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });

/// How often this thread has asked for memory.
pub fn allocations() -> u64 {
    ALLOCATIONS.get()
}

// SAFETY: everything is handed on to the system's allocator as it came.
#[expect(unsafe_code, reason = "an allocator is unsafe to write")]
unsafe impl std::alloc::GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
        // A thread that is ending has no count any more.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is the system's.
        unsafe { std::alloc::System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: std::alloc::Layout) {
        // SAFETY: the caller's promise is the system's.
        unsafe { std::alloc::System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;
