//! A connection that hyper drops in the middle of an exchange, which is not the end of it: see [`aftermath`].

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::fields::TooMany;
use crate::pool::aftermath;
use pillion_base::limits::Permit;

/// What outlives the connection, once it is given up.
#[derive(Debug, Default)]
pub(super) struct Aftermath(Mutex<Option<Permit>>);

impl Aftermath {
    /// The connection is about to be dropped with a request under way.
    pub(super) fn leave(&self, permit: Permit) {
        *self.0.lock() = Some(permit);
    }
}

pub(super) struct Departing<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> {
    /// `None` only while being dropped or taken.
    io: Option<T>,
    aftermath: Arc<Aftermath>,
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Departing<T> {
    pub(super) const fn new(io: T, aftermath: Arc<Aftermath>) -> Self {
        Self { io: Some(io), aftermath }
    }

    /// Gives the stream back, which is no longer HTTP's.
    pub(super) fn into_inner(mut self) -> Option<T> {
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
            runtime.spawn(aftermath::see_off(io, permit));
        }
    }
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
