//! A progress bar for long copies, on a terminal only.

use crate::snapshot::copy::{NoProgress, Progress};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::sync::{Arc, OnceLock};

/// Less than this is done before a bar could be read, bytes.
const WORTH_SHOWING: u64 = 64 << 20;

/// A bar on standard error, or none where nobody looks.
pub(super) fn bars() -> Arc<dyn Progress + Send + Sync> {
    if std::io::stderr().is_terminal() { Arc::new(Bar::default()) } else { Arc::new(NoProgress) }
}

#[derive(Default)]
struct Bar {
    bar: OnceLock<ProgressBar>,
}

impl Progress for Bar {
    fn total(&self, bytes: u64) {
        match self.bar.get() {
            Some(bar) => bar.inc_length(bytes),
            None if bytes >= WORTH_SHOWING => {
                let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
                let bar = ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                // Somebody was quicker: theirs it is.
                if let Err(late) = self.bar.set(bar) {
                    late.finish_and_clear();
                }
            }
            None => {}
        }
    }

    fn advance(&self, bytes: u64) {
        if let Some(bar) = self.bar.get() {
            bar.inc(bytes);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}
