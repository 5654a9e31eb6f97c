//! Answers: JSON with an ETag and a link to the next page, or a problem document.

use super::ask::encode;
use crate::worker::backend::Answer;
use crate::worker::problem::{Problem, ProblemKind};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// After so many seconds somebody who was turned away may come again.
const COME_AGAIN: HeaderValue = HeaderValue::from_static("1");

/// An answer that somebody may have already: with its ETag, and 304 without a body if it is the one that they have.
pub(super) fn tagged<T: Serialize>(headers: &HeaderMap, value: &T) -> Response {
    tagged_bytes(headers, written(value))
}

/// An answer as it is sent, and its ETag.
pub(super) fn written<T: Serialize>(value: &T) -> (Vec<u8>, String) {
    let body = text(value);
    let tag = etag_of(&body);
    (body, tag)
}

/// [`tagged`], of what [`written`] made.
pub(super) fn tagged_bytes(headers: &HeaderMap, (body, tag): (Vec<u8>, String)) -> Response {
    let mut response = if is_known(headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        (StatusCode::OK, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
    };
    set(&mut response, header::ETAG, &tag);
    // Whoever keeps it asks again each time: it may have changed.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    response
}

/// Whether the caller has what has this ETag.
pub(super) fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    headers.get_all(header::IF_NONE_MATCH).iter().any(|value| matches(value, tag))
}

/// Whether the caller's `If-Match`, if there is one, names what is there now.
///
/// # Errors
/// [`ProblemKind::PreconditionFailed`].
pub(super) fn check_match<T: Serialize>(headers: &HeaderMap, now: &T) -> Answer<()> {
    let tag = etag_of(&text(now));
    let mut wanted = headers.get_all(header::IF_MATCH).iter().peekable();
    if wanted.peek().is_none() || wanted.any(|value| matches(value, &tag)) {
        return Ok(());
    }
    Err(Problem::new(ProblemKind::PreconditionFailed, format!("it has changed: its ETag is {tag} now")))
}

/// The ETag of an answer.
pub(super) fn tag_of<T: Serialize>(value: &T) -> String {
    etag_of(&text(value))
}

pub(super) fn etag_of(body: &[u8]) -> String {
    format!("\"{}\"", blake3::hash(body).to_hex().chars().take(32).collect::<String>())
}

fn matches(value: &HeaderValue, tag: &str) -> bool {
    let text = value.to_str().unwrap_or_default();
    text.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

/// A problem document. The gate writes it out, when it knows what was asked for.
pub(super) fn problem_reply(problem: Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = status.into_response();
    if matches!(problem.kind, ProblemKind::Busy | ProblemKind::TooManyRequests | ProblemKind::QueueFull) {
        response.headers_mut().insert(header::RETRY_AFTER, COME_AGAIN);
    }
    if problem.kind == ProblemKind::Unauthorized {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response.extensions_mut().insert(problem);
    response
}

/// Writes a problem out that [`problem_reply`] has left, for this path.
pub(super) fn finish(mut response: Response, path: &str) -> Response {
    let Some(problem) = response.extensions_mut().remove::<Problem>() else { return response };
    let problem = Problem { instance: Some(path.to_owned()), ..problem };
    let (mut parts, _) = response.into_parts();
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, text(&problem).into())
}

/// Names the next page, if there is one.
pub(super) fn linked(mut response: Response, uri: &Uri, next: Option<&str>) -> Response {
    if let Some(next) = next {
        let same = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
        let query: Vec<String> = same.map(str::to_owned).chain([format!("cursor={}", encode(next))]).collect();
        set(&mut response, header::LINK, &format!("<{}?{}>; rel=\"next\"", uri.path(), query.join("&")));
    }
    response
}

/// Sets a header, if its text can be one.
pub(super) fn set(response: &mut Response, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        response.headers_mut().insert(name, value);
    }
}

/// The problem of a request that cannot be understood.
pub(super) fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::BadRequest, detail)
}

fn text<T: Serialize>(value: &T) -> Vec<u8> {
    let mut body = serde_json::to_vec(value).unwrap_or_default();
    body.push(b'\n');
    body
}

/// An answer with this status.
pub(super) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text(value)).into_response()
}
