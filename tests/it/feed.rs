//! `/v1/events` of a real worker, as somebody with curl meets it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, reason = "tests")]

use crate::support::World;
use crate::support::program::{Program, eventually};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

fn connect(world: &World, path: &str, headers: &str) -> UnixStream {
    let mut stream = UnixStream::connect(world.store.join("snapkeep.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n").unwrap();
    stream
}

/// Status, head and JSON.
fn get(world: &World, path: &str, headers: &str) -> (u16, String, serde_json::Value) {
    let mut answer = String::new();
    connect(world, path, &format!("connection: close\r\n{headers}")).read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_owned(), serde_json::from_str(body).unwrap_or_default())
}

const JSON: &str = "accept: application/json\r\n";

/// A stream of events, line by line; its chunks' lengths and empty lines are left out.
struct Follow(BufReader<UnixStream>);

impl Follow {
    fn new(world: &World, path: &str, headers: &str) -> Self {
        let mut follow = Self(BufReader::new(connect(world, path, headers)));
        assert!(follow.line().unwrap().contains("200 OK"));
        while follow.line().unwrap() != "" {}
        follow
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        (self.0.read_line(&mut line).unwrap() > 0).then(|| line.trim_end().to_owned())
    }

    /// The next event: what its `id:` says, and its data.
    fn next(&mut self) -> Option<(String, serde_json::Value)> {
        let (mut id, began) = (String::new(), Instant::now());
        loop {
            let line = self.line()?;
            // It is alive, and says so, for ever.
            assert!(began.elapsed() < Duration::from_secs(60), "no event for a minute");
            if let Some(text) = line.strip_prefix("id: ") {
                text.clone_into(&mut id);
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Some((id, serde_json::from_str(data).unwrap()));
            }
        }
    }

    fn until(&mut self, event: &str) -> (String, serde_json::Value) {
        std::iter::from_fn(|| self.next()).find(|(_, data)| data["event"] == event).unwrap()
    }
}

#[test]
fn whoever_comes_back_with_the_last_id_misses_nothing_and_sees_nothing_twice() {
    let world = World::new();
    world.make_instance("a");
    let program = Program::new(&world, "");
    program.ok("init");
    let worker = program.run();
    let mut follow = Follow::new(&world, "/v1/events?since=0", "");
    assert_eq!(follow.until("worker.started").1["level"], "info");
    program.ok("snapshot a --name one");
    let (last, one) = follow.until("snapshot.taken");
    assert_eq!((one["name"].as_str(), one["instance"].as_str()), (Some("one"), Some("a")));
    drop(follow);
    program.ok("snapshot a --name two");
    program.ok("fork a/two web");
    let mut again = Follow::new(&world, "/v1/events?since=0", &format!("last-event-id: {last}\r\n"));
    let names = ["snapshot.taken", "fork.queued", "fork.created"].map(|_| again.next().unwrap().1["event"].as_str().unwrap().to_owned());
    assert_eq!(names, ["snapshot.taken", "fork.queued", "fork.created"]);
    // As a list; the lines are those of the log.
    let (status, _, list) = get(&world, "/v1/events?event=fork.*&since=0&limit=1", JSON);
    assert_eq!((status, list["events"][0]["name"].as_str(), list["missed"].as_u64()), (200, Some("web"), Some(0)));
    let log = worker.log();
    assert!(log.lines().any(|line| serde_json::from_str::<serde_json::Value>(line).is_ok_and(|line| line == list["events"][0])), "{log}");
    let next = list["next"].as_str().unwrap();
    let (_, _, rest) = get(&world, &format!("/v1/events?event=fork.*&since={next}"), JSON);
    assert_eq!((rest["events"].as_array().unwrap().len(), rest["events"][0]["event"].as_str()), (1, Some("fork.created")));
    assert_eq!(get(&world, "/v1/events?event=fork.*&instance=a", JSON).2["events"], serde_json::json!([]));
    assert_eq!(get(&world, "/v1/events?event=none", JSON).0, 400);
    // A stream that is open does not keep the worker from stopping; it ends.
    let began = Instant::now();
    assert_eq!(worker.stop(), 0);
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(std::iter::from_fn(|| again.next()).count() < 5, "it ends");
}

#[test]
fn another_start_of_the_worker_has_other_numbers_and_says_so() {
    let world = World::new();
    let program = Program::new(&world, "");
    program.ok("init");
    let worker = program.run();
    let (_, _, list) = get(&world, "/v1/events", JSON);
    let place = list["next"].as_str().unwrap().to_owned();
    assert_eq!(worker.stop(), 0);
    let _worker = program.run();
    // It answers before its start is over.
    eventually("this start's events", Duration::from_secs(20), || {
        let (_, _, list) = get(&world, &format!("/v1/events?since={place}"), JSON);
        assert_eq!(list["reset"], true);
        list["events"].as_array().unwrap().iter().any(|e| e["event"] == "worker.started")
    });
}

#[test]
fn only_so_many_may_follow_and_who_goes_makes_room() {
    let world = World::new();
    let program = Program::new(&world, "");
    program.ok("init");
    let _worker = program.run();
    let mut all: Vec<Follow> = (0..snapkeep::event::feed::FOLLOWERS).map(|_| Follow::new(&world, "/v1/events", "")).collect();
    let (status, head, problem) = get(&world, "/v1/events", "");
    assert!(
        status == 429 && head.contains("retry-after: 1") && problem["detail"].as_str().unwrap().contains("follow the events already"),
        "{head}{problem}"
    );
    all.pop();
    eventually("room for one", Duration::from_secs(40), || get(&world, "/v1/events", JSON).0 == 200);
}

#[test]
fn a_snapshot_that_is_to_go_with_its_last_fork_goes_as_soon_as_that_is_removed() {
    let world = World::new();
    world.make_instance("a");
    let program = Program::with(&world, "[prune]\nevery = \"1h\"\n[trash]\ngrace = \"0s\"\n");
    program.ok("init");
    let _worker = program.run();
    program.ok("snapshot a --name base");
    program.ok("fork a/base web");
    program.ok("rm a/base --defer");
    let mut follow = Follow::new(&world, "/v1/events?event=prune.removed", "");
    program.ok("unfork web");
    // Long before the next prune by the clock.
    assert_eq!(follow.until("prune.removed").1["event"], "prune.removed");
    // And when somebody deletes it, whoever is the first to notice.
    program.ok("snapshot a --name other");
    program.ok("fork a/other web");
    program.ok("rm a/other --defer");
    std::fs::remove_dir_all(world.vms.join("web")).unwrap();
    program.ok("forks");
    assert_eq!(follow.until("prune.removed").1["event"], "prune.removed");
}
