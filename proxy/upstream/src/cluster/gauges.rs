//! The gauges that mirror the present state of a cluster.

use super::Cluster;
use pillion_base::limits::NO_LIMIT;
use pillion_telemetry::{EndpointState, LimitLabel};

impl Cluster {
    /// Sets the gauges that mirror the present state. Called when metrics are read.
    pub fn tell(&self) {
        if !self.metrics.is_used() {
            return;
        }
        let (most_used, most) = self.fullest_endpoint();
        let limits = [
            (LimitLabel::Connections, self.slots.used(), self.slots.max()),
            (LimitLabel::ConnectionsPerEndpoint, most_used, most),
            (LimitLabel::Pending, self.limits.pending.used(), self.limits.pending.max()),
            (LimitLabel::Requests, self.limits.requests.used(), self.limits.requests.max()),
            (LimitLabel::Retries, self.limits.retries.used(), self.limits.retries.max()),
        ];
        for (limit, used, max) in limits {
            self.metrics.breaker_used(limit).set(i64::from(used));
            self.metrics.breaker_limit(limit).set(i64::from(max));
        }
        let (healthy, ejected, unhealthy) = self.endpoints_by_state();
        self.metrics.endpoints(EndpointState::Healthy).set(healthy);
        self.metrics.endpoints(EndpointState::Ejected).set(ejected);
        self.metrics.endpoints(EndpointState::Unhealthy).set(unhealthy);
        self.metrics.endpoints(EndpointState::Draining).set(self.draining());
        if let Some(cache) = &self.cache {
            self.metrics.cache_bytes().set(i64::try_from(cache.bytes()).unwrap_or(i64::MAX));
        }
    }

    /// How many are healthy, ejected, unhealthy. One that is both ejected and unhealthy counts as unhealthy.
    pub(super) fn endpoints_by_state(&self) -> (i64, i64, i64) {
        let endpoints = self.endpoints.load();
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let known = count(endpoints.all.len());
        if self.health_check.is_none() {
            let ejected = i64::from(self.ejections.ejected());
            return (known - ejected, ejected, 0);
        }
        let (unhealthy, others): (Vec<_>, Vec<_>) =
            endpoints.all.iter().partition(|endpoint| endpoint.is_unhealthy());
        let ejected = count(others.iter().filter(|endpoint| !endpoint.outlier.is_closed()).count());
        (known - ejected - count(unhealthy.len()), ejected, count(unhealthy.len()))
    }

    /// The places that are taken at the fullest endpoint, and the limit of each endpoint.
    pub(super) fn fullest_endpoint(&self) -> (u32, u32) {
        let Some(limit) = self.max_connections_per_endpoint else { return (0, NO_LIMIT) };
        let endpoints = self.endpoints.load();
        let used = endpoints.all.iter().filter_map(|endpoint| Some(endpoint.slots()?.used()));
        (used.max().unwrap_or(0), limit)
    }

    /// Sets the gauges to zero because the cluster is no longer configured. Work that is still under way is not shown.
    pub fn note_removed(&self) {
        if !self.metrics.is_used() {
            return;
        }
        for limit in LimitLabel::ALL {
            self.metrics.breaker_used(*limit).set(0);
            self.metrics.breaker_limit(*limit).set(0);
        }
        EndpointState::ALL.iter().for_each(|state| self.metrics.endpoints(*state).set(0));
        if self.cache.is_some() {
            self.metrics.cache_bytes().set(0);
        }
    }
}
