//! `verify` with its log, its rate and its repairs.

use super::Worker;
use super::verify::log::VerifyLog;
use super::verify::repair::{Repair, snapshot_of};
use super::verify::throttle::Throttled;
use super::verify::{Options, verify_with};
use super::view::{Finding, Findings, VerifyBody};
use crate::event::Event;
use crate::fork::queue::Request;
use crate::ids::{ForkId, SnapshotId};
use crate::policy::SnapshotState;
use crate::snapshot::copy::Flow;
use crate::store::fs::{FsError, Op};
use crate::store::{Store, StoreError};
use std::collections::HashSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How often the log is written while a run goes on.
const SAVE: Duration = Duration::from_secs(5);

/// `verify`, with what the queue has in hand. Changes nothing but the log of what was compared.
pub(super) fn verify_store(store: &Store, requests: &[Request], body: &VerifyBody, flow: Flow<'_>) -> Findings {
    let unfinished: HashSet<ForkId> = requests.iter().filter(|r| !r.state.is_final()).map(|r| r.id.clone()).collect();
    if body.quick {
        let none = Options { compare: &|_| false, ..Options::default() };
        return verify_with(&store.fs, &store.layout, &unfinished, &none, flow);
    }
    let throttled = body.rate.map(|rate| Throttled::new(flow.progress, store.clock.as_ref(), flow.cancelled, rate));
    let flow = throttled.as_ref().map_or(flow, |throttled| Flow { progress: throttled, ..flow });
    let run = Run::begin(store, body.resume);
    let options = Options { compare: &|id| run.wants(id), compared: &|id| run.note(id) };
    let findings = verify_with(&store.fs, &store.layout, &unfinished, &options, flow);
    run.end(!flow.is_cancelled());
    findings
}

/// A run of `verify` and its log.
struct Run<'a> {
    store: &'a Store,
    /// What was compared since need not be compared again.
    since: Option<chrono::DateTime<chrono::Utc>>,
    state: Mutex<(VerifyLog, Duration)>,
}

impl<'a> Run<'a> {
    fn begin(store: &'a Store, resume: bool) -> Self {
        let mut log = VerifyLog::load(&store.fs, &store.layout);
        let since = log.unfinished.filter(|_| resume);
        log.unfinished = Some(since.unwrap_or_else(|| store.clock.now()));
        Self { store, since, state: Mutex::new((log, store.clock.since_boot())) }
    }

    fn wants(&self, id: &SnapshotId) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.since.is_none_or(|since| state.0.at.get(id).is_none_or(|at| *at < since))
    }

    fn note(&self, id: &SnapshotId) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.at.insert(id.clone(), self.store.clock.now());
        let now = self.store.clock.since_boot();
        if now.saturating_sub(state.1) >= SAVE {
            state.1 = now;
            save(self.store, &mut state.0);
        }
    }

    fn end(self, is_complete: bool) {
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if is_complete {
            state.0.unfinished = None;
        }
        save(self.store, &mut state.0);
    }
}

pub(super) fn save(store: &Store, log: &mut VerifyLog) {
    let index = store.index();
    log.save(&store.fs, &store.layout, |id| index.get(id).is_some_and(|known| known.present));
}

impl Worker {
    /// Drops the raw copies that a path of the cache is about, unless a fork uses them at this moment.
    fn drop_raw_copies(&self, path: &Path) -> Result<(), StoreError> {
        let name = path.strip_prefix(self.store.layout.cache()).ok().and_then(|rest| rest.components().next());
        let Some(name) = name.map(|name| name.as_os_str()) else { return Ok(()) };
        match name.to_str().map(SnapshotId::parse) {
            Some(Ok(id)) => {
                let guard = self.store.lock_snapshot(&id);
                let is_wanted = !self.forks.waiting_for(&id).is_empty();
                if is_wanted || !self.store.drop_cached(&guard)? {
                    let path = path.to_owned();
                    return Err(FsError { op: Op::Unlink, path, source: nix::errno::Errno::EBUSY }.into());
                }
                // What nobody knew of goes too.
                Ok(self.store.fs.remove_tree(&self.store.layout.cache_of(&id))?)
            }
            _ => self.move_aside(path),
        }
    }

    /// Mends what can be mended; each finding then says whether it was.
    pub(super) fn repair(&self, findings: &mut Findings) {
        let layout = &self.store.layout;
        let mut wants_refs = false;
        let mut wants_records = false;
        for finding in findings.findings.iter_mut().filter(|finding| finding.repair.is_some()) {
            let done = match Repair::of(finding, layout) {
                Some(Repair::Quarantine) => self.quarantine_for(finding),
                Some(Repair::Lift) => self.lift_quarantine(finding),
                Some(Repair::Cache) => self.drop_raw_copies(Path::new(&finding.path)),
                Some(Repair::Aside) => self.move_aside(Path::new(&finding.path)),
                Some(Repair::Refs) => {
                    wants_refs = true;
                    match self.make_way(finding) {
                        Ok(()) => continue,
                        failed => failed,
                    }
                }
                Some(Repair::Records) => {
                    wants_records = true;
                    continue;
                }
                None => continue,
            };
            match done {
                Ok(()) => finding.repaired = true,
                Err(e) => finding.what = format!("{}; it could not be mended: {e}", finding.what),
            }
        }
        if wants_refs {
            if let Err(e) = self.store.reread_refs() {
                tracing::debug!(error = %e, "refs stay as they are known");
            }
            self.forks.forget_all_names();
            self.look_at_root();
        }
        if wants_records && let Err(e) = self.store.clear_orphan_records() {
            tracing::debug!(error = %e, "orphan records stay");
        }
        if wants_refs || wants_records {
            self.note_what_is_gone(findings);
        }
    }

    /// Sets a hundred things right at once: whether each is, a second look tells.
    fn note_what_is_gone(&self, findings: &mut Findings) {
        let again = verify_store(&self.store, &self.forks.requests(), &VerifyBody { quick: true, ..VerifyBody::default() }, self.flow());
        let left: HashSet<(&str, &str)> = again.findings.iter().map(|f| (f.name.as_str(), f.path.as_str())).collect();
        for finding in &mut findings.findings {
            let is_of_those =
                finding.repair.is_some() && matches!(Repair::of(finding, &self.store.layout), Some(Repair::Refs | Repair::Records));
            finding.repaired |= is_of_those && !left.contains(&(finding.name.as_str(), finding.path.as_str()));
        }
    }

    fn quarantine_for(&self, finding: &Finding) -> Result<(), StoreError> {
        let Some(id) = snapshot_of(Path::new(&finding.path), &self.store.layout) else { return Ok(()) };
        self.quarantine(&id, &format!("{}: {}", finding.name, finding.path))
    }

    /// Marks a snapshot that failed a check, once.
    pub(super) fn quarantine(&self, id: &SnapshotId, why: &str) -> Result<(), StoreError> {
        let guard = self.store.lock_snapshot(id);
        let known = self.store.known(id)?;
        if known.quarantined.is_some() {
            return Ok(());
        }
        // One whose manifest could not be read at the start was reported then.
        if known.state() != SnapshotState::Quarantined {
            self.store.events.emit(Event::SnapshotQuarantined { snapshot: id.to_string(), why: why.to_owned() });
        }
        self.store.mark_quarantined(&guard, why)?;
        drop(guard);
        self.forks.forget_recipe(id);
        Ok(())
    }

    fn lift_quarantine(&self, finding: &Finding) -> Result<(), StoreError> {
        let Some(id) = snapshot_of(Path::new(&finding.path), &self.store.layout) else { return Ok(()) };
        self.store.clear_quarantined(&self.store.lock_snapshot(&id))
    }

    /// What stands where a ref should be goes aside, and the ref is made again after that.
    fn make_way(&self, finding: &Finding) -> Result<(), StoreError> {
        let path = Path::new(&finding.path);
        match snapshot_of(path, &self.store.layout) {
            Some(id) if finding.name == "ref.unreadable" => {
                let _guard = self.store.lock_snapshot(&id);
                self.move_aside(path)
            }
            _ => Ok(()),
        }
    }

    /// Moves something of the store into its `aside` directory, under a name that tells where it was.
    fn move_aside(&self, path: &Path) -> Result<(), StoreError> {
        let (fs, layout) = (&self.store.fs, &self.store.layout);
        let mut was = path.strip_prefix(layout.store()).unwrap_or(path).to_string_lossy().replace('/', "%");
        // The end of a long one: no name has more than 255 bytes.
        let from = was.len().saturating_sub(200);
        was.drain(..(from..).find(|at| was.is_char_boundary(*at)).unwrap_or(0));
        let stamp = self.store.clock.now().format("%Y%m%d-%H%M%S%.6f");
        fs.mkdir_if_missing(&layout.aside(), 0o700)?;
        fs.rename_new(path, &layout.aside().join(format!("{stamp}-{was}")))?;
        fs.fsync_dir(&layout.aside())?;
        fs.fsync_dir(layout.store())?;
        Ok(fs.fsync_dir(path.parent().unwrap_or(layout.store()))?)
    }
}
