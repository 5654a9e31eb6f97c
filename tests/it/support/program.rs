//! The real program, on a configuration of its own.

use super::World;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A configuration file for a world, and the program run with it.
pub struct Program {
    pub config: PathBuf,
}

impl Program {
    /// With these policies (TOML), and no grace in the trash.
    pub fn new(world: &World, policies: &str) -> Self {
        Self::with(world, &format!("[prune]\nevery = \"1s\"\n[trash]\ngrace = \"0s\"\n{policies}"))
    }

    /// With this configuration behind `[store]`.
    pub fn with(world: &World, rest: &str) -> Self {
        let config = world.store.with_extension("toml");
        let text = format!("[store]\npath = \"{}\"\ninstances = \"{}\"\n{rest}", world.store.display(), world.vms.display());
        fs::write(&config, text).unwrap();
        Self { config }
    }

    /// Where its worker listens.
    pub fn socket(&self) -> PathBuf {
        let text = fs::read_to_string(&self.config).unwrap();
        let named = text.lines().find_map(|line| line.strip_prefix("socket = "));
        named.map_or_else(|| self.config.with_extension("").join("snapkeep.sock"), |path| PathBuf::from(path.trim_matches('"')))
    }

    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snapkeep"));
        command.args(line.split(' ')).arg("--config").arg(&self.config).env_remove("SNAPKEEP_CONFIG").env_remove("SNAPKEEP_LOG");
        command.stdin(Stdio::null());
        command
    }

    pub fn output(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// Standard output of a verb that must succeed.
    pub fn ok(&self, line: &str) -> String {
        let output = self.output(line);
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same, as JSON.
    pub fn json(&self, line: &str) -> serde_json::Value {
        serde_json::from_str(&self.ok(&format!("{line} --json"))).unwrap()
    }

    /// Exit code and standard error of a verb that must fail.
    pub fn fails(&self, line: &str) -> (i32, String) {
        let output = self.output(line);
        assert!(!output.status.success(), "{line}: {output:?}");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// A worker that answers; its log goes to a file beside the configuration.
    pub fn run(&self) -> Running {
        let log = self.config.with_extension("log");
        let out = fs::File::options().create(true).append(true).open(&log).unwrap();
        let child = self.command("run").stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap();
        let running = Running { child, log };
        let deadline = Instant::now() + Duration::from_secs(20);
        let socket = self.socket();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "the worker does not answer: {}", running.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        running
    }
}

/// A worker; killed when dropped.
pub struct Running {
    pub child: Child,
    log: PathBuf,
}

impl Running {
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// SIGTERM, and the exit code.
    pub fn stop(mut self) -> i32 {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something holds.
pub fn eventually(what: &str, within: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
