//! Snapshots that were replaced, while somebody may still read them.
//!
//! Whoever lets go of a snapshot last frees all its tables, which takes milliseconds where there are thousands of
//! services. No thread of the data path may have to do that: the thread that swaps snapshots keeps the old ones until
//! nobody else has them.

use std::sync::Arc;

use super::Snapshot;

/// A reader holds a snapshot for the time of one look, so there are hardly ever more than one or two.
#[derive(Default)]
pub struct Former(Vec<Arc<Snapshot>>);

impl Former {
    pub fn keep(&mut self, snapshot: Arc<Snapshot>) {
        self.0.push(snapshot);
        self.free();
    }

    /// Nobody gets a former snapshot anew, so one that is ours alone stays so.
    pub fn free(&mut self) {
        self.0.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }
}
