//! What the page draws, against what the listings say.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods, reason = "tests")]

use crate::support::many::{Many, world_in_memory};
use crate::support::program::Program;
use crate::support::{World, http, instance};
use snapkeep::api::Client;
use snapkeep::clock::Clock as _;
use snapkeep::ids::HoldName;
use snapkeep::policy::{SnapshotState, Verdict};
use snapkeep::store::manifest::Kind;
use snapkeep::worker::Worker;
use snapkeep::worker::backend::{Backend as _, Removal};
use snapkeep::worker::view::{ForkBody, LaneView, SnapshotFilter, TakeBody, TimelineBody, TimelineView};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

const POLICY: &str = "[trash]\ngrace = \"1h\"\n[[policy]]\nname = \"golden\"\ninstances = [\"golden-*\"]\n[policy.keep]\nlast = 5\n";

fn all(worker: &Worker) -> TimelineView {
    worker.timeline(&TimelineBody { instances: vec![], forks: 3 }).unwrap()
}

/// The ids of a lane, as its description says that they are to be read, and when each was taken.
fn ids(lane: &LaneView) -> Vec<(String, i64)> {
    let mut at = 0;
    let times = lane.at.iter().map(|step| {
        at += step;
        at
    });
    let id = |(n, at): (usize, i64)| {
        let stamp = chrono::DateTime::from_timestamp(at, 0).unwrap().format("%Y%m%d-%H%M%S");
        let other = lane.other_ids.get(&u32::try_from(n).unwrap()).map(ToString::to_string);
        (other.unwrap_or_else(|| format!("{stamp}-{}", &lane.ids[8 * n..8 * n + 8])), at)
    };
    times.enumerate().map(id).collect()
}

#[test]
fn the_columns_of_the_time_line_say_what_the_listing_says() {
    let (_dir, world, made) = world_in_memory(Many { snapshots: 300, sources: 7, forks: 200, of_one: false });
    world.make_instance("golden-3");
    world.make_instance("lonely");
    let worker = world.worker(POLICY);
    worker.hold(made[4].as_str(), &HoldName::parse("audit").unwrap()).unwrap();
    worker.remove(made[10].as_str(), Removal::Defer).unwrap();
    let by_hand =
        worker.take(&TakeBody { instance: instance("lonely"), name: Some("base".parse().unwrap()), tags: BTreeMap::new() }).unwrap();
    let view = all(&worker);
    let listed = worker.snapshots(&SnapshotFilter::default()).unwrap().snapshots;
    let mut seen = 0;
    for lane in &view.lanes {
        let of_lane: Vec<_> = listed.iter().filter(|s| s.instance.as_str() == lane.instance).collect();
        let ids = ids(lane);
        assert_eq!(ids.len(), of_lane.len());
        for (n, (snapshot, (id, at))) in of_lane.iter().zip(&ids).enumerate() {
            let place = u32::try_from(n).unwrap();
            assert_eq!((snapshot.id.as_str(), snapshot.created_at.timestamp()), (id.as_str(), *at));
            assert_eq!(lane.ref_count.get(&place).copied().unwrap_or(0), snapshot.ref_count);
            assert_eq!(lane.forks.get(&place).map_or(0, Vec::len), usize::try_from(snapshot.ref_count.min(3)).unwrap());
            let flags = u8::from(snapshot.kind == Kind::Standby)
                + if snapshot.holds.is_empty() { 0 } else { 2 }
                + if snapshot.state == SnapshotState::Expiring { 4 } else { 0 };
            assert_eq!(lane.flags[n], flags, "{}", snapshot.id);
            let policy = lane.policy.get(if lane.policy.len() == 1 { 0 } else { n }).unwrap();
            assert_eq!(usize::try_from(*policy).ok().map(|place| &view.policies[place]), snapshot.policy.as_ref());
            seen += 1;
        }
    }
    assert_eq!((seen, listed.len()), (301, 301));
    let lane = |name: &str| view.lanes.iter().find(|lane| lane.instance == name).unwrap();
    assert!(lane("golden-3").there && !lane("golden-1").there);
    assert_eq!((lane("lonely").names[&0].as_str(), lane("lonely").policy[0]), (by_hand.name.as_str(), -1));
    // Forks have no lane of their own: they hang off their snapshots. If asked for by name they have.
    assert!(!view.lanes.iter().any(|lane| lane.instance.starts_with("fork-")));
    let one = worker.timeline(&TimelineBody { instances: vec![instance("fork-0"), instance("golden-3")], forks: 0 }).unwrap();
    assert_eq!(one.lanes.iter().map(|lane| lane.instance.as_str()).collect::<Vec<_>>(), ["fork-0", "golden-3"]);
    assert_eq!(one.lanes[0].fork_of.as_ref(), Some(&made[0]));
    assert!(one.lanes[1].at == lane("golden-3").at && one.lanes[1].forks.is_empty());
    // Few bytes for each.
    let bytes = serde_json::to_vec(&view).unwrap().len();
    assert!(bytes < 300 * 60, "{bytes}");
}

#[test]
fn the_next_prune_is_told_with_what_it_takes_what_must_stay_and_what_goes_by_age() {
    let (_dir, world, made) = world_in_memory(Many { snapshots: 20, sources: 1, forks: 2, of_one: true });
    let config = POLICY.replace("last = 5", "last = 5\nwithin = \"400d\"") + "[policy.limit]\nmax_count = 10\n";
    let config = config.replace("[trash]", "[prune]\nmax_removals = 4\nevery = \"15m\"\n[trash]");
    let worker = world.worker(&config);
    worker.hold(made[1].as_str(), &HoldName::parse("audit").unwrap()).unwrap();
    let next = worker.next_prune(100).unwrap();
    assert_eq!((next.keep, next.remove, next.blocked, next.every_seconds), (10, 8, 2, 900));
    assert_eq!((next.capped_by.as_deref(), next.allowed), (Some("max_removals"), Some(4)));
    let plan = worker.plan(&snapkeep::worker::view::PlanBody::default()).unwrap();
    assert_eq!(next.hash, plan.hash);
    for entry in &next.entries {
        let same = plan.entries.iter().find(|other| other.snapshot_id == entry.snapshot_id).unwrap();
        assert_eq!(
            (entry.verdict, &entry.reasons, &entry.forks, entry.reclaimable_bytes),
            (same.verdict, &same.reasons, &same.forks, same.reclaimable_bytes)
        );
    }
    let blocked: Vec<_> = next.entries.iter().filter(|e| e.verdict == Verdict::Blocked).collect();
    assert_eq!(blocked.iter().map(|e| &e.snapshot_id).collect::<Vec<_>>(), [&made[0], &made[1]]);
    assert!(blocked[0].forks.len() == 2 && blocked[1].reasons.iter().any(|r| r.rule == "held"), "{blocked:?}");
    assert!(next.entries.iter().filter(|e| e.verdict == Verdict::Remove).map(|e| &e.snapshot_id).eq(&made[2..10]));
    // Young enough until a day that can be told.
    assert!(
        !next.soon.is_empty() && next.soon.iter().all(|e| e.next_change_at.is_some_and(|at| at > world.clock.now())),
        "{:?}",
        next.soon
    );
    assert!(next.soon.windows(2).all(|pair| pair[0].next_change_at <= pair[1].next_change_at));
    let few = worker.next_prune(1).unwrap();
    assert_eq!((few.entries.len(), few.soon.len(), few.remove), (2, 1, 8));
}

/// Status, headers in small letters, and body.
fn get(world: &World, path: &str, headers: &str) -> (u16, String, String) {
    let mut stream = UnixStream::connect(world.store.join("snapkeep.sock")).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body.to_owned())
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default()
}

#[test]
fn what_has_not_changed_is_not_sent_twice_and_the_page_says_what_it_may_do() {
    let world = World::new();
    world.make_instance("a");
    let program = Program::new(&world, "");
    program.ok("init");
    let _worker = program.run();
    program.ok("snapshot a --name one");
    let (status, head, body) = get(&world, "/v1/timeline", "");
    let view: TimelineView = serde_json::from_str(&body).unwrap();
    let known = format!("if-none-match: {}\r\n", header(&head, "etag"));
    assert_eq!((status, view.lanes[0].names[&0].as_str()), (200, "one"));
    assert_eq!(get(&world, "/v1/timeline", &known), (304, get(&world, "/v1/timeline", &known).1, String::new()));
    program.ok("snapshot a --name two");
    assert_eq!(get(&world, "/v1/timeline", &known).0, 200);
    for bad in ["/v1/timeline?instance=..%2Fx", "/v1/timeline?forks=many", "/v1/prune/next?limit=-1"] {
        assert_eq!(get(&world, bad, "").0, 400, "{bad}");
    }
    // As the OpenAPI document has it.
    for line in ["GET /v1/timeline", "GET /v1/timeline?instance=a&forks=1", "GET /v1/prune/next?limit=1", "GET /v1/prune/next?limit=0"] {
        assert_eq!(http::ask(&world, line, "", "").status, if line.ends_with('0') { 400 } else { 200 });
    }
    let events = http::ask(&world, "GET /v1/events?since=0", "accept: application/json\r\n", "");
    assert!(events.body["events"].as_array().is_some_and(|all| !all.is_empty()), "{events:?}");
    // The command line's client sees the same.
    let client = Client::new(&world.store.join("snapkeep.sock")).unwrap();
    let seen = client.timeline(&TimelineBody { instances: vec![instance("a")], forks: 3 }).unwrap();
    assert_eq!(seen.lanes[0].names.values().collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(client.next_prune(10).unwrap().keep, 2);
    let (status, head, body) = get(&world, "/", "");
    assert!(status == 200 && body.starts_with("<!doctype html>") && header(&head, "content-type") == "text/html; charset=utf-8", "{head}");
    let policy = header(&head, "content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    assert_eq!((header(&head, "x-content-type-options"), header(&head, "x-frame-options")), ("nosniff", "deny"));
    assert_eq!(get(&world, "/", &format!("if-none-match: {}\r\n", header(&head, "etag"))).0, 304);
}

#[test]
fn nothing_is_there_at_first_and_a_queued_fork_is_named_as_it_will_be() {
    let world = World::new();
    let worker = world.worker("");
    assert_eq!((all(&worker), worker.next_prune(10).unwrap().entries.len()), (TimelineView::default(), 0));
    world.make_instance("a");
    let id = worker.take(&TakeBody { instance: instance("a"), name: None, tags: BTreeMap::new() }).unwrap().id;
    worker.fork(id.as_str(), &ForkBody { name: Some("web".to_owned()), ..ForkBody::default() }, None).unwrap();
    let lane = &all(&worker).lanes[0];
    assert_eq!((lane.ref_count[&0], lane.forks[&0].as_slice()), (1, ["web".to_owned()].as_slice()));
    assert!(lane.names.is_empty(), "its name is made from the time: {:?}", lane.names);
}
