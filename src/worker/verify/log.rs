//! Which snapshots' digests were compared when: what lets a run go on where another was cut short, and tells the scrub
//! whose turn it is. A convenience, not a truth: a lost log makes work, nothing else.

use crate::ids::SnapshotId;
use crate::store::counters::{read_record, write_record};
use crate::store::fs::Fs;
use crate::store::layout::Layout;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The log, as it is on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyLog {
    format: u32,
    /// When the last run of `verify` began that has not come to its end.
    pub unfinished: Option<DateTime<Utc>>,
    /// When each snapshot was last compared.
    pub at: BTreeMap<SnapshotId, DateTime<Utc>>,
}

impl Default for VerifyLog {
    fn default() -> Self {
        Self { format: 1, unfinished: None, at: BTreeMap::new() }
    }
}

impl VerifyLog {
    /// Reads the log; an empty one if there is none that can be read.
    #[must_use]
    pub fn load(fs: &Fs, layout: &Layout) -> Self {
        read_record(fs, &layout.verified()).ok().flatten().unwrap_or_default()
    }

    /// Writes the log, without snapshots that are gone.
    pub fn save(&mut self, fs: &Fs, layout: &Layout, exists: impl Fn(&SnapshotId) -> bool) {
        self.at.retain(|id, _| exists(id));
        // Whoever may not write here verifies all the same.
        let _ = write_record(fs, &layout.verified(), self);
    }
}
