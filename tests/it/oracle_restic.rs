//! `counting = "each"` against restic, decision by decision: the real program takes the snapshots at given times, and says
//! what `forget --dry-run` would do with them. Skipped where restic is not installed. `FULL=1` asks about more.
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
    self, BERLIN, BROKEN, CALENDAR, FUTURE, KATHMANDU, NEW_YORK, NEWEST, Question, Random, STAMPS, Set, Stamp, TAG, TWICE, Tally, UTC,
};
use base64::Engine as _;
use chrono::{DateTime, Days, Months, TimeDelta, Utc};
use chrono_tz::Tz;
use serde_json::Value;
use snapkeep::policy::{Granularity, Keep};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const UNITS: [Granularity; 5] = [Granularity::Hourly, Granularity::Daily, Granularity::Weekly, Granularity::Monthly, Granularity::Yearly];

/// An empty repository that restic 0.14 made, with the password `x`. Its key file asks for next to no work to derive the
/// key, where `restic init` asks for most of a second, and every call does that work.
const CONFIG: &str = "10YeXNuFewiGQk5hnftFMxjGbVcglemdXCsktMDd89sv9yzl02xbW8GBoeI6rca+Almr/ZX9qB9kllFFNNNNWAs+S4ilf7UMt09haJ27XZ76SIe2Vz7iU2DqEW4BUa9EqoT//gD9scgUhMtf1+v3u4A/sK3o3AQON0H/tAMljLO6hC2mzXyqHouCuSsMAxOug4Tgg20mASoTQf0=";
const KEY_NAME: &str = "80f92b42ee92f1571708086727743c41a124de18695f063e994d6a752ea590d1";
const KEY: &str = r#"{"created": "2024-01-01T00:00:00Z", "username": "test", "hostname": "test", "kdf": "scrypt", "N": 2, "r": 1, "p": 1, "salt": "c25hcGtlZXBzbmFwa2VlcHNuYXBrZWVwc25hcGtlZXBzbmFwa2VlcHNuYXBrZWVwc25hcGtlZXBzbmFwa2VlcA==", "data": "bm90IGEgc2VjcmV0IGtleYfpwfKqUsLVJjrxD5QuGhR7RO6g2hex+VskKpBFMhqroVooiUr2R25BdcoXvW2m6EhfNmr00LiBx5+ZOBgaCrR6YtZdixWJe9ZU2ZmcOZ/c6oCYxnjiYxahKrhsqgLblYak5xChzxxpOewsbe42qYnfHUDD+R2k3wWM6HyYgj9xEvPuuqVbH5fYZr6zQ/qbkg=="}"#;

/// Snapshots of one set by one writer: restic keeps the writer's offset with each, and buckets by it.
struct Group {
    host: String,
    zone: Tz,
    stamps: Vec<Stamp>,
}

struct Restic {
    dir: tempfile::TempDir,
    program: PathBuf,
    source: PathBuf,
}

/// How many backups are made at once. Each looks for locks for 0.2 s before it does anything, and for much longer if one
/// that it has seen is gone when it reads it: so each has a repository of its own, with the same key.
const WRITERS: usize = 16;

/// The program, or why it is not asked.
fn program() -> Result<PathBuf, String> {
    let program = tool("restic")?;
    let version = String::from_utf8(Command::new(&program).arg("version").output().unwrap().stdout).unwrap();
    if ["restic 0.14.", "restic 0.15."].iter().any(|same| version.starts_with(same)) {
        Ok(program)
    } else {
        // Since 0.16 a rule with counts left keeps the oldest.
        Err(format!("it is {}, and the rules compared are those of 0.14 and 0.15", version.trim()))
    }
}

impl Restic {
    fn new(program: PathBuf) -> Self {
        let dir = oracle::in_memory();
        let source = dir.path().join("source");
        fs::create_dir(&source).unwrap();
        let restic = Self { dir, program, source };
        for writer in 0..WRITERS {
            let repository = restic.repository(writer);
            for part in ["keys", "data", "index", "locks", "snapshots"] {
                fs::create_dir_all(repository.join(part)).unwrap();
            }
            fs::write(repository.join("config"), base64::engine::general_purpose::STANDARD.decode(CONFIG).unwrap()).unwrap();
            fs::write(repository.join("keys").join(KEY_NAME), KEY).unwrap();
        }
        restic
    }

    fn repository(&self, writer: usize) -> PathBuf {
        self.dir.path().join(writer.to_string())
    }

    /// Puts what all writers wrote into the first one's repository.
    fn gather(&self) {
        for writer in 1..WRITERS {
            for snapshot in fs::read_dir(self.repository(writer).join("snapshots")).unwrap().map(Result::unwrap) {
                fs::rename(snapshot.path(), self.repository(0).join("snapshots").join(snapshot.file_name())).unwrap();
            }
        }
    }

    fn run(&self, writer: usize, zone: &str, args: &[&str]) -> Vec<u8> {
        let mut command = Command::new(&self.program);
        command.env("RESTIC_PASSWORD", "x").env("RESTIC_REPOSITORY", self.repository(writer)).env("TZ", zone).arg("--no-cache");
        let out = command.args(args).output().unwrap();
        assert!(out.status.success(), "restic {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    }

    /// Takes a snapshot at that time, on a host whose clocks have the zone's offset then.
    fn backup(&self, writer: usize, group: &Group, stamp: &Stamp) {
        let offset = oracle::offset(stamp.at, group.zone);
        // What names a fixed offset counts it westward.
        let zone = if offset % 3600 == 0 { format!("Etc/GMT{:+}", -offset / 3600) } else { group.zone.to_string() };
        let local = (stamp.at + TimeDelta::seconds(offset)).format("%Y-%m-%d %H:%M:%S").to_string();
        let place = stamp.n.to_string();
        let mut args = vec!["backup", "-q", "--host", &group.host, "--time", &local, "--tag", &place];
        if stamp.is_tagged {
            args.extend(["--tag", TAG]);
        }
        args.push(self.source.to_str().unwrap());
        self.run(writer, &zone, &args);
    }

    /// Whether each of every host's snapshots is kept.
    fn forget(&self, flags: &[String]) -> Vec<(String, Vec<bool>)> {
        let mut args = vec!["forget", "--no-lock", "--dry-run", "--json", "--group-by", "host"];
        args.extend(flags.iter().map(String::as_str));
        let groups: Vec<Value> = serde_json::from_slice(&self.run(0, "UTC", &args)).unwrap();
        let place = |snapshot: &Value| -> usize {
            let tags = snapshot["tags"].as_array().unwrap();
            tags.iter().find_map(|tag| tag.as_str().unwrap().parse().ok()).unwrap()
        };
        let answer = |group: &Value| {
            let list = |key: &str| group[key].as_array().into_iter().flatten().map(place).collect::<Vec<_>>();
            let (keep, remove) = (list("keep"), list("remove"));
            assert_eq!(keep.len() + remove.len(), STAMPS);
            let mut kept = vec![false; STAMPS];
            keep.into_iter().for_each(|place| kept[place] = true);
            (group["host"].as_str().unwrap().to_owned(), kept)
        };
        groups.iter().map(answer).collect()
    }
}

/// Calls `work` for each number below `n`, on so many threads; with the thread's number.
fn in_parallel(threads: usize, n: usize, work: impl Fn(usize, usize) + Sync) {
    let (next, work) = (AtomicUsize::new(0), &work);
    let next = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|at| *at < n);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let next = &next;
            scope.spawn(move || std::iter::from_fn(next).for_each(|at| work(thread, at)));
        }
    });
}

/// A span as restic reads it.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    years: u32,
    months: u32,
    days: u32,
    hours: u32,
}

impl Span {
    fn random(random: &mut Random) -> Self {
        let hours = random.age() / 3600;
        let number = |n: i64| u32::try_from(n).unwrap();
        match random.below(4) {
            0 => Self { hours: number(hours), ..Self::default() },
            1 => Self { days: number(hours / 24), hours: number(hours % 24), ..Self::default() },
            2 if hours > 900 => Self { months: number(hours / 730), days: number(hours % 24), ..Self::default() },
            _ if hours > 9000 => Self { years: number(hours / 8766), months: number(hours % 12), ..Self::default() },
            _ => Self { hours: number(hours), ..Self::default() },
        }
    }

    fn text(self) -> String {
        let parts = [(self.years, 'y'), (self.months, 'm'), (self.days, 'd'), (self.hours, 'h')];
        parts.into_iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect()
    }

    /// How long it is to us, and counted back from `now` in the calendar of the zone's offset then, as restic does.
    fn lengths(self, now: DateTime<Utc>, zone: Tz) -> (TimeDelta, TimeDelta) {
        let hours = TimeDelta::hours(i64::from(self.days) * 24 + i64::from(self.hours));
        let text = format!("{}y {}months {}h", self.years, self.months, hours.num_hours());
        let ours = TimeDelta::from_std(humantime::parse_duration(&text).unwrap()).unwrap();
        let ahead = TimeDelta::seconds(oracle::offset(now, zone));
        let local = (now + ahead).naive_utc();
        let months = self.years * 12 + self.months;
        // Go carries a day that the month does not have into the next one.
        let day = u64::from(chrono::Datelike::day0(&local.date()));
        let first = chrono::Datelike::with_day(&local.date(), 1).unwrap();
        let date = first.checked_sub_months(Months::new(months)).unwrap().checked_add_days(Days::new(day)).unwrap();
        let back = date.and_time(local.time()).and_utc() - ahead - hours;
        (ours, now - back)
    }
}

/// A policy as restic is told it.
struct Asked {
    counts: Keep,
    within: Option<Span>,
    within_buckets: Vec<(Granularity, Span)>,
    flags: Vec<String>,
}

impl Asked {
    fn random(random: &mut Random, groups: &[Group]) -> Self {
        let counts = loop {
            let mut counts = oracle::counts(random, &UNITS);
            counts.tags.extend(random.is(15).then(oracle::tag_rule));
            // Now and then only what is told below.
            if random.is(10) {
                counts = Keep { tags: counts.tags, ..Keep::default() };
            }
            if counts != Keep::default() || random.is(30) {
                break counts;
            }
        };
        let clear = |span: &Span| {
            groups.iter().all(|group| {
                let now = group.now();
                let (ours, calendar) = span.lengths(now, group.zone);
                [ours, calendar].iter().all(|age| oracle::is_clear(&group.stamps, now, *age, group.zone))
            })
        };
        let mut span = || std::iter::repeat_with(|| Span::random(random)).find(|span| clear(span)).unwrap();
        let chosen: Vec<_> = std::iter::repeat_with(&mut span).take(6).collect();
        let nothing = counts == Keep::default();
        let within = (nothing || random.is(25)).then_some(chosen[5]);
        let within_buckets: Vec<_> = UNITS.into_iter().zip(chosen).filter(|_| random.is(20)).collect();
        let mut asked = Self { counts, within, within_buckets, flags: Vec::new() };
        asked.flags = asked.flags();
        asked
    }

    fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        let mut flag = |name: String, value: String| flags.extend([format!("--keep-{name}"), value]);
        if self.counts.last > 0 {
            flag("last".to_owned(), self.counts.last.to_string());
        }
        self.counts.buckets.iter().for_each(|(unit, n)| flag(unit.name().to_owned(), n.to_string()));
        self.within.iter().for_each(|span| flag("within".to_owned(), span.text()));
        self.within_buckets.iter().for_each(|(unit, span)| flag(unit.within_name().replace('_', "-"), span.text()));
        self.counts.tags.iter().for_each(|tag| flag("tag".to_owned(), tag.key.clone()));
        flags
    }

    /// The same for one group.
    fn question(&self, group: &Group) -> Question {
        let now = group.now();
        let keep = |length: fn((TimeDelta, TimeDelta)) -> TimeDelta| Keep {
            within: self.within.map(|span| length(span.lengths(now, group.zone))),
            within_buckets: self.within_buckets.iter().map(|(unit, span)| (*unit, length(span.lengths(now, group.zone)))).collect(),
            timezone: group.zone,
            ..self.counts.clone()
        };
        Question { calendar: keep(|both| both.1), ..Question::new(&group.stamps, keep(|both| both.0), now) }
    }
}

impl Group {
    fn new(set: &Set, zone: Tz) -> Self {
        Self { host: format!("{}-{}", set.name, zone.name().replace('/', "-")), zone, stamps: set.stamps.clone() }
    }

    /// The newest that is not in the future: restic counts back from there, and so we are asked at that time.
    fn now(&self) -> DateTime<Utc> {
        let ages_ahead = oracle::time("2100-01-01T00:00:00");
        self.stamps.iter().map(|stamp| stamp.at).filter(|at| *at < ages_ahead).max().unwrap()
    }
}

#[test]
fn each_rule_on_its_own_decides_as_restic_does() {
    let program = match program() {
        Ok(program) => program,
        Err(why) => return eprintln!("skipped: retention against restic: {why}"),
    };
    let is_full = std::env::var_os("FULL").is_some();
    let sets = oracle::sets(&["autumn", "newyear", "spring", "future"]);
    let mut groups: Vec<Group> =
        [UTC, BERLIN, NEW_YORK, KATHMANDU].into_iter().flat_map(|zone| sets.iter().map(move |set| Group::new(set, zone))).collect();
    if !is_full {
        groups.retain(|group| ["newyear-UTC", "autumn-Europe-Berlin"].contains(&group.host.as_str()));
    }
    let restic = Restic::new(program);
    let backup = |writer, at: usize| restic.backup(writer, &groups[at / STAMPS], &groups[at / STAMPS].stamps[at % STAMPS]);
    in_parallel(WRITERS, groups.len() * STAMPS, backup);
    restic.gather();
    let policies = if is_full { 400 } else { 200 };
    let tally = Mutex::new(Tally::default());
    in_parallel(4, policies, |_, seed| {
        let asked = Asked::random(&mut Random(seed as u64), &groups);
        let mut own = Tally { policies: 1, ..Tally::default() };
        for (host, theirs) in restic.forget(&asked.flags) {
            let group = groups.iter().find(|group| group.host == host).unwrap();
            let what = format!("policy {seed}, {host}: restic forget {}", asked.flags.join(" "));
            own.compare(&asked.question(group), &theirs, &[TWICE, CALENDAR, NEWEST, FUTURE, BROKEN], &what);
        }
        tally.lock().unwrap().add(own);
    });
    tally.into_inner().unwrap().finish("restic");
}
