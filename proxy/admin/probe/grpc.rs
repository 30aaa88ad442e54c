//! gRPC's health checking protocol (grpc.health.v1.Health/Check): one request, one number in the response.

use std::net::SocketAddr;

use bytes::BufMut as _;
use http::header::{CONTENT_TYPE, HeaderName, TE, USER_AGENT};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};

use super::{AGENT, ANSWER_BYTES, ProbeFailure, Transport, over_http2};
use crate::admin::answer::{Answer, text};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The result of a check that is not SERVING.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotServing {
    #[error("HTTP {0}, which is not a response of gRPC")]
    Http(u16),
    #[error("grpc-status 12, the server has no health service")]
    Unimplemented,
    #[error("grpc-status 5, the server does not know this service")]
    NotFound,
    #[error("grpc-status {0}")]
    Status(u32),
    #[error("no grpc-status")]
    NoStatus,
    #[error("more than {ANSWER_BYTES} bytes, which is not a response of a health service")]
    TooLong,
    #[error("{0}")]
    Health(&'static str),
}

pub(super) async fn ask(
    io: Transport,
    to: SocketAddr,
    host: &str,
    service: &str,
) -> Result<Answer, ProbeFailure> {
    let question = Request::post(format!("http://{host}{CHECK}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, AGENT)
        .body(Full::new(message(service)))?;
    let answered = async |answer| read(answer, to).await;
    let (status, trailers, message) = over_http2(io, to, question, answered).await?;
    verdict(status, &trailers, &message).map_err(|why| ProbeFailure::Grpc(to, why))?;
    Ok(text(StatusCode::OK, "serving\n"))
}

/// `HealthCheckRequest { string service = 1; }` after the five bytes that precede every gRPC message.
fn message(service: &str) -> Bytes {
    let mut field = Vec::new();
    if !service.is_empty() {
        field.put_u8(0x0a); // field 1, with a length
        let mut length = service.len();
        while length > 0x7f {
            field.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        field.put_u8(length as u8);
        field.put_slice(service.as_bytes());
    }
    let mut message = Vec::with_capacity(5 + field.len());
    message.put_u8(0); // not compressed
    message.put_u32(u32::try_from(field.len()).unwrap_or(u32::MAX));
    message.put_slice(&field);
    message.into()
}

/// Reads status, trailers and message. In a trailers-only response the headers are the trailers. A response that is not
/// valid is not read to its end, because it may have none.
async fn read(
    answer: Response<Incoming>,
    to: SocketAddr,
) -> Result<(StatusCode, HeaderMap, Vec<u8>), ProbeFailure> {
    let (head, mut body) = answer.into_parts();
    let (mut trailers, mut message) = (head.headers, Vec::new());
    while head.status == StatusCode::OK
        && let Some(frame) = body.frame().await
    {
        match frame.map_err(|error| ProbeFailure::broke_off(to, error))?.into_data() {
            Ok(data) if message.len() + data.len() > ANSWER_BYTES => {
                return Err(ProbeFailure::Grpc(to, NotServing::TooLong));
            }
            Ok(data) => message.extend_from_slice(&data),
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    Ok((head.status, trailers, message))
}

fn verdict(status: StatusCode, trailers: &HeaderMap, message: &[u8]) -> Result<(), NotServing> {
    if status != StatusCode::OK {
        return Err(NotServing::Http(status.as_u16()));
    }
    let grpc = trailers.get(GRPC_STATUS).and_then(|status| status.to_str().ok()?.parse().ok());
    match grpc.ok_or(NotServing::NoStatus)? {
        0 => serving(message),
        5 => Err(NotServing::NotFound),
        12 => Err(NotServing::Unimplemented),
        other => Err(NotServing::Status(other)),
    }
}

/// Reads `HealthCheckResponse { ServingStatus status = 1; }`. An absent status is 0.
fn serving(message: &[u8]) -> Result<(), NotServing> {
    match message {
        [0, _, _, _, _, 0x08, 1, ..] => Ok(()),
        [0, _, _, _, _, 0x08, 2, ..] => Err(NotServing::Health("NOT_SERVING")),
        [0, _, _, _, _, 0x08, 3, ..] => Err(NotServing::Health("SERVICE_UNKNOWN")),
        _ => Err(NotServing::Health("UNKNOWN")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_bytes_that_grpc_s_own_library_writes() {
        assert_eq!(message(""), &b"\0\0\0\0\0"[..]);
        assert_eq!(message("shop.Orders"), &b"\0\0\0\0\x0d\x0a\x0bshop.Orders"[..]);
        let long = "x".repeat(200);
        assert_eq!(message(&long), [b"\0\0\0\0\xcb\x0a\xc8\x01", long.as_bytes()].concat());
    }

    #[test]
    fn only_serving_with_status_0_is_healthy() {
        let trailers = |status: &'static str| {
            HeaderMap::from_iter([(GRPC_STATUS, http::HeaderValue::from_static(status))])
        };
        let serving = b"\0\0\0\0\x02\x08\x01";
        assert_eq!(verdict(StatusCode::OK, &trailers("0"), serving), Ok(()));
        let table = [
            (200, "0", &b"\0\0\0\0\x02\x08\x02"[..], NotServing::Health("NOT_SERVING")),
            (200, "0", b"\0\0\0\0\x02\x08\x03", NotServing::Health("SERVICE_UNKNOWN")),
            (200, "0", b"\0\0\0\0\0", NotServing::Health("UNKNOWN")),
            (200, "0", b"\x01\0\0\0\x02\x08\x01", NotServing::Health("UNKNOWN")),
            (200, "0", b"", NotServing::Health("UNKNOWN")),
            (200, "12", b"", NotServing::Unimplemented),
            (200, "5", b"", NotServing::NotFound),
            (200, "14", serving, NotServing::Status(14)),
            (200, "ok", serving, NotServing::NoStatus),
            (404, "0", serving, NotServing::Http(404)),
        ];
        for (status, grpc, message, expected) in table {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(verdict(status, &trailers(grpc), message), Err(expected));
        }
        assert_eq!(verdict(StatusCode::OK, &HeaderMap::new(), serving), Err(NotServing::NoStatus));
    }
}
