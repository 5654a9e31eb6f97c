//! `[api]`: who may do what, and where the worker listens.

use super::super::*;
use super::{STORE, complaints, read};

#[test]
fn nobody_else_may_do_anything_unless_the_configuration_says_so() {
    let config = read(STORE).unwrap();
    let closed = ApiConfig { mode: 0o600, tcp: None, token_file: None, read: vec![], write: vec![], admin: vec![] };
    assert_eq!(config.api, closed);
}

#[test]
fn names_of_users_and_groups_become_numbers() {
    let text = "[api]\nmode = \"0660\"\nread = [\"group:root\", \"gid:107\"]\nwrite = [\"uid:1000\"]\nadmin = [\"user:root\"]\n\
                tcp = \"[::1]:7373\"\ntoken_file = \"/etc/snapkeep/token\"\n";
    let api = read(&format!("{STORE}{text}")).unwrap().api;
    assert_eq!((api.mode, api.tcp.map(|tcp| tcp.port())), (0o660, Some(7373)));
    assert_eq!(api.read, [Principal::Gid(0), Principal::Gid(107)]);
    assert_eq!((api.write, api.admin), (vec![Principal::Uid(1000)], vec![Principal::Uid(0)]));
}

#[test]
fn what_is_nobody_and_what_is_no_loopback_address_is_said_with_its_place() {
    let text =
        "[api]\nmode = \"0999\"\nread = [\"user:root\", \"user:nobody-of-this-name\"]\nwrite = [\"uid:-1\"]\ntcp = \"0.0.0.0:7373\"\n";
    let found = complaints(&format!("{STORE}{text}"));
    let found: Vec<&str> = found.iter().map(|(.., message)| message.as_str()).collect();
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(found[0].contains("mode"), "{found:?}");
    assert_eq!(found[1..3], ["there is no user \"nobody-of-this-name\"", "\"-1\" is not a user's number"]);
    assert!(found[3].contains("must be a loopback address"), "{found:?}");
    let alone = complaints(&format!("{STORE}[api]\ntoken_file = \"/etc/t\"\n"));
    assert!(alone[0].2.contains("does nothing without `tcp`"), "{alone:?}");
}
