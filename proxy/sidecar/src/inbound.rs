//! One inbound connection, from accept to the application.
//!
//! Strict mTLS: TLS or nothing. A plaintext HTTP client is told so, anything else is closed. Where a request goes
//! is never taken from the request.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use http::HeaderValue;
use pillion_model::SpiffeId;
use pillion_model::listener::{self as config, AppProtocol, Mtls, RedirectTo};
use rustls::ServerConfig;
use tokio::time::{Instant, timeout_at};
use tower::ServiceBuilder;

use crate::connection::{Connection, Destination, Place};
use crate::detect::bytes::begins_like_tls;
use crate::detect::{Detected, Found, NEVER, Undecided, Version, detect, detect_tls, doubt, first_byte};
use crate::dispatch;
use crate::http::refusal;
use crate::http::server;
use crate::layers::{
    AnsweringService, Name, closing, headers, limit, record, rescue, retry, route, timeout as time, unless,
};
use crate::serve::Next;
use crate::state::{Application, Fixed, InboundSide, Key, Route};
use crate::tcp::{self, Dialled};
use crate::worker::Worker;
use pillion_base::error::Error;
use pillion_base::net::returning::{is_loop, loop_detected};
use pillion_base::net::{Io, Leg, Prefixed, Stream, Transport};
use pillion_model::Direction;
use pillion_model::Reason;
use pillion_telemetry::{ConnectionOutcome, HandshakeOutcome, Protocol, Symbol, Tls};
use pillion_tls::server::accept;
use pillion_tls::{Alpn, Peer, TlsError, refusals};
use pillion_upstream::cluster::Spoken;

/// The inbound side of a worker.
#[derive(Clone)]
pub struct Inbound {
    pub worker: Arc<Worker>,
    /// As it is when the connection comes.
    pub side: Arc<InboundSide>,
    /// The application's port whose own listener this is.
    pub port: Option<u16>,
}

/// Reads in the order a request meets it.
pub fn stack(without: Option<Name>) -> impl AnsweringService {
    ServiceBuilder::new()
        .layer(unless(without, Name::Record, record::layer())) // first in, last out: sees every ending
        .layer(rescue::layer()) // errors become answers below the record
        .layer(closing::layer()) // what comes too late is refused, and may go elsewhere
        .layer(unless(without, Name::Route, route::layer(None))) // the application, whatever the request says
        .layer(unless(without, Name::Headers, headers::layer())) // the caller's proven identity, and no other
        .layer(unless(without, Name::Timeout, time::whole())) // off by default: the caller's deadline rules
        .layer(unless(without, Name::Retry, retry::layer())) // only connections that the application had closed
        .layer(unless(without, Name::Limit, limit::layer())) // max_requests, max_body
        .service(dispatch::service())
}

/// A connection on its way to the application.
struct Arrived {
    from: SocketAddr,
    since: Instant,
    place: Place,
    /// The address that it was meant for; `None`: the listener's own.
    original: Option<SocketAddr>,
    /// That address is another host's: the redirect caught what only passes by.
    is_strangers: bool,
    /// Where the application is; `None`: nobody said.
    to: Option<SocketAddr>,
    route: Option<Fixed>,
}

impl Arrived {
    fn route(&self) -> Option<&Arc<Route>> {
        self.route.as_ref().map(|fixed| &fixed.route)
    }

    /// What the application was declared to speak; `None`: nobody said where it is.
    fn protocol(&self) -> Option<Spoken> {
        self.route().map(|route| route.cluster.protocol)
    }
}

/// Where a connection that came in this way finds the application.
fn target(policy: &config::Inbound, original: Option<SocketAddr>, port: Option<u16>) -> Option<SocketAddr> {
    match (original, port) {
        (Some(original), _) if policy.redirect_to == RedirectTo::Loopback => {
            let loopback: IpAddr = match original {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            Some((loopback, original.port()).into())
        }
        (Some(original), _) => Some(original),
        (None, Some(port)) => {
            let ip = policy.app.map_or_else(|| Ipv4Addr::LOCALHOST.into(), |app| app.ip());
            Some((ip, port).into())
        }
        (None, None) => policy.app,
    }
}

impl Inbound {
    /// Serves one connection. How it ends is told in metrics and log; a bad peer costs only itself.
    pub async fn serve(self, stream: Stream, from: SocketAddr, mut place: Place) {
        let must_leave = place.must_leave();
        let arrived = self.arrived(&stream, from, place);
        let io = Prefixed::new(Transport::Plain(Prefixed::new(stream)));
        let decided = tokio::select! { // a stranger that leaves loses all that it has said
            decided = Box::pin(self.decide(io, arrived)) => decided, // boxed: it is gone afterwards
            () = must_leave => {
                tracing::debug!(%from, "inbound connection closed before it was admitted: a new one takes its place");
                self.count(Protocol::Unknown, Tls::None, ConnectionOutcome::Refused);
                None
            }
        };
        if let Some(next) = decided {
            next.run(&self.worker, stack(None)).await;
        }
    }

    /// `None`: it has ended.
    async fn decide(&self, io: Io, mut arrived: Arrived) -> Option<Next> {
        if arrived.is_strangers {
            tracing::debug!(from = %arrived.from, "inbound connection closed: it was meant for another host");
            self.count(Protocol::Unknown, Tls::None, ConnectionOutcome::Refused);
            return None;
        }
        match (self.side.mtls(arrived.to), self.side.tls.clone()) {
            (Mtls::Strict, Some(tls)) => self.strict(tls, io, arrived).await,
            (Mtls::Permissive, Some(tls)) => self.permissive(tls, io, arrived).await,
            // Nobody has to prove anything.
            (Mtls::Off, _) if arrived.place.keep() => self.admitted(io, arrived, None, false).await,
            (Mtls::Off, _) => None,
            (Mtls::Strict | Mtls::Permissive, None) => {
                tracing::debug!("connection closed: mTLS is wanted, and there are no certificates yet");
                self.count(Protocol::Unknown, Tls::None, ConnectionOutcome::Refused);
                None
            }
        }
    }

    fn arrived(&self, stream: &Stream, from: SocketAddr, place: Place) -> Arrived {
        let snapshot = self.worker.state.load();
        let original = stream.original_destination().filter(|to| !snapshot.own.contains(*to));
        let to = target(&self.side.policy, original, self.port);
        let to = to.filter(|to| !snapshot.own.contains(*to)); // what was elsewhere may be the sidecar on loopback
        let client = stream.came_by_tproxy().then_some(from.ip());
        let application = |to: SocketAddr| Application { address: to, leg: Leg::inbound(client, to.ip()) };
        let route = to.and_then(|to| snapshot.fixed(Key::Application(application(to))));
        let is_strangers = original.is_some_and(|original| !stream.is_for_this_host(original.ip()));
        Arrived { from, since: Instant::now(), place, original, is_strangers, to, route }
    }

    /// TLS or nothing, within `header_timeout` from accept: silence does not buy more time, since the peers of the mesh
    /// shake hands at once. Nobody is dialled before the peer has proven who it is.
    async fn strict(&self, tls: Arc<ServerConfig>, io: Io, arrived: Arrived) -> Option<Next> {
        let until = arrived.since + self.worker.limits().header_timeout;
        let Ok(io) = timeout_at(until, first_byte(io, &self.worker, &arrived.place.work)).await else {
            tracing::debug!(from = %arrived.from, "inbound connection closed: its client has not begun a handshake");
            self.count(Protocol::Unknown, Tls::None, ConnectionOutcome::Timeout);
            return None;
        };
        let io = io.inspect_err(|why| self.undecided(why, Tls::None)).ok()?;
        if io.peek().is_some_and(|first| begins_like_tls(&[first])) {
            return self.terminate(tls, io, arrived, until).await;
        }
        drop(timeout_at(until, self.refuse_plaintext(io, arrived)).await);
        None
    }

    /// What is ours is terminated. Other TLS is left to an application that was redirected from, or that speaks TLS
    /// itself; on the sidecar's own port it can only be meant for the sidecar. Without TLS all is as declared.
    async fn permissive(&self, tls: Arc<ServerConfig>, io: Io, mut arrived: Arrived) -> Option<Next> {
        let work = &arrived.place.work;
        let detected = match (arrived.protocol(), arrived.route()) {
            (Some(Spoken::Tcp), Some(route)) => {
                let early = tcp::early(route, arrived.from, arrived.original, &self.worker);
                detect_tls(io, &self.worker, work, Some(early)).await
            }
            (Some(Spoken::AppAuto), Some(route)) => {
                let early = tcp::early(route, arrived.from, arrived.original, &self.worker);
                detect(io, &self.worker, work, Some(early)).await
            }
            _ => detect(io, &self.worker, work, NEVER).await.map(Detected::alone),
        };
        match detected.inspect_err(|why| self.undecided(why, Tls::None)).ok()? {
            Detected { found: Found::Tls(hello), io, .. }
                if hello.as_ref().is_some_and(|hello| hello.is_ours) || !self.leaves_tls(&arrived) =>
            {
                let until = Instant::now() + self.worker.limits().header_timeout;
                self.terminate(tls, io, arrived, until).await
            }
            _ if !arrived.place.keep() => None,
            detected if matches!(detected.found, Found::Tls(_)) => {
                self.told(&detected, &arrived);
                self.opaque(detected, arrived, None)
            }
            detected => self.detected(detected, arrived, None),
        }
    }

    fn leaves_tls(&self, arrived: &Arrived) -> bool {
        let single = arrived.to.and_then(|to| self.side.policy.ports.get(&to.port()));
        let protocol = single.and_then(|port| port.protocol).unwrap_or(self.side.policy.protocol);
        arrived.original.is_some() || matches!(protocol, AppProtocol::Tls | AppProtocol::Tcp)
    }

    async fn terminate(
        &self,
        tls: Arc<ServerConfig>,
        io: Io,
        mut arrived: Arrived,
        until: Instant,
    ) -> Option<Next> {
        let shaken = timeout_at(until, Box::pin(self.handshake(tls, io, arrived.from))).await;
        let (io, peer, alpn) = shaken.unwrap_or_else(|_elapsed| {
            self.handshake_ended(HandshakeOutcome::Timeout, ConnectionOutcome::Timeout);
            None
        })?;
        if !arrived.place.keep() {
            return None;
        }
        match alpn {
            None => self.admitted(io, arrived, Some(peer), false).await,
            // Its sender says that its bytes are opaque; that is for this side to say.
            Some(Alpn::PillionTcp) => self.admitted(io, arrived, Some(peer), true).await,
            Some(Alpn::H2 | Alpn::Http1) if arrived.protocol() == Some(Spoken::Tcp) => {
                self.opaque(Detected::declared(io, None), arrived, Some(peer))
            }
            Some(alpn) if alpn.is_http2() => Some(self.http(io, Version::Http2, arrived, Some(peer))),
            Some(_) => Some(self.http(io, Version::Http1, arrived, Some(peer))),
        }
    }

    /// `None`: TLS that failed; the peer was told where it can be.
    async fn handshake(
        &self,
        tls: Arc<ServerConfig>,
        io: Io,
        from: SocketAddr,
    ) -> Option<(Io, Arc<Peer>, Option<Alpn>)> {
        let io = io.into_plain()?;
        match accept(tls, io).await {
            Ok((stream, peer, alpn)) => {
                self.worker.ground.metrics.handshakes(Direction::Inbound, HandshakeOutcome::Ok).inc();
                Some((Prefixed::new(Transport::Accepted(Box::new(stream))), peer, alpn))
            }
            Err(error) => {
                tell_failed(from, &error);
                let identity = error.is_identity_mismatch();
                let outcome = if identity { HandshakeOutcome::Identity } else { HandshakeOutcome::Failed };
                self.handshake_ended(outcome, ConnectionOutcome::TlsError);
                None
            }
        }
    }

    /// A plaintext HTTP/1 client hears why; what else it may be is closed without a byte.
    async fn refuse_plaintext(&self, io: Io, arrived: Arrived) {
        self.count(Protocol::Unknown, Tls::None, ConnectionOutcome::Refused);
        if is_loop(Direction::Inbound, arrived.from, arrived.original) {
            drop(loop_detected(arrived.from, arrived.original)); // told in the log
            io.get_ref().abort();
            return;
        }
        let Ok(detected) = detect(io, &self.worker, &arrived.place.work, NEVER).await else { return };
        let (route, connection) = (arrived.route, Connection::new(arrived.from, arrived.place));
        match (detected, route) {
            (Detected { found: Found::Http1, io, .. }, _) => {
                Box::pin(refusal::refuse_plaintext(io, &connection, &self.worker)).await;
            }
            (_, Some(fixed)) => {
                let error = Error::new(Reason::MtlsRequired, refusal::PLAINTEXT);
                tcp::unserved(&error, &fixed.route, &connection, &self.worker);
            }
            (_, None) => {}
        }
    }

    /// What is spoken is declared, or told by the first bytes.
    async fn admitted(
        &self,
        io: Io,
        arrived: Arrived,
        peer: Option<Arc<Peer>>,
        is_said_to_be_opaque: bool,
    ) -> Option<Next> {
        let work = &arrived.place.work;
        let detected = match (arrived.protocol(), arrived.route()) {
            (Some(Spoken::Tcp), _) => return self.opaque(Detected::declared(io, None), arrived, peer),
            (Some(Spoken::AppAuto), Some(route)) => {
                let early = Some(tcp::early(route, arrived.from, arrived.original, &self.worker));
                match is_said_to_be_opaque {
                    true => doubt(io, &self.worker, work, early).await,
                    false => detect(io, &self.worker, work, early).await,
                }
            }
            _ => detect(io, &self.worker, work, NEVER).await.map(Detected::alone),
        };
        let detected = detected.inspect_err(|why| self.undecided(why, tls_label(peer.as_ref()))).ok()?;
        self.detected(detected, arrived, peer)
    }

    fn detected(
        &self,
        detected: Detected<Dialled>,
        arrived: Arrived,
        peer: Option<Arc<Peer>>,
    ) -> Option<Next> {
        match arrived.protocol() {
            Some(Spoken::Tcp) => self.opaque(detected, arrived, peer),
            Some(Spoken::AppAuto) if !detected.found.is_http() => {
                self.told(&detected, &arrived);
                self.opaque(detected, arrived, peer)
            }
            // What is no HTTP hears so from the HTTP side. An early connection was for a server that speaks first.
            _ => {
                self.told(&detected, &arrived);
                Some(self.http(detected.io, detected.found.version(), arrived, peer))
            }
        }
    }

    /// Counts and remembers what bytes have told, where nobody declared it.
    fn told(&self, detected: &Detected<Dialled>, arrived: &Arrived) {
        let Some(route) = arrived.route().filter(|route| route.cluster.protocol == Spoken::AppAuto) else {
            return;
        };
        if let Some(is_http) = detected.tells_http() {
            detected.found.note(Direction::Inbound, arrived.from, &self.worker);
            route.cluster.remember(is_http);
        }
    }

    fn http(&self, io: Io, version: Version, arrived: Arrived, peer: Option<Arc<Peer>>) -> Next {
        self.count(server::protocol(version), tls_label(peer.as_ref()), ConnectionOutcome::Ok);
        let mut connection = self.connection(arrived, peer);
        connection.comes_back = connection.is_loop();
        Next::Http { io, version, connection }
    }

    fn opaque(&self, detected: Detected<Dialled>, arrived: Arrived, peer: Option<Arc<Peer>>) -> Option<Next> {
        let tls = tls_label(peer.as_ref());
        let Some(route) = arrived.route().cloned() else {
            self.count(Protocol::Tcp, tls, ConnectionOutcome::Refused);
            detected.io.get_ref().abort(); // `inbound.app` says nobody
            return None;
        };
        self.count(Protocol::Tcp, tls, ConnectionOutcome::Ok);
        Some(Next::Opaque { detected: Box::new(detected), route, connection: self.connection(arrived, peer) })
    }

    fn connection(&self, arrived: Arrived, peer: Option<Arc<Peer>>) -> Connection {
        let label = |peer: &Arc<Peer>| self.worker.ground.metrics.intern_peer(peer.id.as_str());
        let client_cert =
            peer.as_ref().and_then(|peer| self.side.own_id.as_deref().and_then(|by| client_cert(by, peer)));
        Connection {
            peer_label: peer.as_ref().map_or(Symbol::EMPTY, label),
            client_cert,
            peer,
            original: arrived.original,
            destination: arrived.route.map_or(Destination::Named, Destination::Route),
            ..Connection::new(arrived.from, arrived.place)
        }
    }

    fn undecided(&self, why: &Undecided, tls: Tls) {
        tracing::debug!(%why, "inbound connection ended before it showed what it speaks");
        self.count(Protocol::Unknown, tls, ConnectionOutcome::Failed);
    }

    fn handshake_ended(&self, handshake: HandshakeOutcome, connection: ConnectionOutcome) {
        self.worker.ground.metrics.handshakes(Direction::Inbound, handshake).inc();
        self.count(Protocol::Unknown, Tls::Mutual, connection);
    }

    fn count(&self, protocol: Protocol, tls: Tls, outcome: ConnectionOutcome) {
        self.worker.ground.metrics.connections(Direction::Inbound, Symbol::APP, protocol, tls, outcome).inc();
    }
}

/// Whom it was that failed, as far as that is known, and why.
fn tell_failed(from: SocketAddr, error: &TlsError) {
    let claimed = error.claimed.as_ref().map_or("unknown", SpiffeId::as_str);
    match refusals::untold_before(Direction::Inbound, error) {
        Some(more) => {
            tracing::warn!(%from, claimed, cause = error.cause, more, "inbound TLS failed: {error}");
        }
        None => tracing::debug!(%from, claimed, cause = error.cause, "inbound TLS failed: {error}"),
    }
}

const fn tls_label(peer: Option<&Arc<Peer>>) -> Tls {
    match peer {
        Some(_) => Tls::Mutual,
        None => Tls::None,
    }
}

/// `By=<own id>;Hash=<sha256>;URI=<peer id>`, Envoy's format. SPIFFE IDs need no quoting.
fn client_cert(by: &str, peer: &Peer) -> Option<HeaderValue> {
    let hash: String = peer.certificate_sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::try_from(format!("By={by};Hash={hash};URI={}", peer.id)).ok()
}
