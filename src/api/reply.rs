//! Answers: JSON, or a problem document.

use crate::worker::backend::Answer;
use crate::worker::problem::{Problem, ProblemKind};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// An answer as a response with this status, or its problem.
pub(super) fn reply<T: Serialize>(status: StatusCode, answer: &Answer<T>) -> Response {
    match answer {
        Ok(value) => json(status, "application/json", value),
        Err(problem) => problem_reply(problem),
    }
}

/// A problem document.
pub(super) fn problem_reply(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, "application/problem+json", problem);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// The problem of a request that cannot be understood, with an HTTP status of its own.
pub(super) fn bad(status: StatusCode, detail: impl Into<String>) -> Problem {
    let kind = if status == StatusCode::NOT_FOUND { ProblemKind::NotFound } else { ProblemKind::BadRequest };
    Problem { status: status.as_u16(), ..Problem::new(kind, detail) }
}

fn json<T: Serialize>(status: StatusCode, kind: &'static str, value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            (status, [(header::CONTENT_TYPE, HeaderValue::from_static(kind))], body).into_response()
        }
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}
