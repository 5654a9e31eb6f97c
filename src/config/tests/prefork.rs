//! `[[prefork]]` and `[pool]`: good values, and what is said of bad ones.

use super::super::*;
use super::{POLICY, STORE, complaints, only, read};
use crate::ids::InstanceId;
use std::collections::BTreeMap;

fn prefork(lines: &str) -> String {
    format!("{STORE}{POLICY}[[prefork]]\n{lines}\n")
}

#[test]
fn a_prefork_means_what_all_of_its_keys_agree_on() {
    let lines =
        "policy = \"p\"\ninstances = [\"a*\"]\nexclude = [\"ab\"]\ntags = { tier = \"g*\" }\nready = 2\n[pool]\nmax_bytes = \"1MiB\"";
    let config = read(&prefork(lines)).unwrap();
    assert_eq!((config.pool.max_bytes, config.pool.rules.len(), &config.warnings), (Some(1 << 20), 1, &Vec::new()));
    let rule = &config.pool.rules[0];
    assert_eq!((rule.newest, rule.ready), (1, 2));
    let (p, gold) = (PolicyName::parse("p").unwrap(), BTreeMap::from([("tier".to_owned(), "gold".to_owned())]));
    let means = |instance: &str, policy: Option<&PolicyName>, tags: &BTreeMap<String, String>| {
        rule.selects(&InstanceId::parse(instance).unwrap(), policy, tags)
    };
    assert!(means("aa", Some(&p), &gold));
    assert!(!means("ab", Some(&p), &gold) && !means("b", Some(&p), &gold) && !means("aa", None, &gold));
    assert!(!means("aa", Some(&p), &BTreeMap::new()));
}

#[test]
fn without_a_prefork_there_is_no_pool() {
    let pool = read(STORE).unwrap().pool;
    assert_eq!((pool.rules.len(), pool.max_bytes), (0, None));
}

#[test]
fn the_pool_has_the_bounds_of_the_space() {
    let pool = read(&format!("{STORE}[space]\nreserve = \"5%\"\nprune_above = \"80%\"\n")).unwrap().pool;
    assert_eq!((pool.reserve, pool.fill.map(|fill| fill.above)), (Reserve::Share(500), Some(8000)));
}

#[test]
fn what_is_wrong_with_a_prefork_is_said() {
    for (lines, message, help) in [
        (
            "ready = 1",
            "[[prefork]] has neither `policy` nor `instances`",
            "add policy = \"golden\", or instances = [\"*\"] for all of them",
        ),
        ("policy = \"p\"", "[[prefork]] has no `ready`", ""),
        ("policy = \"p\"\nready = 0", "`ready` is 0, but must be 1 or more", ""),
        ("policy = \"P\"\nready = 1", "\"P\" is not a valid policy name: only a-z, 0-9 and '-' are allowed", ""),
        ("instances = []\nready = 1", "`instances` is empty: no snapshot would be meant", "leave it out for all of them"),
        ("instances = [\"a[\"]\nready = 1", "\"a[\" is not a glob: unclosed character class; missing ']'", ""),
        ("policy = \"p\"\nready = 1\nnewset = 2", "unknown key `newset`, did you mean `newest`?", ""),
        ("policy = \"p\"\nready = 1\n[pool]\nmax_bytes = \"lots\"", "`max_bytes`", ""),
    ] {
        let (found, hint) = only(&prefork(lines));
        assert!(found.starts_with(message), "{found}, wanted {message}");
        assert!(help.is_empty() || hint == help, "{hint}");
    }
    assert_eq!(complaints(&prefork("tags = { \"a=b\" = \"c\" }\npolicy = \"p\"\nready = 1")).len(), 1);
}

#[test]
fn a_prefork_of_a_policy_that_there_is_not_is_odd() {
    let config = read(&prefork("policy = \"q\"\nready = 1")).unwrap();
    assert_eq!(config.warnings, ["[[prefork]] is for policy `q`, which there is not: only snapshots that it left are meant"]);
}
