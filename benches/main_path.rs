//! The main path against its floors: durable forks one at a time and in a burst, a snapshot, a start.
//!
//! `cargo bench --bench main_path -- [--rounds N] [--forks N] [--only forks|snapshot|start]` makes its own file systems on
//! loop devices (root). Each figure is a ratio to a floor or a peer in the same round; medians over the rounds.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::indexing_slicing,
    unsafe_code,
    unreachable_pub,
    missing_docs,
    reason = "a bench: it works on its own directories, prints, and stops at the first error"
)]

#[expect(dead_code, reason = "the other bench measures the other modes")]
mod floor;
#[path = "../tests/it/support/mod.rs"]
mod support;

use floor::{Floor, Level, Mode};
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use support::mounts::{Kind, mounted};
use support::{NEVER, World, ask, fixture};

struct Options {
    rounds: usize,
    forks: usize,
    only: Option<String>,
}

fn options() -> Options {
    let mut options = Options { rounds: 3, forks: 1000, only: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--rounds" => options.rounds = value().parse().unwrap(),
            "--forks" => options.forks = value().parse().unwrap(),
            "--only" => options.only = Some(value()),
            // `cargo bench` adds this.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    options
}

fn main() {
    let options = options();
    let wanted = |what: &str| options.only.as_deref().is_none_or(|only| only == what);
    println!("{:<44} {:<6} {:>12} {:>12} {:>7}", "what", "fs", "snapkeep", "floor", "ratio");
    for kind in Kind::ALL {
        // Where disks are copied the fixture is made small: its bytes would be all that is measured.
        let scale = if kind == Kind::Ext4 { 64 } else { 1 };
        if wanted("forks") {
            rounds(&options, kind, "fork, durable, one at a time (us each)", |path| one_at_a_time(path, kind, scale, 100));
            let what = format!("{} forks at once, durable (us each)", options.forks);
            rounds(&options, kind, &what, |path| burst(path, kind, scale, options.forks));
        }
        if wanted("snapshot") {
            rounds(&options, kind, "snapshot with digests / cp -a && sync -f (ms)", |path| snapshot(path, 1));
        }
    }
    if wanted("start") {
        start(10_000);
    }
}

/// Runs a measurement on a fresh file system each round, and prints the medians of both figures and of their ratios.
fn rounds(options: &Options, kind: Kind, what: &str, measure: impl Fn(&Path) -> (f64, f64)) {
    let mut pairs = Vec::new();
    for _ in 0..options.rounds {
        let Some(fresh) = mounted(kind, 24 << 30) else { return };
        pairs.push(measure(&fresh.path));
    }
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let ours = median(pairs.iter().map(|p| p.0).collect());
    let floor = median(pairs.iter().map(|p| p.1).collect());
    let ratio = median(pairs.iter().map(|p| p.0 / p.1).collect());
    println!("{what:<44} {:<6} {ours:>12.1} {floor:>12.1} {ratio:>7.2}", kind.to_string());
}

fn micros(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e6
}

/// The floor's figure in microseconds a fork.
fn floor_of(path: &Path, kind: Kind, level: Level, forks: usize) -> f64 {
    let root = path.join("floor");
    std::fs::create_dir(&root).unwrap();
    let mode = if kind == Kind::Ext4 { Mode::ReadWrite } else { Mode::Clone };
    let source = path.join("vms/golden");
    let figures =
        floor::run(&Floor { source: &source, root: &root, mode, level, forks, threads: 1, small_files: true, remove: false }).unwrap();
    figures.wall_s * 1e6 / forks as f64
}

fn one_at_a_time(path: &Path, kind: Kind, scale: u64, forks: usize) -> (f64, f64) {
    let world = World::at(path);
    fixture::make(&world.vms.join("golden"), scale).unwrap();
    let open = world.open();
    let id = open.take("golden").unwrap();
    open.fork(&id, "warm").unwrap();
    nix::unistd::sync();
    let began = Instant::now();
    for n in 0..forks {
        open.fork(&id, &format!("f{n}")).unwrap();
    }
    let ours = micros(began) / forks as f64;
    nix::unistd::sync();
    (ours, floor_of(path, kind, Level::ALL[2], forks))
}

fn burst(path: &Path, kind: Kind, scale: u64, forks: usize) -> (f64, f64) {
    let world = World::at(path);
    fixture::make(&world.vms.join("golden"), scale).unwrap();
    let open = world.open();
    let id = open.take("golden").unwrap();
    open.fork(&id, "warm").unwrap();
    nix::unistd::sync();
    let asks = (0..forks).map(|n| ask(&id, &format!("f{n}"))).collect();
    let began = Instant::now();
    assert!(open.forks.accept(asks).iter().all(Result::is_ok));
    assert_eq!(open.forks.run_ready(&NEVER, &NEVER).unwrap().done, forks);
    let ours = micros(began) / forks as f64;
    nix::unistd::sync();
    (ours, floor_of(path, kind, Level::ALL[4], forks))
}

fn snapshot(path: &Path, scale: u64) -> (f64, f64) {
    let world = World::at(path);
    let golden = world.vms.join("golden");
    fixture::make(&golden, scale).unwrap();
    let open = world.open();
    nix::unistd::sync();
    let began = Instant::now();
    open.take("golden").unwrap();
    let ours = micros(began) / 1000.0;
    nix::unistd::sync();
    let copy = path.join("copy");
    let began = Instant::now();
    let run = |command: &mut Command| assert!(command.status().unwrap().success());
    run(Command::new("cp").args(["-a", "--sparse=always", "--reflink=auto"]).arg(&golden).arg(&copy));
    run(Command::new("sync").arg("-f").arg(&copy));
    (ours, micros(began) / 1000.0)
}

/// A start with so many snapshots and so many forks, against reading the same manifests and fork records.
fn start(count: usize) {
    let Some(fresh) = mounted(Kind::Ext4, 24 << 30) else { return };
    let world = World::at(&fresh.path);
    let tiny = world.vms.join("tiny");
    std::fs::create_dir(&tiny).unwrap();
    std::fs::write(tiny.join("disk"), "disk").unwrap();
    let open = world.open();
    let mut last = open.take("tiny").unwrap();
    for _ in 1..count {
        last = open.take("tiny").unwrap();
    }
    for chunk in 0..count / 1000 {
        let asks = (0..1000).map(|n| ask(&last, &format!("f{chunk}-{n}"))).collect();
        assert!(open.forks.accept(asks).iter().all(Result::is_ok));
    }
    assert_eq!(open.forks.run_ready(&NEVER, &NEVER).unwrap().done, count / 1000 * 1000);
    drop(open);
    let mut pairs = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        let open = world.open();
        let ours = micros(began) / 1000.0;
        assert_eq!(open.store.index().present().count(), count);
        drop(open);
        let began = Instant::now();
        read_all(&world.store.join("snapshots"), "manifest.json");
        read_all(&world.vms, ".snapkeep/fork.json");
        pairs.push((ours, micros(began) / 1000.0));
    }
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (ours, floor) = pairs[2];
    println!(
        "{:<44} {:<6} {ours:>12.1} {floor:>12.1} {:>7.2}",
        format!("start, {count} snapshots and forks, warm (ms)"),
        "ext4",
        ours / floor
    );
}

fn read_all(dir: &Path, file: &str) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let _ = std::fs::read(entry.unwrap().path().join(file));
    }
}
