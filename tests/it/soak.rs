//! A soak: everything that people do, at once and by the real program, while its worker is killed again and again. What was
//! acknowledged and never asked to go is there and whole, and `verify` finds nothing. `SOAK=30m` says how long.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::World;
use crate::support::fixture::Numbers;
use crate::support::program::Program;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const CONFIG: &str = "[prune]\nevery = \"1s\"\n[trash]\ngrace = \"2s\"\nfork_grace = \"1s\"\n[scrub]\nevery = \"5s\"\nrate = \"64MiB\"\n\
    [[policy]]\nname = \"gold\"\ninstances = [\"golden\"]\nevery = \"1s\"\nwhen_referenced = \"defer\"\n[policy.keep]\nlast = 3\n";

/// What must be there: it was acknowledged, and nobody has asked for it to go since.
#[derive(Debug, Default)]
struct Model {
    next: u64,
    /// Snapshots by name, with their ids.
    snapshots: BTreeMap<String, String>,
    forks: BTreeSet<String>,
    /// Operations asked for, and those that were acknowledged.
    asked: BTreeMap<&'static str, (u64, u64)>,
}

impl Model {
    fn fresh(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}{}", self.next)
    }
}

fn any<'a, T: 'a>(of: impl ExactSizeIterator<Item = T>, numbers: &mut Numbers) -> Option<T> {
    let len = of.len() as u64;
    if len == 0 { None } else { of.into_iter().nth(usize::try_from(numbers.below(len)).unwrap()) }
}

struct Soak {
    world: World,
    program: Program,
    model: Mutex<Model>,
}

impl Soak {
    fn new() -> Self {
        let world = World::new();
        world.make_instance("golden");
        world.make_instance("lab");
        let program = Program::with(&world, CONFIG);
        program.ok("init");
        program.ok("snapshot golden --name base");
        program.ok("snapshot lab --name base");
        Self { world, program, model: Mutex::default() }
    }

    /// Runs a verb; its exit code, or none if it was ended by a signal.
    fn say(&self, what: &'static str, line: &str) -> (Option<i32>, serde_json::Value) {
        let output = self.program.command(&format!("{line} --json")).stderr(Stdio::piped()).output().unwrap();
        let code = output.status.code();
        // 1: the worker was killed under it; 3 and 4: somebody else was there first; 75: nobody answers.
        assert!(matches!(code, Some(0 | 1 | 3 | 4 | 75)), "{line}: {output:?}");
        let mut model = self.model.lock().unwrap();
        let counts = model.asked.entry(what).or_default();
        counts.0 += 1;
        counts.1 += u64::from(code == Some(0));
        (code, serde_json::from_slice(&output.stdout).unwrap_or_default())
    }

    fn model<T>(&self, look: impl FnOnce(&mut Model) -> T) -> T {
        look(&mut self.model.lock().unwrap())
    }

    fn take(&self) {
        let name = self.model(|m| m.fresh("s"));
        if let (Some(0), view) = self.say("snapshot", &format!("snapshot golden --name {name}")) {
            let id = view["id"].as_str().unwrap().to_owned();
            self.model(|m| m.snapshots.insert(name, id));
        }
    }

    fn fork(&self, numbers: &mut Numbers) {
        let count = 1 + numbers.below(4);
        let (of, names) = self.model(|m| {
            let of = any(m.snapshots.keys(), numbers).cloned().unwrap_or_else(|| "base".to_owned());
            (of, (0..count).map(|_| m.fresh("f")).collect::<Vec<_>>())
        });
        let (code, _) = self.say("fork", &format!("fork golden/{of} {}", names.join(" ")));
        if code == Some(0) {
            self.model(|m| m.forks.extend(names));
        }
    }

    fn a_fork_to_lose(&self, numbers: &mut Numbers) -> Option<String> {
        self.model(|m| {
            let name = any(m.forks.iter(), numbers).cloned()?;
            m.forks.remove(&name);
            Some(name)
        })
    }

    fn unfork(&self, numbers: &mut Numbers) {
        let Some(name) = self.a_fork_to_lose(numbers) else { return };
        if let (Some(0), _) = self.say("unfork", &format!("unfork {name}"))
            && numbers.below(3) == 0
            && let (Some(0), _) = self.say("undelete fork", &format!("undelete {name}"))
        {
            self.model(|m| m.forks.insert(name));
        }
    }

    fn delete_or_move(&self, numbers: &mut Numbers) {
        let Some(name) = self.a_fork_to_lose(numbers) else { return };
        let dir = self.world.vms.join(&name);
        if numbers.below(2) == 0 {
            fs::remove_dir_all(dir).unwrap();
            return;
        }
        let other = self.model(|m| m.fresh("moved"));
        fs::rename(dir, self.world.vms.join(&other)).unwrap();
        self.model(|m| m.forks.insert(other));
    }

    fn remove(&self, numbers: &mut Numbers) {
        let picked = self.model(|m| {
            let name = any(m.snapshots.keys(), numbers).cloned()?;
            m.snapshots.remove_entry(&name)
        });
        let Some((name, id)) = picked else { return };
        let is_deferred = numbers.below(3) == 0;
        let line = if is_deferred { format!("rm {id} --defer") } else { format!("rm {id}") };
        match self.say(if is_deferred { "rm --defer" } else { "rm" }, &line).0 {
            // Refused: it stays.
            Some(4) => self.model(|m| drop(m.snapshots.insert(name, id))),
            Some(0) if numbers.below(2) == 0 => {
                if let (Some(0), _) = self.say("undelete", &format!("undelete {id}")) {
                    self.say("release", &format!("release {id} undeleted"));
                    self.model(|m| m.snapshots.insert(name, id));
                }
            }
            _ => {}
        }
    }

    fn one(&self, numbers: &mut Numbers) {
        let (snapshots, forks) = self.model(|m| (m.snapshots.len(), m.forks.len()));
        match numbers.below(12) {
            0 | 1 if snapshots < 20 => self.take(),
            2..=4 if forks < 60 => self.fork(numbers),
            5 => self.delete_or_move(numbers),
            6 => drop(self.say("restore", "restore lab/base")),
            7 => drop(self.say("prune", "prune")),
            8 => drop(self.say("verify", "verify --quick")),
            9 | 10 => self.unfork(numbers),
            _ => self.remove(numbers),
        }
    }

    /// One life of a worker, under load from several sides, and its end.
    fn life(&self, numbers: &mut Numbers) {
        let worker = self.program.run();
        let over = AtomicBool::new(false);
        let seeds: Vec<u64> = (0..3).map(|_| numbers.below(u64::MAX)).collect();
        let length = Duration::from_millis(100 + numbers.below(1500));
        std::thread::scope(|scope| {
            for seed in seeds {
                let over = &over;
                scope.spawn(move || {
                    let mut numbers = Numbers::new(seed);
                    while !over.load(Ordering::SeqCst) {
                        self.one(&mut numbers);
                    }
                });
            }
            std::thread::sleep(length);
            over.store(true, Ordering::SeqCst);
            worker.kill();
        });
    }

    /// Everything that must be there is, and nothing is wrong.
    fn look(&self) {
        self.program.ok("once");
        let found = self.program.json("verify");
        let bad: Vec<_> = found["findings"].as_array().unwrap().iter().filter(|f| f["severity"] != "info").collect();
        assert!(bad.is_empty(), "{bad:#?}");
        let listed = self.program.json("ls");
        let there: BTreeSet<&str> = listed["snapshots"].as_array().unwrap().iter().filter_map(|s| s["id"].as_str()).collect();
        let model = self.model.lock().unwrap();
        for (name, id) in &model.snapshots {
            assert!(there.contains(id.as_str()), "{name} ({id}) was taken, and is gone");
        }
        let disk = fs::read(self.world.vms.join("golden/overlay.raw")).unwrap();
        for name in &model.forks {
            let dir = self.world.vms.join(name);
            let record = fs::read_to_string(dir.join(".snapkeep/fork.json")).unwrap_or_else(|e| panic!("{name} was made: {e}"));
            assert!(record.contains("fork_of_snapshot") && fs::read(dir.join("overlay.raw")).unwrap() == disk, "{name}");
        }
        assert_eq!(fs::read(self.world.vms.join("lab/overlay.raw")).unwrap(), disk, "what restore puts back");
    }
}

#[test]
fn whatever_people_do_while_workers_are_killed_what_was_acknowledged_stays_until_somebody_asks_for_it_to_go() {
    let wanted = std::env::var("SOAK").map_or(Duration::from_secs(10), |text| text.parse::<humantime::Duration>().unwrap().into());
    let began = Instant::now();
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let (soak, mut numbers) = (Soak::new(), Numbers::new(seed));
    let (mut kills, mut looks) = (0_u64, 0_u64);
    while began.elapsed() < wanted {
        soak.life(&mut numbers);
        kills += 1;
        if kills % 5 == 0 {
            soak.look();
            looks += 1;
        }
        if kills % 100 == 0 {
            println!("after {:?}: {kills} kills, {looks} looks", began.elapsed());
        }
    }
    soak.look();
    let model = soak.model.lock().unwrap();
    let (asked, acknowledged) = model.asked.values().fold((0, 0), |sum, n| (sum.0 + n.0, sum.1 + n.1));
    println!("{:?}: {kills} kills, {} looks, {asked} operations of which {acknowledged} were acknowledged", began.elapsed(), looks + 1);
    println!("{:?}; {} snapshots and {} forks there at the end", model.asked, model.snapshots.len(), model.forks.len());
    assert!(acknowledged > kills, "too little was done: {acknowledged}");
}
