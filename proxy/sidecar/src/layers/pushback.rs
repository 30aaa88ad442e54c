//! Reads from an answer when its server wants the request again: `retry-after` (RFC 9110, section 10.2.3), and the
//! pushback of gRPC (`grpc-retry-pushback-ms`, gRFC A6).
//!
//! Pure: the caller passes the time of day.

use std::time::{Duration, SystemTime};

use pillion_http::message::Headers;
use pillion_http1::Known;

/// What the server asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// The earliest moment of another try, from now. Other clients were given the same moment, so jitter is added.
    NotBefore(Duration),
    /// The pause before another try. gRPC adds no jitter to it.
    Exactly(Duration),
    /// No further try.
    Never,
}

impl Pushback {
    /// The pushback of gRPC goes before `retry-after`, and is read for a gRPC call alone.
    pub fn of(headers: &Headers, is_grpc: bool, now: SystemTime) -> Option<Self> {
        let grpc = is_grpc.then(|| headers.named("grpc-retry-pushback-ms").next()).flatten();
        match grpc {
            Some(millis) => Some(Self::of_grpc(millis)),
            None => after(headers, now).map(Self::NotBefore),
        }
    }

    /// A value that is not a number is a refusal, as gRFC A6 has it.
    fn of_grpc(millis: &[u8]) -> Self {
        let millis = str::from_utf8(millis).ok().and_then(|text| text.parse().ok());
        millis.map_or(Self::Never, |millis| Self::Exactly(Duration::from_millis(millis)))
    }

    /// The pause before the next try, where `backoff` was drawn for it and the caller waits for `left` longer. `None`:
    /// there is no time for another try, or none is wanted.
    pub fn pause(self, backoff: Duration, left: Duration) -> Option<Duration> {
        let pause = match self {
            Self::NotBefore(after) => after.saturating_add(backoff),
            Self::Exactly(pause) => pause,
            Self::Never => return None,
        };
        (pause < left).then_some(pause)
    }
}

/// The pause that `retry-after` asks for: seconds, or a date, which counts from the answer's own `date` where it has one,
/// so that a wrong clock does no harm. A value in neither form is ignored.
fn after(headers: &Headers, now: SystemTime) -> Option<Duration> {
    let value = headers.text(Known::RetryAfter)?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let from = headers.text(Known::Date).and_then(|date| httpdate::parse_http_date(date).ok());
    Some(until.duration_since(from.unwrap_or(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::*;
    use Pushback::{Exactly, Never, NotBefore};

    const MILLI: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn pushback(fields: &[(&'static str, &str)], is_grpc: bool) -> Option<Pushback> {
        let field = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
        };
        let headers = Headers::Map(fields.iter().map(field).collect::<HeaderMap>());
        let now = httpdate::parse_http_date("Fri, 27 Nov 2026 22:00:00 GMT").expect("a date");
        Pushback::of(&headers, is_grpc, now)
    }

    #[test]
    fn seconds_and_dates_are_read_and_everything_else_is_ignored() {
        let rows = [
            ("0", Some(Duration::ZERO)),
            ("120", Some(SECOND * 120)),
            ("18446744073709551615", Some(Duration::from_secs(u64::MAX))),
            ("18446744073709551616", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
            ("Fri, 27 Nov 2026 22:00:05 GMT", Some(SECOND * 5)),
            ("Friday, 27-Nov-26 22:00:05 GMT", Some(SECOND * 5)),
            ("Fri, 27 Nov 2026 21:00:00 GMT", Some(Duration::ZERO)),
            ("Fri, 99 Nov 2026 22:00:05 GMT", None),
        ];
        for (value, expected) in rows {
            assert_eq!(pushback(&[("retry-after", value)], false), expected.map(NotBefore), "{value}");
        }
    }

    #[test]
    fn a_date_counts_from_the_date_of_its_answer() {
        let fields =
            [("date", "Fri, 27 Nov 2026 10:00:00 GMT"), ("retry-after", "Fri, 27 Nov 2026 10:00:02 GMT")];
        assert_eq!(pushback(&fields, false), Some(NotBefore(SECOND * 2)));
    }

    #[test]
    fn the_pushback_of_grpc_is_read_for_grpc_alone_and_a_bad_or_negative_one_refuses() {
        for (value, expected) in
            [("250", Exactly(MILLI * 250)), ("0", Exactly(Duration::ZERO)), ("-1", Never), ("x", Never)]
        {
            let fields = [("grpc-retry-pushback-ms", value), ("retry-after", "1")];
            assert_eq!(pushback(&fields, true), Some(expected), "{value}");
            assert_eq!(pushback(&fields, false), Some(NotBefore(SECOND)), "{value}");
        }
    }

    #[test]
    fn the_pause_has_to_end_before_the_deadline() {
        assert_eq!(NotBefore(SECOND).pause(MILLI, SECOND * 2), Some(SECOND + MILLI));
        assert_eq!(NotBefore(SECOND).pause(MILLI, SECOND), None);
        assert_eq!(NotBefore(Duration::MAX).pause(MILLI, Duration::MAX), None);
        assert_eq!(Exactly(SECOND).pause(MILLI, SECOND * 2), Some(SECOND));
        assert_eq!(Exactly(SECOND).pause(MILLI, SECOND), None);
        assert_eq!(Never.pause(MILLI, SECOND), None);
    }
}
