//! Ends the task of an HTTP/1 connection when nobody holds the connection any more.
//!
//! hyper runs each connection on a task. While that task waits for the upstream to take bytes it does not notice that
//! its handle is gone: an upstream that neither reads nor closes would keep the task, the descriptor and the place
//! among `max_connections` for ever. So the handle has a [`Hold`] beside it, and the task listens to it as well.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long an unused connection may take to say goodbye (TLS: `close_notify`). Its bytes are in the kernel at once,
/// unless the upstream has stopped reading; then there is nothing worth waiting for.
const FAREWELL: Duration = Duration::from_secs(1);

/// The connection was dropped in the middle of an exchange.
#[derive(Debug)]
pub(super) struct Cut;

/// Held by whoever may use the connection; the task ends with it.
#[derive(Debug)]
pub(super) struct Hold(oneshot::Sender<Cut>);

impl Hold {
    pub(super) fn new() -> (Self, oneshot::Receiver<Cut>) {
        let (hold, released) = oneshot::channel();
        (Self(hold), released)
    }

    /// Closes the connection at once: an exchange on it has not ended, so there is no message to finish.
    pub(super) fn cut(self) {
        drop(self.0.send(Cut)); // a task that has ended already needs no telling
    }
}

/// Runs hyper's connection until it ends, or until nobody holds it.
pub(super) async fn run_while_held(connection: impl Future, released: oneshot::Receiver<Cut>) {
    let mut connection = pin!(connection);
    let released = tokio::select! { // `connection` is polled on below, unless it is to be dropped
        biased;
        _ended = &mut connection => return,
        released = released => released,
    };
    if released.is_err() {
        drop(timeout(FAREWELL, connection).await);
    }
}
