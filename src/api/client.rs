//! The verbs, asked of the worker over its socket.

use super::access::WhoView;
use super::ask::encode;
use crate::ids::{ForkId, HoldName, InstanceId};
use crate::worker::backend::{Answer, Backend, Removal};
use crate::worker::importing::{ImportBody, ImportView};
use crate::worker::problem::{Problem, ProblemKind};
use crate::worker::view::{
    ClockView, Findings, ForkBody, ForkView, ForkViews, NextPruneView, PlanBody, PlanView, PruneBody, PruneReport, RemovedView,
    RequestView, Requests, RestoredView, SnapshotFilter, SnapshotView, Snapshots, StatusView, TakeBody, TimelineBody, TimelineView,
    TrashView, UndeleteBody, UndeletedView, UnforkedView, VerifyBody,
};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// How long a verb that does not copy may take.
const QUICK: Duration = Duration::from_secs(30);
/// So many snapshots are asked for at once.
const PAGE: usize = 5000;
/// How long a worker may take to say that it is there.
const HELLO: Duration = Duration::from_secs(2);

/// A client of one worker. A connection is made for each request.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

/// Whether somebody answers on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// A worker.
    Answers,
    /// Nobody has the socket open.
    Nobody,
    /// It may be used by others only.
    Forbidden,
    /// Somebody has, and does not answer.
    Silent,
}

impl Client {
    /// A client of the socket; nothing is sent yet.
    ///
    /// # Errors
    /// [`Problem`] if no runtime can be made.
    pub fn new(socket: &Path) -> Answer<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Problem::new(ProblemKind::Failed, format!("cannot start the async runtime: {e}")))?;
        Ok(Self { socket: socket.to_owned(), runtime })
    }

    /// Asks whether a worker is there.
    #[must_use]
    pub fn reach(&self) -> Reach {
        let hello = self.exchange(Method::GET, "/healthz", &[], Vec::new());
        match self.runtime.block_on(async { tokio::time::timeout(HELLO, hello).await }) {
            Ok(Ok((200, _))) => Reach::Answers,
            Ok(Err(e)) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Reach::Nobody,
            Ok(Err(e)) if e.kind() == io::ErrorKind::PermissionDenied => Reach::Forbidden,
            _ => Reach::Silent,
        }
    }

    async fn exchange(&self, method: Method, path: &str, headers: &[(&str, String)], body: Vec<u8>) -> io::Result<(u16, Bytes)> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "snapkeep").header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        connection.abort();
        Ok((status, bytes))
    }

    /// What this process may do, by the worker's configuration.
    ///
    /// # Errors
    /// [`Problem`] if the worker does not answer.
    pub fn whoami(&self) -> Answer<WhoView> {
        self.ask(Call::get("/v1/whoami"))
    }

    /// Page by page, so that no answer takes long however many there are.
    fn all_snapshots(&self, filter: &SnapshotFilter) -> Answer<Snapshots> {
        let mut page = SnapshotFilter { limit: Some(PAGE), ..filter.clone() };
        let mut all = self.snapshots(&page)?;
        while let Some(next) = all.next.take() {
            page.after = Some(next.parse().map_err(|e: &str| Problem::new(ProblemKind::Failed, e))?);
            let more = self.snapshots(&page)?;
            all.snapshots.extend(more.snapshots);
            all.next = more.next;
        }
        Ok(all)
    }

    fn ask<T: DeserializeOwned>(&self, call: Call<'_>) -> Answer<T> {
        let exchange = self.exchange(call.method, &call.path, call.headers, call.body);
        let result = self.runtime.block_on(async {
            match call.limit {
                Some(limit) => tokio::time::timeout(limit, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
                None => exchange.await,
            }
        });
        let (status, bytes) = result.map_err(|e| {
            let socket = self.socket.display();
            let known = "it is not known whether it was done; look with `snapkeep status`, or repeat a fork with the same --key";
            Problem::new(ProblemKind::Failed, format!("the worker on {socket} did not answer ({e}): {known}"))
        })?;
        if (200..300).contains(&status) {
            return serde_json::from_slice(&bytes).map_err(|e| {
                Problem::new(ProblemKind::Failed, format!("the worker's answer cannot be understood ({e}); is it another version?"))
            });
        }
        let text = || format!("the worker answered {status}: {}", String::from_utf8_lossy(&bytes));
        Err(serde_json::from_slice(&bytes).unwrap_or_else(|_| Problem::new(ProblemKind::Failed, text())))
    }
}

/// One request.
struct Call<'a> {
    method: Method,
    path: String,
    headers: &'a [(&'a str, String)],
    body: Vec<u8>,
    limit: Option<Duration>,
}

impl Call<'_> {
    fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), headers: &[], body: Vec::new(), limit: Some(QUICK) }
    }

    fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    fn with(mut self, body: &impl Serialize) -> Self {
        self.body = serde_json::to_vec(body).unwrap_or_default();
        self
    }

    fn patient(mut self) -> Self {
        self.limit = None;
        self
    }
}

fn query_of(filter: &SnapshotFilter) -> String {
    let name = |value: Option<&str>, key: &str| value.map(|value| format!("{key}={}", encode(value)));
    let state = filter.state.and_then(|state| serde_json::to_value(state).ok());
    let mut pairs: Vec<String> = filter.tags.iter().map(|(key, value)| format!("tag={}", encode(&format!("{key}={value}")))).collect();
    pairs.extend(name(filter.instance.as_ref().map(AsRef::as_ref), "instance"));
    pairs.extend(name(filter.policy.as_ref().map(AsRef::as_ref), "policy"));
    pairs.extend(name(state.as_ref().and_then(|state| state.as_str()), "state"));
    pairs.extend(filter.after.map(|after| format!("cursor={after}")));
    pairs.join("&")
}

fn snapshot_path(snapshot: &str, rest: &str) -> String {
    format!("/v1/snapshots/{}{rest}", encode(snapshot))
}

impl Backend for Client {
    fn snapshots(&self, filter: &SnapshotFilter) -> Answer<Snapshots> {
        let Some(limit) = filter.limit else { return self.all_snapshots(filter) };
        self.ask(Call::get(format!("/v1/snapshots?{}&limit={limit}", query_of(filter))))
    }
    fn snapshot(&self, snapshot: &str) -> Answer<SnapshotView> {
        self.ask(Call::get(snapshot_path(snapshot, "")))
    }
    fn take(&self, body: &TakeBody) -> Answer<SnapshotView> {
        self.ask(Call::new(Method::POST, "/v1/snapshots").with(body).patient())
    }
    fn fork(&self, snapshot: &str, body: &ForkBody, wait: Option<Duration>) -> Answer<Requests> {
        let headers: Vec<(&str, String)> = wait.map(|w| ("prefer", format!("wait={}", w.as_secs().max(1)))).into_iter().collect();
        let call = Call { headers: &headers, ..Call::new(Method::POST, snapshot_path(snapshot, "/forks")) };
        self.ask(call.with(body).patient())
    }
    fn forks(&self, snapshot: Option<&str>) -> Answer<ForkViews> {
        self.ask(Call::get(snapshot.map_or("/v1/forks".to_owned(), |s| snapshot_path(s, "/forks"))))
    }
    fn fork_named(&self, name: &InstanceId) -> Answer<ForkView> {
        self.ask(Call::get(format!("/v1/forks/{}", encode(name.as_str()))))
    }
    fn unfork(&self, name: &InstanceId) -> Answer<UnforkedView> {
        self.ask(Call::new(Method::DELETE, format!("/v1/forks/{}", encode(name.as_str()))).patient())
    }
    fn settle(&self, ids: &[ForkId], wait: Duration) -> Answer<Requests> {
        let until = std::time::Instant::now() + wait;
        loop {
            let requests = ids.iter().map(|id| self.request(id)).collect::<Answer<Vec<RequestView>>>()?;
            if requests.iter().all(RequestView::is_final) || std::time::Instant::now() >= until {
                return Ok(Requests { requests, next: None });
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    fn queue(&self) -> Answer<Requests> {
        self.ask(Call::get("/v1/queue"))
    }
    fn request(&self, id: &ForkId) -> Answer<RequestView> {
        self.ask(Call::get(format!("/v1/queue/{id}")))
    }
    fn cancel(&self, id: &ForkId) -> Answer<RequestView> {
        self.ask(Call::new(Method::DELETE, format!("/v1/queue/{id}")))
    }
    fn remove(&self, snapshot: &str, how: Removal) -> Answer<RemovedView> {
        let query = match how {
            Removal::Now => "",
            Removal::Defer => "?defer=true",
            Removal::Unreadable => "?unreadable=true",
        };
        self.ask(Call::new(Method::DELETE, snapshot_path(snapshot, query)).patient())
    }
    fn hold(&self, snapshot: &str, name: &HoldName) -> Answer<SnapshotView> {
        self.ask(Call::new(Method::PUT, snapshot_path(snapshot, &format!("/holds/{name}"))))
    }
    fn release(&self, snapshot: &str, name: &HoldName) -> Answer<SnapshotView> {
        self.ask(Call::new(Method::DELETE, snapshot_path(snapshot, &format!("/holds/{name}"))))
    }
    fn restore(&self, snapshot: &str) -> Answer<RestoredView> {
        self.ask(Call::new(Method::POST, snapshot_path(snapshot, "/restore")).patient())
    }
    fn import(&self, body: &ImportBody) -> Answer<ImportView> {
        self.ask(Call::new(Method::POST, "/v1/import").with(body).patient())
    }
    fn plan(&self, body: &PlanBody) -> Answer<PlanView> {
        self.ask(Call::new(Method::POST, "/v1/plan").with(body).patient())
    }
    fn prune(&self, body: &PruneBody) -> Answer<PruneReport> {
        self.ask(Call::new(Method::POST, "/v1/prune").with(body).patient())
    }
    fn status(&self) -> Answer<StatusView> {
        self.ask(Call::get("/v1/status"))
    }
    fn verify(&self, body: &VerifyBody) -> Answer<Findings> {
        self.ask(Call::new(Method::POST, "/v1/verify").with(body).patient())
    }
    fn trash(&self) -> Answer<TrashView> {
        self.ask(Call::get("/v1/trash").patient())
    }
    fn undelete(&self, what: &str, name: Option<&InstanceId>) -> Answer<UndeletedView> {
        let body = UndeleteBody { what: what.to_owned(), name: name.cloned() };
        self.ask(Call::new(Method::POST, "/v1/undelete").with(&body))
    }
    fn timeline(&self, body: &TimelineBody) -> Answer<TimelineView> {
        let of: String = body.instances.iter().map(|instance| format!("&instance={}", encode(instance.as_str()))).collect();
        self.ask(Call::get(format!("/v1/timeline?forks={}{of}", body.forks)))
    }
    fn next_prune(&self, most: usize) -> Answer<NextPruneView> {
        self.ask(Call::get(format!("/v1/prune/next?limit={most}")).patient())
    }
    fn clock(&self, accept: bool) -> Answer<ClockView> {
        self.ask(if accept { Call::new(Method::POST, "/v1/clock/accept") } else { Call::get("/v1/clock") })
    }
}
