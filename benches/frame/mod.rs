//! What the benches share: fresh file systems for each round, a writer of other people's data beside it, medians, rows.
//!
//! A row is one figure of ours and one of a floor or a peer, from the same rounds. It is printed, and with `--rows FILE`
//! also appended there as a line of JSON, from which `cargo bench --bench report` writes docs/performance.md.

use crate::support::mounts::{Kind, mounted};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Dirty data of the writer beside: as much as the users have seen hurt.
const FOREIGN: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// A copy of the fixture and what becomes of it, twice.
const TOUCHED: usize = 3 << 30;

/// What the command line asks of every bench.
#[derive(Debug, Clone)]
pub struct Options {
    /// How often each figure is measured.
    pub rounds: usize,
    /// Only rows whose name contains one of these.
    pub only: Vec<String>,
    /// On these file systems.
    pub kinds: Vec<Kind>,
    /// Alone on the file system, and beside a writer.
    pub besides: Vec<Beside>,
    /// Where rows go as well.
    pub rows: Option<PathBuf>,
    /// Where a drawing goes, of a bench that makes one.
    pub plot: Option<PathBuf>,
}

/// Who else writes to the file system meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Beside {
    /// Nobody.
    Quiet,
    /// Somebody with a gigabyte of dirty data.
    Dirty,
}

impl Beside {
    /// Somebody is at work below a directory until what is returned is dropped, if anybody is.
    pub fn start(self, on: &Path) -> Option<Writer> {
        (self == Self::Dirty).then(|| Writer::start(on))
    }
}

/// One figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// What was measured, for example `1,000 forks at once`.
    pub what: String,
    /// What it is compared with, for example `floor clone 4`.
    pub against: String,
    /// The file system.
    pub fs: String,
    /// Who wrote meanwhile.
    pub beside: Beside,
    /// Of both figures.
    pub unit: String,
    /// Median of ours.
    pub ours: f64,
    /// Median of the other.
    pub other: f64,
    /// Median of the rounds' ratios.
    pub ratio: f64,
    /// The ratio wanted: at most so much, or at least if it is negative.
    pub wanted: Option<f64>,
    /// How often it was measured.
    pub rounds: usize,
}

/// What is measured, in words.
#[derive(Debug, Clone, Copy)]
pub struct What<'a> {
    /// See [`Row::what`].
    pub what: &'a str,
    /// See [`Row::against`].
    pub against: &'a str,
    /// See [`Row::unit`].
    pub unit: &'a str,
    /// See [`Row::wanted`].
    pub wanted: Option<f64>,
    /// Bytes of the file system (a sparse image).
    pub size: u64,
}

impl Options {
    /// From the command line; `cargo bench` adds `--bench`.
    pub fn parse() -> Self {
        let mut options = Self {
            rounds: 7,
            only: Vec::new(),
            kinds: Kind::ALL.to_vec(),
            besides: vec![Beside::Quiet, Beside::Dirty],
            rows: None,
            plot: None,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
            match arg.as_str() {
                "--rounds" => options.rounds = value().parse().unwrap(),
                "--only" => options.only.extend(value().split(',').map(str::to_owned)),
                "--fs" => {
                    let wanted = value();
                    options.kinds.retain(|kind| wanted.split(',').any(|w| w == kind.to_string()));
                }
                "--quiet" => options.besides = vec![Beside::Quiet],
                "--dirty" => options.besides = vec![Beside::Dirty],
                "--rows" => options.rows = Some(value().into()),
                "--plot" => options.plot = Some(value().into()),
                "--bench" => {}
                other => panic!(
                    "unknown argument {other}; there are --rounds N, --only TEXT, --fs LIST, --quiet, --dirty, --rows FILE, --plot FILE"
                ),
            }
        }
        options
    }

    /// Whether a row of this name is asked for; a row's name and what it is measured against have ` | ` between them.
    pub fn wants(&self, what: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| what.contains(only.as_str()))
    }

    /// Measures on each file system, alone and beside a writer: `measure` gives our figure and the other's, in the unit.
    pub fn measure(&self, what: What<'_>, measure: impl Fn(&Round<'_>) -> (f64, f64)) {
        for kind in self.kinds.clone() {
            self.measure_on(kind, what, &measure);
        }
    }

    /// The same on one file system.
    pub fn measure_on(&self, kind: Kind, what: What<'_>, measure: impl Fn(&Round<'_>) -> (f64, f64)) {
        self.measure_together(kind, &[what], |round, _| vec![measure(round)]);
    }

    /// Measures several in the same rounds, on one file system: where what they have in common takes long. `measure` is told which of
    /// them are asked for, and gives a pair for each; what it gives for others does not count.
    pub fn measure_together(&self, kind: Kind, whats: &[What<'_>], measure: impl Fn(&Round<'_>, &[bool]) -> Vec<(f64, f64)>) {
        let asked: Vec<bool> = whats.iter().map(|what| self.wants(&format!("{} | {}", what.what, what.against))).collect();
        if !asked.contains(&true) || !self.kinds.contains(&kind) {
            return;
        }
        for beside in self.besides.clone() {
            let mut rounds = Vec::new();
            for _ in 0..self.rounds {
                let size = whats.iter().map(|what| what.size).max().unwrap_or_default();
                let Some(fresh) = mounted(kind, size) else { return };
                // The image below finds room for the writer's first gigabyte, which takes longer than to write it again: who is
                // measured first would pay for that.
                if let Some(writer) = beside.start(&fresh.path) {
                    nix::unistd::sync();
                    drop(writer);
                }
                rounds.push(measure(&Round { path: &fresh.path, kind, beside }, &asked));
            }
            for (at, (what, _)) in whats.iter().zip(&asked).enumerate().filter(|(_, (_, asked))| **asked) {
                let pairs = || rounds.iter().filter_map(|round| round.get(at));
                self.row(&Row {
                    what: what.what.to_owned(),
                    against: what.against.to_owned(),
                    fs: kind.to_string(),
                    beside,
                    unit: what.unit.to_owned(),
                    ours: median(pairs().map(|p| p.0)),
                    other: median(pairs().map(|p| p.1)),
                    ratio: median(pairs().map(|p| p.0 / p.1)),
                    wanted: what.wanted,
                    rounds: self.rounds,
                });
            }
        }
    }

    /// Prints a row, and writes it down if that was asked.
    pub fn row(&self, row: &Row) {
        let beside = if row.beside == Beside::Dirty { "+ 1 GiB" } else { "" };
        let wanted = row.wanted.map_or(String::new(), |w| if w < 0.0 { format!(">= {}", -w) } else { format!("<= {w}") });
        println!(
            "{:<48} {:<5} {beside:<8} {:>12.3} {:>12.3} {:<3} {:>8.2} {wanted:<8} {}",
            row.what, row.fs, row.ours, row.other, row.unit, row.ratio, row.against
        );
        if let Some(path) = &self.rows {
            let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
            writeln!(file, "{}", serde_json::to_string(row).unwrap()).unwrap();
        }
    }
}

/// One round on a fresh file system.
#[derive(Debug)]
pub struct Round<'a> {
    /// Where it is mounted.
    pub path: &'a Path,
    /// Which.
    pub kind: Kind,
    /// Who writes meanwhile.
    pub beside: Beside,
}

impl Round<'_> {
    /// Times `work` with all that was written before on the disk, and the writer beside it at work if one is wanted.
    pub fn time<T>(&self, work: impl FnOnce() -> T) -> (T, Duration) {
        nix::unistd::sync();
        touch();
        // Longer than any kernel's clock tick: a copy waits until what was changed in the last one cannot hide another change.
        std::thread::sleep(Duration::from_millis(100));
        let writer = self.beside.start(self.path);
        let began = Instant::now();
        let result = work();
        let took = began.elapsed();
        drop(writer);
        (result, took)
    }
}

/// Has the kernel hand out as much free memory as anything here needs, and takes it back. A virtual machine's host gives it memory when
/// it is first touched, which takes several times as long as to fill it: whatever is measured first would pay for that.
fn touch() {
    let mut memory = vec![0_u8; TOUCHED];
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    std::hint::black_box(&memory);
}

/// Somebody else on the same file system: has a gigabyte of dirty data when it starts, and makes more until it is dropped.
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
}

impl Writer {
    fn start(on: &Path) -> Self {
        let path = on.join("somebody-elses");
        let stop = Arc::new(AtomicBool::new(false));
        let file = File::create(&path).unwrap();
        let block = vec![0x5a; MIB as usize];
        let write = move |n: u64| file.write_all_at(&block, n % (FOREIGN / MIB) * MIB).unwrap();
        (0..FOREIGN / MIB).for_each(&write);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for n in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                write(n);
                // About 250 MiB a second: it shares the processor with what is measured, and must not be what is measured.
                std::thread::sleep(Duration::from_millis(4));
            }
        });
        Self { stop, thread: Some(thread), path }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
        let _ = std::fs::remove_file(&self.path);
        nix::unistd::sync();
    }
}

/// The middle one.
pub fn median(all: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = all.collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}
