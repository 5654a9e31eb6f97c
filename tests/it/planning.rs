//! Plans that people act on: against a configuration that is being edited, exactly as seen, and within caps.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, reason = "tests")]
use crate::support::World;
use crate::support::program::{Program, eventually};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LAST_THREE: &str = "[scrub]\nenabled = false\n[trash]\ngrace = \"0s\"\n[[policy]]\nname = \"golden\"\ninstances = [\"golden\"]\n";

/// A store with so many snapshots that the policy `golden` has taken.
fn with_snapshots(count: usize) -> (World, Program) {
    let world = World::new();
    world.make_instance("golden");
    let taking = Program::with(&world, &format!("{LAST_THREE}every = \"1s\"\nkeep_all = true\n"));
    taking.ok("init");
    let worker = taking.run();
    eventually("enough snapshots", Duration::from_secs(30), || taking.json("ls")["snapshots"].as_array().unwrap().len() >= count);
    worker.stop();
    let program = Program::with(&world, &format!("{LAST_THREE}keep = {{ last = 3 }}\n"));
    (world, program)
}

/// The same configuration with other lines for the policy, beside it.
fn edited(program: &Program, policy: &str) -> PathBuf {
    let text = fs::read_to_string(&program.config).unwrap().replace("keep = { last = 3 }", policy);
    let path = program.config.with_file_name("new.toml");
    fs::write(&path, text).unwrap();
    path
}

/// A verb with a configuration of its own.
fn run(program: &Program, config: &Path, line: &str) -> (i32, serde_json::Value, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_snapkeep"));
    let output = command.args(line.split(' ')).arg("--config").arg(config).env("SNAPKEEP_CONFIG", &program.config).output().unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code().unwrap(), json, String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

fn count(plan: &serde_json::Value, verdict: &str) -> usize {
    plan["entries"].as_array().unwrap().iter().filter(|e| e["verdict"] == verdict).count()
}

#[test]
fn a_configuration_that_is_being_edited_is_compared_with_the_one_in_force_with_and_without_a_worker() {
    let (_world, program) = with_snapshots(5);
    let new = edited(&program, "keep = { last = 1 }");
    for with_worker in [false, true] {
        // What the worker prunes at its start makes no difference to what is compared.
        let worker = with_worker.then(|| program.run());
        let plan = run(&program, &new, "plan --json").1;
        assert_eq!((count(&plan, "keep"), plan["in_force"].as_bool()), (1, Some(!with_worker)), "{plan}");
        let (code, diff, _) = run(&program, &new, "plan --diff --json");
        let changes = diff["changes"].as_array().unwrap();
        assert_eq!((code, changes.len()), (0, 2), "{diff}");
        for change in changes {
            assert_eq!((change["from"].as_str(), change["to"]["verdict"].as_str()), (Some("keep"), Some("remove")));
            assert!(change["to"]["reasons"].as_array().unwrap().iter().any(|r| r["text"] == "no keep rule claims it"));
            assert!(change["from_reasons"].as_array().unwrap().iter().any(|r| r["rule"] == "last" && r["count"].is_string()));
        }
        assert_eq!(run(&program, &new, "plan --diff --json").1["changes"], diff["changes"], "looking changes nothing");
        let text = run(&program, &new, "plan --diff").2;
        assert!(text.contains("2 more removed"), "{text}");
        let same = run(&program, &program.config, &format!("plan --diff={} --json", program.config.display())).1;
        assert_eq!(same["changes"], serde_json::json!([]));
        let (code, _, why) = run(&program, &program.config, "plan --diff");
        assert!(if with_worker { code == 0 } else { code == 2 && why.contains("--diff=FILE") }, "{code} {why}");
        drop(worker);
    }
    let elsewhere = fs::read_to_string(&new).unwrap().replace("/vms\"", "/others\"");
    fs::write(&new, elsewhere).unwrap();
    let (code, _, why) = run(&program, &new, "plan --diff");
    assert!(code == 2 && why.contains("a plan is for one store"), "{code} {why}");
    fs::write(&new, "[store]\npath = 7\n").unwrap();
    let (code, _, why) = run(&program, &new, "plan --diff");
    assert!(code == 78 && why.contains("new.toml:2"), "{code} {why}");
}

#[test]
fn a_plan_is_carried_out_exactly_or_not_at_all_and_the_report_says_what_it_freed() {
    let (world, program) = with_snapshots(5);
    let taken = program.json("ls")["snapshots"].as_array().unwrap().len();
    let plan = program.json("plan");
    let hash = plan["hash"].as_str().unwrap().to_owned();
    assert_eq!((count(&plan, "keep"), count(&plan, "remove")), (3, taken - 3));
    for entry in plan["entries"].as_array().unwrap() {
        let claims = entry["reasons"].as_array().unwrap().iter().any(|r| r["side"] == "keep" && r["rule"] == "last");
        assert_eq!(claims, entry["verdict"] == "keep", "{entry}");
    }
    program.ok("snapshot golden --name by-hand");
    assert_eq!(program.json("plan")["hash"], hash.as_str(), "what is kept does not matter to what is done");
    let oldest = plan["entries"].as_array().unwrap().last().unwrap()["snapshot_id"].as_str().unwrap().to_owned();
    program.ok(&format!("hold {oldest} mine"));
    let (code, why) = program.fails(&format!("prune --plan {hash}"));
    assert!(code == 4 && why.contains("no longer the plan"), "{code} {why}");
    assert_eq!(program.json("ls")["snapshots"].as_array().unwrap().len(), taken + 1, "nothing was done");
    program.ok(&format!("release {oldest} mine"));
    let frees = program.json(&format!("show {oldest}"))["reclaimable_bytes"].as_u64().unwrap();
    let report = program.json(&format!("prune --plan {hash}"));
    let removed = report["removed"].as_array().unwrap().len() as u64;
    assert_eq!((removed as usize, report["freed_bytes"].as_u64().unwrap()), (taken - 3, frees * removed));
    assert!(frees > 0 && fs::read_dir(world.store.join("trash")).unwrap().next().is_none());
}

#[test]
fn caps_bound_a_run_the_oldest_go_first_and_a_plan_that_somebody_has_seen_goes_whole() {
    let (_world, program) = with_snapshots(6);
    let text = fs::read_to_string(&program.config).unwrap();
    let ids = || -> Vec<String> {
        let all = program.json("ls")["snapshots"].as_array().unwrap().clone();
        all.iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect()
    };
    let before = ids();
    for (cap, by) in [("max_removals = 1", "max_removals"), ("max_fraction = \"5%\"", "max_fraction")] {
        fs::write(&program.config, format!("{text}[prune]\n{cap}\n")).unwrap();
        let there = ids();
        let output = program.output("prune --json");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["removed"], serde_json::json!([there[0]]), "the oldest, and no other");
        assert_eq!(report["left"].as_u64().unwrap() as usize, there.len() - 4);
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        let event =
            log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).find(|e| e["event"] == "prune.capped");
        let event = event.unwrap_or_else(|| panic!("no event: {log}"));
        assert_eq!(
            (event["by"].as_str(), event["allowed"].as_u64(), event["wanted"].as_u64()),
            (Some(by), Some(1), Some(there.len() as u64 - 3))
        );
        assert!(program.ok("plan").contains("remove"));
    }
    let hash = program.json("plan")["hash"].as_str().unwrap().to_owned();
    assert_eq!(program.json(&format!("prune --plan {hash}"))["left"], 0);
    assert_eq!(ids(), before[before.len() - 3..]);
    for bad in ["max_removals = 0", "max_fraction = \"0%\"", "max_fraction = \"120%\"", "max_fraction = \"half\""] {
        fs::write(&program.config, format!("{text}[prune]\n{bad}\n")).unwrap();
        assert_eq!(program.fails("check").0, 78, "{bad}");
    }
}
