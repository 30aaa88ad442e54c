//! The metric handles of one service, resolved once and kept: each update costs one atomic addition.

use std::sync::{Arc, OnceLock};

use super::families::Families;
use super::family::{Histogram, IntCounter, IntGauge};
use super::labels::{CacheOutcome, EjectionCause, EndpointState, Flow, LimitLabel, RetryOutcome, Service};
use super::symbols::Symbol;
use pillion_model::Direction;

/// The series of one service in one direction. They appear in the exposition together, when the service is first used:
/// a rate then starts at zero, and thousands of unused services take no series from used ones.
///
/// Beyond `max_series` the handles are those of the service `other`. Counters stay correct in sum there, but a gauge
/// that is *set* shows the last service that set it.
pub struct ServiceMetrics {
    families: Arc<Families>,
    direction: Direction,
    service: Service,
    series: OnceLock<Series>,
    mirrors: OnceLock<Mirrors>,
    cache: OnceLock<CacheSeries>,
}

/// The series that traffic changes.
struct Series {
    duration: Histogram,
    active: IntGauge,
    bytes: ByWord<IntCounter, { Flow::ALL.len() }>,
    retries: ByWord<IntCounter, { RetryOutcome::ALL.len() }>,
    breaker_rejections: ByWord<IntCounter, { LimitLabel::ALL.len() }>,
    ejections: ByWord<IntCounter, { EjectionCause::ALL.len() }>,
}

/// Gauges that mirror the state of a configured service, set before each exposition. The application, and destinations
/// that no service matches, have none.
struct Mirrors {
    breaker_used: ByWord<IntGauge, { LimitLabel::ALL.len() }>,
    breaker_limit: ByWord<IntGauge, { LimitLabel::ALL.len() }>,
    endpoints: ByWord<IntGauge, { EndpointState::ALL.len() }>,
}

/// The series of a service that has a cache.
struct CacheSeries {
    requests: ByWord<IntCounter, { CacheOutcome::ALL.len() }>,
    bytes: IntGauge,
}

/// One handle for each word of a fixed set, in its order.
type ByWord<H, const WORDS: usize> = [H; WORDS];

impl ServiceMetrics {
    pub(super) const fn new(families: Arc<Families>, direction: Direction, service: Symbol) -> Self {
        Self {
            families,
            direction,
            service: Service(service),
            series: OnceLock::new(),
            mirrors: OnceLock::new(),
            cache: OnceLock::new(),
        }
    }

    /// Makes the series appear in the exposition.
    pub fn note_use(&self) {
        self.series();
    }

    pub fn is_used(&self) -> bool {
        self.series.get().is_some()
    }

    /// The histogram of seconds from a request's headers to the end of its response.
    pub fn duration(&self) -> &Histogram {
        &self.series().duration
    }

    /// The gauge of requests in flight. Hold it with [`super::Held`].
    pub fn active(&self) -> &IntGauge {
        &self.series().active
    }

    /// The counter of body and stream bytes between the sidecar and its downstream.
    pub fn bytes(&self, flow: Flow) -> &IntCounter {
        &self.series().bytes[flow as usize]
    }

    pub fn retries(&self, outcome: RetryOutcome) -> &IntCounter {
        &self.series().retries[outcome as usize]
    }

    pub fn breaker_rejections(&self, limit: LimitLabel) -> &IntCounter {
        &self.series().breaker_rejections[limit as usize]
    }

    pub fn ejections(&self, cause: EjectionCause) -> &IntCounter {
        &self.series().ejections[cause as usize]
    }

    pub fn breaker_used(&self, limit: LimitLabel) -> &IntGauge {
        &self.mirrors().breaker_used[limit as usize]
    }

    pub fn breaker_limit(&self, limit: LimitLabel) -> &IntGauge {
        &self.mirrors().breaker_limit[limit as usize]
    }

    pub fn endpoints(&self, state: EndpointState) -> &IntGauge {
        &self.mirrors().endpoints[state as usize]
    }

    /// The counter of requests that the cache served in this way.
    pub fn cache_requests(&self, outcome: CacheOutcome) -> &IntCounter {
        &self.cache().requests[outcome as usize]
    }

    /// The gauge of the bytes of stored answers.
    pub fn cache_bytes(&self) -> &IntGauge {
        &self.cache().bytes
    }

    fn cache(&self) -> &CacheSeries {
        self.cache.get_or_init(|| CacheSeries {
            requests: by_word(CacheOutcome::ALL, |outcome| {
                self.families.cache_requests.of((self.service, outcome))
            }),
            bytes: self.families.cache_bytes.of((self.service,)),
        })
    }

    fn series(&self) -> &Series {
        self.series.get_or_init(|| Series::new(&self.families, self.direction, self.service))
    }

    fn mirrors(&self) -> &Mirrors {
        self.mirrors.get_or_init(|| Mirrors::new(&self.families, self.service))
    }
}

impl Series {
    fn new(of: &Families, direction: Direction, service: Service) -> Self {
        Self {
            duration: of.duration.of((direction, service)),
            active: of.active.of((direction, service)),
            bytes: by_word(Flow::ALL, |flow| of.bytes.of((direction, service, flow))),
            retries: by_word(RetryOutcome::ALL, |outcome| of.retries.of((service, outcome))),
            breaker_rejections: by_word(LimitLabel::ALL, |limit| of.breaker_rejections.of((service, limit))),
            ejections: by_word(EjectionCause::ALL, |cause| of.ejections.of((service, cause))),
        }
    }
}

impl Mirrors {
    fn new(of: &Families, service: Service) -> Self {
        Self {
            breaker_used: by_word(LimitLabel::ALL, |limit| of.breaker_used.of((service, limit))),
            breaker_limit: by_word(LimitLabel::ALL, |limit| of.breaker_limit.of((service, limit))),
            endpoints: by_word(EndpointState::ALL, |state| of.endpoints.of((service, state))),
        }
    }
}

/// `words` are all words of the set.
fn by_word<W: Copy, H, const WORDS: usize>(words: &[W], handle: impl Fn(W) -> H) -> ByWord<H, WORDS> {
    std::array::from_fn(|nth| handle(words[nth]))
}
