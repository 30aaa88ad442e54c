//! One connection of the admin or metrics port, and the limits of what its client may use.
//!
//! Any client that reaches the port can open connections, ask for pages and read nothing. So every wait for the client
//! has a deadline, and so has the connection itself.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep, timeout};

use super::pages::{OwnPort, Pages};
use super::places::AdminPlace;
use super::tap;
use pillion_base::net::{Stream, forward};

/// From the last response, or from the start of the connection, until the complete head of a request has arrived.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client that has a response to read may take no byte of it. A scraper reads at once.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// After this time a connection takes no further request. A scraper that keeps connections for longer opens another
/// one.
const LIFETIME: Duration = Duration::from_secs(60);
/// The time beyond [`LIFETIME`] for the response in progress: the slowest page, a reload, may take 30 s, and its text
/// must be written.
const LAST_ANSWER: Duration = Duration::from_secs(35);
/// Bytes of a request's head, which has a path and little else. hyper reads this much ahead.
const HEAD_BYTES: usize = 16 * 1024;

/// Serves the connection until its client leaves, its time is over, or it must make room for another one. When its
/// listener is closed, so that `listens` ends, the connection ends with its next answer; the process waits for that as long
/// as `visit` lives.
pub(super) async fn serve(
    stream: Stream,
    port: OwnPort,
    pages: Pages,
    mut place: AdminPlace,
    (mut listens, visit): (watch::Receiver<()>, Arc<()>),
) {
    let asked_at = stream.own_ip();
    let is_stream = &AtomicBool::new(false); // the answer under way
    let is_last = &AtomicBool::new(false); // the next answer
    let service = service_fn(move |request: Request<Incoming>| {
        let pages = pages.clone();
        is_stream.store(false, Relaxed); // the client has its last answer, as it asks again
        async move {
            let (parts, _unread) = request.into_parts();
            let mut reply = pages.answer(port, &parts, asked_at).await;
            if is_last.load(Relaxed) {
                reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            is_stream.store(reply.body().is_stream(), Relaxed);
            Ok::<_, Infallible>(reply)
        }
    });
    let mut serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(WriteTimeout::new(stream)), service);
    let whole_life = async {
        let open = async { while listens.changed().await.is_ok() {} };
        tokio::select! { // nothing is lost: the connection goes on below
            _ = &mut serving => return true, // a client that breaks off here does no harm
            closed = timeout(LIFETIME, open) => is_last.store(closed.is_ok(), Relaxed),
        }
        let may_ask = is_last.load(Relaxed) && !is_stream.load(Relaxed); // a request may be on its way
        if may_ask && timeout(HEADER_TIMEOUT + LAST_ANSWER, &mut serving).await.is_ok() {
            return true;
        }
        drop(visit);
        Pin::new(&mut serving).graceful_shutdown();
        // a stream has a time of its own
        let rest = if is_stream.load(Relaxed) { tap::LONGEST } else { LAST_ANSWER };
        timeout(rest, &mut serving).await.is_ok()
    };
    let has_ended = tokio::select! { // nothing is lost: a connection that has not ended is cut below
        biased;
        has_ended = whole_life => has_ended,
        () = place.must_leave() => false,
    };
    if !has_ended {
        serving.into_parts().io.into_inner().io.reset_on_drop();
    }
}

/// A stream whose writes fail if the other end takes no byte for [`WRITE_TIMEOUT`].
struct WriteTimeout {
    io: Stream,
    /// Set while a write is waiting.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl WriteTimeout {
    const fn new(io: Stream) -> Self {
        Self { io, waiting: None }
    }

    fn bound<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        ready!(waiting.as_mut().poll(cx));
        self.io.reset_on_drop(); // otherwise the kernel would keep the unread bytes
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for WriteTimeout {
    forward!(io: read);
}

impl AsyncWrite for WriteTimeout {
    forward!(io: write, flush, shutdown then bound);
}
