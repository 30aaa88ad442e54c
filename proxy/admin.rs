//! The side that people and Prometheus talk to, on a thread of its own: a scrape never hurts traffic.
//!
//! Two kinds of ports: metrics and probes, reachable and unable to change anything; admin, on loopback. This file
//! binds them and accepts; [`places`] bounds how many connections there are, [`connection`] what each of them may
//! hold. [`pages`] says what there is, [`guard`] who may ask, [`console`] joins them to the rest.
//!
//! The kubelet kills the pod when `/live` does not answer. So nothing on this thread takes long, and no stranger can
//! keep another one waiting: a page that is long to write is written on another thread.

mod answer;
mod clusters;
mod config;
mod connection;
mod console;
mod exposition;
mod guard;
mod logging;
mod pages;
mod places;
mod probe;
mod ready;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use pillion_model::Config;
use tokio::sync::Semaphore;

use crate::listening::bound;
pub(crate) use console::{Console, Order, Published, Refusal};
use pages::{OwnPort, Pages};
use pillion_base::accept::{Acceptor, accept};
use pillion_base::net::descriptors::Reserve;
use pillion_base::net::{Bound, Listener, Network, Sharing, Stream};
use pillion_telemetry::Metrics;
use places::Places;
use probe::Prober;
pub(crate) use ready::Readiness;

/// Connections to all metrics ports at once: Prometheus, a kubelet and a few people need less. With 16 KiB of head
/// and [`SEND_BUFFER`] each they hold 9 MiB at most.
const METRICS_CONNECTIONS: usize = 64;
/// Connections to the admin port at once: dashboards, `pillion top`, scripts. Apart from the metrics ports, so that
/// strangers, who can reach those, take nothing from the operator.
const ADMIN_CONNECTIONS: usize = 32;
/// What the kernel may hold of an answer that its client does not read; it doubles the number. Left to itself it would
/// take up to 4 MiB for each connection, which counts as memory of the pod.
const SEND_BUFFER: usize = 64 * 1024;

pub(crate) struct Admin {
    admin: Vec<Bound>,
    metrics: Vec<Bound>,
    pages: Pages,
    expositions: exposition::Writer,
}

impl Admin {
    pub(crate) fn bind(
        network: &Network,
        config: &Config,
        registry: &Arc<Metrics>,
        console: Arc<Console>,
    ) -> anyhow::Result<Self> {
        let metrics = config.metrics.as_ref().map_or(&[][..], |metrics| &metrics.listen);
        let (expositions, writer) =
            exposition::expositions(registry.clone(), METRICS_CONNECTIONS + ADMIN_CONNECTIONS);
        Ok(Self {
            admin: bind_all(network, "admin.listen", &config.admin.listen)?,
            metrics: bind_all(network, "metrics.listen", metrics)?,
            pages: Pages {
                expositions,
                readiness: Arc::default(),
                console,
                prober: Prober::new(network.clone()),
                long_page: Arc::new(Semaphore::new(1)),
            },
            expositions: writer,
        })
    }

    pub(crate) fn readiness(&self) -> Arc<Readiness> {
        self.pages.readiness.clone()
    }

    /// The addresses of the admin port, and those of the metrics port.
    pub(crate) fn addresses(&self) -> io::Result<(Vec<SocketAddr>, Vec<SocketAddr>)> {
        let all = |bound: &[Bound]| bound.iter().map(Bound::address).collect::<Result<Vec<_>, _>>();
        Ok((all(&self.admin)?, all(&self.metrics)?))
    }

    /// Serves until the process ends: probes are answered to the last.
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
                    Err(error) => tracing::error!(%error, "the admin side cannot listen"),
                }
            }
        }
        self.expositions.run().await;
        std::future::pending::<()>().await; // the DNS proxy shares this thread, and goes on
    }
}

/// A reload cannot change them.
fn bind_all(network: &Network, key: &str, wanted: &[SocketAddr]) -> anyhow::Result<Vec<Bound>> {
    let bind = |address: &SocketAddr| {
        let bound = network.bind(*address, Sharing::Alone);
        bound.and_then(|bound| bound.hold_little(SEND_BUFFER).map(|()| bound))
    };
    let all = wanted.iter().map(|address| bound(key, *address, bind(address)));
    all.filter_map(Result::transpose).collect()
}

/// What takes the connections of a port.
struct Visitors {
    port: OwnPort,
    pages: Pages,
    places: Arc<Places>,
    reserve: Reserve,
    /// Part of the reserve was let go for the connection that comes next.
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
    /// Each new connection is looked at before the next one could take its place.
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
