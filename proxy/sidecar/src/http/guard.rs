//! An HTTP/1 server connection's watch over its client: how long it may dawdle, and what it hears when it talks nonsense.
//!
//! hyper answers a malformed head by itself, without telling us. Its answer has neither `Proxy-Status` nor a
//! metric, so it is recognised here (bytes written while nothing is in flight and all earlier answers have been
//! flushed can only be hyper's own) and replaced by ours.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Version;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::refusal;
use super::refusal::Beginning;
use super::stall::Stall;
use crate::connection::Connection;
use crate::worker::Worker;
use pillion_base::deadline::Deadline;
use pillion_base::net::Io;
use pillion_base::unfinished::{READER, Share};

/// An HTTP/1 connection that was idle for so long is put aside: hyper's buffers go, and are made anew (a few
/// microseconds) with the next request.
const REST_AFTER: Duration = Duration::from_secs(1);

/// How hyper's own answer begins to a head with more fields or bytes than it was told to read.
const TOO_LARGE: &[u8] = b"HTTP/1.1 431";

pub struct Guarded {
    io: Io,
    connection: Arc<Connection>,
    worker: Arc<Worker>,
    /// A head has begun: when, and after how many requests.
    head: Option<(Instant, u64)>,
    /// Bytes of that head, and what bounds them in sum while it is not whole.
    head_bytes: usize,
    unfinished: Option<Share>,
    last_read: Instant,
    /// Bytes came since `reading` was looked at.
    has_read: bool,
    reading: Option<Deadline>,
    stall: Stall,
    /// Requests whose answers are all flushed.
    flushed: u64,
    /// The beginning of the head that is being read, for the access line of one that is refused: hyper does not give it
    /// back.
    seen: Beginning,
    /// Our own answer in place of hyper's, and how much of it is written.
    replaced: Option<(Vec<u8>, usize)>,
    /// The client has ended or broken the connection, or was given up.
    is_over: bool,
    /// See [`Connection::is_unframed`]; set on the socket.
    resets: bool,
    large: Large,
}

/// What is made of a head that hyper finds too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Large {
    /// It is refused.
    Final,
    /// hyper had less room than the head may need: it is read once more, from its first byte.
    Provisional,
    /// That is to be done now. What hyper says of it nobody hears.
    Again,
}

/// What is known of a head that is read once more. It has neither more time for that, nor is it younger.
pub struct Begun {
    head: Option<(Instant, u64)>,
    unfinished: Option<Share>,
}

impl Guarded {
    pub fn new(
        io: Io,
        connection: Arc<Connection>,
        worker: Arc<Worker>,
        large: Large,
        again: Option<Box<Begun>>,
    ) -> Self {
        let last_read = Instant::now();
        let (reading, replaced) = (None, None);
        let flushed = connection.requests.load(Relaxed);
        let first = connection.began.filter(|_| flushed == 0).map(|began| (began, 0));
        let Begun { head, unfinished } =
            again.map_or(Begun { head: first, unfinished: None }, |again| *again);
        connection.flush.watch();
        Self {
            io,
            connection,
            worker,
            head,
            head_bytes: 0,
            unfinished,
            last_read,
            has_read: false,
            reading,
            stall: Stall::default(),
            flushed,
            seen: Beginning::default(),
            replaced,
            is_over: false,
            resets: false,
            large,
        }
    }

    fn is_busy(&self) -> bool {
        self.connection.in_flight.load(Relaxed) > 0
    }

    fn note_read(&mut self, bytes: &[u8]) {
        self.last_read = Instant::now();
        self.has_read = true;
        if self.is_busy() {
            return; // of a body, or of a head whose turn comes when the answer has left
        }
        let requests = self.connection.requests.load(Relaxed);
        if self.head.is_none_or(|(_, after)| after != requests) {
            self.head = Some((self.last_read, requests));
            (self.head_bytes, self.unfinished) = (0, None);
        }
        self.head_bytes += bytes.len();
        self.seen.keep(bytes, requests);
    }

    /// Nothing to read: is that still all right?
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_busy() {
            (self.head, self.unfinished) = (None, None);
            return Poll::Pending; // timeouts of the request rule
        }
        let at = match self.head {
            Some((since, requests)) if requests == self.connection.requests.load(Relaxed) => {
                if self.poll_given_up(cx).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
                }
                since + self.worker.limits().header_timeout
            }
            _ => {
                (self.head, self.unfinished) = (None, None);
                self.last_read + REST_AFTER
            }
        };
        // A timer that is set, and had not fired when bytes came a moment ago, will wake us when it does.
        let has_read = std::mem::take(&mut self.has_read);
        if has_read && self.reading.as_ref().is_some_and(|timer| timer.is_set_between(self.last_read, at)) {
            return Poll::Pending;
        }
        let expired = poll_deadline(&mut self.reading, at, &self.worker, cx);
        if expired.is_ready() && self.head.is_none() {
            self.reading = None;
            self.connection.rests.store(self.is_flushed(), Relaxed);
            return Poll::Pending; // who runs the connection looks whether it rests
        }
        expired
    }

    /// Ready when a head that is not whole has to make room for others.
    fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.head_bytes == 0 {
            return Poll::Pending;
        }
        let (worker, side) = (&self.worker, self.connection.side());
        let most = self.connection.head_limits(&worker.limits()).bytes as usize;
        let share = self.unfinished.get_or_insert_with(|| worker.ground.unfinished.begin(side));
        share.hold(READER + self.head_bytes.min(most));
        ready!(share.poll_given_up(cx));
        let head = self.seen.of_next(self.connection.requests.load(Relaxed));
        refusal::note_given_up(head, Version::HTTP_11, &self.connection, &self.worker);
        Poll::Ready(())
    }

    /// An answer has left: from here on the connection may turn out to be idle.
    fn will_rest(&mut self, cx: &mut Context<'_>) {
        // The pause is counted from the last byte that was read, which spares a look at the clock for each answer. Most
        // answers leave shortly after; one that took longer than the pause finds the timer due below.
        let at = self.last_read + REST_AFTER;
        let is_set = self.reading.as_ref().is_some_and(|timer| timer.is_set_between(self.last_read, at));
        if !is_set && poll_deadline(&mut self.reading, at, &self.worker, cx).is_ready() {
            // This answer took longer than the pause, which begins now.
            self.reading = None;
            self.last_read = Instant::now();
            self.will_rest(cx);
        }
    }

    /// Every answer has left.
    fn is_flushed(&self) -> bool {
        !self.stall.is_waiting() && self.flushed == self.connection.requests.load(Relaxed)
    }

    /// Whether the client may still send or wait for what was written last, and is not to see a reset.
    pub const fn client_is_there(&self) -> bool {
        !self.is_over && !self.resets
    }

    fn is_to_be_read_again(&self) -> bool {
        self.large == Large::Again
    }

    fn note<T>(&mut self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if matches!(polled, Poll::Ready(Err(_))) {
            self.is_over = true;
        }
        polled
    }

    /// What is known of a head that is to be read once more. When one began that came together with an earlier request
    /// is not known.
    pub fn take_begun(&mut self) -> Option<Box<Begun>> {
        let requests = self.connection.requests.load(Relaxed);
        let head = self.head.filter(|(_, after)| *after == requests);
        self.is_to_be_read_again().then(|| Box::new(Begun { head, unfinished: self.unfinished.take() }))
    }

    /// Gives the stream back.
    pub fn into_io(self) -> Io {
        self.io
    }

    /// Bytes wait for the client: for how long?
    fn poll_stall<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let stalled = self.stall.poll(self.io.taken(), &self.worker.ground.timers, cx);
        self.note(stalled)
    }

    /// Whether what hyper writes now is its own answer to a head it could not read.
    fn is_hypers_own(&self, bytes: &[u8]) -> bool {
        let all_flushed = !self.is_busy() && self.flushed == self.connection.requests.load(Relaxed);
        all_flushed && bytes.starts_with(b"HTTP/1.1 4")
    }

    fn poll_replaced(&mut self, cx: &mut Context<'_>, swallowed: usize) -> Poll<io::Result<usize>> {
        while let Some((answer, written)) = &mut self.replaced {
            let Some(rest) = answer.get(*written..).filter(|rest| !rest.is_empty()) else { break };
            match Pin::new(&mut self.io).poll_write(cx, rest) {
                Poll::Ready(Ok(count)) => *written += count,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return self.poll_stall(cx),
            }
        }
        Poll::Ready(Ok(swallowed))
    }

    fn after_write(
        &mut self,
        polled: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if polled.is_pending() {
            return self.poll_stall(cx);
        }
        self.note(polled)
    }

    fn begin_write(&mut self, first: &[u8]) {
        if !self.resets && self.connection.is_unframed.load(Relaxed) {
            self.resets = true;
            self.io.get_ref().reset_on_drop();
        }
        if self.is_hypers_own(first) {
            if self.large == Large::Provisional && first.starts_with(TOO_LARGE) {
                self.large = Large::Again;
            }
            if self.large == Large::Again {
                self.replaced = Some((Vec::new(), 0));
                return;
            }
            let head = self.seen.of_next(self.connection.requests.load(Relaxed));
            let answer = refusal::refuse_head(first, head, &self.connection, &self.worker);
            self.replaced = Some((answer, 0));
        }
    }
}

/// Ready, as an error, when `at` has come.
fn poll_deadline(
    deadline: &mut Option<Deadline>,
    at: Instant,
    worker: &Worker,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    let deadline = deadline.get_or_insert_with(|| worker.ground.timers.deadline(at));
    deadline.move_to(at);
    poll_given(deadline, cx)
}

fn poll_given(deadline: &mut Deadline, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    Pin::new(deadline).poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Pending => self.poll_patience(cx),
            Poll::Ready(Ok(())) => {
                match buf.filled().get(before..) {
                    Some(bytes @ [_, ..]) => self.note_read(bytes),
                    _ => self.is_over = true,
                }
                Poll::Ready(Ok(()))
            }
            failed => failed,
        };
        self.note(polled)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.begin_write(buf);
        if self.replaced.is_some() {
            return self.poll_replaced(cx, buf.len());
        }
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.after_write(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.begin_write(bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf));
        if self.replaced.is_some() {
            return self.poll_replaced(cx, bufs.iter().map(|buf| buf.len()).sum());
        }
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.after_write(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper calls this when it has nothing left to write, and at no other time.
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        if polled.is_pending() {
            return self.poll_stall(cx);
        }
        self.stall.all_is_taken();
        if self.connection.flush.done() {
            cx.waker().wake_by_ref(); // for the body that waits to tell of its error
        }
        if !self.is_busy() {
            self.flushed = self.connection.requests.load(Relaxed);
            self.will_rest(cx);
        }
        self.note(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.connection.rests.load(Relaxed) || self.is_to_be_read_again() {
            return Poll::Ready(Ok(())); // hyper is done with it; its client is not
        }
        if std::mem::take(&mut self.resets) {
            self.io.get_ref().end_on_drop(); // hyper does this after a whole answer, and never after one that failed
        }
        let polled = Pin::new(&mut self.io).poll_shutdown(cx);
        if polled.is_pending() { self.poll_stall(cx) } else { polled }
    }
}
