//! Small records, one or many, replaced whole.

use super::{Commits, Dir, Fs, Result, sys};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// So many are open at a time.
const AT_ONCE: usize = 256;
/// For more than so many a commit of btrfs is cheaper than a sync of each.
const FEW: usize = 8;

fn temporary(path: &Path) -> PathBuf {
    let mut temp = path.as_os_str().to_owned();
    temp.push(".new");
    PathBuf::from(temp)
}

/// What records have a directory in common.
#[derive(Debug, Default)]
struct Group {
    commits: Commits,
    /// Which of the records.
    members: Vec<usize>,
}

type Groups = BTreeMap<PathBuf, Group>;

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}

impl Group {
    /// Does what all of them need that went well so far, if there are any.
    fn settle(&self, answers: &mut [Result<()>], settle: impl FnOnce() -> Result<()>) {
        let is_well = |answers: &[Result<()>], n: usize| answers.get(n).is_some_and(Result::is_ok);
        if !self.members.iter().any(|n| is_well(answers, *n)) {
            return;
        }
        if let Err(error) = settle() {
            for n in self.members.iter().filter(|n| is_well(answers, **n)).copied().collect::<Vec<_>>() {
                answers.get_mut(n).into_iter().for_each(|answer| *answer = Err(error.clone()));
            }
        }
    }
}

impl Fs {
    /// Writes a small record so that a reader sees the old one, the new one or none, and the new one is durable on return:
    /// temporary file beside it, fsync, rename over, fsync of the directory. Where the file system commits in order
    /// ([`Fs::keeps_order`]) the file is only written: the last sync is of all that came before.
    pub fn replace_record(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.replace_records(&[(path, bytes)]).pop().unwrap_or(Ok(()))
    }

    /// Writes a small file that others read, mode 0644, by the same temporary file and rename; nothing is synced: who reads
    /// it wants the newest, and after a crash there will be a newer one.
    pub fn replace_report(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let temp = temporary(path);
        let written = self.begin_file(&temp, bytes, 0o644).and_then(|_| self.rename_over(&temp, path));
        written.inspect_err(|_| drop(self.unlink(&temp)))
    }

    /// The same for many, of which no two have the same path: each step for all before the next. Where they are in the same
    /// directories that takes a few commits of the file system's journal, not two for each; on btrfs many share one before the renames.
    #[must_use]
    pub fn replace_records(&self, records: &[(&Path, &[u8])]) -> Vec<Result<()>> {
        let groups = self.groups(records);
        if records.len() <= AT_ONCE || groups.values().any(|group| group.commits == Commits::Whole) {
            return self.replace_some(records, &groups);
        }
        records.chunks(AT_ONCE).flat_map(|batch| self.replace_some(batch, &self.groups(batch))).collect()
    }

    /// The directories, none of which stays open: there may be as many as records.
    fn groups(&self, records: &[(&Path, &[u8])]) -> Groups {
        let mut groups = Groups::new();
        for (n, (path, _)) in records.iter().enumerate() {
            groups.entry(parent(path)).or_default().members.push(n);
        }
        groups.iter_mut().for_each(|(dir, group)| group.commits = self.commits_of_records(dir, group.members.len()));
        groups
    }

    fn replace_some(&self, records: &[(&Path, &[u8])], groups: &Groups) -> Vec<Result<()>> {
        let temps: Vec<PathBuf> = records.iter().map(|(path, _)| temporary(path)).collect();
        let chunks = records.chunks(AT_ONCE).zip(temps.chunks(AT_ONCE));
        let mut answers: Vec<Result<()>> = chunks.flat_map(|(records, temps)| self.write_records(records, temps, groups)).collect();
        for (dir, group) in groups.iter().filter(|(_, group)| group.commits == Commits::Whole) {
            group.settle(&mut answers, || self.open_dir(dir).and_then(|dir| self.commit(&dir)));
        }
        for ((answer, temp), (path, _)) in answers.iter_mut().zip(&temps).zip(records) {
            if answer.is_ok() {
                *answer = self.rename_over(temp, *path);
            }
            if answer.is_err() {
                // Half a record under that name harms nobody, but takes space that may be what is lacking.
                drop(self.unlink(temp));
            }
        }
        groups.iter().for_each(|(dir, group)| group.settle(&mut answers, || self.fsync_dir(dir)));
        answers
    }

    /// Writes some under their temporary names, durable or ready for the commit that makes them so.
    fn write_records(&self, records: &[(&Path, &[u8])], temps: &[PathBuf], groups: &Groups) -> Vec<Result<()>> {
        let mut files: Vec<Result<File>> = records.iter().zip(temps).map(|((_, bytes), temp)| self.begin_record(temp, bytes)).collect();
        if records.len() > 1 {
            // All of them begin to be written; the sync of the first then commits what the others need too.
            for (file, temp) in files.iter_mut().zip(temps) {
                let begun = file.as_ref().map_or(Ok(()), |open| self.begin_writing(open, temp, sys::WHOLE));
                if let Err(e) = begun {
                    *file = Err(e);
                }
            }
        }
        let sync = |(file, temp): (Result<File>, &PathBuf)| {
            let commits = groups.get(&parent(temp)).map(|group| group.commits).unwrap_or_default();
            file.and_then(|file| if commits == Commits::Anyhow { self.fsync(&file, temp) } else { self.write_back(&file, temp, commits) })
        };
        files.into_iter().zip(temps).map(sync).collect()
    }

    /// How a directory commits, as far as it helps so many records in it.
    fn commits_of_records(&self, dir: &Path, count: usize) -> Commits {
        let commits = |dir: &Dir| match count {
            ..=FEW if !self.keeps_order(dir) => Commits::Anyhow,
            _ => self.commits(dir),
        };
        self.open_dir(dir).as_ref().map_or(Commits::Anyhow, commits)
    }

    fn begin_record(&self, temp: &Path, bytes: &[u8]) -> Result<File> {
        self.begin_file(temp, bytes, 0o600)
    }

    fn begin_file(&self, temp: &Path, bytes: &[u8], mode: u32) -> Result<File> {
        match self.unlink(temp) {
            Ok(()) => {}
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
        let file = self.create(temp, mode)?;
        self.write_all(&file, temp, bytes)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FailNth, StopAfter};
    use super::*;
    use nix::errno::Errno;
    use std::sync::Arc;

    const NAMES: [&str; 4] = ["a/1", "a/2", "b/3", "b/4"];

    /// Four records in two directories, replaced; what each says then, and what it was answered.
    fn replaced(fs: &Fs) -> Vec<(String, Result<()>)> {
        let temp = tempfile::tempdir().unwrap();
        let real = Fs::real();
        ["a", "b"].iter().for_each(|dir| real.mkdir(&temp.path().join(dir), 0o700).unwrap());
        let paths = NAMES.map(|name| temp.path().join(name));
        let with = |bytes: &'static [u8]| paths.each_ref().map(|path| (path.as_path(), bytes));
        assert!(real.replace_records(&with(b"old")).iter().all(Result::is_ok));
        let answers = fs.replace_records(&with(b"new one"));
        // Whoever comes behind is not in the way of what was left.
        let text = |path: &PathBuf| String::from_utf8(real.read_small(path, 100).unwrap()).unwrap();
        let said = paths.iter().map(text).zip(answers).collect();
        assert!(real.replace_records(&with(b"newest")).iter().all(Result::is_ok));
        assert_eq!(real.list(&temp.path().join("a")).unwrap().len(), 2, "no temporary file is left");
        said
    }

    #[test]
    fn whatever_call_fails_each_record_is_the_old_one_or_the_new_one_and_who_was_told_so_has_the_new_one() {
        let mut points = 0;
        for n in 1.. {
            let (fails, stops) = (Arc::new(FailNth::new(n, Errno::EIO)), Arc::new(StopAfter::new(n - 1)));
            let said = [replaced(&Fs::gated(Arc::clone(&fails) as _)), replaced(&Fs::gated(Arc::clone(&stops) as _))];
            for (text, answer) in said.into_iter().flatten() {
                assert!(text == "new one" || (text == "old" && answer.is_err()), "{n}: {text:?}, {answer:?}");
            }
            if fails.seen() < n {
                break;
            }
            points += 1;
        }
        assert_eq!(points, 4 * 5 + 2, "unlink, create, write, sync and rename of each, and a sync of each directory");
    }

    #[test]
    fn more_records_than_may_be_open_are_replaced() {
        let temp = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..600).map(|n| temp.path().join(n.to_string())).collect();
        let records: Vec<(&Path, &[u8])> = paths.iter().map(|path| (path.as_path(), b"x".as_slice())).collect();
        assert!(Fs::real().replace_records(&records).iter().all(Result::is_ok));
        assert_eq!(Fs::real().list(temp.path()).unwrap().len(), 600);
    }
}
