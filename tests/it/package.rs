//! The Debian package in a clean Debian: installed, run, upgraded, removed, purged.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::deb;
use crate::support::mounts::{Kind, mounted, tool};
use crate::support::nspawn::{Setting, boot};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_package_runs_at_once_keeps_its_state_over_an_upgrade_and_a_purge_leaves_the_store() {
    if let Err(why) = tool("dpkg-deb") {
        return eprintln!("skipped: the package: {why}");
    }
    let Some(disk) = mounted(Kind::Xfs, 1 << 30) else { return };
    let packages = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_snapkeep"));
    let built = ["0.1.0-1", "0.1.0-2"].map(|version| match deb::by_cargo_deb(program, version, packages.path()) {
        Ok(package) => package,
        Err(why) => {
            eprintln!("skipped: the package by cargo-deb: {why}; one made by hand is tested");
            deb::build(program, version, packages.path())
        }
    });
    let Some(container) = boot(&Setting { binds: vec![(&disk.path, "/var/lib/snapkeep"), (packages.path(), "/mnt")], read_only: vec![] })
    else {
        return;
    };
    let path = |package: &PathBuf| format!("/mnt/{}", package.file_name().unwrap().to_str().unwrap());
    let verb = "runuser -u snapkeep -- snapkeep";

    container.ok(&format!("dpkg -i {}", path(&built[0])));
    assert_eq!(container.sh("systemctl is-enabled snapkeep snapkeep.socket snapkeep-once.timer").stdout, b"disabled\ndisabled\ndisabled\n");
    assert_eq!(container.show("snapkeep", "ActiveState"), "inactive");
    // The directory was there before; what is in it is the package's to make.
    assert_eq!(container.ok("stat -c '%U %a' /var/lib/snapkeep/store /var/lib/snapkeep/vms"), "snapkeep 700\nsnapkeep 755\n");
    container.ok("systemctl enable --now snapkeep");
    assert_eq!(container.show("snapkeep", "ActiveState"), "active");
    container.ok("install -d -o snapkeep -g snapkeep /var/lib/snapkeep/vms/a && cd /var/lib/snapkeep/vms/a && echo x > memory && chown snapkeep: memory");
    container.ok(&format!("{verb} snapshot a --name s && {verb} fork a/s b"));
    container.ok("echo '# ours' >> /etc/snapkeep/snapkeep.toml && systemctl reload snapkeep");
    for file in
        ["bash-completion/completions/snapkeep", "zsh/vendor-completions/_snapkeep", "man/man1/snapkeep.1", "doc/snapkeep/install.md"]
    {
        container
            .ok(&format!("test -s /usr/share/{file} || test -s /usr/share/{file}.gz || grep -q 'path-exclude' -r /etc/dpkg/dpkg.cfg.d"));
    }

    // The journal has fields of its own for each event, and says what each is about.
    container.eventually("the journal explains an event", SOON, || {
        let explained = container.sh("journalctl -u snapkeep -x SNAPKEEP_EVENT=snapshot.taken").stdout;
        String::from_utf8_lossy(&explained).lines().filter(|line| line.starts_with("░░")).count() > 2
    });

    let pid = container.show("snapkeep", "MainPID");
    container.ok(&format!("dpkg -i {}", path(&built[1])));
    assert_ne!(container.show("snapkeep", "MainPID"), pid, "it runs the new program");
    assert_eq!(
        (container.show("snapkeep", "ActiveState"), container.ok("systemctl is-enabled snapkeep")),
        ("active".into(), "enabled\n".into())
    );
    container.ok("grep -q '^# ours' /etc/snapkeep/snapkeep.toml");
    let shown: serde_json::Value = serde_json::from_str(&container.ok(&format!("{verb} show a/s --json"))).unwrap();
    assert_eq!(shown["ref_count"], 1);

    container.ok("dpkg --remove snapkeep");
    assert!(container.sh("test -e /usr/bin/snapkeep || pgrep -x snapkeep").status.code() != Some(0), "no program, and nobody who runs it");
    container.ok("grep -q '^# ours' /etc/snapkeep/snapkeep.toml");
    container.ok("dpkg --purge snapkeep");
    container.ok("test ! -e /etc/snapkeep && test ! -e /run/snapkeep && ! systemctl is-enabled snapkeep 2>/dev/null");
    assert!(container.ok("find / -xdev -name '*snapkeep*' -not -path '/proc/*' -not -path '/mnt/*' -not -path '/var/log/*' -not -path '/run/systemd/*'").trim() == "/var/lib/snapkeep");
    container.ok("ls /var/lib/snapkeep/vms/b/memory /var/lib/snapkeep/store/snapshots/*/manifest.json");

    // Installed again it is the same store.
    container.ok(&format!("dpkg -i {} && systemctl start snapkeep", path(&built[1])));
    container.eventually("the snapshot is there", SOON, || container.ok(&format!("{verb} ls --json")).contains("\"name\": \"s\""));
}

#[test]
fn every_unit_and_every_page_is_in_the_package_once() {
    let assets = deb::assets(Path::new(env!("CARGO_BIN_EXE_snapkeep")));
    let there: BTreeSet<&Path> = assets.iter().map(|asset| asset.to.as_path()).collect();
    assert_eq!(there.len(), assets.len(), "one file for each place");
    let taken: BTreeSet<&Path> = assets.iter().map(|asset| asset.from.as_path()).collect();
    for dir in ["config/systemd", "config/systemd/drop-ins", "config/journal", "config/completions", "docs/man", "config/monitoring"] {
        for entry in std::fs::read_dir(deb::checkout().join(dir)).into_iter().flatten() {
            let path = entry.unwrap().path();
            assert!(path.is_dir() || taken.contains(path.as_path()), "{} is not in [package.metadata.deb]", path.display());
        }
    }
}

/// The list of files, modes and conffiles is that of the package that is tested without it.
#[test]
fn cargo_deb_builds_the_same_package() {
    let dir = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_snapkeep"));
    let package = match deb::by_cargo_deb(program, "0.1.0-1", dir.path()) {
        Ok(package) => package,
        Err(why) => return eprintln!("skipped: the package by cargo-deb: {why}"),
    };
    let ours = deb::build(program, "0.1.0-1", dir.path());
    let files = |package: &Path| -> BTreeSet<String> {
        let listed = Command::new("dpkg-deb").arg("--contents").arg(package).output().unwrap();
        let line = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (!words[5].ends_with('/')).then(|| format!("{} {}", words[0], words[5].trim_end_matches(".gz")))
        };
        String::from_utf8(listed.stdout).unwrap().lines().filter_map(line).filter(|line| !line.ends_with("/copyright")).collect()
    };
    assert_eq!(files(&package), files(&ours));
    for part in ["conffiles", "postinst", "prerm", "postrm"] {
        let read = |package: &Path| Command::new("dpkg-deb").arg("--info").arg(package).arg(part).output().unwrap().stdout;
        assert_eq!(String::from_utf8_lossy(&read(&package)).trim(), String::from_utf8_lossy(&read(&ours)).trim(), "{part}");
    }
}

/// As somebody builds it who wants to install it.
#[test]
fn the_release_is_built_and_packed_by_one_command() {
    if std::env::var_os("FULL").is_none() {
        return eprintln!("skipped: cargo deb with the release: it takes many minutes, FULL=1 runs it");
    }
    if let Err(why) = tool("cargo-deb") {
        return eprintln!("skipped: cargo deb with the release: {why}: cargo install cargo-deb --locked");
    }
    let dir = tempfile::tempdir().unwrap();
    let package = dir.path().join("snapkeep.deb");
    let built = Command::new("cargo").args(["deb", "--locked", "--output"]).arg(&package).current_dir(deb::checkout()).output().unwrap();
    assert!(built.status.success(), "{built:?}");
    let tree = dir.path().join("tree");
    assert!(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&tree).status().unwrap().success());
    let said = Command::new(tree.join("usr/bin/snapkeep")).arg("--version").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), format!("snapkeep {}\n", env!("CARGO_PKG_VERSION")));
}
