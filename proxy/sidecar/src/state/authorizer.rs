//! The external authorizer: its cluster, and what its checks came to.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pillion_base::error::Error;
use pillion_model::authorization::{Action, ExtAuthz};
use pillion_telemetry::family::IntCounter;
use pillion_telemetry::{CheckOutcome, Metrics};
use pillion_upstream::cluster::Cluster;
use tokio::time::Instant;

use super::Route;

pub struct Authorizer {
    pub of: ExtAuthz,
    pub route: Arc<Route>,
    counters: Box<[IntCounter]>,
    outage: Mutex<Outage>,
}

/// 10 s without a failure end an outage. One that fails and answers in turn writes few lines.
const QUIET: Duration = Duration::from_secs(10);

/// A time in which checks fail, so that the log says when it begins and when it ends.
#[derive(Default)]
struct Outage {
    last_failure: Option<Instant>,
}

impl Outage {
    /// Returns whether the outage begins.
    fn failed(&mut self, now: Instant) -> bool {
        self.last_failure.replace(now).is_none()
    }

    /// Returns whether the outage has ended.
    fn answered(&mut self, now: Instant) -> bool {
        self.last_failure.take_if(|last| now.saturating_duration_since(*last) >= QUIET).is_some()
    }
}

impl Authorizer {
    pub fn new(of: &ExtAuthz, cluster: Arc<Cluster>, metrics: &Metrics) -> Arc<Self> {
        let counters = CheckOutcome::ALL.iter().map(|outcome| metrics.checks(*outcome)).collect();
        Arc::new(Self { of: of.clone(), route: Route::to(cluster), counters, outage: Mutex::default() })
    }

    pub fn count(&self, outcome: CheckOutcome) {
        if let Some(counter) = self.counters.get(outcome as usize) {
            counter.inc();
        }
    }

    /// Logs the first failure of an outage.
    pub fn failed(&self, why: &Error, now: Instant) {
        if self.outage.lock().failed(now) {
            let of = &self.of;
            let outcome =
                if of.on_error == Action::Allow { "allowed unless a limit is reached" } else { "denied" };
            tracing::warn!(
                "the external authorizer at {} fails, and requests are {outcome} (ext_authz.on_error): {why}",
                of.service
            );
        }
    }

    /// Logs that an outage has ended.
    pub fn answered(&self, now: Instant) {
        if self.outage.lock().answered(now) {
            tracing::warn!("the external authorizer at {} answers again", self.of.service);
        }
    }
}

/// Idle connections to an authorizer that is not asked any more are closed.
impl Drop for Authorizer {
    fn drop(&mut self) {
        self.route.cluster.leave_for(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_logged_when_it_begins_and_when_it_ends() {
        let (mut outage, start) = (Outage::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!outage.answered(at(0)));
        assert!(outage.failed(at(1)));
        assert!(
            !outage.failed(at(2)) && !outage.answered(at(3)) && !outage.failed(at(4)),
            "one in three fails"
        );
        assert!(!outage.answered(at(13)));
        assert!(outage.answered(at(14)));
        assert!(!outage.answered(at(15)));
        assert!(outage.failed(at(16)), "another one");
    }
}
