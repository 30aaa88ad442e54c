//! The handles of one service, resolved once and kept: what a request costs here is an atomic addition each.

use std::sync::{Arc, OnceLock};

use super::family::{Histogram, IntCounter, IntGauge};
use super::labels::{Direction, EjectionCause, EndpointState, Flow, Limit, RetryOutcome, Service};
use super::metrics::Families;
use super::symbols::Symbol;

/// The series of one service in one direction; each appears in the exposition when it is first asked for.
///
/// Past `max_series` the handles are those of the service `other`: counts stay true in sum there, but a gauge
/// that is *set* shows the last service that did.
pub(crate) struct ServiceMetrics {
    families: Arc<Families>,
    direction: Direction,
    service: Service,
    duration: OnceLock<Histogram>,
    active: OnceLock<IntGauge>,
    bytes: ByWord<IntCounter, { Flow::ALL.len() }>,
    retries: ByWord<IntCounter, { RetryOutcome::ALL.len() }>,
    breaker_used: ByWord<IntGauge, { Limit::ALL.len() }>,
    breaker_limit: ByWord<IntGauge, { Limit::ALL.len() }>,
    breaker_rejections: ByWord<IntCounter, { Limit::ALL.len() }>,
    endpoints: ByWord<IntGauge, { EndpointState::ALL.len() }>,
    ejections: ByWord<IntCounter, { EjectionCause::ALL.len() }>,
}

/// One handle for each word of a vocabulary, made when first asked for.
type ByWord<H, const WORDS: usize> = [OnceLock<H>; WORDS];

const fn by_word<H, const WORDS: usize>() -> ByWord<H, WORDS> {
    [const { OnceLock::new() }; WORDS]
}

impl ServiceMetrics {
    pub(super) fn new(families: Arc<Families>, direction: Direction, service: Symbol) -> Self {
        Self {
            families,
            direction,
            service: Service(service),
            duration: OnceLock::new(),
            active: OnceLock::new(),
            bytes: by_word(),
            retries: by_word(),
            breaker_used: by_word(),
            breaker_limit: by_word(),
            breaker_rejections: by_word(),
            endpoints: by_word(),
            ejections: by_word(),
        }
    }

    /// Seconds from a request's headers to the end of its response.
    pub(crate) fn duration(&self) -> &Histogram {
        self.duration.get_or_init(|| self.families.duration.of((self.direction, self.service)))
    }

    /// Requests in flight; hold it with [`super::Held`].
    pub(crate) fn active(&self) -> &IntGauge {
        self.active.get_or_init(|| self.families.active.of((self.direction, self.service)))
    }

    /// Body and stream bytes between the sidecar and its downstream.
    pub(crate) fn bytes(&self, flow: Flow) -> &IntCounter {
        self.bytes[flow as usize].get_or_init(|| self.families.bytes.of((self.direction, self.service, flow)))
    }

    pub(crate) fn retries(&self, outcome: RetryOutcome) -> &IntCounter {
        self.retries[outcome as usize].get_or_init(|| self.families.retries.of((self.service, outcome)))
    }

    pub(crate) fn breaker_used(&self, limit: Limit) -> &IntGauge {
        self.breaker_used[limit as usize].get_or_init(|| self.families.breaker_used.of((self.service, limit)))
    }

    pub(crate) fn breaker_limit(&self, limit: Limit) -> &IntGauge {
        self.breaker_limit[limit as usize]
            .get_or_init(|| self.families.breaker_limit.of((self.service, limit)))
    }

    pub(crate) fn breaker_rejections(&self, limit: Limit) -> &IntCounter {
        self.breaker_rejections[limit as usize]
            .get_or_init(|| self.families.breaker_rejections.of((self.service, limit)))
    }

    pub(crate) fn endpoints(&self, state: EndpointState) -> &IntGauge {
        self.endpoints[state as usize].get_or_init(|| self.families.endpoints.of((self.service, state)))
    }

    pub(crate) fn ejections(&self, cause: EjectionCause) -> &IntCounter {
        self.ejections[cause as usize].get_or_init(|| self.families.ejections.of((self.service, cause)))
    }
}
