//! Holds a TOML document against the schema: keys, types, ranges, choices, all mistakes at once. Takes the wrong parts
//! out of the document, so that serde reads the rest. Knows no key by name; what values mean is not its concern.

use super::problem::Report;
use serde_json::Value;
use std::collections::BTreeSet;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

type Node<'i> = Spanned<DeValue<'i>>;

/// Checks the table at `path` and takes out what is wrong; `header` is where a missing key is reported.
pub(super) fn check(table: &mut DeTable<'_>, schema: &Value, path: &str, header: &Range<usize>, report: &mut Report<'_>) {
    let present: BTreeSet<String> = table.keys().map(|key| key.get_ref().to_string()).collect();
    let mut bad = Vec::new();
    for (key, value) in table.iter_mut() {
        let name = key.get_ref().as_ref();
        let at = join(path, name);
        let ok = match schema_of(schema, name) {
            Some(part) => check_value(value, part, &at, &key.span(), report),
            None => {
                unknown_key(name, path, key.span(), schema, &present, report);
                false
            }
        };
        if !ok {
            bad.push(key.clone());
        }
    }
    for name in list(schema, "required").iter().filter_map(Value::as_str).filter(|name| !present.contains(*name)) {
        let help = schema_of(schema, name).map_or_else(String::new, |part| format!("it must be {}", wanted(part)));
        let place = if path.is_empty() { "the file".to_owned() } else { header_of(path) };
        report.missing(&join(path, name), header.clone(), format!("{place} has no `{name}`"), help);
    }
    for key in &bad {
        table.remove(key);
    }
}

/// Checks that a file of `policies.d` has policies only, and takes everything else out.
pub(super) fn only_policies(table: &mut DeTable<'_>, schema: &Value, report: &mut Report<'_>) {
    let others = table.keys().filter(|key| key.get_ref() != "policy" && schema_of(schema, key.get_ref()).is_some());
    for key in others.cloned().collect::<Vec<_>>() {
        let name = key.get_ref();
        let message = format!("`{name}` is not allowed here: files in policies.d have [[policy]] tables only");
        report.wrong_help(name, key.span(), message, "move it into the main file");
        table.remove(&key);
    }
}

/// Whether serde can read this value; everything wrong with it is reported, and taken out of tables within it.
fn check_value(value: &mut Node<'_>, schema: &Value, path: &str, key: &Range<usize>, report: &mut Report<'_>) -> bool {
    let span = value.span();
    if let Some(branch) = branch_of(value.get_ref(), schema) {
        return check_value(value, branch, path, key, report);
    }
    match (value.get_mut(), schema.get("type").and_then(Value::as_str)) {
        (DeValue::Table(table), Some("object")) => {
            // An inline table's span is its text; a header's or a dotted key's is shown as the key.
            let header = if span.is_empty() { key } else { &span };
            check(table, schema, path, header, report);
            true
        }
        (DeValue::Array(items), Some("array")) => {
            let part = schema.get("items").unwrap_or(&Value::Null);
            let mut ok = true;
            for (n, item) in items.iter_mut().enumerate() {
                let span = item.span();
                ok &= check_value(item, part, &format!("{path}[{n}]"), &span, report);
            }
            if !ok {
                report.touch(path);
            }
            ok
        }
        (DeValue::Boolean(_), Some("boolean")) => true,
        (DeValue::Integer(number), Some("integer")) => {
            let number = i64::from_str_radix(number.as_str(), number.radix()).ok();
            check_range(number, schema, path, span, report)
        }
        (DeValue::String(text), Some("string")) => check_choice(text, schema, path, span, report),
        // A list of choices with descriptions has no type of its own.
        (DeValue::String(text), None) if !choices(schema).is_empty() => check_choice(text, schema, path, span, report),
        (found, _) => {
            let name = last(path);
            let message = format!("`{name}` must be {}, not {}", wanted(schema), described(found));
            match advice(found, schema, name) {
                Some(help) => report.wrong_help(path, span, message, help),
                None => report.wrong(path, span, message),
            }
            false
        }
    }
}

/// Of a schema that allows values of several types, the part for a value's type.
fn branch_of<'s>(value: &DeValue<'_>, schema: &'s Value) -> Option<&'s Value> {
    let kind = match value {
        DeValue::String(_) => "string",
        DeValue::Array(_) => "array",
        _ => return None,
    };
    list(schema, "anyOf").iter().find(|branch| branch.get("type").and_then(Value::as_str) == Some(kind))
}

fn check_range(number: Option<i64>, schema: &Value, path: &str, span: Range<usize>, report: &mut Report<'_>) -> bool {
    let least = schema.get("minimum").and_then(Value::as_i64).unwrap_or(0);
    // Numbers are u32 throughout, which the schema says in `format` only.
    let most = schema.get("maximum").and_then(Value::as_i64).unwrap_or(i64::from(u32::MAX));
    let name = last(path);
    match number {
        Some(n) if n < least => report.wrong(path, span, format!("`{name}` is {n}, but must be {least} or more")),
        Some(n) if n <= most => return true,
        _ => report.wrong(path, span, format!("`{name}` is too large: {most} is the largest value")),
    }
    false
}

fn check_choice(text: &str, schema: &Value, path: &str, span: Range<usize>, report: &mut Report<'_>) -> bool {
    let choices = choices(schema);
    if choices.is_empty() || choices.contains(&text) {
        return true;
    }
    let name = last(path);
    let message = format!("`{name}` must be {}, not \"{text}\"", wanted(schema));
    match nearest(text, choices.iter().copied()) {
        Some(near) => report.wrong_help(path, span, message, format!("did you mean \"{near}\"?")),
        None => report.wrong(path, span, message),
    }
    false
}

fn unknown_key(name: &str, path: &str, span: Range<usize>, schema: &Value, present: &BTreeSet<String>, report: &mut Report<'_>) {
    let at = join(path, name);
    let known: Vec<&str> = properties(schema).map(|(key, _)| key.as_str()).collect();
    // What is there already was not meant; unless nothing else is near.
    let absent = known.iter().copied().filter(|key| !present.contains(*key));
    if let Some(near) = nearest(name, absent).or_else(|| nearest(name, known.iter().copied())) {
        report.wrong(&at, span, format!("unknown key `{name}`, did you mean `{near}`?"));
        report.touch(&join(path, near));
        return;
    }
    let mut homes = Vec::new();
    find_key(super::raw::shared_schema(), &name.replace('-', "_"), "", &mut homes);
    let help = if homes.is_empty() {
        format!("{} knows: {}", if path.is_empty() { "the file".to_owned() } else { header_of(path) }, known.join(", "))
    } else {
        format!("it belongs in {}", homes.join(" or "))
    };
    report.wrong_help(&at, span, format!("unknown key `{name}`"), help);
}

/// The headers of all tables that have a key of this name.
fn find_key(schema: &Value, name: &str, path: &str, homes: &mut Vec<String>) {
    for (key, part) in properties(schema) {
        let at = join(path, key);
        if key == name {
            homes.push(if path.is_empty() { "the file, outside any table".to_owned() } else { header_of(path) });
        }
        match part.get("items") {
            Some(items) => find_key(items, name, &format!("{at}[0]"), homes),
            None => find_key(part, name, &at, homes),
        }
    }
}

/// The word among `known` that `word` was probably meant to be.
pub(super) fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', ' '], "_");
    let word = plain(word);
    let near = known.map(|key| (strsim::damerau_levenshtein(&word, &plain(key)), key)).min_by_key(|(distance, _)| *distance);
    near.filter(|(distance, key)| *distance <= word.len().min(key.len()).div_ceil(3)).map(|(_, key)| key)
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flatten()
}

fn schema_of<'s>(schema: &'s Value, name: &str) -> Option<&'s Value> {
    let named = schema.get("properties").and_then(|keys| keys.get(name));
    named.or_else(|| schema.get("additionalProperties").filter(|any| any.is_object()))
}

fn list<'s>(schema: &'s Value, key: &str) -> &'s [Value] {
    schema.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The strings that are allowed; none if any is.
fn choices(schema: &Value) -> Vec<&str> {
    let described = list(schema, "oneOf").iter().filter_map(|choice| choice.get("const"));
    list(schema, "enum").iter().chain(described).filter_map(Value::as_str).collect()
}

/// What the schema wants, in words.
fn wanted(schema: &Value) -> String {
    let kind = schema.get("type").and_then(Value::as_str);
    let choices = choices(schema);
    if let Some((last, others)) = choices.split_last().filter(|(_, others)| !others.is_empty()) {
        return format!("\"{}\" or \"{last}\"", others.join("\", \""));
    }
    if let Some(title) = schema.get("title").and_then(Value::as_str).filter(|_| kind == Some("string") || kind.is_none()) {
        return title.to_owned();
    }
    match kind {
        Some("boolean") => "true or false",
        Some("integer") => "a whole number",
        Some("object") => "a table",
        Some("array") if schema.get("items").and_then(|items| items.get("type")) == Some(&Value::from("object")) => "a list of tables",
        Some("array") => "a list of strings",
        _ => "a string",
    }
    .to_owned()
}

fn described(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) if text.chars().count() <= 40 => format!("the string \"{}\"", text.escape_debug()),
        DeValue::String(_) => "a string".to_owned(),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {}", number.as_str()),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// What to write instead, where one can tell.
fn advice(found: &DeValue<'_>, schema: &Value, name: &str) -> Option<String> {
    let kind = schema.get("type").and_then(Value::as_str);
    let duration = schema.get("title").and_then(Value::as_str).is_some_and(|title| title.starts_with("a duration"));
    match (found, kind) {
        (DeValue::Integer(n), _) if duration => Some(format!("write a unit, in quotes: \"{n}s\", \"{n}m\", \"{n}h\" or \"{n}d\"")),
        (DeValue::String(text), Some("array")) => Some(format!("write {name} = [\"{}\"]", text.escape_debug())),
        (DeValue::String(text), Some("integer" | "boolean")) if !text.is_empty() => Some("write it without quotes".to_owned()),
        (DeValue::Table(_), Some("array")) => Some(format!("write the header with two brackets: [[{name}]]")),
        (DeValue::Array(_), Some("object")) => Some(format!("write the header with one bracket on each side: [{name}]")),
        _ => None,
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// `policy[0]` is written `[[policy]]`, `policy[0].keep` is written `[policy.keep]`.
fn header_of(path: &str) -> String {
    let plain: String = path.split('.').map(|part| part.split('[').next().unwrap_or(part)).collect::<Vec<_>>().join(".");
    if path.ends_with(']') { format!("[[{plain}]]") } else { format!("[{plain}]") }
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn the_nearest_word_is_near_and_case_and_dashes_do_not_count() {
        let known = ["max_age", "max_count", "min"];
        assert_eq!(nearest("max-age", known.into_iter()), Some("max_age"));
        assert_eq!(nearest("MaxCont", known.into_iter()), Some("max_count"));
        assert_eq!(nearest("mni", known.into_iter()), Some("min"));
        assert_eq!(nearest("schedule", known.into_iter()), None);
        assert_eq!(nearest("", known.into_iter()), None);
    }
}
