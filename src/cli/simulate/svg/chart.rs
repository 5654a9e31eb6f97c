//! The number of snapshots over time, with bytes on the other side: areas of what rules keep, and what only forks keep.

use super::{Anchor, Canvas, FAINT, FORKS, INK, LINE, MARGIN, WIDTH, colour, ink, zone};
use crate::config::show_size;
use crate::policy::simulate::{ModelBytes, Simulation};
use chrono::{DateTime, Datelike as _, NaiveDate, NaiveTime, TimeZone as _, Utc};

const LEFT: f64 = MARGIN + 44.0;
const HEIGHT: f64 = 180.0;
const KEPT: &str = "#3b82f6";
/// More points than pixels would only make the file long.
const MOST_POINTS: usize = 820;
/// Labels of the time axis need so much room, pixels.
const LABEL_ROOM: f64 = 58.0;

/// Where things lie on the chart.
struct Scale<'s> {
    s: &'s Simulation,
    right: f64,
    top: f64,
    most: u64,
}

impl Scale<'_> {
    fn x(&self, at: DateTime<Utc>) -> f64 {
        let all = (self.s.to - self.s.from).num_milliseconds().max(1) as f64;
        LEFT + (self.right - LEFT) * ((at - self.s.from).num_milliseconds() as f64 / all).clamp(0.0, 1.0)
    }

    fn y(&self, n: u64) -> f64 {
        self.top + HEIGHT - HEIGHT * n as f64 / self.most.max(1) as f64
    }
}

/// Draws it below `y`; returns where it ends.
pub(super) fn draw(canvas: &mut Canvas, s: &Simulation, y: f64) -> f64 {
    let right = WIDTH - MARGIN - if s.bytes.is_some() { 72.0 } else { 8.0 };
    let step = step(s.held.max);
    let scale = Scale { s, right, top: y + 30.0, most: s.held.max.div_ceil(step).max(1) * step };
    canvas.label((MARGIN, y + 12.0), Anchor::Start, &ink(INK), "snapshots held");
    if s.bytes.is_some() {
        canvas.label((WIDTH - MARGIN, y + 12.0), Anchor::End, &ink(INK), "bytes");
    }
    grid(canvas, &scale, step);
    areas(canvas, &scale);
    time_axis(canvas, &scale);
    marks(canvas, &scale);
    scale.top + HEIGHT + 20.0
}

/// A round step that makes three to six lines.
fn step(most: u64) -> u64 {
    let mut power = 1_u64;
    loop {
        for step in [1, 2, 5] {
            if most <= step * power * 5 {
                return step * power;
            }
        }
        power = power.saturating_mul(10);
    }
}

fn grid(canvas: &mut Canvas, scale: &Scale<'_>, step: u64) {
    let bytes = scale.s.bytes.as_ref().map(|bytes| ModelBytes { size: bytes.size, exclusive: bytes.exclusive });
    for n in (0..=scale.most / step).map(|line| line * step) {
        let y = scale.y(n);
        canvas.line((LEFT, y), (scale.right, y), LINE, "");
        canvas.label((LEFT - 8.0, y + 4.0), Anchor::End, &ink(FAINT), &n.to_string());
        if let Some(bytes) = bytes {
            canvas.label((scale.right + 8.0, y + 4.0), Anchor::Start, &ink(FAINT), &show_size(bytes.of(n)));
        }
    }
}

fn areas(canvas: &mut Canvas, scale: &Scale<'_>) {
    let days = &scale.s.days;
    let per_point = days.len().div_ceil(MOST_POINTS).max(1);
    // Of several days the fullest, so that no peak is lost.
    let points = days.chunks(per_point).filter_map(|chunk| chunk.iter().max_by_key(|day| day.held));
    let points: Vec<(f64, u64, u64)> = points.map(|day| (scale.x(day.to), day.held, day.held - day.blocked)).collect();
    // The store is empty at the beginning.
    let points: Vec<(f64, u64, u64)> = std::iter::once((LEFT, 0, 0)).chain(points).collect();
    let line = |of: fn(&(f64, u64, u64)) -> u64, backwards: bool| {
        let point = |point: &(f64, u64, u64)| format!("{:.1} {:.1}", point.0, scale.y(of(point)));
        let texts: Vec<String> = if backwards { points.iter().rev().map(point).collect() } else { points.iter().map(point).collect() };
        texts.join("L")
    };
    let mut area = |top: &str, bottom: &str, colour: &str| {
        canvas.push(format_args!("<path d=\"M{top}L{bottom}Z\" fill=\"{colour}\" fill-opacity=\"0.25\"/>"));
        canvas.push(format_args!("<path d=\"M{top}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" stroke-linejoin=\"round\"/>"));
    };
    if scale.s.blocked.max > 0 {
        area(&line(|point| point.1, false), &line(|point| point.2, true), FORKS);
    }
    area(&line(|point| point.2, false), &line(|_| 0, true), KEPT);
}

/// Labels at months or years, as many as there is room for.
fn time_axis(canvas: &mut Canvas, scale: &Scale<'_>) {
    let days = &scale.s.days;
    let room = (scale.right - LEFT) / LABEL_ROOM;
    let months = days.len() as f64 / 30.4;
    let every = [1_u32, 3, 6, 12, 24, 60, 120].into_iter().find(|every| months / f64::from(*every) <= room).unwrap_or(240);
    let day_step = (days.len() as f64 / room).ceil() as usize;
    let is_short = months < 3.0;
    let mut last = f64::MIN;
    for (n, day) in days.iter().enumerate() {
        let month = day.date.year_ce().1 * 12 + day.date.month0();
        let is_labelled = if is_short { n % day_step.max(1) == 0 } else { day.date.day() == 1 && month % every == 0 };
        let Some(at) = midnight(day.date, scale.s).filter(|_| is_labelled) else { continue };
        let x = scale.x(at);
        let bottom = scale.top + HEIGHT;
        canvas.line((x, bottom), (x, bottom + 5.0), FAINT, "");
        if x - last < LABEL_ROOM - 2.0 || x > scale.right - 12.0 {
            continue;
        }
        last = x;
        let format = if is_short {
            "%b %-d"
        } else if every >= 12 || day.date.month() == 1 {
            "%Y"
        } else {
            "%b"
        };
        let weight = if format == "%Y" && every < 12 { "font-weight=\"600\" " } else { "" };
        canvas.label((x, bottom + 20.0), Anchor::Middle, &format!("{weight}fill=\"{FAINT}\""), &day.date.format(format).to_string());
    }
}

fn midnight(date: NaiveDate, s: &Simulation) -> Option<DateTime<Utc>> {
    let time = zone(s).from_local_datetime(&date.and_time(NaiveTime::MIN)).earliest();
    time.map(|time| time.with_timezone(&Utc))
}

/// When rules first kept something alone, and since when the number is steady.
fn marks(canvas: &mut Canvas, scale: &Scale<'_>) {
    for tier in &scale.s.tiers {
        let Some(at) = tier.first_alone_at else { continue };
        let (x, y) = (scale.x(at), scale.top - 3.0);
        let title = super::escape(&format!("{}: first alone {}", tier.rule, super::stamp(at, scale.s)));
        canvas.push(format_args!(
            "<path d=\"M{x:.1} {y:.1}l-5 -9h10z\" fill=\"{}\" stroke=\"#ffffff\" stroke-width=\"0.8\"><title>{title}</title></path>",
            colour(&tier.rule)
        ));
    }
    let Some(x) = scale.s.steady.and_then(|steady| midnight(steady.since, scale.s)).map(|at| scale.x(at)) else { return };
    canvas.line((x, scale.top), (x, scale.top + HEIGHT), INK, "stroke-dasharray=\"3 3\" stroke-opacity=\"0.6\"");
    let (x, anchor) = if x > scale.right - 70.0 { (x - 6.0, Anchor::End) } else { (x + 6.0, Anchor::Start) };
    canvas.label((x, scale.top + HEIGHT - 8.0), anchor, &ink(INK), "steady");
}
