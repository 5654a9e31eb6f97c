//! What this process may do with files of others.

use std::sync::OnceLock;

/// `CAP_CHOWN` and `CAP_FOWNER` (capabilities(7)): giving a file away, and then still setting its mode, attributes and times.
const GIVES_OWNERS: u64 = 1 << 0 | 1 << 3;

/// Whether owners can be given back: root has the right, and so has a user with both capabilities. Looked up once.
#[must_use]
pub fn gives_owners() -> bool {
    static GIVES: OnceLock<bool> = OnceLock::new();
    *GIVES.get_or_init(|| match effective() {
        Some(capabilities) => capabilities & GIVES_OWNERS == GIVES_OWNERS,
        None => nix::unistd::geteuid().is_root(),
    })
}

/// The capabilities in effect; `None` where they cannot be found out.
#[allow(clippy::disallowed_methods, reason = "no file of a store or an instance")]
fn effective() -> Option<u64> {
    of_status(&std::fs::read_to_string("/proc/thread-self/status").ok()?)
}

fn of_status(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_as_the_kernel_writes_them() {
        assert_eq!(of_status("Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t000000001008001f\n"), Some(0x1008_001f));
        for nothing in ["", "CapEff:\t\n", "CapEff:\tnone\n"] {
            assert_eq!(of_status(nothing), None);
        }
        assert!(gives_owners() || !nix::unistd::geteuid().is_root());
    }
}
