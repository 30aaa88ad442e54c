//! The demo's client: it requests orders at a fixed rate and counts the results.
//!
//! The load is open loop: requests are due at fixed times and do not wait for the previous response. If a request must
//! wait for a free connection, the waiting time is part of its latency.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::bail;
use http::Response;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::latencies::Latencies;
use crate::cli::client::Client;

/// The name of the service, which is all that the caller knows of it.
const SERVICE: &str = "orders";

pub(crate) struct Caller {
    round: Arc<Round>,
    connections: JoinSet<()>,
}

/// The results of some time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    /// Requests answered with 200.
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    pub(crate) first_failure: Option<String>,
    /// The latencies of all requests, with those of failed ones.
    pub(crate) latencies: Latencies,
}

/// The state that the connections share.
struct Round {
    to: SocketAddr,
    began: Instant,
    interval_nanos: u64,
    next: AtomicU64,
    is_over: AtomicBool,
    tally: Mutex<Tally>,
}

impl Caller {
    /// Sends `rate` requests a second over this number of keep-alive connections, until it is stopped. The number of
    /// connections is also the most requests in flight.
    pub(crate) fn start(to: SocketAddr, rate: u32, connections: usize) -> Self {
        let round = Arc::new(Round {
            to,
            began: Instant::now(),
            interval_nanos: 1_000_000_000 / u64::from(rate.max(1)),
            next: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            tally: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        (0..connections).for_each(|_| drop(tasks.spawn(round.clone().call())));
        Self { round, connections: tasks }
    }

    /// The counts since the last call.
    pub(crate) fn take(&self) -> Tally {
        std::mem::take(&mut *self.round.tally.lock())
    }

    /// Stops once the requests in flight are answered, and returns the remaining counts.
    pub(crate) async fn stop(mut self) -> Tally {
        self.round.is_over.store(true, Relaxed);
        while self.connections.join_next().await.is_some() {}
        self.take()
    }
}

impl Round {
    /// The work of one connection: it sends the next due request, again and again.
    async fn call(self: Arc<Self>) {
        let mut client = None;
        loop {
            let began = self.next_is_due().await;
            if self.is_over.load(Relaxed) {
                return;
            }
            let result = order(&mut client, self.to).await;
            self.tally.lock().count(began.elapsed(), result);
        }
    }

    /// The start of the request: the time at which it was due, if it had to wait for a free connection. If it did not,
    /// it starts when the timer fires, because the timer's delay (up to 1 ms) is not caused by the mesh.
    async fn next_is_due(&self) -> Instant {
        let nth = self.next.fetch_add(1, Relaxed);
        let due = self.began + Duration::from_nanos(nth.saturating_mul(self.interval_nanos));
        if due < Instant::now() {
            return due;
        }
        sleep_until(due).await;
        Instant::now()
    }
}

/// Sends one request on the existing connection. A broken connection is replaced by the next request.
async fn order(client: &mut Option<Client>, to: SocketAddr) -> anyhow::Result<()> {
    let mut connected = match client.take() {
        Some(connected) => connected,
        None => Client::connect(to).await?,
    };
    let answer = connected.get(SERVICE, "/").await?;
    *client = Some(connected);
    judge(&answer)
}

fn judge<B>(answer: &Response<B>) -> anyhow::Result<()> {
    if answer.status() == http::StatusCode::OK {
        return Ok(());
    }
    let why = answer.headers().get("proxy-status").map_or("", |why| why.to_str().unwrap_or_default());
    bail!("{} {why}", answer.status());
}

impl Tally {
    fn count(&mut self, took: Duration, result: anyhow::Result<()>) {
        self.latencies.record(took);
        match result {
            Ok(()) => self.answered += 1,
            Err(error) => {
                self.failed += 1;
                self.first_failure.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }

    /// `later` has the results after those counted here.
    pub(crate) fn add(&mut self, later: &Self) {
        self.answered += later.answered;
        self.failed += later.failed;
        self.latencies.add(&later.latencies);
        if self.first_failure.is_none() {
            self.first_failure.clone_from(&later.first_failure);
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn the_first_failure_is_kept() {
        let (mut whole, mut second) = (Tally::default(), Tally::default());
        second.count(Duration::from_millis(1), Err(anyhow!("first")));
        second.count(Duration::from_millis(1), Err(anyhow!("second")));
        whole.add(&second);
        second.count(Duration::from_millis(1), Ok(()));
        whole.add(&second);
        assert_eq!((whole.answered, whole.failed, whole.first_failure.as_deref()), (1, 4, Some("first")));
    }

    #[test]
    fn a_failure_has_the_reason_that_the_sidecar_gave() {
        let mut answer = Response::new(());
        assert!(judge(&answer).is_ok());
        *answer.status_mut() = http::StatusCode::BAD_GATEWAY;
        answer.headers_mut().insert("proxy-status", http::HeaderValue::from_static("pillion; error=x"));
        let error = judge(&answer).expect_err("502 is a failure").to_string();
        assert_eq!(error, "502 Bad Gateway pillion; error=x");
    }

    /// No server listens: every request fails, all are counted, and the rate is kept.
    #[tokio::test]
    async fn a_caller_without_a_server_counts_failures_at_the_same_rate() {
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1)); // tcpmux; where it is in use the answer is no HTTP
        let caller = Caller::start(nobody, 1000, 2);
        while caller.round.tally.lock().failed < 5 {
            tokio::task::yield_now().await;
        }
        let tally = caller.stop().await;
        assert_eq!(tally.answered, 0);
        assert!(tally.first_failure.is_some());
    }
}
