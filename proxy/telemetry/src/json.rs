//! Writes one flat JSON object into a string, without an allocation per field.
//!
//! Values come from peers: control characters, quotes and bytes that are not UTF-8 never leave their string, and
//! nothing a terminal would obey is passed on.

use std::fmt::{Display, Write};
use std::time::{SystemTime, UNIX_EPOCH};

/// An object being written; [`Object::end`] closes it.
pub struct Object<'a> {
    out: &'a mut String,
    first: bool,
}

impl<'a> Object<'a> {
    pub fn begin(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, first: true }
    }

    pub fn end(self) {
        self.out.push('}');
    }

    /// `name` is a plain word of ours and is not escaped.
    fn name(&mut self, name: &str) {
        self.out.push_str(if self.first { "\"" } else { ",\"" });
        self.out.push_str(name);
        self.out.push_str("\":");
        self.first = false;
    }

    /// At most `most` bytes of `value`, then `…`; nothing at all when it is empty. What is not UTF-8 becomes
    /// U+FFFD.
    pub fn text(&mut self, name: &str, value: &[u8], most: usize) {
        if value.is_empty() {
            return;
        }
        self.name(name);
        self.out.push('"');
        let kept = cut(value, most);
        escape(self.out, kept);
        if kept.len() < value.len() {
            self.out.push('…');
        }
        self.out.push('"');
    }

    pub fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        push_number(self.out, value);
    }

    /// For values whose text needs no escaping, such as addresses.
    pub fn plain(&mut self, name: &str, value: impl Display) {
        self.name(name);
        // Writing into a string cannot fail.
        write!(self.out, "\"{value}\"").unwrap_or_default();
    }

    /// RFC 3339 in UTC with microseconds; a clock before 1970 reads as 1970.
    pub fn time(&mut self, name: &str, value: SystemTime) {
        self.name(name);
        let since = value.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.out.push('"');
        push_time(self.out, since.as_secs(), since.subsec_micros());
        self.out.push('"');
    }
}

/// The longest start of `value` within `most` bytes that does not split a character.
fn cut(value: &[u8], most: usize) -> &[u8] {
    if value.len() <= most {
        return value;
    }
    let is_start = |at: &usize| value.get(*at).is_none_or(|byte| byte & 0xc0 != 0x80);
    // A character has at most four bytes; garbage that goes on like one is split anyway.
    let end = (most.saturating_sub(3)..=most).rev().find(is_start).unwrap_or(most);
    value.get(..end).unwrap_or(value)
}

fn escape(out: &mut String, value: &[u8]) {
    for chunk in value.utf8_chunks() {
        escape_str(out, chunk.valid());
        if !chunk.invalid().is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// Copies whole runs: nearly every value is one.
fn escape_str(out: &mut String, mut value: &str) {
    out.reserve(value.len());
    while let Some(at) = value.bytes().position(is_suspect) {
        let (plain, rest) = value.split_at(at);
        out.push_str(plain);
        let mut chars = rest.chars();
        if let Some(suspect) = chars.next() {
            escape_char(out, suspect);
        }
        value = chars.as_str();
    }
    out.push_str(value);
}

/// Bytes that may need escaping; 0xc2 begins the C1 controls, which some terminals obey.
const fn is_suspect(byte: u8) -> bool {
    matches!(byte, 0..=0x1f | b'"' | b'\\' | 0x7f | 0xc2)
}

fn escape_char(out: &mut String, suspect: char) {
    match suspect {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        control if control.is_control() => push_unicode(out, control),
        harmless => out.push(harmless),
    }
}

/// Controls are below U+00A0: two digits say them.
fn push_unicode(out: &mut String, control: char) {
    let code = u32::from(control);
    out.push_str("\\u00");
    for digit in [code >> 4 & 0xf, code & 0xf] {
        out.push(char::from_digit(digit, 16).unwrap_or('0'));
    }
}

/// The digits of `value`; the formatting machinery costs several times as much.
fn push_number(out: &mut String, mut value: u64) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    // Digits are UTF-8.
    out.push_str(str::from_utf8(&digits[at..]).unwrap_or_default());
}

fn push_padded(out: &mut String, value: u64, width: u32) {
    let shorter = |digits: &u32| value < 10u64.pow(*digits);
    (1..width).filter(shorter).for_each(|_| out.push('0'));
    push_number(out, value);
}

fn push_time(out: &mut String, seconds: u64, micros: u32) {
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let parts = [
        (year, 4, '-'),
        (month, 2, '-'),
        (day, 2, 'T'),
        (hour, 2, ':'),
        (minute, 2, ':'),
        (second, 2, '.'),
        (micros.into(), 6, 'Z'),
    ];
    for (value, width, then) in parts {
        push_padded(out, value, width);
        out.push(then);
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
///
/// Years begin in March here, so that the leap day is a year's last and months follow one formula: 153 days in
/// every five of them. The calendar repeats every 400 years, which are 146,097 days.
const fn civil(day: u64) -> (u64, u64, u64) {
    let from_march_0000 = day + 719_468;
    let (cycle, day) = (from_march_0000 / 146_097, from_march_0000 % 146_097);
    // Days of a 4-year, a 100-year and a 400-year span, less one: where leap days pile up or fail to.
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
        let mut line = String::new();
        let mut object = Object::begin(&mut line);
        write(&mut object);
        object.end();
        line
    }

    #[test]
    fn nothing_a_terminal_obeys_gets_through() {
        let line =
            object(|object| object.text("path", "a\u{1b}[2J\u{7f}\u{9b}2J\r\nend é\u{a0}".as_bytes(), 100));
        assert_eq!(line, r#"{"path":"a\u001b[2J\u007f\u009b2J\r\nend é"#.to_owned() + "\u{a0}\"}");
    }

    #[test]
    fn a_long_value_is_cut_between_characters_and_says_so() {
        let cases: [(&[u8], usize, &str); 6] = [
            (b"abc", 3, "abc"),
            (b"abcd", 3, "abc…"),
            ("aé".as_bytes(), 2, "a…"),
            ("é".as_bytes(), 2, "é"),
            ("ab😀c".as_bytes(), 5, "ab…"),
            (&[0x80; 9], 5, "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}…"),
        ];
        for (value, most, told) in cases {
            assert_eq!(
                object(|object| object.text("v", value, most)),
                format!("{{\"v\":\"{told}\"}}"),
                "{value:?}"
            );
        }
    }

    #[test]
    fn days_are_the_calendars() {
        let cases = [
            (0, 0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, 999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400, 1, "2000-02-29T00:00:00.000001Z"),
            (1_709_251_199, 0, "2024-02-29T23:59:59.000000Z"),
            (1_735_689_599, 0, "2024-12-31T23:59:59.000000Z"),
            (1_798_761_600, 42, "2027-01-01T00:00:00.000042Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000Z"),
        ];
        for (seconds, micros, told) in cases {
            let mut out = String::new();
            push_time(&mut out, seconds, micros);
            assert_eq!(out, told);
        }
    }

    #[test]
    fn every_day_of_a_thousand_years_follows_the_one_before() {
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
        fn any_text_is_read_back_as_it_was(text in any::<String>(), number in any::<u64>()) {
            let line = object(|object| {
                object.text("text", text.as_bytes(), usize::MAX);
                object.number("number", number);
            });
            let read: Value = serde_json::from_str(&line).expect("valid JSON");
            prop_assert_eq!(read.get("text").and_then(Value::as_str).unwrap_or_default(), text);
            prop_assert_eq!(&read["number"], &Value::from(number));
        }

        #[test]
        fn any_bytes_cut_anywhere_stay_one_line_of_json(bytes: Vec<u8>, most in 0_usize..40) {
            let line = object(|object| object.text("text", &bytes, most));
            prop_assert!(!line.contains(char::is_control));
            let read: Value = serde_json::from_str(&line).expect("valid JSON");
            if bytes.len() <= most && !bytes.is_empty() {
                prop_assert_eq!(read["text"].as_str(), Some(&*String::from_utf8_lossy(&bytes)));
            }
        }
    }
}
