//! The configuration from outside: whole files in, reports out. Those that are in order are in `values`.

use super::*;

mod access;
mod prefork;
mod values;

const SAMPLE: &str = include_str!("../../../config/snapkeep.toml");

const STORE: &str = "[store]\npath = \"/s\"\ninstances = \"/i\"\n";
const POLICY: &str = "[[policy]]\nname = \"p\"\ninstances = [\"*\"]\nevery = \"1h\"\nkeep_all = true\n";

fn read(text: &str) -> Result<Config, ConfigError> {
    parse(vec![("s.toml".into(), text.to_owned())])
}

/// Line, column and message of everything wrong with a file.
fn complaints(text: &str) -> Vec<(usize, usize, String)> {
    let error = read(text).expect_err("it is wrong");
    error.problems().iter().map(|p| (p.line, p.column, p.message.clone())).collect()
}

/// The only thing wrong with a file: message and help.
fn only(text: &str) -> (String, String) {
    let error = read(text).expect_err("it is wrong");
    assert_eq!(error.problems().len(), 1, "{error}");
    (error.problems()[0].message.clone(), error.problems()[0].help.clone().unwrap_or_default())
}

/// The only thing wrong with a policy that has these lines besides name and instances.
fn only_in_policy(lines: &str) -> (String, String) {
    only(&format!("{STORE}[[policy]]\nname = \"p\"\ninstances = [\"*\"]\n{lines}\n"))
}

#[test]
fn every_mistake_is_reported_at_once_with_its_place() {
    let text = r#"[store]
path = "var/lib/store"
instances = "/vms"
[worker]
threads = "4"
[prune]
every = 10
[trsh]
[[policy]]
name = "Golden"
instances = ["gold[en"]
schedule = "*/15 * *"
timezone = "Europe/Wien"
missed = "rnu"
retry = { attempts = 0 }
[policy.keep]
hourly = -1
counting = "casc"
[policy.limit]
max-age = "7d"
max_count = 1
min = 2
"#;
    let expected = [
        (2, 8, "`path` must be an absolute path, not \"var/lib/store\""),
        (5, 11, "`threads` must be a whole number, not the string \"4\""),
        (7, 9, "`every` must be a duration such as \"15m\", not the number 10"),
        (8, 2, "unknown key `trsh`, did you mean `trash`?"),
        (10, 8, "\"Golden\" is not a valid policy name: only a-z, 0-9 and '-' are allowed"),
        (11, 14, "\"gold[en\" is not a glob: unclosed character class; missing ']'"),
        (12, 12, "`*/15 * *` is not a cron expression: it has 3 fields, not five to seven"),
        (13, 12, "there is no time zone \"Europe/Wien\""),
        (14, 10, "`missed` must be \"run\" or \"skip\", not \"rnu\""),
        (15, 22, "`attempts` is 0, but must be 1 or more"),
        (17, 10, "`hourly` is -1, but must be 0 or more"),
        (18, 12, "`counting` must be \"each\" or \"cascade\", not \"casc\""),
        (20, 1, "unknown key `max-age`, did you mean `max_age`?"),
        (22, 7, "`min` is 2, which is more than `max_count`, 1"),
    ];
    let found = complaints(text);
    let found: Vec<_> = found.iter().map(|(line, column, message)| (*line, *column, message.as_str())).collect();
    assert_eq!(found, expected);
}

#[test]
fn the_report_shows_the_line_and_ends_with_a_count() {
    let error = read("[store]\npath = \"/s\"\ninstances = \"/i\"\n[trash]\ngrase = \"1h\"\n").unwrap_err();
    let expected =
        "error: unknown key `grase`, did you mean `grace`?\n --> s.toml:5:1\n  |\n5 | grase = \"1h\"\n  | ^^^^^\n\n1 problem in 1 file";
    assert_eq!(error.to_string(), expected);
    let json = serde_json::to_value(&error).unwrap();
    assert_eq!(json["message"], "1 problem in 1 file");
    let problem = serde_json::json!({
        "file": "s.toml", "line": 5, "column": 1, "key": "trash.grase", "help": null, "length": 5,
        "message": "unknown key `grase`, did you mean `grace`?", "source_line": "grase = \"1h\"",
    });
    assert_eq!(json["problems"], serde_json::json!([problem]));
}

#[test]
fn mistakes_of_syntax_do_not_hide_the_others() {
    let found = complaints("[store]\npath = /s\ninstances = \"/i\"\n[trash]\ngrace = 5\nx = [1\n");
    let lines: Vec<_> = found.iter().map(|(line, ..)| *line).collect();
    assert!(lines.contains(&2) && lines.contains(&5), "{found:?}");
    assert!(found.iter().all(|(.., message)| !message.contains("has no `path`")), "{found:?}");
    assert!(found[0].2.starts_with("not valid TOML: "), "{found:?}");
}

#[test]
fn a_key_that_is_written_twice_is_a_mistake() {
    let found = complaints(&format!("{STORE}path = \"/t\"\n"));
    assert_eq!(found, [(4, 1, "not valid TOML: duplicate key".to_owned())]);
}

#[test]
fn a_file_without_its_directories_says_which_keys_it_wants() {
    assert_eq!(parse(Vec::new()).unwrap_err().problems().len(), 1);
    assert_eq!(complaints(""), [(1, 1, "the file has no `store`".to_owned())]);
    let text = "[worker]\n[store]\npath = \"/s\"\n";
    assert_eq!(complaints(text), [(2, 1, "[store] has no `instances`".to_owned())]);
    assert_eq!(
        complaints("[[policy]]\nkeep_all = true\n[store]\npath = \"/s\"\ninstance = \"/i\"\n").len(),
        3,
        "a near miss is not missing too"
    );
}

#[test]
fn a_key_of_another_table_is_sent_there() {
    let (message, help) = only(&format!("{STORE}{POLICY}max-count = 3\n"));
    assert_eq!((message.as_str(), help.as_str()), ("unknown key `max-count`", "it belongs in [policy.limit]"));
    let (_, help) = only(&format!("{STORE}{POLICY}fork_grace = \"0s\"\n"));
    assert_eq!(help, "it belongs in [trash]");
    let (_, help) = only(&format!("{STORE}zzzzzzzz = 1\n"));
    assert_eq!(help, "[store] knows: path, instances");
}

#[test]
fn the_wrong_brackets_are_answered_with_the_right_ones() {
    let (message, help) = only(&format!("{STORE}[policy]\nname = \"x\"\n"));
    assert_eq!(
        (message.as_str(), help.as_str()),
        ("`policy` must be a list of tables, not a table", "write the header with two brackets: [[policy]]")
    );
    let (_, help) = only(&format!("{STORE}[[trash]]\n"));
    assert_eq!(help, "write the header with one bracket on each side: [trash]");
}

#[test]
fn values_of_the_wrong_type_are_answered_with_what_to_write() {
    let help = |lines: &str| only(&format!("{STORE}{lines}")).1;
    assert_eq!(help("[prune]\nevery = 15\n"), "write a unit, in quotes: \"15s\", \"15m\", \"15h\" or \"15d\"");
    assert_eq!(help("[snapshot]\nskip = \"*.log\"\n"), "write skip = [\"*.log\"]");
    assert_eq!(help("[fork]\nmemory = \"hard_link\"\n"), "did you mean \"hardlink\"?");
    assert_eq!(only(&format!("{STORE}[snapshot]\nskip = [1]\n")).0, "`skip[0]` must be a string, not the number 1");
    assert_eq!(only(&format!("{STORE}[worker]\nthreads = 99999999999\n")).0, "`threads` is too large: 256 is the largest value");
    assert_eq!(only_in_policy("keep_all = true\ntags = { a = 1 }").0, "`a` must be a string, not the number 1");
    assert_eq!(only_in_policy("[policy.keep]\nlast = 4294967296").0, "`last` is too large: 4294967295 is the largest value");
}

#[test]
fn store_and_instances_lie_side_by_side() {
    let clash = |store: &str, instances: &str| only(&format!("[store]\npath = \"{store}\"\ninstances = \"{instances}\"\n")).0;
    assert_eq!(clash("/a", "/a/./"), "the store and the instances root are the same directory");
    assert_eq!(clash("/a", "/a/vms"), "the instances root is inside the store /a");
    assert_eq!(clash("/a/store", "/a"), "the store /a/store is inside the instances root, where it would be taken for an instance");
    assert_eq!(clash("/a/../b", "/a"), "`path` must not go through `..`");
    assert_eq!(clash("/", "/a"), "`path` must not be the root directory");
    assert_eq!(clash("", "/a"), "`path` is empty");
    assert!(read("[store]\npath = \"/a/store\"\ninstances = \"/a/store2\"\n").is_ok(), "a common beginning of names is no nesting");
}

#[test]
fn a_socket_that_the_kernel_would_refuse_is_refused() {
    let long = format!("/{}", "x".repeat(107));
    let (message, help) = only(&format!("[store]\npath = \"{long}\"\ninstances = \"/i\"\n"));
    assert_eq!(message, "the path of the socket is 122 bytes long, and the kernel allows 107");
    assert!(help.contains("[api]"));
    assert!(read(&format!("[store]\npath = \"{long}\"\ninstances = \"/i\"\n[api]\nsocket = \"/run/s.sock\"\n")).is_ok());
    assert_eq!(only(&format!("{STORE}[api]\nsocket = \"s.sock\"\n")).0, "`socket` must be an absolute path, not \"s.sock\"");
}

#[test]
fn the_driver_wants_names_commands_and_time() {
    let message = |lines: &str| only(&format!("{STORE}[driver]\n{lines}\n")).0;
    assert_eq!(message("memory_names = []"), "`memory_names` is empty: no memory file would be known as one");
    assert_eq!(message("memory_names = [\"a/b\"]"), "\"a/b\" is not a file name");
    assert_eq!(message("freeze = [\" \"]\nthaw = [\"x\"]"), "`freeze` has an empty command line");
    assert_eq!(message("timeout = \"0s\""), "`timeout` is 0s, but must be 1ms or more");
    let config = read(&format!("{STORE}[driver]\nfreeze = [\"sync\"]\n")).unwrap();
    assert_eq!(config.warnings[0], "s.toml:5: `freeze` has commands and `thaw` has none: what is frozen stays so");
}

#[test]
fn when_to_hash_is_a_word_and_a_rate_of_copies_is_a_size_of_more_than_nothing() {
    let config = |lines: &str| read(&format!("{STORE}{lines}\n")).map(|config| (config.digests, config.copy_rate)).unwrap();
    assert_eq!(config(""), (DigestTime::After, 0));
    assert_eq!(config("[snapshot]\ndigests = \"before\"\n[worker]\ncopy_rate = \"200MiB\""), (DigestTime::Before, 200 << 20));
    assert_eq!(config("[snapshot]\ndigests = \"after\"").0, DigestTime::After);
    let message = |lines: &str| only(&format!("{STORE}{lines}\n")).0;
    assert_eq!(message("[worker]\ncopy_rate = \"0B\""), "`copy_rate` must be more than 0");
    assert!(message("[worker]\ncopy_rate = \"200 a second\"").starts_with("`copy_rate`"));
    assert!(message("[worker]\ncopy_rate = 200").contains("must be a size"));
    assert!(message("[snapshot]\ndigests = \"later\"").contains("\"before\""));
}

#[test]
fn patterns_that_are_not_globs_are_refused_one_by_one() {
    let found = complaints(&format!("{STORE}[snapshot]\nskip = [\"*.tmp\", \"a[\", \"/\"]\n"));
    let expected =
        [(5, 18, "\"a[\" is not a glob: unclosed character class; missing ']'"), (5, 24, "\"/\" is not a pattern: it names no file")];
    assert_eq!(found, expected.map(|(line, column, message)| (line, column, message.to_owned())));
}

#[test]
fn a_schedule_is_a_cron_expression_or_an_interval() {
    assert_eq!(only_in_policy("keep_all = true\nschedule = \"@daily\"\nevery = \"1h\"").0, "`every` and `schedule` are both there");
    assert_eq!(only_in_policy("keep_all = true\nevery = \"999ms\"").0, "`every` is 999ms, but must be 1s or more");
    assert_eq!(only_in_policy("keep_all = true\nevery = \"1 month\"").0.split(':').next(), Some("`every`"));
    assert_eq!(only_in_policy("keep_all = true\nschedule = \"0 3 31 2 *\"").0, "`0 3 31 2 *` never occurs");
    assert_eq!(only_in_policy("keep_all = true\nevery = \"1h\"\ntimezone = \"europe/vienna\"").1, "did you mean \"Europe/Vienna\"?");
}

#[test]
fn a_policy_says_what_it_keeps() {
    assert_eq!(only_in_policy("every = \"1h\"").0, "the policy has neither `keep` nor `limit`");
    assert_eq!(only_in_policy("every = \"1h\"\nkeep_all = false").0, "the policy has neither `keep` nor `limit`");
    let both = "`keep_all` keeps everything, and `keep` or `limit` is there too";
    assert_eq!(only_in_policy("every = \"1h\"\nkeep_all = true\n[policy.keep]\nlast = 1").0, both);
    assert_eq!(only_in_policy("every = \"1h\"\nkeep_all = true\n[policy.limit]\nmax_count = 1").0, both);
    assert_eq!(only_in_policy("every = \"1h\"\n[policy.keep]\nlast = 0").0, "`keep` claims nothing: every snapshot would be removed");
    assert_eq!(only_in_policy("every = \"1h\"\n[policy.limit]\nmin = 3").0, "`limit` caps nothing, and there is no `keep`");
    assert_eq!(only_in_policy("every = \"1h\"\n[policy.limit]\nmax_count = 0").0, "`max_count` is 0, and `min` is 1 if it is not given");
    assert_eq!(only_in_policy("every = \"1h\"\n[policy.limt]\nmax_count = 1").0, "unknown key `limt`, did you mean `limit`?");
    assert_eq!(only_in_policy("every = \"1h\"\n[policy.keep]\nlats = 1").0, "unknown key `lats`, did you mean `last`?");
}

#[test]
fn names_and_patterns_of_a_policy_are_checked() {
    let message =
        |name: &str, instances: &str| only(&format!("{STORE}[[policy]]\nname = {name}\ninstances = {instances}\nkeep_all = true\n")).0;
    assert_eq!(message("\"a_b\"", "[\"*\"]"), "\"a_b\" is not a valid policy name: only a-z, 0-9 and '-' are allowed");
    assert_eq!(message("\"a\"", "[]"), "`instances` is empty: the policy would be for none");
    assert_eq!(message("\"a\"", "[\"vms/*\"]"), "\"vms/*\" matches no instance, for it has a `/`");
    assert_eq!(message("\"a\"", "[\"\"]"), "an empty pattern matches no instance");
    assert_eq!(only_in_policy("keep_all = true\nname_prefix = \"Gold\"").0, "`name_prefix`: only a-z, 0-9 and '-' are allowed");
    assert_eq!(
        only_in_policy("keep_all = true\ntags = { \"a=b\" = \"c\" }").0,
        "\"a=b\" is not the name of a tag: it must have a character, and no `=`"
    );
}

#[test]
fn a_name_is_taken_once_over_all_files() {
    let extra = POLICY.replace("keep_all", "# again\nkeep_all");
    let error = parse(vec![("s.toml".into(), format!("{STORE}{POLICY}")), ("policies.d/a.toml".into(), extra)]).unwrap_err();
    let [problem] = error.problems() else { panic!("{error}") };
    assert_eq!((problem.file.to_str(), problem.line, problem.column), (Some("policies.d/a.toml"), 2, 8));
    assert_eq!(problem.message, "there is another policy `p`");
    assert_eq!(problem.help.as_deref(), Some("the first one is at s.toml:5"));
}

#[test]
fn files_of_policies_d_have_policies_only() {
    let files = vec![("s.toml".into(), STORE.to_owned()), ("a.toml".into(), format!("[trash]\n[polcy]\n{POLICY}"))];
    let error = parse(files).unwrap_err();
    let messages: Vec<_> = error.problems().iter().map(|p| p.message.as_str()).collect();
    let not_here = "`trash` is not allowed here: files in policies.d have [[policy]] tables only";
    assert_eq!(messages, [not_here, "unknown key `polcy`, did you mean `policy`?"]);
}

#[test]
fn problems_of_all_files_are_reported_together_in_their_order() {
    let error = parse(vec![("m".into(), String::new()), ("b".into(), "x = 1\n".into()), ("a".into(), "= 1\n".into())]).unwrap_err();
    let files: Vec<_> = error.problems().iter().map(|p| p.file.to_str().unwrap()).collect();
    assert_eq!(files, ["m", "b", "a"]);
    assert!(error.to_string().ends_with("3 problems in 3 files"));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(cut in 0..SAMPLE.len(), insert in "[\\[\\]{}=\"'#a-z0-9 .\n]{0,8}", skip in 0..20_usize) {
        let at = |n: usize| (0..=n.min(SAMPLE.len())).rev().find(|n| SAMPLE.is_char_boundary(*n)).unwrap_or(0);
        let text = format!("{}{insert}{}", &SAMPLE[..at(cut)], &SAMPLE[at(cut + skip)..]);
        if let Err(error) = read(&text) {
            proptest::prop_assert!(!error.problems().is_empty(), "refused without a reason");
        }
    }

    #[test]
    fn no_document_is_refused_without_a_reason(text in "[\\[\\]{}=\"'#a-z0-9 .\n,-]{0,60}") {
        if let Err(error) = read(&text) {
            proptest::prop_assert!(!error.problems().is_empty());
        }
    }
}

#[test]
fn each_expression_of_a_list_and_each_range_of_hours_has_its_place() {
    let lines = "keep_all = true\nschedule = [\"@daily\", \"61 * * * *\"]\nwindow = [\"22:00-06:00\", \"6-9\"]\n";
    let found = complaints(&format!("{STORE}[[policy]]\nname = \"p\"\ninstances = [\"*\"]\n{lines}"));
    let want = [
        (8, 23, "`61 * * * *` is not a cron expression: `61` is not a minute: 0 to 59"),
        (9, 26, "`window`: `6` is not a time of day, such as \"22:00\""),
    ];
    assert_eq!(found.iter().map(|(line, column, text)| (*line, *column, text.as_str())).collect::<Vec<_>>(), want);
    for (lines, message, help) in [
        ("schedule = []", "`schedule` is empty: there would be no slots", "leave it out for a policy that only prunes"),
        ("schedule = 5", "`schedule` must be a cron expression such as \"*/15 * * * *\", or a list of them, not the number 5", ""),
        ("schedule = [5]", "`schedule[0]` must be a string, not the number 5", ""),
        ("every = \"1h\"\nwindow = true", "`window` must be a range of hours such as \"22:00-06:00\", or a list of them, not true", ""),
        ("every = \"1h\"\nwindow = []", "`window` is empty: nothing could ever run", "leave it out for any hour"),
        ("every = \"1h\"\nwindow = \"6-9\"", want[1].2, ""),
        (
            "schedule = \"0 12 * * *\"\nwindow = \"22:00-06:00\"",
            "no slot is within `window`",
            "write hours in which there are slots, or slots that are within these hours",
        ),
        ("every = \"1h\"\non_enable = \"rnu\"", "`on_enable` must be \"wait\" or \"run\", not \"rnu\"", "did you mean \"run\"?"),
        (
            "every = \"1h\"\nmissed_within = \"2 months\"",
            "`missed_within`: `2 months` is ambiguous, for a month has no fixed length: write it in days, such as \"60d\"",
            "",
        ),
        ("every = \"1h\"\nmax_running = 0", "`max_running` is 0, but must be 1 or more", ""),
    ] {
        assert_eq!(only_in_policy(&format!("keep_all = true\n{lines}")), (message.to_owned(), help.to_owned()), "{lines}");
    }
}
