//! Where log lines go: each event as one line of JSON, or of text on a terminal.

use std::fmt;
use std::io::Write as _;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, filter};

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One object a line.
    Json,
    /// For people.
    Text,
}

/// Where events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Standard output: `run` and `once`.
    Stdout,
    /// Standard error: every other verb.
    Stderr,
    /// Nowhere.
    Nowhere,
}

/// Sets the process's log up, once; a second call changes nothing. `SNAPKEEP_LOG` (for example `debug`) adds free-form
/// lines on standard error for developers.
pub fn init(form: Form, to: To) {
    let events = EventLines { form, to }.with_filter(filter::filter_fn(|meta| meta.target() == "snapkeep::event"));
    let debug = std::env::var("SNAPKEEP_LOG").ok().map(|wanted| {
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_filter(EnvFilter::new(wanted + ",snapkeep::event=off"))
    });
    // Somebody has set it up before: a test, or an embedding program.
    let _ = tracing_subscriber::registry().with(events).with(debug).try_init();
}

struct EventLines {
    form: Form,
    to: To,
}

impl<S: tracing::Subscriber> Layer<S> for EventLines {
    fn on_event(&self, event: &tracing::Event<'_>, _context: Context<'_, S>) {
        let mut line = Line { wanted: if self.form == Form::Json { "json" } else { "text" }, text: String::new() };
        event.record(&mut line);
        line.text.push('\n');
        // A log that cannot be written must not stop the work.
        let _ = match self.to {
            To::Stdout => std::io::stdout().lock().write_all(line.text.as_bytes()),
            To::Stderr => std::io::stderr().lock().write_all(line.text.as_bytes()),
            To::Nowhere => Ok(()),
        };
    }
}

struct Line {
    wanted: &'static str,
    text: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == self.wanted {
            value.clone_into(&mut self.text);
        }
    }
    fn record_debug(&mut self, _field: &Field, _value: &dyn fmt::Debug) {}
}
