//! An accepted connection, as data: who is at its other end, where it goes, and how many exchanges are on it.
//!
//! Deliberately absent: sockets and tasks. [`crate::serve`] accepts, and the two sides carry.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use http::HeaderValue;
use pillion_model::listener::DownstreamLimits;
use tokio::time::Instant;

use crate::state::{Admitted, Arrival, DestinationKey, Fixed, Snapshot};
use pillion_base::drain::Work;
use pillion_base::error::Error;
use pillion_base::exchanges::{ExchangePlace, Holder};
use pillion_base::ground::Ground;
use pillion_base::limits::Permit;
use pillion_base::net::returning::{is_loop, loop_detected};
use pillion_base::strangers::Stranger;
use pillion_base::unfinished::Side;
use pillion_http::head::HeadLimits;
use pillion_model::{Direction, Reason};
use pillion_telemetry::{ConnectionOutcome, Metrics, Protocol, Symbol, Tls};
use pillion_tls::Peer;

/// Whom exchanges of clients without an identity count for. No identity is spelt like that.
const STRANGERS: &str = "without identity";

/// An accepted connection, as its requests see it.
pub struct Connection {
    pub direction: Direction,
    pub downstream: SocketAddr,
    /// The verified other end; `None` without mTLS.
    pub peer: Option<Arc<Peer>>,
    /// `peer` as a metric label.
    pub peer_label: Symbol,
    /// `x-forwarded-client-cert` of every request on it.
    pub client_cert: Option<HeaderValue>,
    pub destination: Destination,
    /// Its destination is its original destination, before the kernel redirected it, or an address that a CONNECT named.
    pub is_redirected: bool,
    /// Where its client was going when the kernel brought it here; `None`: to a listener of ours.
    pub original: Option<SocketAddr>,
    pub place: Place,
    /// Exchanges begun, and not ended.
    pub requests: AtomicU64,
    pub in_flight: AtomicU32,
    /// The client is the sidecar itself: its requests are refused.
    pub comes_back: bool,
    /// When its first byte came, as far as that was waited for: the first head has one end with what came before it.
    pub began: Option<Instant>,
    pub judged: Judged,
    /// The rules of now do not admit it: it is told goodbye.
    pub is_dismissed: AtomicBool,
    /// Whom its exchanges count for, once there was one.
    pub holder: OnceLock<Arc<Holder>>,
}

/// By what an inbound connection was admitted last. Zero: by nothing yet.
#[derive(Default)]
pub struct Judged {
    /// The generation of the snapshot.
    pub generation: AtomicU64,
    /// The serial of the TLS server that has judged its peer.
    pub server: AtomicU64,
}

/// What a connection has from accept until nothing uses it any more.
pub struct Place {
    pub work: Work,
    among: Among,
}

/// Which of the side's `max_connections` a connection is.
enum Among {
    /// It does not count against them, or no longer.
    Uncounted,
    Kept(#[allow(dead_code, reason = "kept for its drop")] Permit),
    /// It may have to leave for a new one.
    Strangers(Stranger),
}

impl Place {
    /// A place that counts against `max_connections` while `permit` is held.
    pub const fn limited(work: Work, permit: Permit) -> Self {
        Self { work, among: Among::Kept(permit) }
    }

    /// A place that counts so, of a client that has not proven who it is.
    pub const fn stranger(work: Work, stranger: Stranger) -> Self {
        Self { work, among: Among::Strangers(stranger) }
    }

    /// A place that does not count against `max_connections`: what runs inside a CONNECT is counted already.
    pub const fn unlimited(work: Work) -> Self {
        Self { work, among: Among::Uncounted }
    }

    /// Its client has proven who it is, or needs not: it stays. `false`: it has lost its place already.
    pub fn keep(&mut self) -> bool {
        match std::mem::replace(&mut self.among, Among::Uncounted) {
            Among::Strangers(stranger) => match stranger.proven() {
                Some(permit) => self.among = Among::Kept(permit),
                None => return false,
            },
            kept => self.among = kept,
        }
        true
    }

    /// What returns when the connection loses its place to a new one.
    pub fn must_leave(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let leave = match &mut self.among {
            Among::Strangers(stranger) => Some(stranger.must_leave()),
            Among::Uncounted | Among::Kept(_) => None,
        };
        async move {
            match leave {
                Some(leave) => leave.await,
                None => std::future::pending().await,
            }
        }
    }
}

/// Where a connection goes, as far as that is known without its bytes.
#[derive(Clone)]
pub enum Destination {
    /// Outbound: each request names it. Inbound: `app` is not set, so there is nowhere to go.
    Named,
    /// A service's own port or address; inbound, the application.
    Route(Fixed),
    /// An address that belongs to no service.
    Unknown(SocketAddr),
}

impl Connection {
    pub fn new(downstream: SocketAddr, place: Place) -> Self {
        Self {
            direction: place.work.direction(),
            downstream,
            peer: None,
            peer_label: Symbol::EMPTY,
            client_cert: None,
            destination: Destination::Named,
            is_redirected: false,
            original: None,
            place,
            requests: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            comes_back: false,
            began: None,
            judged: Judged::default(),
            is_dismissed: AtomicBool::new(false),
            holder: OnceLock::new(),
        }
    }

    /// Its client is a workload of the mesh, and has proven that.
    pub fn is_from_mesh(&self) -> bool {
        self.direction == Direction::Inbound && self.peer.is_some()
    }

    /// The service that it is for, as far as its bytes are not needed to say.
    pub fn service(&self) -> Symbol {
        match &self.destination {
            Destination::Route(fixed) => fixed.route.cluster.symbol,
            Destination::Named | Destination::Unknown(_) => Symbol::EMPTY,
        }
    }

    /// That it has begun to speak, or has not.
    pub fn count(&self, protocol: Protocol, outcome: ConnectionOutcome, metrics: &Metrics) {
        let service = match self.direction {
            Direction::Inbound => Symbol::APP,
            Direction::Outbound => self.service(),
        };
        let tls = if self.peer.is_some() { Tls::Mutual } else { Tls::None };
        metrics.connections(self.direction, service, protocol, tls, outcome).inc();
    }

    /// Whose bound its heads count against while they are not whole.
    pub const fn side(&self) -> Side {
        match (self.direction, &self.peer) {
            (Direction::Outbound, _) => Side::Application,
            (Direction::Inbound, Some(_)) => Side::Peers,
            (Direction::Inbound, None) => Side::Strangers,
        }
    }

    /// How large the heads of its requests may be. A client that has proven an identity may be a sidecar, which adds to
    /// what its own client sent.
    pub const fn head_limits(&self, limits: &DownstreamLimits) -> HeadLimits {
        HeadLimits::of_requests(limits, self.peer.is_some())
    }

    /// Whether the client is the sidecar itself, on a way that has no end. Only what was redirected can be: both ends
    /// are the connection's own then, and no other has the same.
    pub fn is_loop(&self) -> bool {
        is_loop(self.direction, self.downstream, self.original)
    }

    /// Whether an inbound connection may go on under the rules of now: they may have changed since it came.
    ///
    /// # Errors
    /// `mtls_required`, or `draining` where a new connection with another certificate may be admitted. Nothing of this
    /// one goes on to the application.
    pub fn admitted(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let Judged { generation, server } = &self.judged;
        let Destination::Route(Fixed { key: DestinationKey::Application(of), .. }) = &self.destination else {
            return Ok(()); // outbound, or nobody says where the application is: it goes nowhere
        };
        if generation.load(Relaxed) == snapshot.generation {
            return Ok(());
        }
        let peer = self.peer.as_deref().map(|peer| Admitted { peer, by: server.load(Relaxed) });
        let admitted = snapshot.admits(*of, peer.as_ref());
        match &admitted {
            Ok(()) => self.note_judged(*of, snapshot),
            Err(_) => self.is_dismissed.store(self.peer.is_some(), Relaxed), // it may come again, and prove it anew
        }
        admitted
    }

    /// These rules have admitted it. Its peer is only judged by a judge who has looked at it.
    fn note_judged(&self, of: Arrival, snapshot: &Snapshot) {
        self.judged.generation.store(snapshot.generation, Relaxed);
        if let Some(server) = snapshot.judge(of) {
            self.judged.server.store(server.serial, Relaxed);
        }
    }

    pub fn loop_detected(&self) -> Error {
        loop_detected(self.downstream, self.original)
    }

    /// A place for one more exchange, whose head has so many bytes. Inbound: identities of the mesh share what there is,
    /// and all who have none count as one. What the application asks for, the circuit breakers of its services bound.
    ///
    /// # Errors
    /// `overloaded`: its client has all the exchanges that it may have now.
    pub fn place_for_exchange(
        &self,
        head_bytes: usize,
        ground: &Ground,
    ) -> Result<Option<ExchangePlace>, Error> {
        if self.direction == Direction::Outbound {
            return Ok(None);
        }
        let name = || self.peer.as_ref().map_or_else(|| STRANGERS.to_owned(), |peer| peer.id.to_string());
        let holder = self.holder.get_or_init(|| ground.exchanges.holder(&name()));
        holder.begin(head_bytes).map(Some).ok_or_else(|| {
            let detail =
                "the client's requests under way hold as much memory as the sidecar has for one client";
            Error::new(Reason::Overloaded, detail)
        })
    }

    pub fn begin(&self) {
        self.requests.fetch_add(1, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }
}
