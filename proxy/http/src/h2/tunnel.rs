//! An HTTP/2 stream as a byte stream, for what runs inside a CONNECT, plain or extended (RFC 8441).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use pillion_base::net::Overlay;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::memory::Piece;
use super::receive::Incoming;
use super::{Room, SEND_BUFFER};

pub struct Tunnel {
    incoming: Incoming,
    outgoing: SendStream<Piece>,
    room: Arc<Room>,
    /// Bytes that came and did not fit into the reader's buffer.
    rest: Bytes,
    has_ended: bool,
    is_cut: AtomicBool,
}

impl Tunnel {
    pub fn new(incoming: RecvStream, outgoing: SendStream<Piece>, room: &Arc<Room>) -> Self {
        Self {
            incoming: Incoming::new(incoming, None, room),
            outgoing,
            room: room.clone(),
            rest: Bytes::new(),
            has_ended: false,
            is_cut: AtomicBool::new(false),
        }
    }

    fn broken(&mut self, cx: &mut Context<'_>) -> io::Error {
        match self.outgoing.poll_reset(cx) {
            // The peer has ended the stream without an error, as if both directions had been shut down.
            Poll::Ready(Ok(Reason::NO_ERROR | Reason::CANCEL)) => io::ErrorKind::BrokenPipe.into(),
            Poll::Ready(Ok(reason)) => io::Error::other(h2::Error::from(reason)),
            Poll::Ready(Err(error)) => io::Error::other(error),
            Poll::Pending => io::ErrorKind::BrokenPipe.into(),
        }
    }
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").finish_non_exhaustive()
    }
}

impl Overlay for Tunnel {
    fn reset_when_dropped(&self, resets: bool) {
        self.is_cut.store(resets, Relaxed);
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.incoming.poll_frame(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(frame)) => self.rest = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, error)));
                }
            }
        }
        let count = self.rest.len().min(buf.remaining());
        buf.put_slice(self.rest.get(..count).unwrap_or_default());
        self.rest.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let this = &mut *self;
        if !this.room.account.may_read() {
            this.room.account.wait(cx.waker());
            return match this.outgoing.poll_reset(cx) {
                Poll::Ready(_) => Poll::Ready(Err(this.broken(cx))),
                Poll::Pending => Poll::Pending,
            };
        }
        this.outgoing.reserve_capacity(buf.len().min(SEND_BUFFER));
        let capacity = match this.outgoing.capacity() {
            0 => match this.outgoing.poll_capacity(cx) {
                Poll::Ready(Some(Ok(capacity))) => capacity,
                Poll::Ready(_) => return Poll::Ready(Err(this.broken(cx))),
                Poll::Pending => {
                    // This also wakes for a reset while the window stays closed.
                    return match this.outgoing.poll_reset(cx) {
                        Poll::Ready(_) => Poll::Ready(Err(this.broken(cx))),
                        Poll::Pending => Poll::Pending,
                    };
                }
            },
            capacity => capacity,
        };
        let count = capacity.min(buf.len());
        let bytes = Bytes::copy_from_slice(buf.get(..count).unwrap_or_default());
        this.room.account.hold_waiting(count);
        match this.outgoing.send_data(Piece::queue(bytes, &this.room), false) {
            Ok(()) => Poll::Ready(Ok(count)),
            Err(_closed) => Poll::Ready(Err(this.broken(cx))),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // the connection's task flushes
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.has_ended, true) {
            drop(self.outgoing.send_data(Piece::empty(), true)); // fails only if the stream is already closed
        }
        Poll::Ready(Ok(()))
    }
}

/// Closes the stream like a TCP connection: with an end, or with a reset if an end would hide that bytes are missing.
impl Drop for Tunnel {
    fn drop(&mut self) {
        if self.is_cut.load(Relaxed) {
            self.outgoing.send_reset(Reason::CONNECT_ERROR); // RFC 9113, 8.5
        } else if !self.has_ended {
            drop(self.outgoing.send_data(Piece::empty(), true));
        }
    }
}
