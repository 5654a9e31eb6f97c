//! The page in a real Chromium, over a real worker: what somebody reads on it. SNAPKEEP_SHOTS=DIRECTORY keeps pictures.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests"
)]

use crate::support::World;
use crate::support::browser::{Browser, Site};
use crate::support::many::{Many, make_when};
use crate::support::program::{Program, Running};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use std::fs;

const DESK: (u32, u32) = (1280, 800);
const PHONE: (u32, u32) = (390, 844);

fn site(world: &World, who: Option<Value>) -> Site {
    Site::new(&world.store.join("snapkeep.sock"), who)
}

fn admin() -> Value {
    json!({"uid": 0, "gid": 0, "read": true, "write": true, "admin": true})
}

/// The page as it is, in light and dark, wide and on a phone.
fn shots(browser: &mut Browser, name: &str) {
    for (window, kind) in [(DESK, "desk"), (PHONE, "phone")] {
        for scheme in ["light", "dark"] {
            browser.look(window, scheme);
            browser.eval("new Promise(done => setTimeout(done, 250))");
            browser.shot(&format!("{name}-{kind}-{scheme}"));
            assert_eq!(browser.faint(), json!([]), "{name}, {kind}, {scheme}");
        }
        let wide = browser.eval("document.documentElement.scrollWidth > document.documentElement.clientWidth");
        assert_eq!(wide, json!(false), "{name} is wider than the window: {kind}");
    }
    browser.look(DESK, "light");
}

fn start(world: &World, rest: &str) -> (Program, Running) {
    let program = Program::with(world, rest);
    program.ok("init");
    let worker = program.run();
    (program, worker)
}

#[test]
fn where_there_is_nothing_the_page_says_what_to_do_and_fetches_nothing_from_elsewhere() {
    let Some(mut browser) = Browser::start() else { return };
    let world = World::new();
    let (_program, _worker) = start(&world, "");
    let site = site(&world, None);
    browser.look(DESK, "light");
    browser.open(&site.url);
    browser.says("#nothing", "No instances yet");
    browser.says("#nothing", world.vms.to_str().unwrap());
    browser.says("#totals", "0 instances, 0 snapshots, 0 forks");
    browser.says("#worker", "up ");
    browser.says("#panel-prune", "The next prune takes nothing");
    assert_eq!(browser.text("#alerts"), "");
    for (key, panel, words) in [
        ("2", "#panel-schedules", "There is no policy in the configuration"),
        ("3", "#panel-queue", "No fork is waiting"),
        ("4", "#panel-events", "worker.started"),
        ("1", "#panel-prune", "Next prune"),
    ] {
        browser.key(key);
        if key == "1" {
            browser.says(panel, "takes nothing");
        } else {
            browser.says(panel, words);
        }
    }
    // The worker does not know what the caller may: it may look.
    assert!(!browser.text("header").contains("Read only") && browser.count("button.main, button.danger") == 0);
    let light = browser.eval("getComputedStyle(document.body).backgroundColor");
    browser.look(DESK, "dark");
    assert_ne!(browser.eval("getComputedStyle(document.body).backgroundColor"), light);
    browser.key("t");
    browser.says("#theme", "Theme: light");
    assert_eq!(browser.eval("getComputedStyle(document.body).backgroundColor"), light, "the reader's choice goes before the system's");
    browser.key("t");
    browser.key("t");
    browser.key("?");
    browser.says("#help", "an older snapshot, a newer one");
    browser.key("Escape");
    shots(&mut browser, "empty");
    browser.is_sound(&site);
}

#[test]
fn one_instance_is_followed_live_with_its_snapshots_forks_and_schedule() {
    let Some(mut browser) = Browser::start() else { return };
    let world = World::new();
    world.make_instance("golden-1");
    let policy = "[[policy]]\nname = \"hourly\"\ninstances = [\"golden-*\"]\nschedule = \"0 * * * *\"\ntimezone = \"Europe/Vienna\"\n[policy.keep]\nlast = 3\n";
    let (program, worker) = start(&world, policy);
    program.ok("snapshot golden-1 --name base --tag tier=gold");
    let site = site(&world, None);
    browser.look(DESK, "light");
    browser.open(&site.url);
    browser.says("#totals", "1 instance, 1 snapshot, 0 forks");
    let row = "document.querySelector('.lane').getAttribute('aria-label')";
    browser.until("the row says how it stands", &format!("/^golden-1, hourly, next in .*, 1 snapshot, 0 forks$/.test({row})"));
    browser.says("#lanes", "base");
    // What happens is there without anybody asking.
    program.ok("fork golden-1/base web");
    browser.until("the fork hangs off its snapshot", "document.querySelector('.lane .twig')?.textContent === 'web'");
    browser.says("#totals", "1 snapshot, 1 fork");
    program.ok("snapshot golden-1");
    browser.until("the second snapshot is there", &format!("{row}.includes('2 snapshots, 1 fork')"));
    browser.key("4");
    browser.says("#panel-events", "fork.created");
    browser.says("#panel-events", "snapshot.taken");
    browser.key("3");
    browser.says("#panel-queue", "web");
    browser.says("#panel-queue", "golden-1/base");
    browser.key("2");
    browser.says("#panel-schedules", "in Europe/Vienna");
    browser.says("#panel-schedules", "golden-1");
    // By keys alone: the older one of two.
    browser.eval("document.activeElement.blur()");
    for key in ["ArrowDown", "ArrowLeft", "ArrowLeft", "Enter"] {
        browser.key(key);
    }
    browser.says("#detail", "base");
    browser.says("#detail", "tier=gold");
    browser.until("its fork is named", "document.querySelector('#detail dl').innerText.includes('web')");
    assert_eq!(browser.count("#detail .acts"), 0, "nothing to click that changes data");
    browser.until("it is said aloud", "document.getElementById('say').textContent.startsWith('base, ')");
    shots(&mut browser, "one-detail");
    browser.key("Escape");
    assert_eq!(browser.text("#detail"), "");
    shots(&mut browser, "one");
    // The worker goes, and comes back.
    assert_eq!(worker.stop(), 0);
    browser.says("#worker", "no answer");
    browser.says("#alerts", "The worker does not answer");
    let _worker = program.run();
    browser.until("it is up again", "document.getElementById('worker').textContent.startsWith('up')");
    program.ok("unfork web");
    browser.says("#totals", "2 snapshots, 0 forks");
    browser.is_sound(&site);
}

#[test]
fn only_who_may_change_data_has_something_to_click_for_it() {
    let Some(mut browser) = Browser::start() else { return };
    let world = World::new();
    world.make_instance("a");
    let (program, _worker) = start(&world, "");
    let read = site(&world, Some(json!({"uid": null, "gid": null, "read": true, "write": false, "admin": false})));
    browser.look(DESK, "light");
    browser.open(&read.url);
    browser.says("header", "Read only");
    browser.click(".who");
    browser.says("#detail", "No policy takes it.");
    assert_eq!(browser.count("#detail .acts"), 0);
    browser.is_sound(&read);
    drop(read);
    let site = site(&world, Some(admin()));
    browser.asked.clear();
    browser.open(&site.url);
    assert!(!browser.text("header").contains("Read only"));
    browser.click(".who");
    browser.click("#detail .acts .main");
    browser.says("#ask", "Take a snapshot of a");
    browser.write("by-page");
    browser.key("Enter");
    browser.says("#totals", "1 snapshot");
    assert_eq!(program.json("ls")["snapshots"][0]["name"], "by-page");
    browser.eval("document.getElementById('lanes').focus()");
    browser.key("End");
    browser.key("Enter");
    browser.says("#detail", "by-page");
    shots(&mut browser, "admin-detail");
    browser.click("#detail .acts .main");
    browser.says("#ask", "Fork by-page");
    // What is refused is said where it was asked, and can be put right.
    browser.write("UPPER");
    browser.key("Enter");
    browser.until("the refusal is shown", "document.querySelector('#ask .done.bad')");
    shots(&mut browser, "admin-refused");
    browser.eval("document.querySelector('#ask input').value = ''; document.querySelector('#ask input').focus()");
    browser.write("web");
    browser.key("Enter");
    browser.says("#totals", "1 fork");
    browser.until("the dialog is gone", "!document.querySelector('dialog[open]')");
    // A snapshot that a fork needs goes with its last fork only.
    browser.until("the detail knows of the fork", "document.querySelector('#detail dl').innerText.includes('web')");
    browser.click("#detail .acts .danger");
    browser.says("#ask", "1 fork need");
    browser.click("#ask button[value=yes]");
    browser.says("#detail", "goes with its last fork");
    program.ok("unfork web");
    browser.says("#totals", "0 snapshots, 0 forks");
    browser.says("#detail .done", "no snapshot");
    browser.is_sound(&site);
}

/// When the n-th of each instance's hundred was taken: thinned out as retention does it.
fn thinned(now: DateTime<Utc>, place: i32) -> DateTime<Utc> {
    let back = 99 - place;
    let age = match back {
        0..24 => TimeDelta::hours(i64::from(back)),
        24..54 => TimeDelta::days(i64::from(back - 23)),
        54..80 => TimeDelta::weeks(i64::from(back - 54 + 5)),
        _ => TimeDelta::days(217 + 30 * i64::from(back - 80)),
    };
    now - age - TimeDelta::minutes(10)
}

#[test]
fn five_hundred_instances_with_fifty_thousand_snapshots_are_painted_within_a_second() {
    let Some(mut browser) = Browser::start() else { return };
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let world = World::at(dir.path());
    let now = Utc::now();
    let many = Many { snapshots: 50_000, sources: 500, forks: 1_000, of_one: false };
    make_when(&world, many, |n| thinned(now, i32::try_from(n / 500).unwrap()) + TimeDelta::milliseconds(i64::try_from(n % 500).unwrap()));
    (0..500).for_each(|n| fs::create_dir(world.vms.join(format!("golden-{n}"))).unwrap());
    let policy = "[scrub]\nenabled = false\n[[policy]]\nname = \"golden\"\ninstances = [\"golden-*\"]\nschedule = \"0 3 * * *\"\n[policy.keep]\nlast = 100\n";
    let (_program, _worker) = start(&world, policy);
    let site = site(&world, None);
    browser.look(DESK, "light");
    // Others' tests run beside this one: the best of three.
    let mut best = (f64::MAX, f64::MAX);
    for _ in 0..3 {
        browser.open(&site.url);
        let paint = browser.eval("performance.getEntriesByType('paint').find(e => e.name === 'first-contentful-paint').startTime");
        let drawn = browser.eval("performance.getEntriesByName('drawn')[0].startTime");
        let loaded = browser.eval(
            "performance.getEntriesByType('resource').filter(e => e.name.includes('/v1/'))\
             .map(e => `${new URL(e.name).pathname} ${e.encodedBodySize} B, ${Math.round(e.duration)} ms`).join('; ')",
        );
        println!("first contentful paint after {paint} ms, all lanes in sight drawn after {drawn} ms; {loaded}");
        best = (best.0.min(paint.as_f64().unwrap()), best.1.min(drawn.as_f64().unwrap()));
    }
    assert!(best.0 < 1_000.0, "{best:?}");
    assert!(best.1 < 2_000.0, "{best:?}");
    browser.says("#totals", "500 instances, 50,000 snapshots, 1,000 forks");
    assert_eq!(browser.eval("document.getElementById('lanes').getAttribute('aria-rowcount')"), json!("500"));
    assert!(browser.count(".lane") < 40, "only what is in sight is made");
    shots(&mut browser, "many");
    // To the end, by name in the order of numbers.
    browser.eval("document.getElementById('lanes').scrollTop = 1e9");
    browser.says("#lanes", "golden-499");
    browser.key("/");
    browser.write("golden-49");
    browser.says("#shown", "11 of 500 instances");
    browser.key("Enter");
    browser.key("End");
    browser.key("Enter");
    browser.says("#detail h2", "golden-49-");
    browser.key("Escape");
    browser.click("#spans [data-kind=week]");
    assert!(browser.eval("document.querySelector('.lane .count')?.textContent") != Value::Null);
    browser.key("Escape");
    browser.says("#shown", "500 instances");
    browser.key("2");
    browser.says("#panel-schedules", "500 instances");
    shots(&mut browser, "many-week");
    browser.is_sound(&site);
}

#[test]
fn a_failing_schedule_is_the_first_thing_to_be_seen() {
    let Some(mut browser) = Browser::start() else { return };
    let world = World::new();
    for name in ["alpha", "beta", "gamma", "zeta"] {
        world.make_instance(name);
    }
    let rest = "[driver]\nfreeze = ['test \"$SNAPKEEP_INSTANCE\" != zeta || { echo the guest agent does not answer >&2; exit 1; }']\n\
                [[policy]]\nname = \"often\"\ninstances = [\"*\"]\nevery = \"2s\"\n[policy.keep]\nlast = 20\n";
    let (_program, _worker) = start(&world, rest);
    let site = site(&world, None);
    browser.look(DESK, "light");
    browser.open(&site.url);
    browser.says("#alerts", "often fails for zeta");
    browser.says("#alerts", "in a row");
    browser.until("it is the first row", "document.querySelector('#lane-0').getAttribute('aria-label').startsWith('zeta, failing')");
    browser.says("#n-schedules", "1");
    browser.key("2");
    browser.says("#panel-schedules", "failing");
    browser.click("#alerts button");
    browser.says("#detail h2", "zeta");
    browser.says("#detail", "freeze");
    browser.key("Escape");
    browser.until(
        "the others are taken",
        "/alpha, often, next .*, [2-9] snapshots/.test(document.querySelector('#lane-1').getAttribute('aria-label'))",
    );
    browser.key("4");
    browser.says("#panel-events", "snapshot.failed");
    browser.key("2");
    shots(&mut browser, "failing");
    browser.is_sound(&site);
}

#[test]
fn what_the_next_prune_takes_and_what_blocks_it_is_told_with_the_reasons() {
    let Some(mut browser) = Browser::start() else { return };
    let world = World::new();
    let now = Utc::now();
    make_when(&world, Many { snapshots: 12, sources: 1, forks: 5, of_one: false }, |n| {
        now - TimeDelta::days(24 - 2 * i64::try_from(n).unwrap())
    });
    fs::create_dir(world.vms.join("golden-0")).unwrap();
    let rest = "[prune]\nmax_removals = 1\nevery = \"1h\"\n[clock]\nwait_for_sync = false\n[[policy]]\nname = \"golden\"\ninstances = [\"golden-*\"]\n[policy.keep]\nlast = 2\n";
    let (program, _worker) = start(&world, rest);
    let site = site(&world, Some(admin()));
    browser.look(DESK, "light");
    browser.open(&site.url);
    browser.says("#panel-prune", "The next prune takes ");
    browser.says("#panel-prune", "lets 1 go in one run");
    browser.says("#panel-prune", "no keep rule claims it");
    browser.says("#panel-prune", "Would go, but must stay");
    browser.says("#panel-prune", "live_forks: needed by");
    browser.says("#panel-prune", "forks: fork-");
    browser.says("#alerts", "5 snapshots cannot go");
    browser.says("#alerts", "by live forks");
    assert!(browser.count(".lane .goes") > 0 && browser.count(".lane .stays") > 0);
    let ids: Vec<String> =
        program.json("ls")["snapshots"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect();
    program.ok(&format!("hold {} audit", ids[5]));
    // A hold is no event.
    browser.open(&site.url);
    browser.says("#alerts", "6 snapshots cannot go");
    browser.says("#alerts", "1 by a hold");
    shots(&mut browser, "blocked");
    // Exactly the plan that is shown.
    browser.click("#panel-prune .danger");
    browser.says("#ask", "Exactly the plan that is shown");
    browser.click("#ask button[value=yes]");
    browser.says("#panel-prune", "The next prune takes nothing");
    browser.says("#totals", "8 snapshots");
    browser.is_sound(&site);
}
