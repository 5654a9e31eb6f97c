//! `import`: what it takes and says, and its carrying out, one directory after the other, the oldest first.

use super::backend::Answer;
use super::problem::{Problem, ProblemKind};
use super::verify::verify_one;
use super::{Worker, problem_of_store};
use crate::config::Config;
use crate::event::Event;
use crate::ids::{InstanceId, PolicyName, SnapshotId, SnapshotName};
use crate::policy::SnapshotState;
use crate::snapshot::import::stamp::Stamps;
use crate::snapshot::import::{
    Candidate, Entered, Errand, Fate, Pending, Survey, Way, finish_asides, finish_pending, is_the_same, survey, take_in, take_known_away,
};
use crate::snapshot::take::How;
use crate::store::fs::FileType;
use crate::store::manifest::TimeFrom;
use crate::store::{Store, Summary};
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

/// Directories to be taken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportBody {
    /// The directory that they are in, an absolute path.
    #[schemars(regex(pattern = "^/"))]
    pub dir: PathBuf,
    /// What they are snapshots of; it need not be there.
    pub instance: InstanceId,
    /// Whose they become, to remove one day; none: nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyName>,
    /// The time in their names, as strftime(3) writes it; none: by its shape, or else the time of change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// The zone of times without an offset; UTC if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// Tags for all of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Whether the directories are to go, by a rename where that can be.
    #[serde(default, rename = "move")]
    pub take_away: bool,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// What became, or would become, of each entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "what was asked for, as it was understood")]
pub struct ImportView {
    pub dir: PathBuf,
    pub instance: InstanceId,
    pub policy: Option<PolicyName>,
    pub dry_run: bool,
    /// Each entry.
    pub entries: Vec<ImportedView>,
    /// What else there is to know.
    pub notes: Vec<String>,
}

/// One entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImportedView {
    /// Its name.
    pub name: String,
    /// Of what time it is.
    pub at: Option<DateTime<Utc>>,
    /// Where that is from: `name` or `mtime`.
    pub by: Option<TimeFrom>,
    /// `taken` (or that it would be, in a dry run), `known` (it was before), `left`, or `failed`.
    #[schemars(extend("enum" = ["taken", "known", "left", "failed"]))]
    pub result: String,
    /// The snapshot.
    pub id: Option<SnapshotId>,
    /// Its name.
    pub snapshot: Option<SnapshotName>,
    /// `reflinked`, `copied` or `moved`.
    pub way: Option<String>,
    /// Why it was left, or failed; or why the directory is still there.
    pub why: Option<String>,
}

impl ImportedView {
    fn of(candidate: &Candidate) -> Self {
        let view = Self {
            name: candidate.name.to_string_lossy().into_owned(),
            at: candidate.at.map(|(at, _)| at),
            by: candidate.at.map(|(_, by)| by),
            ..Self::default()
        };
        match &candidate.fate {
            Fate::Taken => Self { result: "taken".to_owned(), ..view },
            Fate::Known(id) => Self { result: "known".to_owned(), id: Some(id.clone()), ..view },
            Fate::Left(why) => Self { result: "left".to_owned(), why: Some(why.clone()), ..view },
        }
    }

    fn failed(self, why: String) -> Self {
        Self { result: "failed".to_owned(), why: Some(why), ..self }
    }

    fn taken(self, entered: &Entered) -> Self {
        Self {
            why: entered.stays.as_ref().map(|why| format!("the directory is still there: {why}")),
            ..self.is(&entered.summary, entered.way)
        }
    }

    fn is(self, summary: &Summary, way: Way) -> Self {
        let (id, snapshot) = (Some(summary.id.clone()), Some(summary.name.clone()));
        Self { result: "taken".to_owned(), id, snapshot, way: Some(way.word().to_owned()), ..self }
    }
}

fn bad(why: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::BadRequest, why)
}

/// What a body asks for, held against the configuration and the disk. Nothing is changed.
pub(super) fn look(store: &Store, config: &Config, body: &ImportBody) -> Answer<(Survey, ImportView)> {
    let zone = match &body.timezone {
        None => chrono_tz::Tz::UTC,
        Some(name) => name.parse().map_err(|_| bad(format!("there is no time zone \"{name}\"; write a name such as Europe/Vienna")))?,
    };
    let stamps = Stamps::new(body.pattern.as_deref(), zone).map_err(bad)?;
    let mut notes = Vec::new();
    match &body.policy {
        None => notes.push("no policy will remove them: give --policy, or remove them by hand".to_owned()),
        Some(name) => {
            let unknown = || Problem::new(ProblemKind::NotFound, format!("there is no policy {name} in {}", config.file.display()));
            let policy = config.policy(name).ok_or_else(unknown)?;
            if !policy.select.matches(&body.instance, false) {
                notes.push(format!(
                    "policy {name} is not for instances called {}: it takes none of it, and removes these by its rules",
                    body.instance
                ));
            }
        }
    }
    let dir = check_dir(store, &body.dir)?;
    let cannot = |e: crate::store::fs::FsError| {
        let hint = "; is it there for the worker too? (a systemd unit may hide /home and /tmp from it)";
        Problem::new(ProblemKind::Failed, format!("{e}{}", if config.socket.exists() { hint } else { "" }))
    };
    let survey = survey(store, &dir, &body.instance, &stamps).map_err(cannot)?;
    if !shares(store, &survey.dir) {
        notes.push("the store cannot share blocks with this directory: what is not moved takes as much room again".to_owned());
    }
    let view = ImportView {
        dir: survey.dir.clone(),
        instance: body.instance.clone(),
        policy: body.policy.clone(),
        dry_run: body.dry_run,
        entries: survey.candidates.iter().map(ImportedView::of).collect(),
        notes,
    };
    Ok((survey, view))
}

fn shares(store: &Store, dir: &Path) -> bool {
    let device = |path: &Path| store.fs.stat(path).ok().map(|meta| meta.file_id.0);
    store.can_reflink() && device(dir) == device(store.layout.store())
}

/// The directory, links on the way to it resolved; neither ours nor that of the live instances.
fn check_dir(store: &Store, dir: &Path) -> Answer<PathBuf> {
    if !dir.is_absolute() {
        return Err(bad(format!("{} is not an absolute path", dir.display())));
    }
    let not_there = |e: crate::store::fs::FsError| {
        let kind = if e.is_not_found() { ProblemKind::NotFound } else { ProblemKind::Failed };
        Problem::new(kind, e.to_string())
    };
    let real = store.fs.canonical(dir).map_err(not_there)?;
    if store.fs.stat(&real).map_err(not_there)?.kind != FileType::Directory {
        return Err(bad(format!("{} is not a directory", dir.display())));
    }
    let of = |path: &Path| store.fs.canonical(path).unwrap_or_else(|_| path.to_owned());
    let (ours, root) = (of(store.layout.store()), of(store.layout.instances()));
    if real.parent().is_none() {
        return Err(bad("/ is not a directory of backups: name the one that your script wrote into".to_owned()));
    }
    if real.starts_with(&root) && real != root && !real.starts_with(root.join(crate::store::layout::OURS)) {
        return Err(bad(format!("{} is in an instance: `snapkeep snapshot` takes those", dir.display())));
    }
    if real.starts_with(&ours) || real == root || real.starts_with(root.join(crate::store::layout::OURS)) {
        return Err(bad(format!("{} is snapkeep's own: name the directory that your script wrote into", dir.display())));
    }
    if real.to_str().is_none() {
        return Err(bad(format!("{} is not UTF-8: rename it, or mount it somewhere else", dir.display())));
    }
    Ok(real)
}

fn imported_event(summary: &Summary, way: Way) -> Event {
    Event::SnapshotImported {
        snapshot: summary.id.clone(),
        name: summary.name.to_string(),
        instance: summary.instance.clone(),
        policy: summary.policy.clone(),
        created_at: summary.created_at,
        from: summary.imported.as_ref().map(|i| i.from.as_path().display().to_string()).unwrap_or_default(),
        way: way.word().to_owned(),
        size_bytes: summary.size_bytes,
    }
}

/// Ends moves that were stopped, and reports them; those that became snapshots.
///
/// # Errors
/// [`crate::store::StoreError`] if it cannot be told which there are.
pub(super) fn finish(store: &Store) -> Result<Vec<Arc<Summary>>, crate::store::StoreError> {
    let Pending { finished, failed } = finish_pending(store)?;
    for summary in &finished {
        store.events.emit(imported_event(summary, Way::Moved));
    }
    for (path, why) in failed {
        store.events.emit(Event::RecordUnreadable { path: path.display().to_string(), why, blocks: Vec::new() });
    }
    Ok(finished)
}

impl Worker {
    pub(super) fn import_all(&self, body: &ImportBody) -> Answer<ImportView> {
        let config = Worker::config(self);
        if body.dry_run {
            return look(&self.store, &config, body).map(|(_, view)| view);
        }
        // One at a time: what another one has under way is not to be taken for what was left behind.
        let _alone = self.importing.lock().unwrap_or_else(PoisonError::into_inner);
        let finished = finish(&self.store).map_err(|e| problem_of_store(&e))?;
        let dir = check_dir(&self.store, &body.dir)?;
        if body.take_away {
            finish_asides(&self.store, &dir).map_err(|e| problem_of_store(&e.into()))?;
        }
        let (survey, mut view) = look(&self.store, &config, body)?;
        if let Some(policy) = &body.policy {
            // As if the policy had taken them: `status` shows the pair, and `gone` counts for an instance that is not there.
            let pair = (policy.clone(), body.instance.clone());
            self.schedules.know(&pair).map_err(|e| Problem::new(ProblemKind::Failed, format!("the ledger cannot be kept: {e}")))?;
        }
        let driver = crate::driver::Plain::new(config.driver.clone());
        let how = self.how(&config, &driver);
        let tags = body.policy.as_ref().and_then(|name| config.policy(name)).map(|policy| policy.tags.clone()).unwrap_or_default();
        let errand = Errand {
            instance: body.instance.clone(),
            policy: body.policy.clone(),
            tags: tags.into_iter().chain(body.tags.clone()).collect(),
            take_away: body.take_away,
        };
        let mut is_over = false;
        for (candidate, entry) in survey.candidates.iter().zip(&mut view.entries) {
            is_over |= self.stopping.load(std::sync::atomic::Ordering::SeqCst);
            if is_over && candidate.fate == Fate::Taken {
                *entry = entry.clone().failed("the import was stopped before its turn came".to_owned());
                continue;
            }
            let (next, was_cancelled) = self.import_one(&survey.dir, candidate, entry.clone(), &errand, how);
            *entry = next;
            is_over |= was_cancelled;
        }
        let of_this = |s: &&Arc<Summary>| s.imported.as_ref().is_some_and(|i| i.from.as_path().parent() == Some(survey.dir.as_path()));
        for summary in finished.iter().filter(of_this) {
            let name = summary.imported.as_ref().and_then(|i| i.from.as_path().file_name()).unwrap_or_default();
            let entry = ImportedView {
                name: name.to_string_lossy().into_owned(),
                at: Some(summary.created_at),
                by: summary.imported.as_ref().map(|i| i.by),
                ..ImportedView::default()
            };
            view.entries.insert(0, entry.is(summary, Way::Moved));
        }
        Ok(view)
    }

    /// Whether a snapshot can stand for a directory that is to go: ready, and every digest of it right.
    fn is_sound(&self, id: &SnapshotId, how: How<'_>) -> bool {
        let is_ready = self.store.known(id).is_ok_and(|known| known.state() == SnapshotState::Ready);
        is_ready && !verify_one(&self.store.fs, &self.store.layout, id, how.flow).findings.iter().any(|f| f.severity == "error")
    }

    fn import_one(&self, dir: &Path, candidate: &Candidate, entry: ImportedView, errand: &Errand, how: How<'_>) -> (ImportedView, bool) {
        let began = self.store.clock.now();
        match &candidate.fate {
            Fate::Left(_) => (entry, false),
            Fate::Known(id) if !errand.take_away => match is_the_same(&self.store, dir, candidate, id, how) {
                Ok(true) => (entry, false),
                Ok(false) => {
                    let why = format!("it is not what snapshot {id} was taken of: to have it taken too, give it another name");
                    (ImportedView { why: Some(why), ..entry }, false)
                }
                Err(e) => (ImportedView { why: Some(e.to_string()), ..entry }, e.is_cancelled()),
            },
            Fate::Known(id) if !self.is_sound(id, how) => {
                let why = format!("the directory is still there: snapshot {id} is not whole; see `snapkeep verify`");
                (ImportedView { why: Some(why), ..entry }, false)
            }
            Fate::Known(id) => match take_known_away(&self.store, dir, candidate, id, how) {
                Ok(stays) => (ImportedView { why: stays.map(|why| format!("the directory is still there: {why}")), ..entry }, false),
                Err(e) => (entry.failed(e.to_string()), e.is_cancelled()),
            },
            Fate::Taken => match take_in(&self.store, dir, candidate, errand, how) {
                Ok(entered) => {
                    self.store.events.emit(imported_event(&entered.summary, entered.way));
                    (entry.taken(&entered), false)
                }
                Err(e) => {
                    self.store.events.emit(Event::SnapshotFailed {
                        instance: errand.instance.clone(),
                        policy: errand.policy.clone(),
                        slot: None,
                        attempt: 1,
                        at: began,
                        error: format!("{} was not imported: {e}", dir.join(&candidate.name).display()),
                        interrupted: e.is_cancelled(),
                        retry_at: None,
                    });
                    (entry.failed(e.to_string()), e.is_cancelled())
                }
            },
        }
    }
}
