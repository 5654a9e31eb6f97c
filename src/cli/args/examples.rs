//! Examples of each verb: shown by its help and its man page, and held to the command line by a test.

use clap::Command;

/// A verb, and what it may look like on the command line, with what that does.
type Examples = (&'static str, &'static [(&'static str, &'static str)]);

/// Every verb has some.
pub(super) const EXAMPLES: &[Examples] = &[
    (
        "init",
        &[
            ("snapkeep init", "make store and instances root as /etc/snapkeep/snapkeep.toml has them"),
            ("sudo -u snapkeep snapkeep init", "the same for the worker of the system's unit, whose user is snapkeep"),
        ],
    ),
    (
        "run",
        &[
            ("snapkeep run", "the worker, in this terminal, until Ctrl-C"),
            ("systemctl enable --now snapkeep", "the worker as a service, now and after each boot"),
        ],
    ),
    (
        "once",
        &[
            ("snapkeep once", "take, make and remove what is due, then exit"),
            ("systemctl enable --now snapkeep-once.timer", "the same every five minutes"),
        ],
    ),
    (
        "check",
        &[
            ("snapkeep check", "is the configuration good? All problems at once"),
            ("snapkeep check --config new.toml", "before it is put in place"),
            ("snapkeep check --next 10", "the next ten slots of each policy, in its zone"),
            ("snapkeep check --schema > snapkeep.schema.json", "for an editor that completes and checks"),
        ],
    ),
    ("demo", &[("snapkeep demo", "everything, in half a minute, in a temporary directory")]),
    (
        "snapshot",
        &[
            ("snapkeep snapshot golden", "named by the time"),
            ("snapkeep snapshot golden --name before-upgrade --tag ticket=42", "with a name and a tag"),
            ("snapkeep snapshot golden --json | jq -r .id", "its id, for a script"),
        ],
    ),
    (
        "fork",
        &[
            ("snapkeep fork golden/base web-1 web-2", "two forks, by name"),
            (
                "snapkeep fork golden/base --count 100 --prefix web --key job-17",
                "a hundred; asked again with the same key, the same hundred",
            ),
            ("snapkeep fork golden/base web-1 --no-wait", "return once the request is durable; `snapkeep queue` shows it"),
        ],
    ),
    ("unfork", &[("snapkeep unfork web-1", "it must not run; its snapshot is needed by one fork less")]),
    ("restore", &[("snapkeep restore golden/base", "the instance must not run; what is there can be brought back with `undelete golden`")]),
    (
        "import",
        &[(
            "snapkeep import /backup/golden --instance golden --policy nightly --timezone Europe/Vienna --dry-run",
            "only say what would be taken, and of what time",
        )],
    ),
    (
        "ls",
        &[
            ("snapkeep ls", "all of them, the newest last"),
            ("snapkeep ls --instance golden --tag ticket=42", "some of them"),
            ("snapkeep ls --json | jq '.snapshots[] | select(.ref_count == 0) | .id'", "those that no fork needs"),
            ("snapkeep ls --trash", "what can still be brought back"),
        ],
    ),
    ("show", &[("snapkeep show golden/base", "by instance and name; an id does as well")]),
    ("forks", &[("snapkeep forks", "all of them"), ("snapkeep forks golden/base", "those of one snapshot")]),
    (
        "queue",
        &[
            ("snapkeep queue", "what waits, runs, and has ended in the last day"),
            ("snapkeep queue cancel ff5lahq24xbzpl635", "a request that still waits"),
        ],
    ),
    (
        "status",
        &[
            ("snapkeep status", "the worker, and each policy with each instance"),
            ("snapkeep status --json | jq '.policies[] | select(.failures > 0)'", "what fails"),
        ],
    ),
    (
        "rm",
        &[
            ("snapkeep rm golden/base", "refused while forks need it (exit 4, with their names)"),
            ("snapkeep rm golden/base --defer", "with its last fork"),
        ],
    ),
    (
        "undelete",
        &[
            ("snapkeep undelete golden/base", "a snapshot; it comes back with a hold named undeleted"),
            ("snapkeep undelete golden --as golden-old", "an instance whose name is taken"),
        ],
    ),
    ("hold", &[("snapkeep hold golden/base release-7", "nothing removes it before that hold is released")]),
    ("release", &[("snapkeep release golden/base release-7", "retention has it again")]),
    (
        "plan",
        &[
            ("snapkeep plan --policy golden", "each snapshot with its verdict, and all reasons"),
            ("snapkeep plan --at 2027-01-01T00:00:00Z", "as of another time"),
            ("snapkeep plan --config new.toml --diff", "what a change of the configuration would do"),
        ],
    ),
    (
        "prune",
        &[
            ("snapkeep prune", "what the worker does by itself, now"),
            ("snapkeep prune --plan 2f4343ea6ee011d3", "exactly the plan that was looked at, or nothing"),
        ],
    ),
    (
        "simulate",
        &[(
            "snapkeep simulate --policy golden --years 5 --size 10GiB --exclusive 1GiB --forks-per-day 5 --fork-life 3d --svg golden.svg",
            "five years, with bytes and forks, drawn",
        )],
    ),
    (
        "verify",
        &[
            ("snapkeep verify", "everything"),
            ("snapkeep verify --quick", "all but the digests"),
            ("snapkeep verify --rate 100MiB --resume", "gently, and where the last run was cut short"),
        ],
    ),
    ("clock", &[("snapkeep clock", "is it believed?"), ("snapkeep clock accept", "it is right: believe it")]),
];

/// Puts the examples behind what the verbs' help says already.
pub(super) fn teach(mut command: Command) -> Command {
    for (verb, examples) in EXAMPLES {
        let heading = if examples.len() == 1 { "Example:" } else { "Examples:" };
        let lines = examples.iter().map(|(line, what)| format!("  {line}\n      {what}"));
        let text = std::iter::once(heading.to_owned()).chain(lines).collect::<Vec<_>>().join("\n");
        command = command.mut_subcommand(verb, |sub| {
            let before = sub.get_after_help().map(|help| format!("{help}\n\n")).unwrap_or_default();
            sub.after_help(before + &text)
        });
    }
    command
}

#[cfg(test)]
mod tests {
    use super::super::command;
    use super::*;

    /// The words of a line up to a pipe or a redirection, as the shell would make them.
    fn words(line: &str) -> Vec<String> {
        let end = line.find(" | ").or(line.find(" > ")).unwrap_or(line.len());
        let line = &line[..end];
        line.trim_start_matches("sudo -u snapkeep ").split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn every_verb_has_examples_and_every_example_is_understood() {
        for sub in command().get_subcommands() {
            let verb = sub.get_name();
            let (_, examples) = EXAMPLES.iter().find(|(name, _)| *name == verb).unwrap_or_else(|| panic!("{verb} has no example"));
            let help = sub.get_after_help().unwrap().to_string();
            for (line, what) in *examples {
                assert!(help.contains(line) && help.contains(what), "{verb}: {help}");
                if line.starts_with("systemctl ") {
                    continue;
                }
                let matches = command().try_get_matches_from(words(line)).unwrap_or_else(|e| panic!("{line}: {e}"));
                assert_eq!(matches.subcommand_name(), Some(verb), "{line}");
            }
        }
        assert_eq!(EXAMPLES.len(), command().get_subcommands().count());
    }
}
