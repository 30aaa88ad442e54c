//! What a cluster keeps of the cluster that it replaces: endpoints with their connections, standing and load, limits
//! with their permits, and the retry budget. Only what the new configuration changes starts from zero.

use std::sync::Arc;

use parking_lot::Mutex;
use pillion_model as config;
use pillion_model::EndpointUpdate;
use pillion_model::cluster::Discovery;
use pillion_model::endpoint::Problem;
use pillion_model::policy::{Adaptive, OutlierDetection, Retry};
use tokio::time::Instant;

use super::budget::Budget;
use super::gradient::Gradient;
use super::outlier::Ejections;
use super::set::{EndpointSet, Make};
use super::{Cluster, ClusterContext, ClusterLimits};
use crate::slots::Slots;
use pillion_base::limits::Limit;
use pillion_cache::Cache;
use pillion_telemetry::ServiceMetrics;

/// The cluster that had the same name until now.
#[derive(Clone, Copy)]
pub struct PreviousCluster<'a> {
    /// The configuration that the cluster was made of.
    pub of: &'a config::Cluster,
    pub cluster: &'a Cluster,
    /// The files of its TLS have other content now. A connection that was opened with the former content, such as a
    /// certificate of our own, is not used any more.
    pub has_other_files: bool,
}

impl PreviousCluster<'_> {
    /// Whether its connections are like those that `now` would open.
    fn connects_like(&self, now: &config::Cluster) -> bool {
        let is_same = self.of.protocol == now.protocol && self.of.tls == now.tls;
        is_same && !self.has_other_files && self.of.connection == now.connection
    }

    /// Whether its endpoints come from the same source as those of `now`. Another name or another port is another source.
    fn has_same_source(&self, now: &config::Cluster) -> bool {
        let (was, is) = (&self.of.discovery, &now.discovery);
        was.as_ref().zip(is.as_ref()).is_some_and(|(was, is)| was.has_same_source(is))
    }
}

pub(super) fn ejections(
    policy: Arc<OutlierDetection>,
    before: Option<PreviousCluster<'_>>,
) -> Arc<Ejections> {
    let Some(before) = before else { return Ejections::new(policy) };
    before.cluster.ejections.change(policy);
    before.cluster.ejections.clone()
}

/// The endpoints of the new cluster. `said` is what their source can report at once. Without it the previous endpoints
/// stay: those of the same source are its last report, and those of a former source serve until the new source has
/// answered.
pub(super) fn endpoints(
    of: &config::Cluster,
    said: Option<EndpointUpdate>,
    ejections: &Arc<Ejections>,
    before: Option<PreviousCluster<'_>>,
    common: &ClusterContext,
) -> EndpointSet {
    let make = Make {
        balancer: &of.load_balancer,
        zone: common.zone.as_deref(),
        slow_start: of.slow_start,
        ejections,
        max_connections: of.limits.max_connections_per_endpoint,
        is_checked: of.health_check.is_some(),
        workers: common.workers,
    };
    let set = before.map(|before| before.cluster.endpoints.load_full());
    let keeps = before.is_some_and(|before| before.connects_like(of));
    let is_same_source = before.is_some_and(|before| before.has_same_source(of));
    let said = match (said, &set) {
        (Some(said), _) => return EndpointSet::new(said, set.as_deref(), keeps, &make),
        (None, Some(set)) if is_same_source => set.said.clone(),
        (None, set) => EndpointUpdate {
            cluster: of.name.as_str().into(),
            problem: of.discovery.as_ref().map(unanswered),
            endpoints: set.as_ref().map(|set| set.said.endpoints.clone()).unwrap_or_default(),
        },
    };
    let mut next = EndpointSet::new(said, set.as_deref(), keeps, &make);
    next.is_of_former_source = match &set {
        Some(set) => !is_same_source || set.is_of_former_source,
        None => false,
    };
    next
}

/// Why there are no endpoints before a source has answered.
fn unanswered(source: &Discovery) -> Problem {
    match source {
        Discovery::Dns(_) => Problem::Dns("its name has not been resolved yet".into()),
        Discovery::Kubernetes(_) => Problem::None("the API server of Kubernetes has not answered yet".into()),
    }
}

pub(super) fn budget(retry: Option<&Retry>, before: Option<PreviousCluster<'_>>) -> Option<Arc<Budget>> {
    let rule = retry?.budget;
    let kept = before.filter(|before| before.of.retry.as_ref().is_some_and(|retry| retry.budget == rule));
    let kept = kept.and_then(|before| before.cluster.budget.clone());
    Some(kept.unwrap_or_else(|| Arc::new(Budget::new(&rule, Instant::now().into_std()))))
}

pub(super) fn limits(
    of: &config::policy::CircuitBreaker,
    before: Option<PreviousCluster<'_>>,
) -> ClusterLimits {
    let Some(before) = before else {
        return ClusterLimits {
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

/// What is stored is kept, also where the policy changes. Without a cache now it is freed, and its gauge says so.
pub(super) fn cache(
    policy: Option<config::policy::Cache>,
    before: Option<PreviousCluster<'_>>,
    metrics: &ServiceMetrics,
) -> Option<Arc<Cache>> {
    let before = before.and_then(|before| before.cluster.cache.as_ref());
    let Some(policy) = policy else {
        before.iter().for_each(|_| metrics.cache_bytes().set(0));
        return None;
    };
    match before {
        None => Some(Arc::new(Cache::new(policy))),
        Some(kept) if *kept.policy() == policy => Some(kept.clone()),
        Some(kept) => Some(Arc::new(kept.with(policy))),
    }
}

/// The adaptive limit goes on where it was. It applies to `requests` from now on.
pub(super) fn adaptive(
    of: &config::policy::CircuitBreaker,
    requests: &Limit,
    before: Option<PreviousCluster<'_>>,
) -> Option<Arc<Mutex<Gradient>>> {
    let kept = before.and_then(|before| before.cluster.adaptive.clone());
    let Some(Adaptive::Gradient) = of.adaptive else {
        if let Some(former) = kept {
            former.lock().retire();
            requests.set_max(of.max_requests); // what the former limit may have set since `limits`
        }
        return None;
    };
    let new = || Arc::new(Mutex::new(Gradient::new(of.max_requests, Instant::now().into_std())));
    let adaptive = kept.unwrap_or_else(new);
    let mut gradient = adaptive.lock();
    gradient.set_most(of.max_requests);
    requests.set_max(gradient.limit());
    drop(gradient);
    Some(adaptive)
}

/// With a changed `max_connections` only the connections that are opened from then on are counted.
pub(super) fn slots(max: u32, before: Option<PreviousCluster<'_>>) -> Arc<Slots> {
    match before.map(|before| &before.cluster.slots) {
        Some(slots) if slots.max() == max => slots.clone(),
        _ => Slots::new(max),
    }
}
