//! The `/v1` paths. Verbs block, so each runs on a blocking thread.

use super::reply::{bad, problem_reply, reply};
use crate::ids::{ForkId, HoldName, InstanceId, PolicyName};
use crate::worker::backend::{Answer, Backend, Removal};
use crate::worker::importing::ImportBody;
use crate::worker::problem::{Problem, ProblemKind};
use crate::worker::view::{ForkBody, PlanBody, PruneBody, SnapshotFilter, TakeBody, VerifyBody};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{delete, get, post, put};
use serde::Deserialize;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// No body is longer, bytes.
const BODY: usize = 4 << 20;

type Shared = State<Arc<dyn Backend>>;

/// What `POST /v1/undelete` takes.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct UndeleteBody {
    what: String,
    name: Option<InstanceId>,
}

/// All paths over a backend.
pub fn router(backend: Arc<dyn Backend>) -> Router {
    Router::new()
        .route("/healthz", get(async || reply(StatusCode::OK, &Answer::Ok(serde_json::json!({"status": "ok"})))))
        .route("/metrics", get(super::metrics::metrics))
        .route("/v1/snapshots", get(snapshots).post(take))
        .route("/v1/snapshots/{id}", get(snapshot).delete(remove))
        .route("/v1/snapshots/{id}/forks", get(forks_of).post(fork))
        .route("/v1/snapshots/{id}/restore", post(restore))
        .route("/v1/snapshots/{id}/holds/{name}", put(hold).delete(release))
        .route("/v1/forks", get(forks))
        .route("/v1/forks/{name}", delete(unfork))
        .route("/v1/queue", get(queue))
        .route("/v1/queue/{id}", get(request).delete(cancel))
        .route("/v1/policies", get(status))
        .route("/v1/status", get(status))
        .route("/v1/import", post(import))
        .route("/v1/plan", get(plan).post(plan_by))
        .route("/v1/prune", post(prune))
        .route("/v1/verify", get(look_over).post(verify))
        .route("/v1/trash", get(trash))
        .route("/v1/undelete", post(undelete))
        .route("/v1/clock", get(clock))
        .route("/v1/clock/accept", post(accept_clock))
        .fallback(async || problem_reply(&bad(StatusCode::NOT_FOUND, "there is no such path; they begin with /v1/")))
        .method_not_allowed_fallback(async || problem_reply(&bad(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method")))
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(backend)
}

/// Runs a verb on a blocking thread.
async fn run<T: Send + 'static>(backend: Arc<dyn Backend>, verb: impl FnOnce(&dyn Backend) -> Answer<T> + Send + 'static) -> Answer<T> {
    let done = tokio::task::spawn_blocking(move || verb(backend.as_ref())).await;
    done.unwrap_or_else(|e| Err(Problem::new(ProblemKind::Failed, format!("the verb did not come to its end: {e}"))))
}

/// The values of a query's key, percent-decoded.
fn query(raw: Option<&str>, key: &str) -> Vec<String> {
    let pairs = raw.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, _)| *name == key).map(|(_, value)| decode(value)).collect()
}

/// Percent-decoding; what is not valid stays as it is.
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

fn parsed<T: FromStr>(text: &str) -> Answer<T>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| bad(StatusCode::BAD_REQUEST, e.to_string()))
}

fn body<T: for<'de> Deserialize<'de> + Default>(bytes: &Bytes) -> Answer<T> {
    if bytes.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(bytes).map_err(|e| bad(StatusCode::BAD_REQUEST, format!("the body cannot be understood: {e}")))
}

/// `key=value`.
fn tag_of(text: &str) -> Answer<(String, String)> {
    let (key, value) = text.split_once('=').ok_or_else(|| bad(StatusCode::BAD_REQUEST, "a tag looks like tag=key%3Dvalue"))?;
    Ok((key.to_owned(), value.to_owned()))
}

async fn snapshots(State(backend): Shared, RawQuery(raw): RawQuery) -> Response {
    let first = |key: &str| query(raw.as_deref(), key).into_iter().next();
    let filter = || -> Answer<SnapshotFilter> {
        Ok(SnapshotFilter {
            instance: first("instance").map(|i| parsed::<InstanceId>(&i)).transpose()?,
            policy: first("policy").map(|p| parsed::<PolicyName>(&p)).transpose()?,
            tags: query(raw.as_deref(), "tag").iter().map(|tag| tag_of(tag)).collect::<Answer<_>>()?,
        })
    };
    match filter() {
        Ok(filter) => reply(StatusCode::OK, &run(backend, move |b| b.snapshots(&filter)).await),
        Err(problem) => problem_reply(&problem),
    }
}

async fn take(State(backend): Shared, bytes: Bytes) -> Response {
    match serde_json::from_slice::<TakeBody>(&bytes) {
        Ok(body) => reply(StatusCode::CREATED, &run(backend, move |b| b.take(&body)).await),
        Err(e) => problem_reply(&bad(StatusCode::BAD_REQUEST, format!("the body cannot be understood: {e}"))),
    }
}

async fn snapshot(State(backend): Shared, Path(id): Path<String>) -> Response {
    reply(StatusCode::OK, &run(backend, move |b| b.snapshot(&id)).await)
}

async fn remove(State(backend): Shared, Path(id): Path<String>, RawQuery(raw): RawQuery) -> Response {
    let is_set = |key: &str| query(raw.as_deref(), key).iter().any(|v| v == "true");
    let how = match (is_set("defer"), is_set("unreadable")) {
        (true, _) => Removal::Defer,
        (_, true) => Removal::Unreadable,
        _ => Removal::Now,
    };
    reply(StatusCode::OK, &run(backend, move |b| b.remove(&id, how)).await)
}

async fn fork(State(backend): Shared, Path(id): Path<String>, headers: HeaderMap, bytes: Bytes) -> Response {
    let mut asked: ForkBody = match body(&bytes) {
        Ok(asked) => asked,
        Err(problem) => return problem_reply(&problem),
    };
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    asked.key = asked.key.or_else(|| header("idempotency-key").map(str::to_owned));
    let wait = header("prefer")
        .into_iter()
        .flat_map(|v| v.split([',', ';']))
        .find_map(|p| p.trim().strip_prefix("wait=")?.parse().ok())
        .map(Duration::from_secs);
    let answer = run(backend, move |b| b.fork(&id, &asked, wait)).await;
    let is_done = answer.as_ref().is_ok_and(|r| r.requests.iter().all(|r| r.state == "done"));
    reply(if is_done { StatusCode::CREATED } else { StatusCode::ACCEPTED }, &answer)
}

async fn forks_of(State(backend): Shared, Path(id): Path<String>) -> Response {
    reply(StatusCode::OK, &run(backend, move |b| b.forks(Some(&id))).await)
}

async fn restore(State(backend): Shared, Path(id): Path<String>) -> Response {
    reply(StatusCode::OK, &run(backend, move |b| b.restore(&id)).await)
}

async fn hold(State(backend): Shared, Path((id, name)): Path<(String, String)>) -> Response {
    match parsed::<HoldName>(&name) {
        Ok(name) => reply(StatusCode::OK, &run(backend, move |b| b.hold(&id, &name)).await),
        Err(problem) => problem_reply(&problem),
    }
}

async fn release(State(backend): Shared, Path((id, name)): Path<(String, String)>) -> Response {
    match parsed::<HoldName>(&name) {
        Ok(name) => reply(StatusCode::OK, &run(backend, move |b| b.release(&id, &name)).await),
        Err(problem) => problem_reply(&problem),
    }
}

async fn forks(State(backend): Shared) -> Response {
    reply(StatusCode::OK, &run(backend, |b| b.forks(None)).await)
}

async fn unfork(State(backend): Shared, Path(name): Path<String>) -> Response {
    match parsed::<InstanceId>(&name) {
        Ok(name) => reply(StatusCode::OK, &run(backend, move |b| b.unfork(&name)).await),
        Err(problem) => problem_reply(&problem),
    }
}

async fn queue(State(backend): Shared) -> Response {
    reply(StatusCode::OK, &run(backend, |b| b.queue()).await)
}

async fn request(State(backend): Shared, Path(id): Path<String>) -> Response {
    match parsed::<ForkId>(&id) {
        Ok(id) => reply(StatusCode::OK, &run(backend, move |b| b.request(&id)).await),
        Err(problem) => problem_reply(&problem),
    }
}

async fn cancel(State(backend): Shared, Path(id): Path<String>) -> Response {
    match parsed::<ForkId>(&id) {
        Ok(id) => reply(StatusCode::OK, &run(backend, move |b| b.cancel(&id)).await),
        Err(problem) => problem_reply(&problem),
    }
}

async fn status(State(backend): Shared) -> Response {
    reply(StatusCode::OK, &run(backend, |b| b.status()).await)
}

async fn plan(State(backend): Shared, RawQuery(raw): RawQuery) -> Response {
    let asked = || -> Answer<_> {
        let policies = query(raw.as_deref(), "policy").iter().map(|p| parsed::<PolicyName>(p)).collect::<Answer<Vec<_>>>()?;
        let at = query(raw.as_deref(), "at").first().map(|at| parsed(at)).transpose()?;
        Ok(PlanBody { policies, at, ..PlanBody::default() })
    };
    match asked() {
        Ok(asked) => reply(StatusCode::OK, &run(backend, move |b| b.plan(&asked)).await),
        Err(problem) => problem_reply(&problem),
    }
}

async fn plan_by(State(backend): Shared, bytes: Bytes) -> Response {
    match body::<PlanBody>(&bytes) {
        Ok(asked) => reply(StatusCode::OK, &run(backend, move |b| b.plan(&asked)).await),
        Err(problem) => problem_reply(&problem),
    }
}

async fn import(State(backend): Shared, bytes: Bytes) -> Response {
    match serde_json::from_slice::<ImportBody>(&bytes) {
        Ok(body) => reply(StatusCode::OK, &run(backend, move |b| b.import(&body)).await),
        Err(e) => problem_reply(&bad(StatusCode::BAD_REQUEST, format!("the body cannot be understood: {e}"))),
    }
}

async fn prune(State(backend): Shared, bytes: Bytes) -> Response {
    match body::<PruneBody>(&bytes) {
        Ok(asked) => reply(StatusCode::OK, &run(backend, move |b| b.prune(&asked)).await),
        Err(problem) => problem_reply(&problem),
    }
}

async fn verify(State(backend): Shared, bytes: Bytes) -> Response {
    match body::<VerifyBody>(&bytes) {
        Ok(asked) => reply(StatusCode::OK, &run(backend, move |b| b.verify(&asked)).await),
        Err(problem) => problem_reply(&problem),
    }
}

async fn look_over(State(backend): Shared) -> Response {
    reply(StatusCode::OK, &run(backend, |b| b.verify(&VerifyBody::default())).await)
}

async fn trash(State(backend): Shared) -> Response {
    reply(StatusCode::OK, &run(backend, |b| b.trash()).await)
}

async fn undelete(State(backend): Shared, bytes: Bytes) -> Response {
    match body::<UndeleteBody>(&bytes) {
        Ok(asked) => reply(StatusCode::OK, &run(backend, move |b| b.undelete(&asked.what, asked.name.as_ref())).await),
        Err(problem) => problem_reply(&problem),
    }
}

async fn clock(State(backend): Shared) -> Response {
    reply(StatusCode::OK, &run(backend, |b| b.clock(false)).await)
}

async fn accept_clock(State(backend): Shared) -> Response {
    reply(StatusCode::OK, &run(backend, |b| b.clock(true)).await)
}
