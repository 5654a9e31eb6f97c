//! Since when a number no longer grows, told from its averages by day.

/// While a rule fills, each of its periods adds one snapshot.
const GROWTH: f64 = 0.5;

/// The day on which a number reached the level at which its average over `period` days no longer grew over that of the
/// `period` before; and that average. `None`: it grew to the end, or there are too few days.
pub(super) fn since(means: &[f64], period: usize) -> Option<(usize, f64)> {
    let period = period.max(1);
    let mut sums = vec![0.0];
    let mut sum = 0.0;
    for mean in means {
        sum += mean;
        sums.push(sum);
    }
    // The average of the `period` days from `day` on.
    let average = |day: usize| Some((sums.get(day + period)? - sums.get(day)?) / period as f64);
    let level =
        (period..).map_while(|day| Some((average(day - period)?, average(day)?))).find(|(before, after)| after - before < GROWTH)?.1;
    // Around the day: an average of the days after it would be up half a period early.
    let around = |day: usize| {
        let (start, end) = (day.saturating_sub(period / 2), day + period.div_ceil(2));
        Some((sums.get(end)? - sums.get(start)?) / (end - start) as f64)
    };
    let first = (0..).map_while(around).position(|mean| mean > level - GROWTH)?;
    Some((first, level))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_grows_and_stays_is_steady_since_it_stays() {
        // Seven daily ones: one more each day.
        let week: Vec<f64> = (1..=30).map(|day| f64::from(day.min(7))).collect();
        assert_eq!(since(&week, 1), Some((6, 7.0)));
        assert_eq!(since(&[5.0; 10], 3), Some((0, 5.0)));
    }

    #[test]
    fn a_number_that_still_grows_is_not_steady_nor_is_one_of_too_short_a_time() {
        let growing: Vec<f64> = (0..100).map(f64::from).collect();
        assert_eq!(since(&growing, 7), None);
        assert_eq!(since(&[5.0; 10], 6), None);
        assert_eq!(since(&[], 1), None);
    }

    #[test]
    fn one_more_in_each_long_period_is_growth_whatever_wavers_within_it() {
        // One more each year for five years, over a wave of a month's length.
        let day = |n: u32| f64::from(20 + (n / 365).min(5)) + f64::from(n % 30) / 10.0;
        let (since, level) = since(&(0..4000).map(day).collect::<Vec<_>>(), 366).unwrap();
        assert!((1800..=1840).contains(&since), "{since}");
        assert!((26.0..=27.0).contains(&level), "{level}");
    }
}
