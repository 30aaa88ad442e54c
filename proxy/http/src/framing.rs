//! Checks the framing of messages that came over HTTP/2 (as a map of fields): `content-length` and the target. Also
//! says which fields may be trailers, for both versions.
//!
//! The functions are pure. They run after a head was read and before it is forwarded, because it may leave over HTTP/1.
//! A head that two readers could frame in two ways is refused, or is rewritten so that only one way is left: requests
//! are smuggled by the difference between two readers (RFC 9112, 11.2).
//!
//! Deliberately absent: the framing of HTTP/1, which `pillion_http1` checks as it reads, and the count of a body's
//! bytes: `pillion_http1` and `h2` report a body that differs from its length as broken off.

use http::header::{self, HeaderName};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};

use crate::message::{Headers, RequestHead};
use crate::seen::Seen;
use pillion_base::error::Error;
use pillion_model::Reason;

/// Why a message cannot be framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("only HTTP/1.1 has Transfer-Encoding (RFC 9112, 6.1)")]
    CodingNotAllowed,
    #[error("its Content-Length is not a single number (RFC 9110, 8.6)")]
    MalformedLength,
    #[error("its target does not begin with a slash")]
    Target,
    #[error("its authority names a user, which is not allowed (RFC 9113, 8.3.1)")]
    Userinfo,
}

impl Fault {
    /// The error for a request with this fault. The end of its body is not certain, so its HTTP/1 connection ends too.
    pub fn refusal(self) -> Error {
        let detail = format!("the request cannot be forwarded: {self}");
        Error::new(Reason::BadRequest, detail).ending_connection()
    }
}

/// Checks the framing of a request, and leaves at most one canonical length.
pub fn check_request(head: &mut RequestHead, seen: &Seen) -> Result<(), Fault> {
    let Headers::Map(headers) = &mut head.headers else { return Ok(()) };
    check_target(&head.method, &head.uri, head.version)?;
    check_lengths(headers, seen)
}

/// Checks the framing of an answer, and leaves at most one canonical length.
pub fn check_answer(status: StatusCode, headers: &mut Headers, seen: &Seen) -> Result<(), Fault> {
    let Headers::Map(headers) = headers else { return Ok(()) };
    if status == StatusCode::NO_CONTENT && seen.has(Seen::CONTENT_LENGTH) {
        headers.remove(header::CONTENT_LENGTH); // must not be there (RFC 9110, 8.6)
        return check_codings(seen);
    }
    check_lengths(headers, seen)
}

/// Checks the target. The URI parser reads `:path: #x` as an empty path with a fragment, and `:path: ?x` as one with a
/// query. The absolute-form of HTTP/1 may leave out the path before a query (RFC 9110, 4.2.1); HTTP/2 may not (RFC
/// 9113, 8.3.1). An asterisk means the whole server, and is allowed only for OPTIONS (RFC 9110, 7.1).
fn check_target(method: &Method, uri: &Uri, version: Version) -> Result<(), Fault> {
    const ROOT: PathAndQuery = PathAndQuery::from_static("/");
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(Fault::Userinfo);
    }
    let Some(target) = uri.path_and_query() else { return Ok(()) };
    match target.as_str() {
        // An empty target is shown as "/", but is not equal to it.
        "/" if *target != ROOT => Err(Fault::Target),
        "*" if method == Method::OPTIONS => Ok(()),
        text if version == Version::HTTP_2 && !text.starts_with('/') => Err(Fault::Target),
        _ => Ok(()),
    }
}

fn check_lengths(headers: &mut HeaderMap, seen: &Seen) -> Result<(), Fault> {
    check_codings(seen)?;
    match seen.has(Seen::CONTENT_LENGTH) {
        true => canonicalise_length(headers),
        false => Ok(()),
    }
}

fn check_codings(seen: &Seen) -> Result<(), Fault> {
    if seen.has(Seen::TRANSFER_ENCODING) { Err(Fault::CodingNotAllowed) } else { Ok(()) }
}

/// Makes the length canonical: several equal ones become one, and `02` becomes `2`, which another reader might take for
/// octal.
fn canonicalise_length(headers: &mut HeaderMap) -> Result<(), Fault> {
    let lines = headers.get_all(header::CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
    let (length, is_canonical) = pillion_http1::length_of(lines).ok_or(Fault::MalformedLength)?;
    if !is_canonical {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(())
}

/// Whether a field may be a trailer. A field that frames, routes, modifies, authorises or describes the content has to
/// come before the content (RFC 9110, 6.5.1). A field that concerns one connection is not forwarded (7.6.1), and HTTP/2
/// refuses to write it.
pub fn may_be_trailer(name: &str) -> bool {
    !matches!(
        name,
        "connection" | "keep-alive" | "proxy-connection" | "te" | "upgrade" // for one connection
            | "transfer-encoding" | "content-length" | "trailer" // frame
            | "host" // routes
            | "cache-control" | "expect" | "max-forwards" | "pragma" | "range" | "if-match" | "if-none-match"
            | "if-modified-since" | "if-unmodified-since" | "if-range" // modify
            | "authorization" | "proxy-authorization" | "authentication-info" | "proxy-authentication-info"
            | "www-authenticate" | "proxy-authenticate" | "cookie" | "set-cookie" // authorise
            | "content-encoding" | "content-type" | "content-range" // describe
    )
}

/// The elements of a header that is a list, over all its lines.
pub(super) fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).iter();
    lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

/// The length that a message announces, after its `content-length` has been checked.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    pillion_http1::length_of([headers.get(header::CONTENT_LENGTH)?.as_bytes()]).map(|(length, _)| length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    fn checked(status: StatusCode, lines: &[(&'static str, &'static str)]) -> Result<HeaderMap, Fault> {
        let map = headers(lines);
        let seen = Seen::in_map(&map);
        let mut headers = Headers::Map(map);
        check_answer(status, &mut headers, &seen)?;
        Ok(headers.into_map().unwrap())
    }

    #[test]
    fn b13_a_length_is_one_canonical_number_or_refused() {
        for (lines, expected) in [
            (&["2"][..], Some("2")),
            (&["0"], Some("0")),
            (&["02"], Some("2")),
            (&["00"], Some("0")),
            (&["2", "2"], Some("2")),
            (&["2", "02"], Some("2")),
            (&["18446744073709551615"], Some("18446744073709551615")),
            (&["18446744073709551616"], None),
            (&[""], None),
            (&["2", ""], None),
            (&["2,"], None),
            (&["2, 2"], None),
            (&["2", "3"], None),
            (&["2, 3"], None),
            (&["+2"], None),
            (&["-2"], None),
            (&["0x2"], None),
            (&["2 2"], None),
            (&["2.0"], None),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| ("content-length", *line)).collect();
            let found = checked(StatusCode::OK, &lines).ok();
            let expected = expected.map(|text| headers(&[("content-length", text)]));
            assert_eq!(found, expected, "{lines:?}");
        }
    }

    #[test]
    fn b5_a_transfer_coding_over_http_2_is_refused() {
        for coding in ["chunked", "gzip", "identity", ""] {
            let lines = [("transfer-encoding", coding), ("content-length", "2")];
            assert_eq!(checked(StatusCode::OK, &lines), Err(Fault::CodingNotAllowed), "{coding:?}");
        }
    }

    #[test]
    fn the_length_of_an_answer_that_cannot_have_content_is_removed() {
        let lines = [("content-length", "5"), ("x", "y")];
        assert_eq!(checked(StatusCode::NO_CONTENT, &lines), Ok(headers(&lines[1..])));
        assert_eq!(checked(StatusCode::NOT_MODIFIED, &lines), Ok(headers(&lines)));
    }

    #[test]
    fn b13_a_target_begins_with_a_slash_or_is_the_star_of_options_and_names_no_user() {
        let http2 = |method: Method, authority: &str, path: &str| {
            let mut parts = http::uri::Parts::default();
            parts.scheme = Some(http::uri::Scheme::HTTP);
            parts.authority = Some(authority.parse().unwrap());
            parts.path_and_query = Some(path.parse().unwrap());
            check_target(&method, &Uri::from_parts(parts).unwrap(), Version::HTTP_2).is_ok()
        };
        for (path, expected) in
            [("/", true), ("/#x", true), ("*", false), ("/a?b", true), ("#x", false), ("?a", false)]
        {
            assert_eq!(http2(Method::GET, "orders", path), expected, "{path}");
        }
        assert!(http2(Method::OPTIONS, "orders:80", "*"));
        assert!(
            !http2(Method::from_bytes(b"PRI").unwrap(), "orders", "*"),
            "the next hop takes it for a preface"
        );
        for authority in ["user@orders", "orders@other", "user:secret@orders:80"] {
            assert!(!http2(Method::GET, authority, "/"), "{authority}");
        }
        for (target, expected) in [
            ("http://orders", true),
            ("http://orders?a", true),
            ("http://orders#x", false),
            ("orders:80", true),
            ("/", true),
        ] {
            let uri = target.parse().unwrap();
            assert_eq!(check_target(&Method::GET, &uri, Version::HTTP_11).is_ok(), expected, "{target}");
        }
    }
}
