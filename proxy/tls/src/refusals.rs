//! Tells failed handshakes to people: the first of each cause at once, and then each cause once a minute at most.
//!
//! Who connects can make handshakes fail as often as it likes, so what is told must not grow with what happens. The
//! causes are few fixed words ([`TlsError::cause`]), and so are the places where they are remembered.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{TlsError, TlsErrorKind};
use pillion_model::Direction;

/// Often enough to see that it goes on, seldom enough for any log.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// For the whole process, so that workers do not tell the same each.
static TOLD: Mutex<Reported> = Mutex::new(Reported(Vec::new()));

/// Whether this one is to be told, and how many of the same cause and direction were not told since the last time.
/// A peer that merely hung up has refused nobody, and neither have we.
pub fn untold_before(direction: Direction, error: &TlsError) -> Option<u64> {
    if error.kind == TlsErrorKind::Closed {
        return None;
    }
    TOLD.lock().ask((direction, error.cause), Instant::now())
}

type Key = (Direction, &'static str);

/// What was told last. Grows up to the number of causes.
struct Reported(Vec<(Key, Last)>);

struct Last {
    told: Instant,
    untold: u64,
}

impl Reported {
    /// How many were not told before this one; `None`: neither is this one.
    fn ask(&mut self, key: Key, now: Instant) -> Option<u64> {
        let Some((_, last)) = self.0.iter_mut().find(|(known, _)| *known == key) else {
            self.0.push((key, Last { told: now, untold: 0 }));
            return Some(0);
        };
        if now.saturating_duration_since(last.told) < TELL_EVERY {
            last.untold += 1;
            return None;
        }
        last.told = now;
        Some(std::mem::take(&mut last.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Inbound, Outbound};

    #[test]
    fn c3_each_cause_of_a_failed_handshake_is_told_once_a_minute_with_the_number_of_the_others() {
        let (mut told, start) = (Reported(Vec::new()), Instant::now());
        let mut ask = |key, seconds| told.ask(key, start + Duration::from_secs(seconds));
        assert_eq!(ask((Inbound, "expired"), 0), Some(0));
        assert_eq!(ask((Inbound, "expired"), 1), None);
        assert_eq!(ask((Inbound, "expired"), 59), None);
        assert_eq!(ask((Inbound, "revoked"), 59), Some(0), "another cause");
        assert_eq!(ask((Outbound, "expired"), 59), Some(0), "another side");
        assert_eq!(ask((Inbound, "expired"), 60), Some(2));
        assert_eq!(ask((Inbound, "expired"), 61), None);
        assert_eq!(ask((Inbound, "expired"), 121), Some(1));
    }
}
