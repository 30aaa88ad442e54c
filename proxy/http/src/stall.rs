//! How long bytes for a peer may wait because the peer does not accept them.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use pillion_base::deadline::{Deadline, Timers};

/// 300 s: the connection of a peer that accepts less than [`LEAST_TAKEN`] in this time is closed.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(300);
/// 30 s: how long the rest of a request is sent on after its complete answer, whether the upstream or the client is
/// slow. A client of HTTP/1 lingers for the same time after its last answer (nginx: `lingering_time`).
pub const AFTER_ANSWER: Duration = Duration::from_secs(30);
/// 1 KiB: how much a peer must accept of the waiting bytes in each [`STALL_TIMEOUT`], and in each
/// `stream_idle_timeout`. A peer that accepts single bytes cannot keep a connection open for ever.
pub const LEAST_TAKEN: usize = 1024;

/// The watch over one connection's writing, flushing and shutting down.
#[derive(Debug, Default)]
pub struct Stall {
    /// While bytes wait: the deadline, and how much the peer had accepted when the deadline was set.
    waits: Option<(Deadline, u64)>,
}

impl Stall {
    pub const fn is_waiting(&self) -> bool {
        self.waits.is_some()
    }

    /// Notes that the peer has accepted all bytes.
    pub fn all_is_taken(&mut self) {
        self.waits = None;
    }

    /// Checks a peer for which bytes wait, and which has accepted `taken` bytes so far. Bytes in the buffer of TLS do
    /// not count as accepted.
    pub fn poll<T>(&mut self, taken: u64, timers: &Timers, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let (deadline, before) =
            self.waits.get_or_insert_with(|| (timers.deadline(Instant::now() + STALL_TIMEOUT), taken));
        loop {
            ready!(Pin::new(&mut *deadline).poll(cx));
            if taken.saturating_sub(*before) < LEAST_TAKEN as u64 {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            deadline.move_to(Instant::now() + STALL_TIMEOUT);
            *before = taken;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// After how many seconds (at most an hour) a peer is closed that accepts `each_minute` bytes every minute.
    async fn given_up(each_minute: u64) -> u64 {
        let (timers, mut stall, start) = (Timers::default(), Stall::default(), Instant::now());
        for minute in 0..60 {
            let stalled = poll_fn(|cx| stall.poll::<()>(minute * each_minute, &timers, cx));
            let waited = tokio::time::timeout(Duration::from_secs(60), stalled).await;
            if waited.is_ok_and(|stalled| stalled.is_err()) {
                return start.elapsed().as_secs();
            }
        }
        start.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a4_a_peer_that_accepts_next_to_nothing_is_closed_and_a_slow_one_is_not() {
        assert_eq!(given_up(0).await, 300);
        assert_eq!(given_up(100).await, 300);
        assert_eq!(given_up(1000).await, 3600);
    }
}
