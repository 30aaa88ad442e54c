//! Removes the series of what is gone, so that what is in use can have its own.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Metrics;
use crate::service::ServiceMetrics;
use crate::symbols::Symbol;

/// How long the series of an endpoint that left its service are exported: several scrapes of each Prometheus replica,
/// whose usual interval is a minute at most.
const LEFT_FOR: Duration = Duration::from_mins(5);

/// The service and the address of an endpoint.
pub type EndpointKey = (Symbol, SocketAddr);

/// What was noticed of series that are to be removed.
#[derive(Default)]
pub(super) struct Removals {
    /// How often series were removed.
    count: AtomicU64,
    /// The names of the configured routes when series were last removed.
    routes: Mutex<Arc<HashSet<Symbol>>>,
    /// A request of a removed route has ended since, and was counted in a new series.
    is_stale: AtomicBool,
    /// The names of the authorization rules when series were last removed.
    rules: Mutex<Arc<HashSet<Symbol>>>,
    /// The endpoints that have left their services and have series still, each with the time at which that was noticed.
    left: Mutex<HashMap<EndpointKey, Instant>>,
}

impl Metrics {
    /// How often series were removed. A handle from before may belong to a removed series, whose counts are lost.
    pub(crate) fn removals(&self) -> u64 {
        self.removals.count.load(Ordering::Relaxed)
    }

    /// A series of this route is about to be added.
    pub(super) fn note_route(&self, route: Symbol) {
        if !route.is_known() && !self.removals.routes.lock().contains(&route) {
            self.removals.is_stale.store(true, Ordering::Relaxed);
        }
    }

    /// Removes the series of routes other than `routes`, those of the configuration. Nothing happens while they are the
    /// same object as before and no series of another route was added.
    pub fn forget_removed_routes(&self, routes: &Arc<HashSet<Symbol>>) {
        let before = std::mem::replace(&mut *self.removals.routes.lock(), routes.clone());
        let has_removed = !Arc::ptr_eq(&before, routes) && !before.is_subset(routes);
        if !self.removals.is_stale.swap(false, Ordering::Relaxed) && !has_removed {
            return;
        }
        let is_gone = |route: Symbol| !route.is_known() && !routes.contains(&route);
        self.families.requests.remove(|labels| is_gone(labels.route));
        self.families.route_duration.remove(|(_, route)| is_gone(route.0));
        self.removals.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Removes the series of services that are no longer configured and no longer in use, so that services in use can
    /// have their series.
    pub fn forget_removed_services(&self) {
        let is_gone = |service: Symbol, metrics: &Arc<ServiceMetrics>| {
            !service.is_known() && Arc::strong_count(metrics) == 1
        };
        if !self.services.read().iter().any(|((_, service), metrics)| is_gone(*service, metrics)) {
            return;
        }
        let mut services = self.services.write(); // held until the old series are gone
        let gone = services.extract_if(|(_, service), metrics| is_gone(*service, metrics));
        let gone: HashSet<Symbol> = gone.map(|((_, service), _)| service).collect();
        if !gone.is_empty() {
            self.families.forget(&gone);
            self.servers.forget(&gone);
            self.note_identities();
            self.exemplars.forget(&gone);
            self.removals.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Removes the series of rules other than `rules`, those of the configuration. Nothing happens while
    /// they are the same object as before.
    pub fn forget_removed_rules(&self, rules: &Arc<HashSet<Symbol>>) {
        let before = std::mem::replace(&mut *self.removals.rules.lock(), rules.clone());
        if Arc::ptr_eq(&before, rules) || before.is_subset(rules) {
            return;
        }
        self.families.authorization.remove(|(_, rule, _)| !rules.contains(&rule.0));
    }

    /// Removes the series of endpoints other than `known`, those of the services, five minutes after the endpoints
    /// have left. Until then every scraper gets their last counts. An endpoint has left at the first call without it.
    pub fn forget_left_endpoints(&self, known: &HashSet<EndpointKey>, now: Instant) {
        let mut left = self.removals.left.lock();
        let mut staying = HashMap::new();
        let mut has_removed = false;
        self.families.endpoint_requests.remove(|labels| {
            let key = labels.endpoint.map(|endpoint| (labels.service, endpoint));
            let Some(key) = key.filter(|key| !known.contains(key)) else { return false };
            let since = left.get(&key).copied().unwrap_or(now);
            let is_due = now.saturating_duration_since(since) >= LEFT_FOR;
            has_removed |= is_due;
            if !is_due {
                staying.insert(key, since);
            }
            is_due
        });
        if has_removed {
            self.removals.count.fetch_add(1, Ordering::Relaxed);
        }
        *left = staying;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, lines_with, request};
    use super::*;
    use crate::metrics::Detail;
    use crate::{LimitLabel, RequestLabels};
    use pillion_model::Direction;

    #[test]
    fn c4_a_service_that_was_removed_gives_its_series_to_others_and_may_come_back() {
        let metrics = Metrics::new(1_000);
        let mut worker = crate::Recorder::new(metrics.clone());
        for round in 0..100 {
            let name = format!("service-{}", round % 50);
            let held = metrics.service(Direction::Outbound, metrics.intern(&name));
            held.note_use();
            held.breaker_used(LimitLabel::Retries).set(1);
            let service = metrics.intern(&name);
            worker.count(RequestLabels { service, ..request(&metrics, "") });
            let text = metrics.encode();
            let counted = format!("pillion_requests_total{{direction=\"outbound\",service=\"{name}\"");
            let line =
                text.lines().find(|line| line.starts_with(&counted)).unwrap_or_else(|| panic!("{name}"));
            assert!(line.ends_with(" 1"), "{line}");
            drop(held);
            metrics.forget_removed_services();
            assert!(!metrics.encode().contains(&name), "{name} is gone");
        }
    }

    #[test]
    fn c4_a_route_that_was_removed_gives_its_series_to_others_and_may_come_back() {
        let metrics = Metrics::new(100);
        let mut worker = crate::Recorder::new(metrics.clone());
        for round in 0..100 {
            let name = format!("route-{}", round % 50);
            let route = metrics.intern(&name);
            metrics.forget_removed_routes(&Arc::new(HashSet::from([route])));
            worker.count(RequestLabels { route, reason: None, ..request(&metrics, "") });
            worker.count(RequestLabels { route: Symbol::EMPTY, ..request(&metrics, "") });
            let lines = lines_with(&metrics, "route=\"route-");
            assert!(
                lines.len() == 1 && lines.iter().all(|line| line.contains(&name) && line.ends_with(" 1"))
            );
        }
        metrics.forget_removed_routes(&Arc::default());
        assert_eq!(lines_with(&metrics, "route=\"route-"), [""; 0]);
        let kept = lines_with(&metrics, "pillion_requests_total{");
        assert!(kept.len() == 1 && kept.iter().all(|line| line.ends_with(" 100")), "{kept:?}");
    }

    #[test]
    fn the_histogram_of_a_removed_route_goes_with_it() {
        let metrics = Metrics::new(1_000);
        let [removed, kept] = ["removed", "kept"].map(|name| metrics.intern(name));
        let billing = metrics.intern("billing");
        metrics.forget_removed_routes(&Arc::new(HashSet::from([removed, kept])));
        [removed, kept].into_iter().for_each(|route| metrics.route_duration(billing, route).observe(0.1));
        metrics.forget_removed_routes(&Arc::new(HashSet::from([kept])));
        assert_eq!(lines_with(&metrics, "route=\"removed\""), [""; 0]);
        assert!(!lines_with(&metrics, "route=\"kept\"").is_empty());
    }

    #[test]
    fn the_series_of_an_endpoint_that_left_stays_for_five_minutes_however_often_it_is_exported() {
        let metrics = Metrics::with(1_000, Detail { has_endpoints: true, ..Detail::default() });
        let mut worker = crate::Recorder::new(metrics.clone());
        let billing = metrics.intern("billing");
        let (stays, leaves) = (at(billing, 80), at(billing, 81));
        let known = HashSet::from([(billing, ([10, 0, 0, 1], 80).into())]);
        [stays, leaves].into_iter().for_each(|labels| worker.count_try(labels));
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        for seconds in 0..300 {
            metrics.forget_left_endpoints(&known, after(seconds));
        }
        assert_eq!(lines_with(&metrics, "10.0.0.1:81").len(), 1);
        metrics.forget_left_endpoints(&known, after(300));
        assert_eq!(lines_with(&metrics, "10.0.0.1:81"), [""; 0]);
        [stays, leaves].into_iter().for_each(|labels| worker.count_try(labels));
        assert!(lines_with(&metrics, "10.0.0.1:80").iter().all(|line| line.ends_with(" 2")));
        assert!(lines_with(&metrics, "10.0.0.1:81").iter().all(|line| line.ends_with(" 1")));
    }

    #[test]
    fn an_endpoint_that_came_back_keeps_its_series_and_has_five_minutes_again_when_it_leaves() {
        let metrics = Metrics::with(1_000, Detail { has_endpoints: true, ..Detail::default() });
        let billing = metrics.intern("billing");
        metrics.tries(at(billing, 80)).inc();
        let (nothing, known) = (HashSet::new(), HashSet::from([(billing, ([10, 0, 0, 1], 80).into())]));
        let began = Instant::now();
        for (seconds, known, series) in
            [(0, &nothing, 1), (299, &known, 1), (300, &nothing, 1), (599, &nothing, 1), (600, &nothing, 0)]
        {
            metrics.forget_left_endpoints(known, began + Duration::from_secs(seconds));
            assert_eq!(lines_with(&metrics, "10.0.0.1:80").len(), series, "after {seconds} s");
        }
    }

    /// A request that was under way when a reload removed its route is counted, and its series does not stay.
    #[test]
    fn c4_the_series_of_a_removed_route_does_not_come_back_for_good() {
        let metrics = Metrics::new(1_000);
        let mut worker = crate::Recorder::new(metrics.clone());
        let (removed, kept) = (metrics.intern("removed"), metrics.intern("kept"));
        let count = |worker: &mut crate::Recorder, route| {
            worker.count(RequestLabels { route, reason: None, ..request(&metrics, "") });
        };
        metrics.forget_removed_routes(&Arc::new(HashSet::from([removed, kept])));
        [removed, kept].into_iter().for_each(|route| count(&mut worker, route));
        let routes = Arc::new(HashSet::from([kept]));
        metrics.forget_removed_routes(&routes);
        for _ in 0..3 {
            count(&mut worker, removed);
            assert_eq!(lines_with(&metrics, "route=\"removed\"").len(), 1);
            metrics.forget_removed_routes(&routes);
            assert_eq!(lines_with(&metrics, "route=\"removed\""), [""; 0]);
        }
        count(&mut worker, kept);
        assert!(lines_with(&metrics, "route=\"kept\"").iter().all(|line| line.ends_with(" 2")));
    }
}
