//! Callers of each version, which send a further message only after the answer to the one before.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body::Frame;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::credentials::Credentials;
use super::expected::{Answer, Expected};
use super::{Alpn, Caller, Cell};
use crate::support::http2::Piped;
use crate::support::soon;

/// A request, and the address to which it is sent.
pub(super) struct Call<'a> {
    pub(super) to: SocketAddr,
    pub(super) host: &'a str,
    pub(super) id: &'a str,
}

/// The answer that a caller got.
pub(super) struct CallerResult {
    head: http::response::Parts,
    body: Vec<u8>,
    trailers: HeaderMap,
}

/// Two messages of gRPC. The second is sent only after the first came back.
const TURNS: [&[u8]; 2] = [b"\0\0\0\0\x05first", b"\0\0\0\0\x06second"];

impl Caller {
    pub(super) async fn calls(self, call: &Call<'_>) -> CallerResult {
        let stream = connect(call.to).await;
        self.talks(stream, call).await
    }

    pub(super) async fn calls_over_tls(self, call: &Call<'_>, alpn: Alpn, who: &Credentials) -> CallerResult {
        let stream = who.shake_hands(connect(call.to).await, alpn).await;
        self.talks(stream, call).await
    }

    async fn talks<I>(self, io: I, call: &Call<'_>) -> CallerResult
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (pipe, body) = Piped::new();
        let turn = |message: &'static [u8]| pipe.send(Frame::data(Bytes::from_static(message)));
        turn(TURNS[0]).await.expect("an empty pipe");
        let request = self.request(call, body);
        let (head, mut body) = soon(call.id, self.sends(io, request)).await.into_parts();
        let mut heard = Vec::new();
        if head.status == 200 && !head.headers.contains_key("grpc-status") {
            heard = soon(call.id, exactly(&mut body, TURNS[0].len())).await;
            turn(TURNS[1]).await.expect("a request that goes on");
        }
        drop(pipe);
        let rest = soon(call.id, body.collect()).await.expect("a whole answer");
        let trailers = rest.trailers().cloned().unwrap_or_default();
        heard.extend(rest.to_bytes());
        CallerResult { head, body: heard, trailers }
    }

    fn request(self, call: &Call<'_>, body: Piped) -> Request<Piped> {
        let path = "/zoo.Zoo/Chat";
        let request = match self {
            Self::Http1 => Request::post(path).header("host", call.host),
            Self::Http2 => Request::post(format!("http://{}{path}", call.host)),
            Self::Grpc => Request::post(format!("http://{}{path}", call.host))
                .header("content-type", "application/grpc")
                .header("te", "trailers"),
        };
        request.header("x-request-id", call.id).body(body).expect("a well-formed request")
    }

    async fn sends<I>(self, io: I, request: Request<Piped>) -> Response<Incoming>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(io);
        if self.version() == Version::HTTP_2 {
            let builder = http2::Builder::new(TokioExecutor::new());
            let (mut send, connection) = builder.handshake(io).await.expect("HTTP/2");
            tokio::spawn(connection);
            send.send_request(request).await.expect("an answer")
        } else {
            let (mut send, connection) = http1::handshake(io).await.expect("HTTP/1.1");
            tokio::spawn(connection);
            send.send_request(request).await.expect("an answer")
        }
    }
}

async fn connect(to: SocketAddr) -> TcpStream {
    let stream = soon("connecting", TcpStream::connect(to)).await.expect("a listener");
    stream.set_nodelay(true).expect("a TCP socket");
    stream
}

/// Reads `count` bytes, or fewer if the body ends before.
async fn exactly(body: &mut Incoming, count: usize) -> Vec<u8> {
    let mut heard = Vec::new();
    while heard.len() < count {
        let Some(frame) = body.frame().await else { break };
        heard.extend(frame.expect("a whole answer").into_data().unwrap_or_default());
    }
    heard
}

impl CallerResult {
    pub(super) fn version(&self) -> Version {
        self.head.version
    }

    /// The answer must agree with the table.
    pub(super) fn check(&self, cell: &Cell, expected: &Expected) {
        let (status, grpc_status) = match (expected.answer, cell.caller) {
            (Answer::Echo, _) => return self.is_the_echo(cell),
            (Answer::Unimplemented, _) => (200, Some("12")),
            (Answer::Failed, Caller::Grpc) => (200, Some("14")),
            (Answer::Failed, Caller::Http1 | Caller::Http2) => (502, None),
        };
        self.is_refused(cell, status, grpc_status, cause(expected));
    }

    fn is_the_echo(&self, cell: &Cell) {
        assert_eq!(self.head.status, 200, "{cell:?}: {self}");
        assert!(!self.head.headers.contains_key("proxy-status"), "{cell:?}: {self}");
        assert_eq!(self.body, TURNS.concat(), "{cell:?}: the echo");
        let status = self.trailers.get("grpc-status").map(|status| status.as_bytes());
        let expected = (cell.caller == Caller::Grpc).then_some(&b"0"[..]);
        assert_eq!(status, expected, "{cell:?}: the trailers");
    }

    /// The answer must be a sidecar's own; a gRPC answer must have headers alone.
    fn is_refused(&self, cell: &Cell, status: u16, grpc_status: Option<&str>, cause: &str) {
        assert_eq!(self.head.status, status, "{cell:?}: {self}");
        let header = |name: &str| self.head.headers.get(name).and_then(|value| value.to_str().ok());
        assert_eq!(header("grpc-status"), grpc_status, "{cell:?}: {self}");
        let status = header("proxy-status").unwrap_or_default();
        assert!(status.starts_with(&format!("pillion; error={cause};")), "{cell:?}: not {cause}: {self}");
    }
}

/// The error type in Proxy-Status. The HTTP/1.1 application of this test closes the connection at the preface of
/// HTTP/2,
/// without an answer.
fn cause(expected: &Expected) -> &'static str {
    match expected.spoken {
        None => "destination_not_found",
        Some(Version::HTTP_2) => "connection_terminated",
        Some(_) => "http_protocol_error",
    }
}

impl std::fmt::Display for CallerResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}\n{}", self.head, String::from_utf8_lossy(&self.body))
    }
}
