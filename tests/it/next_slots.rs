//! `check --next`: what a schedule comes to, before it runs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, reason = "tests")]

use crate::support::World;
use crate::support::program::Program;

const POLICIES: &str = r#"
[[policy]]
name = "nightly"
instances = ["*"]
schedule = ["30 2 * * *", "0 14 * * MON-FRI"]
timezone = "Europe/Vienna"
jitter = "10m"
keep_all = true
[[policy]]
name = "often"
instances = ["*"]
every = "8h"
window = "20:00-10:00"
keep_all = true
[[policy]]
name = "never"
instances = ["*"]
keep_all = true
"#;

#[test]
fn the_next_slots_of_each_policy_are_shown_in_its_zone_without_a_store() {
    let world = World::new();
    let program = Program::with(&world, POLICIES);
    std::fs::remove_dir(&world.store).unwrap();
    let text = program.ok("check --next 3 --from 2026-03-28T00:00:00Z");
    let want = "\
nightly (Europe/Vienna; each instance later by a constant part of 10m, half a slot at most)
  Sat 2026-03-28 02:30:00 +0100
  Sun 2026-03-29 03:00:00 +0200  moved: the clocks go forward over its time
  Mon 2026-03-30 02:30:00 +0200

often (UTC; only at 20:00-10:00)
  Sat 2026-03-28 08:00:00 +0000
  Sun 2026-03-29 00:00:00 +0000
  Sun 2026-03-29 08:00:00 +0000

never (UTC)
  none: it has no schedule and only prunes
";
    assert!(text.ends_with(want), "{text}");
    let json = program.json("check --next 2 --from 2026-03-28T12:00:00+01:00");
    assert_eq!(json["valid"], true);
    let slot = |n: usize| json["next"][0]["slots"][n].clone();
    assert_eq!(slot(0), serde_json::json!({"at": "2026-03-29T01:00:00Z", "local": "2026-03-29T03:00:00+02:00", "moved": true}));
    assert_eq!(slot(1)["moved"], false);
    assert_eq!((&json["next"][0]["jitter"], &json["next"][1]["window"]), (&"10m".into(), &"20:00-10:00".into()));
    assert_eq!(json["next"][2]["slots"], serde_json::json!([]));
    // From now on, if nothing else is said.
    assert_eq!(program.json("check --next 10")["next"][0]["slots"].as_array().unwrap().len(), 10);
    assert_eq!(program.json("check").get("next"), None);
    assert_eq!(program.fails("check --from 2026-03-28T00:00:00Z").0, 2);
    assert_eq!(program.fails("check --next 0").0, 2);
}
