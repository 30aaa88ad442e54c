//! Keeps snapshots that were replaced until they are not read any more.
//!
//! The thread that drops the last reference to a snapshot frees all its tables, which takes milliseconds with thousands
//! of services. No thread of the data path may do this, so the thread that swaps snapshots keeps each old one until it
//! has the only reference.

use std::sync::Arc;

use super::Snapshot;

/// Readers hold a snapshot only for one lookup, so there are seldom more than two former ones.
#[derive(Default)]
pub struct Former(Vec<Arc<Snapshot>>);

impl Former {
    pub fn keep(&mut self, snapshot: Arc<Snapshot>) {
        self.0.push(snapshot);
        self.free();
    }

    /// Frees the snapshots that have no other reference. A former snapshot cannot get a new reader, so the check is
    /// safe.
    pub fn free(&mut self) {
        self.0.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }
}
