//! When a policy's snapshots are due.

use super::{SECOND, Table};
use crate::config::cron;
use crate::config::raw::Text;
use crate::config::resolve::delta;
use crate::config::shape::nearest;
use crate::config::units::show_duration;
use crate::policy::{Missed, Retry, Rhythm, Schedule};
use chrono_tz::Tz;
use std::time::Duration;

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

    pub(super) fn retry(&mut self) -> Retry {
        let raw = self.raw.retry.as_ref();
        let backoff = self.period("retry.backoff", raw.and_then(|retry| retry.backoff.as_ref()), Duration::ZERO);
        Retry { attempts: raw.and_then(|retry| retry.attempts).unwrap_or(1), backoff: delta(backoff.unwrap_or(60 * SECOND)) }
    }
}
