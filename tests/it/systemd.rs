//! The units of config/systemd under a real systemd: ready, reload, watchdog, sockets, the timer, a stop in the middle, the
//! journal. And the watchdog's food, counted by a manager of our own, while the worker's loop stands still.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::World;
use crate::support::mounts::{Kind, Mounted, mounted, tool};
use crate::support::nspawn::{Container, Setting, boot};
use crate::support::program::Program;
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);
const PATHS: &str = "[store]\npath = \"/var/lib/snapkeep/store\"\ninstances = \"/var/lib/snapkeep/vms\"\n\
                     [api]\nsocket = \"/run/snapkeep/snapkeep.sock\"\n[trash]\ngrace = \"0s\"\n";
const EVERY_SECOND: &str = "[[policy]]\nname = \"gold\"\ninstances = [\"golden\"]\nevery = \"1s\"\n[policy.keep]\nlast = 3\n";
/// A verb as the worker's user.
const VERB: &str = "runuser -u snapkeep -- snapkeep";

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/systemd")
}

/// A machine with the units, an instance, and /var/lib/snapkeep on a file system of this kind.
struct Machine {
    container: Container,
    _disk: Mounted,
}

impl Machine {
    fn new(kind: Kind, config: &str) -> Option<Self> {
        let disk = mounted(kind, 2 << 30)?;
        let setting = Setting {
            binds: vec![(&disk.path, "/var/lib/snapkeep")],
            read_only: vec![(Path::new(env!("CARGO_BIN_EXE_snapkeep")), "/usr/bin/snapkeep")],
        };
        let container = boot(&setting)?;
        for entry in fs::read_dir(units()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let to = match name.rsplit_once('.') {
                Some((_, "service" | "socket" | "timer")) => format!("/usr/lib/systemd/system/{name}"),
                Some((stem, kind @ ("sysusers" | "tmpfiles"))) => format!("/usr/lib/{kind}.d/{stem}.conf"),
                _ => continue,
            };
            container.copy(&path, &to);
        }
        container.write("/etc/snapkeep/snapkeep.toml", &format!("{PATHS}{config}"));
        container.ok("systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload");
        // The file system was there before the user.
        container.ok("chown snapkeep: /var/lib/snapkeep");
        container.ok(&format!("{VERB} init && install -d -o snapkeep -g snapkeep /var/lib/snapkeep/vms/golden"));
        container.ok("cd /var/lib/snapkeep/vms/golden && head -c 1M /dev/urandom > memory && head -c 1M /dev/urandom > overlay.raw && \
             truncate -s 64M overlay.raw && chown snapkeep: *");
        Some(Self { container, _disk: disk })
    }

    fn drop_in(&self, unit: &str, text: &str) {
        self.container.write(&format!("/etc/systemd/system/{unit}.d/test.conf"), text);
        self.container.ok("systemctl daemon-reload");
    }

    fn json(&self, line: &str) -> serde_json::Value {
        serde_json::from_str(&self.container.ok(&format!("{VERB} {line} --json"))).unwrap()
    }

    fn snapshots(&self) -> usize {
        self.json("ls")["snapshots"].as_array().unwrap().len()
    }

    fn main_pid(&self) -> String {
        self.container.show("snapkeep", "MainPID")
    }
}

#[test]
fn the_unit_is_up_when_the_worker_takes_work_and_links_within_its_limits() {
    let Some(machine) = Machine::new(Kind::Xfs, "") else { return };
    let container = &machine.container;
    container.ok("systemctl start snapkeep");
    assert_eq!(container.show("snapkeep", "ActiveState"), "active");
    assert_eq!(container.show("snapkeep", "StatusText"), "snapshots 0, forks 0, queue 0, failing schedules 0");
    let taken = machine.json("snapshot golden --name base");
    let forked = machine.json("fork golden/base --count 3 --prefix web");
    for request in forked["requests"].as_array().unwrap() {
        assert_eq!((&request["state"], &request["memory"]), (&"done".into(), &"hardlink".into()), "one mount for both, or this is EXDEV");
        assert_eq!(request["disk"], "reflink", "{request}");
    }
    let id = taken["id"].as_str().unwrap();
    let links = container.ok(&format!("stat -c %h /var/lib/snapkeep/store/snapshots/{id}/data/memory /var/lib/snapkeep/vms/web-3/memory"));
    assert_eq!(links, "4\n4\n");
    container
        .eventually("the status follows", SOON, || container.show("snapkeep", "StatusText").starts_with("snapshots 1, forks 3, queue 0"));
    // Nobody special, and without any capability.
    let status = container.ok(&format!("cat /proc/{}/status", machine.main_pid()));
    let uid = container.ok("id -u snapkeep");
    assert!(status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(1) == Some(uid.trim())), "{status}");
    assert!(status.contains("CapEff:\t0000000000000000") && status.contains("NoNewPrivs:\t1"), "{status}");
    let denied = container.sh(&format!("nsenter -t {} -m sh -c 'touch /etc/x || touch /usr/x'", machine.main_pid()));
    assert!(!denied.status.success(), "all but one directory is read-only");
    assert_eq!(machine.json("verify")["findings"], serde_json::json!([]));
    container.ok("systemctl stop snapkeep");
    assert_eq!((container.show("snapkeep", "Result"), container.show("snapkeep", "NRestarts")), ("success".into(), "0".into()));
    // The journal, as somebody reads it who has nothing but the disk.
    let journal = container.journal(&["-u", "snapkeep", "-o", "json"]);
    for event in ["worker.started", "snapshot.taken", "fork.created", "worker.stopped"] {
        assert!(journal.contains(event), "{event}: {journal}");
    }
}

#[test]
fn a_reload_of_a_bad_file_fails_and_changes_nothing_and_a_good_one_counts() {
    let Some(machine) = Machine::new(Kind::Ext4, "") else { return };
    let container = &machine.container;
    container.ok("systemctl start snapkeep");
    let pid = machine.main_pid();
    let write = |config: &str| container.write("/etc/snapkeep/snapkeep.toml", &format!("{PATHS}{config}"));
    write(&EVERY_SECOND.replace("last", "lest"));
    let reload = container.sh("systemctl reload snapkeep");
    assert!(!reload.status.success(), "{reload:?}");
    container.eventually("the status says why", SOON, || {
        let status = container.show("snapkeep", "StatusText");
        status.contains("reload rejected, the old configuration is in force: error: unknown key `lest`")
            && status.contains("/etc/snapkeep/snapkeep.toml:")
    });
    assert_eq!(container.show("snapkeep", "ActiveState"), "active");
    assert!(container.journal(&["-u", "snapkeep"]).contains("config.rejected"));
    write(EVERY_SECOND);
    container.ok("systemctl reload snapkeep");
    container.eventually("the new policy is in force", SOON, || machine.snapshots() > 0);
    container.eventually("all is well again", SOON, || !container.show("snapkeep", "StatusText").contains("rejected"));
    assert_eq!((machine.main_pid(), container.show("snapkeep", "ActiveState")), (pid, "active".into()), "the same process");
}

#[test]
fn a_worker_that_hangs_under_load_is_killed_by_the_watchdog_and_goes_on_where_it_was() {
    let Some(machine) = Machine::new(Kind::Xfs, EVERY_SECOND) else { return };
    let container = &machine.container;
    machine.drop_in("snapkeep.service", "[Service]\nWatchdogSec=8\nRestartSec=200ms\n");
    container.ok("systemctl start snapkeep");
    let base = machine.json("snapshot golden --name base")["id"].as_str().unwrap().to_owned();
    // Load for longer than the watchdog waits: it must be fed all the same.
    let began = Instant::now();
    let mut asked = 0;
    while began.elapsed() < Duration::from_secs(10) {
        asked += 50;
        machine.json(&format!("fork {base} --count 50 --prefix web --no-wait"));
    }
    assert_eq!(container.show("snapkeep", "NRestarts"), "0", "{}", container.journal(&["-n", "50"]));
    machine.json(&format!("fork {base} --count 200 --prefix web --no-wait"));
    asked += 200;
    container.ok(&format!("kill -STOP {}", machine.main_pid()));
    container.eventually("it is started again", SOON * 2, || {
        container.show("snapkeep", "NRestarts") == "1" && container.show("snapkeep", "ActiveState") == "active"
    });
    let journal = container.journal(&["-u", "snapkeep"]);
    assert!(journal.contains("Watchdog timeout") && journal.contains("ABRT"), "{journal}");
    container.eventually("every fork that was asked for is there", Duration::from_secs(60), || {
        machine.json("forks")["forks"].as_array().unwrap().len() == asked
    });
    let findings = machine.json("verify --quick");
    let is_grave = |finding: &serde_json::Value| finding["severity"] != "info";
    assert!(!findings["findings"].as_array().unwrap().iter().any(is_grave), "{findings}");
}

#[test]
fn systemd_holds_the_socket_and_starts_the_worker_for_the_first_who_asks() {
    let Some(machine) = Machine::new(Kind::Ext4, "") else { return };
    let container = &machine.container;
    machine.drop_in("snapkeep.socket", "[Socket]\nSocketGroup=daemon\nSocketMode=0660\n");
    container.ok("systemctl start snapkeep.socket");
    assert_eq!(container.ok("stat -c '%U:%G %a' /run/snapkeep/snapkeep.sock"), "snapkeep:daemon 660\n");
    assert_eq!(container.show("snapkeep", "ActiveState"), "inactive");
    assert_eq!(machine.json("status")["worker"]["running"], true, "whoever asks first waits for the start");
    assert_eq!(container.show("snapkeep", "ActiveState"), "active");
    container.ok("systemctl restart snapkeep");
    assert_eq!(container.ok("stat -c '%U:%G %a' /run/snapkeep/snapkeep.sock"), "snapkeep:daemon 660\n", "it outlives the worker");
    container.ok("systemctl stop snapkeep.service");
    assert_eq!(machine.json("status")["worker"]["running"], true);
    // Loopback, and only with the drop-in for it.
    container.ok("systemctl stop snapkeep.socket snapkeep.service");
    container.write("/etc/snapkeep/snapkeep.toml", &PATHS.replace("[trash]", "tcp = \"127.0.0.1:7373\"\n[trash]"));
    container.copy(&units().join("drop-ins/tcp.conf"), "/etc/systemd/system/snapkeep.service.d/tcp.conf");
    container.ok("systemctl daemon-reload && systemctl start snapkeep.socket snapkeep.service");
    let ask = "exec 3<>/dev/tcp/127.0.0.1/7373 && printf 'GET /v1/status HTTP/1.1\\r\\nHost: localhost:7373\\r\\nConnection: close\\r\\n\\r\\n' >&3 && cat <&3";
    let answer = container.ok(&format!("bash -c \"{ask}\""));
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"running\":true"), "{answer}");
    // A socket that verbs would not find is no socket.
    container.ok("systemctl stop snapkeep.socket snapkeep.service");
    machine.drop_in("snapkeep.socket", "[Socket]\nListenStream=\nListenStream=/run/snapkeep/other.sock\n");
    container.ok("systemctl start snapkeep.socket");
    container.sh("systemctl start snapkeep.service");
    assert_eq!(container.show("snapkeep", "ExecMainStatus"), "78");
    let journal = container.journal(&["-u", "snapkeep"]);
    assert!(journal.contains("systemd passed the socket /run/snapkeep/other.sock"), "{journal}");
}

#[test]
fn the_timer_takes_what_is_due_and_gives_way_to_a_worker() {
    let Some(machine) = Machine::new(Kind::Ext4, EVERY_SECOND) else { return };
    let container = &machine.container;
    machine.drop_in("snapkeep-once.timer", "[Timer]\nOnCalendar=\nOnCalendar=*:*:*\nAccuracySec=10ms\n");
    container.ok("systemctl start snapkeep-once.timer");
    container.eventually("two runs have taken what was due", SOON, || machine.snapshots() >= 2);
    container.ok("systemctl stop snapkeep-once.timer");
    container.eventually("it has ended", SOON, || container.show("snapkeep-once.service", "ActiveState") == "inactive");
    let journal = container.journal(&["-u", "snapkeep-once"]);
    assert!(journal.matches("Deactivated successfully").count() >= 2 && !journal.contains("Failed"), "{journal}");
    container.ok("systemctl start snapkeep");
    container.ok("systemctl start snapkeep-once.service");
    // Busy is no failure.
    let journal = container.journal(&["-u", "snapkeep-once"]);
    assert!(journal.contains("another snapkeep works on /var/lib/snapkeep/store") && !journal.contains("Failed"), "{journal}");
    assert_eq!(container.show("snapkeep", "ActiveState"), "active");
    assert_eq!(machine.json("status")["worker"]["running"], true, "its socket is still there");
}

#[test]
fn a_unit_that_is_stopped_in_the_middle_of_a_fork_leaves_it_whole_or_makes_it_after_the_next_start() {
    let Some(machine) = Machine::new(Kind::Ext4, "[worker]\ncopy_rate = \"20MiB\"\n") else { return };
    let container = &machine.container;
    container.ok("systemctl start snapkeep");
    machine.json("snapshot golden --name base");
    // Copied before it is asked for, at full speed, the file would be there at once.
    container.ok("cd /var/lib/snapkeep/vms/golden && head -c 40M /dev/urandom > overlay.raw");
    machine.json("snapshot golden --name large");
    machine.json("fork golden/large slow --no-wait");
    container
        .eventually("it is being built", SOON, || container.sh("ls /var/lib/snapkeep/vms/.snapkeep/staging | grep -q .").status.success());
    container.ok("systemctl stop snapkeep");
    assert_eq!(container.show("snapkeep", "Result"), "success");
    assert!(container.sh("ls /var/lib/snapkeep/vms/.snapkeep/staging | grep -q .").status.code() == Some(1), "nothing half-made is left");
    container.ok("systemctl start snapkeep");
    container.eventually("the fork is there", SOON, || machine.json("queue")["requests"][0]["state"] == "done");
    container.ok("cd /var/lib/snapkeep/vms && cmp golden/overlay.raw slow/overlay.raw && cmp golden/memory slow/memory");
    assert_eq!(machine.json("verify")["findings"], serde_json::json!([]));
}

#[test]
fn several_stores_have_a_worker_each() {
    let Some(machine) = Machine::new(Kind::Ext4, "") else { return };
    let container = &machine.container;
    for name in ["gold", "iron"] {
        container.write(&format!("/etc/snapkeep/{name}/snapkeep.toml"), &PATHS.replace("/snapkeep/", &format!("/snapkeep/{name}/")));
        container.ok(&format!("install -d -o snapkeep -g snapkeep /var/lib/snapkeep/{name}"));
        container.ok(&format!("{VERB} --config /etc/snapkeep/{name}/snapkeep.toml init && systemctl start snapkeep@{name}"));
        assert_eq!(machine.json(&format!("--config /etc/snapkeep/{name}/snapkeep.toml status"))["worker"]["running"], true);
    }
}

/// As root, of a worker that runs.
fn asked_by_root(container: &Container, line: &str) -> serde_json::Value {
    serde_json::from_str(&container.ok(&format!("snapkeep {line} --json"))).unwrap()
}

#[test]
fn instances_of_others_need_the_capabilities_of_the_drop_in_and_no_more() {
    let Some(machine) = Machine::new(Kind::Ext4, "") else { return };
    let container = &machine.container;
    let vm = "/var/lib/snapkeep/vms/golden";
    container
        .ok(&format!("chown -R daemon:daemon {vm} && chmod 700 {vm} && chmod 600 {vm}/* && chmod 2770 {vm} && systemctl start snapkeep"));
    let refused = container.sh("snapkeep snapshot golden");
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains(vm) && why.contains("Permission denied"), "{why}");
    container.copy(&units().join("drop-ins/other-owners.conf"), "/etc/systemd/system/snapkeep.service.d/other-owners.conf");
    container.ok("systemctl daemon-reload && systemctl restart snapkeep");
    let status = container.ok(&format!("cat /proc/{}/status", machine.main_pid()));
    assert!(status.contains("CapEff:\t000000001008001f"), "chown, dac, fowner, fsetid, ptrace, lease; and no other: {status}");
    asked_by_root(container, "snapshot golden --name base");
    let forked = asked_by_root(container, "fork golden/base web");
    assert_eq!(forked["requests"][0]["memory"], "hardlink", "{forked}");
    let owned = container.ok("cd /var/lib/snapkeep/vms/web && stat -c '%U:%G %a' . memory overlay.raw");
    assert_eq!(owned, "daemon:daemon 2770\nsnapkeep:snapkeep 444\ndaemon:daemon 600\n");
    container.ok("echo more >> /var/lib/snapkeep/vms/golden/overlay.raw");
    asked_by_root(container, "restore golden/base");
    container.ok(&format!("test $(stat -c %s {vm}/overlay.raw) = 67108864 && test $(stat -c %U {vm}/overlay.raw) = daemon"));
    asked_by_root(container, "unfork web");
    assert_eq!(asked_by_root(container, "verify")["findings"], serde_json::json!([]));
}

#[test]
fn the_hypervisors_user_needs_no_capability() {
    let Some(machine) = Machine::new(Kind::Xfs, "") else { return };
    let container = &machine.container;
    let text = fs::read_to_string(units().join("drop-ins/hypervisor-user.conf")).unwrap();
    machine.drop_in("snapkeep.service", &text.replace("User=libvirt-qemu", "User=daemon").replace("Group=kvm", "Group=daemon"));
    container.ok("chown -R daemon: /var/lib/snapkeep && chmod 600 /var/lib/snapkeep/vms/golden/* && systemctl start snapkeep");
    let status = container.ok(&format!("cat /proc/{}/status", machine.main_pid()));
    assert!(status.contains("CapEff:\t0000000000000000") && status.contains("Uid:\t1\t1"), "{status}");
    asked_by_root(container, "snapshot golden --name base");
    let forked = asked_by_root(container, "fork golden/base web");
    assert_eq!((&forked["requests"][0]["memory"], &forked["requests"][0]["disk"]), (&"hardlink".into(), &"reflink".into()));
    assert_eq!(
        container.ok("cd /var/lib/snapkeep/vms/web && stat -c '%U:%G %a' memory overlay.raw"),
        "daemon:daemon 444\ndaemon:daemon 600\n"
    );
    // The user that runs the VM has the file open, as a hypervisor would.
    container.ok("runuser -u daemon -- sh -c 'exec 3<>/var/lib/snapkeep/vms/web/overlay.raw; exec setsid sleep 50 >/dev/null 2>&1 &'");
    let refused = container.sh("snapkeep unfork web");
    assert_eq!(refused.status.code(), Some(4), "it runs, and the worker sees that: {refused:?}");
}

/// Reads what a worker tells its manager.
struct Manager {
    socket: UnixDatagram,
    period: Duration,
}

impl Manager {
    fn of(world: &World, period: Duration) -> Self {
        let socket = UnixDatagram::bind(world.store.with_extension("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self { socket, period }
    }

    /// A worker that it started.
    fn start(&self, world: &World, program: &Program) -> Child {
        let mut command = program.command("run");
        command.env("NOTIFY_SOCKET", world.store.with_extension("notify")).env("WATCHDOG_USEC", self.period.as_micros().to_string());
        command.stdout(fs::File::create(world.store.with_extension("log")).unwrap()).spawn().unwrap()
    }

    /// Whether it says this before the time is over; and how often it fed the watchdog by then.
    fn hears(&self, what: &str, within: Duration) -> (bool, usize) {
        let (deadline, mut fed) = (Instant::now() + within, 0);
        let mut buffer = [0; 4096];
        while Instant::now() < deadline {
            let Ok(n) = self.socket.recv(&mut buffer) else { continue };
            let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
            fed += usize::from(text.contains("WATCHDOG=1"));
            if text.contains(what) {
                return (true, fed);
            }
        }
        (false, fed)
    }
}

/// Its instances' tags are looked at each time the loop comes round.
const BY_TAGS: &str =
    "[[policy]]\nname = \"gold\"\ninstances = [\"*\"]\ninstance_tags = { tier = \"gold\" }\nevery = \"1h\"\n[policy.keep]\nlast = 3\n";
/// The calls by which the loop looks.
const LOOKS: &str = "openat,openat2,getdents64,statx,newfstatat,fstat";

fn signal(pid: u32, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

#[test]
fn the_manager_is_told_of_a_reload_when_it_began_and_when_it_is_over_and_what_was_wrong() {
    let world = World::new();
    let manager = Manager::of(&world, Duration::from_secs(60));
    let program = Program::new(&world, "");
    program.ok("init");
    let mut child = manager.start(&world, &program);
    assert!(manager.hears("READY=1", SOON).0);
    signal(child.id(), Signal::SIGHUP);
    assert!(manager.hears("RELOADING=1\nMONOTONIC_USEC=", SOON).0);
    assert!(manager.hears("READY=1", SOON).0);
    fs::write(&program.config, "no toml").unwrap();
    signal(child.id(), Signal::SIGHUP);
    assert!(manager.hears("RELOADING=1\nMONOTONIC_USEC=", SOON).0);
    assert!(manager.hears("reload rejected, the old configuration is in force", SOON).0);
    signal(child.id(), Signal::SIGTERM);
    assert!(manager.hears("STOPPING=1", SOON).0 && child.wait().unwrap().success());
}

#[test]
fn the_watchdog_goes_hungry_while_the_loop_stands_still_though_the_process_lives() {
    let Ok(strace) = tool("strace") else { return eprintln!("skipped: a loop that stands still: strace is missing") };
    let world = World::new();
    let manager = Manager::of(&world, Duration::from_secs(6));
    world.make_instance("golden");
    let program = Program::new(&world, BY_TAGS);
    program.ok("init");
    let mut child = manager.start(&world, &program);
    assert!(manager.hears("READY=1", SOON).0);
    assert!(manager.hears("nothing", manager.period).1 >= 3, "it is fed");
    let mut jam = Command::new(strace);
    jam.args(["-f", "-qq", "-o", "/dev/null", "-p", &child.id().to_string()]);
    let mut jam = jam.arg(format!("--trace={LOOKS}")).arg(format!("--inject={LOOKS}:delay_enter=60000000")).spawn().unwrap();
    let (is_told, _) = manager.hears("STATUS=stuck: the schedules have not been looked at", SOON);
    let hungry = manager.hears("nothing", manager.period / 2).1;
    signal(jam.id(), Signal::SIGTERM);
    jam.wait().unwrap();
    let (is_fed, _) = manager.hears("WATCHDOG=1", SOON);
    signal(child.id(), Signal::SIGTERM);
    let told = manager.hears("STOPPING=1", SOON).0;
    assert!(child.wait().unwrap().success());
    assert!(is_told, "it lives, and says what is wrong");
    assert_eq!((hungry, is_fed, told), (0, true, true));
}

#[test]
fn every_unit_is_understood_and_no_service_is_exposed_more_than_2_0() {
    let Ok(analyze) = tool("systemd-analyze") else { return eprintln!("skipped: systemd-analyze is missing") };
    let dir = tempfile::tempdir().unwrap();
    let copy = |name: &str, to: &str| {
        // Which program it is does not matter here, only that there is one.
        let text = fs::read_to_string(units().join(name)).unwrap().replace("/usr/bin/snapkeep", env!("CARGO_BIN_EXE_snapkeep"));
        fs::create_dir_all(dir.path().join(to).parent().unwrap()).unwrap();
        fs::write(dir.path().join(to), text).unwrap();
        dir.path().join(to)
    };
    let names = ["snapkeep.service", "snapkeep-once.service", "snapkeep.socket", "snapkeep-once.timer"];
    let mut files: Vec<PathBuf> = names.iter().map(|name| copy(name, name)).collect();
    files.extend(["service", "socket"].map(|kind| copy(&format!("snapkeep@.{kind}"), &format!("snapkeep@x.{kind}"))));
    let verify = Command::new(&analyze).args(["verify", "--man=no"]).args(&files).output().unwrap();
    assert!(verify.status.success() && verify.stderr.is_empty() && verify.stdout.is_empty(), "{verify:?}");
    let exposed = |file: &Path| {
        let output = Command::new(&analyze).args(["security", "--offline=true", "--no-pager"]).arg(file).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let level = text.rsplit_once("exposure level for ").and_then(|(_, rest)| rest.split_whitespace().nth(1)).unwrap_or("none");
        level.parse::<f64>().unwrap_or_else(|_| panic!("{output:?}"))
    };
    for file in files.iter().filter(|file| file.extension().is_some_and(|kind| kind == "service")) {
        assert!(exposed(file) <= 2.0, "{}: {}", file.display(), exposed(file));
    }
    for entry in fs::read_dir(units().join("drop-ins")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let unit = copy("snapkeep.service", &format!("{name}.d/snapkeep.service"));
        copy(&format!("drop-ins/{name}"), &format!("{name}.d/snapkeep.service.d/{name}"));
        assert!(exposed(&unit) <= 2.0, "{name}: {}", exposed(&unit));
    }
}
