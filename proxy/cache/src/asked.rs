//! What the head of a request asks of caches.

use pillion_http::message::Headers;
use pillion_http1::Known;

use crate::directives::RequestDirectives;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    pub directives: RequestDirectives,
    pub is_authorized: bool,
    pub has_cookie: bool,
    /// It has `If-None-Match` or `If-Modified-Since`: its client has an answer already.
    pub is_conditional: bool,
    /// It has `Range`.
    pub is_ranged: bool,
    /// It has `If-Match` or `If-Unmodified-Since`, which the origin judges.
    pub has_precondition: bool,
}

impl Asked {
    /// Whether its answer may be made for one client.
    pub const fn has_credentials(&self) -> bool {
        self.is_authorized || self.has_cookie
    }

    pub fn of(headers: &Headers) -> Self {
        let mut directives = RequestDirectives::default();
        let mut lines = headers.all(Known::CacheControl).peekable();
        match lines.peek() {
            Some(_) => lines.for_each(|line| directives.read(line)),
            // `Pragma` counts only beside no `Cache-Control` (RFC 9111, 5.4)
            None => {
                directives.no_cache =
                    headers.get(Known::Pragma).is_some_and(|value| value.eq_ignore_ascii_case(b"no-cache"));
            }
        }
        Self {
            directives,
            is_authorized: headers.has(Known::Authorization),
            has_cookie: headers.has(Known::Cookie),
            is_conditional: headers.has(Known::IfNoneMatch) || headers.has(Known::IfModifiedSince),
            is_ranged: headers.has(Known::Range),
            has_precondition: headers.has(Known::IfMatch) || headers.has(Known::IfUnmodifiedSince),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::*;

    fn asked(fields: &[(&'static str, &'static str)]) -> Asked {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        Asked::of(&Headers::Map(fields.iter().map(pair).collect::<HeaderMap>()))
    }

    #[test]
    fn pragma_counts_only_without_cache_control() {
        assert!(asked(&[("pragma", "No-Cache")]).directives.no_cache);
        assert!(!asked(&[("pragma", "no-cache"), ("cache-control", "ext")]).directives.no_cache);
        assert!(!asked(&[("pragma", "ext")]).directives.no_cache);
    }
}
