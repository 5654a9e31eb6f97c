//! Configurations that are wrong in many ways at once, and the samples that are right.
#![expect(clippy::disallowed_methods, reason = "tests read the samples of the checkout")]

use super::*;
use crate::config::raw::schema;

const GOOD: &str = r#"[store]
path = "/s"
instances = "/i"
"#;

fn problems(text: &str) -> Vec<String> {
    match parse(vec![("/etc/c.toml".into(), text.to_owned())]) {
        Ok(_) => Vec::new(),
        Err(ConfigError::Problems(problems)) => problems.iter().map(|p| format!("{}:{} {}", p.line, p.column, p.message)).collect(),
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn the_smallest_configuration_has_all_defaults() {
    let config = parse(vec![("/etc/c.toml".into(), GOOD.to_owned())]).unwrap();
    assert_eq!(config.socket, Path::new("/s/snapkeep.sock"));
    assert_eq!((config.threads, config.fork.max_pending), (4, 10_000));
    assert_eq!(config.trash_grace, Duration::from_secs(3600));
    assert_eq!(config.skip.rule_for(Path::new("logs"), true), Some("logs/"));
    assert_eq!(config.warnings.len(), 1);
}

#[test]
fn every_mistake_is_reported_at_once_with_its_place() {
    let text = r#"[store]
path = "s"
instances = "/i"
[worker]
threds = 2
threads = 0
[trash]
grace = "1 month"
[fork]
memory = "symlink"
[[policy]]
name = "Golden"
instances = ["golden-*"]
schedule = "61 * * * *"
keep_all = true
[[policy]]
name = "a"
instances = "golden"
every = "200ms"
[policy.keep]
max-age = "7d"
last = "four"
[policy.limit]
max_count = 2
min = 3
"#;
    assert_eq!(
        problems(text),
        [
            "2:8 `path` must be an absolute path without `..`, not \"s\"",
            "5:1 unknown key `threds`, did you mean `threads`?",
            "6:11 `threads` must be a whole number from 1 to 4294967295",
            "8:9 `grace`: months and years have no one length; write it like \"90s\", \"15m\", \"36h\", \"7d\" or \"1h30m\"",
            "10:10 `memory` must be \"hardlink\" or \"reflink\" or \"copy\", not \"symlink\"",
            "12:8 \"Golden\" is not a valid policy name: only a-z, 0-9 and '-' are allowed",
            "14:12 \"61 * * * *\" is not a cron expression: Component error: Number out of bounds.",
            "18:13 `instances` must be a list of strings, not string",
            "19:9 `every` must be at least 1s",
            "21:1 unknown key `max-age`",
            "22:8 `last` must be a whole number, not string",
            "25:7 `min` is more than `max_count`",
        ]
    );
}

#[test]
fn a_problem_shows_the_offending_line() {
    let text = format!("{GOOD}[worker]\nthreds = 2\n");
    let Err(e) = parse(vec![("/etc/c.toml".into(), text)]) else { panic!("no problem") };
    let wanted = "error: unknown key `threds`, did you mean `threads`?\n --> /etc/c.toml:5:1\n  |\n5 | threds = 2\n  | ^^^^^^";
    assert_eq!(e.to_string(), wanted);
}

#[test]
fn policies_of_other_files_are_added_and_nothing_else_is_taken_from_them() {
    let policy = "[[policy]]\nname = \"a\"\ninstances = [\"*\"]\nkeep_all = true\n";
    let files = |more: &str| vec![("/c.toml".into(), GOOD.to_owned()), ("/policies.d/a.toml".into(), more.to_owned())];
    assert_eq!(parse(files(policy)).unwrap().policies.len(), 1);
    let Err(ConfigError::Problems(problems)) = parse(files(&format!("[worker]\nthreads = 2\n{policy}{policy}"))) else { panic!() };
    assert_eq!(problems[0].message, "unknown key `worker`");
    assert_eq!(problems[1].message, "there is a policy a already");
    assert!(problems.iter().all(|p| p.file == Path::new("/policies.d/a.toml")));
}

#[test]
fn syntax_errors_have_their_place_too() {
    let found = problems("[store\npath = \"/s\"\n");
    assert!(found[0].starts_with("1:"), "{found:?}");
}

#[test]
fn store_and_instances_must_not_be_inside_one_another() {
    assert_eq!(problems("[store]\npath = \"/a/store\"\ninstances = \"/a/store/vms\"\n").len(), 1);
    assert_eq!(problems("[store]\npath = \"/a\"\ninstances = \"/a/\"\n").len(), 1);
    assert_eq!(problems("[store]\npath = \"/a/store\"\ninstances = \"/a/store-vms\"\n").len(), 0);
    assert_eq!(problems("").len(), 2);
}

#[test]
fn the_samples_are_good_and_without_warnings() {
    for sample in ["snapkeep.toml", "quickstart.toml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(sample);
        let config = parse(vec![(path.clone(), std::fs::read_to_string(path).unwrap())]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(config.warnings, [""; 0], "{sample}");
    }
}

#[test]
fn the_keys_that_are_taken_are_those_of_the_schema() {
    let schema = schema();
    let keys = |table: &serde_json::Value| -> Vec<String> {
        let mut keys: Vec<String> = table["properties"].as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    };
    let sorted = |known: &[&str]| {
        let mut known: Vec<String> = known.iter().map(ToString::to_string).collect();
        known.sort();
        known
    };
    assert_eq!(keys(&schema), sorted(keys::FILE));
    for (name, known) in [
        ("Store", keys::STORE),
        ("Api", keys::API),
        ("Fork", keys::FORK),
        ("Snapshot", keys::SNAPSHOT),
        ("Driver", keys::DRIVER),
        ("Worker", keys::WORKER),
        ("Prune", keys::PRUNE),
        ("Trash", keys::TRASH),
        ("Policy", keys::POLICY),
        ("Retry", keys::RETRY),
        ("Keep", keys::KEEP),
        ("Limit", keys::LIMIT),
        ("Gone", keys::GONE),
    ] {
        assert_eq!(keys(&schema["$defs"][name]), sorted(known), "{name}");
        assert_eq!(schema["$defs"][name]["additionalProperties"], false, "{name}");
    }
}
