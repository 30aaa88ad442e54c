//! Functions for `benches/decisions.rs`, `benches/control.rs` and the fuzz targets: frequent decisions, updates of
//! endpoints and the parser of DNS messages. With them the modules themselves stay private.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use pillion_model::cluster::{HashKey, LoadBalancer};
use pillion_model::policy::{Retry, RetryBudget};
use pillion_model::route::{PathMatch, RouteMatch};
use pillion_model::{Endpoint as Spec, EndpointUpdate};

use crate::app::App;
use pillion_base::limits::Limit;
use pillion_http::headers;
use pillion_http::message::{Headers, RequestHead};
use pillion_http::seen::Seen;
use pillion_model::{Direction, Workload};
use pillion_sidecar::detect::bytes::Reader;
use pillion_sidecar::layers::verdict::{RetryState, RetrySubject, TryOutcome};
use pillion_sidecar::state::{HostTable, Route, Rule, RuleTable, Split, Then};
use pillion_telemetry::access::{Record, RequestRecord, protocol_name};
use pillion_telemetry::{MethodLabel, Metrics, Recorder, RequestLabels, Symbol};
use pillion_upstream::cluster::alike::Policies;
use pillion_upstream::cluster::balance::{Balancer, Candidate, Tried};
use pillion_upstream::cluster::budget::Budget;
use pillion_upstream::cluster::hashing::KeyHash;
use pillion_upstream::cluster::update::written;
use pillion_upstream::cluster::{Cluster, ClusterContext};

/// A decision with its name, which may be called any number of times.
pub type Decision = (String, Box<dyn FnMut()>);

struct Endpoint(usize);

impl Candidate for Endpoint {
    fn id(&self) -> usize {
        self.0
    }
    fn address(&self) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], 1 + self.0 as u16))
    }
    fn weight(&self) -> NonZeroU32 {
        NonZeroU32::MIN
    }
    fn in_flight(&self) -> u32 {
        1
    }
    fn latency(&self, _: Instant) -> Option<f64> {
        Some(1.0)
    }
    fn is_usable(&self, _: Instant) -> bool {
        true
    }
    fn ready_for(&self, _: Instant) -> Option<Duration> {
        None
    }
}

/// Reads and answers any bytes as the DNS proxy would, without a socket.
pub fn dns_message(bytes: &[u8]) {
    crate::dns::read_any_message(bytes);
}

/// All decisions that are measured.
pub fn decisions() -> Vec<Decision> {
    let mut all: Vec<Decision> = [1, 10_000].map(find_host).into();
    all.extend([10, 10_000].map(find_route));
    let rules = [
        LoadBalancer::PeakEwma,
        LoadBalancer::LeastRequest,
        LoadBalancer::RoundRobin,
        LoadBalancer::Random,
        LoadBalancer::RingHash(Box::new(HashKey::Path)),
        LoadBalancer::Maglev(Box::new(HashKey::Path)),
    ];
    all.extend(rules.into_iter().flat_map(|rule| [1, 3, 100, 1000].map(|endpoints| pick(&rule, endpoints))));
    all.extend([budget(), limit(), count(), request_id(), survey(), detect(), access_line()]);
    all.extend([http::StatusCode::OK, http::StatusCode::SERVICE_UNAVAILABLE].map(verdict));
    all
}

/// Each call is one update: the three endpoints of one service among many are replaced in part, and one of them is new.
///
/// # Errors
/// The sidecar cannot be built.
pub fn endpoint_updates(services: usize) -> anyhow::Result<impl FnMut()> {
    let mut text =
        "inbound: off\nadmin: { listen: 127.0.0.1:0 }\nmetrics: off\noutbound: { listen: 127.0.0.1:0 }\n\
                    services:\n  moving: { endpoints: { dns: \"moving:80\" } }\n"
            .to_owned();
    for nth in 1..services {
        text += &format!("  s{nth}: {{ endpoints: [\"127.0.0.1:{}\"] }}\n", 1 + nth % 60_000);
    }
    let parsed = pillion_config::parse(&text, std::path::Path::new("."));
    let (config, _) = parsed.map_err(|faults| anyhow::anyhow!("{faults}"))?;
    let controller = App::build(config)?.into_controller();
    let mut turn = 0_u8;
    Ok(move || {
        turn = turn.wrapping_add(1);
        let address = |offset: u8| SocketAddr::from(([10, 0, 0, turn.wrapping_add(offset)], 80));
        let update = EndpointUpdate::known("moving", [0, 1, 2].map(|offset| Spec::at(address(offset))));
        controller.learn(update);
    })
}

fn named(name: impl Into<String>, decision: impl FnMut() + 'static) -> Decision {
    (name.into(), Box::new(decision))
}

fn find_host(hosts: usize) -> Decision {
    let text = (0..hosts).fold("services:\n".to_owned(), |text, n| {
        format!("{text}  s{n}: {{ endpoints: [\"127.0.0.1:{}\"] }}\n", 1 + n % 60_000)
    });
    let config =
        pillion_config::parse(&text, std::path::Path::new(".")).map(|(config, _)| config).unwrap_or_default();
    let (mut table, mut policies) = (HostTable::default(), Policies::default());
    let common = ClusterContext::new(&Metrics::new(20_000), 1);
    for cluster in &config.clusters {
        let route =
            Route::to(Cluster::service(cluster, written(cluster), None, None, &mut policies, &common));
        cluster.hosts.iter().for_each(|host| table.add(host, &route));
    }
    named(format!("find a host among {hosts}"), move || {
        std::hint::black_box(table.find(std::hint::black_box("s0:8080")));
    })
}

/// The last of so many routes of one host, all with a prefix.
fn find_route(routes: usize) -> Decision {
    let rule = |nth| {
        let path = Some(PathMatch::Prefix(format!("/api/v{nth}")));
        let matches = RouteMatch { path, ..RouteMatch::default() };
        Arc::new(Rule { nth, matches, then: Then::To(Split::new([])) })
    };
    let table: RuleTable = (0..routes).map(rule).collect();
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.uri = format!("/api/v{}/orders/17?page=2", routes - 1).parse().unwrap_or_default();
    let head = RequestHead::from(parts);
    named(format!("find a route among {routes} of a host"), move || {
        std::hint::black_box(table.find(std::hint::black_box(&head)));
    })
}

fn pick(rule: &LoadBalancer, count: usize) -> Decision {
    let endpoints: Vec<_> = (0..count).map(|id| Arc::new(Endpoint(id))).collect();
    let balancer = Balancer::new(rule, None, &endpoints);
    let key = rule.hash_key().map(|_| KeyHash::of(b"/orders/17"));
    let (now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(7));
    named(format!("pick one of {count} by {rule:?}"), move || {
        std::hint::black_box(balancer.pick(&endpoints, &Tried::default(), key, now, &mut rng));
    })
}

fn budget() -> Decision {
    let now = Instant::now();
    let budget = Budget::new(&RetryBudget { ratio: 0.2, min_per_second: 10 }, now);
    named("deposit into the retry budget", move || budget.deposit(now))
}

fn limit() -> Decision {
    let limit = Limit::new("max_requests", 1024);
    named("take and give back a permit", move || drop(std::hint::black_box(limit.try_acquire())))
}

fn count() -> Decision {
    let mut recorder = Recorder::new(Metrics::new(20_000));
    let labels = RequestLabels {
        direction: Direction::Outbound,
        service: Symbol::EMPTY,
        route: Symbol::EMPTY,
        method: MethodLabel::Get,
        status: 200,
        grpc_status: None,
        reason: None,
        peer: Symbol::EMPTY,
    };
    named("count a request", move || recorder.count(std::hint::black_box(labels)))
}

fn request_id() -> Decision {
    let (headers, mut rng) = (Headers::default(), fastrand::Rng::with_seed(7));
    named("make a request id", move || {
        std::hint::black_box(headers::request_id(&headers, &Seen::default(), &mut rng));
    })
}

fn survey() -> Decision {
    let names = ["host", "accept", "user-agent", "x-request-id", "x-forwarded-proto", "content-type"];
    let value = http::HeaderValue::from_static("1");
    let headers = names.into_iter().map(|name| (http::HeaderName::from_static(name), value.clone()));
    let headers = Headers::Map(headers.collect());
    named("look through six headers", move || {
        std::hint::black_box(Seen::of(std::hint::black_box(&headers)));
    })
}

fn detect() -> Decision {
    named("tell HTTP/1 from HTTP/2", || {
        std::hint::black_box(Reader::new(64 * 1024).look(std::hint::black_box(b"GET / HTTP/1.1\r\n")));
    })
}

fn verdict(status: http::StatusCode) -> Decision {
    let retry = Retry::default();
    named(format!("judge an answer with status {}", status.as_u16()), move || {
        let subject =
            RetrySubject { retry: Some(&retry), method: &http::Method::GET, keyed: false, marked: false };
        let progress = RetryState { tries: 1, replaced: 0, stale_replaced: false, whole: true };
        let outcome = TryOutcome::Answered { status: std::hint::black_box(status), grpc: None };
        std::hint::black_box(subject.judge(progress, outcome));
    })
}

fn access_line() -> Decision {
    let (mut line, workload) = (Vec::new(), Workload::default());
    named("write an access line", move || {
        let request = RequestRecord {
            method: "GET",
            path: b"/orders/7?full=1",
            host: b"orders.shop.svc.cluster.local",
            request_id: b"0f8fad5b-d9cb-469f-a165-70867728950e",
            status: 200,
            ..RequestRecord::default()
        };
        let record = Record {
            time: SystemTime::now(),
            direction: Direction::Outbound,
            service: "orders",
            route: "",
            protocol: protocol_name(http::Version::HTTP_11),
            request,
            reason: None,
            detail: "",
            peer: "spiffe://cluster.local/ns/shop/sa/orders",
            downstream: Some(SocketAddr::from(([127, 0, 0, 1], 40_000))),
            upstream: Some(SocketAddr::from(([10, 0, 1, 10], 15_006))),
            bytes_in: 0,
            bytes_out: 1024,
            duration: Duration::from_micros(1_234),
            upstream_duration: Some(Duration::from_micros(1_100)),
            attempts: 1,
            authorization: None,
            rule: "",
        };
        line.clear();
        std::hint::black_box(&record).write_to(&mut line, &workload);
    })
}
