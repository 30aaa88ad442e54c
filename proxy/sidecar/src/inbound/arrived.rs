//! An inbound connection on its way to the application, and what its client has proven.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use crate::connection::Place;
use crate::state::Arrival;
use pillion_base::unfinished::Side;
use pillion_telemetry::Tls;
use pillion_tls::outside::OutsideClient;
use pillion_tls::{Alpn, Peer};

/// A connection on its way to the application: its data, and what is known of its client. It holds no rules, since the
/// rules may change while the sidecar waits for the client.
pub(super) struct Arrived {
    pub(super) from: SocketAddr,
    /// When the sidecar began to wait for the client.
    pub(super) since: Instant,
    /// When the first byte came of the bytes that are examined now: before the handshake or inside TLS.
    pub(super) began: Option<Instant>,
    pub(super) place: Place,
    pub(super) of: Arrival,
    /// The original destination is another host: the redirect rules caught traffic that this host only forwards.
    pub(super) is_strangers: bool,
    pub(super) proven: Option<Proven>,
}

/// What a client has proven by its handshake.
pub(super) struct Proven {
    pub(super) who: Who,
    pub(super) alpn: Option<Alpn>,
    /// The serial of the TLS server that admitted the client.
    pub(super) by: u64,
    /// How long the handshake took, in microseconds.
    pub(super) micros: u32,
}

pub(super) enum Who {
    Peer(Arc<Peer>),
    /// A client outside the mesh, which has no identity.
    Outside(Arc<OutsideClient>),
}

impl Arrived {
    pub(super) fn peer(&self) -> Option<&Arc<Peer>> {
        match &self.proven.as_ref()?.who {
            Who::Peer(peer) => Some(peer),
            Who::Outside(_) => None,
        }
    }

    pub(super) fn outside(&self) -> Option<&Arc<OutsideClient>> {
        match &self.proven.as_ref()?.who {
            Who::Peer(_) => None,
            Who::Outside(client) => Some(client),
        }
    }

    pub(super) fn side(&self) -> Side {
        if self.peer().is_some() { Side::Peers } else { Side::Strangers }
    }

    pub(super) fn tls_label(&self) -> Tls {
        match self.proven.as_ref().map(|proven| &proven.who) {
            Some(Who::Peer(_)) => Tls::Mutual,
            Some(Who::Outside(_)) => Tls::ServerOnly,
            None => Tls::None,
        }
    }
}
