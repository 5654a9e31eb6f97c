//! Marks: what has changed about a snapshot since it was taken, one small record each. A new mark is one line of [`KINDS`].

use super::compression::{COMPRESSED, Compression};
use super::index::Known;
use super::manifest::{RecordError, unseal};
use super::records::{EXPIRING, Mark, PINNED, Pinned, QUARANTINED};
use super::{counters, digests};
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;

/// What a mark that was read does to what is known.
pub(super) type Effect = Box<dyn FnOnce(&mut Known) + Send>;

/// What follows if a mark cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    /// It protects nothing, and is made anew.
    Forgotten,
    /// The same, and it is reported: there may be a newer version's behind it.
    Reported,
    /// The snapshot stays.
    Stays,
}

/// No other mark is longer.
const SHORT: u64 = 1 << 20;

/// One kind of marks.
pub(super) struct MarkKind {
    /// Its file is `<name>.json`.
    pub(super) name: &'static str,
    /// What follows if one cannot be read.
    pub(super) unread: Unread,
    /// No such mark is longer.
    pub(super) limit: u64,
    read: fn(&Path, &[u8]) -> Result<Effect, RecordError>,
}

/// All kinds, in the order in which they take effect.
pub(super) const KINDS: &[MarkKind] = &[
    MarkKind {
        name: PINNED,
        unread: Unread::Forgotten,
        limit: SHORT,
        read: |path, bytes| effect(path, bytes, |known, pinned: Pinned| known.pinned = Some(pinned)),
    },
    // It names the files that the snapshot's memory is in.
    MarkKind {
        name: COMPRESSED,
        unread: Unread::Stays,
        limit: counters::LIMIT,
        read: |path, bytes| effect(path, bytes, |known, compression: Compression| known.compression = Some(Arc::new(compression))),
    },
    MarkKind { name: digests::MARK, unread: Unread::Reported, limit: digests::LIMIT, read: digests::effect },
    MarkKind {
        name: EXPIRING,
        unread: Unread::Stays,
        limit: SHORT,
        read: |path, bytes| effect(path, bytes, |known, _: Mark| known.expiring = true),
    },
    MarkKind {
        name: QUARANTINED,
        unread: Unread::Stays,
        limit: SHORT,
        read: |path, bytes| effect(path, bytes, |known, mark: Mark| known.quarantined = Some(mark.why)),
    },
];

fn effect<T: for<'de> Deserialize<'de> + Send + 'static>(path: &Path, bytes: &[u8], set: fn(&mut Known, T)) -> Result<Effect, RecordError> {
    let record = unseal::<T>(path, bytes)?;
    Ok(Box::new(move |known| set(known, record)))
}

impl MarkKind {
    /// Whether a file of this name is such a mark.
    pub(super) fn is(&self, file: &std::ffi::OsStr) -> bool {
        file.to_str().and_then(|file| file.strip_suffix(".json")) == Some(self.name)
    }

    /// What the bytes of such a mark say.
    ///
    /// # Errors
    /// [`RecordError`].
    pub(super) fn read(&self, path: &Path, bytes: &[u8]) -> Result<Effect, RecordError> {
        (self.read)(path, bytes)
    }
}
