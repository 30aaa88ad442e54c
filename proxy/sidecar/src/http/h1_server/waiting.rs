//! The time between two requests: reads the next head, and watches a client that does not send one.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use http::Version;
use pillion_http1::{Error, Fault, Fields, FromClient, Known};
use tokio::time::Instant;

use super::content::{self, Content};
use super::{Downstream, limits};
use crate::connection::Connection;
use crate::http::refusal;
use crate::worker::Worker;
use pillion_base::deadline::Deadline;
use pillion_base::drain::{Reached, Work};
use pillion_base::memory::resting::Seat;
use pillion_base::net::Io;
use pillion_base::unfinished::{READER, Share};
use pillion_http::h1::buffer::{Outbox, poll_fill};
use pillion_http::h1::request::Incoming;
use pillion_http::message::RequestHead;
use pillion_telemetry::Shed;

/// 1 s: a connection that is idle for so long is at rest, and the drain does not wait for it.
const REST_AFTER: Duration = Duration::from_secs(1);

/// What a client sends at first, or after an answer.
pub(super) enum Received {
    /// A request, and its content with the part of it that has come.
    Head(Arc<RequestHead>, (Option<Incoming>, Content)),
    /// Bytes that are not a request. The answer to them waits in the outbox.
    Refused,
    /// The client has left, or its time is over.
    Over,
}

/// The timers of a client that waits or sends a head.
pub(super) struct Watch {
    /// A part of a head has come.
    has_begun: bool,
    /// When the first byte of it came.
    since: Option<Instant>,
    /// When the last request came, or when its answer had left if that took longer than [`REST_AFTER`].
    last: Instant,
    /// Bytes have come, or an answer has left, since the timer was last polled.
    has_moved: bool,
    /// For a client that is awaited: until it counts as silent, or its head as late.
    timer: Option<Deadline>,
    /// Whether the client is silent: the drain does not wait for the connection.
    is_at_rest: bool,
    /// What [`Io::received`] was when the client became silent.
    received: u32,
    /// For a silent client: until its connection has been idle for too long. It stays set while requests come, because
    /// moving it to a later moment costs nothing.
    idle: Option<Deadline>,
    /// The end of the wait of a silent client by the drain. Made at the first rest, and kept.
    dismissed: Option<Reached>,
    /// The place of a silent client among those that are closed where memory runs short.
    seat: Option<Seat>,
    /// The share of the memory for incomplete heads.
    share: Option<Box<Share>>,
}

/// Why the wait for a head ended.
enum Patience {
    /// The connection was idle for too long, or the drain closes it.
    Silent,
    Late,
    /// The memory for incomplete heads is used up, and this head was the oldest.
    GivenUp,
}

impl Downstream {
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        // Whether a timer has woken the task. Otherwise bytes have, unless an answer has just left.
        let has_fired = self.io.is_awaited() && self.watch.has_fired();
        let is_asked = has_fired || !self.io.is_awaited();
        if std::mem::take(&mut self.is_watched) && is_asked && !self.io.may_have_come() {
            // Nearly always so, and a read that finds nothing costs 300 instructions.
            let over = self.watch.poll((&self.io, 0), (&self.connection, &self.worker), cx);
            self.is_watched = over.is_pending();
            self.io.wait_for(true);
            return over.map(|_no_byte_to_answer| Received::Over);
        }
        let Self {
            io,
            inbox,
            judged,
            outbox,
            server,
            watch,
            takes_trailers,
            is_watched,
            connection,
            worker,
            ..
        } = self;
        if has_fired {
            io.wait_for(false); // a read through TLS may find nothing
        }
        inbox.with(|bytes| {
            loop {
                if !bytes.is_empty() {
                    let limits = limits(connection, worker);
                    match server.read(bytes, &limits) {
                        Ok((used, FromClient::Head(head))) => {
                            bytes.advance(used);
                            *takes_trailers = wants_trailers(&head.fields);
                            let opened = content::open(head.length, (server, judged), bytes, &limits);
                            return Poll::Ready(match RequestHead::read(head) {
                                Ok(head) => Received::Head(head, opened),
                                Err(text) => refused(Fault::Target, &text, outbox, (connection, worker)),
                            });
                        }
                        Ok((used, _)) => bytes.advance(used),
                        Err(Error::Request(fault)) => {
                            let received = refused(fault, bytes, outbox, (connection, worker));
                            bytes.clear();
                            watch.share = None; // no byte of the head is held while the connection lingers
                            return Poll::Ready(received);
                        }
                        Err(_) => {} // not possible: a client's bytes only cause faults of a request
                    }
                }
                let Poll::Ready(read) = poll_fill(io, bytes, cx) else {
                    *is_watched = bytes.is_empty();
                    io.wait_for(true);
                    let patience = ready!(watch.poll((io, bytes.len()), (connection, worker), cx));
                    let received = timed_out(patience, bytes, outbox.end(), (connection, worker));
                    watch.share = None;
                    return Poll::Ready(received);
                };
                if !matches!(read, Ok(1..)) {
                    return Poll::Ready(Received::Over);
                }
                watch.note_read(&connection.place.work);
            }
        })
    }
}

fn refused(
    fault: Fault,
    head: &[u8],
    outbox: &mut Outbox,
    (connection, worker): (&Connection, &Worker),
) -> Received {
    let head = head.get(..refusal::KEPT).unwrap_or(head);
    outbox.end().extend_from_slice(&refusal::refuse_fault(fault, head, connection, worker));
    Received::Refused
}

/// Whether the client accepts trailers: it gets none unless it says so (RFC 9110, 6.5.1).
fn wants_trailers(fields: &Fields) -> bool {
    fields.has(Known::Te) && fields.elements(Known::Te).any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

fn timed_out(
    patience: Patience,
    head: &mut BytesMut,
    out: &mut Vec<u8>,
    (connection, worker): (&Connection, &Worker),
) -> Received {
    let shown = head.get(..refusal::KEPT).unwrap_or(head);
    let received = match patience {
        Patience::Silent => return Received::Over,
        Patience::Late => match refusal::refuse_late(shown, connection, worker) {
            Some(answer) => {
                out.extend_from_slice(&answer);
                Received::Refused
            }
            None => Received::Over,
        },
        Patience::GivenUp => {
            refusal::note_given_up(shown, Version::HTTP_11, connection, worker);
            Received::Over
        }
    };
    head.clear();
    received
}

impl Watch {
    /// `since`: when the first byte came, if it has.
    pub(super) fn new(since: Option<Instant>) -> Self {
        let last = since.unwrap_or_else(Instant::now);
        Self {
            has_begun: false,
            since,
            last,
            has_moved: false,
            timer: None,
            is_at_rest: false,
            received: 0,
            idle: None,
            dismissed: None,
            seat: None,
            share: None,
        }
    }

    /// Stops the watch, because a complete head has come: [`Content::poll`] watches the client from here on.
    pub(super) fn pause(&mut self, now: Instant) {
        (self.has_begun, self.since, self.last, self.has_moved) = (false, None, now, true);
        self.share = None;
    }

    fn has_fired(&self) -> bool {
        self.timer.as_ref().is_some_and(Deadline::has_fired)
    }

    /// Bytes have come.
    fn note_read(&mut self, work: &Work) {
        (self.has_begun, self.has_moved) = (true, true);
        if std::mem::take(&mut self.is_at_rest) {
            self.seat = None;
            work.wake();
        }
    }

    /// The client is silent. From now on the drain does not wait for the connection, and may close it.
    fn rest(&mut self, io: &Io, (connection, worker): (&Connection, &Worker), cx: &mut Context<'_>) {
        (self.is_at_rest, self.received) = (true, io.received());
        self.timer = None;
        let work = &connection.place.work;
        work.rest();
        self.dismissed.get_or_insert_with(|| work.dismissal());
        self.seat = Some(worker.ground.ceiling.resting.sit(self.last, cx.waker().clone()));
        let until = self.last + REST_AFTER + worker.limits().idle_timeout;
        match &mut self.idle {
            Some(idle) => idle.move_to(until),
            None => {
                let mut idle = worker.ground.timers.deadline(until);
                // Its timer knows the task from here on. An end that has come already is seen by the next poll.
                let _ended = Pin::new(&mut idle).poll(cx);
                self.idle = Some(idle);
            }
        }
    }

    /// Checks the time and the memory of a client from which no byte has come, with `held` bytes of a head. Ready when
    /// the wait has to end.
    fn poll(
        &mut self,
        (io, held): (&Io, usize),
        (connection, worker): (&Connection, &Worker),
        cx: &mut Context<'_>,
    ) -> Poll<Patience> {
        if self.since.is_none() && (self.has_begun || held > 0) {
            self.since = Some(Instant::now());
        }
        let Some(since) = self.since else { return self.poll_silence(io, (connection, worker), cx) };
        if held > 0 {
            let begin = || Box::new(worker.ground.unfinished.begin(connection.side()));
            let share = self.share.get_or_insert_with(begin);
            share.hold(READER + held);
            if share.poll_given_up(cx).is_ready() {
                return Poll::Ready(Patience::GivenUp);
            }
        }
        let at = since + worker.limits().header_timeout;
        self.poll_timer(at, worker, cx).map(|_at_once| Patience::Late)
    }

    /// A request that came just now gets its answer: the runtime may not have seen its bytes yet.
    fn poll_silence(
        &mut self,
        io: &Io,
        (connection, worker): (&Connection, &Worker),
        cx: &mut Context<'_>,
    ) -> Poll<Patience> {
        if !self.is_at_rest {
            let at_once = ready!(self.poll_timer(self.last + REST_AFTER, worker, cx));
            if at_once {
                // The answer took longer than `REST_AFTER`.
                self.last = Instant::now();
                ready!(self.poll_timer(self.last + REST_AFTER, worker, cx));
            }
            self.rest(io, (connection, worker), cx);
        }
        let is_dismissed =
            self.dismissed.as_mut().is_some_and(|reached| Pin::new(reached).poll(cx).is_ready());
        let is_called = self.seat.as_ref().is_some_and(Seat::is_called);
        let is_over =
            is_dismissed || is_called || self.idle.as_mut().is_none_or(|idle| idle.poll_fired(cx).is_ready());
        if !is_over {
            return Poll::Pending;
        }
        if io.received() != self.received || io.has_come() {
            // A part of a record of TLS may be all that has come: from here on this is a client that sends its head.
            self.note_read(&connection.place.work);
            return self.poll((io, 0), (connection, worker), cx);
        }
        if is_called {
            worker.ground.metrics.memory_shed(Shed::Idle).inc();
        }
        Poll::Ready(Patience::Silent)
    }

    /// Ready at `at`. The value says whether that time had come already when bytes came or an answer left. A timer that
    /// is set, and had not expired when it was last polled, will wake this task, so it is not polled for each request.
    fn poll_timer(&mut self, at: Instant, worker: &Worker, cx: &mut Context<'_>) -> Poll<bool> {
        let has_moved = std::mem::take(&mut self.has_moved);
        match &mut self.timer {
            Some(timer) if has_moved && timer.is_set_between(self.last, at) => {
                timer.move_to(at);
                return Poll::Pending;
            }
            Some(timer) => timer.move_to(at),
            None => {}
        }
        let timer = self.timer.get_or_insert_with(|| worker.ground.timers.deadline(at));
        Pin::new(timer).poll(cx).map(|()| has_moved)
    }
}
