//! Finds a directory's names in bytes, however they are spelled: plain, with escapes, in a URL, in UTF-16.
//!
//! A name that is missed is a disk that two machines share; one that is seen where there is none fails a fork. So
//! every doubt counts as a name, except where the next letter makes it another one (`/vms/golden-7`).

use super::names::SourceNames;

/// Punctuation of file names that goes on with a name only if a letter or a digit follows it.
const JOINERS: &[u8] = b"-_.~+@";
/// How many bytes to look back for the beginning of a component.
const LOOK_BACK: usize = 256;
/// How many `x/..` may stand in a path before it is not recognized any more.
const DETOURS: usize = 4;

/// Where a source directory is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hit {
    /// The first byte of what is to be replaced.
    pub(super) start: usize,
    /// The byte after the last.
    pub(super) end: usize,
    /// What stands there.
    pub(super) form: Form,
    /// It is part of a URL, or percent-encoded.
    pub(super) url: bool,
}

/// How a source directory is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// By its absolute path.
    Absolute,
    /// By its name, after as many `..` as lead out of the instance; the hit is the name.
    Relative,
    /// In UTF-16: seen, never rewritten.
    Wide,
}

/// All places where `text` names the source, in order; relative ones only with the depth of the file below its instance.
pub(super) fn hits<'t>(text: &'t [u8], names: &'t SourceNames, depth: Option<usize>) -> Hits<'t> {
    let relative = depth.map(|depth| {
        let mut parts = vec![b"..".to_vec(); depth];
        parts.push(names.instance().to_vec());
        parts
    });
    let binary = text.contains(&0) || std::str::from_utf8(text).is_err();
    Hits { text, names, relative, binary, at: 0 }
}

/// See [`hits`].
pub(super) struct Hits<'t> {
    text: &'t [u8],
    names: &'t SourceNames,
    /// What follows the first `..`.
    relative: Option<Vec<Vec<u8>>>,
    /// In such files strings have lengths in front of them, which look like letters.
    binary: bool,
    at: usize,
}

impl Iterator for Hits<'_> {
    type Item = Hit;

    fn next(&mut self) -> Option<Hit> {
        loop {
            let rest = self.text.get(self.at..)?;
            let at = self.at + rest.iter().position(|b| matches!(b, b'/' | b'\\' | b'%' | b'.'))?;
            let hit = match self.text.get(at) {
                Some(b'.') => self.relative_at(at),
                Some(b'/') => self.absolute_at(at).or_else(|| self.wide_at(at)),
                _ => self.absolute_at(at),
            };
            self.at = hit.map_or(at + 1, |hit| hit.end.max(at + 1));
            if hit.is_some() {
                return hit;
            }
        }
    }
}

impl Hits<'_> {
    fn absolute_at(&self, at: usize) -> Option<Hit> {
        // Of a run of separators the last one begins the path: what is before it may be a URL's.
        let (begun, _) = separators(self.text, at)?;
        if begun != spelled(self.text, at, b"/")?.next {
            return None;
        }
        if self.text.get(at) == Some(&b'\\') && at.checked_sub(1).and_then(|i| self.text.get(i)) == Some(&b'\\') {
            return None;
        }
        let found = self.names.dirs().iter().find_map(|dir| walk(self.text, at, dir, DETOURS, self.binary.then_some(at)))?;
        if !self.binary && !begins_path(self.text, at) {
            return None;
        }
        let url = found.percent || self.head(at).ends_with(b"//") || self.head(at).ends_with(b"\\/");
        Some(Hit { start: at, end: found.end, form: Form::Absolute, url })
    }

    fn relative_at(&self, at: usize) -> Option<Hit> {
        let parts = self.relative.as_ref()?;
        if !self.text.get(at..)?.starts_with(b"..") || (!self.binary && !begins_relative(self.text, at)) {
            return None;
        }
        let found = walk(self.text, at + 2, parts, DETOURS, None)?;
        Some(Hit { start: found.last, end: found.end, form: Form::Relative, url: found.percent })
    }

    fn wide_at(&self, at: usize) -> Option<Hit> {
        let (big, little) = (at.checked_sub(1).filter(|i| self.text.get(*i) == Some(&0)), self.text.get(at + 1) == Some(&0));
        let tail = |from: usize| self.text.get(from..).unwrap_or_default();
        self.names.wide().iter().find_map(|wide| {
            let len = wide.little.len();
            let here = little && tail(at).starts_with(&wide.little) && !wide_goes_on(tail(at + len), u16::from_le_bytes);
            let before = big.filter(|i| tail(*i).starts_with(&wide.big) && !wide_goes_on(tail(i + len), u16::from_be_bytes));
            let start = if here { Some(at) } else { before }?;
            Some(Hit { start, end: start + len, form: Form::Wide, url: false })
        })
    }

    fn head(&self, at: usize) -> &[u8] {
        self.text.get(..at).unwrap_or_default()
    }
}

/// One unit of text that spells the first bytes of what is wanted.
struct Step {
    next: usize,
    used: usize,
    percent: bool,
}

/// Whether the text at `at` spells the beginning of `want`: as it is, percent-encoded, or behind backslashes.
fn spelled(text: &[u8], at: usize, want: &[u8]) -> Option<Step> {
    let first = *want.first()?;
    match *text.get(at)? {
        here if here == first => Some(Step { next: at + 1, used: 1, percent: false }),
        b'%' if hex(text, at + 1, 2)? == u32::from(first) => Some(Step { next: at + 3, used: 1, percent: true }),
        b'\\' => {
            let (c, next) = escaped(text, at)?;
            let mut buffer = [0; 4];
            // An escape of two hexadecimal or three octal digits stands for a byte, any other for a character.
            let bytes: &[u8] = match c {
                Escaped::Byte(b) => {
                    buffer = [b, 0, 0, 0];
                    buffer.get(..1)?
                }
                Escaped::Char(c) => c.encode_utf8(&mut buffer).as_bytes(),
            };
            want.starts_with(bytes).then_some(Step { next, used: bytes.len(), percent: false })
        }
        _ => None,
    }
}

enum Escaped {
    Byte(u8),
    Char(char),
}

/// What a run of backslashes (they double with each level of quoting) and what is behind it stand for.
fn escaped(text: &[u8], at: usize) -> Option<(Escaped, usize)> {
    let run = text.get(at..)?.iter().take_while(|b| **b == b'\\').count();
    let at = at + run;
    let byte = |value: u32, next| u8::try_from(value).ok().map(|b| (Escaped::Byte(b), next));
    match *text.get(at)? {
        b'u' => {
            let unit = hex(text, at + 1, 4)?;
            let low = || text.get(at + 5..)?.strip_prefix(b"\\u").and_then(|rest| hex(rest, 0, 4)).filter(|l| (0xdc00..0xe000).contains(l));
            if (0xd800..0xdc00).contains(&unit) {
                let c = char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low()? - 0xdc00))?;
                return Some((Escaped::Char(c), at + 11));
            }
            Some((Escaped::Char(char::from_u32(unit)?), at + 5))
        }
        b'U' => Some((Escaped::Char(char::from_u32(hex(text, at + 1, 8)?)?), at + 9)),
        b'x' => byte(hex(text, at + 1, 2)?, at + 3),
        b'0'..=b'3' => byte(digits(text, at, 3, 8)?, at + 3),
        b if b.is_ascii_alphanumeric() => None,
        b => Some((Escaped::Byte(b), at + 1)),
    }
}

fn hex(text: &[u8], at: usize, n: usize) -> Option<u32> {
    digits(text, at, n, 16)
}

fn digits(text: &[u8], at: usize, n: usize, radix: u32) -> Option<u32> {
    text.get(at..at + n)?.iter().try_fold(0u32, |value, b| Some(value * radix + char::from(*b).to_digit(radix)?))
}

/// One or more separators, with `./` between them: where they end.
fn separators(text: &[u8], at: usize) -> Option<(usize, bool)> {
    let first = spelled(text, at, b"/")?;
    let (mut at, mut percent) = (first.next, first.percent);
    loop {
        let dot = usize::from(text.get(at) == Some(&b'.'));
        let Some(step) = spelled(text, at + dot, b"/") else { return Some((at, percent)) };
        (at, percent) = (step.next, percent | step.percent);
    }
}

/// A path that was found.
struct Found {
    /// Where its last component begins.
    last: usize,
    end: usize,
    percent: bool,
}

/// Walks down `parts`, each with separators before it, from `at`. `counted` is where a string with its length in
/// front of it would begin.
fn walk(text: &[u8], at: usize, parts: &[Vec<u8>], detours: usize, counted: Option<usize>) -> Option<Found> {
    let (part, rest) = parts.split_first()?;
    let (mut at, mut percent) = separators(text, at)?;
    for left in (0..=detours).rev() {
        if let Some((end, coded)) = component(text, at, part) {
            let percent = percent || coded;
            if !rest.is_empty() {
                if let Some(found) = walk(text, end, rest, left, counted) {
                    return Some(Found { percent: found.percent || percent, ..found });
                }
            } else if ends_name(text, end) || counted.is_some_and(|start| ends_by_length(text, start, end)) {
                return Some(Found { last: at, end, percent });
            }
        }
        let (next, coded) = detour(text, at)?;
        (at, percent) = (next, percent || coded);
    }
    None
}

fn component(text: &[u8], mut at: usize, mut want: &[u8]) -> Option<(usize, bool)> {
    let mut percent = false;
    while !want.is_empty() {
        let step = spelled(text, at, want)?;
        (at, percent) = (step.next, percent | step.percent);
        want = want.get(step.used..)?;
    }
    Some((at, percent))
}

/// `x/../` at `at`: where it ends.
fn detour(text: &[u8], at: usize) -> Option<(usize, bool)> {
    let ends = |b: &u8| matches!(b, b'/' | b'\\' | b'%' | b'"' | b'\'') || b.is_ascii_control() || b.is_ascii_whitespace();
    let rest = text.get(at..)?;
    let len = rest.iter().take(LOOK_BACK).position(ends).filter(|len| *len > 0)?;
    if rest.get(..len) == Some(b"..") {
        return None;
    }
    let (up, _) = separators(text, at + len)?;
    text.get(up..)?.starts_with(b"..").then(|| separators(text, up + 2)).flatten()
}

/// Whether a name that ends at `end` is not the beginning of a longer one.
fn ends_name(text: &[u8], mut end: usize) -> bool {
    loop {
        match unit(text, end) {
            Some((c, next)) if u8::try_from(c).is_ok_and(|b| JOINERS.contains(&b)) => end = next,
            Some((c, _)) => return !c.is_alphanumeric(),
            None => return true,
        }
    }
}

/// The character that the text at `at` stands for; none at the end, and where no name can go on.
fn unit(text: &[u8], at: usize) -> Option<(char, usize)> {
    let tail = text.get(at..)?;
    match tail.first()? {
        // A byte beyond ASCII is a part of some letter.
        b'%' => hex(tail, 1, 2).map(|b| (if b < 0x80 { char::from_u32(b).unwrap_or('%') } else { 'x' }, at + 3)),
        b'\\' => match escaped(text, at)? {
            (Escaped::Char(c), next) => Some((c, next)),
            (Escaped::Byte(b), next) => Some((if b.is_ascii() { char::from(b) } else { 'x' }, next)),
        },
        _ => first_char(tail).map(|c| (c, at + c.len_utf8())),
    }
}

fn is_alphanumeric(c: u32) -> bool {
    char::from_u32(c).is_some_and(char::is_alphanumeric)
}

fn first_char(text: &[u8]) -> Option<char> {
    text.get(..text.len().min(4))?.utf8_chunks().next()?.valid().chars().next()
}

/// Whether the bytes before `start` say that a string ends at `end`: as binary formats do (a byte, 16, 32 or 64
/// bits of either order, CBOR, MessagePack).
fn ends_by_length(text: &[u8], start: usize, end: usize) -> bool {
    let Some(head) = text.get(..start) else { return false };
    let len = end - start;
    let little = (len as u64).to_le_bytes();
    let last = head.last().map(|b| usize::from(*b));
    last.is_some_and(|b| b == len || (len < 24 && b == 0x60 + len) || (len < 32 && b == 0xa0 + len))
        || [2, 4, 8].iter().any(|n| little.get(..*n).is_some_and(|bytes| head.ends_with(bytes)))
}

/// Whether an absolute path can begin at `at`, or whether that is the middle of one.
fn begins_path(text: &[u8], at: usize) -> bool {
    let mut head = text.get(..at).unwrap_or_default();
    while let Some(shorter) = before_separator(head) {
        head = shorter.strip_suffix(b".").filter(|dir| before_separator(dir).is_some()).unwrap_or(shorter);
    }
    begins_word(head)
}

/// `head` without the separator at its end, however that is spelled, or the backslash before one.
fn before_separator(head: &[u8]) -> Option<&[u8]> {
    match head {
        [shorter @ .., b'/' | b'\\'] => Some(shorter),
        [shorter @ .., b'%', b'2', b'f' | b'F'] => Some(shorter),
        [shorter @ .., b'\\', b'u', b'0', b'0', b'2', b'f' | b'F'] => Some(shorter),
        _ => None,
    }
}

/// Whether a path of `..` can begin at `at`.
fn begins_relative(text: &[u8], at: usize) -> bool {
    let mut head = text.get(..at).unwrap_or_default();
    while let Some(shorter) = head.strip_suffix(b"./") {
        head = shorter;
    }
    !head.ends_with(b".") && before_separator(head).is_none() && begins_word(head)
}

/// Whether what follows `head` is not the rest of a component that `head` ends with.
fn begins_word(head: &[u8]) -> bool {
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || b"-_.~+".contains(b) || !b.is_ascii();
    let len = head.iter().rev().take(LOOK_BACK).take_while(|b| is_name(b)).count();
    let Some((before, word)) = head.split_at_checked(head.len() - len) else { return true };
    let last = word.utf8_chunks().last().and_then(|chunk| chunk.valid().chars().last());
    if last.is_none_or(|c| !c.is_ascii() && !c.is_alphanumeric()) {
        return true;
    }
    let word = behind_escape(before, word);
    // Markers before a path (`-/etc/x` in units), options with their value (`-I/vms`), the host of a file URL.
    word.iter().all(|b| matches!(b, b'-' | b'+'))
        || matches!(word, [b'-', option] if option.is_ascii_alphabetic())
        || is_file_scheme(before)
}

/// Whether `head` ends with `file://`, its slashes in any spelling.
fn is_file_scheme(mut head: &[u8]) -> bool {
    while let Some(shorter) = before_separator(head) {
        head = shorter;
    }
    head.get(head.len().saturating_sub(5)..).is_some_and(|end| end.eq_ignore_ascii_case(b"file:"))
}

/// What is left of `word` when its beginning was the end of an escape (`\n`, `\u0020`, `%20`).
fn behind_escape<'t>(before: &[u8], word: &'t [u8]) -> &'t [u8] {
    let skip = match (before.last(), word.first()) {
        (Some(b'\\'), Some(b'u')) => 5,
        (Some(b'\\'), Some(b'U')) => 9,
        (Some(b'\\'), Some(b'x')) => 3,
        (Some(b'\\'), Some(b'0'..=b'3')) if digits(word, 0, 3, 8).is_some() => 3,
        (Some(b'\\'), Some(b'n' | b'r' | b't' | b'b' | b'f' | b'v' | b'a' | b'e' | b'0')) => 1,
        (Some(b'%'), Some(b)) if b.is_ascii_hexdigit() => 2,
        _ => 0,
    };
    word.get(skip..).unwrap_or(word)
}

fn wide_goes_on(tail: &[u8], unit: fn([u8; 2]) -> u16) -> bool {
    // The other byte order is the same one byte later: half a unit at the end is a whole one.
    let pair = |bytes: &[u8]| [bytes.first().copied().unwrap_or(0), bytes.get(1).copied().unwrap_or(0)];
    let mut units = tail.chunks(2).map(|bytes| u32::from(unit(pair(bytes))));
    let joins = |c: &u32| u8::try_from(*c).is_ok_and(|b| JOINERS.contains(&b));
    units.find(|c| !joins(c)).is_some_and(is_alphanumeric)
}
