//! Every operation against every operation, itself among them, started at the same moment: whoever wins, nothing that
//! was acknowledged is lost, and the store is sound and counts right once it is quiet.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::fixture::Numbers;
use crate::support::{NEVER, World, instance};
use snapkeep::ids::{ForkId, SnapshotId};
use snapkeep::snapshot::copy::Flow;
use snapkeep::store::fs::Fs;
use snapkeep::store::instances::{Standing, standing};
use snapkeep::store::{Known, Store};
use snapkeep::worker::Worker;
use snapkeep::worker::backend::{Backend, Removal};
use snapkeep::worker::problem::{Problem, ProblemKind};
use snapkeep::worker::verify::verify;
use snapkeep::worker::view::{ForkBody, PruneBody, TakeBody, VerifyBody};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Take,
    Fork,
    Unfork,
    Restore,
    Prune,
    Rm,
    Undelete,
    Verify,
    /// `rm -rf` of a fork, by somebody else.
    Delete,
    /// `cp -al` of a snapshot's data, by somebody else.
    CopyOut,
}

use Op::{CopyOut, Delete, Fork, Prune, Restore, Rm, Take, Undelete, Unfork, Verify};

const OPS: [Op; 10] = [Take, Fork, Unfork, Restore, Prune, Rm, Undelete, Verify, Delete, CopyOut];

/// What an operation was told.
#[derive(Debug)]
enum Told {
    Taken(SnapshotId, &'static str),
    Forked(String),
    Unforked,
    Restored,
    Pruned(Vec<SnapshotId>),
    Removed,
    Undeleted,
    Verified,
    Deleted,
    Copied,
    No(Problem),
}

/// One world for all rounds.
struct Lab {
    world: World,
    worker: Arc<Worker>,
    /// On the same file system as the store.
    beside: PathBuf,
    numbers: Mutex<Numbers>,
    _dir: tempfile::TempDir,
}

/// What both operations of a round work on.
struct Round {
    n: u64,
    /// The older snapshot: what is forked, removed, restored, copied.
    old: SnapshotId,
    /// What the newest snapshot is of, and the instance when the round begins; `old` is of generation 0.
    newer: u64,
    /// It lies in the trash when the round begins.
    is_trashed: bool,
    /// A fork lies in the trash when the round begins.
    fork_is_trashed: bool,
    has_fork: bool,
}

impl Round {
    fn fork(&self) -> String {
        format!("f{}", self.n)
    }
}

/// What the instance holds at one time: the same in every file, so that a mixture shows.
fn generation(n: u64) -> String {
    format!("generation {n}\n").repeat(300)
}

const HOUR: Duration = Duration::from_secs(3600);

impl Lab {
    fn new(trash: &str) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let world = World::at(dir.path());
        let beside = dir.path().join("beside");
        fs::create_dir(&beside).unwrap();
        fs::create_dir(world.vms.join("a")).unwrap();
        fs::write(world.vms.join("a/memory"), "").unwrap();
        let policy = "[[policy]]\nname = \"p\"\ninstances = [\"a\"]\nevery = \"1h\"\n[policy.keep]\nlast = 1\n";
        let worker = world.worker(&format!("[trash]\n{trash}\n{policy}"));
        // The first look finds the instance; its first slot is the next one.
        assert_eq!(worker.due_jobs().len(), 0);
        Self { world, worker, beside, numbers: Mutex::new(Numbers::new(4)), _dir: dir }
    }

    /// Puts a tree of this generation in the instance's place.
    fn set(&self, n: u64) {
        let (live, ready) = (self.world.vms.join("a"), self.ready(n));
        let was = fs::read_to_string(live.join("memory")).unwrap();
        if was == generation(n) {
            return;
        }
        match [0, 1].into_iter().find(|known| was == generation(*known)).map(|known| self.ready(known)) {
            Some(to) if !to.exists() => fs::rename(&live, to).unwrap(),
            _ => fs::remove_dir_all(&live).unwrap(),
        }
        if !ready.exists() {
            fs::create_dir(&ready).unwrap();
            for file in ["memory", "disk"] {
                fs::write(ready.join(file), generation(n)).unwrap();
            }
        }
        fs::rename(ready, live).unwrap();
    }

    fn ready(&self, n: u64) -> PathBuf {
        self.beside.join(format!("generation-{n}"))
    }

    /// A snapshot by the policy's next slot.
    fn slot(&self) -> SnapshotId {
        self.world.clock.advance(HOUR);
        let jobs = self.worker.due_jobs();
        assert_eq!(jobs.len(), 1);
        assert!(self.worker.run_job(&jobs[0]), "{:?}", self.world.events.events().last());
        self.worker.snapshots(&Default::default()).unwrap().snapshots.into_iter().max_by_key(|s| s.seq).unwrap().id
    }

    fn fork(&self, id: &SnapshotId, name: &str) -> Result<(), Problem> {
        let made = self.worker.fork(id.as_str(), &ForkBody { name: Some(name.to_owned()), ..ForkBody::default() }, None)?;
        loop {
            self.worker.forks.run_ready(&NEVER, &NEVER).unwrap();
            // Another thread may be making it.
            let now = self.worker.request(&made.requests[0].id).unwrap();
            match now.state.as_str() {
                "done" => return Ok(()),
                "failed" | "cancelled" => panic!("an accepted fork failed: {now:?}"),
                _ => self.worker.forks.wait_for_change(Duration::from_millis(5)),
            }
        }
    }

    fn begin(&self, n: u64, pair: (Op, Op)) -> Round {
        let has = |op| pair.0 == op || pair.1 == op;
        self.set(0);
        let old = self.slot();
        // Only there it matters: a copy waits for what has changed just now.
        let newer = u64::from(has(Restore));
        self.set(newer);
        let newest = self.slot();
        let trashes_fork = has(Undelete) && n % 2 == 1;
        let is_trashed = has(Undelete) && !trashes_fork;
        let has_fork = has(Unfork) || has(Delete) || trashes_fork;
        let round = Round { n, old, newer, is_trashed, fork_is_trashed: trashes_fork, has_fork };
        if has_fork {
            self.fork(if is_trashed { &newest } else { &round.old }, &round.fork()).unwrap();
        }
        if trashes_fork {
            self.worker.unfork(&instance(&round.fork())).unwrap();
        }
        if is_trashed {
            self.worker.remove(round.old.as_str(), Removal::Now).unwrap();
        }
        round
    }

    fn try_to(&self, op: Op, round: &Round, first: bool) -> Result<Told, Problem> {
        let (worker, old, fork) = (&self.worker, round.old.as_str(), round.fork());
        Ok(match op {
            Take => {
                let of = if round.has_fork && round.n.is_multiple_of(3) { fork.as_str() } else { "a" };
                let view = worker.take(&TakeBody { instance: instance(of), name: None, tags: BTreeMap::new() })?;
                Told::Taken(view.id, if of == "a" { "a" } else { "fork" })
            }
            Fork => {
                // At every other round both want the same name.
                let name = format!("g{}-{}", round.n, u64::from(first) * (round.n % 2));
                self.fork(&round.old, &name).map(|()| Told::Forked(name))?
            }
            Unfork => worker.unfork(&instance(&fork)).map(|_| Told::Unforked)?,
            Restore => worker.restore(old).map(|_| Told::Restored)?,
            Prune => {
                let report = worker.prune(&PruneBody::default())?;
                assert!(report.failed.iter().all(|failed| failed.error.contains("there is no snapshot")), "{report:?}");
                Told::Pruned(report.removed)
            }
            Rm => worker.remove(old, Removal::Now).map(|_| Told::Removed)?,
            Undelete => worker.undelete(if round.fork_is_trashed { &fork } else { old }, None).map(|_| Told::Undeleted)?,
            Verify => {
                let found = worker.verify(&VerifyBody::default())?;
                let errors: Vec<_> = found.findings.iter().filter(|f| f.severity == "error").collect();
                assert!(errors.is_empty(), "{errors:?}");
                Told::Verified
            }
            // Another one may be at it too, or it moves away meanwhile.
            Delete => fs::remove_dir_all(self.world.vms.join(&fork)).map_or_else(|e| Told::No(outside(&e)), |()| Told::Deleted),
            CopyOut => {
                let (from, to) = (worker.store.layout.snapshot(&round.old).join("data"), self.copy(round, first));
                let out = Command::new("cp").arg("-al").arg(&from).arg(&to).output().unwrap();
                if out.status.success() { Told::Copied } else { Told::No(outside(&std::io::Error::other(format!("{out:?}")))) }
            }
        })
    }

    fn copy(&self, round: &Round, first: bool) -> PathBuf {
        self.beside.join(format!("{}-{first}", round.n))
    }

    /// Both at once, the one or the other a little later.
    fn race(&self, round: &Round, pair: (Op, Op)) -> [Told; 2] {
        let start = Barrier::new(2);
        let late = self.numbers.lock().unwrap().below(1500);
        let run = |op, first: bool| {
            start.wait();
            if first == (round.n % 4 < 2) {
                let began = Instant::now();
                while began.elapsed() < Duration::from_micros(late) {
                    std::hint::spin_loop();
                }
            }
            self.try_to(op, round, first).unwrap_or_else(Told::No)
        };
        std::thread::scope(|scope| {
            let one = scope.spawn(|| run(pair.0, true));
            let other = run(pair.1, false);
            [one.join().unwrap(), other]
        })
    }

    fn forks_there(&self) -> Vec<(String, ForkId, SnapshotId)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.world.vms).unwrap() {
            let path = entry.unwrap().path();
            if let Standing::Fork(record) = standing(&Fs::real(), &path).unwrap() {
                found.push((path.file_name().unwrap().to_string_lossy().into_owned(), record.fork_id, record.fork_of_snapshot));
            }
        }
        found
    }

    /// Lets everything come to rest, and holds what was told against what is there.
    fn check(&self, round: &Round, told: &[Told; 2]) {
        let worker = &self.worker;
        self.quiesce();
        let index = in_memory(&worker.store);
        assert_eq!(index, in_memory(&Store::open_reader(&self.world.options(Fs::real())).unwrap()), "index and disk differ");
        let is_there = |id: &SnapshotId| index.get(id).is_some_and(|known| known.starts_with("present"));
        let removals =
            told.iter().filter(|t| matches!(t, Told::Removed) || matches!(t, Told::Pruned(all) if all.contains(&round.old))).count();
        let undeleted = !round.fork_is_trashed && told.iter().any(|t| matches!(t, Told::Undeleted));
        assert!(removals <= 1, "removed twice");
        match (removals > 0, undeleted) {
            (true, true) => {}
            (true, false) => assert!(!is_there(&round.old), "it was removed"),
            (false, true) => assert!(is_there(&round.old), "it was brought back"),
            (false, false) => assert_eq!(is_there(&round.old), !round.is_trashed, "nobody was told that it goes or comes"),
        }
        for told in told {
            match told {
                Told::Taken(id, of) => {
                    assert!(is_there(id), "a taken snapshot is gone");
                    let data = worker.store.layout.snapshot(id).join("data");
                    let memory = fs::read_to_string(data.join("memory")).unwrap();
                    assert_eq!(memory, fs::read_to_string(data.join("disk")).unwrap(), "a mixture");
                    assert!([0, 1].map(generation).contains(&memory), "neither, of {of}");
                }
                Told::Forked(name) => {
                    assert_eq!(fs::read_to_string(self.world.vms.join(name).join("memory")).unwrap(), generation(0));
                    assert!(is_there(&round.old), "a fork was acknowledged, and its snapshot is gone");
                }
                Told::Restored => self.holds_generation("a", 0),
                _ => {}
            }
        }
        let told_fork = |wanted: fn(&Told) -> bool| told.iter().any(wanted);
        let goes = told_fork(|t| matches!(t, Told::Unforked | Told::Deleted | Told::No(Problem { kind: ProblemKind::Failed, .. })));
        let comes = round.fork_is_trashed && told_fork(|t| matches!(t, Told::Undeleted));
        if !goes && (comes || round.has_fork && !round.fork_is_trashed) {
            self.holds_generation(&round.fork(), if round.is_trashed { round.newer } else { 0 });
        }
        self.counts(&index);
        let found = verify(&worker.store.fs, &worker.store.layout, &HashSet::new(), Flow::quiet());
        let bad: Vec<_> = found.findings.iter().filter(|f| f.name != "links.unknown").collect();
        assert!(bad.is_empty(), "{bad:?}");
    }

    fn holds_generation(&self, name: &str, n: u64) {
        for file in ["memory", "disk"] {
            assert_eq!(fs::read_to_string(self.world.vms.join(name).join(file)).unwrap(), generation(n), "{name}/{file}");
        }
    }

    /// Every fork has its ref and its snapshot, and no ref is one too many.
    fn counts(&self, index: &BTreeMap<SnapshotId, String>) {
        let forks = self.forks_there();
        for (id, known) in index.iter().filter(|(_, known)| known.starts_with("present")) {
            let mine: Vec<_> = forks.iter().filter(|(.., of)| of == id).collect();
            assert_eq!(self.worker.snapshot(id.as_str()).unwrap().ref_count, mine.len() as u64, "{known}: {mine:?}");
        }
        for (name, _, of) in &forks {
            assert!(index.contains_key(of), "the snapshot of {name} is gone");
        }
    }

    fn quiesce(&self) {
        self.worker.look_at_root();
        self.world.clock.advance(HOUR * 2);
        self.worker.sweep().unwrap();
        self.worker.look_at_root();
    }

    /// Takes everything away again; what has an unknown link must not go before that link does.
    fn end(&self, round: &Round, tally: &mut Tally) {
        for (name, ..) in self.forks_there() {
            fs::remove_dir_all(self.world.vms.join(name)).unwrap();
        }
        self.worker.look_at_root();
        let memory = self.worker.store.layout.snapshot(&round.old).join("data/memory");
        let inode = fs::metadata(&memory).map(|meta| meta.ino()).ok();
        for snapshot in self.worker.snapshots(&Default::default()).unwrap().snapshots {
            for hold in &snapshot.holds {
                self.worker.release(snapshot.id.as_str(), hold).unwrap();
            }
        }
        let copies = [true, false].map(|first| self.copy(round, first));
        let is_linked = |copy: &PathBuf| inode.is_some() && fs::metadata(copy.join("memory")).map(|meta| meta.ino()).ok() == inode;
        if copies.iter().any(is_linked) {
            let refused = self.worker.remove(round.old.as_str(), Removal::Now).unwrap_err();
            assert!(refused.kind == ProblemKind::Conflict && refused.detail.contains("has a link that is no known fork's"), "{refused:?}");
            tally.linked += 1;
        }
        for copy in copies.iter().filter(|copy| copy.exists()) {
            fs::remove_dir_all(copy).unwrap();
        }
        for snapshot in self.worker.snapshots(&Default::default()).unwrap().snapshots {
            self.worker.remove(snapshot.id.as_str(), Removal::Now).unwrap();
        }
        self.quiesce();
        for dir in ["snapshots", "trash", "refs", "holds", "staging"] {
            assert_eq!(names(&self.world.store.join(dir)), [""; 0], "{dir}");
        }
        for dir in ["staging", "trash"] {
            assert_eq!(names(&self.world.vms.join(".snapkeep").join(dir)), [""; 0], "{dir} of the root");
        }
    }
}

/// What was told of something that snapkeep had no part in.
fn outside(e: &std::io::Error) -> Problem {
    Problem::new(ProblemKind::Failed, format!("outside: {e}"))
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// All that an index knows, as text; "present" first where the snapshot is there.
fn in_memory(store: &Store) -> BTreeMap<SnapshotId, String> {
    let text = |known: &Known| {
        let Known { summary, present, expiring, quarantined, refs, holds, unreadable, bad_manifest, .. } = known;
        let there = if *present { "present" } else { "gone" };
        format!("{there} {expiring} {quarantined:?} {refs:?} {holds:?} {unreadable:?} {bad_manifest:?} {summary:?}")
    };
    store.index().all().map(|(id, known)| (id.clone(), text(known))).collect()
}

/// What came out, in all.
#[derive(Default)]
struct Tally {
    rounds: u64,
    done: u64,
    linked: u64,
    refusals: BTreeMap<(String, String), u64>,
}

fn all_pairs(trash: &str, per_pair: u64) {
    let lab = Lab::new(trash);
    let mut tally = Tally::default();
    let mut n = 0;
    for (i, one) in OPS.into_iter().enumerate() {
        for other in OPS.into_iter().skip(i) {
            for _ in 0..per_pair {
                n += 1;
                let round = lab.begin(n, (one, other));
                let told = lab.race(&round, (one, other));
                lab.check(&round, &told);
                lab.end(&round, &mut tally);
                for (op, told) in [one, other].iter().zip(&told) {
                    match told {
                        Told::No(problem) => {
                            // Refused is right; that something went wrong is so only where a tree is taken away under it.
                            let under_it = matches!(op, Delete | CopyOut | Take) || problem.kind != ProblemKind::Failed;
                            assert!(under_it, "{one:?} and {other:?}: {op:?}: {problem:?}");
                            let words = problem.detail.split_whitespace().filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
                            let detail = words.take(16).collect::<Vec<_>>().join(" ");
                            *tally.refusals.entry((format!("{op:?}"), format!("{:?} {detail}", problem.kind))).or_default() += 1;
                        }
                        _ => tally.done += 1,
                    }
                }
                tally.rounds += 1;
            }
        }
    }
    let pairs = OPS.len() * (OPS.len() + 1) / 2;
    let Tally { rounds, done, linked, refusals } = tally;
    println!("{pairs} pairs, {per_pair} rounds each, {rounds} in all; {done} operations done, {linked} removals refused for a link");
    for ((op, why), count) in refusals {
        println!("  {count} x {op}: {why}");
    }
}

fn rounds() -> u64 {
    let given = std::env::var("ROUNDS").ok().and_then(|n| n.parse().ok());
    given.unwrap_or(if std::env::var_os("FULL").is_some() { 200 } else { 8 })
}

#[test]
fn all_pairs_of_operations_at_once_lose_nothing_that_was_acknowledged_with_a_grace() {
    all_pairs("grace = \"1h\"\nfork_grace = \"1h\"", rounds());
}

#[test]
fn all_pairs_of_operations_at_once_lose_nothing_that_was_acknowledged_without_a_grace() {
    all_pairs("grace = \"0s\"\nfork_grace = \"0s\"", rounds());
}
