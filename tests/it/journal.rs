//! A real journald, in mounts of its own: what the program writes there when its output is the journal's, and how
//! `journalctl -x` explains it. Skipped where it is not installed, or for who is not root.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests")]

use crate::support::World;
use crate::support::program::Program;
use std::path::Path;
use std::process::{Command, Stdio};

const JOURNALD: &str = "/usr/lib/systemd/systemd-journald";

/// Starts a journald that sees nobody else's directories, runs the program under it twice, and shows what it has.
const SCRIPT: &str = r#"
set -e
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mkdir -p /run/systemd/journal /run/log/journal /var/lib/systemd/catalog
mount -t tmpfs tmpfs /var/lib/systemd/catalog
mount --bind "$1" /usr/lib/systemd/catalog
journalctl --update-catalog
/usr/lib/systemd/systemd-journald 2>/dev/null & journald=$!
trap 'kill $journald' EXIT
for i in $(seq 100); do [ -S /run/systemd/journal/socket ] && break; sleep 0.1; done
shift
systemd-cat sh -c 'export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2); exec "$@"' sh "$@" || true
JOURNAL_STREAM=1:2 "$@" > /dev/null || true
journalctl --sync
echo "== json"
journalctl -o json --no-pager SNAPKEEP_EVENT=snapshot.failed
echo "== errors"
journalctl -o cat --no-pager -p err SYSLOG_IDENTIFIER=snapkeep
echo "== explained"
journalctl -x --no-pager SNAPKEEP_EVENT=snapshot.failed
"#;

#[test]
fn events_are_entries_of_a_real_journal_with_fields_priority_and_an_explanation() {
    if !Path::new(JOURNALD).exists() || !nix::unistd::geteuid().is_root() {
        println!("skipped: {JOURNALD} is missing (package systemd), or not root");
        return;
    }
    let world = World::new();
    world.make_instance("web");
    let policy = "[[policy]]\nname = \"p\"\ninstances = [\"web\"]\nevery = \"1s\"\non_enable = \"run\"\nkeep_all = true\n";
    let program = Program::with(&world, &format!("[driver]\nfreeze = [\"false\"]\n{policy}"));
    program.ok("init");
    let catalogue = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/journal");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]).arg(catalogue);
    command.arg(env!("CARGO_BIN_EXE_snapkeep")).args(["once", "--config"]).arg(&program.config).stdin(Stdio::null());
    let out = command.output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    let part = |name: &str| text.split("== ").find_map(|part| part.strip_prefix(name)).unwrap().trim().to_owned();
    let entries: Vec<serde_json::Value> = part("json").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries.len(), 1, "what was not started with the journal's stream does not write there: {text}");
    let entry = &entries[0];
    let line: serde_json::Value = serde_json::from_str(entry["MESSAGE"].as_str().unwrap()).unwrap();
    assert_eq!((entry["PRIORITY"].as_str(), entry["SNAPKEEP_INSTANCE"].as_str()), (Some("3"), Some("web")), "{entry}");
    assert_eq!(
        (&entry["SNAPKEEP_ID"], &entry["SNAPKEEP_ERROR"], &entry["SNAPKEEP_POLICY"]),
        (&line["id"], &line["error"], &line["policy"])
    );
    assert_eq!(entry["MESSAGE_ID"], snapkeep::event::message_id("snapshot.failed").as_str());
    assert!(part("errors").lines().all(|line| line.contains("\"level\":\"error\"")), "{text}");
    let explained = part("explained");
    assert!(explained.contains("instance: web") && explained.contains("What to do: See `error`"), "{explained}");
}
