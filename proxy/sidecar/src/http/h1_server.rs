//! A downstream connection of HTTP/1 on the engine of `pillion_http1`.
//!
//! One task reads a head ([`waiting`]), carries the request through the stack in place and hands its content over as it
//! comes ([`carrying`], [`content`]), and writes the answer ([`answering`]). What a request needs is boxed for as long
//! as it lasts: a connection that waits holds its socket, a timer and a few words.
//!
//! Deliberately absent: what is HTTP and what is not. The engine knows that, and the stack what becomes of a request.

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

use self::waiting::{Heard, Watch};
use super::linger::linger;
use crate::connection::Connection;
use crate::http::call::AnsweringService;
use crate::worker::Worker;
use pillion_base::net::Io;
use pillion_http::h1::buffer::{Inbox, Outbox};
use pillion_http::stall::Stall;
use pillion_telemetry::Held;

/// A client's connection.
struct Downstream {
    io: Io,
    /// What came and was not taken yet.
    inbox: Inbox,
    /// How many bytes at the front of `inbox` are known to be content: the engine has said so, and does not say it again,
    /// but the piece that was being taken had no room for them.
    judged: usize,
    /// What is on its way to the client.
    outbox: Outbox,
    server: Server,
    watch: Watch,
    stall: Stall,
    /// The client of the request that is answered looks at trailers.
    takes_trailers: bool,
    /// The answer ends with the connection: dropped before that, it is reset.
    resets: bool,
    connection: Arc<Connection>,
    worker: Arc<Worker>,
}

/// How an exchange leaves its connection.
enum Left {
    /// For the next request.
    GoesOn,
    /// Nothing was asked, and its client is silent.
    Rests,
    /// To be closed, in a way that takes nothing from a client that still reads.
    Ends,
    /// The client is gone, or must see that an answer is not whole.
    Lost,
    /// It is a tunnel's from here on.
    Opaque(oneshot::Sender<Io>),
}

/// Until the client leaves, `open` meanwhile. No `async fn`, whose arguments have room of their own beside what is made of them.
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
            let heard = poll_fn(|cx| downstream.poll_head(cx)).await;
            match act(heard, &mut downstream, &mut stack).await {
                Left::GoesOn => {}
                Left::Rests => {
                    if !Box::pin(downstream.rests()).await {
                        return;
                    }
                }
                Left::Ends => return Box::pin(downstream.ends()).await,
                Left::Lost => return,
                Left::Opaque(opens) => return drop(opens.send(downstream.into_io())), // dropped, the tunnel ends
            }
        }
    }
}

/// What follows from what a client says. Boxed: a connection that waits has no room for it.
fn act<'a, S: AnsweringService>(
    heard: Heard,
    downstream: &'a mut Downstream,
    stack: &'a mut S,
) -> Pin<Box<dyn Future<Output = Left> + Send + 'a>> {
    match heard {
        Heard::Head(head, content) => Box::pin(carrying::carry(downstream, head, content, stack)),
        Heard::Refused => Box::pin(downstream.refused()),
        Heard::Nothing => Box::pin(ready(Left::Rests)),
        Heard::Over => Box::pin(ready(Left::Lost)),
    }
}

/// Of the heads and trailers that come now.
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
            connection,
            worker,
        }
    }

    /// Ready when the client, or the kernel for it, has all that was written. A client that takes next to nothing is
    /// given up.
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

    /// A refusal stands in the outbox.
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
