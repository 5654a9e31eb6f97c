//! Commits of btrfs, for all who wait for one at the same moment together.
//!
//! Whoever comes while one is on its way waits for the next, which is of what all of them have changed: a thousand snapshots take a
//! few commits. Who made the commit goes on behind it, and one of those who wait makes the next: the leader of `fork/group.rs` works on
//! for all who come meanwhile, and a fork beside a thousand snapshots would wait for each of theirs.
//!
//! `BTRFS_IOC_START_SYNC` sets a flag and wakes the kernel's thread, and waits uninterruptibly until the commit begins. If that
//! thread is just at the end of another commit it is awake and goes to sleep without looking at the flag (fs/btrfs/disk-io.c,
//! `transaction_kthread`), for up to the 30 seconds of its interval. So who starts a commit is watched, and the thread is woken
//! again until the commit has begun.

use super::{Dir, sys};
use nix::errno::Errno;
use nix::sys::statvfs::{FsFlags, fstatvfs};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, mpsc};
use std::thread::{self, Builder, Scope};
use std::time::Duration;

/// A commit that has not begun by then waits for a thread that sleeps, or for the end of another commit. The next time is half as
/// long again.
const FIRST_WAKE: Duration = Duration::from_millis(2);

/// What came of a commit.
type Outcome = nix::Result<()>;

/// The commits of each file system, by its device number; each subvolume has one of its own.
#[derive(Debug, Clone, Default)]
pub(super) struct Lines(Arc<Mutex<BTreeMap<u64, Arc<Line>>>>);

/// Those who wait for commits.
#[derive(Debug, Default)]
struct Line {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_running: bool,
    /// Of the commit that begins next.
    next: Arc<OnceLock<Outcome>>,
}

impl Lines {
    /// Commits the running transaction and waits for it, together with others who ask for that.
    ///
    /// # Errors
    /// As [`commit`] says.
    pub(super) fn commit(&self, dir: &Dir) -> Outcome {
        let device = nix::sys::stat::fstat(dir)?.st_dev;
        let line = Arc::clone(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(device).or_default());
        line.share(|| commit(dir))
    }
}

impl Line {
    /// What a run of `work` says that began since, which is this caller's or another's.
    fn share(&self, work: impl FnOnce() -> Outcome) -> Outcome {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = Arc::clone(&state.next);
        loop {
            if let Some(outcome) = ours.get() {
                return *outcome;
            }
            if !state.is_running {
                break;
            }
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.is_running = true;
        state.next = Arc::default();
        drop(state);
        let _running = Running(self);
        *ours.get_or_init(work)
    }
}

/// A run, whose end is told however it ends.
struct Running<'a>(&'a Line);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).is_running = false;
        self.0.ended.notify_all();
    }
}

/// Commits the running transaction and waits for it, without writing anybody's data.
///
/// # Errors
/// ENOTTY elsewhere than on btrfs; EINVAL, EIO and EROFS where the transaction was given up.
fn commit(dir: &Dir) -> Outcome {
    sys::wait_commit(dir, watched(&|| sys::start_commit(dir))?)?;
    // Of a transaction that was given up because another one failed, both calls may say that it is done (fs/btrfs/disk-io.c,
    // `btrfs_cleanup_transaction`). The file system is read-only before that.
    let is_read_only = fstatvfs(dir)?.flags().contains(FsFlags::ST_RDONLY);
    if is_read_only { Err(Errno::EROFS) } else { Ok(()) }
}

/// Makes a call that may miss its wake-up, and makes it again in other threads until all of them are back.
fn watched<T>(start: &(impl Fn() -> T + Sync)) -> T {
    thread::scope(|scope| {
        let (back, is_back) = mpsc::channel();
        let again = back.clone();
        let watch = move || {
            let (mut out, mut pause) = (1_usize, FIRST_WAKE);
            while out > 0 {
                if is_back.recv_timeout(pause).is_ok() {
                    out -= 1;
                } else {
                    out += usize::from(call_again(scope, start, again.clone()));
                    pause += pause / 2;
                }
            }
        };
        // Without it the call takes as long as the kernel lets it.
        let _ = Builder::new().name("commit watch".to_owned()).spawn_scoped(scope, watch);
        let started = start();
        let _ = back.send(());
        started
    })
}

/// Whether it could be made; if not it is made next time.
fn call_again<'scope, T>(scope: &'scope Scope<'scope, '_>, start: &'scope (impl Fn() -> T + Sync), back: mpsc::Sender<()>) -> bool {
    let call = move || {
        start();
        let _ = back.send(());
    };
    Builder::new().name("commit wake".to_owned()).spawn_scoped(scope, call).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn whoever_comes_while_one_runs_shares_the_next_and_is_told_how_that_went() {
        let line = Line::default();
        let runs = AtomicUsize::new(0);
        let (begun, end) = (Barrier::new(2), Barrier::new(2));
        thread::scope(|scope| {
            let first = scope.spawn(|| {
                line.share(|| {
                    begun.wait();
                    end.wait();
                    Ok(())
                })
            });
            begun.wait();
            let share = || {
                line.share(|| {
                    runs.fetch_add(1, Ordering::SeqCst);
                    Err(Errno::EIO)
                })
            };
            let next = Arc::clone(&line.state.lock().unwrap().next);
            let others: Vec<_> = (0..8).map(|_| scope.spawn(share)).collect();
            // Each of them has a share in it, and so have we and the line.
            while Arc::strong_count(&next) < 10 {
                thread::yield_now();
            }
            end.wait();
            assert_eq!(first.join().unwrap(), Ok(()));
            assert!(others.into_iter().all(|other| other.join().unwrap() == Err(Errno::EIO)));
        });
        assert_eq!(runs.load(Ordering::SeqCst), 1, "one run for eight");
        assert_eq!(line.share(|| Ok(())), Ok(()), "who comes behind has one of their own");
    }

    #[test]
    fn a_call_that_waits_to_be_woken_is_made_again_until_all_are_back() {
        let (calls, back) = (AtomicUsize::new(0), Condvar::new());
        let is_woken = Mutex::new(false);
        let call = || {
            // The third one wakes the others.
            if calls.fetch_add(1, Ordering::SeqCst) == 2 {
                *is_woken.lock().unwrap() = true;
                back.notify_all();
            }
            drop(back.wait_while(is_woken.lock().unwrap(), |woken| !*woken).unwrap());
        };
        watched(&call);
        assert!(calls.load(Ordering::SeqCst) >= 3);
    }
}
