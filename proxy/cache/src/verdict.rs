//! Whether a stored answer may be used for a request, and how (RFC 9111, 4).

use std::time::Instant;

use crate::directives::RequestDirectives;
use crate::{Asked, Stored};

/// How a stored answer may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// As it is.
    AsIs,
    /// As it is, while it is validated in the background (RFC 5861, 3).
    WhileValidated,
    /// Only after the service has said that it still holds. `is_stale`: because of its age, and not of the request.
    Validated { is_stale: bool },
    /// Not at all: the request has credentials, and the answer is not meant for those who have.
    NotAtAll,
}

/// How `stored` may be used for a request.
pub fn judge(stored: &Stored, asked: &Asked, now: Instant) -> Use {
    if asked.is_authorized && !stored.facts.is_for_all() {
        return Use::NotAtAll;
    }
    let (age, ttl) = (stored.age(now), stored.ttl(now));
    let is_stale = ttl <= 0;
    let RequestDirectives { no_cache, max_age, min_fresh, max_stale, .. } = asked.directives;
    let is_too_old = max_age.is_some_and(|most| age > most || most == 0);
    if no_cache || stored.facts.directives.no_cache || is_too_old || is_wrong_guess(stored, asked) {
        return Use::Validated { is_stale };
    }
    if !is_stale {
        let is_fresh_enough = min_fresh.is_none_or(|least| ttl.unsigned_abs() >= least);
        return if is_fresh_enough { Use::AsIs } else { Use::Validated { is_stale: false } };
    }
    let staleness = ttl.unsigned_abs();
    if stored.facts.forbids_stale() || min_fresh.is_some() {
        return Use::Validated { is_stale: true };
    }
    if max_stale.is_some_and(|most| staleness <= most) {
        return Use::AsIs;
    }
    let window = stored.facts.directives.stale_while_revalidate.filter(|_| max_age.is_none());
    match window.is_some_and(|most| staleness <= most) {
        true => Use::WhileValidated,
        false => Use::Validated { is_stale: true },
    }
}

/// Whether the lifetime is a guess that the request makes doubtful: the service may have a page of its own for the
/// owner of the cookie.
const fn is_wrong_guess(stored: &Stored, asked: &Asked) -> bool {
    asked.has_cookie && !stored.is_explicit()
}

/// Whether `stored` may be used although the service cannot answer (RFC 5861, 4; RFC 9111, 4.2.4). `by_config`: the
/// seconds that the configuration allows.
pub fn may_stand_in(stored: &Stored, asked: &Asked, by_config: u64, now: Instant) -> bool {
    let RequestDirectives { no_cache, stale_if_error, .. } = asked.directives;
    if no_cache || stored.facts.forbids_stale() || judge(stored, asked, now) == Use::NotAtAll {
        return false;
    }
    let by_answer = stored.facts.directives.stale_if_error.unwrap_or(0);
    let most = by_config.max(by_answer).max(stale_if_error.unwrap_or(0));
    let ttl = stored.ttl(now);
    let is_fresh = ttl > 0 && !is_wrong_guess(stored, asked);
    is_fresh || (most > 0 && ttl.min(0).unsigned_abs() <= most)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
    use pillion_http::message::Headers;

    use super::*;
    use crate::stored::{Head, Times};
    use crate::vary::Selector;
    use crate::{AnswerFacts, Clock};

    fn headers(name: &'static str, value: &str) -> Headers {
        let value = HeaderValue::from_str(value).unwrap();
        Headers::Map([(HeaderName::from_static(name), value)].into_iter().collect::<HeaderMap>())
    }

    #[test]
    fn a_guessed_lifetime_does_not_count_for_a_request_with_a_cookie() {
        let modified = httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(1_999_000_000));
        let (asked, now) = (Asked { has_cookie: true, ..Asked::default() }, Instant::now());
        for (fields, expected) in [
            (headers("last-modified", &modified), Use::Validated { is_stale: false }),
            (headers("cache-control", "max-age=60"), Use::AsIs),
        ] {
            let of = stored_with(now, fields);
            assert_eq!((judge(&of, &Asked::default(), now), judge(&of, &asked, now)), (Use::AsIs, expected));
            assert_eq!(may_stand_in(&of, &asked, 0, now), expected == Use::AsIs);
        }
    }

    /// A stored answer with these directives, and the time `after` seconds later.
    fn stored(cache_control: &str, after: u64) -> (Stored, Instant) {
        let now = Instant::now();
        (stored_with(now, headers("cache-control", cache_control)), now + Duration::from_secs(after))
    }

    fn stored_with(at: Instant, headers: Headers) -> Stored {
        let now = Clock { at, wall: 2_000_000_000 };
        let facts = AnswerFacts::of(StatusCode::OK, &headers);
        let (status, reason, selector) = (StatusCode::OK, None, Selector::default());
        let head =
            Head { status, reason, headers, facts, selector, times: Times { asked: now, received: now } };
        head.with(b"")
    }

    fn asked(cache_control: &str) -> Asked {
        Asked::of(&headers("cache-control", cache_control))
    }

    #[test]
    fn a_fresh_answer_is_used_unless_the_request_or_the_answer_says_otherwise() {
        let validated = Use::Validated { is_stale: false };
        for (answer, request, after, expected) in [
            ("max-age=60", "ext", 59, Use::AsIs),
            ("max-age=60, must-revalidate", "ext", 59, Use::AsIs),
            ("max-age=60", "no-cache", 0, validated),
            ("max-age=60", "max-age=0", 0, validated),
            ("max-age=60", "max-age=5", 5, Use::AsIs),
            ("max-age=60", "max-age=5", 6, validated),
            ("max-age=60", "min-fresh=10", 50, Use::AsIs),
            ("max-age=60", "min-fresh=10", 51, validated),
            ("max-age=60, no-cache", "ext", 0, validated),
        ] {
            let (of, now) = stored(answer, after);
            assert_eq!(judge(&of, &asked(request), now), expected, "{answer} {request} {after}");
        }
    }

    #[test]
    fn a_stale_answer_is_validated_unless_staleness_is_allowed() {
        let validated = Use::Validated { is_stale: true };
        for (answer, request, after, expected) in [
            ("max-age=60", "ext", 60, validated),
            ("max-age=60", "max-stale=5", 65, Use::AsIs),
            ("max-age=60", "max-stale=5", 66, validated),
            ("max-age=60", "max-stale", 6000, Use::AsIs),
            ("max-age=60, must-revalidate", "max-stale", 61, validated),
            ("max-age=60, proxy-revalidate", "max-stale", 61, validated),
            ("s-maxage=60", "max-stale", 61, validated),
            ("max-age=60, stale-while-revalidate=5", "ext", 65, Use::WhileValidated),
            ("max-age=60, stale-while-revalidate=5", "ext", 66, validated),
            ("max-age=60, stale-while-revalidate=5", "max-age=99", 62, validated),
            ("max-age=60, stale-while-revalidate=5", "min-fresh=1", 62, validated),
            ("max-age=60, stale-while-revalidate=5, must-revalidate", "ext", 62, validated),
        ] {
            let (of, now) = stored(answer, after);
            assert_eq!(judge(&of, &asked(request), now), expected, "{answer} {request} {after}");
        }
    }

    #[test]
    fn a_request_with_credentials_gets_only_what_is_meant_for_all() {
        let with = |answer| {
            let (of, now) = stored(answer, 0);
            judge(&of, &Asked { is_authorized: true, ..Asked::default() }, now)
        };
        assert_eq!(with("max-age=60"), Use::NotAtAll);
        assert_eq!(with("max-age=60, public"), Use::AsIs);
        assert_eq!(with("s-maxage=60"), Use::AsIs);
    }

    #[test]
    fn a_stale_answer_stands_in_for_an_error_as_long_as_someone_allows_it() {
        for (answer, request, by_config, after, expected) in [
            ("max-age=60", "ext", 0, 61, false),
            ("max-age=60", "ext", 10, 70, true),
            ("max-age=60", "ext", 10, 71, false),
            ("max-age=60, stale-if-error=10", "ext", 0, 70, true),
            ("max-age=60, stale-if-error=10", "ext", 0, 71, false),
            ("max-age=60", "stale-if-error=10", 0, 70, true),
            ("max-age=60", "stale-if-error=10", 0, 71, false),
            ("max-age=60, stale-if-error=10", "no-cache", 10, 0, false),
            ("max-age=60", "max-age=0", 0, 0, true),
            ("max-age=60, must-revalidate, stale-if-error=10", "ext", 10, 61, false),
            ("max-age=60, proxy-revalidate", "ext", 10, 61, false),
            ("max-age=60, no-cache", "ext", 10, 61, false),
            ("max-age=60, s-maxage=60", "ext", 10, 61, false),
        ] {
            let (of, now) = stored(answer, after);
            let found = may_stand_in(&of, &asked(request), by_config, now);
            assert_eq!(found, expected, "{answer} {request} {by_config} {after}");
        }
    }
}
