//! Somebody who needs orders, so many times a second, and counts how that goes.
//!
//! Open loop: requests fall due by the clock, not by the answer before. One that has to wait for a free
//! connection is late, and its latency says so.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::bail;
use http::Response;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::client::Client;
use super::latencies::Latencies;

/// All that the caller knows of the service: its name.
const SERVICE: &str = "orders";

pub(crate) struct Caller {
    round: Arc<Round>,
    connections: JoinSet<()>,
}

/// What came of some time of calling.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    /// With 200.
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    pub(crate) first_failure: Option<String>,
    /// The latencies of all requests, failed ones too.
    pub(crate) latencies: Latencies,
}

/// What the connections share.
struct Round {
    to: SocketAddr,
    began: Instant,
    interval_nanos: u64,
    next: AtomicU64,
    is_over: AtomicBool,
    tally: Mutex<Tally>,
}

impl Caller {
    /// Calls `rate` times a second over so many keep-alive connections, until it is stopped. As many requests
    /// are in flight at most.
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

    /// What was counted since the last time.
    pub(crate) fn take(&self) -> Tally {
        std::mem::take(&mut *self.round.tally.lock())
    }

    /// Ends the calling once what is in flight is answered, and gives the rest of the count.
    pub(crate) async fn stop(mut self) -> Tally {
        self.round.is_over.store(true, Relaxed);
        while self.connections.join_next().await.is_some() {}
        self.take()
    }
}

impl Round {
    /// One connection's work: the next request that is due, again and again.
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

    /// When the request began: when it was due, had there been a free connection. One that was waited for
    /// begins when the timer fires, whose lateness (up to 1 ms) is not the mesh's.
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

/// One order, on the connection there is; a broken one is left for the next to replace.
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

    /// `later` comes after what is counted here.
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
    fn the_first_failure_is_the_one_remembered() {
        let (mut whole, mut second) = (Tally::default(), Tally::default());
        second.count(Duration::from_millis(1), Err(anyhow!("first")));
        second.count(Duration::from_millis(1), Err(anyhow!("second")));
        whole.add(&second);
        second.count(Duration::from_millis(1), Ok(()));
        whole.add(&second);
        assert_eq!((whole.answered, whole.failed, whole.first_failure.as_deref()), (1, 4, Some("first")));
    }

    #[test]
    fn an_answer_that_is_not_200_tells_what_the_sidecar_said_of_it() {
        let mut answer = Response::new(());
        assert!(judge(&answer).is_ok());
        *answer.status_mut() = http::StatusCode::BAD_GATEWAY;
        answer.headers_mut().insert("proxy-status", http::HeaderValue::from_static("pillion; error=x"));
        let told = judge(&answer).expect_err("502 is a failure").to_string();
        assert_eq!(told, "502 Bad Gateway pillion; error=x");
    }

    /// Nobody listens: every request fails, none is forgotten, and the pace is kept.
    #[tokio::test]
    async fn who_reaches_nobody_counts_failures_at_the_same_rate() {
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
