//! `/events`: what the dashboard and `pillion top` show, once a second, as server-sent events.
//!
//! One event is made for all clients, on a thread of its own, and only while there is a client. A client that does not
//! read misses events, and holds none of them in memory.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use hyper::body::{Body, Bytes, Frame};
use pillion_telemetry::Metrics;
use pillion_telemetry::overview::{Latency, Overview, ServiceOverview};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_util::sync::ReusableBoxFuture;

use super::console::Console;
use super::requests::{self, moment};
use super::{clusters, config};

/// The time between two events.
const EVERY: Duration = Duration::from_secs(1);
/// After this time a client has to ask again, which browsers do by themselves.
const LONGEST: Duration = Duration::from_secs(3600);
/// How many failures the dashboard lists.
const FAILURES: usize = 20;
/// How many services an event has with their endpoints. Those of others are on `/clusters?service=NAME`.
const DETAILED: usize = 50;
/// How many endpoints of one service an event has.
const ENDPOINTS: usize = 50;

/// Where clients get events from.
#[derive(Clone)]
pub(super) struct Events(Arc<Channel>);

struct Channel {
    latest: watch::Sender<Bytes>,
    /// Wakes the publisher for the first client.
    wanted: Notify,
}

/// Makes the events.
pub(super) struct Publisher {
    registry: Arc<Metrics>,
    console: Arc<Console>,
    to: Arc<Channel>,
    started: SystemTime,
}

pub(super) fn events(registry: Arc<Metrics>, console: Arc<Console>) -> (Events, Publisher) {
    let to = Arc::new(Channel { latest: watch::Sender::new(Bytes::new()), wanted: Notify::new() });
    (Events(to.clone()), Publisher { registry, console, to, started: SystemTime::now() })
}

impl Events {
    /// The body of an answer.
    pub(super) fn stream(&self) -> Stream {
        let from = self.0.latest.subscribe(); // the last event counts as seen: it may be old
        self.0.wanted.notify_one();
        Stream { next: ReusableBoxFuture::new(next(from)), until: Box::pin(sleep(LONGEST)) }
    }
}

impl Publisher {
    /// Runs to the end of the process.
    pub(super) async fn run(self) {
        let mut at = Instant::now();
        loop {
            while self.to.latest.receiver_count() == 0 {
                self.to.wanted.notified().await;
                at = Instant::now();
            }
            let began = Instant::now();
            let (registry, console, started) = (self.registry.clone(), self.console.clone(), self.started);
            let made = tokio::task::spawn_blocking(move || event(&registry, &console, started, began));
            match made.await {
                Ok(event) => drop(self.to.latest.send(event)),
                Err(error) => tracing::error!(%error, "the event for the dashboard could not be made"),
            }
            // at most a quarter of a core, however long an event takes
            at = (at + EVERY).max(Instant::now() + began.elapsed() * 3);
            sleep_until(at).await;
        }
    }
}

/// Waits for the next event.
async fn next(mut from: watch::Receiver<Bytes>) -> (Option<Bytes>, watch::Receiver<Bytes>) {
    let event = from.changed().await.is_ok().then(|| from.borrow_and_update().clone());
    (event, from)
}

/// The body of the answer: an event each second.
pub(super) struct Stream {
    next: ReusableBoxFuture<'static, (Option<Bytes>, watch::Receiver<Bytes>)>,
    until: Pin<Box<Sleep>>,
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.until.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        match self.next.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready((None, _)) => Poll::Ready(None),
            Poll::Ready((Some(event), from)) => {
                self.next.set(next(from));
                Poll::Ready(Some(Ok(Frame::data(event))))
            }
        }
    }
}

/// One event in the form of the standard: `data: ` and a line of JSON.
fn event(registry: &Metrics, console: &Console, started: SystemTime, now: Instant) -> Bytes {
    format!("data: {}\n\n", picture(registry, console, started, now)).into()
}

/// Everything that is shown.
fn picture(registry: &Metrics, console: &Console, started: SystemTime, now: Instant) -> Value {
    let (overview, published) = (registry.overview(), console.published());
    let at = SystemTime::now();
    let own = published.credentials.first().and_then(|own| own["spiffe_id"].as_str()?.parse().ok());
    let workload = published.config.workload.or_of(own.as_ref());
    json!({
        "at": moment(at),
        "at_ms": at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
        "uptime_s": at.duration_since(started).unwrap_or_default().as_secs(),
        "version": env!("CARGO_PKG_VERSION"),
        "workload": {
            "name": workload.name,
            "namespace": workload.namespace,
            "zone": workload.zone,
        },
        "services": overview.services.iter().map(service).collect::<Vec<_>>(),
        "callers": overview.callers.iter().map(|of| json!({ "peer": of.peer, "requests": of.requests, "failed": of.failed })).collect::<Vec<_>>(),
        "overhead": overview.overhead.iter().map(|(direction, of)| json!({ "direction": direction.as_str(), "latency": latency(of) })).collect::<Vec<_>>(),
        "connections_open": overview.connections_open,
        "clusters": endpoints(console, &overview, now),
        "certificates": console.certificates(),
        "failures": console.timelines.as_ref().map(|kept| requests::failures(kept, FAILURES)),
        "config": config::summary(&published, console.store.load().generation),
    })
}

fn service(of: &ServiceOverview) -> Value {
    json!({
        "name": of.name,
        "direction": of.direction,
        "requests": of.requests,
        "failed": of.failed,
        "failures": of.failures,
        "active": of.active,
        "latency": latency(&of.latency),
        "retries": of.retries,
        "rejections": of.rejections,
        "ejections": of.ejections,
        "endpoints": of.endpoints,
        "bytes": of.bytes,
    })
}

/// In seconds. The bucket without an upper bound is left out; `count` has it.
fn latency(of: &Latency) -> Value {
    let buckets: Vec<_> = of.buckets.iter().filter(|(bound, _)| bound.is_finite()).collect();
    json!({ "buckets": buckets, "sum": of.sum, "count": of.count })
}

/// The endpoints and limits of the services in use.
fn endpoints(console: &Console, overview: &Overview, now: Instant) -> Vec<Value> {
    let used = overview.services.iter().filter(|of| of.direction == "outbound").take(DETAILED);
    let pages = used.filter_map(|of| clusters::page(console, Some(&of.name), now.into_std()).ok());
    let mut all: Vec<Value> = pages.filter_map(|mut page| page["clusters"].as_array_mut()?.pop()).collect();
    for cluster in &mut all {
        if let Some(endpoints) = cluster["endpoints"].as_array_mut() {
            let left_out = endpoints.len().saturating_sub(ENDPOINTS);
            endpoints.truncate(ENDPOINTS);
            cluster["endpoints_left_out"] = left_out.into();
        }
    }
    all
}
