//! Plain threads beside the async edge: one makes forks, one makes forks ahead of need, one listens to the instances root,
//! one compares digests, one makes those that are pending, and one compresses what is cold.

use super::notify::Pulse;
use crate::event::Event;
use crate::fork::pool::Turn;
use crate::store::fs::background::give_way;
use crate::worker::{Worker, compressing};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long news from the root are collected before they are looked at.
const SETTLE: Duration = Duration::from_millis(100);
/// How often somebody looks who is not told of everything.
const LOOK: Duration = Duration::from_secs(1);
/// The same for who is told.
const CALM: Duration = Duration::from_secs(5);

/// Makes forks until the worker stops.
pub(super) fn fork_runner(worker: Arc<Worker>, pulse: Arc<Pulse>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("forks".to_owned()).spawn(move || {
        let _over = pulse.until_over();
        let mut reported = false;
        while !worker.stopping.load(Ordering::SeqCst) {
            pulse.forks(false);
            worker.forks.wait_for_work(if worker.forks.is_settled() { CALM } else { LOOK });
            pulse.forks(true);
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

/// Keeps the ready pool filled until the worker stops: the last to get processor and disk, and behind all who wait for a fork.
pub(super) fn pool_filler(worker: Arc<Worker>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("pool".to_owned()).spawn(move || {
        give_way();
        while !worker.stopping.load(Ordering::SeqCst) {
            match worker.forks.tend_pool(&worker.stopping) {
                Turn::Done => {}
                Turn::Settled => worker.forks.pool().wait(if worker.forks.pool().is_asked_for() { LOOK } else { CALM }, &worker.stopping),
                Turn::Later => std::thread::sleep(SETTLE),
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

/// Compresses cold snapshots until the worker stops, at low priority.
pub(super) fn compressor(worker: Arc<Worker>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("compress".to_owned()).spawn(move || {
        while !worker.stopping.load(Ordering::SeqCst) {
            worker.compress_due();
            // Unparked at the stop.
            std::thread::park_timeout(compressing::LOOK);
        }
    })
}

/// Makes digests that are pending until the worker stops, one snapshot at a time and behind everybody else.
pub(super) fn hasher(worker: Arc<Worker>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("digests".to_owned()).spawn(move || {
        give_way();
        while !worker.stopping.load(Ordering::SeqCst) {
            let seen = worker.store.changes();
            if !worker.hash_next() {
                worker.store.wait_for_change(seen, CALM, &worker.stopping);
            }
        }
    })
}

/// Follows the instances root until the worker stops.
pub(super) fn root_watcher(worker: Arc<Worker>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("root".to_owned()).spawn(move || {
        let mut was_proven = worker.store.prove_root().is_ok();
        let mut proven_at = worker.store.clock.since_boot();
        while !worker.stopping.load(Ordering::SeqCst) {
            let heard = worker.forks.wait_for_news(if was_proven && worker.forks.is_told_of_changes() { CALM } else { LOOK });
            // A mount that comes or goes is told by the table of mounts; what else may happen to the root is found out later.
            let now = worker.store.clock.since_boot();
            let mut is_other = false;
            if heard.mounts || heard.news || !was_proven || now.saturating_sub(proven_at) >= CALM {
                let is_proven = worker.store.prove_root().is_ok();
                is_other = std::mem::replace(&mut was_proven, is_proven) != is_proven;
                proven_at = now;
            }
            if !heard.news && !is_other {
                continue;
            }
            std::thread::sleep(SETTLE);
            if is_other {
                worker.forks.forget_all_names();
            } else if worker.forks.is_due_again() {
                worker.forks.look_at_all();
            }
            worker.look_at_root();
        }
    })
}
