//! Headers that a proxy adds, removes and reads.

use std::time::Duration;

use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};

use crate::framing::{elements, may_be_trailer};
use crate::seen::{Seen, claims_identity, is_disguised, is_ours};

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
pub const X_PILLION_ATTEMPT: HeaderName = HeaderName::from_static("x-pillion-attempt");
pub const X_PILLION_VIA: HeaderName = HeaderName::from_static("x-pillion-via");
/// From an inbound sidecar to the sidecar of its caller: the request was refused before it was forwarded.
pub const X_PILLION_REFUSED: HeaderName = HeaderName::from_static("x-pillion-refused");
/// From an inbound sidecar to the sidecar of its caller: the sidecar made this answer itself, and why. Proxy-Status
/// says it too, but there an application may say it as well.
pub const X_PILLION_REASON: HeaderName = HeaderName::from_static("x-pillion-reason");
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Longest request id that is kept.
const REQUEST_ID_BYTES: usize = 128;

pub fn is_grpc(headers: &HeaderMap, seen: &Seen) -> bool {
    seen.has(Seen::CONTENT_TYPE)
        && headers.get(header::CONTENT_TYPE).is_some_and(|value| {
            let rest = value.as_bytes().strip_prefix(b"application/grpc");
            rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
        })
}

pub fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// `grpc-timeout` of the gRPC specification: at most eight digits and a unit.
pub fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
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

/// In the finest unit whose eight digits suffice.
pub fn grpc_timeout_value(left: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let text = match () {
        () if left.as_micros() <= MOST => format!("{}u", left.as_micros()),
        () if left.as_millis() <= MOST => format!("{}m", left.as_millis()),
        () => format!("{}S", u128::from(left.as_secs()).min(MOST)),
    };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("0u"))
}

/// The longest CODE that is taken from another sidecar.
const REASON_BYTES: usize = 64;

/// Why the other sidecar answered itself, in its own word. Only to be asked of a verified sidecar's answer.
pub fn reason_of_sidecar(headers: &HeaderMap) -> Option<&str> {
    let code = headers.get(X_PILLION_REASON)?.to_str().ok()?;
    let is_code = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (code.len() <= REASON_BYTES && code.bytes().all(is_code)).then_some(code)
}

/// What came in `x-request-id` when it is well formed, else a new one.
pub fn request_id(headers: &HeaderMap, seen: &Seen, rng: &mut fastrand::Rng) -> HeaderValue {
    match seen.has(Seen::REQUEST_ID).then(|| headers.get(X_REQUEST_ID)).flatten() {
        Some(id) if is_well_formed(id.as_bytes()) => id.clone(),
        _ => fresh_request_id(rng),
    }
}

pub fn is_well_formed(id: &[u8]) -> bool {
    !id.is_empty() && id.len() <= REQUEST_ID_BYTES && id.iter().all(u8::is_ascii_graphic)
}

/// A random UUID (RFC 9562, version 4): what other proxies make, and log tools look for.
pub fn fresh_request_id(rng: &mut fastrand::Rng) -> HeaderValue {
    let mut random = rng.u128(..).to_be_bytes();
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    let mut text = [b'-'; 36];
    let groups = [(0, 0..4), (9, 4..6), (14, 6..8), (19, 8..10), (24, 10..16)];
    for (start, bytes) in groups {
        for (place, byte) in random[bytes].iter().enumerate() {
            text[start + 2 * place] = hex(byte >> 4);
            text[start + 2 * place + 1] = hex(byte & 0xf);
        }
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("-"))
}

const fn hex(digit: u8) -> u8 {
    if digit < 10 { b'0' + digit } else { b'a' - 10 + digit }
}

/// Removes what would claim to be a sidecar's word, or an identity.
pub fn remove_untrusted(headers: &mut HeaderMap) {
    remove_if(headers, |name| is_ours(name) || claims_identity(name));
}

/// Removes from trailers what would claim to be a sidecar's word, or an identity, and what we set in headers: some
/// applications put both into one map.
pub fn remove_untrusted_trailers(trailers: &mut HeaderMap) {
    let forwarded = [X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO];
    remove_if(trailers, |name| {
        is_ours(name)
            || claims_identity(name)
            || is_disguised(name)
            || forwarded.iter().any(|forwarded| forwarded == name)
    });
}

/// So many unwanted fields are looked for and removed one by one, which allocates nothing. A peer that sends more of
/// them would make that a search for each: then all that is wanted moves into another map, at one look for each field.
const FEW: usize = 8;

pub fn remove_if(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    for _ in 0..FEW {
        let Some(name) = headers.keys().find(|name| unwanted(name.as_str())).cloned() else { return };
        headers.remove(name);
    }
    let mut last = None;
    for (name, value) in std::mem::take(headers) {
        if let Some(name) = name {
            last = (!unwanted(name.as_str())).then_some(name); // further values of it come without a name
        }
        if let Some(name) = &last {
            headers.append(name.clone(), value);
        }
    }
}

/// Removes what is meant for this connection alone: RFC 9110 §7.6.1, and the fields that `Connection` names.
/// `te: trailers` stays, for gRPC; `trailer` announces and stays. Returns those of the named fields that may still come
/// as trailers, and must be removed there too. `seen`: what there is in `headers`.
pub fn remove_hop_by_hop(headers: &mut HeaderMap, seen: &Seen) -> Vec<HeaderName> {
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

/// `keep-alive` is left out: as a field it is removed in any case, and as an option it is what `Connection` says most.
fn named_in_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    elements(headers, &header::CONNECTION)
        .filter(|element| !element.eq_ignore_ascii_case(b"keep-alive"))
        .filter_map(|element| HeaderName::from_bytes(element).ok())
        .collect()
}

/// `Connection: host` or `content-length` must not take away what frames and routes the message.
fn may_be_named(name: &HeaderName) -> bool {
    *name != header::HOST && *name != header::CONTENT_LENGTH && *name != header::TE
}

/// HTTP/2 may split `cookie` into crumbs; HTTP/1 wants one (RFC 9113, 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
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

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn hop_by_hop_headers_go_and_the_message_stays() {
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
        let seen = Seen::in_headers(&map);
        assert_eq!(remove_hop_by_hop(&mut map, &seen), ["x-mine"]);
        assert_eq!(
            map,
            headers(&[("host", "orders"), ("content-length", "3"), ("te", "trailers"), ("accept", "*/*")])
        );
    }

    #[test]
    fn however_many_unwanted_fields_there_are_the_others_stay() {
        for many in [0, 1, FEW, FEW + 1, 1000] {
            let mut map = headers(&[("a", "1"), ("b", "2"), ("a", "3")]);
            for nth in 0..many {
                let name = HeaderName::try_from(format!("x-pillion-{nth}")).unwrap();
                map.append(name.clone(), HeaderValue::from_static("x"));
                map.append(name, HeaderValue::from_static("y"));
            }
            remove_untrusted(&mut map);
            assert_eq!(map, headers(&[("a", "1"), ("b", "2"), ("a", "3")]), "{many}");
        }
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let map = headers(&[("content-type", value)]);
            assert_eq!(is_grpc(&map, &Seen::in_headers(&map)), expected, "{value}");
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
            assert_eq!(grpc_timeout(&headers(&[("grpc-timeout", text)])), expected, "{text}");
        }
        assert_eq!(grpc_timeout_value(Duration::from_millis(1500)), "1500000u");
        assert_eq!(grpc_timeout_value(Duration::from_secs(1_000)), "1000000m");
        assert_eq!(grpc_timeout_value(Duration::from_secs(1_000_000)), "1000000S");
    }

    #[test]
    fn a_request_id_is_kept_when_well_formed_and_made_otherwise() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut id = |id| {
            let map = headers(&[("x-request-id", id)]);
            request_id(&map, &Seen::in_headers(&map), &mut rng)
        };
        assert_eq!(id("abc-1"), "abc-1");
        for bad in ["", "a b"] {
            let made = id(bad);
            let text = made.to_str().unwrap();
            assert_eq!((text.len(), &text[14..15]), (36, "4"), "{text}");
            assert!("89ab".contains(&text[19..20]), "{text}");
        }
    }

    #[test]
    fn cookie_crumbs_become_one() {
        let mut map = HeaderMap::new();
        map.append("cookie", HeaderValue::from_static("a=1"));
        map.append("cookie", HeaderValue::from_static("b=2"));
        join_cookies(&mut map);
        assert_eq!(map.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }
}
