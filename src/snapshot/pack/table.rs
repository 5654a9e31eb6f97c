//! Frames that are not made by a compressor, and the seek table. Pure.
//!
//! A packed file is frames one behind the other, which `zstd -d` and `lz4 -d` read, and a skippable frame at its end, which
//! both pass over: the seek table of Zstandard's seekable format, with the lengths of each frame packed and unpacked. The
//! same table is put behind LZ4 frames.

use crate::policy::compress::Method;

/// What begins a skippable frame that is a seek table.
const SKIPPABLE: u32 = 0x184d_2a5e;
/// What begins a skippable frame that stands for a hole, among LZ4 frames.
const HOLE: u32 = 0x184d_2a50;
/// What ends a seek table.
const SEEKABLE: u32 = 0x8f92_eab1;
/// Number of frames, descriptor, [`SEEKABLE`].
pub(crate) const FOOTER: usize = 9;
const HEADER: usize = 8;
const ENTRY: usize = 8;
/// The longest run that a block of a Zstandard frame may have.
const RUN: u64 = 128 << 10;

/// Lengths of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lengths {
    /// In the packed file.
    pub(crate) packed: u32,
    /// In the raw file.
    pub(crate) raw: u32,
}

/// A frame of `len` zeros. For Zstandard, it is what a decompressor turns into zeros: blocks that repeat one byte, 4 bytes
/// for 128 KiB. LZ4 has no such thing: there it is a frame that is passed over.
pub(crate) fn hole(method: Method, len: u32) -> Vec<u8> {
    let mut frame = Vec::new();
    if method == Method::Lz4 {
        frame.extend(HOLE.to_le_bytes());
        frame.extend(8_u32.to_le_bytes());
        frame.extend(u64::from(len).to_le_bytes());
        return frame;
    }
    frame.extend([0x28, 0xb5, 0x2f, 0xfd]);
    // The length of the content follows, in 4 bytes; a window of 128 KiB, no checksum, no dictionary.
    frame.extend([0x80, 7 << 3]);
    frame.extend(len.to_le_bytes());
    let mut left = u64::from(len);
    loop {
        let run = left.min(RUN);
        left -= run;
        let [a, b, c, _] = (u32::try_from(run).unwrap_or(0) << 3 | 1 << 1 | u32::from(left == 0)).to_le_bytes();
        frame.extend([a, b, c, 0]);
        if left == 0 {
            return frame;
        }
    }
}

/// The seek table.
pub(crate) fn table(frames: &[Lengths]) -> Vec<u8> {
    let size = frames.len() * ENTRY + FOOTER;
    let mut bytes = Vec::with_capacity(HEADER + size);
    let word = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    bytes.extend(SKIPPABLE.to_le_bytes());
    bytes.extend(word(size));
    for frame in frames {
        bytes.extend(frame.packed.to_le_bytes());
        bytes.extend(frame.raw.to_le_bytes());
    }
    bytes.extend(word(frames.len()));
    bytes.push(0);
    bytes.extend(SEEKABLE.to_le_bytes());
    bytes
}

/// How long the table is whose last bytes these are; `None` if they are not.
pub(crate) fn table_len(footer: &[u8]) -> Option<u64> {
    let (count, rest) = footer.split_first_chunk::<4>()?;
    let (descriptor, magic) = rest.split_first()?;
    // With checksums an entry would be longer; ours have none, the frames themselves do.
    let is_table = *descriptor == 0 && magic == SEEKABLE.to_le_bytes();
    is_table.then(|| u64::from(u32::from_le_bytes(*count)) * ENTRY as u64 + (HEADER + FOOTER) as u64)
}

/// The frames that a whole table lists; `None` if it is none, or does not add up to a file of `packed` bytes that holds `raw`.
pub(crate) fn read(bytes: &[u8], packed: u64, raw: u64) -> Option<Vec<Lengths>> {
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let (entries, footer) = rest.split_at_checked(rest.len().checked_sub(FOOTER)?)?;
    let mut expected = SKIPPABLE.to_le_bytes().to_vec();
    expected.extend(u32::try_from(rest.len()).ok()?.to_le_bytes());
    if header != expected || table_len(footer)? != bytes.len() as u64 {
        return None;
    }
    let lengths = |entry: &[u8]| {
        let (packed, raw) = entry.split_first_chunk::<4>()?;
        Some(Lengths { packed: u32::from_le_bytes(*packed), raw: u32::from_le_bytes(*raw.first_chunk()?) })
    };
    let frames: Vec<Lengths> = entries.chunks_exact(ENTRY).map(lengths).collect::<Option<_>>()?;
    let sum = |of: fn(&Lengths) -> u32| frames.iter().map(|f| u64::from(of(f))).sum::<u64>();
    let is_all = sum(|f| f.packed) + bytes.len() as u64 == packed && sum(|f| f.raw) == raw;
    (is_all && frames.iter().all(|f| f.raw > 0)).then_some(frames)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_table_is_read_as_it_was_written_and_no_other_bytes_are(
            lengths in prop::collection::vec((any::<u32>(), 1..u32::MAX), 0..50),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u32,
        ) {
            let frames: Vec<_> = lengths.iter().map(|(packed, raw)| Lengths { packed: *packed, raw: *raw }).collect();
            let bytes = table(&frames);
            let raw = frames.iter().map(|f| u64::from(f.raw)).sum();
            let packed = frames.iter().map(|f| u64::from(f.packed)).sum::<u64>() + bytes.len() as u64;
            prop_assert_eq!(table_len(&bytes[bytes.len() - FOOTER..]), Some(bytes.len() as u64));
            prop_assert_eq!(read(&bytes, packed, raw), Some(frames));
            prop_assert_eq!(read(&bytes, packed + 1, raw), None);
            prop_assert_eq!(read(&bytes, packed, raw + 1), None);
            let mut bad = bytes.clone();
            bad[at.index(bytes.len())] ^= 1 << bit;
            prop_assert_eq!(read(&bad, packed, raw), None, "every bit counts");
            prop_assert_eq!(read(&bytes[1..], packed, raw), None);
        }

        #[test]
        fn bytes_of_any_kind_are_no_reason_to_fall(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (table_len(&bytes), read(&bytes, 7, 7));
        }
    }

    #[test]
    fn a_frame_of_zeros_unpacks_to_them_and_is_short() {
        for len in [1, 4096, 128 << 10, (128 << 10) + 1, 9 << 20] {
            let frame = hole(Method::Zstd, len);
            assert!(frame.len() <= 16 + (len as usize >> 15));
            assert_eq!(zstd::decode_all(&*frame).unwrap(), vec![0; len as usize], "{len}");
        }
    }
}
