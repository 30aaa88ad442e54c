//! A connection of HTTP/2 on which calls are made, over any byte stream.

use std::convert::Infallible;
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
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinHandle};
use tonic::Status;
use tower::Service;

use crate::status;

/// 64 KiB: what a server may send on one call before any of it is read.
const STREAM_WINDOW: u32 = 64 * 1024;
/// 1 MiB: what a server may send on all calls of a connection before any of it is read.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// 16 KiB: the head of an answer, or its trailers. gRPC's own default is 8 KiB.
const HEAD: u32 = 16 * 1024;

/// 100: calls of one connection whose request is not written yet. A server may allow no further streams while others are
/// open, and hyper queues requests without a bound, also those whose caller has left.
const WAITING: usize = 100;

/// A byte stream to a server.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Sends requests. A clone uses the same connection, which ends when the last clone is dropped.
#[derive(Clone)]
pub struct Connection {
    send: SendRequest<Sent>,
    waiting: Arc<Semaphore>,
    driver: Arc<Driver>,
}

/// The tasks of the connection. They end with the connection, and at the latest when this is dropped.
struct Driver {
    dispatcher: JoinHandle<()>,
    tasks: Tasks,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.dispatcher.abort();
        self.tasks.0.lock().iter().for_each(AbortHandle::abort);
    }
}

/// The tasks that hyper starts, so that a server which reads nothing keeps none of them.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<Vec<AbortHandle>>>);

impl<F: Future<Output: Send + 'static> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let mut tasks = self.0.lock();
        tasks.retain(|task| !task.is_finished());
        tasks.push(tokio::spawn(task).abort_handle());
    }
}

/// The message of a request. It holds its place among [`WAITING`] until it is written or forgotten.
struct Sent {
    message: Full<Bytes>,
    _place: OwnedSemaphorePermit,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.message).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.message.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.message.size_hint()
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
        let tasks = Tasks::default();
        let (send, connection) = Builder::new(tasks.clone())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEAD)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| status::of_http2(&error))?;
        let dispatcher = tokio::spawn(async { drop(connection.await) }); // the calls get its error
        let driver = Arc::new(Driver { dispatcher, tasks });
        Ok(Self { send, waiting: Arc::new(Semaphore::new(WAITING)), driver })
    }

    /// Whether the connection takes no more calls: it is broken, or the server has sent a GOAWAY.
    pub fn is_closed(&self) -> bool {
        self.send.is_closed() || self.driver.dispatcher.is_finished()
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
        let mut connection = self.clone(); // it stays open until the head of the answer has come
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let message = Full::new(body.collect().await?.to_bytes()); // one message, encoded already
            let place = connection.waiting.clone().try_acquire_owned();
            let place =
                place.map_err(|_full| Status::resource_exhausted("too many calls wait for this server"))?;
            let sent =
                connection.send.send_request(Request::from_parts(head, Sent { message, _place: place }));
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
