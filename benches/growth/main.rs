//! How costs grow with what is stored: the start against reading the same records, its memory, and a fork, a look and a plan
//! with 1,000, 10,000 and 100,000 snapshots and as many forks.
//!
//! `cargo bench --bench growth -- [--rounds N] [--only TEXT] [--fs LIST] [--quiet | --dirty] [--rows FILE] [--plot
//! docs/growth.svg]` makes its own file systems on loop devices (root), of 24 GiB at most. `GROWTH_SIZES=1000,10000` measures with other sizes.
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

#[path = "../frame/mod.rs"]
mod frame;
mod plot;
mod scan;
#[path = "../../tests/it/support/mod.rs"]
mod support;

use frame::{Beside, Options, Row, median};
use plot::{Figure, exponent};
use snapkeep::ids::SnapshotId;
use snapkeep::worker::Worker;
use snapkeep::worker::backend::Backend;
use snapkeep::worker::view::{PlanBody, SnapshotFilter};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;
use support::many::{Many, world_at};
use support::mounts::{Kind, mounted};
use support::{NEVER, World, ask};

const CONFIG: &str = "[worker]\nthreads = 2\n[[policy]]\nname = \"golden\"\ninstances = [\"golden-*\"]\nevery = \"1h\"\n\
    [policy.keep]\nlast = 4\ndaily = 30\nweekly = 8\n";
/// Resident, MiB.
const MEMORY: f64 = 250.0;
/// Times the least.
const START: f64 = 3.0;
/// What is flat grows no more than this over all sizes.
const FLAT: f64 = 1.5;
/// The figures of the plot.
const FIGURES: [(&str, &str); 6] =
    [("a fork, durable", "ms"), ("show", "us"), ("a plan", "ms"), ("ls", "ms"), ("the start, warm", "ms"), ("resident", "MiB")];

/// What one store gave, in the order of [`FIGURES`].
type Measured = [f64; 6];

fn main() {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("--resident") {
        return print_resident(Path::new(&args.next().unwrap()));
    }
    let options = Options::parse();
    let sizes = std::env::var("GROWTH_SIZES").unwrap_or("1000,10000,100000".to_owned());
    let sizes: Vec<usize> = sizes.split(',').map(|size| size.parse().unwrap()).collect();
    let mut figures: Vec<Figure> = FIGURES.iter().map(|(what, unit)| (*what, *unit, BTreeMap::new())).collect();
    for kind in options.kinds.clone() {
        if options.wants("growth") {
            let mut all: Vec<Vec<(usize, Measured)>> = vec![Vec::new(); options.besides.len()];
            for size in &sizes {
                let Some(fresh) = mounted(kind, 24 << 30) else { break };
                let (world, ids) = make(kind, &fresh.path, *size);
                for (all, beside) in all.iter_mut().zip(&options.besides) {
                    all.push((*size, Stored { options: &options, kind, beside: *beside, world: &world, ids: &ids }.measure()));
                }
            }
            for (all, beside) in all.iter().zip(&options.besides) {
                report(&options, (kind, *beside), all, &mut figures);
            }
        }
        if options.wants("one snapshot") {
            of_one(&options, kind, *sizes.last().unwrap());
        }
    }
    if let Some(path) = &options.plot {
        std::fs::write(path, plot::draw(&figures)).unwrap();
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let began = Instant::now();
    let result = work();
    (result, began.elapsed().as_secs_f64() * 1e3)
}

/// A row of medians, or of pairs of which each is the median of so many `rounds`.
fn row(
    options: &Options,
    (kind, beside): (Kind, Beside),
    name: (String, &str, &str),
    pairs: &[(f64, f64)],
    rounds: usize,
    wanted: Option<f64>,
) {
    let (what, against, unit) = name;
    options.row(&Row {
        what,
        against: against.to_owned(),
        fs: kind.to_string(),
        beside,
        unit: unit.to_owned(),
        ours: median(pairs.iter().map(|p| p.0)),
        other: median(pairs.iter().map(|p| p.1)),
        ratio: median(pairs.iter().map(|p| p.0 / p.1)),
        wanted,
        rounds,
    });
}

fn make(kind: Kind, path: &Path, size: usize) -> (World, Vec<SnapshotId>) {
    let (made, took) = timed(|| world_at(path, Many::of_each(size)));
    nix::unistd::sync();
    println!("{kind}: made {size} snapshots and {size} forks in {:.1} s", took / 1e3);
    // The first start makes directories and is not measured.
    drop(made.0.worker(CONFIG));
    made
}

/// A store that is measured.
struct Stored<'a> {
    options: &'a Options,
    kind: Kind,
    beside: Beside,
    world: &'a World,
    ids: &'a [SnapshotId],
}

impl Stored<'_> {
    fn measure(&self) -> Measured {
        let Self { options, world, ids, .. } = self;
        let (at, rounds) = ((self.kind, self.beside), options.rounds);
        let size = world.worker(CONFIG).store.index().count_present();
        let writer = self.beside.start(world.vms.parent().unwrap());
        let mut starts = Vec::new();
        for _ in 0..rounds {
            let (worker, ours) = timed(|| world.worker(CONFIG));
            assert_eq!(worker.store.index().count_present(), size);
            let forks = worker.store.index().count_refs();
            drop(worker);
            let (found, least) =
                timed(|| scan::scan(&world.store.join("snapshots"), "manifest.json", 2) + scan::scan(&world.vms, ".snapkeep/fork.json", 2));
            assert_eq!(found, size + forks);
            starts.push((ours, least));
        }
        let wanted = |most: f64| (size == 100_000).then_some(most);
        let name = (format!("start, {size} snapshots and forks, warm"), "the same records read, 2 threads", "ms");
        row(options, at, name, &starts, rounds, wanted(START));
        let resident: Vec<(f64, f64)> = (0..rounds).map(|_| (resident(world.vms.parent().unwrap()), MEMORY)).collect();
        row(options, at, (format!("resident after it, {size}"), "the bound", "MiB"), &resident, rounds, wanted(1.0));
        let worker = world.worker(CONFIG);
        let figures = [
            self.fork(&worker),
            show(options, &worker, ids),
            plan(options, &worker),
            ls(options, &worker),
            median(starts.iter().map(|p| p.0)),
            median(resident.iter().map(|p| p.0)),
        ];
        drop(writer);
        figures
    }

    /// Milliseconds for a fork that is asked for, durable and looked at, each by itself.
    fn fork(&self, worker: &Arc<Worker>) -> f64 {
        // Beside a writer one takes as long as a sync of what is dirty may take.
        let count = if self.beside == Beside::Dirty { 4 } else { 20 };
        let one = |name: String, n: usize| {
            assert!(worker.forks.accept(vec![ask(&self.ids[n % self.ids.len()], &name)]).iter().all(Result::is_ok));
            assert_eq!(worker.forks.run_ready(&NEVER, &NEVER).unwrap().done, 1);
            worker.look_at_root();
        };
        let tag = if self.beside == Beside::Dirty { "beside" } else { "more" };
        let round = |round: usize| timed(|| (0..count).for_each(|n| one(format!("{tag}-{round}-{n}"), n * 37))).1 / count as f64;
        median((0..self.options.rounds).map(round))
    }
}

/// Microseconds.
fn show(options: &Options, worker: &Arc<Worker>, ids: &[SnapshotId]) -> f64 {
    const SHOWS: usize = 200;
    let one = |n: usize| drop(worker.snapshot(ids[n * 7919 % ids.len()].as_str()).unwrap());
    (0..SHOWS).for_each(one);
    median((0..options.rounds).map(|_| timed(|| (0..SHOWS).for_each(one)).1 * 1e3 / SHOWS as f64))
}

/// Milliseconds, sizes measured already.
fn plan(options: &Options, worker: &Arc<Worker>) -> f64 {
    let plan = || drop(worker.plan(&PlanBody::default()).unwrap());
    plan();
    median((0..options.rounds).map(|_| timed(plan).1))
}

/// Milliseconds, sizes measured already.
fn ls(options: &Options, worker: &Arc<Worker>) -> f64 {
    median((0..options.rounds).map(|_| timed(|| worker.snapshots(&SnapshotFilter::default()).unwrap()).1))
}

/// How each figure grows from size to size; what is drawn is what it is alone.
fn report(options: &Options, at: (Kind, Beside), all: &[(usize, Measured)], figures: &mut [Figure]) {
    for (nth, (what, unit, kinds)) in figures.iter_mut().enumerate() {
        let points: Vec<(usize, f64)> = all.iter().map(|(size, measured)| (*size, measured[nth])).collect();
        let Some(first) = points.first().copied() else { continue };
        for pair in points.windows(2) {
            let k = exponent(pair[0], pair[1]);
            let wanted = (*what == "show" && pair[1].0 == 100_000).then_some(FLAT);
            let name = (format!("{what}, {} stored (n^{k:.2})", pair[1].0), &*format!("{} stored", first.0), *unit);
            row(options, at, name, &[(pair[1].1, first.1)], options.rounds, wanted);
        }
        if at.1 == Beside::Quiet {
            kinds.insert(at.0.to_string(), points);
        }
    }
}

/// `show` of one snapshot with many forks against the same with a hundred.
fn of_one(options: &Options, kind: Kind, forks: usize) {
    let mut medians = vec![Vec::new(); options.besides.len()];
    for forks in [100, forks] {
        let Some(fresh) = mounted(kind, 24 << 30) else { return };
        let (world, ids) = world_at(&fresh.path, Many { snapshots: 100, sources: 10, forks, of_one: true });
        let worker = world.worker(CONFIG);
        assert_eq!(worker.snapshot(ids[0].as_str()).unwrap().ref_count, forks as u64);
        for (medians, beside) in medians.iter_mut().zip(&options.besides) {
            let _writer = beside.start(&fresh.path);
            medians.push(show(options, &worker, &ids[..1]));
        }
    }
    for (medians, beside) in medians.iter().zip(&options.besides) {
        let name = (format!("show of one snapshot with {forks} forks"), "the same with 100", "us");
        row(options, (kind, *beside), name, &[(medians[1], medians[0])], options.rounds, Some(FLAT));
    }
}

/// MiB of a process of its own that has the store open.
fn resident(path: &Path) -> f64 {
    let out = Command::new(std::env::current_exe().unwrap()).arg("--resident").arg(path).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().parse::<f64>().unwrap() / 1024.0
}

fn print_resident(path: &Path) {
    let worker = World::at(path).worker(CONFIG);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().trim_end_matches(" kB").to_owned();
    eprintln!("at most {} kB", of("VmHWM:"));
    println!("{}", of("VmRSS:"));
    drop(worker);
}
