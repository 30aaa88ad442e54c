//! The lines of a head, read byte by byte: first lines, and field lines into [`Fields`].
//!
//! It reads in one pass, eight bytes at a time where that is faster: a head of eight fields costs half as much as with
//! a general parser and a second pass over its fields. It is as strict as RFC 9112: a line ends with CR LF, only a
//! token may stand before a colon, and no line is folded. The tests compare it with httparse.

use http::Version;

use crate::error::Fault;
use crate::fields::Fields;
use crate::known::Known;
use crate::token::is_token;

/// The result of a reader. `None`: further bytes are needed.
pub(crate) type Read<T> = Result<Option<T>, Fault>;

/// The ends of the parts of a request's first line.
#[derive(Debug)]
pub(crate) struct RequestLine {
    pub(crate) method_end: usize,
    pub(crate) target_end: usize,
    pub(crate) version: Version,
    pub(crate) end: usize,
}

/// The parts of an answer's first line. Its reason begins at [`REASON_AT`].
#[derive(Debug)]
pub(crate) struct StatusLine {
    pub(crate) version: Version,
    pub(crate) code: u16,
    pub(crate) reason_end: usize,
    pub(crate) end: usize,
}

const VERSION_BYTES: usize = "HTTP/1.1".len();
const CODE_AT: usize = VERSION_BYTES + 1;
pub(crate) const REASON_AT: usize = CODE_AT + 4;

pub(crate) fn request_line(bytes: &[u8]) -> Read<RequestLine> {
    let Some(method_end) = bytes.iter().position(|byte| !is_token(*byte)) else { return Ok(None) };
    if method_end == 0 || bytes.get(method_end) != Some(&b' ') {
        return Err(Fault::Method);
    }
    let target_end = method_end + 1 + end_of(bytes.get(method_end + 1..).unwrap_or_default(), b'!');
    match bytes.get(target_end) {
        None => return Ok(None),
        Some(b' ') if target_end > method_end + 1 => {}
        Some(b'\r' | b'\n') => return Err(Fault::FirstLine),
        Some(_) => return Err(Fault::Target),
    }
    let rest = bytes.get(target_end + 1..).unwrap_or_default();
    let Some(version) = version(rest)? else { return Ok(None) };
    let Some(end) = line_end(bytes, target_end + 1 + VERSION_BYTES, Fault::FirstLine)? else {
        return Ok(None);
    };
    Ok(Some(RequestLine { method_end, target_end, version, end }))
}

pub(crate) fn status_line(bytes: &[u8]) -> Read<StatusLine> {
    let Some(version) = version(bytes)? else { return Ok(None) };
    let rest = bytes.get(VERSION_BYTES..).unwrap_or_default();
    let (code, behind) = match rest {
        [b' ', a, b, c, rest @ ..] if [a, b, c].iter().all(|digit| digit.is_ascii_digit()) => {
            let digit = |byte: &u8| u16::from(byte - b'0');
            (digit(a) * 100 + digit(b) * 10 + digit(c), rest)
        }
        [] | [b' '] => return Ok(None),
        [b' ', digits @ ..] if digits.len() < 3 && digits.iter().all(u8::is_ascii_digit) => return Ok(None),
        _ => return Err(Fault::FirstLine),
    };
    let reason_end = match behind {
        [] => return Ok(None),
        [b' ', reason @ ..] => REASON_AT + end_of(reason, b' '),
        _ => REASON_AT - 1, // many servers leave out the blank if there is no reason
    };
    let Some(end) = line_end(bytes, reason_end, Fault::FirstLine)? else { return Ok(None) };
    Ok(Some(StatusLine { version, code, reason_end, end }))
}

fn version(bytes: &[u8]) -> Read<Version> {
    match bytes.first_chunk::<VERSION_BYTES>() {
        Some(b"HTTP/1.1") => Ok(Some(Version::HTTP_11)),
        Some(b"HTTP/1.0") => Ok(Some(Version::HTTP_10)),
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(Fault::Version)
        }
        Some(_) => Err(Fault::FirstLine),
        None => {
            let may_be = |(byte, expected): (&u8, &u8)| {
                if expected.is_ascii_digit() { byte.is_ascii_digit() } else { byte == expected }
            };
            if bytes.iter().zip(b"HTTP/1.1").all(may_be) { Ok(None) } else { Err(Fault::FirstLine) }
        }
    }
}

/// The position after the CR LF that must be at `at`. Any other byte there is the fault `otherwise`.
fn line_end(bytes: &[u8], at: usize, otherwise: Fault) -> Read<usize> {
    match bytes.get(at..).unwrap_or_default() {
        [b'\r', b'\n', ..] => Ok(Some(at + 2)),
        [] | [b'\r'] => Ok(None),
        [b'\r' | b'\n', ..] => Err(Fault::BareLineEnd),
        _ => Err(otherwise),
    }
}

/// Reads field lines from `at` on, up to the empty line, into `fields`. Returns the position after the empty line.
pub(crate) fn field_lines(bytes: &[u8], at: usize, most: u32, fields: &mut Fields) -> Read<usize> {
    if u32::try_from(bytes.len()).is_err() {
        return Err(Fault::LargeHead);
    }
    let (mut at, mut left) = (at, most);
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        match rest {
            [b'\r' | b'\n', ..] => return line_end(bytes, at, Fault::BareLineEnd),
            [] => return Ok(None),
            _ => {}
        }
        let name_length = find_colon(rest);
        let Some((name, [_, behind @ ..])) = rest.split_at_checked(name_length) else {
            let is_name = rest.iter().all(|byte| is_token(*byte));
            return if is_name { Ok(None) } else { Err(Fault::Field) };
        };
        // The name is checked before more bytes are waited for, since they could not make an invalid name valid.
        let known = judge_name(rest, name)?;
        let (value, is_tight) = match behind.split_first() {
            Some((b' ', value)) if value.first().is_some_and(|next| *next > b' ') => (value, true), // nearly always
            _ => (pass_blanks(behind), false),
        };
        let (value, ended) = value.split_at_checked(end_of(value, b' ')).unwrap_or_default();
        let next = match ended {
            [b'\r', b'\n', next @ ..] => next,
            _ => match line_end(ended, 0, Fault::Field)? {
                Some(end) => ended.get(end..).unwrap_or_default(),
                None => return Ok(None),
            },
        };
        left = left.checked_sub(1).ok_or(Fault::ManyFields)?;
        let value_at = bytes.len() - ended.len() - value.len();
        fields.push_line((at, name_length, known), (value_at, is_tight), value);
        at = bytes.len() - next.len();
    }
}

/// Checks the name with which `bytes` begin. A known name is always valid.
#[inline]
fn judge_name(bytes: &[u8], name: &[u8]) -> Result<Option<Known>, Fault> {
    let known = Known::find_at_start(bytes, name.len());
    if known.is_some() {
        return Ok(known);
    }
    let is_sound = (1..=NAME_BYTES).contains(&name.len()) && name.iter().all(|byte| is_token(*byte));
    if is_sound { Ok(None) } else { Err(Fault::Field) }
}

/// As many bytes as `http::HeaderName` allows.
const NAME_BYTES: usize = u16::MAX as usize;

fn pass_blanks(bytes: &[u8]) -> &[u8] {
    let blanks = bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    bytes.get(blanks..).unwrap_or_default()
}

const EACH: u64 = 0x0101_0101_0101_0101;
const TOP: u64 = EACH << 7;

/// The top bit of each byte that is zero. Exact for the first of them, which is the one that counts.
const fn zeros(word: u64) -> u64 {
    word.wrapping_sub(EACH) & !word & TOP
}

/// The top bit of each byte that is below `least` or DEL. One more than it, DEL alone has the top bit; and with what
/// `least` lacks of that on top, all have it but those below.
const fn ends(word: u64, least: u8) -> u64 {
    let more = (word & !TOP) + EACH;
    (more | !(more + EACH * (0x7f - least) as u64)) & !word & TOP
}

/// The position of the first byte that is below `least` and not a tab, or that is DEL; without one, the length.
#[inline(always)] // 200 of 4,000 instructions for a head
fn end_of(bytes: &[u8], least: u8) -> usize {
    let is_end = |byte: &u8| (*byte < least && (*byte != b'\t' || least > b' ')) || *byte == 0x7f;
    let (words, _) = bytes.as_chunks::<8>();
    let mut at = 0;
    for word in words {
        let found = ends(u64::from_le_bytes(*word), least);
        if found != 0 {
            at += found.trailing_zeros() as usize / 8;
            break;
        }
        at += 8;
    }
    // Reached at the end, at a tab, or where less than a word is left.
    let rest = bytes.get(at..).unwrap_or_default();
    match rest.first() {
        Some(byte) if is_end(byte) => at,
        _ => at + rest.iter().position(is_end).unwrap_or(rest.len()),
    }
}

/// The position of the first colon; without one, the length.
#[inline]
fn find_colon(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut at = 0;
    for word in words {
        let found = zeros(u64::from_le_bytes(*word) ^ (EACH * b':' as u64));
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + rest.iter().position(|byte| *byte == b':').unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_value_is_found_at_every_position() {
        for length in 0..40 {
            for end in 0_u8..=255 {
                let mut bytes = vec![0xc3; length];
                bytes.extend([end, b'\r', 1, 1, 1, 1, 1, 1, 1]);
                let is_end = (end < b' ' && end != b'\t') || end == 0x7f;
                assert_eq!(end_of(&bytes, b' '), length + usize::from(!is_end), "{end} at {length}");
                let is_end = end <= b' ' || end == 0x7f;
                assert_eq!(end_of(&bytes, b'!'), length + usize::from(!is_end), "{end} at {length}");
                let colon = if end == b':' { length } else { bytes.len() };
                assert_eq!(find_colon(&bytes), colon);
            }
        }
    }

    #[test]
    fn a_version_is_judged_as_soon_as_it_can_be() {
        for (text, expected) in [
            ("", Ok(None)),
            ("HTTP/", Ok(None)),
            ("HTTP/2", Ok(None)),
            ("HTTP/1.1", Ok(Some(Version::HTTP_11))),
            ("HTTP/1.0", Ok(Some(Version::HTTP_10))),
            ("HTTP/2.0", Err(Fault::Version)),
            ("HTTP/1.2", Err(Fault::Version)),
            ("http/1.1", Err(Fault::FirstLine)),
            ("h", Err(Fault::FirstLine)),
            ("HTTP/x", Err(Fault::FirstLine)),
            ("HTTP/11 ", Err(Fault::FirstLine)),
        ] {
            assert_eq!(version(text.as_bytes()), expected, "{text:?}");
        }
    }
}
