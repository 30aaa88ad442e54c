//! The transport of an HTTP/1 connection to an upstream: an answer that has come wins over an error in sending.
//!
//! An upstream may answer early and close with bytes of the request unread. Our next write then fails, while its answer
//! still waits in the kernel: on Linux what was received before a reset can be read after it. hyper gives the exchange
//! up at the first failed write, so that error is kept from it here: the write waits, and the reader decides.

use std::future::Future as _;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::fields::{Expected, TooMany, Watch};
use pillion_base::net::{Io, Transport, forward};

/// How long is waited for something to read once nothing can be written. What came before the write failed is in the
/// kernel already; the runtime may hear of that a moment later.
const LAST_WORDS: Duration = Duration::from_secs(1);

pub(super) struct AnswerFirst {
    io: Io,
    /// The first write that failed. None follows it.
    failed: Option<Box<Failed>>,
    expected: Arc<Expected>,
    watch: Watch,
    reading: Reading,
    /// Everything that the writer has is written. hyper flushes when it has nothing left to write, and at no other time.
    is_flushed: bool,
}

/// How an answer is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// As it comes, unless it has more fields than hyper has room for.
    Watched,
    /// A second time, by a reader with more room, whose request was sent by the first: once that is written, and goes
    /// nowhere, the answer is read.
    AgainAfterRequest,
    Again,
}

struct Failed {
    kind: ErrorKind,
    /// Until the reader was told.
    error: Option<io::Error>,
    patience: Pin<Box<Sleep>>,
}

impl AnswerFirst {
    pub(super) fn new(io: Io, expected: Arc<Expected>) -> Self {
        Self {
            io,
            failed: None,
            expected,
            watch: Watch::default(),
            reading: Reading::Watched,
            is_flushed: true,
        }
    }

    /// Makes ready for a second reader, with more room. hyper reads no answer before it has sent a request, so the second
    /// reader writes the request again. The endpoint has it already: those bytes are dropped ([`Self::swallow`]).
    pub(super) fn read_again(mut self) -> Self {
        self.reading = Reading::AgainAfterRequest;
        self
    }

    /// Keeps an answer from hyper that has more fields than that has room for.
    fn watched(&mut self, piece: &[u8]) -> io::Result<()> {
        match self.watch.look(&self.expected, piece) {
            Some(head) if self.reading == Reading::Watched => {
                self.io.put_back(head.into());
                Err(io::Error::other(TooMany::new(())))
            }
            _ => Ok(()),
        }
    }

    /// Takes a request that was sent before. The reader is woken: it waits for that.
    fn swallow(&mut self, size: usize, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        self.reading = Reading::Again;
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(size))
    }

    /// Whether nothing of a request was left in the writer's hands.
    pub(super) const fn is_flushed(&self) -> bool {
        self.is_flushed
    }

    /// Gives the stream back.
    pub(super) fn into_io(self) -> Io {
        self.io
    }

    /// Passes a write's outcome on, unless it failed: then the writer waits, and the reader goes on.
    fn written<T>(&mut self, polled: Poll<io::Result<T>>, cx: &Context<'_>) -> Poll<io::Result<T>> {
        let Poll::Ready(Err(error)) = polled else { return polled };
        let (kind, patience) = (error.kind(), Box::pin(sleep(LAST_WORDS)));
        self.failed = Some(Box::new(Failed { kind, error: Some(error), patience }));
        cx.waker().wake_by_ref(); // for the reader, which has to wait with a deadline from now on
        Poll::Pending
    }

    /// Whether an end that is read after a failed write is the upstream's own. After a reset Linux reports an ordinary
    /// end, once a write was told of the reset (`ECONNRESET`); only where the end had come before the reset is the
    /// write told `EPIPE`. In TLS an end is always the peer's word.
    fn is_end_believed(&self, kind: ErrorKind) -> bool {
        kind == ErrorKind::BrokenPipe || matches!(self.io.get_ref(), Transport::Connected(_))
    }
}

impl Failed {
    fn tell(&mut self) -> io::Error {
        self.error.take().unwrap_or_else(|| self.kind.into())
    }
}

impl AsyncRead for AnswerFirst {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.reading == Reading::AgainAfterRequest {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        if let Some(piece @ [_, ..]) = buf.filled().get(before..)
            && let Err(too_many) = this.watched(piece)
        {
            buf.set_filled(before);
            return Poll::Ready(Err(too_many));
        }
        let Some(kind) = this.failed.as_ref().map(|failed| failed.kind) else { return polled };
        let is_believed = this.is_end_believed(kind);
        let Some(failed) = &mut this.failed else { return polled };
        match polled {
            Poll::Ready(Ok(())) if buf.filled().len() > before || is_believed => Poll::Ready(Ok(())),
            // The peer's TLS alert says why it hung up, which is more than that it did.
            Poll::Ready(Err(error)) if is_of_tls(&error) => Poll::Ready(Err(error)),
            Poll::Ready(_) => Poll::Ready(Err(failed.tell())),
            Poll::Pending => failed.patience.as_mut().poll(cx).map(|()| Err(failed.tell())),
        }
    }
}

fn is_of_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

impl AsyncWrite for AnswerFirst {
    forward!(io: is_vectored, shutdown);

    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.reading == Reading::AgainAfterRequest {
            return self.swallow(buf.len(), cx); // also where an earlier write has failed
        }
        if self.failed.is_some() {
            return Poll::Pending; // the reader wakes the task
        }
        self.is_flushed = false;
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.written(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.reading == Reading::AgainAfterRequest {
            return self.swallow(bufs.iter().map(|buf| buf.len()).sum(), cx);
        }
        if self.failed.is_some() {
            return Poll::Pending;
        }
        self.is_flushed = false;
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.written(polled, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.failed.is_some() {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.is_flushed = matches!(polled, Poll::Ready(Ok(())));
        self.written(polled, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    use pillion_base::net::memory::Pipe;
    use pillion_base::net::{Prefixed, Stream};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::Instant;

    fn pair() -> (AnswerFirst, Pipe) {
        let (near, far) = Pipe::pair(1024);
        let stream = Stream::Memory(near, None);
        (AnswerFirst::new(Prefixed::new(Transport::Plain(Prefixed::new(stream))), Arc::default()), far)
    }

    /// How a write goes that is not waited for.
    async fn write(io: &mut AnswerFirst) -> Poll<io::Result<usize>> {
        poll_fn(|cx| Poll::Ready(Pin::new(&mut *io).poll_write(cx, b"more"))).await
    }

    async fn read(io: &mut AnswerFirst) -> (String, Option<ErrorKind>) {
        let mut all = Vec::new();
        let ended = io.read_to_end(&mut all).await;
        (String::from_utf8(all).unwrap(), ended.err().map(|error| error.kind()))
    }

    #[tokio::test(start_paused = true)]
    async fn b4_what_was_received_is_read_after_a_write_has_failed() {
        let (mut io, mut far) = pair();
        io.write_all(b"request").await.unwrap();
        far.write_all(b"answer").await.unwrap();
        drop(far); // with the request unread
        assert!(write(&mut io).await.is_pending(), "the error is kept from the writer");
        assert!(write(&mut io).await.is_pending());
        assert_eq!(read(&mut io).await, ("answer".to_owned(), Some(ErrorKind::ConnectionReset)));
    }

    #[tokio::test(start_paused = true)]
    async fn b4_an_answer_with_many_fields_is_read_again_after_a_write_has_failed() {
        let (mut io, mut far) = pair();
        io.expected.expect();
        io.write_all(b"request").await.unwrap();
        let answer = format!("HTTP/1.1 413 No\n{}\n", "x:\n".repeat(101));
        far.write_all(answer.as_bytes()).await.unwrap();
        drop(far); // with the request unread
        assert!(write(&mut io).await.is_pending());
        io.read(&mut [0; 1024]).await.expect_err("hyper has no room for it");
        let mut io = io.read_again();
        assert!(write(&mut io).await.is_ready(), "what the second reader sends is dropped");
        assert_eq!(read(&mut io).await, (answer, Some(ErrorKind::ConnectionReset)));
    }

    #[tokio::test(start_paused = true)]
    async fn b4_an_end_that_came_before_the_failed_write_is_an_end() {
        let (mut io, mut far) = pair();
        far.write_all(b"answer").await.unwrap();
        drop(far); // with nothing unread
        assert!(write(&mut io).await.is_pending());
        assert_eq!(read(&mut io).await, ("answer".to_owned(), None));
    }

    #[tokio::test(start_paused = true)]
    async fn b4_a_reader_that_hears_nothing_after_a_failed_write_is_told_in_time() {
        let (mut io, _far) = pair();
        let failed = || Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        assert!(poll_fn(|cx| Poll::Ready(io.written::<()>(failed(), cx))).await.is_pending());
        let began = Instant::now();
        assert_eq!(read(&mut io).await, (String::new(), Some(ErrorKind::ConnectionReset)));
        assert_eq!(began.elapsed(), LAST_WORDS);
    }
}
