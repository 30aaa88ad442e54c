//! Between two requests: a head that comes, and a client that does not send one.

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

/// A connection that was idle for so long rests: the drain does not wait for it.
const REST_AFTER: Duration = Duration::from_secs(1);

/// What a client says after an answer, or at first.
pub(super) enum Heard {
    /// A request, and its content with what has come of that.
    Head(Arc<RequestHead>, (Option<Incoming>, Content)),
    /// What is no request. The answer to it waits in the outbox.
    Refused,
    /// It is silent.
    Nothing,
    /// It has left, or has had its time.
    Over,
}

/// How long a client may take.
pub(super) struct Watch {
    /// Something came that is not a whole head.
    has_begun: bool,
    /// When it came.
    since: Option<Instant>,
    /// When the last request came; when its answer had left, where that took longer than [`REST_AFTER`].
    last: Instant,
    /// Bytes have come, or an answer has left, since the timer was looked at.
    has_moved: bool,
    timer: Option<Deadline>,
    /// Of what all heads hold that are not whole.
    share: Option<Box<Share>>,
}

/// What a client has made of its time.
enum Patience {
    Silent,
    Late,
    /// Its head was the oldest of all that are not whole, and they hold too much.
    GivenUp,
}

impl Downstream {
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        let Self { io, inbox, judged, outbox, server, watch, takes_trailers, connection, worker, .. } = self;
        inbox.with(|bytes| {
            loop {
                if !bytes.is_empty() {
                    let limits = limits(connection, worker);
                    match server.read(bytes, &limits) {
                        Ok((used, event)) => {
                            bytes.advance(used);
                            if let FromClient::Head(head) = event {
                                *takes_trailers = wants_trailers(&head.fields);
                                let opened = content::open(head.length, (server, judged), bytes, &limits);
                                return Poll::Ready(match RequestHead::read(head) {
                                    Ok(head) => Heard::Head(head, opened),
                                    Err(text) => refused(Fault::Target, &text, outbox, (connection, worker)),
                                });
                            }
                        }
                        Err(Error::Request(fault)) => {
                            let heard = refused(fault, bytes, outbox, (connection, worker));
                            bytes.clear();
                            watch.share = None; // nothing of it is held, however long its client is listened to
                            return Poll::Ready(heard);
                        }
                        Err(_) => {} // nothing else comes of a client's bytes
                    }
                }
                let Poll::Ready(read) = poll_fill(io, bytes, cx) else {
                    let patience = ready!(watch.poll(bytes.len(), (connection, worker), cx));
                    let heard = impatient(patience, bytes, outbox.end(), (connection, worker));
                    watch.share = None;
                    return Poll::Ready(heard);
                };
                if !matches!(read, Ok(1..)) {
                    return Poll::Ready(Heard::Over);
                }
                watch.note_read();
            }
        })
    }
}

impl Downstream {
    /// Waits for a first byte for as long as a connection may be idle. Nothing waits for it meanwhile, and the end of the
    /// process may end it. `false`: it is over.
    pub(super) async fn rests(&mut self) -> bool {
        let Self { io, inbox, watch, connection, worker, .. } = self;
        let (work, now) = (&connection.place.work, Instant::now());
        work.rest();
        watch.rest(now + worker.limits().idle_timeout, worker);
        let mut dismissed = pin!(work.dismissed(now));
        poll_fn(|cx| {
            // What comes first counts: a client that speaks is heard, as long as nobody was told to go.
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
) -> Heard {
    let head = head.get(..refusal::KEPT).unwrap_or(head);
    outbox.end().extend_from_slice(&refusal::refuse_fault(fault, head, connection, worker));
    Heard::Refused
}

/// Trailers go to those who say that they look at them (RFC 9110, 6.5.1).
fn wants_trailers(fields: &Fields) -> bool {
    fields.has(Known::Te) && fields.elements(Known::Te).any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

fn impatient(
    patience: Patience,
    head: &mut BytesMut,
    out: &mut Vec<u8>,
    (connection, worker): (&Connection, &Worker),
) -> Heard {
    let shown = head.get(..refusal::KEPT).unwrap_or(head);
    let heard = match patience {
        Patience::Silent => return Heard::Nothing,
        Patience::Late => match refusal::refuse_late(shown, connection, worker) {
            Some(answer) => {
                out.extend_from_slice(&answer);
                Heard::Refused
            }
            None => Heard::Over,
        },
        Patience::GivenUp => {
            refusal::note_given_up(shown, Version::HTTP_11, connection, worker);
            Heard::Over
        }
    };
    head.clear();
    heard
}

impl Watch {
    /// `since`: when the first byte came, where it has.
    pub(super) fn new(since: Option<Instant>) -> Self {
        let last = since.unwrap_or_else(Instant::now);
        Self { has_begun: false, since, last, has_moved: false, timer: None, share: None }
    }

    /// A request has come whole: who carries it watches over the client from here on.
    pub(super) fn pause(&mut self, now: Instant) {
        (self.has_begun, self.since, self.last, self.has_moved) = (false, None, now, true);
        self.share = None;
    }

    /// Whatever comes, from now on nothing is waited for until then.
    fn rest(&mut self, until: Instant, worker: &Worker) {
        match &mut self.timer {
            Some(timer) => timer.move_to(until),
            None => self.timer = Some(worker.ground.timers.deadline(until)),
        }
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.as_mut().map_or(Poll::Ready(()), |timer| Pin::new(timer).poll(cx))
    }

    const fn note_read(&mut self) {
        (self.has_begun, self.has_moved) = (true, true);
    }

    /// Nothing to read, and `held` bytes of a head: is that still all right?
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
            // The answer took longer than that.
            self.last = Instant::now();
            ready!(self.poll_timer(self.last + REST_AFTER, worker, cx));
        }
        Poll::Ready(Patience::Silent)
    }

    /// Ready at that moment; says whether it had come already when bytes came or an answer left. A timer that is set,
    /// and had not fired a moment ago, will wake us when it does: that spares a look at it for each request.
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
