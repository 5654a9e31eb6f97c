//! Events in systemd's journal, natively: one datagram each, with a field for each field and the message id that the
//! message catalogue explains. Used where the process's output is connected to the journal anyway.

use crate::event::{journal_field, message_id};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::sys::stat::fstat;
use serde_json::Value;
use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// A list has so many fields at most: the line has them all.
const MOST: usize = 100;

/// A way to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

/// Whether one of the process's outputs is the stream that `JOURNAL_STREAM` names.
fn is_connected(stream: Option<&str>) -> bool {
    let Some((device, inode)) = stream.and_then(|text| text.split_once(':')) else { return false };
    let is_it =
        |of: nix::Result<nix::sys::stat::FileStat>| of.is_ok_and(|s| s.st_dev.to_string() == device && s.st_ino.to_string() == inode);
    is_it(fstat(io::stdout().as_fd())) || is_it(fstat(io::stderr().as_fd()))
}

impl Journal {
    /// The journal, if the process was started with its output connected to it, and it listens.
    pub(super) fn if_connected() -> Option<Self> {
        let stream = std::env::var("JOURNAL_STREAM").ok();
        is_connected(stream.as_deref()).then(|| Self::at(Path::new(SOCKET)).ok()).flatten()
    }

    fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        // Nobody there: then the line goes where it went before.
        socket.send_to(&[], path).map(|_| Self { socket, path: path.to_owned() })
    }

    /// Sends an event's line of JSON.
    pub(super) fn send(&self, line: &str) -> io::Result<()> {
        let bytes = entry(line);
        match self.socket.send_to(&bytes, &self.path) {
            // Too long for a datagram: the journal takes it from a sealed file in memory.
            Err(e) if matches!(e.raw_os_error(), Some(nix::libc::EMSGSIZE | nix::libc::ENOBUFS)) => self.send_file(&bytes),
            sent => sent.map(drop),
        }
    }

    fn send_file(&self, bytes: &[u8]) -> io::Result<()> {
        let fd = memfd_create("snapkeep-journal", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        let mut file = File::from(fd);
        file.write_all(bytes)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        let fds = [file.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&fds)];
        let to = UnixAddr::new(&self.path)?;
        sendmsg(self.socket.as_raw_fd(), &[IoSlice::new(&[])], &control, MsgFlags::empty(), Some(&to))?;
        Ok(())
    }
}

/// An event's line of JSON as an entry of the journal's native protocol.
fn entry(line: &str) -> Vec<u8> {
    let fields = match serde_json::from_str(line) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    let priority = match text("level") {
        "error" => "3",
        "warn" => "4",
        _ => "6",
    };
    let mut out = Vec::with_capacity(line.len() * 2 + 200);
    put(&mut out, "MESSAGE", line);
    put(&mut out, "MESSAGE_ID", &message_id(text("event")));
    put(&mut out, "PRIORITY", priority);
    put(&mut out, "SYSLOG_IDENTIFIER", "snapkeep");
    for (name, value) in fields.iter().filter(|(name, _)| !matches!(name.as_str(), "ts" | "level")) {
        let name = journal_field(name);
        match value {
            Value::Null => {}
            Value::String(text) => put(&mut out, &name, text),
            Value::Array(all) => all.iter().take(MOST).for_each(|one| put(&mut out, &name, one.as_str().unwrap_or_default())),
            other => put(&mut out, &name, &other.to_string()),
        }
    }
    out
}

/// One field: `NAME=value` and a newline, or with its length before it where the value has newlines.
fn put(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_an_entry_with_a_field_for_each_field() {
        let line = r#"{"ts":"t","level":"warn","event":"prune.blocked","id":"x","snapshot":"s","why":["held","linked"],"none":null,"n":3,"two":"a\nb"}"#;
        let bytes = entry(line);
        let text = String::from_utf8_lossy(&bytes);
        for wanted in [
            format!("MESSAGE={line}\n"),
            format!("MESSAGE_ID={}\n", message_id("prune.blocked")),
            "PRIORITY=4\n".to_owned(),
            "SNAPKEEP_EVENT=prune.blocked\n".to_owned(),
            "SNAPKEEP_ID=x\n".to_owned(),
            "SNAPKEEP_WHY=held\nSNAPKEEP_WHY=linked\n".to_owned(),
            "SNAPKEEP_N=3\n".to_owned(),
            "SNAPKEEP_TWO\n\u{3}\0\0\0\0\0\0\0a\nb\n".to_owned(),
        ] {
            assert!(text.contains(&wanted), "{wanted:?} in {text}");
        }
        assert!(!text.contains("SNAPKEEP_NONE") && !text.contains("SNAPKEEP_TS"));
    }

    #[test]
    fn what_is_too_long_for_a_datagram_comes_in_a_sealed_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let there = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::at(&path).unwrap();
        let mut buffer = vec![0; 1 << 20];
        assert_eq!(there.recv(&mut buffer).unwrap(), 0, "the empty one that asks whether somebody is there");
        journal.send(r#"{"event":"worker.stopped"}"#).unwrap();
        let n = there.recv(&mut buffer).unwrap();
        assert!(buffer.get(..n).unwrap().starts_with(b"MESSAGE={"));
        journal.send(&format!(r#"{{"event":"worker.stopped","why":"{}"}}"#, "x".repeat(1 << 20))).unwrap();
        assert_eq!(there.recv(&mut buffer).unwrap(), 0, "no bytes, but a descriptor");
    }

    #[test]
    fn a_stream_that_is_none_of_ours_is_not_the_journal() {
        assert!(!is_connected(None) && !is_connected(Some("1:2")) && !is_connected(Some("nonsense")));
        let own = fstat(io::stderr().as_fd()).unwrap();
        assert!(is_connected(Some(&format!("{}:{}", own.st_dev, own.st_ino))));
    }
}
