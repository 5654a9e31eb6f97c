//! What people see: aligned columns, ages in words, and a way on from an empty list.

use super::*;
use crate::ids::{HoldName, InstanceId, PolicyName, SnapshotId, SnapshotName};
use crate::policy::Side;
use crate::policy::Verdict;
use crate::worker::view::{PlanEntryView, PlanView, ReasonView};
use chrono::{TimeDelta, TimeZone as _};
use std::path::Path;

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 24, 12, 0, 0).unwrap()
}

fn view(n: u8, refs: u64) -> SnapshotView {
    SnapshotView {
        id: SnapshotId::parse(&format!("20261124-0903{n:02}-abcdefgh")).unwrap(),
        seq: n.into(),
        name: SnapshotName::parse(&format!("golden-{n}")).unwrap(),
        instance: InstanceId::parse("golden").unwrap(),
        policy: (n > 1).then(|| PolicyName::parse("hourly").unwrap()),
        parent: None,
        kind: Kind::Standby,
        driver: "plain".into(),
        state: SnapshotState::Ready,
        created_at: now() - TimeDelta::minutes(i64::from(n) * 40),
        tags: std::collections::BTreeMap::new(),
        size_bytes: 1 << 30,
        allocated_bytes: 300 << 20,
        reclaimable_bytes: 0,
        ref_count: refs,
        pool_count: 0,
        holds: if n == 1 { vec![HoldName::parse("release").unwrap()] } else { vec![] },
        compression_state: "none".into(),
        compressed_size_bytes: None,
        uncompressed_size_bytes: None,
        compression_error: None,
        digests: "there".into(),
        imported_from: None,
        tags_unread: None,
        quarantined_because: None,
    }
}

fn plain(text: &str) -> String {
    let stripped = anstream::adapter::strip_str(text).to_string();
    stripped.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[test]
fn a_list_of_snapshots_is_aligned_and_says_who_needs_what() {
    let all = Snapshots { snapshots: vec![view(1, 0), view(2, 12)], unreadable: vec![], next: None };
    insta::assert_snapshot!(plain(&snapshots(&all, now())), @r"
    ID                        INSTANCE  NAME      POLICY   KIND     AGE            SIZE  REFS  STATE
    20261124-090301-abcdefgh  golden    golden-1  by hand  standby  40 min ago  300 MiB     0  held:release
    20261124-090302-abcdefgh  golden    golden-2  hourly   standby  1 h ago     300 MiB    12  ready
    ");
}

#[test]
fn empty_lists_say_what_to_do() {
    assert!(snapshots(&Snapshots::default(), now()).contains("snapkeep snapshot INSTANCE"));
    assert!(forks(&ForkViews::default(), now()).contains("snapkeep fork SNAPSHOT NAME"));
    assert_eq!(requests(&Requests::default(), now()), "The queue is empty.\n");
}

#[test]
fn a_plan_gives_every_reason_and_how_to_carry_it_out() {
    let entry = |n: u8, verdict, (side, rule, text): (Side, &str, &str)| PlanEntryView {
        snapshot_id: view(n, 0).id,
        instance: InstanceId::parse("golden").unwrap(),
        policy: PolicyName::parse("hourly").ok(),
        created_at: now(),
        holds: vec![],
        verdict,
        reasons: vec![ReasonView { rule: rule.into(), side, bucket: None, count: None, text: text.into() }],
        forks: vec![],
        reclaimable_bytes: 5 << 20,
        next_change_at: None,
    };
    let entries = vec![
        entry(3, Verdict::Keep, (Side::Keep, "last", "one of the newest")),
        entry(2, Verdict::Blocked, (Side::Block, "live_forks", "needed by web-1")),
        entry(1, Verdict::Remove, (Side::Remove, "keep", "no keep rule claims it")),
    ];
    let text =
        plain(&plan(&PlanView { hash: "0123".into(), at: now(), in_force: true, entries }, Path::new("/c.toml"), Some("snapkeep prune")));
    insta::assert_snapshot!(text, @r"
    golden, policy hourly
    VERDICT  SNAPSHOT                    FREES  CHANGES (UTC)  WHY
    keep     20261124-090303-abcdefgh  5.0 MiB                 last (one of the newest)
    blocked  20261124-090302-abcdefgh  5.0 MiB                 live_forks (needed by web-1)
    remove   20261124-090301-abcdefgh  5.0 MiB                 keep (no keep rule claims it)

    1 kept, 1 to remove (5.0 MiB), 1 blocked
    Do exactly this: snapkeep prune --plan 0123
    ");
}
