//! Watches a client whose bytes are carried as opaque although its first line was not complete: in some protocols the
//! client sends a word without a line end and waits. If the line becomes one that an HTTP server might read as a
//! request, the connection is cut, and the bytes that made it a request are not carried.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::bytes::{LooksLike, Reader};
use pillion_base::error::Error;
use pillion_base::net::{Io, forward};
use pillion_model::Reason;

const BECAME_HTTP: &str = "HTTP on a connection that had been found opaque";

pub struct Watched<'a, A> {
    io: &'a mut Io,
    /// `None`: the first line has shown that the client does not speak HTTP.
    line: Option<Box<Line>>,
    /// Whether the client may go on. It is asked before bytes pass in either direction.
    admits: A,
    refusal: Option<Box<Error>>,
}

/// The part of the first line that has come. It holds only a few bytes, because no other limit bounds the memory of all
/// such lines together.
struct Line {
    seen: BytesMut,
    reader: Reader,
}

impl<'a, A: Fn() -> Result<(), Error> + Unpin> Watched<'a, A> {
    /// `most`: the longest first line, in bytes; `None`: it is not watched. `io` must still yield all bytes from the
    /// first one.
    pub fn new(io: &'a mut Io, most: Option<usize>, admits: A) -> Self {
        let line = most.map(|most| Box::new(Line { seen: BytesMut::new(), reader: Reader::new(most) }));
        Self { io, line, admits, refusal: None }
    }

    /// Why the connection was cut: the client began to speak HTTP, or is admitted no more.
    pub fn refusal(self) -> Option<Error> {
        self.refusal.map(|error| *error)
    }

    fn pass(&mut self, fresh: &[u8]) -> io::Result<()> {
        self.admit()?;
        let Some(line) = &mut self.line else { return Ok(()) };
        line.seen.extend_from_slice(fresh);
        match line.reader.look(&line.seen) {
            None => line.reader.forget(&mut line.seen),
            Some(LooksLike::Tls | LooksLike::Opaque) => self.line = None,
            Some(LooksLike::Http1 | LooksLike::Http2) => {
                return self.refuse(Error::new(Reason::BadRequest, BECAME_HTTP));
            }
        }
        Ok(())
    }

    fn admit(&mut self) -> io::Result<()> {
        match (self.admits)() {
            Ok(()) => Ok(()),
            Err(error) => self.refuse(error),
        }
    }

    #[cold]
    fn refuse(&mut self, error: Error) -> io::Result<()> {
        self.refusal = Some(Box::new(error));
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

impl<A: Fn() -> Result<(), Error> + Unpin> AsyncRead for Watched<'_, A> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut *self.io).poll_read(cx, buf))?;
        let passed = self.pass(buf.filled().get(before..).unwrap_or_default());
        if passed.is_err() {
            buf.set_filled(before);
        }
        Poll::Ready(passed)
    }
}

impl<A: Fn() -> Result<(), Error> + Unpin> AsyncWrite for Watched<'_, A> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.admit()?;
        Pin::new(&mut *self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.admit()?;
        Pin::new(&mut *self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    forward!(io: flush, shutdown);
}
