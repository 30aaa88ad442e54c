//! Writes one flat JSON object into bytes, without an allocation per field.
//!
//! Values come from peers. Control characters, quotes and bytes that are not UTF-8 are escaped, so that they cannot end
//! the string or control a terminal. The output is UTF-8.
//!
//! An access line has some twenty fields. Each is written by a few copies of known length, because the standard
//! formatting took three times as many instructions.

use std::cell::Cell;
use std::io::Write;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::{SystemTime, UNIX_EPOCH};

/// The name of a field in the form that precedes its value. It is a plain word of this program and needs no escaping.
#[derive(Clone, Copy)]
pub struct Key {
    pub before_number: &'static str,
    /// The name with the quote that begins the text.
    pub before_text: &'static str,
}

macro_rules! key {
    ($name:literal) => {
        $crate::json::Key {
            before_number: concat!("\"", $name, "\":"),
            before_text: concat!("\"", $name, "\":\""),
        }
    };
}
pub(crate) use key;

/// An object that is being written. [`Object::end`] closes it. [`key`] makes the names of fields.
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Object<'a> {
    pub fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out }
    }

    /// Closes the object. Each field ends with a comma, so the last comma is removed.
    pub fn end(self) {
        self.out.pop_if(|last| *last == b',');
        self.out.push(b'}');
    }

    /// Writes at most `most` bytes of `value`, then `…`; an empty value is left out. Bytes that are not UTF-8 become
    /// U+FFFD.
    #[inline(always)]
    pub fn text(&mut self, key: Key, value: &[u8], most: usize) {
        if !value.is_empty() {
            self.out.extend_from_slice(key.before_text.as_bytes());
            push_text(self.out, value, most);
        }
    }

    #[inline(always)]
    pub fn number(&mut self, key: Key, value: u64) {
        self.out.extend_from_slice(key.before_number.as_bytes());
        push_number(self.out, value);
    }

    /// Writes a word of this program, which needs no escaping.
    #[inline(always)]
    pub fn word(&mut self, key: Key, value: &'static str) {
        self.out.extend_from_slice(key.before_text.as_bytes());
        self.out.extend_from_slice(value.as_bytes());
        self.out.extend_from_slice(AFTER_TEXT);
    }

    #[inline(always)]
    pub fn address(&mut self, key: Key, value: SocketAddr) {
        self.out.extend_from_slice(key.before_text.as_bytes());
        push_address(self.out, value);
    }

    /// Writes RFC 3339 in UTC with microseconds. A time before 1970 becomes 1970.
    pub fn time(&mut self, key: Key, value: SystemTime) {
        thread_local! {
            /// The last second, and its text.
            static LAST: Cell<(u64, [u8; 27])> = const { Cell::new((u64::MAX, [0; 27])) };
        }
        let since = value.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (mut second, mut text) = LAST.get();
        if second != since.as_secs() {
            // Many lines are written in one second, so its text is kept: 110 instructions a line.
            second = since.as_secs();
            text = second_text(second);
            LAST.set((second, text));
        }
        write_micros(&mut text, since.subsec_micros());
        self.out.extend_from_slice(key.before_text.as_bytes());
        self.out.extend_from_slice(&text);
        self.out.extend_from_slice(AFTER_TEXT);
    }
}

const AFTER_TEXT: &[u8] = b"\",";

#[inline(always)]
fn push_text(out: &mut Vec<u8>, value: &[u8], most: usize) {
    if value.len() <= most && is_harmless(value) {
        out.extend_from_slice(value);
    } else {
        escape_cut(out, value, most);
    }
    out.extend_from_slice(AFTER_TEXT);
}

/// Whether the value is printable ASCII without characters that JSON escapes, as nearly every value is. It checks eight
/// bytes at once, for half of what single bytes cost; the last eight may be checked twice.
fn is_harmless(value: &[u8]) -> bool {
    let (words, _) = value.as_chunks::<8>();
    let last = value.last_chunk().copied().unwrap_or_else(|| filled_up(value));
    words.iter().fold(harm(last), |all, word| all | harm(*word)) == 0
}

/// Fewer than eight bytes, with harmless ones behind them.
fn filled_up(value: &[u8]) -> [u8; 8] {
    let mut word = [b' '; 8];
    word.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
    word
}

/// Zero, if each byte is printable ASCII, and neither a quote nor a backslash.
const fn harm(word: [u8; 8]) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const TOP: u64 = EACH << 7;
    /// The top bit of an ASCII byte is set where the byte is below `least`. Another one may be set only if such a byte is
    /// there.
    const fn below(word: u64, least: u8) -> u64 {
        word.wrapping_sub(EACH * least as u64) & !word
    }
    let word = u64::from_le_bytes(word);
    let (quotes, backslashes) = (word ^ (EACH * b'"' as u64), word ^ (EACH * b'\\' as u64));
    let not_ascii_or_del = word | word.wrapping_add(EACH);
    (not_ascii_or_del | below(word, b' ') | below(quotes, 1) | below(backslashes, 1)) & TOP
}

#[cold]
fn escape_cut(out: &mut Vec<u8>, value: &[u8], most: usize) {
    let kept = cut(value, most);
    escape(out, kept);
    if kept.len() < value.len() {
        out.extend_from_slice("…".as_bytes());
    }
}

/// The longest start of `value` within `most` bytes that does not split a character.
fn cut(value: &[u8], most: usize) -> &[u8] {
    if value.len() <= most {
        return value;
    }
    let is_start = |at: &usize| value.get(*at).is_none_or(|byte| byte & 0xc0 != 0x80);
    // a character has at most four bytes; longer runs of continuation bytes are not UTF-8 and may be split
    let end = (most.saturating_sub(3)..=most).rev().find(is_start).unwrap_or(most);
    value.get(..end).unwrap_or(value)
}

/// At most `most` bytes of `value` as text, then `…`. Control characters and bytes that are not UTF-8 become U+FFFD, because
/// the text may be shown in a terminal.
pub fn printable(value: &[u8], most: usize) -> String {
    let kept = cut(value, most);
    let mut text = String::from_utf8_lossy(kept).replace(char::is_control, "\u{fffd}");
    if kept.len() < value.len() {
        text.push('…');
    }
    text
}

fn escape(out: &mut Vec<u8>, value: &[u8]) {
    for chunk in value.utf8_chunks() {
        chunk.valid().chars().for_each(|char| escape_char(out, char));
        if !chunk.invalid().is_empty() {
            push_char(out, char::REPLACEMENT_CHARACTER);
        }
    }
}

fn escape_char(out: &mut Vec<u8>, char: char) {
    match char {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        control if control.is_control() => push_unicode(out, control),
        harmless => push_char(out, harmless),
    }
}

fn push_char(out: &mut Vec<u8>, char: char) {
    out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Control characters are below U+00A0, so two hexadecimal digits are enough.
fn push_unicode(out: &mut Vec<u8>, control: char) {
    let code = u32::from(control);
    out.extend_from_slice(b"\\u00");
    for digit in [code >> 4 & 0xf, code & 0xf] {
        push_char(out, char::from_digit(digit, 16).unwrap_or('0'));
    }
}

/// Writes the number with the comma that ends the field.
fn push_number(out: &mut Vec<u8>, value: u64) {
    // Nearly all numbers have at most four digits. Copies of known length take a third of the instructions.
    if value < 10_000 {
        let ([a, b], [c, d]) = (PAIRS[(value / 100) as usize], PAIRS[(value % 100) as usize]);
        return match value {
            1000.. => out.extend_from_slice(&[a, b, c, d, b',']),
            100.. => out.extend_from_slice(&[b, c, d, b',']),
            10.. => out.extend_from_slice(&[c, d, b',']),
            _ => out.extend_from_slice(&[d, b',']),
        };
    }
    let mut text = [b','; 21];
    let at = write_number(&mut text, 20, value);
    out.extend_from_slice(&text[at..]);
}

/// Writes the digits before `end`, two at a time, and returns where they begin.
#[inline(always)]
fn write_number(text: &mut [u8; 21], end: usize, mut value: u64) -> usize {
    let mut at = end;
    while value >= 100 {
        at -= 2;
        text[at..at + 2].copy_from_slice(&PAIRS[(value % 100) as usize]);
        value /= 100;
    }
    if value >= 10 {
        at -= 2;
        text[at..at + 2].copy_from_slice(&PAIRS[value as usize]);
    } else {
        at -= 1;
        text[at] = b'0' + value as u8;
    }
    at
}

/// The numbers below 100 as pairs of digits.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

fn push_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address {
        SocketAddr::V4(v4) => push_v4(out, v4),
        // writing into a vector cannot fail
        SocketAddr::V6(v6) => write!(out, "{v6}").unwrap_or_default(),
    }
    out.extend_from_slice(AFTER_TEXT);
}

/// Writes the octets from a table, which takes half of the instructions. `255.255.255.255:65535` is the longest.
fn push_v4(out: &mut Vec<u8>, address: SocketAddrV4) {
    let (mut text, mut at) = ([0; 21], 0);
    for octet in address.ip().octets() {
        let (digits, length) = OCTETS[usize::from(octet)];
        text[at..at + 4].copy_from_slice(&digits);
        at += usize::from(length);
    }
    text[at - 1] = b':';
    let port = usize::from(address.port());
    let ([_, a], [b, c], [d, e]) = (PAIRS[port / 10_000], PAIRS[port / 100 % 100], PAIRS[port % 100]);
    let zeros = [10, 100, 1000, 10_000].iter().filter(|least| port < **least).count();
    let digits = [a, b, c, d, e];
    text[at..at + 5 - zeros].copy_from_slice(&digits[zeros..]);
    out.extend_from_slice(&text[..at + 5 - zeros]);
}

/// Each octet as text with a dot behind it, and the length of both.
static OCTETS: [([u8; 4], u8); 256] = {
    let mut octets = [([b'.'; 4], 0); 256];
    let mut octet = 0;
    while octet < 256 {
        let digits = [b'0' + (octet / 100) as u8, b'0' + (octet / 10 % 10) as u8, b'0' + (octet % 10) as u8];
        octets[octet] = match octet {
            100.. => ([digits[0], digits[1], digits[2], b'.'], 4),
            10..100 => ([digits[1], digits[2], b'.', b'.'], 3),
            _ => ([digits[2], b'.', b'.', b'.'], 2),
        };
        octet += 1;
    }
    octets
};

/// The second as a text, with zero microseconds. Years have four digits.
fn second_text(seconds: u64) -> [u8; 27] {
    let (year, month, day) = civil(seconds / 86_400);
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    let parts = [
        (0, year / 100),
        (2, year),
        (5, month),
        (8, day),
        (11, seconds / 3600 % 24),
        (14, seconds / 60 % 60),
        (17, seconds % 60),
    ];
    for (at, value) in parts {
        text[at..at + 2].copy_from_slice(&PAIRS[(value % 100) as usize]);
    }
    text
}

fn write_micros(text: &mut [u8; 27], micros: u32) {
    for (at, value) in [(20, micros / 10_000), (22, micros / 100), (24, micros)] {
        text[at..at + 2].copy_from_slice(&PAIRS[(value % 100) as usize]);
    }
}

/// The year, month and day of a day that is counted from 1970-01-01, in the Gregorian calendar.
///
/// A year begins in March here, so that the leap day is its last day and one formula gives the months: five months have
/// 153 days. The calendar repeats every 400 years, which are 146,097 days.
pub const fn civil(day: u64) -> (u64, u64, u64) {
    let from_march_0000 = day + 719_468;
    let (cycle, day) = (from_march_0000 / 146_097, from_march_0000 % 146_097);
    // the divisors are the days of 4, 100 and 400 years, less one: these are the corrections for leap days
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (cycle * 400 + year + next_year, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn object(write: impl FnOnce(&mut Object<'_>)) -> String {
        let mut line = Vec::new();
        let mut object = Object::begin(&mut line);
        write(&mut object);
        object.end();
        String::from_utf8(line).expect("UTF-8")
    }

    #[test]
    fn a_value_is_harmless_without_a_byte_that_is_escaped_at_any_place() {
        for (length, byte) in (1..20).flat_map(|length| (0..=u8::MAX).map(move |byte| (length, byte))) {
            let is_plain = (b' '..=b'~').contains(&byte) && !matches!(byte, b'"' | b'\\');
            for place in 0..length {
                for other in [b'a', b' ', b'~', b'!', b'#', b'['] {
                    let mut value = vec![other; length];
                    value[place] = byte;
                    assert_eq!(is_harmless(&value), is_plain, "{}", value.escape_ascii());
                }
            }
        }
        assert!(is_harmless(b""));
    }

    #[test]
    fn characters_that_control_a_terminal_are_escaped() {
        let line = object(|object| {
            object.text(key!("path"), "a\u{1b}[2J\u{7f}\u{9b}2J\r\nend é\u{a0}".as_bytes(), 100)
        });
        assert_eq!(line, r#"{"path":"a\u001b[2J\u007f\u009b2J\r\nend é"#.to_owned() + "\u{a0}\"}");
    }

    #[test]
    fn a_long_value_is_cut_between_characters_and_ends_with_an_ellipsis() {
        let cases: [(&[u8], usize, &str); 6] = [
            (b"abc", 3, "abc"),
            (b"abcd", 3, "abc…"),
            ("aé".as_bytes(), 2, "a…"),
            ("é".as_bytes(), 2, "é"),
            ("ab😀c".as_bytes(), 5, "ab…"),
            (&[0x80; 9], 5, "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}…"),
        ];
        for (value, most, expected) in cases {
            assert_eq!(
                object(|object| object.text(key!("v"), value, most)),
                format!("{{\"v\":\"{expected}\"}}"),
                "{value:?}"
            );
        }
    }

    #[test]
    fn an_object_without_fields_is_written_as_an_empty_object() {
        assert_eq!(object(|_| ()), "{}");
        assert_eq!(object(|object| object.text(key!("v"), b"", 9)), "{}");
    }

    #[test]
    fn days_are_converted_to_calendar_dates() {
        let cases = [
            (0, 0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, 999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400, 1, "2000-02-29T00:00:00.000001Z"),
            (1_709_251_199, 0, "2024-02-29T23:59:59.000000Z"),
            (1_735_689_599, 0, "2024-12-31T23:59:59.000000Z"),
            (1_798_761_600, 42, "2027-01-01T00:00:00.000042Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000Z"),
        ];
        for (seconds, micros, expected) in cases {
            let mut text = second_text(seconds);
            write_micros(&mut text, micros);
            assert_eq!(str::from_utf8(&text), Ok(expected));
        }
    }

    #[test]
    fn every_day_of_a_thousand_years_is_the_day_after_the_one_before() {
        let leap =
            |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let length = |year, month| match month {
            2 if leap(year) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        for day in 0..365_250 {
            let (year, month, of_month) = civil(day);
            let next = match (month, of_month) {
                (12, 31) => (year + 1, 1, 1),
                _ if of_month == length(year, month) => (year, month + 1, 1),
                _ => (year, month, of_month + 1),
            };
            assert_eq!(civil(day + 1), next, "after day {day}");
        }
    }

    proptest! {
        #[test]
        fn any_address_is_written_as_it_is_displayed(address: SocketAddr) {
            let line = object(|object| object.address(key!("a"), address));
            prop_assert_eq!(line, format!("{{\"a\":\"{address}\"}}"));
        }

        #[test]
        fn any_text_is_read_back_unchanged(text in any::<String>(), number in any::<u64>()) {
            let line = object(|object| {
                object.text(key!("text"), text.as_bytes(), usize::MAX);
                object.number(key!("number"), number);
            });
            let read: Value = serde_json::from_str(&line).expect("valid JSON");
            prop_assert_eq!(read.get("text").and_then(Value::as_str).unwrap_or_default(), text);
            prop_assert_eq!(&read["number"], &Value::from(number));
        }

        #[test]
        fn any_bytes_cut_anywhere_are_one_line_of_json(bytes: Vec<u8>, most in 0_usize..40) {
            let line = object(|object| object.text(key!("text"), &bytes, most));
            prop_assert!(!line.contains(char::is_control));
            let read: Value = serde_json::from_str(&line).expect("valid JSON");
            if bytes.len() <= most && !bytes.is_empty() {
                prop_assert_eq!(read["text"].as_str(), Some(&*String::from_utf8_lossy(&bytes)));
            }
        }
    }
}
