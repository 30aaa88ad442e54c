//! `/tap`: the exchanges as they end, one line of JSON for each.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::StatusCode;
use hyper::body::{Body, Bytes, Frame};
use pillion_sidecar::taps::{HeaderList, Tap, Tapped, Taps};
use serde_json::{Value, json};
use tokio::time::{Sleep, sleep};

use super::answer::{Reply, ReplyBody, answered, text};
use super::requests::{Statuses, duration, row, stages, statuses};

/// How long a tap is open if the request does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// A tap that is forgotten costs time for each request, so it ends.
pub(super) const LONGEST: Duration = Duration::from_secs(3600);
/// How many exchanges a tap shows if the request does not say.
const DEFAULT_LIMIT: usize = 100;
const MOST: usize = 1_000_000;
/// Records that are looked at in a row, before other connections of the port have their turn.
const BATCH: usize = 64;

/// What a request for `/tap` asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    service: Option<String>,
    /// The beginning of the path.
    path: Option<String>,
    status: Option<Statuses>,
    limit: usize,
    timeout: Duration,
    headers: bool,
}

impl Wanted {
    /// Parses a query, such as `service=orders&status=5xx&limit=100&timeout=30s&headers=on`.
    ///
    /// # Errors
    /// Returns a sentence that says what to ask for instead.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let (limit, timeout) = (DEFAULT_LIMIT, DEFAULT_TIMEOUT);
        let mut wanted = Self { service: None, path: None, status: None, limit, timeout, headers: false };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "service" => wanted.service = Some(value.into_owned()),
                "path" => wanted.path = Some(value.into_owned()),
                "status" => wanted.status = Some(statuses(&value)?),
                "limit" => {
                    let number = value.parse().ok().filter(|limit| (1..=MOST).contains(limit));
                    wanted.limit = number.ok_or_else(|| format!("limit is a number from 1 to {MOST}"))?;
                }
                "timeout" => {
                    wanted.timeout = duration("timeout", &value)?;
                    if wanted.timeout > LONGEST {
                        return Err(format!("timeout is {value}, above 1h"));
                    }
                }
                "headers" => wanted.headers = on_or_off(&value)?,
                _ => {
                    return Err(
                        "the parameters are service, path, status, limit, timeout and headers".to_owned()
                    );
                }
            }
        }
        Ok(wanted)
    }

    fn takes(&self, tapped: &Tapped) -> bool {
        let kept = &tapped.timeline;
        self.service.as_ref().is_none_or(|service| **service == *kept.service)
            && self.path.as_ref().is_none_or(|path| kept.path.starts_with(&**path))
            && self.status.as_ref().is_none_or(|status| status.takes(kept.status))
    }
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("headers is {text}, and must be on or off")),
    }
}

/// Opens a tap, and answers with what it shows.
pub(super) fn open(taps: &Arc<Taps>, wanted: Wanted) -> Reply {
    let Some(tap) = taps.open(wanted.headers) else {
        const TOO_MANY: &str = "too many taps are open already; close one of them\n";
        return text(StatusCode::TOO_MANY_REQUESTS, TOO_MANY).map(ReplyBody::Whole);
    };
    let (left, until) = (wanted.limit, Box::pin(sleep(wanted.timeout)));
    answered(StatusCode::OK, "application/x-ndjson", ReplyBody::Tap(Lines { tap, wanted, left, until }))
}

/// The body of the answer: it ends when `limit` exchanges were shown, or after `timeout`.
pub(super) struct Lines {
    tap: Tap,
    wanted: Wanted,
    left: usize,
    until: Pin<Box<Sleep>>,
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 || self.until.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        let line = |value: &Value| Poll::Ready(Some(Ok(Frame::data(format!("{value}\n").into()))));
        for _ in 0..BATCH {
            let lost = self.tap.take_lost();
            if lost > 0 {
                return line(&json!({ "lost": lost }));
            }
            match self.tap.poll_next(cx) {
                Poll::Ready(Some(tapped)) if self.wanted.takes(&tapped) => {
                    self.left -= 1;
                    return line(&shown(&tapped, self.wanted.headers));
                }
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn shown(tapped: &Tapped, has_headers: bool) -> Value {
    let mut row = row(&tapped.timeline);
    row.insert("detail".to_owned(), Some(&*tapped.timeline.detail).filter(|text| !text.is_empty()).into());
    row.insert("stages".to_owned(), stages(&tapped.timeline));
    if let Some([asked, answered]) = tapped.headers.as_deref().filter(|_| has_headers) {
        row.insert("request_headers".to_owned(), pairs(asked));
        row.insert("response_headers".to_owned(), pairs(answered));
    }
    row.into()
}

/// A list of pairs, because a name may stand there more than once.
fn pairs(headers: &HeaderList) -> Value {
    headers.iter().map(|(name, value)| json!([name, value])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_understood_or_its_fault_is_named() {
        let asked = Wanted::parse("service=orders&path=/v2&status=404&limit=5&timeout=2s&headers=on");
        let expected = Wanted {
            service: Some("orders".to_owned()),
            path: Some("/v2".to_owned()),
            status: Some(Statuses::One(404)),
            limit: 5,
            timeout: Duration::from_secs(2),
            headers: true,
        };
        assert_eq!(asked, Ok(expected));
        for (query, expected) in [
            ("limit=0", "from 1 to"),
            ("timeout=2h", "above 1h"),
            ("timeout=2", "with its unit"),
            ("headers=yes", "on or off"),
            ("servce=a", "the parameters are"),
        ] {
            let why = Wanted::parse(query).unwrap_err();
            assert!(why.contains(expected), "{query}: {why}");
        }
    }
}
