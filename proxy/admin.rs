//! The side that people and Prometheus talk to, on a thread of its own: a scrape never hurts traffic.
//!
//! Two kinds of ports: metrics and probes, reachable and unable to change anything; admin, on loopback.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context as _;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pillion_config::Config;

use crate::app::has_no_ipv6;
use crate::net::descriptors::Reserve;
use crate::net::{Bound, Network, Stream};
use crate::telemetry::Metrics;
use crate::telemetry::family;

/// Clients at once; Prometheus, a kubelet and a few people need less.
const CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Admin {
    admin: Vec<Bound>,
    metrics: Vec<Bound>,
    registry: Arc<Metrics>,
    readiness: Arc<Readiness>,
}

/// Whether the sidecar wants traffic.
#[derive(Debug, Default)]
pub(crate) struct Readiness(AtomicU8);

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

impl Readiness {
    pub(crate) fn set_ready(&self) {
        self.0.store(READY, Relaxed);
    }

    pub(crate) fn set_draining(&self) {
        self.0.store(DRAINING, Relaxed);
    }

    fn answer(&self) -> Answer {
        match self.0.load(Relaxed) {
            READY => text(StatusCode::OK, "ready\n"),
            STARTING => text(StatusCode::SERVICE_UNAVAILABLE, "not ready: starting\n"),
            _ => text(StatusCode::SERVICE_UNAVAILABLE, "not ready: draining\n"),
        }
    }
}

type Answer = Response<Full<Bytes>>;

#[derive(Clone, Copy)]
enum Port {
    Admin,
    Metrics,
}

impl Admin {
    pub(crate) fn bind(network: &Network, config: &Config, registry: &Arc<Metrics>) -> anyhow::Result<Self> {
        let metrics = config.metrics.as_ref().map_or(&[][..], |metrics| &metrics.listen);
        Ok(Self {
            admin: bind_all(network, "admin.listen", &config.admin.listen)?,
            metrics: bind_all(network, "metrics.listen", metrics)?,
            registry: registry.clone(),
            readiness: Arc::default(),
        })
    }

    pub(crate) fn readiness(&self) -> Arc<Readiness> {
        self.readiness.clone()
    }

    /// Of the admin port, and of the metrics port.
    pub(crate) fn addresses(&self) -> std::io::Result<(Vec<SocketAddr>, Vec<SocketAddr>)> {
        let all = |bound: &[Bound]| bound.iter().map(Bound::address).collect::<Result<Vec<_>, _>>();
        Ok((all(&self.admin)?, all(&self.metrics)?))
    }

    /// Serves until the process ends: probes are answered to the last.
    pub(crate) async fn run(self) {
        let permits = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
        let (registry, readiness) = (self.registry, self.readiness);
        let ports = self.admin.into_iter().map(|bound| (bound, Port::Admin));
        for (bound, port) in ports.chain(self.metrics.into_iter().map(|bound| (bound, Port::Metrics))) {
            let talk = Talk { port, registry: registry.clone(), readiness: readiness.clone() };
            match bound.listen() {
                Ok(listener) => drop(tokio::spawn(accept(listener, talk, permits.clone()))),
                Err(error) => tracing::error!(%error, "the admin side cannot listen"),
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

async fn accept(mut listener: crate::net::Listener, talk: Talk, permits: Arc<tokio::sync::Semaphore>) {
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
                let talk = talk.clone();
                tokio::spawn(async move {
                    talk.serve(stream).await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

#[derive(Clone)]
struct Talk {
    port: Port,
    registry: Arc<Metrics>,
    readiness: Arc<Readiness>,
}

impl Talk {
    async fn serve(self, stream: Stream) {
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = self.answer(request.method(), request.uri().path());
            async move { Ok::<_, Infallible>(answer) }
        });
        let serving = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        drop(serving.await); // who breaks off here hurts nobody
    }

    fn answer(&self, method: &Method, path: &str) -> Answer {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match (self.port, path) {
            (_, "/ready") => self.readiness.answer(),
            (_, "/live") => text(StatusCode::OK, "live\n"),
            (_, "/metrics") => self.metrics(),
            (Port::Admin, "/") => text(StatusCode::OK, "pillion admin\n/metrics\n/ready\n/live\n"),
            _ => text(StatusCode::NOT_FOUND, "there are /metrics, /ready and /live\n"),
        }
    }

    fn metrics(&self) -> Answer {
        let mut answer = Response::new(Full::from(self.registry.encode()));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(family::CONTENT_TYPE));
        answer
    }
}

fn text(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
