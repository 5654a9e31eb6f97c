//! Stores of any size, fast: records as the library writes them, without anything being taken or forked.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    dead_code,
    unreachable_pub,
    reason = "support of tests and benches: each uses a part, works on its own directories and may panic"
)]

use super::World;
use chrono::{DateTime, TimeDelta, TimeZone as _, Utc};
use snapkeep::ids::{ForkId, InstanceId, PolicyName, SnapshotId, SnapshotName};
use snapkeep::store::instances::ForkRecord;
use snapkeep::store::layout::Layout;
use snapkeep::store::manifest::{FORMAT, Manifest, Node, seal};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

/// How much of what.
#[derive(Debug, Clone, Copy)]
pub struct Many {
    pub snapshots: usize,
    /// They are snapshots of so many instances, which are not there any more.
    pub sources: usize,
    pub forks: usize,
    /// All forks are of the first snapshot; else of all in turn.
    pub of_one: bool,
}

impl Many {
    /// As many forks as snapshots, of a hundred instances.
    pub fn of_each(n: usize) -> Self {
        Self { snapshots: n, sources: 100, forks: n, of_one: false }
    }
}

/// Five bits a character, the lowest last.
fn base32(mut n: usize, len: usize) -> String {
    let mut text = vec![b'a'; len];
    for place in text.iter_mut().rev() {
        *place = b"abcdefghijklmnopqrstuvwxyz234567"[n & 31];
        n >>= 5;
    }
    String::from_utf8(text).unwrap()
}

/// One a minute.
fn each_minute(n: usize) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 1, 1, 0, 0, 0).unwrap() + TimeDelta::minutes(n as i64)
}

pub fn snapshot_id(n: usize) -> SnapshotId {
    id_at(each_minute(n), n)
}

fn id_at(at: DateTime<Utc>, n: usize) -> SnapshotId {
    SnapshotId::parse(&format!("{}-{}", at.format("%Y%m%d-%H%M%S"), base32(n, 8))).unwrap()
}

pub fn fork_id(n: usize) -> ForkId {
    ForkId::parse(&format!("f{}", base32(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), 16))).unwrap()
}

/// Makes them in a world whose store is closed; returns the ids of the snapshots, oldest first.
pub fn make(world: &World, many: Many) -> Vec<SnapshotId> {
    make_when(world, many, each_minute)
}

/// The same, each taken when `when` says, which must not go back.
pub fn make_when(world: &World, many: Many, when: impl Fn(usize) -> DateTime<Utc> + Sync) -> Vec<SnapshotId> {
    let (template, data) = template(world);
    let layout = Layout::new(&world.store, &world.vms);
    let ids: Vec<SnapshotId> = (0..many.snapshots).map(|n| id_at(when(n), n)).collect();
    on_all_cores(many.snapshots, |n| snapshot(&layout, &template, &data, &ids[n], (n, when(n)), many.sources));
    on_all_cores(many.snapshots.min(many.forks), |n| fs::create_dir(layout.refs_of(&ids[n])).unwrap());
    on_all_cores(many.forks, |n| fork(&layout, &ids[if many.of_one { 0 } else { n % ids.len() }], n));
    ids
}

/// One real snapshot of a small instance, taken out again: its manifest, and what its files hold.
fn template(world: &World) -> (Manifest, Vec<Vec<u8>>) {
    let dir = world.vms.join("template");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("memory"), "ram\n".repeat(64)).unwrap();
    fs::write(dir.join("config.json"), "{\"vcpus\": 2}").unwrap();
    let open = world.open();
    let id = open.take("template").unwrap();
    let manifest = open.store.manifest(&id).unwrap();
    let root = Layout::data_in(&open.store.layout.snapshot(&id));
    let bytes = |entry: &snapkeep::store::manifest::Entry| match &entry.node {
        Node::File(_) => fs::read(root.join(entry.path.as_path())).unwrap(),
        _ => Vec::new(),
    };
    let data = manifest.entries.iter().map(bytes).collect();
    fs::remove_dir_all(&dir).unwrap();
    fs::remove_dir_all(open.store.layout.snapshot(&id)).unwrap();
    (manifest, data)
}

fn snapshot(layout: &Layout, template: &Manifest, data: &[Vec<u8>], id: &SnapshotId, (n, at): (usize, DateTime<Utc>), sources: usize) {
    let instance = InstanceId::parse(&format!("golden-{}", n % sources.max(1))).unwrap();
    let manifest = Manifest {
        format: FORMAT,
        id: id.clone(),
        seq: n as u64 + 1,
        name: SnapshotName::stamped(instance.as_str(), at),
        source_dir: snapkeep::store::manifest::TextPath::new(layout.instance(&instance)),
        instance,
        policy: Some(PolicyName::parse("golden").unwrap()),
        slot: Some(at),
        created_at: at,
        order_at: at,
        ..template.clone()
    };
    let dir = layout.snapshot(id);
    let root = Layout::data_in(&dir);
    fs::create_dir_all(&root).unwrap();
    for (entry, bytes) in manifest.entries.iter().zip(data) {
        let path = root.join(entry.path.as_path());
        if let Node::File(_) = &entry.node {
            let mut file = fs::File::create(&path).unwrap();
            file.write_all(bytes).unwrap();
            let mtime = SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(entry.mtime_ns).unwrap());
            file.set_modified(mtime).unwrap();
            file.set_permissions(fs::Permissions::from_mode(entry.stored_mode())).unwrap();
        }
    }
    fs::write(Layout::manifest_in(&dir), seal(&manifest).unwrap()).unwrap();
}

fn fork(layout: &Layout, of: &SnapshotId, n: usize) {
    let record = ForkRecord {
        format: FORMAT,
        fork_id: fork_id(n),
        fork_of_snapshot: of.clone(),
        key: None,
        created_at: Utc.with_ymd_and_hms(2026, 6, 1, 0, 0, 0).unwrap(),
        awaited: false,
    };
    let dir = layout.instances().join(format!("fork-{n}"));
    let path = Layout::fork_record_in(&dir);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
    // Of one snapshot some file systems take 65,000 at most: those behind them go without, as if it had been copied elsewhere.
    let _ = fs::hard_link(Layout::data_in(&layout.snapshot(of)).join("memory"), dir.join("memory"));
    symlink(&dir, layout.ref_of(of, &record.fork_id)).unwrap();
}

fn on_all_cores(n: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let run = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= n {
                return;
            }
            work(at);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(run);
        run();
    });
}

/// A world of its own with so many, for example on a file system of its own.
pub fn world_at(path: &Path, many: Many) -> (World, Vec<SnapshotId>) {
    fs::create_dir_all(path).unwrap();
    let world = World::at(path);
    let ids = make(&world, many);
    (world, ids)
}

/// The same in memory, where there is room for small files.
pub fn world_in_memory(many: Many) -> (tempfile::TempDir, World, Vec<SnapshotId>) {
    let dir = if Path::new("/dev/shm").is_dir() { tempfile::tempdir_in("/dev/shm") } else { tempfile::tempdir() }.unwrap();
    let (world, ids) = world_at(dir.path(), many);
    (dir, world, ids)
}
