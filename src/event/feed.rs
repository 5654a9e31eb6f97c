//! The last events, in memory, numbered: for whoever wants to follow them, or to know what happened since they last looked. It
//! is beside the log and not instead of it; nothing here outlives the process.

use super::{Level, Record};
use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// How much is kept. Ten thousand events are a day of a host with a hundred instances and a snapshot each quarter of an hour; a
/// line has some 400 bytes, so the bytes bound only what lists many forks.
pub const USUAL: Bounds = Bounds { records: 10_000, bytes: 8 << 20 };

/// So many may follow at once.
pub const FOLLOWERS: usize = 64;

/// How much is kept at most: the newest one always is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Events.
    pub records: usize,
    /// Bytes of their lines.
    pub bytes: usize,
}

/// An event as it is kept.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number, from 1 in each process.
    pub seq: u64,
    /// Its name.
    pub name: &'static str,
    /// How much it matters.
    pub level: Level,
    /// The instance it is about, if it names one; of a fork its name.
    pub instance: Option<String>,
    /// The line of the log.
    pub json: String,
}

/// A place in the feed: behind this number, in that process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which start of the worker; `None`: this one.
    pub epoch: Option<String>,
    /// The last event that is known.
    pub seq: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.epoch {
            Some(epoch) => write!(f, "{epoch}-{}", self.seq),
            None => write!(f, "{}", self.seq),
        }
    }
}

/// Why a text is no place in the feed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no place in the events: it is a number, or what `next` or an `id:` line said, such as 4f1c09ab-17")]
pub struct NoPlace(String);

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let (epoch, seq) = match text.rsplit_once('-') {
            Some((epoch, seq)) => (Some(epoch.to_owned()), seq),
            None => (None, text),
        };
        let is_plain = |text: &str| !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_alphanumeric());
        if epoch.as_deref().is_some_and(|epoch| !is_plain(epoch)) || !is_plain(seq) {
            return Err(NoPlace(text.chars().take(80).collect()));
        }
        seq.parse().map(|seq| Self { epoch, seq }).map_err(|_| NoPlace(text.to_owned()))
    }
}

/// What there is behind a place.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// The oldest first.
    pub entries: Vec<Arc<Entry>>,
    /// How many there were before them that are no longer kept.
    pub missed: u64,
    /// The last number that was looked at: go on behind it.
    pub seq: u64,
}

#[derive(Default)]
struct Ring {
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    /// The number of the newest.
    last: u64,
}

/// The last events of this process.
pub struct Feed {
    epoch: String,
    bounds: Bounds,
    ring: Mutex<Ring>,
    /// The number of the newest one, and whether it is over; told to whoever waits.
    news: watch::Sender<(u64, bool)>,
    followers: AtomicUsize,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// Somebody who follows; counted until dropped.
#[derive(Debug)]
pub struct Follower {
    feed: Arc<Feed>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.feed.followers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Feed {
    /// An empty one, with an epoch that no other has.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let mut epoch = uuid::Uuid::new_v4().simple().to_string();
        epoch.truncate(12);
        Self { epoch, bounds, ring: Mutex::default(), news: watch::Sender::new((0, false)), followers: AtomicUsize::new(0) }
    }

    /// Which start of the worker this is.
    #[must_use]
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The place behind the event of this number.
    #[must_use]
    pub fn place(&self, seq: u64) -> Place {
        Place { epoch: Some(self.epoch.clone()), seq }
    }

    /// The number of the newest event; 0 if there is none.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).last
    }

    /// Up to `most` events behind number `seq`.
    #[must_use]
    pub fn read(&self, seq: u64, most: usize) -> Read {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        // A number that was not given yet is nobody's: whoever made it up sees what comes.
        let seq = seq.min(ring.last);
        let first = ring.entries.front().map_or(ring.last + 1, |entry| entry.seq);
        let missed = first.saturating_sub(seq + 1);
        let skip = usize::try_from((seq + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        let entries: Vec<_> = ring.entries.iter().skip(skip).take(most).cloned().collect();
        let seq = entries.last().map_or(seq + missed, |entry| entry.seq);
        Read { entries, missed, seq }
    }

    /// Takes one event in.
    pub(super) fn push(&self, record: &Record) {
        let json = record.json();
        let instance = instance_of(record);
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.last += 1;
        let seq = ring.last;
        ring.bytes += json.len();
        ring.entries.push_back(Arc::new(Entry { seq, name: record.event.name(), level: record.event.level(), instance, json }));
        while ring.entries.len() > 1 && (ring.entries.len() > self.bounds.records || ring.bytes > self.bounds.bytes) {
            let gone = ring.entries.pop_front().map_or(0, |entry| entry.json.len());
            ring.bytes -= gone;
        }
        drop(ring);
        self.news.send_if_modified(|news| {
            news.0 = seq;
            true
        });
    }

    /// Tells of each new event, and of the end.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<(u64, bool)> {
        self.news.subscribe()
    }

    /// Ends all who follow: the worker stops.
    pub fn close(&self) {
        self.news.send_modify(|news| news.1 = true);
    }

    /// One more who follows; `None` if there are too many.
    #[must_use]
    pub fn follow(self: &Arc<Self>) -> Option<Follower> {
        let one_more = |n: usize| (n < FOLLOWERS).then_some(n + 1);
        self.followers.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).ok().map(|_| Follower { feed: Arc::clone(self) })
    }

    /// How many follow.
    #[must_use]
    pub fn followers(&self) -> usize {
        self.followers.load(Ordering::SeqCst)
    }
}

/// The instance that an event names: most do by `instance`, forks by `name`.
fn instance_of(record: &Record) -> Option<String> {
    let fields = serde_json::to_value(&record.event).ok()?;
    let of = |name: &str| fields.get(name).and_then(|value| value.as_str()).map(str::to_owned);
    let is_fork = record.event.name().starts_with("fork.");
    of("instance").or_else(|| is_fork.then(|| of("name").or_else(|| of("to"))).flatten())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use chrono::DateTime;

    fn record(n: usize) -> Record {
        Record { ts: DateTime::UNIX_EPOCH, event: Event::WorkerStopped { why: "x".repeat(n), at: DateTime::UNIX_EPOCH } }
    }

    fn numbers(read: &Read) -> Vec<u64> {
        read.entries.iter().map(|entry| entry.seq).collect()
    }

    #[test]
    fn whoever_comes_back_gets_what_came_meanwhile_and_is_told_how_many_are_gone() {
        let feed = Feed::new(Bounds { records: 3, bytes: 1 << 20 });
        assert_eq!(feed.read(0, 10), Read::default());
        (0..5).for_each(|n| feed.push(&record(n)));
        let all = feed.read(0, 10);
        assert_eq!((numbers(&all), all.missed, all.seq), (vec![3, 4, 5], 2, 5));
        let some = feed.read(2, 2);
        assert_eq!((numbers(&some), some.missed, some.seq), (vec![3, 4], 0, 4));
        assert_eq!(feed.read(5, 10), Read { seq: 5, ..Read::default() });
        assert_eq!(feed.read(u64::MAX, 10), Read { seq: 5, ..Read::default() }, "a number that was never given");
    }

    #[test]
    fn bytes_are_bounded_too_and_the_newest_always_stays() {
        let feed = Feed::new(Bounds { records: 100, bytes: 2_000 });
        (0..10).for_each(|_| feed.push(&record(400)));
        assert!(feed.read(0, 100).entries.iter().map(|entry| entry.json.len()).sum::<usize>() <= 2_000);
        feed.push(&record(5_000));
        assert_eq!(numbers(&feed.read(0, 100)), [11]);
    }

    #[test]
    fn a_place_is_written_as_it_is_read() {
        let feed = Feed::new(USUAL);
        let place = feed.place(17);
        assert_eq!(place.to_string().parse::<Place>().as_ref(), Ok(&place));
        assert_eq!("17".parse::<Place>(), Ok(Place { epoch: None, seq: 17 }));
        for bad in ["", "-", "a-", "-1", "x", "a\n-1", "1.5", "a-b-1", "99999999999999999999999"] {
            assert!(bad.parse::<Place>().is_err(), "{bad:?}");
        }
        assert_ne!(Feed::new(USUAL).epoch(), feed.epoch());
    }

    #[test]
    fn only_so_many_may_follow() {
        let feed = Arc::new(Feed::new(USUAL));
        let mut all: Vec<_> = (0..FOLLOWERS).map(|_| feed.follow().unwrap()).collect();
        assert!(feed.follow().is_none());
        all.pop();
        assert!(feed.follow().is_some());
        drop(all);
        assert_eq!(feed.followers(), 0);
    }
}
