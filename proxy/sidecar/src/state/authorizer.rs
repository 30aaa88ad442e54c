//! The external authorizer: its cluster, and what its checks came to.

mod circuit;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pillion_model::authorization::{Action, ExtAuthz};
use pillion_telemetry::family::IntCounter;
use pillion_telemetry::{CheckOutcome, Metrics};
use pillion_upstream::cluster::Cluster;
use tokio::time::Instant;

use super::Route;
pub use circuit::Admission;
use circuit::Circuit;

pub struct Authorizer {
    pub of: ExtAuthz,
    pub route: Arc<Route>,
    counters: Box<[IntCounter]>,
    outage: Mutex<Outage>,
    circuit: Mutex<Circuit>,
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
        let (outage, circuit) = (Mutex::default(), Mutex::default());
        Arc::new(Self { of: of.clone(), route: Route::to(cluster), counters, outage, circuit })
    }

    pub fn count(&self, outcome: CheckOutcome) {
        if let Some(counter) = self.counters.get(outcome as usize) {
            counter.inc();
        }
    }

    /// `None`: it could not be reached for a while, and is not asked now.
    pub fn admit(&self, now: Instant) -> Option<Admission> {
        // no check takes longer than its timeout, so a probe has ended by then
        self.circuit.lock().admit(now, self.of.timeout)
    }

    /// Whether it could not be reached for a while, so that it gets one check at a time, after a pause.
    pub fn is_circuit_open(&self) -> bool {
        self.circuit.lock().is_open()
    }

    /// Notes that no connection to it could be made.
    pub fn was_unreachable(&self, admission: Admission, now: Instant) {
        let pause = self.circuit.lock().was_unreachable(admission, now);
        if let (Some(pause), Admission::Usual) = (pause, admission) {
            tracing::warn!(
                "the external authorizer at {} could not be reached several times in a row: it is not asked for {pause:?}, and \
                 {} (ext_authz.on_error) meanwhile",
                self.of.service,
                self.outcome()
            );
        }
    }

    /// Notes that it was asked, whatever came of it.
    pub fn was_reached(&self) {
        self.circuit.lock().was_reached();
    }

    /// Notes that the probe ended without a result.
    pub fn probe_was_given_up(&self, now: Instant) {
        self.circuit.lock().probe_was_given_up(now);
    }

    /// Logs the first failure of an outage.
    pub fn failed(&self, why: &str, now: Instant) {
        if self.outage.lock().failed(now) {
            let (at, outcome) = (&self.of.service, self.outcome());
            tracing::warn!(
                "the external authorizer at {at} fails, and {outcome} (ext_authz.on_error): {why}"
            );
        }
    }

    /// Logs the first answer of an outage that is no verdict.
    pub fn was_unreadable(&self, why: &str, now: Instant) {
        if self.outage.lock().failed(now) {
            let at = &self.of.service;
            tracing::warn!("answers of the external authorizer at {at} are no verdict, and deny: {why}");
        }
    }

    /// Logs that an outage has ended.
    pub fn judged(&self, now: Instant) {
        if self.outage.lock().answered(now) {
            tracing::warn!("the external authorizer at {} answers again", self.of.service);
        }
    }

    /// What becomes of requests that it does not judge.
    fn outcome(&self) -> &'static str {
        if self.of.on_error == Action::Allow { "requests pass" } else { "requests are denied" }
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
