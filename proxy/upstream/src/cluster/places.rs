//! Places for connections, within the limits of the circuit breaker.

use std::sync::Arc;

use tokio::sync::{AcquireError, OwnedSemaphorePermit};

use super::Cluster;
use super::endpoint::Endpoint;
use crate::pool::Terms;
use crate::slots::Slot;
use pillion_base::error::Error;
use pillion_base::limits::NO_LIMIT;
use pillion_model::Reason;
use pillion_telemetry::LimitLabel;

impl Cluster {
    /// A place in the cluster for a connection that cannot be shared. Does not wait.
    pub fn slot_now(&self) -> Result<OwnedSemaphorePermit, Error> {
        self.slots.try_take().ok_or_else(|| {
            self.rejected(LimitLabel::Connections);
            let (name, most) = (&self.name, self.slots.max());
            Error::new(
                Reason::Overloaded,
                format!(
                    "{most} connections to \"{name}\" are open (circuit_breaker.max_connections is {most})"
                ),
            )
        })
    }

    /// A place at one endpoint for such a connection. Does not wait. `None` when the endpoint has no limit of its own.
    pub fn slot_now_at(&self, endpoint: &Endpoint) -> Result<Option<OwnedSemaphorePermit>, Error> {
        let Some(slots) = endpoint.slots() else { return Ok(None) };
        slots.try_take().map(Some).ok_or_else(|| self.endpoint_is_full(endpoint))
    }

    /// The error of an endpoint that is at its limit of connections.
    pub fn endpoint_is_full(&self, endpoint: &Endpoint) -> Error {
        self.rejected(LimitLabel::ConnectionsPerEndpoint);
        let (name, address) = (&self.name, endpoint.address);
        let most = endpoint.slots().map_or(NO_LIMIT, |slots| slots.max());
        Error::new(
            Reason::Overloaded,
            format!(
                "{most} connections to {address} of \"{name}\" are open \
                 (circuit_breaker.max_connections_per_endpoint is {most})"
            ),
        )
    }

    /// A place for one more connection. When a limit is reached, an idle connection is closed, so that there is a place
    /// soon.
    pub fn try_slot(&self, to: &Endpoint) -> Option<Slot> {
        let at_endpoint = match to.slots().map(|slots| slots.try_take()) {
            None => None,
            Some(Some(slot)) => Some(slot),
            Some(None) => {
                let _evicted = to.pool.evict_idle();
                self.rejected(LimitLabel::ConnectionsPerEndpoint);
                return None;
            }
        };
        let Some(slot) = self.slots.try_take() else {
            let endpoints = self.endpoints.load();
            let elsewhere = endpoints.all.iter().map(Arc::as_ref).filter(|other| other.id != to.id);
            let _evicted = elsewhere.chain([to]).any(|endpoint| endpoint.pool.evict_idle());
            self.rejected(LimitLabel::Connections);
            return None;
        };
        Some(Slot::new(slot, at_endpoint))
    }

    /// Waits for a place, first at the endpoint: a request that waits there must not hold a place of the cluster.
    pub async fn slot(&self, to: &Endpoint) -> Result<Slot, Error> {
        let gone = |_closed: AcquireError| Error::new(Reason::InternalError, "the cluster's slots are gone");
        let at_endpoint = match to.slots().zip(to.pool.waiting()) {
            None => None,
            Some((slots, waiting)) => Some(slots.take(waiting).await.map_err(gone)?),
        };
        Ok(Slot::new(self.slots.take(&self.waiting).await.map_err(gone)?, at_endpoint))
    }

    /// What a pool of its endpoints needs to know about the cluster.
    pub(crate) fn terms(&self) -> Terms {
        Terms { policy: self.connection.clone(), waiting: self.waiting.clone() }
    }

    pub fn rejected(&self, limit: LimitLabel) {
        self.metrics.breaker_rejections(limit).inc();
    }
}
