//! An application that understands one version of HTTP, and records the version in which it is addressed.

use std::convert::Infallible;
use std::io::Cursor;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body::Frame;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, join};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::support::backend::Task;
use crate::support::http2::Piped;

pub(super) struct Application {
    pub(super) address: SocketAddr,
    pub(super) version: Version,
    heard: Arc<Mutex<Heard>>,
    _task: Task,
}

#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The `x-request-id` and the version of each request, in the order in which they came.
    pub(super) requests: Vec<(String, Version)>,
    /// The version of each connection's first bytes. A connection without bytes has none.
    pub(super) connections: Vec<Version>,
}

impl Application {
    /// Echoes every body as it comes, and ends gRPC answers with trailers.
    pub(super) async fn start(version: Version) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let heard = Arc::<Mutex<Heard>>::default();
        let shared = heard.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, version, shared.clone()));
            }
        });
        Self { address, version, heard, _task: Task(task) }
    }

    /// What the application has recorded since the last call.
    pub(super) fn heard(&self) -> Heard {
        std::mem::take(&mut self.heard.lock())
    }
}

async fn serve(stream: TcpStream, version: Version, heard: Arc<Mutex<Heard>>) {
    stream.set_nodelay(true).expect("a TCP socket");
    let (mut read, write) = stream.into_split();
    let mut first = [0; 3];
    if read.read_exact(&mut first).await.is_err() {
        return;
    }
    let is_preface = first == *b"PRI"; // no method begins with these bytes
    heard.lock().connections.push(if is_preface { Version::HTTP_2 } else { Version::HTTP_11 });
    let io = TokioIo::new(join(Cursor::new(first).chain(read), write));
    let service = service_fn(move |request| {
        note(&request, &heard);
        async { Ok::<_, Infallible>(echo(request)) }
    });
    // An error means that a caller spoke another version or went away.
    if version == Version::HTTP_2 {
        drop(http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await);
    } else {
        drop(http1::Builder::new().serve_connection(io, service).await);
    }
}

fn note(request: &Request<Incoming>, heard: &Mutex<Heard>) {
    let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok());
    heard.lock().requests.push((id.unwrap_or_default().to_owned(), request.version()));
}

fn echo(request: Request<Incoming>) -> Response<Piped> {
    let (head, asked) = request.into_parts();
    let (sender, body) = Piped::new();
    let kind = head.headers.get("content-type").cloned();
    let is_grpc = kind.as_ref().is_some_and(|kind| kind == "application/grpc");
    tokio::spawn(repeat(asked, sender, is_grpc));
    let mut answer = Response::new(body);
    answer.headers_mut().extend(kind.map(|kind| (http::header::CONTENT_TYPE, kind)));
    answer
}

/// Ends early when the caller goes away.
async fn repeat(mut asked: Incoming, to: mpsc::Sender<Frame<Bytes>>, is_grpc: bool) {
    while let Some(Ok(frame)) = asked.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        if to.send(Frame::data(data)).await.is_err() {
            return;
        }
    }
    if is_grpc {
        let ok = (http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
        drop(to.send(Frame::trailers(HeaderMap::from_iter([ok]))).await);
    }
}
