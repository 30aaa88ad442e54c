//! One upstream HTTP/2 connection.
//!
//! The connection's task moves bytes. The task that sends a request also sends its body and receives interim answers,
//! until the answer's head has come. After that, a task of its own sends the rest of the body.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use h2::client::{Builder, ResponseFuture, SendRequest};
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, StatusCode};
use parking_lot::Mutex;
use pillion_http1::Known;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::guard::GuardedIo;
use super::memory::Piece;
use super::receive::{Arrived, Upload, Whole};
use super::send::{Outgoing, OutgoingBody};
use super::tunnel::Tunnel;
use super::{DATA_FRAME_BUDGET, Incoming, Room, SEND_BUFFER, STREAM_WINDOW};
use crate::framing::content_length;
use crate::head::HeadLimits;
use crate::stall::{AFTER_ANSWER, STALL_TIMEOUT};
use crate::transfer::Observer;
use pillion_base::ground::Ground;
use pillion_base::net::Io;

/// A value that no peer sets as its limit of streams: it means that the peer's SETTINGS have not come.
const UNKNOWN: usize = usize::MAX - 1;
/// 100 streams: the assumed limit of a peer that sends no SETTINGS within [`SETTINGS_PATIENCE`].
const STREAMS_AT_FIRST: usize = 100;
/// 250 ms: how long requests wait for the peer's SETTINGS. These are the first frame of a peer (RFC 9113, 3.4), and
/// come a round trip after the connect. A request that is sent before them may exceed a limit that is not known yet.
const SETTINGS_PATIENCE: Duration = Duration::from_millis(250);
/// 32 interim answers to one request: more are of no use, and a flood of them has to end.
const INTERIM_ANSWERS: u32 = 32;

/// Sends requests. The connection ends when this is dropped and its last request has ended.
pub struct Sender {
    /// It is cloned for each request, and never sends itself; see [`Self::begin`].
    send: Mutex<SendRequest<Piece>>,
    room: Arc<Room>,
    max_streams: Arc<AtomicUsize>,
    /// See [`teach`].
    has_taught: AtomicBool,
    /// Wakes the connection's task when this is dropped, which `h2` does not do.
    _alive: oneshot::Sender<()>,
}

/// Moves the connection's bytes; runs until it ends.
pub struct Driver {
    /// `None` only while the driver is dropped.
    conn: Option<h2::client::Connection<GuardedIo, Piece>>,
    io: GuardedIo,
    room: Arc<Room>,
    max_streams: Arc<AtomicUsize>,
    /// `None` after the sender was dropped.
    alive: Option<oneshot::Receiver<()>>,
}

/// Why a request got no answer.
#[derive(Debug)]
pub struct FailedRequest {
    pub error: ClientFailure,
    /// No byte of the request was written, and its body was not taken.
    pub is_unsent: bool,
}

/// The body of an answer.
pub enum Answer {
    Empty,
    /// The whole body came with the head.
    Whole(Whole),
    Incoming(Incoming),
    /// The answer opened the tunnel that the request asked for.
    Tunnel(Tunnel),
}

#[derive(Debug, thiserror::Error)]
pub enum ClientFailure {
    #[error(transparent)]
    Http2(#[from] h2::Error),
    #[error("it closed the connection")]
    Left,
    #[error("the request's body broke off")]
    Body,
    #[error("it sent more than {INTERIM_ANSWERS} interim answers")]
    TooManyInterim,
    #[error("it sent content with a status that has none (RFC 9110, 15.3.5 and 15.4.5)")]
    Content,
    #[error("it answered 101, which HTTP/2 does not have (RFC 9113, 8.6)")]
    Switched,
}

impl<E: Into<ClientFailure>> From<E> for FailedRequest {
    fn from(error: E) -> Self {
        Self { error: error.into(), is_unsent: false }
    }
}

/// Opens a connection, and waits for the peer's SETTINGS.
///
/// # Errors
/// What the peer did instead of speaking HTTP/2.
pub async fn open(io: Io, limits: HeadLimits, ground: &Ground) -> Result<(Sender, Driver), ClientFailure> {
    let io = GuardedIo::upstream(io, &ground.timers);
    let (send, conn) = Builder::new()
        .initial_max_send_streams(UNKNOWN)
        .initial_window_size(STREAM_WINDOW)
        .max_header_list_size(limits.list_bytes)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .enable_push(false)
        .handshake(io.clone())
        .await?;
    let (room, max_streams) = (Room::new(ground), Arc::new(AtomicUsize::new(STREAMS_AT_FIRST)));
    let (still_alive, alive) = oneshot::channel();
    let mut driver = Driver {
        conn: Some(conn),
        io,
        room: room.clone(),
        max_streams: max_streams.clone(),
        alive: Some(alive),
    };
    if let Ok(Err(error)) = tokio::time::timeout(SETTINGS_PATIENCE, driver.settings()).await {
        return Err(error);
    }
    let has_taught = AtomicBool::new(false);
    Ok((Sender { send: Mutex::new(send), room, max_streams, has_taught, _alive: still_alive }, driver))
}

impl Driver {
    /// Ready when the peer's SETTINGS are there.
    async fn settings(&mut self) -> Result<(), ClientFailure> {
        poll_fn(|cx| match self.poll_conn(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Err(ClientFailure::Left)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            Poll::Pending if self.knows_streams() => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    fn knows_streams(&self) -> bool {
        self.conn.as_ref().is_some_and(|conn| conn.max_concurrent_send_streams() != UNKNOWN)
    }

    fn poll_conn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let Some(conn) = &mut self.conn else { return Poll::Ready(Ok(())) };
        let polled = self.room.drive(&self.io, cx, |cx| Pin::new(&mut *conn).poll(cx));
        match conn.max_concurrent_send_streams() {
            UNKNOWN => {}
            known => self.max_streams.store(known, Relaxed),
        }
        if let (Poll::Pending, Some(window)) = (&polled, self.room.account.new_window()) {
            conn.set_target_window_size(window);
        }
        polled
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.alive.as_mut().is_some_and(|alive| pin!(alive).poll(cx).is_ready()) {
            this.alive = None;
        }
        this.poll_conn(cx).map(drop) // the requests on the connection get its error
    }
}

/// Tells the readers of open streams that no more bytes come.
impl Drop for Driver {
    fn drop(&mut self) {
        self.conn = None;
        self.room.arrivals.end();
    }
}

impl Sender {
    /// How many streams the peer allows at once.
    pub fn max_streams(&self) -> u32 {
        u32::try_from(self.max_streams.load(Relaxed)).unwrap_or(u32::MAX)
    }

    /// Whether answers that are not read take up most of the connection's window.
    pub fn is_clogged(&self) -> bool {
        self.room.account.is_clogged()
    }

    /// Whether the connection is broken or has ended, or the peer has sent a GOAWAY.
    pub fn is_closed(&self) -> bool {
        let ready = self.send.lock().poll_ready(&mut Context::from_waker(Waker::noop()));
        matches!(ready, Poll::Ready(Err(_)))
    }

    /// Sends a request and waits for the head of its answer. The body is taken if a byte of the request is sent. If the
    /// future is dropped, the stream is reset.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn send<B: OutgoingBody>(
        &self,
        head: Request<()>,
        body: &mut B,
        observer: &dyn Observer,
    ) -> impl Future<Output = Result<http::Response<Answer>, FailedRequest>> + Send {
        let begun = self.begin(head, body); // not in the future, which would keep room for the head
        async move {
            let mut asking = begun?;
            poll_fn(|cx| asking.poll(cx, &self.room, observer)).await
        }
    }

    #[inline] // the head is large, and would be moved twice more
    fn begin<B: OutgoingBody>(
        &self,
        mut head: Request<()>,
        body: &mut B,
    ) -> Result<Asking<B>, FailedRequest> {
        // Each request needs a clone: a `SendRequest` that has sent remembers its request until a stream is free, and a
        // poll of it by another request would replace the waker.
        let mut send = self.send.lock().clone();
        if let Poll::Ready(Err(error)) = send.poll_ready(&mut Context::from_waker(Waker::noop())) {
            return Err(FailedRequest { error: error.into(), is_unsent: true });
        }
        announce(&mut head, body);
        if !self.has_taught.swap(true, Relaxed) {
            teach(&mut head);
        }
        let is_connect = *head.method() == Method::CONNECT;
        let is_empty = body.is_end_stream();
        let (answer, stream) = send.send_request(head, is_empty && !is_connect)?;
        drop(send);
        let outgoing = match (is_connect, is_empty, body.take()) {
            (true, ..) => Remainder::Tunnel(stream),
            (false, true, _) => Remainder::Nothing,
            (false, false, body) => Remainder::Body(Box::new(Outgoing::request(stream, body, &self.room))),
        };
        Ok(Asking { answer, outgoing, interim: 0, bare: None })
    }
}

/// Lets `h2` put the first request ID of a connection into the table of HPACK. Later IDs stay out of the table, and name
/// their field by its place there, instead of by twelve letters: 200 instructions fewer here, and 400 at the peer.
fn teach(head: &mut Request<()>) {
    if let Some(id) = head.headers_mut().get_mut(Known::XRequestId.header_name()) {
        id.set_sensitive(false);
    }
}

/// Adds `content-length`, if the length is known and is meaningful (RFC 9110, 8.6).
fn announce(head: &mut Request<()>, body: &impl OutgoingBody) {
    let Some(length) = body.size_hint().exact() else { return };
    let has_meaning =
        !matches!(*head.method(), Method::GET | Method::HEAD | Method::DELETE | Method::CONNECT);
    if (length > 0 || has_meaning) && !head.headers().contains_key(CONTENT_LENGTH) {
        head.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

fn has_no_content(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// A request that has no answer yet.
struct Asking<B> {
    answer: ResponseFuture,
    outgoing: Remainder<B>,
    interim: u32,
    /// An answer whose status allows no content, until its end shows that it has none.
    bare: Option<Box<http::Response<h2::RecvStream>>>,
}

/// The part of a request that is still to be sent.
enum Remainder<B> {
    Nothing,
    Body(Box<Outgoing<B>>),
    Tunnel(h2::SendStream<Piece>),
}

impl<B: OutgoingBody> Asking<B> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        room: &Arc<Room>,
        observer: &dyn Observer,
    ) -> Poll<Result<http::Response<Answer>, FailedRequest>> {
        self.poll_upload(cx)?;
        if self.bare.is_none() {
            while let Some(interim) = ready!(self.answer.poll_informational(cx)) {
                self.receive_interim(interim?, observer)?;
                self.poll_upload(cx)?; // an interim answer may have asked for the body
            }
            let answer = ready!(Pin::new(&mut self.answer).poll(cx))?;
            if !has_no_content(answer.status()) || answer.body().is_end_stream() {
                return Poll::Ready(Ok(self.answered(answer, room)));
            }
            observer.answer_began();
            self.bare = Some(Box::new(answer));
        }
        ready!(self.poll_bare(cx))?;
        let answer = self.bare.take().ok_or(ClientFailure::Left)?;
        Poll::Ready(Ok(self.answered(*answer, room)))
    }

    /// Ready when an answer that may have no content has ended without any.
    fn poll_bare(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), FailedRequest>> {
        let Some(answer) = &mut self.bare else { return Poll::Ready(Ok(())) };
        while let Some(data) = ready!(answer.body_mut().poll_data(cx)) {
            if !data?.is_empty() {
                return Poll::Ready(Err(ClientFailure::Content.into()));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), FailedRequest> {
        use super::send::Unsent;
        let Remainder::Body(outgoing) = &mut self.outgoing else { return Ok(()) };
        let Poll::Ready(ended) = Pin::new(&mut **outgoing).poll(cx) else { return Ok(()) };
        self.outgoing = Remainder::Nothing;
        match ended {
            // The upstream wants no more of the body: its answer says why.
            Ok(()) | Err(Unsent::Refused) => Ok(()),
            Err(Unsent::Broken | Unsent::Stalled) => Err(ClientFailure::Body.into()),
        }
    }

    fn receive_interim(
        &mut self,
        interim: http::Response<()>,
        observer: &dyn Observer,
    ) -> Result<(), FailedRequest> {
        self.interim += 1;
        observer.answer_began();
        if self.interim > INTERIM_ANSWERS {
            return Err(ClientFailure::TooManyInterim.into());
        }
        let is_for_us = match (interim.status(), &mut self.outgoing) {
            (StatusCode::SWITCHING_PROTOCOLS, _) => return Err(ClientFailure::Switched.into()),
            (StatusCode::CONTINUE, Remainder::Body(outgoing)) => outgoing.body_mut().ask(),
            _ => false,
        };
        if !is_for_us {
            observer.interim().tell(interim);
        }
        Ok(())
    }

    fn answered(
        &mut self,
        answer: http::Response<h2::RecvStream>,
        room: &Arc<Room>,
    ) -> http::Response<Answer> {
        let outgoing = std::mem::replace(&mut self.outgoing, Remainder::Nothing);
        let (status, length) = (answer.status(), content_length(answer.headers()));
        answer.map(|stream| match outgoing {
            Remainder::Tunnel(outgoing) if status.is_success() => {
                Answer::Tunnel(Tunnel::new(stream, outgoing, room))
            }
            Remainder::Body(outgoing) => {
                let (is_answered, answered) = oneshot::channel();
                let task = tokio::spawn(send_rest(outgoing, answered)).abort_handle();
                let upload = Upload { task, is_answered };
                Answer::Incoming(Incoming::new(stream, length, room).answering(upload))
            }
            _ if stream.is_end_stream() => Answer::Empty,
            _ => match Incoming::arrived(stream, length, room) {
                Arrived::Whole(whole) => Answer::Whole(whole),
                Arrived::Begun(incoming) => Answer::Incoming(incoming),
            },
        })
    }
}

/// Sends the rest of a request whose answer has begun. The answer reports errors. `answered`: fires when the answer is
/// complete.
async fn send_rest<B: OutgoingBody>(outgoing: Box<Outgoing<B>>, answered: oneshot::Receiver<()>) {
    let mut sending = pin!(outgoing.within(STALL_TIMEOUT));
    tokio::select! { // nothing is lost: the rest is polled again below
        biased;
        _ended = &mut sending => return,
        _dropped = answered => {}
    }
    drop(timeout(AFTER_ANSWER, sending).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_request_id_of_a_connection_goes_into_the_table_of_hpack() {
        let mut head = Request::new(());
        teach(&mut head);
        assert!(head.headers().is_empty());
        for name in ["x-request-id", "x-secret"] {
            let mut value = HeaderValue::from_static("1");
            value.set_sensitive(true);
            head.headers_mut().insert(name, value);
        }
        teach(&mut head);
        let kept_out = head.headers().iter().filter(|(_, value)| value.is_sensitive());
        assert_eq!(kept_out.map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["x-secret"]);
    }
}
