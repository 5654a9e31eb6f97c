//! One frame at a time through a compressor. Pure.

use crate::policy::compress::Method;
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use std::io::{self, Read as _, Write as _};

/// Makes frames; one for each thread.
pub(crate) enum Encoder {
    Zstd(Box<zstd::bulk::Compressor<'static>>),
    Lz4,
}

impl Encoder {
    pub(crate) fn new(method: Method, level: i32) -> io::Result<Self> {
        match method {
            Method::Lz4 => Ok(Self::Lz4),
            Method::Zstd => {
                let mut compressor = zstd::bulk::Compressor::new(level)?;
                // Four bytes a frame: who reads it by another program is told of damage too.
                compressor.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(true))?;
                Ok(Self::Zstd(Box::new(compressor)))
            }
        }
    }

    /// Appends a frame that holds `bytes`; its length.
    pub(crate) fn frame(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        let before = out.len();
        match self {
            Self::Zstd(compressor) => {
                out.resize(before + zstd::zstd_safe::compress_bound(bytes.len()), 0);
                let written = compressor.compress_to_buffer(bytes, out.get_mut(before..).unwrap_or_default())?;
                out.truncate(before + written);
            }
            Self::Lz4 => {
                let info = FrameInfo::new()
                    .block_size(BlockSize::Max4MB)
                    .block_mode(BlockMode::Independent)
                    .content_size(Some(bytes.len() as u64))
                    .content_checksum(true);
                let mut encoder = FrameEncoder::with_frame_info(info, &mut *out);
                encoder.write_all(bytes)?;
                encoder.finish().map_err(io::Error::other)?;
            }
        }
        Ok(out.len() - before)
    }
}

/// Reads frames; one for each thread.
pub(crate) enum Decoder {
    Zstd(Box<zstd::bulk::Decompressor<'static>>),
    Lz4,
}

impl Decoder {
    pub(crate) fn new(method: Method) -> io::Result<Self> {
        match method {
            Method::Zstd => Ok(Self::Zstd(Box::new(zstd::bulk::Decompressor::new()?))),
            Method::Lz4 => Ok(Self::Lz4),
        }
    }

    /// Fills `out` from a frame that holds exactly so much; an error says what is wrong with the frame.
    pub(crate) fn fill(&mut self, frame: &[u8], out: &mut [u8]) -> io::Result<()> {
        let wanted = out.len();
        let got = match self {
            Self::Zstd(decompressor) => decompressor.decompress_to_buffer(frame, out)?,
            Self::Lz4 => {
                let mut decoder = FrameDecoder::new(frame);
                decoder.read_exact(out)?;
                wanted + decoder.read(&mut [0])?
            }
        };
        if got == wanted { Ok(()) } else { Err(io::Error::other(format!("a frame holds {got} bytes, and should {wanted}"))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_out_as_it_went_in_and_a_damaged_one_does_not_come_out() {
        let bytes: Vec<u8> = (0..300_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for (method, level) in [(Method::Zstd, 1), (Method::Zstd, 19), (Method::Lz4, 0)] {
            let mut encoder = Encoder::new(method, level).unwrap();
            let mut out = b"before".to_vec();
            let len = encoder.frame(&bytes, &mut out).unwrap();
            assert!(len < bytes.len() / 2 && out.len() == 6 + len);
            let mut decoder = Decoder::new(method).unwrap();
            let mut back = vec![9; bytes.len()];
            decoder.fill(&out[6..], &mut back).unwrap();
            assert!(back == bytes, "{method:?}");
            assert!(decoder.fill(&out[6..], &mut vec![0; bytes.len() - 1]).is_err());
            assert!(decoder.fill(&out[6..], &mut vec![0; bytes.len() + 1]).is_err());
            for at in (0..len).step_by(len / 97) {
                let mut bad = out[6..].to_vec();
                bad[at] ^= 0x10;
                let mut other = vec![0; bytes.len()];
                let unpacked = decoder.fill(&bad, &mut other);
                assert!(unpacked.is_err() || other == bytes, "{method:?}: byte {at}");
            }
        }
    }
}
