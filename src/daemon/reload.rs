//! SIGHUP: a new configuration if it is good; else the old one goes on, and everybody can see why.

use crate::config::{Config, ConfigError, load};
use crate::event::Event;
use crate::worker::Worker;
use std::path::Path;

/// Reads the configuration again.
pub(super) fn reload(worker: &Worker, path: &Path) {
    let old = worker.config();
    match load(path) {
        Ok(new) => match frozen_change(&old, &new) {
            None => {
                report_loaded(worker, &new);
                worker.reload(new);
            }
            Some(what) => reject(worker, path, vec![format!("{what} cannot change while the worker runs: restart it")]),
        },
        Err(ConfigError::Problems(problems)) => reject(worker, path, problems.iter().map(ToString::to_string).collect()),
        Err(e) => reject(worker, path, vec![e.to_string()]),
    }
}

/// What a running worker cannot change.
fn frozen_change(old: &Config, new: &Config) -> Option<&'static str> {
    if old.store != new.store {
        Some("[store] path")
    } else if old.instances != new.instances {
        Some("[store] instances")
    } else if old.socket != new.socket {
        Some("[api] socket")
    } else if old.threads != new.threads {
        Some("[worker] threads")
    } else {
        None
    }
}

fn reject(worker: &Worker, path: &Path, problems: Vec<String>) {
    worker.reject(problems.clone());
    worker.store.events.emit(Event::ConfigRejected { file: path.display().to_string(), problems, at: worker.store.clock.now() });
}

/// Reports that a configuration is in force.
pub(super) fn report_loaded(worker: &Worker, config: &Config) {
    worker.store.events.emit(Event::ConfigLoaded {
        file: config.file.display().to_string(),
        digest: config.digest.clone(),
        policies: config.policies.len() as u64,
        warnings: config.warnings.clone(),
        at: worker.store.clock.now(),
    });
}
