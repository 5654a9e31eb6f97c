//! The sockets: those that systemd has opened for us (socket activation, sd_listen_fds(3)), else our own.

use crate::api;
use crate::worker::backend::Answer;
use crate::worker::problem::{Problem, ProblemKind};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// The socket at `path`: one that was passed, or one of our own with the mode `mode`.
///
/// # Errors
/// [`Problem`] if it cannot be made, or what was passed is something else.
pub(super) fn socket(path: &Path, mode: u32) -> Answer<tokio::net::UnixListener> {
    let Some(listener) = passed(listenfd::ListenFd::from_env(), path)? else {
        return api::bind(path, mode).map_err(|e| Problem::new(ProblemKind::Failed, e.to_string()));
    };
    let tokio = listener.set_nonblocking(true).and_then(|()| tokio::net::UnixListener::from_std(listener));
    tokio.map_err(|e| Problem::new(ProblemKind::Failed, format!("cannot listen on {}, which systemd passed: {e}", path.display())))
}

/// The one socket that was passed; `None` if none was.
fn passed(mut fds: listenfd::ListenFd, path: &Path) -> Answer<Option<UnixListener>> {
    let wrong = |what: String| {
        let todo = format!("one ListenStream={} is what snapkeep.socket has to have", path.display());
        Problem::new(ProblemKind::Config, format!("systemd passed {what}: {todo} (see `socket` in [api])"))
    };
    match fds.len() {
        0 => return Ok(None),
        1 => {}
        n => return Err(wrong(format!("{n} sockets"))),
    }
    let listener = fds.take_unix_listener(0).map_err(|e| wrong(format!("what is no unix stream socket ({e})")))?;
    let Some(listener) = listener else { return Ok(None) };
    // Verbs look for the worker where the configuration says it is.
    let address = listener.local_addr().ok().and_then(|address| address.as_pathname().map(PathBuf::from));
    match address {
        Some(address) if same(&address, path) => Ok(Some(listener)),
        Some(address) => Err(wrong(format!("the socket {}", address.display()))),
        None => Err(wrong("a socket without a path".to_owned())),
    }
}

/// Whether two paths lead to one file: `/var/run` is `/run`.
fn same(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}
