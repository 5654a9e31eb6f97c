//! The index against a model that looks at everything each time.

use super::*;
use proptest::prelude::*;

/// What a step does to one id.
#[derive(Debug, Clone)]
enum Step {
    Publish { instance: u8, name: u8, order: u8 },
    Forget,
    Unreadable,
    Ref(u8),
    Unref(u8),
    Hold,
    Pin(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..4u8, 0..4u8, 0..6u8).prop_map(|(instance, name, order)| Step::Publish { instance, name, order }),
        1 => Just(Step::Forget),
        1 => Just(Step::Unreadable),
        2 => (0..12u8).prop_map(Step::Ref),
        2 => (0..12u8).prop_map(Step::Unref),
        1 => Just(Step::Hold),
        1 => any::<bool>().prop_map(Step::Pin),
    ]
}

fn id(n: u8) -> SnapshotId {
    SnapshotId::parse(&format!("20261124-090347-aaaaaaa{}", char::from(b'a' + n))).unwrap()
}

fn fork(n: u8) -> ForkId {
    ForkId::parse(&format!("faaaaaaaaaaaaaaa{}", char::from(b'a' + n))).unwrap()
}

fn summary(n: u8, instance: u8, name: u8, order: u8) -> Arc<Summary> {
    let at = DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(i64::from(order));
    Arc::new(Summary {
        id: id(n),
        seq: u64::from(n),
        name: SnapshotName::parse(&format!("n{name}")).unwrap(),
        instance: InstanceId::parse(&format!("i{instance}")).unwrap(),
        policy: (instance > 1).then(|| PolicyName::parse("p").unwrap()),
        slot: None,
        parent: None,
        kind: Kind::Stopped,
        driver: "plain".into(),
        created_at: at,
        order_at: at,
        tags: Arc::new(BTreeMap::from([("team".to_owned(), instance.to_string())])),
        tags_unread: None,
        imported: None,
        size_bytes: 1,
        allocated_bytes: 1,
        memory: Vec::new(),
        digests_pending: false,
    })
}

fn apply(known: &mut Known, n: u8, step: &Step, published: Option<Arc<Summary>>) {
    match step {
        Step::Publish { .. } => {
            known.present = true;
            known.summary = published;
        }
        Step::Forget => {
            known.present = false;
            known.summary = None;
        }
        Step::Unreadable => {
            known.present = true;
            known.summary = None;
            known.unreadable.insert("why".to_owned());
        }
        Step::Ref(f) => known.refs.insert(fork(*f), RefTarget::At(format!("/vms/{n}-{f}").into())),
        Step::Unref(f) => drop(known.refs.remove(&fork(*f))),
        Step::Hold => drop(known.holds.insert(HoldName::parse("h").unwrap())),
        Step::Pin(up) => known.pins = if *up { known.pins + 1 } else { known.pins.saturating_sub(1) },
    }
}

/// Everything that can be asked, answered by looking at all.
fn check(index: &Index, model: &BTreeMap<SnapshotId, Known>) {
    let left = || model.iter().filter(|(_, known)| !known.is_empty());
    assert!(index.all().map(|(id, _)| id).eq(left().map(|(id, _)| id)));
    assert_eq!(index.count_present(), left().filter(|(_, known)| known.present).count());
    assert_eq!(index.count_refs(), left().map(|(_, known)| known.refs.len()).sum::<usize>());
    assert_eq!(index.refs().count(), index.count_refs());
    let listed: Vec<&Arc<Summary>> = left().filter(|(_, known)| known.present).filter_map(|(_, known)| known.summary.as_ref()).collect();
    for n in 0..4 {
        let instance = InstanceId::parse(&format!("i{n}")).unwrap();
        let mut of: Vec<Arc<Summary>> = listed.iter().filter(|s| s.instance == instance).map(|s| Arc::clone(s)).collect();
        of.sort_by_key(|s| std::cmp::Reverse((s.order_at, s.seq)));
        assert_eq!(index.newest_of(&instance), of.first());
        let name = SnapshotName::parse(&format!("n{n}")).unwrap();
        let mut named: Vec<&SnapshotId> = index.named(&name).map(|s| &s.id).collect();
        named.sort();
        assert_eq!(named, listed.iter().filter(|s| s.name == name).map(|s| &s.id).collect::<Vec<_>>());
        assert_eq!(index.is_named(&instance, &name), of.iter().any(|s| s.name == name));
        assert_eq!(index.of_instance(&instance), of);
    }
}

proptest! {
    #[test]
    fn the_index_answers_as_if_it_looked_at_everything(steps in prop::collection::vec((0..8u8, step()), 0..80)) {
        let (mut index, mut model) = (Index::default(), BTreeMap::<SnapshotId, Known>::new());
        for (n, step) in steps {
            let published = match &step {
                Step::Publish { instance, name, order } => Some(index.share(summary(n, *instance, *name, *order))),
                _ => None,
            };
            index.change(&id(n), |known| apply(known, n, &step, published.clone()));
            let known = model.entry(id(n)).or_default();
            apply(known, n, &step, published);
            if known.is_empty() {
                model.remove(&id(n));
            }
            check(&index, &model);
        }
    }
}

#[test]
fn what_many_snapshots_have_in_common_is_in_memory_once() {
    let mut index = Index::default();
    let (one, other) = (index.share(summary(0, 2, 0, 0)), index.share(summary(1, 2, 1, 1)));
    assert!(Arc::ptr_eq(&one.tags, &other.tags) && Arc::ptr_eq(&one.driver, &other.driver));
    assert_eq!(one.instance.as_str().as_ptr(), other.instance.as_str().as_ptr());
    assert_eq!(*one, *summary(0, 2, 0, 0));
}
