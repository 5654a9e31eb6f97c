//! `simulate` as a program: needs the configuration only; table, JSON and drawing agree; what cannot be asked says why.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::World;
use crate::support::program::Program;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

const POLICIES: &str = "[[policy]]
name = \"gold\"
instances = [\"golden*\"]
schedule = \"0 */6 * * *\"
timezone = \"Europe/Vienna\"
[policy.keep]
last = 2
daily = 7
weekly = 4
monthly = 6
[[policy]]
name = \"silver\"
instances = [\"s*\"]
every = \"1d\"
[policy.limit]
max_age = \"10d\"
[[policy]]
name = \"idle\"
instances = [\"i*\"]
[policy.keep]
last = 3
";

/// A configuration whose store is not there.
fn program(world: &World, policies: &str) -> Program {
    fs::remove_dir_all(&world.store).unwrap();
    Program::new(world, policies)
}

#[test]
fn it_needs_no_store_and_shows_a_summary_periods_and_rules() {
    let world = World::new();
    let program = program(&world, POLICIES);
    let line =
        "simulate --policy gold --from 2026-01-01 --years 2 --size 10GiB --exclusive 1GiB --forks-per-day 2 --fork-life 3d --missing 5%";
    let text = program.ok(line);
    let begins = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    for start in [
        "policy  gold",
        "time    2026-01-01 to 2028-01-01 (730 d), Europe/Vienna",
        "slots   2920, ",
        "held ",
        "steady  since 2026-0",
        "bytes ",
        "forks ",
    ] {
        assert_eq!(begins(start), 1, "{start}: {text}");
    }
    assert_eq!((begins("2026-"), begins("2027-"), begins("PERIOD"), begins("RULE")), (12, 12, 1, 1), "{text}");
    for rule in ["last ", "daily ", "weekly ", "monthly "] {
        assert_eq!(begins(rule), 1, "{rule}: {text}");
    }
    assert_eq!(text, program.ok(line), "the same seed, the same text");
    assert_ne!(text, program.ok(&format!("{line} --seed 2")));
    assert!(!world.store.exists(), "it makes nothing");
}

#[test]
fn retention_that_is_not_applied_after_every_slot_is_told() {
    let world = World::new();
    let program = program(&world, POLICIES);
    let line = "simulate --policy gold --every 1m --from 2026-01-01 --span";
    let text = program.ok(&format!("{line} 80d"));
    assert!(text.contains("Retention was applied after every 2 slots or sooner; --every-slot applies it after each"), "{text}");
    assert_eq!(program.json(&format!("{line} 80d"))["simulations"][0]["looked_every"], 2);
    let (few, all) = (program.json(&format!("{line} 20d")), program.json(&format!("{line} 20d --every-slot")));
    assert_eq!((&few["simulations"][0]["looked_every"], &few), (&1.into(), &all));
}

#[test]
fn json_has_the_documented_fields_and_says_what_the_table_says() {
    let world = World::new();
    let program = program(&world, POLICIES);
    let json = program.json("simulate --policy silver --policy silver --from 2026-01-01T00:00:00Z --span 40d --exclusive 5MiB");
    let all = json["simulations"].as_array().unwrap();
    assert_eq!(all.len(), 1, "asked for twice, told once");
    let s = &all[0];
    assert_eq!(
        (s["policy"].as_str(), s["from"].as_str(), s["to"].as_str()),
        (Some("silver"), Some("2026-01-01T00:00:00Z"), Some("2026-02-10T00:00:00Z"))
    );
    // One a day, each for ten days.
    assert_eq!(
        (s["taken"].as_u64(), s["removed"].as_u64(), s["held"]["max"].as_u64(), s["held"]["end"].as_u64()),
        (Some(40), Some(30), Some(10), Some(10))
    );
    assert_eq!((&s["steady"]["since"], &s["steady"]["mean"]), (&"2026-01-10".into(), &10.0.into()));
    assert_eq!(
        (s["bytes"]["max"].as_u64(), &s["forks"], &s["stopped"]),
        (Some(50 << 20), &serde_json::Value::Null, &serde_json::Value::Null)
    );
    assert_eq!(
        (s["days"].as_array().unwrap().len(), s["periods"].as_array().unwrap().len(), s["snapshots"].as_array().unwrap().len()),
        (40, 40, 10)
    );
    let docs = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/simulate.md")).unwrap();
    let mut fields = 0;
    let mut check = |value: &serde_json::Value| {
        for key in value.as_object().unwrap().keys() {
            assert!(docs.contains(&format!("`{key}`")), "docs/simulate.md does not tell of `{key}`");
            fields += 1;
        }
    };
    let forked = program.json("simulate --policy gold --from 2026-01-01 --years 3 --size 1GiB --forks-per-day 9 --fork-life 9d");
    let forked = &forked["simulations"][0];
    check(forked);
    for part in ["held", "bytes", "forks", "steady"] {
        check(&forked[part]);
    }
    for list in ["tiers", "periods", "days", "snapshots"] {
        check(&forked[list][0]);
    }
    println!("{fields} fields");
}

#[test]
fn the_drawing_is_a_file_that_is_there_whole_and_is_xml() {
    let world = World::new();
    let program = program(&world, POLICIES);
    let file = world.vms.join("all.svg");
    fs::write(&file, "old").unwrap();
    let text = program.ok(&format!("simulate --years 1 --from 2026-01-01 --svg {}", file.display()));
    assert!(text.contains("policy  gold") && text.contains("policy  silver") && !text.contains("idle"), "{text}");
    let svg = fs::read_to_string(&file).unwrap();
    assert!(
        svg.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" ")
            && svg.ends_with("</svg>\n")
    );
    assert!(svg.contains(">gold</text>") && svg.contains(">silver</text>") && !svg.contains("<script"));
    for tag in ["svg", "text", "title"] {
        assert_eq!(svg.matches(&format!("<{tag}")).count(), svg.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o600, 0o600);
    assert_eq!(fs::read_dir(&world.vms).unwrap().count(), 1, "nothing beside it is left");
    assert_eq!(program.ok("simulate --years 1 --from 2026-01-01 --svg -"), svg);
    let (code, why) = program.fails("simulate --years 1 --svg /nowhere/at/all.svg");
    assert!(code == 1 && why.contains("cannot write /nowhere/at/all.svg: "), "{why}");
}

#[test]
fn what_cannot_be_simulated_says_what_to_do() {
    let world = World::new();
    let idle = program(&world, POLICIES);
    let with_idle = idle.output("simulate --span 2d --from 2026-01-01");
    let note = String::from_utf8(with_idle.stderr).unwrap();
    assert!(
        with_idle.status.success() && note.contains("idle has no schedule and is left out; see it with: --policy idle --every 1h"),
        "{note}"
    );
    assert!(idle.ok("simulate --policy idle --every 1h --span 2d").contains("slots   48"));
    for (line, wanted, words) in [
        ("simulate --policy nothing", 3, "there is no policy nothing"),
        ("simulate --policy idle", 2, "idle: neither `schedule` nor `every` is set; say how often snapshots come, such as --every 1h"),
        ("simulate --size 1GiB --exclusive 2GiB", 2, "--exclusive is a part of --size"),
        ("simulate --svg - --json", 2, "give --svg a file's name"),
        ("simulate --years 1 --span 3d", 2, "cannot be used with"),
        ("simulate --years 0", 2, "1..=100"),
        ("simulate --span 5y", 2, "write it in days, such as \"1825d\""),
        ("simulate --span 10ms", 2, "one second at least"),
        ("simulate --missing 5", 2, "a percentage"),
        ("simulate --from yesterday", 2, "2026-01-01T06:00:00Z"),
        ("simulate --fork-life 3d", 2, "--forks-per-day"),
    ] {
        let (code, why) = idle.fails(line);
        assert!(code == wanted && why.contains(words), "{line}: {code}: {why}");
    }
    let none = Program::new(&world, "");
    let (code, why) = none.fails("simulate");
    assert!(code == 3 && why.contains("there are no policies in "), "{why}");
}
