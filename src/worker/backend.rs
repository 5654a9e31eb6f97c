//! The verbs, as a trait: the worker carries them out itself, and the client of the worker's socket asks it to. The
//! command line knows only this.

use super::importing::{ImportBody, ImportView};
use super::problem::{Problem, ProblemKind};
use super::view::{
    ClockView, Findings, ForkBody, ForkView, ForkViews, NextPruneView, PlanBody, PlanView, PruneBody, PruneReport, RemovedView,
    RequestView, Requests, RestoredView, SnapshotFilter, SnapshotView, Snapshots, StatusView, TakeBody, TimelineBody, TimelineView,
    TrashView, UndeletedView, UnforkedView, VerifyBody,
};
use crate::event::feed::Feed;
use crate::ids::{ForkId, HoldName, InstanceId, SnapshotId};
use std::sync::Arc;
use std::time::Duration;

/// The result of every verb.
pub type Answer<T> = Result<T, Problem>;

/// How a snapshot is removed by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Now, or not at all.
    Now,
    /// Now, or with its last fork.
    Defer,
    /// Now, also if its manifest cannot be read.
    Unreadable,
}

/// The verbs. `snapshot` arguments are an id, or `INSTANCE/NAME`, or a name that only one snapshot has.
pub trait Backend: Send + Sync {
    /// `ls`.
    fn snapshots(&self, filter: &SnapshotFilter) -> Answer<Snapshots>;
    /// `show`.
    fn snapshot(&self, snapshot: &str) -> Answer<SnapshotView>;
    /// `snapshot`: takes one now, and waits for it.
    fn take(&self, body: &TakeBody) -> Answer<SnapshotView>;
    /// What `take` leaves to be done when somebody has its answer and there is no worker to do it in the background.
    fn after_take(&self, _snapshot: &SnapshotId) {}
    /// `fork`: durable when this returns; made later, or within `wait`.
    fn fork(&self, snapshot: &str, body: &ForkBody, wait: Option<Duration>) -> Answer<Requests>;
    /// `forks`.
    fn forks(&self, snapshot: Option<&str>) -> Answer<ForkViews>;
    /// One fork that lives.
    fn fork_named(&self, name: &InstanceId) -> Answer<ForkView>;
    /// `unfork`.
    fn unfork(&self, name: &InstanceId) -> Answer<UnforkedView>;
    /// `queue`.
    fn queue(&self) -> Answer<Requests>;
    /// One request.
    fn request(&self, id: &ForkId) -> Answer<RequestView>;
    /// These requests as they are once nothing will happen to any of them, or the time is over.
    fn settle(&self, ids: &[ForkId], _wait: Duration) -> Answer<Requests> {
        let requests = ids.iter().map(|id| self.request(id)).collect::<Answer<_>>()?;
        Ok(Requests { requests, next: None })
    }
    /// `queue cancel`.
    fn cancel(&self, id: &ForkId) -> Answer<RequestView>;
    /// `rm`, with `--defer` or `--unreadable`.
    fn remove(&self, snapshot: &str, how: Removal) -> Answer<RemovedView>;
    /// `hold`.
    fn hold(&self, snapshot: &str, name: &HoldName) -> Answer<SnapshotView>;
    /// `release`.
    fn release(&self, snapshot: &str, name: &HoldName) -> Answer<SnapshotView>;
    /// `import`: takes directories in, one after the other, and waits for all; a dry run only looks.
    fn import(&self, body: &ImportBody) -> Answer<ImportView>;
    /// `restore`.
    fn restore(&self, snapshot: &str) -> Answer<RestoredView>;
    /// `plan`.
    fn plan(&self, body: &PlanBody) -> Answer<PlanView>;
    /// `prune`: the plan of now, or exactly the one with this hash.
    fn prune(&self, body: &PruneBody) -> Answer<PruneReport>;
    /// `status`.
    fn status(&self) -> Answer<StatusView>;
    /// `verify`: changes nothing unless it is to repair.
    fn verify(&self, body: &VerifyBody) -> Answer<Findings>;
    /// `ls --trash`.
    fn trash(&self) -> Answer<TrashView>;
    /// `undelete`: a snapshot, or an instance, which may get another name.
    fn undelete(&self, what: &str, name: Option<&InstanceId>) -> Answer<UndeletedView>;
    /// The metrics of a running worker, in OpenMetrics.
    fn metrics(&self) -> Answer<String> {
        Err(Problem::new(ProblemKind::NotFound, "only a running worker has metrics"))
    }
    /// The lanes of the page: every snapshot in few bytes, without looking at the disk.
    fn timeline(&self, body: &TimelineBody) -> Answer<TimelineView>;
    /// What the next prune would take, and what it would but must not.
    fn next_prune(&self, most: usize) -> Answer<NextPruneView>;
    /// The last events, if somebody keeps them.
    fn feed(&self) -> Option<Arc<Feed>> {
        None
    }
    /// `clock`, and `clock accept`.
    fn clock(&self, accept: bool) -> Answer<ClockView>;
}
