//! Headers that the sidecar adds, removes and reads.

use std::time::Duration;

use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};
use pillion_http1::{Known, Misuse, Value};

use crate::framing::{elements, may_be_trailer};
use crate::message::{Headers, remove_if};
use crate::seen::{Seen, claims_identity, is_disguised, is_ours};

const X_FORWARDED: [HeaderName; 3] = [
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
];
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// 128 bytes: a longer request ID is replaced by a new one.
const REQUEST_ID_BYTES: usize = 128;

pub fn is_grpc(headers: &Headers, seen: &Seen) -> bool {
    seen.has(Seen::CONTENT_TYPE)
        && headers.get(Known::ContentType).is_some_and(|value| {
            let rest = value.strip_prefix(b"application/grpc");
            rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
        })
}

pub fn grpc_status(headers: &Headers) -> Option<u8> {
    headers.text(Known::GrpcStatus)?.parse().ok()
}

pub fn grpc_status_of_trailers(trailers: &HeaderMap) -> Option<u8> {
    trailers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// Reads `grpc-timeout` as in the gRPC specification: at most eight digits and a unit.
pub fn grpc_timeout(headers: &Headers) -> Option<Duration> {
    let text = headers.text(Known::GrpcTimeout)?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// The value of `grpc-timeout`, in the finest unit for which eight digits are enough.
pub fn grpc_timeout_value(left: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let text = match () {
        () if left.as_micros() <= MOST => format!("{}u", left.as_micros()),
        () if left.as_millis() <= MOST => format!("{}m", left.as_millis()),
        () => format!("{}S", u128::from(left.as_secs()).min(MOST)),
    };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("0u"))
}

/// 64 bytes: the longest reason CODE that is accepted from another sidecar.
const REASON_BYTES: usize = 64;

/// The reason CODE of a sidecar that made its answer itself. To be called only for the answer of a verified sidecar.
pub fn reason_of_sidecar(headers: &Headers) -> Option<&str> {
    let code = headers.text(Known::XPillionReason)?;
    let is_code = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (code.len() <= REASON_BYTES && code.bytes().all(is_code)).then_some(code)
}

/// The `x-request-id` of the request if it is well formed, or a new one.
pub fn request_id(headers: &Headers, seen: &Seen, rng: &mut fastrand::Rng) -> Value {
    match seen.has(Seen::REQUEST_ID).then(|| headers.value(Known::XRequestId)).flatten() {
        Some(id) if is_well_formed(id.as_bytes()) => id,
        _ => fresh_request_id(rng),
    }
}

pub fn is_well_formed(id: &[u8]) -> bool {
    let is_sound = || id.iter().fold(true, |all, byte| all & byte.is_ascii_graphic()); // many bytes at a time
    !id.is_empty() && id.len() <= REQUEST_ID_BYTES && is_sound()
}

/// A random UUID (RFC 9562, version 4), the form that other proxies use and that log tools recognise.
pub fn fresh_request_id(rng: &mut fastrand::Rng) -> Value {
    let [a, b, c, d] =
        [rng.u32(..), rng.u32(..) & !0xf000 | 0x4000, rng.u32(..) & !(0b11 << 30) | 0b10 << 30, rng.u32(..)];
    let mut text = [b'-'; 36];
    text[..8].copy_from_slice(&hex(a));
    text[9..13].copy_from_slice(&hex(b)[..4]);
    text[14..18].copy_from_slice(&hex(b)[4..]);
    text[19..23].copy_from_slice(&hex(c)[..4]);
    text[24..28].copy_from_slice(&hex(c)[4..]);
    text[28..].copy_from_slice(&hex(d));
    Value::of_text(&text).unwrap_or_else(|_impossible| HeaderValue::from_static("-").into())
}

/// Makes all eight hexadecimal digits at once: each half byte moves to a byte of its own, and values above nine become
/// letters.
const fn hex(number: u32) -> [u8; 8] {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let mut digits = number as u64;
    digits = (digits | digits << 16) & 0x0000_ffff_0000_ffff;
    digits = (digits | digits << 8) & 0x00ff_00ff_00ff_00ff;
    digits = (digits | digits << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let letters = (digits + EACH * 6) >> 4 & EACH;
    (digits + EACH * b'0' as u64 + letters * (b'a' - b'0' - 10) as u64).to_be_bytes()
}

/// Removes headers that only sidecars may send, or that claim an identity.
pub fn remove_untrusted(headers: &mut Headers) {
    headers.remove_where(is_untrusted);
}

fn is_untrusted(name: &[u8]) -> bool {
    is_ours(name) || claims_identity(name)
}

/// Removes fields from an answer's trailers that only sidecars may send, or that claim an identity.
pub fn remove_untrusted_of_answer(trailers: &mut HeaderMap) {
    remove_if(trailers, |name| is_untrusted(name.as_bytes()));
}

/// Removes fields from a request's trailers that only sidecars may send, that claim an identity, or that the sidecar
/// sets as headers: some applications put headers and trailers into one map.
pub fn remove_untrusted_trailers(trailers: &mut HeaderMap) {
    remove_if(trailers, |name| {
        is_untrusted(name.as_bytes())
            || is_disguised(name.as_bytes())
            || X_FORWARDED.iter().any(|forwarded| forwarded == name)
    });
}

/// Removes the fields that concern this connection only: those of RFC 9110, 7.6.1, and those that `Connection` names.
/// `te: trailers` stays, because gRPC needs it; `trailer` stays, because it announces trailers. Returns the named
/// fields that may still come as trailers, and must be removed there too. `seen`: the fields that `headers` has.
///
/// # Errors
/// Only for a head of 4 GiB, which the limits of heads exclude.
pub fn remove_hop_by_hop(headers: &mut Headers, seen: &Seen) -> Result<Vec<HeaderName>, Misuse> {
    let fields = match headers {
        Headers::Text(fields) => fields,
        Headers::Map(map) => return Ok(remove_hop_by_hop_of_map(map, seen)),
    };
    let named = pillion_http1::remove_hop_by_hop(fields)?;
    let names = named.iter().filter_map(|name| HeaderName::from_bytes(name).ok());
    Ok(names.filter(|name| may_be_trailer(name.as_str())).collect())
}

fn remove_hop_by_hop_of_map(headers: &mut HeaderMap, seen: &Seen) -> Vec<HeaderName> {
    let mut named = if seen.has(Seen::CONNECTION) { named_in_connection(headers) } else { Vec::new() };
    let wants_trailers = seen.has(Seen::TE)
        && elements(headers, &header::TE).any(|element| element.eq_ignore_ascii_case(b"trailers"));
    for name in named.iter().filter(|name| may_be_named(name)) {
        headers.remove(name);
    }
    for (is_there, name) in [
        (seen.has(Seen::CONNECTION), header::CONNECTION),
        (seen.has(Seen::KEEP_ALIVE), KEEP_ALIVE),
        (seen.has(Seen::PROXY_CONNECTION), PROXY_CONNECTION),
        (seen.has(Seen::TE), header::TE),
        (seen.has(Seen::TRANSFER_ENCODING), header::TRANSFER_ENCODING),
        (seen.has(Seen::UPGRADE), header::UPGRADE),
    ] {
        if is_there {
            headers.remove(name);
        }
    }
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    named.retain(|name| *name != "close" && may_be_trailer(name.as_str()));
    named
}

/// The fields that `Connection` names. `keep-alive` is left out: the field is removed in any case, and as an option it
/// is the most frequent one.
fn named_in_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    elements(headers, &header::CONNECTION)
        .filter(|element| !element.eq_ignore_ascii_case(b"keep-alive"))
        .filter_map(|element| HeaderName::from_bytes(element).ok())
        .collect()
}

/// Whether `Connection` may name the field: `Connection: host` or `content-length` must not remove what frames or
/// routes the message.
fn may_be_named(name: &HeaderName) -> bool {
    *name != header::HOST && *name != header::CONTENT_LENGTH && *name != header::TE
}

/// Joins the lines of `cookie` for HTTP/1, because HTTP/2 may split them (RFC 9113, 8.2.3). A head that came over
/// HTTP/1 is not changed.
pub fn join_cookies(headers: &mut Headers) {
    if let Headers::Map(map) = headers {
        join_cookies_of_map(map);
    }
}

fn join_cookies_of_map(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    if let (Some(_), Some(_)) = (crumbs.next(), crumbs.next()) {
        let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            headers.insert(header::COOKIE, joined);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_http1::Fields;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn hop_by_hop_headers_are_removed_and_the_others_stay() {
        let mut map = headers(&[
            ("connection", "close, X-Mine, host, content-length"),
            ("x-mine", "1"),
            ("host", "orders"),
            ("content-length", "3"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip, trailers"),
            ("upgrade", "websocket"),
            ("accept", "*/*"),
        ]);
        let seen = Seen::in_map(&map);
        let mut text = Headers::Text(Fields::of_map(&map).unwrap());
        assert_eq!(remove_hop_by_hop(&mut text, &seen).unwrap(), ["x-mine"]);
        assert_eq!(remove_hop_by_hop_of_map(&mut map, &seen), ["x-mine"]);
        assert_eq!(text.into_map().unwrap(), map);
        assert_eq!(
            map,
            headers(&[("host", "orders"), ("content-length", "3"), ("te", "trailers"), ("accept", "*/*")])
        );
    }

    #[test]
    fn grpc_is_recognised_by_its_content_type() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let headers = Headers::Map(headers(&[("content-type", value)]));
            assert_eq!(is_grpc(&headers, &Seen::of(&headers)), expected, "{value}");
        }
    }

    #[test]
    fn a_grpc_timeout_is_read_and_written() {
        for (text, expected) in [
            ("5S", Some(Duration::from_secs(5))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("5x", None),
            ("+5S", None),
        ] {
            assert_eq!(grpc_timeout(&Headers::Map(headers(&[("grpc-timeout", text)]))), expected, "{text}");
        }
        assert_eq!(grpc_timeout_value(Duration::from_millis(1500)), "1500000u");
        assert_eq!(grpc_timeout_value(Duration::from_secs(1_000)), "1000000m");
        assert_eq!(grpc_timeout_value(Duration::from_secs(1_000_000)), "1000000S");
    }

    #[test]
    fn a_request_id_is_kept_when_well_formed_and_made_otherwise() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut id = |id| {
            let headers = Headers::Map(headers(&[("x-request-id", id)]));
            request_id(&headers, &Seen::of(&headers), &mut rng).as_str().unwrap().to_owned()
        };
        assert_eq!(id("abc-1"), "abc-1");
        for bad in ["", "a b"] {
            let text = id(bad);
            assert_eq!((text.len(), &text[14..15]), (36, "4"), "{text}");
            assert!("89ab".contains(&text[19..20]), "{text}");
        }
    }

    #[test]
    fn a_number_is_written_with_its_eight_hexadecimal_digits() {
        for number in [0, 1, 0x0123_4567, 0x89ab_cdef, u32::MAX, 0x9a9a_a9a9] {
            assert_eq!(hex(number), format!("{number:08x}").as_bytes());
        }
    }

    #[test]
    fn several_cookie_lines_are_joined_to_one() {
        let mut map = HeaderMap::new();
        map.append("cookie", HeaderValue::from_static("a=1"));
        map.append("cookie", HeaderValue::from_static("b=2"));
        join_cookies_of_map(&mut map);
        assert_eq!(map.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }
}
