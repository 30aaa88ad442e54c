//! Inbound connections whose client has not proven who it is. When no more connections fit, they are the first to go:
//! the one that has waited longest is closed to let a new one in, so that a crowd of strangers cannot keep the peers of
//! the mesh out.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::limits::Permit;

/// Strangers that are closed when no descriptor is left: a new connection takes one, and one more towards the
/// application.
const CLOSED_AT_ONCE: usize = 2;
/// Until what was closed has let go of its descriptor, on whichever worker it was.
const ROOM_AFTER: Duration = Duration::from_millis(1);

/// The strangers of all workers: they count against one limit, which also bounds how many there are here.
#[derive(Default)]
pub struct Strangers(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    last_id: u64,
    /// The oldest first.
    held: BTreeMap<u64, Held>,
}

struct Held {
    permit: Permit,
    closes: oneshot::Sender<()>,
}

/// One connection's place among them, free again when this is dropped.
pub struct Stranger {
    id: u64,
    of: Arc<Strangers>,
    /// Taken by who serves the connection.
    closed: Option<oneshot::Receiver<()>>,
}

impl Strangers {
    pub fn admit(self: &Arc<Self>, permit: Permit) -> Stranger {
        let (closes, closed) = oneshot::channel();
        let mut waiting = self.0.lock();
        waiting.last_id += 1;
        let id = waiting.last_id;
        waiting.held.insert(id, Held { permit, closes });
        Stranger { id, of: self.clone(), closed: Some(closed) }
    }

    /// Closes the one that has waited longest, and hands over its place among the connections. `None`: there is none.
    pub fn close_oldest(&self) -> Option<Permit> {
        let (_, Held { permit, closes }) = self.0.lock().held.pop_first()?;
        // Who does not listen any more is about to end anyway.
        let _told: Result<(), ()> = closes.send(());
        Some(permit)
    }

    /// Makes room for what found no descriptor, and waits until it is there. `false`: there is nobody to close.
    pub async fn free_descriptors(&self) -> bool {
        let closed = (0..CLOSED_AT_ONCE).filter_map(|_| self.close_oldest()).count();
        if closed > 0 {
            tokio::time::sleep(ROOM_AFTER).await;
        }
        closed > 0
    }

    fn leave(&self, id: u64) -> Option<Permit> {
        self.0.lock().held.remove(&id).map(|held| held.permit)
    }
}

impl Stranger {
    /// No stranger any more. `None`: its place was given away in this very moment.
    pub fn proven(self) -> Option<Permit> {
        self.of.leave(self.id)
    }

    /// What returns when its place is given away, and never otherwise.
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
    async fn a5_the_one_that_has_waited_longest_goes_first_and_hands_over_its_place() {
        let (limit, strangers) = (Limit::new("max_connections", 3), Arc::<Strangers>::default());
        let admit = || strangers.admit(limit.try_acquire().expect("a free place"));
        let (mut first, mut second, third) = (admit(), admit(), admit());
        let leaves = (first.must_leave(), second.must_leave());
        drop(third);
        let permit = strangers.close_oldest().expect("a stranger");
        leaves.0.await;
        assert!(first.proven().is_none(), "too late");
        let kept = second.proven().expect("it is there");
        assert!(strangers.close_oldest().is_none(), "who has proven it stays");
        assert_eq!(limit.used(), 2);
        drop((permit, kept));
        assert_eq!(limit.used(), 0);
    }
}
