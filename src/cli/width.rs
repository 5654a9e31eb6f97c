//! How wide a line may be: as wide as the terminal, or `COLUMNS`, where a terminal shows it; without bound for whoever reads
//! it through a pipe.

use std::sync::OnceLock;

static WIDTH: OnceLock<Option<usize>> = OnceLock::new();

/// Less than this is no terminal that anybody reads.
const LEAST: usize = 20;

/// Looks at the terminal, once, at the start.
pub(super) fn find(is_terminal: bool) {
    let measured = || terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0));
    let width = width(is_terminal, std::env::var("COLUMNS").ok().as_deref(), measured);
    // Another program of this process has looked before.
    let _ = WIDTH.set(width);
}

fn width(is_terminal: bool, columns: Option<&str>, measured: impl FnOnce() -> Option<usize>) -> Option<usize> {
    if !is_terminal {
        return None;
    }
    columns.and_then(|text| text.parse().ok()).filter(|width| *width > 0).or_else(measured).map(|width| width.max(LEAST))
}

/// The width; `None`: no bound.
pub(super) fn bound() -> Option<usize> {
    WIDTH.get().copied().flatten()
}

/// The widest line, as it is seen.
pub(super) fn widest(text: &str) -> usize {
    anstream::adapter::strip_str(text).to_string().lines().map(|line| line.chars().count()).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_has_no_width_and_columns_go_before_what_the_terminal_says() {
        assert_eq!(width(false, Some("40"), || Some(80)), None);
        assert_eq!(width(true, Some("40"), || Some(80)), Some(40));
        assert_eq!(width(true, None, || Some(80)), Some(80));
        for nonsense in ["", "0", "wide", "-1"] {
            assert_eq!(width(true, Some(nonsense), || Some(80)), Some(80), "{nonsense}");
        }
        assert_eq!(width(true, Some("3"), || None), Some(LEAST));
        assert_eq!(width(true, None, || None), None);
    }

    #[test]
    fn colours_take_no_room() {
        assert_eq!(widest("ab\n\u{1b}[31mabc\u{1b}[0m\n"), 3);
    }
}
