//! Metrics, fed by the events as they are reported: counters of all, histograms of what takes time, and gauges from the
//! heartbeat. In OpenMetrics for `/metrics`, and as a textfile for node_exporter.

use super::{CATALOGUE, Event};
use chrono::{DateTime, Utc};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Bounds of the histograms' buckets, seconds.
const BUCKETS: [f64; 15] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];

type OfPolicy = Family<Vec<(&'static str, String)>, Gauge>;
/// What of a policy a metric is.
type Number = fn(&PolicyNumbers) -> Option<i64>;

/// How a policy does, as the metrics have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyNumbers {
    /// Its name.
    pub policy: String,
    /// Instances that it selects.
    pub pairs: u64,
    /// Those whose last attempt failed.
    pub failing: u64,
    /// Most failed attempts in a row.
    pub failures: u64,
    /// Those that have gone by two slots without a snapshot.
    pub overdue: u64,
    /// The oldest of their last successes.
    pub oldest_success: Option<DateTime<Utc>>,
}

/// The gauges of the heartbeat, each with its name and what it means; in the order of [`numbers`].
const GAUGES: [(&str, &str); 17] = [
    ("queue_pending", "Fork requests that wait or run"),
    ("queue_oldest_seconds", "How long the oldest fork request has waited"),
    ("pairs_failing", "Policy-instance pairs whose last attempt failed"),
    ("failures_in_a_row", "Most failed attempts in a row of any pair"),
    ("pairs_overdue", "Pairs that have gone by two slots, and more, without a snapshot"),
    ("snapshots", "Snapshots in the store"),
    ("forks", "Refs in the store: forks that live or wait"),
    ("snapshots_quarantined", "Snapshots that failed a check"),
    ("snapshots_blocked", "Snapshots that retention wanted to go when it last looked, and that must stay"),
    ("snapshots_stuck", "Those of the blocked that nothing but a person can free"),
    ("pinned_bytes", "What forks alone keep from coming free"),
    ("filesystem_free_bytes", "What is free on the store's file system"),
    ("filesystem_size_bytes", "How large the store's file system is"),
    ("queue_open", "Whether forks are accepted"),
    ("root_proven", "Whether the instances root is the one that the store belongs to"),
    ("clock_trusted", "Whether the wall clock is believed: else nothing is removed by age"),
    ("config_rejected", "Whether the last reload was refused"),
];

/// The numbers of a heartbeat, in the order of [`GAUGES`]; `None` if the event is another.
fn numbers(event: &Event) -> Option<[f64; GAUGES.len()]> {
    let Event::WorkerHeartbeat {
        pending,
        oldest_ms,
        failing,
        failures,
        overdue,
        snapshots,
        forks,
        quarantined,
        blocked,
        stuck,
        pinned_bytes,
        free_bytes,
        size_bytes,
        queue_open,
        root_proven,
        clock_trusted,
        config_rejected,
        ..
    } = event
    else {
        return None;
    };
    let count = |n: &u64| *n as f64;
    let truth = |is: &bool| f64::from(u8::from(*is));
    Some([
        count(pending),
        count(oldest_ms) / 1000.0,
        count(failing),
        count(failures),
        count(overdue),
        count(snapshots),
        count(forks),
        count(quarantined),
        count(blocked),
        count(stuck),
        count(pinned_bytes),
        count(free_bytes),
        count(size_bytes),
        truth(queue_open),
        truth(root_proven),
        truth(clock_trusted),
        truth(config_rejected),
    ])
}

type Real = Gauge<f64, std::sync::atomic::AtomicU64>;

/// All metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// By place in the catalogue.
    events: Vec<Counter>,
    /// When each came last; those that never came have none.
    last: Family<[(&'static str, &'static str); 2], Real>,
    gauges: Vec<Real>,
    heartbeat: Real,
    next_heartbeat: Real,
    lateness: Histogram,
    copy: Histogram,
    frozen: Histogram,
    fork: Histogram,
    queue_wait: Histogram,
    prune: Histogram,
    policy: [(OfPolicy, Number); 5],
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("snapkeep");
        registry.register("build", "The worker", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let all = Family::<[(&'static str, &'static str); 2], Counter>::default();
        registry.register(
            "events",
            "Facts that were reported, by the names of docs/events.md; also those that the log only counted",
            all.clone(),
        );
        let events = CATALOGUE.iter().map(|e| all.get_or_create(&[("event", e.name), ("level", e.level.as_str())]).clone()).collect();
        let last = Family::default();
        registry.register("last_event_timestamp_seconds", "When an event was last reported", last.clone());
        let mut gauges = Vec::with_capacity(GAUGES.len());
        for (name, help) in GAUGES {
            let gauge = Real::default();
            registry.register(name, help, gauge.clone());
            gauges.push(gauge);
        }
        let heartbeat = Real::default();
        registry.register("heartbeat_timestamp_seconds", "When the worker last reported that its loop goes round", heartbeat.clone());
        let next_heartbeat = Real::default();
        let help = "When the next heartbeat is due: a worker that is silent for much longer does not work";
        registry.register("next_heartbeat_timestamp_seconds", help, next_heartbeat.clone());
        let mut histogram = |name: &str, help: &str| {
            let histogram = Histogram::new(BUCKETS);
            registry.register(name, help, histogram.clone());
            histogram
        };
        let lateness = histogram("slot_lateness_seconds", "How much later than due (slot and jitter) scheduled snapshots were begun");
        let copy = histogram("snapshot_copy_seconds", "Snapshots, from begun to published");
        let frozen = histogram("snapshot_frozen_seconds", "How long instances were held at rest for a snapshot");
        let fork = histogram("fork_seconds", "Forks, from begun to done");
        let queue_wait = histogram("queue_wait_seconds", "Fork requests, from accepted to begun");
        let prune = histogram("prune_seconds", "Runs of retention in which snapshots went, or should have");
        let mut of_policy = |name: &str, help: &str, number: Number| {
            let family = OfPolicy::default();
            registry.register(name, help, family.clone());
            (family, number)
        };
        let policy = [
            of_policy("policy_pairs", "Instances that a policy selects", |p| i64::try_from(p.pairs).ok()),
            of_policy("policy_pairs_failing", "Those whose last attempt failed", |p| i64::try_from(p.failing).ok()),
            of_policy("policy_failures_in_a_row", "Most failed attempts in a row", |p| i64::try_from(p.failures).ok()),
            of_policy("policy_pairs_overdue", "Those that have gone by two slots without a snapshot", |p| i64::try_from(p.overdue).ok()),
            of_policy("policy_oldest_success_timestamp_seconds", "The oldest of their last successes", |p| {
                p.oldest_success.map(|at| at.timestamp())
            }),
        ];
        Self { events, last, gauges, heartbeat, next_heartbeat, lateness, copy, frozen, fork, queue_wait, prune, policy, registry }
    }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

impl Metrics {
    /// Takes in an event that is reported.
    pub fn observe(&self, event: &Event, now: DateTime<Utc>) {
        if let Some(counter) = self.events.get(event.place()) {
            counter.inc();
        }
        let labels = [("event", event.name()), ("level", event.level().as_str())];
        self.last.get_or_create(&labels).set(now.timestamp() as f64);
        match event {
            Event::SnapshotTaken { late_ms, frozen_ms, duration_ms, .. } => {
                late_ms.iter().for_each(|ms| self.lateness.observe(seconds(*ms)));
                self.copy.observe(seconds(*duration_ms));
                self.frozen.observe(seconds(*frozen_ms));
            }
            Event::ForkCreated { waited_ms, queued_ms, .. } => {
                self.queue_wait.observe(seconds(*queued_ms));
                self.fork.observe(seconds(waited_ms.saturating_sub(*queued_ms)));
            }
            Event::PruneFinished { duration_ms, .. } => self.prune.observe(seconds(*duration_ms)),
            Event::WorkerHeartbeat { at, next_at, .. } => {
                self.look(event);
                self.heartbeat.set(at.timestamp() as f64);
                self.next_heartbeat.set(next_at.timestamp() as f64);
            }
            _ => {}
        }
    }

    /// Sets the gauges by a heartbeat that is not reported, because somebody looks in between; when the next one is due is
    /// the loop's to say.
    pub fn look(&self, heartbeat: &Event) {
        let Some(numbers) = numbers(heartbeat) else { return };
        for (gauge, number) in self.gauges.iter().zip(numbers) {
            gauge.set(number);
        }
    }

    /// Sets the gauges of all policies; those of others go.
    pub fn policies(&self, all: &[PolicyNumbers]) {
        for (family, number) in &self.policy {
            family.clear();
            for policy in all {
                if let Some(number) = number(policy) {
                    family.get_or_create(&vec![("policy", policy.policy.clone())]).set(number);
                }
            }
        }
    }

    /// All of them, in OpenMetrics 1.0.
    #[must_use]
    pub fn open_metrics(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// All of them in the text format of Prometheus, which node_exporter reads from `*.prom` files.
    #[must_use]
    pub fn textfile(&self) -> String {
        plain_text(&self.open_metrics())
    }
}

/// OpenMetrics in the older format: a counter's and an info's family has its suffix, and there are neither units nor an end mark.
fn plain_text(open: &str) -> String {
    let mut out = String::with_capacity(open.len());
    let mut suffixes: Vec<(&str, &str)> = Vec::new();
    for line in open.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            match kind {
                "counter" => suffixes.push((name, "_total")),
                "info" => suffixes.push((name, "_info")),
                _ => {}
            }
        }
    }
    for line in open.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF" | "UNIT"), ..) => {}
            (Some("#"), Some(what), Some(name), Some(rest)) => {
                let suffix = suffixes.iter().find(|(known, _)| *known == name).map_or("", |(_, suffix)| suffix);
                let rest = if what == "TYPE" && rest == "info" { "gauge" } else { rest };
                out.push_str(&format!("# {what} {name}{suffix} {rest}\n"));
            }
            _ => out.push_str(&format!("{line}\n")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeZone as _;

    fn heartbeat(pending: u64) -> Event {
        let at = Utc.with_ymd_and_hms(2026, 11, 24, 12, 0, 0).unwrap();
        Event::WorkerHeartbeat {
            pending,
            oldest_ms: 1500,
            failing: 1,
            failures: 4,
            overdue: 2,
            snapshots: 7,
            forks: 3,
            quarantined: 0,
            blocked: 1,
            stuck: 0,
            pinned_bytes: 4096,
            free_bytes: 10,
            size_bytes: 100,
            queue_open: true,
            root_proven: false,
            clock_trusted: true,
            config_rejected: false,
            next_at: at + chrono::TimeDelta::minutes(1),
            at,
        }
    }

    fn value(text: &str, series: &str) -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    #[test]
    fn the_heartbeat_sets_gauges_and_every_event_is_counted_from_zero() {
        let metrics = Metrics::default();
        metrics.observe(&heartbeat(5), DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(7));
        let text = metrics.open_metrics();
        for (series, wanted) in [
            ("snapkeep_queue_pending", 5.0),
            ("snapkeep_queue_oldest_seconds", 1.5),
            ("snapkeep_failures_in_a_row", 4.0),
            ("snapkeep_root_proven", 0.0),
            ("snapkeep_heartbeat_timestamp_seconds", 1_795_521_600.0),
            ("snapkeep_next_heartbeat_timestamp_seconds", 1_795_521_660.0),
            ("snapkeep_last_event_timestamp_seconds{event=\"worker.heartbeat\",level=\"info\"}", 7.0),
            ("snapkeep_events_total{event=\"worker.heartbeat\",level=\"info\"}", 1.0),
            ("snapkeep_events_total{event=\"scrub.found\",level=\"error\"}", 0.0),
        ] {
            assert_eq!(value(&text, series), Some(wanted), "{series} in {text}");
        }
        metrics.look(&heartbeat(6));
        assert_eq!(value(&metrics.open_metrics(), "snapkeep_queue_pending"), Some(6.0));
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn histograms_are_fed_by_events_and_policies_that_went_are_dropped() {
        let metrics = Metrics::default();
        let at = Utc.with_ymd_and_hms(2026, 11, 24, 12, 0, 0).unwrap();
        let finished = Event::PruneFinished { hash: String::new(), removed: 1, failed: 0, blocked: 0, left: 0, duration_ms: 40, at };
        metrics.observe(&finished, at);
        let text = metrics.open_metrics();
        assert_eq!(value(&text, "snapkeep_prune_seconds_bucket{le=\"0.05\"}"), Some(1.0), "{text}");
        assert_eq!(value(&text, "snapkeep_prune_seconds_bucket{le=\"0.01\"}"), Some(0.0));
        let policy =
            |name: &str| PolicyNumbers { policy: name.to_owned(), pairs: 2, failing: 0, failures: 0, overdue: 1, oldest_success: None };
        metrics.policies(&[policy("a"), policy("b")]);
        metrics.policies(&[policy("b")]);
        let text = metrics.open_metrics();
        assert_eq!(value(&text, "snapkeep_policy_pairs_overdue{policy=\"b\"}"), Some(1.0));
        assert_eq!(value(&text, "snapkeep_policy_pairs_overdue{policy=\"a\"}"), None);
    }

    #[test]
    fn the_textfile_has_the_counters_full_name_and_no_end_mark() {
        let text = Metrics::default().textfile();
        assert!(text.contains("# TYPE snapkeep_events_total counter\n") && text.contains("# TYPE snapkeep_build_info gauge\n"), "{text}");
        assert!(!text.contains("# EOF"));
    }
}
