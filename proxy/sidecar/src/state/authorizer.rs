//! The external authorizer: its cluster, and what its checks came to.

use std::sync::Arc;

use pillion_model::authorization::ExtAuthz;
use pillion_telemetry::family::IntCounter;
use pillion_telemetry::{CheckOutcome, Metrics};
use pillion_upstream::cluster::Cluster;

use super::Route;

pub struct Authorizer {
    pub of: ExtAuthz,
    pub route: Arc<Route>,
    counters: Box<[IntCounter]>,
}

impl Authorizer {
    pub fn new(of: &ExtAuthz, cluster: Arc<Cluster>, metrics: &Metrics) -> Arc<Self> {
        let counters = CheckOutcome::ALL.iter().map(|outcome| metrics.checks(*outcome)).collect();
        Arc::new(Self { of: of.clone(), route: Route::to(cluster), counters })
    }

    pub fn count(&self, outcome: CheckOutcome) {
        if let Some(counter) = self.counters.get(outcome as usize) {
            counter.inc();
        }
    }
}

/// Idle connections to an authorizer that is not asked any more are closed.
impl Drop for Authorizer {
    fn drop(&mut self) {
        self.route.cluster.leave_for(None);
    }
}
