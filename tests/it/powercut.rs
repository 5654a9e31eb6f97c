//! Power cuts on real file systems: the worker and its clients are at work when the file system stops writing, for good, or when
//! its disk is cloned as it is then (btrfs cannot be told to stop). After the next mount, what was acknowledged is there, and everything else is whole or absent. `FULL=1` cuts more often.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::fixture::Numbers;
use crate::support::mounts::{Clonable, Kind, Mounted, clonable, clone_disk, mounted, tool};
use crate::support::program::Program;
use crate::support::{World, write_sparse};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What was acknowledged in one round.
#[derive(Debug, Default, Clone)]
struct Acknowledged {
    snapshots: Vec<String>,
    /// Made, or accepted without waiting: the next start makes these.
    forks: Vec<String>,
    unforked: Vec<String>,
    /// Their removal was begun.
    going: Vec<String>,
}

/// A file system whose power can be cut.
enum Disk {
    Stops(Mounted),
    IsCloned(Clonable),
}

impl Disk {
    fn of(kind: Kind) -> Option<Self> {
        if kind == Kind::Btrfs {
            return clonable(kind).map(Self::IsCloned);
        }
        if let Err(why) = tool("xfs_io") {
            eprintln!("skipped: power cuts on {kind}: {why}");
            return None;
        }
        mounted(kind, Kind::SMALLEST).map(Self::Stops)
    }

    fn path(&self) -> &Path {
        match self {
            Self::Stops(mounted) => &mounted.path,
            Self::IsCloned(clonable) => &clonable.mounted.path,
        }
    }

    /// From now on nothing reaches the disk, or counts.
    fn cut(&self) {
        match self {
            Self::Stops(mounted) => {
                let cut = Command::new(tool("xfs_io").unwrap()).args(["-x", "-c", "shutdown"]).arg(&mounted.path).output().unwrap();
                assert!(cut.status.success(), "{cut:?}");
            }
            Self::IsCloned(clonable) => clone_disk(&clonable.disk(), &clonable.disk().with_extension("cut")),
        }
    }

    /// The power is back.
    fn again(&mut self) {
        match self {
            Self::Stops(mounted) => mounted.again().unwrap(),
            Self::IsCloned(clonable) => clonable.as_of(&clonable.disk().with_extension("cut")).unwrap(),
        }
    }
}

struct Rig {
    program: Program,
    world: World,
    // The configuration, the log and the socket survive the cut.
    _beside: tempfile::TempDir,
}

fn rig(disk: &Disk) -> Rig {
    let beside = tempfile::tempdir().unwrap();
    let world = World::at(disk.path());
    let golden = world.vms.join("golden");
    fs::create_dir(&golden).unwrap();
    write_sparse(&golden.join("overlay.raw"), 1 << 20, &[(0, b"boot"), (512 << 10, b"root")]);
    write_sparse(&golden.join("memory"), 256 << 10, &[(64 << 10, b"ram of ")]);
    fs::write(golden.join("config.json"), format!(r#"{{"drive": "{}/overlay.raw"}}"#, golden.display())).unwrap();
    let program = Program { config: beside.path().join("store.toml") };
    fs::create_dir(beside.path().join("store")).unwrap();
    let text = format!(
        "[store]\npath = \"{}\"\ninstances = \"{}\"\n[api]\nsocket = \"{}\"\n[prune]\nevery = \"1s\"\n[trash]\ngrace = \"0s\"\n\
         [[policy]]\nname = \"gold\"\ninstances = [\"golden\"]\nevery = \"1s\"\n[policy.keep]\nlast = 2\n\
         [[prefork]]\ninstances = [\"golden\"]\ntags = {{ pool = \"yes\" }}\nready = 6\n",
        world.store.display(),
        world.vms.display(),
        beside.path().join("store/snapkeep.sock").display()
    );
    fs::write(&program.config, text).unwrap();
    program.ok("init");
    program.ok("snapshot golden --name base --tag pool=yes");
    sync(disk.path());
    Rig { program, world, _beside: beside }
}

/// The fixture's own files are nobody's to make durable.
fn sync(path: &Path) {
    assert!(Command::new("sync").arg("-f").arg(path).status().unwrap().success());
}

/// Snapshots and forks are asked for until everything stands still, then the power is cut in the middle of it.
fn cut(rig: &Rig, disk: &Disk, round: u64, after: Duration) -> Acknowledged {
    let (told, stop) = (Mutex::new(Acknowledged::default()), AtomicBool::new(false));
    let worker = rig.program.run();
    let ask = |line: String| rig.program.output(&line).status.success();
    let until_stopped = |work: &(dyn Fn(u64) + Sync)| (0..).take_while(|_| !stop.load(Ordering::SeqCst)).for_each(work);
    let mut before = std::thread::scope(|s| {
        let (told, ask, until_stopped) = (&told, &ask, &until_stopped);
        s.spawn(move || {
            until_stopped(&|n| {
                let name = format!("r{round}-s{n}");
                if ask(format!("snapshot golden --name {name}")) {
                    told.lock().unwrap().snapshots.push(name);
                }
            });
        });
        for wait in ["", " --no-wait"] {
            s.spawn(move || {
                until_stopped(&|n| {
                    let (one, two) = (format!("r{round}-{}{n}a", wait.len()), format!("r{round}-{}{n}b", wait.len()));
                    if ask(format!("fork base {one} {two}{wait}")) {
                        told.lock().unwrap().forks.extend([one.clone(), two]);
                        if wait.is_empty() && n % 3 == 1 {
                            // From now on it may be gone, and must be once that is acknowledged.
                            told.lock().unwrap().going.push(one.clone());
                            if ask(format!("unfork {one}")) {
                                told.lock().unwrap().unforked.push(one);
                            }
                        }
                    }
                });
            });
        }
        // On a busy machine the first answers take a while.
        let deadline = Instant::now() + Duration::from_secs(20);
        while told.lock().unwrap().forks.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(after);
        // Unlike without power, processes go on while the file system shuts down. On xfs the last acceptance was then twice
        // missing from the journal, with its refs there; why is not proven. Only what was acknowledged before counts.
        let before = told.lock().unwrap().clone();
        disk.cut();
        stop.store(true, Ordering::SeqCst);
        worker.kill();
        before
    });
    let going = told.into_inner().unwrap().going;
    before.forks.retain(|fork| !going.contains(fork));
    before
}

/// Everything that was acknowledged is there, and nothing is half there.
fn check(rig: &Rig, told: &Acknowledged) {
    let started = rig.program.output("once");
    assert!(started.status.success(), "{started:?}");
    let verified = rig.program.output("verify --json");
    let findings: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap_or_else(|e| panic!("{e}: {verified:?}"));
    assert!(verified.status.success(), "{findings:#}");
    let listed = rig.program.json("ls");
    let snapshots: Vec<&str> = listed["snapshots"].as_array().unwrap().iter().filter_map(|s| s["name"].as_str()).collect();
    for name in told.snapshots.iter().map(String::as_str).chain(["base"]) {
        assert!(snapshots.contains(&name), "{name} was acknowledged: {snapshots:?}");
    }
    let listed = rig.program.json("forks");
    let forks: Vec<&str> = listed["forks"].as_array().unwrap().iter().filter_map(|f| f["name"].as_str()).collect();
    for name in &told.forks {
        let request = || {
            let all = rig.program.json("queue");
            all["requests"].as_array().unwrap().iter().find(|r| r["name"] == name.as_str()).cloned()
        };
        let started = String::from_utf8_lossy(&started.stdout);
        assert!(forks.contains(&name.as_str()), "{name} was acknowledged: {:#?}, {forks:?}\n{started}", request());
    }
    for name in &told.unforked {
        assert!(!forks.contains(&name.as_str()), "{name} was removed: {forks:?}");
    }
    let golden = rig.world.vms.join("golden");
    for entry in fs::read_dir(&rig.world.vms).unwrap() {
        let dir = entry.unwrap().path();
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        if name == "golden" || name == ".snapkeep" {
            continue;
        }
        assert!(forks.contains(&name.as_str()), "{name} is an instance, and no fork");
        for file in ["overlay.raw", "memory"] {
            let read = |dir: &Path| fs::read(dir.join(file)).unwrap_or_else(|e| panic!("{}/{file}: {e}", dir.display()));
            assert!(read(&dir) == read(&golden), "{name}/{file}");
        }
        assert!(fs::read_to_string(dir.join("config.json")).unwrap().contains(&format!("{}/overlay.raw", dir.display())), "{name}");
    }
    let refs = rig.program.json("show base")["ref_count"].as_u64().unwrap();
    assert_eq!(refs, forks.len() as u64, "a ref for each fork, and for nothing else");
    for staging in [rig.world.store.join("staging"), rig.world.vms.join(".snapkeep/staging")] {
        assert!(!staging.exists() || fs::read_dir(&staging).unwrap().next().is_none(), "{} is not empty", staging.display());
    }
}

/// What a round made goes, so that the next is as fast.
fn clear(rig: &Rig, disk: &Disk, told: &Acknowledged) {
    for entry in fs::read_dir(&rig.world.vms).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('r')) {
            fs::remove_dir_all(path).unwrap();
        }
    }
    if let Some(name) = told.snapshots.first() {
        rig.program.ok(&format!("rm golden/{name}"));
    }
    sync(disk.path());
}

fn power_cuts(kind: Kind) {
    let Some(mut disk) = Disk::of(kind) else { return };
    let rounds = if std::env::var_os("FULL").is_some() { 40 } else { 3 };
    let rig = rig(&disk);
    let mut numbers = Numbers::new(std::process::id().into());
    let mut total = (0, 0, 0);
    for round in 0..rounds {
        let told = cut(&rig, &disk, round, Duration::from_millis(numbers.below(800)));
        disk.again();
        check(&rig, &told);
        clear(&rig, &disk, &told);
        total = (total.0 + told.snapshots.len(), total.1 + told.forks.len(), total.2 + told.unforked.len());
    }
    assert!(total.1 > 0, "nothing was acknowledged");
    println!("{kind}: {rounds} power cuts, {} snapshots, {} forks and {} removals acknowledged, and so", total.0, total.1, total.2);
}

#[test]
fn a_power_cut_on_xfs_loses_nothing_that_was_acknowledged() {
    power_cuts(Kind::Xfs);
}

#[test]
fn a_power_cut_on_ext4_loses_nothing_that_was_acknowledged() {
    power_cuts(Kind::Ext4);
}

#[test]
fn a_power_cut_on_btrfs_loses_nothing_that_was_acknowledged() {
    power_cuts(Kind::Btrfs);
}
