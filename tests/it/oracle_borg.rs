//! `counting = "cascade"` against borg, decision by decision: the real program makes the archives at given times, and says
//! what `prune --dry-run` would do with them. Skipped where borg is not installed. `FULL=1` asks about more.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::mounts::tool;
use crate::support::oracle::{
    self, BERLIN, BROKEN, FUTURE, KATHMANDU, NEW_YORK, Question, Random, SECONDS, STAMPS, Set, TWICE, Tally, UTC,
};
use chrono::{TimeDelta, Utc};
use chrono_tz::Tz;
use serde_json::{Value, json};
use snapkeep::policy::{Counting, Granularity, Keep};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const UNITS: [Granularity; 6] =
    [Granularity::Minutely, Granularity::Hourly, Granularity::Daily, Granularity::Weekly, Granularity::Monthly, Granularity::Yearly];

/// Calls borg's own entry point, once for each line, each in a process of its own. Three quarters of what a call takes is
/// loading its modules, which is done once this way.
const MANY: &str = r#"
import json, os, sys, time, traceback
import borg.archiver

for line in sys.stdin:
    job = json.loads(line)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.dup2(write, 1)
            os.dup2(write, 2)
            # Those of the parent may be files, and remember that they can seek; the other names keep these from closing.
            sys.stdout = sys.__stdout__ = open(1, "w")
            sys.stderr = sys.__stderr__ = open(2, "w")
            os.environ.update(job["env"])
            time.tzset()
            sys.argv = ["borg"] + job["args"]
            borg.archiver.main()
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps({"status": status, "said": said}), flush=True)
"#;

/// A repository with an archive for each moment of a set.
struct Borg {
    dir: tempfile::TempDir,
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// The Python that runs borg, or why this cannot ask it.
fn python() -> Result<PathBuf, String> {
    let script = fs::read(tool("borg")?).unwrap();
    let first = String::from_utf8_lossy(script.split(|byte| *byte == b'\n').next().unwrap()).into_owned();
    let python = PathBuf::from(first.strip_prefix("#!").unwrap_or_default().trim());
    let version = "import borg; print(borg.__version__)";
    let out = Command::new(&python).args(["-c", version]).output().map_err(|_| "borg is not a script of Python".to_owned())?;
    let version = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    if version.starts_with("1.2.") || version.starts_with("1.4.") {
        Ok(python)
    } else {
        Err(format!("borg is {version:?}, and the rules compared are those of 1.2 and 1.4"))
    }
}

impl Borg {
    fn new(python: &Path, set: &Set) -> Self {
        let dir = oracle::in_memory();
        let mut child =
            Command::new(python).args(["-c", MANY]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let (ask, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut borg = Self { dir, child, ask, answers };
        let source = borg.dir.path().join("source");
        fs::create_dir(&source).unwrap();
        borg.run(UTC, &["init", "-e", "none"]);
        for stamp in &set.stamps {
            let time = stamp.at.format("%Y-%m-%dT%H:%M:%S").to_string();
            borg.run(UTC, &["create", "--timestamp", &time, &format!("::a{:03}", stamp.n), source.to_str().unwrap()]);
        }
        borg
    }

    fn run(&mut self, zone: Tz, args: &[&str]) -> String {
        let path = |name: &str| self.dir.path().join(name).to_str().unwrap().to_owned();
        let env = json!({
            "BORG_REPO": path("repository"), "BORG_BASE_DIR": path("home"), "TZ": zone.name(),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        });
        writeln!(self.ask, "{}", json!({ "args": args, "env": env })).unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        let said = answer["said"].as_str().unwrap().to_owned();
        assert_eq!(answer["status"], 0, "borg {args:?}: {said}");
        said
    }

    /// Whether each archive is kept.
    fn prune(&mut self, zone: Tz, flags: &[String]) -> Vec<bool> {
        let mut args = vec!["prune", "--dry-run", "--list"];
        args.extend(flags.iter().map(String::as_str));
        let said = self.run(zone, &args);
        let mut kept = vec![None; STAMPS];
        for line in said.lines() {
            let (verdict, rest) = line.split_once(':').unwrap();
            // The rule, with a colon, comes before the name.
            let names = rest.split_whitespace().find_map(|word| word.strip_prefix('a')?.parse::<usize>().ok());
            kept[names.unwrap_or_else(|| panic!("{line}"))] = Some(!verdict.starts_with("Would prune"));
        }
        kept.into_iter().map(|kept| kept.unwrap_or_else(|| panic!("{flags:?}: not about all:\n{said}"))).collect()
    }
}

impl Drop for Borg {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A policy, and the line that borg's `within` draws.
struct Asked {
    counts: Keep,
    within_hours: Option<i64>,
}

impl Asked {
    fn random(random: &mut Random, set: &Set, zone: Tz) -> Self {
        let counts = std::iter::repeat_with(|| oracle::counts(random, &UNITS)).find(|keep| *keep != Keep::default()).unwrap();
        // It counts back from the moment of the call, in whole hours.
        let now = Utc::now();
        let newest = set.stamps.iter().map(|stamp| stamp.at).filter(|at| *at < now).max().unwrap();
        let hours = |random: &mut Random| (now - newest).num_hours() + 1 + random.age() / 3600;
        let is_clear = |hours: &i64| oracle::is_clear(&set.stamps, now, TimeDelta::hours(*hours), zone);
        let within_hours = random.is(30).then(|| std::iter::repeat_with(|| hours(random)).find(is_clear).unwrap());
        Self { counts: Keep { counting: Counting::Cascade, timezone: zone, ..counts }, within_hours }
    }

    fn flags(&self) -> Vec<String> {
        let within = self.within_hours.map(|hours| format!("--keep-within={hours}H"));
        let last = Some(self.counts.last).filter(|n| *n > 0).map(|n| format!("--keep-last={n}"));
        let buckets = self.counts.buckets.iter().map(|(unit, n)| format!("--keep-{}={n}", unit.name()));
        within.into_iter().chain(last).chain(buckets).collect()
    }

    fn question(&self, set: &Set) -> Question {
        let keep = Keep { within: self.within_hours.map(TimeDelta::hours), ..self.counts.clone() };
        Question::new(&set.stamps, keep, Utc::now())
    }
}

/// Asks about each policy in turn, in each of these zones or (in turn) in one of them.
fn asked_about(python: &Path, set: &Set, policies: usize, zones: &[Tz], in_each: bool) -> Tally {
    let mut borg = Borg::new(python, set);
    let mut tally = Tally { policies, ..Tally::default() };
    for seed in 0..policies {
        let chosen = if in_each { zones.iter().collect::<Vec<_>>() } else { vec![&zones[seed % zones.len()]] };
        for zone in chosen {
            let asked = Asked::random(&mut Random(1_000_000 + seed as u64), set, *zone);
            let flags = asked.flags();
            let theirs = borg.prune(*zone, &flags);
            let what = format!("policy {seed}, {}, {zone}: borg prune {}", set.name, flags.join(" "));
            tally.compare(&asked.question(set), &theirs, &[TWICE, SECONDS, FUTURE, BROKEN], &what);
        }
    }
    tally
}

#[test]
fn a_cascade_of_rules_decides_as_borg_does() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => return eprintln!("skipped: retention against borg: {why}"),
    };
    let mut tally = Tally::default();
    if std::env::var_os("FULL").is_some() {
        // The sets in turn, two at once: each is a repository, which one call at a time may use.
        let sets = oracle::sets(&["autumn", "newyear", "spring", "future"]);
        let zones = [UTC, BERLIN, NEW_YORK, KATHMANDU];
        let python = &python;
        for pair in sets.chunks(2) {
            std::thread::scope(|scope| {
                let asked: Vec<_> = pair.iter().map(|set| scope.spawn(move || asked_about(python, set, 250, &zones, true))).collect();
                asked.into_iter().for_each(|thread| tally.add(thread.join().unwrap()));
            });
        }
        // The same policies of every set.
        tally.policies /= sets.len();
    } else {
        let set = &oracle::sets(&["autumn"])[0];
        tally.add(asked_about(&python, set, 60, &[UTC, BERLIN, NEW_YORK], false));
    }
    tally.finish("borg");
}
