//! What forks cost: the floor of bare system calls on ext4, xfs and btrfs.
//!
//! `cargo bench --bench forks -- [--forks N] [--scale S] [--threads T]` makes its own file systems on loop devices
//! (root); `-- --source DIR --root DIR [--mode M] [--level L]` measures once, on directories that are there.
//! Compare figures of one run with each other, never times of two machines.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    unsafe_code,
    unreachable_pub,
    missing_docs,
    reason = "a bench: it works on its own directories, prints, and stops at the first error"
)]

#[path = "../tests/it/support/fixture.rs"]
mod fixture;
mod floor;
#[path = "../tests/it/support/mounts.rs"]
mod mounts;

use floor::{Figures, Floor, Level, Mode};
use std::path::{Path, PathBuf};

/// What was asked for on the command line.
struct Options {
    forks: usize,
    scale: u64,
    threads: usize,
    source: Option<PathBuf>,
    root: Option<PathBuf>,
    mode: Mode,
    level: Level,
}

fn options() -> Options {
    let mut options =
        Options { forks: 100, scale: 8, threads: 1, source: None, root: None, mode: Mode::Clone, level: Level::FileAndParent };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--forks" => options.forks = value().parse().unwrap(),
            "--scale" => options.scale = value().parse().unwrap(),
            "--threads" => options.threads = value().parse().unwrap(),
            "--source" => options.source = Some(value().into()),
            "--root" => options.root = Some(value().into()),
            "--mode" => options.mode = mode(&value()),
            "--level" => options.level = *Level::ALL.get(value().parse::<usize>().unwrap()).unwrap(),
            // `cargo bench` adds this.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    options
}

fn mode(name: &str) -> Mode {
    match name {
        "link" => Mode::Link,
        "clone" => Mode::Clone,
        "copy" => Mode::Copy,
        "rw" => Mode::ReadWrite,
        other => panic!("unknown mode {other}"),
    }
}

fn main() {
    let options = options();
    println!(
        "{:<6} {:<10} {:<13} {:>6} {:>10} {:>10} {:>10} {:>9} {:>9}",
        "fs", "disk", "sync", "forks", "median us", "p95 us", "mean us", "wall s", "forks/s"
    );
    if let (Some(source), Some(root)) = (&options.source, &options.root) {
        std::fs::create_dir_all(root).unwrap();
        return print("given", &options, options.mode, options.level, &measure(&options, source, root, options.mode, options.level));
    }
    for kind in mounts::Kind::ALL {
        // Room for the instance, its copies and the file system's own.
        let Some(mounted) = mounts::mounted(kind, 16 << 30) else { continue };
        measure_all(&options, kind, &mounted.path);
    }
}

fn measure_all(options: &Options, kind: mounts::Kind, path: &Path) {
    let source = path.join("source");
    fixture::make(&source, options.scale).unwrap();
    let reflinks = kind != mounts::Kind::Ext4;
    let disk = if reflinks { Mode::Clone } else { Mode::ReadWrite };
    let levels = Level::ALL.map(|level| (if reflinks { Mode::Clone } else { Mode::Link }, level));
    for (mode, level) in
        [(Mode::Link, Level::None), (disk, Level::None), (Mode::Copy, Level::None)].into_iter().chain(levels.into_iter().skip(1))
    {
        let root = path.join("forks");
        std::fs::create_dir(&root).unwrap();
        let figures = measure(options, &source, &root, mode, level);
        print(&kind.to_string(), options, mode, level, &figures);
        std::fs::remove_dir_all(&root).unwrap();
        nix::unistd::sync();
    }
}

fn measure(options: &Options, source: &Path, root: &Path, mode: Mode, level: Level) -> Figures {
    let (forks, threads) = (options.forks, options.threads);
    floor::run(&Floor { source, root, mode, level, forks, threads, small_files: false, json_files: 1, remove: true }).unwrap()
}

fn print(fs: &str, options: &Options, mode: Mode, level: Level, figures: &Figures) {
    let Figures { median_us, p95_us, mean_us, wall_s, per_second } = figures;
    let (mode, level, forks) = (format!("{mode:?}"), format!("{level:?}"), options.forks);
    println!("{fs:<6} {mode:<10} {level:<13} {forks:>6} {median_us:>10.0} {p95_us:>10.0} {mean_us:>10.0} {wall_s:>9.4} {per_second:>9.0}");
}
