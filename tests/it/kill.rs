//! `kill -9` of the real worker at random moments, under a load of snapshots, forks and pruning; then a start, and every
//! invariant looked at by `verify`. `FULL=1` makes many more rounds.
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
use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

const POLICIES: &str = "[[policy]]\nname = \"gold\"\ninstances = [\"golden\"]\nevery = \"1s\"\n[policy.keep]\nlast = 2\n";

#[test]
fn the_worker_killed_at_random_moments_loses_nothing_that_was_acknowledged() {
    let rounds = if std::env::var_os("FULL").is_some() { 500 } else { 50 };
    let world = World::new();
    world.make_instance("golden");
    let program = Program::new(&world, POLICIES);
    program.ok("init");
    program.ok("snapshot golden --name base");
    let mut numbers = Numbers::new(std::process::id().into());
    // Forks that were acknowledged, by request id.
    let mut acknowledged: BTreeMap<String, String> = BTreeMap::new();
    for round in 0..rounds {
        let worker = program.run();
        let deadline = Instant::now() + Duration::from_millis(10 + numbers.below(350));
        let mut asks = Vec::new();
        for n in 0..6 {
            let ask = program.command(&format!("fork base r{round}-{n} --no-wait --json --key r{round}-{n}"));
            asks.push({ ask }.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
        }
        if round % 3 == 2 {
            // Somebody deletes a fork meanwhile.
            let gone = format!("r{}-0", round - 1);
            let _ = fs::remove_dir_all(world.vms.join(&gone));
            acknowledged.retain(|_, name| *name != gone);
        }
        std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
        worker.kill();
        for ask in asks {
            let output = ask.wait_with_output().unwrap();
            if let Ok(answer) = serde_json::from_slice::<serde_json::Value>(&output.stdout) {
                let request = &answer["requests"][0];
                acknowledged.insert(request["id"].as_str().unwrap().to_owned(), request["name"].as_str().unwrap().to_owned());
            }
        }
    }
    program.ok("once");
    let findings = program.json("verify");
    assert_eq!(findings["findings"], serde_json::json!([]), "{findings:#}");
    for (id, name) in &acknowledged {
        let record = fs::read_to_string(world.vms.join(name).join(".snapkeep/fork.json")).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(record.contains(id.as_str()), "{name} was made for another request");
        assert_eq!(fs::read(world.vms.join(name).join("overlay.raw")).unwrap(), fs::read(world.vms.join("golden/overlay.raw")).unwrap());
    }
    let refs = program.json("show base")["ref_count"].as_u64().unwrap();
    let alive = fs::read_dir(&world.vms).unwrap().filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with('r')).count();
    assert_eq!(refs, alive as u64, "a ref for each fork, and for nothing else");
    assert!(acknowledged.len() > rounds, "too little was asked for: {}", acknowledged.len());
    println!("{rounds} kills, {} forks acknowledged and there, {alive} alive", acknowledged.len());
}
