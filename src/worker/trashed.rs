//! What lies in the trash, and which of it somebody means.

use super::backend::Answer;
use super::problem::{Problem, ProblemKind};
use super::sight::Sight;
use super::view::{TrashView, TrashedView};
use crate::store::Store;
use crate::store::instances::{Standing, standing};
use crate::store::layout::Layout;
use crate::store::manifest::Manifest;
use crate::store::sizes;
use crate::store::trash::{Departed, Trashed};
use std::path::PathBuf;

/// Where removed things lie; without the root's trash while the root is away.
fn trashes(store: &Store) -> impl Iterator<Item = PathBuf> {
    std::iter::once(store.layout.trash()).chain(store.prove_root().is_ok().then(|| store.layout.root_trash()))
}

/// Everything in both trashes, oldest first, with its name in the listing.
fn entries(sight: &dyn Sight) -> Answer<Vec<Trashed>> {
    let store = sight.store();
    let failed = |e: crate::store::StoreError| Problem::new(ProblemKind::Failed, e.to_string());
    let mut all = Vec::new();
    for dir in trashes(store) {
        all.extend(store.trash_entries(&dir).map_err(failed)?);
    }
    all.retain(|entry| entry.snapshot().is_some() || entry.instance().is_some());
    all.sort_by_key(|entry| (entry.at, entry.uptime));
    Ok(all)
}

/// What comes free with everything that lies there, bytes.
pub(super) fn bytes(sight: &dyn Sight) -> u64 {
    let store = sight.store();
    let entries = trashes(store).flat_map(|dir| store.trash_listed(&dir).unwrap_or_default());
    let ours = entries.filter(|entry| entry.snapshot().is_some() || entry.instance().is_some());
    ours.map(|entry| sizes::reclaimable(&store.fs, &entry.path).unwrap_or(0)).fold(0, u64::saturating_add)
}

/// `ls --trash`.
pub(super) fn list(sight: &dyn Sight) -> Answer<TrashView> {
    let measure = |entry: &Trashed| sizes::reclaimable(&sight.store().fs, &entry.path).unwrap_or(0);
    let trash = entries(sight)?.iter().map(|entry| TrashedView { reclaimable_bytes: measure(entry), ..view(sight, entry) }).collect();
    Ok(TrashView { trash, next: None })
}

fn view(sight: &dyn Sight, entry: &Trashed) -> TrashedView {
    let (store, config) = (sight.store(), sight.config());
    let (kind, grace) = match (entry.instance(), entry.departed()) {
        (None, _) => ("snapshot", config.trash.grace),
        (Some(_), Departed::Replaced) => ("replaced", config.trash.grace),
        (Some(_), Departed::Unforked) => ("fork", config.trash.fork_grace),
    };
    let mut view = TrashedView {
        entry: entry.name(),
        kind: kind.to_owned(),
        snapshot_id: entry.snapshot(),
        instance: entry.instance(),
        name: None,
        removed_at: entry.at,
        seconds_left: (!entry.is_doomed).then(|| store.grace_left(entry, grace).as_secs()),
        reclaimable_bytes: 0,
    };
    if let Some(id) = &view.snapshot_id {
        if let Ok(manifest) = Manifest::read(&store.fs, &Layout::manifest_in(&entry.path), id) {
            (view.instance, view.name) = (Some(manifest.instance), Some(manifest.name));
        }
    } else if let Ok(Standing::Fork(record)) = standing(&store.fs, &entry.path) {
        view.snapshot_id = Some(record.fork_of_snapshot);
    }
    view
}

/// The one thing in the trash that is meant: by its name there, a snapshot by id, `INSTANCE/NAME` or name, an instance by
/// name. `None` if there is nothing of that name.
pub(super) fn find(sight: &dyn Sight, what: &str) -> Answer<Option<Trashed>> {
    let mut found = Vec::new();
    for entry in entries(sight)?.into_iter().filter(|entry| !entry.is_doomed) {
        if entry.name() == what {
            return Ok(Some(entry));
        }
        let view = view(sight, &entry);
        let is_meant = if view.kind == "snapshot" {
            let named = view
                .name
                .zip(view.instance)
                .is_some_and(|(name, instance)| name.as_str() == what || what.split_once('/') == Some((instance.as_str(), name.as_str())));
            named || view.snapshot_id.is_some_and(|id| id.as_str() == what)
        } else {
            view.instance.is_some_and(|instance| instance.as_str() == what)
        };
        if is_meant {
            found.push(entry);
        }
    }
    if found.len() > 1 {
        let names: Vec<String> = found.iter().map(Trashed::name).collect();
        let detail = format!("several things in the trash are called {what}; give one of these names: {}", names.join(", "));
        return Err(Problem::new(ProblemKind::BadRequest, detail));
    }
    Ok(found.pop())
}
