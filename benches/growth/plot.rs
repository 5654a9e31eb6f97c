//! The figures over the number of snapshots, each in a chart of its own with both axes logarithmic: a straight line is a power
//! of the number, and its slope the exponent.

use snapkeep::cli::canvas::{Anchor, Canvas};
use std::collections::BTreeMap;

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 28.0;
const PANEL: (f64, f64) = ((WIDTH - 2.0 * MARGIN) / 3.0, 236.0);
const INK: &str = "fill=\"#1f2430\"";
const FAINT: &str = "fill=\"#5f6673\"";
const GRID: &str = "#d9dde3";
/// By file system; they differ in darkness too.
const COLOURS: [&str; 3] = ["#d9541e", "#2f6fe0", "#0f766e"];

/// One figure: its unit, and for each file system its values by size.
pub type Figure = (&'static str, &'static str, BTreeMap<String, Vec<(usize, f64)>>);

/// The slope between two points with both axes logarithmic.
pub fn exponent(from: (usize, f64), to: (usize, f64)) -> f64 {
    (to.1 / from.1).ln() / (to.0 as f64 / from.0 as f64).ln()
}

pub fn draw(figures: &[Figure]) -> String {
    let mut canvas = Canvas::default();
    canvas.label((MARGIN, 40.0), Anchor::Start, "font-size=\"20\" font-weight=\"600\" fill=\"#1f2430\"", "Growth with what is stored");
    let about = "over the number of snapshots (and as many forks), both axes logarithmic; n^k: the exponent between the last two sizes";
    canvas.label((MARGIN, 62.0), Anchor::Start, FAINT, about);
    let rows = figures.len().div_ceil(3);
    for (at, figure) in figures.iter().enumerate() {
        let corner = (MARGIN + (at % 3) as f64 * PANEL.0, 84.0 + (at / 3) as f64 * PANEL.1);
        panel(&mut canvas, figure, corner);
    }
    canvas.document("snapkeep: growth", WIDTH, 84.0 + rows as f64 * PANEL.1 + 8.0)
}

fn panel(canvas: &mut Canvas, (what, unit, kinds): &Figure, (x, y): (f64, f64)) {
    let (left, right, top, bottom) = (x + 46.0, x + PANEL.0 - 74.0, y + 30.0, y + PANEL.1 - 44.0);
    canvas.label((x, y + 14.0), Anchor::Start, &format!("font-weight=\"600\" {INK}"), &format!("{what}, {unit}"));
    let all = || kinds.values().flatten();
    let decade = |n: f64| n.log10();
    let (low, high) = all().fold((f64::MAX, f64::MIN), |(low, high), (_, v)| (low.min(decade(*v)), high.max(decade(*v))));
    // Two decades at least: what is flat is to look flat.
    let (low, high) = (low.floor(), high.ceil().max(low.floor() + 2.0));
    let (first, last) = all().fold((f64::MAX, f64::MIN), |(a, b), (n, _)| (a.min(decade(*n as f64)), b.max(decade(*n as f64))));
    let px = |n: usize| left + (right - left) * (decade(n as f64) - first) / (last - first).max(1.0);
    let py = |v: f64| bottom - (bottom - top) * (decade(v) - low) / (high - low);
    for power in low as i32..=high as i32 {
        let at = py(10_f64.powi(power));
        canvas.line((left, at), (right, at), GRID, "");
        canvas.label((left - 6.0, at + 4.0), Anchor::End, FAINT, &number(10_f64.powi(power)));
    }
    for power in first.round() as u32..=last.round() as u32 {
        let n = 10_usize.pow(power);
        canvas.line((px(n), bottom), (px(n), bottom + 4.0), "#5f6673", "");
        canvas.label((px(n), bottom + 19.0), Anchor::Middle, FAINT, &number(n as f64));
    }
    // Labels at the right end, none over another.
    let mut ends: Vec<(f64, String, &str)> = Vec::new();
    for ((kind, points), colour) in kinds.iter().zip(COLOURS) {
        let way: Vec<String> = points.iter().map(|(n, v)| format!("{:.1} {:.1}", px(*n), py(*v))).collect();
        canvas.push(format_args!("<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>", way.join("L")));
        for (n, v) in points {
            let title = format!("{kind}: {} at {}", number(*v), number(*n as f64));
            canvas.push(format_args!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{colour}\"><title>{title}</title></circle>",
                px(*n),
                py(*v)
            ));
        }
        if let [.., before, end] = points[..] {
            ends.push((py(end.1) + 4.0, format!("{kind} n^{:.2}", exponent(before, end)), colour));
        }
    }
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = f64::MIN;
    for (y, text, colour) in ends {
        let y = y.max(free);
        canvas.label((right + 8.0, y), Anchor::Start, &format!("fill=\"{colour}\" font-size=\"12\""), &text);
        free = y + 14.0;
    }
}

/// With three digits at most.
fn number(n: f64) -> String {
    let (scaled, unit) = if n >= 1e6 {
        (n / 1e6, "M")
    } else if n >= 1e3 {
        (n / 1e3, "k")
    } else {
        (n, "")
    };
    let digits = if scaled >= 100.0 {
        0
    } else if scaled >= 10.0 {
        1
    } else {
        3
    };
    let text = format!("{scaled:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}
