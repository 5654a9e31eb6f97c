//! What is wrong with a configuration, and where: every problem with its place, its line and what to do.

use serde::Serialize;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do, where that is not obvious.
    pub help: Option<String>,
    /// The offending line.
    pub source_line: String,
    /// How many characters of it are meant.
    pub width: usize,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        let (indent, marks) = (" ".repeat(self.column - 1), "^".repeat(self.width.max(1)));
        write!(f, "error: {}\n{margin}--> {}:{}:{}\n", self.message, self.file.display(), self.line, self.column)?;
        write!(f, "{margin} |\n{number} | {}\n{margin} | {indent}{marks}", self.source_line)?;
        match &self.help {
            Some(help) => write!(f, "\n{margin} = help: {help}"),
            None => Ok(()),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Problems in the files: all of them.
    #[error("{}", list(.0))]
    Problems(Vec<Problem>),
    /// A file cannot be read.
    #[error("cannot read the configuration {}: {source}; give its path with --config", path.display())]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n")
}

/// A file of the configuration, for finding places in it.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

impl Source {
    /// A problem at these bytes of the file.
    pub(super) fn problem(&self, span: Range<usize>, message: impl Into<String>, help: Option<String>) -> Problem {
        let start = span.start.min(self.text.len());
        let before = self.text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let rest = self.text.get(line_start..).unwrap_or_default();
        let source_line = rest.lines().next().unwrap_or_default().to_owned();
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        let meant = self.text.get(start..span.end.min(self.text.len())).unwrap_or_default();
        Problem {
            file: self.path.clone(),
            line: before.matches('\n').count() + 1,
            column,
            message: message.into(),
            help,
            width: meant.lines().next().unwrap_or_default().chars().count(),
            source_line,
        }
    }
}
