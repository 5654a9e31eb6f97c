//! `/metrics`: what Prometheus reads.

use super::ask::look;
use super::operations::OPEN_METRICS;
use super::reply::problem_reply;
use super::router::Api;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use std::sync::Arc;

/// All metrics of the worker.
pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Response {
    match look(&api, |worker| worker.metrics()).await {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(problem) => problem_reply(problem),
    }
}
