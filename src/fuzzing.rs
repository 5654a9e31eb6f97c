//! What `fuzz/` and `tests/it/fuzz_seeds.rs` call: one function for each format that is read from a disk. Each takes any
//! bytes, asserts what must hold for them, and says whether they were accepted. Not for anybody else.

use crate::config;
use crate::fork::queue::Record;
use crate::store::instances::{ForkRecord, Standing, standing_of};
use crate::store::journal::{JournalError, frame, parse};
use crate::store::manifest::{FORMAT_PENDING, Manifest, TextPath, seal};
use crate::store::{Summary, lean};
use std::ffi::OsStr;
use std::fmt::Debug;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

/// A configuration file: refused with reasons, or read the same each time, also with a comment behind it.
pub fn config(bytes: &[u8]) -> bool {
    let read = |text: String| config::parse(vec![("/etc/snapkeep.toml".into(), text)]);
    let text = String::from_utf8_lossy(bytes).into_owned();
    match read(text.clone()) {
        Ok(config) => {
            let again = read(format!("{text}\n# The end.\n")).map(|other| config::Config { digest: config.digest.clone(), ..other });
            assert_eq!(again.map(|other| format!("{other:?}")).map_err(|e| e.to_string()), Ok(format!("{config:?}")));
            true
        }
        Err(e) => {
            assert!(!e.to_string().is_empty(), "refused for no reason");
            false
        }
    }
}

/// A manifest, sealed or bare: what is read is written and read the same; any path survives the way through text.
pub fn manifest(bytes: &[u8]) -> bool {
    let path = Path::new("/manifest.json");
    let named = TextPath::new(OsStr::from_bytes(bytes));
    assert_eq!(TextPath::try_from(String::from(named.clone())), Ok(named));
    let sealed = Manifest::unseal(path, bytes).ok();
    if let Some(manifest) = &sealed {
        // What the index keeps is read without the rest, and is the same.
        let lean = lean::summary(path, bytes, &manifest.id).map_err(|e| e.to_string());
        assert_eq!(lean, Ok(Summary::from(manifest)));
    }
    let bare = serde_json::from_slice::<Manifest>(bytes).ok().filter(|m| m.format <= FORMAT_PENDING);
    let read = [sealed, bare].into_iter().flatten();
    read.map(|manifest| {
        let again = seal(&manifest).map_err(|e| e.to_string()).and_then(|bytes| Manifest::unseal(path, &bytes).map_err(|e| e.to_string()));
        assert_eq!(again, Ok(manifest));
    })
    .count()
        > 0
}

/// A journal: what is taken of it is a prefix, and nothing that could be a frame is cut. Taken as the plan of a damage to
/// a good journal, the bytes never make a group of records vanish or change unnoticed, but for the last.
pub fn journal(bytes: &[u8]) -> bool {
    let path = Path::new("/queue");
    damaged_journal(bytes, path);
    match parse::<Record>(path, bytes) {
        Ok((records, good)) => {
            let (kept, cut) = bytes.split_at(good);
            let (again, all) = parse::<Record>(path, kept).unwrap_or_default();
            assert_eq!((texts(&again), all), (texts(&records), good));
            assert!(parse::<serde_json::Value>(path, cut).is_ok_and(|(records, good)| records.is_empty() && good == 0), "a frame is cut");
            good > 0
        }
        Err(e) => {
            assert!(!e.to_string().is_empty(), "refused for no reason");
            false
        }
    }
}

fn texts<R: Debug>(records: &[R]) -> Vec<String> {
    records.iter().map(|r| format!("{r:?}")).collect()
}

/// Makes a journal of groups of numbers, damages it as `plan` says, and reads it.
fn damaged_journal(plan: &[u8], path: &Path) {
    let mut plan = plan.iter().copied();
    let mut next = || usize::from(plan.next().unwrap_or(0));
    let groups: Vec<Vec<u32>> =
        (0..next() % 6).map(|n| (0..1 + next() % 4).map(|i| u32::try_from(n * 10 + i).unwrap_or(0)).collect()).collect();
    let frames = std::iter::once(frame(path, &serde_json::json!({"format": 1}))).chain(groups.iter().map(|group| frame(path, group)));
    let Ok(frames) = frames.collect::<Result<Vec<_>, _>>() else { return };
    let mut journal = frames.concat();
    // The last frame may be torn; what is before it was there when the last was written.
    let before_last = journal.len() - frames.last().map_or(0, Vec::len);
    let (kind, at) = (next(), next() << 8 | next());
    let at = at % journal.len().max(1);
    match kind % 5 {
        0 => journal.truncate(at.max(before_last)),
        1 => journal.insert(at, kind.to_le_bytes().first().copied().unwrap_or(0)),
        2 if !journal.is_empty() => drop(journal.remove(at)),
        3 => journal.extend(std::iter::repeat_n(0, at)),
        _ => {
            if let Some(byte) = journal.get_mut(at) {
                *byte ^= 1 << (next() % 8);
            }
        }
    }
    match parse::<u32>(path, &journal) {
        Ok((records, _)) => {
            let all: Vec<u32> = groups.concat();
            let most = all.len() - groups.last().map_or(0, Vec::len);
            assert!(records == all || records == all.get(..most).unwrap_or_default(), "{records:?} of {groups:?}");
        }
        Err(JournalError::Damaged { .. }) => {}
        Err(e) => assert!(matches!(e, JournalError::Newer { .. }), "{e}"),
    }
}

/// A fork record: what is read is written and read the same, and its ids are names and no ways to elsewhere.
pub fn fork_record(bytes: &[u8]) -> bool {
    let Standing::Fork(record) = standing_of(bytes) else { return false };
    let plain = |text: &str| matches!(Path::new(text).components().collect::<Vec<_>>()[..], [Component::Normal(name)] if name == text);
    assert!(plain(record.fork_id.as_str()) && plain(record.fork_of_snapshot.as_str()), "{record:?}");
    let again: Option<ForkRecord> = serde_json::to_vec(&record).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    assert_eq!(again.as_ref(), Some(&record));
    true
}
