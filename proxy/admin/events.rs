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
use pillion_telemetry::overview::{CallerOverview, Latency, Overview, ServiceOverview};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_util::sync::ReusableBoxFuture;

use super::console::Console;
use super::info::{self, Started};
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
    started: Started,
}

pub(super) fn events(registry: Arc<Metrics>, console: Arc<Console>, started: Started) -> (Events, Publisher) {
    let to = Arc::new(Channel { latest: watch::Sender::new(Bytes::new()), wanted: Notify::new() });
    (Events(to.clone()), Publisher { registry, console, to, started })
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
            let made =
                tokio::task::spawn_blocking(move || event(&registry, &console, started, Instant::now()));
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
fn event(registry: &Metrics, console: &Console, started: Started, now: Instant) -> Bytes {
    format!("data: {}\n\n", picture(registry, console, started, now)).into()
}

/// Everything that is shown.
fn picture(registry: &Metrics, console: &Console, started: Started, now: Instant) -> Value {
    let (overview, published) = (registry.overview(), console.published());
    let at = SystemTime::now();
    let (workload, _) = info::workload(&published);
    json!({
        "at": moment(at),
        "at_ms": since_1970(at),
        "started_ms": since_1970(started.at),
        "uptime_ms": now.saturating_duration_since(started.instant).as_millis() as u64,
        "version": env!("CARGO_PKG_VERSION"),
        "workload": {
            "name": workload.name,
            "namespace": workload.namespace,
            "zone": workload.zone,
        },
        "services": overview.services.iter().map(service).collect::<Vec<_>>(),
        "callers": overview.callers.iter().map(caller).collect::<Vec<_>>(),
        "overhead": overview.overhead.iter().map(|(direction, of)| json!({ "direction": direction.as_str(), "latency": latency(of) })).collect::<Vec<_>>(),
        "connections_open": overview.connections_open,
        "clusters": endpoints(console, &overview, now),
        "certificates": console.certificates(),
        "failures": console.timelines.as_ref().map(|kept| requests::failures(kept, FAILURES)),
        "config": config::summary(&published, console.store.load().generation),
    })
}

fn since_1970(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

fn caller(of: &CallerOverview) -> Value {
    json!({ "peer": of.peer, "requests": of.requests, "failed": of.failed, "client_gone": of.client_gone })
}

fn service(of: &ServiceOverview) -> Value {
    json!({
        "name": of.name,
        "direction": of.direction,
        "requests": of.requests,
        "failed": of.failed,
        "client_gone": of.client_gone,
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
    let mut all = clusters::named(console, used.map(|of| &*of.name), now.into_std());
    for cluster in &mut all {
        if let Some(endpoints) = cluster["endpoints"].as_array_mut() {
            let left_out = endpoints.len().saturating_sub(ENDPOINTS);
            endpoints.truncate(ENDPOINTS);
            cluster["endpoints_left_out"] = left_out.into();
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use http_body_util::BodyExt as _;
    use pillion_base::drain::Drain;

    use super::*;

    fn console(registry: &Arc<Metrics>) -> Arc<Console> {
        let file = "inbound: off\nservices:\n  billing: { endpoints: [\"10.0.0.1:80\"] }\n  orders: { endpoints: [\"10.0.0.2:80\"] }\n";
        let (config, _) = pillion_config::parse(file, Path::new("")).expect("a good file");
        Console::new(crate::app::store(&config, registry), None, Arc::default(), Drain::default()).0
    }

    async fn read(stream: &mut Stream) -> Value {
        let frame = stream.frame().await.expect("an event").unwrap_or_else(|never| match never {});
        let data = frame.into_data().expect("data");
        serde_json::from_slice(data.strip_prefix(b"data: ").expect("the form of the standard")).expect("JSON")
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_has_the_start_of_its_process_and_the_time_that_passed_since() {
        let registry = Metrics::new(1_000);
        let (events, publisher) = events(registry.clone(), console(&registry), Started::now());
        tokio::time::advance(Duration::from_secs(90)).await;
        let mut stream = events.stream();
        tokio::spawn(publisher.run());
        let [first, second] = [read(&mut stream).await, read(&mut stream).await];
        let uptime = |event: &Value| event["uptime_ms"].as_u64().expect("a number");
        assert!((90_000..90_100).contains(&uptime(&first)), "{first:#}");
        assert!((1_000..1_100).contains(&(uptime(&second) - uptime(&first))), "{second:#}");
        assert!(first["started_ms"].is_u64() && first["started_ms"] == second["started_ms"], "{second:#}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_has_the_endpoints_of_the_services_in_use_in_their_order() {
        let registry = Metrics::new(1_000);
        let console = console(&registry);
        let service = |name: &str| ServiceOverview {
            name: name.to_owned(),
            direction: "outbound",
            ..Default::default()
        };
        let services = ["orders", "passthrough", "billing"].map(service).into();
        let shown = endpoints(&console, &Overview { services, ..Overview::default() }, Instant::now());
        let found: Vec<_> = shown.iter().map(|of| (&of["name"], &of["endpoints"][0]["address"])).collect();
        assert_eq!(json!(found), json!([["orders", "10.0.0.2:80"], ["billing", "10.0.0.1:80"]]));
        assert_eq!(shown[0]["endpoints_from"], "static");
    }
}
