//! When a policy's snapshots are due.

use super::{SECOND, Table};
use crate::config::cron;
use crate::config::raw::{OneOrMany, each};
use crate::config::resolve::delta;
use crate::config::shape::nearest;
use crate::config::units::show_duration;
use crate::policy::{Missed, OnEnable, Retry, Rhythm, Schedule, Window};
use chrono_tz::Tz;
use std::time::Duration;
use toml::Spanned;

impl Table<'_, '_> {
    pub(super) fn timezone(&mut self) -> Tz {
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

    pub(super) fn schedule(&mut self, timezone: Tz) -> Option<Schedule> {
        let raw = self.raw;
        let jitter = self.period("jitter", raw.jitter.as_ref(), Duration::ZERO).unwrap_or_default();
        let missed_within = self.period("missed_within", raw.missed_within.as_ref(), Duration::ZERO).map(delta);
        let window = self.window();
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
        let schedule = Schedule {
            window,
            missed: raw.missed.unwrap_or(Missed::Run),
            missed_within,
            on_enable: raw.on_enable.unwrap_or(OnEnable::Wait),
            jitter: delta(jitter),
            max_running: raw.max_running.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            ..Schedule::new(rhythm, timezone)
        };
        if schedule.missed == Missed::Skip && raw.missed_within.is_some() {
            self.warn("has `missed_within`, which does nothing with missed = \"skip\": no slot is caught up");
        }
        if let Some(written) = raw.window.as_ref().filter(|_| schedule.slot_after(cron::reference()).is_none()) {
            let help = "write hours in which there are slots, or slots that are within these hours";
            self.report.wrong_help(&self.at("window"), written.span(), "no slot is within `window`", help);
        }
        let gap = if jitter.is_zero() { None } else { schedule.shortest_slot() };
        if let (Some(gap), Some(text)) =
            (gap.and_then(|gap| gap.to_std().ok()).filter(|gap| *gap <= jitter && !jitter.is_zero()), &raw.jitter)
        {
            let (jitter, gap) = (show_duration(jitter), show_duration(gap));
            let message = format!("`jitter` is {jitter}, and slots are only {gap} apart: no more than half of that is used");
            self.report.warn(text.span().start, message);
        }
        Some(schedule)
    }

    /// A policy that only prunes is allowed, but is not what somebody wants who forgot a line.
    fn without_schedule(&mut self) {
        self.warn("has neither `schedule` nor `every`: it takes no snapshots and only prunes those that it took before");
        let raw = self.raw;
        let idle = [
            ("jitter", raw.jitter.is_some()),
            ("missed", raw.missed.is_some()),
            ("missed_within", raw.missed_within.is_some()),
            ("window", raw.window.is_some()),
            ("on_enable", raw.on_enable.is_some()),
            ("max_running", raw.max_running.is_some()),
            ("retry", raw.retry.is_some()),
        ];
        for (key, _) in idle.iter().filter(|(_, written)| *written) {
            self.warn(&format!("has `{key}`, which does nothing without `schedule` or `every`"));
        }
    }

    fn cron(&mut self, written: &Spanned<OneOrMany>) -> Option<Rhythm> {
        let all = each(written);
        let mut found = Vec::new();
        for (place, text) in &all {
            match cron::parse(text.get_ref()) {
                Ok(times) => found.push(times),
                Err(problem) => self.wrong(&format!("schedule{place}"), text, problem.message, problem.help.as_deref()),
            }
        }
        if all.is_empty() {
            let help = "leave it out for a policy that only prunes";
            self.report.wrong_help(&self.at("schedule"), written.span(), "`schedule` is empty: there would be no slots", help);
        }
        (!found.is_empty() && found.len() == all.len()).then(|| Rhythm::Cron(found.into()))
    }

    fn window(&mut self) -> Window {
        let Some(written) = self.raw.window.as_ref() else { return Window::default() };
        let all = each(written);
        if all.is_empty() {
            let help = "leave it out for any hour";
            self.report.wrong_help(&self.at("window"), written.span(), "`window` is empty: nothing could ever run", help);
        }
        for (place, text) in &all {
            if let Err(error) = Window::parse([text.get_ref().as_str()]) {
                self.wrong(&format!("window{place}"), text, format!("`window`: {error}"), None);
            }
        }
        Window::parse(all.iter().map(|(_, text)| text.get_ref().as_str())).unwrap_or_default()
    }

    pub(super) fn retry(&mut self) -> Retry {
        let raw = self.raw.retry.as_ref();
        let backoff = self.period("retry.backoff", raw.and_then(|retry| retry.backoff.as_ref()), Duration::ZERO);
        Retry { attempts: raw.and_then(|retry| retry.attempts).unwrap_or(1), backoff: delta(backoff.unwrap_or(60 * SECOND)) }
    }
}
