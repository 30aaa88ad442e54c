//! Every metric of the sidecar. [`Metrics`] is made once; its functions are in a room for each thing that is measured.
//!
//! The data path resolves handles once and keeps them: one [`ServiceMetrics`] for each service, one [`super::Recorder`]
//! for each worker. Functions that take labels use a shared lock and are meant for connections, not for requests.

mod authorization;
mod companions;
mod connections;
mod istio;
mod kubernetes;
mod process;
mod removal;
mod requests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::{Mutex, RwLock};

use super::companions::Board;
use super::exemplars::Exemplars;
use super::families::Families;
use super::family::Exposition;
use super::istio::{Own, Servers};
use super::labels::ReloadOutcome;
use super::overview::Overview;
use super::service::ServiceMetrics;
use super::symbols::{Symbol, Symbols};
use pillion_model::Direction;
pub use process::REVISION;
pub use removal::EndpointKey;
use removal::Removals;

/// What is counted beyond the usual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Detail {
    /// `metrics.endpoints`: the tries at each endpoint.
    pub has_endpoints: bool,
    /// `metrics.compatibility: [istio]`.
    pub has_istio: bool,
}

/// All metrics of the sidecar.
pub struct Metrics {
    exposition: Exposition,
    detail: Detail,
    symbols: Arc<Symbols>,
    families: Arc<Families>,
    services: RwLock<HashMap<(Direction, Symbol), Arc<ServiceMetrics>>>,
    hooks: Mutex<Vec<Hook>>,
    /// Those that run before expositions only.
    exposition_hooks: Mutex<Vec<Hook>>,
    removals: Removals,
    /// The workload of this sidecar, as Istio's labels name it.
    own: RwLock<Own>,
    servers: Servers,
    /// Counts the changes of `own` and `servers`.
    identities: AtomicU64,
    exemplars: Exemplars,
    companions: Board,
}

type Hook = Arc<dyn Fn() + Send + Sync>;

impl Metrics {
    /// `max_series` bounds the whole exposition. A histogram counts with all its buckets.
    pub fn new(max_series: usize) -> Arc<Self> {
        Self::with(max_series, Detail::default())
    }

    pub fn with(max_series: usize, detail: Detail) -> Arc<Self> {
        // one bound serves both, because a peer's symbol without a series has no use
        let symbols = Arc::new(Symbols::new(max_series));
        let exposition = Exposition::new(symbols.clone(), max_series);
        let families = Arc::new(Families::register(&exposition));
        process::publish_build(&exposition);
        super::process::tell(&exposition);
        families.access_log_dropped.of(());
        ReloadOutcome::ALL.iter().for_each(|outcome| drop(families.config_reloads.of((*outcome,))));
        let companions = Board::new(families.companions.clone(), symbols.clone());
        Arc::new(Self {
            exposition,
            detail,
            symbols,
            families,
            services: RwLock::default(),
            hooks: Mutex::default(),
            exposition_hooks: Mutex::default(),
            removals: Removals::default(),
            own: RwLock::default(),
            servers: Servers::default(),
            identities: AtomicU64::new(0),
            exemplars: Exemplars::default(),
            companions,
        })
    }

    /// The symbol of a name from the configuration; [`Symbol::OTHER`] where the process has seen too many names. Call it
    /// once for each configuration.
    pub fn intern(&self, name: &str) -> Symbol {
        self.symbols.intern(name)
    }

    /// The symbol of a peer's SPIFFE ID; [`Symbol::OTHER`] beyond the bound. Call it once for each connection.
    pub fn intern_peer(&self, id: &str) -> Symbol {
        self.symbols.intern_bounded(id)
    }

    pub fn name(&self, symbol: Symbol) -> Arc<str> {
        self.symbols.name(symbol)
    }

    /// Whether [`super::Recorder::count_try`] counts.
    pub fn has_endpoints(&self) -> bool {
        self.detail.has_endpoints
    }

    /// The handles of one service. Its series appear only when one of the handles is first used.
    pub fn service(&self, direction: Direction, service: Symbol) -> Arc<ServiceMetrics> {
        let known = self.services.read().get(&(direction, service)).cloned();
        known.unwrap_or_else(|| self.add_service(direction, service))
    }

    fn add_service(&self, direction: Direction, service: Symbol) -> Arc<ServiceMetrics> {
        let fresh = || Arc::new(ServiceMetrics::new(self.families.clone(), direction, service));
        self.services.write().entry((direction, service)).or_insert_with(fresh).clone()
    }

    /// Runs `hook` before every exposition and every overview, to set gauges that mirror live state.
    ///
    /// Hooks live as long as the metrics, so they must hold weak references only.
    pub fn on_collect(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.hooks.lock().push(Arc::new(hook));
    }

    /// Runs `hook` before every exposition, and not before an overview, to remove series.
    pub fn on_exposition(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.exposition_hooks.lock().push(Arc::new(hook));
    }

    /// The metrics in sum. With thousands of series this takes milliseconds, like [`Self::encode`]. It removes no series.
    pub fn overview(&self) -> Overview {
        run(&self.hooks);
        Overview::of(&self.families, &self.symbols)
    }

    /// The sidecar's own exposition in [`super::Format::Text`]; [`super::merge::written`] makes the others of it.
    ///
    /// With thousands of series this takes milliseconds, so no thread of the data path may call it.
    pub fn encode(&self) -> String {
        run(&self.hooks);
        run(&self.exposition_hooks);
        self.exposition.encode()
    }
}

fn run(hooks: &Mutex<Vec<Hook>>) {
    let hooks = hooks.lock().clone(); // a hook may add another one
    hooks.iter().for_each(|hook| hook());
}

#[cfg(test)]
mod tests;
