//! Carries bytes in both directions between two connections, without looking at them.
//!
//! A waiting connection holds no buffer. Bytes pass through a scratch buffer of the thread. Only what a slow reader did
//! not take is kept, which is at most one scratch buffer for each direction. An error of one side is never passed on as
//! an ordinary end.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::deadline::{Deadline, Timers};
use pillion_telemetry::Flow;

/// 64 KiB: large enough that system calls do not dominate the cost of bulk data, and small enough to stay in the cache
/// of a core.
const SCRATCH: usize = 64 * 1024;
/// Bytes that one direction carries in one poll: four full reads, which take well below a millisecond.
const SHARE: usize = 4 * SCRATCH;
/// Each read counts as at least this many bytes of the share, so that many tiny reads do not make a poll long.
const SMALLEST_PART: usize = 4 * 1024;
/// How long a peer is still read after it stopped taking bytes. What it sent before it broke has arrived already, or
/// arrives at once. One second is for a slow reader on the other side.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The bounds at which carrying stops although neither side has ended.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The longest time without a byte in either direction.
    pub idle: Option<Duration>,
    /// The longest time since the relay began, however busy it is.
    pub max_duration: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayEnd {
    /// Both directions ended, and all bytes were carried.
    Closed,
    DownstreamReset,
    UpstreamReset,
    Idle,
    MaxDuration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relayed {
    /// Bytes read from the downstream.
    pub received: u64,
    /// Bytes written to the downstream.
    pub sent: u64,
    pub how: RelayEnd,
}

/// Carries bytes until both sides have ended, one side broke, or a bound is reached.
///
/// When one side ends, the other side's write half is closed, and the opposite direction goes on. Any error of a side
/// counts as its reset, also TLS that ends without `close_notify`. When a side can no longer be written to, the bytes
/// that it had sent are still delivered, for one second at most. Its end is not passed on: after a failed write the
/// kernel reports an ordinary end, even if the peer reset the connection. After any result but [`RelayEnd::Closed`] the
/// caller resets both connections.
///
/// `count` is called with the bytes as they move, at most once for each flow and poll.
///
/// The future owns its parts as captured variables: the arguments of an async function would be held twice.
pub fn relay<D, U>(
    downstream: &mut D,
    upstream: &mut U,
    bounds: Bounds,
    timers: &Timers,
    mut count: impl FnMut(Flow, u64),
) -> impl Future<Output = Relayed>
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut both, mut patience) = (Both::default(), Patience::new(bounds, timers));
    poll_fn(move |cx| {
        let before = both.totals();
        let ending = with_scratch(|scratch| both.poll(cx, downstream, upstream, scratch));
        let has_moved = both.tell(before, &mut count);
        let ended = match ending {
            Some(ending) => Poll::Ready(ending),
            None => both.poll_patience(cx, &mut patience, has_moved),
        };
        ended.map(|how| Relayed { received: both.received.read, sent: both.sent.written, how })
    })
}

/// The state of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Open,
    /// All bytes were carried, and the end was passed on.
    Ended,
    /// All bytes were carried, but the end could not be passed on, because the writer is gone.
    Unheard,
    ReaderGone,
    WriterGone,
}

impl Step {
    const fn is_writer_gone(self) -> bool {
        matches!(self, Self::Unheard | Self::WriterGone)
    }
}

/// How the relay ends, by the state of its two directions. `None` while it goes on.
const fn verdict(received: Step, sent: Step) -> Option<RelayEnd> {
    match (received, sent) {
        (Step::ReaderGone, _) => Some(RelayEnd::DownstreamReset),
        (_, Step::ReaderGone) => Some(RelayEnd::UpstreamReset),
        (Step::Open, _) | (_, Step::Open) => None,
        (Step::WriterGone, _) => Some(RelayEnd::UpstreamReset),
        (_, Step::WriterGone) => Some(RelayEnd::DownstreamReset),
        (Step::Ended | Step::Unheard, Step::Ended | Step::Unheard) => Some(RelayEnd::Closed),
    }
}

/// How the relay ends when its time is up: as a reset if one side could not be written to, otherwise at `bound`.
const fn overdue(received: Step, sent: Step, bound: RelayEnd) -> RelayEnd {
    match (received.is_writer_gone(), sent.is_writer_gone()) {
        (true, _) => RelayEnd::UpstreamReset,
        (_, true) => RelayEnd::DownstreamReset,
        _ => bound,
    }
}

/// The two directions, named from the downstream's point of view.
#[derive(Debug, Default)]
struct Both {
    received: OneWay,
    sent: OneWay,
}

/// Bytes read and written so far, of `received` and then of `sent`.
type Totals = [(u64, u64); 2];

impl Both {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        downstream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        upstream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        scratch: &mut [u8],
    ) -> Option<RelayEnd> {
        self.received.poll(cx, downstream, upstream, scratch);
        self.sent.last_words = self.received.step.is_writer_gone(); // set before `sent` could pass on a false end
        self.sent.poll(cx, upstream, downstream, scratch);
        self.received.last_words = self.sent.step.is_writer_gone();
        verdict(self.received.step, self.sent.step)
    }

    const fn totals(&self) -> Totals {
        [(self.received.read, self.received.written), (self.sent.read, self.sent.written)]
    }

    /// Reports the bytes that moved since `before` to `count`. Returns whether any did.
    fn tell(&self, before: Totals, count: &mut impl FnMut(Flow, u64)) -> bool {
        let [(received, _), (_, sent)] = before;
        for (flow, bytes) in
            [(Flow::Received, self.received.read - received), (Flow::Sent, self.sent.written - sent)]
        {
            if bytes > 0 {
                count(flow, bytes);
            }
        }
        self.totals() != before
    }

    fn poll_patience(
        &self,
        cx: &mut Context<'_>,
        patience: &mut Patience<'_>,
        has_moved: bool,
    ) -> Poll<RelayEnd> {
        let (received, sent) = (self.received.step, self.sent.step);
        if received.is_writer_gone() || sent.is_writer_gone() {
            patience.shorten();
        }
        patience.poll(cx, has_moved).map(|bound| overdue(received, sent, bound))
    }
}

/// Bytes on their way from one side, the reader, to the other side, the writer.
#[derive(Debug)]
struct OneWay {
    read: u64,
    written: u64,
    /// Bytes that were read and not written yet, at most one scratch buffer. Nothing more is read before they are
    /// written.
    left: Bytes,
    is_flushed: bool,
    /// Whether the reader has ended, and the writer must still be shut down.
    is_closing: bool,
    /// Whether the reader can no longer be written to. Its bytes are still carried, but its end is not passed on.
    last_words: bool,
    step: Step,
}

impl Default for OneWay {
    fn default() -> Self {
        let (read, written, left) = (0, 0, Bytes::new());
        Self { read, written, left, is_flushed: true, is_closing: false, last_words: false, step: Step::Open }
    }
}

impl OneWay {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        scratch: &mut [u8],
    ) {
        if self.step == Step::Open
            && let Poll::Ready(step) = self.poll_last_step(cx, reader, writer, scratch)
        {
            self.step = step;
        }
    }

    fn poll_last_step(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        scratch: &mut [u8],
    ) -> Poll<Step> {
        if !self.is_closing {
            if let Err(gone) = ready!(self.poll_carry(cx, reader, writer, scratch)) {
                return Poll::Ready(gone);
            }
            self.is_closing = true;
        }
        self.poll_close(cx, writer)
    }

    /// Ready when the reader has ended and everything is written, or at the first error.
    fn poll_carry(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        scratch: &mut [u8],
    ) -> Poll<Result<(), Step>> {
        ready!(self.poll_left(cx, writer)).map_err(writer_gone)?;
        let mut share = SHARE;
        while share > 0 {
            let Poll::Ready(read) = poll_fill(cx, reader, scratch) else {
                ready!(self.poll_flush(cx, writer)).map_err(writer_gone)?;
                return Poll::Pending;
            };
            match read {
                Ok([]) if !self.last_words => return Poll::Ready(Ok(())),
                Ok([]) | Err(_) => return Poll::Ready(Err(self.give_up(cx, writer))),
                Ok(fresh) => {
                    share = share.saturating_sub(fresh.len().max(SMALLEST_PART));
                    self.read += fresh.len() as u64;
                    ready!(self.poll_fresh(cx, writer, fresh)).map_err(writer_gone)?;
                }
            }
        }
        cx.waker().wake_by_ref();
        ready!(self.poll_flush(cx, writer)).map_err(writer_gone)?;
        Poll::Pending
    }

    /// Writes the bytes that were just read. Keeps what the writer does not take now.
    fn poll_fresh(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut (impl AsyncWrite + Unpin),
        mut fresh: &[u8],
    ) -> Poll<io::Result<()>> {
        let polled = self.poll_write(cx, writer, &mut fresh);
        if polled.is_pending() {
            self.left = Bytes::copy_from_slice(fresh);
        }
        polled
    }

    fn poll_left(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        let mut left = std::mem::take(&mut self.left);
        let polled = self.poll_write(cx, writer, &mut left);
        if polled.is_pending() {
            self.left = left;
        }
        polled
    }

    /// Ready when all of `bytes` are written.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut (impl AsyncWrite + Unpin),
        bytes: &mut impl Buf,
    ) -> Poll<io::Result<()>> {
        while bytes.has_remaining() {
            let count = ready!(Pin::new(&mut *writer).poll_write(cx, bytes.chunk()))?.min(bytes.remaining());
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            bytes.advance(count);
            self.written += count as u64;
            self.is_flushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        if !self.is_flushed {
            ready!(Pin::new(writer).poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, writer: &mut (impl AsyncWrite + Unpin)) -> Poll<Step> {
        if ready!(self.poll_flush(cx, writer)).is_err() {
            return Poll::Ready(Step::WriterGone);
        }
        let shut = ready!(Pin::new(writer).poll_shutdown(cx));
        Poll::Ready(if shut.is_ok() { Step::Ended } else { Step::Unheard })
    }

    /// The reader broke. What it had sent before is flushed once, as far as possible without waiting.
    fn give_up(&mut self, cx: &mut Context<'_>, writer: &mut (impl AsyncWrite + Unpin)) -> Step {
        drop(self.poll_flush(cx, writer));
        Step::ReaderGone
    }
}

fn writer_gone(_: io::Error) -> Step {
    Step::WriterGone
}

/// The bytes that were read. Empty at the reader's end.
fn poll_fill<'a>(
    cx: &mut Context<'_>,
    reader: &mut (impl AsyncRead + Unpin),
    scratch: &'a mut [u8],
) -> Poll<io::Result<&'a [u8]>> {
    let mut buf = ReadBuf::new(&mut *scratch);
    ready!(Pin::new(reader).poll_read(cx, &mut buf))?;
    let count = buf.filled().len();
    Poll::Ready(Ok(scratch.get(..count).unwrap_or_default()))
}

/// Lends the thread's scratch buffer for the time of one poll.
///
/// The buffer is taken out of the thread, not borrowed. A stream that polls another relay inside this poll finds none
/// and creates another buffer; the one that is put back last is kept.
fn with_scratch<T>(poll: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local! {
        static IDLE: Cell<Box<[u8]>> = Cell::default();
    }
    let mut scratch = IDLE.take();
    if scratch.is_empty() {
        scratch = vec![0; SCRATCH].into_boxed_slice();
    }
    let polled = poll(&mut scratch);
    IDLE.set(scratch);
    polled
}

/// Both bounds on one timer, which is set again only when it fires too early.
#[derive(Debug)]
struct Patience<'a> {
    idle: Option<Duration>,
    /// The moment at which the relay ends even if bytes move.
    until: Option<Instant>,
    is_hurried: bool,
    last_moved: Instant,
    timers: &'a Timers,
    timer: Option<Deadline>,
}

impl<'a> Patience<'a> {
    fn new(bounds: Bounds, timers: &'a Timers) -> Self {
        let now = Instant::now();
        let until = bounds.max_duration.and_then(|max| now.checked_add(max));
        Self { idle: bounds.idle, until, is_hurried: false, last_moved: now, timers, timer: None }
    }

    /// Limits the remaining time to [`LAST_WORDS`]. Only the first call has an effect.
    fn shorten(&mut self) {
        if !self.is_hurried {
            let soon = Instant::now() + LAST_WORDS;
            self.until = Some(self.until.map_or(soon, |until| until.min(soon)));
            self.is_hurried = true;
        }
    }

    /// The moment at which the next bound is reached, and which bound that is.
    fn next(&self) -> Option<(Instant, RelayEnd)> {
        let idle =
            self.idle.and_then(|idle| self.last_moved.checked_add(idle)).map(|at| (at, RelayEnd::Idle));
        let until = self.until.map(|at| (at, RelayEnd::MaxDuration));
        until.into_iter().chain(idle).min_by_key(|(at, _)| *at)
    }

    fn poll(&mut self, cx: &mut Context<'_>, has_moved: bool) -> Poll<RelayEnd> {
        if has_moved {
            self.last_moved = Instant::now();
        }
        let Some((at, ending)) = self.next() else { return Poll::Pending };
        // A timer that fires early enough needs no change for every piece that moves.
        let is_set = |timer: &Deadline| timer.is_set_between(self.last_moved, at);
        if has_moved && self.timer.as_ref().is_some_and(is_set) {
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| self.timers.deadline(at));
        timer.move_to(at);
        Pin::new(timer).poll(cx).map(|()| ending)
    }
}

#[cfg(test)]
mod tests;
