//! A TLS stream that is read no further than something has come.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{client, server};

use super::forward;

/// A record from here on is a part of a stream, and more of that may have come: rustls reads so much at once.
const OF_A_STREAM: usize = 4 * 1024;

/// `TlsStream` reads on until nothing comes. Behind a request or an answer of one record that is a further way through
/// TLS in vain, so this reads on behind a large record alone.
#[derive(Debug)]
pub struct Records<T> {
    tls: T,
    /// Came behind bytes that were handed out: the next read returns it.
    failed: Option<io::Error>,
}

/// The session of a TLS stream.
pub trait Session {
    /// Whether it has nothing in hand, and its peer has not ended it.
    fn wants_read(&self) -> bool;
}

impl<T> Session for client::TlsStream<T> {
    fn wants_read(&self) -> bool {
        self.get_ref().1.wants_read()
    }
}

impl<T> Session for server::TlsStream<T> {
    fn wants_read(&self) -> bool {
        self.get_ref().1.wants_read()
    }
}

impl<T> Records<T> {
    pub const fn new(tls: T) -> Self {
        Self { tls, failed: None }
    }

    pub const fn get_ref(&self) -> &T {
        &self.tls
    }

    /// The next read tells of an error that is known already.
    pub const fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    pub const fn get_mut(&mut self) -> &mut T {
        &mut self.tls
    }
}

impl<T: AsyncBufRead + Session + Unpin> AsyncRead for Records<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { tls, failed } = &mut *self;
        if let Some(error) = failed.take() {
            return Poll::Ready(Err(error));
        }
        let mut data = ready!(Pin::new(&mut *tls).poll_fill_buf(cx))?;
        loop {
            let length = data.len().min(buf.remaining());
            buf.put_slice(data.get(..length).unwrap_or_default());
            Pin::new(&mut *tls).consume(length);
            let goes_on = length >= OF_A_STREAM || !tls.wants_read();
            if length == 0 || buf.remaining() == 0 || !goes_on {
                return Poll::Ready(Ok(()));
            }
            data = match Pin::new(&mut *tls).poll_fill_buf(cx) {
                Poll::Ready(Ok(data)) => data,
                Poll::Ready(Err(error)) => {
                    *failed = Some(error);
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => return Poll::Ready(Ok(())),
            };
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Records<T> {
    forward!(tls: write, flush, shutdown);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use tokio::io::AsyncReadExt as _;

    /// Hands out pieces; `None` is a read from the socket for which nothing has come.
    #[derive(Default)]
    struct Pieces {
        pieces: VecDeque<Option<io::Result<Vec<u8>>>>,
        /// So many of the pieces came with the one before them.
        in_hand: usize,
        reads: usize,
    }

    impl Session for Pieces {
        fn wants_read(&self) -> bool {
            self.in_hand == 0
        }
    }

    impl AsyncRead for Pieces {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            unreachable!("it is read by records")
        }
    }

    impl AsyncBufRead for Pieces {
        fn poll_fill_buf(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
            let this = self.get_mut();
            this.reads += 1;
            if matches!(this.pieces.front(), Some(None | Some(Err(_)))) {
                let piece = this.pieces.pop_front().flatten();
                return piece.map_or(Poll::Pending, |error| Poll::Ready(error.map(|_| &[][..])));
            }
            match this.pieces.front() {
                Some(Some(Ok(piece))) => Poll::Ready(Ok(piece)),
                _ => Poll::Ready(Ok(&[])),
            }
        }

        fn consume(mut self: Pin<&mut Self>, length: usize) {
            if let Some(Some(Ok(piece))) = self.pieces.front_mut() {
                piece.drain(..length);
                if piece.is_empty() {
                    self.pieces.pop_front();
                    self.in_hand = self.in_hand.saturating_sub(1);
                }
            }
        }
    }

    fn of(pieces: impl IntoIterator<Item = Option<io::Result<Vec<u8>>>>, in_hand: usize) -> Records<Pieces> {
        Records::new(Pieces { pieces: pieces.into_iter().collect(), in_hand, reads: 0 })
    }

    #[tokio::test]
    async fn behind_a_small_record_nothing_is_read_but_what_came_with_it() {
        let small = || Some(Ok(vec![b'x'; 10]));
        let mut room = [0; 100];
        let mut alone = of([small(), None], 1);
        assert_eq!(alone.read(&mut room).await.unwrap(), 10);
        assert_eq!(alone.tls.reads, 1);
        let mut three = of([small(), small(), small(), None], 3);
        assert_eq!(three.read(&mut room).await.unwrap(), 30);
        assert_eq!(three.tls.reads, 3);
        let mut room = [0; 25];
        let mut three = of([small(), small(), small(), None], 3);
        assert_eq!(three.read(&mut room).await.unwrap(), 25);
        assert_eq!(three.read(&mut room).await.unwrap(), 5);
    }

    #[tokio::test]
    async fn behind_a_large_record_all_is_read_and_an_error_comes_after_the_bytes() {
        let large = || Some(Ok(vec![b'x'; OF_A_STREAM]));
        let mut room = [0; 64 * 1024];
        let mut stream = of([large(), large(), None, large()], 0);
        assert_eq!(stream.read(&mut room).await.unwrap(), 2 * OF_A_STREAM);
        assert_eq!(stream.read(&mut room).await.unwrap(), OF_A_STREAM);
        assert_eq!(stream.read(&mut room).await.unwrap(), 0);
        let reset = || Some(Err(io::ErrorKind::ConnectionReset.into()));
        let mut broken = of([large(), reset()], 0);
        assert_eq!(broken.read(&mut room).await.unwrap(), OF_A_STREAM);
        assert_eq!(broken.read(&mut room).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
