//! One inbound connection, from accept to the application.
//!
//! With strict mTLS only TLS is accepted: a plaintext HTTP/1 client gets an answer that says so, any other connection
//! is closed. A request cannot choose where it goes: inbound, it always goes to the application.

mod arrived;
mod handshake;
mod rules;

use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderValue;
use pillion_model::listener::Mtls;
use tokio::time::{Instant, timeout_at};
use tower::ServiceBuilder;

use crate::connection::{Connection, Destination, Judged, Origin, Place};
use crate::detect::bytes::begins_like_tls;
use crate::detect::{Detected, Found, NO_EARLY_DIAL, PeekedClient, Undecided, Version, detect, first_byte};
use crate::dispatch;
use crate::exchange::{DialFailure, Facts};
use crate::http::refusal;
use crate::http::server;
use crate::layers::{
    AnsweringService, Name, closing, headers, limit, record, rescue, retry, route, timeout as time, unless,
};
use crate::serve::{Next, Serving};
use crate::state::{Admitted, Arrival};
use crate::tcp::{self, Dialled};
use crate::worker::Worker;
use arrived::{Arrived, Proven, Who};
use handshake::Terminates;
use pillion_base::error::Error;
use pillion_base::net::returning::{is_loop, loop_detected};
use pillion_base::net::{Io, Stream};
use pillion_base::strangers::Unadmitted;
use pillion_base::unfinished::Side;
use pillion_model::Direction;
use pillion_model::Reason;
use pillion_telemetry::{ConnectionOutcome, Protocol, Symbol, Tls};
use pillion_tls::{Alpn, Peer, hex};
use pillion_upstream::cluster::ClusterProtocol;
use rules::InboundRules;

/// Why a connection without a permanent place has lost it.
const GIVEN_AWAY: &str = "a new one has taken its place";

/// The inbound side of a worker.
#[derive(Clone)]
pub struct Inbound {
    pub worker: Arc<Worker>,
    /// The application's port whose own listener this is.
    pub port: Option<u16>,
}

/// The layers stand in the order in which a request passes them.
pub fn stack(without: Option<Name>) -> impl AnsweringService {
    ServiceBuilder::new()
        .layer(unless(without, Name::Record, record::layer())) // first in, last out: sees every ending
        .layer(rescue::layer()) // errors become answers below the record
        .layer(closing::layer()) // refuses requests near the end of a drain; callers retry them elsewhere
        .layer(unless(without, Name::Route, route::layer(None, dispatch::of_ours))) // always the application
        .layer(unless(without, Name::Headers, headers::layer())) // tells the application only a proven identity
        .layer(unless(without, Name::Timeout, time::whole())) // off by default: the caller has its own deadline
        .layer(unless(without, Name::Retry, retry::layer())) // only where the pooled connection was closed
        .layer(unless(without, Name::Limit, limit::layer())) // max_requests, max_body
        .service(dispatch::service())
}

/// What a client speaks, or why its connection ended before that was known.
type Looked = Result<Detected<Dialled>, Undecided>;

/// What happens next with a connection after its bytes were examined.
enum Step {
    Next(Next),
    Ended,
    /// The handshake is complete: the bytes inside TLS are examined next.
    Proven(Io, Arrived),
}

impl Inbound {
    /// Serves one connection. Metrics and the log show how it ended; an error of one peer affects no other connection.
    pub fn serve(self, stream: Stream, from: SocketAddr, mut place: Place) -> Serving {
        let must_leave = place.must_leave();
        let arrived = self.arrived(&stream, from, place);
        let io = Io::plain(stream);
        let deciding = self.clone();
        // Boxed, so that its memory is freed before the connection is served.
        let deciding = Box::pin(async move { deciding.decide(io, arrived).await });
        Box::pin(async move {
            let decided = tokio::select! { // when a stranger has to leave, the bytes that it has sent are lost
                biased;
                decided = deciding => decided,
                () = must_leave => {
                    tracing::debug!(%from, "inbound connection closed before it was admitted: a new one takes its place");
                    self.count(Protocol::Unknown, Tls::None, ConnectionOutcome::Refused);
                    None
                }
            };
            let running = decided.map(|next| next.run(&self.worker, stack(None)));
            if let Some(running) = running {
                running.await;
            }
        })
    }

    fn arrived(&self, stream: &Stream, from: SocketAddr, place: Place) -> Arrived {
        let original = stream.original_destination();
        let original = original.filter(|to| !self.worker.state.load().own.contains(*to));
        if original.is_some() {
            self.worker.state.redirected.note(Direction::Inbound);
        }
        let client = stream.came_by_tproxy().then_some(from.ip());
        let is_strangers = original.is_some_and(|original| !stream.is_for_this_host(original.ip()));
        let of = Arrival { original, port: self.port, client };
        Arrived { from, since: Instant::now(), began: None, place, of, is_strangers, proven: None }
    }

    /// Decides how the connection goes on. `None`: it has ended. After a wait on the client, the connection is judged
    /// by the current rules; its bytes are examined again where the former rules examined them in another way.
    async fn decide(&self, mut io: Io, mut arrived: Arrived) -> Option<Next> {
        if arrived.is_strangers {
            tracing::debug!(from = %arrived.from, "inbound connection closed: it was meant for another host");
            self.count(Protocol::Unknown, Tls::None, ConnectionOutcome::Refused);
            return None;
        }
        let mut rules = self.rules(&arrived)?;
        loop {
            let detected = match self.look(io, &rules, &mut arrived).await? {
                Ok(detected) => detected,
                Err(why) => {
                    self.undecided(why, &rules, arrived);
                    return None;
                }
            };
            arrived.began = detected.began;
            if self.worker.state.load().generation != rules.generation {
                let Some(now) = self.rules(&arrived) else {
                    detected.io.get_ref().reset_on_drop(); // its protocol may have no framing that shows a cut
                    return None;
                };
                let before = std::mem::replace(&mut rules, now);
                if !before.look_like(&rules) {
                    arrived.since = arrived.began.unwrap_or_else(Instant::now);
                    io = detected.io;
                    continue;
                }
            }
            match self.act(detected, &rules, arrived).await {
                Step::Next(next) => return Some(next),
                Step::Ended => return None,
                Step::Proven(inside, proven) => (io, arrived) = (inside, proven),
            }
            rules = self.rules(&arrived)?;
        }
    }

    /// Reads the current rules. `None`: they do not admit this connection any more, and it has been refused.
    fn rules(&self, arrived: &Arrived) -> Option<InboundRules> {
        let snapshot = self.worker.state.load();
        let Some(rules) = InboundRules::now(arrived.of, &snapshot) else {
            self.refuse(arrived, "the configuration has no `inbound` any more");
            return None;
        };
        if let Some(Proven { who, by, .. }) = &arrived.proven {
            let admitted = match who {
                Who::Peer(peer) => snapshot.admits(arrived.of, Some(&Admitted { peer, by: *by })),
                Who::Outside(client) => snapshot.admits_outside(arrived.of, client),
            };
            return match admitted.err() {
                Some(error) => {
                    self.refuse(arrived, &error.detail);
                    None
                }
                None => Some(rules),
            };
        }
        if rules.outside.is_none() && rules.mtls != Mtls::Off && rules.side.tls.is_none() {
            self.refuse(arrived, "mTLS is configured, and the sidecar has no certificates yet");
            return None;
        }
        Some(rules)
    }

    fn refuse(&self, arrived: &Arrived, why: &str) {
        tracing::debug!(from = %arrived.from, "inbound connection closed: {why}");
        self.count(Protocol::Unknown, arrived.tls_label(), ConnectionOutcome::Refused);
    }

    /// Reads as much from the client as is needed to tell its protocol. `None`: the connection has ended, and is
    /// counted.
    async fn look(&self, io: Io, rules: &InboundRules, arrived: &mut Arrived) -> Option<Looked> {
        let proven = arrived.proven.as_ref().map(|proven| proven.alpn);
        let alpn = match (proven, rules.mtls) {
            (Some(alpn), _) => alpn,
            (None, _) if rules.outside.is_some() => return self.look_strictly(io, arrived).await,
            (None, Mtls::Strict) => return self.look_strictly(io, arrived).await,
            (None, Mtls::Permissive) => None,
            (None, Mtls::Off) if self.keep_place(arrived) => None, // no client needs an identity
            (None, Mtls::Off) => return None,
        };
        let (work, may_be_tls) = (&arrived.place.work, arrived.proven.is_none() && rules.mtls != Mtls::Off);
        let client = PeekedClient::new(io, &self.worker, arrived.side(), arrived.began);
        let may_dial = rules.may_dial_early(arrived);
        let origin = Origin { from: arrived.from, original: arrived.of.original, at: None };
        let early = |route| may_dial.then(|| tcp::early(route, origin, &self.worker));
        let detected = match (rules.protocol(), rules.route(), alpn) {
            (Some(ClusterProtocol::Tcp), Some(route), _) if may_be_tls => {
                detect(client.declared_opaque(), work, early(route)).await
            }
            (Some(ClusterProtocol::Tcp), ..) => Ok(Detected::declared(client.into_io(), None)),
            (_, _, Some(alpn)) if alpn != Alpn::PillionTcp => {
                Ok(Detected::agreed(client.into_io(), alpn.is_http2()))
            }
            // A peer's claim to be opaque is not trusted where the application may speak HTTP.
            (Some(ClusterProtocol::AppAuto), Some(route), Some(_)) => {
                detect(client.said_to_be_opaque(), work, early(route)).await
            }
            (Some(ClusterProtocol::AppAuto), Some(route), None) => detect(client, work, early(route)).await,
            _ => detect(client, work, NO_EARLY_DIAL).await.map(Detected::alone),
        };
        Some(detected)
    }

    /// Reads the first byte on a strict port, where only TLS is accepted. It must come within `header_timeout` from
    /// accept, because the peers of the mesh begin the handshake at once. The application is not dialled before the
    /// peer has proven its identity.
    async fn look_strictly(&self, io: Io, arrived: &Arrived) -> Option<Looked> {
        let until = self.handshake_until(arrived);
        let Ok(io) = timeout_at(until, first_byte(io, &self.worker, &arrived.place.work)).await else {
            tracing::debug!(from = %arrived.from, "inbound connection closed: its client began no handshake in time");
            self.count(Protocol::Unknown, Tls::None, ConnectionOutcome::Timeout);
            return None;
        };
        Some(io.map(|io| {
            let is_tls = io.peek().is_some_and(|first| begins_like_tls(&[first]));
            let found = if is_tls { Found::Tls(None) } else { Found::Opaque };
            let began = arrived.began.or_else(|| Some(Instant::now()));
            Detected { found, began, ..Detected::declared(io, None) }
        }))
    }

    /// Acts on what was detected, by the given rules.
    async fn act(&self, detected: Detected<Dialled>, rules: &InboundRules, mut arrived: Arrived) -> Step {
        let tls = rules.side.tls.as_deref().filter(|_| arrived.proven.is_none());
        let outside = rules.outside.as_deref().filter(|_| arrived.proven.is_none());
        let required = match (rules.mtls, tls) {
            _ if let Some(server) = outside => Some(Terminates::Outside(server)),
            (Mtls::Strict, Some(tls)) => Some(Terminates::Mesh(tls)),
            (Mtls::Permissive, Some(tls)) if rules.terminates(&detected.found, arrived.of) => {
                arrived.since = arrived.began.unwrap_or(arrived.since);
                Some(Terminates::Mesh(tls))
            }
            _ => None,
        };
        if let Some(server) = required {
            if matches!(detected.found, Found::Tls(_)) {
                return self.terminate(&server, detected.io, arrived).await;
            }
            self.refuse_plaintext(detected.io, rules, arrived).await;
            return Step::Ended;
        }
        match self.keep_place(&mut arrived) {
            true => self.detected(detected, rules, arrived).map_or(Step::Ended, Step::Next),
            false => Step::Ended,
        }
    }

    /// Makes the place of a connection permanent. `false`: it has ended, and is counted.
    fn keep_place(&self, arrived: &mut Arrived) -> bool {
        let is_kept = arrived.place.keep();
        if !is_kept {
            self.refuse(arrived, GIVEN_AWAY);
        }
        is_kept
    }

    /// Makes the place of a client permanent that has shaken hands. Beside a mesh, clients outside of it get half of the
    /// places at most.
    fn keep(&self, arrived: &mut Arrived) -> bool {
        if arrived.peer().is_some() {
            return self.keep_place(arrived);
        }
        let is_beside_mesh = self.worker.state.load().inbound.as_ref().is_some_and(|side| side.tls.is_some());
        let why = match arrived.place.keep_as_guest(is_beside_mesh) {
            Ok(()) => return true,
            Err(Unadmitted::GivenAway) => GIVEN_AWAY,
            Err(Unadmitted::HalfIsTaken) => {
                "clients outside the mesh have half of inbound.max_connections already"
            }
        };
        self.refuse(arrived, why);
        false
    }

    /// Refuses plaintext on a strict port: an HTTP/1 client gets an answer that says why, any other connection is
    /// closed without a byte. A client that has not shown what it speaks when a handshake would have to be complete is
    /// refused, too.
    async fn refuse_plaintext(&self, io: Io, rules: &InboundRules, arrived: Arrived) {
        self.count(Protocol::Unknown, Tls::None, ConnectionOutcome::Refused);
        if is_loop(Direction::Inbound, arrived.from, arrived.of.original) {
            drop(loop_detected(arrived.from, arrived.of.original)); // called because it logs the loop
            io.get_ref().reset_on_drop();
            return;
        }
        let why = match rules.outside {
            Some(_) => (Reason::BadRequest, refusal::NO_TLS),
            None => (Reason::MtlsRequired, refusal::PLAINTEXT),
        };
        let client = PeekedClient::new(io, &self.worker, Side::Strangers, arrived.began);
        let until = self.handshake_until(&arrived);
        let detected = timeout_at(until, detect(client, &arrived.place.work, NO_EARLY_DIAL)).await;
        let connection = Connection::new(arrived.from, arrived.place);
        match detected {
            Ok(Ok(Detected { found: Found::Http1, io, .. })) => {
                return Box::pin(refusal::refuse_plaintext(io, why, &connection, &self.worker, until)).await;
            }
            Ok(Ok(Detected { found: Found::Http2, .. })) => {
                return refusal::note_http2_plaintext(why, &connection, &self.worker);
            }
            Ok(Ok(Detected { io, .. })) => io.get_ref().reset_on_drop(), // opaque bytes have no framing that shows a cut
            Ok(Err(_)) | Err(_) => {}
        }
        let error = Error::new(why.0, why.1);
        let facts = rules.route().map_or_else(Facts::default, Facts::of);
        tcp::record_failure(DialFailure::new(error, facts), &connection, &self.worker);
    }

    /// Chooses HTTP or opaque bytes for what was detected. `None`: the connection has ended.
    fn detected(&self, detected: Detected<Dialled>, rules: &InboundRules, arrived: Arrived) -> Option<Next> {
        match rules.protocol() {
            Some(ClusterProtocol::Tcp) => self.opaque(detected, rules, arrived),
            Some(ClusterProtocol::AppAuto) if !detected.found.is_http() => {
                self.record_protocol(&detected, rules, &arrived);
                self.opaque(detected, rules, arrived)
            }
            _ if rules.mtls == Mtls::Permissive && is_foreign_tls(&detected, &arrived) => {
                self.opaque(detected, rules, arrived)
            }
            // The HTTP side also refuses bytes that are not HTTP, with an answer. The early connection is dropped: it
            // was made for a server that speaks first.
            _ => {
                self.record_protocol(&detected, rules, &arrived);
                Some(self.http(detected.io, detected.found.version(), rules, arrived))
            }
        }
    }

    /// Counts the detected protocol, and remembers it for the application, where its protocol is not declared.
    fn record_protocol(&self, detected: &Detected<Dialled>, rules: &InboundRules, arrived: &Arrived) {
        let Some(route) = rules.route().filter(|route| route.cluster.protocol == ClusterProtocol::AppAuto)
        else {
            return;
        };
        if let Some(is_http) = detected.shows_http() {
            detected.found.note(Direction::Inbound, arrived.from, &self.worker);
            route.cluster.remember(is_http);
        }
    }

    fn http(&self, io: Io, version: Version, rules: &InboundRules, arrived: Arrived) -> Next {
        let mut connection = self.connection(rules, arrived);
        server::count_begun(version, &connection, &self.worker);
        connection.comes_back = connection.is_loop();
        Next::Http { io, version, connection }
    }

    fn opaque(&self, detected: Detected<Dialled>, rules: &InboundRules, arrived: Arrived) -> Option<Next> {
        let tls = arrived.tls_label();
        let Some(route) = rules.route().cloned() else {
            self.count(Protocol::Tcp, tls, ConnectionOutcome::Refused);
            detected.io.get_ref().reset_on_drop();
            let error = Error::new(Reason::NoRoute, "no application to send bytes to: set `inbound.app`");
            let failure = DialFailure::new(error, Facts::default());
            tcp::record_failure(failure, &self.connection(rules, arrived), &self.worker);
            return None;
        };
        let judged = rules.opaque(&arrived).map(|(by, connection)| by.opaque(&connection));
        let (decided, refused) = judged.map_or((None, Ok(())), |(decided, judged)| (Some(decided), judged));
        if let Err(error) = refused {
            self.count(Protocol::Tcp, tls, ConnectionOutcome::Refused);
            detected.io.get_ref().reset_on_drop();
            let facts = Facts { authorization: decided, ..Facts::of(&route) };
            let failure = DialFailure::new(error, facts);
            tcp::record_failure(failure, &self.connection(rules, arrived), &self.worker);
            return None;
        }
        self.count(Protocol::Tcp, tls, ConnectionOutcome::Ok);
        if self.worker.state.observation.is_on() {
            self.observe(&arrived, rules.to.map_or(0, |to| to.port()));
        }
        let connection = Connection { authorization: decided, ..self.connection(rules, arrived) };
        Some(Next::Opaque { detected: Box::new(detected), route, connection })
    }

    /// Notes an opaque connection while an operator records a policy.
    #[cold]
    fn observe(&self, arrived: &Arrived, port: u16) {
        let (peer, source) = (arrived.peer().map(|peer| &peer.id), arrived.from.ip().to_canonical());
        self.worker.state.observation.note(|traffic| traffic.add_connection(peer, source, port));
    }

    fn connection(&self, rules: &InboundRules, arrived: Arrived) -> Connection {
        let by = arrived.proven.as_ref().map_or(0, |proven| proven.by);
        let handshake_micros = arrived.proven.as_ref().map_or(0, |proven| proven.micros);
        let current = match arrived.outside() {
            Some(_) => rules.outside.as_ref().map(|server| server.serial),
            None => rules.side.tls.as_ref().map(|server| server.serial),
        };
        let is_by_current = current.is_none_or(|serial| serial == by);
        // a peer that an older TLS server verified is judged with its first request
        let generation = if arrived.proven.is_none() || is_by_current { rules.generation } else { 0 };
        let alpn = arrived.proven.as_ref().and_then(|proven| proven.alpn);
        let (peer, outside) = match arrived.proven.map(|proven| proven.who) {
            Some(Who::Peer(peer)) => (Some(peer), None),
            Some(Who::Outside(client)) => (None, Some(client)),
            None => (None, None),
        };
        let label = |peer: &Arc<Peer>| self.worker.ground.metrics.intern_peer(peer.id.as_str());
        let client_cert = match (&peer, &outside) {
            (Some(peer), _) => rules.side.own_id.as_deref().and_then(|by| client_cert(by, peer)),
            (None, Some(client)) => client.described().and_then(|text| HeaderValue::try_from(text).ok()),
            (None, None) => None,
        };
        Connection {
            peer_label: peer.as_ref().map_or(Symbol::EMPTY, label),
            client_cert,
            peer,
            outside,
            is_from_sidecar: alpn.is_some_and(Alpn::is_sidecar),
            handshake_micros,
            original: arrived.of.original,
            destination: rules.route.clone().map_or(Destination::Named, Destination::Route),
            began: arrived.began,
            opened: arrived.since,
            judged: Judged { generation: generation.into(), server: by.into() },
            ..Connection::new(arrived.from, arrived.place)
        }
    }

    fn undecided(&self, why: Undecided, rules: &InboundRules, arrived: Arrived) {
        tracing::debug!(from = %arrived.from, %why, "inbound connection ended before it showed what it speaks");
        self.count(Protocol::Unknown, arrived.tls_label(), why.outcome());
        if let Some(failure) = why.failure() {
            tcp::record_failure(failure, &self.connection(rules, arrived), &self.worker);
        }
    }

    fn count(&self, protocol: Protocol, tls: Tls, outcome: ConnectionOutcome) {
        self.worker.ground.metrics.connections(Direction::Inbound, Symbol::APP, protocol, tls, outcome).inc();
    }
}

/// Whether the client speaks TLS that the sidecar does not terminate.
fn is_foreign_tls(detected: &Detected<Dialled>, arrived: &Arrived) -> bool {
    arrived.proven.is_none() && matches!(detected.found, Found::Tls(_))
}

/// `By=<own id>;Hash=<sha256>;URI=<peer id>`, Envoy's format. SPIFFE IDs need no quoting.
fn client_cert(by: &str, peer: &Peer) -> Option<HeaderValue> {
    let (hash, id) = (hex(&peer.certificate_sha256), peer.id.as_str());
    HeaderValue::try_from(["By=", by, ";Hash=", &hash, ";URI=", id].concat()).ok()
}
