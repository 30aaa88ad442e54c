//! Inbound connections whose client has not proven its identity. When there is no place for another connection, they
//! are closed first: the one that has waited longest is closed to admit a new one. So many unauthenticated clients
//! cannot keep the peers of the mesh out.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::limits::Permit;

/// Connections that are closed when no descriptor is left: a new connection takes one descriptor, and one more towards
/// the application.
const CLOSED_AT_ONCE: usize = 2;
/// The wait until a closed connection has freed its descriptor, on whichever worker it was.
const ROOM_AFTER: Duration = Duration::from_millis(1);

/// The unproven connections of all workers. They count against one limit, which also bounds their number here.
#[derive(Default)]
pub struct Strangers {
    waiting: Mutex<Waiting>,
    guests: AtomicU32,
}

#[derive(Default)]
struct Waiting {
    last_id: u64,
    /// The oldest come first.
    held: BTreeMap<u64, Held>,
}

struct Held {
    permit: Permit,
    closes: oneshot::Sender<()>,
}

/// The place of one unproven connection. Dropping it frees the place.
pub struct Stranger {
    id: u64,
    of: Arc<Strangers>,
    /// Taken by the code that serves the connection.
    closed: Option<oneshot::Receiver<()>>,
}

/// The place of a client that is admitted without an identity. Beside a mesh, all of them together may have half of the
/// places, so that the other half stays for its peers.
pub struct Guest {
    of: Arc<Strangers>,
    _permit: Permit,
}

/// Why a client without an identity is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unadmitted {
    /// Its place was given away a moment before.
    GivenAway,
    /// Such clients have half of all places already.
    HalfIsTaken,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.of.guests.fetch_sub(1, Relaxed);
    }
}

impl Strangers {
    pub fn admit(self: &Arc<Self>, permit: Permit) -> Stranger {
        let (closes, closed) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        waiting.last_id += 1;
        let id = waiting.last_id;
        waiting.held.insert(id, Held { permit, closes });
        Stranger { id, of: self.clone(), closed: Some(closed) }
    }

    /// Closes the connection that has waited longest, and returns its permit. `None` when there is none.
    pub fn close_oldest(&self) -> Option<Permit> {
        let (_, Held { permit, closes }) = self.waiting.lock().held.pop_first()?;
        // A connection whose receiver is dropped is about to end anyway.
        let _told: Result<(), ()> = closes.send(());
        Some(permit)
    }

    /// Frees descriptors for a connection that found none, and waits until they are free. `false` when there is no
    /// connection to close.
    pub async fn free_descriptors(&self) -> bool {
        let closed = (0..CLOSED_AT_ONCE).filter_map(|_| self.close_oldest()).count();
        if closed > 0 {
            tokio::time::sleep(ROOM_AFTER).await;
        }
        closed > 0
    }

    fn leave(&self, id: u64) -> Option<Permit> {
        self.waiting.lock().held.remove(&id).map(|held| held.permit)
    }
}

impl Stranger {
    /// The client has proven its identity: returns the permit. `None` when the place was given away a moment before.
    pub fn proven(self) -> Option<Permit> {
        self.of.leave(self.id)
    }

    /// Admits the client without an identity. It counts among such clients in any case, since a sidecar may get its own
    /// identity later. `is_beside_mesh`: they may have half of all places now.
    ///
    /// # Errors
    /// Why it is not admitted. Its place is given back.
    pub fn admitted(self, is_beside_mesh: bool) -> Result<Guest, Unadmitted> {
        let of = self.of.clone();
        let permit = of.leave(self.id).ok_or(Unadmitted::GivenAway)?;
        let most = if is_beside_mesh { (permit.max() / 2).max(1) } else { u32::MAX };
        let taken = of.guests.fetch_update(Relaxed, Relaxed, |guests| (guests < most).then(|| guests + 1));
        match taken {
            Ok(_) => Ok(Guest { of, _permit: permit }),
            Err(_) => Err(Unadmitted::HalfIsTaken),
        }
    }

    /// A future that returns when the place is given away, and never otherwise.
    pub fn must_leave(&mut self) -> impl Future<Output = ()> + use<> {
        let closed = self.closed.take();
        async move {
            let is_told = match closed {
                Some(closed) => closed.await.is_ok(),
                None => false,
            };
            if !is_told {
                pending().await
            }
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        drop(self.of.leave(self.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limit;

    #[tokio::test]
    async fn a5_clients_that_are_admitted_without_an_identity_have_half_of_the_places_at_most() {
        let (limit, strangers) = (Limit::new("max_connections", 5), Arc::<Strangers>::default());
        let stranger = || strangers.admit(limit.try_acquire().expect("a free place"));
        let admit = || stranger().admitted(true);
        let (first, second) = (admit(), admit());
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(admit().err(), Some(Unadmitted::HalfIsTaken));
        assert_eq!(limit.used(), 2, "the refused one has given its place back");
        drop(first);
        let third = admit();
        assert!(third.is_ok() && strangers.close_oldest().is_none(), "an admitted client stays");
        let late = stranger();
        drop(strangers.close_oldest());
        assert_eq!(late.admitted(true).err(), Some(Unadmitted::GivenAway));
        drop((second, third));
        assert_eq!((limit.used(), strangers.guests.load(Relaxed)), (0, 0));
    }

    #[tokio::test]
    async fn a5_clients_without_an_identity_count_also_before_the_sidecar_is_in_a_mesh() {
        let (limit, strangers) = (Limit::new("max_connections", 4), Arc::<Strangers>::default());
        let admit = |is_beside_mesh| {
            strangers.admit(limit.try_acquire().expect("a free place")).admitted(is_beside_mesh)
        };
        let before = [(); 3].map(|()| admit(false));
        assert!(before.iter().all(Result::is_ok), "no peer of a mesh needs the other half");
        assert_eq!(admit(true).err(), Some(Unadmitted::HalfIsTaken));
        drop(before);
        assert!(admit(true).is_ok());
    }

    #[tokio::test]
    async fn a5_the_unproven_connection_that_waited_longest_is_closed_first_and_gives_its_permit_away() {
        let (limit, strangers) = (Limit::new("max_connections", 3), Arc::<Strangers>::default());
        let admit = || strangers.admit(limit.try_acquire().expect("a free place"));
        let (mut first, mut second, third) = (admit(), admit(), admit());
        let leaves = (first.must_leave(), second.must_leave());
        drop(third);
        let permit = strangers.close_oldest().expect("a stranger");
        leaves.0.await;
        assert!(first.proven().is_none(), "its place was given away");
        let kept = second.proven().expect("its place was kept");
        assert!(strangers.close_oldest().is_none(), "a proven connection stays");
        assert_eq!(limit.used(), 2);
        drop((permit, kept));
        assert_eq!(limit.used(), 0);
    }
}
