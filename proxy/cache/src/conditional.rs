//! Whether a client has the stored answer already (RFC 9110, 13; RFC 9111, 4.3.2), and whether a range of it fits what
//! the client has.

use pillion_http::message::Headers;
use pillion_http1::Known;

use crate::answer::date;
use crate::directives::elements;

/// Whether the client's own answer is the stored one, which is then answered with 304. `If-None-Match` goes before
/// `If-Modified-Since`. `received`: when the stored answer came, in seconds since 1970.
pub fn is_known(request: &Headers, stored: &Headers, received: u64) -> bool {
    let mut tags = request.all(Known::IfNoneMatch).peekable();
    if tags.peek().is_some() {
        let own = stored.get(Known::Etag).map(opaque);
        return tags.flat_map(elements).any(|tag| tag == b"*" || own.is_some_and(|own| opaque(tag) == own));
    }
    let Some(since) = request.only(Known::IfModifiedSince).and_then(date) else { return false };
    let of = |name| stored.get(name).and_then(date);
    of(Known::LastModified).or_else(|| of(Known::Date)).unwrap_or(received) <= since
}

/// An entity tag without its mark of weakness: both sides of a comparison may be weak.
pub(crate) fn opaque(tag: &[u8]) -> &[u8] {
    let tag = tag.trim_ascii();
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// Whether a range may be cut out of the stored answer: without `If-Range`, or if that names the stored answer strongly
/// (RFC 9110, 13.1.5).
pub fn range_fits(request: &Headers, stored: &Headers) -> bool {
    let Some(wanted) = request.get(Known::IfRange).map(<[u8]>::trim_ascii) else { return true };
    match date(wanted) {
        Some(_) => stored.get(Known::LastModified).is_some_and(|modified| modified.trim_ascii() == wanted),
        None => {
            let is_strong = wanted.starts_with(b"\"");
            is_strong && stored.get(Known::Etag).is_some_and(|etag| etag.trim_ascii() == wanted)
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::*;

    const OLD: &str = "Wed, 01 Jan 2020 00:00:00 GMT";
    const NEW: &str = "Thu, 02 Jan 2020 00:00:00 GMT";

    fn headers(fields: &[(&'static str, &str)]) -> Headers {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        Headers::Map(map)
    }

    #[test]
    fn an_entity_tag_is_found_in_the_client_s_list_weak_or_strong() {
        let known =
            |tags, etag| is_known(&headers(&[("if-none-match", tags)]), &headers(&[("etag", etag)]), 0);
        assert!(known("\"a\"", "\"a\"") && known("W/\"a\"", "\"a\"") && known("\"a\"", "W/\"a\""));
        assert!(known("\"x\", \"a\" , \"y\"", "\"a\"") && known("*", "\"a\"") && known("\"a,b\"", "\"a,b\""));
        assert!(!known("\"x\"", "\"a\"") && !known("a", "\"a\"") && !known("w/\"a\"", "\"a\""));
        assert!(!is_known(&headers(&[("if-none-match", "\"a\"")]), &headers(&[]), 0));
    }

    #[test]
    fn a_date_is_compared_only_without_entity_tags() {
        let stored = headers(&[("etag", "\"a\""), ("last-modified", OLD)]);
        let known = |request: &[(&'static str, &str)]| is_known(&headers(request), &stored, 0);
        assert!(known(&[("if-modified-since", OLD)]) && known(&[("if-modified-since", NEW)]));
        assert!(known(&[("if-modified-since", "Wednesday, 01-Jan-20 00:00:00 GMT")]), "RFC 850");
        assert!(!known(&[("if-modified-since", NEW), ("if-none-match", "\"x\"")]));
        assert!(!known(&[("if-modified-since", "x")]) && !known(&[]));
        let newer = headers(&[("last-modified", NEW)]);
        assert!(!is_known(&headers(&[("if-modified-since", OLD)]), &newer, 0));
        let dated = headers(&[("date", OLD)]);
        assert!(is_known(&headers(&[("if-modified-since", NEW)]), &dated, 0), "the date stands in");
        assert!(!is_known(&headers(&[("if-modified-since", OLD)]), &headers(&[]), 2_000_000_000));
    }

    #[test]
    fn a_range_fits_the_answer_that_its_client_has_a_part_of() {
        let stored = headers(&[("etag", "\"a\""), ("last-modified", OLD)]);
        let fits = |value| range_fits(&headers(&[("if-range", value)]), &stored);
        assert!(range_fits(&headers(&[]), &stored));
        assert!(fits("\"a\"") && fits(OLD));
        assert!(!fits("\"b\"") && !fits("W/\"a\"") && !fits(NEW) && !fits("x"));
    }
}
