//! The buffers of a thread for reading and writing HTTP/1. A connection holds bytes of its own only while some are left
//! over: a part of a head, or bytes that the peer does not accept yet.

use std::cell::Cell;
use std::future::Future as _;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use pillion_base::net::Io;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// 32 KiB per read: two records of TLS, and the largest size that the allocator keeps in its cache for each thread.
const READ_BYTES: usize = 32 * 1024;
/// 16 KiB, one record of TLS: a new buffer is made when less room is left in one whose first part is still in use.
const LEAST_ROOM: usize = 16 * 1024;
/// 4 KiB per read after bytes that a connection has kept: they are a part of a head, whose end is near.
const FURTHER: usize = 4 * 1024;
/// 512 bytes per read from a peer whose bytes are not wanted yet.
const LITTLE: usize = 512;
/// 4 KiB: a smaller piece is copied, because it would otherwise keep the whole buffer in which it was read, or need one
/// more part in a vectored write.
const SMALL: usize = 4 * 1024;
/// 16 KiB: fewer bytes that are left over are copied into a buffer of the connection. Without the copy they would keep
/// all of the thread's buffer ([`READ_BYTES`]), but the limits of memory count only the bytes that are left over.
const LEFT_COPIED: usize = 16 * 1024;
/// 16 KiB: when so many bytes wait to be written, no more are taken; a large piece does not count.
const ENOUGH: usize = 16 * 1024;
/// 64 KiB: a buffer that had to grow beyond this for one message is not kept.
const KEPT: usize = 64 * 1024;

thread_local! {
    static READING: Cell<Option<BytesMut>> = const { Cell::new(None) };
    static WRITING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The bytes that came and were not taken yet.
#[derive(Debug, Default)]
pub struct Inbox(BytesMut);

impl Inbox {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Lends `work` the bytes that came, with room after them: in the thread's buffer, or in the connection's own if
    /// bytes were left over. `work` removes the bytes that it has used from the front, and may call [`poll_fill`]. The
    /// rest is kept.
    pub fn with<T>(&mut self, work: impl FnOnce(&mut BytesMut) -> T) -> T {
        if !self.0.is_empty() {
            let done = work(&mut self.0);
            if self.0.is_empty() {
                self.0 = BytesMut::new(); // frees the buffer
            }
            return done;
        }
        let mut bytes = READING.take().unwrap_or_default();
        if !bytes.try_reclaim(READ_BYTES) && bytes.capacity() < LEAST_ROOM {
            bytes.reserve(READ_BYTES);
        }
        let done = work(&mut bytes);
        match bytes.len() {
            0 => {}
            length if length < LEFT_COPIED => {
                self.0 = BytesMut::from(&bytes[..]);
                bytes.clear();
            }
            _ => self.0 = bytes.split(),
        }
        READING.with(|kept| kept.set(Some(bytes)));
        done
    }

    /// Reads a few bytes where none were left over, and keeps them. For a caller that waits for the end of the peer:
    /// bytes that come meanwhile are held. 0 bytes: the peer has ended.
    pub fn poll_little(
        &mut self,
        io: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut room = [MaybeUninit::uninit(); LITTLE];
        let mut read = ReadBuf::uninit(&mut room);
        ready!(Pin::new(io).poll_read(cx, &mut read))?;
        self.0.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.0.capacity()
    }

    /// The bytes that are left, for the next reader of the connection.
    pub fn into_bytes(self) -> Bytes {
        self.0.freeze()
    }
}

/// Whether nothing has come, as usual at the first question, so that no buffer is needed. `cx` is woken when that
/// changes. When the task is woken, bytes have come, and the second question would cost 150 instructions.
pub fn has_nothing(io: &mut Io, cx: &mut Context<'_>) -> bool {
    if io.is_awaited() {
        return false;
    }
    io.wait_for(io.poll_comes(cx).is_pending());
    io.is_awaited()
}

/// Reads once, after the bytes that are there. 0 bytes: the peer has ended.
pub fn poll_fill(io: &mut Io, bytes: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    if has_nothing(io, cx) {
        return Poll::Pending;
    }
    io.wait_for(false);
    poll_read(io, bytes, cx)
}

fn poll_read(
    io: &mut (impl AsyncRead + Unpin),
    bytes: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    if bytes.capacity() - bytes.len() < FURTHER {
        bytes.reserve(FURTHER);
    }
    pin!(io.read_buf(bytes)).poll(cx)
}

/// Takes the first `length` bytes out of the buffer without a copy. The piece keeps the whole buffer, so this is for
/// pieces that are passed on at once: a copy of 1 KiB costs 170 instructions.
pub fn take_shared(bytes: &mut BytesMut, length: usize) -> Bytes {
    bytes.split_to(length.min(bytes.len())).freeze()
}

/// Takes the first `length` bytes out of the buffer. A large piece is not copied.
pub fn take(bytes: &mut BytesMut, length: usize) -> Bytes {
    let length = length.min(bytes.len());
    if length >= SMALL {
        return bytes.split_to(length).freeze();
    }
    let piece = Bytes::copy_from_slice(bytes.get(..length).unwrap_or_default());
    bytes.advance(length);
    piece
}

/// Bytes that wait to be sent to a peer. Bytes that are there at the same time leave in one write.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Heads, framing and small content. This is the thread's buffer while it is in use.
    front: Vec<u8>,
    /// How many of the waiting bytes have been written.
    written: usize,
    /// One large piece, which comes after `front`.
    large: Bytes,
    /// The bytes after the large piece.
    back: Vec<u8>,
    /// Bytes were written to the stream, and the stream has not flushed all of them.
    unflushed: bool,
    /// The stream has accepted a byte since this was made or [`Self::begin`] was called.
    has_begun: bool,
}

impl Outbox {
    /// Whether all bytes have been sent.
    pub const fn is_empty(&self) -> bool {
        !self.has_bytes() && !self.unflushed
    }

    /// The number of bytes that wait to be written.
    pub const fn len(&self) -> usize {
        self.front.len() + self.large.len() + self.back.len() - self.written
    }

    /// Whether no more bytes should be added now. After a large piece, another large one would be copied.
    pub const fn is_full(&self) -> bool {
        !self.large.is_empty() || self.front.len() - self.written >= ENOUGH
    }

    const fn has_bytes(&self) -> bool {
        !self.front.is_empty() || !self.large.is_empty()
    }

    /// Resets [`Self::has_begun`].
    pub const fn begin(&mut self) {
        self.has_begun = false;
    }

    /// Whether the stream has accepted a byte.
    pub const fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// The buffer at the end of the waiting bytes, to append to it.
    pub fn end(&mut self) -> &mut Vec<u8> {
        if !self.large.is_empty() {
            return &mut self.back;
        }
        if self.front.capacity() == 0 {
            self.front = WRITING.take();
        }
        &mut self.front
    }

    /// Adds a piece of content after the waiting bytes. A large piece is not copied, unless another one waits already.
    pub fn attach(&mut self, piece: Bytes) {
        if piece.len() < SMALL || !self.large.is_empty() {
            self.end().extend_from_slice(&piece);
        } else {
            self.large = piece;
        }
    }

    #[cfg(test)]
    pub(super) const fn held(&self) -> usize {
        self.front.capacity() + self.large.len() + self.back.capacity()
    }

    /// Ready when all waiting bytes are sent, or are in the kernel's buffer.
    pub fn poll_send(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.has_bytes() {
            let count = ready!(self.poll_write(io, cx))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            (self.written, self.has_begun, self.unflushed) = (self.written + count, true, true);
            self.free_written();
        }
        if self.unflushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(
        &self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.large.is_empty() {
            return Pin::new(io).poll_write(cx, self.front.get(self.written..).unwrap_or_default());
        }
        let mut parts = [&self.front[..], &self.large[..], &self.back[..]].map(IoSlice::new);
        let mut parts = &mut parts[..];
        IoSlice::advance_slices(&mut parts, self.written);
        Pin::new(io).poll_write_vectored(cx, parts)
    }

    /// Frees the buffers whose bytes have been written.
    fn free_written(&mut self) {
        loop {
            let before_back = self.front.len() + self.large.len();
            if self.written < before_back || before_back == 0 {
                return;
            }
            if self.large.is_empty() && self.back.is_empty() {
                // Nearly always: 60 instructions fewer than below.
                self.written = 0;
                return keep(std::mem::take(&mut self.front));
            }
            (self.large, self.written) = (Bytes::new(), self.written - before_back);
            keep(std::mem::replace(&mut self.front, std::mem::take(&mut self.back)));
        }
    }
}

/// Keeps a buffer for the next writer of this thread.
fn keep(mut front: Vec<u8>) {
    if front.capacity() <= KEPT {
        front.clear();
        WRITING.with(|kept| kept.set(front));
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use pillion_base::net::memory::Pipe;
    use tokio::io::AsyncWriteExt as _;

    async fn fill(inbox: &mut Inbox, io: &mut Pipe, take: usize) -> usize {
        poll_fn(|cx| {
            inbox.with(|bytes| {
                let read = ready!(poll_read(io, bytes, cx));
                bytes.advance(take.min(bytes.len()));
                Poll::Ready(read.unwrap())
            })
        })
        .await
    }

    #[tokio::test]
    async fn a_connection_keeps_only_the_bytes_that_are_left_over() {
        let (mut near, mut far) = Pipe::pair(64 * 1024);
        let mut inbox = Inbox::default();
        far.write_all(b"abcdef").await.unwrap();
        assert_eq!(fill(&mut inbox, &mut near, 6).await, 6);
        assert_eq!(inbox.0.capacity(), 0, "an idle connection has no buffer");
        for (sent, taken, left) in [("abc", 1, "bc"), ("de", 0, "bcde"), ("f", 5, "")] {
            far.write_all(sent.as_bytes()).await.unwrap();
            fill(&mut inbox, &mut near, taken).await;
            assert_eq!(inbox.0, left);
        }
        assert_eq!(inbox.0.capacity(), 0);
        far.write_all(&[7; 20_000]).await.unwrap();
        fill(&mut inbox, &mut near, 1).await;
        assert_eq!(inbox.into_bytes(), vec![7; 19_999]);
    }

    #[tokio::test]
    async fn a_large_piece_is_not_copied_and_a_small_one_is() {
        let (mut near, mut far) = Pipe::pair(64 * 1024);
        let mut inbox = Inbox::default();
        far.write_all(&[1; SMALL + 10]).await.unwrap();
        let (at, large, small) = poll_fn(|cx| {
            inbox.with(|bytes| {
                ready!(poll_read(&mut near, bytes, cx)).unwrap();
                let at = bytes.as_ptr();
                Poll::Ready((at, take(bytes, SMALL), take(bytes, usize::MAX)))
            })
        })
        .await;
        assert_eq!((large.as_ptr(), large.len(), small.len()), (at, SMALL, 10));
        assert!(inbox.is_empty());
    }

    #[tokio::test]
    async fn bytes_that_were_taken_do_not_change_while_other_connections_read() {
        let (mut near, mut far) = Pipe::pair(64 * 1024);
        let (mut inbox, mut pieces) = (Inbox::default(), Vec::new());
        for round in 0..20 {
            far.write_all(&[round; 5000]).await.unwrap();
            let piece = poll_fn(|cx| {
                inbox.with(|bytes| {
                    ready!(poll_read(&mut near, bytes, cx)).unwrap();
                    Poll::Ready(take(bytes, 5000))
                })
            });
            pieces.push(piece.await);
        }
        for (round, piece) in (0..).zip(pieces) {
            assert_eq!(piece, vec![round; 5000]);
        }
    }

    /// All bytes that a peer reads when `outbox` sends through a pipe with this capacity.
    async fn sent(mut outbox: Outbox, capacity: usize) -> Vec<u8> {
        let (mut near, mut far) = Pipe::pair(capacity);
        let mut all = Vec::new();
        let send = async {
            poll_fn(|cx| outbox.poll_send(&mut near, cx)).await.unwrap();
            assert!(outbox.is_empty() && outbox.has_begun());
            assert_eq!(outbox.len(), 0);
            assert_eq!(outbox.held(), 0, "it holds no buffer");
            drop(near);
        };
        tokio::join!(send, async { far.read_to_end(&mut all).await.unwrap() });
        all
    }

    #[tokio::test]
    async fn pieces_leave_in_order_for_any_number_of_bytes_that_the_peer_accepts_at_once() {
        let large = Bytes::from(vec![b'x'; SMALL]);
        for capacity in [1, 2, 3, SMALL - 1, SMALL + 4, 64 * 1024] {
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for piece in [&b"head"[..], b"small", &large, b"behind", &large, b"end"] {
                outbox.attach(Bytes::copy_from_slice(piece));
                expected.extend_from_slice(piece);
            }
            assert_eq!(outbox.len(), expected.len());
            assert_eq!(sent(outbox, capacity).await, expected, "{capacity}");
        }
    }

    #[tokio::test]
    async fn a_peer_that_accepts_no_bytes_is_waited_for_and_one_that_is_gone_is_an_error() {
        let (mut near, far) = Pipe::pair(2);
        let mut outbox = Outbox::default();
        outbox.end().extend_from_slice(b"head");
        assert!(!outbox.has_begun());
        let polled = poll_fn(|cx| Poll::Ready(outbox.poll_send(&mut near, cx).map(|sent| sent.is_ok())));
        assert!(polled.await.is_pending());
        assert!(outbox.has_begun() && !outbox.is_empty() && outbox.len() == 2);
        drop(far);
        assert!(poll_fn(|cx| outbox.poll_send(&mut near, cx)).await.is_err());
    }
}
