//! The side that people and Prometheus talk to, on a thread of its own: a scrape never hurts traffic.
//!
//! Two kinds of ports: metrics and probes, reachable and unable to change anything; admin, on loopback. This file
//! binds and serves them; [`pages`] says what there is, [`guard`] who may ask, [`console`] joins them to the rest.

mod answer;
mod clusters;
mod config;
mod console;
mod guard;
mod logging;
mod pages;
mod probe;
mod ready;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pillion_model::Config;

use crate::app::has_no_ipv6;
use crate::net::descriptors::Reserve;
use crate::net::{Bound, Network, Stream};
use crate::telemetry::Metrics;
pub(crate) use console::{Console, Refusal, Told};
use pages::{Pages, Port};
use probe::Prober;
pub(crate) use ready::Readiness;

/// Clients of each kind of port at once; Prometheus, a kubelet and a few people need less. Strangers, who can reach
/// the metrics port, take nothing from the admin port.
const CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Admin {
    admin: Vec<Bound>,
    metrics: Vec<Bound>,
    pages: Pages,
}

impl Admin {
    pub(crate) fn bind(
        network: &Network,
        config: &Config,
        registry: &Arc<Metrics>,
        console: Arc<Console>,
    ) -> anyhow::Result<Self> {
        let metrics = config.metrics.as_ref().map_or(&[][..], |metrics| &metrics.listen);
        Ok(Self {
            admin: bind_all(network, "admin.listen", &config.admin.listen)?,
            metrics: bind_all(network, "metrics.listen", metrics)?,
            pages: Pages {
                registry: registry.clone(),
                readiness: Arc::default(),
                console,
                prober: Prober::new(network.clone()),
            },
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
        for (port, all) in [(Port::Admin, self.admin), (Port::Metrics, self.metrics)] {
            let permits = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
            for bound in all {
                match bound.listen() {
                    Ok(listener) => {
                        drop(tokio::spawn(accept(listener, port, self.pages.clone(), permits.clone())));
                    }
                    Err(error) => tracing::error!(%error, "the admin side cannot listen"),
                }
            }
        }
        std::future::pending::<()>().await;
    }
}

fn bind_all(network: &Network, what: &str, wanted: &[SocketAddr]) -> anyhow::Result<Vec<Bound>> {
    let mut all = Vec::new();
    for &address in wanted {
        match network.bind(address, false) {
            Err(error) if address.is_ipv6() && has_no_ipv6(&error) => {
                tracing::info!(%address, "{what}: left out, this kernel has no IPv6");
            }
            bound => all.push(bound.with_context(|| format!("{what}: cannot listen on {address}"))?),
        }
    }
    Ok(all)
}

async fn accept(
    mut listener: crate::net::Listener,
    port: Port,
    pages: Pages,
    permits: Arc<tokio::sync::Semaphore>,
) {
    let mut reserve = Reserve::default();
    loop {
        reserve.fill();
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let accepted = match listener.accept().await {
            Err(error) if reserve.makes_room(&error) => listener.accept().await,
            accepted => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let pages = pages.clone();
                tokio::spawn(async move {
                    serve(stream, port, pages).await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve(stream: Stream, port: Port, pages: Pages) {
    let asked_at = stream.own_ip();
    let service = service_fn(move |request: Request<Incoming>| {
        let pages = pages.clone();
        async move {
            let (parts, _unread) = request.into_parts();
            Ok::<_, Infallible>(pages.answer(port, &parts, asked_at).await)
        }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    drop(serving.await); // who breaks off here hurts nobody
}
