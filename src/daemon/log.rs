//! Where log lines go: each event as one line of JSON, or of text on a terminal, or as an entry of the journal.

use super::journal::Journal;
use std::fmt;
use std::io::Write as _;
use tracing::field::{Field, Visit};
use tracing_subscriber::fmt::format::FmtSpan;
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
/// lines on standard error for developers, and one for each span that ends: where a snapshot, a fork or a prune spent its time.
pub fn init(form: Form, to: To) {
    // Started by systemd: the journal gets the fields, and the line as its message.
    let journal = if to == To::Stdout { Journal::if_connected() } else { None };
    let events = EventLines { form, to, journal }.with_filter(filter::filter_fn(|meta| meta.target() == "snapkeep::event"));
    let debug = std::env::var("SNAPKEEP_LOG").ok().map(|wanted| {
        let layer = tracing_subscriber::fmt::layer().with_span_events(FmtSpan::CLOSE);
        layer.with_writer(std::io::stderr).with_filter(EnvFilter::new(wanted + ",snapkeep::event=off"))
    });
    // Somebody has set it up before: a test, or an embedding program.
    let _ = tracing_subscriber::registry().with(events).with(debug).try_init();
}

struct EventLines {
    form: Form,
    to: To,
    journal: Option<Journal>,
}

impl<S: tracing::Subscriber> Layer<S> for EventLines {
    fn on_event(&self, event: &tracing::Event<'_>, _context: Context<'_, S>) {
        let is_json = self.form == Form::Json || self.journal.is_some();
        let mut line = Line { wanted: if is_json { "json" } else { "text" }, text: String::new() };
        event.record(&mut line);
        if self.journal.as_ref().is_some_and(|journal| journal.send(&line.text).is_ok()) {
            return;
        }
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
