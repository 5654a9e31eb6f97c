//! What a policy keeps.

use super::{SECOND, Table};
use crate::config::raw::{RawKeep, RawLimit, Text};
use crate::config::resolve::{bytes, delta, period};
use crate::policy::{Gone, Granularity, Keep, Limit, Retention, TagRule};
use chrono::TimeDelta;
use chrono_tz::Tz;
use toml::Spanned;

impl Table<'_, '_> {
    pub(super) fn retention(&mut self, timezone: Tz) -> Retention {
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
        let counts = [raw.minutely, raw.hourly, raw.daily, raw.weekly, raw.monthly, raw.quarterly, raw.yearly];
        let before = self.report.problems.len();
        let keep = Keep {
            counting: raw.counting.unwrap_or_default(),
            last: raw.last.unwrap_or(0),
            within: self.period("keep.within", raw.within.as_ref(), SECOND).map(delta),
            buckets: Granularity::ALL.into_iter().zip(counts).filter_map(|(unit, n)| Some((unit, n.filter(|n| *n > 0)?))).collect(),
            within_buckets: self.within_buckets(raw),
            tags: self.keep_tags(raw),
            timezone,
        };
        let broken = self.report.problems.len() > before || self.report.has_problem_below(&self.at("keep"));
        let claims_nothing = Keep { counting: keep.counting, timezone, ..Keep::default() } == keep;
        if claims_nothing && !broken {
            let help = "give it a rule, such as last = 4; or leave the table out and set [policy.limit]";
            self.report.wrong_help(&self.at("keep"), written.span(), "`keep` claims nothing: every snapshot would be removed", help);
        }
        keep
    }

    fn within_buckets(&mut self, raw: &RawKeep) -> Vec<(Granularity, TimeDelta)> {
        let spans = [
            &raw.within_minutely,
            &raw.within_hourly,
            &raw.within_daily,
            &raw.within_weekly,
            &raw.within_monthly,
            &raw.within_quarterly,
            &raw.within_yearly,
        ];
        let units = Granularity::ALL.into_iter().zip(spans);
        let span = |(unit, text): (Granularity, &Option<Text>)| {
            let span = self.period(&format!("keep.{}", unit.within_name()), text.as_ref(), SECOND)?;
            Some((unit, delta(span)))
        };
        units.filter_map(span).collect()
    }

    fn keep_tags(&mut self, raw: &RawKeep) -> Vec<TagRule> {
        let mut rules = Vec::new();
        for (n, text) in raw.tags.iter().flatten().enumerate() {
            let (key, value) = match text.get_ref().split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (text.get_ref().as_str(), None),
            };
            if key.is_empty() {
                let message = format!("\"{}\" names no tag", text.get_ref().escape_debug());
                self.wrong(&format!("keep.tags[{n}]"), text, message, Some("write a tag's key, such as \"release\", or \"key=value\""));
            }
            rules.push(TagRule { key: key.to_owned(), value });
        }
        rules
    }

    fn limit(&mut self, written: Option<&Spanned<RawLimit>>) -> Limit {
        let Some(written) = written else { return Limit { min: 1, ..Limit::default() } };
        let raw = written.get_ref();
        let limit = Limit {
            max_count: raw.max_count.as_ref().map(|n| *n.get_ref()),
            max_age: self.period("limit.max_age", raw.max_age.as_ref(), SECOND).map(delta),
            max_bytes: bytes(&self.at("limit.max_bytes"), raw.max_bytes.as_ref(), self.report),
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
        let caps = raw.max_count.is_some() || raw.max_age.is_some() || raw.max_bytes.is_some();
        if !caps
            && self.raw.keep.is_none()
            && !self.report.has_problem_below(&self.at("limit"))
            && !self.report.is_touched(&self.at("keep"))
        {
            let help = "give it `max_count`, `max_age` or `max_bytes`, or write keep_all = true instead";
            self.report.wrong_help(&self.at("limit"), written.span(), "`limit` caps nothing, and there is no `keep`", help);
        }
        limit
    }
}
