//! What `h2` has written and what has not left yet.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// One record of TLS holds no more.
const MOST: usize = 16 * 1024;

/// Holds no memory while it is empty.
#[derive(Default)]
pub(super) struct Gathered {
    bytes: Vec<u8>,
    /// Of these so many have left.
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

    /// Returns how much it took: all, or nothing where that would be too much.
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

    /// Ready when all of it has been handed to `io`.
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
