//! `plan`: by the file that is named, and what it changes against the configuration in force.

use super::args::{CONFIG_VARIABLE, PlanArgs, USUAL_CONFIG, Verb};
use super::out::Out;
use super::{backend, render};
use crate::api::{Client, Reach};
use crate::config::{Config, parse, read_files};
use crate::worker::Surroundings;
use crate::worker::backend::Answer;
use crate::worker::problem::{Problem, ProblemKind};
use crate::worker::view::{ConfigText, PlanBody, PlanDiff, PlanView};
use std::path::{Path, PathBuf};

/// A configuration, and its files.
struct Read {
    config: Config,
    files: Vec<ConfigText>,
}

fn read(path: &Path) -> Answer<Read> {
    let problem = |e: &dyn std::fmt::Display| Problem::new(ProblemKind::Config, e.to_string());
    let files = read_files(path).map_err(|e| problem(&e))?;
    let texts = files.iter().map(|(path, text)| ConfigText { path: path.clone(), text: text.clone() }).collect();
    Ok(Read { config: parse(files).map_err(|e| problem(&e))?, files: texts })
}

/// Shows the plan by the configuration at `path`, or with `--diff` what it changes.
///
/// # Errors
/// [`Problem`] if a configuration cannot be read, or there is none to compare with.
pub(super) fn plan(path: &Path, args: PlanArgs, around: &Surroundings, out: Out) -> Answer<u8> {
    let named = read(path)?;
    let Some(against) = &args.diff else {
        let view = ask(&named.config, &named.files, &args, around, out)?;
        let hint = args.at.is_none().then(|| match usual(path) {
            None if path == Path::new(USUAL_CONFIG) => "snapkeep prune".to_owned(),
            _ => format!("snapkeep --config {} prune", path.display()),
        });
        out.show(&view, || render::plan(&view, path, hint.as_deref()));
        return Ok(0);
    };
    // Both at one time, or time alone would make a difference.
    let args = PlanArgs { at: args.at.or_else(|| Some(around.clock.now())), policy: args.policy.clone(), diff: None };
    // Without a name it is whatever is in force: a worker's own, if one runs.
    let (base, base_name) = match against.clone().or_else(|| usual(path)) {
        Some(file) => (read(&file)?, file.display().to_string()),
        None if matches!(Client::new(&named.config.socket)?.reach(), Reach::Answers) => {
            (read(path)?, "the worker's configuration".to_owned())
        }
        None => {
            let detail = format!("there is no other configuration than {} to compare with: name one with --diff=FILE", path.display());
            return Err(Problem::new(ProblemKind::BadRequest, detail));
        }
    };
    let files = if against.is_some() { &base.files[..] } else { &[] };
    let before = ask(&base.config, files, &args, around, out)?;
    let after = ask(&base.config, &named.files, &args, around, out)?;
    let diff = PlanDiff::new(&before, &after);
    out.show(&diff, || render::diff(&diff, &base_name, &path.display().to_string()));
    Ok(0)
}

fn ask(config: &Config, files: &[ConfigText], args: &PlanArgs, around: &Surroundings, out: Out) -> Answer<PlanView> {
    let verb = Verb::Plan(PlanArgs { policy: Vec::new(), at: None, diff: None });
    let body = PlanBody { policies: args.policy.clone(), at: args.at, config: files.to_vec() };
    backend(config.clone(), around, &verb, out)?.0.plan(&body)
}

/// The configuration that is used where none is named, unless it is the one at `path` or is not there.
fn usual(path: &Path) -> Option<PathBuf> {
    let usual = std::env::var_os(CONFIG_VARIABLE).map_or_else(|| PathBuf::from(USUAL_CONFIG), PathBuf::from);
    (usual != path && usual.exists()).then_some(usual)
}
