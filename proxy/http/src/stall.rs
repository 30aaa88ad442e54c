//! How long a peer may leave what is written to it.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use pillion_base::deadline::{Deadline, Timers};

/// A peer that takes less than [`LEAST_TAKEN`] in it is given up.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(300);
/// What is left of a request whose answer is whole is sent on for so long, whoever is waited for: the peer, or a client
/// that pauses. As long as a client of HTTP/1 is listened to after its last answer (nginx: `lingering_time`).
pub const AFTER_ANSWER: Duration = Duration::from_secs(30);
/// What a peer must take of what waits for it in each [`STALL_TIMEOUT`], and in each `stream_idle_timeout`: a byte now
/// and then must not keep a connection for ever.
pub const LEAST_TAKEN: usize = 1024;

/// The watch over one connection's writing, flushing and shutting down.
#[derive(Debug, Default)]
pub struct Stall {
    /// Something waits: until when, and how much had been taken when that was set.
    waits: Option<(Deadline, u64)>,
}

impl Stall {
    pub const fn is_waiting(&self) -> bool {
        self.waits.is_some()
    }

    /// The peer has taken all that there was.
    pub fn all_is_taken(&mut self) {
        self.waits = None;
    }

    /// Something waits for a peer that has taken `taken` bytes so far. What TLS has taken in is not the peer's yet.
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

    /// After how many seconds a peer is given up that takes so much every minute, an hour at most.
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
    async fn a4_a_peer_that_takes_next_to_nothing_is_given_up_and_a_slow_one_is_not() {
        assert_eq!(given_up(0).await, 300);
        assert_eq!(given_up(100).await, 300);
        assert_eq!(given_up(1000).await, 3600);
    }
}
