//! The forks that need one snapshot, in memory: small where there are few, and not copied for a look where there are many.

use super::index::RefTarget;
use crate::ids::ForkId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Up to so many lie in a sorted list: most snapshots have none or one, and a tree takes half a kilobyte for it.
const FEW: usize = 8;

/// Refs by fork. A clone of many shares them until one of the two changes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Refs {
    /// Sorted by fork; empty if there are many.
    few: Vec<(ForkId, RefTarget)>,
    many: Option<Arc<BTreeMap<ForkId, RefTarget>>>,
}

impl Refs {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.many.as_ref().map_or(self.few.len(), |many| many.len())
    }

    /// True if nobody needs it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the ref of a fork points.
    #[must_use]
    pub fn get(&self, fork: &ForkId) -> Option<&RefTarget> {
        match &self.many {
            Some(many) => many.get(fork),
            None => self.place(fork).ok().and_then(|at| self.few.get(at)).map(|(_, target)| target),
        }
    }

    /// Whether a fork has one.
    #[must_use]
    pub fn contains_key(&self, fork: &ForkId) -> bool {
        self.get(fork).is_some()
    }

    /// All of them, by fork id.
    pub fn iter(&self) -> impl Iterator<Item = (&ForkId, &RefTarget)> {
        let few = self.few.iter().map(|(fork, target)| (fork, target));
        few.chain(self.many.iter().flat_map(|many| many.iter()))
    }

    /// The forks, in the order of their ids.
    pub fn keys(&self) -> impl Iterator<Item = &ForkId> {
        self.iter().map(|(fork, _)| fork)
    }

    /// Adds one, or points it elsewhere.
    pub fn insert(&mut self, fork: ForkId, target: RefTarget) {
        if let Some(many) = &mut self.many {
            Arc::make_mut(many).insert(fork, target);
            return;
        }
        match self.place(&fork) {
            Ok(at) => drop(self.few.get_mut(at).map(|known| known.1 = target)),
            Err(at) if self.few.len() < FEW => {
                self.few.reserve_exact(1);
                self.few.insert(at, (fork, target));
            }
            Err(_) => {
                let mut many: BTreeMap<_, _> = std::mem::take(&mut self.few).into_iter().collect();
                many.insert(fork, target);
                self.many = Some(Arc::new(many));
            }
        }
    }

    /// Takes one out; false if it was not there.
    pub fn remove(&mut self, fork: &ForkId) -> bool {
        let Some(many) = &mut self.many else {
            return self.place(fork).map(|at| drop(self.few.remove(at))).is_ok();
        };
        let was_there = Arc::make_mut(many).remove(fork).is_some();
        if many.len() <= FEW / 2 {
            self.few = many.iter().map(|(fork, target)| (fork.clone(), target.clone())).collect();
            self.many = None;
        }
        was_there
    }

    /// Takes all out.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn place(&self, fork: &ForkId) -> Result<usize, usize> {
        self.few.binary_search_by(|(known, _)| known.cmp(fork))
    }
}

impl std::fmt::Debug for Refs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl FromIterator<(ForkId, RefTarget)> for Refs {
    fn from_iter<I: IntoIterator<Item = (ForkId, RefTarget)>>(all: I) -> Self {
        let mut refs = Self::default();
        refs.extend(all);
        refs
    }
}

impl Extend<(ForkId, RefTarget)> for Refs {
    fn extend<I: IntoIterator<Item = (ForkId, RefTarget)>>(&mut self, all: I) {
        all.into_iter().for_each(|(fork, target)| self.insert(fork, target));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fork(n: u8) -> ForkId {
        ForkId::parse(&format!("faaaaaaaaaaaaaa{}{}", char::from(b'a' + n / 26), char::from(b'a' + n % 26))).unwrap()
    }

    proptest! {
        #[test]
        fn refs_are_what_a_plain_map_says(steps in prop::collection::vec((0..40u8, 0..4u8), 0..200)) {
            let (mut refs, mut model, mut clones) = (Refs::default(), BTreeMap::new(), Vec::new());
            for (n, step) in steps {
                match step {
                    0 | 1 => {
                        let target = RefTarget::At(format!("/vms/{n}-{step}").into());
                        refs.insert(fork(n), target.clone());
                        model.insert(fork(n), target);
                    }
                    2 => prop_assert_eq!(refs.remove(&fork(n)), model.remove(&fork(n)).is_some()),
                    _ => clones.push((refs.clone(), model.clone())),
                }
                prop_assert_eq!(refs.len(), model.len());
                prop_assert_eq!(refs.get(&fork(n)), model.get(&fork(n)));
                prop_assert!(refs.iter().eq(model.iter()));
            }
            // A clone is of its own moment.
            for (refs, model) in clones {
                prop_assert!(refs.iter().eq(model.iter()));
            }
        }
    }
}
