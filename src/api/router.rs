//! Which path goes to which handler. What they need to have in common is in [`Api`].

use super::access::Refusals;
use super::ask::Lanes;
use super::reply::{bad, problem_reply};
use super::{feed, gate, handlers as on, metrics, page, timeline};
use crate::worker::Worker;
use crate::worker::problem::{Problem, ProblemKind};
use axum::Router;
use axum::routing::{get, post, put};
use std::sync::Arc;

/// The worker, and what the API keeps about those who ask it.
#[derive(Debug)]
pub struct Api {
    pub(super) worker: Arc<Worker>,
    pub(super) lanes: Lanes,
    pub(super) refusals: Refusals,
}

impl Api {
    /// The API of a worker.
    #[must_use]
    pub fn new(worker: Arc<Worker>) -> Self {
        Self { worker, lanes: Lanes::default(), refusals: Refusals::default() }
    }
}

/// All paths, behind the gate.
pub fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/healthz", get(on::health))
        .route("/", get(page::page))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/events", get(feed::events))
        .route("/v1/timeline", get(timeline::timeline))
        .route("/v1/prune/next", get(timeline::next_prune))
        .route("/v1/openapi.json", get(on::openapi))
        .route("/v1/whoami", get(on::whoami))
        .route("/v1/snapshots", get(on::snapshots).post(on::take))
        .route("/v1/snapshots/{id}", get(on::snapshot).delete(on::remove))
        .route("/v1/snapshots/{id}/forks", get(on::forks_of).post(on::fork))
        .route("/v1/snapshots/{id}/restore", post(on::restore))
        .route("/v1/snapshots/{id}/holds/{name}", put(on::hold).delete(on::release))
        .route("/v1/forks", get(on::forks))
        .route("/v1/forks/{name}", get(on::one_fork).delete(on::unfork))
        .route("/v1/queue", get(on::queue))
        .route("/v1/queue/{id}", get(on::request).delete(on::cancel))
        .route("/v1/policies", get(on::status))
        .route("/v1/status", get(on::status))
        .route("/v1/import", post(on::import))
        .route("/v1/plan", get(on::plan).post(on::plan_by))
        .route("/v1/prune", post(on::prune))
        .route("/v1/verify", get(on::look_over).post(on::verify))
        .route("/v1/trash", get(on::trash))
        .route("/v1/undelete", post(on::undelete))
        .route("/v1/clock", get(on::clock))
        .route("/v1/clock/accept", post(on::accept_clock))
        .fallback(async || problem_reply(Problem::new(ProblemKind::NotFound, "there is no such path; they begin with /v1/")))
        .method_not_allowed_fallback(async || {
            problem_reply(Problem::new(ProblemKind::MethodNotAllowed, "this path does not take this method"))
        })
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&api), gate::gate))
        .with_state(api)
}

/// `key=value`.
pub(super) fn tag_of(text: &str) -> Result<(String, String), Problem> {
    let (key, value) = text.split_once('=').ok_or_else(|| bad("a tag in the query looks like tag=key%3Dvalue"))?;
    Ok((key.to_owned(), value.to_owned()))
}
