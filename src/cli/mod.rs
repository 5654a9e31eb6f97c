//! The command line: which verb, asked of whom, and the exit code.
//!
//! With a worker running, verbs go to it over its socket; without one they take the lock and act themselves, or look
//! without it: one code path behind all three, the [`Backend`].

mod args;
#[doc(hidden)]
pub mod canvas;
mod demo;
mod init;
mod lookout;
mod next;
mod out;
mod plan;
mod progress;
mod render;
mod simulate;
mod verbs;
mod width;
mod words;

pub use args::{Cli, command};

use crate::api::{Client, Reach};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, ConfigError, load, schema};
use crate::daemon;
use crate::daemon::log::{self, Form, To};
use crate::event::flood::Calm;
use crate::event::{Events, TracingSink, feed};
use crate::store::StoreError;
use crate::store::fs::Fs;
use crate::worker::backend::{Answer, Backend};
use crate::worker::problem::{Problem, ProblemKind};
use crate::worker::{Reader, Surroundings, Worker, WorkerError, problem_of_open};
use args::Verb;
use chrono::{DateTime, Utc};
use clap::FromArgMatches as _;
use out::Out;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a verb waits for the lock while somebody has it and does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The program.
pub fn main() -> ExitCode {
    width::find(out::is_terminal());
    let cli = match command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(e) => return ExitCode::from(misunderstood(&e)),
    };
    let out = Out { json: cli.json };
    match act(cli, out) {
        Ok(code) => ExitCode::from(code),
        Err(problem) => ExitCode::from(out.problem(&problem)),
    }
}

/// Shows the help that was asked for, or says what cannot be understood, in JSON where that is wanted; the exit code.
fn misunderstood(error: &clap::Error) -> u8 {
    let wants_json = std::env::args_os().any(|argument| argument == "--json");
    if error.use_stderr() && wants_json {
        let text = error.render().to_string();
        return Out { json: true }.problem(&Problem::new(ProblemKind::BadRequest, text.trim_start_matches("error: ").trim_end()));
    }
    // A closed pipe has nobody to tell.
    let _ = error.print();
    u8::try_from(error.exit_code()).unwrap_or(ProblemKind::BadRequest.exit_code())
}

/// A store that another user has is theirs to change: what somebody else makes in it, its worker cannot read.
fn must_own(config: &Config, fs: &Fs) -> Answer<()> {
    let owner = match fs.stat_if_there(&config.store) {
        Ok(Some(meta)) => meta.uid,
        // Whoever opens it says what is wrong.
        Ok(None) | Err(_) => return Ok(()),
    };
    let own = nix::unistd::geteuid();
    if own.as_raw() == owner {
        return Ok(());
    }
    let name = |uid| nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| format!("#{uid}"), |user| user.name);
    let (owner, own) = (name(owner.into()), name(own));
    let what = format!("{} belongs to {owner}, and this is {own}", config.store.display());
    Err(Problem::new(
        ProblemKind::Failed,
        format!("{what}: what {own} made in it, its worker could not read; run this as its user: sudo -u {owner} snapkeep ..."),
    ))
}

/// Kernel, clock and log of the process.
fn surroundings() -> Surroundings {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    Surroundings { fs: Fs::real(), events: Events::new(Arc::clone(&clock), Arc::new(Calm::new(TracingSink, Arc::clone(&clock)))), clock }
}

fn act(cli: Cli, out: Out) -> Answer<u8> {
    let around = surroundings();
    let done = perform(cli, &around, out);
    // However it ended: what was only counted is written down.
    around.events.flush();
    done
}

fn perform(cli: Cli, around: &Surroundings, out: Out) -> Answer<u8> {
    match cli.verb {
        Verb::Check { schema: true, .. } => {
            let schema = schema();
            out.show(&schema, || serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n");
            Ok(0)
        }
        Verb::Check { next, from, .. } => {
            check(&cli.config, around, next.map(|count| (count, from.unwrap_or_else(|| around.clock.now()))), out)
        }
        Verb::Demo { seconds } => demo::demo(seconds, out),
        Verb::Simulate(args) => simulate::simulate(&args, &config(&cli.config)?, out, around.clock.now()),
        Verb::Init => init::init(config(&cli.config)?, around, out),
        Verb::Run => {
            let config = config(&cli.config)?;
            let around = around.clone().with_metrics();
            must_own(&config, &around.fs)?;
            log::init(form(cli.json, out::is_terminal()), To::Stdout);
            let around = Surroundings { events: around.events.with_feed(feed::USUAL), ..around };
            daemon::run(config, &around).map(|()| 0)
        }
        Verb::Once { leave_digests } => {
            let config = config(&cli.config)?;
            let around = around.clone().with_metrics();
            log::init(form(cli.json, out::is_terminal()), To::Stdout);
            let worker = open(config, &around, Duration::ZERO)?;
            worker.announce();
            let failed = worker.once()?;
            if !leave_digests {
                worker.hash_all();
            }
            worker.beat_heart(worker.config().metrics.once_every);
            Ok(u8::from(failed > 0))
        }
        Verb::Plan(args) => plan::plan(&cli.config, args, around, out),
        verb => {
            let config = config(&cli.config)?;
            let (backend, _runner) = backend(config, around, &verb, out)?;
            verbs::carry_out(verb, backend.as_ref(), out, around.clock.now())
        }
    }
}

fn form(json: bool, is_terminal: bool) -> Form {
    if json || !is_terminal { Form::Json } else { Form::Text }
}

fn config(path: &Path) -> Answer<Config> {
    load(path).map_err(|e| Problem::new(ProblemKind::Config, e.to_string()))
}

/// `check`; with the slots to come, if so many are wanted after some time.
fn check(path: &Path, around: &Surroundings, slots: Option<(u32, DateTime<Utc>)>, out: Out) -> Answer<u8> {
    let mut config = match load(path) {
        Ok(config) => config,
        Err(ConfigError::Invalid { problems }) if out.json => {
            out.show(&serde_json::json!({"valid": false, "problems": problems}), String::new);
            return Ok(ProblemKind::Config.exit_code());
        }
        Err(e) => return Err(Problem::new(ProblemKind::Config, e.to_string())),
    };
    let seen = lookout::look(&config, around);
    config.warnings.extend(seen.warnings);
    let mut view = serde_json::json!({
        "valid": true, "file": path, "policies": config.policies.len(), "warnings": config.warnings, "looked_at": seen.looked_at,
    });
    let next = slots.map(|(count, from)| next::next_slots(&config, count, from));
    if let (Some(next), Some(view)) = (&next, view.as_object_mut()) {
        view.insert("next".to_owned(), serde_json::to_value(next).unwrap_or_default());
    }
    out.show(&view, || {
        let warnings: String = config.warnings.iter().map(|w| format!("warning: {w}\n")).collect();
        format!(
            "{warnings}{} is good: {}\n{}",
            path.display(),
            words::count(config.policies.len() as u64, "policy").replace("policys", "policies"),
            seen.looked_at.iter().map(|line| format!("{line}\n")).collect::<String>()
                + &next.as_ref().map(|next| next::show(next, &config)).unwrap_or_default()
        )
    });
    Ok(0)
}

/// Makes the forks that a verb of this process waits for; ends, with all written down, when it is dropped.
struct Runner {
    worker: Arc<Worker>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Runner {
    fn start(worker: &Arc<Worker>) -> Self {
        let forks = Arc::clone(worker);
        let thread = std::thread::spawn(move || {
            while !forks.stopping.load(Ordering::SeqCst) {
                forks.forks.wait_for_work(Duration::from_millis(200));
                // What failed is settled by the next turn; only a closed queue is not, and the verb sees that itself.
                if forks.forks.run_ready(&forks.stopping, &forks.cancelled).is_err() {
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
        });
        Self { worker: Arc::clone(worker), thread: Some(thread) }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.worker.stopping.store(true, Ordering::SeqCst);
        // Who waited has their answer: what is still being built is somebody else's, and is made by whoever comes next.
        self.worker.cancel();
        drop(self.thread.take().map(std::thread::JoinHandle::join));
        // A closed queue has been reported; the next start finds out what is done.
        drop(self.worker.forks.compact());
    }
}

/// Who carries a verb out: the worker that runs, or this process. A lock that is held by somebody who does not answer
/// is waited for.
fn backend(config: Config, around: &Surroundings, verb: &Verb, out: Out) -> Answer<(Arc<dyn Backend>, Option<Runner>)> {
    let client = Client::new(&config.socket)?;
    let socket = config.socket.display().to_string();
    match client.reach() {
        Reach::Answers => return Ok((Arc::new(client), None)),
        Reach::Forbidden => {
            return Err(Problem::new(ProblemKind::Failed, format!("you may not use {socket}: run this as the worker's user")));
        }
        Reach::Nobody | Reach::Silent => {}
    }
    // Without a worker the log has no other place; a verb that fails says so itself.
    log::init(form(out.json, std::io::IsTerminal::is_terminal(&std::io::stderr())), To::Stderr);
    if verbs::only_looks(verb) {
        return Ok((Arc::new(Reader::open(config, around, progress::bars())?), None));
    }
    let worker = open(config, around, PATIENCE)?;
    // Nobody else makes them: the verb waits, and that thread works.
    let runner = matches!(verb, Verb::Fork(args) if !args.no_wait).then(|| Runner::start(&worker));
    Ok((worker, runner))
}

/// Opens the store for writing; one that is busy is tried again until the time is over.
fn open(config: Config, around: &Surroundings, patience: Duration) -> Answer<Arc<Worker>> {
    must_own(&config, &around.fs)?;
    let until = around.clock.since_boot() + patience;
    loop {
        match Worker::open(config.clone(), around, progress::bars()) {
            Err(WorkerError::Store(StoreError::Busy { .. })) if around.clock.since_boot() < until => {
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(worker) => return Ok(worker),
            Err(e) => return Err(problem_of_open(&e)),
        }
    }
}
