//! The real program: verbs with and without a worker, exit codes, reload, the end in order.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, reason = "tests")]

use crate::support::World;
use crate::support::program::{Program, eventually};
use std::fs;
use std::time::Duration;

const GOLDEN: &str = "[[policy]]\nname = \"gold\"\ninstances = [\"golden*\"]\nevery = \"1s\"\n[policy.keep]\nlast = 2\n";
const SOON: Duration = Duration::from_secs(15);

#[test]
fn the_verbs_do_the_same_with_a_worker_and_without() {
    for with_worker in [false, true] {
        let world = World::new();
        let golden = world.make_instance("golden");
        let program = Program::new(&world, "");
        let made = program.ok("init");
        assert!(made.contains("memory files: hard links work"), "{made}");
        let worker = with_worker.then(|| program.run());
        let taken = program.json("snapshot golden --name base --tag ticket=42");
        let id = taken["id"].as_str().unwrap().to_owned();
        assert_eq!((taken["kind"].as_str(), taken["ref_count"].as_u64()), (Some("standby"), Some(0)));
        assert_eq!(taken["tags"]["ticket"], "42");
        let forked = program.json("fork golden/base web-1 web-2 --key k");
        assert!(forked["requests"].as_array().unwrap().iter().all(|r| r["state"] == "done" && r["memory"] == "hardlink"), "{forked}");
        assert_eq!(program.json("fork golden/base web-1 web-2 --key k")["requests"], forked["requests"], "the same key, the same forks");
        assert_eq!(program.json("show golden/base")["ref_count"], 2);
        assert_eq!(program.json("forks golden/base")["forks"].as_array().unwrap().len(), 2);
        let (code, why) = program.fails("rm golden/base --json");
        let problem: serde_json::Value = serde_json::from_str(&why[why.find("\n{").map_or(0, |at| at + 1)..]).unwrap();
        assert_eq!((code, problem["status"].as_u64(), &problem["forks"]), (4, Some(409), &serde_json::json!(["web-1", "web-2"])));
        program.ok("hold base keep-me");
        assert_eq!(program.json("ls")["snapshots"][0]["holds"], serde_json::json!(["keep-me"]));
        program.ok("unfork web-1");
        fs::remove_dir_all(world.vms.join("web-2")).unwrap();
        eventually("both forks are gone", SOON, || program.json("show base")["ref_count"] == 0 || !with_worker);
        assert_eq!(program.fails("rm base").0, 4, "held");
        program.ok("release base keep-me");
        fs::write(golden.join("overlay.raw"), "changed").unwrap();
        program.ok("restore base");
        assert_eq!(fs::metadata(golden.join("overlay.raw")).unwrap().len(), 1 << 20);
        assert_eq!(program.json("verify")["findings"], serde_json::json!([]));
        assert!(program.ok("plan").contains("taken by hand"));
        program.ok("rm base");
        assert_eq!(program.json("ls")["snapshots"], serde_json::json!([]));
        assert_eq!(program.fails(&format!("show {id}")).0, 3);
        assert_eq!(worker.map(|w| w.stop()).unwrap_or(0), 0);
    }
}

#[test]
fn a_worker_snapshots_prunes_and_leaves_alone_what_a_fork_needs_and_what_is_a_fork() {
    let world = World::new();
    world.make_instance("golden");
    let program = Program::new(&world, GOLDEN);
    program.ok("init");
    let worker = program.run();
    let snapshots = || program.json("ls")["snapshots"].as_array().unwrap().clone();
    eventually("a first snapshot", SOON, || !snapshots().is_empty());
    let first = snapshots()[0]["id"].as_str().unwrap().to_owned();
    program.ok(&format!("fork {first} golden-7"));
    eventually("the first would go, and stays", SOON, || snapshots().len() == 3 && snapshots()[0]["id"] == first.as_str());
    assert!(program.ok("plan").contains("needed by golden-7"));
    std::thread::sleep(Duration::from_secs(2));
    assert!(snapshots().iter().all(|s| s["instance"] == "golden"), "golden-* must not take its own fork golden-7");
    fs::remove_dir_all(world.vms.join("golden-7")).unwrap();
    eventually("the first goes once its fork has gone", SOON, || snapshots().iter().all(|s| s["id"] != first.as_str()));
    assert_eq!(snapshots().len(), 2);
    let status = program.json("status");
    assert_eq!((&status["policies"][0]["state"], status["worker"]["running"].as_bool()), (&"ok".into(), Some(true)));
    let log = worker.log();
    assert_eq!(worker.stop(), 0);
    let events: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for name in [
        "config.loaded",
        "worker.started",
        "snapshot.taken",
        "fork.queued",
        "fork.created",
        "prune.blocked",
        "prune.removed",
        "fork.released",
    ] {
        assert!(events.iter().any(|e| e["event"] == name), "{name} is missing");
    }
}

#[test]
fn counts_are_right_within_a_second_after_a_fork_was_deleted_or_moved() {
    let world = World::new();
    world.make_instance("a");
    let program = Program::new(&world, "");
    program.ok("init");
    let _worker = program.run();
    program.ok("snapshot a --name s");
    program.ok("fork s --count 3 --prefix f");
    let refs = || program.json("show s")["ref_count"].as_u64().unwrap();
    assert_eq!(refs(), 3);
    fs::remove_dir_all(world.vms.join("f-1")).unwrap();
    eventually("one less", Duration::from_secs(2), || refs() == 2);
    fs::rename(world.vms.join("f-2"), world.vms.join("renamed")).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(refs(), 2);
    fs::rename(world.vms.join("f-3"), world.store.parent().unwrap().join("out")).unwrap();
    eventually("moved out of the root", Duration::from_secs(2), || refs() == 1);
    fs::rename(world.store.parent().unwrap().join("out"), world.vms.join("back")).unwrap();
    eventually("moved back in", Duration::from_secs(2), || refs() == 2);
}

#[test]
fn a_second_worker_is_refused_with_75_and_so_is_once() {
    let world = World::new();
    let program = Program::new(&world, "");
    program.ok("init");
    let worker = program.run();
    for verb in ["run", "once"] {
        let (code, why) = program.fails(verb);
        assert_eq!(code, 75, "{verb}: {why}");
    }
    worker.kill();
    program.ok("once");
}

#[test]
fn a_bad_reload_keeps_the_old_configuration_and_a_good_one_takes_effect() {
    use nix::sys::signal::Signal;
    let world = World::new();
    world.make_instance("golden");
    let program = Program::new(&world, GOLDEN);
    program.ok("init");
    let worker = program.run();
    let good = fs::read_to_string(&program.config).unwrap();
    fs::write(&program.config, good.replace("last = 2", "lest = 2")).unwrap();
    worker.signal(Signal::SIGHUP);
    eventually("the refusal is logged", SOON, || worker.log().contains("config.rejected"));
    fs::write(&program.config, &good).unwrap();
    let status = program.ok("status");
    assert!(status.contains("did you mean `last`?"), "{status}");
    fs::write(&program.config, good.replace("\"gold\"", "\"silver\"")).unwrap();
    worker.signal(Signal::SIGHUP);
    eventually("the new policy is in force", SOON, || program.json("status")["policies"][0]["policy"] == "silver");
    assert!(!program.ok("status").contains("refused"));
    assert_eq!(worker.stop(), 0);
}

#[test]
fn errors_say_what_where_and_what_to_do_and_have_their_exit_codes() {
    let world = World::new();
    let program = Program::new(&world, "");
    fs::remove_dir_all(&world.store).unwrap();
    let (code, why) = program.fails("ls");
    assert_eq!(code, 78);
    assert!(why.contains("is not a snapkeep store; make it with `snapkeep init`"), "{why}");
    program.ok("init");
    for (line, wanted, words) in [
        ("show nothing", 3, "there is no snapshot nothing; `snapkeep ls` lists them"),
        ("snapshot nobody", 3, "there is no instance nobody"),
        ("unfork nobody", 3, "there is no fork nobody"),
        ("plan --policy nothing", 3, "there is no policy nothing"),
        ("queue cancel faaaaaaaaaaaaaaaa", 3, "there is no fork request faaaaaaaaaaaaaaaa"),
        ("fork x", 2, "required"),
        ("frobnicate", 2, "unrecognized subcommand"),
    ] {
        let (code, why) = program.fails(line);
        assert!(code == wanted && why.contains(words), "{line}: {code}: {why}");
    }
    let (code, why) = Program { config: "/nowhere/c.toml".into() }.fails("check");
    assert!(code == 78 && why.contains("/nowhere/c.toml"), "{why}");
    assert!(program.ok("check --schema").contains("\"$schema\""));
}

#[test]
fn once_takes_what_is_due_makes_what_is_queued_and_prunes() {
    let world = World::new();
    world.make_instance("golden");
    let program = Program::new(&world, GOLDEN);
    program.ok("once");
    std::thread::sleep(Duration::from_millis(1100));
    program.ok("once");
    let snapshots = program.json("ls")["snapshots"].as_array().unwrap().clone();
    assert_eq!(snapshots.len(), 1);
    let queued = program.json(&format!("fork {} later --no-wait", snapshots[0]["id"].as_str().unwrap()));
    assert_eq!(queued["requests"][0]["state"], "queued");
    assert!(!world.vms.join("later").exists());
    program.ok("once");
    assert!(world.vms.join("later/overlay.raw").exists());
}

#[test]
fn a_stop_in_the_middle_of_a_snapshot_rolls_it_back_or_finishes_it() {
    let world = World::new();
    world.make_instance("golden");
    let freeze =
        format!("[driver]\nfreeze = [\"sleep 1\"]\nthaw = [\"touch {}/thawed\"]\n{GOLDEN}", world.store.parent().unwrap().display());
    let program = Program::new(&world, &freeze);
    program.ok("init");
    let worker = program.run();
    eventually("a snapshot has begun", SOON, || fs::read_dir(world.store.join("staging")).unwrap().count() > 0);
    assert_eq!(worker.stop(), 0);
    assert!(world.store.parent().unwrap().join("thawed").exists());
    assert_eq!(fs::read_dir(world.store.join("staging")).unwrap().count(), 0);
    assert_eq!(program.json("verify")["findings"], serde_json::json!([]));
}
