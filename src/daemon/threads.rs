//! Plain threads beside the async edge: one makes forks, one listens to the instances root, one compares digests.

use crate::event::Event;
use crate::store::watch::{News, RootWatch};
use crate::worker::Worker;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::Notify;

/// How long news from the root are collected before it is read.
const SETTLE: Duration = Duration::from_millis(100);
/// How often the root is looked at without news: a mount that comes or goes makes none.
const LOOK: Duration = Duration::from_secs(1);

/// The same where whoever has news says so.
const CALM: Duration = Duration::from_secs(5);

/// Makes forks until the worker stops.
pub(super) fn fork_runner(worker: Arc<Worker>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("forks".to_owned()).spawn(move || {
        let mut reported = false;
        while !worker.stopping.load(Ordering::SeqCst) {
            worker.forks.wait_for_work(if worker.forks.is_settled() { CALM } else { LOOK });
            match worker.forks.run_ready(&worker.stopping, &worker.cancelled) {
                Ok(_) => reported = false,
                Err(e) if !reported => {
                    reported = true;
                    let path = worker.store.layout.journal().display().to_string();
                    worker.store.events.emit(Event::QueueDamaged { path, why: e.to_string() });
                }
                Err(_) => std::thread::sleep(LOOK),
            }
        }
    })
}

/// Compares digests in the background until the worker stops.
pub(super) fn scrubber(worker: Arc<Worker>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("scrub".to_owned()).spawn(move || {
        while !worker.stopping.load(Ordering::SeqCst) {
            if !worker.scrub_next() {
                // Unparked at the stop.
                std::thread::park_timeout(worker.scrub_rest().max(LOOK));
            }
        }
    })
}

/// Follows the instances root until the worker stops; `released` is told when a snapshot is needed by one fork less.
pub(super) fn root_watcher(worker: Arc<Worker>, released: Arc<Notify>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("root".to_owned()).spawn(move || {
        let mut watch = RootWatch::new(&worker.store.layout).ok();
        let mut was_proven = worker.store.prove_root().is_ok();
        let mut proven_at = worker.store.clock.since_boot();
        while !worker.stopping.load(Ordering::SeqCst) {
            let mut news = match &watch {
                Some(watch) => watch.wait(LOOK),
                None => {
                    // No watch to be had: reading it all now and then does the same, later.
                    std::thread::sleep(LOOK);
                    News { all: true, ..News::default() }
                }
            };
            // A mount that comes or goes is told by the table of mounts; what else may happen to the root is found out later.
            let now = worker.store.clock.since_boot();
            if news.mounts || !news.is_empty() || watch.is_none() || !was_proven || now.saturating_sub(proven_at) >= CALM {
                let is_proven = worker.store.prove_root().is_ok();
                news.all |= is_proven != was_proven;
                (was_proven, proven_at) = (is_proven, now);
            }
            if news.is_empty() {
                continue;
            }
            std::thread::sleep(SETTLE);
            if let Some(watch) = &watch {
                let more = watch.wait(Duration::ZERO);
                news.names.extend(more.names);
                news.all |= more.all;
            }
            if news.all {
                worker.forks.forget_all_names();
                watch = RootWatch::new(&worker.store.layout).ok();
            }
            worker.forks.forget_names(news.names.iter().map(AsRef::as_ref));
            if worker.look_at_root() > 0 {
                released.notify_one();
            }
        }
    })
}
