//! Where a TOML document's strings and comments are: the least of its grammar that rewriting needs.

use super::edit::Quoting;
use std::ops::Range;

/// The strings and comments of a *valid* document, in order; a string's range is what is between its quotes.
pub(super) fn spans(text: &[u8]) -> Vec<(Range<usize>, Quoting)> {
    let mut spans = Vec::new();
    let mut at = 0;
    while let Some(step) = text.get(at..).and_then(|rest| rest.iter().position(|b| matches!(b, b'"' | b'\'' | b'#'))) {
        at += step;
        let rest = text.get(at..).unwrap_or_default();
        let (open, quoting, len) = match rest {
            [b'#', ..] => (1, Quoting::Comment, rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()).saturating_sub(1)),
            [b'"', b'"', b'"', ..] => (3, Quoting::Basic, long(rest, b'"')),
            [b'"', ..] => (1, Quoting::Basic, short(rest, b'"')),
            [b'\'', b'\'', b'\'', ..] => (3, Quoting::Literal, long(rest, b'\'')),
            _ => (1, Quoting::Literal, short(rest, b'\'')),
        };
        spans.push((at + open..at + open + len, quoting));
        at += open + len + if quoting == Quoting::Comment { 0 } else { open };
    }
    spans
}

/// The length of a string's content after its one opening quote.
fn short(rest: &[u8], quote: u8) -> usize {
    let content = rest.get(1..).unwrap_or_default();
    content_len(content, quote, |tail| tail.first() == Some(&quote))
}

/// The length of a string's content after its three opening quotes; up to two more quotes belong to the content.
fn long(rest: &[u8], quote: u8) -> usize {
    let content = rest.get(3..).unwrap_or_default();
    let len = content_len(content, quote, |tail| tail.starts_with(&[quote; 3]));
    let more = content.get(len + 3..).unwrap_or_default().iter().take(2).take_while(|b| **b == quote).count();
    len + more
}

fn content_len(content: &[u8], quote: u8, ends: impl Fn(&[u8]) -> bool) -> usize {
    let mut at = 0;
    while let Some(tail) = content.get(at..).filter(|tail| !tail.is_empty() && !ends(tail)) {
        at += if quote == b'"' && tail.first() == Some(&b'\\') { 2 } else { 1 };
    }
    at.min(content.len())
}
