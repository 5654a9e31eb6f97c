//! What the API answers over its socket, how fast and how late, with 100,000 snapshots in the store: one snapshot, and fork
//! requests, each durable before it is answered.
//!
//! `cargo bench --bench api -- [--snapshots N] [--requests N] [--forks N] [--connections N] [--rounds N] [--rows FILE]` runs
//! the real program. The floor is a bare axum handler in a process of its own, asked by the same loader over a socket of the
//! same kind in the same round: for a snapshot it answers as many bytes; for a fork it appends a line to a file and syncs that.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::indexing_slicing,
    unsafe_code,
    unreachable_pub,
    dead_code,
    missing_docs,
    reason = "a bench: it works on its own directories, prints, and stops at the first error"
)]

mod frame;
#[path = "../tests/it/support/mod.rs"]
mod support;

use axum::body::Bytes;
use axum::extract::{Path as UrlPath, State};
use axum::routing::{get, post};
use frame::{Beside, Options, Row, median};
use http_body_util::{BodyExt as _, Full};
use std::io::Write as _;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::World;
use support::many::{Many, make};
use support::program::Program;

struct Given {
    snapshots: usize,
    requests: usize,
    forks: usize,
    connections: usize,
    options: Options,
}

fn given() -> Given {
    let options = Options { rounds: 7, only: Vec::new(), kinds: Vec::new(), besides: Vec::new(), rows: None, plot: None };
    let mut given = Given { snapshots: 100_000, requests: 20_000, forks: 1000, connections: 16, options };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--snapshots" => given.snapshots = value().parse().unwrap(),
            "--requests" => given.requests = value().parse().unwrap(),
            "--forks" => given.forks = value().parse().unwrap(),
            "--connections" => given.connections = value().parse().unwrap(),
            "--rounds" => given.options.rounds = value().parse().unwrap(),
            "--rows" => given.options.rows = Some(value().into()),
            "--floor" => floor(value().into(), value().parse().unwrap()),
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    given
}

/// The bare handlers, until somebody kills this process.
fn floor(socket: PathBuf, size: usize) {
    let file = std::fs::File::options().create(true).append(true).open(socket.with_extension("log")).unwrap();
    let state = (Bytes::from(vec![b'x'; size]), Arc::new(Mutex::new(file)));
    let append = async |State((body, file)): State<(Bytes, Arc<Mutex<std::fs::File>>)>, asked: Bytes| {
        let append = move || {
            let mut file = file.lock().unwrap();
            file.write_all(&asked).unwrap();
            file.sync_data().unwrap();
        };
        tokio::task::spawn_blocking(append).await.unwrap();
        (axum::http::StatusCode::ACCEPTED, body)
    };
    let router = axum::Router::new()
        .route("/v1/snapshots/{id}", get(async |State((body, _)): State<(Bytes, _)>, UrlPath(_): UrlPath<String>| body))
        .route("/v1/snapshots/{id}/forks", post(append))
        .with_state(state);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { axum::serve(tokio::net::UnixListener::bind(&socket).unwrap(), router).await.unwrap() });
}

struct Floor(Child);

impl Floor {
    fn start(socket: &Path, size: usize) -> Self {
        let child = Command::new(std::env::current_exe().unwrap()).arg("--floor").arg(socket).arg(size.to_string()).spawn().unwrap();
        let floor = Self(child);
        let until = Instant::now() + Duration::from_secs(20);
        while BlockingStream::connect(socket).is_err() {
            assert!(Instant::now() < until, "the floor does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
        floor
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What one load was like: milliseconds, and requests a second.
#[derive(Debug, Clone, Copy)]
struct Load {
    p50: f64,
    p99: f64,
    rate: f64,
}

/// Asks `count` times over so many connections, which stay open; each asks again when it has its answer.
fn load(socket: &Path, connections: usize, count: usize, ask: impl Fn(usize) -> (String, String) + Send + Sync + 'static) -> Load {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (next, ask) = (Arc::new(AtomicUsize::new(0)), Arc::new(ask));
    let began = Instant::now();
    let mut times: Vec<Duration> = runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..connections {
            let (next, ask, socket) = (Arc::clone(&next), Arc::clone(&ask), socket.to_owned());
            tasks.spawn(async move {
                let stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
                let (mut sender, connection) = hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                let mut times = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return times;
                    }
                    let (path, body) = ask(n);
                    let method = if body.is_empty() { "GET" } else { "POST" };
                    let request = hyper::Request::builder().method(method).uri(path).header("host", "localhost");
                    let request = request.body(Full::new(hyper::body::Bytes::from(body))).unwrap();
                    let began = Instant::now();
                    sender.ready().await.unwrap();
                    let response = sender.send_request(request).await.unwrap();
                    let status = response.status();
                    let body = response.into_body().collect().await.unwrap().to_bytes();
                    assert!(status.is_success(), "{status} {}", String::from_utf8_lossy(&body));
                    times.push(began.elapsed());
                }
            });
        }
        tasks.join_all().await.into_iter().flatten().collect()
    });
    let took = began.elapsed();
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    Load { p50: at(0.5), p99: at(0.99), rate: times.len() as f64 / took.as_secs_f64() }
}

fn rows(given: &Given, what: &str, against: &str, loads: &[(Load, Load)], wanted: Option<f64>) {
    let row = |name: &str, unit: &str, of: fn(&Load) -> f64, wanted: Option<f64>| {
        given.options.row(&Row {
            what: format!("{what}, {name}"),
            against: against.to_owned(),
            fs: "ext4".to_owned(),
            beside: Beside::Quiet,
            unit: unit.to_owned(),
            ours: median(loads.iter().map(|(ours, _)| of(ours))),
            other: median(loads.iter().map(|(_, other)| of(other))),
            ratio: median(loads.iter().map(|(ours, other)| of(ours) / of(other))),
            wanted,
            rounds: loads.len(),
        });
    };
    row("p50", "ms", |load| load.p50, wanted);
    row("p99", "ms", |load| load.p99, None);
    row("a second", "1/s", |load| load.rate, wanted.map(|w| -1.0 / w));
}

fn main() {
    let given = given();
    let dir = tempfile::tempdir().unwrap();
    let world = World::at(dir.path());
    let ids = make(&world, Many { snapshots: given.snapshots, sources: 100, forks: 0, of_one: false });
    let program = Program::with(&world, "[fork]\nmax_pending = 1000000\n");
    program.ok("init");
    let worker = program.run();
    let socket = program.socket();
    let until = Instant::now() + Duration::from_secs(600);
    while !program.ok("status").contains("running") || worker.log().lines().all(|line| !line.contains("worker.started")) {
        assert!(Instant::now() < until, "the worker does not start: {}", worker.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    let size = support::http::ask_at(&socket, &format!("GET /v1/snapshots/{}", ids[0]), "", "").text.len();
    let floor = Floor::start(&dir.path().join("floor.sock"), size);
    let floor_socket = dir.path().join("floor.sock");
    let name = |n: usize| format!("{} snapshots", n);
    for connections in [1, given.connections] {
        let ids = Arc::new(ids.clone());
        let mut loads = Vec::new();
        for _ in 0..given.options.rounds {
            let get =
                |ids: Arc<Vec<_>>| move |n: usize| (format!("/v1/snapshots/{}", ids[n.wrapping_mul(7919) % ids.len()]), String::new());
            let other = load(&floor_socket, connections, given.requests, get(Arc::clone(&ids)));
            loads.push((load(&socket, connections, given.requests, get(Arc::clone(&ids))), other));
        }
        let what = format!("a snapshot of {}, {connections} at once", name(given.snapshots));
        rows(&given, &what, "bare axum handler", &loads, None);
    }
    let mut loads = Vec::new();
    for round in 0..given.options.rounds {
        let id = ids[0].clone();
        let fork = move |n: usize| (format!("/v1/snapshots/{id}/forks"), format!("{{\"name\": \"r{round}-{n}\"}}"));
        let other = load(&floor_socket, given.connections, given.forks, fork.clone());
        loads.push((load(&socket, given.connections, given.forks, fork), other));
    }
    let what = format!("a fork request of {}, {} at once", name(given.snapshots), given.connections);
    rows(&given, &what, "bare handler, line synced", &loads, None);
    drop(floor);
    assert_eq!(worker.stop(), 0);
}
