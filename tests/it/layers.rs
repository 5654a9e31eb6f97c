//! Dependencies point one way, files stay small and say what they are for, no test file is forgotten.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test: it reads its own sources and may panic"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// The layers, lowest first; those of one row are peers.
const LAYERS: &[&[&str]] = &[
    &["ids", "clock", "event"],
    &["policy"],
    &["config"],
    &["store"],
    &["driver"],
    &["snapshot"],
    &["fork"],
    &["reclaim"],
    &["schedule"],
    &["worker"],
    &["api"],
    &["daemon"],
    &["cli"],
    &["fuzzing"],
];

const MOST_LINES: usize = 800;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn level(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&layer))
}

/// The code alone: comments, strings' contents and `#[cfg(test)]` items are blanked; line numbers stay.
fn code_of(text: &str) -> String {
    let blanked = blank_comments_and_strings(text);
    let mut out = String::new();
    let mut rest = blanked.as_str();
    while let Some(at) = rest.find("#[cfg(test)]") {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let len = item_len(from);
        out.extend(from[..len].chars().filter(|c| *c == '\n'));
        rest = &from[len..];
    }
    out + rest
}

/// The length of the item that `text` begins with: up to its `;`, or to the brace that closes its first one.
fn item_len(text: &str) -> usize {
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' if depth <= 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

fn blank_comments_and_strings(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if let Some(len) = raw_string_len(rest).filter(|_| !out.ends_with(|c: char| c.is_alphanumeric() || c == '_')) {
            len
        } else if c == '"' {
            string_len(rest)
        } else if rest.starts_with("'\"'") || rest.starts_with("'{'") || rest.starts_with("'}'") || rest.starts_with("';'") {
            3
        } else if let Some(escape) = rest.strip_prefix("'\\") {
            2 + escape.char_indices().skip(1).find(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1)
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        out.extend(rest[..len].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[len..];
    }
    out
}

fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_string_len(text: &str) -> Option<usize> {
    let body = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = body.bytes().take_while(|b| *b == b'#').count();
    let content = body[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(content.find(&end).map_or(text.len(), |at| text.len() - content.len() + at + end.len()))
}

/// The modules that `code` names by `crate::x`, also in `crate::{x, y::z}`, with the line of each.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        let name = |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        match rest.strip_prefix('{') {
            None => found.push((line, name(rest))),
            Some(group) => {
                let mut depth = 0usize;
                let mut begins = true;
                for (at, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => begins = true,
                        c if begins && !c.is_whitespace() => {
                            found.push((line, name(&group[at..])));
                            begins = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

/// The imports of the file at `below` (relative to `src`) that its layer may not have.
fn upward(below: &Path, text: &str) -> Vec<String> {
    let layer = below.components().next().map(|part| part.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()).unwrap();
    // The crate's root and the binary see everything.
    let Some(own) = level(&layer) else { return Vec::new() };
    let allowed = |name: &str| name == layer || level(name).is_none_or(|other| other < own || (own == 0 && other == 0));
    let bad = imports(&code_of(text)).into_iter().filter(|(_, name)| !allowed(name));
    bad.map(|(line, name)| format!("src/{}:{line}: {layer} uses {name}", below.display())).collect()
}

#[test]
fn no_module_uses_one_above_it() {
    let src = root().join("src");
    let mut bad = Vec::new();
    for path in rust_files(&src) {
        bad.extend(upward(path.strip_prefix(&src).unwrap(), &fs::read_to_string(&path).unwrap()));
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn every_directory_of_the_crate_has_a_place_in_the_layers() {
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
        assert!(level(&name).is_some() || ["lib", "main"].contains(&name.as_str()), "{name} is in no layer");
    }
}

#[test]
fn a_planted_upward_import_is_caught() {
    let caught = |below: &str, text: &str| upward(Path::new(below), text);
    assert_eq!(caught("store/refs.rs", "use crate::fork::Queue;"), ["src/store/refs.rs:1: store uses fork"]);
    assert_eq!(caught("ids.rs", "\nfn a() { crate::cli::run() }"), ["src/ids.rs:2: ids uses cli"]);
    assert_eq!(caught("policy/plan.rs", "use crate::{\n    ids::{A, B},\n    store::{C, D},\n};").len(), 1);
    assert_eq!(caught("snapshot/take.rs", "use crate::fork::rewrite;").len(), 1);
    assert_eq!(caught("fork/build.rs", "use crate::reclaim::trash;").len(), 1);
    assert_eq!(
        caught("store/mod.rs", "#[cfg(test)]\nmod tests { use crate::cli; }\nuse crate::api;"),
        ["src/store/mod.rs:3: store uses api"]
    );
    for fine in [
        "use crate::store::Fs;",
        "use crate::snapshot::copy;",
        "// use crate::cli;",
        "/* use crate::cli; */",
        "//! See [`crate::worker`].",
        "const A: &str = \"crate::cli\";",
        "const A: &str = r#\"{ crate::cli \"#;",
        "#[cfg(test)]\nuse crate::cli;",
        "#[cfg(test)]\nmod tests { fn f() { let c = '}'; } use crate::cli; }",
        "use not_this_crate::cli;",
    ] {
        assert_eq!(caught("fork/build.rs", fine), Vec::<String>::new(), "{fine}");
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for path in rust_files(&root().join("src")) {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//! "), "{} does not open with `//!`", path.display());
    }
}

#[test]
fn no_file_is_too_long_to_be_read() {
    for dir in ["src", "tests", "benches"] {
        for path in rust_files(&root().join(dir)) {
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            assert!(lines <= MOST_LINES, "{} has {lines} lines", path.display());
        }
    }
}

#[test]
fn no_test_file_is_forgotten() {
    let dir = root().join("tests/it");
    let main = code_of(&fs::read_to_string(dir.join("main.rs")).unwrap());
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let is_module = path.is_dir() && path.join("mod.rs").exists() || path.extension().is_some_and(|ext| ext == "rs");
        if is_module && name != "main" {
            let listed = main.lines().any(|line| line.trim().trim_start_matches("pub ").trim_end_matches(';') == format!("mod {name}"));
            assert!(listed, "tests/it/main.rs does not list `mod {name};`");
        }
    }
}
