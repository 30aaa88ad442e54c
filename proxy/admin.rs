//! The admin and metrics ports, on a thread of their own, so that a scrape never delays traffic.
//!
//! There are two kinds of ports: the metrics port is reachable from other hosts and cannot change anything; the admin
//! port listens on loopback. This file binds them and accepts connections. [`places`] bounds the number of connections,
//! [`connection`] bounds what each of them may use. [`pages`] has the list of pages, [`guard`] decides who may ask,
//! [`console`] connects the pages to the rest of the process, and [`sources`] scrapes the programs
//! whose metrics are merged into the sidecar's.
//!
//! The kubelet kills the pod if `/live` does not answer. So nothing on this thread may take long, and no client may
//! delay another: a page that takes long to write is written on another thread.

mod answer;
mod checks;
mod clusters;
mod config;
mod connection;
mod console;
mod dashboard;
mod drain;
mod events;
mod exposition;
mod guard;
mod info;
mod listeners;
mod logging;
mod pages;
mod places;
mod policy;
mod probe;
mod ready;
mod requests;
mod sources;
mod tap;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use pillion_model::Config;
use tokio::sync::Semaphore;

use crate::listening::bound;
pub(crate) use console::{Console, Order, Published, Refusal};
pub(crate) use drain::begin_inbound;
use pages::{OwnPort, Pages};
use pillion_base::accept::{Acceptor, accept};
use pillion_base::net::descriptors::Reserve;
use pillion_base::net::{Bound, Listener, Network, Sharing, Stream};
use pillion_telemetry::Metrics;
use places::Places;
use probe::Prober;
pub(crate) use probe::{ProbeFailure, put};
pub(crate) use ready::Readiness;
use sources::Sources;

/// Connections to all metrics ports together: Prometheus, a kubelet and a few people need fewer. With 16 KiB of head
/// and [`SEND_BUFFER`] each they take 9 MiB at most.
const METRICS_CONNECTIONS: usize = 64;
/// Connections to the admin port: dashboards, `pillion top`, scripts. They are counted apart from those of the metrics
/// ports, which any host can reach, so that no other host can use up the operator's connections.
const ADMIN_CONNECTIONS: usize = 32;
/// The send buffer for a response that its client does not read; the kernel doubles this number. Without the limit the
/// kernel would buffer up to 4 MiB for each connection, which counts as memory of the pod.
const SEND_BUFFER: usize = 64 * 1024;

pub(crate) struct Admin {
    admin: Vec<Bound>,
    metrics: Vec<Bound>,
    pages: Pages,
    expositions: exposition::Writer,
    events: events::Publisher,
}

impl Admin {
    pub(crate) fn bind(
        network: &Network,
        config: &Config,
        registry: &Arc<Metrics>,
        console: Arc<Console>,
    ) -> anyhow::Result<Self> {
        let metrics = config.metrics.as_ref().map_or(&[][..], |metrics| &metrics.listen);
        let merged = config.metrics.as_ref().map_or(&[][..], |metrics| &metrics.merge);
        let sources = Sources::new(network, merged);
        let (expositions, writer) =
            exposition::expositions(registry.clone(), sources, METRICS_CONNECTIONS + ADMIN_CONNECTIONS);
        let started = info::Started::now();
        let (events, publisher) = events::events(registry.clone(), console.clone(), started);
        Ok(Self {
            admin: bind_all(network, "admin.listen", &config.admin.listen)?,
            metrics: bind_all(network, "metrics.listen", metrics)?,
            pages: Pages {
                expositions,
                events,
                readiness: Arc::default(),
                started,
                network: network.clone(),
                console,
                prober: Prober::new(network.clone()),
                token: config.admin.token.clone(),
                long_page: Arc::new(Semaphore::new(1)),
                check: Arc::new(Semaphore::new(1)),
            },
            expositions: writer,
            events: publisher,
        })
    }

    pub(crate) fn readiness(&self) -> Arc<Readiness> {
        self.pages.readiness.clone()
    }

    /// The addresses of the admin port and those of the metrics port.
    pub(crate) fn addresses(&self) -> io::Result<(Vec<SocketAddr>, Vec<SocketAddr>)> {
        let all = |bound: &[Bound]| bound.iter().map(Bound::address).collect::<Result<Vec<_>, _>>();
        Ok((all(&self.admin)?, all(&self.metrics)?))
    }

    /// Serves until the process ends, so that probes are answered to the end.
    pub(crate) async fn run(self) {
        let ports = [
            (OwnPort::Admin, self.admin, ADMIN_CONNECTIONS),
            (OwnPort::Metrics, self.metrics, METRICS_CONNECTIONS),
        ];
        for (port, all, most) in ports {
            let places = Places::new(most);
            for bound in all {
                match bound.listen() {
                    Ok(listener) => {
                        let visitors = Visitors::new(port, self.pages.clone(), places.clone());
                        drop(tokio::spawn(visitors.accept(listener)));
                    }
                    Err(error) => tracing::error!(%error, "the admin and metrics ports cannot be opened"),
                }
            }
        }
        tokio::spawn(self.events.run());
        self.expositions.run().await;
        std::future::pending::<()>().await; // the DNS proxy shares this thread, and goes on
    }
}

/// Binds addresses. They are fixed, as a reload cannot change them.
fn bind_all(network: &Network, key: &str, wanted: &[SocketAddr]) -> anyhow::Result<Vec<Bound>> {
    let bind = |address: &SocketAddr| {
        let bound = network.bind(*address, Sharing::Alone);
        bound.and_then(|bound| bound.limit_send_buffer(SEND_BUFFER).map(|()| bound))
    };
    let all = wanted.iter().map(|address| bound(key, *address, bind(address)));
    all.filter_map(Result::transpose).collect()
}

/// Accepts the connections of a port.
struct Visitors {
    port: OwnPort,
    pages: Pages,
    places: Arc<Places>,
    reserve: Reserve,
    /// Whether one of the reserved descriptors was released for the next connection.
    has_made_room: bool,
}

impl Visitors {
    fn new(port: OwnPort, pages: Pages, places: Arc<Places>) -> Self {
        Self { port, pages, places, reserve: Reserve::default(), has_made_room: false }
    }

    async fn accept(mut self, listener: Listener) {
        accept(listener, std::future::pending(), &mut self).await;
    }
}

impl Acceptor for Visitors {
    /// Lets each new connection start before a next one could take its place.
    async fn ready(&mut self) {
        tokio::task::yield_now().await;
        if !std::mem::take(&mut self.has_made_room) {
            self.reserve.fill();
        }
    }

    fn admit(&mut self, stream: Stream, from: SocketAddr) {
        let place = self.places.take(from.ip().to_canonical());
        tokio::spawn(connection::serve(stream, self.port, self.pages.clone(), place));
    }

    async fn make_room(&mut self, shortage: &io::Error) -> bool {
        self.has_made_room = self.reserve.makes_room(shortage);
        self.has_made_room
    }
}
