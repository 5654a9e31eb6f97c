//! Compressing a cold snapshot and forking it, against the `zstd` program on the same memory file.
//!
//! `cargo bench --bench compress -- [--rounds N] [--only TEXT] [--fs LIST] [--quiet | --dirty]` makes its own file systems on
//! loop devices (root).
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

use chrono::TimeDelta;
use frame::{Options, Round, What};
use snapkeep::fork::Forks;
use snapkeep::ids::SnapshotId;
use snapkeep::policy::compress::{Compress, Method};
use snapkeep::snapshot::pack::compress;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use support::{NEVER, Open, World, ask, fixture, fork_config};

const SIZE: u64 = 12 << 30;
const LEVEL: i32 = 3;
const MIB: u64 = 1 << 20;
const RULE: Compress = Compress { after: TimeDelta::seconds(1), method: Method::Zstd, level: LEVEL, min_gain: 100, while_forked: false };

fn main() {
    let options = Options::parse();
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let what = What {
        what: "a cold snapshot compressed (512 MiB of data, zstd 3)",
        against: "zstd -T0 -3, sync -f",
        unit: "ms",
        wanted: Some(1.0),
        size: SIZE,
    };
    options.measure(what, |round| {
        let (open, id, memory) = cold(round);
        let (_, ours) = round.time(|| compress(&open.store, &id, &RULE, &|| false, cores).unwrap());
        let out = round.path.join("memory.zst");
        let ((), other) = round.time(|| shell(&format!("zstd -q -T0 -{LEVEL} {} -o {} && sync -f {0}", memory.display(), out.display())));
        (ours.as_secs_f64() * 1e3, other.as_secs_f64() * 1e3)
    });
    let what = What { what: "the first fork of a cold snapshot", against: "unzstd, sync -f", unit: "ms", wanted: Some(1.0), size: SIZE };
    options.measure(what, |round| {
        let (open, id, _) = cold(round);
        compress(&open.store, &id, &RULE, &|| false, cores).unwrap();
        let packed = open.store.layout.snapshot(&id).join("packed/0.zst");
        let ours = forks(round, &open, &id, 1, cores);
        let out = round.path.join("memory.raw");
        let ((), other) = round.time(|| shell(&format!("unzstd -q {} -o {} && sync -f {1}", packed.display(), out.display())));
        (ours, other.as_secs_f64() * 1e3)
    });
    let what = What {
        what: "100 forks of a cold snapshot",
        against: "the first, and 100 of a warm one",
        unit: "ms",
        wanted: Some(1.15),
        size: SIZE,
    };
    options.measure(what, |round| {
        let (open, id, _) = cold(round);
        let warm = forks(round, &open, &id, 100, cores);
        std::fs::read_dir(open.store.layout.instances()).unwrap().for_each(|entry| {
            let path = entry.unwrap().path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('f')) {
                std::fs::remove_dir_all(path).unwrap();
            }
        });
        open.forks.reconcile().unwrap();
        compress(&open.store, &id, &RULE, &|| false, cores).unwrap();
        let cold = forks(round, &open, &id, 100, cores);
        open.forks.reconcile().unwrap();
        let guard = open.store.lock_snapshot(&id);
        assert!(open.store.drop_cached(&guard).unwrap());
        drop(guard);
        (cold, warm + forks(round, &open, &id, 1, cores))
    });
}

/// A store with a snapshot whose memory nothing else shares, and the path of a copy of that memory.
fn cold(round: &Round<'_>) -> (Open, SnapshotId, PathBuf) {
    let world = World::at(&round.path.join(format!("world-{}", uuid::Uuid::new_v4())));
    let golden = world.vms.join("golden");
    // A small disk: its copy is not what is measured.
    fixture::make(&golden, 64).unwrap();
    memory(&golden.join("memory"));
    let open = world.open();
    let id = open.take("golden").unwrap();
    let copy = round.path.join("memory");
    std::fs::rename(golden.join("memory"), &copy).unwrap();
    if round.kind != support::mounts::Kind::Ext4 {
        // The snapshot's own file must not share its blocks with this one.
        let other = round.path.join("other");
        shell(&format!("cp --reflink=never --sparse=always {} {} && mv {1} {0}", copy.display(), other.display()));
    }
    std::fs::remove_dir_all(&golden).unwrap();
    // The file system lets go of blocks when it comes to it.
    let raw = open.store.layout.snapshot(&id).join("data/memory");
    let file = open.store.fs.open_file(&raw).unwrap();
    while open.store.fs.shared_bytes(&file, &raw).unwrap() > 0 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    (open, id, copy)
}

/// 1 GiB with 512 MiB of data, of which about a third is left by zstd: records with counters, and some noise.
fn memory(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(1 << 30).unwrap();
    let mut numbers = fixture::Numbers::new(11);
    for run in 0..128_u64 {
        let mut block = Vec::with_capacity(4 << 20);
        while block.len() < 4 << 20 {
            let n = numbers.next();
            block.extend((0..16_u64).flat_map(|i| (n.wrapping_add(i) >> 20).to_le_bytes()));
            block.extend(numbers.bytes(24));
            block.extend([0; 104]);
        }
        file.write_all_at(&block[..4 << 20], run * 8 * MIB).unwrap();
    }
    file.sync_all().unwrap();
}

/// Milliseconds for so many forks, asked for at once.
fn forks(round: &Round<'_>, open: &Open, id: &SnapshotId, count: usize, threads: usize) -> f64 {
    let forks = Forks::open(Arc::clone(&open.store), fork_config(), threads).0;
    forks.recover().unwrap();
    let tag = uuid::Uuid::new_v4().simple().to_string();
    let asks = (0..count).map(|n| ask(id, &format!("f{}-{n}", &tag[..8]))).collect();
    let ((), took) = round.time(|| {
        assert!(forks.accept(asks).iter().all(Result::is_ok));
        assert_eq!(forks.run_ready(&NEVER, &NEVER).unwrap().done, count);
    });
    took.as_secs_f64() * 1e3
}

fn shell(command: &str) {
    let done = Command::new("sh").args(["-c", command]).status().unwrap();
    assert!(done.success(), "{command}");
}
