//! The socket: made with mode 0600, a stale one replaced, a live one never.

use super::router;
use crate::worker::backend::Backend;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::UnixListener;

/// Why the socket cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Somebody answers on it.
    #[error("{} is another program's socket: it answers; choose another path in [api] socket", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{} is there and is no socket; move it away, or choose another path in [api] socket", path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// It cannot be made.
    #[error("cannot listen on {}: {source}; see [api] socket (at most 107 bytes, in an existing directory)", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// Makes the socket. The caller has the store's lock, so a socket of ours on which nobody answers is stale.
///
/// # Errors
/// [`ApiError`].
#[expect(clippy::disallowed_methods, reason = "the socket is no file of the store's tree")]
pub fn bind(path: &Path) -> Result<UnixListener, ApiError> {
    let failed = |source| ApiError::Io { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => return Err(ApiError::NoSocket { path: path.to_owned() }),
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => return Err(ApiError::InUse { path: path.to_owned() }),
        Ok(_) => std::fs::remove_file(path).map_err(failed)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    // Bound under another name and renamed once nobody else may connect: there is no moment in which others may.
    let mut hidden = path.as_os_str().to_owned();
    hidden.push("~");
    let hidden = PathBuf::from(hidden);
    match std::fs::remove_file(&hidden) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    let listener = UnixListener::bind(&hidden).map_err(failed)?;
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    std::fs::rename(&hidden, path).map_err(failed)?;
    Ok(listener)
}

/// Serves until `shutdown` comes; requests in flight are answered first.
///
/// # Errors
/// [`io::Error`] of the listener.
pub async fn serve(
    listener: UnixListener,
    backend: Arc<dyn Backend>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, router(backend)).with_graceful_shutdown(shutdown).await
}
