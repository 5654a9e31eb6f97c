//! Who asks, and what they may do: the caller's user and groups as the kernel knows them, held against `[api]`; over TCP a
//! token. The verbs themselves do not ask again.

use super::Api;
use super::operations::Right;
use crate::config::{ApiConfig, Principal};
use crate::event::Event;
use crate::worker::backend::Answer;
use crate::worker::problem::{Problem, ProblemKind};
use axum::http::{HeaderMap, Method, header};
use chrono::{DateTime, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// The same refusal of the same caller is reported once in this time, with how often it was.
const QUIET: TimeDelta = TimeDelta::minutes(1);
/// So many callers' refusals are remembered.
const REMEMBERED: usize = 256;
/// No token is longer, bytes.
const LONGEST_TOKEN: u64 = 4096;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A process on this host, as it was when it connected.
    Unix {
        /// Its effective user.
        uid: u32,
        /// Its effective group, and its supplementary ones.
        groups: Vec<u32>,
    },
    /// Somebody on loopback; on which of our ports.
    Tcp {
        /// Their address.
        from: SocketAddr,
        /// Our address.
        to: SocketAddr,
    },
}

impl Peer {
    /// Who is at the other end of a unix socket (SO_PEERCRED, SO_PEERGROUPS in unix(7)).
    ///
    /// # Errors
    /// If the kernel does not say.
    pub(super) fn of_unix(stream: &tokio::net::UnixStream) -> std::io::Result<Self> {
        let cred = stream.peer_cred()?;
        let mut groups = vec![cred.gid()];
        groups.extend(peer_groups(stream)?);
        Ok(Self::Unix { uid: cred.uid(), groups })
    }
}

/// The supplementary groups of the peer.
#[expect(unsafe_code, reason = "a socket option that nix lacks")]
fn peer_groups(stream: &impl AsRawFd) -> std::io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 32];
    loop {
        let mut len = libc::socklen_t::try_from(std::mem::size_of_val(groups.as_slice())).unwrap_or(0);
        // SAFETY: the descriptor is open for the length of the call, and the kernel writes at most `len` bytes into `groups`.
        let rc = unsafe {
            libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERGROUPS, groups.as_mut_ptr().cast(), &raw mut len)
        };
        let count = len as usize / std::mem::size_of::<u32>();
        match nix::errno::Errno::result(rc) {
            // Too little room: `len` is what it takes now.
            Err(nix::errno::Errno::ERANGE) if count > groups.len() => groups.resize(count, 0),
            Err(e) => return Err(e.into()),
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
        }
    }
}

/// A caller, and what they may do by the configuration in force.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) peer: Peer,
    pub(super) right: Right,
}

/// What `GET /v1/whoami` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WhoView {
    /// The caller's user; null over TCP.
    pub uid: Option<u32>,
    /// The caller's group; null over TCP.
    pub gid: Option<u32>,
    /// Whether it may look.
    pub read: bool,
    /// Whether it may take, fork, restore, hold and remove.
    pub write: bool,
    /// Whether it may do everything.
    pub admin: bool,
}

impl Caller {
    pub(super) fn view(&self) -> WhoView {
        let (uid, gid) = match &self.peer {
            Peer::Unix { uid, groups } => (Some(*uid), groups.first().copied()),
            Peer::Tcp { .. } => (None, None),
        };
        let may = |right| self.right >= right;
        WhoView { uid, gid, read: may(Right::Read), write: may(Right::Write), admin: may(Right::Admin) }
    }

    fn name(&self) -> String {
        match &self.peer {
            Peer::Unix { uid, groups } => format!("uid {uid}, gid {}", groups.first().copied().unwrap_or_default()),
            Peer::Tcp { from, .. } => from.ip().to_string(),
        }
    }
}

/// Finds out what a peer may do.
///
/// # Errors
/// [`ProblemKind::Unauthorized`] for a wrong token.
pub(super) fn caller(config: &ApiConfig, peer: Peer, headers: &HeaderMap) -> Answer<Caller> {
    let right = match &peer {
        Peer::Unix { uid, groups } => right_of(config, *uid, groups, nix::unistd::geteuid().as_raw()),
        Peer::Tcp { .. } => right_over_tcp(config, headers)?,
    };
    Ok(Caller { peer, right })
}

fn right_of(config: &ApiConfig, uid: u32, groups: &[u32], own: u32) -> Right {
    let is_in = |list: &[Principal]| {
        list.iter().any(|principal| match principal {
            Principal::Uid(id) => *id == uid,
            Principal::Gid(id) => groups.contains(id),
        })
    };
    if uid == 0 || uid == own || is_in(&config.admin) {
        Right::Admin
    } else if is_in(&config.write) {
        Right::Write
    } else if is_in(&config.read) {
        Right::Read
    } else {
        Right::Nobody
    }
}

fn right_over_tcp(config: &ApiConfig, headers: &HeaderMap) -> Answer<Right> {
    let Some(given) = headers.get(header::AUTHORIZATION) else { return Ok(Right::Read) };
    let unauthorized = |why: &str| Problem::new(ProblemKind::Unauthorized, why);
    let text = given.to_str().unwrap_or_default();
    let token = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    let token = token.ok_or_else(|| unauthorized("only `Authorization: Bearer TOKEN` is understood"))?;
    let Some(file) = &config.token_file else { return Err(unauthorized("there is no [api] token_file: nobody changes anything over TCP")) };
    let wanted = read_token(file).map_err(|why| unauthorized(&format!("no token is believed: {why}")))?;
    // Digests are compared in constant time, and say nothing about the length.
    if blake3::hash(token.as_bytes()) == blake3::hash(wanted.as_bytes()) {
        Ok(Right::Admin)
    } else {
        Err(unauthorized("the token is not the one of [api] token_file"))
    }
}

/// Reads a token: one line of a file that nobody else may read.
///
/// # Errors
/// Why it is not believed, in words.
#[expect(clippy::disallowed_methods, reason = "the token's file is not the store's")]
pub(super) fn read_token(file: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let at = file.display();
    let opened = std::fs::File::open(file).map_err(|e| format!("{at} cannot be read: {e}"))?;
    let meta = opened.metadata().map_err(|e| format!("{at} cannot be read: {e}"))?;
    if meta.mode() & 0o077 != 0 {
        return Err(format!("{at} has the mode {:04o}: others may read it; chmod 0600 {at}", meta.mode() & 0o7777));
    }
    if meta.uid() != 0 && meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(format!("{at} is neither root's nor the worker's own user's"));
    }
    let mut text = String::new();
    opened.take(LONGEST_TOKEN).read_to_string(&mut text).map_err(|e| format!("{at} cannot be read: {e}"))?;
    match text.trim() {
        token if token.len() < 16 => Err(format!("{at} holds fewer than 16 characters; `openssl rand -hex 32` makes a good one")),
        token => Ok(token.to_owned()),
    }
}

/// Over TCP: that the request is for us and not for a name that somebody has pointed here. However it came: that no other site's
/// page makes it.
///
/// # Errors
/// [`ProblemKind::Misdirected`], or [`ProblemKind::Forbidden`] for another site's page.
pub(super) fn check_site(peer: &Peer, method: &Method, headers: &HeaderMap) -> Answer<()> {
    let text = |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST).unwrap_or_default();
    if let Peer::Tcp { to, .. } = peer
        && (headers.get_all(header::HOST).iter().count() != 1 || !is_ours(host, to.port()))
    {
        return Err(Problem::new(ProblemKind::Misdirected, format!("the host {host:?} is not this worker's")));
    }
    if method.is_safe() {
        return Ok(());
    }
    let foreign = |what: &str| Err(Problem::new(ProblemKind::Forbidden, format!("a page of another site asks for this ({what})")));
    if let Some(origin) = text(header::ORIGIN)
        && !origin.strip_prefix("http://").is_some_and(|host| match peer {
            Peer::Tcp { to, .. } => is_ours(host, to.port()),
            // A browser gets to the socket by way of a port of somebody's own, such as that of `ssh -L`.
            Peer::Unix { .. } => is_loopback(host),
        })
    {
        return foreign(&format!("Origin: {origin}"));
    }
    match headers.get("sec-fetch-site").map(|value| value.to_str().unwrap_or("?")) {
        None | Some("same-origin" | "none") => Ok(()),
        Some(site) => foreign(&format!("Sec-Fetch-Site: {site}")),
    }
}

/// A loopback name or address, with our port.
fn is_ours(host: &str, port: u16) -> bool {
    loopback_port(host) == Some(port)
}

fn is_loopback(host: &str) -> bool {
    loopback_port(host).is_some()
}

/// The port, if the host is a loopback name or address.
fn loopback_port(host: &str) -> Option<u16> {
    let (name, given) = match host.rsplit_once(':') {
        Some((name, given)) if !given.ends_with(']') => (name, given.parse().ok()),
        _ => (host, Some(80)),
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let is_loopback = address.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    given.filter(|_| is_loopback)
}

/// Refusals: reported, and not more often than somebody wants to read.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<(String, Right), Refused>>);

/// When a caller's refusals were last reported, and how many there were since.
#[derive(Debug)]
struct Refused {
    at: DateTime<Utc>,
    since: u64,
}

impl Refusals {
    /// Reports that a caller was refused, unless that was done just now: then it is counted.
    pub(super) fn report(&self, api: &Api, caller: &Caller, wanted: Right, (method, path): (&Method, &str)) {
        let now = api.worker.store.clock.now();
        let Some(count) = self.count(caller.name(), wanted, now) else { return };
        // The path is the caller's own text.
        let path: String = path.chars().take(200).collect();
        let (who, method) = (caller.name(), method.to_string());
        api.worker.store.events.emit(Event::ApiRefused { who, wanted: wanted.name().to_owned(), method, path, count, at: now });
    }

    /// How many there were since the last report, if it is time for another.
    fn count(&self, who: String, wanted: Right, now: DateTime<Utc>) -> Option<u64> {
        let is_new = |at: DateTime<Utc>| (now - at).abs() < QUIET;
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= REMEMBERED {
            seen.retain(|_, refused| is_new(refused.at));
        }
        let is_full = seen.len() >= REMEMBERED;
        match seen.get_mut(&(who.clone(), wanted)) {
            Some(refused) if is_new(refused.at) => {
                refused.since += 1;
                None
            }
            Some(refused) => {
                refused.at = now;
                Some(std::mem::take(&mut refused.since) + 1)
            }
            // So many callers at once are a flood of their own.
            None if is_full => None,
            None => {
                seen.insert((who, wanted), Refused { at: now, since: 0 });
                Some(1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_right_that_a_list_gives_counts_and_groups_count_too() {
        let config = ApiConfig {
            mode: 0o666,
            tcp: None,
            token_file: None,
            read: vec![Principal::Gid(50), Principal::Uid(7)],
            write: vec![Principal::Uid(7)],
            admin: vec![Principal::Gid(60)],
        };
        for (uid, groups, right) in [
            (0, vec![0], Right::Admin),
            (99, vec![99], Right::Admin),
            (7, vec![7], Right::Write),
            (8, vec![8, 50], Right::Read),
            (8, vec![8, 50, 60], Right::Admin),
            (8, vec![8], Right::Nobody),
        ] {
            assert_eq!(right_of(&config, uid, &groups, 99), right, "{uid} {groups:?}");
        }
    }

    #[test]
    fn a_caller_who_is_refused_again_and_again_is_counted_for_a_minute_and_so_are_more_callers_than_are_remembered() {
        let (refusals, start) = (Refusals::default(), DateTime::UNIX_EPOCH);
        let count = |who: &str, seconds: i64| refusals.count(who.to_owned(), Right::Write, start + TimeDelta::seconds(seconds));
        assert_eq!((count("a", 0), count("a", 1), count("a", 59), count("b", 59)), (Some(1), None, None, Some(1)));
        assert_eq!((count("a", 61), count("a", 62), count("a", 200)), (Some(3), None, Some(2)));
        let reported = (0..2 * REMEMBERED).filter(|n| count(&format!("c{n}"), 200).is_some()).count();
        assert!((REMEMBERED - 2..=REMEMBERED).contains(&reported), "{reported}");
        assert_eq!(count("d", 261), Some(1));
    }

    #[test]
    fn only_loopback_names_with_our_port_are_ours() {
        for host in ["127.0.0.1:7373", "localhost:7373", "LOCALHOST:7373", "[::1]:7373", "127.8.9.1:7373"] {
            assert!(is_ours(host, 7373), "{host}");
        }
        for host in [
            "",
            "127.0.0.1",
            "127.0.0.1:7374",
            "evil.example:7373",
            "localhost.evil.example:7373",
            "127.0.0.1.nip.io:7373",
            "[::2]:7373",
            "[::1]",
        ] {
            assert!(!is_ours(host, 7373), "{host}");
        }
        assert!(is_ours("localhost", 80) && is_ours("[::1]", 80));
    }

    #[test]
    fn no_other_sites_page_changes_anything_by_way_of_a_port_that_leads_to_the_socket() {
        let peer = Peer::Unix { uid: 0, groups: vec![0] };
        let check = |method: Method, name: &'static str, value: &str| {
            check_site(&peer, &method, &HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])).map_err(|p| p.kind)
        };
        for (name, value) in [("origin", "http://localhost:8080"), ("sec-fetch-site", "same-origin"), ("host", "anything")] {
            assert_eq!(check(Method::POST, name, value), Ok(()), "{name}: {value}");
        }
        for (name, value) in [("origin", "http://evil.example:8080"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
            assert_eq!(check(Method::POST, name, value), Err(ProblemKind::Forbidden), "{name}: {value}");
            assert_eq!(check(Method::GET, name, value), Ok(()), "{name}: {value}");
        }
    }
}
