//! A small Debian with a real systemd as its PID 1, in a container: made once by debootstrap, kept in the target directory,
//! and booted on a throw-away layer in half a second.
//!
//! Needs root, systemd-nspawn, debootstrap and, the first time, the machine's own package source; where something is missing
//! it says so and the caller goes on.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "support of tests: says what it skips")]

use super::mounts::{Mounted, private_namespace, tmpfs, tool};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Change it when the packages below change.
const BASE: &str = "base-1";
const PACKAGES: &str = "--include=systemd,systemd-sysv,dbus";
/// The base is made once; a slow mirror must not hold up everything for ever.
const DEBOOTSTRAP_SECONDS: &str = "300";
const BOOT: Duration = Duration::from_secs(30);

/// A booted container; ended when dropped.
pub struct Container {
    nspawn: Child,
    leader: u32,
    /// Its root, from outside.
    pub root: PathBuf,
    layer: Option<Mounted>,
}

/// What a container is booted with.
#[derive(Default)]
pub struct Setting<'a> {
    /// Directories of this machine that it sees, and where.
    pub binds: Vec<(&'a Path, &'a str)>,
    /// Files of the checkout or the build that it sees and cannot change, and where.
    pub read_only: Vec<(&'a Path, &'a str)>,
}

/// Boots one, or says what is missing.
pub fn boot(setting: &Setting<'_>) -> Option<Container> {
    match try_boot(setting) {
        Ok(container) => Some(container),
        Err(why) => {
            eprintln!("skipped: no container with systemd: {why}");
            None
        }
    }
}

fn try_boot(setting: &Setting<'_>) -> Result<Container, String> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    if !nix::unistd::geteuid().is_root() {
        return Err("not root".to_owned());
    }
    for name in ["systemd-nspawn", "nsenter", "setpriv"] {
        tool(name)?;
    }
    let base = base()?;
    private_namespace()?;
    // In memory: nothing of it is worth a disk's time.
    let layer = tmpfs("mode=0755").ok_or("no tmpfs")?;
    let at = |name: &str| layer.path.join(name);
    for name in ["upper", "work", "root"] {
        fs::create_dir(at(name)).map_err(|e| e.to_string())?;
    }
    let options = format!("lowerdir={},upperdir={},workdir={}", base.display(), at("upper").display(), at("work").display());
    mount(Some("overlay"), &at("root"), Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .map_err(|e| format!("no overlay on {}: {e}", base.display()))?;
    let root = at("root");
    // Kept, so that it can be read from outside.
    fs::create_dir_all(root.join("var/log/journal")).map_err(|e| e.to_string())?;
    let console = fs::File::create(at("console")).map_err(|e| e.to_string())?;
    let name = format!("snapkeep-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let mut command = Command::new("setpriv");
    // Nothing of it outlives the thread that booted it.
    command.args(["--pdeathsig", "KILL", "systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--private-network"]);
    command.args(["--console=pipe", "--resolv-conf=off", "--timezone=off", "--machine", &name, "--directory"]).arg(&root);
    for (outside, inside) in &setting.binds {
        command.arg(format!("--bind={}:{inside}", outside.display()));
    }
    for (outside, inside) in &setting.read_only {
        command.arg(format!("--bind-ro={}:{inside}", outside.display()));
    }
    command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1").stdin(Stdio::null());
    command.stdout(console.try_clone().map_err(|e| e.to_string())?).stderr(console);
    let nspawn = command.spawn().map_err(|e| format!("systemd-nspawn: {e}"))?;
    let mut container = Container { nspawn, leader: 0, root, layer: Some(layer) };
    container
        .wait_for_boot()
        .map_err(|why| format!("{why}: {}", fs::read_to_string(container.outside("../console")).unwrap_or_default()))?;
    Ok(container)
}

impl Container {
    fn wait_for_boot(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + BOOT;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.nspawn.try_wait() {
                return Err(format!("systemd-nspawn ended with {status}"));
            }
            if self.leader == 0 {
                self.leader = leader(self.nspawn.id()).unwrap_or(0);
            } else if self.sh("systemctl is-system-running --wait").stdout.starts_with(b"running") {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("it did not boot in time".to_owned())
    }

    /// A file of the container, from outside.
    pub fn outside(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Writes a file, with its directories.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.outside(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Copies a file of the checkout into it.
    pub fn copy(&self, from: &Path, to: &str) {
        let to = self.outside(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, &to).unwrap();
        let mode = if fs::metadata(from).unwrap().permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
        fs::set_permissions(&to, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Runs a script as root in it.
    pub fn sh(&self, script: &str) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.leader.to_string(), "--all", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]);
        command.args(["timeout", "60", "sh", "-c", script]).stdin(Stdio::null()).output().unwrap()
    }

    /// The output of a script that must succeed.
    pub fn ok(&self, script: &str) -> String {
        let output = self.sh(script);
        assert!(output.status.success(), "{script}: {output:?}\n{}", self.journal(&[]));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A property of a unit.
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.ok(&format!("systemctl show --value -p {property} {unit}")).trim().to_owned()
    }

    /// Its journal, read from outside with these arguments.
    pub fn journal(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("journalctl");
        command.arg("-D").arg(self.outside("var/log/journal")).args(["--no-pager", "--quiet"]).args(arguments);
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    }

    /// Waits until something holds; else shows the journal.
    pub fn eventually(&self, what: &str, within: Duration, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + within;
        while !holds() {
            assert!(Instant::now() < deadline, "not within {within:?}: {what}\n{}", self.journal(&["-n", "80"]));
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.leader != 0 {
            // Without its PID 1 nothing in it lives.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.leader.cast_signed()), nix::sys::signal::Signal::SIGKILL);
        } else {
            let _ = self.nspawn.kill();
        }
        let _ = self.nspawn.wait();
        let _ = umount2(&self.root, MntFlags::MNT_DETACH);
        drop(self.layer.take());
    }
}

/// The container's PID 1: the descendant that is 1 in a namespace of its own.
fn leader(nspawn: u32) -> Option<u32> {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let mut todo = vec![nspawn];
    while let Some(pid) = todo.pop() {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
            let is_first = status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"));
            if is_first && namespace(child).is_some_and(|own| Some(own) != namespace(std::process::id())) {
                return Some(child);
            }
            todo.push(child);
        }
    }
    None
}

/// The Debian that all containers are layers on.
fn base() -> Result<PathBuf, String> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nspawn");
    fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
    // Tests are threads or processes; one of them makes it.
    let lock = fs::File::create(dir.join("lock")).map_err(|e| e.to_string())?;
    lock.lock().map_err(|e| e.to_string())?;
    let base = dir.join(BASE);
    if base.exists() {
        return Ok(base);
    }
    let debootstrap = tool("debootstrap")?;
    let (codename, mirror) = source()?;
    let made = dir.join("making");
    if made.exists() {
        fs::remove_dir_all(&made).map_err(|e| e.to_string())?;
    }
    let mut command = Command::new("timeout");
    command.arg(DEBOOTSTRAP_SECONDS).arg(debootstrap).args(["--variant=minbase", PACKAGES, &codename]).arg(&made).arg(&mirror);
    let output = command.stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
    if !output.status.success() {
        let lines = String::from_utf8_lossy(&output.stdout);
        return Err(format!("debootstrap {codename} failed: {}", lines.lines().last().unwrap_or("it said nothing")));
    }
    fs::rename(&made, &base).map_err(|e| e.to_string())?;
    Ok(base)
}

/// This machine's Debian: its codename, and where its packages come from. Programs that are built here run there.
fn source() -> Result<(String, String), String> {
    let release = fs::read_to_string("/etc/os-release").map_err(|e| format!("/etc/os-release: {e}"))?;
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).ok_or("this is no Debian")?.to_owned();
    let format = "$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)";
    let output = Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]).output();
    let lines = String::from_utf8_lossy(&output.map_err(|e| format!("apt-get: {e}"))?.stdout).into_owned();
    let wanted = format!("Debian {codename} main ");
    let mirror = lines.lines().find_map(|line| line.strip_prefix(&wanted)).ok_or("no package source for this Debian")?;
    Ok((codename, mirror.to_owned()))
}
