//! The socket: made with the mode that the configuration wants, a stale one replaced, a live one never; loopback beside it if
//! that was asked for; and the connections, of which there are only so many.

use super::access::{self, Peer};
use super::router::{Api, router};
use crate::config::ApiConfig;
use crate::worker::Worker;
use axum::Router;
use axum::body::Body;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// So many connections at once.
const CONNECTIONS: usize = 512;
/// How long a request's head may take to come; and how long a connection may be idle.
const SLOWEST_HEAD: Duration = Duration::from_secs(30);
/// No head is longer, bytes.
const LONGEST_HEAD: usize = 64 << 10;
/// So long a caller has to read the rest of an answer, once nothing is done for anybody any more and the worker stops.
const FLUSH: Duration = Duration::from_secs(2);
/// How long to wait when a connection could not be accepted.
const BREATHER: Duration = Duration::from_millis(50);

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
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another port in [api] tcp")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// The reason.
        source: io::Error,
    },
    /// The token would not be believed.
    #[error("[api] token_file: {why}")]
    Token {
        /// Why not, and what to do.
        why: String,
    },
}

/// Makes the socket. The caller has the store's lock, so a socket of ours on which nobody answers is stale.
///
/// # Errors
/// [`ApiError`].
#[expect(clippy::disallowed_methods, reason = "the socket is no file of the store's tree")]
pub fn bind(path: &Path, mode: u32) -> Result<UnixListener, ApiError> {
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
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    std::fs::rename(&hidden, path).map_err(failed)?;
    Ok(listener)
}

/// Listens on a loopback address. A token file that would not be believed is better known now than at the first request.
///
/// # Errors
/// [`ApiError::Tcp`], [`ApiError::Token`].
pub async fn bind_tcp(config: &ApiConfig) -> Result<Option<TcpListener>, ApiError> {
    let Some(address) = config.tcp else { return Ok(None) };
    if let Some(file) = &config.token_file {
        access::read_token(file).map_err(|why| ApiError::Token { why })?;
    }
    TcpListener::bind(address).await.map(Some).map_err(|source| ApiError::Tcp { address, source })
}

/// Where requests come from.
#[derive(Debug)]
pub struct Listeners {
    /// The worker's socket.
    pub unix: UnixListener,
    /// Loopback, if that was asked for.
    pub tcp: Option<TcpListener>,
}

/// Serves until `stop` is true; requests in flight are answered first.
pub async fn serve(listeners: Listeners, worker: Arc<Worker>, mut stop: watch::Receiver<bool>) {
    let api = Arc::new(Api::new(worker));
    let router = router(Arc::clone(&api));
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // Whoever comes when all places are taken waits in the kernel's own queue, which is bounded.
        let place = tokio::select! {
            place = Arc::clone(&room).acquire_owned() => place,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let accepted = tokio::select! {
            stream = listeners.unix.accept() => stream.and_then(|(stream, _)| Ok((Peer::of_unix(&stream)?, Stream::Unix(stream)))),
            stream = accept_tcp(listeners.tcp.as_ref()) => stream,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match (accepted, place) {
            (Ok((peer, stream)), Ok(place)) => {
                let (router, stop) = (router.clone(), stop.clone());
                connections.spawn(async move {
                    match stream {
                        Stream::Unix(stream) => converse(stream, peer, router, stop).await,
                        Stream::Tcp(stream) => converse(stream, peer, router, stop).await,
                    }
                    drop(place);
                });
            }
            // Too many open files, or a caller who was gone at once: the next one may have more luck.
            _ => tokio::time::sleep(BREATHER).await,
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listeners);
    // Whoever does not read what they have asked for, such as a stopped follower of the events, is not waited for any longer.
    tokio::select! {
        () = async { while connections.join_next().await.is_some() {} } => {}
        () = async { api.lanes.empty().await; tokio::time::sleep(FLUSH).await } => connections.abort_all(),
    }
    api.lanes.empty().await;
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

async fn accept_tcp(listener: Option<&TcpListener>) -> io::Result<(Peer, Stream)> {
    let Some(listener) = listener else { return std::future::pending().await };
    let (stream, from) = listener.accept().await?;
    let to = stream.local_addr()?;
    drop(stream.set_nodelay(true));
    Ok((Peer::Tcp { from, to }, Stream::Tcp(stream)))
}

/// Answers what comes on one connection; how it ends concerns the caller alone.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, peer: Peer, router: Router, mut stop: watch::Receiver<bool>) {
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        // A router is always ready.
        tower_service::Service::call(&mut router.clone(), request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SLOWEST_HEAD)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stop.wait_for(|stop| *stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    drop(connection.await);
}
