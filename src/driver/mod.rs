//! Drivers bring an instance to rest for the time of a copy, and let it go on afterwards, whatever happened.
//!
//! A driver knows how its kind of instance is paused and how to tell whether it runs. It copies nothing, and knows
//! neither store nor queue.

mod command;
mod plain;
pub mod running;

pub use command::CommandError;
pub use plain::Plain;
pub use running::{CannotTell, InUse};

use crate::ids::InstanceId;
use crate::store::fs::Fs;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

/// What snapshots and restores need of each kind of instance.
pub trait Driver: fmt::Debug + Send + Sync {
    /// Its name in manifests and logs.
    fn name(&self) -> &str;

    /// Brings the instance at `dir` to rest. It goes on when the guard is thawed or dropped; if this fails, it already does.
    ///
    /// # Errors
    /// [`DriverError::Freeze`].
    fn quiesce<'a>(&'a self, instance: &'a InstanceId, dir: &'a Path) -> Result<Quiesced<'a>, DriverError>;

    /// Whether an instance stands still between [`Driver::quiesce`] and its thaw, so that it waits for the copy.
    fn holds_still(&self) -> bool;

    /// Whether the instance at `dir` runs.
    ///
    /// # Errors
    /// [`CannotTell`]; then it must be taken to run.
    fn in_use(&self, fs: &Fs, dir: &Path) -> Result<Option<InUse>, CannotTell> {
        running::in_use(fs, dir)
    }
}

/// Why an instance was not brought to rest, or not let go on.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// It could not be brought to rest; it was told to go on, and `thaw` is what went wrong with that.
    #[error("cannot freeze the instance: {source}{}", also(thaw))]
    Freeze {
        /// The first failure.
        source: CommandError,
        /// Failures of the thaw that followed.
        thaw: Vec<CommandError>,
    },
    /// It could not be told to go on; everything there was to try was tried.
    #[error("cannot thaw the instance{}", also(failures))]
    Thaw {
        /// Each failure.
        failures: Vec<CommandError>,
    },
}

fn also(failures: &[CommandError]) -> String {
    failures.iter().map(|failure| format!("; thaw: {failure}")).collect()
}

/// An instance at rest. Thaw it explicitly, for the error and the time; dropping it (an early return, a panic) thaws too.
#[must_use = "dropping this thaws the instance at once"]
pub struct Quiesced<'a> {
    since: Instant,
    thaw: Option<Box<dyn FnOnce() -> Result<(), DriverError> + Send + 'a>>,
}

/// How a thaw went.
#[derive(Debug)]
pub struct Thawed {
    /// From the first thing done to freeze to the last done to thaw.
    pub frozen: Duration,
    /// Whether the instance goes on.
    pub result: Result<(), DriverError>,
}

impl fmt::Debug for Quiesced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quiesced").field("since", &self.since).finish_non_exhaustive()
    }
}

impl<'a> Quiesced<'a> {
    /// A guard that runs `thaw` once; the freeze began at `since`.
    pub fn new(since: Instant, thaw: impl FnOnce() -> Result<(), DriverError> + Send + 'a) -> Self {
        Self { since, thaw: Some(Box::new(thaw)) }
    }

    /// Lets the instance go on.
    pub fn thaw(mut self) -> Thawed {
        let result = self.thaw.take().map_or(Ok(()), |thaw| thaw());
        Thawed { frozen: self.since.elapsed(), result }
    }
}

impl Drop for Quiesced<'_> {
    fn drop(&mut self) {
        if let Some(thaw) = self.thaw.take()
            && let Err(error) = thaw()
        {
            tracing::debug!(%error, "thaw on the way out of a failure");
        }
    }
}
