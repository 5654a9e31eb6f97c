//! Runs the benches and writes their figures into docs/performance.md, between the marks of each.
//!
//! `cargo bench --bench report -- [--rounds N] [--bench-only NAMES] [--rows-from DIR]` takes some hours; with `--rows-from` it takes rows
//! that earlier runs wrote there as NAME.rows (`cargo bench --bench NAME -- --rows FILE`), and leaves the page's other figures as they are.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::indexing_slicing,
    unsafe_code,
    unreachable_pub,
    dead_code,
    missing_docs,
    reason = "a bench: it works on its own directories, prints, and stops at the first error"
)]

mod frame;
#[path = "../tests/it/support/mod.rs"]
mod support;

use frame::{Beside, Row};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The benches in the order of the page.
const BENCHES: [&str; 9] = ["burst", "pool", "copying", "prune", "idle", "growth", "compress", "peers", "api"];

fn main() {
    let (mut rounds, mut only, mut from) = ("7".to_owned(), None, None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--rounds" => rounds = value(),
            "--bench-only" => only = Some(value()),
            "--rows-from" => from = Some(PathBuf::from(value())),
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
    let temp = tempfile::tempdir().unwrap();
    for name in BENCHES {
        if only.as_deref().is_some_and(|only: &str| !only.split(',').any(|o| o == name)) {
            continue;
        }
        let rows = match &from {
            Some(dir) => dir.join(format!("{name}.rows")),
            None => {
                let rows = temp.path().join(name);
                run(name, &rounds, &rows);
                rows
            }
        };
        let Ok(text) = std::fs::read_to_string(&rows) else { continue };
        let rows: Vec<Row> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let old = std::fs::read_to_string(&page).unwrap();
        let rows = if from.is_some() { merged(rows_of(&old, name), rows) } else { rows };
        std::fs::write(&page, replace(&old, name, &block(name, &rows))).unwrap();
        println!("{name}: {} rows", rows.len());
    }
}

fn run(name: &str, rounds: &str, rows: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["bench", "--locked", "--bench", name, "--", "--rounds", rounds, "--rows"])
        .arg(rows)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(status.success(), "{name}: {status}");
}

/// The page before a bench's block, the block, and the page behind it, with the marks.
fn parts<'p>(page: &'p str, name: &str) -> [&'p str; 3] {
    let (begin, end) = (format!("<!-- {name}: written by `cargo bench --bench report` -->\n"), format!("<!-- end of {name} -->"));
    let at = |mark: &str| page.find(mark).unwrap_or_else(|| panic!("docs/performance.md lacks {mark}"));
    let (begin, end) = (at(&begin) + begin.len(), at(&end));
    [&page[..begin], &page[begin..end], &page[end..]]
}

/// The page with another block between a bench's marks.
fn replace(page: &str, name: &str, block: &str) -> String {
    let [before, _, after] = parts(page, name);
    format!("{before}{block}{after}")
}

/// The figures that the page has of a bench.
fn rows_of(page: &str, name: &str) -> Vec<Row> {
    let [_, block, _] = parts(page, name);
    let value = |text: &str| text.replace(',', "").parse::<f64>().unwrap_or_else(|e| panic!("{text}: {e}"));
    let most = block.lines().find_map(|line| line.strip_prefix("Medians of ")).and_then(|text| text.split([',', '.']).next());
    let most = most.map_or(0, |text| value(text) as usize);
    let mut rows = Vec::new();
    for line in block.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let wanted = match cells[9].split_once(' ') {
            Some(("≥", least)) => Some(-value(least)),
            Some((_, most)) => Some(value(most)),
            None => None,
        };
        for (beside, at) in [(Beside::Quiet, 3), (Beside::Dirty, 6)] {
            let Some((ours, unit)) = cells[at].split_once(' ') else { continue };
            let (ratio, rounds) = cells[at + 2].split_once(' ').unwrap_or((cells[at + 2], ""));
            rows.push(Row {
                what: cells[0].to_owned(),
                against: cells[1].to_owned(),
                fs: cells[2].to_owned(),
                beside,
                unit: unit.to_owned(),
                ours: value(ours),
                other: value(cells[at + 1]),
                ratio: value(ratio.trim_matches('*')),
                wanted,
                rounds: if rounds.is_empty() { most } else { value(rounds.trim_matches(['(', ')'])) as usize },
            });
        }
    }
    rows
}

/// What was measured anew in the place of what was there, and what was not there behind its like.
fn merged(mut rows: Vec<Row>, new: Vec<Row>) -> Vec<Row> {
    // An exponent is a figure, and no part of the name.
    let name = |row: &Row| row.what.split(" (n^").next().unwrap_or_default().to_owned();
    let key = |row: &Row| (name(row), row.against.clone(), row.fs.clone(), row.beside == Beside::Quiet);
    for row in new {
        if let Some(old) = rows.iter_mut().find(|old| key(old) == key(&row)) {
            *old = row;
        } else {
            let like = |old: &Row| (name(old), &old.against) == (name(&row), &row.against);
            let at = rows.iter().rposition(like).map_or(rows.len(), |last| last + 1);
            rows.insert(at, row);
        }
    }
    rows
}

/// One table: a line for each thing on each file system, alone and beside a writer.
fn block(name: &str, rows: &[Row]) -> String {
    // What most of them have.
    let rounds = rows.iter().map(|row| row.rounds).max_by_key(|rounds| rows.iter().filter(|row| row.rounds == *rounds).count());
    let rounds = rounds.unwrap_or(0);
    let others = if rows.iter().any(|row| row.rounds != rounds) { ", or of as many as stand behind the ratio" } else { "" };
    let mut text = format!("\n    cargo bench --bench {name}\n\nMedians of {rounds}{others}.\n\n");
    text += "| what | against | fs | alone | | ratio | beside 1 GiB | | ratio | wanted |\n|---|---|---|---|---|---|---|---|---|---|\n";
    let mut seen: Vec<(&str, &str, &str)> = Vec::new();
    for row in rows {
        let key = (row.what.as_str(), row.against.as_str(), row.fs.as_str());
        if seen.contains(&key) {
            continue;
        }
        seen.push(key);
        let of = |beside| rows.iter().find(|r| (r.what.as_str(), r.against.as_str(), r.fs.as_str()) == key && r.beside == beside);
        let cells = |row: Option<&Row>| match row {
            Some(row) => {
                let other = if row.rounds == rounds { String::new() } else { format!(" ({})", row.rounds) };
                format!("{} {} | {} | **{:.2}**{other}", number(row.ours), row.unit, number(row.other), row.ratio)
            }
            None => "| | ".to_owned(),
        };
        let wanted = row.wanted.map_or(String::new(), |w| if w < 0.0 { format!("≥ {:.2}", -w) } else { format!("≤ {w:.2}") });
        let (alone, beside) = (cells(of(Beside::Quiet)), cells(of(Beside::Dirty)));
        writeln!(text, "| {} | {} | {} | {alone} | {beside} | {wanted} |", row.what, row.against, row.fs).unwrap();
    }
    text.push('\n');
    text
}

/// Three digits that mean something, thousands apart.
fn number(value: f64) -> String {
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{value:.digits$}");
    let (whole, part) = text.split_once('.').map_or((text.as_str(), ""), |(whole, part)| (whole, part));
    let grouped: Vec<String> = whole.as_bytes().rchunks(3).rev().map(|chunk| String::from_utf8_lossy(chunk).into_owned()).collect();
    let grouped = grouped.join(",");
    if part.is_empty() { grouped } else { format!("{grouped}.{part}") }
}
