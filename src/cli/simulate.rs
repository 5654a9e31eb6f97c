//! `simulate`: policies of the configuration over made-up time. Needs neither store nor lock; writes the file that
//! `--svg` names, and nothing else.

mod svg;

use super::args::{SimulateArgs, Start};
use super::out::{self, Out};
use super::render;
use crate::config::Config;
use crate::ids::PolicyName;
use crate::policy::simulate::{Model, ModelBytes, ModelForks, Simulation, simulate as run};
use crate::policy::{Policy, Rhythm, Schedule};
use crate::worker::backend::Answer;
use crate::worker::problem::{Problem, ProblemKind};
use chrono::{DateTime, Months, NaiveDate, NaiveTime, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// What is done sooner needs no bar.
const WORTH_SHOWING: Duration = Duration::from_millis(700);

/// Carries it out.
///
/// # Errors
/// Words that do not fit, a policy that is not there, a file that cannot be written.
pub(super) fn simulate(args: &SimulateArgs, config: &Config, out: Out, now: DateTime<Utc>) -> Answer<u8> {
    let is_stdout = args.svg.as_deref() == Some(Path::new("-"));
    if is_stdout && out.json {
        return Err(bad("--svg - and --json both want standard output: give --svg a file's name"));
    }
    let mut simulations = Vec::new();
    for (policy, schedule) in chosen(args, config)? {
        let model = model(args, schedule.timezone, now)?;
        let bar = Bar::new(policy, &model);
        simulations.push(run(policy, &schedule, &model, &mut |at| bar.show(at)));
    }
    match &args.svg {
        Some(_) if is_stdout => out::print(&svg::draw(&simulations)),
        Some(path) => {
            write(path, &svg::draw(&simulations))
                .map_err(|e| Problem::new(ProblemKind::Failed, format!("cannot write {}: {e}", path.display())))?;
            show(&simulations, out);
        }
        None => show(&simulations, out),
    }
    Ok(0)
}

fn show(simulations: &[Simulation], out: Out) {
    out.show(&serde_json::json!({ "simulations": simulations }), || render::simulations(simulations));
}

fn bad(text: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::BadRequest, text)
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

/// When a day begins; where its midnight does not exist, soon after.
fn midnight(date: NaiveDate, timezone: Tz) -> Option<DateTime<Utc>> {
    let mut times = (0..8).map(|n| date.and_time(NaiveTime::MIN) + TimeDelta::minutes(15 * n));
    times.find_map(|time| timezone.from_local_datetime(&time).earliest()).map(|time| time.with_timezone(&Utc))
}

/// From when to when.
fn span(args: &SimulateArgs, timezone: Tz, now: DateTime<Utc>) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
    let years = Months::new(12 * args.years);
    let (from, after_years) = match args.from.unwrap_or_else(|| Start::Day(now.with_timezone(&timezone).date_naive())) {
        Start::Day(date) => (midnight(date, timezone)?, midnight(date.checked_add_months(years)?, timezone)?),
        Start::Time(time) => (time, time.checked_add_months(years)?),
    };
    let to = args.span.map_or(Some(after_years), |span| from.checked_add_signed(delta(span)))?;
    Some((from, to))
}

fn model(args: &SimulateArgs, timezone: Tz, now: DateTime<Utc>) -> Answer<Model> {
    let (from, to) = span(args, timezone, now).ok_or_else(|| bad("there is no such day in the policy's time zone"))?;
    let bytes = match (args.size, args.exclusive) {
        (None, None) => None,
        (Some(size), Some(exclusive)) if exclusive > size => {
            return Err(bad("--exclusive is a part of --size: it cannot be more"));
        }
        (Some(size), exclusive) => Some(ModelBytes { size, exclusive: exclusive.unwrap_or(size) }),
        (None, Some(exclusive)) => Some(ModelBytes { size: exclusive, exclusive }),
    };
    let forks = args.forks_per_day.map(|per_day_thousandths| ModelForks { per_day_thousandths, life: delta(args.fork_life) });
    Ok(Model {
        instance: args.instance.clone(),
        from,
        to,
        bytes,
        forks,
        missed_per_million: args.missing,
        seed: args.seed,
        every_slot: args.every_slot,
    })
}

/// The policies, each with the schedule to run it by.
fn chosen<'c>(args: &SimulateArgs, config: &'c Config) -> Answer<Vec<(&'c Policy, Schedule)>> {
    if config.policies.is_empty() {
        return Err(Problem::new(ProblemKind::NotFound, format!("there are no policies in {}", config.file.display())));
    }
    let missing = |name: &PolicyName| Problem::new(ProblemKind::NotFound, format!("there is no policy {name}"));
    let mut policies: Vec<&Policy> = Vec::new();
    let mut seen = BTreeSet::new();
    for name in args.policy.iter().filter(|name| seen.insert(*name)) {
        policies.push(config.policy(name).ok_or_else(|| missing(name))?);
    }
    if args.policy.is_empty() {
        policies = config.policies.iter().collect();
    }
    let idle = |policy: &Policy| args.every.is_none() && policy.schedule.is_none();
    let without: Vec<&str> = policies.iter().filter(|policy| idle(policy)).map(|policy| policy.name.as_str()).collect();
    if !without.is_empty() && (!args.policy.is_empty() || without.len() == policies.len()) {
        let names = without.join(", ");
        return Err(bad(format!("{names}: neither `schedule` nor `every` is set; say how often snapshots come, such as --every 1h")));
    }
    for name in &without {
        out::complain(&format!("snapkeep: {name} has no schedule and is left out; see it with: --policy {name} --every 1h"));
    }
    let with_schedule = |policy: &'c Policy| Some((policy, schedule(policy, args.every)?));
    Ok(policies.into_iter().filter_map(with_schedule).collect())
}

/// The policy's schedule, or one of this interval.
fn schedule(policy: &Policy, every: Option<Duration>) -> Option<Schedule> {
    let Some(every) = every else { return policy.schedule.clone() };
    let timezone = policy
        .schedule
        .as_ref()
        .map_or_else(|| policy.retention.keep.as_ref().map_or(Tz::UTC, |keep| keep.timezone), |schedule| schedule.timezone);
    Some(Schedule::new(Rhythm::Every(delta(every)), timezone))
}

/// A file that is there whole or not at all.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    // As any program would make it: the umask takes from this.
    let mut file = tempfile::Builder::new().permissions(Permissions::from_mode(0o666)).tempfile_in(parent)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// How far it is, on a terminal, if it takes long.
struct Bar {
    began: Instant,
    from: DateTime<Utc>,
    bar: Option<ProgressBar>,
}

impl Bar {
    fn new(policy: &Policy, model: &Model) -> Self {
        let days = u64::try_from((model.to - model.from).num_days()).unwrap_or(0);
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix} {bar:40} day {pos} of {len} {eta}");
            ProgressBar::new(days).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_prefix(policy.name.to_string())
        });
        Self { began: Instant::now(), from: model.from, bar }
    }

    fn show(&self, at: DateTime<Utc>) {
        if let Some(bar) = self.bar.as_ref().filter(|_| self.began.elapsed() > WORTH_SHOWING) {
            bar.set_position(u64::try_from((at - self.from).num_days()).unwrap_or(0));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
