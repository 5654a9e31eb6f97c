//! A prune: plan, carry out, report. One that fails or must stay never stops the rest.

use super::Worker;
use super::backend::Answer;
use super::planning::{self, Purpose};
use super::problem::{Problem, ProblemKind};
use super::view::{BlockedView, FailedRemoval, PruneBody, PruneReport};
use crate::config::show_size;
use crate::event::Event;
use crate::ids::SnapshotId;
use crate::policy::cap::{Capped, Caps};
use crate::policy::{Plan, PlanEntry, Rule, Side, Verdict};
use crate::reclaim::{ReclaimError, Removal, SweepRules, Swept};
use crate::store::fs::Pace;
use crate::store::trash::Trashed;
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tracing::debug_span;

/// Whom a prune is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// Somebody who wants to know what it frees: measuring that looks at every file.
    Somebody,
    /// The worker itself.
    Itself,
}

impl Worker {
    /// Plans for all policies and carries it out.
    ///
    /// # Errors
    /// [`Problem`] if no plan can be made.
    pub fn prune_pass(&self) -> Answer<PruneReport> {
        self.prune_by(&PruneBody::default(), For::Itself)
    }

    /// Prunes; where the file system is too full, again and again until it is not, or nothing more may go: what several
    /// snapshots share comes free with the last of them, so it must be measured again after each round. It ends as well when
    /// a round frees much less than was measured, for then somebody holds the blocks, and more removals would free no more.
    pub(super) fn prune_by(&self, body: &PruneBody, who: For) -> Answer<PruneReport> {
        let _one = self.pruning.lock().unwrap_or_else(PoisonError::into_inner);
        let began = self.store.clock.since_boot();
        let _span = debug_span!("prune").entered();
        let mut used = self.used();
        let (mut report, mut for_space) = self.prune_round(body, who, 0)?;
        let again = PruneBody { hash: None, ..body.clone() };
        while for_space > 0 && body.hash.is_none() && report.left == 0 && !self.stopping.load(Ordering::SeqCst) {
            // From here on something has gone, and the report of that must not be lost: what fails is an event.
            let freed = self.sweep().map(|_| {
                self.settle();
                let before = std::mem::replace(&mut used, self.used());
                before.saturating_sub(used)
            });
            let next = match freed {
                Ok(freed) if freed < for_space / 2 => break,
                Ok(_) => self.prune_round(&again, who, report.removed.len()),
                Err(problem) => Err(problem),
            };
            let (round, went) = match next {
                Ok(next) => next,
                Err(problem) => {
                    self.store.events.emit(Event::PruneFailed { snapshot: String::new(), error: problem.detail });
                    break;
                }
            };
            for_space = went;
            report.removed.extend(round.removed);
            report.freed_bytes += round.freed_bytes;
            (report.blocked, report.failed, report.left) = (round.blocked, round.failed, round.left);
        }
        self.note_space(report.left > 0);
        self.report_finished(&report, self.store.clock.since_boot().saturating_sub(began));
        Ok(report)
    }

    /// Whether any of these lies in the trash still.
    pub(super) fn are_in_trash(&self, ids: &[SnapshotId]) -> bool {
        let trash = self.store.layout.trash();
        let listed = || self.store.trash_listed(&trash).unwrap_or_default();
        let entries = self.store.trash_entries(&trash).unwrap_or_else(|_| listed());
        let ids: HashSet<&SnapshotId> = ids.iter().collect();
        entries.iter().filter(|entry| !entry.is_doomed).filter_map(Trashed::snapshot).any(|id| ids.contains(&id))
    }

    /// Bytes of the store's file system that are used; 0 if that cannot be told.
    fn used(&self) -> u64 {
        self.store.fs.space(self.store.layout.store()).map_or(0, |space| space.size.saturating_sub(space.free))
    }

    /// One plan, carried out, after `gone` removals of the same run; and how many bytes went because space is short, as
    /// measured.
    fn prune_round(&self, body: &PruneBody, who: For, gone: usize) -> Answer<(PruneReport, u64)> {
        debug_span!("look").in_scope(|| self.look_at_root());
        let plan = debug_span!("plan").in_scope(|| planning::plan(self, &self.config(), &body.policies, None, Purpose::Done))?;
        if let Some(wanted) = body.hash.as_ref().filter(|wanted| **wanted != plan.hash) {
            let detail = format!("it is no longer the plan {wanted}, but {}; look at it again with `snapkeep plan`", plan.hash);
            return Err(Problem::new(ProblemKind::Conflict, detail));
        }
        self.report_plan(&plan);
        let grace_seconds = self.config().trash.grace.as_secs();
        let mut report = PruneReport { hash: plan.hash.clone(), grace_seconds, ..PruneReport::default() };
        // A plan that somebody has looked at is done as it is.
        let caps = if body.hash.is_some() { Caps::default() } else { self.config().caps };
        let (removals, capped) = caps.apply(&plan, gone);
        let for_space = debug_span!("cut", snapshots = removals.len()).in_scope(|| self.carry_out(&removals, who, &mut report));
        if let Some(capped) = capped {
            self.report_capped(&plan, capped, &mut report);
        }
        let blocked = plan.entries.iter().filter(|entry| entry.verdict == Verdict::Blocked);
        report.blocked.extend(blocked.map(blocked_view));
        self.report_blocked(&report.blocked);
        self.note_pinned(&plan);
        Ok((report, for_space))
    }

    /// Has the file system count what was unlinked: some free it only when they commit.
    fn settle(&self) {
        let synced = self.store.fs.open_dir(self.store.layout.store()).and_then(|dir| self.store.fs.syncfs(&dir));
        if let Err(e) = synced {
            tracing::debug!(error = %e, "not synced: free space may be counted late");
        }
    }

    /// Whether the file system has become too full since the last prune. One that could not help, or that a cap ended, is
    /// followed by the next at its own time, or a cap would bound nothing.
    #[must_use]
    pub fn is_filling(&self) -> bool {
        self.config().fill.is_some() && !self.space_pressed.load(Ordering::SeqCst) && planning::pressure(self, &self.config()).is_some()
    }

    /// Reports, once each time, that the file system stays too full whatever was removed; what a cap has left may still go.
    fn note_space(&self, is_capped: bool) {
        let pressure = planning::pressure(self, &self.config()).filter(|pressure| pressure.wanted() > 0);
        self.space_pressed.store(pressure.is_some(), Ordering::SeqCst);
        if is_capped {
            return;
        }
        let was_short = self.space_short.swap(pressure.is_some(), Ordering::SeqCst);
        if let Some(pressure) = pressure.filter(|_| !was_short) {
            let (used, size, until) = (pressure.used, pressure.size, pressure.until);
            self.store.events.emit(Event::SpaceShort { used, size, until, at: self.store.clock.now() });
        }
    }

    /// Removes what a plan says; returns how many bytes went because space is short, as measured.
    fn carry_out(&self, entries: &[&PlanEntry], who: For, report: &mut PruneReport) -> u64 {
        let frees = |entry: &&PlanEntry| match who {
            For::Somebody => self.store.reclaimable_bytes(&entry.snapshot_id, Duration::ZERO).unwrap_or(0),
            For::Itself => 0,
        };
        let frees: Vec<u64> = entries.iter().map(frees).collect();
        let removal = |entry: &&PlanEntry| Removal {
            id: entry.snapshot_id.clone(),
            reasons: entry.rules(Side::Remove).map(|rule| rule.name().to_owned()).collect(),
        };
        let removals: Vec<Removal> = entries.iter().map(removal).collect();
        let answers = self.reclaim.remove_all(&removals, self.config().trash.grace);
        let mut for_space = 0_u64;
        for ((entry, frees), answer) in entries.iter().zip(frees).zip(answers) {
            let id = &entry.snapshot_id;
            match answer {
                Ok(_) => {
                    report.removed.push(id.clone());
                    report.freed_bytes += frees;
                    if entry.rules(Side::Remove).any(|rule| rule == Rule::Space) {
                        for_space = for_space.saturating_add(entry.reclaimable_bytes);
                    }
                }
                // Between the plan and the cut somebody began to need it.
                Err(ReclaimError::Blocked { blocked, .. }) => report.blocked.push(BlockedView {
                    id: id.clone(),
                    why: blocked.why.iter().map(ToString::to_string).collect(),
                    forks: blocked.forks,
                }),
                Err(e) => {
                    self.store.events.emit(Event::PruneFailed { snapshot: id.to_string(), error: e.to_string() });
                    report.failed.push(FailedRemoval { id: id.clone(), error: e.to_string() });
                }
            }
        }
        for_space
    }

    /// A run in which nothing went is not worth a line.
    fn report_finished(&self, report: &PruneReport, took: Duration) {
        if report.removed.len() + report.failed.len() > 0 {
            self.store.events.emit(Event::PruneFinished {
                hash: report.hash.clone(),
                removed: report.removed.len() as u64,
                failed: report.failed.len() as u64,
                blocked: report.blocked.len() as u64,
                left: report.left,
                duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                at: self.store.clock.now(),
            });
        }
    }

    fn report_capped(&self, plan: &Plan, capped: Capped, report: &mut PruneReport) {
        report.left = (capped.wanted - capped.allowed) as u64;
        self.store.events.emit(Event::PruneCapped {
            hash: plan.hash.clone(),
            by: capped.by.to_owned(),
            wanted: capped.wanted as u64,
            allowed: capped.allowed as u64,
            at: plan.at,
        });
    }

    /// A plan that does nothing is not worth a line.
    fn report_plan(&self, plan: &Plan) {
        let count = |verdict| plan.entries.iter().filter(|e| e.verdict == verdict).count() as u64;
        if count(Verdict::Remove) > 0 {
            self.store.events.emit(Event::PrunePlanned {
                hash: plan.hash.clone(),
                at: plan.at,
                keep: count(Verdict::Keep),
                remove: count(Verdict::Remove),
                blocked: count(Verdict::Blocked),
            });
        }
    }

    /// Reports what must stay, once for each snapshot and reason, not at every pass.
    fn report_blocked(&self, blocked: &[BlockedView]) {
        let mut known = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        let now = blocked.iter().map(|b| (b.id.to_string(), b.why.join(","))).collect();
        for view in blocked.iter().filter(|b| !known.contains(&(b.id.to_string(), b.why.join(",")))) {
            self.store.events.emit(Event::PruneBlocked { snapshot: view.id.clone(), why: view.why.clone(), forks: view.forks.clone() });
        }
        *known = now;
    }

    /// Unlinks what lies in the trash and whose grace is over.
    ///
    /// # Errors
    /// [`Problem`] if the trash cannot be listed.
    pub fn sweep(&self) -> Answer<Swept> {
        let _span = debug_span!("unlink").entered();
        let trash = self.config().trash;
        let rest = Duration::from_secs(1).checked_div(trash.unlink_rate).unwrap_or_default();
        // One that rests between files gains nothing from a second one, and more than two wait for the file system's journal.
        let is_shared = self.store.fs.unlinks_side_by_side(self.store.layout.store());
        let threads = if rest.is_zero() && is_shared { self.config().threads.clamp(1, 2) } else { 1 };
        let bytes = trash.unlink_bytes.map(|rate| rate / threads as u64);
        let pressure = planning::pressure(self, &self.config());
        let rules = SweepRules {
            free: pressure.map_or(0, |pressure| pressure.used.saturating_sub(pressure.until)),
            grace: trash.grace,
            fork_grace: trash.fork_grace,
            max_bytes: trash.max_bytes,
            pace: Some(Pace { rest, bytes, stop: Arc::clone(&self.stopping) }),
            threads,
        };
        let swept = self.reclaim.sweep_by(&rules).map_err(|e| problem_of_reclaim(&e));
        if let Err(e) = self.store.keep_ballast() {
            tracing::debug!(error = %e, "no ballast: the next sweep tries again");
        }
        swept
    }

    /// Has the trash looked at soon by whoever does that, or now, if nobody does: a verb need not wait for files to go.
    /// What fails here is reported and tried again by the next sweep; what the verb was asked for is done already.
    pub(super) fn sweep_soon(&self) {
        match self.sweeper.get() {
            Some(wake) => wake(),
            None => {
                if let Err(problem) = self.sweep() {
                    self.store.events.emit(Event::PruneFailed { snapshot: String::new(), error: problem.detail });
                }
            }
        }
    }
}

fn blocked_view(entry: &PlanEntry) -> BlockedView {
    let why = entry.rules(Side::Block).map(|rule| rule.name().to_owned()).collect();
    BlockedView { id: entry.snapshot_id.clone(), why, forks: entry.forks.clone() }
}

/// A removal's error as the outside sees it.
pub(super) fn problem_of_reclaim(e: &ReclaimError) -> Problem {
    match e {
        ReclaimError::Blocked { blocked, .. } => {
            let size = blocked.reclaimable_bytes;
            let freed = size.map_or_else(String::new, |bytes| format!(" (its removal would free {})", show_size(bytes)));
            Problem {
                forks: blocked.forks.clone(),
                holds: blocked.holds.clone(),
                reclaimable_bytes: size,
                ..Problem::new(ProblemKind::Conflict, format!("{e}{freed}"))
            }
        }
        ReclaimError::Store(e) => super::problem_of_store(e),
        ReclaimError::NotInTrash(_) => Problem::new(ProblemKind::NotFound, e.to_string()),
        ReclaimError::NameTaken(_) => Problem::new(ProblemKind::Conflict, e.to_string()),
        ReclaimError::Unmounted(_) => Problem::new(ProblemKind::Failed, e.to_string()),
    }
}
