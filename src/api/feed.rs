//! `/v1/events`: the last events and those to come, as server-sent events from a number on, or as a list.
//!
//! Whoever follows pulls from the feed's ring: one that reads slowly costs no memory, and is told how many it has missed.

use super::ask::Query;
use super::handlers::{Handled, Shared};
use super::reply::{bad, json};
use crate::event::feed::{Entry, FOLLOWERS, Feed, Follower, Place};
use crate::event::{CATALOGUE, Level};
use crate::worker::backend::{Answer, Backend as _};
use crate::worker::problem::{Problem, ProblemKind};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::IntoResponse as _;
use schemars::JsonSchema;
use serde_json::value::RawValue;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Who is silent for so long says so, lest a proxy on the way takes the stream for dead.
const ALIVE: Duration = Duration::from_secs(15);
/// So many events are written at once.
const BATCH: usize = 256;
/// So many a list has at most, and if nobody says how many.
const MOST: usize = 1_000;
const SOME: usize = 100;
/// So long a list may be waited for, seconds.
const LONGEST: usize = 60;

/// What is asked for.
struct Asked {
    /// Names, or beginnings of names; none: all.
    names: Vec<Pattern>,
    instances: Vec<String>,
    level: Level,
    since: Option<Place>,
    wait: Duration,
    limit: usize,
}

/// A name, or what comes before its `*`.
enum Pattern {
    Is(String),
    Begins(String),
}

impl Pattern {
    fn parse(text: &str) -> Answer<Self> {
        let pattern = match text.strip_suffix('*') {
            Some(begin) => Self::Begins(begin.to_owned()),
            None => Self::Is(text.to_owned()),
        };
        if CATALOGUE.iter().any(|event| pattern.matches(event.name)) {
            return Ok(pattern);
        }
        let detail = format!("no event is called {text:?}; docs/events.md lists them, and `snapshot.*` stands for all that begin so");
        Err(bad(detail))
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Is(text) => text == name,
            Self::Begins(text) => name.starts_with(text.as_str()),
        }
    }
}

impl Asked {
    fn parse(query: &Query, headers: &HeaderMap) -> Answer<Self> {
        let level = match query.text("level") {
            None | Some("info") => Level::Info,
            Some("warn") => Level::Warn,
            Some("error") => Level::Error,
            Some(text) => return Err(bad(format!("`level` in the query must be info, warn or error, not {text:?}"))),
        };
        // What a browser remembers is newer than what the page's address says.
        let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).filter(|id| !id.is_empty());
        let since = last.or_else(|| query.text("since")).map(|text| text.parse::<Place>().map_err(|e| bad(e.to_string())));
        Ok(Self {
            names: query.all("event").flat_map(|text| text.split(',')).map(Pattern::parse).collect::<Answer<_>>()?,
            instances: query.all("instance").map(str::to_owned).collect(),
            level,
            since: since.transpose()?,
            wait: Duration::from_secs(query.within("wait", 0..=LONGEST)?.unwrap_or(0) as u64),
            limit: query.limit()?.unwrap_or(SOME).min(MOST),
        })
    }

    fn wants(&self, entry: &Entry) -> bool {
        (self.names.is_empty() || self.names.iter().any(|name| name.matches(entry.name)))
            && (self.instances.is_empty() || entry.instance.as_ref().is_some_and(|instance| self.instances.contains(instance)))
            && entry.level >= self.level
    }
}

pub(super) async fn events(State(api): Shared, uri: Uri, headers: HeaderMap) -> Handled {
    let none = || Problem::new(ProblemKind::NotFound, "this worker keeps no events; look at its log");
    let feed = api.worker.feed().ok_or_else(none)?;
    let asked = Asked::parse(&Query::of(&uri), &headers)?;
    let full = || {
        let detail = format!("{FOLLOWERS} others follow the events already, and no more can; try again when one of them has gone");
        Problem::new(ProblemKind::TooManyRequests, detail)
    };
    let follower = feed.follow().ok_or_else(full)?;
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.contains("application/json") {
        return Ok(json(StatusCode::OK, &list(&feed, &asked).await));
    }
    let stream = Stream::new(feed, asked, follower);
    let body = Body::from_stream(futures_util::stream::unfold(stream, Stream::next));
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    let mut response = (headers, body).into_response();
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// Where to begin, and whether what the caller knew is of another start.
fn begin(feed: &Feed, since: &Place) -> (u64, bool) {
    match &since.epoch {
        Some(epoch) if epoch != feed.epoch() => (0, true),
        _ => (since.seq, false),
    }
}

/// Events as a list.
#[derive(Debug, serde::Serialize, JsonSchema)]
#[schemars(rename = "EventList")]
pub(super) struct List {
    /// Lines of the log, the oldest first.
    #[schemars(with = "Vec<serde_json::Map<String, serde_json::Value>>")]
    events: Vec<Box<RawValue>>,
    /// What to give as `since` next time.
    next: String,
    /// How many came before these that are no longer kept.
    missed: u64,
    /// Whether `since` was of another start of the worker: then these are the events of this one.
    reset: bool,
}

/// The events behind a place, or the newest ones; waits for one, if it may.
async fn list(feed: &Arc<Feed>, asked: &Asked) -> List {
    let mut news = feed.news();
    let deadline = Instant::now() + asked.wait;
    let (mut seq, reset) = asked.since.as_ref().map_or((0, false), |since| begin(feed, since));
    let mut missed = 0;
    loop {
        let read = feed.read(seq, usize::MAX);
        // Without a place to begin nobody has missed anything.
        missed += if asked.since.is_some() { read.missed } else { 0 };
        seq = read.seq;
        let mut wanted: Vec<_> = read.entries.into_iter().filter(|entry| asked.wants(entry)).collect();
        if asked.since.is_none() {
            wanted.drain(..wanted.len().saturating_sub(asked.limit));
        } else if wanted.len() > asked.limit {
            wanted.truncate(asked.limit);
            seq = wanted.last().map_or(seq, |entry| entry.seq);
        }
        if wanted.is_empty() && !reset && !news.borrow().1 && matches!(timeout_at(deadline, news.changed()).await, Ok(Ok(()))) {
            continue;
        }
        let line = |entry: Arc<Entry>| RawValue::from_string(entry.json.clone()).ok();
        return List { events: wanted.into_iter().filter_map(line).collect(), next: feed.place(seq).to_string(), missed, reset };
    }
}

/// One who follows.
struct Stream {
    feed: Arc<Feed>,
    asked: Asked,
    seq: u64,
    /// What is to be said before anything else.
    greeting: Option<String>,
    news: tokio::sync::watch::Receiver<(u64, bool)>,
    alive_at: Instant,
    _follower: Follower,
}

impl Stream {
    fn new(feed: Arc<Feed>, asked: Asked, follower: Follower) -> Self {
        let (seq, is_reset) = match &asked.since {
            Some(since) => begin(&feed, since),
            None => (feed.last(), false),
        };
        let mut greeting = format!(": the events of a snapkeep worker\nretry: 2000\nid: {}\n\n", feed.place(seq));
        if is_reset {
            let _ = write!(greeting, "event: reset\ndata: {{\"epoch\":\"{}\"}}\n\n", feed.epoch());
        }
        let news = feed.news();
        Self { feed, asked, seq, greeting: Some(greeting), news, alive_at: Instant::now() + ALIVE, _follower: follower }
    }

    /// What is to be written next; `None` once the worker stops.
    async fn next(mut self) -> Option<(Result<String, Infallible>, Self)> {
        if let Some(greeting) = self.greeting.take() {
            return Some((Ok(greeting), self));
        }
        loop {
            // Before the look, so that what comes behind it wakes.
            let is_over = self.news.borrow_and_update().1;
            let read = self.feed.read(self.seq, BATCH);
            self.seq = read.seq;
            let mut text = String::new();
            if read.missed > 0 {
                let _ = write!(text, "event: lagged\ndata: {{\"missed\":{}}}\n\n", read.missed);
            }
            for entry in read.entries.iter().filter(|entry| self.asked.wants(entry)) {
                let _ = write!(text, "id: {}\nevent: {}\ndata: {}\n\n", self.feed.place(entry.seq), entry.name, entry.json);
            }
            if text.is_empty() && read.entries.is_empty() {
                if is_over {
                    return None;
                }
                match timeout_at(self.alive_at, self.news.changed()).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(_)) => return None,
                    // Where nothing passes the filters the place moves on all the same.
                    Err(_) => text = format!(": alive\nid: {}\n\n", self.feed.place(self.seq)),
                }
            }
            if !text.is_empty() {
                self.alive_at = Instant::now() + ALIVE;
                return Some((Ok(text), self));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::event::feed::Bounds;
    use crate::event::{Collected, Event, Events};
    use chrono::DateTime;

    fn events(records: usize) -> Events {
        let clock = Arc::new(ManualClock::at(DateTime::UNIX_EPOCH));
        Events::new(clock, Arc::new(Collected::default())).with_feed(Bounds { records, bytes: 1 << 20 })
    }

    fn stopped(why: &str) -> Event {
        Event::WorkerStopped { why: why.to_owned(), at: DateTime::UNIX_EPOCH }
    }

    fn asked(raw: &str, headers: &HeaderMap) -> Answer<Asked> {
        Asked::parse(&Query::of(&format!("/v1/events?{raw}").parse().unwrap()), headers)
    }

    fn started(events: &Events, raw: &str, last: Option<&str>) -> Stream {
        let mut headers = HeaderMap::new();
        if let Some(last) = last {
            headers.insert("last-event-id", HeaderValue::from_str(last).unwrap());
        }
        let feed = events.feed().unwrap();
        let follower = feed.follow().unwrap();
        Stream::new(feed, asked(raw, &headers).unwrap(), follower)
    }

    /// What is written until it would wait, or ends.
    async fn written(stream: &mut Option<Stream>) -> String {
        let mut all = String::new();
        while let Some(at) = stream.take() {
            let Ok(next) = tokio::time::timeout(Duration::from_millis(50), at.next()).await else { return all };
            let Some((text, at)) = next else { return all + "(end)" };
            all += &text.unwrap();
            *stream = Some(at);
        }
        all
    }

    #[tokio::test]
    async fn a_follower_gets_what_is_behind_its_place_and_then_the_end() {
        let events = events(10);
        let feed = events.feed().unwrap();
        ["a", "b", "c"].iter().for_each(|why| events.emit(stopped(why)));
        feed.close();
        let place = |seq| feed.place(seq).to_string();
        let all = written(&mut Some(started(&events, "since=1", None))).await;
        assert!(
            all.starts_with(": ") && all.contains(&format!("\nid: {}\n\nid: {}\nevent: worker.stopped\ndata: {{", place(1), place(2))),
            "{all}"
        );
        assert!(all.contains("\"b\"") && all.contains("\"c\"") && !all.contains("\"a\"") && all.ends_with("(end)"), "{all}");
        // What a browser remembers is newer than what the address says.
        let all = written(&mut Some(started(&events, "since=1", Some(&place(2))))).await;
        assert!(!all.contains("\"b\"") && all.contains("\"c\""), "{all}");
        // Nothing said: only what comes.
        assert!(!written(&mut Some(started(&events, "", None))).await.contains("data"));
        assert!(!written(&mut Some(started(&events, "since=0&level=error", None))).await.contains("data"), "it is an info");
    }

    #[tokio::test]
    async fn whoever_was_away_too_long_is_told_how_many_were_missed_and_another_start_begins_again() {
        let events = events(3);
        (0..10).for_each(|n| events.emit(stopped(&format!("n{n}"))));
        events.feed().unwrap().close();
        let all = written(&mut Some(started(&events, "since=2", None))).await;
        assert!(
            all.contains("event: lagged\ndata: {\"missed\":5}\n\n") && !all.contains("n6") && all.contains("n7") && all.contains("n9"),
            "{all}"
        );
        let all = written(&mut Some(started(&events, "since=0123abcd-99", None))).await;
        assert!(all.contains("event: reset\ndata: {\"epoch\":") && all.contains("n9"), "{all}");
    }

    #[tokio::test]
    async fn a_list_says_where_to_go_on_and_waits_for_no_more_than_it_is_told() {
        let events = events(100);
        let feed = events.feed().unwrap();
        (0..10).for_each(|n| events.emit(stopped(&format!("n{n}"))));
        let ask = |raw: &str| asked(raw, &HeaderMap::new()).unwrap();
        let newest = list(&feed, &ask("limit=3")).await;
        assert_eq!((newest.events.len(), newest.next.as_str(), newest.missed), (3, feed.place(10).to_string().as_str(), 0));
        let first = list(&feed, &ask("since=0&limit=4")).await;
        assert_eq!((first.events.len(), first.next.as_str()), (4, feed.place(4).to_string().as_str()));
        assert!(list(&feed, &ask(&format!("since={}", first.next))).await.events.len() == 6);
        let later = ask("since=10&wait=30");
        let (got, ()) = tokio::join!(list(&feed, &later), async { events.emit(stopped("late")) });
        assert!(got.events.len() == 1 && got.events[0].get().contains("late"), "{got:?}");
    }

    #[test]
    fn what_is_asked_wrongly_is_refused_with_what_is_right() {
        for (raw, wanted) in [
            ("event=nothing", "docs/events.md"),
            ("level=loud", "warn"),
            ("since=1.5", "number"),
            ("limit=x", "`limit`"),
            ("wait=-1", "`wait`"),
        ] {
            let problem = asked(raw, &HeaderMap::new()).map(drop).unwrap_err();
            assert!(problem.status == 400 && problem.detail.contains(wanted), "{raw}: {problem:?}");
        }
        let asked = asked("event=snapshot.*,fork.created&instance=a", &HeaderMap::new()).unwrap();
        let entry = |name, instance: Option<&str>| Entry {
            seq: 1,
            name,
            level: Level::Info,
            instance: instance.map(str::to_owned),
            json: String::new(),
        };
        assert!(asked.wants(&entry("snapshot.taken", Some("a"))) && asked.wants(&entry("fork.created", Some("a"))));
        assert!(!asked.wants(&entry("fork.failed", Some("a"))) && !asked.wants(&entry("snapshot.taken", Some("b"))));
        assert!(!asked.wants(&entry("snapshot.taken", None)));
    }
}
