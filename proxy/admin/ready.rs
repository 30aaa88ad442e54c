//! Whether the sidecar is ready for traffic, and if not, what it waits for.

use parking_lot::Mutex;

use pillion_telemetry::companions::Board;
use pillion_tls::identity::{Validity, unix_now};

/// A lock is enough, because only probes read it.
#[derive(Default)]
pub(crate) struct Readiness {
    state: Mutex<State>,
    /// Companions that are required. One that a reload adds makes no serving sidecar unready.
    companions: Option<Board>,
}

/// Everything that applies at the moment. The most serious reason is reported.
#[derive(Debug, Default)]
struct State {
    is_started: bool,
    is_draining: bool,
    waiting_for: Option<String>,
    /// The validity of the certificate in use.
    certificate: Option<Validity>,
    /// Every required companion has worked once since the start.
    has_companions: bool,
}

impl Readiness {
    /// Of a sidecar with these companions.
    pub(crate) fn with(companions: Board) -> Self {
        Self { state: Mutex::default(), companions: Some(companions) }
    }

    /// Records that every bound address is served.
    pub(crate) fn set_ready(&self) {
        self.state.lock().is_started = true;
    }

    /// Records that the drain has begun, which is final.
    pub(crate) fn set_draining(&self) {
        self.state.lock().is_draining = true;
    }

    /// Makes the sidecar not ready until [`Self::stop_waiting`], with a reason such as `certificates: certs/tls.crt
    /// does not exist`.
    pub(crate) fn set_waiting(&self, what: impl Into<String>) {
        self.state.lock().waiting_for = Some(what.into());
    }

    pub(crate) fn stop_waiting(&self) {
        self.state.lock().waiting_for = None;
    }

    /// The validity of the certificate in use. `None`: there is none, or none is needed. Outside its validity no peer
    /// accepts it.
    pub(crate) fn set_certificate(&self, validity: Option<Validity>) {
        self.state.lock().certificate = validity;
    }

    /// `None`: the sidecar is ready.
    pub(crate) fn why_not(&self) -> Option<String> {
        self.why_not_at(unix_now())
    }

    /// `now` is in Unix seconds. It is compared at every call, because a certificate expires without any event.
    fn why_not_at(&self, now: i64) -> Option<String> {
        let mut state = self.state.lock();
        match &*state {
            State { is_draining: true, .. } => return Some("draining".into()),
            State { waiting_for: Some(what), .. } => return Some(format!("waiting for {what}")),
            State { is_started: false, .. } => return Some("starting".into()),
            _ => {}
        }
        if !state.has_companions {
            if let Some(what) = self.companions.as_ref().and_then(Board::awaited) {
                return Some(format!("waiting for {what}"));
            }
            state.has_companions = true;
        }
        state.certificate.and_then(|validity| validity.why_not(now))
    }
}

#[cfg(test)]
mod tests {
    use pillion_telemetry::Metrics;
    use pillion_telemetry::companions::CompanionKind;

    use super::*;

    #[test]
    fn c3_readiness_ends_with_the_certificate_and_comes_back_with_the_next() {
        let readiness = Readiness::default();
        readiness.set_ready();
        readiness.set_certificate(Some(Validity { not_before: 100, not_after: 200 }));
        let reason = |now| readiness.why_not_at(now).unwrap_or_default();
        assert_eq!((reason(100), reason(200)), (String::new(), String::new()));
        assert_eq!(
            reason(99),
            "the certificate in use is valid only from 1970-01-01T00:01:40Z; check this machine's clock"
        );
        assert_eq!(
            reason(201),
            "the certificate in use expired at 1970-01-01T00:03:20Z; no newer certificate was found"
        );
        readiness.set_certificate(Some(Validity { not_before: 100, not_after: 300 }));
        assert_eq!(reason(201), "");
        readiness.set_certificate(None);
        assert_eq!(reason(301), "");
    }

    #[test]
    fn a_required_companion_is_waited_for_at_the_start_alone() {
        let metrics = Metrics::new(1000);
        let readiness = Readiness::with(metrics.companions().clone());
        let settings = metrics.companions().register(CompanionKind::Sync, "settings", true);
        readiness.set_ready();
        assert_eq!(readiness.why_not().as_deref(), Some("waiting for sync.settings: starting"));
        settings.up();
        assert_eq!(readiness.why_not(), None);
        let _more = metrics.companions().register(CompanionKind::Sync, "added by a reload", true);
        assert_eq!(readiness.why_not(), None);
    }

    #[test]
    fn the_most_serious_reason_is_reported_and_the_others_are_kept() {
        let readiness = Readiness::default();
        assert_eq!(readiness.why_not().as_deref(), Some("starting"));
        readiness.set_waiting("certificates: certs/tls.crt");
        readiness.set_ready();
        assert_eq!(readiness.why_not().as_deref(), Some("waiting for certificates: certs/tls.crt"));
        readiness.stop_waiting();
        assert_eq!(readiness.why_not(), None);
        readiness.set_draining();
        readiness.set_waiting("certificates");
        readiness.set_ready();
        assert_eq!(readiness.why_not().as_deref(), Some("draining"));
        readiness.stop_waiting();
        assert_eq!(readiness.why_not().as_deref(), Some("draining"));
    }
}
