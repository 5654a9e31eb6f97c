//! Packed memory files: what a cold snapshot has in the place of its raw ones, and the way back.
//!
//! A packed file is of a public format (see `table`): `unzstd` turns it into the raw file byte for byte, holes included as
//! zeros; `lz4 -d` gives its data without the holes. `plan`, `table` and `codec` are pure; `write` and `read` move bytes;
//! `compress` and `thaw` are the protocols, which say what a crash between any two of their steps leaves.

mod codec;
mod compress;
mod plan;
mod read;
mod table;
#[cfg(test)]
mod tests;
mod thaw;
mod write;

pub use compress::{CompressError, Compressed, compress, known_digest};
pub use read::unpack_file;
pub use thaw::thaw;
pub use write::{How, pack_file};

use crate::snapshot::copy::DataError;
use crate::store::fs::FsError;
use std::path::PathBuf;

/// A file that was packed, or unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Length of the packed file.
    pub bytes: u64,
    /// Digest of the raw file, in the manifest's form.
    pub digest: String,
}

/// Why a file was not packed or unpacked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] FsError),
    /// The work was told to stop.
    #[error("stopped before it was complete")]
    Cancelled,
    /// The packed file would not be so much smaller as is wanted.
    #[error("it does not become small enough")]
    NoGain,
    /// The raw file ended before its length.
    #[error("{} became shorter while it was read", path.display())]
    Short {
        /// The raw file.
        path: PathBuf,
    },
    /// A packed file is not the one that was written, or a raw one is not what the manifest says.
    #[error("{} is damaged: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that shows.
        why: String,
    },
    /// The compressor said no.
    #[error("cannot compress: {0}")]
    Codec(String),
}

impl From<DataError> for PackError {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Io(e) => Self::Io(e),
            DataError::Cancelled => Self::Cancelled,
            DataError::Short { path } => Self::Short { path },
        }
    }
}
