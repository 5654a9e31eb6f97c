//! The list of all operations.

use super::*;
use crate::api::access::WhoView;
use crate::worker::importing::{ImportBody, ImportView};
use crate::worker::view::{
    ClockView, Findings, ForkBody, ForkView, ForkViews, NextPruneView, PlanBody, PlanView, PruneBody, PruneReport, RemovedView,
    RequestView, Requests, RestoredView, SnapshotView, Snapshots, StatusView, TakeBody, TimelineView, TrashView, UndeleteBody,
    UndeletedView, UnforkedView, VerifyBody,
};
use ProblemKind::{Busy, Conflict, InUse, KeyReused, NotFound, PreconditionFailed, QueueFull};

/// All of them.
pub(in crate::api) const OPERATIONS: &[Operation] = &[
    Operation {
        id: "health",
        path: "/healthz",
        what: "Whether the worker is there; asks for no right",
        right: Right::Nobody,
        successes: &[ok("It is.", of::<HealthView>)],
        ..BASE
    },
    Operation {
        id: "openapi",
        path: "/v1/openapi.json",
        what: "This document; asks for no right",
        right: Right::Nobody,
        successes: &[ok("OpenAPI 3.1.", anything)],
        ..BASE
    },
    Operation {
        id: "whoami",
        path: "/v1/whoami",
        what: "What the caller may do; asks for no right",
        right: Right::Nobody,
        successes: &[ok("The caller.", of::<WhoView>)],
        ..BASE
    },
    Operation {
        id: "metrics",
        path: "/metrics",
        what: "What Prometheus reads",
        successes: &[Success { kind: "application/openmetrics-text", ..ok("OpenMetrics.", any_text) }],
        problems: &[NotFound],
        ..BASE
    },
    Operation {
        id: "events",
        path: "/v1/events",
        what: "Events as they come, from `since` on; as a list, if only JSON is accepted",
        params: &[
            param("since", "query", "Behind this place: `next` of a list, or an `id` of the stream.", event_place),
            param("Last-Event-ID", "header", "The same, as browsers say it.", any_text),
            Param { many: true, ..param("event", "query", "With such names.", event_name) },
            Param { many: true, ..param("instance", "query", "Of this instance; of a fork by its name.", any_text) },
            param("level", "query", "At least so grave.", level),
            param("limit", "query", "A list: so many at most, up to 1,000.", page_size),
            param("wait", "query", "A list: seconds to wait for the next event, up to 60.", to_sixty),
        ],
        successes: &[Success { others: &["text/event-stream"], ..ok("The events.", of::<crate::api::feed::List>) }],
        problems: &[NotFound],
        long: true,
        ..BASE
    },
    Operation {
        id: "timeline",
        path: "/v1/timeline",
        what: "Every snapshot in few bytes, by instance",
        params: &[
            Param { many: true, ..param("instance", "query", "Of this instance.", of::<crate::ids::InstanceId>) },
            param("forks", "query", "How many forks of each snapshot are named, up to 1,000.", to_thousand),
            IF_NONE_MATCH,
        ],
        successes: &[Success { headers: &[ETAG], ..ok("The lanes.", of::<TimelineView>) }],
        ..BASE
    },
    Operation {
        id: "next_prune",
        path: "/v1/prune/next",
        what: "The plan in short: what goes next, and what must stay",
        params: &[param("limit", "query", "So many entries of each kind.", page_size), IF_NONE_MATCH],
        successes: &[Success { headers: &[ETAG], ..ok("The plan in short.", of::<NextPruneView>) }],
        ..BASE
    },
    Operation {
        id: "list_snapshots",
        path: "/v1/snapshots",
        what: "Snapshots, oldest first",
        params: &[
            param("instance", "query", "Of this instance.", of::<crate::ids::InstanceId>),
            POLICY,
            Param { many: true, ..param("tag", "query", "key=value; with all of these.", tag) },
            param("state", "query", "In this state.", of::<crate::policy::SnapshotState>),
            LIMIT,
            Param { shape: place, ..CURSOR },
            IF_NONE_MATCH,
        ],
        successes: &[Success { headers: &[ETAG, LINK], ..ok("The snapshots.", of::<Snapshots>) }],
        ..BASE
    },
    Operation {
        id: "take_snapshot",
        method: "post",
        path: "/v1/snapshots",
        what: "Takes a snapshot now, and answers when it is durable",
        body: Some(of::<TakeBody>),
        body_required: true,
        successes: &[Success { status: 201, headers: &[LOCATION, ETAG], ..ok("It is there.", of::<SnapshotView>) }],
        problems: &[NotFound, Conflict, InUse, Busy],
        long: true,
        ..CHANGE
    },
    Operation {
        id: "get_snapshot",
        path: "/v1/snapshots/{id}",
        what: "One snapshot",
        params: &[SNAPSHOT, IF_NONE_MATCH],
        successes: &[Success { headers: &[ETAG], ..ok("The snapshot.", of::<SnapshotView>) }],
        problems: &[NotFound],
        ..BASE
    },
    Operation {
        id: "remove_snapshot",
        method: "delete",
        path: "/v1/snapshots/{id}",
        what: "Removes a snapshot: it lies in the trash until its grace is over. Refused while forks or holds need it. `unreadable` takes admin",
        params: &[
            SNAPSHOT,
            param("defer", "query", "If forks need it: let it go with the last of them.", flag),
            param("unreadable", "query", "Also if its manifest cannot be read.", flag),
            IF_MATCH,
        ],
        successes: &[ok("It is removed, or marked to go.", of::<RemovedView>)],
        problems: &[NotFound, Conflict, PreconditionFailed, Busy],
        long: true,
        ..CHANGE
    },
    Operation {
        id: "list_forks_of_snapshot",
        path: "/v1/snapshots/{id}/forks",
        what: "The forks of a snapshot that live, by name",
        params: &[SNAPSHOT, LIMIT, CURSOR, IF_NONE_MATCH],
        successes: &[Success { headers: &[ETAG, LINK], ..ok("The forks.", of::<ForkViews>) }],
        problems: &[NotFound],
        ..BASE
    },
    Operation {
        id: "fork_snapshot",
        method: "post",
        path: "/v1/snapshots/{id}/forks",
        what: "Asks for forks: the answer says that they are accepted, which is durable. All of one request are accepted, or none",
        params: &[
            SNAPSHOT,
            param(
                "Idempotency-Key",
                "header",
                "The same key and body get the same answer for 24 hours, and for as long as the forks live.",
                key,
            ),
            param("Prefer", "header", "`wait=10`: answer when they are made, or after so many seconds.", any_text),
        ],
        body: Some(of::<ForkBody>),
        body_required: true,
        successes: &[
            Success { status: 201, headers: &[LOCATION, APPLIED], ..ok("All of them are made.", of::<Requests>) },
            Success { status: 202, headers: &[LOCATION, APPLIED], ..ok("They are accepted.", of::<Requests>) },
        ],
        problems: &[NotFound, Conflict, KeyReused, QueueFull, Busy],
        long: true,
        ..CHANGE
    },
    Operation {
        id: "restore_snapshot",
        method: "post",
        path: "/v1/snapshots/{id}/restore",
        what: "Puts the instance back in place; what was there is in the trash",
        params: &[SNAPSHOT],
        successes: &[ok("It is back.", of::<RestoredView>)],
        problems: &[NotFound, Conflict, InUse, Busy],
        long: true,
        ..CHANGE
    },
    Operation {
        id: "hold_snapshot",
        method: "put",
        path: "/v1/snapshots/{id}/holds/{name}",
        what: "Pins a snapshot by hand",
        params: &[SNAPSHOT, HOLD],
        successes: &[ok("It is held.", of::<SnapshotView>)],
        problems: &[NotFound, Busy],
        ..CHANGE
    },
    Operation {
        id: "release_snapshot",
        method: "delete",
        path: "/v1/snapshots/{id}/holds/{name}",
        what: "Lets a hold go",
        params: &[SNAPSHOT, HOLD],
        successes: &[ok("It is let go.", of::<SnapshotView>)],
        problems: &[NotFound, Busy],
        ..CHANGE
    },
    Operation {
        id: "list_forks",
        path: "/v1/forks",
        what: "All forks that live, by name",
        params: &[LIMIT, CURSOR, IF_NONE_MATCH],
        successes: &[Success { headers: &[ETAG, LINK], ..ok("The forks.", of::<ForkViews>) }],
        ..BASE
    },
    Operation {
        id: "get_fork",
        path: "/v1/forks/{name}",
        what: "One fork that lives",
        params: &[FORK, IF_NONE_MATCH],
        successes: &[Success { headers: &[ETAG], ..ok("The fork.", of::<ForkView>) }],
        problems: &[NotFound],
        ..BASE
    },
    Operation {
        id: "unfork",
        method: "delete",
        path: "/v1/forks/{name}",
        what: "Removes a fork that does not run",
        params: &[FORK],
        successes: &[ok("It is removed.", of::<UnforkedView>)],
        problems: &[NotFound, Conflict, InUse, Busy],
        long: true,
        ..CHANGE
    },
    Operation {
        id: "list_queue",
        path: "/v1/queue",
        what: "Fork requests: unfinished ones first, in the order of arrival",
        params: &[
            param("snapshot", "query", "Of this snapshot.", of::<crate::ids::SnapshotId>),
            param("state", "query", "In this state.", request_state),
            param("key", "query", "Asked for with this key.", text),
            LIMIT,
            CURSOR,
            IF_NONE_MATCH,
        ],
        successes: &[Success { headers: &[ETAG, LINK], ..ok("The requests.", of::<Requests>) }],
        ..BASE
    },
    Operation {
        id: "get_request",
        path: "/v1/queue/{id}",
        what: "One fork request",
        params: &[REQUEST, IF_NONE_MATCH],
        successes: &[Success { headers: &[ETAG], ..ok("The request.", of::<RequestView>) }],
        problems: &[NotFound],
        ..BASE
    },
    Operation {
        id: "cancel_request",
        method: "delete",
        path: "/v1/queue/{id}",
        what: "Cancels a fork request that has not begun",
        params: &[REQUEST],
        successes: &[ok("It is cancelled.", of::<RequestView>)],
        problems: &[NotFound, Conflict, Busy],
        ..CHANGE
    },
    Operation { id: "list_policies", path: "/v1/policies", what: "The same as /v1/status", successes: STATUS, ..BASE },
    Operation {
        id: "status",
        path: "/v1/status",
        what: "The worker, and how each policy does with each instance",
        successes: STATUS,
        ..BASE
    },
    Operation {
        id: "plan",
        path: "/v1/plan",
        what: "What retention would do with every snapshot, and why",
        params: &[Param { many: true, ..POLICY }, param("at", "query", "As of this time.", time), IF_NONE_MATCH],
        successes: &[Success { headers: &[ETAG], ..ok("The plan.", of::<PlanView>) }],
        problems: &[NotFound],
        ..BASE
    },
    Operation {
        id: "plan_by",
        method: "post",
        path: "/v1/plan",
        what: "The same, also by another configuration; changes nothing",
        body: Some(of::<PlanBody>),
        successes: &[ok("The plan.", of::<PlanView>)],
        problems: &[NotFound, ProblemKind::Config],
        ..BASE
    },
    Operation {
        id: "prune",
        method: "post",
        path: "/v1/prune",
        what: "Removes what retention no longer keeps; with `hash` exactly that plan, or nothing",
        right: Right::Admin,
        body: Some(of::<PruneBody>),
        successes: &[ok("What went.", of::<PruneReport>)],
        problems: &[NotFound, Conflict, Busy],
        long: true,
        ..CHANGE
    },
    Operation {
        id: "look_over",
        path: "/v1/verify",
        what: "Compares all digests; reads every byte of the store",
        right: Right::Write,
        successes: &[ok("What was found.", of::<Findings>)],
        long: true,
        ..BASE
    },
    Operation {
        id: "verify",
        method: "post",
        path: "/v1/verify",
        what: "Checks the store as the body says; `repair` takes admin",
        body: Some(of::<VerifyBody>),
        successes: &[ok("What was found.", of::<Findings>)],
        long: true,
        ..CHANGE
    },
    Operation {
        id: "import",
        method: "post",
        path: "/v1/import",
        what: "Takes directories of this host in as snapshots; with `move` they go",
        right: Right::Admin,
        body: Some(of::<ImportBody>),
        body_required: true,
        successes: &[ok("What became of each.", of::<ImportView>)],
        problems: &[NotFound, Conflict, ProblemKind::Config, Busy],
        long: true,
        ..CHANGE
    },
    Operation {
        id: "list_trash",
        path: "/v1/trash",
        what: "What can be brought back still",
        params: &[LIMIT, CURSOR, IF_NONE_MATCH],
        successes: &[Success { headers: &[ETAG, LINK], ..ok("The trash.", of::<TrashView>) }],
        ..BASE
    },
    Operation {
        id: "undelete",
        method: "post",
        path: "/v1/undelete",
        what: "Brings a snapshot or an instance back from the trash",
        body: Some(of::<UndeleteBody>),
        body_required: true,
        successes: &[ok("It is back.", of::<UndeletedView>)],
        problems: &[NotFound, Conflict, Busy],
        ..CHANGE
    },
    Operation { id: "clock", path: "/v1/clock", what: "What is thought of the wall clock", successes: CLOCK, ..BASE },
    Operation {
        id: "accept_clock",
        method: "post",
        path: "/v1/clock/accept",
        what: "Believes the wall clock from now on",
        right: Right::Admin,
        successes: CLOCK,
        ..CHANGE
    },
];

const STATUS: &[Success] = &[ok("The status.", of::<StatusView>)];
const CLOCK: &[Success] = &[ok("The clock.", of::<ClockView>)];
