//! Files that are in order: the samples, the defaults, the warnings, the digest, and reading from the disk.

use super::super::*;
use super::{POLICY, SAMPLE, STORE, read};
use crate::ids::InstanceId;
use crate::policy::{Counting, Granularity, KindRule, Missed, OnEnable, Rhythm};
use std::path::Path;

const QUICKSTART: &str = include_str!("../../../config/quickstart.toml");

fn policy_with(lines: &str) -> Config {
    read(&format!("{STORE}[[policy]]\nname = \"p\"\ninstances = [\"*\"]\n{lines}\n")).unwrap()
}

#[test]
fn the_sample_is_valid_and_says_nothing_odd() {
    let config = read(SAMPLE).unwrap();
    assert_eq!(config.warnings, Vec::<String>::new());
    assert_eq!(config.socket, Path::new("/run/snapkeep/snapkeep.sock"));
    let policy = config.policy(&PolicyName::parse("golden").unwrap()).unwrap();
    let keep = policy.retention.keep.as_ref().unwrap();
    let unit = |unit| keep.buckets.iter().find(|(u, _)| *u == unit).map(|(_, n)| *n);
    assert_eq!((keep.last, keep.within), (4, Some(TimeDelta::days(2))));
    assert_eq!((unit(Granularity::Hourly), unit(Granularity::Yearly), unit(Granularity::Minutely)), (Some(24), Some(3), None));
    assert_eq!(keep.timezone, chrono_tz::Europe::Vienna);
    assert_eq!((policy.retention.limit.max_count, policy.retention.limit.max_age), (Some(500), Some(TimeDelta::days(400))));
    assert_eq!(policy.retention.gone.as_ref().map(|gone| (gone.after, gone.min)), Some((TimeDelta::days(30), 0)));
    assert_eq!((policy.retry.attempts, policy.retry.backoff), (3, TimeDelta::minutes(1)));
    assert_eq!(policy.tags["tier"], "gold");
    let schedule = policy.schedule.as_ref().unwrap();
    assert!(matches!(&schedule.rhythm, Rhythm::Cron(_)));
    assert_eq!((schedule.timezone, schedule.jitter), (chrono_tz::Europe::Vienna, TimeDelta::minutes(2)));
    assert!(policy.select.matches(&InstanceId::parse("golden-1").unwrap(), false));
    assert!(!policy.select.matches(&InstanceId::parse("golden-1").unwrap(), true));
}

#[test]
fn the_sample_has_every_key_that_the_schema_has() {
    fn walk(schema: &serde_json::Value, value: &toml::Value, path: &str, absent: &mut Vec<String>) {
        for (key, part) in schema["properties"].as_object().into_iter().flatten() {
            let at = format!("{path}.{key}");
            match value.get(key) {
                None => absent.push(at),
                Some(value) => walk(part.get("items").unwrap_or(part), value.get(0).unwrap_or(value), &at, absent),
            }
        }
    }
    let mut absent = Vec::new();
    walk(&schema(), &toml::from_str(SAMPLE).unwrap(), "", &mut absent);
    // TCP is off unless somebody asks for it. `schedule` is there, and excludes `every`.
    assert_eq!(absent, [".api.tcp", ".api.token_file", ".scrub.schedule", ".policy.every"]);
}

#[test]
fn the_quickstart_is_valid_and_says_nothing_odd() {
    let config = read(QUICKSTART).unwrap();
    assert_eq!(config.warnings, Vec::<String>::new());
    assert_eq!((config.prune_every, config.trash.grace), (TimeDelta::seconds(2), Duration::ZERO));
    assert!(matches!(config.policies[0].schedule.as_ref().unwrap().rhythm, Rhythm::Every(every) if every == TimeDelta::seconds(3)));
    assert_eq!(config.policies[0].retention.keep.as_ref().unwrap().last, 3);
    for name in ["golden", "golden-1"] {
        assert!(config.policies[0].select.matches(&InstanceId::parse(name).unwrap(), false));
    }
}

#[test]
fn a_file_with_directories_only_has_the_defaults_of_the_design() {
    let config = read(STORE).unwrap();
    assert_eq!((config.store.as_path(), config.instances.as_path()), (Path::new("/s"), Path::new("/i")));
    assert_eq!(config.socket, Path::new("/s/snapkeep.sock"));
    assert_eq!(
        config.fork,
        ForkConfig { memory: MemoryMethod::Hardlink, source_paths: SourcePaths::Rewrite, max_pending: 10_000, allow_expiring: false }
    );
    assert_eq!(config.driver.memory_names, ["memory", "memory-ranges", "mem"]);
    assert_eq!((config.driver.freeze.len(), config.driver.thaw.len(), config.driver.timeout), (0, 0, Duration::from_secs(30)));
    assert_eq!((config.threads, config.prune_every), (4, TimeDelta::minutes(10)));
    assert_eq!((config.trash.grace, config.trash.fork_grace), (Duration::from_secs(3600), Duration::ZERO));
    for (path, directory) in [("logs", true), ("a/x.tmp", false), ("x.pid", false), ("x.lock", false)] {
        assert!(config.skip.rule_for(Path::new(path), directory).is_some(), "{path}");
    }
    assert_eq!(config.warnings, ["there are no policies: nothing is taken on a schedule, and nothing is pruned"]);
}

#[test]
fn a_policy_has_the_defaults_of_the_design() {
    let config = read(&format!("{STORE}{POLICY}")).unwrap();
    let policy = &config.policies[0];
    assert_eq!((policy.retry.attempts, policy.retry.backoff, policy.kind), (1, TimeDelta::minutes(1), KindRule::Auto));
    let schedule = policy.schedule.as_ref().unwrap();
    assert_eq!((schedule.timezone, schedule.jitter, schedule.missed), (chrono_tz::UTC, TimeDelta::zero(), Missed::Run));
    assert_eq!((&policy.retention.keep, &policy.retention.gone, policy.retention.limit.min), (&None, &None, 1));
    assert_eq!((policy.name_prefix.as_ref(), policy.tags.len(), policy.select.include_forks), (None, 0, false));
}

/// The schema says what each default is, and the code has it: the two must agree.
#[test]
fn a_file_that_writes_out_the_defaults_of_the_schema_is_the_same_as_one_without() {
    fn write(schema: &serde_json::Value, path: &str) -> String {
        let mut keys = String::new();
        let mut tables = String::new();
        for (key, part) in schema["properties"].as_object().unwrap() {
            if let Some(value) = part.get("default") {
                keys += &format!("{key} = {value}\n");
            } else if part["type"] == "object"
                && part.get("properties").is_some()
                && !["store", "gone", "keep", "compress"].contains(&key.as_str())
            {
                tables += &write(part, &format!("{path}{key}."));
            }
        }
        let header = if path.is_empty() { String::new() } else { format!("[{}]\n", path.trim_end_matches('.')) };
        format!("{header}{keys}{tables}")
    }
    let retention = "[policy.limit]\nmax_count = 9\n";
    let plain = format!("{STORE}[[policy]]\nname = \"p\"\ninstances = [\"*\"]\nevery = \"1h\"\n{retention}");
    let mut policy = write(&schema()["properties"]["policy"]["items"], "policy.").replace("[policy]\n", "");
    policy = policy.replace("[policy.limit]\n", retention);
    let full = format!("{}{STORE}[[policy]]\nname = \"p\"\ninstances = [\"*\"]\nevery = \"1h\"\n{policy}", write(&schema(), ""));
    assert!(full.contains("fork_grace") && full.contains("timezone") && full.contains("backoff"), "{full}");
    let show = |text: &str| {
        let mut config = read(text).unwrap();
        config.digest.clear();
        format!("{config:?}")
    };
    assert_eq!(show(&full), show(&plain), "{full}");
}

#[test]
fn what_is_odd_but_not_wrong_is_a_warning() {
    let warnings = |lines: &str| policy_with(lines).warnings;
    let idle = "s.toml:4: policy `p` has neither `schedule` nor `every`: it takes no snapshots and only prunes those that it took before";
    assert_eq!(warnings("keep_all = true"), [idle]);
    assert_eq!(
        warnings("keep_all = true\njitter = \"1m\"")[1],
        "s.toml:4: policy `p` has `jitter`, which does nothing without `schedule` or `every`"
    );
    let jitter = "s.toml:9: `jitter` is 15m, and slots are only 15m apart: no more than half of that is used";
    assert_eq!(warnings("keep_all = true\nschedule = \"*/15 * * * *\"\njitter = \"15m\""), [jitter]);
    assert_eq!(warnings("keep_all = true\nevery = \"1h\"\njitter = \"59m\""), Vec::<String>::new());
    let cap = "s.toml:11: `max_age` is shorter than `within`: the limit wins";
    assert_eq!(warnings("every = \"1h\"\n[policy.keep]\nwithin = \"2d\"\n[policy.limit]\nmax_age = \"1d\""), [cap]);
}

#[test]
fn a_schedule_is_one_expression_or_a_list_of_them() {
    let schedule = |lines: &str| policy_with(&format!("keep_all = true\n{lines}")).policies[0].schedule.clone().unwrap();
    let number = |schedule: &crate::policy::Schedule| match &schedule.rhythm {
        Rhythm::Cron(all) => all.len(),
        Rhythm::Every(_) => 0,
    };
    assert_eq!(number(&schedule("schedule = \"@daily\"")), 1);
    let more = schedule(
        "schedule = [\"0 9 * * MON-FRI\", \"@daily\"]\nwindow = [\"00:00-06:00\", \"08:00-10:00\"]\nmissed_within = \"6h\"\non_enable = \"run\"\nmax_running = 2",
    );
    assert_eq!((number(&more), more.window.show()), (2, "00:00-06:00, 08:00-10:00".to_owned()));
    assert_eq!((more.missed_within, more.on_enable, more.max_running), (Some(TimeDelta::hours(6)), OnEnable::Run, Some(2)));
    let plain = schedule("every = \"1h\"");
    assert_eq!((plain.missed_within, plain.on_enable, plain.max_running, plain.window.is_always()), (None, OnEnable::Wait, None, true));
    let running = |lines: &str| read(&format!("{STORE}[worker]\n{lines}")).unwrap().max_running;
    assert_eq!((running(""), running("threads = 7"), running("threads = 7\nmax_running = 2")), (4, 7, 2));
    assert_eq!(running("max_running = 4096"), 4096);
    let idle = policy_with("keep_all = true\nevery = \"1h\"\nmissed = \"skip\"\nmissed_within = \"6h\"").warnings;
    assert_eq!(idle, ["s.toml:4: policy `p` has `missed_within`, which does nothing with missed = \"skip\": no slot is caught up"]);
}

#[test]
fn the_digest_changes_with_any_file_and_with_nothing_else() {
    let of = |files: &[(&str, &str)]| parse(files.iter().map(|(name, text)| (name.into(), (*text).to_owned())).collect()).unwrap().digest;
    assert_eq!(of(&[("s", STORE)]), of(&[("s", STORE)]));
    assert_ne!(of(&[("s", STORE)]), of(&[("s", &format!("{STORE}\n"))]));
    assert_ne!(of(&[("s", STORE), ("a", "#")]), of(&[("s", STORE), ("a#", "")]));
    assert_eq!(of(&[("s", STORE)]).len(), 64);
}

#[test]
fn what_a_running_worker_cannot_change_is_named() {
    let old = read(STORE).unwrap();
    let new = read("[store]\npath = \"/t\"\ninstances = \"/i\"\n[trash]\ngrace = \"2h\"\n").unwrap();
    assert_eq!(old.needs_restart(&new), ["store.path", "api.socket"]);
    assert!(old.needs_restart(&old).is_empty());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a file of the test's own")]
fn policies_d_is_read_by_name_and_what_cannot_be_read_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let main = directory.path().join("snapkeep.toml");
    let error = load(&main).unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot read {}: No such file", main.display())), "{error}");
    std::fs::write(&main, STORE).unwrap();
    assert!(load(&main).unwrap().policies.is_empty());
    let extra = directory.path().join("policies.d");
    std::fs::create_dir(&extra).unwrap();
    for (file, name) in [("b.toml", "b"), ("a.toml", "a"), (".c.toml", "c"), ("d.toml~", "d")] {
        std::fs::write(extra.join(file), POLICY.replace("\"p\"", &format!("\"{name}\""))).unwrap();
    }
    let config = load(&main).unwrap();
    let names: Vec<_> = config.policies.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(config.file, main);
    std::fs::write(extra.join("e.toml"), b"\xff").unwrap();
    assert!(load(&main).unwrap_err().to_string().ends_with("; save it as UTF-8"));
}

#[test]
fn keep_rules_and_limits_are_read_as_they_are_written() {
    let config = policy_with(
        "keep = { counting = \"cascade\", within_daily = \"14d\", within_hourly = \"2d\", tags = [\"release\", \"tier=gold\"], yearly = 2, daily = 7 }\n\
         limit = { max_bytes = \"2GiB\" }",
    );
    let retention = &config.policies[0].retention;
    let keep = retention.keep.as_ref().unwrap();
    assert_eq!(keep.counting, Counting::Cascade);
    assert_eq!(keep.within_buckets, [(Granularity::Hourly, TimeDelta::days(2)), (Granularity::Daily, TimeDelta::days(14))]);
    assert_eq!(keep.buckets, [(Granularity::Daily, 7), (Granularity::Yearly, 2)]);
    let tags: Vec<_> = keep.tags.iter().map(|tag| (tag.key.as_str(), tag.value.as_deref())).collect();
    assert_eq!(tags, [("release", None), ("tier", Some("gold"))]);
    assert_eq!((retention.limit.max_bytes, retention.limit.min), (Some(2 << 30), 1));
}

#[test]
fn how_fast_files_go_is_bounded_in_files_and_in_bytes_and_neither_bound_need_be() {
    let trash = |lines: &str| read(&format!("{STORE}[trash]\n{lines}")).unwrap().trash;
    let rates = |lines: &str| (trash(lines).unlink_rate, trash(lines).unlink_bytes);
    assert_eq!(rates(""), (2000, Some(4 << 30)));
    assert_eq!(rates("unlink_rate = 0\nunlink_bytes = \"0B\""), (0, None));
    assert_eq!(rates("unlink_bytes = \"100MiB\""), (2000, Some(100 << 20)));
    let error = read(&format!("{STORE}[trash]\nunlink_bytes = \"fast\"\n")).unwrap_err().to_string();
    assert!(error.contains("`unlink_bytes`"), "{error}");
}

#[test]
fn a_policy_compresses_what_its_table_says_and_nothing_without_one() {
    use crate::policy::compress::{Compress, Method};
    let rule = |lines: &str| policy_with(&format!("keep_all = true\n{lines}")).policies[0].compress;
    assert_eq!(rule(""), None);
    let hour = TimeDelta::hours(1);
    let plain = Compress { after: hour, method: Method::Zstd, level: 3, min_gain: 1000, while_forked: false };
    assert_eq!(rule("[policy.compress]\nafter = \"1h\""), Some(plain));
    let table = &schema()["properties"]["policy"]["items"]["properties"]["compress"]["properties"];
    let key = |key: &str| table[key].get("default").map_or(String::new(), |value| format!("{key} = {value}\n"));
    let written: String = ["method", "level", "min_gain", "while_forked"].map(key).concat();
    assert_eq!((rule(&format!("[policy.compress]\nafter = \"1h\"\n{written}")), written.lines().count()), (Some(plain), 4));
    let lz4 = Compress { method: Method::Lz4, min_gain: 2500, while_forked: true, ..plain };
    assert_eq!(rule("[policy.compress]\nafter = \"1h\"\nmethod = \"lz4\"\nmin_gain = \"25%\"\nwhile_forked = true"), Some(lz4));
    assert_eq!(rule("[policy.compress]\nafter = \"1h\"\nlevel = 19"), Some(Compress { level: 19, ..plain }));
    let problems = |lines: &str| {
        let policy = format!("{STORE}[[policy]]\nname = \"p\"\ninstances = [\"*\"]\nkeep_all = true\n[policy.compress]\n{lines}\n");
        match read(&policy) {
            Err(ConfigError::Invalid { problems }) => problems.iter().map(ToString::to_string).collect::<String>(),
            other => panic!("{other:?}"),
        }
    };
    for (lines, word) in [
        ("level = 3", "after"),
        ("after = \"0s\"", "1s or more"),
        ("after = \"1h\"\nlevel = 20", "level"),
        ("after = \"1h\"\nlevel = 0", "level"),
        ("after = \"1h\"\nmethod = \"lz4\"\nlevel = 1", "means nothing to lz4"),
        ("after = \"1h\"\nmethod = \"xz\"", "method"),
        ("after = \"1h\"\nmin_gain = \"110%\"", "min_gain"),
        ("after = \"1h\"\nlevels = 3", "level"),
    ] {
        assert!(problems(lines).contains(word), "{lines}: {}", problems(lines));
    }
}

#[test]
fn the_cache_is_bounded_by_a_size_or_a_share_and_by_time() {
    let cache = |lines: &str| read(&format!("{STORE}{lines}")).map(|config| (config.cache.max, config.cache.keep));
    assert_eq!(cache("").unwrap(), (Reserve::Share(1000), TimeDelta::minutes(10)));
    assert_eq!(cache("[cache]\nmax_bytes = \"1GiB\"\nkeep = \"0s\"").unwrap(), (Reserve::Bytes(1 << 30), TimeDelta::zero()));
    assert_eq!(cache("[cache]\nmax_bytes = \"5%\"").unwrap().0, Reserve::Share(500));
    assert!(cache("[cache]\nmax_bytes = \"much\"").is_err() && cache("[cache]\nkeep = \"never\"").is_err());
}
