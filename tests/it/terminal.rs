//! What a terminal shows: completions and man pages that are those of the command line, colours, widths, JSON from every verb,
//! and problems that say which file, why, and what next.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::World;
use crate::support::mounts::tool;
use crate::support::program::{Program, eventually};
use clap_complete::Shell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What a page has behind what the command line says of itself.
const TAIL: &str = "\
.SH FILES
.TP
.I /etc/snapkeep/snapkeep.toml
The configuration, unless \\fB\\-\\-config\\fR or \\fBSNAPKEEP_CONFIG\\fR names another. Every key is explained in
.IR /usr/share/doc/snapkeep/examples/snapkeep.toml .
.TP
.I /etc/snapkeep/policies.d/*.toml
More policies.
.SH ENVIRONMENT
.TP
.B SNAPKEEP_CONFIG
The configuration.
.TP
.B SNAPKEEP_LOG
Free\\-form messages besides the events of \\fBrun\\fR, such as
.BR debug .
.TP
.B NO_COLOR
No colours, whatever the terminal can do.
.TP
.B COLUMNS
How wide the terminal is; a table that is wider is shown as a block for each row. What goes into a pipe is never broken.
";

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Writes the files anew where that is asked for; else they must be what they would be, and no others be there.
fn must_be(dir: &str, wanted: &BTreeMap<String, String>) {
    let dir = checkout().join(dir);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        wanted.iter().for_each(|(name, text)| fs::write(dir.join(name), text).unwrap());
    }
    let entries = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    let there: BTreeMap<String, String> =
        entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap())).collect();
    assert_eq!(there.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "{}: {UPDATE}", dir.display());
    for (name, text) in wanted {
        assert!(there[name] == *text, "{}: {UPDATE}", dir.join(name).display());
    }
}

const UPDATE: &str = "not what the command line says; run UPDATE_DOCS=1 cargo test --test it terminal";

fn completions() -> BTreeMap<String, String> {
    let one = |(shell, name): (Shell, &str)| {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut snapkeep::cli::command(), "snapkeep", &mut text);
        (name.to_owned(), String::from_utf8(text).unwrap())
    };
    [(Shell::Bash, "snapkeep.bash"), (Shell::Zsh, "_snapkeep"), (Shell::Fish, "snapkeep.fish")].map(one).into()
}

fn pages() -> BTreeMap<String, String> {
    let dir = tempfile::tempdir().unwrap();
    clap_mangen::generate_to(snapkeep::cli::command(), dir.path()).unwrap();
    let entries = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let page = |path: PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let is_main = name == "snapkeep.1";
        let text = text.replace(".SH EXTRA\n", if is_main { ".SH NOTES\n" } else { ".SH EXAMPLES\n" });
        // Behind what is to be known of the verb, its examples have a heading of their own.
        let text = text.replace("\nExample:\n", "\n").replace("\nExamples:\n", "\n");
        let (text, version) = text
            .split_once(".SH VERSION\n")
            .map_or((text.clone(), String::new()), |(text, rest)| (text.to_owned(), format!(".SH VERSION\n{rest}")));
        let see = if is_main { "\\fBsystemctl\\fR(1), \\fBjournalctl\\fR(1)" } else { "\\fBsnapkeep\\fR(1)" };
        let tail = if is_main { TAIL } else { "" };
        (name, format!("{text}{tail}.SH \"SEE ALSO\"\n{see}\n{version}"))
    };
    entries.map(page).collect()
}

#[test]
fn completions_and_man_pages_are_those_of_the_command_line() {
    must_be("config/completions", &completions());
    must_be("docs/man", &pages());
}

#[test]
fn every_page_is_one_that_man_understands() {
    let Ok(man) = tool("man") else { return eprintln!("skipped: man pages as man shows them: man is missing (package man-db)") };
    for entry in fs::read_dir(checkout().join("docs/man")).unwrap() {
        let path = entry.unwrap().path();
        let shown =
            Command::new(&man).args(["--warnings", "-l", "-Tutf8"]).arg(&path).env("MANWIDTH", "80").stdin(Stdio::null()).output().unwrap();
        assert!(shown.status.success() && shown.stderr.is_empty(), "{}: {}", path.display(), String::from_utf8_lossy(&shown.stderr));
    }
}

#[test]
fn a_shell_takes_its_completions_and_knows_every_verb() {
    for (shell, file, ask) in [
        (
            "bash",
            "snapkeep.bash",
            "source FILE; COMP_WORDS=(snapkeep ''); COMP_CWORD=1; _snapkeep snapkeep '' snapkeep; echo \"${COMPREPLY[@]}\"",
        ),
        ("fish", "snapkeep.fish", "source FILE; complete -C 'snapkeep '"),
        ("zsh", "_snapkeep", "autoload -U compinit; compinit -D; source FILE; typeset -f _snapkeep_commands"),
    ] {
        let Ok(program) = tool(shell) else {
            eprintln!("skipped: completions in {shell}: it is missing");
            continue;
        };
        let path = checkout().join("config/completions").join(file);
        let output =
            Command::new(program).arg("-c").arg(ask.replace("FILE", path.to_str().unwrap())).stdin(Stdio::null()).output().unwrap();
        let known = String::from_utf8_lossy(&output.stdout).into_owned();
        for verb in snapkeep::cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            assert!(known.contains(verb.get_name()), "{shell}: {}: {output:?}", verb.get_name());
        }
    }
}

/// A made-up world: an instance, a snapshot of it, a fork.
fn world() -> (World, Program) {
    let world = World::new();
    world.make_instance("golden");
    let program = Program::with(&world, "[[policy]]\nname = \"gold\"\ninstances = [\"golden\"]\nevery = \"1s\"\n[policy.keep]\nlast = 2\n");
    program.ok("init");
    program.ok("snapshot golden --name base");
    program.ok("fork golden/base web-1");
    (world, program)
}

/// What a verb shows in a terminal of its own, with these variables.
fn in_a_terminal(program: &Program, line: &str, variables: &[(&str, &str)]) -> String {
    let words = format!("{} {line} --config {}", env!("CARGO_BIN_EXE_snapkeep"), program.config.display());
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &words, "/dev/null"]).stdin(Stdio::null());
    command.env("TERM", "xterm-256color").env_remove("NO_COLOR").env_remove("COLUMNS").env_remove("CLICOLOR").env_remove("CI");
    let output = command.envs(variables.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap().replace('\r', "")
}

#[test]
fn colours_are_for_terminals_that_want_them_and_tables_break_only_where_they_must() {
    if let Err(why) = tool("script") {
        return eprintln!("skipped: what a terminal shows: {why} (package bsdutils)");
    }
    let (_world, program) = world();
    let plan = |variables: &[(&str, &str)]| in_a_terminal(&program, "plan", variables);
    assert!(plan(&[("COLUMNS", "200")]).contains('\u{1b}'), "a terminal has colours");
    assert!(!plan(&[("COLUMNS", "200"), ("NO_COLOR", "1")]).contains('\u{1b}'));
    assert!(!in_a_terminal(&program, "plan", &[("COLUMNS", "200"), ("TERM", "dumb")]).contains('\u{1b}'));
    assert!(!program.ok("plan").contains('\u{1b}'), "a pipe has none");
    for width in [40, 80] {
        for verb in ["ls", "forks", "queue", "status", "plan"] {
            let shown = in_a_terminal(&program, verb, &[("COLUMNS", &width.to_string()), ("NO_COLOR", "1")]);
            let piped = program.ok(verb);
            let head = piped.lines().find(|line| line.split_whitespace().count() > 2 && line.to_uppercase() == *line).unwrap_or_default();
            let is_table = shown.lines().any(|line| line == head);
            let fits = piped.lines().all(|line| line.chars().count() <= width);
            assert!(fits || !is_table || shown.lines().all(|line| line.chars().count() <= width), "{verb} at {width}:\n{shown}\n{piped}");
            // Whatever the shape, what is copied from it is whole.
            for word in ["golden", "web-1"].iter().filter(|word| piped.contains(**word)) {
                assert!(shown.contains(word), "{verb} at {width}: {word}:\n{shown}");
            }
        }
        let help = in_a_terminal(&program, "--help", &[("COLUMNS", &width.to_string()), ("NO_COLOR", "1")]);
        assert!(help.contains("snapkeep demo"), "{help}");
    }
}

#[test]
fn every_verb_answers_in_json() {
    let (world, program) = world();
    let script = world.store.parent().unwrap().join("script");
    fs::create_dir_all(script.join("golden-2026-11-22")).unwrap();
    fs::write(script.join("golden-2026-11-22/memory"), "x").unwrap();
    let other = program.config.with_extension("new.toml");
    fs::write(&other, fs::read_to_string(&program.config).unwrap().replace("last = 2", "last = 1")).unwrap();
    let diff = format!("plan --diff={}", other.display());
    let import = format!("import {} --instance golden", script.display());
    let lines = [
        "init",
        "check",
        "check --next 2",
        "check --schema",
        "snapshot golden --name two",
        "fork golden/base web-2",
        "queue",
        "unfork web-2",
        "restore golden/base",
        &import,
        "ls",
        "ls --trash",
        "show golden/base",
        "forks",
        "status",
        "hold golden/base h",
        "release golden/base h",
        "plan",
        &diff,
        "prune",
        "simulate --years 1",
        "verify",
        "clock",
        "clock accept",
        "rm golden/two",
        "undelete golden/two",
    ];
    let mut seen: Vec<&str> = vec![];
    for line in lines {
        let output = program.output(&format!("{line} --json"));
        assert!(output.status.success(), "{line}: {output:?}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap_or_else(|e| panic!("{line}: {e}: {output:?}"));
        seen.push(line.split(' ').next().unwrap());
    }
    // These speak for longer: a document for each line.
    for verb in ["once", "run", "demo --seconds 5"] {
        let mut child = program.command(&format!("{verb} --json")).stdout(Stdio::piped()).spawn().unwrap();
        let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
        if verb == "run" {
            eventually("it answers", Duration::from_secs(20), || program.json("status")["worker"]["running"] == true);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        }
        let mut text = String::new();
        std::io::Read::read_to_string(child.stdout.as_mut().unwrap(), &mut text).unwrap();
        assert!(child.wait().unwrap().success() && !text.is_empty(), "{verb}: {text}");
        for line in text.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{verb}: {e}: {line}"));
        }
        seen.push(verb.split(' ').next().unwrap());
    }
    for verb in snapkeep::cli::command().get_subcommands() {
        assert!(seen.contains(&verb.get_name()), "{} is not tried", verb.get_name());
    }
}

#[test]
fn every_problem_is_a_document_where_json_is_wanted_those_of_the_command_line_among_them() {
    let (_world, program) = world();
    let id = program.json("show golden/base")["id"].as_str().unwrap().to_owned();
    for line in
        ["show nothing", "fork", "frobnicate", "show", "rm golden/base", "unfork golden", "queue cancel nothing", &format!("undelete {id}")]
    {
        let output = program.output(&format!("{line} --json"));
        let text = String::from_utf8(output.stderr).unwrap();
        let problem: serde_json::Value =
            serde_json::from_str(&text[text.find('{').unwrap_or(0)..]).unwrap_or_else(|e| panic!("{line}: {e}: {text}"));
        assert!(!output.status.success() && problem["detail"].is_string(), "{line}: {problem}");
    }
}

#[test]
fn a_problem_names_the_file_the_reason_and_the_next_step() {
    let (world, program) = world();
    let missing = program.config.with_extension("missing");
    let output = Command::new(env!("CARGO_BIN_EXE_snapkeep")).args(["ls", "--config"]).arg(&missing).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains(missing.to_str().unwrap()) && text.contains("No such file") || text.contains("there is no"), "{text}");
    let running = program.run();
    let (code, text) = program.fails("run");
    assert_eq!(code, 75);
    assert!(text.contains(world.store.to_str().unwrap()) && text.contains("wait for it, or ask it by its socket"), "{text}");
    assert_eq!(running.stop(), 0);
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: a store of somebody else: not root");
    }
    // What root made in it, its worker could not read.
    std::os::unix::fs::chown(&world.store, Some(1), Some(1)).unwrap();
    let (_, text) = program.fails("snapshot golden");
    let owner = nix::unistd::User::from_uid(1.into()).unwrap().unwrap().name;
    let wanted = [world.store.to_str().unwrap().to_owned(), format!("belongs to {owner}"), format!("sudo -u {owner} snapkeep")];
    assert!(wanted.iter().all(|wanted| text.contains(wanted)), "{text}");
}
