//! No fork keeps a way to its source's disk: what of a snapshot's files names the source, and how a fork's copy reads.
//!
//! Pure functions on bytes and paths. A file is looked at once per snapshot ([`plan_small_file`], [`plan_header`]);
//! each fork only applies the plan ([`rewrite()`]). Nothing here opens a file, and nothing guesses: what is neither
//! JSON nor TOML and names the source is reported, never changed.

mod edit;
mod find;
mod names;
mod qcow2;
mod symlink;
mod toml_text;

pub use edit::Edits;
pub use names::SourceNames;
pub use qcow2::{Backing, qcow2_backing};
pub use symlink::repoint_symlink;

use edit::{Edit, Quoting};
use find::{Form, hits};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Files up to this size are read whole and given to [`plan_small_file`].
pub const SMALL_FILE: u64 = 1 << 20;
/// How much of a larger file is read for [`plan_header`].
pub const HEADER: usize = 64 << 10;

/// What a fork does with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilePlan {
    /// It does not name the source: as it is.
    Verbatim,
    /// A JSON document that names it.
    RewriteJson(Edits),
    /// A TOML document that names it.
    RewriteToml(Edits),
    /// It names the source where nothing can be rewritten.
    Names {
        /// The first place, in bytes from the beginning.
        offset: usize,
    },
}

/// Why a fork's copy of a file cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// It names the source where nothing can be rewritten.
    #[error("it names its source's directory at byte {offset}")]
    Names {
        /// The first place, in bytes from the beginning.
        offset: usize,
    },
    /// The fork's path cannot stand in JSON or TOML.
    #[error("it names its source's directory, and the fork's path is not UTF-8")]
    NotUtf8,
    /// The fork's path has a character that would mean something else where the source is named.
    #[error("it names its source's directory where {character:?} of the fork's path cannot be written")]
    Unquotable {
        /// The first such character.
        character: char,
    },
    /// These are not the bytes that the plan was made for.
    #[error("it has changed since it was looked at")]
    Changed,
    /// The result is not a document any more.
    #[error("it would not parse with the fork's path in it")]
    Broken,
}

/// The first place where `bytes` name the source by an absolute path: plain, behind escapes (`\/`), in a URL or in
/// UTF-16, itself or something below it; not a sibling whose name goes on (`/vms/golden-7`).
#[must_use]
pub fn mentions(bytes: &[u8], names: &SourceNames) -> Option<usize> {
    hits(bytes, names, None).next().map(|hit| hit.start)
}

/// What forks do with the small file at `path` (below its instance). Besides absolute paths, relative ones count that
/// lead from the file's directory out of the instance and back in by its name.
#[must_use]
pub fn plan_small_file(path: &Path, bytes: &[u8], names: &SourceNames) -> FilePlan {
    if let Some(offset) = image_names(path, bytes, names) {
        return FilePlan::Names { offset };
    }
    let depth = depth(path);
    let kind = kind(path, bytes);
    let Some(first) = hits(bytes, names, Some(depth)).next() else {
        let named = kind.is_some_and(|kind| kind.any_string(bytes, &|text| mentions(text.as_bytes(), names).is_some()));
        return if named { FilePlan::Names { offset: 0 } } else { FilePlan::Verbatim };
    };
    let plan = match kind {
        Some(Kind::Json) => FilePlan::RewriteJson(Edits { edits: json_edits(bytes, names, depth), depth, len: bytes.len() }),
        Some(Kind::Toml) => FilePlan::RewriteToml(Edits { edits: toml_edits(bytes, names, depth), depth, len: bytes.len() }),
        None => return FilePlan::Names { offset: first.start },
    };
    // A trial with a harmless path beside the source's: what fails here fails for every fork.
    match checked(bytes, &plan, names, &names.trial_sibling(), true) {
        // What the strings mean counts as well: no spelling of a path may have been overlooked.
        Ok(out) if kind.is_some_and(|kind| kind.any_string(&out, &|text| mentions(text.as_bytes(), names).is_some())) => {
            FilePlan::Names { offset: first.start }
        }
        Ok(_) => plan,
        Err(RewriteError::Names { offset }) => FilePlan::Names { offset },
        Err(_) => FilePlan::Names { offset: first.start },
    }
}

/// What forks do with a file too large to be read whole, by its first [`HEADER`] bytes: disk images that stand on
/// other files say so there. Other large files are somebody's data, and are not looked at.
#[must_use]
pub fn plan_header(path: &Path, header: &[u8], names: &SourceNames) -> FilePlan {
    const IMAGES: [&[u8]; 6] = [b"QFI\xfb", b"QED\0", b"KDMV", b"COWD", b"# Disk DescriptorFile", b"vhdxfile"];
    if !IMAGES.iter().any(|magic| header.starts_with(magic)) {
        return FilePlan::Verbatim;
    }
    let named = || hits(header, names, Some(depth(path))).next().map(|hit| hit.start);
    image_names(path, header, names).or_else(named).map_or(FilePlan::Verbatim, |offset| FilePlan::Names { offset })
}

/// A fork's copy of a file: `bytes` as `plan` was made for, with `dest_dir` (the fork's final path) in place of the
/// source's. A fork in its gone source's own place gets the file as it is.
///
/// # Errors
/// [`RewriteError`] if the result would still name the source, or cannot be written.
pub fn rewrite(bytes: &[u8], plan: &FilePlan, names: &SourceNames, dest_dir: &Path) -> Result<Vec<u8>, RewriteError> {
    if names.is_source(dest_dir) {
        return Ok(bytes.to_vec());
    }
    // Whether the result parses was tried with a plain path; only another one can break it.
    checked(bytes, plan, names, dest_dir, !edit::needs_no_quoting(dest_dir))
}

fn checked(bytes: &[u8], plan: &FilePlan, names: &SourceNames, dest_dir: &Path, parse: bool) -> Result<Vec<u8>, RewriteError> {
    let (edits, kind) = match plan {
        FilePlan::Verbatim => return Ok(bytes.to_vec()),
        FilePlan::Names { offset } => return Err(RewriteError::Names { offset: *offset }),
        FilePlan::RewriteJson(edits) => (edits, Kind::Json),
        FilePlan::RewriteToml(edits) => (edits, Kind::Toml),
    };
    let out = edit::apply(bytes, edits, dest_dir)?;
    if let Some(hit) = hits(&out, names, Some(edits.depth)).next() {
        return Err(RewriteError::Names { offset: hit.start });
    }
    if parse && !kind.parses(&out) {
        return Err(RewriteError::Broken);
    }
    Ok(out)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Toml,
}

impl Kind {
    fn parses(self, bytes: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        match self {
            Self::Json => serde_json::from_str::<serde::de::IgnoredAny>(without_mark(text)).is_ok(),
            Self::Toml => text.parse::<toml::Table>().is_ok(),
        }
    }

    /// Whether `is` holds for a string of the document, or for a key; not for one that no reader of values takes.
    fn any_string(self, bytes: &[u8], is: &dyn Fn(&str) -> bool) -> bool {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        match self {
            Self::Json => serde_json::from_str(without_mark(text)).is_ok_and(|value| any_json(&value, is)),
            Self::Toml => text.parse().is_ok_and(|table| any_toml(&toml::Value::Table(table), is)),
        }
    }
}

/// The text behind a byte order mark.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

fn any_json(value: &serde_json::Value, is: &dyn Fn(&str) -> bool) -> bool {
    match value {
        serde_json::Value::String(text) => is(text),
        serde_json::Value::Array(values) => values.iter().any(|value| any_json(value, is)),
        serde_json::Value::Object(map) => map.iter().any(|(key, value)| is(key) || any_json(value, is)),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => false,
    }
}

fn any_toml(value: &toml::Value, is: &dyn Fn(&str) -> bool) -> bool {
    match value {
        toml::Value::String(text) => is(text),
        toml::Value::Array(values) => values.iter().any(|value| any_toml(value, is)),
        toml::Value::Table(map) => map.iter().any(|(key, value)| is(key) || any_toml(value, is)),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) | toml::Value::Datetime(_) => false,
    }
}

/// JSON by its name or its first letter, TOML by its name; either only if it parses.
fn kind(path: &Path, bytes: &[u8]) -> Option<Kind> {
    let named = |name: &str| path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case(name));
    let first = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).iter().find(|b| !b.is_ascii_whitespace());
    let json = named("json") || matches!(first, Some(b'{' | b'['));
    if json && Kind::Json.parses(bytes) {
        return Some(Kind::Json);
    }
    (named("toml") && Kind::Toml.parses(bytes)).then_some(Kind::Toml)
}

/// In a valid document a path can only stand in a string, so no tokens need to be told apart.
fn json_edits(bytes: &[u8], names: &SourceNames, depth: usize) -> Vec<Edit> {
    let leads = |start: usize| start.checked_sub(1).and_then(|at| bytes.get(at)) == Some(&b'"');
    let edit = |hit: find::Hit| Edit {
        start: hit.start,
        end: hit.end,
        form: hit.form,
        quoting: Quoting::Json,
        url: hit.url,
        leads: leads(hit.start),
    };
    hits(bytes, names, Some(depth)).map(edit).collect()
}

fn toml_edits(bytes: &[u8], names: &SourceNames, depth: usize) -> Vec<Edit> {
    let spans = toml_text::spans(bytes);
    let edit = |hit: find::Hit| {
        let after = spans.partition_point(|(range, _)| range.start <= hit.start);
        let (range, quoting) = after.checked_sub(1).and_then(|at| spans.get(at)).filter(|(range, _)| hit.end <= range.end)?;
        let leads = range.start == hit.start;
        Some(Edit { start: hit.start, end: hit.end, form: hit.form, quoting: *quoting, url: hit.url, leads })
    };
    // A place outside of every string is left alone, and found again by the trial.
    hits(bytes, names, Some(depth)).filter(|hit| hit.form != Form::Wide).filter_map(edit).collect()
}

/// Where a qcow2 header leads back into the source, or names a file that cannot be told.
fn image_names(path: &Path, bytes: &[u8], names: &SourceNames) -> Option<usize> {
    const BACKING_OFFSET: usize = 8;
    let backing = qcow2_backing(bytes)?;
    let leads_back = |name: &Vec<u8>| {
        let relative = name.strip_prefix(b"file:").unwrap_or(name);
        mentions(name, names).is_some() || symlink::comes_back(path, Path::new(OsStr::from_bytes(relative)), names).is_some()
    };
    let named = [&backing.backing_file, &backing.data_file].into_iter().flatten().any(leads_back);
    (named || backing.cut).then_some(BACKING_OFFSET)
}

fn depth(path: &Path) -> usize {
    path.parent().map_or(0, |parent| names::components(parent).len())
}

#[cfg(test)]
mod tests;
