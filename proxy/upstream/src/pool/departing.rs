//! A connection to an HTTP/1 upstream that is given up in the middle of an exchange.
//!
//! The upstream may be at work on the request for a while longer, and so the request's place among `max_requests` is
//! not free yet: else a client that resets what it has asked for brings any number of requests to the application at
//! once. The upstream hears at once that nobody will send more; when it closes, or answers, it is done.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::timeout;

use super::fields::TooMany;
use pillion_base::limits::Permit;

/// For an upstream that does not notice, or does not care. As long as a request may take by default.
const PATIENCE: Duration = Duration::from_secs(15);

/// What outlives the connection, once it is given up.
#[derive(Debug, Default)]
pub(super) struct Aftermath(Mutex<Option<Permit>>);

impl Aftermath {
    /// The connection is about to be dropped with a request under way.
    pub(super) fn leave(&self, permit: Permit) {
        *self.0.lock() = Some(permit);
    }
}

pub struct Departing<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> {
    /// `None` only while being dropped or taken.
    io: Option<T>,
    aftermath: Arc<Aftermath>,
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Departing<T> {
    pub(super) const fn new(io: T, aftermath: Arc<Aftermath>) -> Self {
        Self { io: Some(io), aftermath }
    }

    /// Gives the stream back, which is no longer HTTP's.
    pub fn into_inner(mut self) -> Option<T> {
        self.io.take()
    }

    /// Where hyper has no room for the answer, the connection leaves it inside the error.
    fn past_hyper(&mut self, error: io::Error) -> io::Error {
        let is_too_many = error.get_ref().is_some_and(|inner| inner.is::<TooMany<()>>());
        match self.io.take_if(|_| is_too_many) {
            Some(io) => io::Error::other(TooMany::new(io)),
            None => error,
        }
    }

    fn io(&mut self) -> io::Result<Pin<&mut T>> {
        self.io.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Drop for Departing<T> {
    fn drop(&mut self) {
        let permit = self.aftermath.0.lock().take();
        if let (Some(io), Some(permit), Ok(runtime)) =
            (self.io.take(), permit, tokio::runtime::Handle::try_current())
        {
            runtime.spawn(see_off(io, permit));
        }
    }
}

async fn see_off<T: AsyncRead + AsyncWrite + Unpin>(mut io: T, permit: Permit) {
    let done = async {
        if io.shutdown().await.is_ok() {
            drop(io.read_u8().await); // an answer, an end or an error: all the same
        }
    };
    drop(timeout(PATIENCE, done).await);
    drop(permit);
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncRead for Departing<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.io()?.poll_read(cx, buf) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.past_hyper(error))),
            polled => polled,
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncWrite for Departing<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.io()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(T::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_shutdown(cx)
    }
}
