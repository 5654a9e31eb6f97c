//! Reading and writing a file's data, a block at a time and on several threads, with its digest on the way.
//!
//! The unit is the digest's block (`digest.rs`): what is in the buffer is hashed there, with zeros where the file has holes,
//! so that data is read once. A mebibyte is also what ext4 copies fastest (bench/README.md). Threads take the blocks of one
//! file in turn; that does not scatter the copy, because blocks are found for it when it is written out, in order.

use super::data::{Cache, DataError};
use super::flow::Flow;
use crate::snapshot::digest::{BLOCK, BlockHash};
use crate::store::fs::{Absent, Fs};
use std::fs::File;
use std::ops::Range;
use std::path::Path;

/// Below this many bytes of data a second thread costs more than it brings.
const WORTH_THREADS: u64 = 8 << 20;
/// Blocks between looks at the page cache: so much of it a copy takes up at most, or nearly so.
const WINDOW: usize = 64;
/// Windows that the disk has time to write before their pages are to go.
const BEHIND: usize = 2;

/// One file to be copied.
pub(super) struct Job<'a> {
    pub(super) fs: &'a Fs,
    pub(super) flow: Flow<'a>,
    pub(super) from: (&'a File, &'a Path),
    pub(super) to: (&'a File, &'a Path),
    pub(super) size: u64,
    pub(super) hash: bool,
    pub(super) cache: Cache,
}

/// The data of one block, by its stretches.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    number: u64,
    data: Vec<Range<u64>>,
}

impl Job<'_> {
    /// Copies the stretches; the hashes of the blocks with data in them, if they are wanted.
    pub(super) fn run(&self, stretches: &[Range<u64>]) -> Result<Vec<BlockHash>, DataError> {
        let blocks = blocks(stretches);
        let data: u64 = stretches.iter().map(|s| s.end - s.start).sum();
        let threads = if data < WORTH_THREADS { 1 } else { self.flow.threads };
        let flow = Flow { threads, ..self.flow };
        let length = usize::try_from(self.size.min(BLOCK)).unwrap_or(0);
        let copy = |blocks: &[Block]| {
            flow.each(
                blocks.len(),
                || vec![0; length],
                |buffer, index| match blocks.get(index) {
                    Some(block) => self.one(buffer, block),
                    None => Ok(None),
                },
            )
        };
        if self.cache == Cache::Keep || blocks.len() <= WINDOW {
            return Ok(copy(&blocks)?.into_iter().flatten().collect());
        }
        // A small file's pages are not worth the calls; and the copy's own go after its sync, by whoever syncs it.
        let absent = Absent::of(self.from.0, self.size, stretches);
        let mut hashes = Vec::new();
        let windows: Vec<&[Block]> = blocks.chunks(WINDOW).collect();
        for (n, window) in windows.iter().enumerate() {
            hashes.extend(copy(window)?.into_iter().flatten());
            self.fs.begin_writing(self.to.0, self.to.1, extent(window))?;
            self.fs.drop_what_was_absent(self.from.0, &absent, &extent(window));
            if let Some(written) = n.checked_sub(BEHIND).and_then(|n| windows.get(n)) {
                self.fs.drop_cached(self.to.0, extent(written));
            }
        }
        self.fs.drop_what_was_absent(self.from.0, &absent, &(0..u64::MAX));
        Ok(hashes)
    }

    fn one(&self, buffer: &mut [u8], block: &Block) -> Result<Option<BlockHash>, DataError> {
        if self.flow.is_cancelled() {
            return Err(DataError::Cancelled);
        }
        let start = block.number * BLOCK;
        let offset = |n: u64| usize::try_from(n - start).unwrap_or(usize::MAX);
        let whole = buffer.get_mut(..offset(self.size.min(start + BLOCK))).unwrap_or_default();
        let data: u64 = block.data.iter().map(|s| s.end - s.start).sum();
        if self.hash && data < whole.len() as u64 {
            whole.fill(0);
        }
        for stretch in &block.data {
            let part = whole.get_mut(offset(stretch.start)..offset(stretch.end)).unwrap_or_default();
            if self.fs.read_at(self.from.0, self.from.1, part, stretch.start)? < part.len() {
                return Err(DataError::Short { path: self.from.1.to_owned() });
            }
            self.fs.write_at(self.to.0, self.to.1, part, stretch.start)?;
        }
        self.flow.progress.advance(data);
        self.fs.rest_after_copying(data, self.flow.cancelled);
        Ok(self.hash.then(|| (block.number, blake3::hash(whole))))
    }
}

/// From the first byte of these blocks to their last.
fn extent(blocks: &[Block]) -> Range<u64> {
    let start = blocks.first().map_or(0, |block| block.number * BLOCK);
    start..blocks.last().map_or(start, |block| (block.number + 1) * BLOCK)
}

/// The stretches by blocks.
fn blocks(stretches: &[Range<u64>]) -> Vec<Block> {
    let mut all: Vec<Block> = Vec::new();
    for stretch in stretches {
        let mut start = stretch.start;
        while start < stretch.end {
            let number = start / BLOCK;
            let end = ((number + 1) * BLOCK).min(stretch.end);
            match all.last_mut() {
                Some(last) if last.number == number => last.data.push(start..end),
                _ => all.push(Block { number, data: std::iter::once(start..end).collect() }),
            }
            start = end;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_cut_at_blocks_and_gathered_by_them() {
        let block = |number: u64, data: &[Range<u64>]| Block { number, data: data.to_vec() };
        assert_eq!(
            blocks(&[5..10, 100..BLOCK + 1, 2 * BLOCK - 1..2 * BLOCK, 5 * BLOCK..6 * BLOCK]),
            [
                block(0, &[5..10, 100..BLOCK]),
                block(1, &[BLOCK..BLOCK + 1, 2 * BLOCK - 1..2 * BLOCK]),
                block(5, std::slice::from_ref(&(5 * BLOCK..6 * BLOCK)))
            ]
        );
        assert_eq!(blocks(&[]), []);
    }
}
