//! Pages, filters, ETags, keys, batches and bounds, as somebody with curl meets them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, reason = "tests")]

use crate::support::World;
use crate::support::http::{Reply, ask};
use crate::support::many::{Many, make};
use crate::support::program::Program;
use serde_json::{Value, json};
use std::os::unix::net::UnixStream;

/// A world with the instances `a` and `b`, and its program.
fn start(rest: &str) -> (World, Program) {
    let world = World::new();
    world.make_instance("a");
    world.make_instance("b");
    let program = Program::new(&world, rest);
    program.ok("init");
    (world, program)
}

fn take(world: &World, instance: &str, name: &str, tags: Value) -> Value {
    let body = json!({"instance": instance, "name": name, "tags": tags}).to_string();
    let reply = ask(world, "POST /v1/snapshots", "", &body);
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.header("location"), format!("/v1/snapshots/{}", reply.body["id"].as_str().unwrap()));
    reply.body
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect()
}

#[test]
fn lists_come_in_pages_and_by_instance_tag_and_state() {
    let (world, program) = start("");
    let _worker = program.run();
    for n in 0..5 {
        take(&world, if n % 2 == 0 { "a" } else { "b" }, &format!("s-{n}"), json!({"tier": if n < 3 { "low" } else { "high" }}));
    }
    let get = |path: &str| ask(&world, &format!("GET {path}"), "", "");
    let mut path = "/v1/snapshots?limit=2".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = get(&path);
        assert!(page.body["snapshots"].as_array().unwrap().iter().all(|s| s["ref_count"] == 0), "{page:?}");
        seen.extend(names(&page.body["snapshots"]).into_iter().map(str::to_owned));
        let Some(next) = page.body["next"].as_str() else { break };
        let link = page.header("link").to_owned();
        path = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).unwrap().to_owned();
        assert_eq!(path, format!("/v1/snapshots?limit=2&cursor={next}"));
    }
    assert_eq!(seen, ["s-0", "s-1", "s-2", "s-3", "s-4"]);
    for (query, wanted) in [
        ("instance=b", vec!["s-1", "s-3"]),
        ("tag=tier%3Dlow", vec!["s-0", "s-1", "s-2"]),
        ("tag=tier%3Dlow&instance=a", vec!["s-0", "s-2"]),
        ("state=ready&limit=1", vec!["s-0"]),
        ("state=expiring", vec![]),
        ("policy=none", vec![]),
    ] {
        assert_eq!(names(&get(&format!("/v1/snapshots?{query}")).body["snapshots"]), wanted, "{query}");
    }
    for query in ["limit=0", "limit=10001", "limit=x", "cursor=x", "state=x", "tag=x", "colour=1", "limit=1&limit=2", "cursor="] {
        assert_eq!(get(&format!("/v1/snapshots?{query}")).status, 400, "{query}");
    }
    // The command line goes page by page too.
    assert_eq!(program.json("ls")["snapshots"].as_array().unwrap().len(), 5);
    let forks = ask(&world, "POST /v1/snapshots/s-0/forks", "prefer: wait=20\r\n", r#"{"count": 3, "prefix": "f"}"#);
    assert_eq!((forks.status, forks.header("preference-applied")), (201, "wait=20"), "{forks:?}");
    let first = get("/v1/forks?limit=2");
    assert_eq!(names(&first.body["forks"]), ["f-1", "f-2"]);
    assert_eq!(names(&get("/v1/forks?limit=2&cursor=f-2").body["forks"]), ["f-3"]);
    assert_eq!(names(&get("/v1/snapshots/s-0/forks").body["forks"]), ["f-1", "f-2", "f-3"]);
    assert_eq!(get("/v1/forks/f-2").body["name"], "f-2");
    assert_eq!(get("/v1/queue?state=done&limit=2").body["requests"].as_array().unwrap().len(), 2);
    assert_eq!(get("/v1/queue?state=queued").body["requests"], json!([]));
}

#[test]
fn the_command_line_lists_more_snapshots_than_one_page_holds() {
    let (world, program) = start("");
    make(&world, Many { snapshots: 5003, sources: 3, forks: 0, of_one: false });
    let _worker = program.run();
    let all = program.json("ls");
    let seqs: Vec<u64> = all["snapshots"].as_array().unwrap().iter().map(|s| s["seq"].as_u64().unwrap()).collect();
    assert!(seqs.len() == 5003 && seqs.is_sorted() && all["next"].is_null());
    assert_eq!(program.json("ls --instance golden-1")["snapshots"].as_array().unwrap().len(), 1668);
}

#[test]
fn an_answer_that_one_has_is_not_sent_again_and_what_has_changed_is_not_removed() {
    let (world, program) = start("");
    let _worker = program.run();
    let taken = take(&world, "a", "base", json!({}));
    let path = format!("/v1/snapshots/{}", taken["id"].as_str().unwrap());
    let first = ask(&world, &format!("GET {path}"), "", "");
    let tag = first.header("etag").to_owned();
    let same = ask(&world, &format!("GET {path}"), &format!("if-none-match: \"x\", W/{tag}\r\n"), "");
    assert_eq!((same.status, same.header("etag")), (304, tag.as_str()));
    let head = ask(&world, &format!("HEAD {path}"), "", "");
    assert_eq!((head.status, head.header("etag"), head.text.as_str()), (200, tag.as_str(), ""));
    assert_eq!(ask(&world, &format!("PUT {path}/holds/mine"), "", "").status, 200);
    let changed = ask(&world, &format!("GET {path}"), &format!("if-none-match: {tag}\r\n"), "");
    assert_eq!((changed.status, changed.body["holds"].clone()), (200, json!(["mine"])));
    assert_eq!(ask(&world, &format!("DELETE {path}/holds/mine"), "", "").status, 200);
    assert_eq!(ask(&world, &format!("POST {path}/forks"), "prefer: wait=20\r\n", r#"{"name": "web"}"#).status, 201);
    let one = ask(&world, "GET /v1/forks/web", "", "");
    assert_eq!((one.status, &one.body["name"]), (200, &json!("web")), "{one:?}");
    assert_eq!(["GET /v1/forks/none", "GET /v1/forks/a"].map(|line| ask(&world, line, "", "").status), [404, 404], "a is no fork");
    let stale = ask(&world, &format!("DELETE {path}?defer=true"), &format!("if-match: {tag}\r\n"), "");
    assert_eq!((stale.status, stale.kind()), (412, "precondition-failed"));
    let refused = ask(&world, &format!("DELETE {path}"), "", "");
    assert_eq!((refused.status, refused.body["forks"].clone()), (409, json!(["web"])));
    assert!(refused.body["remedy"].as_str().unwrap().contains("?defer=true"), "{refused:?}");
    let deferred = ask(&world, &format!("DELETE {path}?defer=true"), "", "");
    assert_eq!(
        (deferred.status, deferred.body["result"].as_str(), deferred.body["forks"].clone()),
        (200, Some("expiring"), json!(["web"]))
    );
    assert_eq!(names(&ask(&world, "GET /v1/snapshots?state=expiring", "", "").body["snapshots"]), ["base"]);
}

#[test]
fn the_same_key_gets_the_same_forks_and_another_request_with_it_is_refused() {
    let (world, program) = start("");
    let _worker = program.run();
    take(&world, "a", "base", json!({}));
    let fork = |key: &str, body: &str| ask(&world, "POST /v1/snapshots/base/forks", &format!("idempotency-key: {key}\r\n"), body);
    let ids = |reply: &Reply| -> Vec<String> {
        reply.body["requests"].as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap().to_owned()).collect()
    };
    let three = r#"{"count": 3, "prefix": "f"}"#;
    let (first, again) = (fork("k-1", three), fork("\"k-1\"", three));
    assert_eq!(first.status, 202);
    assert_eq!(ids(&first), ids(&again));
    assert_eq!(first.header("location"), "/v1/queue?key=k-1");
    assert_eq!(ids(&ask(&world, "GET /v1/queue?key=k-1&limit=10", "", "")).len(), 3);
    for other in
        [r#"{"count": 2, "prefix": "f"}"#, r#"{"count": 4, "prefix": "f"}"#, r#"{"count": 3, "prefix": "g"}"#, r#"{"name": "web"}"#]
    {
        let refused = fork("k-1", other);
        assert_eq!((refused.status, refused.kind()), (422, "key-reused"), "{other}: {refused:?}");
    }
    let one = fork("k-2", r#"{"name": "web"}"#);
    assert_eq!(one.header("location"), format!("/v1/queue/{}", ids(&one)[0]));
    assert_eq!(ids(&fork("k-2", r#"{"name": "web"}"#)), ids(&one));
    let looked = ask(&world, &format!("GET {}", one.header("location")), "", "");
    assert_eq!(looked.body["name"], "web");
    let two_keys = fork("k-3", r#"{"name": "db", "key": "k-4"}"#);
    assert_eq!(two_keys.status, 400, "{two_keys:?}");
}

#[test]
fn a_batch_is_accepted_whole_or_not_at_all() {
    let (world, program) = start("[fork]\nmax_pending = 20\n");
    let _worker = program.run();
    take(&world, "a", "base", json!({}));
    let fork = |body: &str| ask(&world, "POST /v1/snapshots/base/forks", "prefer: wait=20\r\n", body);
    assert_eq!(fork(r#"{"name": "web-2"}"#).status, 201);
    let refused = fork(r#"{"names": ["web-1", "web-2", "web-3"]}"#);
    assert_eq!((refused.status, refused.kind()), (409, "conflict"), "{refused:?}");
    assert!(refused.body["detail"].as_str().unwrap().contains("web-2"), "{refused:?}");
    assert_eq!(ask(&world, "GET /v1/snapshots/base", "", "").body["ref_count"], 1);
    assert!(!world.vms.join("web-1").exists());
    let full = fork(r#"{"count": 21, "prefix": "f"}"#);
    assert_eq!((full.status, full.kind(), full.header("retry-after")), (429, "queue-full", "1"), "{full:?}");
    assert_eq!(ask(&world, "GET /v1/snapshots/base", "", "").body["ref_count"], 1);
    let all = fork(r#"{"count": 20.0, "prefix": "f"}"#);
    assert_eq!((all.status, all.body["requests"].as_array().unwrap().len()), (201, 20));
    for body in [
        r#"{"count": 1.5, "prefix": "f"}"#,
        r#"{"count": -1, "prefix": "f"}"#,
        r#"{"count": 10001, "prefix": "f"}"#,
        r#"{"count": 0, "prefix": "f"}"#,
        r#"{"names": []}"#,
        "[]",
        "",
    ] {
        assert_eq!(fork(body).status, 400, "{body}");
    }
}

#[test]
fn ten_thousand_forks_are_accepted_in_one_request() {
    let (world, program) = start("[worker]\nthreads = 1\n");
    let _worker = program.run();
    take(&world, "a", "base", json!({}));
    let reply = ask(&world, "POST /v1/snapshots/base/forks", "", r#"{"count": 10000, "prefix": "f"}"#);
    assert_eq!((reply.status, reply.body["requests"].as_array().map(Vec::len)), (202, Some(10_000)));
    assert_eq!(ask(&world, "GET /v1/snapshots/base", "", "").body["ref_count"], 10_000);
}

#[test]
fn what_is_too_long_or_of_another_type_is_refused_by_name() {
    let (world, program) = start("");
    let _worker = program.run();
    let long = format!("{{\"instance\": \"{}\"}}", "a".repeat(5 << 20));
    assert_eq!(ask(&world, "POST /v1/snapshots", "", &long).status, 413);
    for (line, headers, body, wanted) in [
        ("POST /v1/snapshots", "content-type: text/plain\r\n", r#"{"instance": "a"}"#, 415),
        ("POST /v1/snapshots", "content-type: application/json; charset=utf-8\r\n", r#"{"instance": "a"}"#, 201),
        ("GET /v1/snapshots", "accept: text/html\r\n", "", 406),
        ("GET /v1/snapshots", "accept: text/html, */*;q=0.1\r\n", "", 200),
        ("GET /v1/status?x=1", "", "", 400),
        ("POST /v1/snapshots", "", r#"["a"]"#, 400),
    ] {
        let reply = ask(&world, line, headers, body);
        assert_eq!(reply.status, wanted, "{line} {headers}: {reply:?}");
    }
    let wrong = ask(&world, "PATCH /v1/snapshots", "", "");
    assert_eq!((wrong.status, wrong.kind()), (405, "method-not-allowed"));
    let mut allowed: Vec<&str> = wrong.header("allow").split(',').collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
}

#[test]
fn the_document_that_is_served_is_the_one_that_is_committed() {
    let (world, program) = start("");
    let _worker = program.run();
    let served = ask(&world, "GET /v1/openapi.json", "", "").text;
    assert!(served == std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json")).unwrap());
}

#[test]
fn every_path_of_the_document_is_served() {
    let (world, program) = start("");
    let _worker = program.run();
    let document = snapkeep::api::openapi();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let at = path.replace("{id}", "20261124-090301-abcdefgh").replace("{name}", "none");
            // As a stream it would have no end.
            let accept = if path == "/v1/events" { "accept: application/json\r\n" } else { "" };
            let reply = ask(&world, &format!("{} {at}", method.to_uppercase()), accept, "{}");
            assert!(reply.status != 405 && reply.status < 500, "{method} {path}: {reply:?}");
            let no_such_path = reply.body["detail"].as_str().is_some_and(|detail| detail.starts_with("there is no such path"));
            assert!(!no_such_path, "{method} {path}: {reply:?}");
        }
    }
}

#[test]
fn more_connections_than_there_is_room_for_wait_and_are_answered() {
    let (world, program) = start("");
    let _worker = program.run();
    let idle: Vec<UnixStream> = (0..560).map(|_| UnixStream::connect(program.socket()).unwrap()).collect();
    std::thread::scope(|scope| {
        let late = scope.spawn(|| ask(&world, "GET /healthz", "", "").status);
        drop(idle);
        assert_eq!(late.join().unwrap(), 200);
    });
}
