//! Printing: the one place that writes to the terminal. A reader that goes away ends it quietly.

use crate::worker::problem::{Problem, ProblemKind};
use serde::Serialize;
use std::io::{IsTerminal as _, Write as _};

/// Where a verb's answer goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Out {
    /// JSON instead of text.
    pub json: bool,
}

impl Out {
    /// Prints text, or the value as one JSON document.
    pub(super) fn show<T: Serialize>(self, value: &T, text: impl FnOnce() -> String) {
        if self.json {
            match serde_json::to_string_pretty(value) {
                Ok(json) => print(&(json + "\n")),
                Err(e) => complain(&e.to_string()),
            }
        } else {
            print(&text());
        }
    }

    /// Prints a problem on standard error; returns its exit code.
    #[must_use]
    pub(super) fn problem(self, problem: &Problem) -> u8 {
        if self.json {
            complain(&serde_json::to_string_pretty(problem).unwrap_or_else(|_| problem.detail.clone()));
        } else {
            // Where the detail does not say what to do, the kind does.
            let next = if problem.kind == ProblemKind::Forbidden { format!("\n{}", problem.remedy) } else { String::new() };
            complain(&format!("snapkeep: {}{next}", problem.detail));
        }
        problem.kind.exit_code()
    }
}

/// Writes to standard output, with colours only where a terminal wants them (`NO_COLOR` is heeded).
pub(super) fn print(text: &str) {
    // A closed pipe has nobody to tell.
    let _ = anstream::stdout().lock().write_all(text.as_bytes());
}

/// Writes a line to standard error.
pub(super) fn complain(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

/// Whether standard output is a terminal.
#[must_use]
pub(super) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}
