//! Copies: a fork's disk where nothing is shared, a whole snapshot with its digests, and how long an instance is at rest.
//!
//! `cargo bench --bench copying -- [--rounds N] [--only TEXT] [--fs LIST] [--quiet | --dirty]` makes its own file systems on
//! loop devices (root).
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

mod floor;
mod frame;
#[path = "../tests/it/support/mod.rs"]
mod support;

use floor::{Floor, Level, Mode};
use frame::{Options, Round, What};
use snapkeep::config::{DigestTime, DriverConfig, MemoryMethod, Reserve, Skip};
use snapkeep::driver::Plain;
use snapkeep::policy::KindRule;
use snapkeep::snapshot::copy::{Cloner, Flow, copy_threads};
use snapkeep::snapshot::late::hash_late;
use snapkeep::snapshot::materialize::{MaterializeContext, materialize};
use snapkeep::snapshot::take::{How, Taken, Wanted, take};
use snapkeep::store::fs::{Absent, Fs};
use snapkeep::store::manifest::Entry;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::mounts::Kind;
use support::{Open, World, fixture, instance};

const SIZE: u64 = 24 << 30;
const FORKS: usize = 6;

fn main() {
    let options = Options::parse();
    for threads in [1, 2] {
        let name = format!("{FORKS} sparse forks, {threads} at a time, not synced");
        let against = format!("floor rw, {threads} at a time");
        let what = What { what: &name, against: &against, unit: "ms", wanted: Some(1.1), size: SIZE };
        options.measure_on(Kind::Ext4, what, |round| (forks(round, threads), floor(round, Mode::ReadWrite, threads)));
    }
    let what =
        What { what: "a sparse fork by itself, on two threads", against: "floor rw, one", unit: "ms", wanted: Some(1.1), size: SIZE };
    options.measure_on(Kind::Ext4, what, |round| (lone_fork(round), floor(round, Mode::ReadWrite, 1) / FORKS as f64));
    for kind in [Kind::Xfs, Kind::Btrfs] {
        let what = What { what: "a disk, reflinks switched off", against: "floor copy", unit: "ms", wanted: Some(1.3), size: SIZE };
        options.measure_on(kind, what, |round| (disk(round), floor(round, Mode::Copy, 1) / FORKS as f64));
    }
    for (digests, word) in [(DigestTime::Before, "before"), (DigestTime::After, "after")] {
        let name = format!("a snapshot, digests {word}: published");
        let against = "cp --sparse --reflink=auto && sync -f";
        // With digests before it, it reads all that the peer shares.
        let wanted = (digests == DigestTime::After).then_some(1.3);
        let what = What { what: &name, against, unit: "ms", wanted, size: SIZE };
        options.measure(what, |round| (snapshot(round, digests, false), peer(round, "auto")));
        let name = format!("a snapshot, digests {word}: digests there");
        let against = "cp --sparse --reflink=never && sync -f";
        let what = What { what: &name, against, unit: "ms", wanted: Some(1.3), size: SIZE };
        options.measure(what, |round| (snapshot(round, digests, true), peer(round, "never")));
    }
    for (dirty, word) in [(false, "clean"), (true, "with 1 GiB dirty")] {
        let name = format!("at rest for a snapshot, {word}");
        let what = What { what: &name, against: "cp --sparse --reflink=auto", unit: "ms", wanted: None, size: SIZE };
        options.measure(what, |round| frozen(round, dirty));
    }
    let what = What { what: "page cache kept by a bystander, MiB", against: "before", unit: "MiB", wanted: Some(-0.99), size: SIZE };
    options.measure(what, bystander);
    let what = What { what: "page cache taken by a snapshot, MiB", against: "cp", unit: "MiB", wanted: None, size: SIZE };
    options.measure(what, taken_of_cache);
}

fn flow(threads: usize) -> Flow<'static> {
    Flow { threads, ..Flow::quiet() }
}

fn world(round: &Round<'_>) -> World {
    World::at(&round.path.join(format!("world-{}", uuid::Uuid::new_v4())))
}

/// An open store with one instance of the fixture.
fn golden(round: &Round<'_>) -> (World, Open) {
    let world = world(round);
    fixture::make(&world.vms.join("golden"), 1).unwrap();
    let open = world.open();
    (world, open)
}

/// Builds one fork's tree without a record and without a sync.
fn build(data: &Path, entries: &[Entry], dest: &Path, threads: usize) {
    let fs = Fs::real();
    std::fs::create_dir(dest).unwrap();
    let context = MaterializeContext {
        fs: &fs,
        data,
        memory: data,
        memory_method: MemoryMethod::Hardlink,
        as_root: true,
        rewrite: None,
        flow: flow(threads),
    };
    materialize(&context, entries, dest).unwrap();
}

/// A snapshot that was forked once, so that its files are in the page cache, as the floor's source is.
fn warm(round: &Round<'_>) -> (World, PathBuf, Vec<Entry>) {
    let (world, open) = golden(round);
    let id = open.take("golden").unwrap();
    let data = open.store.layout.snapshot(&id).join("data");
    let entries = open.store.manifest(&id).unwrap().entries;
    build(&data, &entries, &world.vms.join("warm"), 1);
    (world, data, entries)
}

fn forks(round: &Round<'_>, threads: usize) -> f64 {
    let (world, data, entries) = warm(round);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || loop {
        let n = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        if n >= FORKS {
            return;
        }
        build(&data, &entries, &world.vms.join(format!("f{n}")), copy_threads(threads, FORKS));
    };
    let ((), took) = round.time(|| std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work)))));
    ms(took)
}

fn lone_fork(round: &Round<'_>) -> f64 {
    let (world, data, entries) = warm(round);
    ms(round.time(|| build(&data, &entries, &world.vms.join("f"), copy_threads(2, 1))).1)
}

fn floor(round: &Round<'_>, mode: Mode, threads: usize) -> f64 {
    let (source, root) = (round.path.join("source"), round.path.join("floor"));
    fixture::make(&source, 1).unwrap();
    std::fs::create_dir(&root).unwrap();
    let floor = |name: &str, forks| {
        let root = root.join(name);
        std::fs::create_dir(&root).unwrap();
        floor::run(&Floor {
            source: &source,
            root: &root,
            mode,
            level: Level::None,
            forks,
            threads,
            small_files: true,
            json_files: 1,
            remove: false,
        })
        .unwrap();
    };
    floor("warm", 1);
    ms(round.time(|| floor("timed", FORKS)).1)
}

fn disk(round: &Round<'_>) -> f64 {
    let source = round.path.join("our-source");
    fixture::make(&source, 1).unwrap();
    let fs = Fs::real();
    let path = source.join("overlay.raw");
    let from = File::open(&path).unwrap();
    let one = |name: &str| {
        let to_path = round.path.join(name);
        let to = fs.create(&to_path, 0o600).unwrap();
        Cloner::without_reflink(&fs, flow(2)).fill(&from, &path, &to, &to_path, 4 << 30).unwrap();
    };
    one("warm");
    let ((), took) = round.time(|| (0..FORKS).for_each(|n| one(&format!("d{n}"))));
    ms(took) / FORKS as f64
}

fn snap(open: &Open, digests: DigestTime) -> Taken {
    let driver =
        Plain::new(DriverConfig { memory_names: vec!["memory".into()], freeze: vec![], thaw: vec![], timeout: Duration::from_secs(5) });
    let wanted = Wanted {
        instance: instance("golden"),
        policy: None,
        name: None,
        name_prefix: None,
        tags: Default::default(),
        kind: KindRule::Auto,
    };
    let (skip, names) = (Skip::new(&["logs/"]).unwrap(), ["memory".to_owned()]);
    let how = How { driver: &driver, skip: &skip, memory_names: &names, reserve: Reserve::Bytes(0), digests, flow: flow(2) };
    take(&open.store, &wanted, how).unwrap()
}

/// Milliseconds until it is published, or until its digests are there as well.
fn snapshot(round: &Round<'_>, digests: DigestTime, wait: bool) -> f64 {
    let (_world, open) = golden(round);
    let ((), took) = round.time(|| {
        let taken = snap(&open, digests);
        if wait {
            hash_late(&open.store, &taken.summary.id, flow(2)).unwrap();
        }
    });
    ms(took)
}

fn cp(from: &Path, to: &Path, reflink: &str) {
    assert!(
        Command::new("cp")
            .args(["-a", "--sparse=always"])
            .arg(format!("--reflink={reflink}"))
            .arg(from)
            .arg(to)
            .status()
            .unwrap()
            .success()
    );
}

fn peer(round: &Round<'_>, reflink: &str) -> f64 {
    let (source, copy) = (round.path.join("peer-source"), round.path.join("peer-copy"));
    fixture::make(&source, 1).unwrap();
    let ((), took) = round.time(|| {
        cp(&source, &copy, reflink);
        assert!(Command::new("sync").arg("-f").arg(&copy).status().unwrap().success());
    });
    ms(took)
}

/// How long the instance was at rest; against a copy of it that somebody makes instead, with nothing at rest before it.
fn frozen(round: &Round<'_>, dirty: bool) -> (f64, f64) {
    let (world, open) = golden(round);
    let disk = world.vms.join("golden/overlay.raw");
    nix::unistd::sync();
    let make_dirty = || {
        use std::os::unix::fs::FileExt as _;
        let file = File::options().write(true).open(&disk).unwrap();
        let block = vec![0x77; 1 << 20];
        (0..1024).for_each(|n| file.write_all_at(&block, n << 20).unwrap());
    };
    let (frozen, _) = round.time(|| {
        if dirty {
            make_dirty();
        }
        snap(&open, DigestTime::After).frozen
    });
    let (took, _) = round.time(|| {
        if dirty {
            make_dirty();
        }
        let began = std::time::Instant::now();
        cp(&world.vms.join("golden"), &round.path.join("cp"), "auto");
        began.elapsed()
    });
    (ms(frozen), ms(took))
}

/// MiB of a file that are in the page cache.
fn cached(path: &Path) -> f64 {
    let size = std::fs::metadata(path).unwrap().len();
    let (file, whole) = (File::open(path).unwrap(), 0..size);
    (size - Absent::of(&file, size, std::slice::from_ref(&whole)).bytes().min(size)) as f64 / (1 << 20) as f64
}

fn bystander(round: &Round<'_>) -> (f64, f64) {
    let (_world, open) = golden(round);
    let path = round.path.join("bystander");
    std::fs::write(&path, vec![1; 256 << 20]).unwrap();
    std::fs::read(&path).unwrap();
    let before = cached(&path);
    round.time(|| snap(&open, DigestTime::Before));
    (cached(&path), before)
}

fn taken_of_cache(round: &Round<'_>) -> (f64, f64) {
    let (world, open) = golden(round);
    let (source, copy) = (world.vms.join("golden"), round.path.join("cp"));
    let cold = || {
        nix::unistd::sync();
        for file in ["overlay.raw", "memory"] {
            Fs::real().drop_cached(&File::open(source.join(file)).unwrap(), 0..u64::MAX);
        }
    };
    cold();
    let of = |dir: &Path| cached(&dir.join("overlay.raw")) + cached(&dir.join("memory"));
    let (taken, _) = round.time(|| snap(&open, DigestTime::Before));
    let ours = of(&source) + of(&open.store.layout.snapshot(&taken.summary.id).join("data"));
    cold();
    round.time(|| cp(&source, &copy, "never"));
    (ours, of(&source) + of(&copy))
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}
