//! From files to a [`Config`], or to everything that is wrong with them. The only place of this module that reads files;
//! when to reload, and what to do then, is the worker's to say.

use super::problem::{ConfigError, Problem, Report, Source};
use super::raw::{RawConfig, shared_schema};
use super::{Config, lint, policy, resolve, shape};
use crate::ids::PolicyName;
use serde::Deserialize as _;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// Reads the file and the `*.toml` of `policies.d` beside it.
///
/// # Errors
/// A file that cannot be read, or everything that is wrong with all of them.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    parse(read_files(path)?)
}

/// The file's path and text, and those of the `*.toml` of `policies.d` beside it: what [`parse`] takes.
///
/// # Errors
/// A file that cannot be read.
pub fn read_files(path: &Path) -> Result<Vec<(PathBuf, String)>, ConfigError> {
    let mut files = vec![(path.to_owned(), read(path)?)];
    for extra in policy_files(&path.with_file_name("policies.d"))? {
        let text = read(&extra)?;
        files.push((extra, text));
    }
    Ok(files)
}

/// Makes a configuration of files that have been read: the main one, then those of `policies.d` in their order.
///
/// # Errors
/// Everything that is wrong with them.
pub fn parse(mut files: Vec<(PathBuf, String)>) -> Result<Config, ConfigError> {
    if files.is_empty() {
        // An empty file lacks its keys, and that is reported: an error always has a reason.
        files.push(Default::default());
    }
    let digest = digest(&files);
    let sources: Vec<Source> = files.into_iter().map(|(file, text)| Source { file, text }).collect();
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    let mut policies = Vec::new();
    let mut main = None;
    let mut taken = BTreeMap::new();
    for (n, source) in sources.iter().enumerate() {
        let mut report = Report::new(source);
        if let Some(raw) = read_document(source, n == 0, &mut report) {
            if n == 0 {
                main = Some(resolve::main(&raw, &mut report));
            }
            for (n, table) in raw.policy.iter().flatten().enumerate() {
                let policy = policy::resolve(table, n, &mut report);
                unique_name(table.get_ref().name.as_ref(), n, &mut taken, &mut report);
                policies.extend(policy);
            }
        }
        report.problems.sort_by_key(|problem: &Problem| (problem.line, problem.column));
        problems.append(&mut report.problems);
        warnings.append(&mut report.warnings);
    }
    let Some(main) = main.filter(|_| problems.is_empty()) else { return Err(ConfigError::Invalid { problems }) };
    if policies.is_empty() {
        warnings.push("there are no policies: nothing is taken on a schedule, and nothing is pruned".to_owned());
    }
    warnings.extend(lint::lint(&policies));
    warnings.extend(super::prefork::lint(&main.pool, &policies));
    Ok(Config {
        file: sources.into_iter().next().map(|source| source.file).unwrap_or_default(),
        digest,
        store: main.store,
        instances: main.instances,
        socket: main.socket,
        api: main.api,
        fork: main.fork,
        pool: main.pool,
        skip: main.skip,
        digests: main.digests,
        driver: main.driver,
        threads: main.threads,
        max_running: main.max_running,
        copy_rate: main.copy_rate,
        prune_every: main.prune_every,
        warn_pinned_after: main.warn_pinned_after,
        caps: main.caps,
        trash: main.trash,
        reserve: main.reserve,
        fill: main.fill,
        cache: main.cache,
        scrub: main.scrub,
        metrics: main.metrics,
        wait_for_sync: main.wait_for_sync,
        policies,
        warnings,
    })
}

/// The tables of one file, without what is wrong with them, which is reported.
fn read_document(source: &Source, is_main: bool, report: &mut Report<'_>) -> Option<RawConfig> {
    let (mut document, mistakes) = DeTable::parse_recoverable(&source.text);
    for mistake in &mistakes {
        let end = source.text.len();
        report.syntax(mistake.span().unwrap_or(end..end), mistake.message());
    }
    let mut schema = shared_schema().clone();
    if !is_main {
        shape::only_policies(document.get_mut(), &schema, report);
        if let Some(keys) = schema.get_mut("properties").and_then(|keys| keys.as_object_mut()) {
            keys.retain(|key, _| key == "policy");
        }
        schema.as_object_mut().and_then(|root| root.remove("required"));
    }
    shape::check(document.get_mut(), &schema, "", &(0..0), report);
    match RawConfig::deserialize(toml::de::Deserializer::from(document)) {
        Ok(raw) => Some(raw),
        Err(error) => {
            // The schema and serde have one source, so this is a file with mistakes of syntax; or they differ after all.
            if report.problems.is_empty() {
                report.syntax(error.span().unwrap_or(0..0), error.message());
            }
            None
        }
    }
}

/// Reports a name that another policy has, in this file or another.
fn unique_name(name: Option<&super::raw::Text>, n: usize, taken: &mut BTreeMap<PolicyName, String>, report: &mut Report<'_>) {
    let Some((text, name)) = name.and_then(|text| Some((text, PolicyName::parse(text.get_ref()).ok()?))) else { return };
    let place = report.source.place(text.span().start);
    if let Some(first) = taken.get(&name) {
        let message = format!("there is another policy `{name}`");
        report.wrong_help(&format!("policy[{n}].name"), text.span(), message, format!("the first one is at {first}"));
    } else {
        taken.insert(name, place);
    }
}

/// BLAKE3 of all texts, in hexadecimal: the same file by another name is the same configuration.
fn digest(files: &[(PathBuf, String)]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in files.iter().map(|(_, text)| text.as_bytes()) {
        // Lengths keep text from moving from one part into the next unseen.
        hasher.update(&part.len().to_le_bytes()).update(part);
    }
    hasher.finalize().to_hex().to_string()
}

#[expect(clippy::disallowed_methods, reason = "the administrator's files, not the store's")]
fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })
}

/// The `*.toml` files of a directory by name; none if it does not exist. Hidden ones, which editors leave, do not count.
#[expect(clippy::disallowed_methods, reason = "the administrator's files, not the store's")]
fn policy_files(directory: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: directory.to_owned(), source };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(b".") && Path::new(&name).extension().is_some_and(|end| end == "toml") {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}
