//! The file as it is written: one description of every key, from which serde reads and the JSON Schema is made.
//! Nothing here has a default or a meaning; `shape` checks a document against the schema, `resolve` and `policy`
//! give values their meaning.

mod policy;
mod prefork;

pub(super) use policy::{RawCompress, RawKeep, RawLimit, RawPolicy};
pub(super) use prefork::{RawPool, RawPrefork};

use super::{DigestTime, MemoryMethod, SourcePaths};
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;
use std::sync::LazyLock;
use toml::Spanned;

/// A string and where it stands.
pub(super) type Text = Spanned<String>;

/// A string, or a list of strings; the place of a single one is that of the whole.
#[derive(Debug)]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<Text>),
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> serde::de::Visitor<'de> for Either {
            type Value = OneOrMany;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany::One(text.to_owned()))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany, A::Error> {
                let mut all = Vec::new();
                while let Some(text) = list.next_element()? {
                    all.push(text);
                }
                Ok(OneOrMany::Many(all))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The strings of a key, each with its place and the end of its path.
pub(super) fn each(written: &Spanned<OneOrMany>) -> Vec<(String, Text)> {
    match written.get_ref() {
        OneOrMany::One(text) => vec![(String::new(), Text::new(written.span(), text.clone()))],
        OneOrMany::Many(all) => all.iter().enumerate().map(|(n, text)| (format!("[{n}]"), text.clone())).collect(),
    }
}

/// A string with rules of its own, for the schema only: the file's value is a plain string.
macro_rules! written_as {
    ($($(#[$meta:meta])* $name:ident = $schema:tt;)*) => {$(
        $(#[$meta])*
        struct $name;
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}

// `title` is what a message says was wanted: "`every` must be <title>".
written_as! {
    Period = {
        "type": "string", "title": "a duration such as \"15m\"",
        "pattern": "^\\s*([0-9]+(\\.[0-9]+)?\\s*[a-zµ]+\\s*)+$", "examples": ["90s", "15m", "1h30m", "36h", "7d"],
    };
    AbsolutePath = { "type": "string", "title": "an absolute path", "pattern": "^/" };
    CronExpressions = {
        "title": "a cron expression such as \"*/15 * * * *\", or a list of them",
        "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" }, "minItems": 1 }],
        "examples": ["*/15 * * * *", ["0 9 * * MON-FRI", "0 18 * * *"], "@hourly"],
    };
    Hours = {
        "title": "a range of hours such as \"22:00-06:00\", or a list of them",
        "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" }, "minItems": 1 }],
        "examples": ["22:00-06:00", ["00:00-06:00", "12:00-13:00"]],
    };
    CronExpression = {
        "type": "string", "title": "a cron expression such as \"*/15 * * * *\"",
        "examples": ["*/15 * * * *", "30 2 * * *", "@hourly", "@daily"],
    };
    Bytes = {
        "type": "string", "title": "a size such as \"10GiB\"",
        "pattern": "^\\s*[0-9]+(\\.[0-9]+)?\\s*([KMGTPE]i?)?B?\\s*$", "examples": ["512MiB", "10GiB", "2TB"],
    };
    Share = {
        "type": "string", "title": "a size such as \"10GiB\", or a share such as \"5%\"",
        "pattern": "^\\s*[0-9]+(\\.[0-9]+)?\\s*(%|([KMGTPE]i?)?B?)\\s*$", "examples": ["10GiB", "5%"],
    };
    Percent = {
        "type": "string", "title": "a share such as \"20%\"",
        "pattern": "^\\s*[0-9]+(\\.[0-9]+)?\\s*%\\s*$", "examples": ["20%", "85%"],
    };
    SocketMode = { "type": "string", "title": "a mode such as \"0660\"", "pattern": "^0?[0-7]{3}$", "examples": ["0600", "0660"] };
    Loopback = {
        "type": "string", "title": "a loopback address and port such as \"127.0.0.1:7373\"",
        "examples": ["127.0.0.1:7373", "[::1]:7373"],
    };
    Principal = {
        "type": "string", "title": "somebody such as \"user:alice\" or \"group:kvm\"",
        "pattern": "^(uid|gid|user|group):.+$", "examples": ["uid:1000", "user:alice", "gid:107", "group:kvm"],
    };
    Zone = { "type": "string", "title": "a time zone such as \"Europe/Vienna\"", "examples": ["UTC", "Europe/Vienna"] };
}

/// The configuration of snapkeep.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    /// Where snapshots are kept and instances live.
    #[schemars(required)]
    pub(super) store: Option<RawStore>,
    /// The worker's API.
    pub(super) api: Option<RawApi>,
    /// How forks are made.
    pub(super) fork: Option<RawFork>,
    /// Bounds of the ready pool.
    pub(super) pool: Option<RawPool>,
    /// Forks made ahead of need: of which snapshots, and how many.
    #[schemars(with = "Option<Vec<RawPrefork>>")]
    pub(super) prefork: Option<Vec<Spanned<RawPrefork>>>,
    /// How snapshots are taken.
    pub(super) snapshot: Option<RawSnapshot>,
    /// How instances are brought to rest: the plain driver.
    pub(super) driver: Option<RawDriver>,
    /// The worker process.
    pub(super) worker: Option<RawWorker>,
    /// When retention is applied.
    pub(super) prune: Option<RawPrune>,
    /// How long removed things can be brought back.
    pub(super) trash: Option<RawTrash>,
    /// Room on the file system.
    pub(super) space: Option<RawSpace>,
    /// Raw copies of compressed memory files.
    pub(super) cache: Option<RawCache>,
    /// Checking digests in the background.
    pub(super) scrub: Option<RawScrub>,
    /// Metrics in a file.
    pub(super) metrics: Option<RawMetrics>,
    /// When the wall clock is believed.
    pub(super) clock: Option<RawClock>,
    /// Policies: which instances, when, and what to keep.
    #[schemars(with = "Option<Vec<RawPolicy>>")]
    pub(super) policy: Option<Vec<Spanned<RawPolicy>>>,
}

/// `[store]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStore {
    /// The directory of snapshots; on the same file system and mount as `instances`.
    #[schemars(required, with = "AbsolutePath")]
    pub(super) path: Option<Text>,
    /// The directory whose subdirectories are instances.
    #[schemars(required, with = "AbsolutePath")]
    pub(super) instances: Option<Text>,
}

/// `[api]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawApi {
    /// The worker's unix socket; `snapkeep.sock` in the store if not given.
    #[schemars(with = "Option<AbsolutePath>")]
    pub(super) socket: Option<Text>,
    /// The socket's mode: who may connect at all.
    #[schemars(with = "Option<SocketMode>", extend("default" = "0600"))]
    pub(super) mode: Option<Text>,
    /// A loopback address and port to listen on as well; not if not given.
    #[schemars(with = "Option<Loopback>")]
    pub(super) tcp: Option<Text>,
    /// A file with the token that lets whoever comes over TCP do everything.
    #[schemars(with = "Option<AbsolutePath>")]
    pub(super) token_file: Option<Text>,
    /// Who may look, besides root and the worker's own user.
    #[schemars(with = "Option<Vec<Principal>>")]
    pub(super) read: Option<Vec<Text>>,
    /// Who may take, fork and remove as well.
    #[schemars(with = "Option<Vec<Principal>>")]
    pub(super) write: Option<Vec<Text>>,
    /// Who may do everything.
    #[schemars(with = "Option<Vec<Principal>>")]
    pub(super) admin: Option<Vec<Text>>,
}

/// `[fork]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFork {
    /// The first method tried for memory files; the ones after it are fallbacks.
    #[schemars(extend("default" = "hardlink"))]
    pub(super) memory: Option<MemoryMethod>,
    /// What to do about files that name their source's directory.
    #[schemars(extend("default" = "rewrite"))]
    pub(super) source_paths: Option<SourcePaths>,
    /// How many fork requests may wait.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 10_000))]
    pub(super) max_pending: Option<u32>,
    /// Whether a snapshot that is to go with its last fork may still be forked.
    #[schemars(extend("default" = false))]
    pub(super) allow_forks_of_expiring: Option<bool>,
}

/// `[snapshot]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSnapshot {
    /// Globs of files that are left out; `logs/` is a directory at the top of the instance, `*.tmp` a name at any depth.
    #[schemars(with = "Option<Vec<String>>", extend("default" = ["logs/", "*.tmp", "*.pid", "*.lock"]))]
    pub(super) skip: Option<Vec<Text>>,
    /// Where a snapshot shares extents with its instance: whether its long files are hashed before it is published, or after that, in the background.
    #[schemars(extend("default" = "after"))]
    pub(super) digests: Option<DigestTime>,
}

/// `[driver]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDriver {
    /// Names of the files that hold guest memory.
    #[schemars(with = "Option<Vec<String>>", length(min = 1), extend("default" = ["memory", "memory-ranges", "mem"]))]
    pub(super) memory_names: Option<Spanned<Vec<Text>>>,
    /// Command lines, each run by `sh -c`, before the copy.
    #[schemars(with = "Option<Vec<String>>", extend("default" = []))]
    pub(super) freeze: Option<Spanned<Vec<Text>>>,
    /// Command lines, each run by `sh -c`, after the copy, whatever happened.
    #[schemars(with = "Option<Vec<String>>", extend("default" = []))]
    pub(super) thaw: Option<Spanned<Vec<Text>>>,
    /// How long each command line may take.
    #[schemars(with = "Option<Period>", extend("default" = "30s"))]
    pub(super) timeout: Option<Text>,
}

/// `[worker]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWorker {
    /// Threads for copying and unlinking.
    #[schemars(range(min = 1, max = 256), extend("default" = 4))]
    pub(super) threads: Option<u32>,
    /// Scheduled snapshots at once, of all policies; as many as `threads` if not given.
    #[schemars(range(min = 1, max = 4096))]
    pub(super) max_running: Option<u32>,
    /// Bytes per second that snapshots, forks and restores copy at most, all together; extents that are shared do not count. Not given: no bound.
    #[schemars(with = "Option<Bytes>")]
    pub(super) copy_rate: Option<Text>,
}

/// `[prune]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPrune {
    /// How often retention is applied, besides after each snapshot and when a ref is released.
    #[schemars(with = "Option<Period>", extend("default" = "10m"))]
    pub(super) every: Option<Text>,
    /// Forks that keep a snapshot for longer than this past its expiry are reported once a day; `0s` means never.
    #[schemars(with = "Option<Period>", extend("default" = "7d"))]
    pub(super) warn_pinned_after: Option<Text>,
    /// Snapshots removed in one run at most, the oldest first. Not given: no bound.
    #[schemars(range(min = 1))]
    pub(super) max_removals: Option<u32>,
    /// The same as a share of all snapshots, one at least. Not given: no bound.
    #[schemars(with = "Option<Percent>")]
    pub(super) max_fraction: Option<Text>,
}

/// `[trash]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTrash {
    /// How long removed snapshots, and instances that `restore` replaced, can be brought back.
    #[schemars(with = "Option<Period>", extend("default" = "1h"))]
    pub(super) grace: Option<Text>,
    /// The same for forks removed by `unfork`.
    #[schemars(with = "Option<Period>", extend("default" = "0s"))]
    pub(super) fork_grace: Option<Text>,
    /// When the trash holds more, its oldest entries go before their grace is over. Not given: no bound.
    #[schemars(with = "Option<Bytes>")]
    pub(super) max_bytes: Option<Text>,
    /// Files unlinked per second at most; 0 means no bound.
    #[schemars(range(min = 0, max = 1_000_000), extend("default" = 2000))]
    pub(super) unlink_rate: Option<u32>,
    /// Bytes that come free per second at most: behind a large file nothing is unlinked for a while; `0B` means no bound.
    #[schemars(with = "Option<Bytes>", extend("default" = "4GiB"))]
    pub(super) unlink_bytes: Option<Text>,
}

/// `[space]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSpace {
    /// Kept free: a snapshot that would not fit beside it is refused before anything is written.
    #[schemars(with = "Option<Share>", extend("default" = "0B"))]
    pub(super) reserve: Option<Text>,
    /// When more of the file system than this is used, policies' snapshots go early. Not given: they do not.
    #[schemars(with = "Option<Percent>")]
    pub(super) prune_above: Option<Text>,
    /// Until no more than this is used; five points below `prune_above` if not given.
    #[schemars(with = "Option<Percent>")]
    pub(super) until: Option<Text>,
}

/// `[cache]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCache {
    /// When the raw copies take more, those go that were not used for longest; one that a fork waits for stays.
    #[schemars(with = "Option<Share>", extend("default" = "10%"))]
    pub(super) max_bytes: Option<Text>,
    /// How long a raw copy stays after the last fork that used it.
    #[schemars(with = "Option<Period>", extend("default" = "10m"))]
    pub(super) keep: Option<Text>,
}

/// `[scrub]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawScrub {
    /// Whether the worker checks digests in the background.
    #[schemars(extend("default" = true))]
    pub(super) enabled: Option<bool>,
    /// Cron expression of 5 to 7 fields (in UTC), or an alias such as `@weekly`: from each slot on, every snapshot is checked once. Not together with `every`.
    #[schemars(with = "Option<CronExpression>")]
    pub(super) schedule: Option<Text>,
    /// Every snapshot is checked once in each interval.
    #[schemars(with = "Option<Period>", extend("default" = "30d"))]
    pub(super) every: Option<Text>,
    /// Bytes read per second.
    #[schemars(with = "Option<Bytes>", extend("default" = "32MiB"))]
    pub(super) rate: Option<Text>,
}

/// `[metrics]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMetrics {
    /// A file such as `/var/lib/prometheus/node-exporter/snapkeep.prom`, for the textfile collector of node_exporter: written once a minute by `run`, and at the end by `once`. Not given: none.
    #[schemars(with = "Option<AbsolutePath>")]
    pub(super) textfile: Option<Text>,
    /// How often `once` is run, if it is: the next heartbeat is due by then.
    #[schemars(with = "Option<Period>", extend("default" = "15m"))]
    pub(super) once_every: Option<Text>,
}

/// `[clock]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawClock {
    /// After a boot, or a step of the wall clock, nothing is removed by age until the kernel says that the clock is
    /// synchronised (and ten minutes have passed). `false`: only the ten minutes.
    #[schemars(extend("default" = true))]
    pub(super) wait_for_sync: Option<bool>,
}

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<RawConfig>().to_value();
    without_null(&mut schema);
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".to_owned(), "snapkeep.toml".into());
    }
    schema
});

/// The JSON Schema (draft 2020-12) of the configuration file; what `check --schema` prints.
#[must_use]
pub fn schema() -> Value {
    SCHEMA.clone()
}

/// The same, not copied.
pub(super) fn shared_schema() -> &'static Value {
    &SCHEMA
}

/// TOML has no null: an optional key is one that may be left out, so the nulls of `Option` go.
fn without_null(schema: &mut Value) {
    let null = Value::from("null");
    if let Value::Object(map) = schema {
        if let Some(Value::Array(choices)) = map.get_mut("anyOf") {
            choices.retain(|choice| choice.get("type") != Some(&null));
            if let (1, Some(Value::Object(only))) = (choices.len(), choices.first().cloned()) {
                map.remove("anyOf");
                // The field's own words come first, those of its type only where it has none.
                for (key, value) in only {
                    map.entry(key).or_insert(value);
                }
            }
        }
        if let Some(Value::Array(types)) = map.get_mut("type") {
            types.retain(|kind| *kind != null);
            if let (1, Some(only)) = (types.len(), types.first().cloned()) {
                map.insert("type".to_owned(), only);
            }
        }
        if let Some(Value::Array(values)) = map.get_mut("enum") {
            values.retain(|value| !value.is_null());
        }
        map.values_mut().for_each(without_null);
    } else if let Value::Array(items) = schema {
        items.iter_mut().for_each(without_null);
    }
}
