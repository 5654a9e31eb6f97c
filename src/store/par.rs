//! The same small work for many items, on several threads: whoever is free takes the next few. Nothing here knows what
//! the work is.

use std::sync::atomic::{AtomicUsize, Ordering};

/// So many items are taken at a time: few enough that nobody is left with much, enough that taking them costs nothing.
const CHUNK: usize = 64;

/// Works on all items and gives the results in the items' order, whichever thread made them. Each thread has a `state` of
/// its own, for example a buffer.
pub(crate) fn each<T: Sync, S, R: Send>(
    threads: usize,
    items: &[T],
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &T) -> R + Sync,
) -> impl Iterator<Item = R> {
    let next = AtomicUsize::new(0);
    let run = || {
        let (mut state, mut mine) = (state(), Vec::new());
        loop {
            let from = next.fetch_add(CHUNK, Ordering::Relaxed);
            let Some(chunk) = items.get(from..items.len().min(from.saturating_add(CHUNK))).filter(|chunk| !chunk.is_empty()) else {
                return mine;
            };
            mine.push((from, chunk.iter().map(|item| work(&mut state, item)).collect::<Vec<R>>()));
        }
    };
    let threads = threads.clamp(1, items.len().div_ceil(CHUNK).max(1));
    let mut chunks = if threads == 1 {
        run()
    } else {
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
            let mut all = run();
            for other in others {
                // Half of the results would be taken for all.
                all.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            all
        })
    };
    chunks.sort_unstable_by_key(|(from, _)| *from);
    chunks.into_iter().flat_map(|(_, results)| results)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    #[test]
    fn results_come_in_the_items_order_on_any_number_of_threads() {
        for len in [0, 1, 63, 64, 65, 1000] {
            let items: Vec<usize> = (0..len).collect();
            for threads in [0, 1, 2, 7, 100] {
                let doubled: Vec<usize> = each(threads, &items, || 0, |_, item| item * 2).collect();
                assert_eq!(doubled, (0..len).map(|item| item * 2).collect::<Vec<_>>(), "{len} items, {threads} threads");
            }
        }
    }

    #[test]
    fn a_slow_item_holds_up_nobody_else() {
        // The first item ends when all others have: with a fixed share for each thread nobody would do those behind it.
        let items: Vec<usize> = (0..CHUNK * 8).collect();
        let done = Mutex::new(BTreeSet::new());
        let work = |_: &mut (), item: &usize| {
            while *item == 0 && done.lock().unwrap().len() < items.len() - CHUNK {
                std::thread::yield_now();
            }
            done.lock().unwrap().insert(*item);
        };
        assert_eq!(each(2, &items, || (), work).count(), items.len());
    }

    #[test]
    fn a_thread_that_dies_takes_no_result_with_it_unnoticed() {
        let items: Vec<usize> = (0..CHUNK * 4).collect();
        let work = |_: &mut (), item: &usize| assert!(*item != 200, "planted");
        assert!(std::panic::catch_unwind(|| each(2, &items, || (), work).count()).is_err());
    }
}
