//! Every row of the table of status codes, provoked by real events: the caller's answer, and the metric.

mod answering;
mod asking;
mod limits;
mod reaching;

use bytes::Bytes;
use http::HeaderMap;

use crate::support::http2::{Client, collect};
use crate::support::sidecar::Sidecar;
use crate::support::wire::{Message, Wire};

/// One row: CODE, type of RFC 9209, HTTP status, gRPC status.
#[derive(Debug, Clone, Copy)]
struct Row(&'static str, &'static str, u16, u16);

/// The public interface, as far as a test can provoke it. A service without endpoints is refused with its file, the
/// last endpoint is never ejected, and no way to cause a panic is known.
#[rustfmt::skip] // one table, which is read by columns
const ROWS: [Row; 20] = [
    Row("no_route", "destination_not_found", 404, 12),
    Row("connect_refused", "connection_refused", 502, 14),
    Row("connect_timeout", "connection_timeout", 504, 14),
    Row("tls_error", "tls_protocol_error", 502, 14),
    Row("peer_identity_mismatch", "tls_certificate_error", 502, 14),
    Row("upstream_reset", "connection_terminated", 502, 14),
    Row("upstream_closed", "connection_terminated", 502, 14),
    Row("protocol_error", "http_protocol_error", 502, 14),
    Row("request_timeout", "http_response_timeout", 504, 4),
    Row("per_try_timeout", "http_response_timeout", 504, 4),
    Row("stream_idle_timeout", "http_response_timeout", 504, 4),
    Row("max_duration", "http_response_timeout", 504, 4),
    Row("limit_pending", "connection_limit_reached", 503, 14),
    Row("limit_requests", "connection_limit_reached", 503, 14),
    Row("mtls_required", "http_request_denied", 403, 7),
    Row("bad_request", "http_request_error", 400, 13),
    Row("headers_too_large", "http_request_error", 431, 13),
    Row("body_too_large", "http_request_error", 413, 13),
    Row("request_stalled", "http_request_error", 408, 13),
    Row("loop_detected", "proxy_loop_detected", 508, 13),
];

fn row(code: &str) -> Row {
    *ROWS.iter().find(|row| row.0 == code).unwrap_or_else(|| unreachable!("no row {code}"))
}

/// Checks everything that the interface promises for an answer of the outbound side, and returns its sentence.
#[track_caller]
fn check_outbound(answer: &Message, code: &str) -> String {
    let Row(_, kind, status, _) = row(code);
    assert_eq!(answer.status(), status, "{answer:?}");
    let proxy_status = answer.header("proxy-status").unwrap_or_else(|| unreachable!("{answer:?}"));
    let begin = format!("pillion; error={kind}; details=\"{code}: ");
    assert!(proxy_status.starts_with(&begin) && proxy_status.ends_with('"'), "{proxy_status}");
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"), "{answer:?}");
    assert!(answer.header("x-request-id").is_some_and(|id| !id.is_empty()), "{answer:?}");
    assert!(answer.is_whole, "{answer:?}");
    let text = answer.text();
    let sentence = text.strip_prefix(&format!("pillion: {code}: ")).map(str::to_owned);
    sentence.unwrap_or_else(|| unreachable!("no sentence in {text:?}"))
}

/// Checks an answer of the inbound side: a remote peer gets the code without the sentence.
#[track_caller]
fn check_inbound(answer: &Message, code: &str) {
    let Row(_, kind, status, _) = row(code);
    assert_eq!(answer.status(), status, "{answer:?}");
    let proxy_status = format!("pillion; error={kind}; details=\"{code}\"");
    assert_eq!(answer.header("proxy-status"), Some(&*proxy_status), "{answer:?}");
    assert_eq!(answer.text(), format!("pillion: {code}\n"));
    assert!(answer.header("x-request-id").is_some_and(|id| !id.is_empty()), "{answer:?}");
}

/// A trailers-only answer of gRPC: a single header block.
#[track_caller]
fn check_grpc(head: &http::response::Parts, body: &Bytes, trailers: &HeaderMap, code: &str) {
    let Row(_, kind, _, grpc_status) = row(code);
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    assert_eq!(head.status, 200, "{head:?}");
    assert_eq!(text("grpc-status"), grpc_status.to_string(), "{head:?}");
    assert!(text("grpc-message").starts_with(&format!("pillion: {code}")), "{head:?}");
    assert!(
        text("proxy-status").starts_with(&format!("pillion; error={kind}; details=\"{code}")),
        "{head:?}"
    );
    assert_eq!(text("content-type"), "application/grpc", "{head:?}");
    assert!(!text("x-request-id").is_empty(), "{head:?}");
    assert!(body.is_empty() && trailers.is_empty(), "{head:?} {body:?} {trailers:?}");
}

/// Sends requests to `orders` over HTTP and gRPC, which both fail with `code`. Each caller gets an answer in its
/// protocol,
/// and the metric has the same code. Returns the sentence.
async fn fails_with(caller: &Sidecar, code: &str) -> String {
    let answer = Wire::connect(caller.outbound()).await.get("orders", "/").await;
    let sentence = check_outbound(&answer, code);
    grpc_fails_with(caller, "orders", code).await;
    let Row(_, _, status, grpc_status) = row(code);
    let (status, grpc_status) = (status.to_string(), grpc_status.to_string());
    let reason = [("direction", "outbound"), ("service", "orders"), ("reason", code)];
    caller.counted(1, &[&reason[..], &[("method", "GET"), ("status", &status)]].concat()).await;
    caller.counted(1, &[&reason[..], &[("method", "POST"), ("grpc_status", &grpc_status)]].concat()).await;
    sentence
}

/// The gRPC part of [`fails_with`].
async fn grpc_fails_with(caller: &Sidecar, host: &str, code: &str) {
    let (head, body) = Client::connect(caller.outbound()).await.call(host).await.into_parts();
    let (body, trailers) = collect(body).await;
    check_grpc(&head, &body, &trailers, code);
}
