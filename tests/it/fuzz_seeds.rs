//! The fuzz targets over their seeds, and over some thousand mutations of them that are the same each time.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests")]

use crate::support::fixture::Numbers;
use snapkeep::fuzzing;
use std::fs;
use std::path::Path;

type Target = fn(&[u8]) -> bool;

const TARGETS: [(&str, Target, usize); 4] = [
    ("config", fuzzing::config, 100),
    ("manifest", fuzzing::manifest, 1500),
    ("journal", fuzzing::journal, 1500),
    ("fork_record", fuzzing::fork_record, 1500),
];

fn mutated(seed: &[u8], other: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    const WORDS: [&[u8]; 12] =
        [b"..", b"/", b"\\", b"\\x00", b"\0", b"\"", b"-1", b"1e999", b"18446744073709551616", b"\xff", b"[", b"9999-12-31T23:59:60Z"];
    let mut bytes = seed.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = usize::try_from(numbers.below(bytes.len() as u64 + 1)).unwrap();
        let len = usize::try_from(numbers.below(16)).unwrap().min(bytes.len() - at);
        match numbers.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << numbers.below(8),
            1 => drop(bytes.drain(at..at + len)),
            2 => drop(bytes.splice(at..at + len, WORDS[usize::try_from(numbers.below(12)).unwrap()].iter().copied())),
            3 => bytes.truncate(at),
            4 => {
                let part = bytes[at..at + len].to_vec();
                drop(bytes.splice(at..at, part));
            }
            _ => {
                let from = usize::try_from(numbers.below(other.len() as u64 + 1)).unwrap();
                let until = (from + len).min(other.len());
                drop(bytes.splice(at..at + len, other[from..until].iter().copied()));
            }
        }
    }
    bytes
}

#[test]
fn every_fuzz_target_holds_over_its_seeds_and_over_mutations_of_them() {
    let times = if std::env::var_os("FULL").is_some() { 100 } else { 1 };
    for (name, target, mutations) in TARGETS {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
        let mut paths: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let seeds: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
        for (path, seed) in paths.iter().zip(&seeds) {
            let is_good = !path.file_name().unwrap().to_string_lossy().starts_with("bad");
            assert_eq!(target(seed), is_good, "{}", path.display());
        }
        let (mut numbers, mut executions, mut accepted) = (Numbers::new(8), seeds.len(), 0);
        for seed in &seeds {
            for _ in 0..mutations * times {
                let other = &seeds[usize::try_from(numbers.below(seeds.len() as u64)).unwrap()];
                accepted += usize::from(target(&mutated(seed, other, &mut numbers)));
                executions += 1;
            }
        }
        assert!(accepted > 0, "{name}: no mutation was accepted, so nothing was held to the property");
        println!("{name}: {executions} executions, {accepted} accepted");
    }
}
