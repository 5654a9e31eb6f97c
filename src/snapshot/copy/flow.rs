//! How long work goes: threads, progress and the request to stop. Nothing here touches a file.

use std::fmt;
use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// Sees how far long work is.
pub trait Progress: Sync {
    /// So many bytes more are to be done: each phase adds its own.
    fn total(&self, bytes: u64);
    /// So many bytes more are done.
    fn advance(&self, bytes: u64);
}

/// For work that nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn total(&self, _bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
}

/// What all long work is given.
#[derive(Clone, Copy)]
pub struct Flow<'a> {
    /// How many threads may work at once; 0 counts as 1.
    pub threads: usize,
    /// Who watches.
    pub progress: &'a dyn Progress,
    /// Looked at between chunks: true ends the work with an error of the kind `Cancelled`.
    pub cancelled: &'a AtomicBool,
}

/// How many threads may copy one file when `threads` are there for `jobs` trees that are built side by side: a lone one has
/// them all, and many have one each.
#[must_use]
pub fn copy_threads(threads: usize, jobs: usize) -> usize {
    (threads / jobs.max(1)).max(1)
}

impl fmt::Debug for Flow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow").field("threads", &self.threads).field("cancelled", &self.cancelled).finish_non_exhaustive()
    }
}

impl Flow<'_> {
    /// One thread, nobody watching, never stopped.
    #[must_use]
    pub fn quiet() -> Flow<'static> {
        static NEVER: AtomicBool = AtomicBool::new(false);
        Flow { threads: 1, progress: &NoProgress, cancelled: &NEVER }
    }

    /// True once the work should stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Does the jobs `0..count` on up to `threads` threads, each with a state of its own, and gives their results in no
    /// particular order. The first error ends the rest.
    pub(crate) fn each<S, T: Send, E: Send>(
        &self,
        count: usize,
        state: impl Fn() -> S + Sync,
        job: impl Fn(&mut S, usize) -> Result<T, E> + Sync,
    ) -> Result<Vec<T>, E> {
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let worker = || {
            let (mut state, mut results) = (state(), Vec::new());
            while !failed.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    break;
                }
                match job(&mut state, index) {
                    Ok(result) => results.push(result),
                    Err(error) => {
                        failed.store(true, Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
            Ok(results)
        };
        let helpers = self.threads.min(count).saturating_sub(1);
        let Some(helpers) = NonZeroUsize::new(helpers) else { return worker() };
        thread::scope(|scope| {
            // A thread that cannot be had is no error: the others do its work.
            let handles: Vec<_> = (0..helpers.get()).filter_map(|_| thread::Builder::new().spawn_scoped(scope, worker).ok()).collect();
            let mut all = worker();
            for handle in handles {
                let theirs = handle.join().unwrap_or_else(|panic| resume_unwind(panic));
                all = match (all, theirs) {
                    (Ok(mut all), Ok(theirs)) => {
                        all.extend(theirs);
                        Ok(all)
                    }
                    (Err(error), _) | (_, Err(error)) => Err(error),
                };
            }
            all
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_divided_among_trees_and_none_goes_without() {
        let divided = [(4, 1), (4, 2), (4, 3), (4, 1000), (1, 1), (0, 0)].map(|(threads, jobs)| copy_threads(threads, jobs));
        assert_eq!(divided, [4, 2, 1, 1, 1, 1]);
    }

    #[test]
    fn every_job_is_done_once_and_the_first_error_ends_the_rest() {
        for threads in [0, 1, 4] {
            let flow = Flow { threads, ..Flow::quiet() };
            let mut done: Vec<usize> = flow.each(100, || (), |(), i| Ok::<_, ()>(i)).unwrap();
            done.sort_unstable();
            assert_eq!(done, (0..100).collect::<Vec<_>>());
            assert_eq!(flow.each(100, || (), |(), i| if i == 7 { Err(i) } else { Ok(()) }), Err(7));
        }
    }
}
