//! Limits the log lines about failed handshakes: the first failure of each cause is logged at once, further ones at
//! most once a minute.
//!
//! A client can make handshakes fail as often as it likes, so the log must not grow with the number of failures. The
//! causes are a fixed set ([`TlsError::cause`]), so the memory for them is bounded.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{TlsError, TlsErrorKind};

/// Often enough to show that the failures go on, and seldom enough for every log.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// One for the whole process, so that workers do not repeat each other's lines.
static REPORTED: Mutex<Reported> = Mutex::new(Reported(Vec::new()));

/// With whom handshakes are made. Each kind of peer has lines of its own, so that none can hide the failures of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum With {
    /// Servers, of the mesh or outside it.
    Servers,
    /// Clients of the mesh.
    Peers,
    /// Clients outside the mesh, at the ports with `tls`.
    Outside,
}

/// Whether this failure is to be logged, and how many failures of the same cause with the same kind of peer were left out
/// since the last line. `None` for a failure that is not logged, and for a connection that was merely closed.
pub fn left_out_before(with: With, error: &TlsError) -> Option<u64> {
    if error.kind == TlsErrorKind::Closed {
        return None;
    }
    REPORTED.lock().ask((with, error.cause), Instant::now())
}

type Key = (With, &'static str);

/// The last line of each cause. At most as many entries as causes and kinds of peers.
struct Reported(Vec<(Key, Last)>);

struct Last {
    logged: Instant,
    left_out: u64,
}

impl Reported {
    /// The number of failures left out before this one. `None` when this one is left out as well.
    fn ask(&mut self, key: Key, now: Instant) -> Option<u64> {
        let Some((_, last)) = self.0.iter_mut().find(|(known, _)| *known == key) else {
            self.0.push((key, Last { logged: now, left_out: 0 }));
            return Some(0);
        };
        if now.saturating_duration_since(last.logged) < LOG_EVERY {
            last.left_out += 1;
            return None;
        }
        last.logged = now;
        Some(std::mem::take(&mut last.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use With::{Outside, Peers, Servers};

    #[test]
    fn c3_each_cause_of_a_failed_handshake_is_logged_once_a_minute_with_the_number_left_out() {
        let (mut logged, start) = (Reported(Vec::new()), Instant::now());
        let mut ask = |key, seconds| logged.ask(key, start + Duration::from_secs(seconds));
        assert_eq!(ask((Peers, "expired"), 0), Some(0));
        assert_eq!(ask((Peers, "expired"), 1), None);
        assert_eq!(ask((Peers, "expired"), 59), None);
        assert_eq!(ask((Peers, "revoked"), 59), Some(0), "another cause");
        assert_eq!(ask((Servers, "expired"), 59), Some(0), "another side");
        assert_eq!(ask((Outside, "expired"), 59), Some(0), "clients outside the mesh");
        assert_eq!(ask((Peers, "expired"), 60), Some(2));
        assert_eq!(ask((Peers, "expired"), 61), None);
        assert_eq!(ask((Peers, "expired"), 121), Some(1));
    }
}
