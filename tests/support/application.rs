//! An application with everything on one port: quick answers, WebSockets and gRPC streams, all of them echoes.

use std::convert::Infallible;
use std::net::SocketAddr;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::backend::Task;
use super::http2::Piped;

/// The size of a text frame of four bytes from a client: head, length, mask, text.
pub(crate) const MASKED: usize = 10;
/// The size of such a frame from a server.
pub(crate) const UNMASKED: usize = 6;
/// RFC 6455 §1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

pub(crate) async fn application() -> (SocketAddr, Task) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    (address, Task(task))
}

/// An application that echoes bytes without a protocol.
pub(crate) async fn bytes() -> (SocketAddr, Task) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                drop(tokio::io::copy(&mut from, &mut to).await);
            });
        }
    });
    (address, Task(task))
}

async fn serve(stream: TcpStream) {
    let mut first = [0; 3];
    let is_http2 = stream.peek(&mut first).await.is_ok() && first == *b"PRI";
    let (io, service) = (TokioIo::new(stream), service_fn(answer));
    if is_http2 {
        drop(http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await);
    } else {
        drop(http1::Builder::new().serve_connection(io, service).with_upgrades().await);
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Piped>, Infallible> {
    if request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/grpc") {
        return Ok(grpc(request.into_body()));
    }
    if let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY).cloned() {
        return Ok(websocket(request, &key));
    }
    let reply = format!("{} {} ", request.method(), request.uri().path());
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let reply = [reply.as_bytes(), &body].concat();
    Ok(Response::new(Piped::of([Frame::data(reply.into())])))
}

fn grpc(mut body: Incoming) -> Response<Piped> {
    let (to, piped) = Piped::new();
    tokio::spawn(async move {
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            // The last frame of a client may be empty. Echoed before the trailers it would not be the last, and the crate
            // `h2` of the sidecar takes a hundred such frames on a connection, and no more.
            if data.is_empty() {
                continue;
            }
            if to.send(Frame::data(data)).await.is_err() {
                return;
            }
        }
        let trailers = HeaderMap::from_iter(
            [("grpc-status", "0")]
                .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value))),
        );
        drop(to.send(Frame::trailers(trailers)).await);
    });
    let mut response = Response::new(piped);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn websocket(mut request: Request<Incoming>, key: &HeaderValue) -> Response<Piped> {
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrading.await {
            echo_frames(TokioIo::new(upgraded)).await;
        }
    });
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID.as_bytes()].concat());
    Response::builder()
        .status(101)
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_ACCEPT, STANDARD.encode(hash))
        .body(Piped::empty())
        .expect("a well-formed answer")
}

/// Echoes frames without their mask, which is zero.
async fn echo_frames(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let mut frame = [0; MASKED];
    while io.read_exact(&mut frame).await.is_ok() {
        let echo = [&[frame[0], frame[1] & 0x7f], &frame[MASKED - 4..]].concat();
        if io.write_all(&echo).await.is_err() {
            return;
        }
    }
}

/// A gRPC message of these four bytes.
pub(crate) fn message(token: [u8; 4]) -> Bytes {
    [&[0, 0, 0, 0, 4], &token[..]].concat().into()
}
