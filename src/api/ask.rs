//! What a request says: its query, its body, its preferences; and carrying a verb out on a blocking thread, of which there are
//! only so many.

use super::Api;
use super::reply::bad;
use crate::policy::SnapshotState;
use crate::worker::backend::{Answer, Backend};
use crate::worker::problem::{Problem, ProblemKind};
use axum::body::Bytes;
use axum::http::{HeaderMap, Uri};
use serde::de::DeserializeOwned;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So much is looked up at once.
const LOOKS: usize = 64;
/// So many verbs that may take long are carried out at once.
const VERBS: usize = 128;
/// So many wait for forks at once.
const WAITS: usize = 128;
/// So many wait for their turn in each lane.
const QUEUE: usize = 256;

/// What may run at once, and what may wait for that: bounded, so that a flood is answered and does not fill the memory.
#[derive(Debug)]
struct Lane {
    running: Arc<Semaphore>,
    queue: Semaphore,
}

impl Lane {
    fn new(at_once: usize) -> Self {
        Self { running: Arc::new(Semaphore::new(at_once)), queue: Semaphore::new(QUEUE) }
    }

    /// A turn; at once if one is free, else when those before have had theirs.
    async fn turn(&self) -> Answer<OwnedSemaphorePermit> {
        let full = || Problem::new(ProblemKind::TooManyRequests, "the worker has as many requests in hand as it takes");
        if let Ok(turn) = Arc::clone(&self.running).try_acquire_owned() {
            return Ok(turn);
        }
        let _place = self.queue.try_acquire().map_err(|_| full())?;
        Arc::clone(&self.running).acquire_owned().await.map_err(|_| full())
    }
}

/// The lanes of the API.
#[derive(Debug)]
pub(super) struct Lanes {
    looks: Lane,
    verbs: Lane,
    waits: Lane,
}

impl Default for Lanes {
    fn default() -> Self {
        Self { looks: Lane::new(LOOKS), verbs: Lane::new(VERBS), waits: Lane::new(WAITS) }
    }
}

impl Lanes {
    /// Waits until no verb runs any more.
    pub(super) async fn empty(&self) {
        for (lane, size) in [(&self.looks, LOOKS), (&self.verbs, VERBS), (&self.waits, WAITS)] {
            // They are never closed.
            drop(lane.running.acquire_many(u32::try_from(size).unwrap_or(1)).await);
        }
    }
}

/// Looks something up.
pub(super) async fn look<T: Send + 'static>(api: &Api, verb: impl FnOnce(&dyn Backend) -> Answer<T> + Send + 'static) -> Answer<T> {
    run(api, api.lanes.looks.turn().await?, verb).await
}

/// Carries out a verb that may take long.
pub(super) async fn act<T: Send + 'static>(api: &Api, verb: impl FnOnce(&dyn Backend) -> Answer<T> + Send + 'static) -> Answer<T> {
    run(api, api.lanes.verbs.turn().await?, verb).await
}

/// Waits for something, if a thread is free for that; else `None`.
pub(super) async fn wait<T: Send + 'static>(api: &Api, verb: impl FnOnce(&dyn Backend) -> Answer<T> + Send + 'static) -> Answer<Option<T>> {
    match Arc::clone(&api.lanes.waits.running).try_acquire_owned() {
        Ok(turn) => run(api, turn, verb).await.map(Some),
        Err(_) => Ok(None),
    }
}

/// The permit is the thread's: a caller who has gone does not make room before the work is over.
async fn run<T: Send + 'static>(
    api: &Api,
    permit: OwnedSemaphorePermit,
    verb: impl FnOnce(&dyn Backend) -> Answer<T> + Send + 'static,
) -> Answer<T> {
    let worker = Arc::clone(&api.worker);
    let done = tokio::task::spawn_blocking(move || {
        let answer = verb(worker.as_ref());
        drop(permit);
        answer
    });
    done.await.unwrap_or_else(|e| Err(Problem::new(ProblemKind::Failed, format!("the verb did not come to its end: {e}"))))
}

/// A query, percent-decoded.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn of(uri: &Uri) -> Self {
        let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(name, value)| (decode(name), decode(value))).collect())
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A value that must be what it is to be.
    pub(super) fn get<T: FromStr>(&self, name: &str) -> Answer<Option<T>>
    where
        T::Err: std::fmt::Display,
    {
        let parse = |text: &str| text.parse().map_err(|e: T::Err| bad(format!("`{name}` in the query: {e}")));
        self.text(name).map(parse).transpose()
    }

    pub(super) fn state(&self) -> Answer<Option<SnapshotState>> {
        let parse = |text: &str| {
            let value = serde_json::Value::String(text.to_owned());
            serde_json::from_value(value).map_err(|_| bad(format!("`state` in the query: there is no state {text:?}")))
        };
        self.text("state").map(parse).transpose()
    }

    pub(super) fn flag(&self, name: &str) -> Answer<bool> {
        match self.text(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(bad(format!("`{name}` in the query must be true or false, not {other:?}"))),
        }
    }

    /// `limit`, from 1 to 10,000.
    pub(super) fn limit(&self) -> Answer<Option<usize>> {
        self.within("limit", 1..=10_000)
    }

    /// A whole number between bounds.
    pub(super) fn within(&self, name: &str, bounds: RangeInclusive<usize>) -> Answer<Option<usize>> {
        match self.get::<usize>(name)? {
            Some(n) if !bounds.contains(&n) => {
                Err(bad(format!("`{name}` in the query is {n}, but must be {} to {}", bounds.start(), bounds.end())))
            }
            n => Ok(n),
        }
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Percent-encodes all but letters, digits, `-`, `_`, `.` and `~`.
pub(super) fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A part of the path.
pub(super) fn parsed<T: FromStr>(text: &str) -> Answer<T>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| bad(e.to_string()))
}

/// A body that must be there.
pub(super) fn body<T: DeserializeOwned>(bytes: &Bytes) -> Answer<T> {
    // serde takes a list for an object whose fields are in order.
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err(bad("the body must be a JSON object"));
    }
    serde_json::from_slice(bytes).map_err(|e| bad(format!("the body cannot be understood: {e}")))
}

/// A body that may be left out.
pub(super) fn body_or_default<T: DeserializeOwned + Default>(bytes: &Bytes) -> Answer<T> {
    if bytes.is_empty() { Ok(T::default()) } else { body(bytes) }
}

/// How long the caller would wait (RFC 7240).
pub(super) fn wait_of(headers: &HeaderMap) -> Option<Duration> {
    let texts = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let seconds = texts.flat_map(|text| text.split([',', ';'])).find_map(|part| part.trim().strip_prefix("wait=")?.parse().ok());
    seconds.map(Duration::from_secs)
}

/// The idempotency key: a quoted string, as the draft has it, or bare.
pub(super) fn key_of(headers: &HeaderMap) -> Answer<Option<String>> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    let key = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    check_key(key)?;
    Ok(Some(key.to_owned()))
}

/// A key is 1 to 200 visible characters of ASCII.
pub(super) fn check_key(key: &str) -> Answer<()> {
    let is_key = (1..=200).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    if is_key { Ok(()) } else { Err(bad("an idempotency key is 1 to 200 visible characters of ASCII")) }
}

/// Cuts a page out of a list: what is behind the cursor in the order of `place`, and not more than `limit`; the cursor of the
/// next page. Without a limit and a cursor it stays as it is.
pub(super) fn page<T>(all: &mut Vec<T>, query: &Query, place: impl Fn(&T) -> String) -> Answer<Option<String>> {
    let (limit, after) = (query.limit()?, query.text("cursor"));
    if limit.is_none() && after.is_none() {
        return Ok(None);
    }
    let mut placed: Vec<(String, T)> = all.drain(..).map(|item| (place(&item), item)).collect();
    placed.sort_by(|(a, _), (b, _)| a.cmp(b));
    placed.retain(|(at, _)| after.is_none_or(|after| at.as_str() > after));
    let limit = limit.unwrap_or(usize::MAX);
    let next = if placed.len() > limit { limit.checked_sub(1).and_then(|last| placed.get(last)).map(|(at, _)| at.clone()) } else { None };
    all.extend(placed.into_iter().take(limit).map(|(_, item)| item));
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_on_behind_the_cursor_whatever_came_and_went() {
        let first = Query(vec![("limit".into(), "2".into())]);
        let mut all = vec!["d", "a", "c", "b"];
        let next = page(&mut all, &first, |s| (*s).to_owned()).unwrap();
        assert_eq!((all.as_slice(), next.as_deref()), (&["a", "b"][..], Some("b")));
        let second = Query(vec![("limit".into(), "2".into()), ("cursor".into(), "b".into())]);
        let mut all = vec!["aa", "c", "d", "e"];
        let next = page(&mut all, &second, |s| (*s).to_owned()).unwrap();
        assert_eq!((all.as_slice(), next.as_deref()), (&["c", "d"][..], Some("d")));
        let mut all = vec!["c", "d"];
        assert_eq!(page(&mut all, &second, |s| (*s).to_owned()).unwrap(), None);
        assert!(page(&mut all, &Query(vec![("limit".into(), "0".into())]), |s| (*s).to_owned()).is_err());
    }

    #[test]
    fn who_comes_when_a_lane_and_the_line_before_it_are_full_is_turned_away_and_the_others_get_their_turn() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let lane = Arc::new(Lane::new(1));
            let first = lane.turn().await.unwrap();
            let waiting: Vec<_> = (0..QUEUE)
                .map(|_| {
                    tokio::spawn({
                        let lane = Arc::clone(&lane);
                        async move { lane.turn().await.is_ok() }
                    })
                })
                .collect();
            while lane.queue.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
            assert_eq!(lane.turn().await.map(drop).unwrap_err().kind, ProblemKind::TooManyRequests);
            drop(first);
            for one in waiting {
                assert!(one.await.unwrap());
            }
            assert!(lane.turn().await.is_ok());
        });
    }

    #[test]
    fn a_key_may_be_quoted_and_a_wait_may_be_one_preference_of_several() {
        let headers = |name: &'static str, value: &str| HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
        assert_eq!(key_of(&headers("idempotency-key", "\"a-1\"")).unwrap().as_deref(), Some("a-1"));
        assert_eq!(key_of(&headers("idempotency-key", "a-1")).unwrap().as_deref(), Some("a-1"));
        assert!(key_of(&headers("idempotency-key", "a b")).is_err());
        assert_eq!(wait_of(&headers("prefer", "respond-async, wait=10")), Some(Duration::from_secs(10)));
        assert_eq!(wait_of(&headers("prefer", "respond-async")), None);
    }

    #[test]
    fn what_is_encoded_is_decoded_to_the_same() {
        for text in ["golden/base", "a b&c=d", "ü\n", "plain-1_2.3~"] {
            assert_eq!(decode(&encode(text)), text);
        }
    }
}
