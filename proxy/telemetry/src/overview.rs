//! The metrics in sum, for the dashboard and for `pillion top`: by service and by caller. The numbers are those of the
//! exposition.

use std::collections::BTreeMap;

use super::families::Families;
use super::family::{Histogram, buckets};
use super::labels::{EjectionCause, EndpointState, Flow, Label, LimitLabel, RetryOutcome, Service};
use super::symbols::Symbols;
use pillion_model::Direction;

/// The most services and callers that an overview has: those with the most requests.
const MOST: usize = 200;

/// Totals since the start of the process.
#[derive(Debug, Default)]
pub struct Overview {
    pub services: Vec<ServiceOverview>,
    pub callers: Vec<CallerOverview>,
    /// Time that requests spent in the sidecar itself, by direction.
    pub overhead: Vec<(Direction, Latency)>,
    pub connections_open: i64,
}

/// One service in one direction.
#[derive(Debug, Default)]
pub struct ServiceOverview {
    pub name: String,
    pub direction: &'static str,
    pub requests: u64,
    pub failed: u64,
    /// Failed requests by the status, or by the reason where a sidecar answered.
    pub failures: BTreeMap<String, u64>,
    pub active: i64,
    pub latency: Latency,
    pub retries: BTreeMap<&'static str, u64>,
    pub rejections: BTreeMap<&'static str, u64>,
    pub ejections: u64,
    pub endpoints: BTreeMap<&'static str, i64>,
    pub bytes: BTreeMap<&'static str, u64>,
}

/// One workload that calls the application.
#[derive(Debug, Default)]
pub struct CallerOverview {
    /// The SPIFFE ID; empty for callers without one.
    pub peer: String,
    pub requests: u64,
    pub failed: u64,
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
        let callers = add_requests(families, symbols, &mut services);
        add_series(families, symbols, &mut services);
        let mut services: Vec<_> = services.into_values().collect();
        services.sort_by_key(|service| std::cmp::Reverse(service.requests));
        services.truncate(MOST);
        let mut overview = Self { services, callers, ..Self::default() };
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
        let (count, is_failure) = (counter.get(), labels.reason.is_some() || labels.status >= 500);
        let failed = if is_failure { count } else { 0 };
        let of = entry(services, labels.direction, Service(labels.service), symbols);
        (of.requests, of.failed) = (of.requests + count, of.failed + failed);
        if is_failure {
            let why =
                labels.reason.map_or_else(|| labels.status.to_string(), |reason| reason.code().to_owned());
            *of.failures.entry(why).or_default() += count;
        }
        if labels.direction == Direction::Inbound {
            let peer = symbols.name(labels.peer).to_string();
            let of = callers.entry(peer.clone()).or_default();
            (of.peer, of.requests, of.failed) = (peer, of.requests + count, of.failed + failed);
        }
    });
    let mut callers: Vec<_> = callers.into_values().collect();
    callers.sort_by_key(|caller| std::cmp::Reverse(caller.requests));
    callers.truncate(MOST);
    callers
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
    // these have no direction: the application's are those of the inbound side
    let mut of = |service: Service, change: &mut dyn FnMut(&mut ServiceOverview)| {
        let name = service.value(symbols);
        services.iter_mut().filter(|((_, known), _)| *known == name).for_each(|(_, of)| change(of));
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
