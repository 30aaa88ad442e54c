//! Whether the sidecar wants traffic, and what it waits for if it does not.

use parking_lot::Mutex;

/// Asked by probes alone: a lock will do.
#[derive(Debug, Default)]
pub(crate) struct Readiness(Mutex<State>);

/// All that holds at once; the gravest is told.
#[derive(Debug, Default)]
struct State {
    is_started: bool,
    is_draining: bool,
    waiting_for: Option<String>,
}

impl Readiness {
    /// Everything that is bound is served.
    pub(crate) fn set_ready(&self) {
        self.0.lock().is_started = true;
    }

    /// From now on, whatever else happens.
    pub(crate) fn set_draining(&self) {
        self.0.lock().is_draining = true;
    }

    /// Not ready until [`Self::stop_waiting`]: `certificates: certs/tls.crt does not exist`.
    pub(crate) fn set_waiting(&self, what: impl Into<String>) {
        self.0.lock().waiting_for = Some(what.into());
    }

    pub(crate) fn stop_waiting(&self) {
        self.0.lock().waiting_for = None;
    }

    /// `None`: ready.
    pub(crate) fn why_not(&self) -> Option<String> {
        let state = self.0.lock();
        match &*state {
            State { is_draining: true, .. } => Some("draining".into()),
            State { waiting_for: Some(what), .. } => Some(format!("waiting for {what}")),
            State { is_started: false, .. } => Some("starting".into()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_reason_is_told_and_none_is_forgotten() {
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
