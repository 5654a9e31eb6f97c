//! Which raw copies of packed snapshots go from the cache. Pure.

use crate::ids::SnapshotId;
use chrono::{DateTime, TimeDelta, Utc};

/// The raw files of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which.
    pub id: SnapshotId,
    /// What they take.
    pub bytes: u64,
    /// When a fork last used them.
    pub used_at: DateTime<Utc>,
    /// Whether a fork uses them now, or waits to.
    pub is_wanted: bool,
}

/// Those to drop: unused for `keep`; and, if the rest takes more than `max` bytes, those that were not used for longest. What
/// is wanted stays, whatever it takes. After a clock that stepped back nothing is old; the bound holds all the same.
#[must_use]
pub fn to_drop(mut entries: Vec<Entry>, max: u64, keep: TimeDelta, now: DateTime<Utc>) -> Vec<SnapshotId> {
    entries.sort_by(|a, b| (a.used_at, &a.id).cmp(&(b.used_at, &b.id)));
    let mut left: u64 = entries.iter().fold(0, |sum, entry| sum.saturating_add(entry.bytes));
    let mut gone = Vec::new();
    for entry in entries.into_iter().filter(|entry| !entry.is_wanted) {
        if now - entry.used_at >= keep || left > max {
            left = left.saturating_sub(entry.bytes);
            gone.push(entry.id);
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_wanted_stays_what_is_old_goes_and_the_bound_holds_as_far_as_it_can(
            all in prop::collection::vec((0..100_u64, 0..1000_i64, any::<bool>()), 0..12),
            max in 0..400_u64,
            keep in 1..600_i64,
        ) {
            let at = |n: i64| DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::seconds(n);
            let now = at(900);
            let entry = |(n, (bytes, used, is_wanted)): (usize, (u64, i64, bool))| {
                let id = SnapshotId::parse(&format!("20261124-090347-aaaaaaa{}", char::from(b'a' + n as u8))).unwrap();
                Entry { id, bytes, used_at: at(used), is_wanted }
            };
            let entries: Vec<Entry> = all.into_iter().enumerate().map(entry).collect();
            let gone = to_drop(entries.clone(), max, TimeDelta::seconds(keep), now);
            let (dropped, left): (Vec<&Entry>, Vec<&Entry>) = entries.iter().partition(|e| gone.contains(&e.id));
            let bytes = |of: &[&Entry]| of.iter().map(|e| e.bytes).sum::<u64>();
            prop_assert!(dropped.iter().all(|e| !e.is_wanted));
            prop_assert!(left.iter().all(|e| e.is_wanted || now - e.used_at < TimeDelta::seconds(keep)));
            prop_assert!(bytes(&left) <= max || left.iter().all(|e| e.is_wanted));
            // No younger one goes for the bound's sake where an older one may stay.
            for young in dropped.iter().filter(|e| now - e.used_at < TimeDelta::seconds(keep)) {
                prop_assert!(left.iter().all(|e| e.is_wanted || e.used_at >= young.used_at));
            }
        }
    }
}
