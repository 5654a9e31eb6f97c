//! Each lint at work and silent; the samples, which have none.

use super::super::load::parse;
use super::*;
use crate::policy::InstanceTags;
use chrono::TimeZone as _;

fn policies(lines: &str) -> Vec<Policy> {
    let text = format!("[store]\npath = \"/s\"\ninstances = \"/i\"\n[[policy]]\nname = \"p\"\ninstances = [\"vm-*\"]\n{lines}\n");
    parse(vec![("s.toml".into(), text)]).unwrap_or_else(|e| panic!("{e}")).policies
}

fn warnings(lines: &str) -> Vec<String> {
    lint(&policies(lines)).into_iter().map(|line| line.strip_prefix("policy `p`: ").unwrap().to_owned()).collect()
}

fn keep(schedule: &str, rules: &str) -> Vec<String> {
    warnings(&format!("{schedule}\n[policy.keep]\n{rules}"))
}

const HOURLY: &str = "schedule = \"0 * * * *\"";
const DAILY: &str = "schedule = \"0 3 * * *\"\ntimezone = \"Europe/Vienna\"";
const NONE: [&str; 0] = [];

#[test]
fn what_is_usual_is_not_odd() {
    for (schedule, rules) in [
        (HOURLY, "last = 4\nhourly = 24\ndaily = 7\nweekly = 5\nmonthly = 12\nyearly = 3"),
        (HOURLY, "hourly = 24\ndaily = 7"),
        (DAILY, "daily = 7\nweekly = 5\nmonthly = 12"),
        (DAILY, "last = 1"),
        ("every = \"5m\"", "within = \"1d\"\ndaily = 30"),
        ("every = \"5m\"", "last = 12\ndaily = 30"),
        ("every = \"45m\"", "hourly = 24"),
        ("schedule = \"0 9,21 * * *\"", "last = 2\ndaily = 7\n[policy.limit]\nmax_count = 8"),
        ("schedule = \"0 3 * * SUN\"", "weekly = 8\nmonthly = 6"),
        ("schedule = \"0 3 1 * *\"", "monthly = 12\nyearly = 3\n[policy.limit]\nmax_age = \"800d\""),
        ("schedule = \"0 0 0 1 1 * 2030\"", "hourly = 24"),
    ] {
        assert_eq!(keep(schedule, rules), NONE, "{schedule}, {rules}");
    }
    for rest in ["keep_all = true\nevery = \"1s\"", "every = \"1h\"\n[policy.limit]\nmax_count = 5\nmin = 5", "[policy.keep]\nhourly = 24"]
    {
        assert_eq!(warnings(rest), NONE, "{rest}");
    }
}

#[test]
fn a_rule_finer_than_the_schedule_is_a_coarser_one_by_another_name() {
    assert_eq!(
        keep(DAILY, "hourly = 24\nmonthly = 6"),
        ["`hourly = 24` is the same as `daily = 24`: the schedule never gives two snapshots in one day"]
    );
    assert_eq!(
        keep(HOURLY, "minutely = 60\ndaily = 7"),
        ["`minutely = 60` is the same as `hourly = 60`: the schedule never gives two snapshots in one hour"]
    );
    assert_eq!(
        keep("schedule = \"0 3 1 * *\"", "weekly = 5"),
        ["`weekly = 5` is the same as `monthly = 5`: the schedule never gives two snapshots in one month"]
    );
}

#[test]
fn a_schedule_denser_than_its_finest_rule_is_named_with_figures() {
    assert_eq!(
        keep("every = \"5m\"", "daily = 7\nweekly = 4"),
        [
            "the schedule gives up to 288 snapshots a day, and `daily = 7` is the finest rule: all but the newest of a day go at the next prune; \
          add `last` or `within`, or take fewer"
        ]
    );
    let found = keep("schedule = \"0 9-17 * * *\"", "weekly = 4\ndaily = 7");
    assert!(found[0].starts_with("the schedule gives up to 9 snapshots a day, and `daily = 7`"), "{found:?}");
    let found = keep("every = \"1s\"", "yearly = 2");
    assert!(found[0].starts_with("the schedule gives up to 31536000 snapshots a year"), "{found:?}");
    assert_eq!(keep("every = \"5m\"", "daily = 7\n[policy.limit]\nmin = 12"), NONE, "`min` keeps the newest as `last` does");
}

#[test]
fn a_count_of_one_beside_others_adds_nothing() {
    assert_eq!(keep(DAILY, "daily = 7\nyearly = 1"), ["`yearly = 1` adds nothing: it keeps the newest snapshot, which stays in any case"]);
    assert_eq!(keep(HOURLY, "last = 1\nhourly = 7"), ["`last = 1` adds nothing: it keeps the newest snapshot, which stays in any case"]);
}

#[test]
fn limits_and_rules_that_cannot_both_work_are_named() {
    let limit = |rules: &str, limit: &str| keep(HOURLY, &format!("{rules}\n[policy.limit]\n{limit}"));
    assert_eq!(
        limit("last = 10\nhourly = 24", "max_count = 4"),
        ["`last = 10` is more than `max_count = 4`: the newest 4 are kept, and nothing else"]
    );
    assert_eq!(
        limit("last = 4\nhourly = 24", "max_count = 4"),
        ["`last = 4` uses up `max_count = 4`: the other rules never get to keep anything"]
    );
    assert_eq!(limit("last = 4\nhourly = 24", "max_count = 28"), ["`max_count = 28` never bites: the keep rules keep no more than 28"]);
    assert_eq!(limit("last = 4\nhourly = 24", "max_count = 27"), NONE);
    assert_eq!(limit("within = \"2d\"", "max_count = 10000"), NONE, "it depends on how many are taken");
    assert_eq!(
        limit("hourly = 24\nyearly = 3", "max_age = \"300d\""),
        ["`yearly = 3` cannot do what it says: `max_age = 300d` is less than a year"]
    );
    assert_eq!(
        limit("hourly = 24\nyearly = 5", "max_age = \"800d\""),
        ["`yearly = 5` never keeps more than 4: what is older than `max_age = 800d` goes"]
    );
    assert_eq!(limit("hourly = 24\nyearly = 4", "max_age = \"800d\""), NONE);
}

#[test]
fn times_shorter_than_a_slot_are_named() {
    assert_eq!(
        keep(HOURLY, "within = \"10m\"\nhourly = 24"),
        ["`within = 10m` adds nothing: snapshots are 1h apart, and the newest stays in any case"]
    );
    assert_eq!(keep(HOURLY, "within = \"61m\"\nhourly = 24"), NONE);
    assert_eq!(
        warnings(&format!("{DAILY}\n[policy.limit]\nmax_age = \"12h\"\nmin = 2")),
        ["`max_age = 12h` is no longer than the time between two snapshots (1d): only the newest 2 stay"]
    );
}

#[test]
fn caps_that_are_never_reached_are_named() {
    assert_eq!(
        warnings("every = \"1h\"\n[policy.limit]\nmax_count = 5\nmin = 5\nmax_age = \"2d\""),
        ["`max_age = 2d` never bites: `min = 5` keeps all that `max_count = 5` allows, at any age"]
    );
    let gone = keep(HOURLY, "last = 3\n[policy.gone]\nafter = \"7d\"\nmin = 5");
    assert_eq!(gone, ["`gone.after = 7d` never bites: `gone.min = 5` keeps all, for there are never more than 3"]);
}

fn candidate(name: &str, is_fork: bool, tags: &[(&str, &str)]) -> Candidate {
    let tags = tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Candidate { instance: InstanceId::parse(name).unwrap(), is_fork, tags: InstanceTags::Known(tags) }
}

#[test]
fn a_policy_that_matches_nothing_says_why() {
    let of = |lines: &str, instances: &[Candidate]| lint_instances(&policies(&format!("{lines}\nkeep_all = true")), instances);
    let says = |why: &str| vec![format!("policy `p` matches no instance: {why}")];
    let (vm, db) = (candidate("vm-1", false, &[("tier", "gold")]), candidate("db", false, &[]));
    assert_eq!(of("", &[vm.clone(), db.clone()]), NONE);
    assert_eq!(of("", &[]), ["there are no instances yet: no policy matches anything"]);
    assert_eq!(of("", &[db.clone(), candidate("web", false, &[])]), says("no name fits"));
    assert_eq!(of("exclude = [\"*-1\"]", &[vm.clone(), db.clone()]), says("`exclude` leaves out all that `instances` matches"));
    assert_eq!(of("instance_tags = { tier = \"silver\" }", &[vm, db.clone()]), says("of those whose names fit (1) none has the tags"));
    let fork = candidate("vm-2", true, &[]);
    assert_eq!(of("", &[fork.clone(), db]), says("all whose names fit are forks (1), and it has no `include_forks = true`"));
    let unknown = Candidate { is_fork: false, tags: InstanceTags::Unknown("why".into()), ..fork };
    assert_eq!(of("instance_tags = { tier = \"silver\" }", &[unknown]), NONE, "it may match");
}

#[test]
fn many_instances_with_one_snapshot_each_are_groups_of_one() {
    let now = Utc.with_ymd_and_hms(2026, 11, 24, 12, 0, 0).unwrap();
    let group = |n: usize, ages: &[i64]| Group {
        policy: PolicyName::parse("p").unwrap(),
        instance: InstanceId::parse(&format!("vm-{n}")).unwrap(),
        taken: ages.iter().map(|hours| now - TimeDelta::hours(*hours)).collect(),
    };
    let alone: Vec<Group> = (0..5).map(|n| group(n, &[30])).collect();
    let hourly = policies(&format!("{HOURLY}\n[policy.keep]\nlast = 4"));
    let found = lint_groups(&hourly, &alone, now);
    assert!(found.len() == 1 && found[0].contains("one snapshot of each of 5 instances, and two of none"), "{found:?}");
    assert_eq!(lint_groups(&hourly, &alone[1..], now), NONE, "four may be a coincidence");
    let young: Vec<Group> = (0..5).map(|n| group(n, &[2])).collect();
    assert_eq!(lint_groups(&hourly, &young, now), NONE, "there was no time for more");
    let grown: Vec<Group> = alone.iter().cloned().chain([group(9, &[30, 31])]).collect();
    assert_eq!(lint_groups(&hourly, &grown, now), NONE);
    for fine in
        ["[policy.keep]\nlast = 1", "[policy.keep]\nlast = 4\n[policy.gone]\nafter = \"1d\"\nmin = 0", "[policy.limit]\nmax_count = 1"]
    {
        assert_eq!(lint_groups(&policies(&format!("{HOURLY}\n{fine}")), &alone, now), NONE, "{fine}");
    }
    assert_eq!(lint_groups(&policies("[policy.keep]\nlast = 4"), &alone, now), NONE, "nothing is taken");
}

#[test]
fn the_samples_have_none() {
    for text in [include_str!("../../config/snapkeep.toml"), include_str!("../../config/quickstart.toml")] {
        assert_eq!(lint(&parse(vec![("s.toml".into(), text.to_owned())]).unwrap().policies), NONE);
    }
}
