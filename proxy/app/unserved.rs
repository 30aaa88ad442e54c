//! The snapshot of a configuration that no sidecar serves, to explain what it would do. It needs no file besides, no
//! address and no certificate.

use std::sync::Arc;

use pillion_base::limits::{Limit, NO_LIMIT};
use pillion_base::net::own::OwnListeners;
use pillion_model::Config;
use pillion_model::authorization::Authorization as Rules;
use pillion_sidecar::state::authorization::Authorization;
use pillion_sidecar::state::{Clusters, DnsNames, InboundSide, Sides, Snapshot, compile};
use pillion_telemetry::Metrics;
use pillion_upstream::cluster::alike::Policies;
use pillion_upstream::cluster::update::written;
use pillion_upstream::cluster::{Cluster, ClusterContext};

use super::control;

pub(crate) fn snapshot(config: &Config) -> Snapshot {
    let (metrics, mut policies) = (Metrics::new(0), Policies::default());
    let common = ClusterContext::new(&metrics, 1);
    let requests = Limit::new("inbound.max_requests", NO_LIMIT);
    let clusters: Clusters = config
        .clusters
        .iter()
        .map(|of| (of.name.clone(), Cluster::service(of, written(of), None, None, &mut policies, &common)))
        .collect();
    let inbound = config.inbound.as_ref().map(|policy| {
        let rules = |of: &Rules| {
            let authorizer = of.ext_authz.as_ref().map(|of| control::new_authorizer(of, &common));
            Arc::new(Authorization::new(of, None, authorizer, &metrics))
        };
        Arc::new(InboundSide {
            policy: policy.clone(),
            tls: None,
            outside: Default::default(),
            own_id: None,
            max_connection_age: None,
            rate_limit: None,
            authorization: policy.authorization.as_ref().map(rules),
        })
    });
    let sides = Sides {
        own: OwnListeners::default(),
        names: Arc::new(DnsNames::default()),
        inbound,
        applications: Arc::new(control::applications(config.inbound.as_ref(), &requests, &common)),
    };
    compile(0, &Arc::new(config.clone()), &clusters, sides, None, &mut policies, &metrics)
}
