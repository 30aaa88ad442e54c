//! What the head of an answer says to caches, whether it may be stored, and how long it is fresh.

use http::StatusCode;
use pillion_http::message::Headers;
use pillion_http1::Known;

use crate::Clock;
use crate::asked::Asked;
use crate::directives::{AnswerDirectives, LONGEST, delta_seconds, elements};
use crate::vary::Vary;

/// 1 d: the longest lifetime that is guessed of an answer that gives none.
const LONGEST_GUESS: u64 = 24 * 60 * 60;

/// What the head of an answer says to caches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerFacts {
    pub status: StatusCode,
    pub directives: AnswerDirectives,
    /// The directives are those of `CDN-Cache-Control`, which replace `Cache-Control` and `Expires` (RFC 9213, 2.1).
    /// But `no-store` and `private` of `Cache-Control` count too: this cache is no CDN, and they may be meant for it.
    is_targeted: bool,
    /// How old the answer was by its own account; 0 where it does not say. What cannot be read, or is there twice, makes
    /// it stale, as such a lifetime does.
    age: u64,
    date: Option<u64>,
    /// `Some(None)`: the field is there and is no date, which means the past (RFC 9111, 5.3).
    expires: Option<Option<u64>>,
    pub last_modified: Option<u64>,
    pub vary: Vary,
    pub has_etag: bool,
    pub sets_cookie: bool,
    /// An event stream has no end.
    is_event_stream: bool,
}

/// Why an answer is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unstorable {
    /// `no-store` of the answer or of its request.
    NoStore,
    /// Only the caller may keep it: `private`, an answer to a request with `Authorization` that is not public, or one
    /// that sets a cookie and gives no lifetime.
    Private,
    /// It varies by something that no cache can know.
    Varies,
    /// A partial answer, an event stream, an answer to what one request demands (412, 416, 417), or a status that
    /// `must-understand` keeps from caches.
    Kind,
    /// It could never be used: it gives no lifetime and has no validator.
    Useless,
}

/// How long an answer is fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    pub seconds: u64,
    /// The answer says so; otherwise it is a guess.
    pub is_explicit: bool,
}

/// The value of a date field, in seconds since 1970.
pub(crate) fn date(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    httpdate::parse_http_date(text).ok().map(crate::seconds)
}

impl AnswerFacts {
    pub fn of(status: StatusCode, headers: &Headers) -> Self {
        let mut facts = Self {
            status,
            directives: AnswerDirectives::default(),
            is_targeted: false,
            age: 0,
            date: headers.get(Known::Date).and_then(date),
            expires: None,
            last_modified: headers.get(Known::LastModified).and_then(date),
            vary: Vary::default(),
            has_etag: headers.has(Known::Etag),
            sets_cookie: headers.has(Known::SetCookie),
            is_event_stream: false,
        };
        facts.read(headers);
        facts
    }

    fn read(&mut self, headers: &Headers) {
        headers.all(Known::Vary).for_each(|line| self.vary.read(line));
        let mut ages = Vec::new();
        let mut targeted = Vec::new();
        for (name, value) in headers.iter() {
            match name.len() {
                3 if name.eq_ignore_ascii_case(b"age") => ages.push(value),
                7 if name.eq_ignore_ascii_case(b"expires") => {
                    let read = date(value.trim_ascii());
                    self.expires = match self.expires {
                        Some(other) if other != read => Some(None),
                        _ => Some(read),
                    };
                }
                17 if name.eq_ignore_ascii_case(b"cdn-cache-control") => targeted.push(value),
                _ => {}
            }
        }
        self.age = match *ages {
            [] => 0,
            // of a list the first one counts (RFC 9111, 5.1)
            [line] => elements(line).next().and_then(delta_seconds).unwrap_or(LONGEST),
            _ => LONGEST,
        };
        headers.all(Known::CacheControl).for_each(|line| self.directives.read(line));
        if let Some(mut directives) = AnswerDirectives::targeted(targeted.into_iter()) {
            directives.forbid_as(&self.directives);
            (self.directives, self.is_targeted) = (directives, true);
        }
        self.is_event_stream = headers.get(Known::ContentType).is_some_and(is_event_stream);
    }

    /// How long it is fresh after it was made, in a shared cache (RFC 9111, 4.2.1). `received`: when it came.
    pub fn lifetime(&self, received: Clock) -> Lifetime {
        let explicit = |seconds| Lifetime { seconds, is_explicit: true };
        if let Some(seconds) = self.directives.s_maxage.or(self.directives.max_age) {
            return explicit(seconds);
        }
        if let (Some(expires), false) = (self.expires, self.is_targeted) {
            let since = self.date.unwrap_or(received.wall);
            return explicit(expires.map_or(0, |at| at.saturating_sub(since)).min(LONGEST));
        }
        Lifetime { seconds: self.guess(received), is_explicit: false }
    }

    /// A tenth of the time for which the content had not changed (RFC 9111, 4.2.2). Nothing is guessed of an answer
    /// that sets a cookie: it was probably made for one client.
    fn guess(&self, received: Clock) -> u64 {
        let may_guess = (self.is_cacheable_by_default() || self.directives.public) && !self.sets_cookie;
        let since = self.last_modified.filter(|_| may_guess && !self.is_targeted);
        let made = self.date.unwrap_or(received.wall);
        since.map_or(0, |since| made.saturating_sub(since) / 10).min(LONGEST_GUESS)
    }

    /// How old it was when it came. `asked`: when its request was sent (RFC 9111, 4.2.3).
    pub fn age(&self, asked: Clock, received: Clock) -> u64 {
        let apparent = self.date.map_or(0, |made| received.wall.saturating_sub(made));
        let delay = received.at.saturating_duration_since(asked.at).as_secs();
        apparent.max(self.age.saturating_add(delay)).min(LONGEST)
    }

    /// Whether a cache may guess a lifetime for the status (RFC 9110, 15.1).
    fn is_cacheable_by_default(&self) -> bool {
        matches!(self.status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
    }

    /// Whether the cache knows what the status means for storing (RFC 9111, 5.2.2.3): those of RFC 9110, without 206
    /// and 304, which are never stored.
    fn is_understood(&self) -> bool {
        matches!(
            self.status.as_u16(),
            200..=205 | 300..=303 | 305 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 500..=505
        )
    }

    /// Whether its content is that of the target, and not that of a part of it, or of what this one request demands by
    /// its conditions, its range or its `Expect`. A request for a range gets the content of the target only by 200.
    fn is_whole(&self, asked: &Asked) -> bool {
        match self.status.as_u16() {
            206 | 304 | 412 | 416 | 417 => false,
            status => !self.status.is_informational() && (status == 200 || !asked.is_ranged),
        }
    }

    /// The memory of the names that it has taken out of the head.
    pub(crate) fn bytes(&self) -> usize {
        let names = match &self.vary {
            Vary::Fields(names) => names.as_slice(),
            Vary::Nothing | Vary::Unknown => &[],
        };
        names.iter().chain(&self.directives.withheld).map(|name| size_of::<Box<str>>() + name.len()).sum()
    }

    /// Whether it could be validated later.
    pub const fn has_validator(&self) -> bool {
        self.has_etag || self.last_modified.is_some()
    }

    /// Whether it may never be used stale without having been validated (RFC 9111, 4.2.4).
    pub const fn forbids_stale(&self) -> bool {
        let AnswerDirectives { must_revalidate, proxy_revalidate, no_cache, s_maxage, .. } = &self.directives;
        *must_revalidate || *proxy_revalidate || *no_cache || s_maxage.is_some()
    }

    /// Whether clients with and without credentials may get it, although its request had `Authorization` (RFC 9111,
    /// 3.5).
    pub const fn is_for_all(&self) -> bool {
        let AnswerDirectives { public, must_revalidate, s_maxage, .. } = &self.directives;
        *public || *must_revalidate || s_maxage.is_some()
    }

    /// Whether the answer to `asked` may be stored (RFC 9111, 3).
    ///
    /// # Errors
    /// Why not.
    pub fn storable(&self, asked: &Asked, received: Clock) -> Result<(), Unstorable> {
        let AnswerDirectives { no_store, private, must_understand, .. } = self.directives;
        if asked.directives.no_store || (no_store && !must_understand) {
            return Err(Unstorable::NoStore);
        }
        if private || (asked.is_authorized && !self.is_for_all()) {
            return Err(Unstorable::Private);
        }
        if !self.is_whole(asked) || self.is_event_stream || (must_understand && !self.is_understood()) {
            return Err(Unstorable::Kind);
        }
        if self.directives.no_cache && !self.has_validator() {
            return Err(Unstorable::Useless); // it would have to be validated, and cannot be
        }
        if self.vary == Vary::Unknown {
            return Err(Unstorable::Varies);
        }
        let Lifetime { seconds, is_explicit } = self.lifetime(received);
        if self.sets_cookie && !is_explicit {
            return Err(Unstorable::Private); // it was probably made for one client
        }
        // A guess may be wrong for a page that was made for a cookie's owner.
        let is_guessed = seconds > 0 && !is_explicit && !asked.has_cookie;
        let may_validate = self.has_validator()
            && (self.is_cacheable_by_default() || self.directives.public || self.directives.no_cache);
        match is_explicit || is_guessed || (may_validate && !asked.has_cookie) {
            true => Ok(()),
            false => Err(Unstorable::Useless),
        }
    }
}

fn is_event_stream(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    essence.eq_ignore_ascii_case(b"text/event-stream")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant, SystemTime};

    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::*;

    /// 2033: dates before and after it can be written.
    const NOW: u64 = 2_000_000_000;

    fn now() -> Clock {
        Clock { at: Instant::now(), wall: NOW }
    }

    fn at(offset: i64) -> String {
        httpdate::fmt_http_date(
            SystemTime::UNIX_EPOCH + Duration::from_secs(NOW.saturating_add_signed(offset)),
        )
    }

    fn facts(status: u16, fields: &[(&'static str, &str)]) -> AnswerFacts {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        AnswerFacts::of(StatusCode::from_u16(status).unwrap(), &Headers::Map(map))
    }

    fn seconds(fields: &[(&'static str, &str)]) -> u64 {
        facts(200, fields).lifetime(now()).seconds
    }

    #[test]
    fn the_lifetime_is_that_of_a_shared_cache() {
        for (cache_control, expected) in [
            ("max-age=60", 60),
            ("max-age=0", 0),
            ("max-age=60, s-maxage=1", 1),
            ("s-maxage=60, max-age=1", 60),
        ] {
            assert_eq!(
                seconds(&[("cache-control", cache_control), ("expires", &at(-9)), ("date", &at(0))]),
                expected
            );
        }
        assert_eq!(
            seconds(&[("cache-control", "max-age=9"), ("cache-control", "s-maxage=1")]),
            1,
            "on two lines"
        );
    }

    #[test]
    fn a_date_of_expiry_counts_from_the_answer_s_own_date() {
        assert_eq!(seconds(&[("expires", &at(30)), ("date", &at(10))]), 20);
        assert_eq!(seconds(&[("expires", &at(30)), ("date", "foo")]), 30, "then from when it came");
        assert_eq!(seconds(&[("expires", &at(300)), ("date", &at(400))]), 0);
        for invalid in ["0", "-1", "Thu, 18 Aug 2050 02:01:18 UTC", "Thu 18 Aug 2050 02:01:18 GMT"] {
            let of = facts(200, &[("expires", invalid), ("last-modified", &at(-9999))]).lifetime(now());
            assert_eq!(of, Lifetime { seconds: 0, is_explicit: true }, "{invalid}");
        }
        assert_eq!(seconds(&[("expires", &at(30)), ("expires", &at(60))]), 0, "two that differ");
    }

    #[test]
    fn an_answer_that_gives_no_lifetime_is_fresh_for_a_tenth_of_its_rest_at_most_for_a_day() {
        let guess = |status, fields: &[(&'static str, &str)]| {
            let of = facts(status, fields).lifetime(now());
            assert!(!of.is_explicit);
            of.seconds
        };
        let (modified, date) = (at(-1000), at(0));
        let fields = [("last-modified", &*modified), ("date", &*date)];
        for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
            assert_eq!(guess(status, &fields), 100, "{status}");
        }
        for status in [201, 202, 302, 403, 500, 502, 503, 504, 599] {
            assert_eq!(guess(status, &fields), 0, "{status}");
        }
        assert_eq!(guess(599, &[fields[0], fields[1], ("cache-control", "public")]), 100);
        assert_eq!(guess(200, &[fields[0], fields[1], ("set-cookie", "a=b")]), 0, "made for one client");
        assert_eq!(guess(200, &[("last-modified", &at(-1_000_000_000)), fields[1]]), LONGEST_GUESS);
        assert_eq!(guess(200, &[]), 0);
    }

    #[test]
    fn the_age_counts_the_way_the_date_and_the_time_of_the_request() {
        let asked = now();
        let received = Clock { at: asked.at + Duration::from_secs(3), wall: NOW + 3 };
        let age = |fields: &[(&'static str, &str)]| facts(200, fields).age(asked, received);
        assert_eq!(age(&[("date", &at(3))]), 3, "the delay");
        assert_eq!(age(&[("date", &at(-7))]), 10, "the date");
        assert_eq!(age(&[("age", "20"), ("date", &at(-7))]), 23);
        assert_eq!(age(&[("age", "7, 99")]), 10, "the first of a list");
        for unreadable in ["abc", "-7", "7.0", "7;a=b", ""] {
            assert_eq!(age(&[("age", unreadable)]), LONGEST, "{unreadable}");
        }
        assert_eq!(age(&[("age", "7"), ("age", "7")]), LONGEST, "on two lines");
        assert_eq!(age(&[("age", "99999999999999999999")]), LONGEST);
    }

    fn storable(
        status: u16,
        fields: &[(&'static str, &str)],
        request: &[(&'static str, &str)],
    ) -> Result<(), Unstorable> {
        let mut map = HeaderMap::new();
        for (name, value) in request {
            map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        facts(status, fields).storable(&Asked::of(&Headers::Map(map)), now())
    }

    #[test]
    fn what_only_its_caller_may_have_is_not_stored() {
        let of = |cache_control, request: &[(&'static str, &str)]| {
            storable(200, &[("cache-control", cache_control)], request)
        };
        let authorized = [("authorization", "Basic YTpi")];
        assert_eq!(of("max-age=60", &[]), Ok(()));
        assert_eq!(of("max-age=60, private", &[]), Err(Unstorable::Private));
        assert_eq!(of("max-age=60", &authorized), Err(Unstorable::Private));
        for shared in ["max-age=60, public", "max-age=60, must-revalidate", "s-maxage=60"] {
            assert_eq!(of(shared, &authorized), Ok(()), "{shared}");
        }
        assert_eq!(of("max-age=60, No-Store", &[]), Err(Unstorable::NoStore));
        assert_eq!(of("max-age=60", &[("cache-control", "no-store")]), Err(Unstorable::NoStore));
        assert_eq!(
            of("max-age=60", &[("cookie", "a=b")]),
            Ok(()),
            "an explicit lifetime was meant for caches"
        );
        let cookie = ("set-cookie", "a=b");
        assert_eq!(storable(200, &[("etag", "\"a\""), cookie], &[]), Err(Unstorable::Private));
        let each_time = [("cache-control", "no-cache"), ("etag", "\"a\""), cookie];
        assert_eq!(storable(200, &each_time, &[]), Err(Unstorable::Private));
        assert_eq!(storable(200, &[("cache-control", "max-age=60"), cookie], &[]), Ok(()));
        let guessed = [("last-modified", &*at(-9999))];
        assert_eq!(storable(200, &guessed, &[]), Ok(()));
        assert_eq!(storable(200, &guessed, &[("cookie", "a=b")]), Err(Unstorable::Useless));
    }

    #[test]
    fn what_could_not_be_used_is_not_stored() {
        let fresh = ("cache-control", "max-age=60");
        assert_eq!(storable(200, &[], &[]), Err(Unstorable::Useless));
        assert_eq!(storable(200, &[("etag", "\"a\"")], &[]), Ok(()), "it can be validated");
        assert_eq!(
            storable(200, &[("cache-control", "max-age=60, no-cache")], &[]),
            Err(Unstorable::Useless)
        );
        assert_eq!(storable(200, &[("cache-control", "no-cache"), ("etag", "\"a\"")], &[]), Ok(()));
        assert_eq!(storable(200, &[fresh, ("vary", "*")], &[]), Err(Unstorable::Varies));
        for status in [206, 304, 412, 416, 417] {
            assert_eq!(storable(status, &[fresh], &[]), Err(Unstorable::Kind), "{status}");
        }
        let ranged = [("range", "bytes=9-")];
        assert_eq!(storable(200, &[fresh], &ranged), Ok(()));
        for status in [404, 301, 503] {
            assert_eq!(storable(status, &[fresh], &ranged), Err(Unstorable::Kind), "{status} for a range");
        }
        assert_eq!(
            storable(200, &[fresh, ("content-type", "Text/Event-Stream; a=b")], &[]),
            Err(Unstorable::Kind)
        );
        for status in [201, 302, 400, 404, 499, 500, 503, 599] {
            assert_eq!(storable(status, &[fresh], &[]), Ok(()), "{status} with an explicit lifetime");
        }
    }

    #[test]
    fn must_understand_replaces_no_store_for_a_status_that_is_understood() {
        let of = |status, cache_control| storable(status, &[("cache-control", cache_control)], &[]);
        assert_eq!(of(200, "max-age=60, no-store, must-understand"), Ok(()));
        assert_eq!(of(599, "max-age=60, no-store, must-understand"), Err(Unstorable::Kind));
        assert_eq!(of(599, "max-age=60, must-understand"), Err(Unstorable::Kind));
    }

    #[test]
    fn the_targeted_field_goes_before_the_others() {
        let of = |targeted, cache_control| {
            facts(
                200,
                &[("cdn-cache-control", targeted), ("cache-control", cache_control), ("expires", &at(99))],
            )
        };
        assert_eq!(of("max-age=60", "max-age=1").lifetime(now()).seconds, 60);
        for strict in ["no-store", "private", "no-store, must-understand"] {
            let of = of("max-age=60, must-understand", strict);
            assert_eq!(of.storable(&Asked::default(), now()).is_err(), strict != "no-store, must-understand");
        }
        assert_eq!(of("max-age=60", "private=\"x\"").directives.withheld, ["x"].map(Box::from));
        assert_eq!(of("max-age=60, &&&", "max-age=1").lifetime(now()).seconds, 1, "ignored as a whole");
        assert!(of("private", "max-age=1").directives.private);
        assert_eq!(of("no-cache", "max-age=1").lifetime(now()).seconds, 0);
    }
}
