//! The store that is made up: the snapshots of one instance, which of them forks pin, and what retention says of each.

use super::chance::pick;
use super::report::{Held, Model};
use crate::ids::{InstanceId, PolicyName, SnapshotId};
use crate::policy::retention::{self, Circumstances, Foresight};
use crate::policy::{Policy, Side, SnapshotFacts, SnapshotState, Verdict};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

/// A fork picks among so many of the newest that are kept.
const PICKED_AMONG: usize = 10_000;
/// More rules than there are; one beyond has no bit and is not counted.
const MOST_RULES: usize = 64;

/// What the last plan said of a snapshot, and how many forks pin it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    pub(super) verdict: Verdict,
    /// One bit for each rule that keeps it, by its place in [`World::rules`].
    pub(super) rules: u64,
    pins: u32,
}

#[derive(Debug)]
pub(super) struct World {
    policies: [Policy; 1],
    instance: InstanceId,
    gone_since: BTreeMap<(PolicyName, InstanceId), DateTime<Utc>>,
    /// Oldest first.
    facts: Vec<SnapshotFacts>,
    /// What is thought of each of them.
    marks: Vec<Mark>,
    rules: Vec<String>,
    next_change_at: Option<DateTime<Utc>>,
    next_seq: u64,
    exclusive: u64,
    tags: BTreeMap<String, String>,
}

impl World {
    pub(super) fn new(policy: &Policy, model: &Model) -> Self {
        Self {
            policies: [policy.clone()],
            instance: model.instance.clone(),
            gone_since: BTreeMap::new(),
            facts: Vec::new(),
            marks: Vec::new(),
            rules: Vec::new(),
            next_change_at: None,
            next_seq: 1,
            exclusive: model.bytes.map_or(0, |bytes| bytes.exclusive),
            tags: policy.tags.clone(),
        }
    }

    pub(super) fn policy_name(&self) -> &PolicyName {
        let [policy] = &self.policies;
        &policy.name
    }

    pub(super) fn len(&self) -> usize {
        self.facts.len()
    }

    /// Names of the rules that have kept something, in the order of their bits.
    pub(super) fn rules(&self) -> &[String] {
        &self.rules
    }

    /// When and what, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&SnapshotFacts, Mark)> {
        self.facts.iter().zip(self.marks.iter().copied())
    }

    /// When time alone changes the first verdict.
    pub(super) fn next_change_at(&self) -> Option<DateTime<Utc>> {
        self.next_change_at
    }

    /// A new snapshot, kept until a plan says otherwise.
    pub(super) fn take(&mut self, at: DateTime<Utc>) {
        let fact = self.fact(at, self.next_seq);
        self.facts.push(fact);
        self.marks.push(Mark { verdict: Verdict::Keep, rules: 0, pins: 0 });
        self.next_seq += 1;
    }

    /// The one place that says what is known of a snapshot here.
    fn fact(&self, at: DateTime<Utc>, seq: u64) -> SnapshotFacts {
        SnapshotFacts {
            id: id(at, seq).unwrap_or_else(|| SnapshotId::generate(at)),
            instance: self.instance.clone(),
            policy: Some(self.policy_name().clone()),
            created_at: at,
            order_at: at,
            seq,
            state: SnapshotState::Ready,
            tags: self.tags.clone(),
            tags_unread: false,
            forks: Vec::new(),
            queued: Vec::new(),
            holds: Vec::new(),
            pinned: false,
            unreadable: None,
            reclaimable_bytes: self.exclusive,
        }
    }

    /// Carries out what retention says at this time; returns how many snapshots went.
    pub(super) fn prune(&mut self, at: DateTime<Utc>) -> u64 {
        let around = Circumstances {
            policies: &self.policies,
            gone_since: &self.gone_since,
            clock_trusted: true,
            root_proven: true,
            pressure: None,
            foresight: Foresight::First,
        };
        let plan = retention::plan(&self.facts, &around, at);
        let mut next_change_at = None;
        // A plan's entries are newest first.
        for (mark, entry) in self.marks.iter_mut().rev().zip(&plan.entries) {
            mark.verdict = entry.verdict;
            mark.rules = 0;
            if entry.verdict == Verdict::Keep {
                for rule in entry.rules(Side::Keep) {
                    mark.rules |= bit(&mut self.rules, rule.name());
                }
            }
            next_change_at = [next_change_at, entry.next_change_at.filter(|t| *t > at)].into_iter().flatten().min();
        }
        self.next_change_at = next_change_at;
        let before = self.facts.len();
        let mut marks = self.marks.iter();
        self.facts.retain(|_| marks.next().is_some_and(|mark| mark.verdict != Verdict::Remove));
        self.marks.retain(|mark| mark.verdict != Verdict::Remove);
        (before - self.facts.len()) as u64
    }

    /// A snapshot that is kept, by chance, the newest most often.
    pub(super) fn pick(&self, chance: u64) -> Option<u64> {
        let kept = self.facts.iter().zip(&self.marks).rev().filter(|(_, mark)| mark.verdict == Verdict::Keep);
        let newest: Vec<u64> = kept.map(|(fact, _)| fact.seq).take(PICKED_AMONG).collect();
        newest.get(pick(newest.len(), chance)?).copied()
    }

    /// A fork is made of the snapshot.
    pub(super) fn pin(&mut self, seq: u64) {
        if let Some((fact, mark)) = self.find(seq) {
            mark.pins += 1;
            if fact.forks.is_empty() {
                fact.forks.push("fork".to_owned());
            }
        }
    }

    /// A fork of the snapshot is gone; whether that lets the snapshot go.
    pub(super) fn unpin(&mut self, seq: u64) -> bool {
        let Some((fact, mark)) = self.find(seq) else { return false };
        mark.pins = mark.pins.saturating_sub(1);
        if mark.pins > 0 {
            return false;
        }
        fact.forks.clear();
        mark.verdict == Verdict::Blocked
    }

    fn find(&mut self, seq: u64) -> Option<(&mut SnapshotFacts, &mut Mark)> {
        let at = self.facts.binary_search_by_key(&seq, |fact| fact.seq).ok()?;
        self.facts.get_mut(at).zip(self.marks.get_mut(at))
    }

    /// What is held, oldest first.
    pub(super) fn held(&self) -> Vec<Held> {
        let name = |bits: u64| self.rules.iter().enumerate().filter(move |(n, _)| bits >> n & 1 == 1).map(|(_, rule)| rule.clone());
        let held = |(fact, mark): (&SnapshotFacts, Mark)| Held {
            created_at: fact.created_at,
            verdict: mark.verdict,
            rules: name(mark.rules).collect(),
            forks: mark.pins,
        };
        self.iter().map(held).collect()
    }
}

/// The bit of a rule, which gets one when it is first seen.
fn bit(rules: &mut Vec<String>, rule: &str) -> u64 {
    if let Some(at) = rules.iter().position(|known| known == rule) {
        return 1 << at;
    }
    if rules.len() == MOST_RULES {
        return 0;
    }
    rules.push(rule.to_owned());
    1 << (rules.len() - 1)
}

/// The snapshot's id: its time, and its number in base 32.
fn id(at: DateTime<Utc>, seq: u64) -> Option<SnapshotId> {
    let digit = |place: u32| b"abcdefghijklmnopqrstuvwxyz234567".get((seq >> (5 * place) & 31) as usize).map(|b| char::from(*b));
    let digits: Option<String> = (0..8).rev().map(digit).collect();
    SnapshotId::parse(&format!("{}-{}", at.format("%Y%m%d-%H%M%S"), digits?)).ok()
}
