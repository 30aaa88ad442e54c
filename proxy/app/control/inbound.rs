//! The inbound side of a configuration. What no change concerns stays as it is.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pillion_model::Config;
use pillion_model::authorization::{Authorization as Rules, ExtAuthz};
use pillion_model::listener::{AppProtocol, Inbound, PortTls};
use pillion_model::route::RateLimit;
use tokio::time::Instant;

use super::{Around, Controller};
use crate::app::{credentialed, jwks};
use pillion_base::limits::{Limit, NO_LIMIT};
use pillion_sidecar::state::actions::PeersRateLimit;
use pillion_sidecar::state::authorization::Authorization;
use pillion_sidecar::state::authorizer::Authorizer;
use pillion_sidecar::state::tokens::Keys;
use pillion_sidecar::state::{Application, Destinations, InboundSide, Outside};
use pillion_tls::identity::credentials::Credentials;
use pillion_tls::material::Material;
use pillion_tls::outside::OutsideServer;
use pillion_tls::server::Server;
use pillion_upstream::cluster::alike::Policies;
use pillion_upstream::cluster::update::written;
use pillion_upstream::cluster::{Cluster, ClusterContext};

impl Controller {
    pub(super) fn inbound_side(
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
    pub(super) fn outside(&self, config: &Config, material: &Material) -> anyhow::Result<Outside> {
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

    pub(super) fn applications(&self, inbound: Option<&Inbound>) -> Destinations<Application> {
        applications(inbound, &self.around.requests, &self.around.common)
    }

    /// The keys for tokens: those in use while their source is the same.
    pub(super) fn keys(&self, config: &Config) -> anyhow::Result<Option<Arc<Keys>>> {
        let rules = config.inbound.as_ref().and_then(|inbound| inbound.authorization.as_ref());
        let now = self.inbound.as_ref().and_then(|side| side.authorization.as_ref());
        jwks::keys(rules, now.and_then(|now| now.tokens.as_ref()).map(|tokens| &tokens.keys))
    }

    /// Waits until there are keys for tokens, if any are needed, but at most for `patience`.
    pub(in crate::app) async fn first_keys(&self, patience: Duration) {
        let rules = self.inbound.as_ref().and_then(|side| side.authorization.as_ref());
        if let Some(tokens) = rules.and_then(|rules| rules.tokens.as_ref()) {
            tokens.keys.first(patience).await;
        }
    }

    /// The rate limit of the former configuration while its rule is unchanged, so that a reload fills no bucket.
    fn rate_limit(&self, of: RateLimit) -> Arc<PeersRateLimit> {
        let before = self.inbound.as_ref().filter(|side| side.policy.rate_limit == Some(of));
        let known = before.and_then(|side| side.rate_limit.clone());
        known.unwrap_or_else(|| Arc::new(PeersRateLimit::new(of, Instant::now().into_std())))
    }
}

/// The external authorizer with a cluster of its own.
pub(in crate::app) fn new_authorizer(of: &ExtAuthz, common: &ClusterContext) -> Arc<Authorizer> {
    let cluster = of.cluster();
    let said = written(&cluster);
    let cluster = Cluster::service(&cluster, said, None, None, &mut Policies::default(), common);
    Authorizer::new(of, cluster, &common.metrics)
}

/// The application's clusters for all its addresses, with one common `max_requests`.
pub(in crate::app) fn applications(
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
pub(in crate::app) fn descriptors() -> u32 {
    const OWN: u32 = 64;
    const USUAL: u32 = 1024;
    pillion_telemetry::process::max_descriptors().unwrap_or(USUAL).saturating_sub(OWN).max(OWN)
}
