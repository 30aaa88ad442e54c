//! Routes to addresses that only connections name. They are kept while they are used, and for a while after.
//!
//! Clients choose these addresses, so their number is bounded by [`MOST`]. At the limit, unused ones are dropped; when
//! all are in use, a further route belongs to one connection alone and shares no pool with others.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Route;
use pillion_upstream::cluster::Cluster;

/// 1024 destinations of about 2 KiB each: more than most applications use at once.
const MOST: usize = 1024;
/// 60 s: how long a destination, with what was learned of it, is kept after its last connection.
const KEPT: Duration = Duration::from_secs(60);

type Make<K> = dyn Fn(K) -> Arc<Cluster> + Send + Sync;

/// Destinations by the key `K`: an address, with what else separates connections to it.
pub struct Destinations<K> {
    known: Mutex<HashMap<K, UsedRoute>>,
    make: Box<Make<K>>,
}

struct UsedRoute {
    route: Arc<Route>,
    last_used: Instant,
}

impl<K: Copy + Eq + Hash> Destinations<K> {
    pub fn new(make: impl Fn(K) -> Arc<Cluster> + Send + Sync + 'static) -> Self {
        Self { known: Mutex::default(), make: Box::new(make) }
    }

    pub fn route(&self, to: K) -> Arc<Route> {
        let now = Instant::now();
        let mut known = self.known.lock();
        if let Some(known) = known.get_mut(&to) {
            known.last_used = now;
            return known.route.clone();
        }
        let route = Route::to((self.make)(to));
        if known.len() >= MOST {
            known.retain(|_, known| known.is_used());
        }
        if known.len() < MOST {
            known.insert(to, UsedRoute { route: route.clone(), last_used: now });
        }
        route
    }

    /// Closes the pools of these destinations, because others replace them.
    pub fn leave(&self) {
        self.known.lock().values().for_each(|known| known.route.cluster.leave_for(None));
    }

    /// Drops destinations that were not used for [`KEPT`].
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut known = self.known.lock();
        known.retain(|_, known| known.is_used() || now.duration_since(known.last_used) < KEPT);
    }
}

impl UsedRoute {
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.route) > 1
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use pillion_telemetry::Metrics;
    use pillion_upstream::cluster::ClusterContext;

    fn destinations() -> Destinations<SocketAddr> {
        let common = ClusterContext::new(&Metrics::new(100), 1);
        Destinations::new(move |to| Cluster::passthrough(to, &common))
    }

    fn nth(port: usize) -> SocketAddr {
        ([10, 0, (port >> 8) as u8, port as u8], 80).into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_destination_is_remembered_while_it_is_used_and_a_minute_longer() {
        let destinations = destinations();
        let route = destinations.route(nth(1));
        tokio::time::advance(Duration::from_secs(300)).await;
        destinations.sweep();
        assert!(Arc::ptr_eq(&route, &destinations.route(nth(1))));
        drop(route);
        tokio::time::advance(Duration::from_secs(61)).await;
        destinations.sweep();
        assert!(destinations.known.lock().is_empty());
    }

    #[tokio::test]
    async fn the_number_of_remembered_destinations_is_bounded_whether_they_are_used_or_not() {
        let destinations = destinations();
        let used: Vec<_> = (0..MOST + 10).map(|port| destinations.route(nth(port))).collect();
        assert_eq!(destinations.known.lock().len(), MOST);
        drop(used);
        let last = destinations.route(nth(5000));
        assert!(Arc::ptr_eq(&last, &destinations.route(nth(5000))));
        assert_eq!(destinations.known.lock().len(), 1);
    }
}
