//! A packed file back into a raw one, or only into its digest: windows side by side on all threads.

use super::codec::Decoder;
use super::plan::WINDOW;
use super::table::{self, FOOTER, Lengths};
use super::{PackError, Packed};
use crate::policy::compress::Method;
use crate::snapshot::copy::Flow;
use crate::snapshot::digest::{Hashed, digest_of, hash_blocks};
use crate::store::fs::Fs;
use std::fs::File;
use std::path::Path;

/// No hole is written where only so much is zero.
const PAGE: usize = 4096;
static ZEROS: [u8; PAGE] = [0; PAGE];

/// A frame with its places in both files.
#[derive(Debug, Clone, Copy)]
struct Frame {
    packed_at: u64,
    raw_at: u64,
    lengths: Lengths,
}

/// Unpacks `from`, which holds a file of `size` bytes, into the new, empty file `to`, whose pages of zeros become holes; or
/// nowhere. The digest is that of the raw file: whether it is the right one is the caller's to say.
///
/// # Errors
/// [`PackError::Damaged`] if it is not what was written; others as they say. `to` then holds a part.
pub fn unpack_file(
    fs: &Fs,
    from: (&File, &Path),
    to: Option<(&File, &Path)>,
    size: u64,
    method: Method,
    flow: Flow<'_>,
) -> Result<Packed, PackError> {
    let frames = frames(fs, from, size)?;
    if let Some((file, path)) = to {
        fs.set_len(file, path, size)?;
    }
    let units: Vec<&[Frame]> = frames.chunk_by(|a, b| a.raw_at / WINDOW == b.raw_at / WINDOW).collect();
    let state = || Reader { fs, from, method, decoder: Decoder::new(method), packed: Vec::new(), raw: Vec::new() };
    let done = flow.each(units.len(), state, |reader, index| {
        if flow.is_cancelled() {
            return Err(PackError::Cancelled);
        }
        let hashed = reader.unit(units.get(index).copied().unwrap_or_default(), to)?;
        flow.progress.advance(hashed.bytes);
        Ok(hashed.hashes)
    })?;
    let hashes = done.into_iter().flatten().collect();
    Ok(Packed { bytes: fs.stat_open(from.0, from.1)?.size, digest: digest_of(size, hashes) })
}

fn damaged(path: &Path, why: impl Into<String>) -> PackError {
    PackError::Damaged { path: path.to_owned(), why: why.into() }
}

/// The frames by the table at the file's end.
fn frames(fs: &Fs, from: (&File, &Path), size: u64) -> Result<Vec<Frame>, PackError> {
    let (file, path) = from;
    let packed = fs.stat_open(file, path)?.size;
    let no_table = || damaged(path, "it has no seek table that fits it");
    let mut footer = [0; FOOTER];
    let at = packed.checked_sub(FOOTER as u64).ok_or_else(no_table)?;
    fs.read_at(file, path, &mut footer, at)?;
    let len = table::table_len(&footer).filter(|len| *len <= packed).ok_or_else(no_table)?;
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| no_table())?];
    fs.read_at(file, path, &mut bytes, packed - len)?;
    let lengths = table::read(&bytes, packed, size).ok_or_else(no_table)?;
    let mut frames = Vec::with_capacity(lengths.len());
    let (mut packed_at, mut raw_at) = (0, 0);
    for lengths in lengths {
        frames.push(Frame { packed_at, raw_at, lengths });
        packed_at += u64::from(lengths.packed);
        raw_at += u64::from(lengths.raw);
    }
    Ok(frames)
}

/// What one thread needs.
struct Reader<'a> {
    fs: &'a Fs,
    from: (&'a File, &'a Path),
    method: Method,
    decoder: std::io::Result<Decoder>,
    packed: Vec<u8>,
    raw: Vec<u8>,
}

impl Reader<'_> {
    /// The frames that begin in one window.
    fn unit(&mut self, frames: &[Frame], to: Option<(&File, &Path)>) -> Result<Hashed, PackError> {
        let (Some(first), Some(last)) = (frames.first(), frames.last()) else { return Ok(Hashed::default()) };
        let end = last.raw_at + u64::from(last.lengths.raw);
        if end - first.raw_at > WINDOW {
            // Only a hole is longer than a window, and it begins where one does.
            let is_hole = frames.len() == 1 && first.raw_at % WINDOW == 0 && self.is_hole(first)?;
            return if is_hole { Ok(Hashed::default()) } else { Err(damaged(self.from.1, "a frame is longer than any that is written")) };
        }
        self.raw.clear();
        self.raw.resize(usize::try_from(end - first.raw_at).unwrap_or(0), 0);
        let mut bytes = 0;
        for frame in frames {
            if !self.is_hole(frame)? {
                self.fill(frame, first.raw_at)?;
                bytes += u64::from(frame.lengths.raw);
            }
        }
        if bytes == 0 {
            return Ok(Hashed::default());
        }
        if let Some(to) = to {
            self.write(first.raw_at, to)?;
        }
        Ok(Hashed { hashes: hash_blocks(first.raw_at, &self.raw), bytes })
    }

    /// Reads a frame; true if it stands for a hole.
    fn is_hole(&mut self, frame: &Frame) -> Result<bool, PackError> {
        let len = usize::try_from(frame.lengths.packed).unwrap_or(usize::MAX);
        self.packed.clear();
        self.packed.resize(len, 0);
        if self.fs.read_at(self.from.0, self.from.1, &mut self.packed, frame.packed_at)? < len {
            return Err(damaged(self.from.1, "it is shorter than its frames"));
        }
        Ok(self.packed == table::hole(self.method, frame.lengths.raw))
    }

    /// Unpacks the frame that was read.
    fn fill(&mut self, frame: &Frame, window: u64) -> Result<(), PackError> {
        let path = self.from.1;
        let start = usize::try_from(frame.raw_at - window).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(frame.lengths.raw).unwrap_or(usize::MAX));
        let out = self.raw.get_mut(start..end).unwrap_or_default();
        let decoder = self.decoder.as_mut().map_err(|e| PackError::Codec(e.to_string()))?;
        decoder.fill(&self.packed, out).map_err(|e| damaged(path, format!("the frame at byte {}: {e}", frame.packed_at)))
    }

    /// Writes the window, but for pages of zeros.
    fn write(&self, window: u64, (file, path): (&File, &Path)) -> Result<(), PackError> {
        let mut run: Option<(u64, usize)> = None;
        let mut at = 0;
        for page in self.raw.chunks(PAGE) {
            let is_zero = Some(page) == ZEROS.get(..page.len());
            match run.as_mut() {
                Some((_, len)) if !is_zero => *len += page.len(),
                Some(_) => self.write_run(window, run.take(), file, path)?,
                None if !is_zero => run = Some((at, page.len())),
                None => {}
            }
            at += page.len() as u64;
        }
        self.write_run(window, run, file, path)
    }

    fn write_run(&self, window: u64, run: Option<(u64, usize)>, file: &File, path: &Path) -> Result<(), PackError> {
        let Some((at, len)) = run else { return Ok(()) };
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let bytes = self.raw.get(start..start.saturating_add(len)).unwrap_or_default();
        Ok(self.fs.write_at(file, path, bytes, window + at)?)
    }
}
