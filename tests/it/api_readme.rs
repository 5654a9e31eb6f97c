//! The examples of the README, executed.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::World;
use crate::support::program::Program;
use std::process::Command;

#[test]
fn the_curl_commands_of_the_readme_do_what_it_says() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("skipped: the curl examples of the README: curl is missing (package curl)");
        return;
    }
    let world = World::new();
    world.make_instance("golden");
    let program =
        Program::new(&world, "[[policy]]\nname = \"golden\"\ninstances = [\"golden*\"]\nevery = \"1h\"\n[policy.keep]\nlast = 4\n");
    program.ok("init");
    let _worker = program.run();
    let text = include_str!("../../README.md");
    let block = text.split("## Over HTTP").nth(1).and_then(|rest| rest.split("```sh\n").nth(1)).and_then(|rest| rest.split("```").next());
    let mut lines = block.unwrap().lines();
    assert_eq!(lines.next(), Some("S=/run/snapkeep/snapkeep.sock"));
    let mut tried = 0;
    while let (Some(comment), Some(command)) = (lines.next(), lines.next()) {
        let status = comment.rsplit(' ').next().unwrap();
        assert!(comment.starts_with("# ") && status.len() == 3, "a comment ends with the status: {comment}");
        let script = command.replace("curl ", "curl -sS --max-time 60 -w '\\n%{http_code}' ");
        let output = Command::new("sh").args(["-euc", &script]).env("S", program.socket()).output().unwrap();
        let answer = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && answer.ends_with(status), "{command}: {answer} {}", String::from_utf8_lossy(&output.stderr));
        tried += 1;
    }
    assert_eq!(tried, 9);
    assert!(!world.vms.join("ci-1").exists() && world.vms.join("ci-2").exists());
}
