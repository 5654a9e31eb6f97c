//! A broken schedule reaches a person: the real program's log, mtail, Prometheus with the shipped rules, Alertmanager, and a
//! webhook; and when it is mended that is told as well. All on loopback. Skipped where one of them is not installed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests")]

use crate::support::World;
use crate::support::mounts::tool;
use crate::support::program::{Program, eventually};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A server of somebody else's; ended when dropped.
struct Server(Child);

impl Server {
    fn start(command: &mut Command, log: &Path) -> Self {
        let out = fs::File::create(log).unwrap();
        Self(command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port of the loopback that nobody has.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Takes what is posted, until the test ends.
fn webhook() -> (u16, Arc<Mutex<Vec<serde_json::Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let got = Arc::new(Mutex::new(Vec::new()));
    let posts = Arc::clone(&got);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if let Some(body) = receive(stream) {
                posts.lock().unwrap().push(body);
            }
        }
    });
    (port, got)
}

fn receive(stream: TcpStream) -> Option<serde_json::Value> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().ok()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").ok()?;
    serde_json::from_slice(&body).ok()
}

/// The three servers over a log.
fn servers(dir: &Path, log: &Path, hook: u16) -> [Server; 3] {
    let (mtail, prometheus, alertmanager) = (port(), port(), port());
    let monitoring = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/monitoring");
    let am = dir.join("alertmanager.yml");
    fs::write(
        &am,
        format!(
            "route:\n  receiver: hook\n  group_by: [alertname]\n  group_wait: 100ms\n  group_interval: 1s\nreceivers:\n  - name: hook\n    webhook_configs:\n      - url: http://127.0.0.1:{hook}/\n"
        ),
    )
    .unwrap();
    let prom = dir.join("prometheus.yml");
    fs::write(
        &prom,
        format!(
            "global:\n  scrape_interval: 500ms\n  scrape_timeout: 400ms\n  evaluation_interval: 500ms\nrule_files:\n  - {}\nscrape_configs:\n  - job_name: snapkeep\n    static_configs:\n      - targets: ['127.0.0.1:{mtail}']\nalerting:\n  alertmanagers:\n    - static_configs:\n        - targets: ['127.0.0.1:{alertmanager}']\n",
            monitoring.join("snapkeep.rules.yml").display()
        ),
    )
    .unwrap();
    let arg = |name: &str, path: &Path| format!("--{name}={}", path.display());
    [
        Server::start(
            Command::new("mtail")
                .args([
                    "--address=127.0.0.1",
                    &format!("--port={mtail}"),
                    "--poll_interval=100ms",
                    "--poll_log_interval=100ms",
                    "--logtostderr",
                ])
                .args([arg("progs", &monitoring.join("snapkeep.mtail")), arg("logs", log)]),
            &dir.join("mtail.out"),
        ),
        Server::start(
            Command::new("prometheus-alertmanager").args([
                arg("config.file", &am),
                arg("storage.path", &dir.join("am")),
                format!("--web.listen-address=127.0.0.1:{alertmanager}"),
                "--cluster.listen-address=".to_owned(),
            ]),
            &dir.join("alertmanager.out"),
        ),
        Server::start(
            Command::new("prometheus").args([
                arg("config.file", &prom),
                arg("storage.tsdb.path", &dir.join("tsdb")),
                format!("--web.listen-address=127.0.0.1:{prometheus}"),
            ]),
            &dir.join("prometheus.out"),
        ),
    ]
}

#[test]
fn a_schedule_that_breaks_raises_an_alert_at_a_webhook_and_mending_it_ends_that() {
    for name in ["mtail", "prometheus", "prometheus-alertmanager"] {
        if let Err(why) = tool(name) {
            println!("skipped: {why}");
            return;
        }
    }
    let world = World::new();
    world.make_instance("web");
    let policy = "[[policy]]\nname = \"often\"\ninstances = [\"web\"]\nevery = \"1s\"\nkeep_all = true\n";
    let broken = Program::with(&world, &format!("[driver]\nfreeze = [\"echo the guest does not answer >&2; false\"]\n{policy}"));
    broken.ok("init");
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("snapkeep.log");
    fs::write(&log, "").unwrap();
    let (hook, got) = webhook();
    let _servers = servers(dir.path(), &log, hook);
    let once = |program: &Program| {
        let out = fs::File::options().append(true).open(&log).unwrap();
        program.command("once").stdout(out).status().unwrap()
    };
    let heard = |status: &str| {
        let all = got.lock().unwrap();
        let mut alerts = all.iter().flat_map(|post| post["alerts"].as_array().cloned().unwrap_or_default());
        alerts.any(|alert| alert["labels"]["alertname"] == "SnapkeepFailing" && alert["status"] == status)
    };
    eventually("the alert reaches the webhook", Duration::from_secs(90), || {
        once(&broken);
        std::thread::sleep(Duration::from_millis(700));
        heard("firing")
    });
    let first = got.lock().unwrap().iter().find(|post| post["commonLabels"]["alertname"] == "SnapkeepFailing").cloned().unwrap();
    assert!(first["commonAnnotations"]["runbook"].as_str().unwrap().ends_with("runbook.md#snapkeepfailing"), "{first}");
    assert!(fs::read_to_string(&log).unwrap().contains("the guest does not answer"));
    let mended = Program::with(&world, policy);
    eventually("the all-clear reaches it too", Duration::from_secs(90), || {
        once(&mended);
        std::thread::sleep(Duration::from_millis(700));
        heard("resolved")
    });
}
