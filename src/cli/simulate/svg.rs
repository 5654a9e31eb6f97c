//! Simulations as one standalone SVG: for each a headline, a chart over time, a line for each rule, a calendar.

mod calendar;
mod chart;

use crate::cli::canvas::{Anchor, Canvas, escape};
use crate::config::show_size;
use crate::policy::simulate::{Simulation, rank};
use chrono::{DateTime, NaiveTime, Utc};
use chrono_tz::Tz;

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 32.0;
/// Between the parts of one simulation, and twice that between two.
const GAP: f64 = 28.0;
/// Characters that fit between the margins, whatever the font.
const LONGEST_LINE: usize = 100;
/// A longer name leaves no room beside it.
const LONGEST_NAME: usize = 32;
const INK: &str = "#1f2430";
const FAINT: &str = "#5f6673";
const LINE: &str = "#d9dde3";
const EMPTY: &str = "#eceff3";
const FORKS: &str = "#dc2626";

/// The drawing.
pub(super) fn draw(all: &[Simulation]) -> String {
    let mut canvas = Canvas::default();
    let mut y = MARGIN;
    for (n, simulation) in all.iter().enumerate() {
        if n > 0 {
            y += GAP;
            canvas.line((MARGIN, y), (WIDTH - MARGIN, y), LINE, "");
            y += GAP;
        }
        y = headline(&mut canvas, simulation, y);
        y = chart::draw(&mut canvas, simulation, y + 12.0) + GAP;
        y = rules(&mut canvas, simulation, y) + GAP;
        y = calendar::draw(&mut canvas, simulation, y);
    }
    let height = y + MARGIN - 8.0;
    canvas.document("snapkeep simulate", WIDTH, height)
}

fn ink(colour: &str) -> String {
    format!("fill=\"{colour}\"")
}

fn zone(s: &Simulation) -> Tz {
    s.timezone.parse().unwrap_or(Tz::UTC)
}

fn stamp(at: DateTime<Utc>, s: &Simulation) -> String {
    let local = at.with_timezone(&zone(s));
    local.format(if local.time() == NaiveTime::MIN { "%Y-%m-%d" } else { "%Y-%m-%d %H:%M" }).to_string()
}

/// The colour of a rule: the coarser, the warmer, and the darkest at the end.
fn colour(rule: &str) -> &'static str {
    match rank(rule) {
        0..=1 => "#9aa3b2",
        2 => "#3b82f6",
        3 => "#64748b",
        4..=9 => "#8c9bb0",
        10..=11 => "#67c7d8",
        12..=13 => "#2f8fe0",
        14..=15 => "#2ea05f",
        16..=17 => "#e0a100",
        18..=19 => "#d9541e",
        20..=21 => "#b0309a",
        22..=99 => "#4c1d95",
        _ => "#0f766e",
    }
}

/// The coarsest of them.
fn coarsest(rules: &[String]) -> Option<&String> {
    rules.iter().max_by_key(|rule| rank(rule))
}

/// Name, span and figures; returns where it ends.
fn headline(canvas: &mut Canvas, s: &Simulation, y: f64) -> f64 {
    canvas.label((MARGIN, y + 18.0), Anchor::Start, "font-size=\"22\" font-weight=\"600\" fill=\"#1f2430\"", s.policy.as_str());
    let span = format!("{} to {}, {}", stamp(s.from, s), stamp(s.to, s), s.timezone);
    let mut figures = Vec::new();
    if s.policy.as_str().len() > LONGEST_NAME {
        figures.push(span);
    } else {
        canvas.label((WIDTH - MARGIN, y + 17.0), Anchor::End, &ink(FAINT), &span);
    }
    figures.extend([
        format!("{} taken", s.taken),
        format!("{} held at the end", s.held.end),
        format!("at most {}", s.held.max),
        format!("median {}", s.held.median),
    ]);
    if let Some(bytes) = &s.bytes {
        figures.push(format!("at most {}", show_size(bytes.max)));
    }
    if s.missed > 0 {
        figures.push(format!("{} slots missed", s.missed));
    }
    if let Some(forks) = &s.forks {
        figures.push(format!("{} forks", forks.made));
        figures.push(format!("at most {} kept by forks only", s.blocked.max));
    }
    let mut y = y + 23.0;
    for line in lines(figures) {
        y += 19.0;
        canvas.label((MARGIN, y), Anchor::Start, &ink(FAINT), &line);
    }
    y + 4.0
}

/// Joined, in as many lines as they need.
fn lines(parts: Vec<String>) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line) if line.chars().count() + part.chars().count() < LONGEST_LINE => *line = format!("{line} · {part}"),
            _ => lines.push(part),
        }
    }
    lines
}

/// A line for each rule: the legend of both pictures.
fn rules(canvas: &mut Canvas, s: &Simulation, mut y: f64) -> f64 {
    let columns = [MARGIN + 22.0, 220.0, 290.0, 320.0, 540.0];
    let heads = ["rule", "keeps", "alone", "oldest", "first kept something alone"];
    let row = |canvas: &mut Canvas, y: f64, style: &str, texts: [&str; 5]| {
        for (n, (x, text)) in columns.iter().zip(texts).enumerate() {
            canvas.label((*x, y), if n == 1 || n == 2 { Anchor::End } else { Anchor::Start }, style, text);
        }
    };
    row(canvas, y, &ink(FAINT), heads);
    canvas.push(format_args!("<path d=\"M{:.1} {:.1}l-5 -9h10z\" fill=\"{FAINT}\"/>", 530.0, y));
    for tier in &s.tiers {
        y += 21.0;
        canvas.square((MARGIN, y - 11.0), 13.0, &ink(colour(&tier.rule)), None);
        let oldest = tier.oldest_at.map_or_else(|| "-".to_owned(), |at| stamp(at, s));
        let first = tier.first_alone_at.map_or_else(|| "never: other rules keep the same".to_owned(), |at| stamp(at, s));
        row(canvas, y, &ink(INK), [&tier.rule, &tier.keeps.to_string(), &tier.alone.to_string(), &oldest, &first]);
    }
    if s.forks.is_some() {
        y += 21.0;
        canvas.square((MARGIN + 1.0, y - 10.0), 11.0, &format!("fill=\"{EMPTY}\" stroke=\"{FORKS}\" stroke-width=\"2\""), None);
        row(canvas, y, &ink(INK), ["forks only", &s.blocked.end.to_string(), "", "", ""]);
    }
    y
}

#[cfg(test)]
mod tests;
