//! The traffic to the application while an operator records a policy (`pillion policy record`).
//!
//! While nobody records, nothing is kept, and a request costs one relaxed load. A recording ends with its client: it is
//! kept for [`LEASE`] after the last call, so that a client that has gone leaves nothing behind.
//!
//! Deliberately absent: how a request is read (`layers::route::observe`), and which rules are made of it (the command).

mod traffic;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use traffic::{FromPeer, LeftOut, Method, Path, Traffic};

/// The time from one call of the client to the next. The command calls every two seconds.
pub const LEASE: Duration = Duration::from_secs(30);

/// The switch of the recording, and what it has found.
#[derive(Default)]
pub struct Observation {
    is_on: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The number of recordings that were begun.
    begun: u64,
    current: Option<Recording>,
}

struct Recording {
    id: u64,
    until: Instant,
    traffic: Traffic,
}

/// Another client records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("another `pillion policy record` is recording; it ends at most {} s after its last call", LEASE.as_secs())]
pub struct Taken;

impl Observation {
    pub fn is_on(&self) -> bool {
        self.is_on.load(Relaxed)
    }

    /// Begins a recording, and returns its number.
    ///
    /// # Errors
    /// There is one already.
    pub fn begin(&self, now: Instant) -> Result<u64, Taken> {
        let mut state = self.state.lock();
        self.drop_if_late(&mut state, now);
        if state.current.is_some() {
            return Err(Taken);
        }
        state.begun += 1;
        let id = state.begun;
        state.current = Some(Recording { id, until: now + LEASE, traffic: Traffic::default() });
        self.is_on.store(true, Relaxed);
        tracing::info!(recording = id, "recording the traffic to the application for a policy");
        Ok(id)
    }

    /// Lets `read` look at what the recording has found, and keeps it for [`LEASE`] from now. `None`: there is no such
    /// recording, or not any more.
    pub fn read<T>(&self, id: u64, now: Instant, read: impl FnOnce(&Traffic) -> T) -> Option<T> {
        let mut state = self.state.lock();
        self.drop_if_late(&mut state, now);
        let recording = state.current.as_mut().filter(|recording| recording.id == id)?;
        recording.until = now + LEASE;
        Some(read(&recording.traffic))
    }

    pub fn end(&self, id: u64) {
        let mut state = self.state.lock();
        if state.current.as_ref().is_some_and(|recording| recording.id == id) {
            self.drop_recording(&mut state);
        }
    }

    /// Ends a recording whose client has gone.
    pub fn expire(&self, now: Instant) {
        if self.is_on() {
            self.drop_if_late(&mut self.state.lock(), now);
        }
    }

    /// Lets `note` add to what the recording has found, if there is one.
    pub fn note(&self, note: impl FnOnce(&mut Traffic)) {
        if let Some(recording) = &mut self.state.lock().current {
            note(&mut recording.traffic);
        }
    }

    fn drop_if_late(&self, state: &mut State, now: Instant) {
        if state.current.as_ref().is_some_and(|recording| recording.until < now) {
            self.drop_recording(state);
        }
    }

    fn drop_recording(&self, state: &mut State) {
        self.is_on.store(false, Relaxed);
        if let Some(Recording { id, .. }) = state.current.take() {
            tracing::info!(recording = id, "the recording for a policy has ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_recording_ends_with_its_client_and_only_one_is_under_way() {
        let (observation, start) = (Observation::default(), Instant::now());
        assert!(!observation.is_on());
        let id = observation.begin(start).expect("the first");
        assert!(observation.is_on());
        assert_eq!(observation.begin(start + LEASE), Err(Taken));
        assert_eq!(observation.read(id + 1, start, |_| ()), None, "another recording");
        assert_eq!(observation.read(id, start + LEASE, |_| ()), Some(()));
        observation.expire(start + 2 * LEASE);
        assert!(observation.is_on(), "the call has prolonged it");
        observation.expire(start + 2 * LEASE + SECOND);
        assert!(!observation.is_on());
        assert_eq!(observation.read(id, start + 2 * LEASE + SECOND, |_| ()), None);
        let next = observation.begin(start + 3 * LEASE).expect("the former one has ended");
        observation.end(id);
        assert!(observation.is_on(), "the end of a former one changes nothing");
        observation.end(next);
        assert!(!observation.is_on());
    }
}
