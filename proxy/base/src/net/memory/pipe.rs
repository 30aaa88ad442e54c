//! One end of an in-memory connection, which breaks as a Linux TCP socket does.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::task::unconstrained;

use crate::net::forward;

/// When it is dropped with unread bytes, or after [`Pipe::set_abort`], it resets the connection. The other end then
/// reads what was sent before, and after that an error instead of an end.
#[derive(Debug)]
pub struct Pipe {
    io: DuplexStream,
    aborts: AtomicBool,
    own: Arc<End>,
    other: Arc<End>,
}

/// What one end has done, as the other sees it.
#[derive(Debug, Default)]
struct End {
    has_reset: AtomicBool,
    withholds: AtomicBool,
    /// The other end's reader, while it waits for what is withheld.
    reader: Mutex<Option<Waker>>,
}

impl Pipe {
    /// Both ends of a connection. `capacity` is in bytes, for each direction.
    pub fn pair(capacity: usize) -> (Self, Self) {
        let (near, far) = duplex(capacity);
        let (by_near, by_far) = (Arc::<End>::default(), Arc::<End>::default());
        (Self::new(near, &by_near, &by_far), Self::new(far, &by_far, &by_near))
    }

    fn new(io: DuplexStream, own: &Arc<End>, other: &Arc<End>) -> Self {
        Self { io, aborts: AtomicBool::new(false), own: own.clone(), other: other.clone() }
    }

    /// While it is set, what this end sends is as bytes of a socket that the kernel has and of which the runtime does not know
    /// yet: the other end reads nothing, and [`Pipe::has_come`] is true there.
    pub fn withhold(&self, withholds: bool) {
        self.own.withholds.store(withholds, Relaxed);
        let reader = self.own.reader.lock().take();
        reader.into_iter().for_each(Waker::wake);
    }

    pub fn has_come(&self) -> bool {
        self.other.withholds.load(Relaxed)
    }

    /// Does what SO_LINGER with a time of zero does: dropping this end resets the connection.
    pub fn set_abort(&self, aborts: bool) {
        self.aborts.store(aborts, Relaxed);
    }

    fn has_unread(&mut self) -> bool {
        let mut room = [MaybeUninit::uninit(); 1];
        let mut buf = ReadBuf::uninit(&mut room);
        let mut read = pin!(unconstrained(poll_fn(|cx| Pin::new(&mut self.io).poll_read(cx, &mut buf))));
        let is_ready = read.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        is_ready && !buf.filled().is_empty()
    }

    fn or_reset<T>(&self, polled: Poll<io::Result<T>>, _cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        polled.map(|written| written.map_err(|error| self.end_or_reset().err().unwrap_or(error)))
    }

    fn end_or_reset(&self) -> io::Result<()> {
        if self.other.has_reset.load(Relaxed) { Err(ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if self.aborts.load(Relaxed) || self.has_unread() {
            self.own.has_reset.store(true, Relaxed);
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.has_come() {
            *self.other.reader.lock() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        let has_ended = buf.filled().len() == before && buf.remaining() > 0;
        polled.map(|read| if has_ended { read.and_then(|()| self.end_or_reset()) } else { read })
    }
}

impl AsyncWrite for Pipe {
    forward!(io: write then or_reset);
    forward!(io: flush, shutdown);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn ends(mut pipe: Pipe) -> (String, Option<ErrorKind>) {
        let mut all = Vec::new();
        let ended = pipe.read_to_end(&mut all).await;
        (String::from_utf8(all).unwrap(), ended.err().map(|error| error.kind()))
    }

    #[tokio::test]
    async fn a_pipe_ends_cleanly_only_when_every_byte_was_read() {
        for (aborts, is_read, reset) in [
            (false, true, None),
            (false, false, Some(ErrorKind::ConnectionReset)),
            (true, true, Some(ErrorKind::ConnectionReset)),
        ] {
            let (mut near, mut far) = Pipe::pair(64);
            near.write_all(b"word").await.unwrap();
            far.write_all(b"answer").await.unwrap();
            if is_read {
                far.read_exact(&mut [0; 4]).await.unwrap();
            }
            far.set_abort(aborts);
            drop(far);
            assert_eq!(ends(near).await, ("answer".to_owned(), reset), "{aborts} {is_read}");
        }
    }
}
