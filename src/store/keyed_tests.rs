//! Locks by key, with real threads.

use super::keyed::KeyedLocks;
use std::sync::Arc;

#[test]
fn one_key_has_one_holder_and_another_key_does_not_wait() {
    let locks = KeyedLocks::default();
    let held = locks.lock(&1);
    assert!(locks.try_lock(&1).is_none());
    assert!(locks.try_lock(&2).is_some());
    drop(held);
    assert!(locks.try_lock(&1).is_some());
}

#[test]
fn many_threads_under_one_key_lose_no_count() {
    let locks = Arc::new(KeyedLocks::default());
    let count = Arc::new(std::cell::Cell::new(0).into_inner().into());
    let count: Arc<std::sync::atomic::AtomicU32> = count;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let _held = locks.lock(&"k");
                    let seen = count.load(std::sync::atomic::Ordering::Relaxed);
                    std::thread::yield_now();
                    count.store(seen + 1, std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 2000);
}
