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
mod companions;
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
mod purge;
mod ready;
mod requests;
mod sources;
mod tap;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use pillion_model::Config;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::listening;
pub(crate) use console::{Console, Order, Published, Refusal};
pub(crate) use drain::begin_inbound;
pub(crate) use pages::OwnPort;
use pages::Pages;
use pillion_base::accept::{Acceptor, Hold, accept_held};
use pillion_base::net::descriptors::Reserve;
use pillion_base::net::{Bound, Listener, Network, Stream};
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
pub(crate) const SEND_BUFFER: usize = 64 * 1024;

/// A bound address that is sent to the thread of these ports.
pub(crate) struct AdminPort {
    pub(crate) id: u64,
    pub(crate) of: OwnPort,
    pub(crate) bound: Bound,
    /// Cloned for each connection that may still be answered.
    pub(crate) visit: Arc<()>,
}

pub(crate) type Command = listening::Command<AdminPort>;

pub(crate) struct Admin {
    pages: Pages,
    expositions: exposition::Writer,
    events: events::Publisher,
}

impl Admin {
    pub(crate) fn new(
        network: &Network,
        config: &Config,
        registry: &Arc<Metrics>,
        console: Arc<Console>,
    ) -> Self {
        let merged = config.metrics.as_ref().map_or(&[][..], |metrics| &metrics.merge);
        let sources = Sources::new(network, merged);
        let (expositions, writer) =
            exposition::expositions(registry.clone(), sources, METRICS_CONNECTIONS + ADMIN_CONNECTIONS);
        let started = info::Started::now();
        let (events, publisher) = events::events(registry.clone(), console.clone(), started);
        Self {
            pages: Pages {
                expositions,
                events,
                readiness: Arc::new(Readiness::with(registry.companions().clone())),
                companions: registry.companions().clone(),
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
        }
    }

    pub(crate) fn readiness(&self) -> Arc<Readiness> {
        self.pages.readiness.clone()
    }

    /// Serves until the process ends, so that probes are answered to the end.
    pub(crate) async fn run(self, commands: mpsc::Receiver<Command>) {
        let (admin, metrics) = (Places::new(ADMIN_CONNECTIONS), Places::new(METRICS_CONNECTIONS));
        let pages = self.pages;
        tokio::spawn(self.events.run());
        tokio::spawn(self.expositions.run());
        let open = |port: AdminPort, held| {
            let places = match port.of {
                OwnPort::Admin => &admin,
                OwnPort::Metrics => &metrics,
            };
            match port.bound.listen() {
                Ok(listener) => {
                    let visitors = Visitors::new(port.of, pages.clone(), places.clone(), port.visit);
                    drop(tokio::spawn(visitors.accept(listener, held)));
                }
                Err(error) => tracing::error!(%error, "the admin and metrics ports cannot be opened"),
            }
        };
        listening::obey(commands, |port| port.id, open).await;
    }
}

/// Accepts the connections of a port.
struct Visitors {
    port: OwnPort,
    pages: Pages,
    places: Arc<Places>,
    visit: Arc<()>,
    reserve: Reserve,
    /// When it is dropped, the connections end after the answers that they are giving.
    open: watch::Sender<()>,
    /// Whether one of the reserved descriptors was released for the next connection.
    has_made_room: bool,
}

impl Visitors {
    fn new(port: OwnPort, pages: Pages, places: Arc<Places>, visit: Arc<()>) -> Self {
        let (reserve, open) = (Reserve::default(), watch::Sender::new(()));
        Self { port, pages, places, visit, reserve, open, has_made_room: false }
    }

    async fn accept(mut self, listener: Listener, mut held: Hold) {
        let listener = accept_held(listener, &mut held, std::future::pending(), None, &mut self).await;
        listener.close().into_iter().for_each(|(stream, from)| self.admit(stream, from));
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
        let until = (self.open.subscribe(), self.visit.clone());
        tokio::spawn(connection::serve(stream, self.port, self.pages.clone(), place, until));
    }

    async fn make_room(&mut self, shortage: &io::Error) -> bool {
        self.has_made_room = self.reserve.makes_room(shortage);
        self.has_made_room
    }
}
