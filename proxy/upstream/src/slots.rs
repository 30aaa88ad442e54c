//! Places for open connections: of a cluster (`max_connections`), and of each of its endpoints
//! (`max_connections_per_endpoint`).
//!
//! A place is taken before a connection is dialled and given back when it has ended. HTTP waits for one, in turn; an
//! opaque connection is refused at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// So many places.
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

    /// Places taken.
    pub fn used(&self) -> u32 {
        let free = u32::try_from(self.free.available_permits()).unwrap_or(u32::MAX);
        self.max.saturating_sub(free)
    }

    pub fn is_full(&self) -> bool {
        self.free.available_permits() == 0
    }

    /// `None`: all are taken.
    pub fn try_take(&self) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_owned().ok()
    }

    /// Waits for one; meanwhile it counts among `waiting`.
    pub async fn take(&self, waiting: &Waiting) -> Result<OwnedSemaphorePermit, AcquireError> {
        let _counted = waiting.count();
        self.free.clone().acquire_owned().await
    }
}

/// How many wait for a place: whoever gives a connection back then closes it instead of keeping it.
#[derive(Debug, Default)]
pub struct Waiting(AtomicU32);

impl Waiting {
    pub fn is_somebody(&self) -> bool {
        self.0.load(Relaxed) > 0
    }

    fn count(&self) -> InLine<'_> {
        self.0.fetch_add(1, Relaxed);
        InLine(self)
    }
}

/// One who waits; it counts until it is dropped, also where it gives up.
struct InLine<'a>(&'a Waiting);

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// A place for one connection: among those of its cluster, and of its endpoint where that has a limit of its own.
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
