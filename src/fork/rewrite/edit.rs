//! The places of one file that are replaced in each fork, and how the fork's path is written there.

use super::RewriteError;
use super::find::Form;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// What is replaced in a file, found once for all forks of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edits {
    pub(super) edits: Vec<Edit>,
    /// Directories between the instance's and the file.
    pub(super) depth: usize,
    /// The length of the file that these were found in.
    pub(super) len: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) form: Form,
    pub(super) quoting: Quoting,
    pub(super) url: bool,
    /// The string begins with it: it is a path, and not a part of some other syntax.
    pub(super) leads: bool,
}

/// What the characters of a path have to be written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quoting {
    /// A string of JSON.
    Json,
    /// A TOML string in double quotes.
    Basic,
    /// A TOML string in single quotes.
    Literal,
    /// A TOML comment.
    Comment,
}

/// Characters that mean nothing in any syntax.
fn is_plain(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-')
}

/// True if a path is written as it is, whatever the quoting.
pub(super) fn needs_no_quoting(dir: &Path) -> bool {
    dir.to_str().is_some_and(|text| text.chars().all(is_plain))
}

/// `bytes` with each edit's place taken by `dest_dir`, or by its name.
pub(super) fn apply(bytes: &[u8], edits: &Edits, dest_dir: &Path) -> Result<Vec<u8>, RewriteError> {
    let path = dest_dir.to_str().ok_or(RewriteError::NotUtf8)?;
    let name = dest_dir.file_name().and_then(std::ffi::OsStr::to_str).ok_or(RewriteError::NotUtf8)?;
    if bytes.len() != edits.len {
        return Err(RewriteError::Changed);
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    let mut out = Vec::with_capacity(bytes.len() + edits.edits.len() * dest_dir.as_os_str().as_bytes().len());
    let mut at = 0;
    for edit in &edits.edits {
        let text = if edit.form == Form::Relative { name } else { path };
        let old = bytes.get(edit.start..edit.end).ok_or(RewriteError::Changed)?;
        out.extend_from_slice(bytes.get(at..edit.start).ok_or(RewriteError::Changed)?);
        out.extend_from_slice(written(text, edit, old)?.as_bytes());
        at = edit.end;
    }
    out.extend_from_slice(bytes.get(at..).ok_or(RewriteError::Changed)?);
    Ok(out)
}

fn written(text: &str, edit: &Edit, old: &[u8]) -> Result<String, RewriteError> {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_plain(c) && (c.is_ascii() || !edit.url) {
            out.push(c);
        } else if edit.url {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(out, "%{byte:02X}");
            }
        } else if edit.leads || old.contains(&(c as u32 as u8)) && c.is_ascii() {
            quote(c, edit.quoting, &mut out)?;
        } else {
            // In `file=/vms/a,if=virtio` a comma of the new path would end it.
            return Err(RewriteError::Unquotable { character: c });
        }
    }
    Ok(out)
}

fn quote(c: char, quoting: Quoting, out: &mut String) -> Result<(), RewriteError> {
    match (quoting, c) {
        (Quoting::Json | Quoting::Basic, '"' | '\\') => out.extend(['\\', c]),
        (Quoting::Json | Quoting::Basic, c) if c.is_control() => {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        }
        (Quoting::Literal, '\'') => return Err(RewriteError::Unquotable { character: c }),
        (Quoting::Literal | Quoting::Comment, c) if c.is_control() => return Err(RewriteError::Unquotable { character: c }),
        _ => out.push(c),
    }
    Ok(())
}
