//! The endpoints that have or had connections. Only their pools are searched for idle connections, however many
//! endpoints are known.
//!
//! A removed endpoint stays in this list while a stream or a kept connection still uses it. It gets no new request.
//! Idle connections in its pool are closed, and tasks that wait there are woken as in other pools.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::endpoint::Endpoint;

/// At most the used endpoints that still exist, and those that were dropped since the last sweep.
#[derive(Default)]
pub struct Pools(Mutex<Vec<Weak<Endpoint>>>);

impl Pools {
    /// Adds an endpoint. Called once for each endpoint, before its first connection.
    pub fn add(&self, endpoint: &Arc<Endpoint>) {
        self.0.lock().push(Arc::downgrade(endpoint));
    }

    #[cfg(any(test, feature = "testing"))]
    pub fn count(&self) -> usize {
        self.0.lock().len()
    }

    /// Closes every connection that no request uses. Returns how many there were.
    pub fn close_idle(&self) -> usize {
        let known: Vec<_> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        known.iter().map(|endpoint| endpoint.close_idle()).sum()
    }

    /// Closes connections that were idle for too long, and forgets endpoints that were dropped.
    pub fn sweep(&self) {
        // The list is taken out, so that an endpoint's first connection does not wait for the sweep.
        let mut known = std::mem::take(&mut *self.0.lock());
        let now = Instant::now();
        known.retain(|endpoint| match endpoint.upgrade() {
            None => false,
            Some(endpoint) => {
                endpoint.sweep(now);
                true
            }
        });
        let mut added = self.0.lock();
        known.append(&mut added);
        known.shrink_to(2 * known.len());
        *added = known;
    }
}
