//! Places for open connections of a cluster (`max_connections`), and of each of its endpoints
//! (`max_connections_per_endpoint`).
//!
//! A place is taken before a connection is dialled, and given back when the connection has ended. HTTP requests wait
//! for a place in order of arrival; an opaque connection is refused at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// A fixed number of places.
pub struct Slots {
    free: Arc<Semaphore>,
    max: u32,
}

impl Slots {
    pub fn new(max: u32) -> Arc<Self> {
        Arc::new(Self { free: Arc::new(Semaphore::new(max as usize)), max })
    }

    pub fn max(&self) -> u32 {
        self.max
    }

    /// The number of places that are taken.
    pub fn used(&self) -> u32 {
        let free = u32::try_from(self.free.available_permits()).unwrap_or(u32::MAX);
        self.max.saturating_sub(free)
    }

    pub fn is_full(&self) -> bool {
        self.free.available_permits() == 0
    }

    /// `None` when all places are taken.
    pub fn try_take(&self) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_owned().ok()
    }

    /// Waits for a place. Meanwhile the caller counts in `waiting`.
    pub async fn take(&self, waiting: &Waiting) -> Result<OwnedSemaphorePermit, AcquireError> {
        let _counted = waiting.count();
        self.free.clone().acquire_owned().await
    }
}

/// The number of tasks that wait for a place. While there are any, a connection that is given back is closed instead of
/// kept.
#[derive(Debug, Default)]
pub struct Waiting(AtomicU32);

impl Waiting {
    pub fn has_waiter(&self) -> bool {
        self.0.load(Relaxed) > 0
    }

    fn count(&self) -> InLine<'_> {
        self.0.fetch_add(1, Relaxed);
        InLine(self)
    }
}

/// One waiting task. It counts until this is dropped, also when the task gives up.
struct InLine<'a>(&'a Waiting);

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// The place of one connection: one of its cluster's, and one of its endpoint's if the endpoint has a limit of its own.
#[derive(Debug)]
pub struct Slot {
    _of_cluster: OwnedSemaphorePermit,
    _of_endpoint: Option<OwnedSemaphorePermit>,
}

impl Slot {
    pub fn new(of_cluster: OwnedSemaphorePermit, of_endpoint: Option<OwnedSemaphorePermit>) -> Self {
        Self { _of_cluster: of_cluster, _of_endpoint: of_endpoint }
    }
}
