//! The time between two requests: reads the next head, and watches a client that does not send one.

use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
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
use pillion_base::unfinished::{READER, Share};
use pillion_http::h1::buffer::{Outbox, poll_fill};
use pillion_http::h1::request::Incoming;
use pillion_http::message::RequestHead;

/// 1 s: a connection that is idle for so long is at rest, and the drain does not wait for it.
const REST_AFTER: Duration = Duration::from_secs(1);

/// What a client sends at first, or after an answer.
pub(super) enum Received {
    /// A request, and its content with the part of it that has come.
    Head(Arc<RequestHead>, (Option<Incoming>, Content)),
    /// Bytes that are not a request. The answer to them waits in the outbox.
    Refused,
    /// Nothing: the client is silent.
    Nothing,
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
    timer: Option<Deadline>,
    /// The share of the memory for incomplete heads.
    share: Option<Box<Share>>,
}

/// Why the wait for a head ended.
enum Patience {
    Silent,
    Late,
    /// The memory for incomplete heads is used up, and this head was the oldest.
    GivenUp,
}

impl Downstream {
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        if self.is_still_silent(cx) {
            self.io.wait_for(true);
            return Poll::Pending;
        }
        let Self { io, inbox, judged, outbox, server, watch, takes_trailers, connection, worker, .. } = self;
        if io.is_awaited() && watch.has_fired() {
            io.wait_for(false); // the timer may have woken the task, so a read through TLS may find nothing
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
                    let patience = ready!(watch.poll(bytes.len(), (connection, worker), cx));
                    let received = timed_out(patience, bytes, outbox.end(), (connection, worker));
                    watch.share = None;
                    return Poll::Ready(received);
                };
                if !matches!(read, Ok(1..)) {
                    return Poll::Ready(Received::Over);
                }
                watch.note_read();
            }
        })
    }
}

impl Downstream {
    /// Whether a client that was watched while its request was answered has sent nothing since, and may still be waited
    /// for. Nearly always so, and a read that finds nothing costs 300 instructions.
    fn is_still_silent(&mut self, cx: &mut Context<'_>) -> bool {
        std::mem::take(&mut self.is_watched)
            && !self.io.may_have_come()
            && self.watch.poll(0, (&self.connection, &self.worker), cx).is_pending()
    }

    /// Waits for a first byte for as long as a connection may be idle. The drain does not wait for the connection
    /// meanwhile, and the end of the process may close it. `false`: the connection is over.
    pub(super) async fn rests(&mut self) -> bool {
        let Self { io, inbox, watch, connection, worker, .. } = self;
        let (work, now) = (&connection.place.work, Instant::now());
        work.rest();
        watch.rest(now + worker.limits().idle_timeout, worker);
        let mut dismissed = pin!(work.dismissed(now));
        poll_fn(|cx| {
            // Bytes go before the end of the wait: a client that has sent a request gets an answer.
            if let Poll::Ready(read) = inbox.with(|bytes| poll_fill(io, bytes, cx)) {
                work.wake();
                watch.note_read();
                return Poll::Ready(matches!(read, Ok(1..)));
            }
            let over = dismissed.as_mut().poll(cx).is_ready() || watch.poll_rest(cx).is_ready();
            if over { Poll::Ready(false) } else { Poll::Pending }
        })
        .await
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
        Patience::Silent => return Received::Nothing,
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
        Self { has_begun: false, since, last, has_moved: false, timer: None, share: None }
    }

    /// Stops the watch, because a complete head has come: [`Content::poll`] watches the client from here on.
    pub(super) fn pause(&mut self, now: Instant) {
        (self.has_begun, self.since, self.last, self.has_moved) = (false, None, now, true);
        self.share = None;
    }

    /// Begins the wait for a first byte, which ends at `until`.
    fn rest(&mut self, until: Instant, worker: &Worker) {
        match &mut self.timer {
            Some(timer) => timer.move_to(until),
            None => self.timer = Some(worker.ground.timers.deadline(until)),
        }
    }

    fn has_fired(&self) -> bool {
        self.timer.as_ref().is_some_and(Deadline::has_fired)
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.as_mut().map_or(Poll::Ready(()), |timer| Pin::new(timer).poll(cx))
    }

    const fn note_read(&mut self) {
        (self.has_begun, self.has_moved) = (true, true);
    }

    /// Checks the time and the memory of a client from which no byte has come, with `held` bytes of a head. Ready when
    /// the wait has to end.
    fn poll(
        &mut self,
        held: usize,
        (connection, worker): (&Connection, &Worker),
        cx: &mut Context<'_>,
    ) -> Poll<Patience> {
        if self.since.is_none() && (self.has_begun || held > 0) {
            self.since = Some(Instant::now());
        }
        let Some(since) = self.since else { return self.poll_silence(worker, cx) };
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

    fn poll_silence(&mut self, worker: &Worker, cx: &mut Context<'_>) -> Poll<Patience> {
        let at_once = ready!(self.poll_timer(self.last + REST_AFTER, worker, cx));
        if at_once {
            // The answer took longer than `REST_AFTER`.
            self.last = Instant::now();
            ready!(self.poll_timer(self.last + REST_AFTER, worker, cx));
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
