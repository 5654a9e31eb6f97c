//! Locks by key, in memory: one holder per snapshot, or per instance. The store's flock keeps other processes out.

// Not from `std` by name: `tests/it/locks.rs` compiles this file once more, over types whose every schedule it can try.
use super::sync::{Arc, Condvar, Mutex, PoisonError};
use std::collections::HashSet;
use std::hash::Hash;

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
