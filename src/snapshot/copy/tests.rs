//! A copy is the tree at one moment, or none.

#![expect(clippy::disallowed_methods, reason = "tests make and look at files by other means than the code under test")]

use super::*;
use crate::snapshot::digest::{digest_file, hash_tree};
use crate::store::fs::Gate;
use crate::store::manifest::{Blob, FileNode};
use std::ffi::OsStr;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

struct Case {
    temp: tempfile::TempDir,
    skip: Skip,
    memory_names: Vec<String>,
    parent: Option<ParentMemory>,
}

impl Case {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("vm")).unwrap();
        std::fs::create_dir(temp.path().join("data")).unwrap();
        Self { temp, skip: Skip::default(), memory_names: vec!["memory".to_owned()], parent: None }
    }

    fn vm(&self, name: &str) -> PathBuf {
        self.temp.path().join("vm").join(name)
    }

    fn data(&self, name: &str) -> PathBuf {
        self.temp.path().join("data").join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.vm(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn copy_with(&self, fs: &Fs, flow: Flow<'_>) -> Result<CopiedTree, CopyError> {
        let ctx = CopyContext { fs, skip: &self.skip, memory_names: &self.memory_names, parent_memory: self.parent.as_ref(), flow };
        copy_tree(&ctx, &self.vm(""), &self.data(""))
    }

    fn copy(&self) -> CopiedTree {
        self.copy_with(&Fs::real(), Flow::quiet()).unwrap()
    }
}

fn paths(tree: &CopiedTree) -> Vec<&str> {
    tree.entries.iter().map(|e| e.path.as_path().to_str().unwrap()).collect()
}

fn entry<'a>(tree: &'a CopiedTree, path: &str) -> &'a Entry {
    tree.entries.iter().find(|e| e.path.as_path() == Path::new(path)).unwrap()
}

/// Does something at each call that its test picks.
struct Hook(Mutex<Box<Hooked>>);

type Hooked = dyn FnMut(Op, &Path) + Send;

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

impl Gate for Hook {
    fn before(&self, op: Op, path: &Path) -> Result<(), Errno> {
        (self.0.lock().unwrap())(op, path);
        // These tests wait for writes, also where reflinks would do.
        if op == Op::Reflink { Err(Errno::EOPNOTSUPP) } else { Ok(()) }
    }
}

fn hooked(hook: impl FnMut(Op, &Path) + Send + 'static) -> Fs {
    Fs::gated(Arc::new(Hook(Mutex::new(Box::new(hook)))))
}

#[test]
fn a_tree_is_copied_with_its_holes_links_modes_and_times() {
    let case = Case::new();
    let disk = std::fs::File::create(case.vm("overlay.raw")).unwrap();
    disk.set_len(64 << 20).unwrap();
    disk.write_all_at(&[7; 100_000], 32 << 20).unwrap();
    case.write("sub/config.json", b"{}");
    case.write("sub/memory", b"guest");
    std::fs::hard_link(case.vm("sub/config.json"), case.vm("sub/same")).unwrap();
    std::os::unix::fs::symlink("../no/../where", case.vm("link")).unwrap();
    std::fs::set_permissions(case.vm("sub/config.json"), PermissionsExt::from_mode(0o640)).unwrap();
    std::fs::set_permissions(case.vm("sub"), PermissionsExt::from_mode(0o555)).unwrap();
    Fs::real().set_mtime(&case.vm("sub/memory"), -1_500_000_001).unwrap();
    let tree = case.copy();
    assert_eq!(paths(&tree), ["", "link", "overlay.raw", "sub", "sub/config.json", "sub/memory", "sub/same"]);
    assert_eq!(tree.kind, Kind::Standby);
    assert_eq!(tree.size_bytes, (64 << 20) + 2 + 5);
    assert!(tree.allocated_bytes < 1 << 20, "{}", tree.allocated_bytes);
    let copy = |name: &str| std::fs::symlink_metadata(case.data(name)).unwrap();
    assert!(copy("overlay.raw").blocks() * 512 < 1 << 20);
    assert!(std::fs::read(case.data("overlay.raw")).unwrap() == std::fs::read(case.vm("overlay.raw")).unwrap());
    assert_eq!(copy("sub/config.json").ino(), copy("sub/same").ino());
    assert_eq!(entry(&tree, "sub/same").node, Node::Hardlink(TextPath::new("sub/config.json")));
    assert_eq!(std::fs::read_link(case.data("link")).unwrap(), Path::new("../no/../where"));
    let modes = ["sub/config.json", "sub/memory", "sub"].map(|name| copy(name).permissions().mode() & 0o7777);
    assert_eq!(modes, [0o440, 0o444, 0o755]);
    assert_eq!((entry(&tree, "sub").mode, entry(&tree, "sub/config.json").mode), (0o555, 0o640));
    for entry in &tree.entries {
        let stored = Fs::real().stat(case.data("").join(entry.path.as_path()).as_path()).unwrap();
        assert_eq!(stored.mtime_ns, entry.mtime_ns, "{:?}", entry.path);
        assert!(!matches!(entry.node, Node::File(_)) || entry.is_unchanged(&stored));
    }
    assert_eq!(entry(&tree, "sub/memory").mtime_ns, -1_500_000_001);
}

#[test]
fn what_is_no_file_or_named_by_a_rule_is_left_out_and_listed() {
    let mut case = Case::new();
    case.skip = Skip::new(&["logs/", "*.tmp"]).unwrap();
    for name in ["logs/app.log", "sub/x.tmp", ".snapkeep/fork.json", ".snapkeep/tags.toml", ".snapkeep/note", "sub/fork.json"] {
        case.write(name, b"x");
    }
    let _socket = std::os::unix::net::UnixListener::bind(case.vm("sub/s.sock")).unwrap();
    nix::unistd::mkfifo(&case.vm("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let tree = case.copy();
    assert_eq!(paths(&tree), ["", ".snapkeep", ".snapkeep/note", "sub", "sub/fork.json"]);
    let skipped: Vec<_> = tree.skipped.iter().map(|s| (s.path.as_path().to_str().unwrap(), s.why.as_str())).collect();
    let ours = [(".snapkeep/fork.json", "fork record"), (".snapkeep/tags.toml", "instance tags")];
    let wanted = [("logs", "logs/"), ("pipe", "fifo"), ours[0], ours[1], ("sub/s.sock", "socket"), ("sub/x.tmp", "*.tmp")];
    assert_eq!(skipped, wanted);
    assert_eq!(tree.kind, Kind::Stopped);
}

#[test]
fn extended_attributes_of_files_and_directories_are_in_the_entries() {
    let case = Case::new();
    let path = case.write("f", b"x");
    xattr::set(&path, "user.note", b"\xff\0value").unwrap();
    xattr::set(case.vm(""), "user.of", b"dir").unwrap();
    let tree = case.copy();
    assert_eq!(entry(&tree, "f").xattrs[&TextPath::new("user.note")], Blob(b"\xff\0value".to_vec()));
    assert_eq!(entry(&tree, "").xattrs[&TextPath::new("user.of")], Blob(b"dir".to_vec()));
}

#[test]
fn a_file_written_while_it_is_copied_is_copied_again_whole() {
    let case = Case::new();
    let path = case.write("disk", &[1; 3 << 20]);
    let written = Arc::new(AtomicU64::new(0));
    let (count, source) = (written.clone(), path.clone());
    let fs = hooked(move |op, at| {
        // Before the last of the copy's writes: the first megabyte has been copied with the old contents.
        if op == Op::Write && at.ends_with("data/disk") && count.fetch_add(1, Ordering::SeqCst) == 2 {
            let file = std::fs::OpenOptions::new().write(true).open(&source).unwrap();
            file.write_all_at(&[2; 3 << 20], 0).unwrap();
        }
    });
    let tree = case.copy_with(&fs, Flow::quiet()).unwrap();
    assert_eq!(tree.repeats, 1);
    assert!(std::fs::read(case.data("disk")).unwrap() == vec![2; 3 << 20]);
    assert_eq!(written.load(Ordering::SeqCst), 6);
}

#[test]
fn a_file_that_never_holds_still_is_refused() {
    let case = Case::new();
    let path = case.write("disk", b"x");
    case.write("quiet", b"x");
    let fs = hooked(move |op, at| {
        if op == Op::Write && at.ends_with("data/disk") {
            let file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
            std::io::Write::write_all(&mut &file, b"more").unwrap();
        }
    });
    match case.copy_with(&fs, Flow::quiet()) {
        Err(CopyError::Changing { path }) => assert_eq!(path, case.vm("disk")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_is_cut_short_replaced_or_removed_under_the_copy_is_noticed() {
    for what in 0..5 {
        let case = Case::new();
        let path = case.write("a/disk", &[1; 2 << 20]);
        case.write("b", b"x");
        let mut once = Some(());
        let fs = hooked(move |op, at| {
            if op == Op::Create && at.ends_with("data/a/disk") && once.take().is_some() {
                match what {
                    0 => std::fs::File::options().write(true).open(&path).unwrap().set_len(5).unwrap(),
                    1 => std::fs::remove_file(&path).unwrap(),
                    2 => {
                        std::fs::write(path.with_extension("new"), b"new").unwrap();
                        std::fs::rename(path.with_extension("new"), &path).unwrap();
                    }
                    3 => {
                        std::fs::remove_file(&path).unwrap();
                        std::fs::create_dir(&path).unwrap();
                        std::fs::write(path.join("in"), b"in").unwrap();
                    }
                    _ => std::fs::remove_dir_all(path.parent().unwrap()).unwrap(),
                }
            }
        });
        let tree = case.copy_with(&fs, Flow::quiet()).unwrap();
        assert!(tree.repeats > 0, "{what}");
        let copied = std::process::Command::new("diff").arg("-r").arg(case.vm("")).arg(case.data("")).status().unwrap();
        assert!(copied.success(), "{what}");
        let wanted: &[&str] = match what {
            1 => &["", "b", "a"],
            3 => &["", "b", "a", "a/disk", "a/disk/in"],
            4 => &["", "b"],
            _ => &["", "b", "a", "a/disk"],
        };
        assert_eq!(paths(&tree), wanted, "{what}");
    }
}

#[test]
fn a_file_that_appears_in_a_directory_already_passed_is_found_and_a_busy_skipped_one_is_no_matter() {
    let mut case = Case::new();
    case.skip = Skip::new(&["*.tmp"]).unwrap();
    for name in ["a", "b", "c"] {
        case.write(name, b"x");
    }
    let vm = case.vm("");
    let mut n = 0;
    let fs = hooked(move |op, _| {
        if op == Op::Create {
            n += 1;
            std::fs::write(vm.join(format!("{n}.tmp")), b"x").unwrap();
            if n == 2 {
                std::fs::rename(vm.join("c"), vm.join("0-late")).unwrap();
            }
        }
    });
    let tree = case.copy_with(&fs, Flow::quiet()).unwrap();
    assert_eq!(paths(&tree), ["", "0-late", "a", "b"]);
    let busy = case.vm("busy.tmp");
    let case = Case { temp: case.temp, skip: Skip::new(&["*.tmp"]).unwrap(), memory_names: vec![], parent: None };
    std::fs::remove_dir_all(case.data("")).unwrap();
    std::fs::create_dir(case.data("")).unwrap();
    let fs = hooked(move |op, _| {
        if op == Op::SetMeta {
            let _ = std::fs::remove_file(&busy);
            std::fs::write(&busy, b"x").unwrap();
        }
    });
    let tree = case.copy_with(&fs, Flow::quiet()).unwrap();
    assert_eq!(paths(&tree), ["", "0-late", "a", "b"]);
}

#[test]
fn the_first_of_several_names_goes_and_the_others_still_share_one_inode() {
    let case = Case::new();
    let path = case.write("a", b"x");
    std::fs::hard_link(&path, case.vm("b")).unwrap();
    std::fs::hard_link(&path, case.vm("c")).unwrap();
    let mut once = Some(());
    let fs = hooked(move |op, at| {
        if op == Op::Link && at.ends_with("data/c") && once.take().is_some() {
            std::fs::remove_file(&path).unwrap();
        }
    });
    let tree = case.copy_with(&fs, Flow::quiet()).unwrap();
    assert_eq!(paths(&tree), ["", "b", "c"]);
    assert_eq!(entry(&tree, "c").node, Node::Hardlink(TextPath::new("b")));
    let ino = |name: &str| std::fs::metadata(case.data(name)).unwrap().ino();
    assert_eq!(ino("b"), ino("c"));
}

/// A parent snapshot's memory file, and a fork's link to it.
fn with_parent(case: &mut Case) -> PathBuf {
    let stored = case.temp.path().join("parent-memory");
    std::fs::write(&stored, b"guest memory").unwrap();
    std::fs::set_permissions(&stored, PermissionsExt::from_mode(0o444)).unwrap();
    Fs::real().set_mtime(&stored, 1_000_000_000).unwrap();
    std::fs::hard_link(&stored, case.vm("memory")).unwrap();
    let file_id = Fs::real().stat(&stored).unwrap().file_id;
    let file = ParentFile { path: stored.clone(), file_id, size: 12, mtime_ns: 1_000_000_000, digest: "blake3:p".to_owned() };
    case.parent = Some(ParentMemory { files: vec![file] });
    stored
}

#[test]
fn memory_that_is_the_parents_own_unchanged_inode_is_linked_while_other_forks_link_it_too() {
    let mut case = Case::new();
    let stored = with_parent(&mut case);
    case.write("disk", b"x");
    let temp = case.temp.path().to_owned();
    let mut n = 0;
    let (parent, fs) = (
        stored.clone(),
        hooked(move |_, _| {
            n += 1;
            std::fs::hard_link(&stored, temp.join(format!("sibling-{n}"))).unwrap();
        }),
    );
    let tree = case.copy_with(&fs, Flow::quiet()).unwrap();
    assert_eq!((tree.linked, tree.kind), (1, Kind::Standby));
    let copied = std::fs::metadata(case.data("memory")).unwrap();
    assert_eq!(copied.ino(), std::fs::metadata(parent).unwrap().ino());
    assert_eq!(entry(&tree, "memory").node, Node::File(FileNode { size: 12, digest: "blake3:p".to_owned(), data: None, memory: true }));
}

#[test]
fn memory_that_only_looks_like_the_parents_is_copied() {
    for what in 0..4 {
        let mut case = Case::new();
        let stored = with_parent(&mut case);
        match what {
            0 => {
                // Written through: another time.
                std::fs::File::options().write(true).open(&stored).unwrap().write_all_at(b"X", 0).unwrap();
            }
            1 => case.parent.as_mut().unwrap().files[0].size = 13,
            2 => {
                // The store's name leads elsewhere now.
                std::fs::remove_file(&stored).unwrap();
                std::fs::write(&stored, b"guest memory").unwrap();
            }
            _ => std::fs::remove_file(&stored).unwrap(),
        }
        let tree = case.copy();
        assert_eq!(tree.linked, 0, "{what}");
        let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
        assert_ne!(inode(&case.data("memory")), inode(&case.vm("memory")), "{what}");
        let digest = format!("blake3:{}", blake3::hash(&std::fs::read(case.data("memory")).unwrap()).to_hex());
        // Of its own bytes if they went by, still to be made if they are shared; never the parent's.
        assert!(matches!(&entry(&tree, "memory").node, Node::File(f) if f.memory && (f.digest.is_empty() || f.digest == digest)), "{what}");
    }
}

#[test]
fn a_file_linked_from_outside_is_copied_and_one_with_a_disk_s_name_too_is_no_memory() {
    let case = Case::new();
    let path = case.write("memory", b"x");
    std::fs::hard_link(&path, case.temp.path().join("outside")).unwrap();
    std::fs::hard_link(case.write("z/memory", b"y"), case.vm("disk")).unwrap();
    let tree = case.copy();
    assert!(matches!(&entry(&tree, "memory").node, Node::File(f) if f.memory));
    assert!(matches!(&entry(&tree, "disk").node, Node::File(f) if !f.memory));
    assert_eq!(std::fs::metadata(case.data("memory")).unwrap().nlink(), 1);
}

#[test]
fn a_request_to_stop_ends_the_copy_and_a_failing_disk_is_reported_with_its_path() {
    let case = Case::new();
    case.write("disk", &[1; 4 << 20]);
    let stop = Arc::new(AtomicBool::new(false));
    let later = stop.clone();
    let fs = hooked(move |op, _| later.store(later.load(Ordering::SeqCst) || op == Op::Write, Ordering::SeqCst));
    let flow = Flow { cancelled: &stop, ..Flow::quiet() };
    assert!(matches!(case.copy_with(&fs, flow), Err(CopyError::Cancelled)));
    let case = Case::new();
    case.write("disk", b"x");
    #[derive(Debug)]
    struct Full;
    impl Gate for Full {
        fn before(&self, op: Op, _: &Path) -> Result<(), Errno> {
            if matches!(op, Op::Write | Op::Reflink) { Err(Errno::ENOSPC) } else { Ok(()) }
        }
    }
    match case.copy_with(&Fs::gated(Arc::new(Full)), Flow::quiet()) {
        Err(CopyError::Io(e)) => assert_eq!((e.source, e.path), (Errno::ENOSPC, case.data("disk"))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_instance_that_is_removed_under_the_copy_gives_no_empty_snapshot() {
    let case = Case::new();
    case.write("disk", b"x");
    let vm = case.vm("");
    let fs = hooked(move |op, _| {
        if op == Op::Create {
            std::fs::remove_dir_all(&vm).unwrap();
        }
    });
    match case.copy_with(&fs, Flow::quiet()) {
        Err(CopyError::Io(e)) => assert!(e.is_not_found()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_tree_deeper_than_a_path_may_be_long_is_copied_hashed_and_synced() {
    let case = Case::new();
    let fs = Fs::real();
    let name = OsStr::new("a-rather-long-name-of-a-directory-to-get-deep-soon");
    let mut dir = fs.open_dir(&case.vm("")).unwrap();
    for _ in 0..150 {
        fs.mkdir(dir.at(name), 0o700).unwrap();
        dir = fs.open_dir(dir.at(name)).unwrap();
    }
    fs.write_new(dir.at(OsStr::new("leaf")), b"bottom").unwrap();
    let mut tree = case.copy();
    assert_eq!(tree.entries.len(), 152);
    hash_tree(&fs, &case.data(""), &mut tree.entries, Flow::quiet()).unwrap();
    sync_tree(&fs, &case.data(""), &tree.entries, &fs.open_dir(&case.data("")).unwrap()).unwrap();
    let Node::File(leaf) = &tree.entries[151].node else { panic!() };
    assert_eq!(leaf.digest, format!("blake3:{}", blake3::hash(b"bottom").to_hex()));
    fs.remove_tree(case.vm("").join(name).as_path()).unwrap();
    fs.remove_tree(case.data("").join(name).as_path()).unwrap();
}

#[test]
fn all_files_are_hashed_once_with_any_number_of_threads() {
    let case = Case::new();
    for i in 0..40 {
        case.write(&format!("d{}/f{i}", i % 3), &vec![1; i * 100]);
    }
    case.write("large", &[3; (3 << 20) + 5]);
    let mut tree = case.copy();
    let on_the_way: Vec<Entry> = tree.entries.clone();
    for entry in &mut tree.entries {
        if let Node::File(file) = &mut entry.node {
            file.digest.clear();
        }
    }
    #[derive(Default)]
    struct Sum(AtomicU64, AtomicU64);
    impl Progress for Sum {
        fn total(&self, bytes: u64) {
            self.0.fetch_add(bytes, Ordering::Relaxed);
        }
        fn advance(&self, bytes: u64) {
            self.1.fetch_add(bytes, Ordering::Relaxed);
        }
    }
    let sum = Sum::default();
    let flow = Flow { threads: 4, progress: &sum, ..Flow::quiet() };
    hash_tree(&Fs::real(), &case.data(""), &mut tree.entries, flow).unwrap();
    sync_tree(&Fs::real(), &case.data(""), &tree.entries, &Fs::real().open_dir(&case.data("")).unwrap()).unwrap();
    for entry in &tree.entries {
        if let Node::File(file) = &entry.node {
            let path = case.vm("").join(entry.path.as_path());
            let open = std::fs::File::open(&path).unwrap();
            assert_eq!(file.digest, digest_file(&Fs::real(), &open, &path, file.size, Flow::quiet()).unwrap());
        }
    }
    for (hashed, copied) in tree.entries.iter().zip(&on_the_way) {
        // Where extents are shared nothing went by.
        let is_same = |a: &str, b: &str| b.is_empty() || a == b;
        assert!(
            matches!((&hashed.node, &copied.node), (Node::File(a), Node::File(b)) if is_same(&a.digest, &b.digest)) || hashed == copied
        );
    }
    assert_eq!(sum.1.load(Ordering::Relaxed), tree.size_bytes);
    assert!(sum.0.load(Ordering::Relaxed) >= tree.size_bytes);
}
