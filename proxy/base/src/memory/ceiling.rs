//! The memory that the process may take, as all workers see it: bounds in sum are parts of it.
//!
//! [`super::shedding`] decides what is shed above the limit. Here is what the decision means for the workers: whether new
//! connections are refused, and which connections at rest are closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::resting::Resting;

/// A bound in sum is a quarter of the memory at most, since there are four that one burst can fill: unfinished heads and
/// handshakes, requests under way of each side, and HTTP/2.
const PART: u64 = 4;
/// The value that means "no limit".
const NONE: u64 = u64::MAX;

/// Shared by all workers.
#[derive(Debug)]
pub struct Ceiling {
    /// The memory of the host, or of a cgroup.
    host: u64,
    limit: AtomicU64,
    refuses: AtomicBool,
    pub resting: Arc<Resting>,
}

impl Default for Ceiling {
    fn default() -> Self {
        Self::of_host(NONE)
    }
}

impl Ceiling {
    /// Without a limit, on a host where the process may take `bytes`.
    pub fn of_host(bytes: u64) -> Self {
        Self { host: bytes, limit: NONE.into(), refuses: false.into(), resting: Arc::default() }
    }

    /// Sets the limit from now on. `None`: there is none.
    pub fn set_limit(&self, limit: Option<u64>) {
        self.limit.store(limit.unwrap_or(NONE), Relaxed);
    }

    pub fn limit(&self) -> Option<u64> {
        Some(self.limit.load(Relaxed)).filter(|limit| *limit != NONE)
    }

    /// The bytes of which bounds in sum are parts.
    fn bytes(&self) -> u64 {
        self.limit.load(Relaxed).min(self.host)
    }

    /// A quarter of the memory, whether it has a limit or not. `usize::MAX` where nothing is known of it.
    pub fn part(&self) -> usize {
        usize::try_from(self.bytes() / PART).unwrap_or(usize::MAX)
    }

    /// A quarter of the limit. `usize::MAX` where there is none.
    pub fn part_of_limit(&self) -> usize {
        self.limit().map_or(usize::MAX, |_some| self.part())
    }

    /// Whether new connections are refused.
    pub fn refuses(&self) -> bool {
        self.refuses.load(Relaxed)
    }

    pub fn set_refuses(&self, refuses: bool) {
        self.refuses.store(refuses, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_in_sum_are_a_quarter_of_the_limit_or_of_the_host_whichever_is_less() {
        let ceiling = Ceiling::of_host(128 << 20);
        assert_eq!((ceiling.limit(), ceiling.part(), ceiling.part_of_limit()), (None, 32 << 20, usize::MAX));
        ceiling.set_limit(Some(64 << 20));
        assert_eq!((ceiling.limit(), ceiling.part()), (Some(64 << 20), 16 << 20));
        ceiling.set_limit(Some(1 << 40));
        assert_eq!((ceiling.part(), ceiling.part_of_limit()), (32 << 20, 32 << 20));
        ceiling.set_limit(None);
        assert_eq!(ceiling.limit(), None);
    }
}
