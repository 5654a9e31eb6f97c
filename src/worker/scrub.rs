//! The scrub: the worker reads every snapshot once in each interval, slowly, and compares digests. One that differs is
//! quarantined. Whose turn it is follows from the log, so a restart goes on where the last run was.

use super::Worker;
use super::checking::save;
use super::verify::log::VerifyLog;
use super::verify::throttle::Throttled;
use super::verify::verify_one;
use super::view::{Finding, VerifyBody};
use crate::event::Event;
use crate::ids::SnapshotId;
use crate::policy::Schedule;
use crate::snapshot::copy::{Flow, NoProgress};
use chrono::{DateTime, Utc};
use std::sync::PoisonError;
use std::time::Duration;

/// What a pass has done so far.
#[derive(Debug, Default)]
pub(super) struct Pass {
    log: Option<VerifyLog>,
    snapshots: u64,
    bytes: u64,
    findings: u64,
    /// Nobody's turn comes before this time since boot: to find that out all snapshots are looked at.
    rests_until: Duration,
}

/// Nobody's turn has come: so long nobody asks again.
const REST: Duration = Duration::from_secs(60);

/// The snapshot that was not compared for longest, if any was not since `slot`: each comes with when it was last.
fn next(last: impl Iterator<Item = (SnapshotId, DateTime<Utc>)>, slot: DateTime<Utc>) -> Option<SnapshotId> {
    last.filter(|(_, at)| *at < slot).min_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0))).map(|(id, _)| id)
}

impl Worker {
    /// Compares the digests of one snapshot whose turn it is; false if it is nobody's.
    pub fn scrub_next(&self) -> bool {
        let since_boot = self.store.clock.since_boot();
        let mut pass = self.scrub.lock().unwrap_or_else(PoisonError::into_inner);
        if since_boot < pass.rests_until {
            return false;
        }
        let Some(config) = self.config().scrub.clone() else { return false };
        let schedule = Schedule::new(config.rhythm, chrono_tz::Tz::UTC);
        let now = self.store.clock.now();
        let Some(slot) = schedule.slot_at_or_before(now) else { return false };
        let Some(id) = self.next_to_scrub(&mut pass, slot) else {
            self.end_pass(&mut pass, now);
            let until_slot = schedule.slot_after(now).and_then(|next| (next - now).to_std().ok());
            pass.rests_until = since_boot + until_slot.map_or(REST, |left| left.min(REST));
            return false;
        };
        let throttled = Throttled::new(&NoProgress, self.store.clock.as_ref(), &self.stopping, config.rate);
        let flow = Flow { threads: 1, progress: &throttled, cancelled: &self.stopping };
        let found = verify_one(&self.store.fs, &self.store.layout, &id, flow);
        if flow.is_cancelled() {
            return false;
        }
        found.findings.iter().for_each(|finding| self.report_found(&mut pass, finding));
        if let Some(worst) = found.findings.iter().find(|f| f.severity == "error")
            && let Err(e) = self.quarantine(&id, &format!("{}: {}", worst.name, worst.path))
        {
            tracing::debug!(error = %e, %id, "not quarantined: it went meanwhile, or the next pass finds it again");
        }
        pass.snapshots += 1;
        pass.bytes += found.bytes;
        // Read again: a `verify` may have written it meanwhile.
        let mut log = VerifyLog::load(&self.store.fs, &self.store.layout);
        log.at.insert(id, self.store.clock.now());
        save(&self.store, &mut log);
        pass.log = Some(log);
        true
    }

    /// How long it is until somebody's turn may come.
    #[must_use]
    pub fn scrub_rest(&self) -> Duration {
        let pass = self.scrub.lock().unwrap_or_else(PoisonError::into_inner);
        pass.rests_until.saturating_sub(self.store.clock.since_boot())
    }

    fn next_to_scrub(&self, pass: &mut Pass, slot: DateTime<Utc>) -> Option<SnapshotId> {
        let log = pass.log.get_or_insert_with(|| VerifyLog::load(&self.store.fs, &self.store.layout));
        let index = self.store.index();
        let known = index.present().filter_map(|(id, known)| {
            // What is quarantined has been reported; what was just taken has just been hashed, or is about to be.
            let summary = known.summary.as_ref().filter(|s| known.quarantined.is_none() && !s.digests_pending)?;
            Some((id.clone(), log.at.get(id).copied().unwrap_or(summary.created_at)))
        });
        next(known, slot)
    }

    /// The end of a pass: refs, forks and strays as well, without digests.
    fn end_pass(&self, pass: &mut Pass, now: DateTime<Utc>) {
        if pass.snapshots == 0 {
            return;
        }
        let quick = VerifyBody { quick: true, ..VerifyBody::default() };
        let found = super::checking::verify_store(&self.store, &self.forks.requests(), &quick, self.flow());
        found.findings.iter().filter(|f| f.severity == "error").for_each(|finding| self.report_found(pass, finding));
        self.store.events.emit(Event::ScrubFinished { snapshots: pass.snapshots, bytes: pass.bytes, findings: pass.findings, at: now });
        *pass = Pass::default();
    }

    fn report_found(&self, pass: &mut Pass, finding: &Finding) {
        pass.findings += 1;
        self.store.events.emit(Event::ScrubFound {
            name: finding.name.clone(),
            severity: finding.severity.clone(),
            path: finding.path.clone(),
            what: finding.what.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    #[test]
    fn the_one_that_waits_longest_is_next_and_after_a_slot_each_has_one_turn() {
        let at = |n: i64| DateTime::UNIX_EPOCH + TimeDelta::days(20_000 + n);
        let id = |c: char| SnapshotId::parse(&format!("20261124-090347-aaaaaaa{c}")).unwrap();
        let mut last = std::collections::BTreeMap::from([(id('a'), at(3)), (id('b'), at(1)), (id('c'), at(9))]);
        let mut order = Vec::new();
        while let Some(id) = next(last.iter().map(|(id, at)| (id.clone(), *at)), at(7)) {
            last.insert(id.clone(), at(8));
            order.push(id);
        }
        assert_eq!(order, [id('b'), id('a')]);
    }
}
