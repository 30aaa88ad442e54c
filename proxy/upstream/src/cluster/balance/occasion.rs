//! Says when a figure about all endpoints is computed anew.
//!
//! A figure that needs a look at every endpoint is too dear for each pick among thousands. It is computed anew once in
//! so many picks that a pick looks at [`LOOKS`] endpoints on average; up to so many endpoints, at each pick.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// 16: as many endpoints as most services have, so that their figures are always those of the moment.
const LOOKS: usize = 16;

#[derive(Debug)]
pub(super) struct Occasion {
    every: u32,
    count: AtomicU32,
}

impl Occasion {
    pub(super) fn among(endpoints: usize) -> Self {
        let every = u32::try_from(endpoints.div_ceil(LOOKS)).unwrap_or(u32::MAX).max(1);
        Self { every, count: AtomicU32::new(0) }
    }

    /// Counts a use of the figure. Returns whether it is computed anew for this use; the first time it is.
    pub(super) fn is_due(&self) -> bool {
        self.every == 1 || self.count.fetch_add(1, Relaxed).is_multiple_of(self.every)
    }
}
