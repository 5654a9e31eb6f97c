//! Whole files through the compressor and back, and through the programs that read the same formats.
#![expect(clippy::disallowed_methods, reason = "tests look at files by other means than the code under test")]

use super::*;
use crate::policy::compress::Method;
use crate::snapshot::copy::Flow;
use crate::snapshot::digest::digest_file;
use crate::store::fs::Fs;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

const MIB: u64 = 1 << 20;

fn file(dir: &Path, name: &str) -> (File, PathBuf) {
    let path = dir.join(name);
    (Fs::real().create(&path, 0o600).unwrap(), path)
}

/// Bytes that compress, and differ from place to place.
fn bytes(len: usize, seed: u32) -> Vec<u8> {
    (0..len as u32).map(|i| ((i / 5).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 24) as u8 | 1).collect()
}

/// A raw file of `size` with data at these places.
fn raw(dir: &Path, name: &str, size: u64, data: &[(u64, usize)]) -> (File, PathBuf) {
    let (from, path) = file(dir, name);
    Fs::real().set_len(&from, &path, size).unwrap();
    for (at, len) in data {
        Fs::real().write_at(&from, &path, &bytes(*len, *at as u32), *at).unwrap();
    }
    (from, path)
}

fn how(method: Method) -> How {
    How { method, level: 3, at_most: u64::MAX }
}

fn flow(threads: usize) -> Flow<'static> {
    Flow { threads, ..Flow::quiet() }
}

#[test]
fn any_file_comes_back_as_it_was_with_its_holes_on_any_number_of_threads() {
    let temp = tempfile::tempdir().unwrap();
    let fs = Fs::real();
    let cases: &[(u64, &[(u64, usize)])] = &[
        (0, &[]),
        (1, &[(0, 1)]),
        (4096, &[]),
        (5000, &[(0, 5000)]),
        (MIB, &[(1000, 5000)]),
        (MIB + 1, &[(MIB, 1)]),
        (9 * MIB + 17, &[(0, 9 * 1024 * 1024 + 17)]),
        (64 * MIB, &[(4096, 300_000), (6 * MIB - 8192, 16_384), (40 * MIB, 5 << 20), (64 * MIB - 1, 1)]),
        (3 << 30, &[((2 << 30) + 4096, 70_000)]),
    ];
    for (n, (size, data)) in cases.iter().enumerate() {
        let (from, path) = raw(temp.path(), &format!("raw-{n}"), *size, data);
        let digest = digest_file(&fs, &from, &path, *size, flow(1)).unwrap();
        for (method, threads) in [(Method::Zstd, 1), (Method::Zstd, 4), (Method::Lz4, 3)] {
            let (to, packed_path) = file(temp.path(), &format!("packed-{n}-{method:?}-{threads}"));
            let packed = pack_file(&fs, (&from, &path), (&to, &packed_path), *size, how(method), flow(threads)).unwrap();
            assert_eq!(packed, Packed { bytes: std::fs::metadata(&packed_path).unwrap().len(), digest: digest.clone() });
            let (back, back_path) = file(temp.path(), &format!("back-{n}-{method:?}-{threads}"));
            let unpacked = unpack_file(&fs, (&to, &packed_path), Some((&back, &back_path)), *size, method, flow(threads)).unwrap();
            assert_eq!(unpacked, packed);
            assert_eq!(digest_file(&fs, &back, &back_path, *size, flow(2)).unwrap(), digest);
            let blocks = |path: &Path| std::fs::metadata(path).unwrap().blocks();
            assert!(blocks(&back_path) <= blocks(&path), "holes stay holes: case {n}");
            assert_eq!(unpack_file(&fs, (&to, &packed_path), None, *size, method, flow(2)).unwrap(), packed);
        }
    }
}

#[test]
fn unzstd_and_lz4_read_it() {
    let temp = tempfile::tempdir().unwrap();
    let fs = Fs::real();
    let size = 33 * MIB;
    let (from, path) = raw(temp.path(), "raw", size, &[(4096, 300_000), (20 * MIB, 5 << 20)]);
    for (method, program, ending) in [(Method::Zstd, "unzstd", "zst"), (Method::Lz4, "lz4", "lz4")] {
        let (to, packed_path) = file(temp.path(), &format!("packed.{ending}"));
        pack_file(&fs, (&from, &path), (&to, &packed_path), size, how(method), flow(2)).unwrap();
        let Ok(out) = Command::new(program).args(["-d", "-c", "-q"]).arg(&packed_path).output() else { continue };
        assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
        match method {
            Method::Zstd => assert!(out.stdout == std::fs::read(&path).unwrap(), "byte for byte"),
            // The holes are frames that it passes over.
            Method::Lz4 => assert!(out.stdout.len() < 6 << 20 && out.stdout.windows(64).any(|w| w == &bytes(64, 20 << 20)[..])),
        }
    }
}

#[test]
fn what_does_not_gain_ends_early_and_so_does_what_is_told_to_stop() {
    let temp = tempfile::tempdir().unwrap();
    let fs = Fs::real();
    let (from, path) = file(temp.path(), "raw");
    let noise: Vec<u8> = blake3::Hasher::new().finalize_xof().take_bytes(12 << 20);
    fs.write_at(&from, &path, &noise, 0).unwrap();
    for threads in [1, 4] {
        let (to, to_path) = file(temp.path(), &format!("packed-{threads}"));
        let bounded = How { at_most: 5 << 20, ..how(Method::Zstd) };
        assert_eq!(pack_file(&fs, (&from, &path), (&to, &to_path), 12 * MIB, bounded, flow(threads)), Err(PackError::NoGain));
        assert!(std::fs::metadata(&to_path).unwrap().len() < 6 << 20);
        let stop = AtomicBool::new(true);
        let stopped = Flow { cancelled: &stop, ..flow(threads) };
        assert_eq!(pack_file(&fs, (&from, &path), (&to, &to_path), 12 * MIB, how(Method::Zstd), stopped), Err(PackError::Cancelled));
        let (short, short_path) = file(temp.path(), &format!("short-{threads}"));
        let cut = pack_file(&fs, (&from, &path), (&short, &short_path), 12 * MIB, how(Method::Zstd), flow(threads));
        assert!(cut.is_ok());
        assert_eq!(unpack_file(&fs, (&short, &short_path), None, 12 * MIB, Method::Zstd, stopped), Err(PackError::Cancelled));
    }
}

trait Take {
    fn take_bytes(self, len: usize) -> Vec<u8>;
}

impl Take for blake3::OutputReader {
    fn take_bytes(mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes);
        bytes
    }
}

#[test]
fn a_packed_file_with_one_changed_byte_or_cut_short_never_gives_other_bytes() {
    let temp = tempfile::tempdir().unwrap();
    let fs = Fs::real();
    let size = 9 * MIB;
    let (from, path) = raw(temp.path(), "raw", size, &[(0, 200_000), (5 * MIB, 100_000)]);
    for method in [Method::Zstd, Method::Lz4] {
        let (to, to_path) = file(temp.path(), &format!("packed-{method:?}"));
        let good = pack_file(&fs, (&from, &path), (&to, &to_path), size, how(method), flow(1)).unwrap();
        let bytes = std::fs::read(&to_path).unwrap();
        for at in (0..bytes.len()).step_by(bytes.len() / 61).chain(bytes.len() - 70..bytes.len()) {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            let bad_path = temp.path().join("bad");
            std::fs::write(&bad_path, &bad).unwrap();
            let bad = fs.open_file(&bad_path).unwrap();
            match unpack_file(&fs, (&bad, &bad_path), None, size, method, flow(1)) {
                // A bit that says nothing, or other bytes: the digest tells.
                Ok(packed) => assert_eq!(packed.bytes, good.bytes),
                Err(e) => assert!(matches!(e, PackError::Damaged { .. }), "{e}"),
            }
        }
        std::fs::write(temp.path().join("cut"), &bytes[..bytes.len() - 1]).unwrap();
        let cut_path = temp.path().join("cut");
        let cut = fs.open_file(&cut_path).unwrap();
        assert!(matches!(unpack_file(&fs, (&cut, &cut_path), None, size, method, flow(1)), Err(PackError::Damaged { .. })));
    }
}
