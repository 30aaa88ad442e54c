//! A buffer for the bytes that `h2` has written and that were not sent yet.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// 16 KiB: the most that one record of TLS holds.
const MOST: usize = 16 * 1024;

/// The buffer. It holds no memory while it is empty.
#[derive(Default)]
pub(super) struct Gathered {
    bytes: Vec<u8>,
    /// How many of the bytes have been sent.
    sent: usize,
}

impl Gathered {
    pub(super) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    #[cfg(test)]
    pub(super) const fn held(&self) -> usize {
        self.bytes.capacity()
    }

    /// Takes the bytes of `pieces`, and returns their number. `None`: they do not fit, and none was taken.
    pub(super) fn take(&mut self, pieces: &[IoSlice<'_>]) -> Option<usize> {
        let count = pieces.iter().map(|piece| piece.len()).sum();
        if count > MOST - self.bytes.len() {
            return None;
        }
        if self.bytes.capacity() == 0 {
            self.bytes.reserve(MOST);
        }
        pieces.iter().for_each(|piece| self.bytes.extend_from_slice(piece));
        Some(count)
    }

    /// Ready when all bytes were written to `io`.
    pub(super) fn poll_send(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(left @ [_, ..]) = self.bytes.get(self.sent..) {
            match ready!(Pin::new(&mut *io).poll_write(cx, left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        *self = Self::default();
        Poll::Ready(Ok(()))
    }
}
