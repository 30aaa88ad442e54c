//! Watches a client whose bytes are carried as opaque although its first line was not complete: in some protocols the
//! client sends a word without a line end and waits. If the line becomes one that an HTTP server might read as a
//! request, the connection is cut, and the bytes that made it a request are not carried.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::bytes::{LooksLike, Reader};
use pillion_base::net::{Io, forward};

pub struct Watched<'a> {
    io: &'a mut Io,
    /// `None`: the first line has shown that the client does not speak HTTP.
    line: Option<Line>,
    is_refused: bool,
}

/// The part of the first line that has come. It holds only a few bytes, because no other limit bounds the memory of all
/// such lines together.
struct Line {
    seen: BytesMut,
    reader: Reader,
}

impl<'a> Watched<'a> {
    /// `most`: the longest first line, in bytes; `None`: nothing is watched. `io` must still yield all bytes from the
    /// first one.
    pub fn new(io: &'a mut Io, most: Option<usize>) -> Self {
        let line = most.map(|most| Line { seen: BytesMut::new(), reader: Reader::new(most) });
        Self { io, line, is_refused: false }
    }

    /// Whether the connection was cut because the client began to speak HTTP.
    pub const fn is_refused(&self) -> bool {
        self.is_refused
    }

    fn pass(&mut self, fresh: &[u8]) -> io::Result<()> {
        let Some(line) = &mut self.line else { return Ok(()) };
        line.seen.extend_from_slice(fresh);
        match line.reader.look(&line.seen) {
            None => line.reader.forget(&mut line.seen),
            Some(LooksLike::Tls | LooksLike::Opaque) => self.line = None,
            Some(LooksLike::Http1 | LooksLike::Http2) => {
                self.is_refused = true;
                return Err(io::Error::new(io::ErrorKind::InvalidData, "HTTP on an opaque connection"));
            }
        }
        Ok(())
    }
}

impl AsyncRead for Watched<'_> {
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

impl AsyncWrite for Watched<'_> {
    forward!(io: write, flush, shutdown);
}
