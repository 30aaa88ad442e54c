//! Applies one configuration after another while traffic continues.
//!
//! Everything that can fail (certificates, addresses) is done first and changes nothing. Then the new snapshot replaces
//! the old one as a whole, and listeners that are no longer wanted are closed. Their accepted connections stay open.

mod clusters;
mod expiry;
mod identity;
mod inbound;

use std::sync::Arc;

use pillion_model::Config;
use pillion_model::identity::Identity as Source;
use tokio::time::Instant;

use super::bindings::Change;
use super::credentialed::{self, Credentialed, refuse_restart};
use super::dns::DnsListeners;
use super::listeners::{self, Addresses, Listeners, Workers};
use super::own::Identity;
use super::own_ports::OwnPorts;
use super::weakened::weakened;
use super::worker::Connections;
use crate::admin::OwnPort;
use expiry::Warned;
pub(super) use inbound::{applications, descriptors, new_authorizer};
use pillion_base::limits::Limit;
use pillion_base::net::own::OwnListeners;
use pillion_sidecar::state::{
    Application, Clusters, Destinations, DnsNames, Former, InboundSide, Sides, Store, VirtualAddresses,
    compile,
};
use pillion_sidecar::traces::Traces;
use pillion_telemetry::Metrics;
use pillion_tls::identity::watch::Rotating;
use pillion_tls::material::Material;
use pillion_upstream::cluster::ClusterContext;
use pillion_upstream::cluster::alike::Policies;

/// The result of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    Changed,
    /// The configuration is the one in use already.
    Unchanged,
}

/// Changes the state that the data path reads.
pub struct Controller {
    config: Arc<Config>,
    identity: Identity,
    /// The files of services' TLS.
    material: Material,
    /// Reads the files of the identity again. `None`: there is no identity with files.
    rotating: Option<Rotating>,
    /// Whether the last answer of a Workload API was refused.
    refuses_answer: bool,
    warned: Warned,
    generation: u64,
    pub(super) listeners: Listeners,
    pub(super) dns: DnsListeners,
    /// Admin and metrics, which a reload cannot change.
    pub(super) own_ports: OwnPorts,
    clusters: Clusters,
    policies: Policies,
    former: Former,
    names: Arc<DnsNames>,
    /// Virtual addresses stay reserved for services that were removed.
    virtual_addresses: VirtualAddresses,
    inbound: Option<Arc<InboundSide>>,
    applications: Arc<Destinations<Application>>,
    pub(super) around: Around,
}

/// The state that every reload keeps.
#[derive(Clone)]
pub(super) struct Around {
    pub(super) store: Arc<Store>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) common: ClusterContext,
    pub(super) connections: Connections,
    /// The limit `inbound.max_requests`.
    pub(super) requests: Arc<Limit>,
    pub(super) traces: Arc<Traces>,
}

impl Controller {
    /// A controller that serves nothing yet.
    pub(super) fn new(
        (listeners, dns): (Listeners, DnsListeners),
        own_ports: OwnPorts,
        around: Around,
    ) -> Self {
        Self {
            config: Arc::new(nothing()),
            identity: Identity::None,
            material: Material::default(),
            rotating: None,
            refuses_answer: false,
            warned: Warned::default(),
            generation: 0,
            listeners,
            dns,
            own_ports,
            clusters: Clusters::new(),
            policies: Policies::default(),
            former: Former::default(),
            names: Arc::default(),
            virtual_addresses: VirtualAddresses::default(),
            inbound: None,
            applications: around.store.load().applications.clone(),
            around,
        }
    }

    pub fn addresses(&self) -> Addresses {
        Addresses {
            dns: self.dns.addresses(),
            admin: self.own_ports.addresses(OwnPort::Admin),
            metrics: self.own_ports.addresses(OwnPort::Metrics),
            ..listeners::addresses(&self.listeners)
        }
    }

    pub const fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// The number of configurations and credentials that were applied, from 1.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Applies a configuration.
    ///
    /// # Errors
    /// The configuration cannot be served. In that case nothing has changed.
    pub fn apply(&mut self, config: &Arc<Config>) -> anyhow::Result<Applied> {
        let material = credentialed::material(config, &self.material)?;
        if self.generation > 0 {
            if **config == *self.config && material.is(&self.material) {
                return Ok(Applied::Unchanged);
            }
            refuse_restart(&self.config, config)?;
        }
        let weaker = weakened(&self.config, config);
        self.free_former(); // what new services need
        self.put_read(config, material)?;
        warn_of_weaker(&weaker);
        Ok(Applied::Changed)
    }

    /// Applies the first configuration with a given identity.
    pub(super) fn begin(&mut self, config: &Arc<Config>, identity: Identity) -> anyhow::Result<()> {
        let material = credentialed::material(config, &self.material)?;
        self.put(config, identity, material)
    }

    #[cfg(test)]
    pub(crate) fn store(&self) -> &Store {
        &self.around.store
    }

    #[cfg(test)]
    pub(crate) fn traces(&self) -> &Traces {
        &self.around.traces
    }

    /// Frees former state that is no longer read, and the recording of a client that has gone.
    pub(crate) fn free_former(&mut self) {
        self.former.free();
        self.around.store.observation.expire(Instant::now().into_std());
        self.around.metrics.forget_removed_services();
        self.around.metrics.forget_removed_routes(&self.around.store.load().route_names);
        let rules = self.inbound.as_ref().and_then(|side| side.authorization.as_deref());
        self.around.metrics.forget_removed_rules(&rules.map(|rules| rules.names.clone()).unwrap_or_default());
    }

    /// Applies configuration and identity together.
    fn put(&mut self, config: &Arc<Config>, identity: Identity, material: Material) -> anyhow::Result<()> {
        let same_identity = identity.is(&self.identity);
        let same_security = same_identity && self.config.tls == config.tls;
        let kept = self.kept(config, &material, same_identity);
        let credentials = Credentialed::by(config, &identity, &material, &kept)?;
        let outside = self.outside(config, &material)?;
        let keys = self.keys(config)?;
        let dns = self.dns.plan(config)?;
        let mut change = self.listeners.plan(&listeners::wanted(config))?; // from here on nothing can fail
        self.listeners.commit(&mut change);
        let inbound = config.inbound.as_ref();
        let known = self.inbound.as_ref().filter(|_| same_security);
        let server = known.and_then(|known| known.tls.clone()).or(credentials.server); // with its sessions
        let max_age = config.identity.as_ref().and_then(Source::max_connection_age);
        self.inbound = self.inbound_side(inbound, (server, outside, keys), identity.credentials(), max_age);
        let next = self.clusters(config, kept, credentials.clients, &material);
        let former = std::mem::replace(&mut self.clusters, next);
        let mut left = Vec::new();
        self.material = material;
        if self.config.inbound != config.inbound {
            let next = Arc::new(self.applications(config.inbound.as_ref()));
            left.push(std::mem::replace(&mut self.applications, next));
        }
        self.names = Arc::new(DnsNames::of(config, &mut self.virtual_addresses));
        (self.config, self.identity) = (config.clone(), identity);
        let own = self.identity.credentials().map(|own| &own.id);
        self.around.metrics.set_own(&config.workload.or_of(own), own.map(|id| id.as_str()));
        self.publish_expiry();
        self.dns.commit(dns);
        self.swap(&mut change);
        if !same_security {
            self.clusters.values().for_each(|cluster| cluster.retire_connections());
        }
        self.leave(&former); // after the swap, when no new request finds them
        left.iter().for_each(|applications| applications.leave());
        self.listeners.send(change); // the new snapshot is in use already
        Ok(())
    }

    fn swap(&mut self, change: &mut Change<Workers>) {
        self.generation += 1;
        let sides = Sides {
            own: OwnListeners::new(self.addresses().all()),
            names: self.names.clone(),
            inbound: self.inbound.clone(),
            applications: self.applications.clone(),
        };
        let Around { store, metrics, traces, .. } = &self.around;
        let workload = self.config.workload.or_of(self.credentials().map(|own| &own.id));
        traces.follow(self.config.tracing.as_ref(), workload, metrics);
        let now = store.load_full();
        let next = compile(
            self.generation,
            &self.config,
            &self.clusters,
            sides,
            Some(&now),
            &mut self.policies,
            metrics,
        );
        drop(now);
        change.use_now(); // the uses of listeners change right after the snapshot that they refer to
        let former = store.swap(next);
        self.former.keep(former);
        metrics.config_generation().set(i64::try_from(self.generation).unwrap_or(i64::MAX));
    }
}

fn warn_of_weaker(weaker: &[String]) {
    /// Bounds the lines of a file that lost all its services.
    const TOLD: usize = 20;
    for what in weaker.iter().take(TOLD) {
        tracing::warn!("the new configuration protects less: {what}");
    }
    if let more @ 1.. = weaker.len().saturating_sub(TOLD) {
        tracing::warn!(more, "the new configuration protects less for further keys");
    }
}

/// A configuration that serves nothing.
fn nothing() -> Config {
    Config { identity: None, inbound: None, outbound: None, clusters: Vec::new(), ..Config::default() }
}
