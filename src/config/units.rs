//! Durations as people write them.

use std::time::Duration;

/// `15m`, `36h`, `7d`, `1h30m`, `90s`, `500ms`; a week is seven days. Months and years have no one length and are refused.
///
/// # Errors
/// What is wrong, and what to write.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let hint = "write it like \"90s\", \"15m\", \"36h\", \"7d\" or \"1h30m\"";
    let units = |c: char| c.is_ascii_digit() || c.is_whitespace() || c == '.';
    if text.split(units).any(|unit| matches!(unit, "M" | "month" | "months" | "y" | "year" | "years")) {
        return Err(format!("months and years have no one length; {hint}"));
    }
    if !text.trim().is_empty() && text.trim().chars().all(|c| c.is_ascii_digit()) && text.trim() != "0" {
        return Err(format!("{text:?} has no unit; {hint}"));
    }
    humantime::parse_duration(text).map_err(|e| format!("{text:?} is not a duration ({e}); {hint}"))
}

/// The same way back.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let mut rest = duration.as_millis();
    let mut text = String::new();
    for (unit, length) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        if rest >= length {
            text.push_str(&format!("{}{unit}", rest / length));
            rest %= length;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, seconds) in [("15m", 900), ("36h", 129_600), ("7d", 604_800), ("1h30m", 5400), ("2w", 1_209_600), ("0s", 0), ("0", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["90", "1 month", "2y", "soon", "", "-5m", "PT1H"] {
            let why = parse_duration(bad).unwrap_err();
            assert!(why.contains("\"15m\""), "{bad}: {why}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(millis in 0u64..10_000_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
    }
}
