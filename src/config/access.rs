//! `[api]`: where the worker listens, and who may do what. Names of users and groups become numbers here.

use super::problem::Report;
use super::raw::{RawApi, Text};
use super::resolve::absolute;
use std::net::SocketAddr;
use std::path::PathBuf;

/// `[api]`, but for the socket's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiConfig {
    /// The socket's mode.
    pub mode: u32,
    /// A loopback address to listen on as well.
    pub tcp: Option<SocketAddr>,
    /// The file with the token of those who come over TCP.
    pub token_file: Option<PathBuf>,
    /// Who may look.
    pub read: Vec<Principal>,
    /// Who may take, fork and remove as well.
    pub write: Vec<Principal>,
    /// Who may do everything.
    pub admin: Vec<Principal>,
}

/// Somebody, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Principal {
    /// A user.
    Uid(u32),
    /// Whoever is in a group.
    Gid(u32),
}

/// Resolves the table; where something is wrong it says so.
pub(super) fn resolve(raw: Option<&RawApi>, report: &mut Report<'_>) -> ApiConfig {
    let everybody = |key: &str, list: Option<&Vec<Text>>, report: &mut Report<'_>| {
        let all = list.into_iter().flatten().enumerate();
        all.filter_map(|(n, text)| principal(&format!("api.{key}[{n}]"), text, report)).collect()
    };
    let config = ApiConfig {
        mode: raw.and_then(|api| api.mode.as_ref()).and_then(|text| mode(text, report)).unwrap_or(0o600),
        tcp: raw.and_then(|api| api.tcp.as_ref()).and_then(|text| loopback(text, report)),
        token_file: raw.and_then(|api| api.token_file.as_ref()).and_then(|text| absolute("api.token_file", text, report)),
        read: everybody("read", raw.and_then(|api| api.read.as_ref()), report),
        write: everybody("write", raw.and_then(|api| api.write.as_ref()), report),
        admin: everybody("admin", raw.and_then(|api| api.admin.as_ref()), report),
    };
    if let Some(text) = raw.and_then(|api| api.token_file.as_ref()).filter(|_| raw.is_some_and(|api| api.tcp.is_none())) {
        let help = "add tcp = \"127.0.0.1:7373\"; on the unix socket `read`, `write` and `admin` say who may do what";
        report.wrong_help("api.token_file", text.span(), "`token_file` does nothing without `tcp`", help);
    }
    config
}

fn mode(text: &Text, report: &mut Report<'_>) -> Option<u32> {
    let mode = u32::from_str_radix(text.get_ref(), 8).ok().filter(|mode| *mode <= 0o777);
    if mode.is_none() {
        report.wrong_help("api.mode", text.span(), format!("`mode` must be a mode, not \"{}\"", text.get_ref()), "such as \"0660\"");
    }
    mode
}

fn loopback(text: &Text, report: &mut Report<'_>) -> Option<SocketAddr> {
    let help = "write \"127.0.0.1:7373\" or \"[::1]:7373\"";
    match text.get_ref().parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Some(address),
        Ok(address) => {
            let message = format!("`tcp` must be a loopback address, and {} is none: others' machines could reach it", address.ip());
            report.wrong_help("api.tcp", text.span(), message, help);
            None
        }
        Err(_) => {
            report.wrong_help("api.tcp", text.span(), format!("`tcp` must be an address and a port, not \"{}\"", text.get_ref()), help);
            None
        }
    }
}

fn principal(key: &str, text: &Text, report: &mut Report<'_>) -> Option<Principal> {
    let found = match text.get_ref().split_once(':') {
        Some(("uid", id)) => id.parse().map(Principal::Uid).map_err(|_| format!("\"{id}\" is not a user's number")),
        Some(("gid", id)) => id.parse().map(Principal::Gid).map_err(|_| format!("\"{id}\" is not a group's number")),
        Some(("user", name)) => match nix::unistd::User::from_name(name) {
            Ok(Some(user)) => Ok(Principal::Uid(user.uid.as_raw())),
            Ok(None) => Err(format!("there is no user \"{name}\"")),
            Err(e) => Err(format!("the user \"{name}\" cannot be looked up: {e}")),
        },
        Some(("group", name)) => match nix::unistd::Group::from_name(name) {
            Ok(Some(group)) => Ok(Principal::Gid(group.gid.as_raw())),
            Ok(None) => Err(format!("there is no group \"{name}\"")),
            Err(e) => Err(format!("the group \"{name}\" cannot be looked up: {e}")),
        },
        _ => Err(format!("\"{}\" is nobody", text.get_ref())),
    };
    let help = "write uid:1000, user:alice, gid:107 or group:kvm";
    found.map_err(|message| report.wrong_help(key, text.span(), message, help)).ok()
}
