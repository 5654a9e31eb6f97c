//! A raw file into a packed one: windows side by side on all threads, frames in the order of the file.

use super::codec::Encoder;
use super::plan::{LONGEST, Piece, Unit, plan};
use super::table::{self, Lengths};
use super::{PackError, Packed};
use crate::policy::compress::Method;
use crate::snapshot::copy::{Flow, stretches};
use crate::snapshot::digest::{Hashed, hash_blocks};
use crate::store::fs::Fs;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How to pack.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// By which compressor.
    pub method: Method,
    /// How hard.
    pub level: i32,
    /// More bytes than this are no gain: the work ends as soon as that shows.
    pub at_most: u64,
}

/// Packs the first `size` bytes of `from` into the new, empty file `to`; the digest of what was read comes with it.
///
/// # Errors
/// [`PackError`]; `to` then holds a part.
pub fn pack_file(fs: &Fs, from: (&File, &Path), to: (&File, &Path), size: u64, how: How, flow: Flow<'_>) -> Result<Packed, PackError> {
    if size > LONGEST {
        return Err(PackError::NoGain);
    }
    let units = plan(size, &stretches(fs, from.0, from.1, size)?);
    let out = Ordered { fs, to, at_most: how.at_most, ahead: 4 * flow.threads.max(1), state: Mutex::default(), turn: Condvar::new() };
    let state = || (Encoder::new(how.method, how.level), Vec::new());
    let job = |(encoder, buffer): &mut (std::io::Result<Encoder>, Vec<u8>), index: usize| {
        let Some(unit) = units.get(index) else { return Ok(Vec::new()) };
        let encoder = encoder.as_mut().map_err(|e| PackError::Codec(e.to_string()));
        let packed =
            if flow.is_cancelled() { Err(PackError::Cancelled) } else { encoder.and_then(|e| pack(fs, from, unit, how, e, buffer)) };
        let done = packed.and_then(|(bytes, frames, hashes)| out.put(index, bytes, frames).map(|()| hashes));
        if let Ok(hashes) = &done {
            flow.progress.advance(hashes.bytes);
        }
        // Those that wait for this one must not wait for ever.
        done.map(|hashed| hashed.hashes).map_err(|e| out.fail(e))
    };
    let Ok(hashes) = flow.each(units.len(), state, job) else { return Err(out.into_error()) };
    let hashes = hashes.into_iter().flatten().collect();
    let (frames, end) = out.into_frames();
    let table = table::table(&frames);
    fs.write_at(to.0, to.1, &table, end)?;
    let packed = end + table.len() as u64;
    if packed > how.at_most {
        Err(PackError::NoGain)
    } else {
        Ok(Packed { bytes: packed, digest: crate::snapshot::digest::digest_of(size, hashes) })
    }
}

type Frames = (Vec<u8>, Vec<Lengths>, Hashed);

/// The frames of one unit.
fn pack(fs: &Fs, from: (&File, &Path), unit: &Unit, how: How, encoder: &mut Encoder, buffer: &mut Vec<u8>) -> Result<Frames, PackError> {
    let (mut out, mut frames) = (Vec::new(), Vec::new());
    let (Some(first), Some(last)) = (unit.first(), unit.last()) else { return Ok((out, frames, Hashed::default())) };
    let start = first.range.start;
    let has_data = unit.iter().any(|piece| !piece.is_hole);
    if has_data {
        buffer.clear();
        buffer.resize(usize::try_from(last.range.end - start).unwrap_or(0), 0);
    }
    let mut read = 0;
    for piece in unit {
        let before = out.len();
        if piece.is_hole {
            out.extend(table::hole(how.method, length(piece)));
        } else {
            let bytes = slice(buffer, start, piece);
            if fs.read_at(from.0, from.1, bytes, piece.range.start)? < bytes.len() {
                return Err(PackError::Short { path: from.1.to_owned() });
            }
            read += bytes.len() as u64;
            encoder.frame(bytes, &mut out).map_err(|e| PackError::Codec(e.to_string()))?;
        }
        let packed = u32::try_from(out.len() - before).map_err(|e| PackError::Codec(e.to_string()))?;
        frames.push(Lengths { packed, raw: length(piece) });
    }
    let hashes = if has_data { hash_blocks(start, buffer) } else { Vec::new() };
    Ok((out, frames, Hashed { hashes, bytes: read }))
}

fn length(piece: &Piece) -> u32 {
    u32::try_from(piece.len()).unwrap_or(u32::MAX)
}

fn slice<'b>(buffer: &'b mut [u8], start: u64, piece: &Piece) -> &'b mut [u8] {
    let at = |n: u64| usize::try_from(n - start).unwrap_or(usize::MAX);
    buffer.get_mut(at(piece.range.start)..at(piece.range.end)).unwrap_or_default()
}

/// Puts what threads make, in whatever order, into a file in the order of units.
struct Ordered<'a> {
    fs: &'a Fs,
    to: (&'a File, &'a Path),
    at_most: u64,
    /// So many units may be finished before the one that all wait for is.
    ahead: usize,
    state: Mutex<State>,
    turn: Condvar,
}

#[derive(Default)]
struct State {
    /// The unit whose place in the file is next.
    next: usize,
    end: u64,
    waiting: BTreeMap<usize, (Vec<u8>, Vec<Lengths>)>,
    frames: Vec<Lengths>,
    error: Option<PackError>,
}

impl Ordered<'_> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the frames of a unit; whoever brings the one that was waited for writes all that can be written then.
    fn put(&self, index: usize, bytes: Vec<u8>, frames: Vec<Lengths>) -> Result<(), PackError> {
        let mut state = self.state();
        while state.error.is_none() && index > state.next + self.ahead {
            state = self.turn.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.error.is_some() {
            return Err(PackError::Cancelled);
        }
        state.waiting.insert(index, (bytes, frames));
        let mut ready = Vec::new();
        loop {
            let next = state.next;
            let Some((bytes, frames)) = state.waiting.remove(&next) else { break };
            let at = state.end;
            state.end += bytes.len() as u64;
            state.next += 1;
            state.frames.extend(frames);
            ready.push((at, bytes));
        }
        if state.end > self.at_most {
            return Err(PackError::NoGain);
        }
        drop(state);
        self.turn.notify_all();
        Ok(ready.into_iter().try_for_each(|(at, bytes)| self.fs.write_at(self.to.0, self.to.1, &bytes, at))?)
    }

    /// The first error is the one that counts: the others follow from it.
    fn fail(&self, error: PackError) {
        self.state().error.get_or_insert(error);
        self.turn.notify_all();
    }

    fn into_error(self) -> PackError {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).error.unwrap_or(PackError::Cancelled)
    }

    fn into_frames(self) -> (Vec<Lengths>, u64) {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        (state.frames, state.end)
    }
}
