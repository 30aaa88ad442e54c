//! The composition root: a checked configuration becomes listeners, workers and clusters.
//!
//! Order: read credentials, build clusters, bind every address, only then start. Whatever fails, fails before the
//! first connection is accepted.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use pillion_config::listener::Mtls;
use pillion_config::{Cluster as ClusterConfig, Config};

use crate::admin::{Admin, Readiness};
use crate::cluster::Cluster;
use crate::cluster::limits::Limit;
use crate::http::upstream::SWEEP_EVERY;
use crate::identity::credentials::Credentials;
use crate::inbound::Inbound;
use crate::net::{Bound, Listener, Network};
use crate::outbound::Outbound;
use crate::runtime::drain::Drain;
use crate::runtime::worker::Worker;
use crate::serve::Accepting;
use crate::state::{HostTable, Route, Snapshot, Store};
use crate::telemetry::{AccessLog, CertificateUse, Direction, Metrics};
use crate::tls::client::{AlpnOffer, ClientTls};
use crate::tls::server::server_config;

/// From the signal to the end, at the latest.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);
/// Where the sidecar listens. Port 0 in the configuration is a real port here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    pub inbound: Vec<SocketAddr>,
    pub outbound: Vec<SocketAddr>,
    pub admin: Vec<SocketAddr>,
    pub metrics: Vec<SocketAddr>,
    /// Services' own ports, by name.
    pub services: Vec<(String, SocketAddr)>,
}

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
    tls: Option<Arc<rustls::ServerConfig>>,
    own_id: Option<Arc<str>>,
    connections: Arc<Limit>,
}

/// A bound address and what is served there.
struct Port {
    bound: Bound,
    use_: Use,
}

#[derive(Clone)]
enum Use {
    Inbound,
    Outbound,
    Service(Arc<Route>),
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
        let workers = workers(config);
        let metrics =
            Metrics::new(config.metrics.as_ref().map_or(DEFAULT_SERIES, |metrics| metrics.max_series));
        tell_expiry(&metrics, credentials.as_ref());
        let services = services(config, credentials.as_ref(), &metrics, workers)?;
        let application =
            config.inbound.as_ref().and_then(|inbound| Cluster::application(inbound, &metrics, workers));
        let clusters =
            services.iter().map(|(_, route)| route.cluster.clone()).chain(application.clone()).collect();
        let access_log = access_log(config, &metrics)?;
        let shared = Shared {
            network,
            state: Arc::new(Store::new(snapshot(&services, application))),
            metrics,
            access_log,
            drain: Drain::default(),
            instance: format!("{:012x}", fastrand::u64(..1 << 48)).into(),
            inbound: inbound_side(config, credentials.as_ref())?,
            clusters,
            outbound_connections: Limit::new("outbound connections", descriptors() / 2),
        };
        let (workers, mut addresses) = bind_workers(&shared.network, config, &services, workers)?;
        let admin = Admin::bind(&shared.network, config, &shared.metrics)?;
        (addresses.admin, addresses.metrics) = admin.addresses()?;
        Ok(Self { addresses, shared, workers, admin })
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
            tokio::spawn(sweep(self.clusters.clone(), self.drain.clone()));
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
            (Use::Inbound, Some(side)) => self.accept_inbound(listener, worker, side),
            (Use::Inbound, None) => return None,
            (Use::Outbound, _) => self.accept_outbound(listener, worker, None),
            (Use::Service(route), _) => self.accept_outbound(listener, worker, Some(route)),
        })
    }

    fn accept_inbound(
        &self,
        listener: Listener,
        worker: &Arc<Worker>,
        side: &InboundSide,
    ) -> tokio::task::JoinHandle<()> {
        let inbound = Inbound { worker: worker.clone(), tls: side.tls.clone(), own_id: side.own_id.clone() };
        let accepting = Accepting {
            worker: worker.clone(),
            direction: Direction::Inbound,
            connections: side.connections.clone(),
            serve: move |stream, from| inbound.clone().serve(stream, from),
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
            serve: move |stream, from| outbound.clone().serve(stream, from),
        };
        tokio::spawn(accepting.run(listener))
    }
}

async fn sweep(clusters: Arc<[Arc<Cluster>]>, drain: Drain) {
    let mut draining = std::pin::pin!(drain.started());
    loop {
        tokio::select! { // nothing is lost: the next sweep sees the same
            () = &mut draining => return,
            () = tokio::time::sleep(SWEEP_EVERY) => clusters.iter().for_each(|cluster| cluster.sweep()),
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

fn services(
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
        UpstreamProtocol::Auto => AlpnOffer::Auto,
        UpstreamProtocol::Http1 => AlpnOffer::Http1,
        UpstreamProtocol::Http2 => AlpnOffer::Http2,
    };
    let host = cluster.hosts.first().filter(|host| !host.wildcard).map(|host| host.name.as_str());
    ClientTls::new(credentials, &cluster.tls, &config.tls, host, offer)
        .with_context(|| format!("services.{}.tls", cluster.name))
}

fn snapshot(services: &[(ClusterConfig, Arc<Route>)], application: Option<Arc<Cluster>>) -> Snapshot {
    let mut hosts = HostTable::default();
    for (cluster, route) in services {
        cluster.hosts.iter().for_each(|host| hosts.add(host, route));
    }
    Snapshot { hosts, application: application.map(Route::to) }
}

fn inbound_side(config: &Config, credentials: Option<&Credentials>) -> anyhow::Result<Option<InboundSide>> {
    let Some(inbound) = &config.inbound else { return Ok(None) };
    let tls = match (inbound.mtls, credentials) {
        (Mtls::Off, _) => None,
        (Mtls::Strict, Some(credentials)) => Some(server_config(credentials, &config.tls)?),
        (Mtls::Strict, None) => anyhow::bail!("inbound.mtls is strict, and there is no identity"),
    };
    let connections = inbound.max_connections.unwrap_or_else(|| descriptors() / 2);
    Ok(Some(InboundSide {
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

/// Binds every address once for each worker: the kernel spreads connections over them.
fn bind_workers(
    network: &Network,
    config: &Config,
    services: &[(ClusterConfig, Arc<Route>)],
    workers: usize,
) -> anyhow::Result<(Vec<Vec<Port>>, Addresses)> {
    let mut binding = Binding { network, workers: (0..workers).map(|_| Vec::new()).collect() };
    let mut addresses = Addresses::default();
    if let Some(inbound) = &config.inbound {
        addresses.inbound = binding.bind_all("inbound.listen", &inbound.listen, &Use::Inbound)?;
    }
    if let Some(outbound) = &config.outbound {
        addresses.outbound = binding.bind_all("outbound.listen", &outbound.listen, &Use::Outbound)?;
    }
    for (cluster, route) in services {
        let what = format!("services.{}.listen", cluster.name);
        let bound = binding.bind_all(&what, &cluster.listen, &Use::Service(route.clone()))?;
        addresses.services.extend(bound.into_iter().map(|address| (cluster.name.clone(), address)));
    }
    Ok((binding.workers, addresses))
}

struct Binding<'a> {
    network: &'a Network,
    workers: Vec<Vec<Port>>,
}

impl Binding<'_> {
    fn bind_all(&mut self, what: &str, wanted: &[SocketAddr], use_: &Use) -> anyhow::Result<Vec<SocketAddr>> {
        let mut bound = Vec::new();
        for &address in wanted {
            bound.extend(self.bind(what, address, use_)?);
        }
        if bound.is_empty() && !wanted.is_empty() {
            anyhow::bail!("{what}: no address could be bound");
        }
        Ok(bound)
    }

    /// `None`: IPv6, on a kernel that has none.
    fn bind(
        &mut self,
        what: &str,
        mut address: SocketAddr,
        use_: &Use,
    ) -> anyhow::Result<Option<SocketAddr>> {
        let shared = self.workers.len() > 1;
        for ports in &mut self.workers {
            let bound = match self.network.bind(address, shared) {
                Err(error) if address.is_ipv6() && has_no_ipv6(&error) => {
                    tracing::info!(%address, "{what}: left out, this kernel has no IPv6");
                    return Ok(None);
                }
                bound => bound.with_context(|| format!("{what}: cannot listen on {address}"))?,
            };
            address = bound.address()?; // the first worker settles what port 0 means
            ports.push(Port { bound, use_: use_.clone() });
        }
        Ok(Some(address))
    }
}

pub(crate) fn has_no_ipv6(error: &io::Error) -> bool {
    const AFNOSUPPORT: i32 = 97;
    error.raw_os_error() == Some(AFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable
}

/// The line that `run` prints when it is ready.
impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ready")?;
        let kinds = [
            ("inbound", &self.inbound),
            ("outbound", &self.outbound),
            ("admin", &self.admin),
            ("metrics", &self.metrics),
        ];
        for (kind, addresses) in kinds.into_iter().filter(|(_, addresses)| !addresses.is_empty()) {
            let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            write!(f, " {kind}={}", list.join(","))?;
        }
        self.services.iter().try_for_each(|(name, address)| write!(f, " service.{name}={address}"))
    }
}
