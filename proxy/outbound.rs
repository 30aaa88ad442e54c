//! One outbound connection, from the application to the services it calls.
//!
//! It comes to the proxy port, to a service's own port, or redirected on its way somewhere. What is known of its
//! destination without its bytes is [`Destination`]; what its bytes add is decided in [`Outbound::enter`].

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use pillion_config::listener::Unknown;
use tower::ServiceBuilder;

use crate::cluster::Spoken;
use crate::cluster::limits::Permit;
use crate::detect::hello::Hello;
use crate::detect::{Detected, Found, NEVER, Undecided, detect};
use crate::dispatch;
use crate::http::server;
use crate::layers::{AnsweringService, Name, headers, limit, record, rescue, retry, route, timeout, unless};
use crate::net::own::is_from_this_host;
use crate::net::{Io, Prefixed, Stream, Transport};
use crate::runtime::worker::Worker;
use crate::serve::{Connection, Destination};
use crate::state::Route;
use crate::tcp::{self, Dialled};
use crate::telemetry::{ConnectionOutcome, Direction, Protocol, Symbol, Tls};

/// The outbound side of a worker: the proxy port, or a service's own.
#[derive(Clone)]
pub(crate) struct Outbound {
    pub(crate) worker: Arc<Worker>,
    pub(crate) service: Option<Arc<Route>>,
}

/// Reads in the order a request meets it.
pub(crate) fn stack(without: Option<Name>) -> impl AnsweringService {
    ServiceBuilder::new()
        .layer(unless(without, Name::Record, record::layer())) // first in, last out: sees every ending
        .layer(rescue::layer()) // errors become answers below the record
        .layer(unless(without, Name::Route, route::layer())) // policy travels with the call from here
        .layer(unless(without, Name::Headers, headers::layer())) // what the next hop must know, and not believe
        .layer(unless(without, Name::Timeout, timeout::whole())) // covers all tries and their pauses
        .layer(unless(without, Name::Retry, retry::layer())) // another endpoint, a pause, a budget
        .layer(unless(without, Name::PerTry, timeout::per_try())) // one try, where another may follow
        .layer(unless(without, Name::Limit, limit::layer())) // inside retry: each try takes its own permit
        .service(dispatch::service())
}

impl Outbound {
    pub(crate) async fn serve(self, stream: Stream, from: SocketAddr, permit: Permit) {
        if !is_from_this_host(from.ip(), stream.own_ip()) {
            tracing::debug!(%from, "outbound connection closed: it comes from another host");
            self.count(Symbol::EMPTY, Protocol::Unknown, ConnectionOutcome::Refused);
            return;
        }
        let destination = self.destination(&stream);
        let is_redirected = self.service.is_none() && !matches!(destination, Destination::Named);
        let connection = Connection {
            destination,
            is_redirected,
            ..Connection::new(Direction::Outbound, from, Some(permit))
        };
        self.enter(Prefixed::new(Transport::Plain(Prefixed::new(stream))), connection, None).await;
    }

    /// A service's own port says it all; a redirected connection tells where it was going.
    fn destination(&self, stream: &Stream) -> Destination {
        match &self.service {
            Some(route) => Destination::Route(route.clone()),
            None => stream.original_destination().map_or(Destination::Named, |to| self.towards(to)),
        }
    }

    /// An address that is a service's, or nobody's. The sidecar's own ports mean: not redirected.
    pub(crate) fn towards(&self, to: SocketAddr) -> Destination {
        let snapshot = self.worker.state.load();
        match snapshot.addresses.find(to) {
            Some(route) => Destination::Route(route.clone()),
            None if snapshot.own.contains(to) => Destination::Named,
            None => Destination::Unknown(to),
        }
    }

    /// The same for what runs inside a CONNECT, boxed: it may hold another one.
    pub(crate) fn enter_inside(
        self,
        io: Io,
        connection: Connection,
        early: Option<Dialled>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.enter(io, connection, early))
    }

    async fn enter(self, io: Io, connection: Connection, early: Option<Dialled>) {
        let direct = self.direct(&connection.destination);
        match direct.as_ref().map(|route| route.cluster.protocol) {
            Some(Spoken::Tcp) => self.opaque(io, early, direct, connection).await,
            Some(Spoken::Auto) => self.undeclared(io, early, direct, connection).await,
            _ => self.requests_only(io, direct, connection).await,
        }
    }

    /// Where it goes if its bytes name nobody else.
    fn direct(&self, destination: &Destination) -> Option<Arc<Route>> {
        match destination {
            Destination::Route(route) => Some(route.clone()),
            Destination::Unknown(to) if self.passes_unknown() => Some(self.worker.state.unknown.route(*to)),
            Destination::Named | Destination::Unknown(_) => None,
        }
    }

    fn passes_unknown(&self) -> bool {
        self.worker.state.load().policy == Unknown::Passthrough
    }

    /// Nobody is dialled before a request says whom.
    async fn requests_only(self, io: Io, direct: Option<Arc<Route>>, connection: Connection) {
        let detected = detect(io, &self.worker, NEVER).await;
        match detected {
            Ok(Detected { found: Found::Tls(Some(hello)), io, .. }) if direct.is_none() => {
                self.tls(io, None, &hello, None, connection).await;
            }
            Ok(Detected { found: Found::Tls(_) | Found::Opaque, io, .. })
                if matches!(connection.destination, Destination::Unknown(_)) =>
            {
                self.opaque(io, None, None, connection).await;
            }
            // What is no HTTP hears so from the HTTP side.
            Ok(Detected { found, io, .. }) => self.http(io, &found, connection).await,
            Err(undecided) => self.undecided(&undecided, direct.as_deref()),
        }
    }

    async fn undeclared(
        self,
        io: Io,
        early: Option<Dialled>,
        direct: Option<Arc<Route>>,
        connection: Connection,
    ) {
        let Some(route) = direct else { return };
        let detected = match early {
            Some(dialled) => detect(io, &self.worker, Some(tcp::at_hand(dialled, &route))).await,
            None => {
                detect(io, &self.worker, Some(tcp::early(&route, connection.downstream, &self.worker))).await
            }
        };
        match detected {
            Err(undecided) => self.undecided(&undecided, Some(&route)),
            Ok(Detected { found, io, early }) => {
                route.cluster.remember(found.is_http());
                self.worker.metrics.detections(Direction::Outbound, found.verdict()).inc();
                match found {
                    Found::Http1 | Found::Http2 => {
                        drop(early); // it was for a server that speaks first
                        self.http(io, &found, connection).await;
                    }
                    Found::Tls(Some(hello)) => self.tls(io, early, &hello, Some(route), connection).await,
                    Found::Tls(None) | Found::Opaque => self.opaque(io, early, Some(route), connection).await,
                }
            }
        }
    }

    async fn http(self, io: Io, found: &Found, connection: Connection) {
        let version = found.version();
        let service = match &connection.destination {
            Destination::Route(route) => route.cluster.symbol,
            Destination::Named | Destination::Unknown(_) => Symbol::EMPTY,
        };
        self.count(service, server::protocol(version), ConnectionOutcome::Ok);
        server::serve(io, version, Arc::new(connection), self.worker, stack(None)).await;
    }

    /// The application's own TLS goes through untouched; where no address decided, its server name may.
    async fn tls(
        self,
        io: Io,
        early: Option<Dialled>,
        hello: &Hello,
        direct: Option<Arc<Route>>,
        connection: Connection,
    ) {
        let port = match &connection.destination {
            Destination::Unknown(to) => Some(to.port()),
            Destination::Named => None,
            Destination::Route(_) => return self.opaque(io, early, direct, connection).await,
        };
        let named = hello
            .server_name
            .as_deref()
            .and_then(|name| self.worker.state.load().hosts.find_at(name, port).cloned());
        match named {
            Some(route) => self.opaque(io, None, Some(route), connection).await,
            None => self.opaque(io, early, direct, connection).await,
        }
    }

    async fn opaque(self, io: Io, early: Option<Dialled>, route: Option<Arc<Route>>, connection: Connection) {
        match route {
            Some(route) => {
                self.count(route.cluster.symbol, Protocol::Tcp, ConnectionOutcome::Ok);
                tcp::forward(io, early, &route, &connection, &self.worker).await;
            }
            None => {
                tracing::debug!(from = %connection.downstream, "connection closed: no service has its address or server name");
                self.count(Symbol::EMPTY, Protocol::Tcp, ConnectionOutcome::Refused);
                io.get_ref().abort();
            }
        }
    }

    fn undecided(&self, why: &Undecided, route: Option<&Route>) {
        tracing::debug!(%why, "outbound connection ended before it showed what it speaks");
        let service = route.map_or(Symbol::EMPTY, |route| route.cluster.symbol);
        self.count(service, Protocol::Unknown, ConnectionOutcome::Failed);
    }

    fn count(&self, service: Symbol, protocol: Protocol, outcome: ConnectionOutcome) {
        self.worker.metrics.connections(Direction::Outbound, service, protocol, Tls::None, outcome).inc();
    }
}
