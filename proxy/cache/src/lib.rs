//! A shared cache of HTTP answers in memory, as RFC 9111 describes it.
//!
//! What a cache may store, and when it may use what it has stored, are pure functions of facts: [`AnswerFacts`] is what
//! the head of an answer says, [`Asked`] is what a request asks of caches, and [`Clock`] is the time. [`Cache`] keeps
//! answers within a bound of bytes, and lets one request lead where many equal ones wait ([`flight`]). The layer that
//! sends requests, and serves what is stored, is `pillion_sidecar::layers::cache`.
//!
//! Deliberately absent: sockets, files, tasks, and partial answers (206), which are never stored.
//!
//! Modules are listed from top to bottom; each uses only those below it.

pub mod cache;
pub mod flight;
pub mod shelf;
pub mod journal;
pub mod verdict;
pub mod stored;
pub mod content;
pub mod origin;
pub mod key;
pub mod status;
pub mod conditional;
pub mod range;
pub mod answer;
pub mod asked;
pub mod vary;
pub mod directives;

pub use answer::AnswerFacts;
pub use asked::Asked;
pub use cache::Cache;
pub use key::KeyRef;
pub use stored::Stored;

use std::time::{Instant, SystemTime};

/// The time of a decision. Ages are measured by the monotonic clock; the dates in fields are compared with the wall
/// clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    pub at: Instant,
    /// Seconds since 1970.
    pub wall: u64,
}

impl Clock {
    pub fn new(at: Instant, wall: SystemTime) -> Self {
        Self { at, wall: seconds(wall) }
    }
}

/// Seconds since 1970; 0 for times before.
fn seconds(of: SystemTime) -> u64 {
    of.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
