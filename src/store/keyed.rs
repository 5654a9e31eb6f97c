//! Locks by key, in memory: one holder per snapshot, or per instance. The store's flock keeps other processes out.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// A set of keys that are locked at this moment.
#[derive(Debug)]
pub struct KeyedLocks<K> {
    inner: Arc<Inner<K>>,
}

#[derive(Debug)]
struct Inner<K> {
    held: Mutex<HashSet<K>>,
    freed: Condvar,
}

/// Holds one key until it is dropped.
#[derive(Debug)]
pub struct KeyGuard<K: Eq + Hash + Clone> {
    key: K,
    inner: Arc<Inner<K>>,
}

impl<K: Eq + Hash + Clone> Default for KeyedLocks<K> {
    fn default() -> Self {
        Self { inner: Arc::new(Inner { held: Mutex::new(HashSet::new()), freed: Condvar::new() }) }
    }
}

impl<K: Eq + Hash + Clone> KeyedLocks<K> {
    /// Waits until nobody holds `key`, and holds it.
    #[must_use]
    pub fn lock(&self, key: &K) -> KeyGuard<K> {
        let mut held = self.inner.held.lock().unwrap_or_else(PoisonError::into_inner);
        while held.contains(key) {
            held = self.inner.freed.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        held.insert(key.clone());
        KeyGuard { key: key.clone(), inner: Arc::clone(&self.inner) }
    }

    /// Holds `key` if nobody does.
    #[must_use]
    pub fn try_lock(&self, key: &K) -> Option<KeyGuard<K>> {
        let fresh = self.inner.held.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        fresh.then(|| KeyGuard { key: key.clone(), inner: Arc::clone(&self.inner) })
    }
}

impl<K: Eq + Hash + Clone> KeyGuard<K> {
    /// What is held.
    pub fn key(&self) -> &K {
        &self.key
    }
}

impl<K: Eq + Hash + Clone> Drop for KeyGuard<K> {
    fn drop(&mut self) {
        self.inner.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        self.inner.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
