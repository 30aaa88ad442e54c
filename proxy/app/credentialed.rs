//! The parts of a configuration that can fail, apart from its addresses. They are built before anything changes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use pillion_model::cluster::{UpstreamProtocol, UpstreamTls};
use pillion_model::listener::{AppProtocol, Inbound, Mtls, PortPolicy, PortTls};
use pillion_model::{Cluster, Config, SpiffeId};

use super::own::Identity;
use pillion_sidecar::state::Clusters;
use pillion_tls::SetupError;
use pillion_tls::client::{AlpnOffer, ClientTls, Setup};
use pillion_tls::material::{Material, Unusable, Wanted};
use pillion_tls::server::Server;

/// The TLS settings that a configuration makes from an identity.
pub(super) struct Credentialed {
    /// The settings for each service that is not kept. `None`: plaintext.
    pub(super) clients: HashMap<String, Option<ClientTls>>,
    pub(super) server: Option<Arc<Server>>,
}

/// Reads the files that the services of a configuration need. This blocks on file IO.
///
/// # Errors
/// A file cannot be used.
pub(super) fn material(config: &Config, before: &Material) -> Result<Material, Unusable> {
    let mut wanted = Wanted::default();
    config.clusters.iter().for_each(|of| wanted.add_service(&of.name, &of.tls));
    ports(config).for_each(|(port, _, tls)| wanted.add_port(port, tls));
    Material::of(wanted, before, SystemTime::now())
}

/// The ports with TLS for clients outside the mesh, with their protocol.
pub(super) fn ports(config: &Config) -> impl Iterator<Item = (u16, AppProtocol, &PortTls)> {
    config.inbound.iter().flat_map(|inbound| {
        let of =
            |(port, policy): (&u16, &'_ PortPolicy)| (*port, policy.protocol.unwrap_or(inbound.protocol));
        inbound.ports.iter().filter_map(move |entry| {
            let (port, protocol) = of(entry);
            Some((port, protocol, entry.1.tls.as_ref()?))
        })
    })
}

impl Credentialed {
    /// `kept` are services that keep their current TLS settings.
    ///
    /// # Errors
    /// Certificates cannot be used, or are needed although there is no identity.
    pub(super) fn by(
        config: &Config,
        identity: &Identity,
        material: &Material,
        kept: &Clusters,
    ) -> anyhow::Result<Self> {
        let mut setup = Setup::new(identity.credentials(), material, &config.tls)?;
        let has_workload_api = config.identity.as_ref().is_some_and(|of| of.workload_api().is_some());
        let mut clients = HashMap::new();
        for cluster in config.clusters.iter().filter(|of| !kept.contains_key(&of.name)) {
            clients
                .insert(cluster.name.clone(), client_tls(cluster, identity, has_workload_api, &mut setup)?);
        }
        let server = match &config.inbound {
            Some(inbound) => server_tls(inbound, identity, config)?,
            None => None,
        };
        Ok(Self { clients, server })
    }
}

/// Refuses changes to settings that are set up only once, before the first connection.
///
/// A removed identity is refused too: a truncated file must not turn mTLS off.
pub(super) fn refuse_restart(now: &Config, next: &Config) -> anyhow::Result<()> {
    if now.identity.is_some() && next.identity.is_none() {
        anyhow::bail!("`identity` was removed, and without it everything is plaintext; that takes a restart");
    }
    let changed = [
        ("workers", now.workers != next.workers),
        ("admin", now.admin != next.admin),
        ("metrics", now.metrics != next.metrics),
        ("explain", now.explain != next.explain),
        ("access_log", now.access_log != next.access_log),
        ("workload", now.workload != next.workload),
    ];
    match changed.into_iter().find(|(_, changed)| *changed) {
        Some((key, _)) => anyhow::bail!("`{key}` has changed, which takes a restart"),
        None => Ok(()),
    }
}

fn client_tls(
    cluster: &Cluster,
    identity: &Identity,
    has_workload_api: bool,
    setup: &mut Setup<'_>,
) -> anyhow::Result<Option<ClientTls>> {
    if let (Identity::Awaited(why), UpstreamTls::Mutual { .. }) = (identity, &cluster.tls) {
        return Ok(Some(ClientTls::waiting(why)));
    }
    let offer = match cluster.protocol {
        UpstreamProtocol::Auto | UpstreamProtocol::Tcp => AlpnOffer::Auto,
        UpstreamProtocol::Http1 => AlpnOffer::Http1,
        UpstreamProtocol::Http2 => AlpnOffer::Http2,
    };
    let host = cluster.hosts.first().filter(|host| !host.wildcard).map(|host| host.name.as_str());
    match setup.client(&cluster.tls, host, offer) {
        Err(SetupError::NoBundle(id)) if has_workload_api => Ok(Some(without_bundle(cluster, &id))),
        made => made.with_context(|| format!("services.{}.tls", cluster.name)),
    }
}

/// A Workload API may bring the trust bundle later, or take it away. Only this service waits for it.
fn without_bundle(cluster: &Cluster, id: &SpiffeId) -> ClientTls {
    let domain = id.trust_domain();
    let why = format!(
        "the Workload API has issued no trust bundle of {domain}; let its server federate with {domain}"
    );
    tracing::warn!("services.{}.tls: {why}", cluster.name);
    ClientTls::waiting(&why)
}

fn server_tls(
    inbound: &Inbound,
    identity: &Identity,
    config: &Config,
) -> anyhow::Result<Option<Arc<Server>>> {
    let server = |credentials| Server::new(credentials, &config.tls);
    let tls = identity.credentials().map(server).transpose()?;
    if matches!(identity, Identity::None) && inbound.mtls != Mtls::Off {
        anyhow::bail!("inbound.mtls is not off, but there is no identity");
    }
    Ok(tls)
}
