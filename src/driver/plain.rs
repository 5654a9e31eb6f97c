//! The driver `plain`: an instance is a directory; command lines of the config stand around the copy.

use super::command::{Run, run};
use super::{CommandError, Driver, DriverError, Quiesced};
use crate::config::DriverConfig;
use crate::ids::InstanceId;
use std::path::Path;
use std::time::Instant;

/// Runs `freeze` before and `thaw` after, each by `sh -c` in the instance's directory, with `SNAPKEEP_INSTANCE`,
/// `SNAPKEEP_INSTANCE_DIR` and `SNAPKEEP_ACTION` (`freeze` or `thaw`) in the environment.
#[derive(Debug, Clone)]
pub struct Plain {
    config: DriverConfig,
}

impl Plain {
    /// A driver with these commands.
    #[must_use]
    pub fn new(config: DriverConfig) -> Self {
        Self { config }
    }

    fn run(&self, command: &str, action: &str, instance: &InstanceId, dir: &Path) -> Result<(), CommandError> {
        run(&Run { command, action, instance: instance.as_str(), dir, timeout: self.config.timeout })
    }

    /// All of them: what one left frozen the next may still free.
    fn thaw(&self, instance: &InstanceId, dir: &Path) -> Vec<CommandError> {
        self.config.thaw.iter().filter_map(|command| self.run(command, "thaw", instance, dir).err()).collect()
    }
}

impl Driver for Plain {
    fn name(&self) -> &str {
        "plain"
    }

    fn holds_still(&self) -> bool {
        !self.config.freeze.is_empty()
    }

    fn quiesce<'a>(&'a self, instance: &'a InstanceId, dir: &'a Path) -> Result<Quiesced<'a>, DriverError> {
        // Before the first command, so that a panic thaws too.
        let guard = Quiesced::new(Instant::now(), move || {
            let failures = self.thaw(instance, dir);
            if failures.is_empty() { Ok(()) } else { Err(DriverError::Thaw { failures }) }
        });
        for command in &self.config.freeze {
            if let Err(source) = self.run(command, "freeze", instance, dir) {
                let thaw = match guard.thaw().result {
                    Err(DriverError::Thaw { failures }) => failures,
                    _ => Vec::new(),
                };
                return Err(DriverError::Freeze { source, thaw });
            }
        }
        Ok(guard)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "tests look at what the commands did")]

    use super::*;
    use std::time::Duration;

    fn case(freeze: &[&str], thaw: &[&str], timeout_ms: u64) -> (tempfile::TempDir, Plain, InstanceId) {
        let own = |all: &[&str]| all.iter().map(|&c| c.to_owned()).collect();
        let timeout = Duration::from_millis(timeout_ms);
        let config = DriverConfig { memory_names: vec![], freeze: own(freeze), thaw: own(thaw), timeout };
        (tempfile::tempdir().unwrap(), Plain::new(config), InstanceId::parse("golden-1").unwrap())
    }

    fn log(dir: &tempfile::TempDir) -> String {
        std::fs::read_to_string(dir.path().join("log")).unwrap_or_default()
    }

    #[test]
    fn freeze_and_thaw_run_in_order_in_the_instance_with_its_name() {
        let freeze = ["echo a $SNAPKEEP_ACTION >> log", "echo b $SNAPKEEP_INSTANCE >> log"];
        let (dir, plain, id) = case(&freeze, &["echo c $SNAPKEEP_ACTION >> \"$SNAPKEEP_INSTANCE_DIR/log\"", "echo d >> log"], 5000);
        let guard = plain.quiesce(&id, dir.path()).unwrap();
        assert_eq!(log(&dir), "a freeze\nb golden-1\n");
        std::thread::sleep(Duration::from_millis(50));
        let thawed = guard.thaw();
        assert!(thawed.result.is_ok() && thawed.frozen >= Duration::from_millis(50));
        assert_eq!(log(&dir), "a freeze\nb golden-1\nc thaw\nd\n");
    }

    #[test]
    fn a_freeze_that_fails_thaws_and_says_what_it_printed() {
        let (dir, plain, id) = case(&["echo a >> log", "echo out of order >&2; exit 3", "echo never >> log"], &["echo t >> log"], 5000);
        let error = plain.quiesce(&id, dir.path()).unwrap_err();
        assert_eq!(log(&dir), "a\nt\n");
        let text = error.to_string();
        assert!(text.contains("out of order") && text.contains("exit status: 3"), "{text}");
    }

    #[test]
    fn every_thaw_command_runs_though_one_fails_also_when_the_guard_is_only_dropped() {
        let (dir, plain, id) = case(&[], &["echo 1 >> log; false", "echo 2 >> log", "kill -9 $$"], 5000);
        let thawed = plain.quiesce(&id, dir.path()).unwrap().thaw();
        assert!(matches!(thawed.result, Err(DriverError::Thaw { failures }) if failures.len() == 2));
        drop(plain.quiesce(&id, dir.path()).unwrap());
        let panicked = std::panic::catch_unwind(|| {
            let _guard = plain.quiesce(&id, dir.path()).unwrap();
            std::panic::resume_unwind(Box::new("the copy went wrong"));
        });
        assert!(panicked.is_err());
        assert_eq!(log(&dir), "1\n2\n1\n2\n1\n2\n");
    }

    #[test]
    fn thaw_runs_even_if_the_instance_is_gone() {
        let (dir, plain, id) = case(&[], &["touch \"$SNAPKEEP_INSTANCE_DIR-thawed\""], 5000);
        let instance = dir.path().join("gone");
        let thawed = plain.quiesce(&id, &instance).unwrap().thaw();
        assert!(thawed.result.is_ok(), "{:?}", thawed.result);
        assert!(dir.path().join("gone-thawed").exists());
    }

    #[test]
    fn a_command_over_its_time_is_killed_with_its_children_even_those_that_ignore_sigterm() {
        let freeze = ["(trap '' TERM; echo $$ > leader; sleep 600 & echo $! > child; wait; sleep 600) & wait"];
        let (dir, plain, id) = case(&freeze, &["echo thawed >> log"], 300);
        let begun = Instant::now();
        let error = plain.quiesce(&id, dir.path()).unwrap_err();
        assert!(matches!(&error, DriverError::Freeze { source: CommandError::TimedOut { .. }, .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert_eq!(log(&dir), "thawed\n");
        let child = std::fs::read_to_string(dir.path().join("child")).unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        let is_gone = || state().is_empty() || state().contains(") Z ");
        for _ in 0..100 {
            if !is_gone() {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        assert!(is_gone(), "{}", state());
    }
}
