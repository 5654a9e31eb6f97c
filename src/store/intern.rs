//! Values that many records have in common, each in memory once.

use std::collections::HashSet;
use std::hash::Hash;

/// Shared values. A clone of one is as cheap as a count.
#[derive(Debug)]
pub(super) struct Interned<T>(HashSet<T>);

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self(HashSet::new())
    }
}

/// More values that differ are not shared: names of snapshots, for example, would only lie here once more. Those that
/// nobody has any more stay, and that bounds them too.
const MOST: usize = 16_384;

impl<T: Eq + Hash + Clone> Interned<T> {
    /// Puts the shared one in the place of an equal value; a new one is shared from now on.
    pub(super) fn share(&mut self, value: &mut T) {
        match self.0.get(value) {
            Some(known) => *value = known.clone(),
            None if self.0.len() < MOST => drop(self.0.insert(value.clone())),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn equal_values_are_one_and_there_are_not_too_many() {
        let mut pool = Interned::default();
        let (mut one, mut other): (Arc<str>, Arc<str>) = ("a".into(), "a".into());
        pool.share(&mut one);
        pool.share(&mut other);
        assert!(Arc::ptr_eq(&one, &other));
        (0..2 * MOST).for_each(|n| pool.share(&mut n.to_string().into()));
        assert_eq!(pool.0.len(), MOST);
    }
}
