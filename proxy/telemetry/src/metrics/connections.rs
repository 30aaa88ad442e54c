//! What is counted of connections: their number, what they carry, and queries for addresses.

use super::Metrics;
use crate::family::{IntCounter, IntGauge};
use crate::labels::{
    ConnectionOutcome, DetectionVerdict, DnsOutcome, HandshakeOutcome, Protocol, Service, Tls,
};
use crate::symbols::Symbol;
use pillion_model::Direction;

impl Metrics {
    /// The counter of accepted or opened connections. A connection is counted when its outcome is known.
    pub fn connections(
        &self,
        direction: Direction,
        service: Symbol,
        protocol: Protocol,
        tls: Tls,
        outcome: ConnectionOutcome,
    ) -> IntCounter {
        if service != Symbol::EMPTY {
            self.service(direction, service).note_use();
        }
        self.families.connections.of((direction, Service(service), protocol, tls, outcome))
    }

    /// The gauge of open connections. Keep the handle and hold it with [`Held`](crate::Held).
    pub fn connections_active(&self, direction: Direction, protocol: Protocol) -> IntGauge {
        self.families.connections_active.of((direction, protocol))
    }

    /// The counter of undeclared connections by detected protocol.
    pub fn detections(&self, direction: Direction, verdict: DetectionVerdict) -> IntCounter {
        self.families.detections.of((direction, verdict))
    }

    /// The counter of TLS handshakes by outcome.
    pub fn handshakes(&self, direction: Direction, outcome: HandshakeOutcome) -> IntCounter {
        self.families.handshakes.of((direction, outcome))
    }

    /// The counter of queries to the DNS proxy by outcome.
    pub fn dns_queries(&self, outcome: DnsOutcome) -> IntCounter {
        self.families.dns_queries.of((outcome,))
    }
}
