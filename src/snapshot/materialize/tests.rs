//! A tree comes out as it went in.

#![expect(clippy::disallowed_methods, reason = "tests make and look at files by other means than the code under test")]

use super::*;
use crate::config::Skip;
use crate::snapshot::copy::{CopiedTree, CopyContext, copy_tree};
use crate::store::fs::{Gate, Op};
use crate::store::manifest::{Blob, TextPath};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::sync::Arc;

/// An instance with a bit of everything, and its snapshot.
fn snapshot() -> (tempfile::TempDir, CopiedTree) {
    let temp = tempfile::tempdir().unwrap();
    let vm = |name: &str| temp.path().join("vm").join(name);
    for dir in ["vm", "vm/sub", "vm/sub/ro", "data", "fork"] {
        std::fs::create_dir(temp.path().join(dir)).unwrap();
    }
    std::fs::write(vm("memory"), b"guest memory").unwrap();
    std::fs::write(vm("sub/config.json"), b"{\"old\": 1}").unwrap();
    std::fs::write(vm("sub/ro/f"), b"x").unwrap();
    std::fs::hard_link(vm("sub/ro/f"), vm("g")).unwrap();
    let disk = std::fs::File::create(vm("disk")).unwrap();
    disk.set_len(8 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&disk, b"data", 4 << 20).unwrap();
    std::os::unix::fs::symlink("sub/config.json", vm("link")).unwrap();
    xattr::set(vm("disk"), "user.k", b"v").unwrap();
    xattr::set(vm("sub"), "user.d", b"w").unwrap();
    for (name, mode) in [("memory", 0o600), ("disk", 0o4664), ("sub/ro/f", 0o444), ("sub/ro", 0o555), ("sub", 0o2750)] {
        std::fs::set_permissions(vm(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    for (i, name) in ["memory", "disk", "sub/ro/f", "sub/config.json", "link", "sub/ro", "sub", ""].into_iter().enumerate() {
        Fs::real().set_mtime(vm(name).as_path(), 1_600_000_000_123_456_789 + i as i64).unwrap();
    }
    let (fs, names) = (Fs::real(), ["memory".to_owned()]);
    let ctx = CopyContext { fs: &fs, skip: &Skip::default(), memory_names: &names, parent_memory: None, flow: Flow::quiet() };
    let tree = copy_tree(&ctx, &temp.path().join("vm"), &temp.path().join("data")).unwrap();
    (temp, tree)
}

struct Setting {
    fs: Fs,
    method: MemoryMethod,
    as_root: bool,
}

impl Default for Setting {
    fn default() -> Self {
        Self { fs: Fs::real(), method: MemoryMethod::Hardlink, as_root: crate::store::fs::gives_owners() }
    }
}

impl Setting {
    fn build(&self, temp: &Path, entries: &[Entry], rewrite: Option<&Rewrite<'_>>) -> Result<Materialized, MaterializeError> {
        let data = temp.join("data");
        let ctx = MaterializeContext {
            fs: &self.fs,
            data: &data,
            memory: &data,
            memory_method: self.method,
            as_root: self.as_root,
            rewrite,
            flow: Flow::quiet(),
        };
        materialize(&ctx, entries, &temp.join("fork"))
    }
}

fn look(path: &Path) -> (u32, u32, u32, i64, i64, u64) {
    let m = std::fs::symlink_metadata(path).unwrap();
    (m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec(), m.size())
}

#[test]
fn a_fork_is_the_instance_again_and_shares_no_inode_but_memory() {
    let (temp, tree) = snapshot();
    let built = Setting::default().build(temp.path(), &tree.entries, None).unwrap();
    assert_eq!((built.memory, built.memory_fell_back, built.copied + built.reflinked), (MemoryUsed::Hardlink, None, 3));
    assert!(built.refused.is_empty());
    let (vm, fork, data) = (temp.path().join("vm"), temp.path().join("fork"), temp.path().join("data"));
    for entry in &tree.entries {
        let path = entry.path.as_path();
        let Ok(ours) = std::fs::symlink_metadata(fork.join(path)) else { panic!("{} is missing", path.display()) };
        let stored = std::fs::symlink_metadata(data.join(path)).unwrap();
        if path == Path::new("memory") {
            assert_eq!((ours.ino(), ours.mode() & 0o7777), (stored.ino(), 0o444));
            continue;
        }
        assert_eq!(look(&fork.join(path)), look(&vm.join(path)), "{}", path.display());
        assert_ne!(ours.ino(), stored.ino(), "{}", path.display());
    }
    assert_eq!(std::fs::read_link(fork.join("link")).unwrap(), Path::new("sub/config.json"));
    assert_eq!(std::fs::metadata(fork.join("g")).unwrap().ino(), std::fs::metadata(fork.join("sub/ro/f")).unwrap().ino());
    assert_eq!(xattr::get(fork.join("disk"), "user.k").unwrap().unwrap(), b"v");
    assert_eq!(xattr::get(fork.join("sub"), "user.d").unwrap().unwrap(), b"w");
    assert!(std::fs::metadata(fork.join("disk")).unwrap().blocks() * 512 < 1 << 20);
    assert!(std::fs::read(fork.join("disk")).unwrap() == std::fs::read(vm.join("disk")).unwrap());
}

#[test]
fn memory_that_is_copied_is_the_forks_own_file_with_the_original_mode() {
    let (temp, tree) = snapshot();
    let built = Setting { method: MemoryMethod::Copy, ..Setting::default() }.build(temp.path(), &tree.entries, None).unwrap();
    assert_eq!((built.memory, built.memory_fell_back), (MemoryUsed::Copied, None));
    assert_eq!(look(&temp.path().join("fork/memory")), look(&temp.path().join("vm/memory")));
    assert_eq!(std::fs::read(temp.path().join("fork/memory")).unwrap(), b"guest memory");
}

#[derive(Debug)]
struct Deny(Vec<(Op, Errno)>);

impl Gate for Deny {
    fn before(&self, op: Op, path: &Path) -> Result<(), Errno> {
        match self.0.iter().find(|(denied, _)| *denied == op) {
            Some((_, errno)) if path.ends_with("memory") => Err(*errno),
            _ => Ok(()),
        }
    }
}

#[test]
fn memory_falls_back_from_link_to_reflink_to_copy_and_says_why() {
    for errno in [Errno::EMLINK, Errno::EXDEV, Errno::EPERM, Errno::EOPNOTSUPP] {
        let (temp, tree) = snapshot();
        let fs = Fs::gated(Arc::new(Deny(vec![(Op::Link, errno), (Op::Reflink, Errno::EOPNOTSUPP)])));
        let built = Setting { fs, ..Setting::default() }.build(temp.path(), &tree.entries, None).unwrap();
        assert_eq!((built.memory, built.memory_fell_back), (MemoryUsed::Copied, Some(errno)));
    }
    let (temp, tree) = snapshot();
    let fs = Fs::gated(Arc::new(Deny(vec![(Op::Link, Errno::ENOSPC)])));
    let error = Setting { fs, ..Setting::default() }.build(temp.path(), &tree.entries, None).unwrap_err();
    assert!(matches!(error, MaterializeError::Io(e) if e.source == Errno::ENOSPC));
}

#[test]
fn memory_that_was_changed_in_the_store_is_never_given_to_a_fork() {
    for method in [MemoryMethod::Hardlink, MemoryMethod::Reflink, MemoryMethod::Copy] {
        let (temp, tree) = snapshot();
        let stored = temp.path().join("data/memory");
        std::fs::set_permissions(&stored, PermissionsExt::from_mode(0o644)).unwrap();
        std::fs::write(&stored, b"GUEST MEMORY").unwrap();
        let error = Setting { method, ..Setting::default() }.build(temp.path(), &tree.entries, None).unwrap_err();
        assert!(matches!(error, MaterializeError::MemoryChanged { path } if path == stored), "{method:?}");
        assert!(!temp.path().join("fork/memory").exists());
    }
}

#[test]
fn contents_can_be_rewritten_on_the_way_or_refused() {
    let (temp, tree) = snapshot();
    let rewrite = |entry: &Entry, file: &File| {
        if entry.path.as_path() != Path::new("sub/config.json") {
            return Ok(None);
        }
        let mut text = String::new();
        std::io::Read::read_to_string(&mut { file }, &mut text).unwrap();
        Ok(Some(text.replace("old", "new").into_bytes()))
    };
    let built = Setting::default().build(temp.path(), &tree.entries, Some(&rewrite)).unwrap();
    assert_eq!(built.rewritten, 1);
    assert_eq!(std::fs::read(temp.path().join("fork/sub/config.json")).unwrap(), b"{\"new\": 1}");
    assert_eq!(std::fs::read(temp.path().join("data/sub/config.json")).unwrap(), b"{\"old\": 1}");
    let (temp, tree) = snapshot();
    let refuse = |entry: &Entry, _: &File| Err(MaterializeError::Refused { path: entry.path.as_path().to_owned(), why: "no".to_owned() });
    let error = Setting::default().build(temp.path(), &tree.entries, Some(&refuse)).unwrap_err();
    assert_eq!(error.to_string(), "disk: no");
}

#[test]
fn owners_are_set_by_root_only_and_set_id_bits_do_not_outlive_them() {
    let (temp, mut tree) = snapshot();
    let disk = tree.entries.iter_mut().find(|e| e.path.as_path() == Path::new("disk")).unwrap();
    (disk.uid, disk.gid) = (disk.uid + 1234, disk.gid + 1234);
    let (uid, gid) = (disk.uid, disk.gid);
    let built = Setting { as_root: false, ..Setting::default() }.build(temp.path(), &tree.entries, None).unwrap();
    assert_eq!(built.owners_lost, 1);
    assert_eq!(std::fs::metadata(temp.path().join("fork/disk")).unwrap().mode() & 0o7777, 0o664);
    if crate::store::fs::gives_owners() {
        std::fs::remove_dir_all(temp.path().join("fork")).unwrap();
        std::fs::create_dir(temp.path().join("fork")).unwrap();
        Setting::default().build(temp.path(), &tree.entries, None).unwrap();
        let disk = std::fs::metadata(temp.path().join("fork/disk")).unwrap();
        assert_eq!((disk.uid(), disk.gid(), disk.mode() & 0o7777), (uid, gid, 0o4664));
    }
}

#[test]
fn an_attribute_that_nobody_may_set_is_reported_and_a_users_one_is_an_error() {
    let (temp, mut tree) = snapshot();
    let disk = tree.entries.iter_mut().find(|e| e.path.as_path() == Path::new("disk")).unwrap();
    disk.xattrs.insert(TextPath::new("strange.name"), Blob(b"x".to_vec()));
    let built = Setting::default().build(temp.path(), &tree.entries, None).unwrap();
    assert_eq!(built.refused.iter().map(|r| r.name.to_str().unwrap()).collect::<Vec<_>>(), ["strange.name"]);
    let (temp, tree) = snapshot();
    #[derive(Debug)]
    struct NoAttributes;
    impl Gate for NoAttributes {
        fn before(&self, op: Op, path: &Path) -> Result<(), Errno> {
            if op == Op::SetMeta && path.ends_with("fork/disk") { Err(Errno::EOPNOTSUPP) } else { Ok(()) }
        }
    }
    let fs = Fs::gated(Arc::new(NoAttributes));
    assert!(Setting { fs, ..Setting::default() }.build(temp.path(), &tree.entries, None).is_err());
}

#[test]
fn an_entry_that_leads_out_of_the_tree_is_refused() {
    let (temp, mut tree) = snapshot();
    tree.entries[2].path = TextPath::new("../outside");
    assert!(Setting::default().build(temp.path(), &tree.entries, None).is_err());
    assert!(!temp.path().join("outside").exists());
}
