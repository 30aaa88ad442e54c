//! HTTP/2 with prior knowledge on both ends: a client that shows trailers, and an application that sends them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::backend::Task;
use super::soon;

/// A body of the frames that are pushed into its sender.
pub(crate) struct Piped(mpsc::Receiver<Frame<Bytes>>);

impl Piped {
    pub(crate) fn new() -> (mpsc::Sender<Frame<Bytes>>, Self) {
        let (sender, receiver) = mpsc::channel(1);
        (sender, Self(receiver))
    }

    /// A body of these frames.
    pub(crate) fn of(frames: impl IntoIterator<Item = Frame<Bytes>>) -> Self {
        let frames: Vec<_> = frames.into_iter().collect();
        let (sender, receiver) = mpsc::channel(frames.len().max(1));
        for frame in frames {
            sender.try_send(frame).expect("room for every frame");
        }
        Self(receiver)
    }

    pub(crate) fn empty() -> Self {
        Self::of([])
    }
}

impl http_body::Body for Piped {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_closed() && self.0.is_empty()
    }
}

/// One connection of a client.
#[derive(Clone)]
pub(crate) struct Client(SendRequest<Piped>);

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = soon("connecting", TcpStream::connect(address)).await.expect("a listener");
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (send, connection) = builder.handshake(TokioIo::new(stream)).await.expect("HTTP/2");
        tokio::spawn(connection);
        Self(send)
    }

    pub(crate) async fn try_send(&mut self, request: Request<Piped>) -> hyper::Result<Response<Incoming>> {
        soon("an answer", self.0.send_request(request)).await
    }

    pub(crate) async fn send(&mut self, request: Request<Piped>) -> Response<Incoming> {
        self.try_send(request).await.expect("an answer")
    }

    /// A gRPC call with an empty message.
    pub(crate) async fn call(&mut self, host: &str) -> Response<Incoming> {
        let message = Frame::data(Bytes::from_static(&[0, 0, 0, 0, 0]));
        self.send(grpc(host, Piped::of([message]))).await
    }
}

pub(crate) fn grpc(host: &str, body: Piped) -> Request<Piped> {
    Request::post(format!("http://{host}/zoo.Zoo/Unary"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .expect("a well-formed request")
}

/// Reads a body to its end, with its trailers.
pub(crate) async fn collect(body: Incoming) -> (Bytes, HeaderMap) {
    let collected = soon("the end of a body", body.collect()).await.expect("a whole body");
    let trailers = collected.trailers().cloned().unwrap_or_default();
    (collected.to_bytes(), trailers)
}

/// An application that speaks HTTP/2 and answers with `answer`.
pub(crate) async fn application<A, F>(answer: A) -> (SocketAddr, Task)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Piped>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answered = answer(request);
                async move { Ok::<_, Infallible>(answered.await) }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, Task(task))
}
