//! Applies one configuration after another while traffic continues.
//!
//! Everything that can fail (certificates, addresses) is done first and changes nothing. Then the new snapshot replaces
//! the old one as a whole, and listeners that are no longer wanted are closed. Their accepted connections stay open.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;

use pillion_model::authorization::{Authorization as Rules, ExtAuthz};
use pillion_model::identity::{Identity as Source, WorkloadApi};
use pillion_model::listener::{AppProtocol, Inbound, PortTls};
use pillion_model::route::RateLimit;
use pillion_model::{Cluster as ClusterConfig, Config, EndpointUpdate, SpiffeId};
use tokio::time::Instant;

use super::bindings::Change;
use super::credentialed::{self, Credentialed, refuse_restart};
use super::dns::DnsListeners;
use super::jwks;
use super::listeners::{self, Addresses, Listeners, Workers};
use super::own::{self, Identity};
use super::own_ports::OwnPorts;
use super::weakened::weakened;
use super::worker::Connections;
use crate::admin::OwnPort;
use crate::preflight::{Certificate, CertificateOwner};
use pillion_base::limits::{Limit, NO_LIMIT};
use pillion_base::net::own::OwnListeners;
use pillion_sidecar::state::actions::PeersRateLimit;
use pillion_sidecar::state::authorization::Authorization;
use pillion_sidecar::state::authorizer::Authorizer;
use pillion_sidecar::state::tokens::Keys;
use pillion_sidecar::state::{
    Application, Clusters, Destinations, DnsNames, Former, InboundSide, Outside, PreviousSnapshot, Sides,
    Store, VirtualAddresses, compile,
};
use pillion_sidecar::traces::Traces;
use pillion_telemetry::{CertificateUse, Metrics};
use pillion_tls::client::ClientTls;
use pillion_tls::identity::credentials::Credentials;
use pillion_tls::identity::watch::{Outcome, Rotating};
use pillion_tls::identity::{Validity, date, expires_soon, is_due};
use pillion_tls::material::{Material, Place, Refreshed};
use pillion_tls::outside::OutsideServer;
use pillion_tls::server::Server;
use pillion_upstream::cluster::alike::Policies;
use pillion_upstream::cluster::update::written;
use pillion_upstream::cluster::{Cluster, ClusterContext, PreviousCluster};

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
    /// The last warning about the expiry of the sidecar's own certificate.
    warned_of: Option<Expiry>,
    /// The same for the certificates of services and ports, by the place of the configuration that names them.
    warned_of_others: Vec<(Place, Expiry)>,
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
            warned_of: None,
            warned_of_others: Vec::new(),
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

    /// Applies a configuration with the identity that it names.
    fn put_read(&mut self, config: &Arc<Config>, material: Material) -> anyhow::Result<()> {
        let same_identity = match (&config.identity, &self.config.identity) {
            (Some(next), Some(now)) => next.reads_the_same_as(now),
            (next, now) => next == now,
        };
        if self.generation > 0 && same_identity {
            return self.put(config, self.identity.clone(), material);
        }
        let (identity, rotating) = match &config.identity {
            Some(Source::Files(files)) => {
                own::at_start(files).map(|(identity, rotating)| (identity, Some(rotating)))?
            }
            Some(Source::WorkloadApi(api)) => (self.until_issued(api)?, None),
            None => (Identity::None, None),
        };
        if let (Identity::Awaited(why), true) = (&identity, self.generation > 0) {
            anyhow::bail!("identity: {why}"); // the current state stays in use
        }
        self.put(config, identity, material)?;
        self.rotating = rotating;
        self.refuses_answer = false;
        Ok(())
    }

    /// The identity until the Workload API has issued one: the one in use, so that a reload can go over from files.
    ///
    /// # Errors
    /// There is none in use, and the sidecar serves without one. It would refuse everything until an answer comes.
    fn until_issued(&self, api: &WorkloadApi) -> anyhow::Result<Identity> {
        match &self.identity {
            Identity::None if self.generation > 0 => anyhow::bail!(
                "identity.workload_api: the sidecar has no identity so far, and cannot wait for one while it serves; that \
                 takes a restart"
            ),
            Identity::None | Identity::Awaited(_) => {
                Ok(Identity::Awaited(format!("the Workload API at {api} has not answered yet").into()))
            }
            known @ Identity::Known(_) => Ok(known.clone()),
        }
    }

    /// Applies the same configuration with other credentials.
    ///
    /// # Errors
    /// The credentials cannot be used. In that case nothing has changed.
    pub fn rotate(&mut self, credentials: Credentials) -> anyhow::Result<()> {
        let had_lists = self.credentials().is_some_and(|own| !own.revocations.is_empty());
        if had_lists && credentials.revocations.is_empty() {
            tracing::warn!(
                "the revocation list was removed: peers with revoked certificates are accepted again"
            );
        }
        let renamed = self.credentials().and_then(|own| renamed(&own.id, &credentials.id));
        let (config, material) = (self.config.clone(), self.material.clone());
        self.put(&config, Identity::Known(Arc::new(credentials)), material)?;
        if let Some(renamed) = renamed {
            tracing::warn!("{renamed}");
        }
        Ok(())
    }

    /// Checks the files of the identity and applies changes. Returns whether there were any.
    ///
    /// # Errors
    /// The files cannot be used; this is reported once for each content. In that case nothing has changed.
    pub fn look_at_identity(&mut self, now: SystemTime) -> anyhow::Result<bool> {
        match self.rotating.as_mut().map(|rotating| rotating.look(now)) {
            None | Some(Outcome::Same) => Ok(false),
            Some(Outcome::Refused(why)) => Err(why.into()),
            Some(Outcome::Swapped(credentials)) => {
                let put = self.rotate(*credentials);
                if let (Err(_), Some(rotating)) = (&put, &mut self.rotating) {
                    // the cause is outside these files
                    rotating.put_back(now);
                }
                put.map(|()| true)
            }
        }
    }

    /// Checks the files of services' TLS and applies changes. Returns whether there were any, and why others cannot be
    /// used; each content is refused once, and the content in use stays.
    pub fn look_at_material(&mut self, now: SystemTime) -> (bool, Vec<anyhow::Error>) {
        let Refreshed { next, refused } = self.material.refresh(now);
        let mut refused: Vec<_> = refused.into_iter().map(anyhow::Error::from).collect();
        let Some(next) = next else { return (false, refused) };
        let (config, identity) = (self.config.clone(), self.identity.clone());
        match self.put(&config, identity, next.clone()) {
            Ok(()) => (true, refused),
            Err(why) => {
                self.material.refuse(&next);
                refused.push(why);
                (false, refused)
            }
        }
    }

    /// Our own certificate in DER.
    #[cfg(test)]
    pub(crate) fn own_certificate(&self) -> Option<Vec<u8>> {
        self.credentials().and_then(|own| own.chain().first()).map(|certificate| certificate.to_vec())
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

    /// Notes why there are still no certificates.
    pub(super) fn still_awaits(&mut self, why: &str) {
        if let Identity::Awaited(said) = &mut self.identity {
            *said = why.into();
        }
    }

    /// Notes whether the last answer of a Workload API was refused.
    pub(super) const fn note_answer(&mut self, is_refused: bool) {
        self.refuses_answer = is_refused;
    }

    /// Whether the last answer of a Workload API was refused, or the files of the identity or of services hold content
    /// that was.
    pub(super) fn refuses_certificates(&self) -> bool {
        self.refuses_answer
            || self.rotating.as_ref().is_some_and(Rotating::is_refused)
            || self.material.is_refused()
    }

    /// Warns once for each certificate that should have been replaced by a newer one, again when it expires soon, and again
    /// when it is no longer valid.
    pub(super) fn warn_of_expiry(&mut self, now: SystemTime) {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        self.warn_of_others(now);
        let Identity::Known(credentials) = &self.identity else { return };
        let expiry =
            Expiry::of(credentials.validity(), now).filter(|expiry| self.warned_of.as_ref() != Some(expiry));
        match &expiry {
            None => return,
            Some(Expiry::Due(not_after)) => {
                let ends = date(*not_after);
                tracing::warn!(
                    ends,
                    "less than a third of the lifetime of the sidecar's own certificate is left, and no newer one has \
                     been found"
                );
            }
            Some(Expiry::Near(not_after)) => {
                let ends = date(*not_after);
                tracing::warn!(
                    ends,
                    "the sidecar's own certificate expires soon, and no newer one has been found"
                );
            }
            Some(Expiry::Invalid(_, why)) => tracing::warn!("not ready: {why}; peers refuse it"),
        }
        self.warned_of = expiry;
    }

    /// The same warnings for the certificates of services.
    fn warn_of_others(&mut self, now: i64) {
        let expires = |(place, validity): (&Place, _)| Some((place.clone(), Expiry::of(validity, now)?));
        let next: Vec<(Place, Expiry)> = self.material.validities().filter_map(expires).collect();
        for (place, expiry) in &next {
            if self.warned_of_others.iter().any(|(known, of)| (known, of) == (place, expiry)) {
                continue;
            }
            match expiry {
                Expiry::Due(ends) | Expiry::Near(ends) => {
                    let ends = date(*ends);
                    tracing::warn!(%place, ends, "a certificate expires, and no newer one has been found");
                }
                Expiry::Invalid(_, why) => tracing::warn!(%place, "{why}; peers may refuse it"),
            }
        }
        self.warned_of_others = next;
    }

    /// Why there are no certificates yet.
    pub fn awaits(&self) -> Option<Arc<str>> {
        match &self.identity {
            Identity::Awaited(why) => Some(why.clone()),
            Identity::None | Identity::Known(_) => None,
        }
    }

    pub(super) fn credentials(&self) -> Option<&Credentials> {
        self.identity.credentials()
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

    /// Clusters that no change concerns. They stay the same objects.
    fn kept(&self, config: &Config, material: &Material, same_identity: bool) -> Clusters {
        if !same_identity || self.config.tls != config.tls {
            return Clusters::new();
        }
        let known = by_name(&self.config);
        let is_same = |of: &&ClusterConfig| {
            known.get(of.name.as_str()) == Some(of) && material.is_same_for(&of.tls, &self.material)
        };
        let same = config.clusters.iter().filter(is_same);
        same.filter_map(|of| Some((of.name.clone(), self.clusters.get(&of.name)?.clone()))).collect()
    }

    /// The kept clusters, and new ones for all others, which take over state from their predecessors.
    fn clusters(
        &mut self,
        config: &Config,
        mut kept: Clusters,
        mut tls: HashMap<String, Option<ClientTls>>,
        material: &Material,
    ) -> Clusters {
        let known = by_name(&self.config);
        let (Around { common, .. }, policies) = (&self.around, &mut self.policies);
        for of in &config.clusters {
            if kept.contains_key(&of.name) {
                continue;
            }
            let before = known.get(of.name.as_str()).zip(self.clusters.get(&of.name));
            let has_other_files = !material.is_same_for(&of.tls, &self.material);
            let before = before.map(|(of, cluster)| PreviousCluster { of, cluster, has_other_files });
            let (said, tls) = (written(of), tls.remove(&of.name).flatten());
            let cluster = Cluster::service(of, said, tls, before, policies, common);
            kept.insert(of.name.clone(), cluster);
        }
        kept
    }

    /// Passes the state of these clusters to the clusters that replace them.
    fn leave(&self, former: &Clusters) {
        for (name, cluster) in former {
            match self.clusters.get(name) {
                Some(same) if Arc::ptr_eq(same, cluster) => {}
                Some(next) => cluster.leave_for(Some(next)),
                None => {
                    cluster.leave_for(None);
                    cluster.note_removed();
                }
            }
        }
    }

    /// Applies news of a service's endpoints. Only that cluster is changed.
    pub(crate) fn learn(&self, update: EndpointUpdate) {
        if let Some(cluster) = self.clusters.get(&*update.cluster) {
            cluster.update(update);
        }
    }

    fn inbound_side(
        &self,
        inbound: Option<&Inbound>,
        (tls, outside, keys): (Option<Arc<Server>>, Outside, Option<Arc<Keys>>),
        credentials: Option<&Credentials>,
        max_connection_age: Option<Duration>,
    ) -> Option<Arc<InboundSide>> {
        let inbound = inbound?;
        let Around { connections, requests, .. } = &self.around;
        connections.inbound.set_max(inbound.max_connections.unwrap_or_else(|| descriptors() / 2));
        requests.set_max(inbound.max_requests.unwrap_or(NO_LIMIT));
        Some(Arc::new(InboundSide {
            policy: inbound.clone(),
            tls,
            outside,
            own_id: credentials.map(|credentials| credentials.id.as_str().into()),
            max_connection_age,
            rate_limit: inbound.rate_limit.map(|of| self.rate_limit(of)),
            authorization: inbound.authorization.as_ref().map(|of| self.authorization(of, keys)),
        }))
    }

    /// The TLS servers for clients outside the mesh, by port. One that no change concerns stays the same, with its
    /// sessions.
    fn outside(&self, config: &Config, material: &Material) -> anyhow::Result<Outside> {
        let before = |port: u16, protocol: AppProtocol, tls: &PortTls| {
            let is_same = self.config.tls == config.tls
                && credentialed::ports(&self.config).any(|known| known == (port, protocol, tls))
                && material.is_same_for_port(tls, &self.material);
            let known = self.inbound.as_ref().filter(|_| is_same)?.outside.get(&port);
            known.cloned()
        };
        let server = |(port, protocol, tls): (u16, AppProtocol, &PortTls)| {
            let server = match before(port, protocol, tls) {
                Some(known) => known,
                None => {
                    let clients = (&tls.clients, material.clients(tls).map(|bundle| &**bundle));
                    let is_http = protocol != AppProtocol::Tcp;
                    OutsideServer::new(&material.pairs(tls), clients, &config.tls, is_http)
                        .with_context(|| format!("inbound.ports.{port}.tls"))?
                }
            };
            Ok((port, server))
        };
        credentialed::ports(config).map(server).collect()
    }

    /// The compiled rules of the former configuration while they are unchanged.
    fn authorization(&self, of: &Rules, keys: Option<Arc<Keys>>) -> Arc<Authorization> {
        let before = self.inbound.as_ref().and_then(|side| side.authorization.as_ref());
        let known = before.filter(|before| before.of == *of).cloned();
        known.unwrap_or_else(|| {
            Arc::new(Authorization::new(of, keys, self.authorizer(of), &self.around.metrics))
        })
    }

    /// The external authorizer: the one in use, with its connections, while its settings are the same.
    fn authorizer(&self, of: &Rules) -> Option<Arc<Authorizer>> {
        let of = of.ext_authz.as_ref()?;
        let before = self.inbound.as_ref().and_then(|side| side.authorization.as_ref()?.authorizer.clone());
        let known = before.filter(|before| before.of == *of);
        Some(known.unwrap_or_else(|| new_authorizer(of, &self.around.common)))
    }

    /// Waits until there are keys for tokens, if any are needed, but at most for `patience`.
    pub(super) async fn first_keys(&self, patience: Duration) {
        let rules = self.inbound.as_ref().and_then(|side| side.authorization.as_ref());
        if let Some(tokens) = rules.and_then(|rules| rules.tokens.as_ref()) {
            tokens.keys.first(patience).await;
        }
    }

    /// The keys for tokens: those in use while their source is the same.
    fn keys(&self, config: &Config) -> anyhow::Result<Option<Arc<Keys>>> {
        let rules = config.inbound.as_ref().and_then(|inbound| inbound.authorization.as_ref());
        let now = self.inbound.as_ref().and_then(|side| side.authorization.as_ref());
        jwks::keys(rules, now.and_then(|now| now.tokens.as_ref()).map(|tokens| &tokens.keys))
    }

    /// The rate limit of the former configuration while its rule is unchanged, so that a reload fills no bucket.
    fn rate_limit(&self, of: RateLimit) -> Arc<PeersRateLimit> {
        let before = self.inbound.as_ref().filter(|side| side.policy.rate_limit == Some(of));
        let known = before.and_then(|side| side.rate_limit.clone());
        known.unwrap_or_else(|| Arc::new(PeersRateLimit::new(of, Instant::now().into_std())))
    }

    fn applications(&self, inbound: Option<&Inbound>) -> Destinations<Application> {
        applications(inbound, &self.around.requests, &self.around.common)
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
        let before = PreviousSnapshot {
            services: &now.services,
            budgets: &now.budgets,
            rate_limits: &now.rate_limits,
            mirrors: &now.mirrors,
        };
        let next = compile(
            self.generation,
            &self.config,
            &self.clusters,
            sides,
            before,
            &mut self.policies,
            metrics,
        );
        drop(now);
        change.use_now(); // the uses of listeners change right after the snapshot that they refer to
        let former = store.swap(next);
        self.former.keep(former);
        metrics.config_generation().set(i64::try_from(self.generation).unwrap_or(i64::MAX));
    }

    /// The certificates of services, as the page `/certs` shows them.
    pub(super) fn other_certificates(&self) -> Vec<serde_json::Value> {
        self.material.to_json()
    }

    /// The certificates in use, and until when they are valid.
    pub(super) fn certificates(&self) -> Vec<Certificate> {
        let of = |(place, validity): (&Place, _)| Certificate {
            of: CertificateOwner::Other(place.to_string()),
            validity,
        };
        let own = self.credentials().map(Certificate::of_identity).unwrap_or_default();
        own.into_iter().chain(self.material.validities().map(of)).collect()
    }

    fn publish_expiry(&self) {
        let metrics = &self.around.metrics;
        for of in [CertificateUse::Service, CertificateUse::Port] {
            let all = self.material.validities().filter(|(place, _)| used_as(place) == of);
            metrics.set_certificate_not_after(of, all.map(|(_, validity)| validity.not_after).min());
        }
        let own = self.credentials();
        metrics.set_certificate_not_after(CertificateUse::Own, own.map(|own| own.not_after));
        let authorities = own.into_iter().flat_map(Credentials::all_cas);
        let ends = authorities.filter_map(|ca| pillion_tls::identity::not_after(ca).ok());
        metrics.set_certificate_not_after(CertificateUse::Ca, ends.min());
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

const fn used_as(place: &Place) -> CertificateUse {
    match place {
        Place::Service(_) => CertificateUse::Service,
        Place::Port(_) => CertificateUse::Port,
    }
}

fn by_name(config: &Config) -> HashMap<&str, &ClusterConfig> {
    config.clusters.iter().map(|of| (of.name.as_str(), of)).collect()
}

/// What a warning about a certificate says, with the certificate's last second.
#[derive(Debug, PartialEq, Eq)]
enum Expiry {
    /// A newer certificate is due.
    Due(i64),
    /// It expires soon.
    Near(i64),
    /// It is not valid, for the given reason.
    Invalid(i64, String),
}

impl Expiry {
    fn of(certificate: Validity, now: i64) -> Option<Self> {
        let Validity { not_before, not_after } = certificate;
        match certificate.why_not(now) {
            Some(why) => Some(Self::Invalid(not_after, why)),
            None if expires_soon(not_before, not_after, now) => Some(Self::Near(not_after)),
            None => is_due(not_before, not_after, now).then_some(Self::Due(not_after)),
        }
    }
}

/// A configuration that serves nothing.
fn nothing() -> Config {
    Config { identity: None, inbound: None, outbound: None, clusters: Vec::new(), ..Config::default() }
}

/// The external authorizer with a cluster of its own.
pub(super) fn new_authorizer(of: &ExtAuthz, common: &ClusterContext) -> Arc<Authorizer> {
    let cluster = of.cluster();
    let said = written(&cluster);
    let cluster = Cluster::service(&cluster, said, None, None, &mut Policies::default(), common);
    Authorizer::new(of, cluster, &common.metrics)
}

/// The application's clusters for all its addresses, with one common `max_requests`.
pub(super) fn applications(
    inbound: Option<&Inbound>,
    requests: &Arc<Limit>,
    common: &ClusterContext,
) -> Destinations<Application> {
    let (inbound, requests, common) = (inbound.cloned(), requests.clone(), common.clone());
    Destinations::new(move |of: Application| match &inbound {
        Some(inbound) => Cluster::application(inbound, of.address, of.leg, &requests, &common),
        None => Cluster::passthrough(of.address, &common), // not used, because there is no inbound side
    })
}

/// The limit of open files, less those that the sidecar itself uses.
pub(super) fn descriptors() -> u32 {
    const OWN: u32 = 64;
    const USUAL: u32 = 1024;
    pillion_telemetry::process::max_descriptors().unwrap_or(USUAL).saturating_sub(OWN).max(OWN)
}

/// A sentence for an identity that replaces another one, as one of a workload that was registered anew may.
fn renamed(before: &SpiffeId, now: &SpiffeId) -> Option<String> {
    let what = "peers that name the former one refuse this sidecar";
    (before != now).then(|| format!("the sidecar's identity is {now} now, and was {before}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_sentence_for_another_identity_and_none_for_the_same() {
        let id = |name: &str| format!("spiffe://cluster.local/ns/shop/sa/{name}").parse::<SpiffeId>();
        let (web, shop) = (id("web").expect("an ID"), id("shop").expect("an ID"));
        assert_eq!(renamed(&web, &web), None);
        let told = renamed(&web, &shop).unwrap_or_default();
        assert!(told.contains("sa/shop now, and was spiffe://cluster.local/ns/shop/sa/web"), "{told}");
    }

    #[test]
    fn c3_there_is_a_warning_when_the_own_certificate_expires_soon_and_when_it_has_expired() {
        let of = |now| Expiry::of(Validity { not_before: 0, not_after: 1000 }, now);
        assert_eq!(of(700), None);
        assert_eq!(of(720), Some(Expiry::Due(1000)));
        assert_eq!(of(800), Some(Expiry::Near(1000)));
        assert!(matches!(of(1001), Some(Expiry::Invalid(1000, why)) if why.contains("expired at")));
        assert!(matches!(of(-1), Some(Expiry::Invalid(1000, why)) if why.contains("is valid only from")));
    }
}
