//! What frames a message: `Transfer-Encoding`, `Content-Length`, the target, and which fields may be trailers.
//!
//! Pure functions over heads, for requests and answers, for HTTP/1 and HTTP/2 alike. They run after a head was read
//! and before anything of it goes on. A head that two readers could frame in two ways is refused, or is rewritten so
//! that only one way is left: the difference between two readers is how requests are smuggled (RFC 9112, 11.2).
//!
//! Deliberately absent: reading chunks and counting the bytes of a body. `pillion_http1` and h2 do that, and they
//! report a body that disagrees with its length as broken off.

use http::header::{self, HeaderName};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, Version};

use crate::message::{Headers, RequestHead};
use crate::seen::Seen;
use pillion_base::error::Error;
use pillion_model::Reason;

/// Why a message cannot be framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("its Transfer-Encoding names a coding besides chunked, and no other is undone here")]
    UnknownCoding,
    #[error("its Transfer-Encoding does not end with its only chunked (RFC 9112, 6.1)")]
    MisplacedChunked,
    #[error("only HTTP/1.1 has Transfer-Encoding (RFC 9112, 6.1)")]
    CodingNotAllowed,
    #[error("it has both a Transfer-Encoding and a Content-Length (RFC 9112, 6.3)")]
    TwoLengths,
    #[error("its Content-Length is not one number (RFC 9110, 8.6)")]
    MalformedLength,
    #[error("its target does not begin with a slash")]
    Target,
}

impl Fault {
    /// The refusal of a request. Where its body ends is not known for certain, so its HTTP/1 connection ends too.
    pub fn refusal(self) -> Error {
        let reason = match self {
            Self::UnknownCoding => Reason::UnsupportedCoding,
            _ => Reason::BadRequest,
        };
        Error::new(reason, format!("the request cannot be forwarded: {self}")).ending_connection()
    }
}

/// Whether an answer said its length in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framed {
    Clearly,
    /// It had both lengths. `Transfer-Encoding` won; its connection must not be used again (RFC 9112, 6.3).
    Twice,
}

/// Checks what frames a request, and leaves one canonical length at most. `Transfer-Encoding` stays for the layer that
/// removes what concerns one connection alone. What came over HTTP/1 was judged when it was read.
pub fn check_request(head: &mut RequestHead, seen: &Seen) -> Result<(), Fault> {
    let Headers::Map(headers) = &mut head.headers else { return Ok(()) };
    check_target(&head.uri, head.version)?;
    if seen.has(Seen::TRANSFER_ENCODING) {
        check_codings(headers, head.version)?;
        if seen.has(Seen::CONTENT_LENGTH) {
            return Err(Fault::TwoLengths);
        }
    }
    match seen.has(Seen::CONTENT_LENGTH) {
        true => canonicalise_length(headers),
        false => Ok(()),
    }
}

/// Checks what frames an answer, and leaves one canonical length at most. What came over HTTP/1 was judged when it was
/// read.
pub fn check_answer(
    status: StatusCode,
    version: Version,
    headers: &mut Headers,
    seen: &Seen,
) -> Result<Framed, Fault> {
    let Headers::Map(headers) = headers else { return Ok(Framed::Clearly) };
    if seen.has(Seen::TRANSFER_ENCODING) {
        check_codings(headers, version)?;
        return Ok(match headers.remove(header::CONTENT_LENGTH) {
            Some(_) => Framed::Twice,
            None => Framed::Clearly,
        });
    }
    if !seen.has(Seen::CONTENT_LENGTH) {
        return Ok(Framed::Clearly);
    }
    if status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH); // must not be there (RFC 9110, 8.6)
    }
    canonicalise_length(headers).map(|()| Framed::Clearly)
}

/// The URI parser takes `:path: #x` for an empty path with a fragment, and `:path: ?x` for one with a query. HTTP/1's
/// absolute-form may leave out the path before a query (RFC 9110, 4.2.1); HTTP/2 may not (RFC 9113, 8.3.1).
fn check_target(uri: &Uri, version: Version) -> Result<(), Fault> {
    const ROOT: PathAndQuery = PathAndQuery::from_static("/");
    let Some(target) = uri.path_and_query() else { return Ok(()) };
    match target.as_str() {
        // An empty one calls itself "/", but is not equal to it.
        "/" if *target != ROOT => Err(Fault::Target),
        text if version == Version::HTTP_2 && !text.starts_with(['/', '*']) => Err(Fault::Target),
        _ => Ok(()),
    }
}

/// Chunked once, last and alone. Empty elements of the list count for nothing (RFC 9110, 5.6.1).
fn check_codings(headers: &HeaderMap, version: Version) -> Result<(), Fault> {
    if version != Version::HTTP_11 {
        return Err(Fault::CodingNotAllowed);
    }
    let (mut chunked, mut others, mut ends_chunked) = (0, 0, false);
    for coding in elements(headers, &header::TRANSFER_ENCODING).filter(|coding| !coding.is_empty()) {
        ends_chunked = coding.eq_ignore_ascii_case(b"chunked");
        if ends_chunked { chunked += 1 } else { others += 1 }
    }
    match (chunked, others) {
        (1, 0) => Ok(()),
        (1, _) if ends_chunked => Err(Fault::UnknownCoding),
        _ => Err(Fault::MisplacedChunked),
    }
}

/// Several equal lengths become one, and `02` becomes `2`: another reader might take it for octal.
fn canonicalise_length(headers: &mut HeaderMap) -> Result<(), Fault> {
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = lines.next() else { return Ok(()) };
    if lines.next().is_none() && is_canonical(first.as_bytes()) {
        return Ok(());
    }
    let mut length = None;
    for text in elements(headers, &header::CONTENT_LENGTH) {
        let this = digits(text).ok_or(Fault::MalformedLength)?;
        if *length.get_or_insert(this) != this {
            return Err(Fault::MalformedLength);
        }
    }
    let length = length.ok_or(Fault::MalformedLength)?;
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    Ok(())
}

fn is_canonical(text: &[u8]) -> bool {
    digits(text).is_some() && (text.len() == 1 || text.first() != Some(&b'0'))
}

fn digits(text: &[u8]) -> Option<u64> {
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    let add = |sum: u64, byte| sum.checked_mul(10)?.checked_add(digit(byte)?);
    (!text.is_empty()).then_some(())?;
    text.iter().try_fold(0, add)
}

/// Whether a field may stand behind a body. What frames, routes, modifies, authorises or describes the content is read
/// before the content comes, or never (RFC 9110, 6.5.1); what concerns one connection goes no further (7.6.1), and HTTP/2
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

/// The length that a message announces, where its `content-length` has been found to be one.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
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

    fn check(status: StatusCode, version: Version, map: &mut HeaderMap) -> Result<Framed, Fault> {
        let seen = Seen::in_map(map);
        let mut headers = Headers::Map(std::mem::take(map));
        let checked = check_answer(status, version, &mut headers, &seen);
        *map = headers.into_map().unwrap();
        checked
    }

    fn coded(lines: &[&'static str], version: Version) -> Result<(), Fault> {
        let lines: Vec<_> = lines.iter().map(|line| ("transfer-encoding", *line)).collect();
        check_codings(&headers(&lines), version)
    }

    #[test]
    fn b5_only_a_single_chunked_is_a_transfer_coding() {
        for (lines, expected) in [
            (&["chunked"][..], Ok(())),
            (&["Chunked"], Ok(())),
            (&["", "chunked"], Ok(())),
            (&[", chunked ,"], Ok(())),
            (&["gzip, chunked"], Err(Fault::UnknownCoding)),
            (&["gzip", "chunked"], Err(Fault::UnknownCoding)),
            (&["deflate,gzip,chunked"], Err(Fault::UnknownCoding)),
            (&["identity, chunked"], Err(Fault::UnknownCoding)),
            (&["gzip"], Err(Fault::MisplacedChunked)),
            (&["identity"], Err(Fault::MisplacedChunked)),
            (&[""], Err(Fault::MisplacedChunked)),
            (&["chunked, gzip"], Err(Fault::MisplacedChunked)),
            (&["chunked", "gzip"], Err(Fault::MisplacedChunked)),
            (&["chunked, chunked"], Err(Fault::MisplacedChunked)),
            (&["chunked", "chunked"], Err(Fault::MisplacedChunked)),
            (&["gzip, chunked, chunked"], Err(Fault::MisplacedChunked)),
            (&["chunked;q=1"], Err(Fault::MisplacedChunked)),
            (&["xchunked"], Err(Fault::MisplacedChunked)),
        ] {
            assert_eq!(coded(lines, Version::HTTP_11), expected, "{lines:?}");
            assert_eq!(coded(lines, Version::HTTP_10), Err(Fault::CodingNotAllowed), "{lines:?}");
            assert_eq!(coded(lines, Version::HTTP_2), Err(Fault::CodingNotAllowed), "{lines:?}");
        }
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
            (&["2, 2"], Some("2")),
            (&["18446744073709551615"], Some("18446744073709551615")),
            (&["18446744073709551616"], None),
            (&[""], None),
            (&["2", ""], None),
            (&["2,"], None),
            (&["2", "3"], None),
            (&["2, 3"], None),
            (&["+2"], None),
            (&["-2"], None),
            (&["0x2"], None),
            (&["2 2"], None),
            (&["2.0"], None),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| ("content-length", *line)).collect();
            let mut map = headers(&lines);
            let found = canonicalise_length(&mut map).ok();
            let kept: Vec<_> = map.get_all("content-length").iter().map(HeaderValue::as_bytes).collect();
            assert_eq!(found.map(|()| kept), expected.map(|text| vec![text.as_bytes()]), "{lines:?}");
        }
    }

    #[test]
    fn b13_a_target_begins_with_a_slash_or_is_a_star() {
        let http2 = |path: &str| {
            let mut parts = http::uri::Parts::default();
            parts.scheme = Some(http::uri::Scheme::HTTP);
            parts.authority = Some(http::uri::Authority::from_static("orders"));
            parts.path_and_query = Some(path.parse().unwrap());
            check_target(&Uri::from_parts(parts).unwrap(), Version::HTTP_2).is_ok()
        };
        for (path, expected) in
            [("/", true), ("/#x", true), ("*", true), ("/a?b", true), ("#x", false), ("?a", false)]
        {
            assert_eq!(http2(path), expected, "{path}");
        }
        for (target, expected) in [
            ("http://orders", true),
            ("http://orders?a", true),
            ("http://orders#x", false),
            ("orders:80", true),
            ("/", true),
            ("*", true),
        ] {
            let uri = target.parse().unwrap();
            assert_eq!(check_target(&uri, Version::HTTP_11).is_ok(), expected, "{target}");
        }
    }

    #[test]
    fn b15_of_two_lengths_in_an_answer_the_coding_wins() {
        let both = [("content-length", "2"), ("transfer-encoding", "chunked")];
        let mut map = headers(&both);
        assert_eq!(check(StatusCode::OK, Version::HTTP_11, &mut map), Ok(Framed::Twice));
        assert_eq!(map, headers(&both[1..]));
        let mut map = headers(&[("content-length", "5")]);
        assert_eq!(check(StatusCode::NO_CONTENT, Version::HTTP_2, &mut map), Ok(Framed::Clearly));
        assert!(map.is_empty());
    }
}
