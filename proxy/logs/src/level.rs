//! How severe a record is, as its line says it.

use std::borrow::Cow;

/// The words that lines use, and the level that each means.
const WORDS: [(&str, &str); 19] = [
    ("trace", "trace"),
    ("debug", "debug"),
    ("info", "info"),
    ("information", "info"),
    ("notice", "notice"),
    ("warn", "warn"),
    ("warning", "warn"),
    ("error", "error"),
    ("err", "error"),
    ("severe", "error"),
    ("critical", "critical"),
    ("crit", "critical"),
    ("fatal", "fatal"),
    ("panic", "fatal"),
    ("alert", "alert"),
    ("emerg", "fatal"),
    ("emergency", "fatal"),
    ("verbose", "trace"),
    ("dpanic", "fatal"),
];
/// How far into a line its level is looked for: after a time, a thread and a name.
const LOOKED_AT: usize = 96;
/// The longest word that an application may have for a level.
const LONGEST: usize = 32;

/// The level that a word means.
fn of_word(word: &str) -> Option<&'static str> {
    WORDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(word)).map(|(_, level)| *level)
}

/// The level of a field: a word, or a number of pino and bunyan. Another short word is kept in lower case.
pub(crate) fn of_field(value: &str) -> Option<Cow<'static, str>> {
    let named = match value {
        "10" => Some("trace"),
        "20" => Some("debug"),
        "30" => Some("info"),
        "40" => Some("warn"),
        "50" => Some("error"),
        "60" => Some("fatal"),
        word => of_word(word),
    };
    match named {
        Some(level) => Some(Cow::Borrowed(level)),
        None => {
            let is_word = !value.is_empty()
                && value.len() <= LONGEST
                && value.bytes().all(|byte| byte.is_ascii_alphabetic());
            is_word.then(|| Cow::Owned(value.to_ascii_lowercase()))
        }
    }
}

/// The level that stands near the beginning of a line: a word in capitals (`ERROR`), or in any case within brackets or before a
/// colon (`[warn]`, `error:`).
pub(crate) fn of_line(line: &str) -> Option<&'static str> {
    let bytes = line.as_bytes();
    let end = bytes.len().min(LOOKED_AT);
    let mut at = 0;
    while at < end {
        if !bytes[at].is_ascii_alphabetic() {
            at += 1;
            continue;
        }
        let begin = at;
        while bytes.get(at).is_some_and(u8::is_ascii_alphabetic) {
            at += 1;
        }
        if (3..=11).contains(&(at - begin)) && is_marked(bytes, begin, at) {
            let level = line.get(begin..at).and_then(of_word);
            if level.is_some() {
                return level;
            }
        }
    }
    None
}

/// Whether a word is marked as a level, so that the words of a sentence are not taken for one.
fn is_marked(bytes: &[u8], begin: usize, end: usize) -> bool {
    let before = begin.checked_sub(1).and_then(|at| bytes.get(at));
    let after = bytes.get(end);
    let is_part = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'.' | b'/'))
    };
    let is_capital = bytes.get(begin..end).is_some_and(|word| word.iter().all(u8::is_ascii_uppercase));
    let is_bracketed = matches!(
        (before, after),
        (Some(b'['), Some(b']')) | (Some(b'<'), Some(b'>')) | (Some(b'('), Some(b')'))
    );
    let is_begun = before.is_none_or(u8::is_ascii_whitespace) && after == Some(&b':');
    !is_part(before) && !is_part(after) && (is_capital || is_bracketed || is_begun)
}

/// The severity of syslog (RFC 5424, section 6.2.1).
pub(crate) fn syslog(level: Option<&str>) -> u8 {
    match level.unwrap_or_default() {
        "fatal" => 0,
        "alert" => 1,
        "critical" => 2,
        "error" => 3,
        "warn" => 4,
        "notice" => 5,
        "debug" | "trace" => 7,
        _ => 6,
    }
}

/// The severity number of OpenTelemetry. `None`: the level is not known.
pub(crate) fn opentelemetry(level: Option<&str>) -> Option<u8> {
    Some(match level? {
        "trace" => 1,
        "debug" => 5,
        "info" => 9,
        "notice" => 10,
        "warn" => 13,
        "error" => 17,
        "critical" => 18,
        "alert" => 19,
        "fatal" => 21,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_a_marked_word_near_the_beginning() {
        for (line, expected) in [
            ("2026-11-28 17:40:01 INFO ready", Some("info")),
            ("2026-11-28 17:40:01,123 [main] WARN  org.app - slow", Some("warn")),
            ("[error] 7#7: *1 open() failed", Some("error")),
            ("error: no such file", Some("error")),
            ("E0101 no level", None),
            ("an error came and went", None),
            ("GET /INFO/x 200", None),
            ("ERROR_CODE is 7", None),
            ("<warning> x", Some("warn")),
            ("FATAL", Some("fatal")),
            ("", None),
        ] {
            assert_eq!(of_line(line), expected, "{line}");
        }
        assert_eq!(of_line(&format!("{} ERROR", "x ".repeat(60))), None);
    }

    #[test]
    fn a_field_has_a_word_or_a_number_of_pino() {
        let of = |value| of_field(value).map(Cow::into_owned);
        assert_eq!(of("WARNING").as_deref(), Some("warn"));
        assert_eq!(of("50").as_deref(), Some("error"));
        assert_eq!(of("Audit").as_deref(), Some("audit"));
        assert_eq!((of("7"), of(""), of("not a word")), (None, None, None));
    }
}
