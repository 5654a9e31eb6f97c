//! `status`: the worker, and how each policy does with each instance.

use super::sight::Sight;
use super::view::{PolicyStatus, PoolView, StatusView, WorkerView};
use crate::ids::InstanceId;
use crate::policy::cadence::{Due, LedgerEntry, due};
use crate::policy::{Candidate, InstanceTags, Policy, Selected};
use crate::schedule::Pair;
use chrono::{DateTime, SecondsFormat, Utc};
use std::collections::BTreeMap;

/// The whole status at `now`.
pub(super) fn status(sight: &dyn Sight, now: DateTime<Utc>) -> StatusView {
    let config = sight.config();
    let ledger: BTreeMap<Pair, LedgerEntry> = sight.ledger().into_iter().collect();
    let candidates: BTreeMap<InstanceId, Candidate> = sight.candidates().into_iter().map(|c| (c.instance.clone(), c)).collect();
    let mut policies = Vec::new();
    for policy in &config.policies {
        let there = candidates.values().filter(|c| policy.select.selects(c) != Selected::No).map(|c| &c.instance);
        let known = ledger.keys().filter(|(p, _)| *p == policy.name).map(|(_, i)| i);
        let mut pairs: Vec<InstanceId> = there.chain(known).cloned().collect();
        pairs.sort();
        pairs.dedup();
        if pairs.is_empty() {
            policies.push(no_instances(policy));
        }
        for instance in pairs {
            let pair = (policy.name.clone(), instance);
            policies.push(pair_status(sight, policy, &pair, (ledger.get(&pair), candidates.get(&pair.1)), now));
        }
    }
    StatusView { worker: worker(sight), policies }
}

fn worker(sight: &dyn Sight) -> WorkerView {
    let config = sight.config();
    let store = sight.store();
    let (snapshots, forks) = {
        let index = store.index();
        (index.count_present() as u64, index.count_refs() as u64)
    };
    let (cache_bytes, cache_snapshots) = store.cache_size();
    WorkerView {
        cache_bytes,
        cache_snapshots,
        running: sight.started_at().is_some(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: sight.started_at(),
        starting: sight.starting(),
        config: config.file.display().to_string(),
        config_rejected: sight.rejected(),
        store: store.layout.store().display().to_string(),
        instances: store.layout.instances().display().to_string(),
        root_lost: store.prove_root().err().map(|e| e.to_string()),
        queue_closed: sight.queue_closed(),
        clock: Some(sight.clock()),
        snapshots,
        forks,
        memory_fallbacks: sight.fallbacks(),
        pool: pool(sight),
        pending: sight.requests().iter().filter(|r| !r.state.is_final()).count() as u64,
    }
}

/// Nothing where nobody asks for a pool, and there is none.
fn pool(sight: &dyn Sight) -> Option<PoolView> {
    let counts = sight.pool();
    let is_asked_for = !sight.config().pool.rules.is_empty();
    (is_asked_for || counts.ready > 0).then_some(PoolView { ready: counts.ready, wanted: counts.wanted, bytes: counts.bytes })
}

fn no_instances(policy: &Policy) -> PolicyStatus {
    PolicyStatus {
        policy: policy.name.clone(),
        instance: None,
        state: "no instances".to_owned(),
        last_success_at: None,
        last_snapshot: None,
        last_error: None,
        failures: 0,
        next_slot: None,
        next_slot_local: None,
        timezone: policy.schedule.as_ref().map(|schedule| schedule.timezone.to_string()),
        late_ms: None,
        snapshots: 0,
    }
}

fn pair_status(
    sight: &dyn Sight,
    policy: &Policy,
    pair: &Pair,
    (known, candidate): (Option<&LedgerEntry>, Option<&Candidate>),
    now: DateTime<Utc>,
) -> PolicyStatus {
    let entry = known.cloned().unwrap_or_else(|| LedgerEntry::new(now));
    let selected = candidate.map(|c| policy.select.selects(c));
    let unread = match candidate.map(|c| &c.tags) {
        Some(InstanceTags::Unknown(why)) if selected == Some(Selected::Unknown) => {
            let so = if known.is_some() { "it stays selected, as it was" } else { "it is not selected" };
            Some(format!("its tags cannot be read, so {so}: {why}"))
        }
        _ => None,
    };
    let is_away = entry.gone_since.is_some() || selected == Some(Selected::No) || (selected == Some(Selected::Unknown) && known.is_none());
    let next_slot = policy.schedule.as_ref().and_then(|schedule| {
        let offset = schedule.offset(&pair.0, &pair.1, now);
        match due(schedule, offset, &entry, now) {
            Due::NotYet(at) => at,
            Due::Run { slot, .. } => Some(slot + offset),
            Due::Missed(_) => schedule.slot_after(now - offset).map(|slot| slot + offset),
        }
    });
    let next_slot = next_slot.filter(|_| !is_away);
    let zone = policy.schedule.as_ref().map(|schedule| schedule.timezone);
    let state = if sight.is_running(pair) {
        "running"
    } else if sight.is_waiting(pair) {
        "due"
    } else if entry.gone_since.is_some() {
        "gone"
    } else if selected == Some(Selected::No) {
        "not selected"
    } else if policy.schedule.is_none() {
        "prune only"
    } else if entry.failures > 0 {
        "failing"
    } else if unread.is_some() {
        "tags unreadable"
    } else if entry.last_success.is_none() {
        "waiting"
    } else {
        "ok"
    };
    let taken = sight.store().index().of_instance(&pair.1).iter().filter(|s| s.policy.as_ref() == Some(&pair.0)).count();
    PolicyStatus {
        policy: pair.0.clone(),
        instance: Some(pair.1.clone()),
        state: state.to_owned(),
        last_success_at: entry.last_success.as_ref().map(|s| s.at),
        last_snapshot: entry.last_success.map(|s| s.snapshot),
        last_error: entry.last_error.or(unread),
        failures: entry.failures,
        next_slot,
        next_slot_local: next_slot.zip(zone).map(|(at, zone)| at.with_timezone(&zone).to_rfc3339_opts(SecondsFormat::AutoSi, false)),
        timezone: zone.map(|zone| zone.to_string()),
        late_ms: entry.late_ms,
        snapshots: taken as u64,
    }
}
