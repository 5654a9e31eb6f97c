//! The real server against schemathesis, which makes requests up from the OpenAPI document: good ones, bad ones, and ones nobody
//! would think of; it checks statuses, content types, headers and bodies against the document.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::access::free_port;
use crate::support::World;
use crate::support::http::ask;
use crate::support::program::Program;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

/// Where `tests/run --install` puts it.
fn schemathesis() -> Option<PathBuf> {
    let target = PathBuf::from(env!("CARGO_BIN_EXE_snapkeep"));
    let target = target.parent()?.parent()?;
    let found = target.join("venv/bin/schemathesis");
    found.exists().then_some(found)
}

#[test]
fn schemathesis_finds_nothing_that_the_document_does_not_say() {
    let Some(schemathesis) = schemathesis() else {
        eprintln!("skipped: the API against schemathesis: it is not installed (tests/run --install)");
        return;
    };
    let world = World::new();
    world.make_instance("a");
    let token = world.store.with_file_name("token");
    fs::write(&token, "0123456789abcdef0123456789abcdef\n").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let port = free_port();
    let rest = format!("[api]\ntcp = \"127.0.0.1:{port}\"\ntoken_file = \"{}\"\n", token.display());
    let program = Program::with(&world, &rest);
    program.ok("init");
    let worker = program.run();
    for (line, body) in
        [("POST /v1/snapshots", r#"{"instance": "a", "name": "base"}"#), ("POST /v1/snapshots/a%2Fbase/forks", r#"{"name": "web"}"#)]
    {
        assert!(ask(&world, line, "", body).status < 300);
    }
    let examples = if std::env::var_os("FULL").is_some() { "200" } else { "20" };
    let output = Command::new(schemathesis)
        .args(["--config-file", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/schemathesis.toml")])
        .args(["run", concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json"), "--url", &format!("http://127.0.0.1:{port}")])
        .args(["--header", "Authorization: Bearer 0123456789abcdef0123456789abcdef"])
        .args(["--phases", "examples,coverage,fuzzing", "--max-examples", examples, "--seed", "7"])
        .args(["--request-timeout", "60", "--generation-database", "none", "--no-color"])
        .current_dir(world.store.parent().unwrap())
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(ask(&world, "GET /healthz", "", "").status, 200, "{}", worker.log());
    assert_eq!(worker.stop(), 0);
}
