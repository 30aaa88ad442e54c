//! The composition root: it makes listeners, workers and clusters from a checked configuration.
//!
//! [`control`] builds what a configuration needs, and also applies later configurations, so that the first one is
//! treated like all others. Anything that can fail, fails before the first connection is accepted.

mod bindings;
mod checks;
mod companions;
mod control;
mod credentialed;
mod dns;
mod following;
mod issued;
mod jwks;
mod keeper;
mod kept;
mod kubernetes;
mod listeners;
mod handing;
mod own;
mod own_ports;
mod causes;
mod memory;
mod watch;
mod unserved;
mod weakened;
mod worker;

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use pillion_model::Config;
use pillion_model::telemetry::{Compatibility, LogPath};
use tokio::sync::mpsc;

use self::dns::DnsListeners;
use crate::admin::{Admin, Console, Order, Published, Readiness, begin_inbound};
use crate::api_server::Environment;
use crate::dns::Dns;
use crate::takeover::Inherited;
use crate::traces::{Exporter, FLUSH_PATIENCE};
pub(crate) use causes::with_causes;
use checks::Checker;
use companions::Companions;
use control::Around;
pub use control::{Applied, Controller};
#[cfg(test)]
pub(crate) use following::DnsSource;
#[cfg(test)]
pub(crate) use issued::WorkloadSource;
use jwks::KeyFollower;
pub use keeper::{ConfigSource, End, Keeper, Loaded};
pub use kept::{Kept, Restored};
pub(crate) use kubernetes::KubernetesSource;
pub use listeners::Addresses;
use listeners::{Listeners, Workers};
use memory::MemoryKeeper;
use own::Identity;
pub(crate) use own_ports::OwnPorts;
use pillion_base::drain::{Drain, DrainOutcome};
use pillion_base::ground::{Ground, Shared as SharedGround};
use pillion_base::limits::{Limit, NO_LIMIT};
use pillion_base::net::Network;
use pillion_base::net::descriptors::{raise_limit, why_too_few};
use pillion_sidecar::state::{Clusters, Destinations, Sides, Snapshot, Store, compile};
use pillion_sidecar::taps::Taps;
use pillion_sidecar::traces::Traces;
use pillion_sidecar::worker::{Records, Worker};
use pillion_telemetry::{AccessLog, Detail, EndpointKey, Metrics, Timelines};
use pillion_tls::identity::credentials::Credentials;
use pillion_tls::identity::date;
use pillion_upstream::cluster::alike::Policies;
use pillion_upstream::cluster::{Cluster, ClusterContext};
use pillion_upstream::pool::SWEEP_EVERY;
pub(crate) use unserved::snapshot as unserved_snapshot;
use worker::{Command, Connections};

/// How long companions may deliver what they have after the last request. What a log shipper cannot deliver waits in its files.
const COMPANIONS_PATIENCE: Duration = Duration::from_secs(5);

/// A sidecar whose addresses are bound, and which has not started.
pub struct App {
    controller: Controller,
    shared: Shared,
    workers: Vec<mpsc::Receiver<Command>>,
    orders: mpsc::Receiver<Order>,
    console: Arc<Console>,
    admin: (Admin, mpsc::Receiver<crate::admin::Command>),
    dns: (Arc<Dns>, mpsc::Receiver<crate::dns::Command>),
}

/// A running sidecar.
pub struct Running {
    controller: Controller,
    orders: mpsc::Receiver<Order>,
    console: Arc<Console>,
    drain: Drain,
    readiness: Arc<Readiness>,
    access_log: Option<Arc<AccessLog>>,
    traces: Arc<Traces>,
    kubernetes: KubernetesSource,
    companions: Companions,
    threads: Vec<JoinHandle<()>>,
}

/// The parts of every worker.
#[derive(Clone)]
struct Shared {
    network: Network,
    around: Around,
    access_log: Option<Arc<AccessLog>>,
    timelines: Option<Timelines>,
    taps: Arc<Taps>,
    drain: Drain,
    instance: Arc<str>,
}

impl App {
    /// Builds and binds everything that `config` asks for, on the real network.
    ///
    /// # Errors
    /// Credentials cannot be used, an address cannot be bound, or a log cannot be opened.
    pub fn build(config: impl Into<Arc<Config>>) -> anyhow::Result<Self> {
        Self::build_on(Network::Os, config, None)
    }

    /// Builds everything on sockets that another sidecar hands over. What is missing among them is bound.
    ///
    /// # Errors
    /// As [`Self::build`] has.
    pub(crate) fn build_with_sockets(config: Arc<Config>, inherited: &Inherited) -> anyhow::Result<Self> {
        Self::build_all((Network::Os, inherited), &config, None)
    }

    /// Builds and binds everything, with credentials from memory.
    pub fn build_with(config: impl Into<Arc<Config>>, credentials: Credentials) -> anyhow::Result<Self> {
        Self::build_on(Network::Os, config, Some(credentials))
    }

    pub(crate) fn build_on(
        network: Network,
        config: impl Into<Arc<Config>>,
        credentials: Option<Credentials>,
    ) -> anyhow::Result<Self> {
        Self::build_all((network, &Inherited::default()), &config.into(), credentials)
    }

    fn build_all(
        (network, inherited): (Network, &Inherited),
        config: &Arc<Config>,
        credentials: Option<Credentials>,
    ) -> anyhow::Result<Self> {
        prepare_process(&network, config.identity.is_some() || credentials.is_some())?;
        let workers = workers(config);
        let metrics = metrics(config);
        let around = around(&network, &metrics, workers, config.workload.zone.as_deref());
        let timelines = config.explain.as_ref().map(|explain| Timelines::new(explain, workers));
        let taps = Arc::new(Taps::default());
        let drain = Drain::default();
        let (console, orders) =
            Console::new(around.store.clone(), timelines.clone(), taps.clone(), drain.clone());
        let admin = Admin::new(&network, config, &metrics, console.clone());
        let (own_ports, of_admin) = OwnPorts::bind(&network, inherited, config)?;
        let (threads, receivers) = (0..workers).map(|_| bindings::channel()).unzip();
        let listeners = Listeners::new(Workers(network.clone(), inherited.clone()), threads);
        let dns = Arc::new(Dns::new(network.clone(), around.store.clone(), metrics.clone()));
        let (dns_listeners, commands) = DnsListeners::new(network.clone(), inherited.clone(), dns.clone());
        let listeners = (listeners, dns_listeners);
        let mut controller = Controller::new(listeners, own_ports, around.clone());
        match credentials {
            Some(credentials) => controller.begin(config, Identity::Known(Arc::new(credentials)))?,
            None => drop(controller.apply(config)?),
        }
        publish_on_scrape(&around);
        console.publish(Published {
            loaded_at: Some(SystemTime::now()),
            config: config.clone(),
            listening: controller.addresses().listening(),
            certificates: controller.certificates(),
            credentials: controller.credentials().map(Credentials::to_json).into_iter().collect(),
            other_certificates: controller.other_certificates(),
            ..Published::default()
        });
        let shared = Shared {
            network,
            around,
            access_log: access_log(config, controller.credentials(), &metrics)?,
            timelines,
            taps,
            drain,
            instance: format!("{:012x}", fastrand::u64(..1 << 48)).into(),
        };
        let dns = (dns, commands);
        let admin = (admin, of_admin);
        Ok(Self { controller, shared, workers: receivers, orders, console, admin, dns })
    }

    pub fn addresses(&self) -> Addresses {
        self.controller.addresses()
    }

    /// The controller of a sidecar that never starts. For benchmarks.
    pub(crate) fn into_controller(self) -> Controller {
        self.controller
    }

    /// Starts a thread for each worker, one for admin and metrics, and one for DNS. They accept connections at once.
    ///
    /// # Errors
    /// A thread or a runtime cannot be created.
    pub fn start(self) -> io::Result<Running> {
        let mut running = self.start_closed()?;
        running.open();
        Ok(running)
    }

    /// Starts all threads. They accept no connection before [`Running::open`].
    ///
    /// # Errors
    /// A thread or a runtime cannot be created.
    pub(crate) fn start_closed(self) -> io::Result<Running> {
        let mut threads = Vec::new();
        let (shared, (admin, of_admin), (dns, names)) = (self.shared, self.admin, self.dns);
        let readiness = admin.readiness();
        let memory = shared.memory_keeper(); // before the workers: its limit holds for their first connections
        let workers = self.workers.len();
        for (index, commands) in self.workers.into_iter().enumerate() {
            let (shared, runtime) = (shared.clone(), single_threaded()?);
            let worker = std::thread::Builder::new().name(format!("worker-{index}"));
            threads
                .push(worker.spawn(move || runtime.block_on(shared.run_worker(index, workers, commands)))?);
        }
        let (runtime, checker, keys) = (single_threaded()?, shared.checker(), shared.key_follower());
        let exporter = shared.exporter();
        std::thread::Builder::new().name("admin".into()).spawn(move || {
            runtime.spawn(checker.run());
            runtime.spawn(keys.run());
            exporter.map(|exporter| runtime.spawn(exporter.run()));
            runtime.block_on(admin.run(of_admin));
        })?;
        // DNS has its own thread, because an exposition of metrics takes milliseconds and no query may wait for one
        let runtime = single_threaded()?;
        let dns_thread = std::thread::Builder::new().name("dns".into());
        dns_thread.spawn(move || {
            runtime.spawn(memory.run());
            runtime.block_on(crate::dns::run(dns, names));
        })?;
        let known = self.console.kubernetes.clone();
        let kubernetes = KubernetesSource::new(known, shared.ground_beside(), Environment::of_process());
        let companions = Companions::new(shared.ground_beside());
        let (drain, access_log, traces) = (shared.drain, shared.access_log, shared.around.traces);
        let Self { controller, orders, console, .. } = self;
        Ok(Running {
            controller,
            orders,
            console,
            drain,
            readiness,
            access_log,
            traces,
            kubernetes,
            companions,
            threads,
        })
    }

    /// Starts everything on the caller's runtime, with one worker. For tests.
    #[cfg(test)]
    pub(crate) fn start_here(mut self) -> (Controller, Arc<Metrics>, Drain) {
        let (metrics, drain) = (self.shared.around.metrics.clone(), self.shared.drain.clone());
        tokio::spawn(self.shared.memory_keeper().run());
        let workers = self.workers.len();
        for (index, commands) in self.workers.into_iter().enumerate() {
            tokio::spawn(self.shared.clone().run_worker(index, workers, commands));
        }
        tokio::spawn(self.shared.checker().run());
        tokio::spawn(self.shared.key_follower().run());
        self.shared.exporter().map(|exporter| tokio::spawn(exporter.run()));
        let (admin, of_admin) = self.admin;
        tokio::spawn(admin.run(of_admin));
        let (dns, commands) = self.dns;
        tokio::spawn(crate::dns::run(dns, commands));
        self.controller.open();
        (self.controller, metrics, drain)
    }
}

impl Running {
    pub fn addresses(&self) -> Addresses {
        self.controller.addresses()
    }

    /// When the sidecar's own certificate expires, in the format of the log. `None`: there is no certificate.
    pub fn certificate_ends(&self) -> Option<String> {
        self.controller.credentials().map(|credentials| date(credentials.not_after))
    }

    /// Drains the sidecar as `drain` of the configuration says: it announces that connections will close, accepts no
    /// new ones, completes what is in flight, and ends. `keeper` keeps endpoints and certificates current meanwhile.
    pub(crate) async fn drain(&mut self, keeper: &mut Keeper) {
        let (plan, drain) = (self.controller.config().drain, self.drain.clone());
        self.readiness.set_draining();
        drain.begin();
        match keeper.follow_until(self, drain.finished(plan)).await {
            DrainOutcome::Finished => tracing::info!("drained"),
            DrainOutcome::Cut { inbound, outbound } => {
                tracing::warn!(timeout = ?plan.timeout, inbound, outbound, "drain timeout reached: closing the open connections");
            }
        }
        self.finish().await;
    }

    /// Lets the companions deliver what they have, and ends them. A second call does nothing.
    async fn finish_companions(&mut self) {
        self.companions.finish(COMPANIONS_PATIENCE).await;
    }

    /// Writes what was recorded.
    async fn finish(&mut self) {
        self.finish_companions().await;
        if !self.traces.close(FLUSH_PATIENCE).await {
            tracing::warn!("the collector of traces does not accept spans in time; the last spans are lost");
        }
        if let Some(log) = &self.access_log {
            log.close();
        }
    }

    /// The access log. `None`: the file has none.
    pub fn access_log(&self) -> Option<Arc<AccessLog>> {
        self.access_log.clone()
    }

    /// Reports that the sidecar is ready, because everything for which it waited is there.
    pub fn set_ready(&self) {
        self.readiness.set_ready();
    }

    /// Drains inbound, and goes on.
    pub fn drain_inbound(&self) {
        begin_inbound(&self.drain, &self.readiness, self.controller.config());
    }

    /// Why it is not ready.
    pub fn why_not_ready(&self) -> Option<String> {
        self.readiness.why_not()
    }

    /// Drains and ends without `drain.delay`.
    pub(crate) async fn quit(&mut self, keeper: &mut Keeper) {
        self.drain.begin_in_haste();
        self.drain(keeper).await;
    }

    /// Whether the thread of a worker has ended. No such thread ends before the drain.
    pub fn is_broken(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }
}

impl Shared {
    /// The checker of the endpoints: one for all workers.
    fn checker(&self) -> Checker {
        Checker::new(self.around.store.clone(), self.ground_beside())
    }

    /// The follower of the keys for tokens: one for all workers.
    fn key_follower(&self) -> KeyFollower {
        KeyFollower::new(self.around.store.clone(), self.ground_beside())
    }

    /// The keeper of the memory: one for all workers.
    fn memory_keeper(&self) -> MemoryKeeper {
        let Around { store, metrics, connections, .. } = &self.around;
        MemoryKeeper::new(self.network.clone(), store.clone(), metrics.clone(), connections.shared.clone())
    }

    /// The exporter of spans: one for all workers. `None`: it exists already.
    fn exporter(&self) -> Option<Exporter> {
        Exporter::new(&self.around.traces, self.ground_beside())
    }

    /// The ground for what runs beside the data path.
    fn ground_beside(&self) -> Arc<Ground> {
        let Around { metrics, connections, .. } = &self.around;
        Ground::new((0, 1), self.network.clone(), metrics.clone(), connections.shared.clone())
    }

    async fn run_worker(self, index: usize, workers: usize, commands: mpsc::Receiver<Command>) {
        let Around { store, metrics, connections, traces, .. } = self.around;
        let ground = Ground::new((index, workers), self.network, metrics, connections.shared.clone());
        let timelines = self.timelines.and_then(|all| all.ring(index));
        let records = Records { access_log: self.access_log, timelines, taps: self.taps, traces };
        let worker = Worker::new(ground, store.clone(), records, self.drain, &self.instance);
        if index == 0 {
            tokio::spawn(sweep(store));
        }
        worker::run(worker, connections, commands).await;
    }
}

/// The shared state of a sidecar that serves nothing yet.
fn around(network: &Network, metrics: &Arc<Metrics>, workers: usize, zone: Option<&str>) -> Around {
    let common = ClusterContext { zone: zone.map(Arc::from), ..ClusterContext::new(metrics, workers) };
    let requests = Limit::new("inbound.max_requests", NO_LIMIT);
    let sides = Sides {
        own: pillion_base::net::own::OwnListeners::default(),
        names: Arc::default(),
        inbound: None,
        applications: Arc::new(control::applications(None, &requests, &common)),
    };
    let nothing =
        compile(0, &Arc::default(), &Clusters::new(), sides, None, &mut Policies::default(), metrics);
    let of = common.clone();
    let unknown = Destinations::new(move |to| Cluster::passthrough(to, &of));
    Around {
        store: Arc::new(Store::new(nothing, unknown, common.pools.clone())),
        metrics: metrics.clone(),
        common: common.clone(),
        connections: Connections {
            inbound: Limit::new("inbound.max_connections", 0),
            outbound: Limit::new("outbound connections", control::descriptors()),
            told: pillion_sidecar::serve::told(),
            shared: SharedGround::of_host(network.host_memory()),
        },
        requests,
        traces: Arc::default(),
    }
}

fn prepare_process(network: &Network, has_identity: bool) -> anyhow::Result<()> {
    if has_identity {
        std::thread::Builder::new().name("entropy".into()).spawn(pillion_tls::gather_entropy)?;
    } else {
        tracing::warn!(
            "no `identity` is configured: traffic between sidecars is plaintext and peers are not authenticated"
        );
    }
    match (network, raise_limit().map(why_too_few)) {
        (Network::Memory(_), _) | (_, Ok(None)) => {}
        (Network::Os, Ok(Some(why))) => tracing::warn!("{why}"),
        (Network::Os, Err(error)) => tracing::warn!(%error, "the limit of open files could not be raised"),
    }
    Ok(())
}

/// Sets gauges that mirror live state before each exposition, and removes the series of endpoints that left.
fn publish_on_scrape(around: &Around) {
    let store: Weak<Store> = Arc::downgrade(&around.store);
    around.metrics.on_collect(move || {
        if let Some(store) = store.upgrade() {
            store.load().clusters().for_each(|cluster| cluster.tell());
        }
    });
    if !around.metrics.has_endpoints() {
        return;
    }
    let (store, metrics) = (Arc::downgrade(&around.store), Arc::downgrade(&around.metrics));
    around.metrics.on_exposition(move || {
        if let (Some(store), Some(metrics)) = (store.upgrade(), metrics.upgrade()) {
            metrics.forget_left_endpoints(&endpoints(&store.load()), Instant::now());
        }
    });
}

/// The endpoints of all configured services.
fn endpoints(of: &Snapshot) -> HashSet<EndpointKey> {
    let addresses = |cluster: &Arc<Cluster>| -> Vec<EndpointKey> {
        cluster.endpoints().all.iter().map(|endpoint| (cluster.symbol, endpoint.address)).collect()
    };
    of.clusters().flat_map(addresses).collect()
}

/// Runs to the end of the process, because outbound works until then.
async fn sweep(store: Arc<Store>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let snapshot = store.load_full();
        snapshot.applications.sweep();
        store.unknown.sweep();
        store.pools.sweep();
    }
}

/// The state that the data path of one worker reads, without listeners. For tests.
#[cfg(test)]
pub(crate) fn store(config: &Config, metrics: &Arc<Metrics>) -> Arc<Store> {
    let network = Network::Memory(pillion_base::net::memory::MemoryNetwork::default());
    let around = around(&network, metrics, 1, config.workload.zone.as_deref());
    let dns = Arc::new(Dns::new(network.clone(), around.store.clone(), metrics.clone()));
    let inherited = Inherited::default();
    let (dns, _commands) = DnsListeners::new(network.clone(), inherited.clone(), dns);
    let ports = Config { metrics: None, ..Config::default() };
    let (own_ports, _commands) = OwnPorts::bind(&network, &inherited, &ports).expect("a network of its own");
    let listeners = Listeners::new(Workers(network, inherited), vec![bindings::channel().0]);
    let mut controller = Controller::new((listeners, dns), own_ports, around.clone());
    controller.begin(&Arc::new(config.clone()), Identity::None).expect("a configuration without credentials");
    around.store
}

const DEFAULT_SERIES: usize = 20_000;

/// With `metrics: off` the pages and the dashboard of the admin port use them, too.
fn metrics(config: &Config) -> Arc<Metrics> {
    let settings = config.metrics.as_ref();
    let most = settings.map_or(DEFAULT_SERIES, |metrics| metrics.max_series as usize);
    let has_istio = settings.is_some_and(|metrics| metrics.compatibility.contains(&Compatibility::Istio));
    let metrics = Metrics::with(
        most,
        Detail { has_endpoints: settings.is_some_and(|metrics| metrics.endpoints), has_istio },
    );
    if let Some(by) = settings.and_then(|settings| settings.process_metrics.as_ref()) {
        metrics.add_application(by);
    }
    metrics
}

fn single_threaded() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// The configured number, else that of the cgroup's CPU quota (both versions) or of the process's CPU affinity.
fn workers(config: &Config) -> usize {
    let auto = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    config.workers.map_or_else(auto, std::num::NonZero::get)
}

fn named(path: &LogPath) -> String {
    match path {
        LogPath::Stdout => "standard output".to_owned(),
        LogPath::Stderr => "standard error".to_owned(),
        LogPath::File(path) => path.display().to_string(),
    }
}

fn access_log(
    config: &Config,
    own: Option<&Credentials>,
    metrics: &Metrics,
) -> anyhow::Result<Option<Arc<AccessLog>>> {
    let Some(access_log) = &config.access_log else { return Ok(None) };
    let workload = config.workload.or_of(own.map(|own| &own.id));
    let log = AccessLog::start(access_log, workload, metrics.access_log_dropped())
        .with_context(|| format!("access_log.path: cannot write to {}", named(&access_log.path)))?;
    Ok(Some(Arc::new(log)))
}
