//! Who needs a snapshot while it is compressed, or unpacked, has it at once: at each call of the work somebody forks, restores
//! or removes it, and what is left is one whole form and no temporary.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, reason = "tests")]

use crate::compress::{RULE, forms, pack};
use crate::support::{NEVER, World, ask, fork_config, listing};
use nix::errno::Errno;
use snapkeep::config::{DriverConfig, Skip};
use snapkeep::driver::Plain;
use snapkeep::fork::Forks;
use snapkeep::fork::queue::RequestState;
use snapkeep::reclaim::Reclaim;
use snapkeep::snapshot::copy::Flow;
use snapkeep::snapshot::pack::compress;
use snapkeep::snapshot::restore::restore;
use snapkeep::store::Store;
use snapkeep::store::fs::{Fs, Gate, Op};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// At the nth call that compressing makes, tells somebody, and waits a while for them to be done.
#[derive(Debug)]
struct At {
    left: AtomicU64,
    begin: Mutex<Sender<()>>,
    done: Mutex<Receiver<()>>,
    thread: std::thread::ThreadId,
}

impl Gate for At {
    fn before(&self, _op: Op, _path: &Path) -> Result<(), Errno> {
        if std::thread::current().id() == self.thread && self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.begin.lock().unwrap().send(()).unwrap();
            // Whoever needs the snapshot's lock, which is held for metadata only, gets it a moment later.
            let _ = self.done.lock().unwrap().recv_timeout(Duration::from_millis(100));
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Fork,
    Restore,
    Remove,
}

/// True if the call was made.
fn at(n: u64, who: Who) -> bool {
    let world = World::new();
    let source = world.make_instance("web");
    let id = world.open().take("web").unwrap();
    let before = listing(&source);
    let ((begin, begins), (done, is_done)) = (channel(), channel());
    let thread = std::thread::current().id();
    let gate = Arc::new(At { left: AtomicU64::new(u64::MAX), begin: Mutex::new(begin), done: Mutex::new(is_done), thread });
    let store = Store::open(&world.options(Fs::gated(Arc::clone(&gate) as _))).unwrap();
    let forks = Arc::new(Forks::open(Arc::clone(&store), fork_config(), 1).0);
    let reclaim = Reclaim::new(Arc::clone(&store), Arc::clone(&forks));
    forks.recover().unwrap();
    gate.left.store(n, Ordering::SeqCst);
    let hit = std::thread::scope(|scope| {
        let (forks, reclaim, store, id) = (&forks, &reclaim, &store, &id);
        let somebody = scope.spawn(move || {
            if begins.recv().is_err() {
                return;
            }
            match who {
                Who::Fork => drop(forks.accept(vec![ask(id, "web-1")]).remove(0).unwrap()),
                Who::Remove => drop(reclaim.remove(id, &[], Duration::from_secs(3600)).unwrap()),
                Who::Restore => {
                    let names = vec!["memory".into()];
                    let driver =
                        Plain::new(DriverConfig { memory_names: names, freeze: vec![], thaw: vec![], timeout: Duration::from_secs(5) });
                    restore(store, id, &driver, &Skip::new(&["logs/"]).unwrap(), Flow::quiet()).unwrap();
                }
            }
            let _ = done.send(());
        });
        let packed = compress(store, id, &RULE, &|| !forks.waiting_for(id).is_empty(), 1);
        let left = gate.left.swap(u64::MAX, Ordering::SeqCst);
        let hit = left == 0 || left > n;
        if !hit {
            drop(std::mem::replace(&mut *gate.begin.lock().unwrap(), channel().0));
        }
        somebody.join().unwrap();
        assert!(hit || packed.is_ok());
        hit
    });
    assert_eq!(listing(&world.store.join("staging")), [""; 0], "{who:?} at call {n}: no temporary");
    assert_eq!(listing(&source), before, "{who:?} at call {n}");
    if who == Who::Remove && hit {
        assert!(store.known(&id).is_err());
        reclaim.undelete_snapshot(&id).unwrap();
    }
    let open = crate::support::Open { store, forks: Arc::clone(&forks), reclaim };
    let (raw, packed) = forms(&open, &id);
    assert!(raw != packed, "{who:?} at call {n}: one form, raw {raw}, packed {packed}");
    assert_eq!(open.store.packed(&id).is_some(), packed);
    assert_eq!(open.fork(&id, "web-2").unwrap().state, RequestState::Done);
    for fork in ["web-1", "web-2"].iter().filter(|_| who == Who::Fork || !hit).skip(usize::from(!hit)) {
        assert!(fs::read(world.vms.join(fork).join("memory")).unwrap() == fs::read(source.join("memory")).unwrap(), "{fork}");
    }
    hit
}

#[test]
fn a_fork_a_restore_and_a_removal_end_a_running_compression_at_whatever_call_it_is() {
    for who in [Who::Fork, Who::Restore, Who::Remove] {
        let calls = (1..200).take_while(|n| at(*n, who)).count();
        assert!((15..100).contains(&calls), "{calls} calls");
    }
}

/// Lets no raw copy be written before the fork of another snapshot is there.
#[derive(Debug)]
struct WaitsFor(std::path::PathBuf);

impl Gate for WaitsFor {
    fn before(&self, op: Op, path: &Path) -> Result<(), Errno> {
        if op == Op::Write && path.to_string_lossy().contains(".raw/") {
            let is_there = (0..1000).any(|_| {
                std::thread::sleep(Duration::from_millis(10));
                self.0.exists()
            });
            assert!(is_there, "the other fork waited for this one");
        }
        Ok(())
    }
}

#[test]
fn forks_that_wait_for_their_memory_hold_up_no_fork_of_another_snapshot() {
    let world = World::new();
    world.make_instance("cold");
    world.make_instance("warm");
    let open = world.open();
    let (cold, warm) = (open.take("cold").unwrap(), open.take("warm").unwrap());
    pack(&open, &cold).unwrap();
    drop(open);
    let store = Store::open(&world.options(Fs::gated(Arc::new(WaitsFor(world.vms.join("warm-1")))))).unwrap();
    let forks = Forks::open(Arc::clone(&store), fork_config(), 2).0;
    forks.recover().unwrap();
    let asks = (0..5).map(|n| ask(&cold, &format!("cold-{n}"))).chain([ask(&warm, "warm-1")]).collect();
    assert!(forks.accept(asks).iter().all(Result::is_ok));
    assert_eq!(forks.run_ready(&NEVER, &NEVER).unwrap().done, 6);
    assert!(world.vms.join("cold-4/memory").exists());
}
