//! Errors as the outside sees them: problem documents (RFC 9457), with a stable type and the exit code that goes with it.

use serde::{Deserialize, Serialize};

/// What kind of problem it is: the stable part of `type`, the HTTP status and the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// The request cannot be understood (400, exit 2).
    BadRequest,
    /// It is not there (404, exit 3).
    NotFound,
    /// Something needs it, or has the name (409, exit 4).
    Conflict,
    /// The instance is in use (409, exit 4).
    InUse,
    /// Try again later (503, exit 75).
    Busy,
    /// The configuration is wrong (422, exit 78).
    Config,
    /// It failed (500, exit 1).
    Failed,
}

impl ProblemKind {
    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::NotFound => 404,
            Self::Conflict | Self::InUse => 409,
            Self::Busy => 503,
            Self::Config => 422,
            Self::Failed => 500,
        }
    }

    /// The exit code of the command line (0 and 75, 78: sysexits.h).
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::BadRequest => 2,
            Self::NotFound => 3,
            Self::Conflict | Self::InUse => 4,
            Self::Busy => 75,
            Self::Config => 78,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::BadRequest => "The request cannot be understood",
            Self::NotFound => "Not found",
            Self::Conflict => "Conflict",
            Self::InUse => "The instance is in use",
            Self::Busy => "Busy",
            Self::Config => "The configuration is wrong",
            Self::Failed => "Failed",
        }
    }
}

/// A problem document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// A stable URI: `urn:snapkeep:problem:` and the kind.
    #[serde(rename = "type")]
    pub type_uri: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, where, and what to do.
    pub detail: String,
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
        let name = serde_json::to_value(kind).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        Self {
            type_uri: format!("urn:snapkeep:problem:{name}"),
            title: kind.title().to_owned(),
            status: kind.status(),
            detail: detail.into(),
            kind,
            forks: Vec::new(),
            holds: Vec::new(),
            reclaimable_bytes: None,
        }
    }
}
