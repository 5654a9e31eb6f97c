//! `init`: makes or checks a store and its instances root, and says in plain words what will be fast, slow or impossible.

use super::out::Out;
use crate::config::Config;
use crate::store::fs::{Fs, FsError};
use crate::store::probe::Probe;
use crate::store::{OpenOptions, Store, StoreError};
use crate::worker::backend::Answer;
use crate::worker::problem::{Problem, ProblemKind};
use crate::worker::{Surroundings, problem_of_open};
use std::path::Path;

pub(super) fn init(config: Config, around: &Surroundings, out: Out) -> Answer<u8> {
    let failed = |e: StoreError| problem_of_open(&e.into());
    let made = prepare(&around.fs, &config).map_err(|e| failed(e.into()))?;
    let options = OpenOptions {
        fs: around.fs.clone(),
        clock: std::sync::Arc::clone(&around.clock),
        events: around.events.clone(),
        store: config.store.clone(),
        instances: config.instances.clone(),
        threads: config.threads,
    };
    let store = Store::open(&options).map_err(failed)?;
    if let Err(e) = store.prove_root() {
        let detail = format!("{e}. This store has snapshots already: mount its own instances root at {}", config.instances.display());
        return Err(Problem::new(ProblemKind::Conflict, detail));
    }
    let probe = Probe::run(&store.fs, &store.layout).map_err(failed)?;
    let words = probe.in_words();
    let view = serde_json::json!({
        "store": config.store, "instances": config.instances, "made": made,
        "store_uuid": store.identity.store, "root_uuid": store.identity.root, "probe": probe, "in_words": words,
    });
    out.show(&view, || {
        let verb = |made: bool| if made { "made" } else { "checked" };
        let roots = format!(
            "store      {} ({})\ninstances  {} ({})\n",
            config.store.display(),
            verb(made.0),
            config.instances.display(),
            verb(made.1)
        );
        words.iter().fold(roots, |text, line| text + line + "\n")
    });
    Ok(u8::from(!probe.rename.works()))
}

/// Makes both directories, with their parents; the store for its owner only.
fn prepare(fs: &Fs, config: &Config) -> Result<(bool, bool), FsError> {
    let store = make_with_parents(fs, &config.store, 0o700)?;
    let instances = make_with_parents(fs, &config.instances, 0o755)?;
    let dir = fs.open_dir(&config.store)?;
    fs.set_mode(&dir, &config.store, 0o700)?;
    Ok((store, instances))
}

fn make_with_parents(fs: &Fs, path: &Path, mode: u32) -> Result<bool, FsError> {
    if fs.stat_if_there(path)?.is_some() {
        return Ok(false);
    }
    if let Some(parent) = path.parent() {
        make_with_parents(fs, parent, 0o755)?;
    }
    fs.mkdir_if_missing(path, mode)
}
