//! Times as log lines have them, in nanoseconds since 1970 in UTC.
//!
//! Pure. Read are RFC 3339 and its relatives (a space for the T, a comma before the fraction, no offset, which means UTC) and
//! numbers of seconds, milliseconds, microseconds or nanoseconds.

const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400;

/// The time at the beginning of a text, and how many bytes it takes.
pub(crate) fn leading(text: &str) -> Option<(i64, usize)> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| digits(bytes.get(from..to)?);
    // 2026-11-28T17:40:00
    let is_shape = bytes.get(4) == Some(&b'-') || bytes.get(4) == Some(&b'/');
    let is_shape =
        is_shape && bytes.get(7) == bytes.get(4) && matches!(bytes.get(10), Some(b'T' | b't' | b' '));
    (is_shape && bytes.get(13) == Some(&b':') && bytes.get(16) == Some(&b':')).then_some(())?;
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let is_valid =
        (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 61;
    is_valid.then_some(())?;
    let (nanos, end) = fraction(bytes, 19);
    let (offset, end) = offset(bytes, end);
    let seconds = days(year, month, day) * DAY + hour * 3600 + minute * 60 + second - offset;
    Some((seconds.checked_mul(SECOND)?.checked_add(nanos)?, end))
}

/// A text that is a time, from its first byte to its last.
pub(crate) fn whole(text: &str) -> Option<i64> {
    match leading(text) {
        Some((time, end)) => (end == text.len()).then_some(time),
        None => epoch(text),
    }
}

/// A number of seconds, milliseconds, microseconds or nanoseconds since 1970; which of them is seen by its size, for times
/// from 1973 to 2286.
pub(crate) fn epoch(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let unit = match whole.len() {
        9..=10 => SECOND,
        12..=13 => SECOND / 1000,
        15..=16 => 1000,
        18..=19 => 1,
        _ => return None,
    };
    let mut nanos = digits(whole.as_bytes())?.checked_mul(unit)?;
    if !fraction.is_empty() {
        let shown = fraction.as_bytes().get(..fraction.len().min(9))?;
        let scale = 10_i64.pow(u32::try_from(shown.len()).ok()?);
        nanos = nanos.checked_add(digits(shown)?.checked_mul(unit)? / scale)?;
    }
    Some(nanos)
}

fn digits(bytes: &[u8]) -> Option<i64> {
    (!bytes.is_empty() && bytes.len() <= 19).then_some(())?;
    bytes.iter().try_fold(0_i64, |sum, byte| {
        byte.is_ascii_digit().then_some(())?;
        sum.checked_mul(10)?.checked_add(i64::from(byte - b'0'))
    })
}

/// The nanoseconds after a point or a comma, and where they end. Digits after the ninth are read and left out.
fn fraction(bytes: &[u8], at: usize) -> (i64, usize) {
    if !matches!(bytes.get(at), Some(b'.' | b',')) || !bytes.get(at + 1).is_some_and(u8::is_ascii_digit) {
        return (0, at);
    }
    let (mut end, mut nanos, mut scale) = (at + 1, 0, SECOND);
    while let Some(byte) = bytes.get(end).filter(|byte| byte.is_ascii_digit()) {
        scale /= 10;
        nanos += i64::from(byte - b'0') * scale;
        end += 1;
    }
    (nanos, end)
}

/// The seconds by which local time is ahead of UTC, and where that ends: `Z`, `+01:00`, `+0100`, ` +0100` or nothing.
fn offset(bytes: &[u8], at: usize) -> (i64, usize) {
    if matches!(bytes.get(at), Some(b'Z' | b'z')) {
        return (0, at + 1);
    }
    let at_sign = if bytes.get(at) == Some(&b' ') { at + 1 } else { at };
    let sign = match bytes.get(at_sign) {
        Some(b'+') => 1,
        Some(b'-') => -1,
        _ => return (0, at),
    };
    let pair = |from: usize| bytes.get(from..from + 2).and_then(digits);
    let minutes = if bytes.get(at_sign + 3) == Some(&b':') { at_sign + 4 } else { at_sign + 3 };
    match (pair(at_sign + 1), pair(minutes)) {
        (Some(hours @ 0..=23), Some(mins @ 0..=59)) => (sign * (hours * 3600 + mins * 60), minutes + 2),
        _ => (0, at),
    }
}

/// The days from 1970 to a day of the Gregorian calendar (days_from_civil of Howard Hinnant).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// A time by the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Calendar {
    pub(crate) year: i64,
    pub(crate) month: u8,
    pub(crate) day: u8,
    pub(crate) hour: u8,
    minute: u8,
    second: u8,
    nanos: u32,
}

/// civil_from_days of Howard Hinnant.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "remainders are small and not negative"
)]
pub(crate) fn calendar(time: i64) -> Calendar {
    let (seconds, nanos) = (time.div_euclid(SECOND), time.rem_euclid(SECOND));
    let (days, of_day) = (seconds.div_euclid(DAY) + 719_468, seconds.rem_euclid(DAY));
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    Calendar {
        year: year_of_era + era * 400 + i64::from(month <= 2),
        month: month as u8,
        day: (of_year - (153 * shifted + 2) / 5 + 1) as u8,
        hour: (of_day / 3600) as u8,
        minute: (of_day / 60 % 60) as u8,
        second: (of_day % 60) as u8,
        nanos: nanos as u32,
    }
}

/// Writes a time by RFC 3339, with as many digits as it needs: three, six or nine.
pub(crate) fn write(time: i64, to: &mut Vec<u8>) {
    let Calendar { year, month, day, hour, minute, second, nanos } = calendar(time);
    let pair =
        |to: &mut Vec<u8>, number: u8| to.extend_from_slice(&[b'0' + number / 10 % 10, b'0' + number % 10]);
    let year = u32::try_from(year.clamp(0, 9999)).unwrap_or(0);
    decimal(to, year, 4);
    for (before, number) in [(b'-', month), (b'-', day), (b'T', hour), (b':', minute), (b':', second)] {
        to.push(before);
        pair(to, number);
    }
    to.push(b'.');
    match nanos {
        _ if nanos % 1_000_000 == 0 => decimal(to, nanos / 1_000_000, 3),
        _ if nanos % 1000 == 0 => decimal(to, nanos / 1000, 6),
        _ => decimal(to, nanos, 9),
    }
    to.push(b'Z');
}

/// A number with this many digits.
#[allow(clippy::cast_possible_truncation, reason = "a digit is below ten")]
pub(crate) fn decimal(to: &mut Vec<u8>, number: u32, digits: u32) {
    for place in (0..digits).rev() {
        to.push(b'0' + (number / 10_u32.pow(place) % 10) as u8);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(time: i64) -> String {
        let mut text = Vec::new();
        write(time, &mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn times_are_read_in_the_forms_that_programs_write() {
        for (text, expected) in [
            ("2026-11-28T17:40:01Z", "2026-11-28T17:40:01.000Z"),
            ("2026-11-28T17:40:01.5Z", "2026-11-28T17:40:01.500Z"),
            ("2026-11-28 17:40:01,123", "2026-11-28T17:40:01.123Z"),
            ("2026/11/28 17:40:01", "2026-11-28T17:40:01.000Z"),
            ("2026-11-28T17:40:01.123456789+01:00", "2026-11-28T16:40:01.123456789Z"),
            ("2026-11-28 17:40:01 -0130", "2026-11-28T19:10:01.000Z"),
            ("2000-02-29T00:00:00Z", "2000-02-29T00:00:00.000Z"),
            ("1764351601", "2025-11-28T17:40:01.000Z"),
            ("1764351601.25", "2025-11-28T17:40:01.250Z"),
            ("1764351601123", "2025-11-28T17:40:01.123Z"),
            ("1764351601123456", "2025-11-28T17:40:01.123456Z"),
            ("1764351601123456789", "2025-11-28T17:40:01.123456789Z"),
        ] {
            assert_eq!(whole(text).map(written).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "",
            "now",
            "2026-13-28T17:40:01Z",
            "2026-11-28T25:40:01Z",
            "2026-11-28",
            "42",
            "2026-11-28T17:40:01Zx",
            "1764351601x",
            "-1764351601",
        ] {
            assert_eq!(whole(text), None, "{text}");
        }
    }

    #[test]
    fn a_time_may_be_the_beginning_of_a_line() {
        assert_eq!(leading("2026-11-28 17:40:01 INFO ready").map(|(_, end)| end), Some(19));
        assert_eq!(leading("2026-11-28T17:40:01.123Z").map(|(_, end)| end), Some(24));
        assert_eq!(leading("2026-11-28 17:40:01.123 -- x").map(|(_, end)| end), Some(23));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_written_time_is_read_back(time in 0_i64..4_000_000_000_000_000_000) {
            prop_assert_eq!(whole(&written(time)), Some(time));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9T:.,Z+ /-]{0,40}") {
            whole(&text);
        }
    }
}
