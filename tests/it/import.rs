//! Directories that a script made become snapshots: of the right time, once, whole, and never lost on the way.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::too_many_lines,
    reason = "tests"
)]

use crate::support::faulty::DeadFrom;
use crate::support::mounts::{Kind, mounted, tmpfs};
use crate::support::program::{Program, eventually};
use crate::support::{World, instance, listing, write_sparse};
use nix::errno::Errno;
use serde_json::Value;
use snapkeep::event::Event;
use snapkeep::store::fs::{Fs, Gate, Op};
use snapkeep::worker::backend::Backend;
use snapkeep::worker::importing::ImportBody;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The directory that the script wrote into: on the store's file system, beside it.
fn backups(world: &World) -> PathBuf {
    let dir = world.store.parent().unwrap().join("backup");
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// What the script did.
fn back_up(source: &Path, to: &Path, how: &str) {
    assert!(Command::new("cp").arg(how).arg(source).arg(to).status().unwrap().success());
}

fn set_mtime(path: &Path, date: &str) {
    assert!(Command::new("touch").args(["-d", date]).arg(path).status().unwrap().success());
}

/// Entries of an answer as `name result`, with the time where one was found.
fn results(view: &Value) -> Vec<String> {
    let text = |v: &Value| v.as_str().unwrap_or("-").trim_end_matches(":00Z").replace('T', " ");
    view["entries"].as_array().unwrap().iter().map(|e| format!("{} {} {}", text(&e["name"]), text(&e["result"]), text(&e["at"]))).collect()
}

fn created(program: &Program) -> Vec<String> {
    program.json("ls")["snapshots"].as_array().unwrap().iter().map(|s| s["created_at"].as_str().unwrap().to_owned()).collect()
}

const NIGHTLY: &str = "[[policy]]\nname = \"nightly\"\ninstances = [\"golden\"]\nevery = \"24h\"\ntags = { by = \"nightly\" }\n[policy.keep]\ndaily = 3\nmonthly = 2\n";

#[test]
fn a_scripts_directories_become_snapshots_of_their_time_for_a_policy_to_remove() {
    for with_worker in [false, true] {
        let world = World::new();
        let golden = world.make_instance("golden");
        let dir = backups(&world);
        for name in ["2024-01-30T03-00-00", "2024-02-01T03-00-00", "2024-02-02T03-00-00", "2024-02-03T03-00-00"] {
            back_up(&golden, &dir.join(name), "-a");
            fs::write(dir.join(name).join("of"), name).unwrap();
        }
        back_up(&golden, &dir.join("latest"), "-a");
        set_mtime(&dir.join("latest"), "2024-02-04 05:06:07 UTC");
        fs::write(dir.join("backup.log"), "done\n").unwrap();
        // A prune must come when it is asked for, not before.
        let program = Program::with(&world, &format!("[prune]\nevery = \"1h\"\n[trash]\ngrace = \"0s\"\n{NIGHTLY}"));
        program.ok("init");
        program.ok("snapshot golden --name now");
        let worker = with_worker.then(|| program.run());
        let before = listing(&dir);
        let line = format!("import {} --instance golden --policy nightly --tag from=script", dir.display());
        let table = program.ok(&format!("{line} --dry-run"));
        if !with_worker {
            println!("{table}");
        }
        let wanted = [
            "2024-01-30T03-00-00  2024-01-30 03:00:00 UTC  name   would be taken",
            "latest               2024-02-04 05:06:07 UTC  mtime  would be taken",
            "it is a file, not a directory",
            "5 snapshots of golden would be taken (of policy nightly), 0 before, 1 left, 0 failed",
        ];
        for wanted in wanted {
            assert!(table.contains(wanted), "{wanted}\n{table}");
        }
        assert_eq!(created(&program).len(), 1, "a dry run takes nothing");
        let view = program.json(&line);
        assert_eq!(view["entries"].as_array().unwrap().iter().filter(|e| e["result"] == "taken").count(), 5, "{view}");
        assert_eq!(listing(&dir), before, "the directories are what they were");
        let all = program.json("ls");
        let names: Vec<_> = all["snapshots"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
        let stamps = ["20240130-030000", "20240201-030000", "20240202-030000", "20240203-030000", "20240204-050607"];
        assert_eq!(names[..5], stamps.map(|s| format!("golden-{s}")), "by their own times");
        assert_eq!(names[5], "now", "the newest is what was taken here");
        let seq: Vec<_> = all["snapshots"].as_array().unwrap().iter().map(|s| s["seq"].as_u64().unwrap()).collect();
        assert!(seq[..5].is_sorted() && seq[0] > seq[5], "numbered as they came, the oldest first: {seq:?}");
        let first = program.json("show golden/golden-20240130-030000");
        assert_eq!(
            (&first["created_at"], &first["policy"], &first["kind"]),
            (&"2024-01-30T03:00:00Z".into(), &"nightly".into(), &"standby".into())
        );
        assert_eq!(first["tags"], serde_json::json!({"by": "nightly", "from": "script"}));
        assert_eq!(first["imported_from"], dir.join("2024-01-30T03-00-00").display().to_string());
        let again = program.json(&line);
        assert_eq!(again["entries"].as_array().unwrap().iter().filter(|e| e["result"] == "known").count(), 5, "{again}");
        assert_eq!(created(&program).len(), 6, "twice imported is taken once");
        // The restored tree is the script's, and a fork of it does not name the source.
        program.ok("fork golden/golden-20240201-030000 web");
        let config = fs::read_to_string(world.vms.join("web/config.json")).unwrap();
        assert!(
            config.contains(&world.vms.join("web").display().to_string())
                && fs::read_to_string(world.vms.join("web/of")).unwrap().starts_with("2024-02-01"),
            "{config}"
        );
        assert!(program.ok("plan").contains("needed by web") || program.ok("plan").contains("monthly"));
        program.ok("prune");
        let left = created(&program);
        let wanted = ["2024-01-30T03:00:00Z", "2024-02-02T03:00:00Z", "2024-02-03T03:00:00Z", "2024-02-04T05:06:07Z"];
        let is_kept = |at: &str| left.iter().any(|l| l == at);
        assert!(wanted.iter().all(|at| is_kept(at)), "{left:?}");
        assert!(is_kept("2024-02-01T03:00:00Z"), "a fork needs it");
        program.ok("unfork web");
        // Its files, and with them its ref, go in the background.
        eventually("no rule keeps it, and no fork", Duration::from_secs(15), || {
            program.ok("prune");
            !created(&program).iter().any(|at| at == "2024-02-01T03:00:00Z")
        });
        assert_eq!(program.json("verify")["findings"], serde_json::json!([]));
        program.ok("restore golden/golden-20240130-030000");
        assert_eq!(fs::read_to_string(golden.join("of")).unwrap(), "2024-01-30T03-00-00");
        if let Some(worker) = worker {
            let log = worker.log();
            assert_eq!(worker.stop(), 0);
            assert_eq!(log.matches("\"snapshot.imported\"").count(), 5, "{log}");
        }
    }
}

#[test]
fn what_is_moved_is_no_longer_there_and_a_snapshot_like_any_other() {
    let world = World::new();
    let golden = world.make_instance("golden");
    fs::remove_dir_all(golden.join("logs")).unwrap();
    fs::set_permissions(golden.join("config.json"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::create_dir(golden.join("sub")).unwrap();
    fs::set_permissions(golden.join("sub"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::hard_link(golden.join("overlay.raw"), golden.join("sub/again")).unwrap();
    let dir = backups(&world);
    back_up(&golden, &dir.join("20240101-0300"), "-a");
    back_up(&golden, &dir.join("20240102-0300"), "-a");
    // As rsync --link-dest does: its files have names in the one before.
    back_up(&dir.join("20240102-0300"), &dir.join("20240103-0300"), "-al");
    back_up(&golden, &dir.join("20240104-0300"), "-a");
    fs::create_dir(dir.join("20240104-0300/logs")).unwrap();
    fs::write(dir.join("20240104-0300/logs/app.log"), "precious\n").unwrap();
    back_up(&golden, &dir.join("20240105-0300"), "-a");
    let open = fs::File::options().append(true).open(dir.join("20240105-0300/overlay.raw")).unwrap();
    let inode = fs::metadata(dir.join("20240101-0300/overlay.raw")).unwrap().ino();
    let source = listing(&golden);
    let program = Program::new(&world, "");
    program.ok("init");
    let line = format!("import {} --instance golden --move", dir.display());
    let view = program.json(&line);
    let ways: Vec<_> =
        view["entries"].as_array().unwrap().iter().map(|e| (e["way"].as_str().unwrap(), e["why"].as_str().unwrap_or("gone"))).collect();
    println!("{ways:?}");
    let copied = if view["notes"].to_string().contains("cannot share") { "copied" } else { "reflinked" };
    assert_eq!(ways[0], ("moved", "gone"));
    assert_eq!((ways[1], ways[2]), ((copied, "gone"), ("moved", "gone")), "the last of those that had names in each other has them alone");
    assert!(ways[3].0 == copied && ways[3].1.contains("what snapshots leave out (logs)"), "{ways:?}");
    assert!(ways[4].0 == copied && ways[4].1.contains("has it open"), "{ways:?}");
    let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(fs::read_to_string(dir.join("20240104-0300/logs/app.log")).unwrap(), "precious\n");
    let moved = program.json("show golden/golden-20240101-030000")["id"].as_str().unwrap().to_owned();
    let data = world.store.join("snapshots").join(&moved).join("data");
    assert_eq!(fs::metadata(data.join("overlay.raw")).unwrap().ino(), inode, "it is the same file");
    assert_eq!(fs::metadata(data.join("memory")).unwrap().mode() & 0o777, 0o444);
    assert_eq!(fs::metadata(data.join("config.json")).unwrap().mode() & 0o222, 0);
    assert_eq!(program.json("verify")["findings"], serde_json::json!([]));
    program.ok("fork golden/golden-20240101-030000 web");
    assert_eq!(fs::metadata(world.vms.join("web/memory")).unwrap().ino(), fs::metadata(data.join("memory")).unwrap().ino());
    for name in ["golden-20240101-030000", "golden-20240103-030000"] {
        program.ok(&format!("restore golden/{name}"));
        assert_eq!(listing(&golden), source, "{name}: modes and all");
    }
    // Once nobody has it open, and it is still what was taken, it goes.
    drop(open);
    let again = program.json(&line);
    assert_eq!(results(&again), ["20240104-0300 known 2024-01-04 03:00", "20240105-0300 known 2024-01-05 03:00"]);
    assert!(!dir.join("20240105-0300").exists() && dir.join("20240104-0300").exists());
    assert_eq!(program.json("ls")["snapshots"].as_array().unwrap().len(), 5);
    assert!(!world.store.join("importing").exists() || listing(&world.store.join("importing")).is_empty());
}

#[test]
fn times_are_read_in_their_zone_and_those_that_no_clock_or_two_showed_are_left() {
    let world = World::new();
    let dir = backups(&world);
    for name in [
        "vm-2024-07-01T12-00-00",
        "vm-2024-12-01T12-00-00",
        "vm-2024-10-27T02-30-00",
        "vm-2024-10-27T02-30-00+02:00",
        "vm-2024-03-31T02-30-00",
        "vm-2999-01-01T00-00-00",
        "vm-1969-01-01T00-00-00",
        "other",
    ] {
        fs::create_dir(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("disk.raw"), name).unwrap();
    }
    let program = Program::new(&world, "");
    program.ok("init");
    let line = format!("import {} --instance vm --timezone Europe/Vienna --dry-run --pattern", dir.display());
    let by_pattern = results(&program.json(&format!("{line} vm-%Y-%m-%dT%H-%M-%S")));
    let wanted = [
        // The offset stands behind the pattern, which does not have it.
        "vm-2024-07-01 12-00-00 taken 2024-07-01 10:00",
        "vm-2024-12-01 12-00-00 taken 2024-12-01 11:00",
        "other left -",
        "vm-1969-01-01 00-00-00 left 1968-12-31 23:00",
        "vm-2024-03-31 02-30-00 left -",
        "vm-2024-10-27 02-30-00 left -",
        "vm-2024-10-27 02-30-00+02:00 left -",
        "vm-2999-01-01 00-00-00 left 2998-12-31 23:00",
    ];
    assert_eq!(by_pattern, wanted);
    let view = program.json(&line.replace("--dry-run --pattern", "--dry-run"));
    let why = |name: &str| {
        view["entries"].as_array().unwrap().iter().find(|e| e["name"] == name).unwrap()["why"].as_str().unwrap_or("taken").to_owned()
    };
    assert!(why("vm-2024-10-27T02-30-00").contains("twice (00:30 and 01:30 UTC)"));
    assert!(why("vm-2024-03-31T02-30-00").contains("never showed 2024-03-31 02:30:00"));
    assert_eq!((why("vm-2024-10-27T02-30-00+02:00"), why("other")), ("taken".to_owned(), "taken".to_owned()));
    assert!(why("vm-2999-01-01T00-00-00").contains("in the future") && why("vm-1969-01-01T00-00-00").contains("before 1970"));
    program.ok(&line.replace("--dry-run --pattern", "").trim_end().replace("  ", " "));
    assert_eq!(created(&program)[..3], ["2024-07-01T10:00:00Z", "2024-10-27T00:30:00Z", "2024-12-01T11:00:00Z"]);
    for (bad, code, wanted) in [
        ("--pattern %H", 2, "does not say which day"),
        ("--timezone Mars/Base", 2, "there is no time zone \"Mars/Base\""),
        ("--policy none", 3, "there is no policy none"),
    ] {
        let (is, why) = program.fails(&format!("import {} --instance vm {bad}", dir.display()));
        assert!(is == code && why.contains(wanted), "{bad}: {is} {why}");
    }
    for (bad, code) in
        [(world.vms.clone(), 2), (world.store.join("snapshots"), 2), (dir.join("not-there"), 3), (dir.join("other/disk.raw"), 2)]
    {
        assert_eq!(program.fails(&format!("import {} --instance vm", bad.display())).0, code, "{}", bad.display());
    }
}

#[test]
fn strange_names_and_links_are_left_and_nothing_outside_is_touched() {
    let world = World::new();
    let dir = backups(&world);
    let outside = world.store.parent().unwrap().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("canary"), "x").unwrap();
    let make = |name: &OsStr| {
        fs::create_dir(dir.join(name)).unwrap();
        write_sparse(&dir.join(name).join("disk.raw"), 64 << 10, &[(4096, b"data")]);
    };
    let strange = [
        b"2024-01-01\xff".as_slice(),
        b"2024-01-02 \x1b[31mred\n",
        "2024-01-03 \u{202e}ümlaut".as_bytes(),
        b"2024-01-04-;rm -rf $HOME",
        &[b'x'; 255],
    ];
    strange.iter().for_each(|name| make(OsStr::from_bytes(name)));
    make(OsStr::new(".2024-01-05"));
    make(OsStr::new(".snapkeep-imported-20240101-000000-abcdefgh"));
    symlink(&outside, dir.join("2024-01-06")).unwrap();
    nix::unistd::mkfifo(&dir.join("2024-01-07"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    make(OsStr::new("2024-01-08"));
    let inner = dir.join("2024-01-08");
    symlink(&outside, inner.join("link")).unwrap();
    symlink("/etc/passwd", inner.join("memory")).unwrap();
    nix::unistd::mkfifo(&inner.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(inner.join("s.sock")).unwrap();
    fs::create_dir(inner.join(".snapkeep")).unwrap();
    fs::write(inner.join(".snapkeep/tags.toml"), "tier = \"gold\"\n").unwrap();
    fs::write(inner.join(".snapkeep/fork.json"), "{\"format\": 1").unwrap();
    set_mtime(&dir.join(OsStr::from_bytes(strange[4])), "2024-01-09 00:00:00 UTC");
    let program = Program::new(&world, "");
    program.ok("init");
    let before = listing(&outside);
    let text = program.ok(&format!("import {} --instance vm --move", dir.display()));
    println!("{text}");
    assert!(!text.contains('\u{1b}') || !text.contains("[31mred"), "nothing that a terminal would obey");
    let snapshots = program.json("ls")["snapshots"].as_array().unwrap().clone();
    let times: Vec<_> = snapshots.iter().map(|s| s["created_at"].as_str().unwrap().get(..10).unwrap().to_owned()).collect();
    assert_eq!(times, ["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04", "2024-01-08", "2024-01-09"]);
    assert_eq!(snapshots[4]["tags"]["tier"], "gold", "the tags that it had");
    assert_eq!(listing(&outside), before);
    let left: Vec<_> = listing(&dir).into_iter().filter(|line| !line.contains("disk.raw")).collect();
    assert_eq!(left.len(), 3, "the hidden ones and the link stay: {left:?}");
    assert!(dir.join("2024-01-07").exists() && dir.join(".snapkeep-imported-20240101-000000-abcdefgh/disk.raw").exists());
    assert_eq!(program.json("verify")["findings"], serde_json::json!([]));
}

fn moving(dir: &Path) -> ImportBody {
    let body = serde_json::json!({"dir": dir, "instance": "vm", "move": true});
    serde_json::from_value(body).unwrap()
}

/// Writes into the directory once all of it was read, and just before it is renamed.
#[derive(Debug)]
struct Meddles(PathBuf);

impl Gate for Meddles {
    fn before(&self, op: Op, path: &Path) -> Result<(), Errno> {
        if op == Op::Rename && path.ends_with("data") && self.0.exists() {
            fs::write(&self.0, "changed at the last moment").unwrap();
        }
        Ok(())
    }
}

#[test]
fn what_changes_while_it_is_moved_goes_back_and_is_copied_as_it_is() {
    let world = World::new();
    let dir = backups(&world);
    fs::create_dir(dir.join("2024-01-01")).unwrap();
    fs::write(dir.join("2024-01-01/state"), "as it was").unwrap();
    let worker = world.try_worker("[worker]\nthreads = 1\n", Fs::gated(Arc::new(Meddles(dir.join("2024-01-01/state"))))).unwrap();
    let view = worker.import(&moving(&dir)).unwrap();
    assert_eq!((view.entries[0].way.as_deref(), view.entries[0].why.as_deref()), (Some("copied"), None), "{view:?}");
    let id = view.entries[0].id.clone().unwrap();
    assert_eq!(fs::read_to_string(worker.store.layout.snapshot(&id).join("data/state")).unwrap(), "changed at the last moment");
    assert!(listing(&dir).is_empty() && listing(&worker.store.layout.importing()).is_empty());
}

/// Remembers what was done, in its order.
#[derive(Debug, Default)]
struct Remembers(Mutex<Vec<(Op, PathBuf)>>);

impl Gate for Remembers {
    fn before(&self, _: Op, _: &Path) -> Result<(), Errno> {
        Ok(())
    }

    fn after(&self, op: Op, path: &Path) {
        self.0.lock().unwrap().push((op, path.to_owned()));
    }
}

#[test]
fn a_directory_that_has_a_snapshot_already_is_taken_away_only_when_that_is_durable() {
    let world = World::new();
    let dir = backups(&world);
    fs::create_dir(dir.join("2024-01-01")).unwrap();
    fs::write(dir.join("2024-01-01/state"), "as it was").unwrap();
    let gate = Arc::new(Remembers::default());
    let worker = world.try_worker("[worker]\nthreads = 1\n", Fs::gated(Arc::clone(&gate) as _)).unwrap();
    let copying: ImportBody = serde_json::from_value(serde_json::json!({"dir": dir, "instance": "vm"})).unwrap();
    worker.import(&copying).unwrap();
    gate.0.lock().unwrap().clear();
    worker.import(&moving(&dir)).unwrap();
    assert!(listing(&dir).is_empty());
    let calls = gate.0.lock().unwrap();
    let snapshots = worker.store.layout.snapshots();
    let durable = calls.iter().position(|(op, path)| *op == Op::Fsync && *path == snapshots).unwrap();
    let gone = calls.iter().position(|(op, path)| matches!(op, Op::Rename | Op::Unlink) && path.starts_with(&dir)).unwrap();
    assert!(durable < gone, "{calls:#?}");
}

#[test]
fn a_directory_that_changed_after_its_move_was_stopped_is_no_snapshot_and_stays_where_it_is() {
    let world = World::new();
    let dir = backups(&world);
    fs::create_dir(dir.join("2024-01-01")).unwrap();
    fs::write(dir.join("2024-01-01/memory"), "as it was").unwrap();
    let rest = "[worker]\nthreads = 1\n[driver]\nmemory_names = [\"memory\"]\n";
    let gate = Arc::new(DeadFrom::new(Op::SetMeta, "data/memory"));
    let worker = world.try_worker(rest, Fs::gated(Arc::clone(&gate) as _)).unwrap();
    let view = worker.import(&moving(&dir)).unwrap();
    assert!(view.entries[0].result == "failed" && view.entries[0].why.as_ref().unwrap().contains("no snapshot yet"), "{view:?}");
    let pending = listing(&worker.store.layout.importing()).into_iter().find(|line| line.contains("data/memory")).unwrap();
    let file = worker.store.layout.importing().join(pending.split(' ').next().unwrap());
    drop(worker);
    fs::write(&file, "scribbled over").unwrap();
    let worker = world.worker(rest);
    assert!(worker.store.index().of_instance(&instance("vm")).is_empty());
    let why = world.events.events().into_iter().rev().find_map(|e| match e {
        Event::RecordUnreadable { path, why, .. } if path.contains("importing") => Some(why),
        _ => None,
    });
    assert!(why.unwrap().contains("no longer what it was"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "scribbled over", "nothing is lost");
    drop(worker);
    // Put right by hand, it goes on.
    fs::write(&file, "as it was").unwrap();
    let manifest = file.ancestors().find(|p| p.ends_with("data")).unwrap().with_file_name("manifest.json");
    let ns = fs::read_to_string(manifest)
        .unwrap()
        .split("memory")
        .nth(1)
        .unwrap()
        .split("\"mtime_ns\":")
        .nth(1)
        .unwrap()
        .split(',')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    Fs::real().set_mtime(&file, ns).unwrap();
    let worker = world.worker(rest);
    assert_eq!(worker.store.index().of_instance(&instance("vm")).len(), 1);
    assert!(listing(&worker.store.layout.importing()).is_empty());
}

#[test]
fn files_are_shared_where_the_file_system_can_and_copied_from_another_mount() {
    for kind in [Kind::Xfs, Kind::Btrfs] {
        let (Some(disk), Some(other)) = (mounted(kind, 512 << 20), tmpfs("size=64m")) else { continue };
        let world = World::at(&disk.path);
        let golden = world.make_instance("golden");
        let (near, far) = (backups(&world), other.path.join("backup"));
        fs::create_dir(&far).unwrap();
        for (dir, name) in [(&near, "2024-01-01"), (&near, "2024-01-02"), (&far, "2024-01-03")] {
            back_up(&golden, &dir.join(name), "-a");
            fs::remove_dir_all(dir.join(name).join("logs")).unwrap();
        }
        let program = Program::new(&world, "");
        program.ok("init");
        let way = |line: &str| {
            let view = program.json(line);
            view["entries"]
                .as_array()
                .unwrap()
                .iter()
                .map(|e| format!("{} {}", e["way"].as_str().unwrap_or("-"), e["why"].as_str().unwrap_or("-")))
                .collect::<Vec<_>>()
        };
        assert_eq!(way(&format!("import {} --instance vm", near.display())), ["reflinked -", "reflinked -"], "{kind}");
        assert_eq!(way(&format!("import {} --instance other --move", near.display())), ["moved -", "moved -"], "{kind}");
        assert_eq!(way(&format!("import {} --instance vm --move", far.display())), ["copied -"], "{kind}");
        assert!(listing(&near).is_empty() && listing(&far).is_empty(), "{kind}");
        assert_eq!(program.json("verify")["findings"], serde_json::json!([]), "{kind}");
        println!("{kind}: reflinked, moved, copied");
    }
}

#[test]
fn what_is_imported_for_an_instance_that_is_not_there_is_known_and_goes_with_it() {
    let world = World::new();
    let dir = backups(&world);
    for name in ["2024-01-01", "2024-01-02"] {
        fs::create_dir(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("disk.raw"), name).unwrap();
    }
    let rest = "[worker]\nthreads = 1\n[trash]\ngrace = \"0s\"\n[[policy]]\nname = \"p\"\ninstances = [\"*\"]\nevery = \"1h\"\n[policy.keep]\nlast = 5\n[policy.gone]\nafter = \"2h\"\nmin = 1\n";
    let worker = world.worker(rest);
    let body = serde_json::json!({"dir": dir, "instance": "vm", "policy": "p"});
    assert_eq!(worker.import(&serde_json::from_value(body).unwrap()).unwrap().entries.len(), 2);
    let count = || worker.store.index().of_instance(&instance("vm")).len();
    let hour = || {
        world.clock.advance(Duration::from_secs(3600));
        worker.once().unwrap();
        let status = worker.status().unwrap().policies;
        (status[0].state.clone(), status[0].snapshots, count())
    };
    assert_eq!(hour(), ("gone".to_owned(), 2, 2));
    assert_eq!(hour(), ("gone".to_owned(), 2, 2));
    assert_eq!(hour(), ("gone".to_owned(), 1, 1), "two hours after it was seen that it is not there");
}
