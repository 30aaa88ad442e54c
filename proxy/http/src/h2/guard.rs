//! The byte stream below an HTTP/2 connection, with limits for its peer: how much is read from it at once, and how long
//! it may take.
//!
//! `h2` writes and flushes after each DATA frame. While its driver moves the connection, these bytes are gathered
//! ([`super::gather`]), and they are sent at the end of the move. So the answers of many streams leave in one record of
//! TLS and one system call.

use std::future::Future;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::gather::Gathered;
use crate::stall::Stall;
use pillion_base::deadline::{Deadline, Timers};
use pillion_base::net::Io;
use pillion_base::unfinished::{READER, Share};

/// 1 s: how long the sidecar waits for a client to close its connection after the last GOAWAY. The kernel resets a
/// connection that is closed with unread bytes, and the reset could destroy the GOAWAY before the client has read it.
const LEAVES_WITHIN: Duration = Duration::from_secs(1);
/// 1 s: how long the sidecar waits for a sign of an idle client that it has asked to leave.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// 64 KiB: how many bytes are read before the readers of the streams get their turn; see [`super::DATA_FRAME_BUDGET`].
pub const READ_AT_ONCE: usize = 64 * 1024;

/// 4 KiB: how many bytes are read and discarded at once.
const FORGOTTEN: usize = 4096;
const PREFACE: usize = 24;
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// The stream on which `h2` reads and writes. The connection's driver shares it, to send the gathered bytes.
#[derive(Clone)]
pub struct GuardedIo(Arc<Mutex<Guarded>>);

struct Guarded {
    io: Io,
    timers: Timers,
    /// How many bytes may still be read in this turn; see [`READ_AT_ONCE`].
    turn: usize,
    stall: Stall,
    client: Option<GuardedClient>,
    gathered: Gathered,
    /// Bytes were written to `io`, and may wait there for a flush.
    is_unflushed: bool,
    /// The driver moves the connection: written bytes are gathered until the move ends.
    is_moving: bool,
    /// No more can be read in this move.
    is_drained: bool,
    /// `h2` could not write all that it had in this move.
    is_blocked: bool,
    /// The error of a failed send, until `h2` gets it.
    failed: Option<io::Error>,
}

/// What the watch over a client needs to know of the client.
pub trait Downstream: Send {
    /// Whether requests of the client are under way.
    fn is_busy(&self) -> bool;
    /// The longest time from the first byte of a head to its last.
    fn header_timeout(&self) -> Duration;
    /// How long a client that has no request under way may be silent.
    fn idle_timeout(&self) -> Duration;
    /// Notes that the client was silent for so long. The connection's driver, which polls the stream, then asks it to leave,
    /// and ends the connection after a second call: no answer has come.
    fn note_idle(&self);
    /// Begins the share of an incomplete head in the memory for all of them.
    fn begin_head(&self) -> Share;
    /// The most bytes of a head that count as held, since later ones are not kept.
    fn most_head_bytes(&self) -> usize;
    /// Records that the connection ends because its incomplete head has to make room for others.
    fn head_given_up(&self);
    /// Records that the connection ends because a head was not complete within [`Downstream::header_timeout`].
    fn head_late(&self);
}

/// The watch over a client: it is asked to leave when it is idle, and its connection ends when a head takes too long or too
/// much memory.
struct GuardedClient {
    downstream: Box<dyn Downstream>,
    timers: Timers,
    last_read: Instant,
    /// The client had requests under way at the last check.
    was_busy: bool,
    idle: Option<Deadline>,
    /// The client was asked to leave, because it was idle.
    is_asked: bool,
    frames: Frames,
    /// When a head began that is not complete yet.
    head_since: Option<Instant>,
    head_bytes: usize,
    unfinished: Option<Share>,
    /// Set once no more is sent to the client: the deadline for the client to close the connection.
    leaves: Option<Deadline>,
}

/// A reader of frame headers, to know whether a head is under way (RFC 9113, 4.1 and 6.2).
#[derive(Debug, Default)]
struct Frames {
    /// How many bytes of the client's preface have come, which comes before all frames.
    preface: usize,
    /// The header of the current frame, of which `filled` bytes have come.
    header: [u8; FRAME_HEADER],
    filled: usize,
    /// How many bytes of the frame have not come yet.
    left: usize,
    /// The frame is the last one of a head.
    ends_head: bool,
    /// A head has begun in this frame or in an earlier one.
    is_open: bool,
    /// Counts complete heads, and complete frames that are not a part of a head.
    heads: u64,
}

impl GuardedIo {
    /// A stream to an upstream. It has no watch, because the pool closes idle connections.
    pub fn upstream(io: Io, timers: &Timers) -> Self {
        Self::new(io, None, timers)
    }

    pub fn downstream(io: Io, downstream: Box<dyn Downstream>, timers: &Timers) -> Self {
        Self::new(io, Some(GuardedClient::new(downstream, timers)), timers)
    }

    fn new(io: Io, client: Option<GuardedClient>, timers: &Timers) -> Self {
        Self(Arc::new(Mutex::new(Guarded {
            io,
            timers: timers.clone(),
            turn: READ_AT_ONCE,
            stall: Stall::default(),
            client,
            gathered: Gathered::default(),
            is_unflushed: false,
            is_moving: false,
            is_drained: false,
            is_blocked: false,
            failed: None,
        })))
    }

    /// Begins a move of the connection by its driver: written bytes wait for [`Self::end_move`].
    pub fn begin_move(&self) {
        let mut guarded = self.0.lock();
        (guarded.is_moving, guarded.is_drained, guarded.is_blocked) = (true, false, false);
    }

    /// Sends the gathered bytes. If this fails, or if the peer accepts too little for too long, `h2` gets the error at
    /// its next call. Returns whether the socket has taken all that `h2` had.
    pub fn end_move(&self, cx: &mut Context<'_>) -> bool {
        let mut guarded = self.0.lock();
        guarded.is_moving = false;
        if guarded.has_unsent()
            && let Poll::Ready(Err(error)) = guarded.poll_flush(cx)
        {
            guarded.failed = Some(error);
            cx.waker().wake_by_ref();
        }
        !guarded.is_blocked && !guarded.has_unsent()
    }
}

impl Guarded {
    /// Adds the timeout of a peer that does not accept the waiting bytes to a pending result.
    fn unless_stalled<T>(
        &mut self,
        polled: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        match polled {
            Poll::Pending => self.stall.poll(self.io.taken(), &self.timers, cx),
            done => done,
        }
    }

    /// Notes whether `h2` has to wait with what it wants to write.
    fn note_blocked<T>(&mut self, poll: impl FnOnce(&mut Self) -> Poll<T>) -> Poll<T> {
        let polled = poll(self);
        self.is_blocked |= polled.is_pending();
        polled
    }

    const fn has_unsent(&self) -> bool {
        !self.gathered.is_empty() || self.is_unflushed
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        if self.is_moving && self.is_drained {
            return Poll::Pending;
        }
        if self.turn == 0 {
            (self.turn, self.is_drained) = (READ_AT_ONCE, true);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Pending => {
                (self.turn, self.is_drained) = (READ_AT_ONCE, true);
                self.client.as_mut().map_or(Poll::Pending, |client| client.poll_patience(cx))
            }
            Poll::Ready(Ok(())) => {
                self.turn = self.turn.saturating_sub(buf.filled().len() - before);
                if let Some(client) = &mut self.client {
                    client.note_read(buf.filled().get(before..).unwrap_or_default());
                }
                Poll::Ready(Ok(()))
            }
            failed => failed,
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        if let Some(count) = self.gathered.take(bufs) {
            return Poll::Ready(Ok(count));
        }
        ready!(self.poll_send(cx))?;
        match self.gathered.take(bufs) {
            Some(count) => Poll::Ready(Ok(count)),
            None => {
                self.is_unflushed = true;
                let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
                self.unless_stalled(polled, cx)
            }
        }
    }

    /// Writes the gathered bytes to `io`.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_unflushed |= !self.gathered.is_empty();
        let polled = self.gathered.poll_send(&mut self.io, cx);
        self.unless_stalled(polled, cx)
    }

    /// Flushes. During a move it waits only for bytes that were too large to be gathered, so that `h2` writes no more
    /// of these than the peer accepts.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_moving {
            ready!(self.poll_send(cx))?;
        }
        if !self.is_unflushed {
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        if polled.is_ready() {
            self.is_unflushed = false;
            // A TCP socket is always flushed. What was gathered still waits for the peer.
            if self.gathered.is_empty() {
                self.stall.all_is_taken();
            }
        }
        self.unless_stalled(polled, cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.client.as_ref().is_none_or(|client| client.leaves.is_none()) {
            ready!(self.poll_send(cx))?;
            let polled = Pin::new(&mut self.io).poll_shutdown(cx);
            ready!(self.unless_stalled(polled, cx))?;
        }
        match &mut self.client {
            Some(client) => poll_left(&mut self.io, client, cx).map(Ok),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl GuardedClient {
    fn new(downstream: Box<dyn Downstream>, timers: &Timers) -> Self {
        Self {
            downstream,
            timers: timers.clone(),
            last_read: Instant::now(),
            was_busy: false,
            idle: None,
            is_asked: false,
            frames: Frames::default(),
            head_since: None,
            head_bytes: 0,
            unfinished: None,
            leaves: None,
        }
    }

    /// Checks the timeouts of a client from which nothing can be read.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(since) = self.head_since {
            if self.poll_given_up(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
            }
            let late = ready!(self.poll_until(since + self.downstream.header_timeout(), cx));
            self.downstream.head_late();
            return Poll::Ready(late);
        }
        if self.downstream.is_busy() {
            self.was_busy = true;
            return Poll::Pending; // the timeouts of the requests apply
        }
        if std::mem::take(&mut self.was_busy) {
            self.last_read = Instant::now(); // the client may have been silent for long while it waited for an answer
        }
        self.poll_idle(cx)
    }

    /// Never an error: `h2` would send no GOAWAY, and the client of a request that is on its way could not know that it was
    /// not processed.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let patience = if self.is_asked { ANSWERS_WITHIN } else { self.downstream.idle_timeout() };
        let _late = ready!(self.poll_until(self.last_read + patience, cx));
        self.downstream.note_idle();
        if !std::mem::replace(&mut self.is_asked, true) {
            self.last_read = Instant::now();
            return self.poll_until(self.last_read + ANSWERS_WITHIN, cx); // sets the timer
        }
        Poll::Pending
    }

    /// Ready when an incomplete head has to make room for others.
    fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let downstream = &self.downstream;
        let share = self.unfinished.get_or_insert_with(|| downstream.begin_head());
        share.hold(READER + self.head_bytes.min(downstream.most_head_bytes()));
        ready!(share.poll_given_up(cx));
        self.downstream.head_given_up();
        Poll::Ready(())
    }

    fn poll_until(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let deadline = self.idle.get_or_insert_with(|| self.timers.deadline(at));
        deadline.move_to(at);
        Pin::new(deadline).poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn note_read(&mut self, bytes: &[u8]) {
        self.last_read = Instant::now();
        let before = self.frames.heads;
        let since_end = self.frames.note(bytes);
        if self.frames.heads != before || !self.frames.is_in_head() {
            // The previous head or frame ended in this piece, so time and bytes are counted anew.
            (self.head_since, self.head_bytes, self.unfinished) = (None, 0, None);
        }
        if self.frames.is_in_head() {
            self.head_since.get_or_insert(self.last_read);
            self.head_bytes += since_end;
        }
    }
}

/// Reads and discards bytes of a client to which no more is sent, until it closes the connection or [`LEAVES_WITHIN`]
/// is over.
fn poll_left(io: &mut Io, client: &mut GuardedClient, cx: &mut Context<'_>) -> Poll<()> {
    let timers = &client.timers;
    let leaves = client.leaves.get_or_insert_with(|| timers.deadline(Instant::now() + LEAVES_WITHIN));
    if Pin::new(leaves).poll(cx).is_ready() {
        return Poll::Ready(());
    }
    for _ in 0..READ_AT_ONCE / FORGOTTEN {
        let mut room = [MaybeUninit::uninit(); FORGOTTEN];
        let mut read = ReadBuf::uninit(&mut room);
        match ready!(Pin::new(&mut *io).poll_read(cx, &mut read)) {
            Ok(()) if !read.filled().is_empty() => {}
            _ended => return Poll::Ready(()),
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

impl Frames {
    /// Reads bytes. Returns how many of them came after the last end of a head or frame.
    fn note(&mut self, bytes: &[u8]) -> usize {
        let preface = bytes.len().min(PREFACE - self.preface);
        self.preface += preface;
        let mut rest = bytes.get(preface..).unwrap_or_default();
        let mut since_end = 0;
        while !rest.is_empty() {
            let taken = match self.left {
                0 => self.note_header(rest),
                left => {
                    let taken = left.min(rest.len());
                    self.left -= taken;
                    taken
                }
            };
            since_end += taken;
            if self.left == 0 && self.filled == 0 && self.ends_head {
                (self.is_open, self.ends_head) = (false, false);
            }
            if self.left == 0 && self.filled == 0 && !self.is_open {
                self.heads += 1;
                since_end = 0;
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
        since_end
    }

    /// Reads the header of a frame. Returns how many of the bytes belong to it.
    fn note_header(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(FRAME_HEADER - self.filled);
        let places = self.header.iter_mut().skip(self.filled);
        places.zip(bytes).for_each(|(place, byte)| *place = *byte);
        self.filled += taken;
        if self.filled == FRAME_HEADER {
            let [a, b, c, kind, flags, ..] = self.header;
            self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            let is_head = matches!(kind, HEADERS | CONTINUATION);
            self.is_open |= is_head;
            self.ends_head = is_head && flags & END_HEADERS != 0;
            self.filled = 0;
        }
        taken
    }

    /// Whether a head may be under way: an incomplete frame header counts, since it may be that of a head.
    const fn is_in_head(&self) -> bool {
        self.is_open || self.filled > 0
    }
}

impl AsyncRead for GuardedIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_read(cx, buf)
    }
}

impl AsyncWrite for GuardedIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().note_blocked(|guarded| guarded.poll_write(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true // otherwise `h2` makes a copy, in addition to the copy by `Gathered`
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().note_blocked(|guarded| guarded.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
