//! A disk that is full, in bytes or in inodes, at every place where an operation can find that out; and one that becomes
//! read-only while the worker runs. Nothing is lost, nothing is left behind, and whoever asked is told why.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::mounts::{Mounted, tmpfs};
use crate::support::program::{Program, eventually};
use crate::support::{World, write_sparse};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

const POLICY: &str = "[worker]\nthreads = 1\n[[policy]]\nname = \"p\"\ninstances = [\"a\"]\nevery = \"1h\"\n[policy.keep]\nlast = 1\n";

/// What is left on the disk.
#[derive(Debug, Clone, Copy)]
enum Left {
    Pages(u64),
    Inodes(u64),
}

/// An instance `a`, its snapshot `base`, and `f`, a fork of that, on a small disk.
struct Disk {
    fs_: Mounted,
    world: World,
    program: Program,
}

impl Disk {
    fn new(policies: &str) -> Option<Self> {
        let fs_ = tmpfs("size=1m,nr_inodes=300")?;
        let world = World::at(&fs_.path);
        let a = world.vms.join("a");
        fs::create_dir(&a).unwrap();
        write_sparse(&a.join("overlay.raw"), 64 << 10, &[(8 << 10, b"root of "), (32 << 10, b"more of ")]);
        write_sparse(&a.join("memory"), 32 << 10, &[(8 << 10, b"ram of ")]);
        fs::write(a.join("config.json"), format!(r#"{{"drive": "{}/overlay.raw"}}"#, a.display())).unwrap();
        let program = Program::new(&world, policies);
        for line in ["init", "snapshot a --name base", "fork base f"] {
            program.ok(line);
        }
        Some(Self { fs_, world, program })
    }

    /// Takes all that there is, but for what is to be left.
    fn fill(&self, left: Left) {
        let filler = self.fs_.path.join("filler");
        fs::create_dir(&filler).unwrap();
        match left {
            Left::Pages(pages) => {
                let mut file = fs::File::create(filler.join("file")).unwrap();
                while file.write_all(&[1; 4096]).is_ok() {}
                let len = file.metadata().unwrap().len();
                file.set_len(len.saturating_sub(pages * 4096)).unwrap();
            }
            Left::Inodes(inodes) => {
                let made = (0..).take_while(|n: &u64| fs::File::create(filler.join(n.to_string())).is_ok()).count() as u64;
                (0..inodes.min(made)).for_each(|n| fs::remove_file(filler.join(n.to_string())).unwrap());
            }
        }
    }

    fn empty(&self) {
        fs::remove_dir_all(self.fs_.path.join("filler")).unwrap();
    }

    fn names(&self, verb: &str, list: &str) -> Vec<String> {
        let all = self.program.json(verb);
        all[list].as_array().unwrap().iter().filter_map(|s| s["name"].as_str().map(str::to_owned)).collect()
    }

    fn is_staging_empty(&self) -> bool {
        let is_empty = |dir: &Path| !dir.exists() || fs::read_dir(dir).unwrap().next().is_none();
        [self.world.store.join("staging"), self.world.vms.join(".snapkeep/staging")].iter().all(|dir| is_empty(dir))
    }

    /// Nothing is wrong, and what was there before is there and whole.
    fn is_sound(&self, when: &str) {
        let found = self.program.output("verify --json");
        assert!(found.status.success(), "{when}: {}", String::from_utf8_lossy(&found.stdout));
        assert!(self.names("ls", "snapshots").contains(&"base".to_owned()), "{when}");
        for name in self.names("forks", "forks") {
            for file in ["overlay.raw", "memory"] {
                let read = |instance: &str| fs::read(self.world.vms.join(instance).join(file)).unwrap();
                assert!(read("a") == read(&name), "{when}: {name}/{file}");
            }
        }
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// Runs a verb with ever more space, by this stride, until it passes; `after` looks at each end, with space again.
fn until_it_passes(disk: &Disk, verb: &str, stride: u64, left: fn(u64) -> Left, mut after: impl FnMut(&str, &Output)) {
    let mut causes = BTreeSet::new();
    for tried in 0..300 {
        let n = tried * stride;
        let when = format!("{verb} with {:?} left", left(n));
        disk.fill(left(n));
        let output = disk.program.output(verb);
        let is_done = output.status.success();
        let why = said(&output);
        let is_named = is_done || ["No space left on device", "there is no room for it"].iter().any(|cause| why.contains(cause));
        // When the time of the verb is over, an attempt may not have come to its end.
        let is_over = output.status.code() == Some(75) && why.contains("\"attempts\": 0");
        assert!(is_named || is_over, "{when}: {output:?}");
        // Only a journal that cannot be written closes the queue.
        assert!(!(why.contains("symbolic link") && why.contains("queue is closed")), "{when}: {output:?}");
        causes.extend(why.lines().filter_map(|line| line.strip_prefix("snapkeep: ")).map(str::to_owned));
        // One that is being made when the time is over is cleared up by the next start.
        assert!(is_over || disk.is_staging_empty(), "{when}: staging is not empty: {output:?}");
        disk.empty();
        disk.is_sound(&when);
        after(&when, &output);
        if is_done {
            println!("{when}: it passes, after {tried} failures");
            causes.iter().for_each(|cause| println!("    {cause}"));
            return;
        }
    }
    panic!("{verb} never passes");
}

#[test]
fn a_snapshot_on_a_disk_that_fills_up_is_whole_or_leaves_nothing_and_says_why() {
    for left in [Left::Pages as fn(u64) -> Left, Left::Inodes] {
        let Some(disk) = Disk::new(POLICY) else { return };
        until_it_passes(&disk, "snapshot a --name new", 1, left, |when, output| {
            assert_eq!(disk.names("ls", "snapshots").contains(&"new".to_owned()), output.status.success(), "{when}");
        });
    }
}

#[test]
fn forks_on_a_disk_that_fills_up_are_refused_or_made_when_there_is_space() {
    for left in [Left::Pages as fn(u64) -> Left, Left::Inodes] {
        let Some(disk) = Disk::new(POLICY) else { return };
        // What was accepted waits for its second attempt, a second.
        let stride = if std::env::var_os("FULL").is_some() { 1 } else { 4 };
        until_it_passes(&disk, "fork base g h --json --timeout 10ms", stride, left, |when, output| {
            let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            // With no space for the journal's next record the queue closes, and the next start goes on with what is in it.
            let is_for_later = said(output).contains("to be made after the next start");
            let accepted = if is_for_later { 2 } else { answer["requests"].as_array().map_or(0, Vec::len) };
            eventually("what was accepted is made", Duration::from_secs(20), || {
                disk.program.ok("once");
                accepted == 0 || ["g", "h"].iter().all(|name| disk.names("forks", "forks").iter().any(|f| f == name))
            });
            assert_eq!(disk.names("forks", "forks").len(), accepted + 1, "{when}");
            for name in ["g", "h"].iter().take(accepted) {
                disk.program.ok(&format!("unfork {name}"));
            }
        });
    }
}

#[test]
fn a_full_disk_is_pruned_and_what_is_removed_by_hand_is_removed() {
    let wait = || std::thread::sleep(Duration::from_millis(1010));
    for left in [Left::Pages(0), Left::Inodes(0)] {
        let Some(disk) = Disk::new(&POLICY.replace("1h", "1s").replace("last = 1", "last = 9")) else { return };
        for line in ["once", "once", "once", "snapshot a --name x"] {
            disk.program.ok(line);
            wait();
        }
        let config = fs::read_to_string(&disk.program.config).unwrap().replace("last = 9", "last = 1");
        fs::write(&disk.program.config, config).unwrap();
        assert_eq!(disk.names("ls", "snapshots").len(), 4, "{left:?}: two by hand, two of the policy");
        disk.fill(left);
        disk.program.ok("prune");
        assert_eq!(disk.names("ls", "snapshots").len(), 3, "{left:?}");
        assert_eq!(fs::read_dir(disk.world.store.join("trash")).unwrap().count(), 0, "{left:?}: the trash is empty");
        disk.empty();
        disk.fill(left);
        disk.program.ok("rm x");
        disk.empty();
        disk.fill(left);
        disk.program.ok("unfork f");
        assert_eq!(
            fs::read_dir(disk.world.vms.join(".snapkeep/trash")).map_or(0, Iterator::count),
            0,
            "{left:?}: nor is an instance there"
        );
        disk.empty();
        // With a grace nothing is freed at once, and not even the little that a sweep writes down finds a place.
        let config = fs::read_to_string(&disk.program.config).unwrap().replace("grace = \"0s\"", "grace = \"1h\"\nfork_grace = \"1h\"");
        fs::write(&disk.program.config, config).unwrap();
        disk.program.ok("snapshot a --name y");
        disk.program.ok("fork base g");
        disk.fill(left);
        disk.program.ok("rm y");
        disk.program.ok("unfork g");
        disk.empty();
        let trash = disk.program.json("ls --trash")["trash"].as_array().unwrap().len();
        assert_eq!(trash, 2, "{left:?}: they can be brought back");
        disk.is_sound("pruned while it was full");
        assert_eq!((disk.names("ls", "snapshots").len(), disk.names("forks", "forks").len()), (2, 0), "{left:?}");
    }
}

#[test]
fn on_a_disk_that_is_read_only_verbs_fail_and_when_it_is_writable_again_everything_is_there() {
    let Some(disk) = Disk::new(POLICY) else { return };
    disk.program.ok("snapshot a --name spare");
    disk.fs_.read_only(true).unwrap();
    for verb in ["snapshot a", "fork base g", "unfork f", "restore base", "rm spare", "hold base h", "prune", "once"] {
        let (code, why) = disk.program.fails(verb);
        assert!(code == 1 && why.contains("Read-only file system"), "{verb}: {code}: {why}");
    }
    assert_eq!(disk.names("ls", "snapshots"), ["base", "spare"], "looking needs no writing");
    assert_eq!(disk.names("forks", "forks"), ["f"]);
    disk.fs_.read_only(false).unwrap();
    disk.is_sound("writable again");
    disk.program.ok("fork base g");
    assert_eq!((disk.names("ls", "snapshots").len(), disk.names("forks", "forks").len()), (2, 2));
}

#[test]
fn an_instances_root_that_becomes_read_only_under_a_running_worker_costs_nothing_that_was_accepted() {
    let Some(disk) = Disk::new(&POLICY.replace("1h", "1s")) else { return };
    // While files of the store are open for writing the kernel refuses to make its file system read-only; the root can be.
    let vms = &disk.world.vms;
    let remount = |flags: MsFlags| mount(Some(vms), vms, None::<&str>, MsFlags::MS_BIND | flags, None::<&str>).unwrap();
    remount(MsFlags::empty());
    let worker = disk.program.run();
    disk.program.ok("fork base g");
    remount(MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY);
    let ask = disk.program.output("fork base h --json --timeout 10ms");
    assert!(!ask.status.success() && said(&ask).contains("Read-only file system"), "{ask:?}");
    for verb in ["unfork f", "restore base"] {
        let (code, why) = disk.program.fails(verb);
        assert!(code == 1 && why.contains("Read-only file system"), "{verb}: {code}: {why}");
    }
    // The store is as it was: snapshots go on.
    disk.program.ok("snapshot a --name meanwhile");
    remount(MsFlags::MS_REMOUNT);
    eventually("the fork that was accepted is made", Duration::from_secs(60), || disk.names("forks", "forks").len() == 3);
    disk.is_sound("writable again");
    assert_eq!(worker.stop(), 0);
    disk.is_sound("after a stop");
    umount2(vms, MntFlags::MNT_DETACH).unwrap();
}
