//! The findings as they come, and their order at the end.

use super::repair::{Repair, snapshot_of};
use crate::ids::SnapshotId;
use crate::store::layout::Layout;
use crate::worker::view::{Finding, Findings};
use std::collections::HashSet;
use std::path::Path;

/// Collects findings.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// With each, whether what can be done about its kind can be done about this one.
    findings: Vec<(Finding, bool)>,
    /// Snapshots that are marked as quarantined: there is no more to be done about what is wrong inside.
    pub(super) quarantined: HashSet<SnapshotId>,
    /// Snapshots looked at.
    pub(super) snapshots: u64,
    /// Forks looked at.
    pub(super) forks: u64,
    /// Bytes whose digests were compared.
    pub(super) bytes: u64,
}

/// A place in a report, to go back to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place(usize);

impl Report {
    /// Something is lost, or may be written to, or would be.
    pub(super) fn error(&mut self, name: &str, path: &Path, what: impl Into<String>) {
        self.add(name, "error", path, what.into(), true);
    }

    /// The same, where only a person can tell what to do.
    pub(super) fn error_for_people(&mut self, name: &str, path: &Path, what: impl Into<String>) {
        self.add(name, "error", path, what.into(), false);
    }

    /// Something is not as it should be, and nothing is lost.
    pub(super) fn warn(&mut self, name: &str, path: &Path, what: impl Into<String>) {
        self.add(name, "warn", path, what.into(), true);
    }

    /// Something worth knowing.
    pub(super) fn info(&mut self, name: &str, path: &Path, what: impl Into<String>) {
        self.add(name, "info", path, what.into(), true);
    }

    fn add(&mut self, name: &str, severity: &str, path: &Path, what: String, is_mendable: bool) {
        let (name, severity) = (name.to_owned(), severity.to_owned());
        let path = path.display().to_string();
        self.findings.push((Finding { name, severity, path, what, repair: None, repaired: false }, is_mendable));
    }

    /// Where the report is now.
    pub(super) fn place(&self) -> Place {
        Place(self.findings.len())
    }

    /// Whether an error was found since.
    pub(super) fn has_error_since(&self, place: Place) -> bool {
        self.findings.iter().skip(place.0).any(|(f, _)| f.severity == "error")
    }

    /// Forgets what was found since: it was about something that is no longer there.
    pub(super) fn back_to(&mut self, place: Place) {
        self.findings.truncate(place.0);
    }

    /// All findings, worst first.
    pub(super) fn finish(self, layout: &Layout) -> Findings {
        let is_done = |finding: &Finding, repair: Repair| {
            repair == Repair::Quarantine && snapshot_of(Path::new(&finding.path), layout).is_some_and(|id| self.quarantined.contains(&id))
        };
        let with_repair = |(mut finding, is_mendable): (Finding, bool)| {
            let repair = Repair::of(&finding, layout).filter(|repair| is_mendable && !is_done(&finding, *repair));
            finding.repair = repair.map(|repair| repair.words().to_owned());
            finding
        };
        let mut findings: Vec<Finding> = self.findings.into_iter().map(with_repair).collect();
        let rank = |finding: &Finding| match finding.severity.as_str() {
            "error" => 0,
            "warn" => 1,
            _ => 2,
        };
        findings.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.path.cmp(&b.path)).then_with(|| a.name.cmp(&b.name)));
        Findings { findings, snapshots: self.snapshots, forks: self.forks, bytes: self.bytes }
    }
}
