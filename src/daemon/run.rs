//! `run`: everything at once until SIGTERM.

use super::notify::{Manager, Pulse};
use super::{listen, reload, threads};
use crate::api;
use crate::config::Config;
use crate::event::Event;
use crate::schedule::Job;
use crate::worker::backend::Answer;
use crate::worker::problem::{Problem, ProblemKind};
use crate::worker::{Surroundings, Worker, problem_of_open};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_cron_scheduler::{Job as CronJob, JobScheduler};

/// How long running work may take to come to its end after SIGTERM, before it is rolled back.
const FINISH: Duration = Duration::from_secs(20);
/// How long rolling back may take.
const ROLL_BACK: Duration = Duration::from_secs(20);
/// How often the heartbeat is logged.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// How often the planner looks at least; the metronome wakes it every second.
const BEAT: Duration = Duration::from_secs(2);
/// How often the trash is looked at.
const SWEEP: Duration = Duration::from_secs(5);

/// Runs the worker until SIGTERM or SIGINT.
///
/// # Errors
/// [`Problem`] if it cannot start: [`ProblemKind::Busy`] if another worker has the store.
pub fn run(config: Config, around: &Surroundings) -> Answer<()> {
    let socket = config.socket.clone();
    let path = config.file.clone();
    let pulse = Pulse::new(Arc::clone(&around.clock));
    let worker = Worker::begin(config, around, Arc::clone(&pulse) as _).map_err(|e| problem_of_open(&e))?;
    let failed = |what: &str, e: &dyn std::fmt::Display| Problem::new(ProblemKind::Failed, format!("cannot {what}: {e}"));
    // Each slot that is being taken has a thread, and what else blocks some more.
    let blocking = worker.config().max_running.saturating_add(512);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).max_blocking_threads(blocking).enable_all().build();
    let runtime = runtime.map_err(|e| failed("start the async runtime", &e))?;
    let daemon = Arc::new(Daemon {
        worker: Arc::clone(&worker),
        tick: Arc::new(Notify::new()),
        turn: Arc::new(Notify::new()),
        prune: Arc::new(Notify::new()),
        sweep: Arc::new(Notify::new()),
        manager: Manager::new(Arc::clone(&worker), Arc::clone(&pulse)),
        pulse,
        path,
    });
    let sweep = Arc::clone(&daemon.sweep);
    worker.set_sweeper(move || sweep.notify_one());
    let prune = Arc::clone(&daemon.prune);
    worker.forks.when_released(move || prune.notify_one());
    let result = runtime.block_on(daemon.serve(socket)).map_err(|e| match e.downcast::<Problem>() {
        Ok(problem) => *problem,
        Err(e) => failed("run", &e),
    });
    let why = result.as_ref().map_or_else(ToString::to_string, |signal| (*signal).to_owned());
    runtime.shutdown_timeout(Duration::from_secs(1));
    // A closed queue has been reported; the next start finds out what is done.
    drop(worker.forks.compact());
    // Before the start was over nothing was reported of what the last process may have cut.
    if worker.starting().is_none()
        && let Err(e) = worker.save_uptime()
    {
        tracing::debug!(error = %e, "uptime not saved");
    }
    worker.store.events.flush();
    worker.store.events.emit(Event::WorkerStopped { why, at: worker.store.clock.now() });
    result.map(drop)
}

struct Daemon {
    worker: Arc<Worker>,
    /// Something may be due.
    tick: Arc<Notify>,
    /// Somebody's turn may have come.
    turn: Arc<Notify>,
    /// Something may have to go.
    prune: Arc<Notify>,
    /// Something may have to be unlinked.
    sweep: Arc<Notify>,
    /// What the loops say of themselves, and who is told.
    pulse: Arc<Pulse>,
    manager: Arc<Manager>,
    path: PathBuf,
}

/// The signals that are heeded.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())?, hup: signal(SignalKind::hangup())? })
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

impl Daemon {
    /// Serves until a signal says stop; returns its name.
    async fn serve(self: Arc<Self>, socket: PathBuf) -> Result<&'static str, AnyError> {
        // Before anybody can know that we are here: an early signal must not kill.
        let mut signals = Signals::new()?;
        let (stop, stopped) = watch::channel(false);
        let told = self.manager.start()?;
        let access = self.worker.config().api.clone();
        let listeners = api::Listeners { unix: listen::socket(&socket, access.mode)?, tcp: api::bind_tcp(&access).await? };
        let server = tokio::spawn(api::serve(listeners, Arc::clone(&self.worker), stopped.clone()));
        let mut tasks = JoinSet::new();
        let (mut plain, mut metronome) = (Vec::new(), None);
        // Reads are answered from here on; what changes something waits, and nothing is due or goes, until this is over.
        let signal = match self.recover(&mut signals).await? {
            Some(signal) => signal,
            None => {
                plain = vec![
                    threads::fork_runner(Arc::clone(&self.worker), Arc::clone(&self.pulse))?,
                    threads::root_watcher(Arc::clone(&self.worker))?,
                    threads::scrubber(Arc::clone(&self.worker))?,
                    threads::compressor(Arc::clone(&self.worker))?,
                    threads::pool_filler(Arc::clone(&self.worker))?,
                    threads::hasher(Arc::clone(&self.worker))?,
                ];
                metronome = Some(self.metronome().await?);
                tasks.spawn(Arc::clone(&self).schedule(stopped.clone()));
                tasks.spawn(Arc::clone(&self).prune(stopped.clone()));
                tasks.spawn(Arc::clone(&self).unlink(stopped.clone()));
                tasks.spawn(Arc::clone(&self).heartbeat(stopped.clone()));
                self.manager.ready();
                self.wait_for_signal(&mut signals).await
            }
        };
        self.manager.stopping();
        self.worker.stopping.store(true, Ordering::SeqCst);
        self.worker.forks.wake();
        self.worker.store.cancel_compressing();
        self.worker.store.wake();
        self.worker.forks.pool().wake();
        stop.send_replace(true);
        self.end_streams();
        let finish = async {
            while tasks.join_next().await.is_some() {}
            let _ = server.await;
            plain.iter().for_each(|t| t.thread().unpark());
            let _ = tokio::task::spawn_blocking(move || plain.into_iter().for_each(|t| drop(t.join()))).await;
        };
        tokio::pin!(finish);
        if tokio::time::timeout(FINISH, &mut finish).await.is_err() {
            self.worker.cancel();
            let _ = tokio::time::timeout(ROLL_BACK, &mut finish).await;
        }
        if let Some(mut metronome) = metronome {
            metronome.shutdown().await?;
        }
        self.manager.end();
        told.iter().for_each(|t| t.thread().unpark());
        Ok(signal)
    }

    /// Whoever follows the events would keep the server for ever.
    fn end_streams(&self) {
        if let Some(feed) = self.worker.store.events.feed() {
            feed.close();
        }
    }

    /// The second step of the start; the name of the signal that ended it, if one did.
    async fn recover(&self, signals: &mut Signals) -> Result<Option<&'static str>, AnyError> {
        let worker = Arc::clone(&self.worker);
        let mut recovery = tokio::task::spawn_blocking(move || worker.recover());
        tokio::select! {
            done = &mut recovery => done?.map_err(|e| problem_of_open(&e))?,
            signal = self.wait_for_signal(signals) => {
                self.worker.stopping.store(true, Ordering::SeqCst);
                self.worker.stop_starting();
                // Wherever it is then, the next start goes on from there.
                let _ = tokio::time::timeout(FINISH, recovery).await;
                return Ok(Some(signal));
            }
        }
        reload::report_loaded(&self.worker, &self.worker.config());
        self.worker.announce();
        Ok(None)
    }

    /// One job that only wakes the planner: what is due is computed from the ledger.
    async fn metronome(&self) -> Result<JobScheduler, AnyError> {
        let scheduler = JobScheduler::new().await?;
        let tick = Arc::clone(&self.tick);
        let job = CronJob::new_async("* * * * * *", move |_, _| {
            let tick = Arc::clone(&tick);
            Box::pin(async move { tick.notify_one() })
        })?;
        scheduler.add(job).await?;
        scheduler.start().await?;
        Ok(scheduler)
    }

    /// Waits for the signal that ends it; SIGHUP reloads.
    async fn wait_for_signal(&self, signals: &mut Signals) -> &'static str {
        loop {
            tokio::select! {
                _ = signals.term.recv() => return "SIGTERM",
                _ = signals.int.recv() => return "SIGINT",
                _ = signals.hup.recv() => {
                    self.manager.reloading();
                    let (worker, path) = (Arc::clone(&self.worker), self.path.clone());
                    drop(tokio::task::spawn_blocking(move || reload::reload(&worker, &path)).await);
                    self.manager.reloaded();
                    self.tick.notify_one();
                }
            }
        }
    }

    /// Takes what is due and whose turn it is, each slot on its own: a slow one holds up no other.
    async fn schedule(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        let mut running = JoinSet::new();
        let mut next = tokio::time::Instant::now() + BEAT;
        loop {
            self.pulse.come_round();
            let look = tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => break,
                () = self.tick.notified() => true,
                () = self.turn.notified() => false,
                // A metronome that has stopped must not stop the schedule: it goes by the wall clock, and waits for hours
                // when that is set back. Nor need a slot wait for it: it strikes up to half a second late.
                () = tokio::time::sleep_until(next) => true,
            };
            if look && self.worker.is_quiet() {
                next = self.next_look();
                continue;
            }
            let worker = Arc::clone(&self.worker);
            let jobs = tokio::task::spawn_blocking(move || if look { worker.beat() } else { worker.next_turns() }).await;
            let jobs = jobs.unwrap_or_default();
            if look {
                next = self.next_look();
            }
            self.spawn(jobs, &mut running);
            while running.try_join_next().is_some() {}
        }
        while running.join_next().await.is_some() {}
    }

    /// When to look next, if nobody says so before: at the next slot by the wall clock as it is now, and after a beat at
    /// the latest, for if the clock steps.
    fn next_look(&self) -> tokio::time::Instant {
        let due = self.worker.quiet_until().map(|due| (due - self.worker.store.clock.now()).to_std().unwrap_or_default());
        tokio::time::Instant::now() + due.map_or(BEAT, |left| left.min(BEAT))
    }

    fn spawn(self: &Arc<Self>, jobs: Vec<Job>, running: &mut JoinSet<()>) {
        for job in jobs {
            let daemon = Arc::clone(self);
            running.spawn(async move {
                let worker = Arc::clone(&daemon.worker);
                let taken = tokio::task::spawn_blocking(move || worker.run_or_leave(&job)).await;
                if matches!(taken, Ok(true)) {
                    daemon.prune.notify_one();
                }
                // Somebody else may have waited for this one to end.
                daemon.turn.notify_one();
            });
        }
    }

    /// Prunes every so often, after each snapshot, when a fork has gone, and when the file system fills.
    async fn prune(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        let mut since_prune = tokio::time::Instant::now();
        loop {
            let every = self.worker.config().prune_every.to_std().unwrap_or(SWEEP);
            let is_time = tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => return,
                () = self.prune.notified() => true,
                () = tokio::time::sleep_until(since_prune + every) => true,
                () = tokio::time::sleep(SWEEP) => false,
            };
            if !is_time && self.worker.config().fill.is_none() {
                continue;
            }
            let worker = Arc::clone(&self.worker);
            let pruned = tokio::task::spawn_blocking(move || {
                let prunes = is_time || worker.is_filling();
                if prunes { worker.prune_pass().map(|_| true) } else { Answer::Ok(false) }
            });
            let pruned = self.reported(pruned.await);
            if is_time {
                since_prune = tokio::time::Instant::now();
            }
            if pruned {
                self.sweep.notify_one();
            }
        }
    }

    /// Empties the trash: not with what prunes, which must not wait for files to go.
    async fn unlink(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => return,
                () = self.sweep.notified() => {}
                () = tokio::time::sleep(SWEEP) => {}
            }
            let worker = Arc::clone(&self.worker);
            let swept = tokio::task::spawn_blocking(move || {
                worker.sweep()?;
                // A closed queue has been reported; it keeps everything.
                drop(worker.forks.compact());
                Answer::Ok(true)
            });
            self.reported(swept.await);
        }
    }

    /// Reports what failed as a whole; else what was answered.
    fn reported(&self, done: Result<Answer<bool>, tokio::task::JoinError>) -> bool {
        match done {
            Ok(Ok(answer)) => answer,
            Ok(Err(problem)) => {
                self.worker.store.events.emit(Event::PruneFailed { snapshot: String::new(), error: problem.detail });
                false
            }
            Err(_) => false,
        }
    }

    async fn heartbeat(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        // The first one when the schedules have been looked at.
        let mut wait = 2 * BEAT;
        loop {
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = HEARTBEAT;
            let worker = Arc::clone(&self.worker);
            drop(tokio::task::spawn_blocking(move || worker.beat_heart(HEARTBEAT)).await);
        }
    }
}
