//! A stream whose first bytes were read ahead, to detect the protocol, and are then read once more.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Stream, Transport, forward};

#[derive(Debug)]
pub struct Prefixed<T> {
    /// Bytes that were read ahead, if there are any. Boxed, because nearly all connections wait without any.
    prefix: Option<Box<Bytes>>,
    inner: T,
    written: u64,
    /// How many bytes were read. It starts again after four thousand million.
    read: u32,
    /// Bytes that may still be read. See [`Self::read_at_most`].
    readable: usize,
    /// Whether a read has already waited because `readable` was zero.
    has_paused: bool,
    /// See [`Self::is_awaited`].
    is_awaited: bool,
}

impl<T> Prefixed<T> {
    pub const fn new(inner: T) -> Self {
        let readable = usize::MAX;
        Self { prefix: None, inner, written: 0, read: 0, readable, has_paused: false, is_awaited: false }
    }

    pub const fn get_ref(&self) -> &T {
        &self.inner
    }

    fn count(&mut self, written: Poll<io::Result<usize>>, _cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.written += bytes as u64;
        }
        written
    }

    /// Puts back bytes that were read from this stream: the next reads return them first.
    pub fn put_back(&mut self, bytes: Bytes) {
        let bytes = match &self.prefix {
            None => bytes,
            Some(prefix) => [&bytes[..], &prefix[..]].concat().into(),
        };
        self.prefix = (!bytes.is_empty()).then(|| Box::new(bytes));
    }

    /// Limits the bytes that may be read from now on. `usize::MAX` removes the limit.
    ///
    /// The first read beyond the limit is pending once, and the second fails. A handshake that is complete by then ends
    /// with the pending read. TLS tries to read on while it has no data to hand out, and a client may send data right
    /// behind its handshake, so an immediate error would break correct clients.
    pub const fn read_at_most(&mut self, bytes: usize) {
        self.readable = bytes;
        self.has_paused = false;
    }

    fn refuse(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::replace(&mut self.has_paused, true) {
            return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn note_read(&mut self, bytes: usize) {
        self.read = self.read.wrapping_add(bytes as u32);
        if self.readable < usize::MAX {
            self.readable = self.readable.saturating_sub(bytes);
        }
    }

    /// Whether a question found no byte, so that the next read comes when the task was woken.
    pub const fn is_awaited(&self) -> bool {
        self.is_awaited
    }

    /// Sets [`Self::is_awaited`].
    pub const fn wait_for(&mut self, is_awaited: bool) {
        self.is_awaited = is_awaited;
    }

    /// Whether every read goes directly to the stream below.
    pub(super) const fn holds_nothing(&self) -> bool {
        self.prefix.is_none() && self.readable == usize::MAX
    }

    /// The first byte that was read ahead.
    pub fn peek(&self) -> Option<u8> {
        self.prefix.as_ref()?.first().copied()
    }

    /// The bytes that were read ahead and not consumed yet, and the stream.
    pub fn into_parts(self) -> (Bytes, T) {
        (self.prefix.map(|prefix| *prefix).unwrap_or_default(), self.inner)
    }
}

impl Prefixed<Transport> {
    /// A connection on which nothing was negotiated yet.
    ///
    /// Bytes can be read ahead and put back on two levels: here, for every transport, and below TLS, where a handshake
    /// first reads the bytes that were read ahead of it ([`Self::into_plain`]).
    pub const fn plain(stream: Stream) -> Self {
        Self::new(Transport::plain(stream))
    }

    /// Ready when there may be something to read, which a read then shows. Pending when there is nothing; `cx` is woken
    /// when that changes. Where the sidecar accepted TLS this needs no read through the TLS session.
    pub fn poll_comes(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.at_rest().map_or(Poll::Ready(()), |stream| stream.poll_comes(cx))
    }

    /// Whether there may be something to read. Answers without waiting.
    pub fn may_have_come(&self) -> bool {
        self.at_rest().is_none_or(Stream::may_have_come)
    }

    /// Whether bytes have come of which the runtime may not know yet: the last look before a silent connection is closed,
    /// since a request would get a reset. It costs a system call.
    pub fn has_come(&self) -> bool {
        self.at_rest().is_some_and(Stream::has_come)
    }

    /// A count of the bytes that have come. Where it has changed and nothing could be read, a part of a record of TLS has come.
    pub fn received(&self) -> u32 {
        match &self.inner {
            Transport::Plain(io) => io.read,
            Transport::Accepted(tls) => tls.get_ref().get_ref().0.read,
            Transport::Connected(_) | Transport::Inside(_) => self.read,
        }
    }

    fn at_rest(&self) -> Option<&Stream> {
        if self.holds_nothing() { self.inner.at_rest() } else { None }
    }

    /// The bytes that the peer, or the kernel for the peer, has accepted from us. They are counted below TLS where the
    /// sidecar can see that level.
    pub fn taken(&self) -> u64 {
        match &self.inner {
            Transport::Plain(io) => io.written,
            Transport::Accepted(tls) => tls.get_ref().get_ref().0.written,
            Transport::Connected(_) | Transport::Inside(_) => self.written,
        }
    }

    /// The bare stream of a connection on which nothing was negotiated yet, with the bytes that were read ahead. `None`
    /// for any other transport.
    pub fn into_plain(self) -> Option<Prefixed<Stream>> {
        match self.into_parts() {
            (read, Transport::Plain(mut io)) => {
                io.put_back(read);
                Some(io)
            }
            _ => None,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Prefixed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.readable == 0 {
            return self.refuse(cx);
        }
        let Some(mut prefix) = self.prefix.take() else {
            let before = buf.filled().len();
            let read = Pin::new(&mut self.inner).poll_read(cx, buf);
            self.note_read(buf.filled().len() - before);
            return read;
        };
        let now = prefix.len().min(buf.remaining());
        self.note_read(now);
        buf.put_slice(prefix.get(..now).unwrap_or_default());
        prefix.advance(now);
        self.prefix = Some(prefix).filter(|prefix| !prefix.is_empty());
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Prefixed<T> {
    forward!(inner: write then count);
    forward!(inner: flush, shutdown);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a8_a_read_beyond_the_limit_waits_once_and_then_fails() {
        let mut io = Prefixed::new(&b"cdefgh"[..]);
        io.put_back(Bytes::from_static(b"ab"));
        io.read_at_most(3);
        let mut piece = [0; 2];
        io.read_exact(&mut piece).await.unwrap();
        io.read_exact(&mut piece).await.unwrap();
        let refused = io.read_exact(&mut piece).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::QuotaExceeded);
        io.read_at_most(usize::MAX);
        io.read_exact(&mut piece).await.unwrap();
        assert_eq!(&piece, b"ef", "nothing is lost");
    }

    #[tokio::test]
    async fn bytes_that_were_put_back_are_read_first_in_pieces_of_any_size() {
        let mut io = Prefixed::new(&b"def"[..]);
        io.put_back(Bytes::from_static(b"bc"));
        io.put_back(Bytes::from_static(b"a"));
        let mut first = [0; 2];
        io.read_exact(&mut first).await.unwrap();
        let mut rest = Vec::new();
        io.read_to_end(&mut rest).await.unwrap();
        assert_eq!((&first[..], &rest[..]), (&b"ab"[..], &b"cdef"[..]));
    }

    /// Uses a kernel connection, because tokio knows without a read whether something has arrived there.
    #[tokio::test]
    async fn a_stream_knows_without_a_read_whether_something_has_arrived() {
        use std::future::poll_fn;
        use tokio::io::AsyncWriteExt as _;

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
        let (near, mut far) = (near.unwrap(), far.unwrap().0);
        let mut io = Prefixed::plain(Stream::Tcp(near, super::super::Made::Dialled(None)));
        let mut byte = [0];
        let read = poll_fn(|cx| Poll::Ready(Pin::new(&mut io).poll_read(cx, &mut ReadBuf::new(&mut byte))));
        assert!(read.await.is_pending());
        assert!(poll_fn(|cx| Poll::Ready(io.poll_comes(cx))).await.is_pending());
        io.put_back(Bytes::from_static(b"a"));
        assert!(poll_fn(|cx| Poll::Ready(io.poll_comes(cx))).await.is_ready(), "it was read ahead");
        io.read_exact(&mut byte).await.unwrap();
        far.write_all(b"b").await.unwrap();
        poll_fn(|cx| io.poll_comes(cx)).await;
        io.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"b");
        drop(far);
        poll_fn(|cx| io.poll_comes(cx)).await;
        assert_eq!(io.read(&mut byte).await.unwrap(), 0, "the end of the stream counts as well");
    }
}
