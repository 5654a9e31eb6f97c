//! What every request goes through before a verb sees it: who asks and whether they may, what type and length the body has, how
//! long it takes to come; and behind it, the time that an answer may take.

use super::Api;
use super::access::{self, Peer};
use super::ask::Query;
use super::operations::{self, Operation, Right, Success};
use super::reply::{bad, finish, problem_reply};
use crate::worker::backend::Answer;
use crate::worker::problem::{Problem, ProblemKind};
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use std::sync::Arc;
use std::time::Duration;

/// No body is longer, bytes.
pub(super) const BODY: usize = 4 << 20;
/// How long a body may take to come.
const SLOWEST_BODY: Duration = Duration::from_secs(20);
/// How long the answer of an operation may take that is not known to take long.
const SLOWEST_ANSWER: Duration = Duration::from_secs(30);

/// Lets a request through to its verb, or answers why not.
pub(super) async fn gate(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let response = match pass(&api, request).await {
        Ok((request, None)) => next.run(request).await,
        Ok((request, Some(limit))) => tokio::time::timeout(limit, next.run(request)).await.unwrap_or_else(|_| {
            problem_reply(Problem::new(ProblemKind::Busy, format!("no answer within {} s; what was begun goes on", limit.as_secs())))
        }),
        Err(problem) => problem_reply(problem),
    };
    finish(response, &path)
}

async fn pass(api: &Api, mut request: Request) -> Answer<(Request, Option<Duration>)> {
    let lost = || Problem::new(ProblemKind::Failed, "it is not known who asks");
    let peer = request.extensions().get::<Peer>().cloned().ok_or_else(lost)?;
    access::check_site(&peer, request.method(), request.headers())?;
    let caller = access::caller(&api.worker.config().api, peer, request.headers())?;
    let route = request.extensions().get::<MatchedPath>().cloned();
    let operation = route.as_ref().and_then(|route| operations::find(route.as_str(), request.method().as_str()));
    let wanted = match (operation, &route) {
        (Some(operation), _) => operation.right,
        // There is no such path: that is no secret.
        (None, None) => Right::Nobody,
        (None, Some(_)) if request.method().is_safe() => Right::Read,
        (None, Some(_)) => Right::Write,
    };
    if caller.right < wanted {
        return Err(refuse(api, &caller, wanted, (request.method(), request.uri().path())));
    }
    if let Some(operation) = operation {
        check_query(operation, &request)?;
        check_types(operation, request.headers())?;
    }
    request.extensions_mut().insert(caller);
    let limit = operation.filter(|operation| !operation.long).map(|_| SLOWEST_ANSWER);
    Ok((read_whole(request).await?, limit))
}

/// Reports a refusal, and words it.
pub(super) fn refuse(api: &Api, caller: &access::Caller, wanted: Right, what: (&Method, &str)) -> Problem {
    api.refusals.report(api, caller, wanted, what);
    forbidden(caller, wanted)
}

/// What a refusal says.
fn forbidden(caller: &access::Caller, wanted: Right) -> Problem {
    let may = if caller.right == Right::Nobody { "nothing".to_owned() } else { format!("only {}", caller.right.name()) };
    let detail = match &caller.peer {
        Peer::Unix { uid, .. } => format!("this takes the right to {}, and user {uid} may {may}", wanted.name()),
        Peer::Tcp { .. } => format!("this takes the right to {}, and without a token one may {may} over TCP", wanted.name()),
    };
    Problem::new(ProblemKind::Forbidden, detail.replace("right to admin", "right of an admin"))
}

/// That the query has only what the operation knows, and no value twice of which there is one.
fn check_query(operation: &Operation, request: &Request) -> Answer<()> {
    let query = Query::of(request.uri());
    let known = || operation.params.iter().filter(|param| param.place == "query");
    for name in query.names() {
        let Some(param) = known().find(|param| param.name == name) else {
            let names: Vec<&str> = known().map(|param| param.name).collect();
            let list = if names.is_empty() { "this path takes no query".to_owned() } else { format!("there are {}", names.join(", ")) };
            return Err(bad(format!("there is no `{name}` in the query of this path; {list}")));
        };
        if query.all(name).any(str::is_empty) {
            return Err(bad(format!("`{name}` in the query has no value")));
        }
        if !param.many && query.all(name).count() > 1 {
            return Err(bad(format!("`{name}` is in the query more than once")));
        }
    }
    Ok(())
}

/// That the body is JSON, if there is one, and that the caller takes an answer of the type that there is.
fn check_types(operation: &Operation, headers: &HeaderMap) -> Answer<()> {
    let essence = |text: &str| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if let Some(kind) = headers.get(header::CONTENT_TYPE) {
        let kind = kind.to_str().unwrap_or("?");
        if essence(kind) != "application/json" {
            return Err(Problem::new(
                ProblemKind::UnsupportedMediaType,
                format!("the body is {kind:?}, and only application/json is read"),
            ));
        }
    }
    let accepts: Vec<&str> =
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(',')).collect();
    let kinds: Vec<&str> = operation.successes.iter().flat_map(Success::kinds).collect();
    let takes = |range: &&str| {
        let refused = range.split(';').skip(1).any(|part| matches!(part.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
        let range = essence(range);
        let group = range.strip_suffix('*').filter(|group| group.ends_with('/'));
        let is_one = |kind: &&str| range == **kind || group.is_some_and(|group| kind.starts_with(group));
        !refused && (matches!(range.as_str(), "*/*" | "") || kinds.iter().any(is_one))
    };
    if accepts.is_empty() || accepts.iter().any(takes) {
        return Ok(());
    }
    Err(Problem::new(ProblemKind::NotAcceptable, format!("answers are {}, and not {}", kinds.join(" or "), accepts.join(","))))
}

/// Reads the body, if it is not too long and does not take too long.
async fn read_whole(request: Request) -> Answer<Request> {
    let too_large = || Problem::new(ProblemKind::TooLarge, format!("no body may be longer than {BODY} bytes"));
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > BODY as u64) {
        return Err(too_large());
    }
    let (parts, body) = request.into_parts();
    let slow = |_| Problem::new(ProblemKind::RequestTimeout, format!("the body did not come within {} s", SLOWEST_BODY.as_secs()));
    let read = tokio::time::timeout(SLOWEST_BODY, Limited::new(body, BODY).collect()).await.map_err(slow)?;
    match read {
        Ok(whole) => Ok(Request::from_parts(parts, Body::from(whole.to_bytes()))),
        Err(e) if e.is::<LengthLimitError>() => Err(too_large()),
        Err(e) => Err(bad(format!("the body cannot be read: {e}"))),
    }
}
