//! Reading the configuration's files.

use super::check::parse;
use super::{Config, ConfigError};
use std::path::{Path, PathBuf};

/// Reads and checks a configuration: the file, and `*.toml` in the directory `policies.d` beside it, by name.
///
/// # Errors
/// [`ConfigError`]: unreadable, or every problem of every file.
#[expect(clippy::disallowed_methods, reason = "the configuration is no file of the store")]
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| ConfigError::Unreadable { path, source }
    };
    let mut files = vec![(path.to_owned(), std::fs::read_to_string(path).map_err(unreadable(path))?)];
    let dir = path.parent().unwrap_or(Path::new(".")).join("policies.d");
    let mut more: Vec<PathBuf> = match std::fs::read_dir(&dir) {
        Ok(entries) => entries.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>().map_err(unreadable(&dir))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(unreadable(&dir)(e)),
    };
    more.retain(|path| path.extension().is_some_and(|ext| ext == "toml"));
    more.sort();
    for path in more {
        let text = std::fs::read_to_string(&path).map_err(unreadable(&path))?;
        files.push((path, text));
    }
    parse(files)
}
