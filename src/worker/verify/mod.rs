//! `verify`: an independent walk over the disk. It shares no code with the store's index, changes nothing, and never
//! stops at the first thing it finds.

mod roots;
mod snapshot;

use super::view::{Finding, Findings};
use crate::ids::ForkId;
use crate::snapshot::copy::Flow;
use crate::store::fs::Fs;
use crate::store::layout::Layout;
use std::collections::HashSet;
use std::path::Path;

/// Walks store and instances root. `unfinished` are the fork requests that the queue has in hand.
#[must_use]
pub fn verify(fs: &Fs, layout: &Layout, unfinished: &HashSet<ForkId>, flow: Flow<'_>) -> Findings {
    let mut walk = Walk { fs, layout, flow, found: Findings::default() };
    let snapshots = walk.snapshots();
    walk.roots(&snapshots, unfinished);
    walk.found.findings.sort_by_key(|f| match f.severity.as_str() {
        "error" => 0,
        "warn" => 1,
        _ => 2,
    });
    walk.found
}

/// The walk, and what it has found so far.
struct Walk<'a> {
    fs: &'a Fs,
    layout: &'a Layout,
    flow: Flow<'a>,
    found: Findings,
}

impl Walk<'_> {
    fn find(&mut self, severity: &str, name: &str, path: &Path, what: impl Into<String>) {
        self.found.findings.push(Finding {
            name: name.to_owned(),
            severity: severity.to_owned(),
            path: path.display().to_string(),
            what: what.into(),
        });
    }

    fn error(&mut self, name: &str, path: &Path, what: impl Into<String>) {
        self.find("error", name, path, what);
    }

    fn warn(&mut self, name: &str, path: &Path, what: impl Into<String>) {
        self.find("warn", name, path, what);
    }

    fn info(&mut self, name: &str, path: &Path, what: impl Into<String>) {
        self.find("info", name, path, what);
    }
}
