//! Writes an instance's dirty pages out before it is brought to rest: half a gigabyte of them takes a second, and a clone of
//! a clean file microseconds.

use super::one::flushed;
use super::{CopyContext, why_left_out};
use crate::clock::Clock;
use crate::store::fs::{Below, FileType};
use std::path::Path;
use std::time::Duration;

/// A pass that was quicker has left little: what came meanwhile is written out at rest.
const QUICK: Duration = Duration::from_millis(50);
/// An instance that writes as fast as the disk is never clean.
const PASSES: usize = 3;

/// Writes out what a copy of the tree at `source` would have to write out, again as long as that takes time. A help and no
/// promise: what fails here fails in the copy, which says so.
pub fn flush_tree(ctx: &CopyContext<'_>, source: &Path, clock: &dyn Clock) {
    for _ in 0..PASSES {
        let began = clock.since_boot();
        let Ok(mut below) = Below::open(ctx.fs, source) else { return };
        let Ok(found) = ctx.fs.walk(&mut below, &mut |path, meta| why_left_out(ctx.skip, path, meta).is_some()) else { return };
        for file in found.iter().filter(|found| found.meta.kind == FileType::Regular) {
            if ctx.flow.is_cancelled() {
                return;
            }
            if let Ok(open) = below.place(&file.path).and_then(|place| ctx.fs.open_file(place)) {
                let _ = flushed(ctx.fs, &open, &file.path);
            }
        }
        if clock.since_boot().saturating_sub(began) < QUICK {
            return;
        }
    }
}
