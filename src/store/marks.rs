//! Marks: what has changed about a snapshot since it was taken, one small record each. A new mark is one line of [`KINDS`].

use super::index::Known;
use super::manifest::{RecordError, unseal};
use super::records::{EXPIRING, Mark, PINNED, Pinned, QUARANTINED};
use serde::Deserialize;
use std::path::Path;

/// What a mark that was read does to what is known.
pub(super) type Effect = Box<dyn FnOnce(&mut Known) + Send>;

/// One kind of marks.
pub(super) struct MarkKind {
    /// Its file is `<name>.json`.
    pub(super) name: &'static str,
    /// Whether a snapshot whose mark cannot be read must stay. One that protects nothing is made anew.
    pub(super) protects: bool,
    read: fn(&Path, &[u8]) -> Result<Effect, RecordError>,
}

/// All kinds, in the order in which they take effect.
pub(super) const KINDS: &[MarkKind] = &[
    MarkKind {
        name: PINNED,
        protects: false,
        read: |path, bytes| effect(path, bytes, |known, pinned: Pinned| known.pinned = Some(pinned)),
    },
    MarkKind { name: EXPIRING, protects: true, read: |path, bytes| effect(path, bytes, |known, _: Mark| known.expiring = true) },
    MarkKind {
        name: QUARANTINED,
        protects: true,
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
