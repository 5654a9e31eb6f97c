//! Plans of the store as it is: facts gathered, retention asked, by the configuration in force or by another.

use super::backend::Answer;
use super::problem::{Problem, ProblemKind};
use super::sight::{LISTED, Sight};
use super::trashed;
use super::view::{ConfigText, PlanBody, PlanView};
use crate::config::{Config, parse};
use crate::fork::queue::RequestState;
use crate::ids::{PolicyName, SnapshotId};
use crate::policy::retention::{self, Circumstances, Foresight};
use crate::policy::space::Pressure;
use crate::policy::{Plan, SnapshotFacts};
use crate::reclaim::fork_names;
use crate::schedule::Pair;
use crate::store::Known;
use chrono::{DateTime, Utc};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

/// What a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be looked at: with what removals would free now, and when verdicts change.
    Shown,
    /// To be looked at in passing: with when the first verdicts change, and nothing measured.
    Glanced,
    /// To be carried out.
    Done,
}

/// What the plan is made of.
fn facts(sight: &dyn Sight) -> Vec<SnapshotFacts> {
    let mut waiting: HashMap<SnapshotId, Vec<_>> = HashMap::new();
    for request in sight.requests().into_iter().filter(|r| !r.state.is_final() && r.state != RequestState::Done) {
        waiting.entry(request.snapshot_id).or_default().push((request.id, request.name));
    }
    let none = Vec::new();
    let index = sight.store().index();
    let fact = |(id, known): (&SnapshotId, &Known)| {
        let summary = known.summary.as_ref()?;
        let queued = waiting.get(id).unwrap_or(&none);
        let queued_names: Vec<String> = queued.iter().map(|(_, name)| name.to_string()).collect();
        Some(SnapshotFacts {
            id: id.clone(),
            instance: summary.instance.clone(),
            policy: summary.policy.clone(),
            created_at: summary.created_at,
            order_at: summary.order_at,
            seq: summary.seq,
            state: known.state(),
            tags: summary.tags.as_ref().clone(),
            tags_unread: summary.tags_unread.is_some(),
            forks: fork_names(known, queued).into_iter().filter(|n| !queued_names.contains(n)).collect(),
            queued: queued_names,
            holds: known.holds.iter().cloned().collect(),
            pinned: known.pins > 0,
            unreadable: known.unreadable.iter().next().cloned(),
            reclaimable_bytes: summary.allocated_bytes,
        })
    };
    index.present().filter_map(fact).collect()
}

/// A snapshot whose removal frees less, bytes, is not given up for space: so much are its own directory and manifest.
const LEAST_FREED: u64 = 64 << 10;
/// Nor one that frees less than this part of what is wanted: no more than so many snapshots go.
const MOST_LOST: u64 = 10_000;

/// How full the store's file system is, if it is fuller than the configuration allows.
pub(super) fn pressure(sight: &dyn Sight, config: &Config) -> Option<Pressure> {
    let fill = config.fill?;
    let space = sight.store().fs.space(sight.store().layout.store()).ok()?;
    let share = |parts: u64| u64::try_from(u128::from(space.size) * u128::from(parts) / 10_000).unwrap_or(u64::MAX);
    let used = space.size.saturating_sub(space.free);
    let until = share(fill.until);
    let least = LEAST_FREED.max(used.saturating_sub(until) / MOST_LOST);
    (used > share(fill.above)).then(|| Pressure { used, size: space.size, until, coming: trashed::bytes(sight), least })
}

/// Since when instances are gone: those that the ledger says so of, and of whose name nothing is there now, of whatever kind.
/// The ledger may not have been written since one came back, and what takes its last snapshots must not go by hearsay.
fn gone_since(sight: &dyn Sight) -> BTreeMap<Pair, DateTime<Utc>> {
    let store = sight.store();
    let is_away = |pair: &Pair| matches!(store.fs.stat_if_there(&store.layout.instance(&pair.1)), Ok(None));
    sight.ledger().into_iter().filter_map(|(pair, entry)| Some((pair, entry.gone_since?))).filter(|(pair, _)| is_away(pair)).collect()
}

/// A plan for these policies only, or for all; as of `at`, or of now, and then with an eye on the file system.
pub(super) fn plan(
    sight: &dyn Sight,
    config: &Config,
    policies: &[PolicyName],
    at: Option<DateTime<Utc>>,
    purpose: Purpose,
) -> Answer<Plan> {
    let (at_once, at) = (at.is_none(), at.unwrap_or_else(|| sight.store().clock.now()));
    for name in policies {
        if config.policy(name).is_none() {
            return Err(Problem::new(ProblemKind::NotFound, format!("there is no policy {name} in {}", config.file.display())));
        }
    }
    let mut facts = facts(sight);
    if !policies.is_empty() {
        facts.retain(|f| f.policy.as_ref().is_some_and(|p| policies.contains(p)));
    }
    let pressure = if at_once { pressure(sight, config) } else { None };
    let counts_bytes = |fact: &SnapshotFacts| {
        let policy = fact.policy.as_ref().and_then(|name| config.policy(name));
        policy.is_some_and(|policy| policy.retention.limit.max_bytes.is_some())
    };
    // Measuring looks at every file: only where somebody looks at the figure, or it decides.
    let mut measured: Vec<_> =
        facts.iter_mut().filter(|fact| purpose == Purpose::Shown || pressure.is_some() || counts_bytes(fact)).collect();
    let ids: Vec<SnapshotId> = measured.iter().map(|fact| fact.id.clone()).collect();
    for (fact, bytes) in measured.iter_mut().zip(sight.store().reclaimable_of(&ids, LISTED, config.threads)) {
        fact.reclaimable_bytes = bytes;
    }
    let gone_since = gone_since(sight);
    let around = Circumstances {
        policies: &config.policies,
        gone_since: &gone_since,
        clock_trusted: sight.clock().trusted,
        root_proven: sight.store().prove_root().is_ok(),
        pressure,
        foresight: match purpose {
            Purpose::Shown => Foresight::All,
            Purpose::Glanced => Foresight::First,
            Purpose::Done => Foresight::None,
        },
    };
    Ok(retention::plan(&facts, &around, at))
}

/// `plan`.
pub(super) fn view(sight: &dyn Sight, body: &PlanBody) -> Answer<PlanView> {
    let in_force = sight.config();
    let config = if body.config.is_empty() { Cow::Borrowed(in_force.as_ref()) } else { Cow::Owned(proposed(&body.config, &in_force)?) };
    let plan = plan(sight, &config, &body.policies, body.at, Purpose::Shown)?;
    Ok(PlanView::new(&plan, config.digest == in_force.digest))
}

/// A configuration that is not in force. It must be of the same store: a plan is of the snapshots that are there.
fn proposed(files: &[ConfigText], in_force: &Config) -> Answer<Config> {
    let files = files.iter().map(|file| (file.path.clone(), file.text.clone())).collect();
    let config = parse(files).map_err(|e| Problem::new(ProblemKind::Config, e.to_string()))?;
    if config.store == in_force.store && config.instances == in_force.instances {
        return Ok(config);
    }
    let detail = format!(
        "{} is for the store {}, and the configuration in force for {}: a plan is for one store",
        config.file.display(),
        config.store.display(),
        in_force.store.display()
    );
    Err(Problem::new(ProblemKind::BadRequest, detail))
}
