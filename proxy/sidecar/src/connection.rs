//! An accepted connection, as data: its client, its destination, and the number of its exchanges.
//!
//! Deliberately absent: sockets and tasks. [`crate::serve`] accepts connections; [`crate::inbound`] and
//! [`crate::outbound`] carry them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::HeaderValue;
use http::uri::Authority;
use parking_lot::Mutex;
use pillion_model::listener::DownstreamLimits;
use tokio::time::Instant;

use crate::state::authorization::{Decided, OpaqueConnection};
use crate::state::{Admitted, Arrival, DestinationKey, Fixed, Snapshot};
use pillion_base::drain::Work;
use pillion_base::error::Error;
use pillion_base::exchanges::{ExchangePlace, Holder};
use pillion_base::ground::Ground;
use pillion_base::limits::Permit;
use pillion_base::net::Network;
use pillion_base::net::returning::{is_loop, loop_detected, passes};
use pillion_base::strangers::{Guest, Stranger, Unadmitted};
use pillion_base::unfinished::Side;
use pillion_http::head::HeadLimits;
use pillion_model::{Direction, Reason};
use pillion_telemetry::{ConnectionOutcome, Metrics, Protocol, Symbol, Tls};
use pillion_tls::Peer;
use pillion_tls::outside::OutsideClient;

/// The holder to which exchanges of clients without an identity are counted. No SPIFFE ID has this form.
const STRANGERS: &str = "without identity";
/// The only holder of outbound exchanges.
const APPLICATION: &str = "the application";

/// 260 bytes: a DNS name has at most 253, and a port may follow. A longer host is not kept.
const HOST_BYTES: usize = 260;

/// What the requests of an accepted connection need to know of it.
pub struct Connection {
    pub direction: Direction,
    pub downstream: SocketAddr,
    /// The verified client; `None` without mTLS.
    pub peer: Option<Arc<Peer>>,
    /// The client is outside the mesh, and its handshake was with a port's own TLS server.
    pub outside: Option<Arc<OutsideClient>>,
    /// The verified client is a Pillion sidecar, by the protocol that it has offered in its handshake. Other programs
    /// pass headers of their own clients on, so they are not believed where one request speaks for later ones.
    pub is_from_sidecar: bool,
    /// How long its client's handshake took, in microseconds; 0 without one.
    pub handshake_micros: u32,
    /// `peer` as a metric label.
    pub peer_label: Symbol,
    /// The `x-forwarded-client-cert` of every request on this connection.
    pub client_cert: Option<HeaderValue>,
    pub destination: Destination,
    /// The destination is the original destination of a redirected connection, or an address that a CONNECT named.
    pub is_redirected: bool,
    /// The original destination, before the kernel redirected the connection; `None`: the client connected to a
    /// listener of the sidecar.
    pub original: Option<SocketAddr>,
    pub place: Place,
    /// Exchanges that have begun; the count starts again after four thousand million.
    pub requests: AtomicU32,
    /// Exchanges that have begun and not ended.
    pub in_flight: AtomicU32,
    /// The client is the sidecar itself: its requests are refused.
    pub comes_back: bool,
    /// The address at which the client connected to an outbound listener of the sidecar.
    pub at: Option<SocketAddr>,
    /// The client is the sidecar itself, and connected to this listener as to an endpoint: its requests count how often
    /// they have passed.
    pub is_own: bool,
    /// When its first byte came, where detection waited for it: one deadline covers the detection and the first head.
    pub began: Option<Instant>,
    /// When it was accepted, and its peer verified.
    pub opened: Instant,
    pub judged: Judged,
    /// The certificates have changed since its handshake.
    pub is_outdated: AtomicBool,
    /// What the authorization rules decided of an opaque connection. Requests are judged one by one.
    pub authorization: Option<Decided>,
    /// The current rules do not admit it any more, or it is too old for them: it is closed after the answers under way.
    pub is_dismissed: AtomicBool,
    /// Its HTTP/2 client was idle for too long, and the driver does not know it yet.
    pub is_idle: AtomicBool,
    /// The holder to which its exchanges are counted; set by the first exchange.
    pub holder: OnceLock<Arc<Holder>>,
    /// See [`Self::authority`].
    pub last_authority: Mutex<Option<Box<Authority>>>,
}

/// The rules by which an inbound connection was last admitted. Zero: none yet.
#[derive(Default)]
pub struct Judged {
    /// The generation of the snapshot.
    pub generation: AtomicU64,
    /// The serial of the TLS server that verified its peer.
    pub server: AtomicU64,
}

/// When a connection's peer is asked to connect again, because the certificates have changed since its handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goodbye {
    Never,
    Later,
    Now,
}

impl Goodbye {
    fn due(max_age: Option<Duration>, is_outdated: bool, age: Duration) -> Self {
        match max_age.filter(|_| is_outdated) {
            None => Self::Never,
            Some(max) if age < max => Self::Later,
            Some(_) => Self::Now,
        }
    }
}

/// What a connection holds from accept until nothing uses it any more.
pub struct Place {
    pub work: Work,
    among: Among,
}

/// How a connection counts against `max_connections` of its side.
enum Among {
    /// It does not count, or not any more.
    Uncounted,
    /// It counts, and stays.
    Kept(#[allow(dead_code, reason = "kept for its drop")] Permit),
    /// It counts, and stays, among the clients that are admitted without an identity.
    Guests(#[allow(dead_code, reason = "kept for its drop")] Guest),
    /// It counts, and may be closed to make room for a new connection.
    Strangers(Stranger),
}

impl Place {
    /// A place that counts against `max_connections` while `permit` is held.
    pub const fn limited(work: Work, permit: Permit) -> Self {
        Self { work, among: Among::Kept(permit) }
    }

    /// A place that counts against `max_connections`, of a client that has not proven an identity.
    pub const fn stranger(work: Work, stranger: Stranger) -> Self {
        Self { work, among: Among::Strangers(stranger) }
    }

    /// A place that does not count against `max_connections`: what runs inside a CONNECT is counted already.
    pub const fn unlimited(work: Work) -> Self {
        Self { work, among: Among::Uncounted }
    }

    /// Makes the place permanent, because the client has proven its identity or does not need one. `false`: the
    /// connection has lost its place already.
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

    /// Makes the place permanent as one of a client without an identity. `is_beside_mesh`: half of all places are for peers of
    /// the mesh.
    ///
    /// # Errors
    /// Why the connection cannot stay.
    pub fn keep_as_guest(&mut self, is_beside_mesh: bool) -> Result<(), Unadmitted> {
        self.among = match std::mem::replace(&mut self.among, Among::Uncounted) {
            Among::Strangers(stranger) => Among::Guests(stranger.admitted(is_beside_mesh)?),
            kept => kept,
        };
        Ok(())
    }

    /// A future that returns when the connection has to be closed to make room for a new one.
    pub fn must_leave(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let leave = match &mut self.among {
            Among::Strangers(stranger) => Some(stranger.must_leave()),
            Among::Uncounted | Among::Kept(_) | Among::Guests(_) => None,
        };
        async move {
            match leave {
                Some(leave) => leave.await,
                None => std::future::pending().await,
            }
        }
    }
}

/// The addresses by which a client is recognised that is the sidecar itself.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    pub from: SocketAddr,
    /// The original destination of a redirected connection.
    pub original: Option<SocketAddr>,
    /// The address at which it connected to an outbound listener.
    pub at: Option<SocketAddr>,
}

/// Where a connection goes, as far as this is known before its bytes are read.
#[derive(Clone)]
pub enum Destination {
    /// Outbound: each request names its destination. Inbound: `inbound.app` is not set, so there is no destination.
    Named,
    /// Outbound: a service's own port or address. Inbound: the application.
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
            outside: None,
            is_from_sidecar: false,
            handshake_micros: 0,
            peer_label: Symbol::EMPTY,
            client_cert: None,
            destination: Destination::Named,
            is_redirected: false,
            original: None,
            place,
            requests: AtomicU32::new(0),
            in_flight: AtomicU32::new(0),
            comes_back: false,
            at: None,
            is_own: false,
            began: None,
            opened: Instant::now(),
            judged: Judged::default(),
            is_outdated: AtomicBool::new(false),
            authorization: None,
            is_dismissed: AtomicBool::new(false),
            is_idle: AtomicBool::new(false),
            holder: OnceLock::new(),
            last_authority: Mutex::default(),
        }
    }

    /// The host of a request as an authority, if it is one. The requests of a connection nearly always name the same
    /// host, so the last one is kept: the parser takes 300 instructions.
    pub fn authority(&self, host: &[u8]) -> Option<Authority> {
        let mut last = self.last_authority.lock();
        if let Some(last) = last.as_deref().filter(|last| last.as_str().as_bytes() == host) {
            return Some(last.clone());
        }
        let authority = Authority::try_from(host).ok()?;
        if host.len() <= HOST_BYTES {
            *last = Some(Box::new(authority.clone()));
        }
        Some(authority)
    }

    /// Whether the client has proved who it is by TLS, or has spoken TLS from outside the mesh.
    pub const fn is_over_tls(&self) -> bool {
        self.peer.is_some() || self.outside.is_some()
    }

    /// How long its client's handshake took, where there was one.
    pub const fn handshake(&self) -> Option<Duration> {
        match self.handshake_micros {
            0 => None,
            micros => Some(Duration::from_micros(micros as u64)),
        }
    }

    /// Whether the client is a workload of the mesh with a verified identity.
    pub fn is_from_mesh(&self) -> bool {
        self.direction == Direction::Inbound && self.peer.is_some()
    }

    /// The service to which it goes, as far as this is known before its bytes are read.
    pub fn service(&self) -> Symbol {
        match &self.destination {
            Destination::Route(fixed) => fixed.route.cluster.symbol,
            Destination::Named | Destination::Unknown(_) => Symbol::EMPTY,
        }
    }

    /// Counts the connection, with its protocol and how it began.
    pub fn count(&self, protocol: Protocol, outcome: ConnectionOutcome, metrics: &Metrics) {
        let service = match self.direction {
            Direction::Inbound => Symbol::APP,
            Direction::Outbound => self.service(),
        };
        let tls = match (&self.peer, &self.outside) {
            (Some(_), _) => Tls::Mutual,
            (None, Some(_)) => Tls::ServerOnly,
            (None, None) => Tls::None,
        };
        metrics.connections(self.direction, service, protocol, tls, outcome).inc();
    }

    /// The side against whose memory limit its heads count while they are incomplete.
    pub const fn side(&self) -> Side {
        match (self.direction, &self.peer) {
            (Direction::Outbound, _) => Side::Application,
            (Direction::Inbound, Some(_)) => Side::Peers,
            (Direction::Inbound, None) => Side::Strangers,
        }
    }

    /// How large the heads of its requests may be. A client with an identity may be a sidecar, which adds headers to
    /// those of its own client.
    pub const fn head_limits(&self, limits: &DownstreamLimits) -> HeadLimits {
        HeadLimits::of_requests(limits, self.peer.is_some())
    }

    /// Whether the client is the sidecar itself, so that forwarding would form an endless loop. Only a redirected
    /// connection can be one: its client address and its original destination are then those of a connection that the
    /// sidecar made.
    pub fn is_loop(&self) -> bool {
        is_loop(self.direction, self.downstream, self.original)
    }

    pub const fn origin(&self) -> Origin {
        Origin { from: self.downstream, original: self.original, at: self.at }
    }

    /// Marks a connection that the sidecar made itself. The client must have sent a byte: from then on it is known which
    /// connections are the sidecar's own.
    pub fn note_origin(&mut self) {
        self.comes_back = self.is_loop();
        self.is_own = self.at.is_some_and(|at| passes(self.downstream, at) > 0);
    }

    /// Checks that an inbound connection may go on under the current rules, which may have changed since it came.
    /// `network` has the clock by which certificates end.
    ///
    /// # Errors
    /// `mtls_required`, or `draining` where a new connection with another certificate may be admitted. Then nothing
    /// more of this connection may be forwarded to the application.
    pub fn admitted(&self, snapshot: &Snapshot, network: &Network) -> Result<(), Error> {
        let Judged { generation, server, .. } = &self.judged;
        let Destination::Route(Fixed { key: DestinationKey::Application(of), .. }) = &self.destination else {
            return Ok(()); // outbound, or inbound without a known application, where nothing is forwarded
        };
        if generation.load(Relaxed) != snapshot.generation {
            let peer = self.peer.as_deref().map(|peer| Admitted { peer, by: server.load(Relaxed) });
            let admitted = match &self.outside {
                Some(client) => snapshot.admits_outside(*of, client),
                None => snapshot.admits(*of, peer.as_ref()),
            };
            match &admitted {
                Ok(()) => self.note_judged(*of, snapshot),
                // the client may connect again
                Err(_) => self.is_dismissed.store(self.peer.is_some() || self.outside.is_some(), Relaxed),
            }
            admitted?;
        }
        // the end may be that of a path to a new bundle
        let has_expired = |client: &Arc<OutsideClient>| client.has_expired(network.unix_now());
        if self.outside.as_ref().is_some_and(has_expired) && snapshot.verifies_outside(*of) {
            self.is_dismissed.store(true, Relaxed);
            let detail = "the certificate that the client showed has expired since the handshake";
            return Err(Error::new(Reason::MtlsRequired, detail));
        }
        Ok(())
    }

    /// Whether its client proved itself by a certificate.
    pub fn is_verified(&self) -> bool {
        self.peer.is_some() || self.outside.as_ref().is_some_and(|client| client.has_certificate())
    }

    /// Checks, like [`Self::admitted`], that opaque bytes may be carried. `is_declared`: the configuration says that
    /// they are opaque.
    ///
    /// # Errors
    /// Those of [`Self::admitted`], and `authz_denied` where rules have changed since the connection was judged.
    pub fn may_carry(&self, snapshot: &Snapshot, network: &Network, is_declared: bool) -> Result<(), Error> {
        let is_judged = self.judged.generation.load(Relaxed) == snapshot.generation;
        self.admitted(snapshot, network)?;
        let Destination::Route(Fixed { key: key @ DestinationKey::Application(_), .. }) = &self.destination
        else {
            return Ok(());
        };
        let rules = snapshot.inbound.as_ref().and_then(|side| side.authorization.as_ref());
        if let Some(rules) = rules.filter(|_| !is_judged) {
            let peer = self.peer.as_ref().map(|peer| &peer.id);
            let (source, port) = (self.downstream.ip(), snapshot.application_port(key));
            let connection = OpaqueConnection { peer, source, port, is_declared };
            if !rules.passes_opaque(&connection) {
                return rules.opaque(&connection).1; // only what ends the connection is counted once more
            }
        }
        self.judged.generation.store(snapshot.generation, Relaxed); // opaque bytes do not end with the connection's age
        Ok(())
    }

    /// Remembers that the rules of `snapshot` have admitted the connection, and which TLS server has verified its peer.
    /// A connection that will become too old without a further change of the rules is judged at each request until then.
    fn note_judged(&self, of: Arrival, snapshot: &Snapshot) {
        let (Judged { generation, server }, is_outdated) = (&self.judged, &self.is_outdated);
        if let Some(new) = snapshot.judge(of)
            && server.swap(new.serial, Relaxed) != new.serial
        {
            is_outdated.store(self.peer.is_some(), Relaxed);
        }
        let max_age = snapshot.inbound.as_ref().and_then(|side| side.max_connection_age);
        match Goodbye::due(max_age, is_outdated.load(Relaxed), self.opened.elapsed()) {
            Goodbye::Later => {}
            Goodbye::Never => generation.store(snapshot.generation, Relaxed),
            Goodbye::Now => {
                generation.store(snapshot.generation, Relaxed);
                self.is_dismissed.store(true, Relaxed);
            }
        }
    }

    pub fn loop_detected(&self) -> Error {
        loop_detected(self.downstream, self.original)
    }

    /// Takes a place for one more exchange whose head has `head_bytes`. Inbound, the identities of the mesh share a
    /// common limit, and all clients without an identity count as one. Outbound there is a limit only where the memory
    /// of the process has one: otherwise (`None`) the circuit breakers of the services bound the application's requests.
    ///
    /// # Errors
    /// `overloaded`: the client has as many exchanges under way as it may have now.
    pub fn place_for_exchange(
        &self,
        head_bytes: usize,
        ground: &Ground,
    ) -> Result<Option<ExchangePlace>, Error> {
        if self.direction == Direction::Outbound && ground.ceiling.limit().is_none() {
            return Ok(None);
        }
        let holder = self.holder.get_or_init(|| match (self.direction, &self.peer) {
            (Direction::Outbound, _) => ground.application_exchanges.holder(APPLICATION),
            (Direction::Inbound, None) => ground.exchanges.holder(STRANGERS),
            (Direction::Inbound, Some(peer)) => ground.exchanges.holder(peer.id.as_str()),
        });
        holder.begin(head_bytes).map(Some).ok_or_else(|| Error::new(Reason::Overloaded, holder.why_no_room()))
    }

    /// Begins an exchange. Returns whether it is the first one.
    pub fn begin(&self) -> bool {
        self.in_flight.fetch_add(1, Relaxed);
        self.requests.fetch_add(1, Relaxed) == 0
    }

    pub fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }
}
