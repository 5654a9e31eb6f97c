//! Makes an instance as a microVM leaves it: a sparse disk, a memory file, a little JSON that names its directory, a
//! log, a socket. The same for the same scale, but for the directory's name; benches include this file as well.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    dead_code,
    unreachable_pub,
    reason = "support of tests and benches: each uses a part, works on its own directories and may panic"
)]

use std::fs;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;

const MIB: u64 = 1 << 20;
/// Extents of the disk, each of 4 MiB at scale 1.
pub const DISK_EXTENTS: u64 = 64;
/// Runs of data in the memory file, each of 4 MiB at scale 1; every other run is a hole.
pub const MEMORY_RUNS: u64 = 128;
/// The largest scale: an extent is one page of 4 KiB then.
pub const MOST_SCALE: u64 = 1024;

/// Numbers that look random and are the same each time (xorshift64*).
pub struct Numbers(u64);

impl Numbers {
    /// A series of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The next number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.next().to_le_bytes()).flatten().take(len).collect()
    }
}

/// Makes an instance in the new or empty directory `dir`: at scale 1 a disk of 4 GiB with 256 MiB of data and 1 GiB of
/// memory with 512 MiB of data; `scale` (a power of two, at most [`MOST_SCALE`]) divides these.
pub fn make(dir: &Path, scale: u64) -> io::Result<()> {
    assert!(scale.is_power_of_two() && scale <= MOST_SCALE, "a scale of {scale}");
    fs::create_dir_all(dir.join("logs"))?;
    let (extent, slot) = (4 * MIB / scale, 4096 * MIB / scale / DISK_EXTENTS);
    let mut numbers = Numbers::new(42);
    let disk: Vec<u64> = (0..DISK_EXTENTS).map(|i| i * slot + numbers.below((slot - extent) / 4096) * 4096).collect();
    let memory: Vec<u64> = (0..MEMORY_RUNS).map(|i| i * 2 * extent).collect();
    sparse(&dir.join("overlay.raw"), 4096 * MIB / scale, &disk, extent, 1 << 32)?;
    sparse(&dir.join("memory"), 1024 * MIB / scale, &memory, extent, 2 << 32)?;
    fs::write(dir.join("state"), Numbers::new(7).bytes(64 << 10))?;
    fs::write(dir.join("logs/app.log"), "log line\n".repeat(116_508))?;
    records(dir)?;
    socket(dir)
}

/// A file of `size` bytes that holds data only at `offsets`, `len` bytes at each.
pub fn sparse(path: &Path, size: u64, offsets: &[u64], len: u64, seed: u64) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.set_len(size)?;
    for (i, offset) in (0..).zip(offsets) {
        let block = Numbers::new(seed + i).bytes(64 << 10);
        file.seek(SeekFrom::Start(*offset))?;
        let mut left = usize::try_from(len).unwrap();
        while left > 0 {
            let n = left.min(block.len());
            file.write_all(block.get(..n).unwrap())?;
            left -= n;
        }
    }
    file.sync_all()
}

/// The JSON that names the directory.
fn records(dir: &Path) -> io::Result<()> {
    let dir = std::path::absolute(dir)?;
    let text = dir.to_str().unwrap();
    let env: serde_json::Map<_, _> = (0..20).map(|i| (format!("VAR_{i}"), "x".repeat(20).into())).collect();
    let metadata = serde_json::json!({
        "id": "inst-src", "name": "web-1", "image": "docker.io/library/nginx:1.27", "state": "Standby",
        "created_at": "2026-01-02T03:04:05.678901Z", "hypervisor": "firecracker", "vcpus": 2, "size": 1 << 30,
        "env": env, "tags": {"team": "a", "tier": "b"},
        "data_dir": text, "socket_path": format!("{text}/vsock.sock"),
        "network": {"ip": "10.0.0.2", "mac": "02:00:00:00:00:01", "tap": "tap0"},
        "fork_of_snapshot": "",
    });
    let config = serde_json::json!({
        "drives": [{"path": format!("{text}/overlay.raw")}], "net": [{"tap": "tap0", "ip": "10.0.0.2"}], "vsock": {"cid": 3},
    });
    fs::write(dir.join("metadata.json"), serde_json::to_string_pretty(&metadata)?)?;
    fs::write(dir.join("config.json"), serde_json::to_string_pretty(&config)?)
}

/// A socket's address holds 107 bytes, a test's directory may have more: it is made elsewhere and moved.
fn socket(dir: &Path) -> io::Result<()> {
    let short = tempfile::Builder::new().prefix("sk").tempdir_in("/tmp")?;
    let made = short.path().join("s");
    drop(UnixListener::bind(&made)?);
    let place = dir.join("vsock.sock");
    match fs::rename(&made, &place) {
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => drop(UnixListener::bind(&place)?),
        other => other?,
    }
    Ok(())
}
