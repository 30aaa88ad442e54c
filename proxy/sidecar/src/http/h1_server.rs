//! A downstream connection of HTTP/1 on the engine of `pillion_http1`.
//!
//! One task reads a head ([`waiting`]), carries the request through the stack and passes its content on as it comes
//! ([`carrying`], [`content`]), and writes the answer ([`answering`]). The memory for a request is boxed and freed
//! after it: a connection that waits holds its socket, a timer and a few words.
//!
//! Deliberately absent: the rules of HTTP/1, which the engine checks, and what happens to a request, which the stack
//! decides.

mod answering;
mod carrying;
mod content;
mod waiting;

use std::future::{Future, poll_fn, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pillion_http1::{Limits, Server};
use tokio::sync::oneshot;

use self::waiting::{Received, Watch};
use super::linger::linger;
use crate::connection::Connection;
use crate::http::call::AnsweringService;
use crate::worker::Worker;
use pillion_base::boxed::pinned;
use pillion_base::net::Io;
use pillion_http::h1::buffer::{Inbox, Outbox};
use pillion_http::stall::Stall;
use pillion_telemetry::Held;

/// A client's connection.
struct Downstream {
    io: Io,
    /// Bytes that came and were not taken yet.
    inbox: Inbox,
    /// How many bytes at the front of `inbox` are known to be content. The engine has said so, and does not say it
    /// again, but the piece that was taken had no room for them.
    judged: usize,
    /// Bytes that wait to be sent to the client.
    outbox: Outbox,
    server: Server,
    watch: Watch,
    stall: Stall,
    /// The client has said that it accepts trailers (`TE: trailers`) in the answer to the current request.
    takes_trailers: bool,
    /// The answer ends with the connection, so a connection that is dropped before the end is reset.
    resets: bool,
    /// The socket was asked for bytes and had none: it wakes the task when some come.
    is_watched: bool,
    connection: Arc<Connection>,
    worker: Arc<Worker>,
}

/// What happens to the connection after an exchange.
enum Left {
    /// It is ready for the next request.
    GoesOn,
    /// It is to be closed so that a client that still reads loses no bytes.
    Ends,
    /// It is reset: the client is gone, or must see that an answer is not complete.
    Lost,
    /// It is a tunnel from here on.
    Opaque(oneshot::Sender<Io>),
}

/// Serves a connection until the client leaves, and holds `open` meanwhile. This is not an `async fn`, because the
/// future of one would keep its arguments beside the values that are made of them.
pub fn serve<S: AnsweringService>(
    io: Io,
    connection: Arc<Connection>,
    worker: Arc<Worker>,
    mut stack: S,
    open: Held,
) -> impl Future<Output = ()> + Send {
    let watch = Watch::new(connection.began);
    let mut downstream = Downstream::new(io, watch, connection, worker);
    async move {
        let _open = open;
        loop {
            let received = poll_fn(|cx| downstream.poll_head(cx)).await;
            match act(received, &mut downstream, &mut stack).await {
                Left::GoesOn => {}
                Left::Ends => return Box::pin(downstream.ends()).await,
                Left::Lost => return,
                Left::Opaque(opens) => return drop(opens.send(downstream.into_io())), // dropped, the tunnel ends
            }
        }
    }
}

/// Acts on what a client sends. Boxed, so that a connection that waits does not have room for this future.
fn act<'a, S: AnsweringService>(
    received: Received,
    downstream: &'a mut Downstream,
    stack: &'a mut S,
) -> Pin<Box<dyn Future<Output = Left> + Send + 'a>> {
    match received {
        Received::Head(head, content) => pinned(|| carrying::carry(downstream, head, content, stack)),
        Received::Refused => Box::pin(downstream.refused()),
        Received::Over => Box::pin(ready(Left::Lost)),
    }
}

/// The current limits for heads and trailers.
fn limits(connection: &Connection, worker: &Worker) -> Limits {
    let limits = connection.head_limits(&worker.limits());
    Limits { head_bytes: limits.bytes, fields: limits.fields, ..Limits::default() }
}

impl Downstream {
    fn new(io: Io, watch: Watch, connection: Arc<Connection>, worker: Arc<Worker>) -> Self {
        Self {
            io,
            inbox: Inbox::default(),
            judged: 0,
            outbox: Outbox::default(),
            server: Server::new(),
            watch,
            stall: Stall::default(),
            takes_trailers: false,
            resets: false,
            is_watched: false,
            connection,
            worker,
        }
    }

    /// Ready when all that was written is sent, or is in the kernel's buffer. A client that accepts next to nothing is
    /// closed.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outbox.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match self.outbox.poll_send(&mut self.io, cx) {
            Poll::Pending => self.stall.poll(self.io.taken(), &self.worker.ground.timers, cx),
            sent => {
                self.stall.all_is_taken();
                sent
            }
        }
    }

    /// Sends the refusal in the outbox, and ends the connection.
    async fn refused(&mut self) -> Left {
        match poll_fn(|cx| self.poll_send(cx)).await {
            Ok(()) => Left::Ends,
            Err(_gone) => Left::Lost,
        }
    }

    async fn ends(self) {
        linger(self.io, &self.connection.place.work).await;
    }

    fn into_io(mut self) -> Io {
        self.io.put_back(self.inbox.into_bytes());
        self.io
    }
}
