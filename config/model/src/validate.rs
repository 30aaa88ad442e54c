//! Faults that no single value shows: keys that contradict each other, names that do not exist, listeners that collide.
//!
//! Every source of configuration calls [`validate`]. A value that is wrong by itself does not arrive here: the types of
//! the model cannot hold it, or the source has refused it.

mod actions;
mod authorization;
mod claims;
mod cluster;
mod covered;
mod dns;
mod federation;
mod limits;
mod listener;
mod logs;
mod merge;
mod policy;
mod probes;
mod routes;
mod sockets;
mod sync;
mod tracing;

pub use actions::{Side, reserved};

use crate::fault::Faults;
use crate::path::Trail;
use crate::{Cluster, Config};

/// All faults of a whole configuration. The time is proportional to the size of the configuration.
pub fn validate(config: &Config) -> Faults {
    let mut faults = Faults::default();
    let root = Trail::root();
    let services = root.key("services");
    for cluster in &config.clusters {
        cluster::validate(cluster, config.identity.is_some(), &services.key(&cluster.name), &mut faults);
    }
    routes::validate(config, &root.key("routes"), &mut faults);
    listener::validate(config, &mut faults);
    if let Some(dns) = &config.dns {
        dns::validate(dns, &root.key("dns"), &mut faults);
    }
    limits::drain(&config.drain, &root.key("drain"), &mut faults);
    limits::downstream(&config.limits, &root.key("limits"), &mut faults);
    if let Some(explain) = &config.explain {
        limits::explain(explain, &root.key("explain"), &mut faults);
    }
    if let Some(tracing) = &config.tracing {
        tracing::validate(tracing, &root.key("tracing"), &mut faults);
    }
    sync::validate(&config.sync, &root.key("sync"), &mut faults);
    if let Some(of) = &config.logs {
        logs::validate(of, &root.key("logs"), &mut faults);
    }
    sockets::refuse_shared(config, &mut faults);
    sockets::warn_of_own_endpoints(config, &mut faults);
    federation::refuse_without_bundle(config, &mut faults);
    claims::refuse_shared(&config.clusters, &mut faults);
    probes::validate(config, &mut faults);
    warn_of_idle_sides(config, &mut faults);
    warn_of_idle_zones(config, &mut faults);
    faults
}

/// The faults of one cluster by itself, with paths that begin at the cluster. This serves sources that change one
/// cluster at a time, and sources whose defaults apply to all clusters. `has_identity` says whether this workload has a
/// certificate to present.
pub fn validate_cluster(cluster: &Cluster, has_identity: bool) -> Faults {
    let mut faults = Faults::default();
    cluster::validate(cluster, has_identity, &Trail::root(), &mut faults);
    faults
}

/// Zones of endpoints mean nothing to a sidecar that does not know its own zone.
fn warn_of_idle_zones(config: &Config, faults: &mut Faults) {
    let root = Trail::root();
    let (services, workload) = (root.key("services"), root.key("workload"));
    let has_zones = |cluster: &&Cluster| cluster.endpoints.iter().any(|endpoint| endpoint.zone.is_some());
    let unknown = config.workload.zone.is_none();
    for cluster in config.clusters.iter().filter(|_| unknown).filter(has_zones) {
        let service = services.key(&cluster.name);
        faults
            .warn(
                &service.key("endpoints"),
                "has zones, which change nothing without the zone of this sidecar",
            )
            .help("workload: { zone: a }")
            .depends_on(&workload.key("zone"));
    }
}

fn warn_of_idle_sides(config: &Config, faults: &mut Faults) {
    let root = Trail::root();
    if config.inbound.is_none()
        && config.outbound.is_none()
        && config.clusters.iter().all(|cluster| cluster.listen.is_empty())
        && config.sync.is_empty()
    {
        if config.logs.is_none() {
            faults.warn(&root.key("outbound"), "is off, as inbound is: this sidecar has nothing to do");
        }
        return;
    }
    let services = root.key("services");
    for cluster in config.clusters.iter().filter(|c| config.outbound.is_none() && c.listen.is_empty()) {
        faults.warn(
            &services.key(&cluster.name),
            "cannot be reached: outbound is off and it has no `listen` of its own",
        );
    }
}
