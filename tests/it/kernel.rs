//! Faults of the kernel, injected into the real program by strace: each of the calls that change something fails, or is
//! the last thing the process does. After each, the next start recovers, and nothing that was acknowledged is missing.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::mounts::{Kind, mounted, tool};
use crate::support::program::Program;
use crate::support::{World, listing};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// Calls that change something, with the errors that they are given.
const CALLS: &[(&str, &[&str])] = &[
    ("linkat", &["EIO", "ENOSPC"]),
    ("symlinkat", &["EIO", "ENOSPC"]),
    ("renameat", &["EIO"]),
    ("renameat2", &["EIO"]),
    ("fsync", &["EIO"]),
    ("fdatasync", &["EIO"]),
    ("syncfs", &["EIO"]),
    ("sync_file_range", &["EIO"]),
    ("mkdirat", &["EIO", "ENOSPC"]),
    ("unlinkat", &["EIO"]),
    ("pwrite64", &["EIO", "ENOSPC"]),
    ("copy_file_range", &["EIO"]),
    ("ioctl", &["EIO"]),
];

/// It tries again what failed, and ends long before this time is over.
const FORK: &str = "fork base g h --timeout 30s";

const VERBS: &[&str] = &["snapshot a --name new", FORK, "unfork f", "restore base", "rm spare", "undelete gone", "prune", "once"];

/// What an operation left: names of snapshots, of those in the trash, and instances with what their files hold.
#[derive(Debug)]
struct Left {
    snapshots: Vec<String>,
    policy_snapshots: usize,
    trash: Vec<String>,
    instances: BTreeMap<String, Vec<String>>,
}

/// A store with an instance `a`, its snapshots `base` and `spare`, `gone` in the trash, two of a policy that keeps one,
/// and `f`, a fork of `base`; made once, and put back before each point.
struct Scene {
    _dir: tempfile::TempDir,
    live: PathBuf,
    kept: PathBuf,
    program: Program,
    /// The instance `a` before the operation, and as `base` has it.
    before: Vec<String>,
    in_base: Vec<String>,
}

impl Scene {
    fn new(dir: tempfile::TempDir) -> Self {
        let (live, kept) = (dir.path().join("live"), dir.path().join("kept"));
        fs::create_dir(&live).unwrap();
        let world = World::at(&live);
        let a = world.vms.join("a");
        fs::create_dir(&a).unwrap();
        crate::support::write_sparse(&a.join("overlay.raw"), 32 << 10, &[(8 << 10, b"root of ")]);
        crate::support::write_sparse(&a.join("memory"), 16 << 10, &[(8 << 10, b"ram of ")]);
        fs::write(a.join("config.json"), format!(r#"{{"drive": "{}/overlay.raw"}}"#, a.display())).unwrap();
        let program = Program { config: dir.path().join("store.toml") };
        let mut scene = Self { _dir: dir, live, kept, program, before: Vec::new(), in_base: listing(&a) };
        scene.configure("1h", 9);
        for line in ["init", "snapshot a --name base", "snapshot a --name spare", "snapshot a --name gone", "fork base f", "rm gone"] {
            scene.program.ok(line);
        }
        // The first slot is the next one; then two snapshots of the policy.
        for n in 0..3 {
            scene.program.ok("once");
            if n < 2 {
                std::thread::sleep(Duration::from_millis(1010));
            }
        }
        fs::write(a.join("overlay.raw"), "changed").unwrap();
        scene.before = listing(&a);
        assert!(Command::new("cp").arg("-a").args([&scene.live, &scene.kept]).status().unwrap().success());
        scene
    }

    fn configure(&self, grace: &str, keep: u32) {
        let (store, vms) = (self.live.join("store"), self.live.join("vms"));
        let text = format!(
            "[store]\npath = \"{}\"\ninstances = \"{}\"\n[worker]\nthreads = 1\n[trash]\ngrace = \"{grace}\"\n\
             [[policy]]\nname = \"p\"\ninstances = [\"a\"]\nevery = \"1s\"\n[policy.keep]\nlast = {keep}\n",
            store.display(),
            vms.display()
        );
        fs::write(&self.program.config, text).unwrap();
    }

    fn put_back(&self) {
        fs::remove_dir_all(&self.live).unwrap();
        assert!(Command::new("cp").arg("-a").args([&self.kept, &self.live]).status().unwrap().success());
    }

    /// Runs a verb with a fault at the `n`th call; true if the fault was met.
    fn injected(&self, verb: &str, call: &str, fault: &str, n: u64) -> (bool, Output) {
        let (plain, log) = (self.program.command(verb), self.program.config.with_extension("strace"));
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o"]).arg(&log).arg("-e").arg(format!("trace={call}"));
        command.arg("-e").arg(format!("inject={call}:{fault}:when={n}"));
        command.arg(plain.get_program()).args(plain.get_args());
        command.env_remove("SNAPKEEP_CONFIG").env_remove("SNAPKEEP_LOG").stdin(Stdio::null());
        let output = command.output().unwrap();
        let is_hit = output.status.signal().is_some() || fs::read_to_string(&log).unwrap().contains("(INJECTED)");
        (is_hit, output)
    }

    fn look(&self) -> Left {
        let (store, vms) = (self.live.join("store"), self.live.join("vms"));
        let manifests = |dir: &str| -> Vec<serde_json::Value> {
            let entries = fs::read_dir(store.join(dir)).unwrap().map(|e| e.unwrap().path());
            let read = |path: PathBuf| serde_json::from_slice::<serde_json::Value>(&fs::read(path.join("manifest.json")).ok()?).ok();
            entries.filter_map(read).map(|mut manifest| manifest["body"].take()).collect()
        };
        let names = |all: &[serde_json::Value]| all.iter().map(|m| m["name"].as_str().unwrap_or_default().to_owned()).collect();
        let present = manifests("snapshots");
        let instances = fs::read_dir(&vms).unwrap().map(|e| e.unwrap()).filter(|e| e.file_name() != ".snapkeep");
        Left {
            snapshots: names(&present),
            policy_snapshots: present.iter().filter(|m| m["policy"] == "p").count(),
            trash: names(&manifests("trash")),
            instances: instances.map(|e| (e.file_name().into_string().unwrap(), listing(&e.path()))).collect(),
        }
    }

    /// That nothing is lost, and that what was told is so. `is_done`: exit code 0; else it failed or died.
    fn check(&self, verb: &str, is_done: bool) -> Result<(), String> {
        let left = self.look();
        let holds = |what: &str, holds: bool| if holds { Ok(()) } else { Err(format!("{what}: {left:#?}")) };
        let has = |name: &str| left.snapshots.iter().any(|s| s == name);
        let word = verb.split(' ').next().unwrap();
        holds("base", has("base"))?;
        holds("spare", has("spare") || word == "rm")?;
        holds("a snapshot of the policy", left.policy_snapshots > 0)?;
        holds("the fork", left.instances.contains_key("f") || word == "unfork")?;
        let a = left.instances.get("a");
        let as_before = a == Some(&self.before);
        match word {
            "restore" => holds("the instance, old or restored", a == Some(&self.in_base) || as_before && !is_done)?,
            _ => holds("the instance, untouched", as_before)?,
        }
        // What was not removed by age can be brought back.
        let in_trash = |name: &str| left.trash.iter().any(|s| s == name);
        match word {
            "snapshot" => holds("the new one", has("new") || !is_done)?,
            "unfork" => holds("the fork is gone", !left.instances.contains_key("f") || !is_done)?,
            "fork" => holds("both forks", !is_done || ["g", "h"].iter().all(|f| left.instances.contains_key(*f)))?,
            "rm" => holds("it is in the trash", !has("spare") && in_trash("spare") || has("spare") && !is_done)?,
            "undelete" => holds("it is back", has("gone") || in_trash("gone") && !is_done)?,
            _ => {}
        }
        for (name, files) in left.instances.iter().filter(|(name, _)| *name != "a") {
            // All but the configuration, which names the fork's own directory.
            let whole = |file: &&String| ["overlay.raw ", "memory "].iter().any(|f| file.starts_with(f));
            let digests = |files: &[String]| -> Vec<String> {
                files.iter().filter(whole).map(|f| f.rsplit(' ').next().unwrap().to_owned()).collect()
            };
            holds(&format!("{name} is whole"), digests(files) == digests(&self.in_base))?;
            holds(&format!("{name} is complete"), files.iter().any(|f| f.starts_with("config.json ")))?;
        }
        let staged = |dir: &Path| dir.exists() && fs::read_dir(dir).unwrap().next().is_some();
        let staging = [self.live.join("store/staging"), self.live.join("vms/.snapkeep/staging")];
        holds("staging is empty", !staging.iter().any(|dir| staged(dir)))
    }

    /// One point: the fault, the next start, and all that must hold. False if the fault was not met.
    fn point(&self, verb: &str, call: &str, fault: &str, n: u64) -> Result<bool, String> {
        self.put_back();
        let removes = ["prune", "once"].contains(&verb);
        self.configure(if removes { "0s" } else { "1h" }, if removes { 1 } else { 9 });
        let (is_hit, output) = self.injected(verb, call, fault, n);
        let is_done = output.status.success();
        if !is_hit {
            return if is_done { Ok(false) } else { Err(format!("it fails without a fault: {output:?}")) };
        }
        if let Some(code) = output.status.code().filter(|code| *code != 0) {
            // `once` writes its events to standard output.
            let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
            // 75: the time was over.
            if code == 101 || code == 75 || said.trim().is_empty() {
                return Err(format!("exit code {code}: {said}"));
            }
        }
        let recovered = self.program.output("once");
        if !recovered.status.success() {
            return Err(format!("the next start: {recovered:?}"));
        }
        let verified = self.program.output("verify --json");
        let text = String::from_utf8_lossy(&verified.stdout);
        if !verified.status.success() {
            return Err(format!("verify: {text}"));
        }
        self.check(verb, is_done).map_err(|e| format!("exit {:?}, {}\n{e}", output.status, String::from_utf8_lossy(&output.stderr)))?;
        Ok(true)
    }
}

/// Every `stride`th occurrence of each call, several stores at a time.
fn sweep(dirs: &(dyn Fn() -> tempfile::TempDir + Sync), threads: usize, verbs: &[&str], calls: &[&str], stride: u64) {
    let mut jobs = Vec::new();
    for verb in verbs {
        for (call, errors) in CALLS.iter().filter(|(call, _)| calls.is_empty() || calls.contains(call)) {
            jobs.extend(errors.iter().map(|e| format!("error={e}")).chain(["signal=KILL".to_owned()]).map(|fault| (*verb, *call, fault)));
        }
    }
    // Strides of different calls begin at different places.
    let jobs = Mutex::new(jobs.into_iter().zip(0u64..).map(|(job, n)| (job, 1 + n % stride)).collect::<Vec<_>>());
    let tried: Mutex<BTreeMap<(&str, &str), u64>> = Mutex::default();
    let bad = Mutex::new(Vec::new());
    let work = || {
        let scene = Scene::new(dirs());
        while let Some(((verb, call, fault), first)) = { jobs.lock().unwrap().pop() } {
            let mut missed = 0;
            for n in (first..).step_by(usize::try_from(stride).unwrap()) {
                match scene.point(verb, call, &fault, n) {
                    Ok(true) => {
                        missed = 0;
                        *tried.lock().unwrap().entry((verb, call)).or_default() += 1;
                    }
                    // How often it syncs depends on what others have dirty: one miss may be one of a few.
                    Ok(false) if missed == 1 => break,
                    Ok(false) => missed += 1,
                    Err(why) => {
                        bad.lock().unwrap().push(format!("{verb}: {call} {fault} when={n}: {why}"));
                        break;
                    }
                }
            }
        }
    };
    if threads == 1 {
        // Mounts belong to this thread.
        work();
    } else {
        std::thread::scope(|s| (0..threads).for_each(|_| drop(s.spawn(work))));
    }
    let tried = tried.into_inner().unwrap();
    for verb in verbs {
        let of_verb: Vec<_> = tried.iter().filter(|((v, _), _)| v == verb).map(|((_, call), n)| format!("{call} {n}")).collect();
        println!("{verb}: {}", of_verb.join(", "));
    }
    println!("{} points, every {stride}.", tried.values().sum::<u64>());
    let bad = bad.into_inner().unwrap();
    assert!(bad.is_empty(), "{} points failed:\n{}", bad.len(), bad.join("\n\n"));
}

fn is_full() -> bool {
    std::env::var_os("FULL").is_some()
}

fn in_memory() -> tempfile::TempDir {
    if Path::new("/dev/shm").is_dir() { tempfile::tempdir_in("/dev/shm") } else { tempfile::tempdir() }.unwrap()
}

fn has_strace() -> bool {
    tool("strace").inspect_err(|why| eprintln!("skipped: faults injected into system calls: {why}")).is_ok()
}

#[test]
fn a_call_that_fails_or_is_the_last_loses_nothing_that_was_acknowledged() {
    if has_strace() {
        sweep(&in_memory, 4, VERBS, &[], if is_full() { 1 } else { 12 });
    }
}

#[test]
fn forks_that_were_accepted_by_a_queue_that_closes_are_made_by_the_next_start_and_nobody_waits_for_them() {
    if has_strace() {
        sweep(&in_memory, 2, &[FORK], &["fdatasync"], 1);
    }
}

#[test]
fn a_reflink_that_fails_or_is_the_last_call_loses_nothing_that_was_acknowledged() {
    let Some(fs_) = mounted(Kind::Xfs, Kind::SMALLEST).filter(|_| has_strace()) else { return };
    let dirs = || tempfile::tempdir_in(&fs_.path).unwrap();
    let verbs = ["snapshot a --name new", FORK, "restore base"];
    sweep(&dirs, 1, &verbs, &["ioctl"], if is_full() { 1 } else { 3 });
}
