//! Who the store is, and the proof that the directory at the instances path is the root that belongs to it.

use super::fs::{Fs, FsError};
use super::layout::Layout;
use super::manifest::{FORMAT, RecordError, seal, unseal};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use uuid::Uuid;

/// `FORMAT` in the store and `.snapkeep/root` in the instances root hold the same pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Format of the store.
    pub format: u32,
    /// The store's own id.
    pub store: Uuid,
    /// The id of the instances root that belongs to it.
    pub root: Uuid,
}

/// Evidence, of this moment, that the right root is mounted: what drops refs or removes things asks for it.
#[derive(Debug)]
pub struct RootProof(());

/// Why the instances root is not proven.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// There is no proof in it: not mounted, or never initialised.
    #[error("{} is missing: is the instances root mounted? (`snapkeep init` makes it on a new root)", path.display())]
    Missing {
        /// The proof's path.
        path: PathBuf,
    },
    /// It belongs to another store.
    #[error("{} belongs to another store or root", path.display())]
    Foreign {
        /// The proof's path.
        path: PathBuf,
    },
    /// The proof cannot be read.
    #[error(transparent)]
    Unreadable(#[from] RecordError),
}

impl From<FsError> for RootError {
    fn from(e: FsError) -> Self {
        Self::Unreadable(RecordError::Io(e))
    }
}

impl Identity {
    /// A new identity.
    #[must_use]
    pub fn generate() -> Self {
        Self { format: FORMAT, store: Uuid::new_v4(), root: Uuid::new_v4() }
    }

    /// The store's identity; `None` if it has none yet.
    ///
    /// # Errors
    /// [`RecordError`]: unreadable, damaged or newer.
    pub fn of_store(fs: &Fs, layout: &Layout) -> Result<Option<Self>, RecordError> {
        let path = layout.format();
        match fs.read_small(&path, 4096) {
            Ok(bytes) => unseal(&path, &bytes).map(Some),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Proves that the instances root is this store's, by reading it now.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn prove(&self, fs: &Fs, layout: &Layout) -> Result<RootProof, RootError> {
        let path = layout.root_proof();
        let bytes = match fs.read_small(&path, 4096) {
            Ok(bytes) => bytes,
            Err(e) if e.is_not_found() => return Err(RootError::Missing { path }),
            Err(e) => return Err(e.into()),
        };
        let found: Self = unseal(&path, &bytes)?;
        if found == *self { Ok(RootProof(())) } else { Err(RootError::Foreign { path }) }
    }

    /// The bytes of the record.
    ///
    /// # Errors
    /// Never in practice.
    pub fn bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        seal(self)
    }
}
