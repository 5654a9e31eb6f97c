//! HTTP as somebody with curl speaks it; every answer is held to the OpenAPI document before a test sees it.

use super::World;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub text: String,
    pub body: Value,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// A problem's kind.
    pub fn kind(&self) -> &str {
        self.body["kind"].as_str().unwrap_or("")
    }
}

/// Sends a request on a connection of its own; `line` is method and path, `headers` end with a line break each.
pub fn send(mut stream: impl Read + Write, line: &str, headers: &str, body: &str) -> Reply {
    let length = body.len();
    let host = if headers.to_ascii_lowercase().contains("host:") { "" } else { "host: localhost\r\n" };
    // The answer may come, and the connection end, before all of it is sent.
    let _ = write!(stream, "{line} HTTP/1.1\r\n{host}connection: close\r\n{headers}content-length: {length}\r\n\r\n{body}");
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let answer = String::from_utf8(bytes).unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{line}: no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let pairs = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let headers = pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    let reply = Reply { status, headers, text: text.to_owned(), body: serde_json::from_str(text).unwrap_or_default() };
    check(line, &reply);
    reply
}

/// Over the worker's socket.
pub fn ask(world: &World, line: &str, headers: &str, body: &str) -> Reply {
    ask_at(&world.store.join("snapkeep.sock"), line, headers, body)
}

pub fn ask_at(socket: &Path, line: &str, headers: &str, body: &str) -> Reply {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    send(stream, line, headers, body)
}

/// Over loopback.
pub fn ask_tcp(port: u16, line: &str, headers: &str, body: &str) -> Reply {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let host = if headers.contains("host:") { String::new() } else { format!("host: 127.0.0.1:{port}\r\n") };
    send(stream, line, &format!("{host}{headers}"), body)
}

/// The document; a property that it does not describe is a mistake here, though clients must bear one.
static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let mut document = snapkeep::api::openapi();
    close(&mut document["components"]["schemas"]);
    document
});

fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            let is_object = fields.get("properties").is_some_and(|p| p.is_object()) && fields.get("type").is_some_and(Value::is_string);
            if is_object && !fields.contains_key("additionalProperties") {
                fields.insert("additionalProperties".to_owned(), json!(false));
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

fn is_template_of(template: &str, path: &str) -> bool {
    let (a, b): (Vec<&str>, Vec<&str>) = (template.split('/').collect(), path.split('/').collect());
    a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.starts_with('{') || a == b)
}

/// Panics unless the document describes this answer.
fn check(line: &str, reply: &Reply) {
    let (method, target) = line.split_once(' ').unwrap();
    let path = target.split('?').next().unwrap();
    let paths = DOCUMENT["paths"].as_object().unwrap();
    // A path without parameters comes before one with.
    let exact = paths.get(path).or_else(|| paths.iter().find(|(template, _)| is_template_of(template, path)).map(|(_, found)| found));
    let method = if method == "HEAD" { "get".to_owned() } else { method.to_ascii_lowercase() };
    let operation = exact.and_then(|found| found.get(&method));
    let Some(operation) = operation else {
        assert!(matches!(reply.status, 403 | 404 | 405 | 421), "{line}: nobody describes this: {reply:?}");
        return check_body(line, reply, "application/problem+json", &json!({"$ref": "#/components/schemas/Problem"}));
    };
    let described = &operation["responses"][reply.status.to_string()];
    assert!(described.is_object(), "{line}: the document does not know the status {}: {}", reply.status, reply.text);
    if reply.status == 304 || line.starts_with("HEAD ") {
        assert_eq!(reply.text, "", "{line}");
        return;
    }
    let described = match described["$ref"].as_str() {
        Some(at) => DOCUMENT.pointer(at.trim_start_matches('#')).unwrap(),
        None => described,
    };
    let sent = reply.header("content-type").split(';').next().unwrap_or_default();
    let kinds = described["content"].as_object().unwrap();
    let content = kinds.get(sent).unwrap_or_else(|| panic!("{line}: the document does not know the media type {sent}: {reply:?}"));
    check_body(line, reply, sent, &content["schema"]);
    for header in described["headers"].as_object().into_iter().flatten().map(|(name, _)| name) {
        let may_lack = ["Link", "Preference-Applied"].contains(&header.as_str());
        assert!(may_lack || reply.headers.contains_key(&header.to_ascii_lowercase()), "{line}: no {header}: {reply:?}");
    }
}

fn check_body(line: &str, reply: &Reply, kind: &str, schema: &Value) {
    static KNOWN: LazyLock<Mutex<HashMap<String, Arc<jsonschema::Validator>>>> = LazyLock::new(Mutex::default);
    assert_eq!(reply.header("content-type").split(';').next(), Some(kind), "{line}: {reply:?}");
    if !kind.ends_with("json") {
        return;
    }
    let validator = Arc::clone(KNOWN.lock().unwrap().entry(schema.to_string()).or_insert_with(|| {
        let mut whole = schema.clone();
        whole["components"] = DOCUMENT["components"].clone();
        Arc::new(jsonschema::draft202012::options().should_validate_formats(true).build(&whole).unwrap())
    }));
    let complaints: Vec<String> = validator.iter_errors(&reply.body).map(|e| format!("{} at {}", e, e.instance_path())).collect();
    assert!(complaints.is_empty(), "{line}: {} is not as described: {complaints:#?}", reply.text);
    if reply.status >= 400 {
        assert_eq!(reply.body["status"], reply.status, "{line}");
    }
}
