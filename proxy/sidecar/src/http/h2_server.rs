//! Serves one downstream HTTP/2 connection.
//!
//! The connection's task accepts streams and moves bytes. Each stream has a task of its own, which carries one request
//! through the stack and its answer back. When a client resets a stream, the request in the stack is dropped.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, StatusCode, Version};
use http_body::Body as _;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use crate::connection::Connection;
use crate::http::call::AnsweringService;
use crate::http::server::deserted;
use crate::http::{Body, Call, Exchange, Response, answer, headers, refusal, tunnel};
use crate::worker::Worker;
use pillion_base::boxed::pinned;
use pillion_base::error::Error;
use pillion_base::exchanges::ExchangePlace;
use pillion_base::net::{Io, Prefixed, Transport};
use pillion_base::unfinished::Share;
use pillion_http::agreed::{Agreed, Asked, CASE};
use pillion_http::framing::content_length;
use pillion_http::h2::guard::{Downstream, GuardedIo};
use pillion_http::h2::memory::Piece;
use pillion_http::h2::send::OutgoingBody as _;
use pillion_http::h2::send::{Outgoing, Unsent};
use pillion_http::h2::tunnel::Tunnel;
use pillion_http::h2::{DATA_FRAME_BUDGET, Incoming, Room, SEND_BUFFER, STREAM_WINDOW};
use pillion_http::head::{HeadLimits, field_bytes, list_bytes};
use pillion_http::message::RequestHead;
use pillion_http::seen::Seen;
use pillion_http::transfer::{INTERIM_WAITING, Observer as _, ResponseEnd, interim_bytes, only_continues};
use pillion_http1::{Known, Value};
use pillion_model::Direction;
use pillion_telemetry::{ConnectionOutcome, Held, Protocol, Seldom, Shed};

/// 1,024 streams at once on one connection: some applications keep a thousand gRPC streams open on one connection, and
/// would wait for ever for a further one. Envoy allows as many.
const STREAMS: u32 = 1024;
/// 4 MiB for the heads of all open requests of one connection: 1,024 heads of 4 KiB. Beyond it a stream is refused, and
/// its client may send the request again at once.
const HEADS: usize = 4 * 1024 * 1024;
/// 2 s: how long the sidecar waits for a client to read the last frames and to close the connection.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// A client is judged after each 100 streams. If it has reset more than half of them, it gets a GOAWAY; the second time
/// the connection is closed at once.
const JUDGED_STREAMS: u32 = 100;

/// What the streams of one client share.
struct Http2Client {
    connection: Arc<Connection>,
    worker: Arc<Worker>,
    room: Arc<Room>,
    /// What is agreed on with another sidecar.
    agreed: Agreed,
    /// Streams that the client has reset since it was last judged.
    resets: AtomicU32,
    /// Bytes of heads of open streams.
    heads: AtomicUsize,
}

impl Http2Client {
    /// Learns how the names of a request were spelled, if the client is another sidecar.
    fn learn_spelling(&self, head: &mut RequestHead, seen: &Seen) -> Asked {
        if !self.connection.is_from_sidecar {
            return Asked::Nothing;
        }
        let told = if seen.has(Seen::OURS) { head.headers.named(CASE.as_str()).next() } else { None };
        let via = if told.is_some() { head.headers.get(Known::XPillionVia) } else { None };
        let (spelling, asked) = self.agreed.hear_request(told, via);
        head.spelling = spelling;
        asked
    }

    /// What another sidecar has told once, where a request says nothing else. Returns its `x-pillion-via`.
    fn imply(&self, head: &mut RequestHead, seen: &mut Seen) -> Option<Value> {
        let via = self.agreed.kept_via()?;
        if !seen.has(Seen::FORWARDED_PROTO) {
            head.headers.set(Known::XForwardedProto, &HeaderValue::from_static("http"));
            seen.add(Seen::FORWARDED_PROTO);
        }
        Some(via.clone()).filter(|via| !seen.has(Seen::VIA) && !via.as_bytes().is_empty())
    }

    /// Counts and logs a refused stream, like any refused request. The client may send it again.
    fn note_refused(&self, request: Request<RecvStream>, why: &Error) {
        let (head, _unread) = request.into_parts();
        let head = RequestHead::from(head);
        let seen = Seen::of(&head.headers);
        let request_id = headers::request_id(&head.headers, &seen, &mut self.worker.ground.rng.lock());
        let (worker, connection) = (self.worker.clone(), self.connection.clone());
        let exchange = Arc::new(Exchange::in_place(worker, connection, request_id, Ok(None)));
        let mut call = Call::new(head, Body::empty(), seen, exchange.clone());
        call.note_request();
        exchange.failed(why);
        // It is recorded like an answer, although the client gets a reset that says the same.
        match call.common.is_grpc {
            true => exchange.headers_sent(StatusCode::OK, Some(why.reason.grpc_status())),
            false => exchange.headers_sent(StatusCode::SERVICE_UNAVAILABLE, None),
        }
        exchange.finish(ResponseEnd::default());
    }
}

/// Serves `io` until its client leaves, and holds `_open` meanwhile. In the drain it serves until the requests under
/// way have ended; inbound also until the connection has been silent for a second.
pub async fn serve<S: AnsweringService>(
    io: Io,
    connection: Arc<Connection>,
    worker: Arc<Worker>,
    stack: S,
    _open: Held,
) {
    let limits = worker.limits();
    let of_heads = connection.head_limits(&limits);
    let guarded = GuardedIo::downstream(
        io,
        Box::new(GuardedClient { connection: connection.clone(), worker: worker.clone() }),
        &worker.ground.timers,
    );
    let handshake = builder(of_heads, streams(&connection, &worker)).handshake::<_, Piece>(guarded.clone());
    let until = connection.began.unwrap_or_else(Instant::now) + limits.header_timeout;
    let begun = timeout_at(until, handshake).await;
    let outcome = match &begun {
        Ok(Ok(_)) => ConnectionOutcome::Ok,
        Ok(Err(_)) => ConnectionOutcome::Failed,
        Err(_elapsed) => ConnectionOutcome::Timeout,
    };
    connection.count(Protocol::Http2, outcome, &worker.ground.metrics);
    let Ok(Ok(conn)) = begun else {
        let (from, outcome) = (connection.downstream, outcome.as_str());
        return tracing::debug!(%from, outcome, "connection closed: its client sent no valid HTTP/2 preface in time");
    };
    let client = Arc::new(Http2Client {
        room: Room::new(&worker.ground),
        connection: connection.clone(),
        worker: worker.clone(),
        agreed: Agreed::default(),
        resets: AtomicU32::new(0),
        heads: AtomicUsize::new(0),
    });
    let mut driver = Driver {
        conn: Some(conn),
        io: guarded,
        client,
        stack,
        judged: 0,
        was_warned: false,
        was_dismissed: false,
    };
    tokio::select! { // only the waits for the drain, for short memory and for idleness can be dropped here
        biased;
        () = poll_fn(|cx| driver.poll(cx)) => return,
        () = connection.place.work.goaway_due() => driver.send_goaway(),
        () = called(&connection, &worker) => driver.send_goaway(),
        () = idle(&connection) => driver.send_goaway(),
    }
    tokio::select! { // only the waits for silence can be dropped here
        biased;
        () = poll_fn(|cx| driver.poll(cx)) => return,
        () = deserted(&connection) => driver.end(),
        () = idle(&connection) => driver.end(),
    }
    drop(timeout(LAST_WORDS, poll_fn(|cx| driver.poll(cx))).await);
}

/// Returns when the connection is to be closed because memory runs short. One with a request under way is left alone.
async fn called(connection: &Connection, worker: &Worker) {
    loop {
        let seat = worker.ground.ceiling.resting.sit(Instant::now(), Waker::noop().clone());
        poll_fn(|cx| seat.poll_called(cx)).await;
        if connection.in_flight.load(Relaxed) == 0 {
            return worker.ground.metrics.memory_shed(Shed::Idle).inc();
        }
    }
}

/// Returns when the client was idle for too long. Nothing wakes it: the driver, which is polled just before it, notes that.
async fn idle(connection: &Connection) {
    let is_idle = &connection.is_idle;
    poll_fn(|_cx| if is_idle.load(Relaxed) { Poll::Ready(()) } else { Poll::Pending }).await;
    is_idle.store(false, Relaxed);
}

/// The limit of open streams that is announced to a client. Where memory is short, it is as many as the client's
/// identity may have on all connections: a client that knows the limit waits, instead of being refused.
fn streams(connection: &Connection, worker: &Worker) -> u32 {
    match connection.direction {
        Direction::Inbound => {
            u32::try_from(worker.ground.exchanges.most_of_one()).unwrap_or(STREAMS).min(STREAMS)
        }
        Direction::Outbound => STREAMS,
    }
}

fn builder(limits: HeadLimits, streams: u32) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .max_concurrent_streams(streams)
        .max_header_list_size(limits.readable_list_bytes())
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .enable_connect_protocol(); // RFC 8441
    builder
}

struct Driver<S> {
    /// `None` only while the driver is dropped.
    conn: Option<h2::server::Connection<GuardedIo, Piece>>,
    io: GuardedIo,
    client: Arc<Http2Client>,
    stack: S,
    /// Streams since the client was last judged.
    judged: u32,
    was_warned: bool,
    was_dismissed: bool,
}

impl<S: AnsweringService> Driver<S> {
    /// Ready when the connection has ended. Each request has recorded how it ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.client.room.account.is_over() {
            self.log_unread();
            return Poll::Ready(());
        }
        let (client, io) = (self.client.clone(), self.io.clone());
        let polled = client.room.drive(&io, cx, |cx| self.poll_streams(cx));
        if let (Poll::Pending, Some(conn), Some(window)) =
            (polled, &mut self.conn, client.room.account.new_window())
        {
            conn.set_target_window_size(window);
        }
        polled
    }

    fn poll_streams(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(conn) = &mut self.conn else { return Poll::Ready(()) };
            match conn.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => self.accept(request, respond),
                Poll::Ready(Some(Err(error))) => {
                    self.log_cut(&error);
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending if self.is_just_dismissed() => self.send_goaway(),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn is_just_dismissed(&mut self) -> bool {
        self.client.connection.is_dismissed.load(Relaxed) && !std::mem::replace(&mut self.was_dismissed, true)
    }

    fn accept(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Piece>) {
        match Head::hold(&self.client, list_bytes(&request)) {
            Ok(head) => {
                self.judge();
                // Boxed: the runtime would move it about six times.
                tokio::spawn(pinned(|| carry(request, respond, head, self.stack.clone())));
            }
            Err(why) => {
                self.client.note_refused(request, &why);
                respond.send_reset(Reason::REFUSED_STREAM);
            }
        }
    }

    /// Judges a client after each [`JUDGED_STREAMS`]: one that resets most of its requests causes useless work in the
    /// application.
    fn judge(&mut self) {
        self.judged += 1;
        if self.judged < JUDGED_STREAMS {
            return;
        }
        self.judged = 0;
        if self.client.resets.swap(0, Relaxed) > JUDGED_STREAMS / 2
            && let Some(conn) = &mut self.conn
        {
            match std::mem::replace(&mut self.was_warned, true) {
                false => conn.graceful_shutdown(),
                true => conn.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM),
            }
        }
    }

    /// Logs, at most now and then, that `h2` has cut a client that sends more than it may.
    fn log_cut(&self, error: &h2::Error) {
        static LINE: Seldom = Seldom::new();
        if error.is_library()
            && error.reason() == Some(Reason::ENHANCE_YOUR_CALM)
            && let Some(left_out) = LINE.due(Instant::now().into_std())
        {
            let from = self.client.connection.downstream;
            tracing::warn!(%from, left_out, "HTTP/2 connection cut: its client resets or sends more than it may: {error}");
        }
    }

    /// Logs, at most now and then, that a connection ends because its client leaves too many answers unread.
    fn log_unread(&self) {
        static LINE: Seldom = Seldom::new();
        if let Some(left_out) = LINE.due(Instant::now().into_std()) {
            let from = self.client.connection.downstream;
            tracing::warn!(%from, left_out, "HTTP/2 connection closed: the heads of answers that its client does not read take too much memory");
        }
    }

    /// Ends the connection with a GOAWAY that names the last accepted stream, so that the client may send later
    /// requests elsewhere.
    fn end(&mut self) {
        if let Some(conn) = &mut self.conn {
            conn.abrupt_shutdown(Reason::NO_ERROR);
        }
    }

    fn send_goaway(&mut self) {
        if let Some(conn) = &mut self.conn {
            conn.graceful_shutdown();
        }
    }
}

/// Tells the readers of open streams that no more bytes come.
impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        self.conn = None;
        self.client.room.arrivals.end();
    }
}

/// A head that counts against its connection while its stream is open, and the place of its exchange.
struct Head {
    client: Arc<Http2Client>,
    bytes: usize,
    place: Option<ExchangePlace>,
}

impl Head {
    /// Counts a head. `Err`: why there is no room for it.
    fn hold(client: &Arc<Http2Client>, bytes: usize) -> Result<Self, Error> {
        if client.heads.load(Relaxed) + bytes > HEADS {
            let detail = format!("the heads of the connection's open streams are over {HEADS} bytes");
            return Err(Error::new(pillion_model::Reason::Overloaded, detail));
        }
        let place = client.connection.place_for_exchange(bytes, &client.worker.ground)?;
        client.heads.fetch_add(bytes, Relaxed);
        Ok(Self { client: client.clone(), bytes, place })
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        self.client.heads.fetch_sub(self.bytes, Relaxed);
    }
}

/// A tunnel that a request asks for, and the sender that passes the stream on when the tunnel is open.
type AskedTunnel = (tunnel::RequestedTunnel, oneshot::Sender<Io>);

/// Carries one stream, from its request to the last byte of its answer.
async fn carry<S: AnsweringService>(
    request: Request<RecvStream>,
    mut respond: SendResponse<Piece>,
    mut head: Head,
    stack: S,
) {
    let place = head.place.take();
    let client = &head.client;
    let (request_head, body, inside) = opened(request, client);
    let Begun { mut call, exchange, tunnel, asked } = begun(request_head, body, client, place);
    if poll_fn(|cx| Poll::Ready(respond.poll_reset(cx).is_ready())).await {
        client.resets.fetch_add(1, Relaxed);
        call.note_request();
        exchange.client_gone();
        return exchange.finish(ResponseEnd::default()); // the request was not given to the stack
    }
    let limits = client.connection.head_limits(&client.worker.limits());
    let response = if let Err(error) = limits.check_http2(call.head.headers.len(), head.bytes) {
        Some(refused(&error, &mut call, &exchange))
    } else {
        answered(stack, call, &exchange, &mut respond).await
    };
    let Some(response) = response else {
        client.resets.fetch_add(1, Relaxed);
        return;
    };
    match tunnel {
        Some((asked, opens)) if response.opens_tunnel() => {
            let response = tunnel::open(asked, response, &exchange);
            open(response, respond, inside, opens, &client.room);
        }
        _ => {
            if let Err(Unsent::Refused) = send(response, respond, asked, client).await {
                client.resets.fetch_add(1, Relaxed);
            }
        }
    }
}

/// A request for the stack.
struct Begun {
    call: Box<Call>,
    exchange: Arc<Exchange>,
    tunnel: Option<AskedTunnel>,
    /// What another sidecar has told of the spelling of its names.
    asked: Asked,
}

/// Makes the call for the stack, with its exchange and the tunnel that the request asks for.
fn begun(mut head: RequestHead, body: Body, client: &Http2Client, place: Option<ExchangePlace>) -> Begun {
    let mut seen = Seen::of(&head.headers);
    let asked = client.learn_spelling(&mut head, &seen);
    let via = client.imply(&mut head, &mut seen);
    let request_id = headers::request_id(&head.headers, &seen, &mut client.worker.ground.rng.lock());
    let (worker, connection) = (client.worker.clone(), client.connection.clone());
    let exchange = Arc::new(Exchange::in_place(worker, connection, request_id, Ok(place)));
    let tunnel = tunnel::may_be_asked(&head, &seen).then(|| tunnel::asked_http2(&mut head)).flatten();
    if tunnel.is_some() {
        seen = Seen::of(&head.headers); // `asked_http2` may have changed the headers
    }
    let mut call = Call::new(head, body, seen, exchange.clone());
    call.common.via = via;
    call.common.tunnel = tunnel.as_ref().map(|(asked, _)| Box::new(asked.kind.clone()));
    Begun { call, exchange, tunnel, asked }
}

/// Splits a request into its head and its body. A CONNECT has no body: its stream is kept for the tunnel.
fn opened(request: Request<RecvStream>, client: &Http2Client) -> (RequestHead, Body, Option<RecvStream>) {
    let (head, stream) = request.into_parts();
    if head.method == Method::CONNECT {
        return (head.into(), Body::empty(), Some(stream));
    }
    let body = match stream.is_end_stream() {
        true => Body::empty(),
        false => Body::http2(Incoming::new(stream, content_length(&head.headers), &client.room)),
    };
    (head.into(), body, None)
}

/// The stack's answer. Interim answers go to the client as they come, up to [`INTERIM_WAITING`] in all: `h2` queues heads
/// without a bound and does not tell when it has written them. `None`: the client has reset the stream.
async fn answered<S: AnsweringService>(
    mut stack: S,
    call: Box<Call>,
    exchange: &Exchange,
    respond: &mut SendResponse<Piece>,
) -> Option<Response> {
    let mut answering = pin!(stack.call(call));
    let mut passed_on = 0;
    poll_fn(|cx| {
        let answered = answering.as_mut().poll(cx);
        exchange.interim.take(cx, |interim| {
            passed_on += interim_bytes(&interim);
            if passed_on <= INTERIM_WAITING || only_continues(&interim) {
                drop(respond.send_informational(interim));
            }
        });
        match answered {
            Poll::Ready(response) => {
                Poll::Ready(Some(response.unwrap_or_else(|never: Infallible| match never {})))
            }
            Poll::Pending => respond.poll_reset(cx).map(|_reset| None),
        }
    })
    .await
}

/// What the watch over a connection needs to know of its client.
struct GuardedClient {
    connection: Arc<Connection>,
    worker: Arc<Worker>,
}

impl Downstream for GuardedClient {
    fn is_busy(&self) -> bool {
        self.connection.in_flight.load(Relaxed) > 0
    }

    fn header_timeout(&self) -> Duration {
        self.worker.limits().header_timeout
    }

    fn idle_timeout(&self) -> Duration {
        self.worker.limits().idle_timeout
    }

    fn note_idle(&self) {
        self.connection.is_idle.store(true, Relaxed);
    }

    fn begin_head(&self) -> Share {
        self.worker.ground.unfinished.begin(self.connection.side())
    }

    fn most_head_bytes(&self) -> usize {
        self.connection.head_limits(&self.worker.limits()).bytes as usize
    }

    fn head_given_up(&self) {
        refusal::note_given_up(b"", Version::HTTP_2, &self.connection, &self.worker);
    }

    fn head_late(&self) {
        refusal::note_late_http2(&self.connection, &self.worker);
    }
}

/// The answer to a head that is refused before the stack.
fn refused(error: &Error, call: &mut Call, exchange: &Arc<Exchange>) -> Response {
    call.note_request();
    exchange.failed(error);
    let mut response = answer::answer(error, exchange, call.common.is_grpc);
    exchange.headers_sent(response.status(), headers::grpc_status(response.headers()));
    response.body_mut().response_tail().observer = Some(exchange.clone());
    response
}

async fn send(
    response: Response,
    mut respond: SendResponse<Piece>,
    asked: Asked,
    client: &Http2Client,
) -> Result<(), Unsent> {
    let room = &client.room;
    let (head, mut body) = response.into_parts();
    let told = client.agreed.answer(asked, &head);
    let Ok(mut head) = head.into_http2() else {
        respond.send_reset(Reason::INTERNAL_ERROR);
        return Err(Unsent::Broken);
    };
    if let Some(told) = told {
        head.headers_mut().insert(CASE, told);
    }
    let is_empty = body.is_end_stream();
    if let (false, Some(length)) = (is_empty, body.size_hint().exact())
        && !head.headers().contains_key(CONTENT_LENGTH)
    {
        head.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if !room.account.hold_head(|| field_bytes(head.headers())) {
        body.cut(pillion_model::Reason::Overloaded);
        respond.send_reset(Reason::ENHANCE_YOUR_CALM);
        return Err(Unsent::Broken);
    }
    match respond.send_response(head, is_empty) {
        Ok(_ended) if is_empty => Ok(()),
        Ok(stream) => Outgoing::answer(stream, body, room).await,
        Err(error) => {
            respond.send_reset(Reason::INTERNAL_ERROR);
            Err(if error.is_reset() { Unsent::Refused } else { Unsent::Broken })
        }
    }
}

/// Sends the answer that opens a tunnel, and sends the stream through `opens`.
fn open(
    response: Response,
    mut respond: SendResponse<Piece>,
    inside: Option<RecvStream>,
    opens: oneshot::Sender<Io>,
    room: &Arc<Room>,
) {
    let (head, _no_body) = response.into_parts();
    let (Some(inside), Ok(head)) = (inside, head.into_http2()) else {
        return respond.send_reset(Reason::INTERNAL_ERROR);
    };
    match respond.send_response(head, false) {
        Ok(stream) => {
            let tunnel = Transport::Inside(Box::new(Tunnel::new(inside, stream, room)));
            drop(opens.send(Prefixed::new(tunnel))); // dropped, the tunnel ends
        }
        Err(_closed) => respond.send_reset(Reason::INTERNAL_ERROR),
    }
}
