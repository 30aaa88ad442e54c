//! The endpoints that have, or once had, connections: the only ones whose pools are worth looking through for idle
//! connections, however many endpoints are known.
//!
//! An endpoint that no cluster has any more stays here while a stream or a kept connection still holds it. Nobody new
//! comes to it: what lies idle in its pool is closed, and whoever waits there is woken as elsewhere.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::endpoint::Endpoint;

/// As many as there are endpoints alive that were used, and those that ended since the last sweep.
#[derive(Default)]
pub struct Pools(Mutex<Vec<Weak<Endpoint>>>);

impl Pools {
    /// Once for each endpoint, before its first connection.
    pub fn add(&self, endpoint: &Arc<Endpoint>) {
        self.0.lock().push(Arc::downgrade(endpoint));
    }

    #[cfg(any(test, feature = "testing"))]
    pub fn count(&self) -> usize {
        self.0.lock().len()
    }

    /// Closes what was idle for too long, and forgets endpoints that nobody holds any more.
    pub fn sweep(&self) {
        // Taken out meanwhile: who needs a first connection does not wait for the sweep.
        let mut known = std::mem::take(&mut *self.0.lock());
        known.retain(|endpoint| match endpoint.upgrade() {
            None => false,
            Some(endpoint) => {
                endpoint.sweep();
                true
            }
        });
        let mut added = self.0.lock();
        known.append(&mut added);
        known.shrink_to(2 * known.len());
        *added = known;
    }
}
