//! The OpenAPI 3.1 document, made from [`OPERATIONS`] and the types that they take and answer. Answers are described as they are
//! sent (what is always there is required), bodies as they are read: schemars tells the two apart.

use super::operations::{OPERATIONS, Operation, Param, Success};
use crate::worker::problem::{Problem, ProblemKind};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Problems that every operation may have.
const COMMON: &[ProblemKind] = &[
    ProblemKind::BadRequest,
    ProblemKind::Unauthorized,
    ProblemKind::Forbidden,
    ProblemKind::NotAcceptable,
    ProblemKind::RequestTimeout,
    ProblemKind::TooLarge,
    ProblemKind::UnsupportedMediaType,
    ProblemKind::Misdirected,
    ProblemKind::TooManyRequests,
    ProblemKind::Failed,
    ProblemKind::Busy,
];

/// The whole document.
#[must_use]
pub fn openapi() -> Value {
    let settings = || {
        SchemaSettings::draft2020_12().with(|s| {
            s.definitions_path = "/components/schemas".into();
            s.meta_schema = None;
        })
    };
    let mut sent = settings().for_serialize().into_generator();
    let mut read = settings().for_deserialize().into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS {
        let described = describe(operation, &mut sent, &mut read);
        if let Value::Object(path) = paths.entry(operation.path).or_insert_with(|| json!({})) {
            path.insert(operation.method.to_owned(), described);
        }
    }
    let problem = sent.subschema_for::<Problem>();
    let mut schemas: BTreeMap<String, Value> = BTreeMap::new();
    schemas.extend(read.take_definitions(true));
    schemas.extend(sent.take_definitions(true));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "snapkeep",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Snapshots, forks and pruning of instance directories: what the worker answers on its unix socket, and over TCP on loopback \
                            if the configuration says so. Every answer that is no success is a problem document (docs/problems.md).",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://localhost:7373", "description": "[api] tcp; on the unix socket the host does not matter"}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {
                "Problem": {"description": "A problem document.", "content": {"application/problem+json": {"schema": problem}}},
            },
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "Over TCP: what [api] token_file holds."},
            },
        },
    })
}

/// The document as it is committed and served.
#[must_use]
pub fn openapi_text() -> String {
    serde_json::to_string_pretty(&openapi()).unwrap_or_default() + "\n"
}

fn describe(operation: &Operation, sent: &mut SchemaGenerator, read: &mut SchemaGenerator) -> Value {
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.what,
        "x-right": operation.right.name(),
        "parameters": operation.params.iter().map(|p| parameter(p, read)).collect::<Vec<_>>(),
        "responses": responses(operation, sent),
    });
    if let Some(body) = operation.body {
        let body = json!({"required": operation.body_required, "content": {"application/json": {"schema": body(read)}}});
        if let Value::Object(fields) = &mut described {
            fields.insert("requestBody".to_owned(), body);
        }
    }
    described
}

fn parameter(param: &Param, read: &mut SchemaGenerator) -> Value {
    let one = (param.shape)(read).to_value();
    let schema = if param.many { json!({"type": "array", "items": one}) } else { one };
    json!({"name": param.name, "in": param.place, "required": param.place == "path", "description": param.what, "schema": schema})
}

fn responses(operation: &Operation, sent: &mut SchemaGenerator) -> Value {
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    for success in operation.successes {
        all.insert(success.status.to_string(), answer(success, sent));
    }
    if operation.params.iter().any(|param| param.name == "If-None-Match") {
        all.insert("304".to_owned(), json!({"description": "It is as it was.", "headers": headers(&[("ETag", "As it was.")])}));
    }
    for kind in COMMON.iter().chain(operation.problems) {
        all.insert(kind.status().to_string(), json!({"$ref": "#/components/responses/Problem"}));
    }
    json!(all)
}

fn answer(success: &Success, sent: &mut SchemaGenerator) -> Value {
    let mut content = json!({success.kind: {"schema": (success.shape)(sent).to_value()}});
    if let Value::Object(kinds) = &mut content {
        kinds.extend(success.others.iter().map(|kind| ((*kind).to_owned(), json!({"schema": {"type": "string"}}))));
    }
    let mut answer = json!({"description": success.what, "content": content});
    if let (false, Value::Object(fields)) = (success.headers.is_empty(), &mut answer) {
        fields.insert("headers".to_owned(), headers(success.headers));
    }
    answer
}

fn headers(all: &[(&str, &str)]) -> Value {
    let header = |(name, what): &(&str, &str)| ((*name).to_owned(), json!({"description": what, "schema": {"type": "string"}}));
    Value::Object(all.iter().map(header).collect())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests read and write the checkout")]
mod tests {
    use super::*;

    #[test]
    fn the_committed_document_is_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, openapi_text()).unwrap();
        }
        assert!(std::fs::read_to_string(path).unwrap() == openapi_text(), "run UPDATE_DOCS=1 cargo test --lib openapi");
    }

    #[test]
    fn every_path_parameter_is_described_and_no_operation_is_there_twice() {
        let mut ids = std::collections::HashSet::new();
        for operation in OPERATIONS {
            assert!(ids.insert(operation.id), "{} is there twice", operation.id);
            let wanted = operation.path.matches('{').count();
            let described = operation.params.iter().filter(|p| p.place == "path" && operation.path.contains(&format!("{{{}}}", p.name)));
            assert_eq!(described.count(), wanted, "{}", operation.id);
            assert!(operation.successes.iter().all(|s| s.status < 300) && !operation.successes.is_empty(), "{}", operation.id);
        }
    }

    #[test]
    fn what_is_sent_and_what_is_read_do_not_share_a_name_for_different_things() {
        let document = openapi();
        let snapshot = &document["components"]["schemas"]["SnapshotView"];
        let required: Vec<&str> = snapshot["required"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert!(
            required.contains(&"ref_count") && required.contains(&"policy") && !required.contains(&"compression_error"),
            "{required:?}"
        );
        let body = &document["components"]["schemas"]["TakeBody"];
        assert_eq!((body["required"].clone(), body["additionalProperties"].clone()), (json!(["instance"]), json!(false)));
        for operation in OPERATIONS {
            let refs = |text: String| -> Vec<String> {
                text.split("#/components/schemas/").skip(1).map(|r| r.split('"').next().unwrap_or("").to_owned()).collect()
            };
            for name in refs(document["paths"][operation.path].to_string()) {
                assert!(document["components"]["schemas"].get(&name).is_some(), "{name} is not described");
            }
        }
    }
}
