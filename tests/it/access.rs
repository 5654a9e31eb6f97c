//! Who may do what: callers of other users over the socket, and whoever comes over loopback.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::World;
use crate::support::http::{Reply, ask_at, ask_tcp, send};
use crate::support::program::{Program, eventually};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Asks as somebody else: a thread of its own connects with these ids.
fn ask_as(socket: &Path, uid: u32, groups: &[u32], line: &str, body: &str) -> Reply {
    std::thread::scope(|scope| {
        let stream = scope.spawn(|| {
            become_user(uid, groups);
            UnixStream::connect(socket).unwrap()
        });
        let stream = stream.join().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        send(stream, line, "", body)
    })
}

/// This thread alone: the C library's functions would change all.
#[expect(unsafe_code, reason = "the ids of one thread")]
fn become_user(uid: u32, groups: &[u32]) {
    // SAFETY: system calls that take numbers and a list that lives as long as they do.
    let done = unsafe {
        [
            libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()),
            libc::syscall(libc::SYS_setresgid, uid, uid, uid),
            libc::syscall(libc::SYS_setresuid, uid, uid, uid),
        ]
    };
    assert_eq!(done, [0; 3]);
}

#[test]
fn each_caller_may_do_what_the_lists_say_and_refusals_are_counted_not_repeated() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: callers of other users over the socket: not root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let world = World::at(dir.path());
    world.make_instance("a");
    let socket = dir.path().join("s.sock");
    let lists = "read = [\"gid:51001\"]\nwrite = [\"uid:51002\"]\nadmin = [\"gid:51003\"]\n";
    let program = Program::with(&world, &format!("[api]\nsocket = \"{}\"\nmode = \"0666\"\n{lists}", socket.display()));
    program.ok("init");
    let worker = program.run();
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o666);
    let (nobody, reader, writer, admin) = ((51_000, vec![]), (51_009, vec![51_001]), (51_002, vec![]), (51_009, vec![51_003]));
    let as_one = |(uid, groups): &(u32, Vec<u32>), line: &str, body: &str| ask_as(&socket, *uid, groups, line, body);
    let take = r#"{"instance": "a"}"#;
    for (who, look, takes, prunes) in
        [(&nobody, 403, 403, 403), (&reader, 200, 403, 403), (&writer, 200, 201, 403), (&admin, 200, 201, 200)]
    {
        assert_eq!(as_one(who, "GET /v1/snapshots", "").status, look, "{who:?}");
        assert_eq!(as_one(who, "POST /v1/plan", "{}").status, look, "{who:?}");
        assert_eq!(as_one(who, "POST /v1/snapshots", take).status, takes, "{who:?}");
        assert_eq!(as_one(who, "POST /v1/prune", "").status, prunes, "{who:?}");
        assert_eq!(as_one(who, "GET /healthz", "").status, 200, "{who:?}");
        let view = as_one(who, "GET /v1/whoami", "").body;
        assert_eq!((view["uid"].clone(), view["read"].clone()), (who.0.into(), (look == 200).into()), "{view}");
        assert_eq!((view["write"].clone(), view["admin"].clone()), ((takes == 201).into(), (prunes == 200).into()), "{view}");
    }
    // What one operation can do depends on what is asked of it.
    assert_eq!(as_one(&writer, "DELETE /v1/snapshots/none?unreadable=true", "").status, 403);
    assert_eq!(as_one(&writer, "DELETE /v1/snapshots/none", "").status, 404);
    assert_eq!(as_one(&writer, "POST /v1/verify", r#"{"repair": true}"#).status, 403);
    let refused = as_one(&reader, "POST /v1/snapshots", take);
    assert_eq!(refused.body["detail"], "this takes the right to write, and user 51009 may only read");
    assert!(refused.body["remedy"].as_str().unwrap().contains("[api]"), "{refused:?}");
    for _ in 0..20 {
        as_one(&nobody, "GET /v1/status", "");
    }
    let log = worker.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("api.refused") && line.contains("uid 51000")).collect();
    // One for each right that was wanted: read, write, admin.
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(lines[0].contains("\"wanted\":\"read\"") && lines[0].contains("\"count\":1"), "{lines:#?}");
}

#[test]
fn without_lists_nobody_but_root_and_the_workers_user_can_connect() {
    let world = World::new();
    let program = Program::new(&world, "");
    program.ok("init");
    let _worker = program.run();
    assert_eq!(fs::metadata(program.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    let view = ask_at(&program.socket(), "GET /v1/whoami", "", "").body;
    assert_eq!((view["read"].clone(), view["write"].clone(), view["admin"].clone()), (true.into(), true.into(), true.into()));
}

/// A port that was free just now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn over_loopback_one_may_look_and_with_the_token_do_everything() {
    let world = World::new();
    world.make_instance("a");
    let token = world.store.with_file_name("token");
    fs::write(&token, "0123456789abcdef0123456789abcdef\n").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let port = free_port();
    let program = Program::with(&world, &format!("[api]\ntcp = \"127.0.0.1:{port}\"\ntoken_file = \"{}\"\n", token.display()));
    program.ok("init");
    let _worker = program.run();
    let take = r#"{"instance": "a"}"#;
    assert_eq!(ask_tcp(port, "GET /v1/snapshots", "", "").status, 200);
    assert_eq!(ask_tcp(port, "GET /v1/whoami", "", "").body["write"], false);
    assert_eq!(ask_tcp(port, "POST /v1/snapshots", "", take).status, 403);
    let wrong = ask_tcp(port, "POST /v1/snapshots", "authorization: Bearer guess\r\n", take);
    assert_eq!((wrong.status, wrong.header("www-authenticate")), (401, "Bearer"));
    let with = "authorization: Bearer 0123456789abcdef0123456789abcdef\r\n";
    assert_eq!(ask_tcp(port, "POST /v1/snapshots", with, take).status, 201);
    assert_eq!(ask_tcp(port, "GET /v1/whoami", with, "").body["admin"], true);
    // A name that somebody has pointed at us, and another site's page.
    for host in ["evil.example", "127.0.0.1:1", "localhost.evil.example"] {
        assert_eq!(ask_tcp(port, "GET /v1/snapshots", &format!("host: {host}\r\n"), "").status, 421, "{host}");
    }
    assert_eq!(ask_tcp(port, "GET /v1/snapshots", &format!("host: localhost:{port}\r\n"), "").status, 200);
    assert_eq!(ask_tcp(port, "POST /v1/snapshots", &format!("{with}origin: http://evil.example\r\n"), take).status, 403);
    assert_eq!(ask_tcp(port, "POST /v1/snapshots", &format!("{with}sec-fetch-site: cross-site\r\n"), take).status, 403);
    // The token is read each time; one that others may read is none.
    fs::write(&token, "another-token-of-32-characters!!\n").unwrap();
    assert_eq!(ask_tcp(port, "POST /v1/snapshots", with, take).status, 401);
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
    let open = ask_tcp(port, "POST /v1/snapshots", "authorization: Bearer another-token-of-32-characters!!\r\n", take);
    assert!(open.status == 401 && open.body["detail"].as_str().unwrap().contains("chmod 0600"), "{open:?}");
}

#[test]
fn a_token_that_others_may_read_keeps_the_worker_from_starting() {
    let world = World::new();
    let token = world.store.with_file_name("token");
    fs::write(&token, "0123456789abcdef0123456789abcdef\n").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
    let program = Program::with(&world, &format!("[api]\ntcp = \"127.0.0.1:{}\"\ntoken_file = \"{}\"\n", free_port(), token.display()));
    program.ok("init");
    let (code, why) = program.fails("run");
    assert!(code == 1 && why.contains("chmod 0600"), "{why}");
}

#[test]
fn who_may_do_what_follows_a_reload() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: callers of other users over the socket: not root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let world = World::at(dir.path());
    let socket = dir.path().join("s.sock");
    let rest = format!("[api]\nsocket = \"{}\"\nmode = \"0666\"\n", socket.display());
    let program = Program::with(&world, &rest);
    program.ok("init");
    let worker = program.run();
    let status = || ask_as(&socket, 51_000, &[], "GET /v1/snapshots", "").status;
    assert_eq!(status(), 403);
    Program::with(&world, &format!("{rest}read = [\"uid:51000\"]\n"));
    worker.signal(nix::sys::signal::Signal::SIGHUP);
    eventually("the reload gives the right", Duration::from_secs(20), || status() == 200);
}
