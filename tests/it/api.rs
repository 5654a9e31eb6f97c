//! HTTP on the worker's socket, as somebody with curl meets it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, reason = "tests")]

use crate::support::program::Program;
use crate::support::{World, http};
use std::fs;

/// Sends a request; status, content type and body come back.
fn ask(world: &World, line: &str, headers: &str, body: &str) -> (u16, String, serde_json::Value) {
    let reply = http::ask(world, line, headers, body);
    (reply.status, reply.header("content-type").to_owned(), reply.body)
}

#[test]
fn every_error_is_a_problem_document_and_a_snapshot_with_live_forks_cannot_be_deleted() {
    let world = World::new();
    world.make_instance("a");
    let program = Program::new(&world, "");
    program.ok("init");
    let _worker = program.run();
    let get = |path: &str| ask(&world, &format!("GET {path}"), "", "");
    assert_eq!(get("/healthz").0, 200);
    let (status, _, taken) = ask(&world, "POST /v1/snapshots", "", r#"{"instance": "a", "name": "base"}"#);
    assert_eq!((status, taken["ref_count"].as_u64()), (201, Some(0)));
    let id = taken["id"].as_str().unwrap();
    let forks = format!("POST /v1/snapshots/{id}/forks");
    let (status, _, first) = ask(&world, &forks, "idempotency-key: k\r\nprefer: respond-async, wait=20\r\n", r#"{"name": "web"}"#);
    assert_eq!((status, first["requests"][0]["state"].as_str()), (201, Some("done")));
    let (_, _, again) = ask(&world, &forks, "idempotency-key: k\r\n", r#"{"name": "web"}"#);
    assert_eq!(again["requests"][0]["id"], first["requests"][0]["id"]);
    let (status, _, batch) = ask(&world, &forks, "", r#"{"count": 3, "prefix": "w"}"#);
    assert_eq!((status, batch["requests"].as_array().unwrap().len()), (202, 3));
    let (status, kind, problem) = ask(&world, &format!("DELETE /v1/snapshots/{id}"), "", "");
    assert_eq!((status, kind.as_str(), problem["type"].as_str()), (409, "application/problem+json", Some("urn:snapkeep:problem:conflict")));
    assert_eq!(problem["forks"], serde_json::json!(["w-1", "w-2", "w-3", "web"]));
    for (line, body, wanted) in [
        ("GET /v1/nothing", "", 404),
        ("PATCH /v1/snapshots", "", 405),
        ("GET /v1/snapshots/none", "", 404),
        ("POST /v1/snapshots", "{", 400),
        ("POST /v1/snapshots", r#"{"instance": "../x"}"#, 400),
        ("POST /v1/snapshots", r#"{"instance": "a", "colour": 1}"#, 400),
        ("POST /v1/snapshots", r#"{"instance": "a", "name": "base"}"#, 409),
        (&forks, r#"{"name": "web"}"#, 409),
        (&forks, r#"{"name": "UPPER"}"#, 400),
        (&forks, r#"{"count": 3}"#, 400),
        ("GET /v1/plan?at=yesterday", "", 400),
        ("GET /v1/queue/x", "", 400),
        ("DELETE /v1/forks/none", "", 404),
    ] {
        let (status, kind, problem) = ask(&world, line, "", body);
        assert_eq!((status, kind.as_str()), (wanted, "application/problem+json"), "{line}: {problem}");
        assert!(problem["detail"].as_str().is_some_and(|d| !d.is_empty()) && problem["status"] == wanted, "{line}: {problem}");
    }
    assert_eq!(get("/v1/snapshots/a%2Fbase").2["ref_count"], 4);
    assert_eq!(get("/v1/snapshots?instance=b").2["snapshots"], serde_json::json!([]));
}

#[test]
fn a_stale_socket_is_replaced_and_what_is_no_socket_is_left_alone() {
    let world = World::new();
    let program = Program::new(&world, "");
    program.ok("init");
    program.run().kill();
    assert!(world.store.join("snapkeep.sock").exists());
    assert_eq!(program.run().stop(), 0);
    let _ = fs::remove_file(world.store.join("snapkeep.sock"));
    fs::write(world.store.join("snapkeep.sock"), "precious").unwrap();
    let (code, why) = program.fails("run");
    assert!(code == 1 && why.contains("is no socket; move it away"), "{why}");
    assert_eq!(fs::read_to_string(world.store.join("snapkeep.sock")).unwrap(), "precious");
}
