//! The queue against its rules one by one, and against a naive model by random steps.

use super::*;
use chrono::TimeZone as _;
use proptest::prelude::*;

fn at(seconds: i64) -> DateTime<Utc> {
    Utc.timestamp_opt(1_800_000_000 + seconds, 0).unwrap()
}

fn snapshot(n: u8) -> SnapshotId {
    SnapshotId::parse(&format!("20261124-090347-aaaaaaa{}", char::from(b'a' + n))).unwrap()
}

fn name(n: u8) -> ForkName {
    ForkName::parse(&format!("fork-{n}")).unwrap()
}

fn request(n: u8, key: Option<&str>) -> Request {
    Request {
        id: ForkId::generate(),
        key: key.map(str::to_owned),
        snapshot_id: snapshot(n % 2),
        name: name(n),
        state: RequestState::Queued,
        attempts: 0,
        error: None,
        memory: None,
        disk: None,
        queued_at: at(i64::from(n)),
        started_at: None,
        finished_at: None,
        retry_at: None,
    }
}

fn ask(n: u8, key: Option<&str>) -> Ask {
    Ask { key: key.map(str::to_owned), snapshot: snapshot(n % 2), naming: Naming::Named(name(n)), batch: 0, waits: false }
}

fn accepted(queue: &mut Queue, n: u8, key: Option<&str>) -> ForkId {
    let request = request(n, key);
    let id = request.id.clone();
    queue.apply(Record::Accepted { request: Box::new(request) });
    id
}

#[test]
fn the_same_key_gives_the_same_request_and_another_ask_with_it_is_refused() {
    let mut queue = Queue::default();
    let id = accepted(&mut queue, 1, Some("k"));
    assert!(matches!(queue.admit(&ask(1, Some("k")), &name(1), true, 10), Ok(Admission::Known(r)) if r.id == id));
    assert_eq!(queue.admit(&ask(2, Some("k")), &name(2), false, 10), Err(Denied::KeyReused("k".into())));
    queue.apply(Record::Done { id: id.clone(), at: at(9) });
    assert!(matches!(queue.admit(&ask(1, Some("k")), &name(1), true, 10), Ok(Admission::Known(r)) if r.state == RequestState::Done));
    assert_eq!(queue.forget(at(9) + REMEMBERED), 0);
    assert_eq!(queue.forget(at(10) + REMEMBERED), 1);
    assert_eq!(queue.admit(&ask(2, Some("k")), &name(2), false, 10), Ok(Admission::New));
}

#[test]
fn a_name_is_taken_from_the_reservation_on_and_free_again_when_the_request_ends() {
    let mut queue = Queue::default();
    let first = request(1, None);
    queue.reserve(first.clone());
    assert_eq!(queue.admit(&ask(1, None), &name(1), false, 10), Err(Denied::NameTaken(name(1))));
    assert!(queue.unfinished().contains(&first.id), "a reserved request protects its ref");
    queue.give_up(&first.id);
    assert_eq!(queue.admit(&ask(1, None), &name(1), false, 10), Ok(Admission::New));
    let id = accepted(&mut queue, 1, None);
    assert_eq!(queue.admit(&ask(1, None), &name(1), false, 10), Err(Denied::NameTaken(name(1))));
    queue.apply(Record::Cancelled { id, at: at(5) });
    assert_eq!(queue.admit(&ask(1, None), &name(1), false, 10), Ok(Admission::New));
    assert_eq!(queue.admit(&ask(1, None), &name(1), true, 10), Err(Denied::NameTaken(name(1))));
    assert_eq!(queue.admit(&ask(1, None), &name(1), false, 0), Err(Denied::Full(0)));
}

#[test]
fn a_failure_that_can_pass_is_tried_again_later_and_later_and_then_fails_for_good() {
    let mut queue = Queue::default();
    let id = accepted(&mut queue, 1, None);
    let mut now = at(0);
    let mut waits = Vec::new();
    loop {
        assert_eq!(queue.ready(now, 9), std::slice::from_ref(&id));
        queue.begin(&id, now).unwrap();
        assert!(queue.ready(now, 9).is_empty());
        let record = queue.after_failure(&id, "no space", true, now);
        queue.apply(record.clone());
        let Record::Attempt { retry_at, .. } = record else { break };
        assert!(queue.ready(retry_at - TimeDelta::milliseconds(1), 9).is_empty());
        assert_eq!(queue.next_retry(), Some(retry_at));
        waits.push((retry_at - now).num_seconds());
        now = retry_at;
    }
    assert_eq!(waits, [1, 2, 4, 8]);
    assert_eq!(queue.get(&id).unwrap().state, RequestState::Failed);
    assert!(matches!(queue.after_failure(&id, "it names its source", false, now), Record::Failed { .. }));
}

#[test]
fn what_was_running_is_queued_again_after_a_restart_and_what_was_being_published_is_not_built_twice() {
    let mut queue = Queue::default();
    let (running, publishing) = (accepted(&mut queue, 1, None), accepted(&mut queue, 2, None));
    for id in [&running, &publishing] {
        queue.begin(id, at(1)).unwrap();
    }
    queue.apply(Record::Publishing { id: publishing.clone(), memory: "hardlink".into(), disk: "copied".into(), started_at: None });
    let again = Queue::replay(queue.records());
    assert_eq!(again.ready(at(2), 9), std::slice::from_ref(&running));
    assert_eq!(again.get(&publishing).unwrap().state, RequestState::Publishing);
    assert!(again.unfinished().contains(&publishing));
}

/// What can happen to a queue.
#[derive(Debug, Clone)]
enum Step {
    Accept(u8, Option<u8>),
    Begin,
    Fail(u8, bool),
    Publish(u8),
    Done(u8),
    Cancel(u8),
    /// The memory of one of two snapshots is being unpacked, or no longer.
    HoldBack(u8, bool),
    PutBack(u8),
    Restart,
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6u8, proptest::option::of(0..4u8)).prop_map(|(n, key)| Step::Accept(n, key)),
        3 => Just(Step::Begin),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(n, can_pass)| Step::Fail(n, can_pass)),
        2 => any::<u8>().prop_map(Step::Publish),
        2 => any::<u8>().prop_map(Step::Done),
        1 => any::<u8>().prop_map(Step::Cancel),
        2 => (0..2u8, any::<bool>()).prop_map(|(n, is)| Step::HoldBack(n, is)),
        1 => any::<u8>().prop_map(Step::PutBack),
        1 => Just(Step::Restart),
        2 => (0..40u16).prop_map(Step::Wait),
    ]
}

/// A naive model: a list of requests, everything found by looking through all of it.
#[derive(Debug, Default)]
struct Model(Vec<(Request, i64)>);

impl Model {
    fn in_state(&self, states: &[RequestState]) -> Vec<ForkId> {
        self.0.iter().filter(|(r, _)| states.contains(&r.state)).map(|(r, _)| r.id.clone()).collect()
    }

    fn get(&mut self, id: &ForkId) -> &mut Request {
        &mut self.0.iter_mut().find(|(r, _)| r.id == *id).unwrap().0
    }

    fn pick(&self, states: &[RequestState], n: u8) -> Option<ForkId> {
        let all = self.in_state(states);
        (!all.is_empty()).then(|| all[usize::from(n) % all.len()].clone())
    }
}

proptest! {
    #[test]
    fn the_queue_does_what_a_list_of_requests_would_do(steps in proptest::collection::vec(step(), 1..80)) {
        use RequestState::{Publishing, Queued, Running};
        let (mut queue, mut model, mut now) = (Queue::default(), Model::default(), at(0));
        let mut held: HashSet<SnapshotId> = HashSet::new();
        // Every record that was written, in order: what a journal would hold.
        let mut journal: Vec<Record> = Vec::new();
        let write = |queue: &mut Queue, journal: &mut Vec<Record>, record: Record| {
            journal.push(record.clone());
            queue.apply(record);
        };
        for step in steps {
            match step {
                Step::Accept(n, key) => {
                    let key = key.map(|k| format!("k{k}"));
                    let taken = model.0.iter().any(|(r, _)| !r.state.is_final() && r.name == name(n));
                    let same_key = model.0.iter().rev().find(|(r, _)| key.is_some() && r.key == key).map(|(r, _)| r.clone());
                    let answer = queue.admit(&ask(n, key.as_deref()), &name(n), false, 100);
                    match (same_key, taken) {
                        (Some(before), _) if before.name == name(n) => prop_assert!(matches!(answer, Ok(Admission::Known(r)) if r.id == before.id)),
                        (Some(_), _) => prop_assert!(matches!(answer, Err(Denied::KeyReused(_)))),
                        (None, true) => prop_assert!(matches!(answer, Err(Denied::NameTaken(_)))),
                        (None, false) => {
                            prop_assert_eq!(answer, Ok(Admission::New));
                            let mut new = request(n, key.as_deref());
                            new.queued_at = now;
                            queue.reserve(new.clone());
                            write(&mut queue, &mut journal, Record::Accepted { request: Box::new(new.clone()) });
                            model.0.push((new, 0));
                        }
                    }
                }
                Step::Begin => {
                    let ready: Vec<ForkId> = model.0.iter()
                        .filter(|(r, _)| r.state == Queued && r.retry_at.is_none_or(|t| t <= now) && !held.contains(&r.snapshot_id))
                        .map(|(r, _)| r.id.clone()).collect();
                    prop_assert_eq!(queue.ready(now, usize::MAX), ready.clone());
                    if let Some(id) = ready.first() {
                        queue.begin(id, now).unwrap();
                        model.get(id).state = Running;
                    }
                }
                Step::Fail(n, can_pass) => if let Some(id) = model.pick(&[Running], n) {
                    let record = queue.after_failure(&id, "e", can_pass, now);
                    let request = model.get(&id);
                    if can_pass && request.attempts + 1 < MAX_ATTEMPTS {
                        request.attempts += 1;
                        request.state = Queued;
                        request.retry_at = Some(now + TimeDelta::seconds(1 << (request.attempts - 1)));
                    } else {
                        request.state = RequestState::Failed;
                        request.finished_at = Some(now);
                    }
                    write(&mut queue, &mut journal, record);
                },
                Step::Publish(n) => if let Some(id) = model.pick(&[Running], n) {
                    write(&mut queue, &mut journal, Record::Publishing { id: id.clone(), memory: "none".into(), disk: "none".into(), started_at: None });
                    model.get(&id).state = Publishing;
                },
                Step::Done(n) => if let Some(id) = model.pick(&[Publishing], n) {
                    write(&mut queue, &mut journal, Record::Done { id: id.clone(), at: now });
                    model.get(&id).state = RequestState::Done;
                },
                Step::Cancel(n) => if let Some(id) = model.pick(&[Queued, Running, Publishing], n) {
                    let answer = queue.cancel(&id, now);
                    if model.get(&id).state == Queued {
                        write(&mut queue, &mut journal, answer.unwrap());
                        model.get(&id).state = RequestState::Cancelled;
                    } else {
                        prop_assert!(matches!(answer, Err(Denied::TooLate(..))));
                    }
                },
                Step::HoldBack(n, true) => prop_assert_eq!(queue.hold_back(snapshot(n)), held.insert(snapshot(n))),
                Step::HoldBack(n, false) => {
                    queue.let_go(&snapshot(n));
                    held.remove(&snapshot(n));
                }
                // No attempt: it is in its place again, with nothing written down.
                Step::PutBack(n) => if let Some(id) = model.pick(&[Running], n) {
                    queue.put_back(&id);
                    model.get(&id).state = Queued;
                    prop_assert_eq!(queue.get(&id).unwrap().attempts, model.get(&id).attempts);
                },
                Step::Restart => {
                    held.clear();
                    let compacted = Queue::replay(queue.records());
                    queue = Queue::replay(journal.clone());
                    prop_assert_eq!(compacted.unfinished(), queue.unfinished());
                    prop_assert_eq!(compacted.ready(now, 99), queue.ready(now, 99));
                    for (request, _) in &mut model.0 {
                        if request.state == Running {
                            request.state = Queued;
                        }
                    }
                }
                Step::Wait(seconds) => now += TimeDelta::seconds(i64::from(seconds)),
            }
            prop_assert_eq!(queue.is_holding_back(), !held.is_empty());
            let unfinished: HashSet<ForkId> = model.in_state(&[Queued, Running, Publishing]).into_iter().collect();
            prop_assert_eq!(queue.unfinished(), unfinished.clone());
            prop_assert_eq!(queue.pending(), unfinished.len());
            for (request, _) in &model.0 {
                prop_assert_eq!(queue.get(&request.id).map(|r| r.state), Some(request.state));
            }
            // At most one unfinished request has a name.
            let mut names: Vec<_> = model.0.iter().filter(|(r, _)| !r.state.is_final()).map(|(r, _)| r.name.clone()).collect();
            let all = names.len();
            names.sort();
            names.dedup();
            prop_assert_eq!(names.len(), all);
        }
    }
}
