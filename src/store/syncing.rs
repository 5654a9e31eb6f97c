//! How new trees are made durable: each file by itself, or the whole file system at once.
//!
//! One syncfs(2) is the cheapest by far for many forks, and often for one fork or snapshot, but it writes everybody's dirty pages: beside
//! somebody with a gigabyte of them it takes seconds. Which way is cheaper depends on the file system, the disk and the
//! neighbours, so it is learnt from what earlier ones took. Deciding is pure: sizes and durations come in as arguments.

use std::time::Duration;

/// A way to make trees durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Every file and directory that is new, by itself (fsync(2), or only written where commits have an order).
    Each,
    /// All that is dirty on the file system (syncfs(2)).
    Whole,
}

/// What the ways took lately, in milliseconds. Bursts of about as many files share a class: what they have in
/// common weighs less the more there are.
#[derive(Debug, Clone)]
pub struct Costs {
    classes: [Class; CLASSES],
    /// For each MiB that is dirty when the whole file system is synced.
    dirty_mib: f64,
}

#[derive(Debug, Clone, Copy)]
struct Class {
    each: f64,
    /// With nobody else's pages to write.
    whole: f64,
}

/// Classes of 1, 2 to 4, 5 to 16, … files and directories.
const CLASSES: usize = 8;
/// How much the latest measurement counts: more if it took longer than thought, so that a try of the dear way is remembered.
const SHORTER: f64 = 0.3;
const LONGER: f64 = 0.7;
/// What becomes of the estimate for a way that was not taken: a little cheaper each time, so that it is tried again.
const TRY_AGAIN: f64 = 0.98;
/// From so many dirty MiB on a measurement says what they cost, below what the rest costs.
const MUCH: f64 = 64.0;
/// Up to so many are synced one by one without a word on what is dirty, and where they are only written one by one.
const FEW: usize = 32;

impl Default for Costs {
    /// Before anything was measured: what a loop device on a cloud disk took (docs/performance.md).
    fn default() -> Self {
        let class = |n: usize| {
            let most = 4_f64.powi(i32::try_from(n).unwrap_or(0));
            Class { each: 2.0 + 0.15 * most, whole: 2.0 + 0.03 * most }
        };
        Self { classes: std::array::from_fn(class), dirty_mib: 2.5 }
    }
}

fn class_of(count: usize) -> usize {
    (0..CLASSES).find(|class| count <= 1 << (2 * class)).unwrap_or(CLASSES - 1)
}

impl Costs {
    /// The way that is likely to take less, for so many files and directories beside so many dirty MiB (`None`: not known).
    pub fn choose(&self, count: usize, dirty_mib: Option<f64>) -> Way {
        let Some(dirty) = dirty_mib else { return if count <= FEW { Way::Each } else { Way::Whole } };
        let Some(class) = self.classes.get(class_of(count)) else { return Way::Each };
        if class.whole + dirty * self.dirty_mib < class.each { Way::Whole } else { Way::Each }
    }

    /// The same where each file is only written and waited for, and one commit comes behind all of them in any case: to sync everything
    /// is then a commit more, which pays for many files only.
    pub fn choose_in_order(&self, count: usize, dirty_mib: Option<f64>) -> Way {
        if count <= FEW { Way::Each } else { self.choose(count, dirty_mib) }
    }

    /// Remembers what a way took.
    pub fn learn(&mut self, way: Way, count: usize, dirty_mib: Option<f64>, took: Duration) {
        let (Some(dirty), took) = (dirty_mib, took.as_secs_f64() * 1e3) else { return };
        let Some(class) = self.classes.get_mut(class_of(count)) else { return };
        let towards = |old: &mut f64, new: f64| *old += if new > *old { LONGER } else { SHORTER } * (new - *old);
        match way {
            Way::Each => {
                towards(&mut class.each, took);
                class.whole *= TRY_AGAIN;
                self.dirty_mib *= TRY_AGAIN;
            }
            Way::Whole => {
                class.each *= TRY_AGAIN;
                if dirty < MUCH {
                    towards(&mut class.whole, (took - dirty * self.dirty_mib).max(0.0));
                } else {
                    towards(&mut self.dirty_mib, (took - class.whole).max(0.0) / dirty);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_few_go_one_by_one_and_many_together_where_it_is_not_known_what_is_dirty() {
        let costs = Costs::default();
        assert_eq!(costs.choose(1, None), Way::Each);
        assert_eq!(costs.choose(32, None), Way::Each);
        assert_eq!(costs.choose(33, None), Way::Whole);
    }

    #[test]
    fn one_slow_fork_makes_no_few_files_be_synced_with_everybodys_where_they_are_only_written() {
        let mut costs = Costs::default();
        costs.learn(Way::Each, 3, Some(0.0), Duration::from_secs(1));
        assert_eq!(costs.choose(3, Some(0.0)), Way::Whole);
        assert_eq!(costs.choose_in_order(3, Some(0.0)), Way::Each);
        costs.learn(Way::Each, 3000, Some(0.0), Duration::from_secs(1));
        assert_eq!(costs.choose_in_order(3000, Some(0.0)), Way::Whole);
    }

    proptest! {
        /// A world in which both ways have fixed costs: after some bursts the cheaper one is taken nearly always.
        #[test]
        fn the_cheaper_way_is_found_and_kept(
            count in 1_usize..10_000, dirty in prop_oneof![0.1..20.0, 100.0..2000.0_f64],
            cheap in 0.5..500.0_f64, times in 2.0..100.0_f64, each_is_cheap: bool, share in 0.0..1.0_f64,
        ) {
            let mut costs = Costs::default();
            let dear = cheap * times;
            let (each, all) = if each_is_cheap { (cheap, dear) } else { (dear, cheap) };
            // What the whole takes lies with the others' pages to some share.
            let (whole, mib) = (all * (1.0 - share), all * share / dirty);
            let truth = |way| if way == Way::Each { each } else { whole + dirty * mib };
            let mut wrong = 0;
            for round in 0..600 {
                let way = costs.choose(count, Some(dirty));
                wrong += u32::from(round >= 500 && truth(way) > 1.5 * cheap);
                costs.learn(way, count, Some(dirty), Duration::from_secs_f64(truth(way) / 1e3));
            }
            prop_assert!(wrong <= 15, "{wrong} of 100");
        }

        #[test]
        fn more_dirty_pages_of_others_never_speak_for_the_whole(count in 1_usize..10_000, less in 0.0..500.0_f64, more in 0.0..500.0_f64) {
            let costs = Costs::default();
            if costs.choose(count, Some(less)) == Way::Each {
                prop_assert_eq!(costs.choose(count, Some(less + more)), Way::Each);
            }
        }
    }
}
