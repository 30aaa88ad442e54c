//! The answers that the sidecar makes itself: a status, `Proxy-Status` and a sentence, or a gRPC status for gRPC
//! callers.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use pillion_http1::{Known, Value};

use super::{Body, Exchange};
use crate::connection::Connection;
use pillion_base::error::{Error, ErrorAnswer};
use pillion_http::message::{Headers, Response};
use pillion_http::seen::is_ours;
use pillion_model::{Direction, Reason};

/// Answers `error` to the caller of `exchange`.
pub fn answer(error: &Error, exchange: &Exchange, is_grpc: bool) -> Response<Body> {
    let Exchange { connection, request_id, .. } = exchange;
    let mut answer = render((error.reason, &error.detail), connection, request_id, is_grpc);
    amend(&mut answer, error.answer, is_grpc);
    // The server of HTTP/2 does not leave out the body of an answer to HEAD, so it is left out here.
    let is_bare = exchange.is_head() || has_no_content(answer.status());
    answer.map(|body| if body.is_empty() || is_bare { Body::empty() } else { Body::full(body) })
}

/// An injected status may be one whose answer has no content (RFC 9110, 15.3.5, 15.3.6, 15.4.5).
const fn has_no_content(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Adds to an answer what the reason alone does not say.
fn amend<B>(answer: &mut Response<B>, by: ErrorAnswer, is_grpc: bool) {
    match by {
        ErrorAnswer::Usual => {}
        ErrorAnswer::Status(_) if is_grpc => {}
        ErrorAnswer::Status(status) => set_status(answer, status),
        ErrorAnswer::Grpc(status) if is_grpc => {
            answer.headers_mut().set(Known::GrpcStatus, &HeaderValue::from(u16::from(status)));
        }
        ErrorAnswer::Grpc(status) => set_status(answer, status_of_grpc(status)),
        ErrorAnswer::RetryAfter(seconds) => {
            answer.headers_mut().set(Known::RetryAfter, &HeaderValue::from(seconds));
        }
        ErrorAnswer::TokenMissing => challenge(answer, "Bearer realm=\"pillion\""),
        ErrorAnswer::TokenInvalid => challenge(answer, "Bearer realm=\"pillion\", error=\"invalid_token\""),
    }
}

/// RFC 6750, 3: without an error where the request has no token.
fn challenge<B>(answer: &mut Response<B>, challenge: &'static str) {
    answer.headers_mut().set(Known::WwwAuthenticate, &HeaderValue::from_static(challenge));
}

fn set_status<B>(answer: &mut Response<B>, status: u16) {
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
}

/// As `google.rpc.Code` maps its codes.
const fn status_of_grpc(status: u8) -> u16 {
    match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// As gRPC's document on HTTP statuses maps them; a good one says nothing.
const fn grpc_of_status(status: u16) -> u8 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// What an external authorizer has answered in place of the application.
pub struct Denial {
    pub status: StatusCode,
    pub headers: Headers,
    pub body: Bytes,
}

/// The answer of an external authorizer, as an answer to `error`. It keeps its status, content and fields; those that
/// concern its own connection, and those that only sidecars may send, are left out. A gRPC caller gets the status that
/// goes with it.
pub fn of_authorizer(
    error: &Error,
    Denial { status, headers, body }: Denial,
    exchange: &Exchange,
    is_grpc: bool,
) -> Response<Body> {
    let mut response = answer(error, exchange, is_grpc);
    if is_grpc {
        let status = HeaderValue::from(u16::from(grpc_of_status(status.as_u16())));
        response.headers_mut().set(Known::GrpcStatus, &status);
        return response;
    }
    *response.status_mut() = status;
    let connection = headers.all(Known::Connection).flat_map(|line| line.split(|byte| *byte == b','));
    let named: Vec<&[u8]> = connection.map(<[u8]>::trim_ascii).collect();
    response.headers_mut().remove(Known::ContentType);
    for (name, value) in headers.iter().filter(|(name, _)| may_pass(name)) {
        let is_named = named.iter().any(|named| named.eq_ignore_ascii_case(name));
        if let (Ok(name), Ok(value), false) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value), is_named)
        {
            response.headers_mut().append_named(&name, &value);
        }
    }
    let is_bare = body.is_empty() || exchange.is_head() || has_no_content(status);
    response.map(|_own| if is_bare { Body::empty() } else { Body::full(body) })
}

/// Whether a field of an authorizer's answer may reach the client.
fn may_pass(name: &[u8]) -> bool {
    const LEFT_OUT: [Known; 11] = [
        Known::Connection,
        Known::KeepAlive,
        Known::ProxyConnection,
        Known::Te,
        Known::Upgrade,
        Known::TransferEncoding,
        Known::ContentLength,
        Known::Trailer,
        Known::ProxyStatus,
        Known::XRequestId,
        Known::GrpcStatus,
    ];
    !is_ours(name) && Known::find(name).is_none_or(|known| !LEFT_OUT.contains(&known))
}

/// The answer of a route itself. It is no error, so it has no `Proxy-Status`. gRPC callers get the matching gRPC status, and
/// the text as its message.
pub fn of_route(status: u16, text: &str, exchange: &Exchange, is_grpc: bool) -> Response<Body> {
    let mut response = Response::new(StatusCode::OK, Body::empty());
    if is_grpc {
        let headers = response.headers_mut();
        headers.set(Known::ContentType, &HeaderValue::from_static("application/grpc"));
        headers.set(Known::GrpcStatus, &HeaderValue::from(u16::from(grpc_of_status(status))));
        if let Ok(message) = HeaderValue::try_from(percent_encode(text)) {
            headers.set(Known::GrpcMessage, &message);
        }
    } else {
        set_status(&mut response, status);
        if !text.is_empty() {
            let plain = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().set(Known::ContentType, &plain);
        }
        if !text.is_empty() && !exchange.is_head() {
            *response.body_mut() = Body::full(text.to_owned());
        }
    }
    response.headers_mut().put(Known::XRequestId, &exchange.request_id);
    response
}

/// The bytes of an HTTP/1.1 answer, for a request that does not pass through a stack. The connection closes after it.
pub fn written(why: (Reason, &str), connection: &Connection, request_id: &Value) -> Vec<u8> {
    let (head, body) = render(why, connection, request_id, false).into_parts();
    let phrase = head.status.canonical_reason().unwrap_or_default();
    let mut answer = format!("HTTP/1.1 {} {phrase}\r\n", head.status.as_str()).into_bytes();
    for (name, value) in head.headers.iter() {
        for part in [name, b": ", value, b"\r\n"] {
            answer.extend_from_slice(part);
        }
    }
    let rest = format!("connection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    answer.extend_from_slice(rest.as_bytes());
    answer
}

/// Makes an answer. Only the sidecar's own application gets the detail; a remote peer gets the code alone. A verified
/// peer of the mesh also gets the code in `x-pillion-reason`.
fn render(
    (reason, detail): (Reason, &str),
    connection: &Connection,
    request_id: &Value,
    is_grpc: bool,
) -> Response<String> {
    let detail = (connection.direction == Direction::Outbound).then_some(detail);
    let mut response = match is_grpc {
        true if reason != Reason::ClientGone => grpc(reason, detail), // nobody reads that answer: its status is recorded
        _ => plain(reason, detail),
    };
    let headers = response.headers_mut();
    headers.set(Known::ProxyStatus, &proxy_status(reason, detail));
    headers.put(Known::XRequestId, request_id);
    if connection.is_from_mesh() {
        headers.set(Known::XPillionReason, &HeaderValue::from_static(reason.code()));
    }
    response
}

fn plain(reason: Reason, detail: Option<&str>) -> Response<String> {
    let status = StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::new(status, sentence(reason, detail));
    response.headers_mut().set(Known::ContentType, &HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// An answer of gRPC without body and trailers, which its specification calls "Trailers-Only".
fn grpc(reason: Reason, detail: Option<&str>) -> Response<String> {
    let mut response = Response::new(StatusCode::OK, String::new());
    let headers = response.headers_mut();
    headers.set(Known::ContentType, &HeaderValue::from_static("application/grpc"));
    headers.set(Known::GrpcStatus, &HeaderValue::from(u16::from(reason.grpc_status())));
    let message = percent_encode(&sentence(reason, detail));
    if let Ok(message) = HeaderValue::try_from(message) {
        headers.set(Known::GrpcMessage, &message);
    }
    response
}

/// The text of the answer.
fn sentence(reason: Reason, detail: Option<&str>) -> String {
    match detail {
        Some(detail) => format!("pillion: {}: {detail}\n", reason.code()),
        None => format!("pillion: {}\n", reason.code()),
    }
}

/// The value of `Proxy-Status` (RFC 9209), with `details` as a structured-field string (RFC 8941, 3.3.3).
fn proxy_status(reason: Reason, detail: Option<&str>) -> HeaderValue {
    let error = match reason.error_type() {
        "" => String::new(), // the registry of RFC 9209 has no type for it
        error => format!(" error={error};"),
    };
    let mut text = format!("pillion;{error} details=\"{}", reason.code());
    if let Some(detail) = detail {
        text.push_str(": ");
        for char in detail.chars() {
            match char {
                '"' | '\\' => text.extend(['\\', char]),
                ' '..='~' => text.push(char),
                _ => text.push('?'),
            }
        }
    }
    text.push('"');
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("pillion"))
}

/// Encodes `grpc-message`: every byte except printable ASCII is percent-encoded, and so is the percent sign.
fn percent_encode(text: &str) -> String {
    text.trim_end().bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b'%' | ..b' ' | 0x7f.. => {
                let _infallible = write!(out, "%{byte:02X}");
            }
            _ => out.push(char::from(byte)),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_details_of_proxy_status_are_one_line_of_printable_ascii_for_any_detail() {
        let value = proxy_status(Reason::TlsError, Some("a \"b\" \\ c\r\nd é"));
        assert_eq!(
            value,
            "pillion; error=tls_protocol_error; details=\"tls_error: a \\\"b\\\" \\\\ c??d ?\""
        );
    }

    #[test]
    fn b12_an_error_type_is_named_or_left_out_and_never_empty() {
        for (reason, expected) in [
            (Reason::ClientGone, "pillion; details=\"client_gone\""),
            (Reason::BadRequest, "pillion; error=http_request_error; details=\"bad_request\""),
        ] {
            assert_eq!(proxy_status(reason, None), expected);
        }
    }

    #[test]
    fn a_grpc_message_is_percent_encoded() {
        assert_eq!(percent_encode("50% of é\n"), "50%25 of %C3%A9");
    }
}
