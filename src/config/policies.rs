//! `[[policy]]`: which instances, when, and what to keep.

use super::cron::parse_cron;
use super::keys;
use super::walk::Section;
use crate::ids::PolicyName;
use crate::policy::{Gone, Granularity, Keep, KindRule, Limit, Missed, Policy, Retention, Retry, Rhythm, Schedule, Select};
use chrono::TimeDelta;
use globset::{Glob, GlobSet, GlobSetBuilder};

/// One policy; `before` are those that came earlier, whose names are taken.
pub(super) fn policy(section: &Section<'_>, before: &[Policy]) -> Option<Policy> {
    let timezone = section.read::<chrono_tz::Tz>("timezone").unwrap_or_default();
    let select = select(section);
    let schedule = schedule(section, timezone);
    let retention = retention(section, timezone);
    let retry = retry(section);
    let kind = section.choice("kind", &[("auto", KindRule::Auto), ("stopped", KindRule::Stopped), ("standby", KindRule::Standby)]);
    let tags = section.string_map("tags").unwrap_or_default();
    let name_prefix = section.string("name_prefix");
    let name = name(section, before)?;
    Some(Policy { name, select: select?, schedule, retention, name_prefix, tags, retry, kind: kind.unwrap_or(KindRule::Auto) })
}

fn name(section: &Section<'_>, before: &[Policy]) -> Option<PolicyName> {
    if !section.has("name") {
        section.report_key("name", "a policy needs a `name`", None);
    }
    let name = section.read::<PolicyName>("name")?;
    if before.iter().any(|p| p.name == name) {
        section.report_key("name", format!("there is a policy {name} already"), Some("names are unique over all files".to_owned()));
        return None;
    }
    Some(name)
}

fn select(section: &Section<'_>) -> Option<Select> {
    if !section.has("instances") {
        section.report_key("instances", "a policy needs `instances`: a list of globs", None);
    }
    let include_forks = section.boolean("include_forks").unwrap_or(false);
    let globs = section.strings("instances")?;
    if globs.is_empty() {
        section.report_key("instances", "`instances` is empty: the policy would never do anything", None);
    }
    let build = || -> Result<GlobSet, globset::Error> {
        let mut set = GlobSetBuilder::new();
        for glob in &globs {
            set.add(Glob::new(glob)?);
        }
        set.build()
    };
    match build() {
        Ok(instances) => Some(Select { instances, include_forks }),
        Err(e) => {
            section.report_key("instances", format!("`instances`: {e}"), None);
            None
        }
    }
}

fn schedule(section: &Section<'_>, timezone: chrono_tz::Tz) -> Option<Schedule> {
    let jitter = section.delta("jitter").unwrap_or_default();
    let missed = section.choice("missed", &[("run", Missed::Run), ("skip", Missed::Skip)]).unwrap_or(Missed::Run);
    if section.has("schedule") && section.has("every") {
        section.report_key("every", "give `schedule` or `every`, not both", None);
    }
    let cron = section.parsed("schedule", parse_cron).map(|cron| Rhythm::Cron(Box::new(cron)));
    let every = section.delta("every");
    if every.is_some_and(|every| every < TimeDelta::seconds(1)) {
        section.report_key("every", "`every` must be at least 1s", None);
    }
    let rhythm = cron.or(every.map(Rhythm::Every))?;
    Some(Schedule { rhythm, timezone, jitter, missed })
}

fn retry(section: &Section<'_>) -> Retry {
    let retry = section.section("retry", keys::RETRY);
    Retry { attempts: retry.number("attempts", 1).unwrap_or(1), backoff: retry.delta("backoff").unwrap_or(TimeDelta::minutes(1)) }
}

fn retention(section: &Section<'_>, timezone: chrono_tz::Tz) -> Retention {
    let keep_all = section.boolean("keep_all").unwrap_or(false);
    let rules = section.has("keep") || section.has("limit");
    if keep_all && rules {
        section.report_key("keep_all", "`keep_all = true` contradicts `keep` and `limit`", None);
    }
    if !keep_all && !rules {
        let help = "add [policy.keep] or [policy.limit] below it, or keep_all = true if nothing is ever to go".to_owned();
        section.report_key("name", "the policy does not say what to keep", Some(help));
    }
    Retention { keep: section.has("keep").then(|| keep(section, timezone)), limit: limit(section), gone: gone(section) }
}

fn keep(section: &Section<'_>, timezone: chrono_tz::Tz) -> Keep {
    let keep = section.section("keep", keys::KEEP);
    keep.parsed("counting", |text| match text {
        "each" => Ok(()),
        "cascade" => Err("`counting = \"cascade\"` is not built yet; leave it out, or write \"each\"".to_owned()),
        other => Err(format!("`counting` must be \"each\", not {other:?}")),
    });
    let units = [
        ("minutely", Granularity::Minutely),
        ("hourly", Granularity::Hourly),
        ("daily", Granularity::Daily),
        ("weekly", Granularity::Weekly),
        ("monthly", Granularity::Monthly),
        ("quarterly", Granularity::Quarterly),
        ("yearly", Granularity::Yearly),
    ];
    let buckets: Vec<_> = units.iter().filter_map(|(key, unit)| Some((*unit, keep.number(key, 0)?))).collect();
    let (last, within) = (keep.number("last", 0), keep.delta("within"));
    // A rule that could not be read has been reported; it is not the lack of one.
    let unread = (keep.has("last") && last.is_none()) || (keep.has("within") && within.is_none());
    let rules = Keep { last: last.unwrap_or(0), within, buckets, timezone };
    if !unread && rules.last == 0 && rules.within.is_none() && rules.buckets.iter().all(|(_, n)| *n == 0) {
        let help = "give it a rule, for example last = 4, or leave [policy.keep] out".to_owned();
        keep.report(keep.span.clone(), "[policy.keep] has no rule that keeps anything", Some(help));
    }
    rules
}

fn limit(section: &Section<'_>) -> Limit {
    let limit = section.section("limit", keys::LIMIT);
    let limits =
        Limit { max_count: limit.number("max_count", 1), max_age: limit.delta("max_age"), min: limit.number("min", 0).unwrap_or(1) };
    if limits.max_count.is_some_and(|max| max < limits.min) {
        limit.report_key("min", "`min` is more than `max_count`", None);
    }
    limits
}

fn gone(section: &Section<'_>) -> Option<Gone> {
    if !section.has("gone") {
        return None;
    }
    let gone = section.section("gone", keys::GONE);
    if !gone.has("after") {
        gone.report_key("after", "[policy.gone] needs `after`: how long after the instance is gone", None);
    }
    Some(Gone { after: gone.delta("after")?, min: gone.number("min", 0).unwrap_or(0) })
}

/// What is odd but not wrong.
pub(super) fn warnings(policies: &[Policy]) -> Vec<String> {
    let mut warnings = Vec::new();
    if policies.is_empty() {
        warnings.push("there is no [[policy]]: nothing is snapshotted by schedule, and nothing is pruned".to_owned());
    }
    for policy in policies {
        match &policy.schedule {
            None => warnings.push(format!("policy {} has neither `schedule` nor `every`: it only prunes", policy.name)),
            Some(Schedule { rhythm: Rhythm::Every(every), jitter, .. }) if jitter > every => {
                warnings.push(format!("policy {}: `jitter` is longer than `every`; it is cut to half of it", policy.name));
            }
            Some(_) => {}
        }
    }
    warnings
}
