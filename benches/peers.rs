//! What a user would do instead, on the same fixture and with the same durability.
//!
//! `cargo bench --bench peers -- [--rounds N] [--only TEXT] [--fs LIST] [--quiet | --dirty]` makes its own file systems on
//! loop devices (root). Each peer is followed by `sync -f`. What `rm -rf` and `find -delete` take is in `--bench prune`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    unsafe_code,
    unreachable_pub,
    dead_code,
    missing_docs,
    reason = "a bench: it works on its own directories, prints, and stops at the first error"
)]

mod frame;
#[path = "../tests/it/support/mod.rs"]
mod support;

use frame::{Options, Round, What};
use snapkeep::config::DigestTime;
use snapkeep::snapshot::copy::Flow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::mounts::tool;
use support::{Open, World, fixture};

/// A tree that is copied: a name, and the command line in front of source and target.
const COPIES: [(&str, &[&str]); 2] =
    [("cp -a --reflink=auto", &["cp", "-a", "--reflink=auto", "--sparse=always"]), ("rsync -aS", &["rsync", "-aS"])];

fn main() {
    let options = Options::parse();
    let size = 24 << 30;
    for (against, command) in COPIES {
        if tool(command.first().unwrap()).is_err() {
            println!("skipped: {against}: it is not installed");
            continue;
        }
        let what = What { what: "a snapshot", against, unit: "ms", wanted: None, size };
        options.measure(what, |round| (snapshot(round), copy(round, command, "golden")));
        let what = What { what: "a fork", against, unit: "ms", wanted: None, size };
        options.measure(what, |round| (fork(round), copy(round, command, "golden")));
    }
    // Links every file: its forks write into one another's disks. It is the least that the shell can do, not a choice.
    let what = What { what: "a fork", against: "cp -al (shares the disks!)", unit: "ms", wanted: None, size };
    options.measure(what, |round| (fork(round), copy(round, &["cp", "-al"], "golden")));
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

fn world(round: &Round<'_>, scale: u64) -> (World, Open) {
    let world = World::at(&round.path.join("world"));
    fixture::make(&world.vms.join("golden"), scale).unwrap();
    let open = world.open();
    (world, open)
}

fn snapshot(round: &Round<'_>) -> f64 {
    let (_world, open) = world(round, 1);
    millis(round.time(|| open.take_with("golden", DigestTime::After, Flow::quiet()).unwrap()).1)
}

fn fork(round: &Round<'_>) -> f64 {
    let (_world, open) = world(round, 1);
    let id = open.take("golden").unwrap();
    millis(round.time(|| open.fork(&id, "f").unwrap()).1)
}

/// A peer's copy of the instance that the last world has.
fn copy(round: &Round<'_>, command: &[&str], instance: &str) -> f64 {
    let source = round.path.join("world/vms").join(instance);
    let target = round.path.join("copy");
    let (program, args) = command.split_first().unwrap();
    let ((), took) = round.time(|| {
        // A socket is no news to a copy: rsync copies it, cp makes one as well.
        run(Command::new(program).args(args).arg(&source).arg(&target));
        sync(round.path);
    });
    millis(took)
}

fn sync(path: &Path) {
    run(Command::new("sync").arg("-f").arg(path));
}

fn run(command: &mut Command) {
    let status = command.stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}
