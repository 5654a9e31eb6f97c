//! The calendar: a row of weeks for each year, a square for each day, in the colour of the coarsest rule that keeps one of the
//! day's snapshots at the end, the stronger the more there are.

use super::{Anchor, Canvas, EMPTY, FAINT, FORKS, INK, MARGIN, coarsest, colour, ink, zone};
use crate::policy::Verdict;
use crate::policy::simulate::{Held, Simulation, rank};
use chrono::{Datelike as _, NaiveDate};
use std::collections::BTreeMap;

const LEFT: f64 = MARGIN + 62.0;
const SIDE: f64 = 12.0;
const PITCH: f64 = 15.0;
/// Years before these have a line of words.
const MOST_YEARS: i32 = 12;
const YEAR: &str = "font-size=\"15\" font-weight=\"600\" fill=\"#1f2430\"";
/// How strong the colour of a day is with up to so many snapshots.
const STRENGTHS: [(usize, &str); 4] = [(1, "0.62"), (4, "0.76"), (12, "0.88"), (usize::MAX, "1")];

/// What is held of one day.
#[derive(Default)]
struct Cell<'s> {
    snapshots: usize,
    blocked: usize,
    rules: Vec<&'s str>,
}

/// Draws it below `y`; returns where it ends.
pub(super) fn draw(canvas: &mut Canvas, s: &Simulation, y: f64) -> f64 {
    let mut cells: BTreeMap<NaiveDate, Cell<'_>> = BTreeMap::new();
    for held in &s.snapshots {
        cells.entry(held.created_at.with_timezone(&zone(s)).date_naive()).or_default().add(held);
    }
    let date = |day: Option<&crate::policy::simulate::Day>| day.map(|day| day.date);
    let (Some(first), Some(last)) = (date(s.days.first()), date(s.days.last())) else { return y };
    let mut y = head(canvas, y);
    for stretch in stretches(first.year(), last.year(), &cells) {
        y = match stretch {
            Stretch::Year(year) => draw_year(canvas, year, (first, last), &cells, y),
            Stretch::Years(from, to, held) => draw_words(canvas, (from, to), held, y),
        } + 14.0;
    }
    y
}

/// What gets a row of its own, and what a line of words: years of which nothing is held, or that are long past.
#[derive(Debug, PartialEq, Eq)]
enum Stretch {
    Year(i32),
    /// From the one to the other, with what is held of them.
    Years(i32, i32, usize),
}

fn stretches(first: i32, last: i32, cells: &BTreeMap<NaiveDate, Cell<'_>>) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    for year in first..=last {
        let held: usize = cells.iter().filter(|(date, _)| date.year() == year).map(|(_, cell)| cell.snapshots).sum();
        if held > 0 && last - year < MOST_YEARS {
            stretches.push(Stretch::Year(year));
            continue;
        }
        match stretches.last_mut() {
            Some(Stretch::Years(_, to, before)) => (*to, *before) = (year, *before + held),
            _ => stretches.push(Stretch::Years(year, year, held)),
        }
    }
    stretches
}

fn draw_words(canvas: &mut Canvas, (from, to): (i32, i32), held: usize, y: f64) -> f64 {
    let years = if from == to { from.to_string() } else { format!("{from} to {to}") };
    canvas.label((MARGIN, y + 16.0), Anchor::Start, YEAR, &years);
    let words = match held {
        0 => "nothing is held".to_owned(),
        1 => "1 snapshot".to_owned(),
        n => format!("{n} snapshots"),
    };
    let x = if from == to { LEFT } else { LEFT + 70.0 };
    canvas.label((x, y + 16.0), Anchor::Start, &ink(FAINT), &words);
    y + 18.0
}

impl<'s> Cell<'s> {
    fn add(&mut self, held: &'s Held) {
        self.snapshots += 1;
        self.blocked += usize::from(held.verdict == Verdict::Blocked);
        for rule in coarsest(&held.rules).into_iter().filter(|rule| !self.rules.contains(&rule.as_str())).collect::<Vec<_>>() {
            self.rules.push(rule);
        }
        self.rules.sort_by_key(|rule| std::cmp::Reverse(rank(rule)));
    }

    fn style(&self) -> String {
        let ring = if self.blocked > 0 { format!(" stroke=\"{FORKS}\" stroke-width=\"2\"") } else { String::new() };
        let Some(rule) = self.rules.first() else { return format!("fill=\"{EMPTY}\"{ring}") };
        let strength = STRENGTHS.iter().find(|(most, _)| self.snapshots <= *most).map_or("1", |(_, strength)| strength);
        format!("fill=\"{}\" fill-opacity=\"{strength}\"{ring}", colour(rule))
    }

    fn title(&self, date: NaiveDate) -> String {
        let forks = if self.blocked > 0 { format!(", {} kept by forks only", self.blocked) } else { String::new() };
        let rules = if self.rules.is_empty() { String::new() } else { format!(" ({})", self.rules.join(", ")) };
        format!("{date}: {}{rules}{forks}", self.snapshots)
    }
}

/// What the calendar shows, and how strong colours are to be read.
fn head(canvas: &mut Canvas, y: f64) -> f64 {
    canvas.label(
        (MARGIN, y + 12.0),
        Anchor::Start,
        &ink(INK),
        "what is held at the end, by the day it was taken; the colour is the coarsest rule’s",
    );
    let strengths = STRENGTHS.iter().zip([("1", 46.0), ("2–4", 58.0), ("5–12", 66.0), ("more", 54.0)]);
    let mut x = super::WIDTH - MARGIN - strengths.clone().map(|(_, (_, width))| width).sum::<f64>();
    for ((_, strength), (words, width)) in strengths {
        canvas.square((x, y + 1.0), SIDE, &format!("fill=\"{INK}\" fill-opacity=\"{strength}\""), None);
        canvas.label((x + SIDE + 5.0, y + 12.0), Anchor::Start, &ink(FAINT), words);
        x += width;
    }
    y + 28.0
}

/// The column of a day in its year's weeks, which begin on Mondays.
fn column(date: NaiveDate) -> u32 {
    let first = date.with_ordinal(1).map_or(0, |first| first.weekday().num_days_from_monday());
    (date.ordinal0() + first) / 7
}

fn place(date: NaiveDate, top: f64) -> (f64, f64) {
    (LEFT + PITCH * f64::from(column(date)), top + PITCH * f64::from(date.weekday().num_days_from_monday()))
}

fn draw_year(canvas: &mut Canvas, year: i32, (first, last): (NaiveDate, NaiveDate), cells: &BTreeMap<NaiveDate, Cell<'_>>, y: f64) -> f64 {
    let top = y + 18.0;
    canvas.label((MARGIN, top + 11.0), Anchor::Start, YEAR, &year.to_string());
    for (row, name) in [(2.0, "Wed"), (4.0, "Fri")] {
        canvas.label((LEFT - 8.0, top + PITCH * row + 10.5), Anchor::End, &format!("font-size=\"11\" fill=\"{FAINT}\""), name);
    }
    let days =
        || NaiveDate::from_ymd_opt(year, 1, 1).into_iter().flat_map(|first| first.iter_days()).take_while(|date| date.year() == year);
    for month in days().filter(|date| date.day() == 1) {
        // Over the first week that is all the month's.
        let column = column(month) + u32::from(month.weekday().num_days_from_monday() > 0);
        canvas.label((LEFT + PITCH * f64::from(column), y + 12.0), Anchor::Start, &ink(FAINT), &month.format("%b").to_string());
    }
    let mut empty = String::new();
    for date in days().filter(|date| (first..=last).contains(date)) {
        let (x, y) = place(date, top);
        match cells.get(&date) {
            Some(cell) if cell.blocked > 0 => {
                // A ring lies inside, so that it does not touch its neighbours.
                canvas.square((x + 1.0, y + 1.0), SIDE - 2.0, &cell.style(), Some(&cell.title(date)));
            }
            Some(cell) => canvas.square((x, y), SIDE, &cell.style(), Some(&cell.title(date))),
            None => empty.push_str(&format!("M{x} {y}h{SIDE}v{SIDE}h-{SIDE}z")),
        }
    }
    canvas.push(format_args!("<path d=\"{empty}\" fill=\"{EMPTY}\"/>"));
    top + 7.0 * PITCH
}
