//! The ready pool: what lies in it is no stray, but what is not ours, or not whole, is a finding.

use super::Check;
use crate::store::fs::{Below, FileType};
use crate::store::layout::Layout;
use crate::store::manifest::{Manifest, Node};
use crate::store::pool::{is_blank, list};
use std::path::Path;

impl Check<'_> {
    /// Every entry against the manifest of its snapshot, by what its files look like. Entries whose snapshot is not in the
    /// store, what was cut short, and what was handed out when a crash came are unlinked by the worker when it comes by.
    pub(super) fn pool(&mut self) {
        let listing = match list(self.fs, self.layout) {
            Ok(listing) => listing,
            Err(e) => return self.report.error("tree.unreadable", &self.layout.pool(), e.to_string()),
        };
        for path in listing.strange {
            self.report.warn("pool.strange", &path, "it is nothing of the pool's, and stays");
        }
        for (id, names) in listing.whole {
            if !self.present.contains(&id) {
                continue;
            }
            // One that cannot be read is a finding already.
            let Ok(manifest) = Manifest::read(self.fs, &Layout::manifest_in(&self.layout.snapshot(&id)), &id) else { continue };
            for name in names {
                let entry = self.layout.pool_entry(&id, &name.to_string());
                // Looked at twice: the first thing that is written into one that is handed out meanwhile is its record.
                if self.damage(&entry, &manifest).is_some()
                    && let Some(what) = self.damage(&entry, &manifest)
                    && !self.is_gone(&entry)
                {
                    self.report.warn("pool.damaged", &entry, what);
                }
            }
        }
    }

    /// What of an entry is not as its snapshot has it; files that get their contents when it is handed out are blank.
    fn damage(&self, entry: &Path, manifest: &Manifest) -> Option<String> {
        let mut below = match Below::open(self.fs, entry) {
            Ok(below) => below,
            Err(e) => return Some(e.to_string()),
        };
        let mut look = |path: &Path| self.fs.stat(below.place(path)?);
        let record = Layout::fork_record_in(Path::new(""));
        match look(&record) {
            Ok(meta) if is_blank(meta.size) => {}
            // It is being handed out, or was when a crash came; then the next start unlinks it.
            Ok(_) => return None,
            Err(e) => return Some(format!("{e}; it is not handed out")),
        }
        for part in &manifest.entries {
            let path = part.path.as_path();
            let Node::File(_) = &part.node else { continue };
            match look(path) {
                Ok(meta) if part.is_unchanged(&meta) || (meta.kind == FileType::Regular && is_blank(meta.size)) => {}
                Ok(_) => return Some(format!("{} is not as it was made; it is not handed out", path.display())),
                Err(e) => return Some(format!("{e}; it is not handed out")),
            }
        }
        None
    }
}
