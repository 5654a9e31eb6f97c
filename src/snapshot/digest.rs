//! What is hashed of a file, and the form it is written in.
//!
//! Up to 1 MiB: the BLAKE3 digest of the bytes, `blake3:<hex>`, the same that `b3sum` prints. Longer files: the BLAKE3
//! digest of the concatenated BLAKE3 digests (32 bytes each) of their blocks of 1 MiB, the last one as long as it is:
//! `blake3-1m:<hex>`. Files of more than 16 TiB are nearly all hole, and to hash their zeros would take hours: the BLAKE3
//! digest of the length and, for each block that is not all zeros, its number and its digest (numbers as 8 bytes, little
//! endian): `blake3-sparse:<hex>`. A hole counts as zeros and is never read, so the digest does not depend on a file's layout.

use crate::snapshot::copy::{DataError, Flow, stretches};
use crate::store::fs::{Absent, Below, Fs};
use crate::store::manifest::{Entry, Node};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The length of a block, in bytes.
pub const BLOCK: u64 = 1 << 20;

const BLOCK_LEN: usize = 1 << 20;

/// Longer than any folio of the page cache, bytes.
const FOLIOS: u64 = 4 << 20;

/// The longest file of which all blocks count, holes too.
const DENSE: u64 = 16 << 40;

static ZERO_BLOCK: LazyLock<blake3::Hash> = LazyLock::new(|| blake3::hash(&vec![0; BLOCK_LEN]));

/// Hashes an open file of `size` bytes, its blocks in parallel; `path` is for errors. Moves the file's position, and takes
/// the pages of a long file that were not in the page cache before out of it again.
///
/// # Errors
/// [`DataError`]: unreadable, shorter than `size`, or stopped.
pub fn digest_file(fs: &Fs, file: &File, path: &Path, size: u64, flow: Flow<'_>) -> Result<String, DataError> {
    let data = stretches(fs, file, path, size)?;
    if fs.stat_open(file, path)?.size < size {
        return Err(DataError::Short { path: path.to_owned() });
    }
    if size <= BLOCK {
        let mut buffer = vec![0; usize::try_from(size).unwrap_or(BLOCK_LEN)];
        read_block(fs, file, path, &data, &mut buffer, 0)?;
        flow.progress.advance(data_bytes(&data));
        return Ok(format!("blake3:{}", blake3::hash(&buffer).to_hex()));
    }
    let blocks = blocks_with_data(&data);
    // Whoever reads a snapshot only to hash it leaves the page cache as it was: a memory file may be in use by its forks.
    let absent = Absent::of(file, size, &data);
    let done = flow.each(
        blocks.len(),
        || vec![0; BLOCK_LEN],
        |buffer, index| {
            if flow.is_cancelled() {
                return Err(DataError::Cancelled);
            }
            let block = blocks.get(index).copied().unwrap_or(0);
            let start = block * BLOCK;
            let length = usize::try_from((size - start).min(BLOCK)).unwrap_or(BLOCK_LEN);
            let bytes = buffer.get_mut(..length).unwrap_or_default();
            let read = read_block(fs, file, path, &data, bytes, start)?;
            // With some that lie before: pages come in folios, which go as a whole, and one may reach into the block before.
            fs.drop_what_was_absent(file, &absent, &(start.saturating_sub(FOLIOS)..start + length as u64));
            flow.progress.advance(read);
            Ok((block, blake3::hash(bytes)))
        },
    )?;
    // Also what was read ahead.
    fs.drop_what_was_absent(file, &absent, &(0..u64::MAX));
    Ok(digest_of(size, done))
}

/// The number of a block, and its hash.
pub(crate) type BlockHash = (u64, blake3::Hash);

/// The digest of a file of `size` bytes, by the hashes of all its blocks that may hold data, in any order; the
/// others are all zeros.
pub(crate) fn digest_of(size: u64, mut hashes: Vec<BlockHash>) -> String {
    if size <= BLOCK {
        let zeros = || blake3::hash(&vec![0; usize::try_from(size).unwrap_or(BLOCK_LEN)]);
        let hash = hashes.first().map_or_else(zeros, |(_, hash)| *hash);
        return format!("blake3:{}", hash.to_hex());
    }
    hashes.sort_unstable_by_key(|(block, _)| *block);
    digest_of_blocks(size, &hashes)
}

/// The digest of a file of more than one block, by the hashes of those that may hold data, in order.
fn digest_of_blocks(size: u64, hashes: &[BlockHash]) -> String {
    let last = usize::try_from(size % BLOCK).ok().filter(|rest| *rest != 0).map_or(*ZERO_BLOCK, |rest| blake3::hash(&vec![0; rest]));
    let count = size.div_ceil(BLOCK);
    let zeros = |block: u64| if block + 1 == count { last } else { *ZERO_BLOCK };
    let mut all = blake3::Hasher::new();
    if size > DENSE {
        all.update(&size.to_le_bytes());
        for (block, hash) in hashes.iter().filter(|(block, hash)| *hash != zeros(*block)) {
            all.update(&block.to_le_bytes()).update(hash.as_bytes());
        }
        return format!("blake3-sparse:{}", all.finalize().to_hex());
    }
    let mut hashes = hashes.iter().peekable();
    for block in 0..count {
        let hash = hashes.next_if(|(at, _)| *at == block).map_or_else(|| zeros(block), |(_, hash)| *hash);
        all.update(hash.as_bytes());
    }
    format!("blake3-1m:{}", all.finalize().to_hex())
}

/// Hashes of blocks, by their numbers, and how many bytes were hashed for them.
#[derive(Debug, Default)]
pub(crate) struct Hashed {
    pub(crate) hashes: Vec<BlockHash>,
    pub(crate) bytes: u64,
}

/// The hashes of the blocks of a part of a file that begins at `start`, a multiple of [`BLOCK`]; its last block may be short
/// only at the file's end.
pub(crate) fn hash_blocks(start: u64, bytes: &[u8]) -> Vec<BlockHash> {
    (start / BLOCK..).zip(bytes.chunks(BLOCK_LEN).map(blake3::hash)).collect()
}

/// Fills the digests that are still empty, from the files below `dest`: small files side by side, large ones block by block.
///
/// # Errors
/// [`DataError`]; the entries are then partly filled.
pub fn hash_tree(fs: &Fs, dest: &Path, entries: &mut [Entry], flow: Flow<'_>) -> Result<(), DataError> {
    hash_up_to(fs, dest, entries, u64::MAX, flow)
}

/// The same for files of one block only, which cost next to nothing.
///
/// # Errors
/// Those of [`hash_tree`].
pub fn hash_small(fs: &Fs, dest: &Path, entries: &mut [Entry], flow: Flow<'_>) -> Result<(), DataError> {
    hash_up_to(fs, dest, entries, BLOCK, flow)
}

fn hash_up_to(fs: &Fs, dest: &Path, entries: &mut [Entry], longest: u64, flow: Flow<'_>) -> Result<(), DataError> {
    let mut small: Vec<(usize, PathBuf, u64)> = Vec::new();
    let mut large = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        if let Node::File(file) = &entry.node
            && file.digest.is_empty()
            && file.size <= longest
        {
            let job = (index, entry.path.as_path().to_owned(), file.size);
            if file.size > BLOCK { large.push(job) } else { small.push(job) }
        }
    }
    let mut below = Below::open(fs, dest)?;
    let mut files = Vec::with_capacity(large.len());
    let mut to_read = small.iter().fold(0_u64, |sum, job| sum.saturating_add(job.2));
    for (index, path, size) in large {
        let meta = fs.stat(below.place(&path)?)?;
        to_read = to_read.saturating_add(meta.allocated.min(size));
        files.push((index, path, size));
    }
    flow.progress.total(to_read);
    let alone = Flow { threads: 1, ..flow };
    let job = |below: &mut Result<Below<'_>, _>, index: usize| -> Result<Option<(usize, String)>, DataError> {
        let Some((entry, path, size)) = small.get(index) else { return Ok(None) };
        if flow.is_cancelled() {
            return Err(DataError::Cancelled);
        }
        let below = below.as_mut().map_err(|e: &mut crate::store::fs::FsError| DataError::Io(e.clone()))?;
        Ok(Some((*entry, digest_below(fs, below, path, *size, alone)?)))
    };
    let mut digests = flow.each(small.len(), || Below::open(fs, dest), job)?;
    for (index, path, size) in files {
        digests.push(Some((index, digest_below(fs, &mut below, &path, size, flow)?)));
    }
    for (index, digest) in digests.into_iter().flatten() {
        if let Some(Node::File(file)) = entries.get_mut(index).map(|entry| &mut entry.node) {
            file.digest = digest;
        }
    }
    Ok(())
}

/// Notes how much of each long file is data, so that a hole in its place can be told from other damage.
///
/// # Errors
/// [`DataError`]: unreadable.
pub fn note_data(fs: &Fs, dest: &Path, entries: &mut [Entry]) -> Result<(), DataError> {
    let mut below = Below::open(fs, dest)?;
    for entry in entries {
        if let Node::File(file) = &mut entry.node
            && file.size > BLOCK
        {
            file.data = Some(data_below(fs, &mut below, entry.path.as_path(), file.size)?);
        }
    }
    Ok(())
}

/// How many bytes of a file are no hole.
///
/// # Errors
/// [`DataError`]: unreadable.
pub fn data_below(fs: &Fs, below: &mut Below<'_>, path: &Path, size: u64) -> Result<u64, DataError> {
    let file = fs.open_file(below.place(path)?)?;
    Ok(data_bytes(&stretches(fs, &file, &below.path_of(path), size)?))
}

fn digest_below(fs: &Fs, below: &mut Below<'_>, path: &Path, size: u64, flow: Flow<'_>) -> Result<String, DataError> {
    let file = fs.open_file(below.place(path)?)?;
    digest_file(fs, &file, &below.path_of(path), size, flow)
}

/// Reads the data of the block at `start` into `bytes`, zeros where it has a hole; the number of bytes read.
fn read_block(fs: &Fs, file: &File, path: &Path, data: &[Range<u64>], bytes: &mut [u8], start: u64) -> Result<u64, DataError> {
    let end = start + bytes.len() as u64;
    let first = data.partition_point(|stretch| stretch.end <= start);
    let within: Vec<_> = data.iter().skip(first).take_while(|s| s.start < end).map(|s| s.start.max(start)..s.end.min(end)).collect();
    let wanted = data_bytes(&within);
    if wanted < bytes.len() as u64 {
        bytes.fill(0);
    }
    let offset = |n: u64| usize::try_from(n - start).unwrap_or(usize::MAX);
    for stretch in within {
        let part = bytes.get_mut(offset(stretch.start)..offset(stretch.end)).unwrap_or_default();
        if fs.read_at(file, path, part, stretch.start)? < part.len() {
            return Err(DataError::Short { path: path.to_owned() });
        }
    }
    Ok(wanted)
}

fn data_bytes(data: &[Range<u64>]) -> u64 {
    data.iter().map(|stretch| stretch.end - stretch.start).sum()
}

fn blocks_with_data(data: &[Range<u64>]) -> Vec<u64> {
    let mut blocks: Vec<u64> = data.iter().flat_map(|s| s.start / BLOCK..s.end.div_ceil(BLOCK)).collect();
    blocks.dedup();
    blocks
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "tests look at files by other means than the code under test")]

    use super::*;

    fn make(dir: &Path, name: &str, size: u64, pieces: &[(u64, &[u8])]) -> (File, PathBuf) {
        let (fs, path) = (Fs::real(), dir.join(name));
        let file = fs.create(&path, 0o600).unwrap();
        fs.set_len(&file, &path, size).unwrap();
        for (at, bytes) in pieces {
            fs.write_at(&file, &path, bytes, *at).unwrap();
        }
        (file, path)
    }

    fn by_definition(bytes: &[u8]) -> String {
        if bytes.len() <= 1 << 20 {
            return format!("blake3:{}", blake3::hash(bytes).to_hex());
        }
        let joined: Vec<u8> = bytes.chunks(1 << 20).flat_map(|block| *blake3::hash(block).as_bytes()).collect();
        format!("blake3-1m:{}", blake3::hash(&joined).to_hex())
    }

    #[test]
    fn the_digest_is_the_definition_at_every_length_and_layout() {
        let temp = tempfile::tempdir().unwrap();
        let fs = Fs::real();
        let flow = Flow { threads: 3, ..Flow::quiet() };
        let m = 1 << 20;
        for (i, size) in [0, 1, 4096, m - 1, m, m + 1, 3 * m, 3 * m + 17, 9 * m].into_iter().enumerate() {
            let size_u64 = size as u64;
            let piece = &b"something in the middle"[..size.min(23)];
            let at = [0, size_u64 / 2, size_u64.saturating_sub(23)].map(|at| at.min(size_u64 - piece.len() as u64));
            let pieces: Vec<_> = at.iter().map(|at| (*at, piece)).collect();
            let (holes, path) = make(temp.path(), &format!("holes-{i}"), size_u64, &pieces);
            let bytes = std::fs::read(&path).unwrap();
            let (dense, dense_path) = make(temp.path(), &format!("dense-{i}"), 0, &[(0, &bytes)]);
            let wanted = by_definition(&bytes);
            assert_eq!(digest_file(&fs, &holes, &path, size_u64, flow).unwrap(), wanted, "{size}");
            assert_eq!(digest_file(&fs, &dense, &dense_path, size_u64, flow).unwrap(), wanted, "{size}");
        }
    }

    #[test]
    fn a_huge_hole_is_not_read() {
        let temp = tempfile::tempdir().unwrap();
        let (file, path) = make(temp.path(), "hole", 1 << 40, &[(1 << 39, b"x")]);
        let digest = digest_file(&Fs::real(), &file, &path, 1 << 40, Flow::quiet()).unwrap();
        assert!(digest.starts_with("blake3-1m:"));
    }

    #[test]
    fn a_file_longer_than_any_disk_is_hashed_by_its_data_and_zeros_count_as_holes() {
        let size = (1 << 60) + 5;
        let (zero, some) = (*ZERO_BLOCK, blake3::hash(b"some"));
        let digest = digest_of_blocks(size, &[(3, some), (1 << 39, some)]);
        assert!(digest.starts_with("blake3-sparse:"));
        let zero_tail = blake3::hash(&[0; 5]);
        assert_eq!(digest_of_blocks(size, &[(2, zero), (3, some), (1 << 39, some), (1 << 40, zero_tail)]), digest);
        for other in [&[(4, some), (1 << 39, some)][..], &[(3, some)], &[(3, some), (1 << 39, some), (1 << 40, some)]] {
            assert_ne!(digest_of_blocks(size, other), digest);
        }
        assert_ne!(digest_of_blocks(size + 1, &[(3, some), (1 << 39, some)]), digest);
    }

    #[test]
    fn a_file_that_is_shorter_than_told_is_an_error() {
        let temp = tempfile::tempdir().unwrap();
        let (file, path) = make(temp.path(), "f", 10, &[(0, b"x")]);
        assert!(matches!(digest_file(&Fs::real(), &file, &path, 11, Flow::quiet()), Err(DataError::Short { .. })));
    }
}
