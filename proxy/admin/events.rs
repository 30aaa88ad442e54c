//! `/events`: what the dashboard and `pillion top` show, once a second, as server-sent events.
//!
//! One event is made for all clients, on a thread of its own, and only while there is a client. A client that does not
//! read misses events, and holds none of them in memory.

mod companions;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use hyper::body::{Body, Bytes, Frame};
use pillion_telemetry::Metrics;
use pillion_telemetry::overview::{CallerOverview, Latency, Overview, ServiceOverview, Sum};
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
/// How many endpoints of one service an event has: those first that do not get all requests.
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
    let outbound = overview.sums.get("outbound").map_or(0, |of| of.services);
    let services: usize = overview.sums.values().map(|of| of.services).sum();
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
        "sides": {
            "inbound": published.config.inbound.is_some(),
            "outbound": published.config.outbound.is_some(),
        },
        "services": overview.services.iter().map(service).collect::<Vec<_>>(),
        "services_left_out": services.saturating_sub(overview.services.len()),
        "sums": overview.sums.iter().map(sum).collect::<Vec<_>>(),
        "callers": overview.callers.iter().map(caller).collect::<Vec<_>>(),
        "callers_left_out": overview.callers_left_out,
        "overhead": overview.overhead.iter().map(|(direction, of)| json!({ "direction": direction.as_str(), "latency": latency(of) })).collect::<Vec<_>>(),
        "connections_open": overview.connections_open,
        "clusters": endpoints(console, &overview, now),
        "clusters_left_out": outbound.saturating_sub(detailed(&overview).count()),
        "companions": companions::picture(console, registry.companions(), &overview),
        "certificates": console.certificates(),
        "failures": console.timelines.as_ref().map(|kept| requests::failures(kept, FAILURES)),
        "config": config::summary(&published, console.store.load().generation),
    })
}

fn since_1970(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

fn sum((direction, of): (&&'static str, &Sum)) -> Value {
    json!({
        "direction": direction,
        "services": of.services,
        "requests": of.requests,
        "failed": of.failed,
        "client_gone": of.client_gone,
        "active": of.active,
        "retries": of.retries,
        "rejections": of.rejections,
    })
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

/// The services whose endpoints an event has.
fn detailed(overview: &Overview) -> impl Iterator<Item = &ServiceOverview> {
    overview.services.iter().filter(|of| of.direction == "outbound").take(DETAILED)
}

/// The endpoints and limits of the services in use.
fn endpoints(console: &Console, overview: &Overview, now: Instant) -> Vec<Value> {
    let used = detailed(overview).map(|of| &*of.name);
    let mut all = clusters::named(console, used, now.into_std());
    all.iter_mut().for_each(shorten);
    all
}

/// Counts the endpoints of a service by their state, and leaves out what is beyond [`ENDPOINTS`]: healthy ones first.
fn shorten(cluster: &mut Value) {
    let Some(endpoints) = cluster["endpoints"].as_array_mut() else { return };
    let mut states = BTreeMap::<String, usize>::new();
    for endpoint in &*endpoints {
        *states.entry(endpoint["state"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    endpoints.sort_by_key(|endpoint| urgency(&endpoint["state"]));
    let left_out = endpoints.len().saturating_sub(ENDPOINTS);
    endpoints.truncate(ENDPOINTS);
    cluster["endpoints_left_out"] = left_out.into();
    cluster["endpoints_by_state"] = json!(states);
}

/// The place of a state among others: what a reader has to see comes first.
fn urgency(state: &Value) -> u8 {
    match state.as_str() {
        Some("healthy") => 2,
        Some("probing") => 1,
        _ => 0,
    }
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

    #[test]
    fn an_endpoint_that_is_ejected_is_shown_however_many_healthy_ones_there_are() {
        let state = |number| match number {
            60 => "ejected",
            65 => "probing",
            _ => "healthy",
        };
        let all: Vec<_> =
            (0..70).map(|number| json!({ "address": number, "state": state(number) })).collect();
        let mut cluster = json!({ "endpoints": all });
        shorten(&mut cluster);
        let endpoints = cluster["endpoints"].as_array().expect("a list");
        let first: Vec<_> = endpoints.iter().take(4).map(|of| of["address"].clone()).collect();
        assert_eq!((endpoints.len(), json!(first)), (ENDPOINTS, json!([60, 65, 0, 1])));
        assert_eq!(cluster["endpoints_left_out"], 20);
        assert_eq!(cluster["endpoints_by_state"], json!({ "healthy": 68, "probing": 1, "ejected": 1 }));
    }
}
