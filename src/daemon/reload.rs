//! SIGHUP: a new configuration if it is good; else the old one goes on, and everybody can see why.

use crate::config::{Config, ConfigError, load};
use crate::event::Event;
use crate::worker::Worker;
use std::path::Path;

/// Reads the configuration again.
pub(super) fn reload(worker: &Worker, path: &Path) {
    let old = worker.config();
    match load(path) {
        Ok(new) => {
            let frozen = old.needs_restart(&new);
            if frozen.is_empty() {
                report_loaded(worker, &new);
                worker.reload(new);
            } else {
                let why = format!("{} cannot change while the worker runs: restart it", frozen.join(", "));
                reject(worker, path, vec![why]);
            }
        }
        Err(ConfigError::Invalid { problems }) => reject(worker, path, problems.iter().map(ToString::to_string).collect()),
        Err(e) => reject(worker, path, vec![e.to_string()]),
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
