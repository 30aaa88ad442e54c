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
mod tests;
