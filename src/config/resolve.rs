//! From the main file's tables to values: defaults, paths, durations, globs. Policies are in `policy`; no file is read.

use super::cron;
use super::problem::Report;
use super::raw::{
    RawCache, RawConfig, RawDriver, RawFork, RawMetrics, RawPrune, RawScrub, RawSnapshot, RawSpace, RawStore, RawTrash, Text,
};
use super::units::{parse_duration, parse_share, parse_size, show_duration};
use super::{
    CacheConfig, DigestTime, DriverConfig, Fill, ForkConfig, MemoryMethod, MetricsConfig, PoolConfig, Reserve, ScrubConfig, Skip,
    SourcePaths, TrashConfig,
};
use crate::policy::Rhythm;
use crate::policy::cap::Caps;
use chrono::TimeDelta;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// sockaddr_un(7): 108 bytes, one of them zero.
const LONGEST_SOCKET: usize = 107;

/// Everything but policies.
pub(super) struct Main {
    pub(super) store: PathBuf,
    pub(super) instances: PathBuf,
    pub(super) socket: PathBuf,
    pub(super) api: super::ApiConfig,
    pub(super) fork: ForkConfig,
    pub(super) pool: PoolConfig,
    pub(super) skip: Skip,
    pub(super) digests: DigestTime,
    pub(super) driver: DriverConfig,
    pub(super) threads: usize,
    pub(super) max_running: usize,
    pub(super) copy_rate: u64,
    pub(super) prune_every: TimeDelta,
    pub(super) warn_pinned_after: Duration,
    pub(super) caps: Caps,
    pub(super) trash: TrashConfig,
    pub(super) reserve: Reserve,
    pub(super) fill: Option<Fill>,
    pub(super) cache: CacheConfig,
    pub(super) scrub: Option<ScrubConfig>,
    pub(super) metrics: MetricsConfig,
    pub(super) wait_for_sync: bool,
}

/// Resolves the main file; where something is wrong it says so, and the value in its place means nothing.
pub(super) fn main(raw: &RawConfig, report: &mut Report<'_>) -> Main {
    let (store, instances) = directories(raw.store.as_ref(), report);
    let prune = raw.prune.as_ref().and_then(|prune| prune.every.as_ref());
    let pinned = raw.prune.as_ref().and_then(|prune| prune.warn_pinned_after.as_ref());
    let minute = Duration::from_secs(60);
    let reserve = raw.space.as_ref().and_then(|space| space.reserve.as_ref());
    let reserve = part("space.reserve", reserve, report).unwrap_or(Reserve::Bytes(0));
    let fill = fill(raw.space.as_ref(), report);
    Main {
        socket: socket(raw, &store, report),
        api: super::access::resolve(raw.api.as_ref(), report),
        store,
        instances,
        fork: fork(raw.fork.as_ref()),
        pool: super::prefork::resolve(raw, (reserve, fill), report),
        skip: skip(raw.snapshot.as_ref(), report),
        digests: raw.snapshot.as_ref().and_then(|snapshot| snapshot.digests).unwrap_or(DigestTime::After),
        driver: driver(raw.driver.as_ref(), report),
        threads: size(raw.worker.as_ref().and_then(|worker| worker.threads).unwrap_or(4)),
        max_running: size(raw.worker.as_ref().and_then(|worker| worker.max_running.or(worker.threads)).unwrap_or(4)),
        copy_rate: copy_rate(raw.worker.as_ref().and_then(|worker| worker.copy_rate.as_ref()), report),
        prune_every: delta(period_from("prune.every", prune, Duration::from_secs(1), report).unwrap_or(10 * minute)),
        warn_pinned_after: period("prune.warn_pinned_after", pinned, report).unwrap_or(7 * 24 * 60 * minute),
        caps: caps(raw.prune.as_ref(), report),
        trash: trash(raw.trash.as_ref(), report),
        reserve,
        fill,
        cache: cache(raw.cache.as_ref(), report),
        scrub: scrub(raw.scrub.as_ref(), report),
        metrics: metrics(raw.metrics.as_ref(), report),
        wait_for_sync: raw.clock.as_ref().and_then(|clock| clock.wait_for_sync).unwrap_or(true),
    }
}

fn metrics(raw: Option<&RawMetrics>, report: &mut Report<'_>) -> MetricsConfig {
    let textfile = raw.and_then(|metrics| metrics.textfile.as_ref());
    let once_every = raw.and_then(|metrics| metrics.once_every.as_ref());
    MetricsConfig {
        textfile: textfile.and_then(|text| absolute("metrics.textfile", text, report)),
        once_every: period("metrics.once_every", once_every, report).unwrap_or(Duration::from_secs(15 * 60)),
    }
}

fn caps(raw: Option<&RawPrune>, report: &mut Report<'_>) -> Caps {
    Caps {
        max_removals: raw.and_then(|prune| prune.max_removals),
        max_fraction: share("prune.max_fraction", raw.and_then(|prune| prune.max_fraction.as_ref()), report),
    }
}

/// Hundredths of a percent, if there is a share and it is one.
pub(super) fn share(key: &str, text: Option<&Text>, report: &mut Report<'_>) -> Option<u64> {
    let text = text?;
    let name = key.rsplit('.').next().unwrap_or(key);
    match parse_share(text.get_ref()) {
        Some(Ok(parts)) if parts > 0 => Some(parts),
        _ => {
            report.wrong(key, text.span(), format!("`{name}` must be a share of more than 0% and up to 100%, not \"{}\"", text.get_ref()));
            None
        }
    }
}

fn trash(raw: Option<&RawTrash>, report: &mut Report<'_>) -> TrashConfig {
    let hour = Duration::from_secs(3600);
    TrashConfig {
        grace: period("trash.grace", raw.and_then(|t| t.grace.as_ref()), report).unwrap_or(hour),
        fork_grace: period("trash.fork_grace", raw.and_then(|t| t.fork_grace.as_ref()), report).unwrap_or_default(),
        max_bytes: bytes("trash.max_bytes", raw.and_then(|t| t.max_bytes.as_ref()), report),
        unlink_rate: raw.and_then(|t| t.unlink_rate).unwrap_or(2000),
        unlink_bytes: Some(bytes("trash.unlink_bytes", raw.and_then(|t| t.unlink_bytes.as_ref()), report).unwrap_or(4 << 30))
            .filter(|n| *n > 0),
    }
}

/// A size, or a share of the file system, if there is one and it is one.
fn part(key: &str, text: Option<&Text>, report: &mut Report<'_>) -> Option<Reserve> {
    let text = text?;
    let name = key.rsplit('.').next().unwrap_or(key);
    let read = match parse_share(text.get_ref()) {
        Some(share) => share.map(Reserve::Share),
        None => parse_size(text.get_ref()).map(Reserve::Bytes),
    };
    read.map_err(|error| report.wrong(key, text.span(), format!("`{name}`: {error}"))).ok()
}

fn cache(raw: Option<&RawCache>, report: &mut Report<'_>) -> CacheConfig {
    let minutes = Duration::from_secs(600);
    CacheConfig {
        max: part("cache.max_bytes", raw.and_then(|cache| cache.max_bytes.as_ref()), report).unwrap_or(Reserve::Share(1000)),
        keep: delta(period("cache.keep", raw.and_then(|cache| cache.keep.as_ref()), report).unwrap_or(minutes)),
    }
}

fn fill(raw: Option<&RawSpace>, report: &mut Report<'_>) -> Option<Fill> {
    let raw = raw?;
    let above = share("space.prune_above", raw.prune_above.as_ref(), report);
    let until = share("space.until", raw.until.as_ref(), report);
    if let (Some(text), None) = (&raw.until, &raw.prune_above) {
        report.wrong_help("space.until", text.span(), "`until` does nothing without `prune_above`", "add prune_above, such as \"85%\"");
    }
    let above = above?;
    let fill = Fill { above, until: until.unwrap_or(above.saturating_sub(500)) };
    if let Some(text) = raw.until.as_ref().filter(|_| fill.until >= fill.above) {
        report.wrong("space.until", text.span(), "`until` must be less than `prune_above`: so much is pruned that pruning can rest");
    }
    Some(fill)
}

fn scrub(raw: Option<&RawScrub>, report: &mut Report<'_>) -> Option<ScrubConfig> {
    let month = TimeDelta::days(30);
    let every = raw.and_then(|scrub| scrub.every.as_ref());
    let rhythm = match raw.and_then(|scrub| scrub.schedule.as_ref()) {
        None => Rhythm::Every(period_from("scrub.every", every, Duration::from_secs(1), report).map_or(month, delta)),
        Some(text) => {
            if let Some(every) = every {
                report.wrong_help("scrub.every", every.span(), "`every` and `schedule` are both there", "leave one of them out");
            }
            match cron::parse(text.get_ref()) {
                Ok(times) => Rhythm::Cron([times].into()),
                Err(problem) => {
                    match problem.help {
                        Some(help) => report.wrong_help("scrub.schedule", text.span(), problem.message, help),
                        None => report.wrong("scrub.schedule", text.span(), problem.message),
                    }
                    Rhythm::Every(month)
                }
            }
        }
    };
    let rate = bytes("scrub.rate", raw.and_then(|scrub| scrub.rate.as_ref()), report).unwrap_or(32 << 20);
    let is_on = raw.and_then(|scrub| scrub.enabled).unwrap_or(true);
    is_on.then_some(ScrubConfig { rhythm, rate: rate.max(1) })
}

fn copy_rate(text: Option<&Text>, report: &mut Report<'_>) -> u64 {
    let rate = bytes("worker.copy_rate", text, report);
    if let (Some(0), Some(text)) = (rate, text) {
        report.wrong_help("worker.copy_rate", text.span(), "`copy_rate` must be more than 0", "leave it out for no bound");
    }
    rate.unwrap_or(0)
}

/// A size, if there is one and it is one.
pub(super) fn bytes(key: &str, text: Option<&Text>, report: &mut Report<'_>) -> Option<u64> {
    let text = text?;
    let name = key.rsplit('.').next().unwrap_or(key);
    parse_size(text.get_ref()).map_err(|error| report.wrong(key, text.span(), format!("`{name}`: {error}"))).ok()
}

fn directories(raw: Option<&RawStore>, report: &mut Report<'_>) -> (PathBuf, PathBuf) {
    let Some(raw) = raw else { return Default::default() };
    let store = raw.path.as_ref().and_then(|text| absolute("store.path", text, report));
    let instances = raw.instances.as_ref().and_then(|text| absolute("store.instances", text, report));
    if let (Some(store), Some(instances), Some(text)) = (&store, &instances, &raw.instances) {
        let clash = if store == instances {
            Some("the store and the instances root are the same directory".to_owned())
        } else if instances.starts_with(store) {
            Some(format!("the instances root is inside the store {}", store.display()))
        } else if store.starts_with(instances) {
            Some(format!("the store {} is inside the instances root, where it would be taken for an instance", store.display()))
        } else {
            None
        };
        if let Some(message) = clash {
            let help = "put the two side by side on one file system, such as /var/lib/snapkeep/store and /var/lib/snapkeep/vms";
            report.wrong_help("store.instances", text.span(), message, help);
        }
    }
    (store.unwrap_or_default(), instances.unwrap_or_default())
}

/// An absolute path without `..`, and without `.` and doubled slashes.
pub(super) fn absolute(key: &str, text: &Text, report: &mut Report<'_>) -> Option<PathBuf> {
    let path = Path::new(text.get_ref());
    let name = key.rsplit('.').next().unwrap_or(key);
    let complaint = if text.get_ref().is_empty() {
        format!("`{name}` is empty")
    } else if text.get_ref().contains('\0') {
        format!("`{name}` has a zero byte in it")
    } else if !path.is_absolute() {
        format!("`{name}` must be an absolute path, not \"{}\"", text.get_ref())
    } else if path.components().any(|part| part == Component::ParentDir) {
        format!("`{name}` must not go through `..`")
    } else if path.parent().is_none() {
        format!("`{name}` must not be the root directory")
    } else {
        return Some(path.components().collect());
    };
    report.wrong_help(key, text.span(), complaint, "write the whole path from / on");
    None
}

fn socket(raw: &RawConfig, store: &Path, report: &mut Report<'_>) -> PathBuf {
    let written = raw.api.as_ref().and_then(|api| api.socket.as_ref());
    let (path, key, span) = match (written, raw.store.as_ref().and_then(|store| store.path.as_ref())) {
        (Some(text), _) => (absolute("api.socket", text, report), "api.socket", text.span()),
        (None, Some(text)) if !store.as_os_str().is_empty() => (Some(store.join("snapkeep.sock")), "store.path", text.span()),
        _ => return PathBuf::new(),
    };
    if let Some(length) = path.as_ref().map(|path| path.as_os_str().len()).filter(|length| *length > LONGEST_SOCKET) {
        let message = format!("the path of the socket is {length} bytes long, and the kernel allows {LONGEST_SOCKET}");
        report.wrong_help(key, span, message, "set `socket` in [api] to a shorter path, such as \"/run/snapkeep/snapkeep.sock\"");
    }
    path.unwrap_or_default()
}

fn fork(raw: Option<&RawFork>) -> ForkConfig {
    ForkConfig {
        memory: raw.and_then(|fork| fork.memory).unwrap_or(MemoryMethod::Hardlink),
        source_paths: raw.and_then(|fork| fork.source_paths).unwrap_or(SourcePaths::Rewrite),
        max_pending: size(raw.and_then(|fork| fork.max_pending).unwrap_or(10_000)),
        allow_expiring: raw.and_then(|fork| fork.allow_forks_of_expiring).unwrap_or(false),
    }
}

fn skip(raw: Option<&RawSnapshot>, report: &mut Report<'_>) -> Skip {
    let Some(written) = raw.and_then(|snapshot| snapshot.skip.as_ref()) else {
        // These are globs, so there is no error to lose.
        return Skip::new(&["logs/", "*.tmp", "*.pid", "*.lock"]).unwrap_or_default();
    };
    let mut patterns = Vec::new();
    for (n, text) in written.iter().enumerate() {
        let key = format!("snapshot.skip[{n}]");
        let pattern = text.get_ref().as_str();
        if pattern.trim_matches('/').is_empty() {
            report.wrong(&key, text.span(), format!("\"{pattern}\" is not a pattern: it names no file"));
        } else if let Err(error) = Skip::new(&[pattern]) {
            report.wrong(&key, text.span(), format!("\"{pattern}\" is not a glob: {}", error.kind()));
        } else {
            if let Some(bare) = pattern.strip_prefix("./") {
                report.warn(text.span().start, format_args!("the pattern \"{pattern}\" matches nothing: write \"{bare}\""));
            }
            patterns.push(pattern);
        }
    }
    Skip::new(&patterns).unwrap_or_default()
}

fn driver(raw: Option<&RawDriver>, report: &mut Report<'_>) -> DriverConfig {
    let lines = |key: &str, list: Option<&toml::Spanned<Vec<Text>>>, report: &mut Report<'_>| {
        let mut lines = Vec::new();
        for (n, line) in list.into_iter().flat_map(|list| list.get_ref()).enumerate() {
            if line.get_ref().trim().is_empty() {
                report.wrong(
                    &format!("{key}[{n}]"),
                    line.span(),
                    format!("`{}` has an empty command line", key.trim_start_matches("driver.")),
                );
            }
            lines.push(line.get_ref().clone());
        }
        lines
    };
    let written = raw.and_then(|driver| driver.freeze.as_ref());
    let freeze = lines("driver.freeze", written, report);
    let thaw = lines("driver.thaw", raw.and_then(|driver| driver.thaw.as_ref()), report);
    if let Some(list) = written.filter(|_| !freeze.is_empty() && thaw.is_empty() && !report.is_touched("driver.thaw")) {
        report.warn(list.span().start, "`freeze` has commands and `thaw` has none: what is frozen stays so");
    }
    let millisecond = Duration::from_millis(1);
    DriverConfig {
        memory_names: memory_names(raw, report),
        freeze,
        thaw,
        timeout: period_from("driver.timeout", raw.and_then(|driver| driver.timeout.as_ref()), millisecond, report)
            .unwrap_or(Duration::from_secs(30)),
    }
}

fn memory_names(raw: Option<&RawDriver>, report: &mut Report<'_>) -> Vec<String> {
    let Some(list) = raw.and_then(|driver| driver.memory_names.as_ref()) else {
        return ["memory", "memory-ranges", "mem"].map(str::to_owned).to_vec();
    };
    if list.get_ref().is_empty() {
        let help = "leave the key out for the usual names; a policy with kind = \"stopped\" takes disks only";
        report.wrong_help("driver.memory_names", list.span(), "`memory_names` is empty: no memory file would be known as one", help);
    }
    for (n, text) in list.get_ref().iter().enumerate() {
        let name = text.get_ref().as_str();
        if name.is_empty() || name.contains(['/', '\0']) || matches!(name, "." | "..") {
            let key = format!("driver.memory_names[{n}]");
            report.wrong_help(&key, text.span(), format!("\"{name}\" is not a file name"), "write the name only, without its directory");
        }
    }
    list.get_ref().iter().map(|text| text.get_ref().clone()).collect()
}

/// A duration, if there is one and it is one.
pub(super) fn period(key: &str, text: Option<&Text>, report: &mut Report<'_>) -> Option<Duration> {
    period_from(key, text, Duration::ZERO, report)
}

/// The same, not shorter than `least`.
pub(super) fn period_from(key: &str, text: Option<&Text>, least: Duration, report: &mut Report<'_>) -> Option<Duration> {
    let text = text?;
    let name = key.rsplit('.').next().unwrap_or(key);
    match parse_duration(text.get_ref()) {
        Ok(duration) if duration < least => {
            let message = format!("`{name}` is {}, but must be {} or more", show_duration(duration), show_duration(least));
            report.wrong(key, text.span(), message);
            None
        }
        Ok(duration) => Some(duration),
        Err(error) => {
            report.wrong(key, text.span(), format!("`{name}`: {error}"));
            None
        }
    }
}

/// chrono's kind of duration; [`parse_duration`] lets nothing pass that does not fit.
pub(super) fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

fn size(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
