//! The same on ext4, xfs and btrfs; what links and mounts refuse; and the instances root unmounted under a running worker.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::mounts::{Kind, mounted};
use crate::support::program::{Program, eventually};
use crate::support::{World, fixture, instance};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use snapkeep::fork::queue::RequestState;
use snapkeep::snapshot::copy::Flow;
use snapkeep::store::fs::{Commits, Fs, Gate, Lister, Op};
use snapkeep::worker::verify::verify;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[test]
fn snapshots_and_forks_are_whole_on_each_file_system_and_share_extents_where_it_can() {
    for kind in Kind::ALL {
        let Some(fs_) = mounted(kind, 1 << 30) else { continue };
        let world = World::at(&fs_.path);
        fixture::make(&world.vms.join("golden"), 64).unwrap();
        let open = world.open();
        let id = open.take("golden").unwrap();
        let request = open.fork(&id, "web").unwrap();
        let wanted = if kind == Kind::Ext4 { "copied" } else { "reflink" };
        assert_eq!(
            (request.state, request.memory.as_deref(), request.disk.as_deref()),
            (RequestState::Done, Some("hardlink"), Some(wanted))
        );
        for file in ["overlay.raw", "memory", "state"] {
            let read = |instance: &str| blake3::hash(&fs::read(world.vms.join(instance).join(file)).unwrap());
            assert_eq!(read("golden"), read("web"), "{kind}: {file}");
        }
        let config = fs::read_to_string(world.vms.join("web/config.json")).unwrap();
        assert!(config.contains(&world.vms.join("web").display().to_string()) && !config.contains("golden"), "{config}");
        let disk = fs::metadata(world.vms.join("web/overlay.raw")).unwrap();
        assert!(disk.blocks() * 512 < disk.size() / 4, "{kind}: holes stay holes");
        let found = verify(&open.store.fs, &open.store.layout, &HashSet::new(), Flow::quiet());
        assert_eq!(found.findings, [], "{kind}");
    }
}

#[test]
fn all_names_of_a_directory_are_listed_however_many_there_are() {
    for kind in Kind::ALL {
        let Some(fs_) = mounted(kind, Kind::SMALLEST) else { continue };
        let store = Fs::real();
        let top = store.open_dir(&fs_.path).unwrap();
        let mut lister = Lister::within(&top);
        for (nth, count) in [0, 1, 2, 300, 2000, 1].into_iter().enumerate() {
            let path = fs_.path.join(format!("d{nth}"));
            fs::create_dir(&path).unwrap();
            let name = |n: usize| format!("{}é{n:05}", "x".repeat((n * 7) % 240));
            (0..count).for_each(|n| fs::write(path.join(name(n)), "").unwrap());
            // What was there once is not counted any more.
            fs::write(path.join("gone"), "").unwrap();
            fs::remove_file(path.join("gone")).unwrap();
            let mut names: Vec<String> = (0..count).map(name).collect();
            if count > 1 {
                fs::rename(path.join(&names[1]), path.join("renamed")).unwrap();
                names[1] = "renamed".to_owned();
            }
            names.sort();
            let dir = store.open_dir(top.at(path.file_name().unwrap())).unwrap();
            let listed = store.list_by(&dir, &mut lister).unwrap();
            let listed: Vec<&str> = listed.iter().map(|entry| entry.name.to_str().unwrap()).collect();
            assert_eq!(listed, names, "{kind}: {count} names");
            // What the lister goes by.
            let bytes = listed.iter().map(|name| name.len() as u64).sum::<u64>();
            assert!(kind != Kind::Btrfs || fs::metadata(&path).unwrap().len() == 2 * bytes);
        }
        // One of another device says nothing of its names by its size.
        let other = fs_.path.join("d0");
        mount(Some("none"), &other, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        (0..500).for_each(|n| fs::write(other.join(format!("{n}{}", "x".repeat(100))), "").unwrap());
        let dir = store.open_dir(&other).unwrap();
        assert_eq!(store.list_by(&dir, &mut lister).unwrap().len(), 500, "{kind}");
        drop(dir);
        umount2(&other, MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn of_many_who_commit_a_btrfs_at_once_none_waits_for_the_kernels_timer() {
    let Some(btrfs) = mounted(Kind::Btrfs, 1 << 30) else { return };
    // Workers that know nothing of each other: one of ten thousand commits misses its wake-up, which is made again.
    let longest = |worker: usize| {
        let fs_ = Fs::real();
        let dir = fs_.open_dir(&btrfs.path).unwrap();
        let one = |n: usize| {
            fs::write(btrfs.path.join(format!("{worker}-{}", n % 50)), "new").unwrap();
            let began = Instant::now();
            fs_.commit(&dir).unwrap();
            began.elapsed()
        };
        (0..2500).map(one).max().unwrap()
    };
    let longest = std::thread::scope(|scope| {
        let workers = (0..8).map(|worker| scope.spawn(move || longest(worker))).collect::<Vec<_>>();
        workers.into_iter().map(|worker| worker.join().unwrap()).max().unwrap()
    });
    assert!(longest < Duration::from_secs(15), "{longest:?}");
}

#[test]
fn a_commit_of_a_btrfs_that_became_read_only_fails() {
    let Some(btrfs) = mounted(Kind::Btrfs, 1 << 30) else { return };
    let fs_ = Fs::real();
    let dir = fs_.open_dir(&btrfs.path).unwrap();
    fs_.commit(&dir).unwrap();
    // The kernel's calls say now that all is done, as they may behind a transaction that was given up.
    btrfs.read_only(true).unwrap();
    let failed = fs_.commit(&dir).unwrap_err();
    assert_eq!(failed.source, Errno::EROFS, "{failed}");
    btrfs.read_only(false).unwrap();
    fs_.commit(&dir).unwrap();
}

/// Fails one call on a file system that commits transactions whole.
#[derive(Debug)]
struct FailOnBtrfs {
    /// The call, counted from one; behind it all succeed.
    nth: u64,
    seen: AtomicU64,
}

impl FailOnBtrfs {
    fn at(nth: u64) -> Arc<Self> {
        Arc::new(Self { nth, seen: AtomicU64::new(0) })
    }

    fn was_there(&self) -> bool {
        self.seen.load(Ordering::SeqCst) >= self.nth
    }
}

impl Gate for FailOnBtrfs {
    fn before(&self, _: Op, _: &Path) -> Result<(), Errno> {
        if self.seen.fetch_add(1, Ordering::SeqCst) + 1 == self.nth { Err(Errno::EIO) } else { Ok(()) }
    }

    fn commits(&self) -> Commits {
        Commits::Whole
    }
}

#[test]
fn whatever_call_of_a_snapshot_on_btrfs_fails_it_is_there_whole_or_not_at_all() {
    let Some(btrfs) = mounted(Kind::Btrfs, 1 << 30) else { return };
    let world = World::at(&btrfs.path);
    world.make_instance("golden");
    let open = world.open();
    open.recover().unwrap();
    open.take("golden").unwrap();
    drop(open);
    // What opening takes, before the calls of the snapshot.
    let gate = FailOnBtrfs::at(u64::MAX);
    drop(world.try_open(Fs::gated(Arc::clone(&gate) as _)).unwrap());
    let opening = gate.seen.load(Ordering::SeqCst);
    let (mut known, mut commits) = (1, 0);
    for n in opening + 1.. {
        let gate = FailOnBtrfs::at(n);
        let open = world.try_open(Fs::gated(Arc::clone(&gate) as _)).unwrap();
        let taken = open.take("golden");
        known += usize::from(taken.is_ok());
        commits += usize::from(taken.as_ref().is_err_and(|e| e.to_string().contains("commit")));
        drop(open);
        let open = world.open();
        open.recover().unwrap();
        assert_eq!(open.store.index().of_instance(&instance("golden")).len(), known, "{n}: {taken:?}");
        let findings = verify(&Fs::real(), &open.store.layout, &HashSet::new(), Flow::quiet()).findings;
        assert!(findings.is_empty(), "{n}: {findings:#?}");
        if !gate.was_there() {
            break;
        }
    }
    assert_eq!(commits, 2, "one before the rename, one behind it");
}

#[test]
fn of_many_records_on_btrfs_each_is_the_old_one_or_the_new_one_whatever_call_fails() {
    const COUNT: usize = 12;
    let Some(btrfs) = mounted(Kind::Btrfs, 1 << 30) else { return };
    let paths: Vec<_> = (0..COUNT).map(|n| btrfs.path.join(n.to_string())).collect();
    let with = |bytes: &'static [u8]| paths.iter().map(|path| (path.as_path(), bytes)).collect::<Vec<_>>();
    let mut points = 0;
    for n in 1.. {
        assert!(Fs::real().replace_records(&with(b"old")).iter().all(Result::is_ok));
        let gate = FailOnBtrfs::at(n);
        let answers = Fs::gated(Arc::clone(&gate) as _).replace_records(&with(b"new"));
        for (path, answer) in paths.iter().zip(answers) {
            let text = fs::read_to_string(path).unwrap();
            assert!(text == "new" || (text == "old" && answer.is_err()), "{n}: {text:?}, {answer:?}");
        }
        assert_eq!(fs::read_dir(&btrfs.path).unwrap().count(), COUNT, "{n}: no temporary file is left");
        if !gate.was_there() {
            break;
        }
        points += 1;
    }
    assert_eq!(points, COUNT * 5 + 2, "unlink, create, write, write back and rename of each, a commit, a sync of the directory");
}

#[test]
fn memory_is_copied_where_it_cannot_be_linked_and_the_fork_says_why() {
    // Store and root on two mounts: EXDEV.
    let (Some(one), Some(other)) = (mounted(Kind::Xfs, 512 << 20), mounted(Kind::Xfs, 512 << 20)) else { return };
    let mut world = World::at(&one.path);
    world.vms = other.path.join("vms");
    fs::create_dir(&world.vms).unwrap();
    world.make_instance("a");
    let open = world.open();
    let id = open.take("a").unwrap();
    let request = open.fork(&id, "b").unwrap();
    assert_eq!((request.state, request.memory.as_deref()), (RequestState::Done, Some("copied")));
    assert_eq!(fs::read(world.vms.join("a/memory")).unwrap(), fs::read(world.vms.join("b/memory")).unwrap());
    let why = world.events.events().into_iter().find_map(|e| match e {
        snapkeep::event::Event::ForkCreated { fell_back, .. } => fell_back,
        _ => None,
    });
    assert!(why.is_some_and(|w| w.to_lowercase().contains("cross-device")), "the reason is in the log");
}

#[test]
fn a_memory_file_with_as_many_links_as_ext4_allows_is_copied_for_the_next_fork() {
    let Some(fs_) = mounted(Kind::Ext4, 512 << 20) else { return };
    let world = World::at(&fs_.path);
    world.make_instance("a");
    let open = world.open();
    let id = open.take("a").unwrap();
    let memory = open.store.layout.snapshot(&id).join("data/memory");
    let links = fs_.path.join("links");
    fs::create_dir(&links).unwrap();
    let refused = (0..66_000).find_map(|n| fs::hard_link(&memory, links.join(n.to_string())).err()).unwrap();
    assert_eq!(refused.raw_os_error(), Some(nix::libc::EMLINK));
    let request = open.fork(&id, "b").unwrap();
    assert_eq!((request.state, request.memory.as_deref()), (RequestState::Done, Some("copied")));
}

#[test]
fn the_instances_root_unmounted_while_the_worker_runs_drops_no_ref_and_removes_nothing() {
    let Some(fs_) = mounted(Kind::Xfs, 512 << 20) else { return };
    let world = World::at(&fs_.path);
    // The root is a mount of its own, on a directory of the same file system.
    let real = fs_.path.join("real-vms");
    fs::create_dir(&real).unwrap();
    let bind = || mount(Some(&real), &world.vms, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    bind();
    world.make_instance("golden");
    let program = Program::new(&world, "[[policy]]\nname = \"p\"\ninstances = [\"golden\"]\nevery = \"1s\"\n[policy.keep]\nlast = 1\n");
    program.ok("init");
    program.ok("snapshot golden --name base");
    program.ok("fork base web");
    let worker = program.run();
    eventually("a scheduled snapshot", Duration::from_secs(10), || program.json("ls")["snapshots"].as_array().unwrap().len() > 1);
    umount2(&world.vms, MntFlags::MNT_DETACH).unwrap();
    eventually("the loss is noticed", Duration::from_secs(10), || worker.log().contains("root.lost"));
    let before = program.json("ls")["snapshots"].as_array().unwrap().len();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(program.json("show base")["ref_count"], 1);
    assert_eq!(program.json("ls")["snapshots"].as_array().unwrap().len(), before);
    assert_eq!(program.fails("rm base").0, 1);
    assert!(program.json("status")["worker"]["root_lost"].is_string());
    bind();
    eventually("it is found again", Duration::from_secs(10), || worker.log().contains("root.found"));
    assert_eq!(program.json("show base")["ref_count"], 1);
    assert_eq!(worker.stop(), 0);
    umount2(&world.vms, MntFlags::MNT_DETACH).unwrap();
}
