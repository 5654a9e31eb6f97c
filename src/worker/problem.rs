//! Errors as the outside sees them: problem documents (RFC 9457), with a stable type, a remedy, and the exit code that goes
//! with it. `docs/problems.md` is generated from the table here.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What every problem's `type` begins with.
const URN: &str = "urn:snapkeep:problem:";

/// What is known of a kind.
struct Facts {
    name: &'static str,
    status: u16,
    /// 0 to 4: the verbs' own; 75 and 78: sysexits.h.
    exit_code: u8,
    title: &'static str,
    remedy: &'static str,
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $kind:ident = $name:literal, $status:literal, exit $exit:literal, $title:literal, $remedy:literal;)*) => {
        /// What kind of problem it is: the stable part of `type`, the HTTP status and the exit code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum ProblemKind {
            $($(#[doc = $doc])* #[serde(rename = $name)] $kind,)*
        }

        impl ProblemKind {
            /// All kinds, in the order of their status.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            fn facts(self) -> Facts {
                match self {
                    $(Self::$kind => Facts { name: $name, status: $status, exit_code: $exit, title: $title, remedy: $remedy },)*
                }
            }
        }
    };
}

kinds! {
    /// The request cannot be understood.
    BadRequest = "bad-request", 400, exit 2, "The request cannot be understood",
        "Correct what `detail` names; /v1/openapi.json describes every path, parameter and body.";
    /// The token is wrong, or one is wanted.
    Unauthorized = "unauthorized", 401, exit 1, "The token is wrong, or one is wanted",
        "Send the token of `[api] token_file` as `Authorization: Bearer TOKEN`.";
    /// The caller may not do this.
    Forbidden = "forbidden", 403, exit 1, "Not allowed",
        "Run it as root or as the worker's user, or put the caller into `read`, `write` or `admin` of `[api]` and reload; \
         GET /v1/whoami says what the caller may do.";
    /// It is not there.
    NotFound = "not-found", 404, exit 3, "Not found",
        "List what there is: `snapkeep ls`, `snapkeep forks`, `snapkeep queue`, or the same over HTTP.";
    /// The path takes other methods.
    MethodNotAllowed = "method-not-allowed", 405, exit 2, "The path does not take this method", "Use a method that the `Allow` header names.";
    /// The caller takes no answer that there is.
    NotAcceptable = "not-acceptable", 406, exit 2, "No answer of the wanted type", "Accept application/json, or leave `Accept` out.";
    /// The request came too slowly.
    RequestTimeout = "request-timeout", 408, exit 75, "The request came too slowly", "Send the whole request at once.";
    /// Something needs it, or has the name.
    Conflict = "conflict", 409, exit 4, "Conflict",
        "If forks or holds are listed, they need the snapshot: remove or release them first, or delete it with ?defer=true \
         (`rm --defer`) so that it goes with its last fork. Else choose another name.";
    /// The instance is in use.
    InUse = "in-use", 409, exit 4, "The instance is in use", "Stop the instance and try again.";
    /// It is not what the caller thinks it is.
    PreconditionFailed = "precondition-failed", 412, exit 4, "It has changed",
        "Get it again, look at what has changed, and repeat the request with the new ETag.";
    /// The body is too long.
    TooLarge = "too-large", 413, exit 2, "The body is too long", "Split the request.";
    /// The body is of a type that is not read here.
    UnsupportedMediaType = "unsupported-media-type", 415, exit 2, "The body is not JSON", "Send `Content-Type: application/json`.";
    /// The request is for another host.
    Misdirected = "misdirected", 421, exit 2, "The request is for another host",
        "Use http://127.0.0.1, http://[::1] or http://localhost with the worker's port.";
    /// The idempotency key was used for another request.
    KeyReused = "key-reused", 422, exit 4, "The key was used for another request",
        "Use a new key for a new request; to ask for the same again, repeat it as it was.";
    /// The configuration is wrong.
    Config = "config", 422, exit 78, "The configuration is wrong", "`snapkeep check` shows every problem in it.";
    /// The fork queue is full.
    QueueFull = "queue-full", 429, exit 75, "The fork queue is full",
        "Try again after `Retry-After` seconds with the same key, ask for fewer forks, or raise `[fork] max_pending`.";
    /// Too much is asked for at once.
    TooManyRequests = "too-many-requests", 429, exit 75, "Too many requests at once", "Try again after `Retry-After` seconds.";
    /// It failed.
    Failed = "failed", 500, exit 1, "Failed", "`detail` names the cause; the worker's log says more.";
    /// Not now.
    Busy = "busy", 503, exit 75, "Busy", "Try again after `Retry-After` seconds.";
}

impl ProblemKind {
    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> u16 {
        self.facts().status
    }

    /// The exit code of the command line.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        self.facts().exit_code
    }

    /// What to do about it, as far as the kind alone can tell.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        self.facts().remedy
    }

    /// What this kind of problem is called.
    #[must_use]
    pub fn title(self) -> &'static str {
        self.facts().title
    }

    /// Its stable URI.
    #[must_use]
    pub fn uri(self) -> String {
        format!("{URN}{}", self.facts().name)
    }
}

/// A problem document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// A stable URI: `urn:snapkeep:problem:` and the kind.
    #[serde(rename = "type")]
    #[schemars(regex(pattern = r"^urn:snapkeep:problem:[a-z-]+$"))]
    pub type_uri: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    #[schemars(range(min = 400, max = 599))]
    pub status: u16,
    /// What happened, and where.
    pub detail: String,
    /// What to do.
    #[serde(default)]
    pub remedy: String,
    /// What was asked for: the path of the request.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub instance: Option<String>,
    /// The kind.
    pub kind: ProblemKind,
    /// Forks that are in the way.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub forks: Vec<String>,
    /// What a removal that is refused would free, bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reclaimable_bytes: Option<u64>,
    /// Holds that are in the way.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub holds: Vec<String>,
}

impl Problem {
    /// A problem of this kind.
    #[must_use]
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            type_uri: kind.uri(),
            title: kind.title().to_owned(),
            status: kind.status(),
            detail: detail.into(),
            remedy: kind.remedy().to_owned(),
            instance: None,
            kind,
            forks: Vec::new(),
            holds: Vec::new(),
            reclaimable_bytes: None,
        }
    }
}

/// The kinds as a page of Markdown.
#[must_use]
pub fn problems_page() -> String {
    let mut page = String::from(
        "# Problems\n\nEvery answer of the API that is no success is a problem document (RFC 9457, `application/problem+json`), and so is what \
         `--json` prints on standard error. `type` is stable, and so are `status` and the exit code of the command line; `detail` says what happened \
         and where, `remedy` what to do, `instance` what was asked for. `forks`, `holds` and `reclaimable_bytes` are there where they tell more.\n\
         This page is generated from `src/worker/problem.rs` (`UPDATE_DOCS=1 cargo test --lib problem`); a test holds the two together.\n\n\
         | type | status | exit | means | remedy |\n|---|---|---|---|---|\n",
    );
    for kind in ProblemKind::ALL {
        let facts = kind.facts();
        page.push_str(&format!("| `{}` | {} | {} | {} | {} |\n", kind.uri(), facts.status, facts.exit_code, facts.title, facts.remedy));
    }
    page
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests read and write the checkout")]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_problems_is_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/problems.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, problems_page()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), problems_page(), "run UPDATE_DOCS=1 cargo test --lib problem");
    }

    #[test]
    fn the_type_of_a_problem_is_the_kind_as_it_is_written() {
        for kind in ProblemKind::ALL {
            let problem = serde_json::to_value(Problem::new(*kind, "x")).unwrap();
            assert_eq!(problem["type"], format!("{URN}{}", problem["kind"].as_str().unwrap()));
            assert!(problem["remedy"].as_str().is_some_and(|remedy| remedy.ends_with('.')), "{problem}");
        }
    }
}
