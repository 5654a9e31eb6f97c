//! The findings as they come, and their order at the end.

use super::repair::Repair;
use crate::store::layout::Layout;
use crate::worker::view::{Finding, Findings};
use std::path::Path;

/// Collects findings.
#[derive(Debug, Default)]
pub(super) struct Report {
    findings: Vec<Finding>,
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
        self.add(name, "error", path, what.into());
    }

    /// Something is not as it should be, and nothing is lost.
    pub(super) fn warn(&mut self, name: &str, path: &Path, what: impl Into<String>) {
        self.add(name, "warn", path, what.into());
    }

    /// Something worth knowing.
    pub(super) fn info(&mut self, name: &str, path: &Path, what: impl Into<String>) {
        self.add(name, "info", path, what.into());
    }

    fn add(&mut self, name: &str, severity: &str, path: &Path, what: String) {
        let (name, severity) = (name.to_owned(), severity.to_owned());
        self.findings.push(Finding { name, severity, path: path.display().to_string(), what, repair: None, repaired: false });
    }

    /// Where the report is now.
    pub(super) fn place(&self) -> Place {
        Place(self.findings.len())
    }

    /// Whether an error was found since.
    pub(super) fn has_error_since(&self, place: Place) -> bool {
        self.findings.iter().skip(place.0).any(|f| f.severity == "error")
    }

    /// Forgets what was found since: it was about something that is no longer there.
    pub(super) fn back_to(&mut self, place: Place) {
        self.findings.truncate(place.0);
    }

    /// All findings, worst first.
    pub(super) fn finish(mut self, layout: &Layout) -> Findings {
        for finding in &mut self.findings {
            finding.repair = Repair::of(finding, layout).map(|repair| repair.words().to_owned());
        }
        let rank = |finding: &Finding| match finding.severity.as_str() {
            "error" => 0,
            "warn" => 1,
            _ => 2,
        };
        self.findings.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.path.cmp(&b.path)).then_with(|| a.name.cmp(&b.name)));
        Findings { findings: self.findings, snapshots: self.snapshots, forks: self.forks, bytes: self.bytes }
    }
}
