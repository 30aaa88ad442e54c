//! The composition root: a checked configuration becomes listeners, workers and clusters.
//!
//! Order: read credentials, build clusters, bind every address, only then start. Whatever fails, fails before the
//! first connection is accepted.

mod bind;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use pillion_config::listener;
use pillion_config::{Cluster as ClusterConfig, Config};

use crate::admin::{Admin, Readiness};
use crate::cluster::limits::Limit;
use crate::cluster::{Cluster, NO_LIMIT};
use crate::http::upstream::SWEEP_EVERY;
use crate::identity::credentials::Credentials;
use crate::inbound::Inbound;
use crate::net::descriptors::raise_limit;
use crate::net::own::OwnListeners;
use crate::net::{Listener, Network};
use crate::outbound::Outbound;
use crate::runtime::drain::Drain;
use crate::runtime::worker::Worker;
use crate::serve::Accepting;
use crate::state::{AddressTable, Destinations, HostTable, Route, Snapshot, Store};
use crate::telemetry::{AccessLog, CertificateUse, Direction, Metrics};
use crate::tls::client::{AlpnOffer, ClientTls};
use crate::tls::server::server_config;
pub use bind::Addresses;
pub(crate) use bind::has_no_ipv6;
use bind::{Port, Use, bind_workers};

/// From the signal to the end, at the latest.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

/// A sidecar that is bound and not yet started.
pub struct App {
    addresses: Addresses,
    shared: Shared,
    workers: Vec<Vec<Port>>,
    admin: Admin,
}

/// A sidecar at work.
pub struct Running {
    addresses: Addresses,
    drain: Drain,
    readiness: Arc<Readiness>,
    access_log: Option<Arc<AccessLog>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Clone)]
struct Shared {
    network: Network,
    state: Arc<Store>,
    metrics: Arc<Metrics>,
    access_log: Option<Arc<AccessLog>>,
    drain: Drain,
    instance: Arc<str>,
    inbound: Option<InboundSide>,
    clusters: Arc<[Arc<Cluster>]>,
    outbound_connections: Arc<Limit>,
}

#[derive(Clone)]
struct InboundSide {
    policy: Arc<listener::Inbound>,
    tls: Option<Arc<rustls::ServerConfig>>,
    own_id: Option<Arc<str>>,
    connections: Arc<Limit>,
}

impl App {
    /// Builds and binds everything that `config` asks for, on the real network.
    ///
    /// # Errors
    /// Credentials that cannot be used, an address that cannot be bound, a log that cannot be opened.
    pub fn build(config: &Config) -> anyhow::Result<Self> {
        Self::build_on(Network::Os, config, None)
    }

    /// The same with credentials that are in memory.
    pub fn build_with(config: &Config, credentials: Credentials) -> anyhow::Result<Self> {
        Self::build_on(Network::Os, config, Some(credentials))
    }

    pub(crate) fn build_on(
        network: Network,
        config: &Config,
        credentials: Option<Credentials>,
    ) -> anyhow::Result<Self> {
        let credentials = match (credentials, &config.identity) {
            (None, Some(source)) => Some(Credentials::load(source)?),
            (given, _) => given,
        };
        if credentials.is_some() {
            std::thread::Builder::new().name("entropy".into()).spawn(crate::tls::gather_entropy)?;
        } else {
            tracing::warn!(
                "no `identity`: traffic between sidecars is plaintext and nobody proves who they are"
            );
        }
        if let (Network::Os, Err(error)) = (&network, raise_limit()) {
            tracing::warn!(%error, "the limit of open files could not be raised");
        }
        let workers = workers(config);
        let metrics =
            Metrics::new(config.metrics.as_ref().map_or(DEFAULT_SERIES, |metrics| metrics.max_series));
        tell_expiry(&metrics, credentials.as_ref());
        let services = services(config, credentials.as_ref(), &metrics, workers)?;
        let (ports, mut addresses) = bind_workers(&network, config, &services, workers)?;
        let admin = Admin::bind(&network, config, &metrics)?;
        (addresses.admin, addresses.metrics) = admin.addresses()?;
        let own = OwnListeners::new(addresses.all());
        let state = Arc::new(store(config, &services, own, &metrics, workers));
        let app = state.load().application.clone();
        let all = services.iter().map(|(_, route)| route).chain(&app);
        let clusters = all.map(|route| route.cluster.clone()).collect();
        let access_log = access_log(config, &metrics)?;
        let shared = Shared {
            network,
            state,
            metrics,
            access_log,
            drain: Drain::default(),
            instance: format!("{:012x}", fastrand::u64(..1 << 48)).into(),
            inbound: inbound_side(config, credentials.as_ref())?,
            clusters,
            outbound_connections: Limit::new("outbound connections", descriptors()),
        };
        Ok(Self { addresses, shared, workers: ports, admin })
    }

    pub const fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Starts a thread for each worker, and one for admin and metrics.
    ///
    /// # Errors
    /// A thread or runtime that cannot be made.
    pub fn start(self) -> io::Result<Running> {
        let readiness = self.admin.readiness();
        let mut threads = Vec::new();
        let (shared, admin) = (self.shared, self.admin);
        for (index, ports) in self.workers.into_iter().enumerate() {
            let (shared, runtime) = (shared.clone(), single_threaded()?);
            let worker = std::thread::Builder::new().name(format!("worker-{index}"));
            threads.push(worker.spawn(move || runtime.block_on(shared.run_worker(index, ports)))?);
        }
        let runtime = single_threaded()?;
        std::thread::Builder::new().name("admin".into()).spawn(move || runtime.block_on(admin.run()))?;
        readiness.set_ready();
        let (drain, access_log) = (shared.drain, shared.access_log);
        Ok(Running { addresses: self.addresses, drain, readiness, access_log, threads })
    }

    /// Starts everything on the runtime of the caller, with one worker. For tests.
    #[cfg(test)]
    pub(crate) fn start_here(self) -> (Addresses, Arc<Metrics>, Drain) {
        let (shared, metrics, drain) =
            (self.shared.clone(), self.shared.metrics.clone(), self.shared.drain.clone());
        for (index, ports) in self.workers.into_iter().enumerate() {
            tokio::spawn(shared.clone().run_worker(index, ports));
        }
        tokio::spawn(self.admin.run());
        (self.addresses, metrics, drain)
    }
}

impl Running {
    pub const fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Takes nothing new, finishes what is in flight, and ends; at the latest after [`DRAIN_TIMEOUT`].
    pub async fn drain(self) {
        self.readiness.set_draining();
        self.drain.start();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.drain.finished()).await.is_err() {
            tracing::warn!(after = ?DRAIN_TIMEOUT, "connections were still open when the drain ended");
        }
        if let Some(log) = &self.access_log {
            log.close();
        }
    }

    /// Whether a worker's thread has ended, which none does before the drain.
    pub fn is_broken(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }
}

impl Shared {
    async fn run_worker(self, index: usize, ports: Vec<Port>) {
        let worker = Worker::new(
            index,
            self.network.clone(),
            self.state.clone(),
            self.metrics.clone(),
            self.access_log.clone(),
            self.drain.clone(),
            &self.instance,
        );
        if index == 0 {
            tokio::spawn(sweep(self.clusters.clone(), self.state.clone(), self.drain.clone()));
        }
        let accepting = ports.into_iter().filter_map(|port| self.accept_on(port, &worker));
        for task in accepting.collect::<Vec<_>>() {
            // An accept loop ends with the drain; what it accepted lives on until it is finished.
            drop(task.await);
        }
        std::future::pending::<()>().await;
    }

    fn accept_on(&self, port: Port, worker: &Arc<Worker>) -> Option<tokio::task::JoinHandle<()>> {
        let listener = match port.bound.listen() {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "a bound listener could not be used");
                return None;
            }
        };
        Some(match (port.use_, &self.inbound) {
            (Use::Inbound(single), Some(side)) => self.accept_inbound(listener, worker, side, single),
            (Use::Inbound(_), None) => return None,
            (Use::Outbound, _) => self.accept_outbound(listener, worker, None),
            (Use::Service(route), _) => self.accept_outbound(listener, worker, Some(route)),
        })
    }

    fn accept_inbound(
        &self,
        listener: Listener,
        worker: &Arc<Worker>,
        side: &InboundSide,
        port: Option<u16>,
    ) -> tokio::task::JoinHandle<()> {
        let inbound = Inbound {
            worker: worker.clone(),
            policy: side.policy.clone(),
            port,
            tls: side.tls.clone(),
            own_id: side.own_id.clone(),
        };
        let accepting = Accepting {
            worker: worker.clone(),
            direction: Direction::Inbound,
            connections: side.connections.clone(),
            serve: move |stream, from, permit| inbound.clone().serve(stream, from, permit),
        };
        tokio::spawn(accepting.run(listener))
    }

    fn accept_outbound(
        &self,
        listener: Listener,
        worker: &Arc<Worker>,
        service: Option<Arc<Route>>,
    ) -> tokio::task::JoinHandle<()> {
        let outbound = Outbound { worker: worker.clone(), service };
        let accepting = Accepting {
            worker: worker.clone(),
            direction: Direction::Outbound,
            connections: self.outbound_connections.clone(),
            serve: move |stream, from, permit| outbound.clone().serve(stream, from, permit),
        };
        tokio::spawn(accepting.run(listener))
    }
}

async fn sweep(clusters: Arc<[Arc<Cluster>]>, state: Arc<Store>, drain: Drain) {
    let mut draining = std::pin::pin!(drain.started());
    loop {
        tokio::select! { // nothing is lost: the next sweep sees the same
            () = &mut draining => return,
            () = tokio::time::sleep(SWEEP_EVERY) => {
                clusters.iter().for_each(|cluster| cluster.sweep());
                state.unknown.sweep();
                state.applications.sweep();
            }
        }
    }
}

const DEFAULT_SERIES: usize = 20_000;

fn single_threaded() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// From the CPU quota of the cgroup (both versions) or the affinity of the process, unless the file says.
fn workers(config: &Config) -> usize {
    let auto = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    config.workers.map_or_else(auto, std::num::NonZero::get)
}

pub(crate) fn services(
    config: &Config,
    credentials: Option<&Credentials>,
    metrics: &Arc<Metrics>,
    workers: usize,
) -> anyhow::Result<Vec<(ClusterConfig, Arc<Route>)>> {
    let build = |cluster: &ClusterConfig| {
        let tls = client_tls(cluster, credentials, config)?;
        let route = Route::to(Cluster::service(cluster, tls, metrics, workers));
        Ok((cluster.clone(), route))
    };
    config.clusters.iter().map(build).collect()
}

fn client_tls(
    cluster: &ClusterConfig,
    credentials: Option<&Credentials>,
    config: &Config,
) -> anyhow::Result<Option<ClientTls>> {
    use pillion_config::cluster::UpstreamProtocol;
    let offer = match cluster.protocol {
        UpstreamProtocol::Auto | UpstreamProtocol::Tcp => AlpnOffer::Auto,
        UpstreamProtocol::Http1 => AlpnOffer::Http1,
        UpstreamProtocol::Http2 => AlpnOffer::Http2,
    };
    let host = cluster.hosts.first().filter(|host| !host.wildcard).map(|host| host.name.as_str());
    ClientTls::new(credentials, &cluster.tls, &config.tls, host, offer)
        .with_context(|| format!("services.{}.tls", cluster.name))
}

/// Which host and address means which route.
pub(crate) fn store(
    config: &Config,
    services: &[(ClusterConfig, Arc<Route>)],
    own: OwnListeners,
    metrics: &Arc<Metrics>,
    workers: usize,
) -> Store {
    let (mut hosts, mut addresses) = (HostTable::default(), AddressTable::default());
    for (cluster, route) in services {
        cluster.hosts.iter().for_each(|host| hosts.add(host, route));
        cluster.addresses.iter().for_each(|address| addresses.add(*address, route));
    }
    let policy = config.outbound.as_ref().map_or(listener::Unknown::Deny, |outbound| outbound.unknown);
    let applications = applications(config, metrics, workers);
    let app = config.inbound.as_ref().and_then(|inbound| inbound.app);
    let application = app.map(|app| applications.route(app));
    let snapshot = Snapshot { hosts, addresses, policy, own, application };
    Store::new(snapshot, unknown(metrics, workers), applications)
}

/// The application's addresses share one `max_requests`.
fn applications(config: &Config, metrics: &Arc<Metrics>, workers: usize) -> Destinations {
    let (inbound, metrics) = (config.inbound.clone(), metrics.clone());
    let most = inbound.as_ref().and_then(|inbound| inbound.max_requests).unwrap_or(NO_LIMIT);
    let requests = Limit::new("inbound.max_requests", most);
    Destinations::new(move |to| match &inbound {
        Some(inbound) => Cluster::application(inbound, to, &requests, &metrics, workers),
        None => Cluster::passthrough(to, &metrics, workers), // nobody asks: there is no inbound side
    })
}

fn unknown(metrics: &Arc<Metrics>, workers: usize) -> Destinations {
    let metrics = metrics.clone();
    Destinations::new(move |to| Cluster::passthrough(to, &metrics, workers))
}

fn inbound_side(config: &Config, credentials: Option<&Credentials>) -> anyhow::Result<Option<InboundSide>> {
    let Some(inbound) = &config.inbound else { return Ok(None) };
    let tls = credentials.map(|credentials| server_config(credentials, &config.tls)).transpose()?;
    if tls.is_none() && inbound.mtls != listener::Mtls::Off {
        anyhow::bail!("inbound.mtls is not off, and there is no identity");
    }
    let connections = inbound.max_connections.unwrap_or_else(|| descriptors() / 2);
    Ok(Some(InboundSide {
        policy: Arc::new(inbound.clone()),
        tls,
        own_id: credentials.map(|credentials| credentials.id.as_str().into()),
        connections: Limit::new("inbound.max_connections", connections),
    }))
}

/// The descriptor limit, less what the sidecar itself keeps open.
fn descriptors() -> u32 {
    const OWN: u32 = 64;
    const USUAL: u32 = 1024;
    crate::telemetry::process::max_descriptors().unwrap_or(USUAL).saturating_sub(OWN).max(OWN)
}

fn access_log(config: &Config, metrics: &Metrics) -> anyhow::Result<Option<Arc<AccessLog>>> {
    let Some(access_log) = &config.access_log else { return Ok(None) };
    let log = AccessLog::start(access_log, metrics.access_log_dropped()).context("access_log.path")?;
    Ok(Some(Arc::new(log)))
}

fn tell_expiry(metrics: &Metrics, credentials: Option<&Credentials>) {
    if let Some(credentials) = credentials {
        metrics.certificate_not_after(CertificateUse::Own).set(credentials.not_after);
        let ends = credentials.bundle.iter().filter_map(|ca| crate::identity::not_after(ca).ok());
        if let Some(first) = ends.min() {
            metrics.certificate_not_after(CertificateUse::Ca).set(first);
        }
    }
}
