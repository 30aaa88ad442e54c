//! The body type that all layers use, and what is attached to it until its end.
//!
//! A request or response does not end with its headers: permits, connections, counters and the access line wait for the
//! last byte. They are attached to the body as one boxed [`Tail`], so that no wrapper types are needed.

use std::future::{Future as _, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use crate::begun::Begun;
use crate::error::BodyError;
use crate::expect::Gated;
use crate::framing::may_be_trailer;
use crate::h1::{client as h1_client, request};
use crate::h2;
use crate::h2::client::Answer;
use crate::h2::send::OutgoingBody;
use crate::headers::{remove_untrusted_of_answer, remove_untrusted_trailers};
use crate::message::{Opening, remove_if};
use crate::replay::Replay;
use crate::seen::Seen;
use crate::tee::{Copied, Tee, tee};
use crate::transfer::{BodyEnd, Carrier, Keeper, Observer, ResponseEnd};
use pillion_base::deadline::Deadline;
use pillion_base::net::{Prefixed, Transport};
use pillion_model::Reason;

pub struct Body {
    kind: BodyKind,
    tail: Option<Tail>,
}

enum BodyKind {
    Empty,
    /// At most one piece, made by the sidecar itself.
    Full(Option<Bytes>),
    /// The body of an answer that came over HTTP/2 in one piece, until it is read.
    Whole(Option<h2::Whole>),
    Http2(h2::Incoming),
    /// The body of a request that came over HTTP/1.
    Request(Box<request::Incoming>),
    /// The body of an answer that came over HTTP/1.
    Answer(Box<h1_client::Incoming>),
    /// The upstream's half of a tunnel, until it is taken; as a body it is empty.
    Tunnel(Opening),
    /// A request body that may be sent again.
    Replay(Box<Replay<Body>>),
    /// A request body of which a part, or all, was read before.
    Begun(Box<Begun<Body>>),
    /// A request body of which a copy is sent elsewhere.
    Tee(Box<Tee<Body>>),
    /// The copy of a request body.
    Copied(Box<Copied>),
    /// A request body that waits until the upstream asks for it.
    Gated(Box<Gated<Body>>),
}

enum Tail {
    Request(Box<RequestTail>),
    Response(Box<ResponseTail>),
}

impl Body {
    pub const fn empty() -> Self {
        Self { kind: BodyKind::Empty, tail: None }
    }

    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self { kind: BodyKind::Full(Some(bytes.into())), tail: None }
    }

    pub const fn http2(incoming: h2::Incoming) -> Self {
        Self { kind: BodyKind::Http2(incoming), tail: None }
    }

    pub fn request(incoming: request::Incoming) -> Self {
        Self { kind: BodyKind::Request(Box::new(incoming)), tail: None }
    }

    pub fn tunnel(opening: Opening) -> Self {
        Self { kind: BodyKind::Tunnel(opening), tail: None }
    }

    /// The upstream's half of a tunnel, where the answer opens one.
    pub fn take_tunnel(&mut self) -> Option<Opening> {
        match std::mem::replace(&mut self.kind, BodyKind::Empty) {
            BodyKind::Tunnel(opening) => Some(opening),
            other => {
                self.kind = other;
                None
            }
        }
    }

    pub fn replay(replay: Replay<Self>) -> Self {
        Self { kind: BodyKind::Replay(Box::new(replay)), tail: None }
    }

    pub fn begun(begun: Begun<Self>) -> Self {
        Self { kind: BodyKind::Begun(Box::new(begun)), tail: None }
    }

    /// Splits this request body into itself and a copy, whose reader may be `bound` bytes behind.
    pub fn copied(self, bound: usize) -> (Self, Self) {
        if self.is_empty() {
            return (self, Self::empty());
        }
        let (first, copied) = tee(self, bound);
        let of = |kind| Self { kind, tail: None };
        (of(BodyKind::Tee(Box::new(first))), of(BodyKind::Copied(Box::new(copied))))
    }

    pub fn gated(gated: Gated<Self>) -> Self {
        Self { kind: BodyKind::Gated(Box::new(gated)), tail: None }
    }

    /// The body without its gate, if it has one.
    pub fn ungated(mut self) -> Self {
        match &mut self.kind {
            BodyKind::Gated(gated) => std::mem::replace(gated.inner_mut(), Self::empty()),
            _ => self,
        }
    }

    pub const fn is_empty(&self) -> bool {
        matches!(
            self.kind,
            BodyKind::Empty | BodyKind::Full(None) | BodyKind::Whole(None) | BodyKind::Tunnel(_)
        )
    }

    /// Removes these names from the trailers, because `Connection` names headers and trailers alike (RFC 9110, 7.6.1).
    pub fn remove_trailers(&mut self, names: Vec<HeaderName>) {
        if names.is_empty() {
            return; // nearly always
        }
        match &mut self.kind {
            BodyKind::Request(incoming) => incoming.remove_trailers(names),
            BodyKind::Answer(incoming) => incoming.remove_trailers(names),
            _ => {}
        }
    }

    /// Watches a request body on its way to the upstream. An empty body needs no watch.
    pub fn watch_request(&mut self, observer: Arc<dyn Observer>, max_body: Option<u64>) {
        if !self.is_empty() {
            observer.progress().announced();
            let left = max_body.unwrap_or(u64::MAX);
            self.tail = Some(Tail::Request(Box::new(RequestTail { observer, left })));
        }
    }

    /// Watches a request body, unless it is watched already, or is made of one that is.
    pub fn watch_request_once(&mut self, observer: &Arc<impl Observer + 'static>, max_body: Option<u64>) {
        if self.tail.is_none() && !matches!(self.kind, BodyKind::Replay(_) | BodyKind::Begun(_)) {
            self.watch_request(observer.clone(), max_body);
        }
    }

    /// The whole body, where it is in memory already.
    pub fn in_memory(&mut self) -> Option<Bytes> {
        match &mut self.kind {
            BodyKind::Empty | BodyKind::Full(None) | BodyKind::Whole(None) => Some(Bytes::new()),
            BodyKind::Full(Some(bytes)) => Some(bytes.clone()),
            BodyKind::Whole(whole) => {
                let bytes = whole.take()?.take();
                self.kind = BodyKind::Full(Some(bytes.clone()));
                Some(bytes)
            }
            _ => None,
        }
    }

    /// The tail of a response, which is made at the first call.
    pub fn response_tail(&mut self) -> &mut ResponseTail {
        if !matches!(self.tail, Some(Tail::Response(_))) {
            self.tail = Some(Tail::Response(Box::default()));
        }
        match &mut self.tail {
            Some(Tail::Response(tail)) => tail,
            _ => unreachable!("set just above"),
        }
    }

    /// The kinds of fields that the answer's head had when it came, if they were noted.
    pub fn seen(&self) -> Option<&Seen> {
        match &self.tail {
            Some(Tail::Response(tail)) => tail.seen.as_ref(),
            _ => None,
        }
    }

    /// Takes the tail off the response, to be held elsewhere.
    pub fn take_response_tail(&mut self) -> Box<ResponseTail> {
        match self.tail.take() {
            Some(Tail::Response(tail)) => tail,
            _ => Box::default(),
        }
    }

    fn poll_kind(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let is_answer = matches!(self.tail, Some(Tail::Response(_)));
        match &mut self.kind {
            BodyKind::Empty | BodyKind::Tunnel(_) => Poll::Ready(None),
            BodyKind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            BodyKind::Whole(whole) => Poll::Ready(whole.take().map(|whole| Ok(Frame::data(whole.take())))),
            BodyKind::Http2(incoming) => {
                let frame = incoming.poll_frame(cx).map_err(BodyError::Http2);
                frame.map_ok(|frame| only_trailers(frame, &[], is_answer))
            }
            BodyKind::Request(incoming) => http_body::Body::poll_frame(Pin::new(&mut **incoming), cx)
                .map_ok(|frame| only_trailers(frame, incoming.named(), is_answer))
                .map_err(BodyError::Http1),
            BodyKind::Answer(incoming) => http_body::Body::poll_frame(Pin::new(&mut **incoming), cx)
                .map_ok(|frame| only_trailers(frame, incoming.named(), is_answer))
                .map_err(BodyError::Http1),
            BodyKind::Replay(replay) => http_body::Body::poll_frame(Pin::new(&mut **replay), cx),
            BodyKind::Begun(begun) => http_body::Body::poll_frame(Pin::new(&mut **begun), cx),
            BodyKind::Tee(tee) => http_body::Body::poll_frame(Pin::new(&mut **tee), cx),
            BodyKind::Copied(copied) => http_body::Body::poll_frame(Pin::new(&mut **copied), cx),
            BodyKind::Gated(gated) => http_body::Body::poll_frame(Pin::new(&mut **gated), cx),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let polled = this.poll_kind(cx);
        match &mut this.tail {
            None => polled,
            Some(Tail::Request(tail)) => tail.observe(polled),
            Some(Tail::Response(tail)) => tail.observe(polled, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            BodyKind::Empty | BodyKind::Full(None) | BodyKind::Whole(None) | BodyKind::Tunnel(_) => true,
            BodyKind::Full(Some(_)) | BodyKind::Whole(Some(_)) => false,
            BodyKind::Http2(incoming) => incoming.is_end_stream(),
            BodyKind::Request(incoming) => incoming.is_end_stream(),
            BodyKind::Answer(incoming) => incoming.is_end_stream(),
            BodyKind::Replay(replay) => replay.is_end_stream(),
            BodyKind::Begun(begun) => begun.is_end_stream(),
            BodyKind::Tee(tee) => tee.is_end_stream(),
            BodyKind::Copied(copied) => copied.is_end_stream(),
            BodyKind::Gated(gated) => gated.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            BodyKind::Empty | BodyKind::Full(None) | BodyKind::Whole(None) | BodyKind::Tunnel(_) => {
                SizeHint::with_exact(0)
            }
            BodyKind::Whole(Some(whole)) => SizeHint::with_exact(whole.size()),
            BodyKind::Full(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            BodyKind::Http2(incoming) => incoming.size_hint(),
            BodyKind::Request(incoming) => incoming.size_hint(),
            BodyKind::Answer(incoming) => incoming.size_hint(),
            BodyKind::Replay(replay) => replay.size_hint(),
            BodyKind::Begun(begun) => begun.size_hint(),
            BodyKind::Tee(tee) => tee.size_hint(),
            BodyKind::Copied(copied) => copied.size_hint(),
            BodyKind::Gated(gated) => gated.size_hint(),
        }
    }
}

impl OutgoingBody for Body {
    fn ask(&self) -> bool {
        let BodyKind::Gated(gated) = &self.kind else { return false };
        gated.ask();
        true
    }

    fn bounds(&self) -> (Option<Duration>, Option<Instant>) {
        match &self.tail {
            Some(Tail::Response(tail)) => (tail.idle, tail.hard_stop),
            _ => (None, None),
        }
    }

    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::empty())
    }

    fn cut(&mut self, reason: Reason) {
        if let Some(Tail::Response(tail)) = &mut self.tail {
            tail.ending.reason = Some(reason);
            tail.ending.grpc_status = None; // of trailers that were refused
            tail.end(BodyEnd::ClientLeft); // the writer to the client has given up
        }
        self.kind = BodyKind::Empty;
    }

    fn move_upload(&mut self, cx: &mut Context<'_>) {
        if let BodyKind::Answer(incoming) = &mut self.kind {
            incoming.move_upload(cx);
        }
    }
}

/// The body of an answer that came over HTTP/2.
impl From<Answer> for Body {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Empty => Self::empty(),
            Answer::Whole(whole) => Self { kind: BodyKind::Whole(Some(whole)), tail: None },
            Answer::Incoming(incoming) => Self::http2(incoming),
            Answer::Tunnel(tunnel) => {
                let io = Prefixed::new(Transport::Inside(Box::new(tunnel)));
                Self::tunnel(Box::pin(ready(Some(io))))
            }
        }
    }
}

/// The body of an answer that came over HTTP/1.
impl From<h1_client::Answer> for Body {
    fn from(answer: h1_client::Answer) -> Self {
        match answer {
            h1_client::Answer::Empty => Self::empty(),
            h1_client::Answer::Full(data) => Self::full(data),
            h1_client::Answer::Incoming(incoming) => Self { kind: BodyKind::Answer(incoming), tail: None },
            h1_client::Answer::Tunnel(io) => Self::tunnel(Box::pin(ready(Some(*io)))),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if self.tail.is_none() {
            return;
        }
        let whole = http_body::Body::is_end_stream(self);
        match &mut self.tail {
            Some(Tail::Request(tail)) if whole => tail.observer.progress().completed(),
            Some(Tail::Response(tail)) if whole || tail.is_whole => tail.end(BodyEnd::Whole),
            Some(Tail::Response(tail)) => tail.end(BodyEnd::ClientLeft),
            _ => {}
        }
    }
}

/// Removes trailers that may not be headers from this peer, or that may not be trailers at all. Fewer names are removed
/// from an answer than from a request: the fields that name the caller to an application have no meaning in an answer.
fn only_trailers(mut frame: Frame<Bytes>, named: &[HeaderName], is_answer: bool) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        match is_answer {
            true => remove_untrusted_of_answer(trailers),
            false => remove_untrusted_trailers(trailers),
        }
        remove_if(trailers, |name| !may_be_trailer(name) || named.iter().any(|named| *named == *name));
    }
    frame
}

/// Reports the progress of the request's body to the observer, and bounds the body's size.
pub struct RequestTail {
    observer: Arc<dyn Observer>,
    /// How many bytes may still come.
    left: u64,
}

impl RequestTail {
    fn observe(
        &mut self,
        polled: Poll<Option<Result<Frame<Bytes>, BodyError>>>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let progress = self.observer.progress();
        match &polled {
            Poll::Pending => {
                progress.waits_for_client();
                self.observer.interim().ask();
            }
            Poll::Ready(None) => progress.completed(),
            Poll::Ready(Some(Ok(frame))) => {
                let size = frame.data_ref().map_or(0, Bytes::len) as u64;
                progress.moved(size);
                if size > self.left {
                    self.observer.cut(Reason::BodyTooLarge);
                    return Poll::Ready(Some(Err(BodyError::Cut(Reason::BodyTooLarge))));
                }
                self.left -= size;
                if frame.is_trailers() {
                    progress.completed(); // nothing follows trailers, so the body is not polled again
                }
            }
            Poll::Ready(Some(Err(error))) if error.is_malformed() => self.observer.cut(Reason::BadRequest),
            Poll::Ready(Some(Err(error))) if error.is_our_shortage() => self.observer.cut(Reason::Overloaded),
            Poll::Ready(Some(Err(_))) => progress.broke(),
        }
        polled
    }
}

/// What is held or done until the last byte of a response.
#[derive(Default)]
pub struct ResponseTail {
    /// The kinds of fields that its head had when it came, for the layer that rewrites the head.
    pub seen: Option<Seen>,
    /// Gets the report of how the response ended.
    pub observer: Option<Arc<dyn Observer>>,
    /// The connection. It goes back to its pool if the response is complete, and is closed otherwise.
    pub carrier: Option<Box<dyn Carrier>>,
    /// The longest pause between two pieces.
    pub idle: Option<Duration>,
    /// The time at which the exchange is cut (`max_duration`).
    pub hard_stop: Option<Instant>,
    /// Gets a copy of the body.
    pub keeper: Option<Box<dyn Keeper>>,
    deadline: Option<Deadline>,
    /// Bytes have come since the deadline was last moved.
    moved: bool,
    /// Trailers have come, and nothing follows them. Their writer may still refuse them.
    is_whole: bool,
    ending: ResponseEnd,
}

impl ResponseTail {
    fn observe(
        &mut self,
        polled: Poll<Option<Result<Frame<Bytes>, BodyError>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match polled {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => return self.break_off(error.reason(), error),
            Poll::Ready(None) => {
                self.end(BodyEnd::Whole);
                return Poll::Ready(None);
            }
            Poll::Pending => return self.pause(cx),
        };
        self.moved = true;
        if let Some(data) = frame.data_ref() {
            self.ending.bytes += data.len() as u64;
            if let Some(keeper) = &mut self.keeper {
                keeper.data(data);
            }
            if self.hard_stop.is_some_and(|stop| Instant::now() >= stop) {
                return self.cut(Reason::MaxDuration);
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.keep_no_more(BodyEnd::Trailers);
            self.ending.grpc_status = crate::headers::grpc_status_of_trailers(trailers);
            self.is_whole = true; // the body is not polled again; the exchange ends when its writer drops it
        }
        Poll::Ready(Some(Ok(frame)))
    }

    /// Waits for the next piece, at most until the deadline.
    fn pause(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(observer) = self.observer.as_ref() else { return Poll::Pending };
        if self.deadline.is_none() || self.moved {
            self.moved = false;
            let idle_until = self.idle.map(|idle| Instant::now() + idle);
            let Some(at) = idle_until.into_iter().chain(self.hard_stop).min() else { return Poll::Pending };
            match &mut self.deadline {
                Some(deadline) => deadline.move_to(at),
                None => self.deadline = Some(observer.timers().deadline(at)),
            }
        }
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        loop {
            task::ready!(Pin::new(&mut *deadline).poll(cx));
            let now = Instant::now();
            if self.hard_stop.is_some_and(|stop| now >= stop) {
                return self.cut(Reason::MaxDuration);
            }
            // A stream on which the client still sends bytes is not idle.
            let heard = observer.progress().view().last.map(|last| observer.started() + last);
            match heard.zip(self.idle).map(|(heard, idle)| heard + idle).filter(|at| *at > now) {
                Some(at) => deadline.move_to(self.hard_stop.map_or(at, |stop| at.min(stop))),
                None => return self.cut(Reason::StreamIdleTimeout),
            }
        }
    }

    fn cut(&mut self, reason: Reason) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.ending.reason = Some(reason);
        self.break_off(reason, BodyError::Cut(reason))
    }

    /// Ends the exchange with an error. The writer of the answer still sends the bytes that came before the error.
    fn break_off(
        &mut self,
        reason: Reason,
        error: BodyError,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.ending.reason.get_or_insert(reason);
        self.end(BodyEnd::Cut);
        Poll::Ready(Some(Err(error)))
    }

    /// Ends an exchange that became a tunnel. The tunnel's bytes were already counted.
    pub fn tunnel_ended(&mut self, received: u64, sent: u64, reason: Option<Reason>) {
        self.ending = ResponseEnd { bytes: sent, reason, ..self.ending };
        self.carrier = None; // the connection cannot be used again
        if let Some(observer) = &self.observer {
            observer.was_tunnel(received);
        }
        self.end(if reason.is_none() { BodyEnd::Whole } else { BodyEnd::Cut });
    }

    fn keep_no_more(&mut self, how: BodyEnd) {
        if let Some(keeper) = self.keeper.take() {
            keeper.end(how);
        }
    }

    fn end(&mut self, how: BodyEnd) {
        self.keep_no_more(how);
        let whole = how == BodyEnd::Whole;
        if let Some(carrier) = self.carrier.take().filter(|_| whole) {
            carrier.give_back();
        }
        if let Some(observer) = self.observer.take() {
            if !whole {
                self.ending.reason.get_or_insert(Reason::ClientGone);
            }
            observer.finish(self.ending);
        }
    }
}

/// A tail that is dropped without an end means that the client went away.
impl Drop for ResponseTail {
    fn drop(&mut self) {
        self.end(BodyEnd::ClientLeft);
    }
}
