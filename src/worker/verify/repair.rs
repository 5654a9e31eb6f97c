//! What can be done about a finding without losing anything. Only told here; carried out by who has the store's lock.

use crate::ids::SnapshotId;
use crate::store::layout::Layout;
use crate::worker::view::Finding;
use std::path::Path;

/// A way to mend something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Mark the snapshot.
    Quarantine,
    /// Take that mark back.
    Lift,
    /// Bring the refs up to date with the forks that there are.
    Refs,
    /// Move it out of the way.
    Aside,
    /// Remove records of a snapshot that is nowhere.
    Records,
    /// Drop raw copies from the cache.
    Cache,
}

impl Repair {
    /// What `--repair` does about a finding; `None` if only a person can tell.
    #[must_use]
    pub fn of(finding: &Finding, layout: &Layout) -> Option<Self> {
        let path = Path::new(&finding.path);
        match finding.name.as_str() {
            "manifest.unreadable"
            | "manifest.foreign"
            | "digest.differs"
            | "hole.where_data_was"
            | "size.differs"
            | "mtime.differs"
            | "type.differs"
            | "target.differs"
            | "hardlink.differs"
            | "file.missing"
            | "file.unreadable"
            | "memory.writable" => snapshot_of(path, layout).is_some().then_some(Self::Quarantine),
            "cache.differs" | "cache.stray" => Some(Self::Cache),
            "quarantine.stale" => Some(Self::Lift),
            "fork.without_ref" | "ref.dangling" | "ref.unreadable" | "ref.without_snapshot" => Some(Self::Refs),
            "file.extra" => Some(Self::Aside),
            // A strange name among a snapshot's own refs or holds keeps that snapshot: it is not ours to take away.
            "name.strange" => {
                let tops = [layout.snapshots(), layout.trash(), layout.refs(), layout.holds(), layout.marks()];
                path.parent().is_some_and(|parent| tops.iter().any(|top| top == parent)).then_some(Self::Aside)
            }
            "hold.without_snapshot" | "mark.without_snapshot" => Some(Self::Records),
            _ => None,
        }
    }

    /// Whether that makes good what was found. A snapshot in quarantine does no harm any more, and is as bad as it was.
    #[must_use]
    pub fn mends(finding: &Finding) -> bool {
        finding.repaired && finding.repair.as_deref() != Some(Self::Quarantine.words())
    }

    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Quarantine => "quarantine the snapshot: it stays, and is not forked",
            Self::Lift => "take the snapshot out of quarantine: every digest is right",
            Self::Refs => "add the refs that are missing, drop those of forks that are proven gone",
            Self::Aside => "move it into the store's `aside` directory",
            Self::Cache => "drop the raw copies: the next fork has them made anew",
            Self::Records => "remove these records: their snapshot is nowhere",
        }
    }
}

/// The snapshot that a path of the store is about.
#[must_use]
pub fn snapshot_of(path: &Path, layout: &Layout) -> Option<SnapshotId> {
    let tops = [layout.snapshots(), layout.marks(), layout.refs()];
    let rest = tops.iter().find_map(|top| path.strip_prefix(top).ok())?;
    SnapshotId::parse(rest.components().next()?.as_os_str().to_str()?).ok()
}
