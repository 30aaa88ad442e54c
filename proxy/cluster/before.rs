//! What a cluster keeps of the one that it replaces: endpoints with their connections, standing and load, limits
//! with what they let in, the retry budget. Only what a change concerns begins anew.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use pillion_model as config;
use pillion_model::policy::{OutlierDetection, Retry};
use tokio::time::Instant;

use super::budget::Budget;
use super::endpoint::Endpoint;
use super::limits::Limit;
use super::outlier::{Ejections, Outlier};
use super::{Cluster, Limits, Slots};

/// The cluster of the same name until now.
#[derive(Clone, Copy)]
pub(crate) struct Before<'a> {
    /// What it was made of.
    pub(crate) of: &'a config::Cluster,
    pub(crate) cluster: &'a Cluster,
}

impl Before<'_> {
    /// Whether its connections are what `now` would open.
    fn connects_like(&self, now: &config::Cluster) -> bool {
        self.of.protocol == now.protocol && self.of.tls == now.tls && self.of.connection == now.connection
    }
}

pub(super) fn ejections(
    policy: &OutlierDetection,
    endpoints: usize,
    before: Option<Before<'_>>,
) -> Arc<Ejections> {
    let Some(before) = before else { return Ejections::new(policy, endpoints) };
    before.cluster.ejections.change(policy, endpoints);
    before.cluster.ejections.clone()
}

/// In the order of `wanted`. An address that is there twice has two endpoints.
pub(super) fn endpoints(
    of: &config::Cluster,
    wanted: &[config::Endpoint],
    ejections: &Arc<Ejections>,
    before: Option<Before<'_>>,
    workers: usize,
) -> Box<[Arc<Endpoint>]> {
    let mut known: HashMap<SocketAddr, Vec<Arc<Endpoint>>> = HashMap::new();
    let kept = before.filter(|before| before.connects_like(of));
    for endpoint in kept.iter().flat_map(|before| before.cluster.endpoints.iter().rev()) {
        known.entry(endpoint.address).or_default().push(endpoint.clone());
    }
    let ids = before.iter().flat_map(|before| before.cluster.endpoints.iter().map(|endpoint| endpoint.id));
    let mut id = ids.max().map_or(0, |last| last + 1); // nobody's, also among those that leave
    let epoch = Instant::now().into_std();
    let endpoint = |wanted: &config::Endpoint| {
        if let Some(endpoint) = known.get_mut(&wanted.address).and_then(Vec::pop) {
            endpoint.set_weight(wanted.weight);
            return endpoint;
        }
        let outlier = Outlier::new(ejections.clone(), epoch);
        id += 1;
        Arc::new(Endpoint::new(id - 1, wanted.address, wanted.weight, outlier, workers, epoch))
    };
    wanted.iter().map(endpoint).collect()
}

pub(super) fn budget(retry: Option<&Retry>, before: Option<Before<'_>>) -> Option<Arc<Budget>> {
    let rule = retry?.budget;
    let kept = before.filter(|before| before.of.retry.as_ref().is_some_and(|retry| retry.budget == rule));
    let kept = kept.and_then(|before| before.cluster.budget.clone());
    Some(kept.unwrap_or_else(|| Arc::new(Budget::new(&rule, Instant::now().into_std()))))
}

pub(super) fn limits(of: &config::policy::Limits, before: Option<Before<'_>>) -> Limits {
    let Some(before) = before else {
        return Limits {
            pending: Limit::new("max_pending_requests", of.max_pending_requests),
            requests: Limit::new("max_requests", of.max_requests),
            retries: Limit::new("max_retries", of.max_retries),
        };
    };
    let limits = before.cluster.limits.clone();
    limits.pending.set_max(of.max_pending_requests);
    limits.requests.set_max(of.max_requests);
    limits.retries.set_max(of.max_retries);
    limits
}

/// A changed `max_connections` counts the connections that are opened from then on.
pub(super) fn slots(max: u32, before: Option<Before<'_>>) -> Arc<Slots> {
    match before.map(|before| &before.cluster.slots) {
        Some(slots) if slots.max == max => slots.clone(),
        _ => Slots::new(max),
    }
}
