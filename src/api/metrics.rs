//! `/metrics`: what Prometheus reads.

use super::reply::problem_reply;
use crate::worker::backend::{Answer, Backend};
use crate::worker::problem::{Problem, ProblemKind};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use std::sync::Arc;

/// OpenMetrics, as its specification names it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of the worker.
pub(super) async fn metrics(State(backend): State<Arc<dyn Backend>>) -> Response {
    let done = tokio::task::spawn_blocking(move || backend.metrics()).await;
    let text: Answer<String> =
        done.unwrap_or_else(|e| Err(Problem::new(ProblemKind::Failed, format!("the metrics could not be read: {e}"))));
    match text {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(problem) => problem_reply(&problem),
    }
}
