//! Directories that another program made of an instance, taken into the store as snapshots of the time that they are of.
//!
//! Three ways in. *Copied*: the protocol of `take`, from staging; the directory stays. *Copied, and taken away*: the same, and
//! once the snapshot is published the directory is renamed aside and removed there. *Moved*: nothing is copied.
//!
//! A move changes nothing in the directory before it is the store's, and everything after that can be done again. Its steps:
//!
//! 1. take stock of the tree where it lies, digests and all;
//! 2. `importing/<id>` with the manifest, durable;
//! 3. rename the directory to `importing/<id>/data`, sync both sides; if it changed meanwhile, or is in use, back again;
//! 4. modes and owners as the manifest wants them, sync;
//! 5. rename `importing/<id>` to `snapshots/<id>`, sync.
//!
//! A start, or the next import, goes on from step 4 where it finds `data`, and removes what it finds without.

pub mod stamp;
mod survey;
mod take_in;
mod ways;

pub use survey::{Candidate, Fate, Survey, survey};
pub use take_in::{Entered, Errand, ImportError, Pending, Way, finish_asides, finish_pending, is_the_same, take_in, take_known_away};
