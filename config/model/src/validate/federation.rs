//! Identities of services whose trust domain has no trust bundle.

use crate::Config;
use crate::cluster::UpstreamTls;
use crate::fault::Faults;
use crate::identity::Identity;
use crate::path::Trail;

/// Refuses them where files hold the trust bundles and the configuration names the own trust domain. Otherwise only the
/// certificate does, and the identities are checked when it is loaded. A Workload API may bring a bundle at any time.
pub(super) fn refuse_without_bundle(config: &Config, faults: &mut Faults) {
    let Some(identity) = config.identity.as_ref().and_then(Identity::files) else { return };
    let Some(own) = &identity.trust_domain else { return };
    let has_bundle = |domain: &str| domain == own || identity.federation.contains_key(domain);
    let root = Trail::root();
    let services = root.key("services");
    for cluster in &config.clusters {
        let UpstreamTls::Mutual { identities, trust_bundle: None, .. } = &cluster.tls else { continue };
        let Some(id) = identities.iter().find(|id| !has_bundle(id.trust_domain())) else { continue };
        let domain = id.trust_domain();
        faults
            .error(
                &services.key(&cluster.name).key("tls"),
                format!("names {id}, but the trust domain {domain} has no trust bundle"),
            )
            .help(format!(
                "add identity: {{ federation: {{ {domain}: FILE }} }}, or name a trust_bundle of the service's own"
            ))
            .depends_on(&root.key("identity"));
    }
}
