//! A stored answer: its head without what concerns one connection, its whole body, and its age.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use pillion_http::message::Headers;
use pillion_http1::{Known, Spelling};

use crate::answer::Lifetime;
use crate::conditional::opaque;
use crate::content::Content;
use crate::directives::elements;
use crate::vary::{Selector, Vary};
use crate::{AnswerFacts, Clock};

/// 900 bytes: what a stored answer takes beside its head, its body and its key. It is 480 bytes itself; its body
/// has two counts of owners, its fields a table, and a heap rounds each piece up. An answer that was counted as 841
/// bytes when this was 512 took 1,204, and one of 755 took 1,380.
const OVERHEAD: usize = 900;

/// The fields of an answer that are not stored (RFC 9111, 3.1), besides those that `Connection` and the directives
/// name. The age is written anew each time. A cookie is for the client that it was made for.
const NOT_STORED: [&str; 14] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
    "trailer",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "age",
    "set-cookie",
    "set-cookie2",
    "x-pillion-reason",
];

/// The fields that describe the body as it is stored. A 304, or an answer to HEAD, may be made for another coding of it,
/// or for a part (RFC 9111, 3.2).
const OF_THE_BODY: [&str; 8] = [
    "content-length",
    "content-encoding",
    "content-range",
    "content-md5",
    "content-digest",
    "digest",
    "repr-digest",
    "etag",
];

#[derive(Debug, Clone)]
pub struct Stored {
    pub status: StatusCode,
    /// The reason phrase, if it is not the usual one of the status.
    pub reason: Option<Bytes>,
    pub headers: Headers,
    /// How HTTP/1 writes the names of `headers`, where they are a map.
    pub spelling: Spelling,
    pub body: Content,
    pub facts: AnswerFacts,
    /// The fields of the request that chose it.
    pub selector: Selector,
    lifetime: Lifetime,
    /// How old it was when it came.
    age: u64,
    received: Clock,
    /// When its request was sent, or the one that validated it last.
    departed: Instant,
}

/// What an answer to HEAD says of a stored answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Described {
    /// It still holds.
    AsItIs,
    /// It holds no more: a validator or the length is another one.
    Otherwise,
    /// Nothing: there is no validator to compare.
    Vaguely,
}

/// When a request was sent, and when its answer came.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub asked: Clock,
    pub received: Clock,
}

/// The head of an answer on its way into the cache.
#[derive(Debug, Clone)]
pub struct Head {
    pub status: StatusCode,
    pub reason: Option<Bytes>,
    pub headers: Headers,
    pub facts: AnswerFacts,
    pub selector: Selector,
    pub times: Times,
}

impl Head {
    /// The answer with its whole body, of which a copy is kept: the body itself may be a small part of a large buffer.
    pub fn with(self, body: &[u8]) -> Stored {
        self.holding(body.into())
    }

    pub fn holding(self, body: Box<[u8]>) -> Stored {
        let Self { status, reason, mut headers, facts, selector, times } = self;
        remove_unstored(&mut headers, &facts.directives.withheld);
        detach(&mut headers);
        if !headers.has(Known::ContentLength) && status != StatusCode::NO_CONTENT {
            headers.set(Known::ContentLength, &HeaderValue::from(body.len()));
        }
        let spelling = match &headers {
            Headers::Text(fields) => Spelling::of(fields),
            Headers::Map(_) => Spelling::LOWER,
        };
        let (lifetime, age) = (facts.lifetime(times.received), facts.age(times.asked, times.received));
        let reason = reason.map(|reason| Bytes::copy_from_slice(&reason));
        let (body, received, departed) = (Content::new(body), times.received, times.asked.at);
        Stored { status, reason, headers, spelling, body, facts, selector, lifetime, age, received, departed }
    }
}

impl Head {
    /// Whether the answer is fresh when it comes, and may be used without being validated each time.
    pub fn begins_fresh(&self) -> bool {
        let Times { asked, received } = self.times;
        self.facts.lifetime(received).seconds > self.facts.age(asked, received)
            && !self.facts.directives.no_cache
    }
}

/// Copies the values of a map into one buffer. They are parts of what was read from a connection, and would keep all of
/// it in memory. The fields of HTTP/1 have a text of their own already.
fn detach(headers: &mut Headers) {
    let Headers::Map(map) = headers else { return };
    let mut text = Vec::with_capacity(map.values().map(HeaderValue::len).sum());
    map.values().for_each(|value| text.extend_from_slice(value.as_bytes()));
    let mut text = Bytes::from(text);
    for value in map.values_mut() {
        let own = text.split_to(value.len().min(text.len()));
        // the bytes are those of a value, and are one again
        if let Ok(own) = HeaderValue::from_maybe_shared(own) {
            *value = own;
        }
    }
}

fn remove_unstored(headers: &mut Headers, withheld: &[Box<str>]) {
    let named: Vec<Vec<u8>> =
        headers.all(Known::Connection).flat_map(elements).map(<[u8]>::to_ascii_lowercase).collect();
    let is_unstored = |name: &[u8]| {
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        NOT_STORED.iter().any(|other| is(other.as_bytes()))
            || named.iter().any(|other| is(other))
            || withheld.iter().any(|other| is(other.as_bytes()))
    };
    headers.remove_where(is_unstored);
}

impl Stored {
    /// Its age in seconds (RFC 9111, 4.2.3).
    pub fn age(&self, now: Instant) -> u64 {
        self.age.saturating_add(now.saturating_duration_since(self.received.at).as_secs())
    }

    /// For how many seconds it stays fresh; below 0, for how many it is stale. It is fresh while this is above 0.
    pub fn ttl(&self, now: Instant) -> i64 {
        let seconds = |of: u64| i64::try_from(of).unwrap_or(i64::MAX);
        seconds(self.lifetime.seconds) - seconds(self.age(now))
    }

    /// Whether the answer gave its lifetime itself.
    pub const fn is_explicit(&self) -> bool {
        self.lifetime.is_explicit
    }

    /// When it came.
    pub const fn received(&self) -> Clock {
        self.received
    }

    /// Whether it replaces `other`, if it is the newer one: both are for the same requests, or one of them is for all.
    pub fn competes_with(&self, other: &Self) -> bool {
        self.selector == other.selector || self.selector.is_empty() || other.selector.is_empty()
    }

    /// Whether its request was sent after that of `other`.
    pub fn is_later_than(&self, other: &Self) -> bool {
        self.departed > other.departed
    }

    /// Whether it was fresh when it came, and may be used without being validated each time.
    pub fn begins_fresh(&self) -> bool {
        self.lifetime.seconds > self.age && !self.facts.directives.no_cache
    }

    /// The memory that it takes.
    pub fn bytes(&self) -> usize {
        let fields: usize = match &self.headers {
            Headers::Text(fields) => 64 + fields.text().len() + 16 * fields.len(),
            Headers::Map(map) => {
                map.iter().map(|(name, value)| 104 + name.as_str().len() + value.len()).sum()
            }
        };
        let reason = self.reason.as_ref().map_or(0, Bytes::len);
        OVERHEAD + fields + reason + self.facts.bytes() + self.body.len() + self.selector.bytes()
    }

    /// Whether a 304 is about this answer. One with another entity tag is about another answer (RFC 9111, 4.3.4). A
    /// service that compresses may have made either of the tags weak.
    pub fn is_meant_by(&self, by: &Headers) -> bool {
        let (own, other) = (self.headers.get(Known::Etag), by.get(Known::Etag));
        own.zip(other).is_none_or(|(own, other)| opaque(own) == opaque(other))
    }

    /// This answer with the fields of a 304, or of an answer to HEAD, which freshens it (RFC 9111, 3.2 and 4.3.4). What
    /// describes its body stays ([`OF_THE_BODY`]), and its entity tag is the one that was asked about. Fields that this answer or the
    /// newer one withholds are those of one client, and do not come in. `request` is the one that validated it: it
    /// chooses the answer from now on, by the fields by which the answer varied before, and by those that `by` names. One
    /// that varies by something unknown may not be stored any more.
    pub fn freshened(&self, by: &Headers, request: &Headers, times: Times) -> Self {
        let came = AnswerFacts::of(self.status, by);
        let vary = self.facts.vary.and(&came.vary);
        let mut headers = Headers::Map(self.fields_with(by, &vary));
        let mut facts = AnswerFacts::of(self.status, &headers);
        let withheld = [&*self.facts.directives.withheld, &*facts.directives.withheld].concat();
        remove_unstored(&mut headers, &withheld);
        detach(&mut headers);
        let selector = Selector::of(&vary, request);
        facts.vary = if selector.is_some() { vary } else { Vary::Unknown };
        let selector = selector.unwrap_or_else(|| self.selector.clone());
        let (lifetime, age) = (facts.lifetime(times.received), came.age(times.asked, times.received));
        let (received, departed) = (times.received, times.asked.at);
        Self { headers, facts, selector, lifetime, age, received, departed, ..self.clone() }
    }

    /// The fields of this answer, but for those that `by` has newer. A date of the answer before is never that of the
    /// newer lifetime: without one, the lifetime begins when `by` comes.
    fn fields_with(&self, by: &Headers, vary: &Vary) -> HeaderMap {
        let mut fields: HeaderMap = self.headers.clone().into_map().unwrap_or_default();
        fields.remove(header::DATE);
        let mut newer = by.clone();
        remove_unstored(&mut newer, &[]);
        let newer = newer.into_map().unwrap_or_default();
        for name in newer.keys().filter(|name| !OF_THE_BODY.contains(&name.as_str())) {
            fields.remove(name);
            for value in newer.get_all(name) {
                fields.append(name.clone(), value.clone());
            }
        }
        if by.has(Known::Vary)
            && let Some(names) = vary.written().and_then(|names| HeaderValue::try_from(names).ok())
        {
            fields.insert(header::VARY, names);
        }
        fields
    }

    /// The fields of a 304 that are for the client alone whose request validated this answer: cookies, and what is
    /// withheld from the cache.
    pub fn own_fields(&self, by: &Headers) -> Vec<(HeaderName, HeaderValue)> {
        let withheld = &self.facts.directives.withheld;
        let is_own = |name: &[u8]| {
            name.eq_ignore_ascii_case(b"set-cookie")
                || withheld.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
        };
        let pair =
            |(name, value)| Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?));
        by.iter().filter(|(name, _)| is_own(name)).filter_map(pair).collect()
    }

    /// What an answer to HEAD says of this answer (RFC 9111, 4.3.5). One without the validator of this answer shows no
    /// more than that the target is there.
    pub fn described_by(&self, head: &Headers) -> Described {
        let differs = |name| head.get(name).is_some_and(|other| self.headers.get(name) != Some(other));
        if differs(Known::Etag) || differs(Known::LastModified) || differs(Known::ContentLength) {
            return Described::Otherwise;
        }
        let strongest = [Known::Etag, Known::LastModified].into_iter().find(|name| self.headers.has(*name));
        match strongest.is_some_and(|name| head.has(name)) {
            true => Described::AsItIs,
            false => Described::Vaguely,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> Headers {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        Headers::Map(map)
    }

    fn times() -> Times {
        let now = Clock { at: Instant::now(), wall: 2_000_000_000 };
        Times { asked: now, received: now }
    }

    fn stored(fields: &[(&'static str, &'static str)]) -> Stored {
        let headers = headers(fields);
        let facts = AnswerFacts::of(StatusCode::OK, &headers);
        let (status, reason, selector) = (StatusCode::OK, None, Selector::default());
        Head { status, reason, headers, facts, selector, times: times() }.with(b"body")
    }

    fn all(of: &Stored, name: &str) -> Vec<String> {
        of.headers.named(name).map(|value| String::from_utf8_lossy(value).into_owned()).collect()
    }

    #[test]
    fn what_concerns_one_connection_and_what_the_answer_withholds_is_not_stored() {
        let of = stored(&[
            ("connection", "A, close"),
            ("a", "1"),
            ("b", "2"),
            ("c", "3"),
            ("keep-alive", "x"),
            ("proxy-authenticate", "x"),
            ("age", "7"),
            ("cache-control", "max-age=60, no-cache=\"B\""),
            ("set-cookie", "a=b"),
        ]);
        for name in ["connection", "a", "b", "keep-alive", "proxy-authenticate", "age", "set-cookie"] {
            assert!(all(&of, name).is_empty(), "{name}");
        }
        assert_eq!(all(&of, "c"), ["3"]);
        assert_eq!(all(&of, "content-length"), ["4"], "so that an answer to HEAD has it");
    }

    #[test]
    fn the_values_of_a_map_do_not_keep_what_was_read_from_a_connection() {
        let read = Bytes::from(b"max-age=60 and much more that was read".to_vec());
        let mut map = HeaderMap::new();
        let value = HeaderValue::from_maybe_shared(read.slice(..10)).unwrap();
        map.insert("cache-control", value.clone());
        map.append("x", HeaderValue::from_static("1"));
        map.append("x", HeaderValue::from_static(""));
        map.append("x", HeaderValue::from_static("22"));
        drop(value);
        let headers = Headers::Map(map);
        let facts = AnswerFacts::of(StatusCode::OK, &headers);
        let (status, reason, selector) = (StatusCode::OK, None, Selector::default());
        let of = Head { status, reason, headers, facts, selector, times: times() }.with(b"");
        assert!(read.is_unique(), "nothing else holds it");
        assert_eq!(all(&of, "cache-control"), ["max-age=60"]);
        assert_eq!(all(&of, "x"), ["1", "", "22"]);
    }

    #[test]
    fn it_grows_older_on_the_monotonic_clock() {
        let of = stored(&[("cache-control", "max-age=60"), ("age", "7")]);
        assert_eq!(of.ttl(of.received.at), 53);
        let later = of.received.at + Duration::from_millis(60_999);
        assert_eq!((of.age(later), of.ttl(later)), (67, -7));
    }

    #[test]
    fn a_304_replaces_the_fields_that_it_has_and_keeps_those_of_the_body() {
        let of = stored(&[
            ("cache-control", "max-age=1"),
            ("etag", "\"a\""),
            ("content-encoding", "br"),
            ("repr-digest", "sha-256=:1:"),
            ("x", "1"),
            ("x", "2"),
            ("y", "3"),
        ]);
        let by = headers(&[
            ("cache-control", "max-age=60"),
            ("etag", "\"other\""),
            ("content-length", "99"),
            ("content-encoding", "gzip"),
            ("repr-digest", "sha-256=:2:"),
            ("digest", "sha-256=2"),
            ("content-range", "bytes 0-1/99"),
            ("x", "9"),
            ("z", "8"),
            ("connection", "q"),
            ("q", "7"),
            ("age", "5"),
        ]);
        let later = Clock { at: of.received.at + Duration::from_secs(100), wall: of.received.wall + 100 };
        let of = of.freshened(&by, &headers(&[]), Times { asked: later, received: later });
        assert_eq!(of.ttl(later.at), 55);
        let of_body = [("etag", "\"a\""), ("content-length", "4"), ("content-encoding", "br")];
        let of_body = [&of_body[..], &[("repr-digest", "sha-256=:1:")]].concat();
        let expected = [&of_body[..], &[("x", "9"), ("y", "3"), ("z", "8")]].concat();
        assert!(all(&of, "content-range").is_empty() && all(&of, "digest").is_empty());
        for (name, value) in expected {
            assert_eq!(all(&of, name), [value], "{name}");
        }
        assert!(all(&of, "q").is_empty() && all(&of, "connection").is_empty() && of.body.bytes() == "body");
    }

    #[test]
    fn a_304_with_another_tag_is_about_another_answer() {
        let is_meant = |own, other| stored(&[("etag", own)]).is_meant_by(&headers(&[("etag", other)]));
        assert!(is_meant("\"a\"", "\"a\"") && is_meant("\"a\"", "W/\"a\"") && is_meant("W/\"a\"", "\"a\""));
        assert!(
            !is_meant("\"a\"", "\"b\"") && !is_meant("W/\"a\"", "\"b\"") && !is_meant("\"a\"", "W/\"b\"")
        );
        assert!(stored(&[]).is_meant_by(&headers(&[("etag", "\"a\"")])));
        assert!(stored(&[("etag", "\"a\"")]).is_meant_by(&headers(&[])));
    }

    #[test]
    fn the_fields_that_a_304_has_for_one_client_go_to_that_client_alone() {
        let cookie = ("set-cookie", "a=b");
        for (before, newer) in
            [("max-age=1, private=\"x-user\"", "ext"), ("max-age=1", "no-cache=\"X-User\"")]
        {
            let of = stored(&[("cache-control", before), ("etag", "\"a\""), ("x-user", "anna")]);
            let lines: &[_] = match newer {
                "ext" => &[("x-user", "berta"), cookie, ("y", "1")],
                newer => &[("x-user", "berta"), cookie, ("y", "1"), ("cache-control", newer)],
            };
            let by = headers(lines);
            let fresh = of.freshened(&by, &headers(&[]), times());
            assert!(
                all(&fresh, "x-user").is_empty() && all(&fresh, "set-cookie").is_empty(),
                "{before} {newer}"
            );
            assert_eq!(all(&fresh, "y"), ["1"]);
            let own: Vec<_> =
                fresh.own_fields(&by).iter().map(|(name, _)| name.as_str().to_owned()).collect();
            assert_eq!(own, ["x-user", "set-cookie"]);
        }
    }

    #[test]
    fn a_304_that_varies_by_another_field_is_for_the_requests_that_have_its_value() {
        let of = stored(&[("cache-control", "max-age=1"), ("etag", "\"a\"")]);
        let anna = headers(&[("x-user", "anna")]);
        let fresh = of.freshened(&headers(&[("vary", "x-user")]), &anna, times());
        assert!(fresh.selector.fits(&anna) && !fresh.selector.fits(&headers(&[("x-user", "berta")])));
        let again = fresh.freshened(&headers(&[("x", "1")]), &anna, times());
        assert!(again.selector == fresh.selector && again.facts.vary == fresh.facts.vary);
        let unknown = of.freshened(&headers(&[("vary", "*")]), &anna, times());
        assert_eq!(unknown.facts.vary, Vary::Unknown);
    }

    #[test]
    fn a_304_without_a_date_is_fresh_until_it_expires_and_no_longer() {
        let date = |at| httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(at)).leak();
        let (made, now) = (times().received.wall, times().received.at);
        let of = stored(&[("date", date(made)), ("expires", date(made + 60)), ("etag", "\"a\"")]);
        let later = Clock { at: now + Duration::from_secs(3_600), wall: made + 3_600 };
        let ttl = |newer: &[(&'static str, &'static str)]| {
            let by = headers(newer);
            of.freshened(&by, &headers(&[]), Times { asked: later, received: later }).ttl(later.at)
        };
        assert_eq!((of.ttl(of.received.at), ttl(&[("expires", date(made + 3_660))])), (60, 60));
        assert_eq!(ttl(&[("expires", date(made + 3_660)), ("date", date(made + 3_590))]), 60);
        assert_eq!(ttl(&[]), 0, "it has expired, and nothing newer is said");
    }

    #[test]
    fn a_304_that_varies_by_less_leaves_the_answer_to_those_who_chose_it() {
        let anna = headers(&[("x-user", "anna"), ("accept", "a")]);
        let of = stored(&[("cache-control", "max-age=1"), ("vary", "x-user")]);
        let of = of.freshened(&headers(&[("vary", "X-User")]), &anna, times());
        for (newer, expected) in [("accept", "x-user, accept"), ("", "x-user"), ("x-user", "x-user")] {
            let fresh = of.freshened(&headers(&[("vary", newer)]), &anna, times());
            let fresh = fresh.freshened(&headers(&[("x", "1")]), &anna, times());
            assert!(fresh.selector.fits(&anna), "{newer}");
            assert!(!fresh.selector.fits(&headers(&[("x-user", "berta"), ("accept", "a")])), "{newer}");
            assert_eq!(all(&fresh, "vary"), [expected], "caches behind this one read it, too");
        }
    }

    #[test]
    fn an_answer_to_head_describes_the_stored_one_only_if_it_has_its_validator() {
        let (etag, length) = (("etag", "\"a\""), ("content-length", "4"));
        let (modified, later) = (("last-modified", "x"), ("last-modified", "y"));
        for (own, head, expected) in [
            (&[etag][..], &[][..], Described::Vaguely),
            (&[], &[length], Described::Vaguely),
            (&[], &[etag], Described::Otherwise),
            (&[etag], &[etag, length], Described::AsItIs),
            (&[etag], &[("etag", "\"b\"")], Described::Otherwise),
            (&[etag], &[etag, ("content-length", "5")], Described::Otherwise),
            (&[modified], &[modified], Described::AsItIs),
            (&[etag, modified], &[etag], Described::AsItIs),
            (&[etag, modified], &[modified], Described::Vaguely),
            (&[etag, modified], &[etag, later], Described::Otherwise),
        ] {
            assert_eq!(stored(own).described_by(&headers(head)), expected, "{own:?} {head:?}");
        }
    }

    #[test]
    fn everything_that_a_head_makes_it_keep_counts() {
        let bytes = |reason, cache_control| {
            let headers = headers(&[("cache-control", cache_control)]);
            let facts = AnswerFacts::of(StatusCode::OK, &headers);
            let (status, selector) = (StatusCode::OK, Selector::default());
            Head { status, reason, headers, facts, selector, times: times() }.with(b"").bytes()
        };
        let (plain, named) = ("max-age=60, ext=\"xxxxxxxx\"", "max-age=60, private=\"xxxx\"");
        let read = Bytes::from(b"Fine and what was read with it".to_vec());
        assert_eq!(bytes(Some(read.slice(..4)), plain), bytes(None, plain) + 4);
        assert!(read.is_unique(), "nothing else holds it");
        assert!(bytes(None, named) > bytes(None, plain), "the names that are withheld are kept apart");
    }

    #[test]
    fn the_share_of_an_answer_covers_itself_and_the_pieces_that_it_keeps() {
        assert!(size_of::<Stored>() + 256 < OVERHEAD, "{}", size_of::<Stored>());
    }

    #[test]
    fn many_validations_do_not_make_it_larger() {
        let mut of = stored(&[("cache-control", "max-age=1"), ("etag", "\"a\"")]);
        let by = headers(&[("cache-control", "max-age=60"), ("x", "1")]);
        of = of.freshened(&by, &headers(&[]), times());
        let bytes = of.bytes();
        (0..50).for_each(|_| of = of.freshened(&by, &headers(&[]), times()));
        assert_eq!(of.bytes(), bytes);
    }
}
