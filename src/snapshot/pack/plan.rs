//! How a raw file is cut into frames. Pure.
//!
//! A file is packed window by window, each by one thread: a window is a whole number of the digest's blocks, so its hashes
//! need nothing from its neighbours. Within a window, each stretch of data is a frame, and so is each hole between them.
//! Holes of whole windows are one long frame.

use crate::snapshot::digest::BLOCK;
use std::ops::Range;

/// Bytes that are packed, and unpacked, at once.
pub(crate) const WINDOW: u64 = 4 * BLOCK;
/// A shorter hole is packed as zeros: a frame of its own would cost more.
const MIN_HOLE: u64 = 64 << 10;
/// The longest frame: its length must fit into four bytes of the seek table.
pub(crate) const MOST_HOLE: u64 = 1 << 30;
/// No longer file is packed: the frames of its holes alone would be large.
pub(crate) const LONGEST: u64 = 4 << 40;

/// A frame to be: a part of the raw file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where.
    pub(crate) range: Range<u64>,
    /// Whether nothing is there.
    pub(crate) is_hole: bool,
}

impl Piece {
    pub(crate) fn len(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// What one thread packs at once: the pieces of one window, or a hole of several.
pub(crate) type Unit = Vec<Piece>;

/// The units of a file with these stretches of data, in order and without a gap.
pub(crate) fn plan(size: u64, stretches: &[Range<u64>]) -> Vec<Unit> {
    let data = merged(size, stretches);
    let mut units = Vec::new();
    let mut at = 0;
    for window in windows(&data) {
        let (start, end) = (window * WINDOW, (window * WINDOW + WINDOW).min(size));
        holes(at..start, &mut units);
        units.push(pieces(start..end, &data));
        at = end;
    }
    holes(at..size, &mut units);
    units
}

/// The stretches within the file, with short holes between them filled.
fn merged(size: u64, stretches: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut all: Vec<Range<u64>> = Vec::new();
    for stretch in stretches {
        let stretch = stretch.start..stretch.end.min(size);
        match all.last_mut() {
            _ if stretch.is_empty() => {}
            Some(last) if stretch.start < last.end.saturating_add(MIN_HOLE) => last.end = last.end.max(stretch.end),
            _ => all.push(stretch),
        }
    }
    all
}

/// The windows that hold data, each once.
fn windows(data: &[Range<u64>]) -> Vec<u64> {
    let mut all: Vec<u64> = data.iter().flat_map(|s| s.start / WINDOW..s.end.div_ceil(WINDOW)).collect();
    all.dedup();
    all
}

/// Whole windows of nothing.
fn holes(range: Range<u64>, units: &mut Vec<Unit>) {
    let mut start = range.start;
    while start < range.end {
        let end = start.saturating_add(MOST_HOLE).min(range.end);
        units.push(vec![Piece { range: start..end, is_hole: true }]);
        start = end;
    }
}

/// The pieces of one window.
fn pieces(window: Range<u64>, data: &[Range<u64>]) -> Unit {
    let mut unit = Vec::new();
    let mut at = window.start;
    let first = data.partition_point(|s| s.end <= window.start);
    for stretch in data.iter().skip(first).take_while(|s| s.start < window.end) {
        let part = stretch.start.max(window.start)..stretch.end.min(window.end);
        if at < part.start {
            unit.push(Piece { range: at..part.start, is_hole: true });
        }
        at = part.end;
        unit.push(Piece { range: part, is_hole: false });
    }
    if at < window.end {
        unit.push(Piece { range: at..window.end, is_hole: true });
    }
    unit
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_pieces_are_the_whole_file_in_order_all_data_is_in_one_and_none_but_holes_cross_a_window(
            size in 0..64 * WINDOW,
            cuts in prop::collection::btree_set(0..64 * WINDOW, 0..40),
        ) {
            let cuts: Vec<u64> = cuts.into_iter().collect();
            let stretches: Vec<_> = cuts.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect();
            let units = plan(size, &stretches);
            let pieces: Vec<&Piece> = units.iter().flatten().collect();
            let mut at = 0;
            for piece in &pieces {
                prop_assert_eq!(piece.range.start, at);
                prop_assert!(piece.len() > 0 && piece.len() <= MOST_HOLE);
                if !piece.is_hole {
                    prop_assert_eq!(piece.range.start / WINDOW, (piece.range.end - 1) / WINDOW);
                }
                at = piece.range.end;
            }
            prop_assert_eq!(at, size);
            let holes: u64 = pieces.iter().filter(|p| p.is_hole).map(|p| p.len()).sum();
            let data: u64 = stretches.iter().map(|s| s.end.min(size).saturating_sub(s.start)).sum();
            prop_assert!(holes <= size - data, "no data is in a hole");
            for stretch in &stretches {
                let inside = |p: &&&Piece| p.is_hole && p.range.start < stretch.end.min(size) && stretch.start < p.range.end;
                prop_assert!(!pieces.iter().any(|p| inside(&p)), "{stretch:?}");
            }
            for unit in &units {
                let is_hole = unit.iter().all(|p| p.is_hole);
                prop_assert!(is_hole || unit.last().unwrap().range.end - unit[0].range.start <= WINDOW);
            }
        }
    }

    #[test]
    fn short_holes_are_packed_and_long_ones_are_cut() {
        let k = 1 << 10;
        let one = plan(WINDOW, &[0..4 * k, 8 * k..12 * k, 512 * k..516 * k]);
        let lengths: Vec<_> = one[0].iter().map(|p| (p.len() / k, p.is_hole)).collect();
        assert_eq!(lengths, [(12, false), (500, true), (4, false), (4096 - 516, true)]);
        assert_eq!(plan(3 * MOST_HOLE, &[]).len(), 3);
    }
}
