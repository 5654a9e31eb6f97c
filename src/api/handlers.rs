//! One function for each operation: it reads what was asked for, has the verb carried out, and words the answer. Who may ask was
//! settled before; what the verbs do is the worker's.

use super::access::Caller;
use super::ask::{self, Query, act, body, body_or_default, check_key, key_of, look, page, parsed, wait_of};
use super::gate;
use super::openapi::openapi_text;
use super::operations::{HealthView, Right};
use super::reply::{bad, check_match, json, linked, problem_reply, set, tag_of as etag, tagged};
use super::router::{Api, tag_of};
use crate::ids::{ForkId, HoldName, InstanceId, PolicyName, SnapshotId};
use crate::worker::backend::{Answer, Removal};
use crate::worker::importing::ImportBody;
use crate::worker::problem::Problem;
use crate::worker::view::{ForkBody, PlanBody, PruneBody, RequestView, Requests, SnapshotFilter, TakeBody, UndeleteBody, VerifyBody};
use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// Nobody waits longer for forks.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);
/// After so long it is looked whether whoever waits is still there.
const STILL_THERE: Duration = Duration::from_secs(1);

/// No check that somebody waits for reads slower than this, bytes a second.
const SLOWEST_CHECK: u64 = 1 << 20;

/// A problem as an answer.
pub(super) struct Refused(Problem);

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        problem_reply(self.0)
    }
}

pub(super) type Handled = Result<Response, Refused>;
pub(super) type Shared = State<Arc<Api>>;

pub(super) async fn health() -> Response {
    json(StatusCode::OK, &HealthView { status: "ok".to_owned() })
}

pub(super) async fn openapi() -> Response {
    static TEXT: LazyLock<String> = LazyLock::new(openapi_text);
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

pub(super) async fn whoami(Extension(caller): Extension<Caller>) -> Response {
    json(StatusCode::OK, &caller.view())
}

pub(super) async fn snapshots(State(api): Shared, uri: Uri, headers: HeaderMap) -> Handled {
    let query = Query::of(&uri);
    let filter = SnapshotFilter {
        instance: query.get::<InstanceId>("instance")?,
        policy: query.get::<PolicyName>("policy")?,
        tags: query.all("tag").map(tag_of).collect::<Answer<_>>()?,
        state: query.state()?,
        limit: query.limit()?,
        after: query.get("cursor")?,
    };
    let all = look(&api, move |b| b.snapshots(&filter)).await?;
    Ok(linked(tagged(&headers, &all), &uri, all.next.as_deref()))
}

pub(super) async fn take(State(api): Shared, bytes: Bytes) -> Handled {
    let asked: TakeBody = body(&bytes)?;
    let taken = act(&api, move |b| b.take(&asked)).await?;
    let mut response = json(StatusCode::CREATED, &taken);
    set(&mut response, header::LOCATION, &format!("/v1/snapshots/{}", taken.id));
    set(&mut response, header::ETAG, &etag(&taken));
    Ok(response)
}

pub(super) async fn snapshot(State(api): Shared, Path(id): Path<String>, headers: HeaderMap) -> Handled {
    Ok(tagged(&headers, &look(&api, move |b| b.snapshot(&id)).await?))
}

pub(super) async fn remove(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Handled {
    let query = Query::of(&uri);
    let how = match (query.flag("defer")?, query.flag("unreadable")?) {
        (true, true) => Err(bad("`defer` and `unreadable` in the query exclude one another"))?,
        (true, false) => Removal::Defer,
        (false, true) => Removal::Unreadable,
        (false, false) => Removal::Now,
    };
    if how == Removal::Unreadable {
        only_admin(&api, &caller, &Method::DELETE, &uri)?;
    }
    let removed = act(&api, move |b| {
        if headers.contains_key(header::IF_MATCH) {
            check_match(&headers, &b.snapshot(&id)?)?;
        }
        b.remove(&id, how)
    });
    Ok(json(StatusCode::OK, &removed.await?))
}

fn only_admin(api: &Api, caller: &Caller, method: &Method, uri: &Uri) -> Answer<()> {
    if caller.right >= Right::Admin { Ok(()) } else { Err(gate::refuse(api, caller, Right::Admin, (method, uri.path()))) }
}

pub(super) async fn fork(State(api): Shared, Path(id): Path<String>, headers: HeaderMap, bytes: Bytes) -> Handled {
    let mut asked: ForkBody = body(&bytes)?;
    match (key_of(&headers)?, &asked.key) {
        (Some(header), Some(key)) if header != *key => Err(bad("`key` in the body is not the Idempotency-Key of the header"))?,
        (Some(header), _) => asked.key = Some(header),
        (None, Some(key)) => check_key(key)?,
        (None, None) => {}
    }
    let key = asked.key.clone();
    let wait = wait_of(&headers).map(|wait| wait.min(LONGEST_WAIT));
    // Accepted first, whoever waits: that is quick, and durable when this returns. What is out of the pool is made by then.
    let mut answer = act(&api, move |b| b.fork(&id, &asked, wait.map(|_| Duration::ZERO))).await?;
    if let Some(wait) = wait {
        answer = settled(&api, answer, wait).await?;
    }
    let is_done = answer.requests.iter().all(|request| request.state == "done");
    let mut response = json(if is_done { StatusCode::CREATED } else { StatusCode::ACCEPTED }, &answer);
    set(&mut response, header::LOCATION, &place_of(&answer.requests, key.as_deref()));
    if let Some(wait) = wait {
        set(&mut response, header::HeaderName::from_static("preference-applied"), &format!("wait={}", wait.as_secs()));
    }
    Ok(response)
}

/// Waits in slices: whoever has gone meanwhile holds no thread for longer than one.
async fn settled(api: &Api, mut answer: Requests, wait: Duration) -> Answer<Requests> {
    let until = tokio::time::Instant::now() + wait;
    loop {
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        if left.is_zero() || answer.requests.iter().all(RequestView::is_final) {
            return Ok(answer);
        }
        let ids: Vec<ForkId> = answer.requests.iter().map(|request| request.id.clone()).collect();
        match ask::wait(api, move |b| b.settle(&ids, left.min(STILL_THERE))).await? {
            Some(now) => answer = now,
            // Others wait on all the threads that there are for it: the requests are made meanwhile.
            None => tokio::time::sleep(left.min(Duration::from_millis(100))).await,
        }
        if api.worker.stopping.load(std::sync::atomic::Ordering::SeqCst) {
            return Ok(answer);
        }
    }
}

/// Where the requests of one answer can be looked at.
fn place_of(requests: &[RequestView], key: Option<&str>) -> String {
    match (requests, key) {
        ([one], _) => format!("/v1/queue/{}", one.id),
        (_, Some(key)) => format!("/v1/queue?key={}", ask::encode(key)),
        (some, None) => some.first().map_or("/v1/queue".to_owned(), |r| format!("/v1/queue?snapshot={}", r.snapshot_id)),
    }
}

pub(super) async fn forks_of(State(api): Shared, Path(id): Path<String>, uri: Uri, headers: HeaderMap) -> Handled {
    list_forks(&api, Some(id), &uri, &headers).await
}

pub(super) async fn forks(State(api): Shared, uri: Uri, headers: HeaderMap) -> Handled {
    list_forks(&api, None, &uri, &headers).await
}

async fn list_forks(api: &Api, snapshot: Option<String>, uri: &Uri, headers: &HeaderMap) -> Handled {
    let query = Query::of(uri);
    let all = look(api, move |b| {
        let mut all = b.forks(snapshot.as_deref())?;
        all.next = page(&mut all.forks, &query, |fork| fork.name.to_string())?;
        Ok(all)
    });
    let all = all.await?;
    Ok(linked(tagged(headers, &all), uri, all.next.as_deref()))
}

pub(super) async fn one_fork(State(api): Shared, Path(name): Path<String>, headers: HeaderMap) -> Handled {
    let name: InstanceId = parsed(&name)?;
    Ok(tagged(&headers, &look(&api, move |b| b.fork_named(&name)).await?))
}

pub(super) async fn unfork(State(api): Shared, Path(name): Path<String>) -> Handled {
    let name: InstanceId = parsed(&name)?;
    Ok(json(StatusCode::OK, &act(&api, move |b| b.unfork(&name)).await?))
}

pub(super) async fn restore(State(api): Shared, Path(id): Path<String>) -> Handled {
    Ok(json(StatusCode::OK, &act(&api, move |b| b.restore(&id)).await?))
}

pub(super) async fn hold(State(api): Shared, Path((id, name)): Path<(String, String)>) -> Handled {
    let name: HoldName = parsed(&name)?;
    Ok(json(StatusCode::OK, &act(&api, move |b| b.hold(&id, &name)).await?))
}

pub(super) async fn release(State(api): Shared, Path((id, name)): Path<(String, String)>) -> Handled {
    let name: HoldName = parsed(&name)?;
    Ok(json(StatusCode::OK, &act(&api, move |b| b.release(&id, &name)).await?))
}

pub(super) async fn queue(State(api): Shared, uri: Uri, headers: HeaderMap) -> Handled {
    let query = Query::of(&uri);
    let snapshot = query.get::<SnapshotId>("snapshot")?;
    let state = query.text("state").map(ToOwned::to_owned);
    if let Some(state) = state.as_deref().filter(|state| !["queued", "running", "done", "failed", "cancelled"].contains(state)) {
        Err(bad(format!("`state` in the query: there is no state {state:?}")))?;
    }
    let all = look(&api, move |b| {
        let mut all = b.queue()?;
        let key = query.text("key");
        // The requests of a batch have the batch's key and a number.
        let has_key = |own: &str, key: &str| own == key || own.strip_prefix(key).is_some_and(|rest| rest.starts_with('/'));
        all.requests.retain(|request| {
            snapshot.as_ref().is_none_or(|id| request.snapshot_id == *id)
                && state.as_ref().is_none_or(|state| request.state == *state)
                && key.is_none_or(|key| request.key.as_deref().is_some_and(|own| has_key(own, key)))
        });
        let order = |r: &RequestView| format!("{}{:020}{}", u8::from(r.is_final()), r.queued_at.timestamp_micros(), r.id);
        all.next = page(&mut all.requests, &query, order)?;
        Ok(all)
    });
    let all = all.await?;
    Ok(linked(tagged(&headers, &all), &uri, all.next.as_deref()))
}

pub(super) async fn request(State(api): Shared, Path(id): Path<String>, headers: HeaderMap) -> Handled {
    let id: ForkId = parsed(&id)?;
    Ok(tagged(&headers, &look(&api, move |b| b.request(&id)).await?))
}

pub(super) async fn cancel(State(api): Shared, Path(id): Path<String>) -> Handled {
    let id: ForkId = parsed(&id)?;
    Ok(json(StatusCode::OK, &act(&api, move |b| b.cancel(&id)).await?))
}

pub(super) async fn status(State(api): Shared) -> Handled {
    Ok(json(StatusCode::OK, &look(&api, |b| b.status()).await?))
}

pub(super) async fn plan(State(api): Shared, uri: Uri, headers: HeaderMap) -> Handled {
    let query = Query::of(&uri);
    let policies = query.all("policy").map(parsed::<PolicyName>).collect::<Answer<Vec<_>>>()?;
    let asked = PlanBody { policies, at: query.get("at")?, ..PlanBody::default() };
    Ok(tagged(&headers, &look(&api, move |b| b.plan(&asked)).await?))
}

pub(super) async fn plan_by(State(api): Shared, bytes: Bytes) -> Handled {
    let asked: PlanBody = body_or_default(&bytes)?;
    Ok(json(StatusCode::OK, &look(&api, move |b| b.plan(&asked)).await?))
}

pub(super) async fn import(State(api): Shared, bytes: Bytes) -> Handled {
    let asked: ImportBody = body(&bytes)?;
    Ok(json(StatusCode::OK, &act(&api, move |b| b.import(&asked)).await?))
}

pub(super) async fn prune(State(api): Shared, bytes: Bytes) -> Handled {
    let asked: PruneBody = body_or_default(&bytes)?;
    Ok(json(StatusCode::OK, &act(&api, move |b| b.prune(&asked)).await?))
}

pub(super) async fn verify(State(api): Shared, Extension(caller): Extension<Caller>, uri: Uri, bytes: Bytes) -> Handled {
    let asked: VerifyBody = body_or_default(&bytes)?;
    if asked.rate.is_some_and(|rate| rate < SLOWEST_CHECK) {
        Err(bad(format!("`rate` must be at least {SLOWEST_CHECK} bytes a second")))?;
    }
    if asked.repair {
        only_admin(&api, &caller, &Method::POST, &uri)?;
    }
    Ok(json(StatusCode::OK, &act(&api, move |b| b.verify(&asked)).await?))
}

pub(super) async fn look_over(State(api): Shared) -> Handled {
    Ok(json(StatusCode::OK, &act(&api, |b| b.verify(&VerifyBody::default())).await?))
}

pub(super) async fn trash(State(api): Shared, uri: Uri, headers: HeaderMap) -> Handled {
    let query = Query::of(&uri);
    let all = look(&api, move |b| {
        let mut all = b.trash()?;
        all.next = page(&mut all.trash, &query, |t| format!("{:020}{}", t.removed_at.timestamp_micros(), t.entry))?;
        Ok(all)
    });
    let all = all.await?;
    Ok(linked(tagged(&headers, &all), &uri, all.next.as_deref()))
}

pub(super) async fn undelete(State(api): Shared, bytes: Bytes) -> Handled {
    let asked: UndeleteBody = body(&bytes)?;
    Ok(json(StatusCode::OK, &act(&api, move |b| b.undelete(&asked.what, asked.name.as_ref())).await?))
}

pub(super) async fn clock(State(api): Shared) -> Handled {
    Ok(json(StatusCode::OK, &look(&api, |b| b.clock(false)).await?))
}

pub(super) async fn accept_clock(State(api): Shared) -> Handled {
    Ok(json(StatusCode::OK, &act(&api, |b| b.clock(true)).await?))
}
