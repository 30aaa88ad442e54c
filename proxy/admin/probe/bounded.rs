//! A connection to the application with a limit of the bytes that are read: an application that sends interim responses or
//! empty frames without end must not keep the admin thread busy.

use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use pillion_base::net::{Overlay, Transport, forward};

/// Bytes that are read for one check, whose answer is a status and a sentence, with interim responses, heads and framing. Twice the largest head.
pub(super) const MOST: usize = 128 * 1024;

#[derive(Debug)]
struct Bounded {
    io: Transport,
    most: usize,
    left: usize,
}

#[derive(Debug, thiserror::Error)]
#[error("more than {0} bytes")]
struct TooLong(usize);

/// The same connection, of which so many bytes can be read. It is a [`Transport`], so that hyper's code exists once for all
/// questions that the sidecar asks.
pub(in crate::admin) fn bounded(io: Transport, most: usize) -> Transport {
    Transport::Inside(Box::new(Bounded { io, most, left: most }))
}

/// Whether an error of hyper has this cause.
pub(in crate::admin) fn is_too_long(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.and_then(io::Error::get_ref).is_some_and(|cause| cause.is::<TooLong>())
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::other(TooLong(self.most))));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        self.left = self.left.saturating_sub(read);
        polled
    }
}

impl AsyncWrite for Bounded {
    forward!(io: write, flush, shutdown);
}

impl Overlay for Bounded {
    fn reset_when_dropped(&self, resets: bool) {
        match resets {
            true => self.io.reset_on_drop(),
            false => self.io.end_on_drop(),
        }
    }
}
