//! From a `[[policy]]` table to a [`Policy`]: which instances, when, what to keep. Decides nothing.

use super::cron;
use super::problem::Report;
use super::raw::{Counting, RawKeep, RawLimit, RawPolicy, Text};
use super::resolve::{delta, period, period_from};
use super::shape::nearest;
use super::units::show_duration;
use crate::ids::{PolicyName, SnapshotName};
use crate::policy::{Gone, Granularity, Keep, KindRule, Limit, Missed, Policy, Retention, Retry, Rhythm, Schedule, Select, WhenReferenced};
use chrono_tz::Tz;
use globset::{Glob, GlobSet, GlobSetBuilder};
use std::collections::BTreeMap;
use std::time::Duration;
use toml::Spanned;

const SECOND: Duration = Duration::from_secs(1);
/// `-YYYYMMDD-HHMMSS` must fit behind it.
const LONGEST_PREFIX: usize = 47;

/// One table of a file: its values, its place, its key.
struct Table<'r, 's> {
    raw: &'r RawPolicy,
    start: usize,
    key: String,
    report: &'r mut Report<'s>,
}

/// Resolves the `n`th policy of a file; `None` if that cannot be done, which is reported then.
pub(super) fn resolve(raw: &Spanned<RawPolicy>, n: usize, report: &mut Report<'_>) -> Option<Policy> {
    let mut table = Table { raw: raw.get_ref(), start: raw.span().start, key: format!("policy[{n}]"), report };
    let name = table.name();
    let instances = table.instances();
    let timezone = table.timezone();
    let schedule = table.schedule(timezone);
    let retention = table.retention(timezone);
    let retry = table.retry();
    let name_prefix = table.name_prefix();
    let tags = table.tags();
    let raw = table.raw;
    Some(Policy {
        name: name?,
        select: Select { instances: instances?, include_forks: raw.include_forks.unwrap_or(false) },
        schedule,
        retention,
        name_prefix,
        tags,
        retry,
        kind: raw.kind.unwrap_or(KindRule::Auto),
        when_referenced: raw.when_referenced.unwrap_or(WhenReferenced::Keep),
    })
}

impl Table<'_, '_> {
    fn at(&self, key: &str) -> String {
        format!("{}.{key}", self.key)
    }

    fn wrong(&mut self, key: &str, text: &Text, message: impl Into<String>, help: Option<&str>) {
        let key = self.at(key);
        match help {
            Some(help) => self.report.wrong_help(&key, text.span(), message, help),
            None => self.report.wrong(&key, text.span(), message),
        }
    }

    fn warn(&mut self, message: &str) {
        let name = self.raw.name.as_ref().map_or("", |name| name.get_ref());
        self.report.warn(self.start, format_args!("policy `{name}` {message}"));
    }

    fn period(&mut self, key: &str, text: Option<&Text>, least: Duration) -> Option<Duration> {
        period_from(&self.at(key), text, least, self.report)
    }

    fn name(&mut self) -> Option<PolicyName> {
        let text = self.raw.name.as_ref()?;
        PolicyName::parse(text.get_ref()).map_err(|error| self.wrong("name", text, error.to_string(), None)).ok()
    }

    fn instances(&mut self) -> Option<GlobSet> {
        let list = self.raw.instances.as_ref()?;
        if list.get_ref().is_empty() {
            let help = "write instances = [\"*\"] for all of them";
            self.report.wrong_help(&self.at("instances"), list.span(), "`instances` is empty: the policy would be for none", help);
        }
        let mut set = GlobSetBuilder::new();
        for (n, text) in list.get_ref().iter().enumerate() {
            let key = format!("instances[{n}]");
            let pattern = text.get_ref();
            if pattern.is_empty() {
                self.wrong(&key, text, "an empty pattern matches no instance", None);
            } else if pattern.contains('/') {
                let help = "instances are directories directly under the instances root: write their names only";
                self.wrong(&key, text, format!("\"{pattern}\" matches no instance, for it has a `/`"), Some(help));
            } else {
                match Glob::new(pattern) {
                    Ok(glob) => drop(set.add(glob)),
                    Err(error) => self.wrong(&key, text, format!("\"{pattern}\" is not a glob: {}", error.kind()), None),
                }
            }
        }
        set.build().map_err(|error| self.report.wrong(&self.at("instances"), list.span(), error.to_string())).ok()
    }

    fn timezone(&mut self) -> Tz {
        let Some(text) = self.raw.timezone.as_ref() else { return Tz::UTC };
        let name = text.get_ref();
        name.parse().unwrap_or_else(|_| {
            let near = nearest(name, chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name()));
            let help = near.map_or_else(
                || "write a name of the IANA database, such as \"Europe/Vienna\" or \"UTC\"".to_owned(),
                |near| format!("did you mean \"{near}\"?"),
            );
            self.wrong("timezone", text, format!("there is no time zone \"{name}\""), Some(&help));
            Tz::UTC
        })
    }

    fn schedule(&mut self, timezone: Tz) -> Option<Schedule> {
        let raw = self.raw;
        let jitter = self.period("jitter", raw.jitter.as_ref(), Duration::ZERO).unwrap_or_default();
        let rhythm = match (&raw.schedule, &raw.every) {
            (None, None) => {
                if !self.report.is_touched(&self.at("schedule")) && !self.report.is_touched(&self.at("every")) {
                    self.without_schedule();
                }
                return None;
            }
            (Some(cron), every) => {
                if let Some(every) = every {
                    self.wrong("every", every, "`every` and `schedule` are both there", Some("leave one of them out"));
                    self.period("every", raw.every.as_ref(), SECOND);
                }
                self.cron(cron)?
            }
            (None, Some(_)) => Rhythm::Every(delta(self.period("every", raw.every.as_ref(), SECOND)?)),
        };
        let gap = match &rhythm {
            Rhythm::Cron(cron) => cron::shortest_gap(cron),
            Rhythm::Every(every) => Some(*every),
        };
        if let (Some(gap), Some(text)) =
            (gap.and_then(|gap| gap.to_std().ok()).filter(|gap| *gap <= jitter && !jitter.is_zero()), &raw.jitter)
        {
            let (jitter, gap) = (show_duration(jitter), show_duration(gap));
            let message = format!("`jitter` is {jitter}, and slots are only {gap} apart: snapshots of one slot fall into the next");
            self.report.warn(text.span().start, message);
        }
        Some(Schedule { rhythm, timezone, jitter: delta(jitter), missed: raw.missed.unwrap_or(Missed::Run) })
    }

    /// A policy that only prunes is allowed, but is not what somebody wants who forgot a line.
    fn without_schedule(&mut self) {
        self.warn("has neither `schedule` nor `every`: it takes no snapshots and only prunes those that it took before");
        let raw = self.raw;
        let idle = [("jitter", raw.jitter.is_some()), ("missed", raw.missed.is_some()), ("retry", raw.retry.is_some())];
        for (key, _) in idle.iter().filter(|(_, written)| *written) {
            self.warn(&format!("has `{key}`, which does nothing without `schedule` or `every`"));
        }
    }

    fn cron(&mut self, text: &Text) -> Option<Rhythm> {
        match cron::parse(text.get_ref()) {
            Ok(cron) => Some(Rhythm::Cron(Box::new(cron))),
            Err(problem) => {
                self.wrong("schedule", text, problem.message, problem.help.as_deref());
                None
            }
        }
    }

    fn retry(&mut self) -> Retry {
        let raw = self.raw.retry.as_ref();
        let backoff = self.period("retry.backoff", raw.and_then(|retry| retry.backoff.as_ref()), Duration::ZERO);
        Retry { attempts: raw.and_then(|retry| retry.attempts).unwrap_or(1), backoff: delta(backoff.unwrap_or(60 * SECOND)) }
    }

    fn name_prefix(&mut self) -> Option<String> {
        let text = self.raw.name_prefix.as_ref()?;
        match SnapshotName::parse(text.get_ref()) {
            Err(error) => self.wrong("name_prefix", text, format!("`name_prefix`: {}", error.why), None),
            Ok(name) if name.as_str().len() > LONGEST_PREFIX => {
                self.wrong("name_prefix", text, format!("`name_prefix` is longer than {LONGEST_PREFIX} characters"), None);
            }
            Ok(_) => {}
        }
        Some(text.get_ref().clone())
    }

    fn tags(&mut self) -> BTreeMap<String, String> {
        let tags = self.raw.tags.iter().flatten();
        for (key, _) in tags.clone().filter(|(key, _)| key.get_ref().is_empty() || key.get_ref().contains(['=', '\n'])) {
            let message = format!("\"{}\" is not the name of a tag: it must have a character, and no `=`", key.get_ref().escape_debug());
            self.report.wrong(&self.at("tags"), key.span(), message);
        }
        tags.map(|(key, value)| (key.get_ref().clone(), value.get_ref().clone())).collect()
    }

    fn retention(&mut self, timezone: Tz) -> Retention {
        let raw = self.raw;
        let keep = raw.keep.as_ref().map(|keep| self.keep(keep, timezone));
        let limit = self.limit(raw.limit.as_ref());
        let gone = raw.gone.as_ref().map(|gone| Gone {
            after: delta(period(&self.at("gone.after"), gone.after.as_ref(), self.report).unwrap_or_default()),
            min: gone.min.unwrap_or(1),
        });
        self.keep_all_or_rules();
        if let (Some(within), Some(max_age), Some(written)) = (
            keep.as_ref().and_then(|keep| keep.within),
            limit.max_age,
            raw.limit.as_ref().and_then(|limit| limit.get_ref().max_age.as_ref()),
        ) && max_age < within
        {
            self.report.warn(written.span().start, "`max_age` is shorter than `within`: the limit wins");
        }
        Retention { keep, limit, gone }
    }

    /// Rules or `keep_all`: one of them, not both.
    fn keep_all_or_rules(&mut self) {
        let raw = self.raw;
        let touched = |key: &str| self.report.is_touched(&self.at(key));
        let rules = raw.keep.is_some() || raw.limit.is_some();
        match raw.keep_all.as_ref().filter(|all| *all.get_ref()) {
            Some(all) if rules => {
                let message = "`keep_all` keeps everything, and `keep` or `limit` is there too";
                self.report.wrong_help(&self.at("keep_all"), all.span(), message, "leave out `keep_all`, or the other tables");
            }
            None if !rules && !["keep", "limit", "keep_all"].into_iter().any(touched) => {
                let span = self.raw.name.as_ref().map_or(self.start..self.start, Spanned::span);
                let help = "add [policy.keep] or [policy.limit]; or keep_all = true to keep everything for ever";
                self.report.missing(&self.at("keep"), span, "the policy has neither `keep` nor `limit`", help);
            }
            _ => {}
        }
    }

    fn keep(&mut self, written: &Spanned<RawKeep>, timezone: Tz) -> Keep {
        let raw = written.get_ref();
        if let Some(counting) = raw.counting.as_ref().filter(|counting| *counting.get_ref() == Counting::Cascade) {
            let message = "counting = \"cascade\" is not built yet";
            self.report.wrong_help(&self.at("keep.counting"), counting.span(), message, "leave the key out, which means \"each\"");
        }
        let counts = [
            (Granularity::Minutely, raw.minutely),
            (Granularity::Hourly, raw.hourly),
            (Granularity::Daily, raw.daily),
            (Granularity::Weekly, raw.weekly),
            (Granularity::Monthly, raw.monthly),
            (Granularity::Quarterly, raw.quarterly),
            (Granularity::Yearly, raw.yearly),
        ];
        let before = self.report.problems.len();
        let keep = Keep {
            last: raw.last.unwrap_or(0),
            within: self.period("keep.within", raw.within.as_ref(), SECOND).map(delta),
            buckets: counts.into_iter().filter_map(|(unit, n)| Some((unit, n.filter(|n| *n > 0)?))).collect(),
            timezone,
        };
        let broken = self.report.problems.len() > before || self.report.has_problem_below(&self.at("keep"));
        if keep.last == 0 && keep.within.is_none() && keep.buckets.is_empty() && !broken {
            let help = "give it a rule, such as last = 4; or leave the table out and set [policy.limit]";
            self.report.wrong_help(&self.at("keep"), written.span(), "`keep` claims nothing: every snapshot would be removed", help);
        }
        keep
    }

    fn limit(&mut self, written: Option<&Spanned<RawLimit>>) -> Limit {
        let Some(written) = written else { return Limit { min: 1, ..Limit::default() } };
        let raw = written.get_ref();
        let limit = Limit {
            max_count: raw.max_count.as_ref().map(|n| *n.get_ref()),
            max_age: self.period("limit.max_age", raw.max_age.as_ref(), SECOND).map(delta),
            min: raw.min.as_ref().map_or(1, |n| *n.get_ref()),
        };
        if let Some(max) = raw.max_count.as_ref().filter(|max| *max.get_ref() < limit.min) {
            let (key, span, message) = match &raw.min {
                Some(min) => {
                    ("limit.min", min.span(), format!("`min` is {}, which is more than `max_count`, {}", limit.min, max.get_ref()))
                }
                None => (
                    "limit.max_count",
                    max.span(),
                    format!("`max_count` is {}, and `min` is {} if it is not given", max.get_ref(), limit.min),
                ),
            };
            self.report.wrong(&self.at(key), span, message);
        }
        let caps = raw.max_count.is_some() || raw.max_age.is_some();
        if !caps
            && self.raw.keep.is_none()
            && !self.report.has_problem_below(&self.at("limit"))
            && !self.report.is_touched(&self.at("keep"))
        {
            let help = "give it `max_count` or `max_age`, or write keep_all = true instead";
            self.report.wrong_help(&self.at("limit"), written.span(), "`limit` caps nothing, and there is no `keep`", help);
        }
        limit
    }
}
