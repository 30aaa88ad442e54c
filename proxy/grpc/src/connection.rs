//! A connection of HTTP/2 on which calls are made, over any byte stream.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tonic::Status;
use tower::Service;

use crate::status;

/// 64 KiB: what a server may send on one call before any of it is read.
const STREAM_WINDOW: u32 = 64 * 1024;
/// 1 MiB: what a server may send on all calls of a connection before any of it is read.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// 16 KiB: the head of an answer, or its trailers. gRPC's own default is 8 KiB.
const HEAD: u32 = 16 * 1024;

/// A byte stream to a server.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Sends requests. A clone uses the same connection, which ends when the last clone is dropped.
#[derive(Clone)]
pub struct Connection {
    send: SendRequest<Full<Bytes>>,
    driver: Arc<Driver>,
}

/// The task that moves the connection's bytes. It ends with the connection, and at the latest when this is dropped.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// Opens a connection. Must be called on a runtime. The byte stream is boxed, so that the code of HTTP/2 exists
    /// once for all kinds of them.
    ///
    /// # Errors
    /// UNAVAILABLE, when the preface cannot be written. Whether the server speaks HTTP/2 shows with the first call.
    pub async fn open(io: impl Io + 'static) -> Result<Self, Status> {
        let io: Box<dyn Io> = Box::new(io);
        let (send, connection) = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEAD)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| status::of_http2(&error))?;
        let driver = tokio::spawn(async { drop(connection.await) }); // the calls get its error
        Ok(Self { send, driver: Arc::new(Driver(driver)) })
    }

    /// Whether the connection takes no more calls: it is broken, or the server has sent a GOAWAY.
    pub fn is_closed(&self) -> bool {
        self.send.is_closed() || self.driver.0.is_finished()
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Answer>, Status>> + Send>>;

impl Service<Request<tonic::body::Body>> for Connection {
    type Response = Response<Answer>;
    type Error = Status;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.send.poll_ready(cx).map_err(|error| status::of_http2(&error))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Answering {
        let mut connection = self.clone(); // open until the head of the answer is here
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let message = body.collect().await?.to_bytes(); // one message, encoded already
            let sent = connection.send.send_request(Request::from_parts(head, Full::new(message)));
            let answer = sent.await.map_err(|error| status::of_http2(&error))?;
            Ok(answer.map(|body| Answer { body, _open: connection.driver }))
        })
    }
}

/// The body of an answer. The connection stays open while it is read.
pub struct Answer {
    body: Incoming,
    _open: Arc<Driver>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        polled.map(|frame| frame.map(|frame| frame.map_err(|error| status::of_http2(&error))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
