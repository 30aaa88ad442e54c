//! The rules by which an inbound connection is judged.

use std::net::SocketAddr;
use std::sync::Arc;

use pillion_model::listener::{AppProtocol, Mtls};

use super::arrived::Arrived;
use crate::detect::Found;
use crate::state::authorization::{Authorization, OpaqueConnection};
use crate::state::{Arrival, DestinationKey, Fixed, InboundSide, Route, Snapshot};
use pillion_tls::outside::OutsideServer;
use pillion_upstream::cluster::ClusterProtocol;

/// The rules by which a connection is judged. They are read again after each wait on the client.
pub(super) struct InboundRules {
    pub(super) generation: u64,
    pub(super) side: Arc<InboundSide>,
    pub(super) mtls: Mtls,
    /// The TLS server for clients outside the mesh, where the connection came to its listener. It takes the place of
    /// `mtls`.
    pub(super) outside: Option<Arc<OutsideServer>>,
    /// The address of the application; `None`: neither the configuration nor the connection names one.
    pub(super) to: Option<SocketAddr>,
    pub(super) route: Option<Fixed>,
}

impl InboundRules {
    /// Reads the rules from `snapshot`. `None`: the configuration has no inbound side.
    pub(super) fn now(of: Arrival, snapshot: &Snapshot) -> Option<Self> {
        let (side, to) = (snapshot.inbound.clone()?, snapshot.target(of));
        let route = snapshot.fixed(DestinationKey::Application(of));
        let (mtls, outside) = (side.mtls(to), side.outside(of).cloned());
        Some(Self { generation: snapshot.generation, mtls, outside, side, to, route })
    }

    /// Whether the bytes of a client are examined in the same way under `self` and under `now`.
    pub(super) fn look_like(&self, now: &Self) -> bool {
        let cluster = |rules: &Self| rules.route().map(|route| Arc::as_ptr(&route.cluster));
        let is_same = self.mtls == now.mtls && self.outside.is_some() == now.outside.is_some();
        is_same && cluster(self) == cluster(now)
    }

    pub(super) fn route(&self) -> Option<&Arc<Route>> {
        self.route.as_ref().map(|fixed| &fixed.route)
    }

    /// The protocol that is declared for the application; `None`: the address of the application is not known.
    pub(super) fn protocol(&self) -> Option<ClusterProtocol> {
        self.route().map(|route| route.cluster.protocol)
    }

    /// The client as an opaque connection, and the rules that judge it; `None` without rules.
    pub(super) fn opaque<'a>(
        &'a self,
        arrived: &'a Arrived,
    ) -> Option<(&'a Authorization, OpaqueConnection<'a>)> {
        let connection = OpaqueConnection {
            peer: arrived.peer().map(|peer| &peer.id),
            source: arrived.from.ip(),
            port: self.to.map_or(0, |to| to.port()),
            is_declared: self.protocol() == Some(ClusterProtocol::Tcp),
        };
        Some((self.side.authorization.as_deref()?, connection))
    }

    /// Whether the application may be dialled before it is known what the client speaks.
    pub(super) fn may_dial_early(&self, arrived: &Arrived) -> bool {
        self.opaque(arrived).is_none_or(|(by, connection)| by.passes_opaque(&connection))
    }

    /// Whether the sidecar terminates a client's TLS on a permissive port. It terminates the TLS of other sidecars.
    /// Other TLS goes to the application where the application is the original destination, or is declared to speak TLS
    /// or opaque bytes; on the sidecar's own port, other TLS can only be meant for the sidecar.
    pub(super) fn terminates(&self, found: &Found, of: Arrival) -> bool {
        let Found::Tls(hello) = found else { return false };
        let single = self.to.and_then(|to| self.side.policy.ports.get(&to.port()));
        let protocol = single.and_then(|port| port.protocol).unwrap_or(self.side.policy.protocol);
        let leaves_tls = of.original.is_some() || matches!(protocol, AppProtocol::Tls | AppProtocol::Tcp);
        hello.as_ref().is_some_and(|hello| hello.is_ours) || !leaves_tls
    }
}
