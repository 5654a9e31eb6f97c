//! `demo`: the whole life on a made-up instance in a temporary directory, with the quickstart configuration: snapshots by
//! schedule, a burst of forks, an expired snapshot that goes, one with live forks that stays until they are gone.

use super::out::{self, Out};
use super::{render, words};
use crate::config::{Config, parse};
use crate::daemon::log::{self, Form, To};
use crate::snapshot::copy::NoProgress;
use crate::store::fs::{Fs, FsError};
use crate::worker::backend::{Answer, Backend};
use crate::worker::problem::{Problem, ProblemKind};
use crate::worker::view::{ForkBody, SnapshotFilter, SnapshotView, VerifyBody};
use crate::worker::{Surroundings, Worker, problem_of_open};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const QUICKSTART: &str = include_str!("../../config/quickstart.toml");
/// Forks in the burst.
const FORKS: u32 = 8;
/// The made-up disk: this long, with data here and there.
const DISK: u64 = 1 << 30;
/// The made-up memory, all data.
const MEMORY: u64 = 32 << 20;

fn failed(what: &str) -> impl Fn(&dyn std::fmt::Display) -> Problem {
    move |e| Problem::new(ProblemKind::Failed, format!("cannot {what}: {e}"))
}

/// Runs the demo for about so many seconds.
pub(super) fn demo(seconds: u64, out: Out) -> Answer<u8> {
    let dir = tempfile::Builder::new().prefix("snapkeep-demo-").tempdir().map_err(|e| failed("make a temporary directory")(&e))?;
    let around = super::surroundings();
    let config = config(dir.path())?;
    prepare(&around.fs, &config).map_err(|e| failed("make the demo's instance")(&e))?;
    log::init(if out.json { Form::Json } else { Form::Text }, To::Stdout);
    say(out, &format!("everything is in {}, and is removed at the end", dir.path().display()));
    say(out, "the configuration is config/quickstart.toml: a snapshot every 3 s, the newest 3 are kept");
    say(out, &format!("the instance `golden` has a sparse disk of {} and {} of memory", words::size(DISK), words::size(MEMORY)));
    let result = live(&config, &around, Duration::from_secs(seconds), out);
    // Store directories are made without write permission for others; all of it is ours.
    around.fs.remove_tree(dir.path()).map_err(|e| failed("clean up")(&e))?;
    result
}

/// What happens next; in JSON a line of its own between the events.
fn say(out: Out, text: &str) {
    if out.json {
        out::print(&format!("{}\n", serde_json::json!({ "demo": text })));
    } else {
        out::print(&format!("\n── {text}\n"));
    }
}

/// What is to be seen, likewise.
fn show<T: Serialize>(out: Out, value: &T, text: impl FnOnce() -> String) {
    if out.json {
        out::print(&(serde_json::to_string(value).unwrap_or_default() + "\n"));
    } else {
        out::print(&(text() + "\n"));
    }
}

fn config(dir: &Path) -> Answer<Config> {
    let at = |name: &str| dir.join(name).display().to_string();
    let text = QUICKSTART.replace("/var/lib/snapkeep/store", &at("store")).replace("/var/lib/snapkeep/vms", &at("vms"));
    parse(vec![(dir.join("quickstart.toml"), text)]).map_err(|e| Problem::new(ProblemKind::Config, e.to_string()))
}

fn prepare(fs: &Fs, config: &Config) -> Result<(), FsError> {
    fs.mkdir(&config.store, 0o700)?;
    fs.mkdir(&config.instances, 0o755)?;
    let golden = config.instances.join("golden");
    fs.mkdir(&golden, 0o755)?;
    let write = |name: &str, len: u64, every: u64, each: u64| -> Result<(), FsError> {
        let path: PathBuf = golden.join(name);
        let file = fs.create(&path, 0o644)?;
        fs.set_len(&file, &path, len)?;
        let mut stream = blake3::Hasher::new().update(name.as_bytes()).finalize_xof();
        let mut block = vec![0; usize::try_from(each).unwrap_or(1 << 20)];
        let mut offset = 0;
        while offset < len {
            stream.fill(&mut block);
            fs.write_at(&file, &path, &block, offset)?;
            offset += every;
        }
        Ok(())
    };
    write("overlay.raw", DISK, 64 << 20, 1 << 20)?;
    write("memory", MEMORY, 1 << 20, 1 << 20)?;
    let disk = format!("{{\"drives\": [{{\"path\": \"{}/overlay.raw\"}}], \"vcpus\": 2}}\n", golden.display());
    fs.write_new(&golden.join("config.json"), disk.as_bytes())
}

/// The worker's loop, made small: what is due, forks, pruning; and at some moments somebody asks for something.
fn live(config: &Config, around: &Surroundings, length: Duration, out: Out) -> Answer<u8> {
    let worker = Worker::open(config.clone(), around, Arc::new(NoProgress)).map_err(|e| problem_of_open(&e))?;
    let began = Instant::now();
    let (mut forked, mut released) = (None, false);
    while began.elapsed() < length {
        let mut taken = false;
        for job in worker.due_jobs() {
            taken |= worker.run_job(&job);
        }
        let snapshots = worker.snapshots(&SnapshotFilter::default())?.snapshots;
        if forked.is_none()
            && let [_, second, ..] = snapshots.as_slice()
        {
            forked = Some(burst(&worker, second, out)?);
        }
        if !released && began.elapsed() > length.mul_f32(0.75) && forked.is_some() {
            released = true;
            release(&worker, config, out)?;
            taken = true;
        }
        if taken {
            worker.prune_pass()?;
            worker.sweep()?;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    say(out, "what is left");
    let now = around.clock.now();
    let (left, status) = (worker.snapshots(&SnapshotFilter::default())?, worker.status()?);
    show(out, &left, || render::snapshots(&left, now));
    show(out, &status, || render::status(&status, now));
    // Where extents are shared snapshots are published before they are hashed.
    worker.hash_all();
    let findings = worker.verify(&VerifyBody::default())?;
    say(out, "verify: every digest, ref and link on the disk");
    show(out, &findings, || render::findings(&findings));
    Ok(u8::from(!findings.findings.is_empty()))
}

/// Asks for forks of a snapshot, all at once, and makes them.
fn burst(worker: &Worker, snapshot: &SnapshotView, out: Out) -> Answer<String> {
    say(out, &format!("{FORKS} forks of {}, asked for at once", snapshot.name));
    let body = ForkBody { count: Some(FORKS), prefix: Some("web".to_owned()), key: Some("demo".to_owned()), ..ForkBody::default() };
    let began = Instant::now();
    let asked = worker.fork(snapshot.id.as_str(), &body, None)?;
    worker.forks.run_ready(&worker.stopping, &worker.cancelled).map_err(|e| failed("make forks")(&e))?;
    let each = began.elapsed().as_secs_f64() * 1000.0 / f64::from(FORKS);
    say(out, &format!("{} durable forks, {each:.1} ms each; its memory file is one inode for all of them", asked.requests.len()));
    let refs = worker.snapshot(snapshot.id.as_str())?.ref_count;
    say(out, &format!("{} is needed by {} now, and will stay when its time is over", snapshot.name, words::count(refs, "fork")));
    Ok(snapshot.id.to_string())
}

/// Somebody deletes the forks' directories.
fn release(worker: &Worker, config: &Config, out: Out) -> Answer<()> {
    say(out, &format!("somebody deletes the {FORKS} forks (rm -rf): the snapshot that they needed may go"));
    for n in 1..=FORKS {
        let fork = config.instances.join(format!("web-{n}"));
        worker.store.fs.remove_tree(&fork).map_err(|e| failed("delete a fork")(&e))?;
    }
    worker.look_at_root();
    Ok(())
}
