//! What is counted of requests.

use std::time::{Duration, SystemTime};

use super::Metrics;
use crate::family::{Histogram, IntCounter};
use crate::labels::{EndpointLabels, RequestLabels, RouteLabel, Service};
use crate::propagation::TraceId;
use crate::symbols::Symbol;
use pillion_model::Direction;

impl Metrics {
    /// The counter of finished requests with these labels. The data path uses its [`Recorder`](crate::Recorder) instead.
    pub fn requests(&self, labels: RequestLabels) -> IntCounter {
        self.note_route(labels.route);
        self.families.requests.of(labels.tidy())
    }

    /// The counter of tries at one endpoint. The data path uses its [`Recorder`](crate::Recorder) instead.
    pub(crate) fn tries(&self, labels: EndpointLabels) -> IntCounter {
        self.families.endpoint_requests.of(labels)
    }

    /// The histogram of seconds of the requests that a configured route matched. Keep the handle with the route.
    pub fn route_duration(&self, service: Symbol, route: Symbol) -> Histogram {
        self.note_route(route);
        self.families.route_duration.of((Service(service), RouteLabel(route)))
    }

    /// The histogram of seconds that requests spent in the sidecar itself. Keep the handle.
    pub fn overhead(&self, direction: Direction) -> Histogram {
        self.families.overhead.of((direction,))
    }

    /// The counter of requests to the address of `service` whose host names another service.
    pub fn host_mismatches(&self, service: Symbol) -> IntCounter {
        self.families.host_mismatches.of((Service(service),))
    }

    /// Notes a recorded request that has just ended, for the duration of a service.
    pub fn note_exemplar(&self, of: (Direction, Symbol), took: Duration, trace: TraceId) {
        self.exemplars.note(of, took, trace, SystemTime::now());
    }

    /// The exemplar of a bucket of `pillion_request_duration_seconds`, by the values of its labels.
    pub fn exemplar(&self, direction: &str, service: &str, bound: f64) -> Option<String> {
        let sides = [Direction::Inbound, Direction::Outbound];
        let direction = sides.into_iter().find(|side| side.as_str() == direction)?;
        self.exemplars.of(direction, self.symbols.known(service)?, bound)
    }
}
