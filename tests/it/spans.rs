//! One tree of spans for each snapshot, burst of forks and prune: where the time went.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use crate::support::World;
use snapkeep::store::fs::Fs;
use snapkeep::worker::backend::Backend as _;
use snapkeep::worker::view::{ForkBody, TakeBody};
use std::sync::{Arc, Mutex};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

/// The path of each span that was made, from its root.
#[derive(Clone, Default)]
struct Tree(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber + for<'l> LookupSpan<'l>> Layer<S> for Tree {
    fn on_new_span(&self, _: &tracing::span::Attributes<'_>, id: &tracing::Id, context: Context<'_, S>) {
        let names: Vec<&str> = context.span_scope(id).unwrap().from_root().map(|span| span.name()).collect();
        self.0.lock().unwrap().push(names.join("/"));
    }
}

#[test]
fn a_snapshot_a_fork_and_a_prune_are_one_tree_of_spans_each() {
    let world = World::new();
    world.make_instance("a");
    let rest = "[worker]\nthreads = 1\n[[policy]]\nname = \"p\"\ninstances = [\"*\"]\nevery = \"1s\"\non_enable = \"run\"\n[policy.limit]\nmax_count = 1\n";
    let worker = world.try_worker(rest, Fs::real()).unwrap();
    let tree = Tree::default();
    // While there is one subscriber only, whoever meets a span first decides for all whether it is looked at: with tests beside
    // this one that may be somebody without any. Of two each is asked (tracing-core, `callsite::Dispatchers`).
    let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let all = |work: &mut dyn FnMut()| {
        tree.0.lock().unwrap().clear();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(tree.clone()), work);
        std::mem::take(&mut *tree.0.lock().unwrap())
    };
    let body = TakeBody { instance: crate::support::instance("a"), name: None, tags: Default::default() };
    let mut id = String::new();
    let taken = all(&mut || id = worker.take(&body).unwrap().id.to_string());
    let steps = ["flush", "quiesce", "copy", "thaw", "digest", "sync", "publish"];
    let wanted: Vec<String> = std::iter::once("snapshot".to_owned()).chain(steps.map(|step| format!("snapshot/{step}"))).collect();
    assert_eq!(taken, wanted);
    let forked = all(&mut || {
        worker.fork(&id, &ForkBody { name: Some("f".into()), ..ForkBody::default() }, None).unwrap();
        worker.forks.run_ready(&crate::support::NEVER, &crate::support::NEVER).unwrap();
    });
    assert_eq!(forked, ["burst", "burst/fork", "burst/fork/hand_out", "burst/fork/materialize", "burst/sync", "burst/publish"]);
    let pruned = all(&mut || drop(worker.prune_pass().unwrap()));
    assert_eq!(pruned, ["prune", "prune/look", "prune/plan", "prune/cut"]);
}
