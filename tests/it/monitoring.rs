//! The monitoring files against the code: names of metrics, alerts and events, and what the real mtail, promtool and
//! journalctl make of them. Skipped, each by itself, where these are not installed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests")]

use crate::support::World;
use crate::support::mounts::tool;
use crate::support::program::{Program, eventually};
use chrono::{DateTime, TimeDelta, TimeZone as _, Utc};
use snapkeep::event::metrics::{Metrics, PolicyNumbers};
use snapkeep::event::{CATALOGUE, Event, Record, message_id};
use snapkeep::ids::{ForkId, InstanceId, PolicyName, SnapshotId};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

fn read(below: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(below)).unwrap()
}

fn monitoring() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/monitoring")
}

fn noon() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 24, 12, 0, 0).unwrap()
}

/// All words of a text that begin with a prefix.
fn words(text: &str, prefix: &str, is_part: fn(char) -> bool) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices(prefix) {
        if !text[..at].ends_with(is_part) {
            found.insert(text[at..].chars().take_while(|c| is_part(*c)).collect());
        }
    }
    found
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Every name that the worker exports, with the suffixes of counters and histograms.
fn exported() -> BTreeSet<String> {
    let metrics = Metrics::default();
    metrics.policies(&[PolicyNumbers { policy: "p".into(), pairs: 1, failing: 0, failures: 0, overdue: 0, oldest_success: Some(noon()) }]);
    metrics.observe(&Event::WorkerStopped { why: String::new(), at: noon() }, noon());
    let text = metrics.open_metrics();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(|rest| rest.split(' ').next().unwrap().to_owned());
    words(&text, "snapkeep_", is_name).into_iter().chain(types).collect()
}

fn alerts() -> BTreeSet<String> {
    read("config/monitoring/snapkeep.rules.yml")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .map(str::to_owned)
        .collect()
}

#[test]
fn rules_dashboard_and_mtail_program_name_only_metrics_that_the_worker_exports() {
    let exported = exported();
    for file in ["snapkeep.rules.yml", "snapkeep.rules.test.yml", "snapkeep-dashboard.json", "snapkeep.mtail"] {
        let named = words(&read(&format!("config/monitoring/{file}")), "snapkeep_", is_name);
        assert!(!named.is_empty());
        for name in named {
            assert!(exported.contains(&name), "{file} names {name}, which is not exported");
        }
    }
    for name in words(&read("docs/monitoring.md"), "snapkeep_", is_name) {
        assert!(exported.contains(&name) || name == "snapkeep_policy_", "docs/monitoring.md names {name}");
    }
}

#[test]
fn every_alert_has_a_section_in_the_runbook_that_names_its_events_and_a_unit_test() {
    let (runbook, tests) = (read("docs/runbook.md"), read("config/monitoring/snapkeep.rules.test.yml"));
    let sections: BTreeMap<&str, &str> = runbook.split("\n## ").skip(1).map(|section| section.split_once('\n').unwrap()).collect();
    assert_eq!(sections.keys().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(), alerts());
    for (name, text) in &sections {
        assert!(text.contains("**Means:**") && text.contains("**Events:**"), "{name}");
        assert!(tests.contains(&format!("alertname: {name}\n        exp_alerts:\n")), "no test has {name} fire");
        if !["SnapkeepSilent", "SnapkeepAbsent"].contains(name) {
            assert!(CATALOGUE.iter().any(|event| text.contains(&format!("`{}`", event.name))), "{name} names no event");
        }
    }
    let rules = read("config/monitoring/snapkeep.rules.yml");
    for named in rules.split("event=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(CATALOGUE.iter().any(|event| event.name == named), "the rules name {named}, which is no event");
    }
}

#[test]
fn every_failure_that_the_reliability_page_lists_has_an_event_that_tells_of_it() {
    let page = read("docs/reliability.md");
    let (mut rows, mut is_wanted) = (0, false);
    for line in page.lines() {
        if line.starts_with("| what | how it is noticed") || line.starts_with("| fault | points tried") {
            is_wanted = true;
        } else if !line.starts_with('|') {
            is_wanted = false;
        } else if is_wanted && !line.starts_with("|---") {
            let cell = line.trim_end_matches('|').rsplit(" | ").next().unwrap();
            assert!(CATALOGUE.iter().any(|event| cell.contains(&format!("`{}`", event.name))), "no event tells of this: {line}");
            rows += 1;
        }
    }
    assert!(rows > 30, "{rows}");
}

/// That a line of the log has the fields and types that `docs/events.json` says, and no others.
fn conforms(line: &str, catalogue: &serde_json::Value) {
    let line: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
    let event = catalogue["events"].as_array().unwrap().iter().find(|event| event["name"] == line["event"]).unwrap();
    assert_eq!(line["level"], event["level"]);
    let fields = event["fields"].as_array().unwrap();
    let names: BTreeSet<&str> = fields.iter().map(|field| field["name"].as_str().unwrap()).chain(["ts", "level", "event", "id"]).collect();
    assert_eq!(line.keys().map(String::as_str).collect::<BTreeSet<_>>(), names, "{line:?}");
    for field in fields {
        let value = &line[field["name"].as_str().unwrap()];
        let is_right = match field["type"].as_str().unwrap() {
            _ if value.is_null() => field["null"] == true,
            "integer" => value.is_i64() || value.is_u64(),
            "boolean" => value.is_boolean(),
            "strings" => value.as_array().is_some_and(|all| all.iter().all(serde_json::Value::is_string)),
            "time" => value.as_str().is_some_and(|text| DateTime::parse_from_rfc3339(text).is_ok()),
            _ => value.is_string(),
        };
        assert!(is_right, "{field}: {value}");
    }
}

/// One of each event that mtail makes numbers of.
fn facts() -> Vec<Event> {
    let (at, snapshot) = (noon(), SnapshotId::generate(noon()));
    let (instance, policy) = (InstanceId::parse("web").unwrap(), PolicyName::parse("p").unwrap());
    let taken = |late_ms, duration_ms| Event::SnapshotTaken {
        snapshot: snapshot.clone(),
        name: "n".into(),
        instance: instance.clone(),
        policy: Some(policy.clone()),
        slot: Some(at),
        kind: "stopped".into(),
        size_bytes: 7,
        late_ms,
        frozen_ms: 20,
        duration_ms,
    };
    let created = |waited_ms, queued_ms| Event::ForkCreated {
        fork: ForkId::generate(),
        name: "f".into(),
        snapshot: snapshot.clone(),
        memory: "hardlink".into(),
        disk: "reflink".into(),
        pool: false,
        fell_back: None,
        waited_ms,
        queued_ms,
    };
    let heartbeat = Event::WorkerHeartbeat {
        pending: 3,
        oldest_ms: 1500,
        failing: 1,
        failures: 4,
        overdue: 2,
        snapshots: 70,
        forks: 30,
        quarantined: 5,
        blocked: 6,
        stuck: 8,
        pinned_bytes: 4096,
        free_bytes: 1 << 40,
        size_bytes: 3 << 40,
        queue_open: true,
        root_proven: false,
        clock_trusted: true,
        config_rejected: false,
        next_at: at + TimeDelta::minutes(1),
        at,
    };
    let failing = Event::ScheduleFailing {
        policy: policy.clone(),
        instance: instance.clone(),
        failures: 3,
        last_success: None,
        error: "a \"b\"".into(),
    };
    let finished = |duration_ms| Event::PruneFinished { hash: "h".into(), removed: 1, failed: 0, blocked: 2, left: 0, duration_ms, at };
    vec![taken(Some(40), 700), taken(None, 20_000), created(90, 30), created(4, 4), finished(33), failing, heartbeat]
}

/// Samples by name and labels, without mtail's own label.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("snapkeep_")) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let mut labels: Vec<String> =
            labels.trim_end_matches('}').split(',').filter(|l| !l.is_empty() && !l.starts_with("prog=")).map(str::to_owned).collect();
        for label in &mut labels {
            if let Some(bound) = label.strip_prefix("le=\"").and_then(|l| l.trim_end_matches('"').parse::<f64>().ok()) {
                *label = format!("le={bound}");
            }
        }
        labels.sort();
        all.insert(format!("{name}{labels:?}"), value.parse().unwrap());
    }
    all
}

#[test]
fn the_real_mtail_makes_the_same_numbers_of_the_log_as_the_worker_exports() {
    if let Err(why) = tool("mtail") {
        println!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (metrics, log) = (Metrics::default(), dir.path().join("snapkeep.log"));
    let mut lines = String::new();
    let catalogue = serde_json::from_str(&read("docs/events.json")).unwrap();
    for event in facts() {
        conforms(&Record { ts: noon(), event: event.clone() }.json(), &catalogue);
        metrics.observe(&event, noon());
        lines.push_str(&(Record { ts: noon(), event }.json() + "\n"));
    }
    // Two were counted and not written; the metrics have them all the same.
    let failing = facts().swap_remove(5);
    (0..2).for_each(|_| metrics.observe(&failing, noon()));
    let repeated = Event::LogRepeated {
        of: failing.name().into(),
        of_level: failing.level().as_str().into(),
        times: 2,
        kinds: 1,
        like: String::new(),
        since: noon(),
        at: noon(),
    };
    lines.push_str(&(Record { ts: noon(), event: repeated }.json() + "\n"));
    fs::write(&log, lines).unwrap();
    let mut mtail = Command::new("mtail");
    mtail.args(["--one_shot", "--one_shot_format", "prometheus", "--logtostderr", "--address", "127.0.0.1", "--port", "0"]);
    let out = mtail.arg("--progs").arg(monitoring().join("snapkeep.mtail")).arg("--logs").arg(&log).output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr).into_owned());
    let (made, wanted) = (samples(&text), samples(&metrics.open_metrics()));
    assert!(made.len() > 60, "{text}\n{errors}");
    for (series, value) in &made {
        if !series.contains("log.repeated") {
            assert_eq!(wanted.get(series), Some(value), "{series}: {text}");
        }
    }
    let gauges = |all: &BTreeMap<String, f64>| {
        all.keys().filter(|s| s.ends_with("[]") && !s.starts_with("snapkeep_build")).cloned().collect::<BTreeSet<_>>()
    };
    assert_eq!(gauges(&made), gauges(&wanted));
}

fn promtool(arguments: &[&str], input: Option<&Path>) {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(monitoring());
    command.stdin(input.map_or(Stdio::null(), |path| fs::File::open(path).unwrap().into()));
    let out = command.output().unwrap();
    assert!(out.status.success(), "{arguments:?}: {}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
}

#[test]
fn promtool_finds_nothing_wrong_with_the_rules_and_their_unit_tests_pass() {
    if let Err(why) = tool("promtool") {
        println!("skipped: {why}");
        return;
    }
    promtool(&["check", "rules", "snapkeep.rules.yml"], None);
    promtool(&["test", "rules", "snapkeep.rules.test.yml"], None);
}

#[test]
fn the_dashboards_queries_are_ones_that_prometheus_understands() {
    if let Err(why) = tool("promtool") {
        println!("skipped: {why}");
        return;
    }
    let dashboard: serde_json::Value = serde_json::from_str(&read("config/monitoring/snapkeep-dashboard.json")).unwrap();
    let targets = dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let rules: Vec<_> = targets.enumerate().map(|(n, t)| serde_json::json!({"record": format!("query:{n}"), "expr": t["expr"]})).collect();
    assert!(rules.len() > 20);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("queries.yml");
    fs::write(&file, serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string()).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()], None);
}

#[test]
fn a_failure_of_every_second_is_written_once_then_counted_and_the_metrics_have_them_all() {
    let world = World::new();
    world.make_instance("a");
    let policy = "[[policy]]\nname = \"p\"\ninstances = [\"*\"]\nevery = \"1s\"\nkeep_all = true\n";
    let program = Program::with(&world, &format!("[driver]\nfreeze = [\"false\"]\n{policy}"));
    program.ok("init");
    let worker = program.run();
    let failures = || program.json("status")["policies"][0]["failures"].as_u64().unwrap_or(0);
    eventually("it fails again and again", Duration::from_secs(30), || failures() >= 5);
    let samples = samples(&metrics(&world));
    assert!(samples["snapkeep_events_total[\"event=\\\"snapshot.failed\\\"\", \"level=\\\"error\\\"\"]"] >= 5.0, "{samples:?}");
    assert!(samples["snapkeep_failures_in_a_row[]"] >= 5.0);
    worker.signal(nix::sys::signal::Signal::SIGTERM);
    eventually("it stops", Duration::from_secs(30), || worker.log().contains("worker.stopped"));
    let log = worker.log();
    let catalogue = serde_json::from_str(&read("docs/events.json")).unwrap();
    log.lines().for_each(|line| conforms(line, &catalogue));
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |name: &str| lines.iter().filter(|line| line["event"] == name).count();
    assert_eq!((of("snapshot.failed"), of("schedule.failing")), (1, 1), "{log}");
    let counted = lines.iter().find(|line| line["event"] == "log.repeated" && line["of"] == "snapshot.failed").unwrap();
    assert!(counted["times"].as_u64().unwrap() >= 4, "{counted}");
}

#[test]
fn a_heartbeat_over_ten_thousand_pairs_costs_milliseconds() {
    let dir = if Path::new("/dev/shm").is_dir() { tempfile::tempdir_in("/dev/shm") } else { tempfile::tempdir() }.unwrap();
    let world = World::at(dir.path());
    (0..10_000).for_each(|n| fs::create_dir_all(world.vms.join(format!("i-{n}"))).unwrap());
    let rest = "[[policy]]\nname = \"p\"\ninstances = [\"*\"]\nschedule = \"*/15 * * * *\"\njitter = \"2m\"\ntimezone = \"Europe/Vienna\"\nkeep_all = true\n";
    let worker = world.try_worker(rest, snapkeep::store::fs::Fs::real()).unwrap();
    assert!(worker.due_jobs().is_empty());
    let pulse = || {
        let began = std::time::Instant::now();
        let pulse = worker.pulse(Duration::ZERO);
        assert!(matches!(pulse, Event::WorkerHeartbeat { overdue: 0, failing: 0, .. }), "{pulse:?}");
        began.elapsed()
    };
    let (first, second) = (pulse(), (0..5).map(|_| pulse()).min().unwrap());
    println!("the first heartbeat took {first:?}, the next ones {second:?}");
    assert!(second < Duration::from_millis(200), "{second:?}");
}

#[test]
fn once_writes_a_textfile_that_promtool_takes_and_a_heartbeat_that_says_when_the_next_is_due() {
    let world = World::new();
    world.make_instance("a");
    let file = world.store.with_extension("prom");
    let catalogue = serde_json::from_str(&read("docs/events.json")).unwrap();
    let program = Program::with(
        &world,
        &format!(
            "[metrics]\ntextfile = \"{}\"\nonce_every = \"7m\"\n[[policy]]\nname = \"p\"\ninstances = [\"*\"]\nevery = \"1s\"\non_enable = \"run\"\nkeep_all = true\n",
            file.display()
        ),
    );
    program.ok("init");
    let log = program.ok("once --json");
    log.lines().for_each(|line| conforms(line, &catalogue));
    let text = fs::read_to_string(&file).unwrap();
    let samples = samples(&text);
    assert_eq!((samples["snapkeep_snapshots[]"], samples["snapkeep_pairs_failing[]"]), (1.0, 0.0), "{text}");
    assert_eq!(samples["snapkeep_policy_pairs[\"policy=\\\"p\\\"\"]"], 1.0);
    assert_eq!(samples["snapkeep_next_heartbeat_timestamp_seconds[]"] - samples["snapkeep_heartbeat_timestamp_seconds[]"], 420.0);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    assert!(log.lines().last().unwrap().contains("\"worker.heartbeat\""), "{log}");
    match tool("promtool") {
        Ok(_) => promtool(&["check", "metrics"], Some(&file)),
        Err(why) => println!("skipped: {why}"),
    }
    // A file that cannot be written is told of, and no failure of the run.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(program.ok("once --json").contains("metrics.failed"));
}

/// The answer to `GET /metrics`, head and body.
fn metrics(world: &World) -> String {
    let mut stream = std::os::unix::net::UnixStream::connect(world.store.join("snapkeep.sock")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_verb_that_ends_says_how_many_lines_it_did_not_write() {
    let world = World::new();
    world.make_instance("a");
    let program = Program::new(&world, "");
    program.ok("init");
    (0..130).for_each(|n| fs::create_dir(world.store.join(format!("snapshots/stray-{n}"))).unwrap());
    let output = program.output("snapshot a");
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<serde_json::Value> =
        String::from_utf8(output.stderr).unwrap().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let written = lines.iter().filter(|line| line["event"] == "record.unreadable").count() as u64;
    let counted = lines.iter().filter(|line| line["event"] == "log.repeated" && line["of"] == "record.unreadable");
    assert_eq!((written, counted.map(|line| line["times"].as_u64().unwrap()).sum::<u64>()), (100, 30));
}

#[test]
fn the_worker_answers_with_open_metrics() {
    let world = World::new();
    world.make_instance("a");
    let program = Program::new(&world, "");
    program.ok("init");
    let _worker = program.run();
    program.ok("snapshot a --name s");
    program.ok("fork s f");
    // Whoever waits for a fork has the answer when it is there, which is before its event.
    eventually("the fork is counted", Duration::from_secs(20), || {
        samples(&metrics(&world)).get("snapkeep_fork_seconds_count[]").is_some_and(|count| *count > 0.0)
    });
    let answer = metrics(&world);
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"), "{answer}");
    assert!(answer.ends_with("# EOF\n"), "{answer}");
    let samples = samples(&answer);
    assert_eq!((samples["snapkeep_snapshots[]"], samples["snapkeep_forks[]"], samples["snapkeep_fork_seconds_count[]"]), (1.0, 1.0, 1.0));
    assert_eq!(samples["snapkeep_root_proven[]"], 1.0);
}

#[test]
fn journalctl_takes_the_message_catalogue_and_explains_every_event() {
    if let Err(why) = tool("journalctl") {
        println!("skipped: {why}");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("usr/lib/systemd/catalog");
    fs::create_dir_all(&dir).unwrap();
    fs::create_dir_all(root.path().join("var/lib/systemd/catalog")).unwrap();
    fs::write(dir.join("snapkeep.catalog"), read("config/journal/snapkeep.catalog")).unwrap();
    let journalctl = |rest: &[&str]| Command::new("journalctl").arg("--root").arg(root.path()).args(rest).output().unwrap();
    let made = journalctl(&["--update-catalog"]);
    assert!(made.status.success() && made.stderr.is_empty(), "{made:?}");
    for event in CATALOGUE {
        let shown = String::from_utf8(journalctl(&["--dump-catalog", &message_id(event.name)]).stdout).unwrap();
        let is_there =
            shown.contains(&format!("Subject: snapkeep: {}\n", event.name)) && shown.contains(event.when) && shown.contains(event.act);
        assert!(is_there, "{}: {shown}", event.name);
    }
}
