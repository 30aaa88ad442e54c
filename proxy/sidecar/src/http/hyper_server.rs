//! A downstream connection of HTTP/1 on hyper: its framing, our limits, and a graceful end.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use http::header::CONNECTION;
use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::exchange::Exchange;
use super::guard::{Begun, Guarded, Large};
use super::head::HeadLimits;
use super::linger::linger;
use super::{Body, Call, Response, headers, tunnel};
use crate::connection::Connection;
use crate::detect::first_byte;
use crate::http::call::AnsweringService;
use crate::worker::Worker;
use pillion_base::net::Io;
use pillion_http::seen::Seen;

/// hyper's read buffer of HTTP/1 at least; it must hold a whole head, and bodies need no more.
pub const HTTP1_BUFFER: usize = 128 * 1024;
/// The fields for which hyper has room at hand. Another number costs memory, and clearing it, for each head: a head
/// that may have more, for it came from a sidecar, is read with this room first.
const ROOM: u32 = 100;

/// Until the client leaves.
pub async fn serve<S: AnsweringService>(
    mut io: Io,
    connection: Arc<Connection>,
    worker: Arc<Worker>,
    stack: S,
) {
    let (mut room, mut begun) = (Room::AtHand, None);
    loop {
        let http1 = http1(io, (room, begun.take()), connection.clone(), worker.clone(), stack.clone());
        // Boxed: a connection that rests holds none of it.
        match Box::pin(http1).await {
            Left::Ended => return,
            Left::NeedsRoom(again, head) => (io, room, begun) = (again, Room::ForAll, Some(head)),
            Left::Rests(rests) => {
                let work = &connection.place.work;
                work.rest();
                let Ok(wakes) = first_byte(rests, &worker, work).await else { return };
                io = wakes;
            }
        }
    }
}

/// For how many fields hyper is told to have room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    AtHand,
    ForAll,
}

/// How a connection comes back from hyper.
enum Left {
    Ended,
    /// Nothing has happened on it for a while.
    Rests(Io),
    /// The head that comes next has more fields than there was room for.
    NeedsRoom(Io, Box<Begun>),
}

impl Left {
    fn to_go_on(io: Io, again: Option<Box<Begun>>) -> Self {
        match again {
            Some(begun) => Self::NeedsRoom(io, begun),
            None => Self::Rests(io),
        }
    }
}

async fn http1<S: AnsweringService>(
    io: Io,
    (room, begun): (Room, Option<Box<Begun>>),
    connection: Arc<Connection>,
    worker: Arc<Worker>,
    stack: S,
) -> Left {
    let mut is_told = false;
    let limits = connection.head_limits(&worker.limits());
    let fields = if room == Room::AtHand { limits.fields.min(ROOM) } else { limits.fields };
    let large = if fields < limits.fields { Large::Provisional } else { Large::Final };
    let (rests, io) =
        (connection.clone(), Guarded::new(io, connection.clone(), worker.clone(), large, begun));
    let service = service_fn(move |request: Request<Incoming>| {
        handle(request, connection.clone(), worker.clone(), stack.clone())
    });
    let mut conn = http1_builder(HeadLimits { fields, ..limits })
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    // How it ended has been told request by request.
    drop(
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(ended) = Pin::new(&mut conn).poll(cx) {
                    return Poll::Ready(ended);
                }
                if is_told || !rests.rests.load(Relaxed) {
                    return Poll::Pending;
                }
                is_told = true;
                Pin::new(&mut conn).graceful_shutdown(); // at once: nothing is in flight
            }
        })
        .await,
    );
    let has_rest = rests.rests.swap(false, Relaxed);
    let Some(parts) = conn.into_parts() else { return Left::Ended };
    let mut guarded = parts.io.into_inner();
    let (client_is_there, again) = (guarded.client_is_there(), guarded.take_begun());
    let mut io = guarded.into_io();
    if again.is_some() || has_rest {
        io.put_back(parts.read_buf);
        return Left::to_go_on(io, again);
    }
    if client_is_there {
        linger(io, &rests.place.work).await;
    }
    Left::Ended
}

fn http1_builder(limits: HeadLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    let header_bytes = limits.bytes as usize;
    builder
        .max_header_size(header_bytes)
        .max_buf_size(HTTP1_BUFFER.max(header_bytes * 2))
        .auto_date_header(false);
    if limits.fields != ROOM {
        builder.max_headers(limits.fields as usize);
    }
    builder
}

async fn handle<S: AnsweringService>(
    mut request: Request<Incoming>,
    connection: Arc<Connection>,
    worker: Arc<Worker>,
    mut stack: S,
) -> Result<Response, Infallible> {
    let mut seen = Seen::in_headers(request.headers());
    let request_id = headers::request_id(request.headers(), &seen, &mut worker.ground.rng.lock());
    let asked = tunnel::may_be_asked(&request, &seen).then(|| tunnel::asked(&mut request)).flatten();
    if asked.is_some() {
        seen = Seen::in_headers(request.headers()); // what was asked for may have changed them
    }
    let version = request.version();
    let exchange = Arc::new(Exchange::new(worker, connection, request_id));
    let mut call = Call::new(request.map(Body::incoming), seen, exchange.clone());
    let Some(asked) = asked else {
        let mut response = stack.call(call).await?;
        if version == http::Version::HTTP_10 {
            note_length(&response, &exchange.connection);
        }
        say_goodbye(&mut response, &exchange.connection);
        return Ok(response);
    };
    call.common.tunnel = Some(Box::new(asked.kind.clone()));
    let mut response = Box::pin(stack.call(call)).await?;
    if !tunnel::is_opened(&response) {
        say_goodbye(&mut response, &exchange.connection);
    }
    Ok(tunnel::open(asked, response, &exchange))
}

/// HTTP/1.0 has no chunks: there an answer of unknown length ends with its connection.
fn note_length(response: &Response, connection: &Connection) {
    if http_body::Body::size_hint(response.body()).exact().is_none() {
        connection.is_unframed.store(true, Relaxed);
    }
}

/// The last answer on the connection, if the drain has begun or its client is admitted no more.
fn say_goodbye(response: &mut Response, connection: &Connection) {
    if connection.place.work.says_goodbye() || connection.is_dismissed.load(Relaxed) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}
