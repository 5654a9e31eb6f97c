//! Every operation of the API, once: its path, who may ask for it, what it takes and what it answers. The router serves
//! these, the gate looks rights up here, and the OpenAPI document is made from them.

mod list;

pub(super) use list::OPERATIONS;

use crate::worker::problem::ProblemKind;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What somebody may do; each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// Nothing but asking who they are.
    Nobody,
    /// Look.
    Read,
    /// Take, fork, restore, hold and remove.
    Write,
    /// Everything.
    Admin,
}

impl Right {
    /// As the configuration calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nothing",
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// OpenMetrics, as its specification names it.
pub(super) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Makes the schema of a type.
pub(super) type Shape = fn(&mut SchemaGenerator) -> Schema;

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// A parameter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Param {
    pub(super) name: &'static str,
    /// `path`, `query` or `header`.
    pub(super) place: &'static str,
    /// May be given several times.
    pub(super) many: bool,
    pub(super) what: &'static str,
    pub(super) shape: Shape,
}

/// A success.
#[derive(Debug, Clone, Copy)]
pub(super) struct Success {
    pub(super) status: u16,
    /// Its media type.
    pub(super) kind: &'static str,
    /// Other media types that it may have, as text.
    pub(super) others: &'static [&'static str],
    pub(super) what: &'static str,
    pub(super) shape: Shape,
    pub(super) headers: &'static [(&'static str, &'static str)],
}

impl Success {
    /// The media types that it may have.
    pub(super) fn kinds(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.kind).chain(self.others.iter().copied())
    }
}

/// One operation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operation {
    pub(super) id: &'static str,
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) what: &'static str,
    pub(super) right: Right,
    pub(super) params: &'static [Param],
    pub(super) body: Option<Shape>,
    /// Whether it takes an empty body for one with nothing in it.
    pub(super) body_required: bool,
    pub(super) successes: &'static [Success],
    /// Problems that not every operation has.
    pub(super) problems: &'static [ProblemKind],
    /// Whether it may take as long as it takes.
    pub(super) long: bool,
}

/// What `GET /healthz` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HealthView {
    /// `ok`: somebody is there.
    #[schemars(extend("enum" = ["ok"]))]
    pub status: String,
}

const fn param(name: &'static str, place: &'static str, what: &'static str, shape: Shape) -> Param {
    Param { name, place, many: false, what, shape }
}

fn text(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1})
}
fn any_text(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string"})
}
fn place(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": r"^-?[0-9]{1,19}\.[0-9]{1,19}$"})
}
fn flag(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "boolean"})
}
fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}
fn tag(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": "="})
}
fn page_size(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "minimum": 1, "maximum": 10_000})
}
fn request_state(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["queued", "running", "done", "failed", "cancelled"]})
}
fn key(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": "^[!-~]{1,200}$"})
}
fn event_place(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": "^([0-9a-zA-Z]{1,20}-)?[0-9]{1,18}$"})
}
fn level(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["info", "warn", "error"]})
}
fn to_sixty(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "minimum": 0, "maximum": 60})
}
fn to_thousand(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "minimum": 0, "maximum": 1000})
}
fn event_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "description": "A name, or the beginning of names and `*`; several with commas."})
}
fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object"})
}

const SNAPSHOT: Param = param("id", "path", "A snapshot's id, INSTANCE/NAME (as %2F), or a name that only one has.", text);
const HOLD: Param = param("name", "path", "The hold.", of::<crate::ids::HoldName>);
const REQUEST: Param = param("id", "path", "The request.", of::<crate::ids::ForkId>);
const FORK: Param = param("name", "path", "The fork's name.", of::<crate::ids::InstanceId>);
const LIMIT: Param = param("limit", "query", "So many at most; without it, all.", page_size);
const CURSOR: Param = param("cursor", "query", "`next` of the page before.", text);
const IF_NONE_MATCH: Param = param("If-None-Match", "header", "An ETag: 304 if it is still that.", any_text);
const IF_MATCH: Param = param("If-Match", "header", "The snapshot's ETag: 412 if it is another by now.", any_text);
const POLICY: Param = param("policy", "query", "Of this policy.", of::<crate::ids::PolicyName>);
const ETAG: (&str, &str) = ("ETag", "Changes with the answer.");
const LINK: (&str, &str) = ("Link", "The next page, if there is one: rel=\"next\".");
const LOCATION: (&str, &str) = ("Location", "Where to look for it.");
const APPLIED: (&str, &str) = ("Preference-Applied", "`wait=N`, if that was asked for.");

const fn ok(what: &'static str, shape: Shape) -> Success {
    Success { status: 200, kind: "application/json", others: &[], what, shape, headers: &[] }
}

const BASE: Operation = Operation {
    id: "",
    method: "get",
    path: "",
    what: "",
    right: Right::Read,
    params: &[],
    body: None,
    body_required: false,
    successes: &[],
    problems: &[],
    long: false,
};
const CHANGE: Operation = Operation { right: Right::Write, problems: &[ProblemKind::Busy], ..BASE };

/// The operation of a route and method; HEAD is GET.
pub(super) fn find(path: &str, method: &str) -> Option<&'static Operation> {
    let method = if method.eq_ignore_ascii_case("head") { "get" } else { method };
    OPERATIONS.iter().find(|operation| operation.path == path && operation.method.eq_ignore_ascii_case(method))
}
