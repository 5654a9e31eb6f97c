//! The catalogue in the forms that others read: a page, JSON for programs, and the journal's message catalogue. All are
//! generated; the tests hold the files to the code, and a field that changes its meaning to a note in the changelog.

use super::{CATALOGUE, Described, Field, Level};
use serde_json::{Value, json};

/// The journal's message id of an event: 32 hex digits, made of its name.
#[must_use]
pub fn message_id(event: &str) -> String {
    blake3::hash(format!("snapkeep event {event}").as_bytes()).to_hex().chars().take(32).collect()
}

impl Field {
    /// Its type in JSON: `string`, `integer`, `boolean`, `time` (RFC 3339, UTC) or `strings`; and whether it may be null.
    #[must_use]
    pub fn kind(&self) -> (&'static str, bool) {
        let written: String = self.rust.split_whitespace().collect();
        let (inner, is_optional) = match written.strip_prefix("Option<").and_then(|rest| rest.strip_suffix('>')) {
            Some(inner) => (inner.to_owned(), true),
            None => (written, false),
        };
        let kind = match inner.as_str() {
            "u64" | "u32" | "i64" => "integer",
            "bool" => "boolean",
            "DateTime<Utc>" => "time",
            "Vec<String>" => "strings",
            _ => "string",
        };
        (kind, is_optional)
    }

    /// What its number counts, if it is a number.
    #[must_use]
    pub fn unit(&self) -> Option<&'static str> {
        let is_bytes = self.meaning.ends_with(", bytes") || self.name == "bytes" || self.name.ends_with("_bytes");
        match self.kind().0 {
            "integer" if self.name.ends_with("_ms") => Some("milliseconds"),
            "integer" if is_bytes => Some("bytes"),
            "integer" => Some("count"),
            _ => None,
        }
    }

    /// Eight hex digits that change with its type, unit or meaning.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let text = format!("{:?} {:?} {}", self.kind(), self.unit(), self.meaning);
        blake3::hash(text.as_bytes()).to_hex().chars().take(8).collect()
    }
}

/// What the file said of each field when it came: `(event.field, fingerprint)`, also of those that are gone.
fn first_of(before: &str) -> Vec<(String, String)> {
    let Ok(file) = serde_json::from_str::<Value>(before) else { return Vec::new() };
    let list = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut all = Vec::new();
    for event in list(&file, "events") {
        for field in list(&event, "fields") {
            all.push((format!("{}.{}", text(&event, "name"), text(&field, "name")), text(&field, "first")));
        }
    }
    all.extend(list(&file, "gone").iter().map(|field| (text(field, "name"), text(field, "first"))));
    all
}

fn fields() -> impl Iterator<Item = (String, &'static Field)> {
    CATALOGUE.iter().flat_map(|event| event.fields.iter().map(|field| (format!("{}.{}", event.name, field.name), field)))
}

/// The catalogue for programs, `docs/events.json`. `before` is what the file says now: what it knows of a field's first
/// meaning stays in it, and so do fields that are gone.
#[must_use]
pub fn catalogue_json(before: &str) -> String {
    let first = first_of(before);
    let first_of = |name: &str| first.iter().find(|(known, _)| known == name).map(|(_, first)| first.clone());
    let field = |event: &Described, field: &Field| {
        let (kind, is_optional) = field.kind();
        let name = format!("{}.{}", event.name, field.name);
        json!({
            "name": field.name, "type": kind, "null": is_optional, "unit": field.unit(), "meaning": field.meaning,
            "now": field.fingerprint(), "first": first_of(&name).unwrap_or_else(|| field.fingerprint()),
        })
    };
    let events: Vec<Value> = CATALOGUE
        .iter()
        .map(|event| {
            json!({
                "name": event.name, "level": event.level.as_str(), "message_id": message_id(event.name), "when": event.when,
                "act": event.act, "identity": event.identity,
                "repeats": event.repeats.map(|repeats| json!({"same": repeats.same, "alike": repeats.alike})),
                "fields": event.fields.iter().map(|f| field(event, f)).collect::<Vec<_>>(),
            })
        })
        .collect();
    let is_gone = |name: &str| !fields().any(|(known, _)| known == name);
    let gone: Vec<Value> =
        first.iter().filter(|(name, _)| is_gone(name)).map(|(name, first)| json!({"name": name, "first": first})).collect();
    let text = serde_json::to_string_pretty(&json!({"format": 1, "events": events, "gone": gone}));
    text.unwrap_or_default() + "\n"
}

/// The fields that are gone, or mean something else than when they came, and of which the changelog says nothing: each as
/// the changelog must have it.
#[cfg(test)]
fn unnoted(before: &str, changelog: &str) -> Vec<String> {
    let note = |(name, first): (String, String)| match fields().find(|(known, _)| *known == name) {
        None => Some(format!("`{name}` (gone)")),
        Some((_, field)) if field.fingerprint() != first => Some(format!("`{name}` ({})", field.fingerprint())),
        Some(_) => None,
    };
    first_of(before).into_iter().filter_map(note).filter(|note| !changelog.contains(note.as_str())).collect()
}

/// The catalogue as a page of Markdown, `docs/events.md`.
#[must_use]
pub fn catalogue_page() -> String {
    let mut page = String::from(
        "# Events\n\nOne line of JSON per fact: `ts`, `level`, `event`, `id`, and the fields below. Names are stable. \
         Events come at least once; one that is reported again has the same `id`, which is made of the fields marked *.\n\n\
         Started by systemd, the worker writes to the journal itself: `MESSAGE` is that line, `MESSAGE_ID` is the one below, \
         `SNAPKEEP_EVENT`, `SNAPKEEP_ID` and one `SNAPKEEP_FIELD` for each field. `journalctl -x` explains each event.\n\n\
         A trouble that comes again and again is written once, then counted: `log.repeated` says how often. Where that may \
         happen, a line below says what makes two of them the same.\n\n\
         This page, `events.json` beside it and `config/journal/snapkeep.catalog` are generated from `src/event.rs` \
         (`UPDATE_DOCS=1 cargo test --lib event`); tests hold them together. A field that comes to mean something else, or goes, \
         needs a line in the changelog.\n",
    );
    for event in CATALOGUE {
        page.push_str(&format!("\n## `{}` ({})\n\n{}\n\n", event.name, event.level.as_str(), event.when));
        if !event.act.is_empty() {
            page.push_str(&format!("**What to do:** {}\n\n", event.act));
        }
        if let Some(repeats) = event.repeats {
            let ticked = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            page.push_str(&format!(
                "Counted while {} are the same, but for numbers and paths in words.\n\n",
                ticked(&[repeats.same, repeats.alike].concat())
            ));
        }
        page.push_str(&format!("`MESSAGE_ID={}`\n\n| field | type | unit | meaning |\n|---|---|---|---|\n", message_id(event.name)));
        for field in event.fields {
            let star = if event.identity.contains(&field.name) { " *" } else { "" };
            let (kind, is_optional) = field.kind();
            let null = if is_optional { " or null" } else { "" };
            page.push_str(&format!("| `{}`{star} | {kind}{null} | {} | {} |\n", field.name, field.unit().unwrap_or(""), field.meaning));
        }
    }
    page
}

/// The name of an event's field in the journal.
#[must_use]
pub fn journal_field(field: &str) -> String {
    format!("SNAPKEEP_{}", field.to_uppercase())
}

/// The journal's message catalogue, `config/journal/snapkeep.catalog`: what `journalctl -x` shows beside an event.
#[must_use]
pub fn journal_catalogue() -> String {
    let mut text =
        String::from("# Generated from src/event.rs. Installed to /usr/lib/systemd/catalog/, then: journalctl --update-catalog\n");
    for event in CATALOGUE {
        let level = match event.level {
            Level::Info => "as it should be",
            Level::Warn => "somebody should look, some day",
            Level::Error => "somebody should look now",
        };
        text.push_str(&format!(
            "\n-- {}\nSubject: snapkeep: {}\nDefined-By: snapkeep\n\n{}\n",
            message_id(event.name),
            event.name,
            event.when
        ));
        let is_always_there = |field: &&Field| !field.kind().1;
        for field in event.fields.iter().filter(is_always_there) {
            text.push_str(&format!("\n{}: @{}@", field.name, journal_field(field.name)));
        }
        text.push_str(&format!("\n\nLevel: {} ({level}).\n", event.level.as_str()));
        if !event.act.is_empty() {
            text.push_str(&format!("What to do: {}\n", event.act));
        }
    }
    text
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests read and write the checkout")]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::fs;

    fn path(below: &str) -> String {
        format!("{}/{below}", env!("CARGO_MANIFEST_DIR"))
    }

    fn holds(below: &str, made: &str) {
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::create_dir_all(std::path::Path::new(&path(below)).parent().unwrap()).unwrap();
            fs::write(path(below), made).unwrap();
        }
        let there = fs::read_to_string(path(below)).unwrap_or_default();
        assert!(there == made, "{below} is not what the code says: run UPDATE_DOCS=1 cargo test --lib event");
    }

    #[test]
    fn the_pages_and_catalogues_are_the_code() {
        holds("docs/events.md", &catalogue_page());
        holds("config/journal/snapkeep.catalog", &journal_catalogue());
        let before = fs::read_to_string(path("docs/events.json")).unwrap_or_default();
        holds("docs/events.json", &catalogue_json(&before));
    }

    #[test]
    fn no_field_changes_its_meaning_or_goes_without_a_line_in_the_changelog() {
        let before = fs::read_to_string(path("docs/events.json")).unwrap_or_default();
        let missing = unnoted(&before, &fs::read_to_string(path("CHANGELOG.md")).unwrap());
        assert!(missing.is_empty(), "say in CHANGELOG.md what changed, naming each as it stands here: {missing:?}");
    }

    #[test]
    fn a_changed_meaning_and_a_field_that_went_are_asked_for_until_the_changelog_names_them() {
        let now = catalogue_json("");
        assert_eq!(unnoted(&now, ""), Vec::<String>::new());
        let field = CATALOGUE.iter().find(|e| e.name == "fork.created").unwrap().fields.iter().find(|f| f.name == "waited_ms").unwrap();
        // Once it meant something else, and there was one more.
        let old = now.replace(&format!("\"first\": \"{}\"", field.fingerprint()), "\"first\": \"00000000\"");
        let old = old.replace("\"gone\": []", "\"gone\": [{\"name\": \"fork.created.odour\", \"first\": \"11111111\"}]");
        let wanted = vec![format!("`fork.created.waited_ms` ({})", field.fingerprint()), "`fork.created.odour` (gone)".to_owned()];
        assert_eq!(unnoted(&old, ""), wanted);
        assert_eq!(unnoted(&old, &wanted.join(" now means; ")), Vec::<String>::new());
        // Writing the file anew forgets neither.
        assert_eq!(unnoted(&catalogue_json(&old), ""), wanted);
    }

    #[test]
    fn names_and_message_ids_are_unique_and_what_somebody_should_look_at_says_what_to_do() {
        let names: HashSet<_> = CATALOGUE.iter().map(|e| e.name).collect();
        let ids: HashSet<_> = CATALOGUE.iter().map(|e| message_id(e.name)).collect();
        assert_eq!((names.len(), ids.len()), (CATALOGUE.len(), CATALOGUE.len()));
        for event in CATALOGUE {
            assert!(event.level == Level::Info || !event.act.is_empty(), "{} does not say what to do", event.name);
            let all = [event.identity, event.repeats.map_or(&[][..], |r| r.same), event.repeats.map_or(&[][..], |r| r.alike)].concat();
            for name in all {
                assert!(event.fields.iter().any(|field| field.name == name), "{} has no field {name}", event.name);
            }
        }
    }

    #[test]
    fn the_journals_names_of_fields_are_valid_and_none_is_the_events_own() {
        for (_, field) in fields() {
            let name = journal_field(field.name);
            assert!(name.len() <= 64 && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'), "{name}");
            assert!(!["SNAPKEEP_EVENT", "SNAPKEEP_ID"].contains(&name.as_str()), "{name}");
        }
    }
}
