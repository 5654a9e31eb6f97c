//! What snapshots that go have besides their trees: refs and holds, which the cut looks for again, and marks and raw files,
//! which go behind them. Of many snapshots most have none, and one listing tells so of all of them.

use super::fs::FsError;
use super::open::Store;
use super::{StoreError, load};
use crate::ids::SnapshotId;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// From so many snapshots on a listing is worth a try.
const MANY: usize = 16;
/// It is given up if it has more names than so many for each of them.
const NAMES_EACH: usize = 8;

/// Names in a directory of records; `None` if they were not listed.
type Names = Option<HashSet<OsString>>;

/// Which snapshots have records, of each kind.
#[derive(Debug, Default)]
pub struct Leftovers {
    refs: Names,
    holds: Names,
    marks: Names,
    cache: Names,
}

impl Store {
    /// Which refs and holds there may be of a batch of so many snapshots. The caller has the locks of all of them.
    #[must_use]
    pub fn refs_and_holds_of_many(&self, snapshots: usize) -> Leftovers {
        let list = |dir: &Path| self.names_for(dir, snapshots);
        Leftovers { refs: list(&self.layout.refs()), holds: list(&self.layout.holds()), ..Leftovers::default() }
    }

    /// What there may be of a batch of so many snapshots that are being unlinked.
    #[must_use]
    pub fn leftovers_of_many(&self, snapshots: usize) -> Leftovers {
        let list = |dir: &Path| self.names_for(dir, snapshots);
        Leftovers { marks: list(&self.layout.marks()), cache: list(&self.layout.cache()), ..self.refs_and_holds_of_many(snapshots) }
    }

    /// What cannot be listed is looked for by itself, and fails there.
    fn names_for(&self, dir: &Path, snapshots: usize) -> Names {
        if snapshots < MANY { None } else { self.fs.names_up_to(dir, snapshots.saturating_mul(NAMES_EACH)).ok().flatten() }
    }

    /// Reads from the disk how many refs and holds a snapshot has, for the cut.
    ///
    /// # Errors
    /// [`StoreError::Io`] if a listing fails: then nothing is known.
    pub fn refs_and_holds_on_disk(&self, id: &SnapshotId, leftovers: &Leftovers) -> Result<(usize, usize), StoreError> {
        let list = |dir: PathBuf, names: &Names| if may_have(names, id) { self.fs.list_if_there(&dir) } else { Ok(Vec::new()) };
        let refs = list(self.layout.refs_of(id), &leftovers.refs)?;
        let holds = list(self.layout.holds_of(id), &leftovers.holds)?;
        Ok((refs.iter().filter(|e| !load::is_temporary(&e.name)).count(), holds.len()))
    }

    /// Removes what is left of a snapshot after its tree: raw files, marks, refs, holds.
    pub(super) fn remove_records(&self, id: &SnapshotId, leftovers: &Leftovers) -> Result<(), FsError> {
        let Leftovers { refs, holds, marks, cache } = leftovers;
        let layout = &self.layout;
        let dirs = [(layout.cache_of(id), cache), (layout.marks_of(id), marks), (layout.refs_of(id), refs), (layout.holds_of(id), holds)];
        for (dir, _) in dirs.iter().filter(|(_, names)| may_have(names, id)) {
            self.fs.remove_tree(dir)?;
        }
        self.change(id, |known| {
            known.refs.clear();
            known.holds.clear();
        });
        Ok(())
    }
}

fn may_have(names: &Names, id: &SnapshotId) -> bool {
    names.as_ref().is_none_or(|names| names.contains(OsStr::new(id.as_str())))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "tests make what the code under test looks at")]

    use super::*;
    use crate::store::fs::Fs;

    #[test]
    fn a_listing_tells_of_all_names_or_of_none() {
        let (temp, fs) = (tempfile::tempdir().unwrap(), Fs::real());
        let dir = temp.path().join("refs");
        assert_eq!(fs.names_up_to(&dir, 0).unwrap(), Some(HashSet::new()), "what is not there has none");
        std::fs::create_dir(&dir).unwrap();
        let names: HashSet<OsString> = (0..3000).map(|n| format!("a name that is not short, {n}").into()).collect();
        names.iter().for_each(|name| std::fs::create_dir(dir.join(name)).unwrap());
        assert_eq!(fs.names_up_to(&dir, 3000).unwrap().as_ref(), Some(&names));
        assert_eq!(fs.names_up_to(&dir, 2999).unwrap(), None);
    }

    #[test]
    fn what_was_not_listed_may_be_there() {
        let id = SnapshotId::parse("20261124-090347-abcdefgh").unwrap();
        assert!(may_have(&None, &id));
        assert!(!may_have(&Some(HashSet::new()), &id));
        assert!(may_have(&Some(HashSet::from([id.as_str().into()])), &id));
    }
}
