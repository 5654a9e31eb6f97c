//! `/v1/timeline` and `/v1/prune/next`: what the page draws, in one piece each, with an ETag over all of it.

use super::ask::{Query, look, parsed};
use super::handlers::{Handled, Shared};
use super::reply::{tagged, tagged_bytes, written};
use crate::ids::InstanceId;
use crate::worker::backend::Answer;
use crate::worker::view::TimelineBody;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};

/// So many forks of a snapshot are named if nobody says how many, and at most.
const SOME_FORKS: usize = 3;
const MOST_FORKS: usize = 1_000;
/// So many entries of the plan, if nobody says how many.
const SOME_ENTRIES: usize = 200;

pub(super) async fn timeline(State(api): Shared, uri: Uri, headers: HeaderMap) -> Handled {
    let query = Query::of(&uri);
    let asked = TimelineBody {
        instances: query.all("instance").map(parsed::<InstanceId>).collect::<Answer<_>>()?,
        forks: query.within("forks", 0..=MOST_FORKS)?.unwrap_or(SOME_FORKS),
    };
    // Written and hashed on the blocking thread: it may be a megabyte.
    let made = look(&api, move |worker| Ok(written(&worker.timeline(&asked)?))).await?;
    Ok(tagged_bytes(&headers, made))
}

pub(super) async fn next_prune(State(api): Shared, uri: Uri, headers: HeaderMap) -> Handled {
    let most = Query::of(&uri).limit()?.unwrap_or(SOME_ENTRIES);
    Ok(tagged(&headers, &look(&api, move |worker| worker.next_prune(most)).await?))
}
