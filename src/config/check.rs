//! From the files' tables to a checked [`Config`].

use super::problem::{ConfigError, Problem, Source};
use super::walk::Section;
use super::{Config, DriverConfig, ForkConfig, MemoryMethod, Skip, SourcePaths, keys, policies};
use crate::policy::Policy;
use chrono::TimeDelta;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::DeTable;

/// Checks a configuration: the main file first, then those of `policies.d`.
///
/// # Errors
/// [`ConfigError::Problems`] with every problem of every file.
pub fn parse(files: Vec<(PathBuf, String)>) -> Result<Config, ConfigError> {
    let mut hasher = blake3::Hasher::new();
    files.iter().for_each(|(path, text)| {
        hasher.update(path.as_os_str().as_encoded_bytes());
        hasher.update(text.as_bytes());
    });
    let digest = hasher.finalize().to_hex().chars().take(16).collect();
    let sources: Vec<Source> = files.into_iter().map(|(path, text)| Source { path, text }).collect();
    let problems = RefCell::new(Vec::new());
    let mut config = None;
    let mut policies: Vec<Policy> = Vec::new();
    for (at, source) in sources.iter().enumerate() {
        let (table, errors) = DeTable::parse_recoverable(&source.text);
        for error in errors {
            problems.borrow_mut().push(source.problem(error.span().unwrap_or(0..0), error.message(), None));
        }
        let known = if at == 0 { keys::FILE } else { keys::POLICIES_FILE };
        let file = Section::new(source, Some(table.get_ref()), 0..0, known, &problems);
        if at == 0 {
            config = Some(main_file(&file, &source.path));
        }
        for section in file.sections("policy", keys::POLICY) {
            policies.extend(policies::policy(&section, &policies));
        }
    }
    let mut problems: Vec<Problem> = problems.into_inner();
    match config.flatten() {
        Some(mut config) if problems.is_empty() => {
            config.warnings = policies::warnings(&policies);
            config.policies = policies;
            config.digest = digest;
            Ok(config)
        }
        _ => {
            let place = |p: &Problem| (sources.iter().position(|s| s.path == p.file), p.line, p.column);
            problems.sort_by_key(place);
            Err(ConfigError::Problems(problems))
        }
    }
}

fn main_file(file: &Section<'_>, path: &Path) -> Option<Config> {
    let store = file.section("store", keys::STORE);
    let (store_path, instances) = (root(&store, "path"), root(&store, "instances"));
    if let (Some(a), Some(b)) = (&store_path, &instances)
        && (a.starts_with(b) || b.starts_with(a))
    {
        let help = "put them side by side, for example /var/lib/snapkeep/store and /var/lib/snapkeep/vms".to_owned();
        store.report_key("instances", "store and instances root must not be inside one another", Some(help));
    }
    let api = file.section("api", keys::API);
    let socket = if api.has("socket") { absolute(&api, "socket") } else { store_path.as_ref().map(|p| p.join("snapkeep.sock")) };
    let worker = file.section("worker", keys::WORKER);
    let prune = file.section("prune", keys::PRUNE);
    let trash = file.section("trash", keys::TRASH);
    let (fork, skip, driver) = (fork(file), skip(file), driver(file));
    let prune_every = prune.delta("every").unwrap_or(TimeDelta::minutes(10));
    if prune_every < TimeDelta::seconds(1) {
        prune.report_key("every", "`every` must be at least 1s", None);
    }
    let threads = worker.number("threads", 1).map_or(4, |n| n as usize);
    let trash_grace = trash.duration("grace").unwrap_or(Duration::from_secs(3600));
    let fork_grace = trash.duration("fork_grace").unwrap_or_default();
    // Only now may a missing path end it: everything else has been looked at.
    Some(Config {
        file: path.to_owned(),
        digest: String::new(),
        store: store_path?,
        instances: instances?,
        socket: socket?,
        fork,
        skip,
        driver,
        threads,
        prune_every,
        trash_grace,
        fork_grace,
        policies: Vec::new(),
        warnings: Vec::new(),
    })
}

/// One of the two paths that a configuration must have.
fn root(store: &Section<'_>, key: &str) -> Option<PathBuf> {
    if !store.has(key) {
        let help = "[store] needs `path` (where snapshots are kept) and `instances` (whose subdirectories are instances)".to_owned();
        store.report_key(key, format!("`{key}` is missing in [store]"), Some(help));
    }
    absolute(store, key)
}

fn absolute(section: &Section<'_>, key: &str) -> Option<PathBuf> {
    section.parsed(key, |text| {
        let path = Path::new(text);
        let plain = path.components().all(|c| !matches!(c, std::path::Component::ParentDir | std::path::Component::CurDir));
        if path.is_absolute() && plain && !text.contains('\0') {
            // Without a trailing slash, so that paths compare by their components.
            Ok(path.components().collect())
        } else {
            Err(format!("`{key}` must be an absolute path without `..`, not {text:?}"))
        }
    })
}

fn fork(file: &Section<'_>) -> ForkConfig {
    let fork = file.section("fork", keys::FORK);
    let memory =
        fork.choice("memory", &[("hardlink", MemoryMethod::Hardlink), ("reflink", MemoryMethod::Reflink), ("copy", MemoryMethod::Copy)]);
    let source_paths =
        fork.choice("source_paths", &[("rewrite", SourcePaths::Rewrite), ("refuse", SourcePaths::Refuse), ("allow", SourcePaths::Allow)]);
    ForkConfig {
        memory: memory.unwrap_or(MemoryMethod::Hardlink),
        source_paths: source_paths.unwrap_or(SourcePaths::Rewrite),
        max_pending: fork.number("max_pending", 1).map_or(10_000, |n| n as usize),
    }
}

fn skip(file: &Section<'_>) -> Skip {
    let section = file.section("snapshot", keys::SNAPSHOT);
    let patterns = section.strings("skip").unwrap_or_else(|| ["logs/", "*.tmp", "*.pid", "*.lock"].map(str::to_owned).to_vec());
    match Skip::new(&patterns) {
        Ok(skip) => skip,
        Err(e) => {
            section.report_key("skip", format!("`skip`: {e}"), None);
            Skip::default()
        }
    }
}

fn driver(file: &Section<'_>) -> DriverConfig {
    let driver = file.section("driver", keys::DRIVER);
    let names = driver.strings("memory_names").unwrap_or_else(|| ["memory", "memory-ranges", "mem"].map(str::to_owned).to_vec());
    if names.iter().any(|n| n.is_empty() || n.contains('/')) {
        driver.report_key("memory_names", "`memory_names` must be file names, without `/`", None);
    }
    let timeout = driver.duration("timeout").unwrap_or(Duration::from_secs(30));
    if timeout.is_zero() {
        driver.report_key("timeout", "`timeout` must be more than nothing", None);
    }
    DriverConfig {
        memory_names: names,
        freeze: driver.strings("freeze").unwrap_or_default(),
        thaw: driver.strings("thaw").unwrap_or_default(),
        timeout,
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
