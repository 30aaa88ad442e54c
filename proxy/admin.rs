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

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pillion_model::Config;
use tokio::sync::Semaphore;

pub(crate) use console::{Console, Refusal, Told};
use pages::{Pages, Port};
use pillion_base::net::descriptors::{Reserve, tell_shortage};
use pillion_base::net::has_no_ipv6;
use pillion_base::net::{Bound, Network, Sharing};
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

    /// Of the admin port, and of the metrics port.
    pub(crate) fn addresses(&self) -> std::io::Result<(Vec<SocketAddr>, Vec<SocketAddr>)> {
        let all = |bound: &[Bound]| bound.iter().map(Bound::address).collect::<Result<Vec<_>, _>>();
        Ok((all(&self.admin)?, all(&self.metrics)?))
    }

    /// Serves until the process ends: probes are answered to the last.
    pub(crate) async fn run(self) {
        let ports = [
            (Port::Admin, self.admin, ADMIN_CONNECTIONS),
            (Port::Metrics, self.metrics, METRICS_CONNECTIONS),
        ];
        for (port, all, most) in ports {
            let places = Places::new(most);
            for bound in all {
                match bound.listen() {
                    Ok(listener) => {
                        drop(tokio::spawn(accept(listener, port, self.pages.clone(), places.clone())));
                    }
                    Err(error) => tracing::error!(%error, "the admin side cannot listen"),
                }
            }
        }
        self.expositions.run().await;
        std::future::pending::<()>().await; // the DNS proxy shares this thread, and goes on
    }
}

fn bind_all(network: &Network, what: &str, wanted: &[SocketAddr]) -> anyhow::Result<Vec<Bound>> {
    let mut all = Vec::new();
    for &address in wanted {
        match network.bind(address, Sharing::Alone) {
            Err(error) if address.is_ipv6() && has_no_ipv6(&error) => {
                tracing::info!(%address, "{what}: left out, this kernel has no IPv6");
            }
            bound => {
                let bound = bound.with_context(|| format!("{what}: cannot listen on {address}"))?;
                bound.hold_little(SEND_BUFFER)?;
                all.push(bound);
            }
        }
    }
    Ok(all)
}

async fn accept(mut listener: pillion_base::net::Listener, port: Port, pages: Pages, places: Arc<Places>) {
    let mut reserve = Reserve::default();
    loop {
        reserve.fill();
        let accepted = match listener.accept().await {
            Err(error) if reserve.makes_room(&error) => listener.accept().await,
            accepted => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                let place = places.take(from.ip().to_canonical());
                tokio::spawn(connection::serve(stream, port, pages.clone(), place));
                // Each new connection is looked at before the next one could take its place.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                tell_shortage(&error);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
