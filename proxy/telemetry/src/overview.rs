//! The metrics in sum, for the dashboard and for `pillion top`: by service and by caller. The numbers are those of the
//! exposition.

mod companions;

use std::collections::BTreeMap;

pub use companions::{CacheOverview, LogsOverview};

use super::families::Families;
use super::family::{Histogram, buckets};
use super::labels::{
    EjectionCause, EndpointState, Flow, Label, LimitLabel, RequestLabels, RetryOutcome, Service,
};
use super::symbols::{Symbol, Symbols};
use super::timeline::is_failure;
use pillion_model::{Direction, Reason};

/// The most services and callers that an overview has, each. [`Overview::sums`] has all of them.
const MOST: usize = 200;

/// Totals since the start of the process.
#[derive(Debug, Default)]
pub struct Overview {
    /// Those in trouble first, and of the others those with the most requests.
    pub services: Vec<ServiceOverview>,
    /// Those with the most requests.
    pub callers: Vec<CallerOverview>,
    pub callers_left_out: usize,
    /// The totals of all services, by direction.
    pub sums: BTreeMap<&'static str, Sum>,
    /// Time that requests spent in the sidecar itself, by direction.
    pub overhead: Vec<(Direction, Latency)>,
    pub connections_open: i64,
    pub logs: Vec<LogsOverview>,
    /// By the name of the service.
    pub caches: BTreeMap<String, CacheOverview>,
}

/// The services of one direction together.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub services: usize,
    pub requests: u64,
    pub failed: u64,
    pub client_gone: u64,
    pub active: i64,
    pub retries: BTreeMap<&'static str, u64>,
    pub rejections: BTreeMap<&'static str, u64>,
}

impl Sum {
    fn add(&mut self, of: &ServiceOverview) {
        self.services += 1;
        self.requests += of.requests;
        self.failed += of.failed;
        self.client_gone += of.client_gone;
        self.active += of.active;
        of.retries.iter().for_each(|(&word, count)| *self.retries.entry(word).or_default() += count);
        of.rejections.iter().for_each(|(&word, count)| *self.rejections.entry(word).or_default() += count);
    }
}

/// One service in one direction.
#[derive(Debug, Default)]
pub struct ServiceOverview {
    pub name: String,
    pub direction: &'static str,
    pub requests: u64,
    pub failed: u64,
    /// Requests whose client left before the end. They are not failed ones.
    pub client_gone: u64,
    /// Failed requests by the status, as `grpc 14` by that of gRPC, or by the reason where this sidecar answered.
    pub failures: BTreeMap<String, u64>,
    pub active: i64,
    pub latency: Latency,
    pub retries: BTreeMap<&'static str, u64>,
    pub rejections: BTreeMap<&'static str, u64>,
    pub ejections: u64,
    pub endpoints: BTreeMap<&'static str, i64>,
    pub bytes: BTreeMap<&'static str, u64>,
}

impl ServiceOverview {
    /// Whether a reader has to see it, however few requests it has: some of its endpoints are out, or requests failed.
    fn trouble(&self) -> (bool, bool) {
        let out = [EndpointState::Unhealthy, EndpointState::Ejected];
        let is_out =
            out.iter().any(|state| self.endpoints.get(state.as_str()).is_some_and(|count| *count > 0));
        (is_out, self.failed > 0)
    }
}

/// One workload that calls the application.
#[derive(Debug, Default)]
pub struct CallerOverview {
    /// The SPIFFE ID; empty for callers without one.
    pub peer: String,
    pub requests: u64,
    pub failed: u64,
    /// Requests that the caller abandoned.
    pub client_gone: u64,
}

/// How requests with the same labels ended.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    Done,
    /// With the word under which [`ServiceOverview::failures`] counts them.
    Failed(String),
    ClientGone,
}

impl Ending {
    fn of(labels: &RequestLabels) -> Self {
        match (labels.reason, labels.grpc_status) {
            (Some(Reason::ClientGone), _) => Self::ClientGone,
            _ if !is_failure(labels.reason, labels.status, labels.grpc_status) => Self::Done,
            (Some(reason), _) => Self::Failed(reason.code().to_owned()),
            (None, Some(code)) if labels.status < 500 => Self::Failed(format!("grpc {code}")),
            (None, _) => Self::Failed(labels.status.to_string()),
        }
    }
}

/// A histogram of seconds.
#[derive(Debug, Default, Clone)]
pub struct Latency {
    /// Upper bounds with the number of values up to each of them.
    pub buckets: Vec<(f64, u64)>,
    pub sum: f64,
    pub count: u64,
}

impl Latency {
    fn of(histogram: &Histogram) -> Self {
        Self {
            buckets: buckets(histogram),
            sum: histogram.get_sample_sum(),
            count: histogram.get_sample_count(),
        }
    }
}

type Services = BTreeMap<(Direction, String), ServiceOverview>;

impl Overview {
    pub(super) fn of(families: &Families, symbols: &Symbols) -> Self {
        let mut services = Services::new();
        let mut callers = add_requests(families, symbols, &mut services);
        add_series(families, symbols, &mut services);
        let mut services: Vec<_> = services.into_values().collect();
        let mut sums = BTreeMap::<_, Sum>::new();
        services.iter().for_each(|of| sums.entry(of.direction).or_default().add(of));
        services.sort_by_key(|service| std::cmp::Reverse((service.trouble(), service.requests)));
        services.truncate(MOST);
        callers.sort_by_key(|caller| std::cmp::Reverse(caller.requests));
        let callers_left_out = callers.len().saturating_sub(MOST);
        callers.truncate(MOST);
        let (logs, caches) = (companions::logs(families, symbols), companions::caches(families, symbols));
        let mut overview =
            Self { services, callers, callers_left_out, sums, logs, caches, ..Self::default() };
        families
            .overhead
            .each(|(direction,), handle| overview.overhead.push((direction, Latency::of(handle))));
        families.connections_active.each(|_, gauge| overview.connections_open += gauge.get());
        overview
    }
}

/// Adds the requests to their services, and returns the callers.
fn add_requests(families: &Families, symbols: &Symbols, services: &mut Services) -> Vec<CallerOverview> {
    let mut callers: BTreeMap<String, CallerOverview> = BTreeMap::new();
    families.requests.each(|labels, counter| {
        let (count, ending) = (counter.get(), Ending::of(&labels));
        let failed = if matches!(ending, Ending::Failed(_)) { count } else { 0 };
        let gone = if ending == Ending::ClientGone { count } else { 0 };
        let of = entry(services, labels.direction, Service(labels.service), symbols);
        (of.requests, of.failed, of.client_gone) =
            (of.requests + count, of.failed + failed, of.client_gone + gone);
        if let Ending::Failed(why) = ending {
            *of.failures.entry(why).or_default() += count;
        }
        if labels.direction == Direction::Inbound {
            let peer = symbols.name(labels.peer).to_string();
            let of = callers.entry(peer.clone()).or_default();
            of.peer = peer;
            (of.requests, of.failed, of.client_gone) =
                (of.requests + count, of.failed + failed, of.client_gone + gone);
        }
    });
    callers.into_values().collect()
}

/// Adds what is counted for each service.
fn add_series(families: &Families, symbols: &Symbols, services: &mut Services) {
    families.duration.each(|(direction, service), handle| {
        entry(services, direction, service, symbols).latency = Latency::of(handle);
    });
    families.active.each(|(direction, service), gauge| {
        entry(services, direction, service, symbols).active = gauge.get();
    });
    families.bytes.each(|(direction, service, flow): (_, _, Flow), counter| {
        entry(services, direction, service, symbols).bytes.insert(flow.as_str(), counter.get());
    });
    // these have no label `direction`: the application's belong to the inbound side, and all others to the outbound side
    let mut of = |service: Service, change: &mut dyn FnMut(&mut ServiceOverview)| {
        let is_app = service.0 == Symbol::APP;
        let direction = if is_app { Direction::Inbound } else { Direction::Outbound };
        services.get_mut(&(direction, service.value(symbols))).into_iter().for_each(change);
    };
    families.retries.each(|(service, outcome): (_, RetryOutcome), counter| {
        of(service, &mut |of| *of.retries.entry(outcome.as_str()).or_default() = counter.get());
    });
    families.breaker_rejections.each(|(service, limit): (_, LimitLabel), counter| {
        of(service, &mut |of| *of.rejections.entry(limit.as_str()).or_default() = counter.get());
    });
    families.ejections.each(|(service, _): (_, EjectionCause), counter| {
        of(service, &mut |of| of.ejections += counter.get());
    });
    families.endpoints.each(|(service, state): (_, EndpointState), gauge| {
        of(service, &mut |of| *of.endpoints.entry(state.as_str()).or_default() = gauge.get());
    });
}

fn entry<'a>(
    services: &'a mut Services,
    direction: Direction,
    service: Service,
    symbols: &Symbols,
) -> &'a mut ServiceOverview {
    let name = service.value(symbols);
    services.entry((direction, name.clone())).or_insert_with(|| ServiceOverview {
        name,
        direction: direction.as_str(),
        ..ServiceOverview::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MethodLabel, Metrics};

    fn labels(status: u16, grpc_status: Option<u8>, reason: Option<Reason>) -> RequestLabels {
        RequestLabels {
            direction: Direction::Inbound,
            service: Symbol::APP,
            route: Symbol::EMPTY,
            method: MethodLabel::Post,
            status,
            grpc_status,
            reason,
            peer: Symbol::EMPTY,
        }
    }

    #[test]
    fn a_status_of_grpc_that_blames_the_server_counts_as_failed_and_a_client_that_left_does_not() {
        let metrics = Metrics::new(1_000);
        for code in 0..=16 {
            metrics.requests(labels(200, Some(code), None)).inc();
        }
        metrics.requests(labels(404, None, None)).inc();
        metrics.requests(labels(500, None, None)).inc();
        metrics.requests(labels(429, None, Some(Reason::RateLimited))).inc();
        metrics.requests(labels(499, None, Some(Reason::ClientGone))).inc_by(3);
        let overview = metrics.overview();
        let (app, caller) = (&overview.services[0], &overview.callers[0]);
        assert_eq!((app.requests, app.failed, app.client_gone), (23, 7, 3));
        assert_eq!((caller.requests, caller.failed, caller.client_gone), (23, 7, 3));
        let expected = ["500", "grpc 13", "grpc 14", "grpc 15", "grpc 2", "grpc 4", "rate_limited"];
        assert_eq!(app.failures.keys().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_service_in_trouble_is_never_left_out_and_the_sums_have_all_services() {
        let metrics = Metrics::new(5_000);
        for number in 0..MOST + 50 {
            let service = metrics.intern(&format!("busy-{number}"));
            let direction = Direction::Outbound;
            metrics.requests(RequestLabels { direction, service, ..labels(200, None, None) }).inc_by(100);
        }
        let [fails, out] = ["fails", "out"].map(|name| metrics.intern(name));
        for (service, status) in [(fails, 503), (out, 200)] {
            let direction = Direction::Outbound;
            metrics.requests(RequestLabels { direction, service, ..labels(status, None, None) }).inc();
        }
        metrics.service(Direction::Outbound, out).endpoints(EndpointState::Ejected).set(1);
        let overview = metrics.overview();
        let first: Vec<_> = overview.services.iter().take(2).map(|of| &*of.name).collect();
        assert_eq!((overview.services.len(), first), (MOST, vec!["out", "fails"]));
        let sum = &overview.sums["outbound"];
        assert_eq!((sum.services, sum.requests, sum.failed), (MOST + 52, 25_002, 1));
    }

    #[test]
    fn retries_and_endpoints_are_those_of_the_outbound_side_and_the_application_has_its_own() {
        let metrics = Metrics::new(1_000);
        let orders = metrics.intern("orders");
        for direction in [Direction::Inbound, Direction::Outbound] {
            metrics.requests(RequestLabels { direction, service: orders, ..labels(200, None, None) }).inc();
        }
        let service = metrics.service(Direction::Outbound, orders);
        service.retries(RetryOutcome::Succeeded).inc_by(2);
        service.breaker_rejections(LimitLabel::Requests).inc_by(3);
        service.ejections(EjectionCause::ErrorRate).inc_by(4);
        service.endpoints(EndpointState::Healthy).set(5);
        let app = metrics.service(Direction::Inbound, Symbol::APP);
        metrics.requests(labels(200, None, None)).inc();
        app.retries(RetryOutcome::Replaced).inc_by(6);
        let overview = metrics.overview();
        let of = |direction, name| {
            let found = overview.services.iter().find(|of| (of.direction, &*of.name) == (direction, name));
            let of = found.expect("a service");
            let sum = |words: &BTreeMap<&'static str, u64>| words.values().sum::<u64>();
            (sum(&of.retries), sum(&of.rejections), of.ejections, of.endpoints.values().sum::<i64>())
        };
        assert_eq!(of("outbound", "orders"), (2, 3, 4, 5));
        assert_eq!(of("inbound", "orders"), (0, 0, 0, 0));
        assert_eq!(of("inbound", "app"), (6, 0, 0, 0));
    }
}
