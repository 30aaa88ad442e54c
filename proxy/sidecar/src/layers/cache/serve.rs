//! Makes an answer of a stored one: 304 where the client has it already, a part where it asks for one, else the whole.

use http::{HeaderValue, Method, StatusCode};
use pillion_cache::Stored;
use pillion_cache::conditional::{is_known, range_fits};
use pillion_cache::range::{Part, part};
use pillion_cache::status::{Told, text};
use pillion_http1::Known;
use pillion_telemetry::CacheOutcome;
use pillion_telemetry::access::FROM_CACHE;
use tokio::time::Instant;

use super::Serving;
use crate::http::{Body, Response};

/// The fields that describe a content, which a 304 does not have. The client goes on with its own answer and the other
/// fields (RFC 9110, 15.4.5).
const OF_CONTENT: [Known; 4] =
    [Known::ContentLength, Known::ContentType, Known::ContentEncoding, Known::ContentRange];

/// The fields that tell of the bytes of one message, which a part of them is not.
const OF_THE_WHOLE: [&str; 2] = ["content-md5", "content-digest"];
/// The fields that a 416 would pass on to its readers' own caches as if they were its own.
const OF_ANOTHER_ANSWER: [&str; 7] = [
    "cache-control",
    "cdn-cache-control",
    "expires",
    "etag",
    "last-modified",
    "content-type",
    "content-encoding",
];

/// Says what the cache did.
pub(super) fn tell(response: &mut Response, told: Told) {
    response.headers_mut().append_text("cache-status", &text(told));
}

impl Serving<'_> {
    pub(super) fn count(&self, outcome: CacheOutcome) {
        if let Some(route) = &self.common.route {
            route.cluster.metrics().cache_requests(outcome).inc();
        }
    }

    /// The stored answer, fresh or stale.
    pub(super) fn hit(&self, stored: &Stored) -> Response {
        let ttl = stored.ttl(Instant::now().into_std());
        let outcome = if ttl > 0 { CacheOutcome::Hit } else { CacheOutcome::Stale };
        self.hit_as(stored, Told::Hit { ttl }, outcome)
    }

    /// The stored answer in place of one that the service would have given.
    pub(super) fn hit_as(&self, stored: &Stored, told: Told, outcome: CacheOutcome) -> Response {
        self.count(outcome);
        let exchange = &self.common.exchange;
        if outcome != CacheOutcome::Revalidated && exchange.worker.records() {
            exchange.note(|facts| facts.common.detail = Some(FROM_CACHE.into()));
        }
        let mut response = self.of_stored(stored);
        let head = response.head_mut();
        head.headers.append_text("age", &stored.age(Instant::now().into_std()).to_string());
        tell(&mut response, told);
        response
    }

    fn of_stored(&self, stored: &Stored) -> Response {
        let request = &self.head.headers;
        let mut response = Response::new(stored.status, Body::empty());
        let head = response.head_mut();
        (head.headers, head.spelling) = (stored.headers.clone(), stored.spelling.clone());
        head.reason.clone_from(&stored.reason);
        let is_whole = stored.status == StatusCode::OK;
        if is_whole && self.asked.is_conditional && is_known(request, &stored.headers, stored.received().wall)
        {
            (head.status, head.reason) = (StatusCode::NOT_MODIFIED, None);
            for name in OF_CONTENT {
                head.headers.remove(name);
            }
            return response;
        }
        if self.head.method == Method::HEAD {
            return response;
        }
        let wanted = request.get(Known::Range).filter(|_| is_whole && range_fits(request, &stored.headers));
        match wanted.map_or(Part::Whole, |value| part(value, stored.body.len())) {
            Part::Whole => response.map(|_| of(stored.body.bytes().clone())),
            Part::Bytes(range) => {
                let (length, last) = (stored.body.len(), range.end.saturating_sub(1));
                let of_whole = format!("bytes {}-{last}/{length}", range.start);
                let body = stored.body.bytes().slice(range);
                partial(&mut response, StatusCode::PARTIAL_CONTENT, &of_whole, body.len());
                response.map(|_| of(body))
            }
            Part::Unsatisfiable => {
                let of_whole = format!("bytes */{}", stored.body.len());
                partial(&mut response, StatusCode::RANGE_NOT_SATISFIABLE, &of_whole, 0);
                remove(&mut response, &OF_ANOTHER_ANSWER);
                response
            }
        }
    }
}

fn of(body: bytes::Bytes) -> Body {
    if body.is_empty() { Body::empty() } else { Body::full(body) }
}

fn remove(response: &mut Response, names: &[&str]) {
    let is_named = |name: &[u8]| names.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()));
    response.headers_mut().remove_where(is_named);
}

fn partial(response: &mut Response, status: StatusCode, range: &str, length: usize) {
    let head = response.head_mut();
    (head.status, head.reason) = (status, None);
    head.headers.set_text(Known::ContentRange, range.as_bytes());
    head.headers.set(Known::ContentLength, &HeaderValue::from(length));
    remove(response, &OF_THE_WHOLE);
}
