//! The tags that a manager gives an instance: `.snapkeep/tags.toml`, a flat table of strings that it writes (aside, and
//! renamed into place) and nobody here ever changes.
//!
//! Whoever may write into an instance may put anything there, so it is read as what it is: below the instance's directory
//! only, through no link, never waited for, of a bounded length. What cannot be read is *unknown*, which is not "none".

use super::fs::{Dir, FileType, Fs, FsError, Meta};
use super::layout::Layout;
use crate::ids::InstanceId;
use crate::policy::InstanceTags;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// No file of tags is longer, bytes.
const LONGEST: u64 = 64 << 10;
/// Longer than any kernel's clock tick: within it a second change may leave no trace.
const TICK_NS: i64 = 50_000_000;

/// The tags of the instance at `dir`, read now.
#[must_use]
pub fn read(fs: &Fs, dir: &Path) -> InstanceTags {
    match fs.open_dir(dir) {
        Ok(dir) => read_below(fs, &dir, Path::new("")),
        Err(e) if e.is_not_found() => InstanceTags::default(),
        Err(e) => InstanceTags::Unknown(e.to_string()),
    }
}

/// The same for the instance at `relative` below an open directory.
fn read_below(fs: &Fs, dir: &Dir, relative: &Path) -> InstanceTags {
    let file = Layout::tags_in(relative);
    let at = dir.at(file.as_os_str());
    let unknown = |e: FsError| InstanceTags::Unknown(e.to_string());
    // Before it is opened: to open a device may do something.
    match fs.stat_bounded(at) {
        Ok(None) => return InstanceTags::default(),
        Ok(Some(meta)) if meta.kind == FileType::Regular => {}
        Ok(Some(meta)) => {
            let kind = format!("{:?}", meta.kind).to_lowercase();
            return InstanceTags::Unknown(format!("{} is a {kind}, not a regular file", at.path().display()));
        }
        Err(e) => return unknown(e),
    }
    match fs.read_small(at, LONGEST) {
        Ok(bytes) => parse(&bytes).unwrap_or_else(|why| InstanceTags::Unknown(format!("{}: {why}", at.path().display()))),
        Err(e) if e.is_not_found() => InstanceTags::default(),
        Err(e) => unknown(e),
    }
}

/// The tags in a file's bytes, or what is wrong with them.
fn parse(bytes: &[u8]) -> Result<InstanceTags, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    let table: toml::Table = toml::from_str(text).map_err(|e: toml::de::Error| format!("it is not valid TOML: {}", e.message()))?;
    let mut tags = BTreeMap::new();
    for (key, value) in table {
        if key.is_empty() || key.contains(['=', '\n']) {
            return Err(format!("\"{}\" is not the name of a tag: it must have a character, and no `=`", key.escape_debug()));
        }
        let toml::Value::String(value) = value else {
            return Err(format!("`{key}` must be a string, not {} (write {key} = \"...\")", value.type_str()));
        };
        tags.insert(key, value);
    }
    Ok(InstanceTags::Known(tags))
}

/// Which file, as of when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    file_id: (u64, u64),
    kind: FileType,
    size: u64,
    mtime_ns: i64,
    ctime_ns: i64,
}

impl Version {
    fn of(meta: &Meta) -> Self {
        Self { file_id: meta.file_id, kind: meta.kind, size: meta.size, mtime_ns: meta.mtime_ns, ctime_ns: meta.ctime_ns }
    }
}

/// What the tags of instances were, so that only files that changed are read again.
#[derive(Debug, Default)]
pub struct TagCache {
    known: HashMap<InstanceId, Known>,
}

#[derive(Debug)]
struct Known {
    /// `None`: no file. What may have changed since without a trace is not in the cache at all.
    version: Option<Version>,
    tags: InstanceTags,
    /// It was read so shortly after its last change that one more may not show.
    is_fresh: bool,
}

impl TagCache {
    /// Looks at the tags of these instances of the root; `now_ns` is the wall clock. Returns which of them became unreadable,
    /// and why, or are so for another reason than before. Instances that are not named are forgotten.
    ///
    /// # Errors
    /// [`FsError`] if the root cannot be opened: then nothing is known, and nothing changes.
    pub fn look<'a>(
        &mut self,
        fs: &Fs,
        layout: &Layout,
        instances: impl Iterator<Item = &'a InstanceId>,
        now_ns: i64,
    ) -> Result<Vec<(InstanceId, String)>, FsError> {
        let root = fs.open_dir(layout.instances())?;
        let mut before = std::mem::take(&mut self.known);
        let mut news = Vec::new();
        for instance in instances {
            let known = before.remove(instance);
            let next = look_at(fs, &root, instance, known.as_ref(), now_ns);
            if let InstanceTags::Unknown(why) = &next.tags
                && known.is_none_or(|known| known.tags != next.tags)
            {
                news.push((instance.clone(), why.clone()));
            }
            self.known.insert(instance.clone(), next);
        }
        Ok(news)
    }

    /// What is known of an instance's tags; none if it was not looked at.
    #[must_use]
    pub fn of(&self, instance: &InstanceId) -> InstanceTags {
        self.known.get(instance).map(|known| known.tags.clone()).unwrap_or_default()
    }
}

fn look_at(fs: &Fs, root: &Dir, instance: &InstanceId, known: Option<&Known>, now_ns: i64) -> Known {
    let relative = Path::new(instance.as_str());
    let file = Layout::tags_in(relative);
    // Told before it is read: what changes in between is read again by the next look.
    let version = match fs.stat_bounded(root.at(file.as_os_str())) {
        Ok(meta) => meta.as_ref().map(Version::of),
        Err(e) => return Known { version: None, tags: InstanceTags::Unknown(e.to_string()), is_fresh: true },
    };
    if let Some(known) = known.filter(|known| !known.is_fresh && known.version == version) {
        return Known { version, tags: known.tags.clone(), is_fresh: false };
    }
    let is_fresh = version.is_some_and(|v| now_ns.abs_diff(v.ctime_ns) < TICK_NS.unsigned_abs());
    let tags = if version.is_none() { InstanceTags::default() } else { read_below(fs, root, relative) };
    Known { version, tags, is_fresh }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::disallowed_methods,
        clippy::disallowed_macros,
        reason = "tests make what the code under test reads, and say what they tried"
    )]

    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    struct Root(tempfile::TempDir, Layout);

    impl Root {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let layout = Layout::new(&temp.path().join("store"), &temp.path().join("vms"));
            fs::create_dir(layout.instances()).unwrap();
            Self(temp, layout)
        }

        fn instance(&self, name: &str) -> std::path::PathBuf {
            let dir = self.1.instances().join(name);
            fs::create_dir_all(dir.join(".snapkeep")).unwrap();
            dir
        }

        fn read(&self, name: &str) -> InstanceTags {
            let direct = read(&Fs::real(), &self.1.instances().join(name));
            let mut cache = TagCache::default();
            let id = InstanceId::parse(name).unwrap();
            cache.look(&Fs::real(), &self.1, [&id].into_iter(), 0).unwrap();
            assert_eq!(std::mem::discriminant(&cache.of(&id)), std::mem::discriminant(&direct), "both ways say the same");
            direct
        }
    }

    fn tags(list: &[(&str, &str)]) -> InstanceTags {
        InstanceTags::Known(list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn a_flat_table_of_strings_is_read_and_no_file_means_no_tags() {
        let root = Root::new();
        fs::write(root.instance("a").join(".snapkeep/tags.toml"), "# of the manager\ntier = \"gold\"\n\"b c\" = \"\"\n").unwrap();
        assert_eq!(root.read("a"), tags(&[("tier", "gold"), ("b c", "")]));
        root.instance("b");
        assert_eq!(root.read("b"), tags(&[]));
        assert_eq!(root.read("not-there"), tags(&[]));
        fs::write(root.instance("empty").join(".snapkeep/tags.toml"), "").unwrap();
        assert_eq!(root.read("empty"), tags(&[]));
    }

    #[test]
    fn what_is_not_such_a_table_is_unknown_and_says_why() {
        let root = Root::new();
        let outside = root.0.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("tags.toml"), "tier = \"gold\"\n").unwrap();
        let put = |name: &str, bytes: &[u8]| fs::write(root.instance(name).join(".snapkeep/tags.toml"), bytes).unwrap();
        put("number", b"tier = 1\n");
        put("nested", b"[a]\nb = \"c\"\n");
        put("syntax", b"tier = \n");
        put("bytes", b"tier = \"\xff\"\n");
        put("huge", format!("a = \"{}\"\n", "x".repeat(64 << 10)).as_bytes());
        put("name", b"\"a=b\" = \"c\"\n");
        symlink(outside.join("tags.toml"), root.instance("link").join(".snapkeep/tags.toml")).unwrap();
        symlink(&outside, root.1.instances().join("linked")).unwrap();
        fs::create_dir(root.1.instances().join("above")).unwrap();
        symlink(&outside, root.1.instances().join("above/.snapkeep")).unwrap();
        fs::create_dir(root.instance("dir").join(".snapkeep/tags.toml")).unwrap();
        nix::unistd::mkfifo(&root.instance("fifo").join(".snapkeep/tags.toml"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        let expected = [
            ("number", "`tier` must be a string, not integer (write tier = \"...\")"),
            ("nested", "`a` must be a string, not table"),
            ("syntax", "not valid TOML"),
            ("bytes", "not UTF-8"),
            ("huge", "File too large"),
            ("name", "\"a=b\" is not the name of a tag"),
            ("link", "is a symlink, not a regular file"),
            ("above", "cannot open"),
            ("dir", "is a directory, not a regular file"),
            ("fifo", "is a fifo, not a regular file"),
        ];
        for (name, why) in expected {
            let InstanceTags::Unknown(found) = root.read(name) else { panic!("{name} was read") };
            assert!(found.contains(why) && found.contains(".snapkeep"), "{name}: {found}");
        }
        println!("{} hostile files", expected.len());
    }

    #[test]
    fn a_changed_file_is_read_again_an_unchanged_one_is_not_and_what_became_unreadable_is_told_once() {
        let root = Root::new();
        let (a, b) = (InstanceId::parse("a").unwrap(), InstanceId::parse("b").unwrap());
        let path = root.instance("a").join(".snapkeep/tags.toml");
        root.instance("b");
        fs::write(&path, "tier = \"gold\"\n").unwrap();
        let mut cache = TagCache::default();
        let look = |cache: &mut TagCache| cache.look(&Fs::real(), &root.1, [&a, &b].into_iter(), 0).unwrap();
        assert_eq!(look(&mut cache), []);
        assert_eq!((cache.of(&a), cache.of(&b)), (tags(&[("tier", "gold")]), tags(&[])));
        // A version that is taken for the file's own is believed: the file is not read.
        cache.known.get_mut(&a).unwrap().tags = tags(&[("from", "the cache")]);
        assert_eq!(look(&mut cache), []);
        assert_eq!(cache.of(&a), tags(&[("from", "the cache")]));
        fs::write(&path, "tier = 7\n").unwrap();
        let news = look(&mut cache);
        assert_eq!(news.len(), 1);
        assert!(news[0].1.contains("must be a string"), "{news:?}");
        assert_eq!(look(&mut cache), [], "once");
        fs::write(path.with_extension("new"), "tier = \"base\"\n").unwrap();
        fs::rename(path.with_extension("new"), &path).unwrap();
        assert_eq!(look(&mut cache), []);
        assert_eq!(cache.of(&a), tags(&[("tier", "base")]));
        fs::remove_file(&path).unwrap();
        look(&mut cache);
        assert_eq!(cache.of(&a), tags(&[]));
        cache.look(&Fs::real(), &root.1, [&b].into_iter(), 0).unwrap();
        assert_eq!(cache.known.len(), 1, "what is not asked for is forgotten");
    }

    #[test]
    fn a_file_that_changed_just_now_is_read_once_more() {
        let root = Root::new();
        let a = InstanceId::parse("a").unwrap();
        let path = root.instance("a").join(".snapkeep/tags.toml");
        fs::write(&path, "tier = \"gold\"\n").unwrap();
        let ctime = Fs::real().stat(&path).unwrap().ctime_ns;
        let mut cache = TagCache::default();
        cache.look(&Fs::real(), &root.1, [&a].into_iter(), ctime + 1).unwrap();
        cache.known.get_mut(&a).unwrap().tags = tags(&[]);
        cache.look(&Fs::real(), &root.1, [&a].into_iter(), ctime + TICK_NS).unwrap();
        assert_eq!(cache.of(&a), tags(&[("tier", "gold")]));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_tags_or_say_why_not(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), text in "[a-z\\[\\]{}=\"'#. \n\\\\u0-9]{0,60}") {
            for bytes in [bytes.as_slice(), text.as_bytes()] {
                match parse(bytes) {
                    Ok(InstanceTags::Known(tags)) => proptest::prop_assert!(tags.keys().all(|key| !key.is_empty() && !key.contains(['=', '\n']))),
                    Ok(InstanceTags::Unknown(why)) | Err(why) => proptest::prop_assert!(!why.is_empty()),
                }
            }
        }
    }

    #[test]
    fn many_instances_are_looked_at() {
        let root = Root::new();
        let many = if std::env::var_os("FULL").is_some() { 10_000 } else { 300 };
        let ids: Vec<InstanceId> = (0..many).map(|n| InstanceId::parse(&format!("vm-{n}")).unwrap()).collect();
        for id in &ids {
            fs::write(root.instance(id.as_str()).join(".snapkeep/tags.toml"), "tier = \"gold\"\n").unwrap();
        }
        let mut cache = TagCache::default();
        for what in ["first", "again", "again"] {
            let began = std::time::Instant::now();
            cache.look(&Fs::real(), &root.1, ids.iter(), 0).unwrap();
            println!("{what}: {many} instances in {:?}", began.elapsed());
        }
        assert!(ids.iter().all(|id| cache.of(id) == tags(&[("tier", "gold")])));
    }
}
