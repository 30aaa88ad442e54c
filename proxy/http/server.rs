//! One downstream HTTP connection: hyper's framing, our limits, and a graceful end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::answer;
use super::exchange::Exchange;
use super::{Body, Call, Response, headers};
use crate::error::Reason;
use crate::layers::AnsweringService;
use crate::net::guard::Guarded;
use crate::net::{Io, Prefixed, Transport};
use crate::runtime::drain::Drain;
use crate::runtime::worker::Worker;
use crate::serve::Connection;
use crate::telemetry::{Held, MethodLabel, Protocol, RequestLabels, Symbol};

/// Request line and headers of one request. Envoy's limit is 60 KiB.
pub(crate) const HEADER_BYTES: u32 = 64 * 1024;
/// Streams one client may have open at once; hyper's own default, twice Envoy's recommendation.
const STREAMS: u32 = 200;
/// Per stream: with the send buffer of the other side half of the MiB that one stream's body may hold here.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Not below 1 MiB: h2's budget against floods of small DATA frames is half of it.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const SEND_BUFFER: usize = 256 * 1024;
/// hyper's read buffer of HTTP/1; it must hold a whole head, and bodies need no more.
pub(crate) const HTTP1_BUFFER: usize = 128 * 1024;
/// From the first byte until it is known whether HTTP/2 or HTTP/1 is spoken.
const DETECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Until the first byte.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(3600);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

/// HTTP/2 begins with its preface (RFC 9113, 3.4), everything else is taken for HTTP/1. `None`: too early to say.
pub(crate) fn detect(first: &[u8]) -> Option<Version> {
    let compared = first.len().min(PREFACE.len());
    match first.get(..compared) == PREFACE.get(..compared) {
        false => Some(Version::Http1),
        true => (compared == PREFACE.len()).then_some(Version::Http2),
    }
}

/// Reads until the version shows. What was read is given back as the head of the stream. A connection that has
/// said nothing when the drain starts is closed.
pub(crate) async fn detect_on(mut transport: Transport, drain: &Drain) -> io::Result<(Io, Version)> {
    let mut first = Vec::with_capacity(PREFACE.len());
    tokio::select! { // what a drained client had sent is not read: it hears that the connection is closed
        read = tokio::time::timeout(FIRST_BYTE_TIMEOUT, read_some(&mut transport, &mut first)) => read??,
        () = drain.started() => return Err(io::ErrorKind::ConnectionAborted.into()),
    }
    let version = tokio::time::timeout(DETECT_TIMEOUT, async {
        loop {
            if let Some(version) = detect(&first) {
                return Ok::<_, io::Error>(version);
            }
            read_some(&mut transport, &mut first).await?;
        }
    })
    .await??;
    Ok((Prefixed::with(Bytes::from(first), transport), version))
}

/// At least one byte, and no more than the preface has.
async fn read_some(io: &mut (impl AsyncRead + Unpin), into: &mut Vec<u8>) -> io::Result<()> {
    let room = PREFACE.len().saturating_sub(into.len()) as u64;
    match io.take(room).read_buf(into).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// Serves `io` until its client leaves, or until the drain lets it finish what is in flight.
pub(crate) async fn serve<S: AnsweringService>(
    io: Io,
    version: Version,
    connection: Arc<Connection>,
    worker: Arc<Worker>,
    stack: S,
) {
    let is_http1 = version == Version::Http1;
    let protocol = if is_http1 { Protocol::Http1 } else { Protocol::Http2 };
    let _open = Held::of(&worker.connections_active(connection.direction, protocol));
    let draining = worker.drain.started();
    let io = TokioIo::new(Guarded::new(io, connection.clone(), worker.clone(), is_http1));
    let service = service_fn(move |request: Request<Incoming>| {
        handle(request, connection.clone(), worker.clone(), stack.clone())
    });
    // How a connection ended has been told request by request.
    match version {
        Version::Http1 => {
            let conn = http1::Builder::new()
                .max_header_size(HEADER_BYTES as usize) // at most 100 headers is hyper's default; saying so costs
                .max_buf_size(HTTP1_BUFFER)
                .auto_date_header(false)
                .serve_connection(io, service);
            drop(finish_on(draining, conn, http1::Connection::graceful_shutdown).await);
        }
        Version::Http2 => {
            let conn = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_concurrent_streams(STREAMS)
                .max_header_list_size(HEADER_BYTES)
                .max_send_buf_size(SEND_BUFFER)
                .auto_date_header(false)
                .serve_connection(io, service);
            drop(finish_on(draining, conn, http2::Connection::graceful_shutdown).await);
        }
    }
}

/// Runs a connection; when the drain starts it is asked to end after what is in flight.
async fn finish_on<C: Future>(
    draining: impl Future<Output = ()>,
    conn: C,
    goodbye: impl FnOnce(Pin<&mut C>),
) -> C::Output {
    let mut conn = pin!(conn);
    tokio::select! { // only the wait for the drain can be dropped here
        ended = &mut conn => return ended,
        () = draining => goodbye(conn.as_mut()),
    }
    conn.await
}

async fn handle<S: AnsweringService>(
    request: Request<Incoming>,
    connection: Arc<Connection>,
    worker: Arc<Worker>,
    mut stack: S,
) -> Result<Response, Infallible> {
    let request_id = headers::request_id(request.headers(), &mut worker.rng.lock());
    let exchange = Arc::new(Exchange::new(worker, connection, request_id));
    stack.call(Call::new(request.map(Body::incoming), exchange)).await
}

/// hyper could not read a request's head and wants to answer `hypers`: counts it, and gives our answer instead.
pub(crate) fn refuse_head(hypers: &[u8], connection: &Connection, worker: &Worker) -> Vec<u8> {
    let (reason, line, told) = match hypers.starts_with(b"HTTP/1.1 431") {
        true => (
            Reason::HeadersTooLarge,
            "431 Request Header Fields Too Large",
            "the request's headers are over 64 KiB or more than 100",
        ),
        false => (Reason::BadRequest, "400 Bad Request", "the request is not HTTP as RFC 9112 has it"),
    };
    let told = (connection.direction == crate::telemetry::Direction::Outbound).then_some(told);
    refuse(reason, line, told, connection, worker)
}

/// Counts a request that no stack will see. Returns its answer as HTTP/1 writes it; the connection ends with it.
pub(crate) fn refuse(
    reason: Reason,
    line: &str,
    told: Option<&str>,
    connection: &Connection,
    worker: &Worker,
) -> Vec<u8> {
    worker.recorder.lock().count(RequestLabels {
        direction: connection.direction,
        service: super::exchange::nobodys(connection.direction),
        route: Symbol::EMPTY,
        method: MethodLabel::Other,
        status: reason.status(),
        grpc_status: None,
        reason: Some(reason),
        peer: connection.peer_label,
    });
    let body = answer::sentence(reason, told);
    let mut answer =
        format!("HTTP/1.1 {line}\r\ncontent-type: text/plain; charset=utf-8\r\nproxy-status: ").into_bytes();
    answer.extend_from_slice(answer::proxy_status(reason, told).as_bytes());
    let request_id = headers::request_id(&http::HeaderMap::new(), &mut worker.rng.lock());
    answer.extend_from_slice(b"\r\nx-request-id: ");
    answer.extend_from_slice(request_id.as_bytes());
    let rest = format!("\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    answer.extend_from_slice(rest.as_bytes());
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preface_tells_and_any_other_byte_does_too() {
        assert_eq!(detect(b""), None);
        assert_eq!(detect(b"PRI * HTTP/2.0\r\n"), None);
        assert_eq!(detect(PREFACE), Some(Version::Http2));
        assert_eq!(detect(b"POST / HTTP/1.1"), Some(Version::Http1));
        assert_eq!(detect(b"P"), None);
        assert_eq!(detect(b"\x16\x03\x01"), Some(Version::Http1));
    }
}
