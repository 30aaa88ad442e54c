//! Holds the files of a catalog that has ended, because of a reload or a fault, for the next one.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::time::Instant;

use crate::checkpoint::Kept;

/// A file of a catalog that has ended.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) kept: Kept,
    pub(super) file: Option<File>,
    pub(super) closed_at: PathBuf,
    pub(super) closed_modified: Option<SystemTime>,
    pub(super) lost_size: u64,
    pub(super) grown_at: Instant,
    pub(super) is_present: bool,
}

/// The files of a catalog that has ended, open as they were, for the next one: what was deleted or renamed could not be opened
/// again by its path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf(Arc<Mutex<Vec<Held>>>);

impl Shelf {
    pub(super) fn put(&self, files: Vec<Held>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(files);
    }

    pub(super) fn take(&self) -> Vec<Held> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Closes the files: nothing is shipped any more, or another process has gone on with them.
    pub(crate) fn clear(&self) {
        self.take();
    }
}
