//! `/logging`: shows the level of the diagnostics, and changes it while the sidecar runs.

use http::StatusCode;

use super::answer::{Answer, text};
use pillion_telemetry::log;

/// Shows the current filter.
pub(super) fn show() -> Answer {
    match log::level() {
        Some(level) => text(StatusCode::OK, format!("{level}\n")),
        None => text(StatusCode::SERVICE_UNAVAILABLE, "this process has not started its log\n"),
    }
}

/// `query` is like `level=debug`.
pub(super) fn set(query: &str) -> Answer {
    let asked = match asked(query) {
        Ok(asked) => asked,
        Err(why) => return text(StatusCode::BAD_REQUEST, format!("{why}; {HELP}\n")),
    };
    match log::set_level(&asked) {
        Ok(()) => {
            tracing::info!(level = %asked.escape_debug(), "log level set on the admin port");
            text(StatusCode::OK, format!("{asked}\n"))
        }
        Err(log::NotSet::Bad(why)) => text(StatusCode::BAD_REQUEST, format!("{why}; {HELP}\n")),
        Err(none @ log::NotSet::NoLog) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{none}\n")),
    }
}

const HELP: &str = "write ?level=debug (trace, debug, info, warn, error, off) or filters like \
                    ?level=info,pillion::tls=debug";

/// The decoded value of the only parameter.
fn asked(query: &str) -> Result<String, String> {
    let (name, value) = query.split_once('=').unwrap_or((query, ""));
    match name {
        "" => Err("the level is missing".into()),
        "level" if value.contains('&') => Err("the only parameter is level".into()),
        "level" => decoded(value).ok_or_else(|| "the level is not valid UTF-8".into()),
        _ => Err("the only parameter is level".into()),
    }
}

/// Decodes percent-encoding: `%3D` is `=` (RFC 3986, section 2.1). `None`: the result is not a text.
fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [first, tail @ ..] = rest {
        (rest, _) = match (first, tail) {
            (b'%', [high, low, after @ ..]) => (after, bytes.push(hex(*high)? << 4 | hex(*low)?)),
            (b'%', _) => return None,
            (plain, after) => (after, bytes.push(*plain)),
        };
    }
    String::from_utf8(bytes).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_is_the_only_parameter() {
        for (query, level) in [
            ("level=debug", "debug"),
            ("level=info,pillion::tls=debug", "info,pillion::tls=debug"),
            ("level=info%2Cpillion%3A%3Atls%3Ddebug", "info,pillion::tls=debug"),
        ] {
            assert_eq!(asked(query).as_deref(), Ok(level), "{query}");
        }
        for query in ["", "level=a&b=c", "lvl=debug", "level=%", "level=%zz", "level=%ff"] {
            assert!(asked(query).is_err(), "{query}");
        }
    }
}
