//! What is wrong with a configuration: where it is, what it is, what to do. Reads no file and judges no value.

use serde::{Serialize, Serializer, ser::SerializeMap as _};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

/// One thing that is wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key it is about, such as `policy[0].keep.last`; none for a mistake of syntax.
    pub key: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do, where that is not obvious.
    pub help: Option<String>,
    /// The line it is in.
    pub source_line: String,
    /// How many characters of that line it is about.
    pub length: usize,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let gutter = number.len();
        writeln!(f, "error: {}", self.message)?;
        writeln!(f, "{:gutter$}--> {}:{}:{}", "", self.file.display(), self.line, self.column)?;
        writeln!(f, "{:gutter$} |", "")?;
        writeln!(f, "{number} | {}", self.source_line)?;
        // Tabs before the place are repeated, so that the carets stand below it however wide a tab is shown.
        let before = self.source_line.chars().take(self.column.saturating_sub(1));
        let indent: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        write!(f, "{:gutter$} | {indent}{}", "", "^".repeat(self.length.max(1)))?;
        if let Some(help) = &self.help {
            write!(f, "\n{:gutter$} = help: {help}", "")?;
        }
        Ok(())
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file or `policies.d` cannot be read.
    #[error("cannot read {}: {source}{}", path.display(), advice(source))]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The files were read, and these things are wrong with them.
    #[error("{}", listing(problems))]
    Invalid {
        /// All of them, in the order of files and lines; never empty.
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    /// What is wrong with the files; empty if they could not be read.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Unreadable { .. } => &[],
            Self::Invalid { problems } => problems,
        }
    }
}

/// `{"message": …, "problems": […]}`, and `path` if a file could not be read.
impl Serialize for ConfigError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Unreadable { path, .. } => {
                map.serialize_entry("message", &self.to_string())?;
                map.serialize_entry("path", path)?;
            }
            Self::Invalid { problems } => map.serialize_entry("message", &count(problems))?,
        }
        map.serialize_entry("problems", self.problems())?;
        map.end()
    }
}

fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::NotFound => "; name another file with --config, or begin with config/quickstart.toml",
        std::io::ErrorKind::PermissionDenied => "; run as the user of the worker, or name another file with --config",
        std::io::ErrorKind::InvalidData => "; save it as UTF-8",
        _ => "",
    }
}

fn count(problems: &[Problem]) -> String {
    let files: BTreeSet<_> = problems.iter().map(|p| &p.file).collect();
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    format!("{} problem{} in {} file{}", problems.len(), plural(problems.len()), files.len(), plural(files.len()))
}

fn listing(problems: &[Problem]) -> String {
    let mut text: String = problems.iter().map(|problem| format!("{problem}\n\n")).collect();
    text.push_str(&count(problems));
    text
}

/// A file's path and text.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) file: PathBuf,
    pub(super) text: String,
}

impl Source {
    /// Line and column (from 1) of a byte, and the line.
    fn locate(&self, offset: usize) -> (usize, usize, &str) {
        let offset = (0..=offset.min(self.text.len())).rev().find(|at| self.text.is_char_boundary(*at)).unwrap_or(0);
        let (before, after) = self.text.split_at_checked(offset).unwrap_or(("", &self.text));
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let end = offset + after.find('\n').unwrap_or(after.len());
        let line = self.text.get(start..end).unwrap_or_default().trim_end_matches('\r');
        let column = before.get(start..).map_or(0, |text| text.chars().count());
        (before.matches('\n').count() + 1, column + 1, line)
    }

    /// `file:line`, for a message that points somewhere else.
    pub(super) fn place(&self, offset: usize) -> String {
        format!("{}:{}", self.file.display(), self.locate(offset).0)
    }
}

/// What was found in one file so far.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) source: &'a Source,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
    /// Keys that are wrong, or meant by one that is: nothing is said about their absence.
    touched: BTreeSet<String>,
    /// The file has mistakes of syntax: what seems missing may only not have been understood.
    partial: bool,
}

impl<'a> Report<'a> {
    pub(super) fn new(source: &'a Source) -> Self {
        Self { source, problems: Vec::new(), warnings: Vec::new(), touched: BTreeSet::new(), partial: false }
    }

    /// A mistake in the TOML itself.
    pub(super) fn syntax(&mut self, span: Range<usize>, message: &str) {
        self.partial = true;
        let problem = self.problem(span, None, format!("not valid TOML: {message}"), None);
        // One slip often derails the parser more than once; the first complaint about a line is the one that helps.
        if self.problems.iter().all(|p| p.line != problem.line) {
            self.problems.push(problem);
        }
    }

    /// Something wrong with a key's name or value.
    pub(super) fn wrong(&mut self, key: &str, span: Range<usize>, message: impl Into<String>) {
        self.push(key, span, message.into(), None);
    }

    /// The same, with advice.
    pub(super) fn wrong_help(&mut self, key: &str, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.push(key, span, message.into(), Some(help.into()));
    }

    /// Something that should be there and is not, said at `span`; nothing is said if the key was touched.
    pub(super) fn missing(&mut self, key: &str, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        if !self.partial && !self.is_touched(key) {
            self.push(key, span, message.into(), Some(help.into()));
        }
    }

    /// Something odd that is not wrong.
    pub(super) fn warn(&mut self, offset: usize, message: impl fmt::Display) {
        self.warnings.push(format!("{}: {message}", self.source.place(offset)));
    }

    /// Notes that a wrong key was probably meant to be this one.
    pub(super) fn touch(&mut self, key: &str) {
        self.touched.insert(key.to_owned());
    }

    /// Whether something was wrong with the key, or with one that seems to be meant for it.
    pub(super) fn is_touched(&self, key: &str) -> bool {
        self.touched.contains(key)
    }

    /// Whether something was wrong with a key of the table `path`, or with the table.
    pub(super) fn has_problem_below(&self, path: &str) -> bool {
        self.touched.iter().any(|key| key.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '['])))
    }

    fn push(&mut self, key: &str, span: Range<usize>, message: String, help: Option<String>) {
        self.touch(key);
        let problem = self.problem(span, Some(key.to_owned()), message, help);
        // On a line that is not TOML anything else may be an echo of that.
        if !self.problems.iter().any(|p| p.key.is_none() && p.line == problem.line) {
            self.problems.push(problem);
        }
    }

    fn problem(&self, span: Range<usize>, key: Option<String>, message: String, help: Option<String>) -> Problem {
        let (line, column, text) = self.source.locate(span.start);
        let end = span.end.min(self.source.text.len());
        let spanned = self.source.text.get(span.start..end).and_then(|text| text.lines().next()).map_or(1, |text| text.chars().count());
        let room = text.chars().count().saturating_sub(column - 1);
        Problem {
            file: self.source.file.clone(),
            line,
            column,
            key,
            message,
            help,
            length: spanned.min(room).max(1),
            source_line: text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_shown_as_the_compiler_shows_its_own() {
        let source = Source { file: "/etc/s.toml".into(), text: "\n".repeat(11) + "max-age = \"7d\"\n" };
        let mut report = Report::new(&source);
        report.wrong("max-age", 11..18, "unknown key `max-age`, did you mean `max_age`?");
        report.wrong_help("x", 21..25, "bad", "do better");
        assert_eq!(
            report.problems[0].to_string(),
            "error: unknown key `max-age`, did you mean `max_age`?\n  --> /etc/s.toml:12:1\n   |\n12 | max-age = \"7d\"\n   | ^^^^^^^"
        );
        assert_eq!(
            report.problems[1].to_string(),
            "error: bad\n  --> /etc/s.toml:12:11\n   |\n12 | max-age = \"7d\"\n   |           ^^^^\n   = help: do better"
        );
    }

    #[test]
    fn columns_count_characters_and_carets_stay_on_the_line() {
        let source = Source { file: "f".into(), text: "\tä = \"ü\r\nnext\"".into() };
        let mut report = Report::new(&source);
        report.wrong("ä", 6..20, "bad");
        let problem = &report.problems[0];
        assert_eq!((problem.line, problem.column, problem.source_line.as_str()), (1, 6, "\tä = \"ü"));
        assert!(problem.to_string().ends_with("| \t    ^^"), "{problem}");
    }

    #[test]
    fn places_at_and_beyond_the_end_are_on_the_last_line() {
        let source = Source { file: "f".into(), text: "a = 1\nb".into() };
        assert_eq!(source.locate(7), (2, 2, "b"));
        assert_eq!(source.locate(99), (2, 2, "b"));
        let empty = Source { file: "f".into(), text: String::new() };
        assert_eq!(empty.locate(0), (1, 1, ""));
    }

    #[test]
    fn an_unreadable_file_is_named_with_what_to_do() {
        let error = ConfigError::Unreadable { path: "/no".into(), source: std::io::ErrorKind::NotFound.into() };
        assert_eq!(
            error.to_string(),
            "cannot read /no: entity not found; name another file with --config, or begin with config/quickstart.toml"
        );
        let json = serde_json::to_value(&error).unwrap();
        assert_eq!(json["path"], "/no");
        assert_eq!(json["problems"], serde_json::json!([]));
    }
}
