//! What the worker thinks of the wall clock, and remembers of it over restarts.

use super::view::ClockView;
use crate::clock::Clock;
use crate::event::Event;
use crate::policy::trust::{ClockRecord, Reading, Trust};
use crate::store::counters::{read_record, write_record};
use crate::store::{Store, StoreError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// So long a look is remembered in memory only.
const SAVE: Duration = Duration::from_secs(60);

/// The record, and when it was last written down.
#[derive(Debug)]
pub(super) struct ClockWatch(Mutex<Watched>);

#[derive(Debug)]
struct Watched {
    record: ClockRecord,
    /// When it was last written down, by the boot clock.
    saved: Option<Duration>,
    /// Whether the clock was believed when that was last reported; at first nobody was told anything else.
    reported: bool,
}

fn reading(clock: &dyn Clock) -> Reading {
    Reading { wall: clock.now(), boot_id: clock.boot_id(), since_boot: clock.since_boot(), synchronised: clock.is_synchronised() }
}

/// What the store knows of the clocks. A store that holds nothing has nothing to lose by believing them.
fn load(store: &Store) -> ClockRecord {
    let now = reading(store.clock.as_ref());
    match read_record(&store.fs, &store.layout.clock()) {
        Ok(Some(record)) => record,
        Ok(None) if store.index().count_present() == 0 => ClockRecord::trusting(&now),
        Ok(None) | Err(_) => ClockRecord::unknown(&now),
    }
}

fn view(trust: Trust) -> ClockView {
    match trust {
        Trust::Trusted => ClockView { trusted: true, why: None, until: None },
        Trust::Unsettled { why, until } => ClockView { trusted: false, why: Some(why), until },
    }
}

/// What is thought of the clock now, by somebody who only looks.
pub(super) fn look_once(store: &Store, wait_for_sync: bool) -> ClockView {
    view(load(store).look(&reading(store.clock.as_ref()), wait_for_sync).1)
}

impl ClockWatch {
    pub(super) fn open(store: &Store, wait_for_sync: bool) -> Self {
        let record = load(store);
        let now = reading(store.clock.as_ref());
        // Set while no worker ran, or between two runs of `once`.
        if let Some((from, by)) = record.stepped(&now) {
            store.events.emit(Event::ClockStepped { from, by_ms: by.num_milliseconds(), at: now.wall });
        }
        let saved =
            record.last_seen(&store.clock.boot_id()).filter(|_| store.fs.stat_if_there(&store.layout.clock()).is_ok_and(|m| m.is_some()));
        let watch = Self(Mutex::new(Watched { record, saved, reported: true }));
        watch.look(store, wait_for_sync);
        watch
    }

    /// Looks at the clocks; a change is written down, and now and then what is as it was.
    pub(super) fn look(&self, store: &Store, wait_for_sync: bool) -> ClockView {
        let now = reading(store.clock.as_ref());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, trust) = known.record.look(&now, wait_for_sync);
        let is_news = next.is_settled() != known.record.is_settled();
        let is_old = known.saved.is_none_or(|at| now.since_boot.saturating_sub(at) >= SAVE);
        known.record = next;
        // A record that cannot be written makes the next start wait, no more.
        if (is_news || is_old) && write_record(&store.fs, &store.layout.clock(), &known.record).is_ok() {
            known.saved = Some(now.since_boot);
        }
        let view = view(trust);
        if std::mem::replace(&mut known.reported, view.trusted) != view.trusted {
            drop(known);
            store.events.emit(match &view.why {
                Some(why) => Event::ClockDistrusted { why: why.clone(), until: view.until, at: now.wall },
                None => Event::ClockTrusted { at: now.wall },
            });
        }
        view
    }

    /// Believes the clock as it is; durable on return.
    pub(super) fn accept(&self, store: &Store) -> Result<(), StoreError> {
        let now = reading(store.clock.as_ref());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let record = ClockRecord::trusting(&now);
        write_record(&store.fs, &store.layout.clock(), &record)?;
        (known.record, known.saved) = (record, Some(now.since_boot));
        let was_believed = std::mem::replace(&mut known.reported, true);
        drop(known);
        if !was_believed {
            store.events.emit(Event::ClockTrusted { at: now.wall });
        }
        Ok(())
    }
}
