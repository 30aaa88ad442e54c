//! Endpoints that no snapshot has any more, while a stream or a kept connection still holds them.
//!
//! Nobody new comes to them: what lies idle in their pools is closed, and whoever waits there is woken as elsewhere.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::Snapshot;
use crate::cluster::Cluster;
use crate::cluster::endpoint::Endpoint;

/// As long as any of them lives, which what is under way bounds.
#[derive(Default)]
pub(crate) struct Retired(Mutex<Vec<Weak<Endpoint>>>);

impl Retired {
    /// One snapshot takes the other's place.
    pub(super) fn note(&self, before: &Snapshot, next: &Snapshot) {
        let stays: HashSet<*const Endpoint> = endpoints(next).iter().map(Arc::as_ptr).collect();
        let gone = endpoints(before).into_iter().filter(|endpoint| !stays.contains(&Arc::as_ptr(endpoint)));
        self.0.lock().extend(gone.map(|endpoint| Arc::downgrade(&endpoint)));
    }

    /// Closes what is idle, and forgets what nobody holds any more.
    pub(crate) fn sweep(&self) {
        self.0.lock().retain(|endpoint| match endpoint.upgrade() {
            None => false,
            Some(endpoint) => {
                endpoint.pool.sweep(Some(Duration::ZERO));
                true
            }
        });
    }
}

fn endpoints(snapshot: &Snapshot) -> Vec<Arc<Endpoint>> {
    let of = |cluster: &Arc<Cluster>| cluster.endpoints.to_vec();
    let application = snapshot.application.iter().flat_map(|route| of(&route.cluster));
    let services = snapshot.clusters().flat_map(of).chain(application);
    services.chain(snapshot.applications.clusters().iter().flat_map(of)).collect()
}
