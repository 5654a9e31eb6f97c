//! Verbs that look or act through a [`Backend`]: asked, waited for, shown.

use super::args::{ForkArgs, ImportArgs, QueueAction, Verb};
use super::out::Out;
use super::render;
use crate::ids::{HoldName, InstanceId};
use crate::worker::backend::{Answer, Backend, Removal};
use crate::worker::importing::ImportBody;
use crate::worker::problem::{Problem, ProblemKind};
use crate::worker::verify::repair::Repair;
use crate::worker::view::{Finding, ForkBody, PruneBody, Requests, SnapshotFilter, SnapshotView, TakeBody, VerifyBody};
use chrono::{DateTime, Utc};

/// Whether a verb only looks: then it needs no lock.
#[must_use]
pub(super) fn only_looks(verb: &Verb) -> bool {
    match verb {
        Verb::Ls { .. } | Verb::Show { .. } | Verb::Forks { .. } | Verb::Status | Verb::Plan(_) => true,
        Verb::Verify { repair, .. } => !repair,
        Verb::Import(args) => args.dry_run,
        Verb::Clock { action } => action.is_none(),
        Verb::Queue { action } => action.is_none(),
        _ => false,
    }
}

/// Carries a verb out; returns its exit code.
///
/// # Errors
/// The backend's problem.
pub(super) fn carry_out(verb: Verb, backend: &dyn Backend, out: Out, now: DateTime<Utc>) -> Answer<u8> {
    match verb {
        Verb::Snapshot { instance, name, tag } => {
            let taken = backend.take(&TakeBody { instance, name, tags: tag.into_iter().collect() })?;
            out.show(&taken, || format!("{} ({})\n", taken.id, taken.name));
            // It is there, and whoever waits knows: the digests take longer than the snapshot.
            backend.after_take(&taken.id);
        }
        Verb::Fork(args) => return fork(args, backend, out, now),
        Verb::Unfork { name } => unfork(&name, backend, out)?,
        Verb::Restore { snapshot } => restore(&snapshot, backend, out)?,
        Verb::Import(args) => return import(args, backend, out),
        Verb::Ls { trash: true, .. } => {
            let trash = backend.trash()?;
            out.show(&trash, || render::trash(&trash, now));
        }
        Verb::Ls { instance, policy, tag, trash: false } => {
            let all =
                backend.snapshots(&SnapshotFilter { instance, policy, tags: tag.into_iter().collect(), ..SnapshotFilter::default() })?;
            out.show(&all, || render::snapshots(&all, now));
        }
        Verb::Show { snapshot } => {
            let view = backend.snapshot(&snapshot)?;
            out.show(&view, || render::snapshot(&view, now));
        }
        Verb::Forks { snapshot } => {
            let all = backend.forks(snapshot.as_deref())?;
            out.show(&all, || render::forks(&all, now));
        }
        Verb::Queue { action: None } => {
            let all = backend.queue()?;
            out.show(&all, || render::requests(&all, now));
        }
        Verb::Queue { action: Some(QueueAction::Cancel { id }) } => {
            let request = backend.cancel(&id)?;
            out.show(&request, || format!("cancelled {} ({})\n", request.id, request.name));
        }
        Verb::Status => {
            let status = backend.status()?;
            out.show(&status, || render::status(&status, now));
        }
        Verb::Rm { snapshot, defer, unreadable } => {
            let how = match (defer, unreadable) {
                (true, _) => Removal::Defer,
                (_, true) => Removal::Unreadable,
                _ => Removal::Now,
            };
            remove(&snapshot, how, backend, out)?;
        }
        Verb::Hold { snapshot, name } => held(&backend.hold(&snapshot, &name)?, &name, "holds", out),
        Verb::Release { snapshot, name } => held(&backend.release(&snapshot, &name)?, &name, "no longer holds", out),
        Verb::Prune { policy, plan } => {
            let report = backend.prune(&PruneBody { policies: policy, hash: plan })?;
            out.show(&report, || render::pruned(&report));
            return Ok(u8::from(!report.failed.is_empty()));
        }
        Verb::Verify { repair, resume, quick, rate, strict } => {
            return verify(&VerifyBody { repair, resume, quick, rate }, strict, backend, out);
        }
        Verb::Undelete { what, name } => {
            let back = backend.undelete(&what, name.as_ref())?;
            out.show(&back, || render::undeleted(&back));
        }
        Verb::Clock { action } => {
            let clock = backend.clock(action.is_some())?;
            out.show(&clock, || render::clock(&clock));
        }
        Verb::Init | Verb::Plan(_) | Verb::Run | Verb::Once { .. } | Verb::Check { .. } | Verb::Demo { .. } | Verb::Simulate(_) => {}
    }
    Ok(0)
}

fn fork(args: ForkArgs, backend: &dyn Backend, out: Out, now: DateTime<Utc>) -> Answer<u8> {
    let mut body = ForkBody { count: args.count, prefix: args.prefix, key: args.key, ..ForkBody::default() };
    if args.count.is_none() {
        body.names = Some(args.names);
    }
    let wait = (!args.no_wait).then_some(args.timeout);
    let answer: Requests = backend.fork(&args.snapshot, &body, wait)?;
    out.show(&answer, || render::requests(&answer, now));
    let unfinished = !args.no_wait && answer.requests.iter().any(|r| !r.is_final());
    let failed = answer.requests.iter().any(|r| r.state == "failed" || r.state == "cancelled");
    Ok(if failed {
        1
    } else if unfinished {
        75
    } else {
        0
    })
}

fn import(args: ImportArgs, backend: &dyn Backend, out: Out) -> Answer<u8> {
    // The worker is somewhere else.
    let dir = std::path::absolute(&args.dir).map_err(|e| Problem::new(ProblemKind::Failed, format!("{}: {e}", args.dir.display())))?;
    if dir.to_str().is_none() {
        return Err(Problem::new(ProblemKind::BadRequest, format!("{} is not UTF-8: rename it", dir.display())));
    }
    let body = ImportBody {
        dir,
        instance: args.instance,
        policy: args.policy,
        pattern: args.pattern,
        timezone: args.timezone,
        tags: args.tag.into_iter().collect(),
        take_away: args.take_away,
        dry_run: args.dry_run,
    };
    let view = backend.import(&body)?;
    out.show(&view, || render::imported(&view));
    Ok(u8::from(view.entries.iter().any(|entry| entry.result == "failed")))
}

fn unfork(name: &InstanceId, backend: &dyn Backend, out: Out) -> Answer<()> {
    let gone = backend.unfork(name)?;
    out.show(&gone, || format!("removed {}, a fork of {}\n", gone.name, gone.snapshot_id));
    Ok(())
}

fn restore(snapshot: &str, backend: &dyn Backend, out: Out) -> Answer<()> {
    let restored = backend.restore(snapshot)?;
    out.show(&restored, || match &restored.replaced {
        Some(path) => format!("{} is as it was at {}; what was there is in {path}\n", restored.instance, restored.id),
        None => format!("{} is there again, as it was at {}\n", restored.instance, restored.id),
    });
    Ok(())
}

fn remove(snapshot: &str, how: Removal, backend: &dyn Backend, out: Out) -> Answer<()> {
    let removed = backend.remove(snapshot, how)?;
    out.show(&removed, || match removed.result.as_str() {
        "expiring" => format!("{} goes with its last fork: {}\n", removed.id, removed.forks.join(", ")),
        _ => format!("removed {}\n", removed.id),
    });
    Ok(())
}

fn verify(body: &VerifyBody, strict: bool, backend: &dyn Backend, out: Out) -> Answer<u8> {
    let findings = backend.verify(body)?;
    out.show(&findings, || render::findings(&findings));
    let is_bad = |f: &Finding| !Repair::mends(f) && (f.severity == "error" || strict && f.severity == "warn");
    Ok(u8::from(findings.findings.iter().any(is_bad)))
}

fn held(view: &SnapshotView, name: &HoldName, what: &str, out: Out) {
    out.show(view, || format!("{name} {what} {}\n", view.id));
}
