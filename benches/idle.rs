//! What a worker costs while nothing happens, and how late it is when much is due in one second.
//!
//! `cargo bench --bench idle -- [--seconds N] [--pairs N] [--slots N] [--rounds N] [--only TEXT] [--fs LIST] [--quiet |
//! --dirty] [--rows FILE]` runs the real program on file systems of its own on loop devices (root). The processor's time of both is counted over the
//! same seconds, by the kernel, to the nanosecond.
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

use chrono::{DateTime, Utc};
use frame::{Beside, Options, Row, median};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::World;
use support::mounts::{Kind, mounted};
use support::program::{Program, Running};

const SIZE: u64 = 8 << 30;
const POLICIES: usize = 10;

struct Given {
    seconds: u64,
    pairs: usize,
    slots: usize,
    options: Options,
}

fn given() -> Given {
    let mut given = Given {
        seconds: 60,
        pairs: 10_000,
        slots: 1000,
        options: Options {
            rounds: 3,
            only: Vec::new(),
            kinds: Kind::ALL.to_vec(),
            besides: vec![Beside::Quiet, Beside::Dirty],
            rows: None,
            plot: None,
        },
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--seconds" => given.seconds = value().parse().unwrap(),
            "--pairs" => given.pairs = value().parse().unwrap(),
            "--slots" => given.slots = value().parse().unwrap(),
            "--rounds" => given.options.rounds = value().parse().unwrap(),
            "--only" => given.options.only.extend(value().split(',').map(str::to_owned)),
            "--fs" => {
                let wanted = value();
                given.options.kinds.retain(|kind| wanted.split(',').any(|w| w == kind.to_string()));
            }
            "--quiet" => given.options.besides = vec![Beside::Quiet],
            "--dirty" => given.options.besides = vec![Beside::Dirty],
            "--rows" => given.options.rows = Some(value().into()),
            "--peer" => peer(),
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    given
}

fn main() {
    let given = given();
    for kind in given.options.kinds.clone() {
        for beside in given.options.besides.clone() {
            idle(&given, (kind, beside));
            late(&given, (kind, beside));
        }
    }
}

/// The peer: one job of tokio-cron-scheduler, every second, that does nothing.
fn peer() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let scheduler = tokio_cron_scheduler::JobScheduler::new().await.unwrap();
        scheduler.add(tokio_cron_scheduler::Job::new_async("* * * * * *", |_, _| Box::pin(async {})).unwrap()).await.unwrap();
        scheduler.start().await.unwrap();
        std::future::pending::<()>().await;
    });
}

fn row(given: &Given, (kind, beside): (Kind, Beside), what: &str, against: &str, unit: &str, pairs: &[(f64, f64)], wanted: Option<f64>) {
    given.options.row(&Row {
        what: what.to_owned(),
        against: against.to_owned(),
        fs: kind.to_string(),
        beside,
        unit: unit.to_owned(),
        ours: median(pairs.iter().map(|p| p.0)),
        other: median(pairs.iter().map(|p| p.1)),
        ratio: median(pairs.iter().map(|p| p.0 / p.1)),
        wanted,
        rounds: pairs.len(),
    });
}

/// Processor time of a process, its ended threads included.
fn processor_time(child: &Child) -> Duration {
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both calls write only what they are given a pointer to.
    unsafe {
        assert_eq!(libc::clock_getcpuclockid(child.id().try_into().unwrap(), &mut clock), 0);
        assert_eq!(libc::clock_gettime(clock, &mut time), 0);
    }
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

fn resident_mib(child: &Child) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn instances(world: &World, names: impl Iterator<Item = String>) {
    for name in names {
        fs::create_dir(world.vms.join(&name)).unwrap();
        fs::write(world.vms.join(&name).join("disk"), "disk").unwrap();
    }
}

/// Waits until a worker has nothing left to do: it used little for a few seconds.
fn settle(running: &Running) {
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut calm = 0;
    while calm < 3 && Instant::now() < deadline {
        let before = processor_time(&running.child);
        std::thread::sleep(Duration::from_secs(2));
        calm = if processor_time(&running.child) - before < Duration::from_millis(4) { calm + 1 } else { 0 };
    }
}

fn idle(given: &Given, (kind, beside): (Kind, Beside)) {
    let Given { seconds, pairs, options, .. } = given;
    let (processor, memory) = (format!("idle, {pairs} pairs"), format!("resident, {pairs} pairs"));
    if !options.wants(&processor) && !options.wants(&memory) {
        return;
    }
    let (mut times, mut sizes) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let Some(fresh) = mounted(kind, SIZE) else { return };
        let world = World::at(&fresh.path);
        instances(&world, (0..*pairs).map(|n| format!("vm{}-{n}", n % POLICIES)));
        let policy = |n: usize| {
            format!("[[policy]]\nname = \"p{n}\"\ninstances = [\"vm{n}-*\"]\nschedule = \"0 3 1 1 *\"\njitter = \"2m\"\nkeep_all = true\n")
        };
        let running = Program::with(&world, &(0..POLICIES).map(policy).collect::<String>()).run();
        settle(&running);
        let mut other = Command::new(std::env::current_exe().unwrap()).arg("--peer").stdin(Stdio::null()).spawn().unwrap();
        let writer = beside.start(&fresh.path);
        std::thread::sleep(Duration::from_secs(3));
        let before = (processor_time(&running.child), processor_time(&other));
        std::thread::sleep(Duration::from_secs(*seconds));
        let micros = |now: Duration, before: Duration| (now - before).as_secs_f64() * 1e6 / *seconds as f64;
        times.push((micros(processor_time(&running.child), before.0), micros(processor_time(&other), before.1)));
        sizes.push((resident_mib(&running.child), 60.0));
        drop(writer);
        other.kill().unwrap();
        other.wait().unwrap();
        running.stop();
    }
    row(given, (kind, beside), &processor, "tokio-cron-scheduler, one job (a second)", "us", &times, Some(2.0));
    row(given, (kind, beside), &memory, "60 MiB", "MiB", &sizes, Some(1.0));
}

/// The log's lines of one event.
fn events(log: &str, name: &str) -> Vec<serde_json::Value> {
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(|line: &serde_json::Value| line["event"] == name).collect()
}

fn time(value: &serde_json::Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

/// The 99th of a hundred.
fn p99(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[(all.len() * 99).div_ceil(100).max(1) - 1]
}

/// Of each snapshot of one slot, milliseconds after it: the slot was begun, the copy began, the snapshot was there.
fn lateness(given: &Given, path: &Path) -> [Vec<f64>; 3] {
    let world = World::at(path);
    instances(&world, (0..given.slots).map(|n| format!("vm-{n}")));
    let config = format!(
        "[worker]\nmax_running = {}\n[[policy]]\nname = \"p\"\ninstances = [\"vm-*\"]\nevery = \"30s\"\nkeep_all = true\n",
        given.slots
    );
    let running = Program::with(&world, &config).run();
    let deadline = Instant::now() + Duration::from_secs(100);
    // The first slots come a while after all instances are known.
    while events(&running.log(), "snapshot.taken").len() < given.slots {
        assert!(Instant::now() < deadline, "{} taken", events(&running.log(), "snapshot.taken").len());
        std::thread::sleep(Duration::from_millis(500));
    }
    let log = running.log();
    running.stop();
    let taken = events(&log, "snapshot.taken");
    let first = taken.iter().map(|line| time(&line["slot"])).min().unwrap();
    let mut of_first: HashMap<String, [f64; 3]> = HashMap::new();
    let after = |at: DateTime<Utc>| (at - first).num_microseconds().unwrap() as f64 / 1e3;
    for line in taken.iter().filter(|line| time(&line["slot"]) == first) {
        let id = line["snapshot"].as_str().unwrap();
        let text = fs::read_to_string(world.store.join("snapshots").join(id).join("manifest.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
        let created = time(&manifest["body"]["created_at"]);
        of_first.insert(line["instance"].as_str().unwrap().to_owned(), [0.0, after(created), after(time(&line["ts"]))]);
    }
    for (instance, times) in &mut of_first {
        let path: PathBuf = world.store.join("ledger/p").join(format!("{instance}.json"));
        let entry: serde_json::Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        times[0] = entry["body"]["late_ms"].as_f64().unwrap();
    }
    assert_eq!(of_first.len(), given.slots, "none is lost");
    assert!(events(&log, "slot.missed").is_empty() && events(&log, "snapshot.failed").is_empty());
    [0, 1, 2].map(|what| of_first.values().map(|times| times[what]).collect())
}

fn late(given: &Given, (kind, beside): (Kind, Beside)) {
    let names = ["begun", "the copy begins", "taken"].map(|what| format!("{} slots in one second, p99: {what}", given.slots));
    if !names.iter().any(|name| given.options.wants(name)) {
        return;
    }
    let mut all: [Vec<(f64, f64)>; 3] = Default::default();
    for _ in 0..given.options.rounds {
        let Some(fresh) = mounted(kind, SIZE) else { return };
        let _writer = beside.start(&fresh.path);
        for (all, late) in all.iter_mut().zip(lateness(given, &fresh.path)) {
            all.push((p99(late), 600.0));
        }
    }
    for ((name, all), wanted) in names.iter().zip(&all).zip([Some(1.0), Some(1.0), None]) {
        row(given, (kind, beside), name, "600 ms", "ms", all, wanted);
    }
}
