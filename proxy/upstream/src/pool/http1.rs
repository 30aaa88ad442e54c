//! A connection of HTTP/1, which serves one request at a time.
//!
//! hyper reads and writes it on a task of its own. What hyper leaves to be desired stands around it: an answer that came
//! before an error in sending ([`transport`]), answers with many fields ([`fields`]), an end in the middle of an exchange
//! ([`hold`], [`departing`]).

mod departing;
mod explain;
mod fields;
mod hold;
mod transport;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use pillion_model::policy::ConnectionPolicy;
use tokio::time::Instant;

use self::departing::{Aftermath, Departing};
use self::explain::explain;
use self::fields::{Expected, ROOM, TooMany};
use self::hold::{Hold, run_while_held};
use self::transport::AnswerFirst;
use super::shard::REST_OF_REQUEST;
use super::{About, Counted, Idle, SendFailure};
use crate::slots::Slot;
use pillion_base::limits::Permit;
use pillion_base::net::Io;
use pillion_http::h1::client::Rest;
use pillion_http::head::HeadLimits;
use pillion_http::transfer::Observer;
use pillion_http::{Body, Response};
use pillion_telemetry::Held;
use pillion_tls::admission::{Admission, Failure};

/// What the connection holds while it is open: with it, whoever has it, which is hyper's task, or the tunnel that the
/// connection became.
type Guards = Arc<(Slot, Held, Counted)>;

/// hyper's part of a connection.
type Conn = http1::Connection<TokioIo<Departing<AnswerFirst>>, Body>;

/// Why a request has no answer, and the request where it was not sent.
type Unanswered = (hyper::Error, Option<Request<Body>>);

pub(crate) struct Http1 {
    send: http1::SendRequest<Body>,
    pub(super) about: About,
    admission: Option<Arc<Admission>>,
    aftermath: Arc<Aftermath>,
    expected: Arc<Expected>,
    idle: Idle,
    hold: Hold,
    guards: Guards,
    limits: HeadLimits,
    /// Its last request was written in part, and the rest of it is gone.
    is_cut_short: bool,
}

/// A connection on which HTTP/1 was begun, and which nobody runs yet.
pub(crate) struct Opened {
    send: http1::SendRequest<Body>,
    conn: Conn,
    aftermath: Arc<Aftermath>,
    expected: Arc<Expected>,
    limits: HeadLimits,
}

impl Opened {
    /// Begins HTTP/1 on `io`.
    pub(crate) async fn on(io: Io, limits: HeadLimits) -> hyper::Result<Self> {
        let (aftermath, expected) = (Arc::<Aftermath>::default(), Arc::<Expected>::default());
        let io = Departing::new(AnswerFirst::new(io, expected.clone()), aftermath.clone());
        let (send, conn) = begin(io, limits, ROOM).await?;
        Ok(Self { send, conn, aftermath, expected, limits })
    }

    /// From here on it holds these, until it ends.
    pub(crate) fn run(
        self,
        about: About,
        admission: Option<Arc<Admission>>,
        guards: (Slot, Held, Counted),
    ) -> Http1 {
        let guards = Arc::new(guards);
        Http1 {
            hold: run(self.conn, guards.clone()),
            send: self.send,
            about,
            admission,
            aftermath: self.aftermath,
            expected: self.expected,
            idle: Idle::default(),
            guards,
            limits: self.limits,
            is_cut_short: false,
        }
    }
}

impl Http1 {
    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
        _interim_answers_are_hypers: &dyn Observer,
    ) -> Result<Response, SendFailure> {
        // It served a request before, so the peer may have hung up since.
        let was_used = self.about.uses > 0;
        self.about.uses += 1;
        let method = request.method().clone();
        match self.ask(request, method.clone()).await {
            Ok(response) => Ok(with_body(response, &method)),
            Err((error, unsent)) => Err(explain(&error, unsent, was_used)),
        }
    }

    async fn ask(
        &mut self,
        request: Request<Body>,
        method: Method,
    ) -> Result<http::Response<Incoming>, Unanswered> {
        self.expected.expect();
        match self.send.try_send_request(request).await {
            Ok(response) => Ok(response),
            Err(mut error) => match kept_from_hyper(error.error()) {
                Some(io) => Box::pin(self.read_again(io, method)).await.map_err(|error| (error, None)),
                None => {
                    let unsent = error.take_message();
                    Err((error.into_error(), unsent))
                }
            },
        }
    }

    /// Reads an answer that has more fields than there was room for. What had not been sent of its request by then is
    /// not sent any more.
    async fn read_again(
        &mut self,
        io: AnswerFirst,
        method: Method,
    ) -> hyper::Result<http::Response<Incoming>> {
        self.is_cut_short = !io.is_flushed(); // the rest goes with the first reader's buffer
        let io = Departing::new(io.read_again(), self.aftermath.clone());
        let (send, conn) = begin(io, self.limits, usize::MAX).await?;
        (self.send, self.hold) = (send, run(conn, self.guards.clone()));
        let mut again = Request::new(Body::empty());
        *again.method_mut() = method; // it says whether the answer has a body
        self.send.send_request(again).await
    }

    /// How it failed, where it was TLS that failed.
    pub(super) fn tls_failure(&self) -> Option<Failure> {
        self.admission.as_ref()?.failure()
    }

    /// Closes it in the middle of an exchange. `permit`: the request's place among `max_requests`, which it keeps until
    /// the upstream is done with it.
    pub(super) fn cut(self, permit: Option<Permit>) {
        if let Some(permit) = permit {
            self.aftermath.leave(permit);
        }
        self.hold.cut();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.send.is_closed()
    }

    /// Whether it can take a request now: its last message has ended.
    pub(super) fn is_ready(&self) -> bool {
        self.send.is_ready()
    }

    /// Whether it is to carry no request any more.
    pub(super) fn is_worn(&self, policy: &ConnectionPolicy) -> bool {
        self.is_closed() || self.about.is_worn(policy)
    }

    /// How it goes on when its exchange has ended whole. What is left to be written is hyper's to write.
    pub(super) const fn after(&self) -> Rest {
        if self.is_cut_short { Rest::Over } else { Rest::Ready }
    }

    /// Writes the last bytes of a request that was answered whole.
    pub(super) async fn written(&self) -> bool {
        true
    }

    /// It is not in use from here on.
    pub(super) fn rest(&mut self) {
        self.idle = Idle::default();
    }

    /// Whether the sweep is to close it. One whose last request is answered but not yet taken whole cannot be used:
    /// that ends soon or never.
    pub(super) fn is_done(&mut self, idle_timeout: Option<Duration>, now: Instant) -> bool {
        let most = match self.send.is_ready() {
            true => idle_timeout,
            false => Some(REST_OF_REQUEST.min(idle_timeout.unwrap_or(REST_OF_REQUEST))),
        };
        self.send.is_closed() || self.idle.is_over(most, now)
    }
}

/// Where the answer opens a tunnel, its body is that.
fn with_body(mut response: http::Response<Incoming>, method: &Method) -> Response {
    let is_tunnel = response.status() == StatusCode::SWITCHING_PROTOCOLS
        || (*method == Method::CONNECT && response.status().is_success());
    if !is_tunnel {
        return response.map(Body::incoming);
    }
    let upgrade = hyper::upgrade::on(&mut response);
    response.map(|_empty| Body::tunnel(Box::pin(async { bare(upgrade.await.ok()?) })))
}

/// Takes the connection back from hyper.
fn bare(upgraded: Upgraded) -> Option<Io> {
    let parts = upgraded.downcast::<TokioIo<Departing<AnswerFirst>>>().ok()?;
    let mut io = parts.io.into_inner().into_inner()?.into_io();
    io.put_back(parts.read_buf);
    Some(io)
}

/// The connection, where an answer's many fields were kept from hyper.
fn kept_from_hyper(error: &hyper::Error) -> Option<AnswerFirst> {
    let error = std::error::Error::source(error)?.downcast_ref::<io::Error>()?;
    error.get_ref()?.downcast_ref::<TooMany<AnswerFirst>>()?.take()
}

/// Begins HTTP/1 on a connection, with room for so many of the fields that an answer may have.
async fn begin(
    io: Departing<AnswerFirst>,
    limits: HeadLimits,
    room: usize,
) -> hyper::Result<(http1::SendRequest<Body>, Conn)> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(limits.bytes as usize);
    let fields = room.min(limits.fields as usize);
    if fields != ROOM {
        builder.max_headers(fields);
    }
    builder.handshake(TokioIo::new(io)).await
}

/// Runs it on a task of its own until nobody has the hold any more.
fn run(conn: Conn, guards: Guards) -> Hold {
    let (hold, released) = Hold::new();
    tokio::spawn(async move {
        run_while_held(conn.with_upgrades(), released).await; // how it ended, the request that was on it learns
        drop(guards);
    });
    hold
}
