//! The drawing is well-formed, stays on its page, and its labels do not lie on each other.

use super::*;
use crate::ids::{InstanceId, PolicyName};
use crate::policy::simulate::{Model, ModelBytes, ModelForks, simulate};
use crate::policy::{Granularity, Keep, Limit, Policy, Retention, Rhythm, Schedule};
use chrono::TimeDelta;

fn policy() -> Policy {
    use Granularity::{Daily, Hourly, Minutely, Monthly, Quarterly, Weekly, Yearly};
    let buckets = vec![(Minutely, 5), (Hourly, 24), (Daily, 7), (Weekly, 5), (Monthly, 12), (Quarterly, 6), (Yearly, 10)];
    let keep = Keep { last: 3, within: Some(TimeDelta::hours(30)), buckets, ..Keep::default() };
    Policy::new(
        PolicyName::parse("a-policy-whose-name-is-as-long-as-people-sometimes-have-it").unwrap(),
        Retention { keep: Some(keep), limit: Limit { min: 1, ..Limit::default() }, gone: None },
    )
}

fn simulated(from: &str, days: i64, every_hours: i64, size: Option<u64>, forks: bool) -> Simulation {
    let rhythm = Rhythm::Every(TimeDelta::hours(every_hours));
    let schedule = Schedule::new(rhythm, Tz::Europe__Vienna);
    let from: DateTime<Utc> = from.parse().unwrap();
    let model = Model {
        instance: InstanceId::parse("web").unwrap(),
        from,
        to: from + TimeDelta::days(days),
        bytes: size.map(|size| ModelBytes { size, exclusive: size / 10 }),
        forks: forks.then_some(ModelForks { per_day_thousandths: 3000, life: TimeDelta::days(4) }),
        missed_per_million: 20_000,
        seed: 4,
        every_slot: false,
    };
    simulate(&policy(), &schedule, &model, &mut |_| {})
}

fn all() -> Vec<Simulation> {
    vec![
        simulated("2026-03-29T05:00:00Z", 1, 1, None, false),
        simulated("2026-12-20T00:00:00Z", 20, 2, Some(900 << 30), true),
        simulated("2026-07-01T00:00:00Z", 100, 6, Some(1), true),
        simulated("2026-01-01T00:00:00Z", 400, 6, Some(3 << 40), true),
        simulated("2026-11-11T11:11:11Z", 365 * 3, 12, None, true),
        simulated("2028-02-29T00:00:00Z", 365 * 7, 24, Some(77 << 20), false),
        simulated("2026-01-01T00:00:00Z", 365 * 30, 24 * 3, None, false),
    ]
}

/// The value of an attribute.
fn attribute<'t>(element: &'t str, name: &str) -> Option<&'t str> {
    element.split_once(&format!(" {name}=\""))?.1.split_once('"').map(|(value, _)| value)
}

/// Elements and texts of a drawing: every tag is closed by its own, every attribute quoted.
fn elements(svg: &str) -> Vec<(String, String)> {
    let mut open: Vec<String> = Vec::new();
    let mut found = Vec::new();
    let mut rest = svg.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n").unwrap();
    while let Some((text, tag)) = rest.split_once('<') {
        assert!(!text.contains('>'), "{text}");
        let (tag, after) = tag.split_once('>').unwrap();
        let (inner, _) = after.split_once('<').unwrap_or((after, ""));
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
            continue;
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        let name = tag.split([' ', '/']).next().unwrap();
        if !tag.ends_with('/') {
            open.push(name.to_owned());
        }
        found.push((tag.to_owned(), inner.to_owned()));
    }
    assert!(open.is_empty(), "{open:?}");
    found
}

/// Where a text is, roughly: left, right, top, bottom.
fn extent(tag: &str, text: &str) -> (f64, f64, f64, f64) {
    let number = |name: &str| attribute(tag, name).and_then(|n| n.parse::<f64>().ok());
    let (x, y, size) = (number("x").unwrap(), number("y").unwrap(), number("font-size").unwrap_or(13.0));
    let width = text.chars().count() as f64 * size * 0.56;
    let left = match attribute(tag, "text-anchor") {
        Some("end") => x - width,
        Some("middle") => x - width / 2.0,
        _ => x,
    };
    (left, left + width, y - size * 0.75, y + size * 0.2)
}

#[test]
fn labels_stay_on_the_page_and_off_each_other() {
    for simulation in all() {
        let svg = draw(std::slice::from_ref(&simulation));
        let elements = elements(&svg);
        let height: f64 = attribute(&elements[0].0, "height").unwrap().parse().unwrap();
        let texts: Vec<_> =
            elements.iter().filter(|(tag, _)| tag.starts_with("text ")).map(|(tag, text)| (extent(tag, text), text)).collect();
        for (n, ((left, right, top, bottom), text)) in texts.iter().enumerate() {
            let is_within = *left >= 0.0 && *right <= WIDTH && *top >= 0.0 && *bottom <= height;
            assert!(is_within, "{text:?} leaves the page: {left} to {right}, {top} to {bottom} of {height}");
            for ((other_left, other_right, other_top, other_bottom), other) in texts.iter().skip(n + 1) {
                let apart = right <= other_left || other_right <= left || bottom <= other_top || other_bottom <= top;
                assert!(apart, "{text:?} lies on {other:?} ({} days)", simulation.days.len());
            }
        }
    }
}

#[test]
fn every_day_of_a_shown_year_is_one_square_and_several_policies_make_one_drawing() {
    let simulations = all();
    let svg = draw(&simulations);
    elements(&svg);
    for simulation in &simulations {
        assert!(svg.contains(&stamp(simulation.from, simulation)));
    }
    let one = simulated("2026-03-01T00:00:00Z", 90, 6, None, false);
    let svg = draw(std::slice::from_ref(&one));
    let held: std::collections::BTreeSet<_> =
        one.snapshots.iter().map(|held| held.created_at.with_timezone(&zone(&one)).date_naive()).collect();
    let elements = elements(&svg);
    let titles = elements.iter().filter(|(tag, text)| tag == "title" && text.starts_with("2026-")).count();
    assert_eq!(titles, held.len());
    // The days without, in one path.
    let squares =
        elements.iter().filter(|(tag, _)| tag.contains("h12v12h-12z")).map(|(tag, _)| tag.matches("h12v12h-12z").count()).sum::<usize>();
    assert_eq!(squares + held.len(), one.days.len());
}

#[test]
fn nothing_taken_can_be_drawn_and_odd_texts_are_escaped() {
    let mut nothing = simulated("2026-03-01T00:00:00Z", 90, 6, Some(1 << 30), true);
    nothing.snapshots.clear();
    nothing.tiers.clear();
    nothing.held = Default::default();
    nothing.timezone = "<&\">".to_owned();
    let svg = draw(&[nothing]);
    elements(&svg);
    assert!(svg.contains("&lt;&amp;&quot;&gt;"));
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
}
