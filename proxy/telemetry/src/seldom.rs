//! Bounds how often a frequent event is logged: the first one at once, then one every ten seconds with the number of
//! events that were left out. So a peer that causes the event cannot fill the log.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Often enough to show that the event continues, and seldom enough for any log.
const EVERY: Duration = Duration::from_secs(10);

/// One kind of log line.
pub struct Seldom(Mutex<Last>);

struct Last {
    written: Option<Instant>,
    left_out: u64,
}

impl Default for Seldom {
    fn default() -> Self {
        Self::new()
    }
}

impl Seldom {
    pub const fn new() -> Self {
        Self(Mutex::new(Last { written: None, left_out: 0 }))
    }

    /// Whether to write a line now; and then, how many events were left out since the last line.
    pub fn due(&self, now: Instant) -> Option<u64> {
        let mut last = self.0.lock();
        if last.written.is_some_and(|written| now.saturating_duration_since(written) < EVERY) {
            last.left_out += 1;
            return None;
        }
        last.written = Some(now);
        Some(std::mem::take(&mut last.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c8_the_first_line_is_written_at_once_and_then_one_in_ten_seconds_with_a_count() {
        let (line, start) = (Seldom::new(), Instant::now());
        let due = |seconds| line.due(start + Duration::from_secs(seconds));
        assert_eq!([0, 0, 9, 10, 11, 25].map(due), [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
