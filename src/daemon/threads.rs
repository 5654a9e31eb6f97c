//! Plain threads beside the async edge: one makes forks, one listens to the instances root, one compares digests.

use crate::event::Event;
use crate::worker::Worker;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::Notify;

/// How long news from the root are collected before they are looked at.
const SETTLE: Duration = Duration::from_millis(100);
/// How often the root is looked at without news: a mount that comes or goes makes none.
const LOOK: Duration = Duration::from_secs(1);

/// Makes forks until the worker stops.
pub(super) fn fork_runner(worker: Arc<Worker>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("forks".to_owned()).spawn(move || {
        let mut reported = false;
        while !worker.stopping.load(Ordering::SeqCst) {
            worker.forks.wait_for_work(LOOK);
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
                std::thread::sleep(LOOK);
            }
        }
    })
}

/// Follows the instances root until the worker stops; `released` is told when a snapshot is needed by one fork less.
pub(super) fn root_watcher(worker: Arc<Worker>, released: Arc<Notify>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("root".to_owned()).spawn(move || {
        let mut was_proven = worker.store.prove_root().is_ok();
        while !worker.stopping.load(Ordering::SeqCst) {
            let has_news = worker.forks.wait_for_news(LOOK);
            let is_proven = worker.store.prove_root().is_ok();
            let is_other = std::mem::replace(&mut was_proven, is_proven) != is_proven;
            if !has_news && !is_other {
                continue;
            }
            std::thread::sleep(SETTLE);
            if is_other {
                worker.forks.forget_all_names();
            } else if worker.forks.is_due_again() {
                worker.forks.look_at_all();
            }
            if worker.look_at_root() > 0 {
                released.notify_one();
            }
        }
    })
}
