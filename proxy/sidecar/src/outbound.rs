//! One outbound connection, from the application to the services it calls.
//!
//! The connection comes to the proxy port, to a service's own port, or is redirected by the kernel. [`Destination`] is
//! what is known of its destination before its bytes are read; [`Outbound::enter`] decides by its bytes.

use std::future::{Ready, poll_fn, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use http_body::Body as _;
use pillion_model::listener::Unknown;
use tower::{Service as _, ServiceBuilder};

use crate::connection::{Connection, Destination, Place};
use crate::detect::{Detected, Early, Found, NO_EARLY_DIAL, NoEarlyServer, PeekedClient, Undecided, detect};
use crate::dispatch;
use crate::exchange::{DialFailure, Facts};
use crate::http::{Call, server};
use crate::layers::{
    AnsweringService, Name, amend, cache, headers, limit, record, rescue, retry, route, timeout, unless,
};
use crate::serve::{Next, Serving};
use crate::state::{DestinationKey, Route};
use crate::tcp::{self, Dialled};
use crate::worker::Worker;
use pillion_base::error::Error;
use pillion_base::net::own::{is_from_this_host, is_virtual};
use pillion_base::net::{Io, Stream};
use pillion_model::{Direction, Reason};
use pillion_telemetry::{ConnectionOutcome, Protocol, Symbol, Tls};
use pillion_upstream::cluster::ClusterProtocol;

/// The outbound side of a worker: the proxy port, or a service's own port.
#[derive(Clone)]
pub struct Outbound {
    pub worker: Arc<Worker>,
    pub service: Option<Arc<str>>,
}

/// The layers stand in the order in which a request passes them.
pub fn stack(without: Option<Name>) -> impl AnsweringService {
    ServiceBuilder::new()
        .layer(unless(without, Name::Record, record::layer())) // first in, last out: sees every ending
        .layer(rescue::layer()) // errors become answers below the record
        .layer(unless(without, Name::Route, route::layer(Some(enter_inside), dispatch::of_ours))) // from here on the call has its policy
        .layer(unless(without, Name::Headers, headers::layer())) // adds headers for the next hop, removes forged ones
        .layer(unless(without, Name::Timeout, timeout::whole())) // covers all tries and their pauses
        .layer(amend::layer(carry_mirrored)) // what a route does to a request, once for all tries
        .layer(cache::layer()) // named by what a route asks the service for, filled by the best of all tries
        .layer(unless(without, Name::Retry, retry::layer())) // another endpoint, a pause, a budget
        .layer(unless(without, Name::PerTry, timeout::per_try())) // one try, where another may follow
        .layer(unless(without, Name::Limit, limit::layer())) // inside retry: each try takes its own permit
        .service(dispatch::service())
}

/// Sends the copy of a request to a mirror: once, counted like any request, and its answer is discarded.
fn carry_mirrored(call: Box<Call>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let mut stack = ServiceBuilder::new()
        .layer(record::layer())
        .layer(rescue::layer())
        .layer(timeout::whole())
        .layer(limit::layer()) // the mirror's own limit: a slow mirror gets no more requests
        .service(dispatch::service());
    Box::pin(async move {
        let Ok(mut answer) = stack.call(call).await;
        // The answer is read and not reset, so that its connection can be used again.
        let mut next = |cx: &mut Context<'_>| Pin::new(answer.body_mut()).poll_frame(cx);
        while let Some(Ok(_thrown_away)) = poll_fn(&mut next).await {}
    })
}

/// Serves what runs inside a CONNECT, like a redirected connection to the address that the CONNECT names.
fn enter_inside(worker: Arc<Worker>, io: Io, inside: Connection, early: Option<Dialled>) -> Serving {
    Outbound { worker, service: None }.enter(io, inside, early)
}

impl Outbound {
    /// Serves one connection.
    pub fn serve(self, stream: Stream, from: SocketAddr, place: Place) -> Serving {
        let at = stream.own_address();
        if !is_from_this_host(from.ip(), at.map(|at| at.ip())) {
            tracing::debug!(%from, "outbound connection closed: it comes from another host");
            return self.refuse();
        }
        let original = stream.original_destination();
        if original.is_some() {
            self.worker.state.redirected.note(Direction::Outbound);
        }
        let Some(destination) = self.destination(original) else {
            return self.refuse();
        };
        let is_redirected = self.service.is_none() && !matches!(destination, Destination::Named);
        let connection =
            Connection { destination, is_redirected, original, at, ..Connection::new(from, place) };
        let io = Io::plain(stream);
        self.enter(io, connection, None)
    }

    fn refuse(&self) -> Serving {
        self.count(Symbol::EMPTY, Protocol::Unknown, ConnectionOutcome::Refused);
        Box::pin(ready(()))
    }

    /// Finds the destination: a service's own port means that service, a redirected connection has its original
    /// destination. `None`: a reload removed the service while its last connections came.
    fn destination(&self, original: Option<SocketAddr>) -> Option<Destination> {
        match &self.service {
            Some(name) => {
                self.worker.state.load().fixed(DestinationKey::Service(name.clone())).map(Destination::Route)
            }
            None => Some(original.map_or(Destination::Named, |to| self.towards(to))),
        }
    }

    /// The destination that an address means: a service, or an unknown address. An address of the sidecar's own
    /// listeners means that the connection was not redirected.
    pub fn towards(&self, to: SocketAddr) -> Destination {
        let snapshot = self.worker.state.load();
        match snapshot.fixed(DestinationKey::Address(to)) {
            Some(fixed) => Destination::Route(fixed),
            None if snapshot.own.contains(to) => Destination::Named,
            None => Destination::Unknown(to),
        }
    }

    /// Serves an accepted connection, or what runs inside a CONNECT. Boxed, because a CONNECT may hold another CONNECT.
    pub fn enter(self, io: Io, connection: Connection, early: Option<Dialled>) -> Serving {
        let worker = self.worker.clone();
        // Boxed, so that its memory is freed before the connection is served.
        let deciding = Box::pin(async move { self.decide(io, connection, early).await });
        Box::pin(async move {
            let running = deciding.await.map(|next| next.run(&worker, stack(None)));
            if let Some(running) = running {
                running.await;
            }
        })
    }

    /// Decides how the connection goes on. `None`: it has ended. After a wait on the client, the current configuration
    /// decides where the connection goes.
    async fn decide(
        &self,
        mut io: Io,
        mut connection: Connection,
        mut early: Option<Dialled>,
    ) -> Option<Next> {
        loop {
            let (generation, direct) = (self.generation(), self.direct(&connection.destination));
            let detected = self.look(io, early.take(), direct.as_ref(), &connection).await?;
            connection.began = detected.began;
            if self.generation() == generation {
                return self.act(detected, direct, connection);
            }
            connection.destination = self.destination_now(connection.destination)?;
            let now = self.direct(&connection.destination);
            let cluster =
                |route: &Option<Arc<Route>>| route.as_ref().map(|route| Arc::as_ptr(&route.cluster));
            if cluster(&now) == cluster(&direct) {
                return self.act(detected, now, connection);
            }
            io = detected.io;
        }
    }

    fn generation(&self) -> u64 {
        self.worker.state.load().generation
    }

    /// The destination under the current configuration. `None`: the connection came to a service's own port, and a
    /// reload removed that service.
    fn destination_now(&self, destination: Destination) -> Option<Destination> {
        match destination {
            Destination::Named => Some(Destination::Named),
            Destination::Unknown(to) => Some(self.towards(to)),
            Destination::Route(fixed) => match fixed.key {
                DestinationKey::Address(to) => Some(self.towards(to)),
                key => {
                    let now = self.worker.state.load().fixed(key).map(Destination::Route);
                    if now.is_none() {
                        tracing::debug!("outbound connection closed: its service is no longer configured");
                        self.count(Symbol::EMPTY, Protocol::Unknown, ConnectionOutcome::Refused);
                    }
                    now
                }
            },
        }
    }

    /// The route that the connection takes unless its bytes name another service.
    fn direct(&self, destination: &Destination) -> Option<Arc<Route>> {
        match destination {
            Destination::Route(fixed) => Some(fixed.route.clone()),
            Destination::Unknown(to) if !is_virtual(to.ip()) && self.passes_unknown() => {
                Some(self.worker.state.unknown.route(*to))
            }
            Destination::Named | Destination::Unknown(_) => None,
        }
    }

    fn passes_unknown(&self) -> bool {
        self.worker.state.load().policy == Unknown::Passthrough
    }

    /// Reads as much from the client as is needed to tell its protocol. `None`: the connection has ended.
    async fn look(
        &self,
        io: Io,
        early: Option<Dialled>,
        direct: Option<&Arc<Route>>,
        connection: &Connection,
    ) -> Option<Detected<Dialled>> {
        let work = &connection.place.work;
        let client = PeekedClient::new(io, &self.worker, connection.side(), connection.began);
        let detected = match (direct, &connection.destination) {
            (Some(route), _) if route.cluster.protocol == ClusterProtocol::Tcp => {
                return Some(Detected::declared(client.into_io(), early));
            }
            (Some(route), _) if route.cluster.protocol == ClusterProtocol::Auto => match early {
                Some(dialled) => detect(client, work, Some(tcp::at_hand(dialled, route))).await,
                None => {
                    let early = tcp::early(route, connection.origin(), &self.worker);
                    detect(client, work, Some(early)).await
                }
            },
            // Which server to dial is known only from a request or from a TLS server name.
            (None, Destination::Unknown(to)) if is_virtual(to.ip()) => {
                detect(client, work, Some(no_service_at(*to))).await.map(Detected::alone)
            }
            _ => detect(client, work, NO_EARLY_DIAL).await.map(Detected::alone),
        };
        self.or_log(detected, connection)
    }

    /// Acts on what was detected. `direct` is the route by the current configuration.
    fn act(
        &self,
        detected: Detected<Dialled>,
        direct: Option<Arc<Route>>,
        connection: Connection,
    ) -> Option<Next> {
        match direct {
            Some(route) if route.cluster.protocol == ClusterProtocol::Tcp => {
                self.opaque(detected, Some(route), connection)
            }
            Some(route) if route.cluster.protocol == ClusterProtocol::Auto => {
                self.undeclared(detected, route, connection)
            }
            _ => self.requests_only(detected, connection),
        }
    }

    fn requests_only(&self, detected: Detected<Dialled>, connection: Connection) -> Option<Next> {
        if !matches!(connection.destination, Destination::Route(_)) {
            detected.found.note(Direction::Outbound, connection.downstream, &self.worker);
        }
        match (&detected.found, &connection.destination) {
            (Found::Tls(Some(_)), Destination::Named | Destination::Unknown(_)) => {
                self.tls(detected, None, connection)
            }
            (Found::Tls(None) | Found::Opaque, Destination::Unknown(_)) => {
                self.opaque(detected, None, connection)
            }
            // The HTTP side also refuses bytes that are not HTTP, with an answer.
            _ => Some(self.http(detected, connection)),
        }
    }

    fn undeclared(
        &self,
        detected: Detected<Dialled>,
        route: Arc<Route>,
        connection: Connection,
    ) -> Option<Next> {
        if let Some(is_http) = detected.shows_http() {
            route.cluster.remember(is_http);
            detected.found.note(Direction::Outbound, connection.downstream, &self.worker);
        }
        match &detected.found {
            // The early connection is dropped: it was made for a server that speaks first.
            Found::Http1 | Found::Http2 => Some(self.http(detected, connection)),
            Found::Tls(Some(_)) => self.tls(detected, Some(route), connection),
            Found::Tls(None) | Found::Opaque => self.opaque(detected, Some(route), connection),
        }
    }

    fn http(&self, detected: Detected<Dialled>, mut connection: Connection) -> Next {
        let version = detected.found.version();
        connection.note_origin();
        server::count_begun(version, &connection, &self.worker);
        Next::Http { io: detected.io, version, connection }
    }

    /// The application's own TLS is carried unchanged. Where the address belongs to no service, the server name in the
    /// ClientHello may choose a service.
    fn tls(
        &self,
        detected: Detected<Dialled>,
        direct: Option<Arc<Route>>,
        connection: Connection,
    ) -> Option<Next> {
        let port = match &connection.destination {
            Destination::Unknown(to) => Some(to.port()),
            Destination::Named => None,
            Destination::Route(_) => return self.opaque(detected, direct, connection),
        };
        let snapshot = self.worker.state.load();
        let named = detected.server_name().and_then(|name| snapshot.hosts.find_at(name, port));
        match named.filter(|route| !route.is_only_rules).cloned() {
            // The early connection is dropped: it was made to the address, not to this service.
            Some(route) => self.opaque(Detected { early: None, ..detected }, Some(route), connection),
            None => self.opaque(detected, direct, connection),
        }
    }

    fn opaque(
        &self,
        detected: Detected<Dialled>,
        route: Option<Arc<Route>>,
        connection: Connection,
    ) -> Option<Next> {
        let Some(route) = route else {
            self.count(Symbol::EMPTY, Protocol::Tcp, ConnectionOutcome::Refused);
            detected.io.get_ref().reset_on_drop();
            let failure = DialFailure::new(no_destination(&connection.destination), Facts::default());
            tcp::record_failure(failure, &connection, &self.worker);
            return None;
        };
        self.count(route.cluster.symbol, Protocol::Tcp, ConnectionOutcome::Ok);
        Some(Next::Opaque { detected: Box::new(detected), route, connection })
    }

    fn or_log<D>(
        &self,
        detected: Result<Detected<D>, Undecided>,
        connection: &Connection,
    ) -> Option<Detected<D>> {
        let why = match detected {
            Ok(detected) => return Some(detected),
            Err(why) => why,
        };
        tracing::debug!(%why, "outbound connection ended before it showed what it speaks");
        self.count(connection.service(), Protocol::Unknown, why.outcome());
        if let Some(failure) = why.failure() {
            tcp::record_failure(failure, connection, &self.worker);
        }
        None
    }

    fn count(&self, service: Symbol, protocol: Protocol, outcome: ConnectionOutcome) {
        self.worker
            .ground
            .metrics
            .connections(Direction::Outbound, service, protocol, Tls::None, outcome)
            .inc();
    }
}

/// The error for opaque bytes that have no destination.
fn no_destination(destination: &Destination) -> Error {
    match destination {
        Destination::Unknown(to) if is_virtual(to.ip()) => route::no_service_at(to.ip()),
        Destination::Unknown(to) => route::denied(&to.to_string()),
        Destination::Named | Destination::Route(_) => Error::new(
            Reason::NoRoute,
            "no service has the server name, and the connection was not redirected",
        ),
    }
}

/// A dial that fails at once, for a virtual address that belongs to no service. A silent client would wait there for a
/// server that never speaks; with the failed dial it sees the same as when a server refuses it.
fn no_service_at(to: SocketAddr) -> Early<impl FnOnce() -> Ready<Result<NoEarlyServer, DialFailure>>> {
    Early {
        after: Duration::ZERO,
        expects_http: false,
        is_at_hand: false,
        dial: move || ready(Err(DialFailure::new(route::no_service_at(to.ip()), Facts::default()))),
    }
}
