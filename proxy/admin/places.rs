//! The connections of one kind of port: how many there may be, and which one must close for a new one.
//!
//! A new connection is never refused, because it may be the kubelet's while other clients use up the places.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::sync::oneshot;

pub(super) struct Places {
    most: usize,
    last_id: AtomicU64,
    /// In the order in which they were accepted.
    taken: Mutex<Vec<Taken>>,
}

struct Taken {
    id: u64,
    from: IpAddr,
    /// When it is dropped, the connection closes.
    _stay: oneshot::Sender<()>,
}

/// The place of one connection. It is free again when this is dropped.
pub(super) struct AdminPlace {
    id: u64,
    of: Arc<Places>,
    must_leave: oneshot::Receiver<()>,
}

impl Places {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, last_id: AtomicU64::new(0), taken: Mutex::default() })
    }

    /// Gives a place to a new connection. If none is free, an older connection loses its place.
    pub(super) fn take(self: &Arc<Self>, from: IpAddr) -> AdminPlace {
        let id = self.last_id.fetch_add(1, Relaxed);
        let (stay, must_leave) = oneshot::channel();
        let mut taken = self.taken.lock();
        if taken.len() >= self.most
            && let Some(at) = connection_to_close(taken.iter().map(|taken| taken.from))
        {
            let leaving = taken.remove(at);
            tracing::debug!(from = %leaving.from, limit = self.most, "connection closed: a newer one takes its place");
        }
        taken.push(Taken { id, from, _stay: stay });
        AdminPlace { id, of: self.clone(), must_leave }
    }
}

impl AdminPlace {
    /// Returns when a newer connection has taken the place.
    pub(super) async fn must_leave(&mut self) {
        // the sender sends nothing; it is dropped when the place is given away
        drop((&mut self.must_leave).await);
    }
}

impl Drop for AdminPlace {
    fn drop(&mut self) {
        self.of.taken.lock().retain(|taken| taken.id != self.id);
    }
}

/// The connection that must close, as an index into `open`, which has the oldest first: the oldest connection of the
/// address with the most connections. So many connections from one address replace each other, and not the only
/// connection of the kubelet or of Prometheus.
fn connection_to_close(open: impl Iterator<Item = IpAddr> + Clone) -> Option<usize> {
    let count = |of: IpAddr| open.clone().filter(|from| *from == of).count();
    // `max_by_key` returns the last of equal items, but the oldest is wanted
    open.clone().enumerate().max_by_key(|(at, from)| (count(*from), usize::MAX - at)).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(open: &[u8]) -> Option<usize> {
        connection_to_close(open.iter().map(|last| IpAddr::from([10, 0, 0, *last])))
    }

    #[test]
    fn a2_the_oldest_connection_of_the_address_with_the_most_leaves() {
        assert_eq!(leaves(&[]), None);
        assert_eq!(leaves(&[1, 1, 1]), Some(0));
        assert_eq!(leaves(&[1, 2, 2, 3]), Some(1));
        assert_eq!(leaves(&[1, 2, 3]), Some(0));
        assert_eq!(leaves(&[1, 2, 3, 3, 2]), Some(1));
    }

    #[tokio::test]
    async fn a2_a_new_connection_gets_a_place_and_an_old_one_must_close() {
        let (places, from) = (Places::new(2), IpAddr::from([10, 0, 0, 1]));
        let (mut first, second) = (places.take(from), places.take(from));
        let _third = places.take(from);
        first.must_leave().await;
        drop(second);
        let mut fourth = places.take(from);
        assert_eq!(fourth.must_leave.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        assert_eq!(places.taken.lock().len(), 2);
        drop(first);
        assert_eq!(places.taken.lock().len(), 2, "a connection that must close frees no place of others");
    }
}
