//! One outbound connection, from the application to the services it calls.

use std::net::SocketAddr;
use std::sync::Arc;

use tower::ServiceBuilder;

use crate::dispatch;
use crate::http::server;
use crate::inbound::protocol;
use crate::layers::{AnsweringService, Name, headers, limit, record, rescue, retry, route, timeout, unless};
use crate::net::{Prefixed, Stream, Transport};
use crate::runtime::worker::Worker;
use crate::serve::Connection;
use crate::state::Route;
use crate::telemetry::{ConnectionOutcome, Direction, Symbol, Tls};

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
    pub(crate) async fn serve(self, stream: Stream, from: SocketAddr) {
        if !stream.is_from_this_host(from) {
            tracing::debug!(%from, "outbound connection closed: it comes from another host");
            self.count(crate::telemetry::Protocol::Unknown, ConnectionOutcome::Refused);
            return;
        }
        let connection =
            Connection { service: self.service.clone(), ..Connection::new(Direction::Outbound, from) };
        match server::detect_on(Transport::Plain(Prefixed::new(stream)), &self.worker.drain).await {
            Ok((io, version)) => {
                self.count(protocol(version), ConnectionOutcome::Ok);
                server::serve(io, version, Arc::new(connection), self.worker, stack(None)).await;
            }
            Err(error) => {
                tracing::debug!(%error, %from, "outbound connection ended before a request");
                self.count(crate::telemetry::Protocol::Unknown, ConnectionOutcome::Failed);
            }
        }
    }

    fn count(&self, protocol: crate::telemetry::Protocol, outcome: ConnectionOutcome) {
        let service = self.service.as_ref().map_or(Symbol::EMPTY, |route| route.cluster.symbol);
        self.worker.metrics.connections(Direction::Outbound, service, protocol, Tls::None, outcome).inc();
    }
}
