//! Sends a body to an HTTP/2 peer.
//!
//! The next piece is read only after the last one was given to `h2`, and is given only as far as the peer's window
//! allows, so `h2` holds no bytes that wait for a window. A window is requested only when there is a piece for it,
//! because some peers open a connection's window again only after its last byte was used.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::Body;
use tokio::time::Instant;

use super::memory::Piece;
use super::{Room, SEND_BUFFER};
use crate::error::{BodyError, Interrupted};
use crate::head::field_bytes;
use crate::stall::LEAST_TAKEN;
use pillion_base::deadline::Deadline;
use pillion_model::Reason as Why;

/// Why the sending ended before the end of the body.
#[derive(Debug)]
pub enum Unsent {
    /// The peer wants no more, or the connection is gone.
    Refused,
    /// The body broke off. The stream was reset.
    Broken,
    /// The peer accepted next to nothing. The stream was reset.
    Stalled,
}

/// What the sender of a body needs from it, in addition to its pieces.
pub trait OutgoingBody: Body<Data = Bytes, Error = BodyError> + Unpin + Send + 'static {
    /// Tells the body that the upstream asks for it. `false`: the body did not wait for that.
    fn ask(&self) -> bool;
    /// How long bytes of an answer may wait for the client, and when the answer has to end.
    fn bounds(&self) -> (Option<Duration>, Option<Instant>);
    /// Takes the body, and leaves an empty one.
    fn take(&mut self) -> Self
    where
        Self: Sized;
    /// Ends an answer early: its rest will not be read.
    fn cut(&mut self, reason: Why);
    /// Sends the rest of the request of this answer, while no piece of the answer is wanted. Polling the body for a
    /// piece does this, too.
    fn move_upload(&mut self, cx: &mut Context<'_>);
}

pub struct Outgoing<B> {
    stream: SendStream<Piece>,
    body: B,
    room: Arc<Room>,
    /// The piece that was read and waits for a window.
    hand: Bytes,
    /// No piece comes after the current one.
    is_last: bool,
    is_answer: bool,
    patience: Patience,
}

/// How long bytes may wait for a peer.
struct Patience {
    /// The bounds of the service; `None` for a request's body, whose timeouts are in `layers::timeout`.
    bounds: Option<(Option<Duration>, Option<Instant>)>,
    deadline: Option<Deadline>,
    /// The bytes that the peer has accepted since the deadline was set.
    taken: usize,
}

impl<B: OutgoingBody> Outgoing<B> {
    /// Sends an answer's body. While bytes wait for the peer, it must accept some of them from time to time.
    pub fn answer(stream: SendStream<Piece>, body: B, room: &Arc<Room>) -> Self {
        let patience = Patience::new(Some(body.bounds()));
        let mut answer = Self::new(stream, body, room, patience);
        answer.is_answer = true;
        answer
    }

    pub fn request(stream: SendStream<Piece>, body: B, room: &Arc<Room>) -> Self {
        Self::new(stream, body, room, Patience::new(None))
    }

    fn new(stream: SendStream<Piece>, body: B, room: &Arc<Room>, patience: Patience) -> Self {
        Self {
            stream,
            body,
            room: room.clone(),
            hand: Bytes::new(),
            is_last: false,
            is_answer: false,
            patience,
        }
    }

    /// Adds an idle timeout, because the peer has answered, and no other timeout bounds the rest of its request.
    pub fn within(mut self, idle: Duration) -> Self {
        self.patience = Patience::new(Some((Some(idle), None)));
        self
    }

    pub const fn body_mut(&mut self) -> &mut B {
        &mut self.body
    }

    /// Gives the current piece to `h2`, as far as the window allows. Ready when all of it was given.
    fn poll_give(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        while !self.hand.is_empty() {
            self.stream.reserve_capacity(self.hand.len().min(SEND_BUFFER));
            let capacity = match self.stream.capacity() {
                0 => match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(capacity)) => capacity,
                    Some(Err(_)) | None => return Poll::Ready(Err(Unsent::Refused)),
                },
                capacity => capacity,
            };
            let given = self.hand.split_to(capacity.min(self.hand.len()));
            if !given.is_empty() {
                self.patience.took(given.len());
                let piece = Piece::queue(given, &self.room);
                let ends = self.is_last && self.hand.is_empty();
                self.stream.send_data(piece, ends).map_err(|_closed| Unsent::Refused)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn end(&mut self) -> Result<(), Unsent> {
        self.stream.send_data(Piece::empty(), true).map_err(|_closed| Unsent::Refused)
    }

    /// Ends the body with `trailers`. `h2` queues those of an answer as it queues its head, so they count like one.
    fn end_with(&mut self, trailers: HeaderMap) -> Result<(), Unsent> {
        if self.is_answer && !self.room.account.hold_head(|| field_bytes(&trailers)) {
            self.body.cut(Why::Overloaded);
            self.stream.send_reset(Reason::ENHANCE_YOUR_CALM);
            return Err(Unsent::Stalled);
        }
        self.stream.send_trailers(trailers).map_err(|_closed| Unsent::Refused)
    }

    /// Checks the timeouts while no progress is possible. `waits`: bytes wait for the peer.
    fn poll_stuck(&mut self, cx: &mut Context<'_>, waits: bool) -> Poll<Result<(), Unsent>> {
        if self.stream.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(Unsent::Refused));
        }
        if !waits {
            self.patience.nothing_waits();
            return Poll::Pending;
        }
        let why = ready!(self.patience.poll_over(cx, &self.room));
        self.body.cut(why);
        self.stream.send_reset(Reason::CANCEL);
        Poll::Ready(Err(Unsent::Stalled))
    }

    /// Resets the stream of a body that broke off.
    fn broken(&mut self, error: &BodyError) -> Unsent {
        self.stream.send_reset(reset_reason(error));
        Unsent::Broken
    }
}

/// The code for the reset: that of the other side, if it has reset its stream, or else an error of the sidecar.
fn reset_reason(error: &BodyError) -> Reason {
    match error {
        BodyError::Http2(Interrupted::Http2(error)) if error.is_reset() => {
            error.reason().unwrap_or(Reason::INTERNAL_ERROR)
        }
        _ => Reason::INTERNAL_ERROR,
    }
}

impl<B: OutgoingBody> Future for Outgoing<B> {
    type Output = Result<(), Unsent>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match this.poll_give(cx)? {
                Poll::Pending => {
                    this.body.move_upload(cx); // some peers read only after all of their request is accepted
                    return this.poll_stuck(cx, true);
                }
                Poll::Ready(()) if this.is_last => return Poll::Ready(Ok(())),
                Poll::Ready(()) => {}
            }
            if !this.room.account.may_read() {
                this.room.account.wait(cx.waker());
                this.body.move_upload(cx);
                return this.poll_stuck(cx, false); // the peer has accepted all bytes of this stream
            }
            let frame = match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Pending => return this.poll_stuck(cx, false),
                Poll::Ready(None) => return Poll::Ready(this.end()),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(this.broken(&error))),
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            match frame.into_data() {
                Ok(data) => {
                    this.is_last = this.body.is_end_stream();
                    if data.is_empty() && this.is_last {
                        return Poll::Ready(this.end());
                    }
                    // An empty piece is not sent: peers count empty frames, and close the connection after a few.
                    this.room.account.hold_waiting(data.len());
                    this.hand = data;
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    this.stream.reserve_capacity(0);
                    return Poll::Ready(this.end_with(trailers));
                }
            }
        }
    }
}

/// When this is dropped before the end of the body, `h2` resets the stream.
impl<B> Drop for Outgoing<B> {
    fn drop(&mut self) {
        self.room.account.drop_waiting(self.hand.len());
    }
}

impl Patience {
    const fn new(bounds: Option<(Option<Duration>, Option<Instant>)>) -> Self {
        Self { bounds, deadline: None, taken: 0 }
    }

    fn took(&mut self, bytes: usize) {
        self.taken += bytes;
        if self.taken >= LEAST_TAKEN {
            self.deadline = None;
        }
    }

    fn nothing_waits(&mut self) {
        self.deadline = None;
    }

    /// Ready, with the reason, when a timeout has expired.
    fn poll_over(&mut self, cx: &mut Context<'_>, room: &Room) -> Poll<Why> {
        let Some((idle, hard_stop)) = self.bounds else { return Poll::Pending };
        if self.deadline.is_none() {
            let idle_until = idle.map(|idle| Instant::now() + idle);
            let Some(at) = idle_until.into_iter().chain(hard_stop).min() else { return Poll::Pending };
            self.deadline = Some(room.timers.deadline(at));
            self.taken = 0;
        }
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        ready!(Pin::new(deadline).poll(cx));
        let is_stopped = hard_stop.is_some_and(|stop| Instant::now() >= stop);
        Poll::Ready(if is_stopped { Why::MaxDuration } else { Why::StreamIdleTimeout })
    }
}
