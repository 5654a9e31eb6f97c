//! Which instances a policy is for: names, exclusions, tags that change, tags that cannot be read.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::type_complexity,
    reason = "tests"
)]

use crate::support::World;
use crate::support::program::{Program, eventually};
use snapkeep::event::Event;
use snapkeep::worker::Worker;
use snapkeep::worker::backend::Backend;
use snapkeep::worker::view::{PolicyStatus, SnapshotFilter, SnapshotView, TakeBody};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// How long tags are believed.
const LOOK: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_secs(3600);
const GOLD: &str = "[worker]\nthreads = 1\n[trash]\ngrace = \"0s\"\n\
    [[policy]]\nname = \"gold\"\ninstances = [\"*\"]\nexclude = [\"*-scratch\"]\ninstance_tags = { tier = \"gold\" }\ntags = { by = \"policy\", of = \"gold\" }\n\
    every = \"1h\"\n[policy.keep]\nlast = 100\n[policy.gone]\nafter = \"1h\"\nmin = 0\n";

fn tags(instance: &Path, text: &str) {
    fs::create_dir_all(instance.join(".snapkeep")).unwrap();
    let path = instance.join(".snapkeep/tags.toml");
    fs::write(path.with_extension("new"), text).unwrap();
    fs::rename(path.with_extension("new"), path).unwrap();
}

/// An hour goes by, and everything that is due is done.
fn hour(world: &World, worker: &Worker) {
    world.clock.advance(HOUR);
    worker.look_at_root();
    assert_eq!(worker.once().unwrap(), 0, "nothing failed");
}

fn of(worker: &dyn Backend, instance: &str) -> Vec<SnapshotView> {
    let filter = SnapshotFilter { instance: Some(crate::support::instance(instance)), ..SnapshotFilter::default() };
    worker.snapshots(&filter).unwrap().snapshots
}

fn state(worker: &dyn Backend, instance: &str) -> Option<PolicyStatus> {
    worker.status().unwrap().policies.into_iter().find(|p| p.instance.as_ref().is_some_and(|i| i.as_str() == instance))
}

fn text(tags: &BTreeMap<String, String>) -> String {
    tags.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_label_puts_an_instance_into_a_policy_and_takes_it_out_again_and_nothing_goes_because_of_it() {
    let world = World::new();
    let (vm, scratch) = (world.make_instance("vm"), world.make_instance("vm-scratch"));
    world.make_instance("plain");
    tags(&scratch, "tier = \"gold\"\n");
    let worker = world.worker(GOLD);
    assert!(worker.due_jobs().is_empty());
    tags(&vm, "tier = \"gold\"\nby = \"manager\"\n");
    world.clock.advance(LOOK);
    assert!(worker.due_jobs().is_empty(), "known from now on, due with the next slot");
    hour(&world, &worker);
    let counts = || ["vm", "vm-scratch", "plain"].map(|i| of(&*worker, i).len());
    assert_eq!(counts(), [1, 0, 0]);
    assert_eq!(text(&of(&*worker, "vm")[0].tags), "by=policy of=gold tier=gold", "the instance's, and then the policy's");
    tags(&vm, "tier = \"silver\"\n");
    for _ in 0..3 {
        hour(&world, &worker);
    }
    assert_eq!(counts(), [1, 0, 0], "no more of it, and none goes: it is there");
    let status = state(&*worker, "vm").unwrap();
    assert_eq!((status.state.as_str(), status.next_slot), ("not selected", None));
    tags(&vm, "tier = \"gold\"\n");
    hour(&world, &worker);
    assert_eq!(counts(), [2, 0, 0]);
    assert_eq!(state(&*worker, "vm").unwrap().state, "ok");
    fs::remove_dir_all(&vm).unwrap();
    hour(&world, &worker);
    assert_eq!(counts(), [2, 0, 0]);
    assert_eq!(state(&*worker, "vm").unwrap().state, "gone");
    hour(&world, &worker);
    assert_eq!(counts(), [0, 0, 0], "gone for an hour");
}

#[test]
fn while_tags_cannot_be_read_everything_stays_as_it_was_and_status_and_log_say_so() {
    let world = World::new();
    let (vm, new) = (world.make_instance("vm"), world.make_instance("new"));
    tags(&vm, "tier = \"gold\"\n");
    let worker = world.worker(GOLD);
    assert!(worker.due_jobs().is_empty());
    hour(&world, &worker);
    assert_eq!(of(&*worker, "vm").len(), 1);
    let hostile: [(&str, fn(&Path)); 5] = [
        ("a link out", |path| std::os::unix::fs::symlink("/etc/passwd", path).unwrap()),
        ("a FIFO", |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap()),
        ("a number", |path| fs::write(path, "tier = 1\n").unwrap()),
        ("too much", |path| fs::write(path, "x".repeat(1 << 20)).unwrap()),
        ("no text", |path| fs::write(path, b"\xff\xfe").unwrap()),
    ];
    let unread = || {
        world.events.events().iter().filter(|e| matches!(e, Event::RecordUnreadable { path, .. } if path.ends_with("tags.toml"))).count()
    };
    for (n, (what, make)) in hostile.into_iter().enumerate() {
        for dir in [&vm, &new] {
            fs::create_dir_all(dir.join(".snapkeep")).unwrap();
            let _ = fs::remove_file(dir.join(".snapkeep/tags.toml"));
            make(&dir.join(".snapkeep/tags.toml"));
        }
        let before = unread();
        world.clock.advance(LOOK);
        assert!(worker.due_jobs().is_empty());
        assert_eq!(unread(), before + 2, "{what}: each is named");
        world.clock.advance(LOOK);
        assert!(worker.due_jobs().is_empty());
        assert_eq!(unread(), before + 2, "{what}: once");
        hour(&world, &worker);
        assert_eq!((of(&*worker, "vm").len(), of(&*worker, "new").len()), (n + 2, 0), "{what}");
        let taken = of(&*worker, "vm").pop().unwrap();
        assert_eq!(text(&taken.tags), "by=policy of=gold", "{what}");
        assert!(taken.tags_unread.unwrap().contains("tags.toml"), "{what}");
        let (selected, other) = (state(&*worker, "vm").unwrap(), state(&*worker, "new").unwrap());
        assert_eq!((selected.state.as_str(), selected.next_slot.is_some()), ("tags unreadable", true), "{what}");
        assert!(selected.last_error.unwrap().contains("stays selected"), "{what}");
        assert_eq!((other.state.as_str(), other.next_slot), ("tags unreadable", None), "{what}");
        assert!(other.last_error.unwrap().contains("not selected"), "{what}");
    }
    let told = unread();
    hour(&world, &worker);
    assert_eq!(unread(), told, "a file that stays as it is makes no line at each slot");
    println!("{} kinds of files that are no tags", hostile.len());
    tags(&vm, "tier = \"gold\"\n");
    hour(&world, &worker);
    assert_eq!((state(&*worker, "vm").unwrap().state.as_str(), of(&*worker, "vm").len()), ("ok", hostile.len() + 3));
    assert!(of(&*worker, "vm").pop().unwrap().tags_unread.is_none());
}

#[test]
fn an_instance_in_two_policies_has_snapshots_of_both_and_each_removes_its_own() {
    let world = World::new();
    world.make_instance("vm");
    let policy = |name: &str, last: u32| {
        format!("[[policy]]\nname = \"{name}\"\ninstances = [\"vm\"]\nevery = \"1h\"\n[policy.keep]\nlast = {last}\n")
    };
    let rest = format!("[worker]\nthreads = 1\n[trash]\ngrace = \"0s\"\n{}{}", policy("few", 1), policy("many", 3));
    let worker = world.worker(&rest);
    assert!(worker.due_jobs().is_empty());
    worker.take(&TakeBody { instance: crate::support::instance("vm"), name: None, tags: BTreeMap::new() }).unwrap();
    for _ in 0..4 {
        hour(&world, &worker);
    }
    let all = of(&*worker, "vm");
    let count = |policy: Option<&str>| all.iter().filter(|s| s.policy.as_ref().map(AsRef::<str>::as_ref) == policy).count();
    assert_eq!((count(Some("few")), count(Some("many")), count(None)), (1, 3, 1));
    let mut names: Vec<_> = all.iter().map(|s| &s.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 5, "names are unique all the same");
}

#[test]
fn tags_survive_a_restore_and_are_neither_in_a_snapshot_nor_in_a_fork() {
    let world = World::new();
    let vm = world.make_instance("vm");
    tags(&vm, "tier = \"gold\"\n");
    fs::write(vm.join(".snapkeep/note"), "x").unwrap();
    let program = Program::new(&world, "");
    program.ok("init");
    let taken = program.json("snapshot vm --name base --tag tier=base --tag by=hand");
    assert_eq!((&taken["tags"]["tier"], &taken["tags"]["by"]), (&"base".into(), &"hand".into()), "what is given by hand wins");
    program.ok("snapshot vm --name plain");
    program.ok("fork vm/base web");
    assert!(!world.vms.join("web/.snapkeep/tags.toml").exists() && world.vms.join("web/.snapkeep/note").exists());
    tags(&vm, "tier = \"silver\"\n");
    program.ok("restore vm/base");
    assert_eq!(fs::read_to_string(vm.join(".snapkeep/tags.toml")).unwrap(), "tier = \"silver\"\n");
    let names = |line: &str| -> Vec<String> {
        program.json(line)["snapshots"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap().to_owned()).collect()
    };
    let looks = || {
        assert_eq!(names("ls --tag tier=gold"), ["plain"]);
        assert_eq!(names("ls --tag tier=base --tag by=hand"), ["base"]);
        assert_eq!(names("ls --tag tier=base --tag by=nobody"), [""; 0]);
    };
    looks();
    let worker = program.run();
    looks();
    assert_eq!(worker.stop(), 0);
}

#[test]
fn a_running_worker_notices_a_label_within_seconds() {
    let world = World::new();
    let vm = world.make_instance("vm");
    let policy =
        "[[policy]]\nname = \"gold\"\ninstances = [\"*\"]\ninstance_tags = { tier = \"g*\" }\nevery = \"1s\"\n[policy.keep]\nlast = 2\n";
    let program = Program::new(&world, policy);
    program.ok("init");
    let worker = program.run();
    let count = || program.json("ls")["snapshots"].as_array().unwrap().len();
    assert_eq!(count(), 0);
    tags(&vm, "tier = \"gold\"\n");
    eventually("it is taken", Duration::from_secs(15), || count() > 0);
    assert_eq!(worker.stop(), 0);
}

#[test]
fn check_says_which_policies_match_nothing_and_what_it_looked_at() {
    let world = World::new();
    let vm = world.make_instance("vm");
    let policies = "[[policy]]\nname = \"none\"\ninstances = [\"nix-*\"]\nevery = \"1h\"\n[policy.keep]\nlast = 2\n\
        [[policy]]\nname = \"gold\"\ninstances = [\"*\"]\ninstance_tags = { tier = \"gold\" }\nevery = \"1h\"\n[policy.keep]\nlast = 2\n\
        [[policy]]\nname = \"dense\"\ninstances = [\"*\"]\nevery = \"5m\"\n[policy.keep]\ndaily = 7\n";
    let program = Program::new(&world, policies);
    let text = program.ok("check");
    println!("{text}");
    assert!(text.contains("warning: policy `none` matches no instance: no name fits"), "{text}");
    assert!(text.contains("warning: policy `gold` matches no instance: of those whose names fit (1) none has the tags"), "{text}");
    assert!(text.contains("warning: policy `dense`: the schedule gives up to 288 snapshots a day"), "{text}");
    assert!(text.contains(&format!("looked at {}: 1 instance\n", world.vms.display())), "{text}");
    assert!(!world.store.join("FORMAT").exists(), "it makes nothing");
    tags(&vm, "tier = \"gold\"\n");
    program.ok("init");
    program.ok("snapshot vm");
    let json = program.json("check");
    assert_eq!(json["warnings"].as_array().unwrap().len(), 2, "{json}");
    assert!(json["looked_at"][1].as_str().unwrap().ends_with(": 0 snapshots of policies"), "{json}");
    fs::remove_dir_all(&world.vms).unwrap();
    assert!(program.ok("check").contains("is not there yet: not looked at which instances match"));
}

#[test]
fn check_warns_of_many_instances_with_one_snapshot_each() {
    let world = World::new();
    let dir = world.store.parent().unwrap().join("backup");
    fs::create_dir_all(dir.join("2024-01-01")).unwrap();
    fs::write(dir.join("2024-01-01/disk.raw"), "x").unwrap();
    let program = Program::new(&world, "[[policy]]\nname = \"ci\"\ninstances = [\"ci-*\"]\nevery = \"1h\"\n[policy.keep]\nlast = 3\n");
    program.ok("init");
    world.make_instance("ci-1");
    for n in 1..=5 {
        assert!(!program.ok("check").contains("two of none"), "{n}");
        program.ok(&format!("import {} --instance ci-{n} --policy ci", dir.display()));
    }
    let text = program.ok("check");
    assert!(text.contains("warning: policy `ci` has one snapshot of each of 5 instances, and two of none"), "{text}");
    assert!(text.ends_with(": 5 snapshots of policies\n"), "{text}");
}
