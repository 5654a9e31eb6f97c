//! One command line of the config: a process group of its own, a time limit that holds, and the end of what it printed.

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much of the output is kept, in bytes: its end.
const KEPT: usize = 64 << 10;

/// How much of it is in a message.
const SHOWN: usize = 1 << 10;

/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// How long output may still come after the command ended: what it left running in the background may hold the pipe.
const LATE_OUTPUT: Duration = Duration::from_millis(200);

/// Why a command line did not do.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started or watched.
    #[error("cannot run `{command}`: {source}")]
    Spawn {
        /// The command line.
        command: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It ended with a failure.
    #[error("`{command}` failed, {status}{}", shown(output))]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it printed (stdout and stderr).
        output: String,
    },
    /// It took longer than it may, and was killed with all its children.
    #[error("`{command}` was killed after {}{}", humantime::format_duration(*limit), shown(output))]
    TimedOut {
        /// The command line.
        command: String,
        /// The limit.
        limit: Duration,
        /// The end of what it printed.
        output: String,
    },
}

fn shown(output: &str) -> String {
    let output = output.trim();
    let from = output.char_indices().map(|(at, _)| at).find(|at| output.len() - at <= SHOWN).unwrap_or(0);
    let end = output.get(from..).unwrap_or_default();
    if end.is_empty() { String::new() } else { format!(": {end}") }
}

/// One command line to run.
pub(super) struct Run<'a> {
    pub(super) command: &'a str,
    pub(super) action: &'a str,
    pub(super) instance: &'a str,
    pub(super) dir: &'a Path,
    pub(super) timeout: Duration,
}

/// The end of the output, and whether all of it has been read.
#[derive(Default)]
struct Output {
    tail: Mutex<Vec<u8>>,
    ended: AtomicBool,
}

/// Runs it to its end, or to the end of its time.
pub(super) fn run(job: &Run<'_>) -> Result<(), CommandError> {
    let failed = |source| CommandError::Spawn { command: job.command.to_owned(), source };
    let (mut child, output) = start(job).map_err(failed)?;
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
    let deadline = Instant::now() + job.timeout;
    if !wait_until(deadline, || has_ended(group)) {
        // The group's number stays ours until its leader is reaped, which is done last.
        end_group(group, &output);
        child.wait().map_err(failed)?;
        return Err(CommandError::TimedOut { command: job.command.to_owned(), limit: job.timeout, output: output.text() });
    }
    let status = child.wait().map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    wait_until(Instant::now() + LATE_OUTPUT, || output.ended.load(Ordering::Acquire));
    Err(CommandError::Failed { command: job.command.to_owned(), status, output: output.text() })
}

fn start(job: &Run<'_>) -> io::Result<(Child, Arc<Output>)> {
    let (mut reader, writer) = io::pipe()?;
    // Thaw must run even if the directory is gone.
    let cwd = if job.dir.is_dir() { job.dir } else { Path::new("/") };
    let mut command = Command::new("sh");
    command.arg("-c").arg(job.command).current_dir(cwd).process_group(0).stdin(Stdio::null());
    command.stdout(writer.try_clone()?).stderr(writer);
    // What systemd has with the worker is no matter of its commands.
    for name in ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        command.env_remove(name);
    }
    command.env("SNAPKEEP_INSTANCE", job.instance).env("SNAPKEEP_INSTANCE_DIR", job.dir).env("SNAPKEEP_ACTION", job.action);
    let output = Arc::new(Output::default());
    let kept = Arc::clone(&output);
    // Reads on to the end, so that nobody in the background stops at a full pipe; then it ends by itself. Started first:
    // without a thread nothing may be frozen.
    std::thread::Builder::new().name("output".to_owned()).spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n) = reader.read(&mut buffer)
            && n > 0
        {
            kept.keep(buffer.get(..n).unwrap_or_default());
        }
        kept.ended.store(true, Ordering::Release);
    })?;
    let child = command.spawn()?;
    Ok((child, output))
}

impl Output {
    fn keep(&self, bytes: &[u8]) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(bytes);
        let surplus = tail.len().saturating_sub(KEPT);
        tail.drain(..surplus);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.tail.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

/// Asks the whole group to end, and two seconds later makes it. All of it has ended when its leader has and nobody holds
/// the output any more.
fn end_group(group: Pid, output: &Output) {
    // ESRCH: all of it is gone already.
    let _ = killpg(group, Signal::SIGTERM);
    wait_until(Instant::now() + GRACE, || has_ended(group) && output.ended.load(Ordering::Acquire));
    let _ = killpg(group, Signal::SIGKILL);
    // The kernel kills in its own time, and what comes next should not meet the dying.
    wait_until(Instant::now() + LATE_OUTPUT, || output.ended.load(Ordering::Acquire));
}

/// Whether our child has ended; leaves it to be reaped.
fn has_ended(child: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    !matches!(waitid(Id::Pid(child), flags), Ok(WaitStatus::StillAlive))
}

/// Looks until it is so or time is up; seldom looks twice at what is quick.
fn wait_until(deadline: Instant, is_so: impl Fn() -> bool) -> bool {
    let mut pause = Duration::from_micros(200);
    loop {
        if is_so() {
            return true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(command: &str, timeout_ms: u64) -> Result<(), CommandError> {
        let timeout = Duration::from_millis(timeout_ms);
        run(&Run { command, action: "freeze", instance: "i", dir: Path::new("/"), timeout })
    }

    #[test]
    fn only_the_end_of_a_flood_of_output_is_kept() {
        let Err(CommandError::Failed { output, status, .. }) = shell("yes | head -c 1000000; echo last; exit 7", 20_000) else { panic!() };
        assert_eq!((output.len(), status.code()), (KEPT, Some(7)));
        assert!(output.ends_with("last\n"));
        assert!(shown(&output).len() <= SHOWN + 2);
    }

    #[test]
    fn what_runs_on_in_the_background_is_not_waited_for() {
        let begun = Instant::now();
        shell("sleep 5 & exit 0", 20_000).unwrap();
        assert!(shell("sleep 5 & exit 1", 20_000).is_err());
        assert!(begun.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn a_command_that_obeys_sigterm_ends_at_its_time_limit() {
        let begun = Instant::now();
        let error = shell("echo began; sleep 600", 200).unwrap_err();
        assert!(begun.elapsed() < GRACE, "{:?}", begun.elapsed());
        assert_eq!(error.to_string(), "`echo began; sleep 600` was killed after 200ms: began");
    }

    #[test]
    fn a_command_reads_nothing_from_us() {
        shell("read line && exit 1; exit 0", 5000).unwrap();
    }
}
