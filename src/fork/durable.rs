//! What makes a burst durable, in the protocol *build*: step 2 before the renames, steps 4 and 5 behind them.
//!
//! Where the root's file system commits in an order ([`Commits`]), step 2 only waits for the data of what is new, and step 5
//! commits contents and names together: one commit for a fork instead of one for each of its files. On btrfs what does not lie
//! ready is committed before its rename.

use super::build::{self, Built, Fresh};
use super::queue::{Record, Request};
use super::{ForkError, Forks, State};
use crate::store::fs::{Commits, Dir, FileSystem, FsError};
use crate::store::syncing::{Costs, Way};
use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

/// A request whose fork is built.
pub(super) type Done = (Request, Built);

/// What is known of the root's file system.
#[derive(Debug, Default)]
pub(super) struct Durability {
    costs: Costs,
    root: Option<(FileSystem, Root)>,
}

/// What the instances root is on.
#[derive(Debug, Clone, Copy, Default)]
struct Root {
    commits: Commits,
    /// Whether the journal is there too, so that one order holds for both.
    has_journal: bool,
}

/// A burst behind its step 2.
#[derive(Debug)]
pub(super) struct Synced {
    way: Way,
    /// Files and directories that were new.
    count: usize,
    dirty_mib: Option<f64>,
    began: Instant,
}

impl State {
    /// Writes records down and, once they are durable, applies them. `then` comes between writing and syncing.
    fn commit_before(
        &mut self,
        records: Vec<Record>,
        then: impl FnOnce(&std::fs::File, &std::path::Path) -> Result<(), FsError>,
    ) -> Result<(), ForkError> {
        self.journal()?.append_before(&records, then)?;
        records.into_iter().for_each(|record| self.queue.apply(record));
        Ok(())
    }
}

impl Forks {
    fn durability(&self) -> MutexGuard<'_, Durability> {
        self.durability.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a directory of the root is on: looked at once, and again when it is another file system.
    fn root(&self, dir: &Dir) -> Root {
        let fs = &self.store.fs;
        let Some(seen) = fs.seen(dir) else { return Root::default() };
        let mut durability = self.durability();
        match durability.root {
            Some((before, root)) if before == seen => root,
            _ => {
                let queue = self.store.layout.journal();
                let beside = queue.parent().and_then(|queue| fs.open_dir(queue).ok()).and_then(|queue| fs.seen(&queue));
                durability.root.insert((seen, Root { commits: fs.commits(dir), has_journal: beside == Some(seen) })).1
            }
        }
    }

    /// Step 2, the way that is likely to take less. `since` must be open since before the first write: see `Fs::syncfs`.
    pub(super) fn sync(&self, built: &[Done], since: Result<Dir, FsError>) -> Result<Synced, ForkError> {
        let fs = &self.store.fs;
        let dirty_mib = fs.dirty_mib();
        let count = built.iter().map(|(_, built)| build::count(built)).sum();
        if built.is_empty() {
            return Ok(Synced { way: Way::Each, count, dirty_mib, began: Instant::now() });
        }
        let since = since?;
        let commits = self.root(&since).commits;
        let way = match commits {
            Commits::Anyhow => self.durability().costs.choose(count, dirty_mib),
            Commits::InOrder | Commits::Whole => self.durability().costs.choose_in_order(count, dirty_mib),
        };
        let synced = Synced { way, count, dirty_mib, began: Instant::now() };
        match way {
            Way::Each => {
                self.sync_each(built, commits)?;
                // A sync by somebody else of the directory that it was built in would have the rename in the log tree, and not this.
                if commits == Commits::Whole && built.iter().any(|(_, built)| matches!(built.fresh, Fresh::All)) {
                    fs.commit(&since)?;
                }
            }
            Way::Whole => fs.syncfs(&since)?,
        }
        Ok(synced)
    }

    fn sync_each(&self, built: &[Done], commits: Commits) -> Result<(), ForkError> {
        let fs = &self.store.fs;
        let layout = &self.store.layout;
        // All data first: what the first sync commits of the log takes the metadata of the others along.
        for wait in [None, Some(commits)] {
            built.iter().try_for_each(|(request, built)| build::write_back(fs, &built.place(layout, request), built, wait))?;
        }
        if commits == Commits::Anyhow {
            built.iter().try_for_each(|(request, built)| build::sync(fs, &built.place(layout, request), built))?;
        }
        Ok(())
    }

    /// Steps 4 and 5: what is visible is durable, and so are requests that were left for it (`awaited.rs`). What all of it took is
    /// remembered.
    ///
    /// No `publishing` is durable before the rename, lest a start that finds neither fork nor staging take the fork for one that was
    /// there and is gone. Of one file system the order of commits sees to that; a journal on another one comes behind step 5.
    pub(super) fn settle(&self, visible: &[Done], synced: &Synced) -> Result<(), ForkError> {
        let fs = &self.store.fs;
        let publishing =
            |(r, b): &Done| Record::Publishing { id: r.id.clone(), memory: b.memory_text(), disk: b.disk_text(), started_at: r.started_at };
        let records: Vec<Record> = visible.iter().map(publishing).collect();
        let dir = fs.open_dir(self.store.layout.instances())?;
        let root = self.root(&dir);
        if root.commits != Commits::Anyhow && !root.has_journal {
            self.settle_names()?;
            self.state().commit(records)?;
        } else {
            self.state().commit_before(records, |journal, path| match root.commits {
                // One commit for both.
                Commits::Whole => fs.write_back(journal, path, root.commits).and_then(|()| fs.commit(&dir)),
                Commits::InOrder | Commits::Anyhow => Ok(()),
            })?;
            fs.fsync(&dir, dir.path())?;
        }
        self.durability().costs.learn(synced.way, synced.count, synced.dirty_mib, synced.began.elapsed());
        Ok(())
    }

    /// Whether one order of commits holds for forks, journal and refs: then what makes a fork durable does so for what was
    /// written before it.
    pub(super) fn has_one_order(&self) -> bool {
        let root = self.store.fs.open_dir(self.store.layout.instances()).map(|dir| self.root(&dir));
        root.is_ok_and(|root| root.has_journal && root.commits != Commits::Anyhow)
    }

    /// Whether the root's file system commits transactions whole: one that writes nothing in place.
    pub(super) fn commits_whole(&self) -> Result<bool, FsError> {
        let dir = self.store.fs.open_dir(self.store.layout.instances())?;
        Ok(self.root(&dir).commits == Commits::Whole)
    }

    /// Commits the running transaction of the root's file system where a fork would have to wait for it.
    pub(super) fn settle_transaction(&self) -> Result<(), FsError> {
        let fs = &self.store.fs;
        let dir = fs.open_dir(self.store.layout.instances())?;
        if self.root(&dir).commits == Commits::Whole { fs.commit(&dir) } else { Ok(()) }
    }

    /// Step 5 by itself: the forks that the root shows, which were written by then, are durable with their names.
    pub(super) fn settle_names(&self) -> Result<(), FsError> {
        self.settle_transaction()?;
        self.store.fs.fsync_dir(self.store.layout.instances())
    }
}
