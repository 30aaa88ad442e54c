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

pub use traffic::{FromPeer, LeftOut, MOST_BYTES, Method, Path, Traffic};

/// The time from one call of the client to the next. The command calls every two seconds.
pub const LEASE: Duration = Duration::from_secs(30);

/// The switch of the recording, and what it has found. `T` is another type only in tests.
///
/// Requests wait for the lock, so it is held for no more than a request adds, for paths that become one pattern, or for a copy
/// of what was found: at most [`MOST_BYTES`], which takes about a millisecond. A page is written, and a recording is freed,
/// without it.
#[derive(Default)]
pub struct Observation<T = Traffic> {
    is_on: AtomicBool,
    state: Mutex<State<T>>,
}

#[derive(Default)]
struct State<T> {
    /// The number of recordings that were begun.
    begun: u64,
    current: Option<Recording<T>>,
}

struct Recording<T> {
    id: u64,
    until: Instant,
    traffic: T,
}

/// Another client records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("another `pillion policy record` is recording; it ends at most {} s after its last call", LEASE.as_secs())]
pub struct Taken;

impl<T: Clone + Default> Observation<T> {
    pub fn is_on(&self) -> bool {
        self.is_on.load(Relaxed)
    }

    /// Begins a recording, and returns its number.
    ///
    /// # Errors
    /// There is one already.
    pub fn begin(&self, now: Instant) -> Result<u64, Taken> {
        self.change(now, |state| {
            if state.current.is_some() {
                return Err(Taken);
            }
            state.begun += 1;
            let id = state.begun;
            state.current = Some(Recording { id, until: now + LEASE, traffic: T::default() });
            self.is_on.store(true, Relaxed);
            tracing::info!(recording = id, "recording the traffic to the application for a policy");
            Ok(id)
        })
    }

    /// Returns a copy of what the recording has found, and keeps the recording for [`LEASE`] from now. `None`: there is no
    /// such recording, or not any more.
    pub fn read(&self, id: u64, now: Instant) -> Option<T> {
        self.change(now, |state| {
            let recording = state.current.as_mut().filter(|recording| recording.id == id)?;
            recording.until = now + LEASE;
            Some(recording.traffic.clone())
        })
    }

    pub fn end(&self, id: u64) {
        let ended = self.take(&mut self.state.lock(), |recording| recording.id == id);
        drop(ended);
    }

    /// Ends a recording whose client has gone.
    pub fn expire(&self, now: Instant) {
        if self.is_on() {
            self.change(now, |_| ());
        }
    }

    /// Lets `note` add to what the recording has found, if there is one.
    pub fn note(&self, note: impl FnOnce(&mut T)) {
        if let Some(recording) = &mut self.state.lock().current {
            note(&mut recording.traffic);
        }
    }

    /// Changes the state after a recording has ended whose client has gone.
    fn change<R>(&self, now: Instant, change: impl FnOnce(&mut State<T>) -> R) -> R {
        let mut state = self.state.lock();
        let late = self.take(&mut state, |recording| recording.until < now);
        let result = change(&mut state);
        drop(state);
        drop(late);
        result
    }

    /// Ends the recording if it is the one that `ends`. The caller frees it after it has let go of the lock.
    fn take(&self, state: &mut State<T>, ends: impl FnOnce(&Recording<T>) -> bool) -> Option<Recording<T>> {
        let ended = state.current.take_if(|recording| ends(recording))?;
        self.is_on.store(false, Relaxed);
        tracing::info!(recording = ended.id, "the recording for a policy has ended");
        Some(ended)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_recording_ends_with_its_client_and_only_one_is_under_way() {
        let (observation, start) = (Observation::<u8>::default(), Instant::now());
        assert!(!observation.is_on());
        let id = observation.begin(start).expect("the first");
        assert!(observation.is_on());
        assert_eq!(observation.begin(start + LEASE), Err(Taken));
        assert_eq!(observation.read(id + 1, start), None, "another recording");
        observation.note(|found| *found += 1);
        assert_eq!(observation.read(id, start + LEASE), Some(1));
        observation.expire(start + 2 * LEASE);
        assert!(observation.is_on(), "the call has prolonged it");
        observation.expire(start + 2 * LEASE + SECOND);
        assert!(!observation.is_on());
        assert_eq!(observation.read(id, start + 2 * LEASE + SECOND), None);
        let next = observation.begin(start + 3 * LEASE).expect("the former one has ended");
        observation.end(id);
        assert!(observation.is_on(), "the end of a former one changes nothing");
        observation.end(next);
        assert!(!observation.is_on());
    }

    static PROBED: LazyLock<Observation<Probe>> = LazyLock::new(Observation::default);

    /// Counts how often it is freed, and whether a request could take the lock meanwhile.
    #[derive(Clone, Default)]
    struct Probe;

    static FREED: AtomicUsize = AtomicUsize::new(0);
    static FREED_UNDER_LOCK: AtomicUsize = AtomicUsize::new(0);

    impl Drop for Probe {
        fn drop(&mut self) {
            FREED.fetch_add(1, Relaxed);
            if PROBED.state.try_lock().is_none() {
                FREED_UNDER_LOCK.fetch_add(1, Relaxed);
            }
        }
    }

    #[test]
    fn a_recording_is_looked_at_and_freed_without_the_lock_that_requests_wait_for() {
        let mut now = Instant::now();
        let id = PROBED.begin(now).expect("no other");
        let found = PROBED.read(id, now).expect("a recording");
        PROBED.note(|_| ()); // a request does not wait until the page is written
        drop(found);
        assert_eq!(FREED.swap(0, Relaxed), 1);
        PROBED.end(id);
        assert_eq!(FREED.swap(0, Relaxed), 1);
        for end in [
            (|now| PROBED.expire(now)) as fn(Instant),
            |now| drop(PROBED.read(0, now)),
            |now| drop(PROBED.begin(now)),
        ] {
            PROBED.begin(now).expect("no other");
            now += 2 * LEASE;
            end(now);
            assert_eq!(FREED.swap(0, Relaxed), 1);
        }
        assert_eq!(FREED_UNDER_LOCK.load(Relaxed), 0);
    }
}
