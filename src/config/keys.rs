//! The keys of every table: what the walk accepts. A test holds them equal to the schema's.

pub(super) const FILE: &[&str] = &["store", "api", "fork", "snapshot", "driver", "worker", "prune", "trash", "policy"];
pub(super) const POLICIES_FILE: &[&str] = &["policy"];
pub(super) const STORE: &[&str] = &["path", "instances"];
pub(super) const API: &[&str] = &["socket"];
pub(super) const FORK: &[&str] = &["memory", "source_paths", "max_pending"];
pub(super) const SNAPSHOT: &[&str] = &["skip"];
pub(super) const DRIVER: &[&str] = &["memory_names", "freeze", "thaw", "timeout"];
pub(super) const WORKER: &[&str] = &["threads"];
pub(super) const PRUNE: &[&str] = &["every"];
pub(super) const TRASH: &[&str] = &["grace", "fork_grace"];
pub(super) const POLICY: &[&str] = &[
    "name",
    "instances",
    "include_forks",
    "schedule",
    "every",
    "timezone",
    "jitter",
    "missed",
    "retry",
    "kind",
    "name_prefix",
    "tags",
    "keep_all",
    "keep",
    "limit",
    "gone",
];
pub(super) const RETRY: &[&str] = &["attempts", "backoff"];
pub(super) const KEEP: &[&str] = &["counting", "last", "within", "minutely", "hourly", "daily", "weekly", "monthly", "quarterly", "yearly"];
pub(super) const LIMIT: &[&str] = &["max_count", "max_age", "min"];
pub(super) const GONE: &[&str] = &["after", "min"];
