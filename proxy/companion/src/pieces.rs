//! A connection that is written to in pieces: the kernel copies a MiB in most of a millisecond, in which no other thread gets the
//! CPU.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use pillion_base::net::{Overlay, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::courtesy::Courtesy;

/// 64 KiB: what is written at once, in some fifty microseconds.
const PIECE: usize = 64 * 1024;

#[derive(Debug)]
struct Pieces {
    io: Transport,
    courtesy: Courtesy,
}

/// The same connection. Between two pieces others of the process go first.
pub fn in_pieces(io: Transport) -> Transport {
    Transport::Inside(Box::new(Pieces { io, courtesy: Courtesy::default() }))
}

impl Pieces {
    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.courtesy.after(bytes, PIECE);
        }
        written
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf.get(..PIECE).unwrap_or(buf));
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut left = PIECE;
        let piece: Vec<IoSlice<'_>> = bufs.iter().map_while(|buf| part(buf, &mut left)).collect();
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, &piece);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// As much of a buffer as there is room for. `None`: there is no room.
fn part<'a>(buf: &'a [u8], left: &mut usize) -> Option<IoSlice<'a>> {
    let part = buf.get(..*left).unwrap_or(buf);
    let has_room = *left > 0;
    *left -= part.len();
    has_room.then(|| IoSlice::new(part))
}

impl Overlay for Pieces {
    fn reset_when_dropped(&self, resets: bool) {
        match resets {
            true => self.io.reset_on_drop(),
            false => self.io.end_on_drop(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_ends_within_the_buffer_that_has_no_more_room() {
        let (head, body) = ([1; 100], [2; PIECE]);
        let mut left = PIECE;
        let bufs: [&[u8]; 3] = [&head, &body, &head];
        let lengths: Vec<usize> =
            bufs.iter().map_while(|buf| part(buf, &mut left)).map(|part| part.len()).collect();
        assert_eq!(lengths, [100, PIECE - 100]);
    }
}
