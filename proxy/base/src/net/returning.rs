//! Knows a connection of the sidecar's own that comes back to it as a client's.
//!
//! Redirect rules that catch what they should leave alone bring it back, and each one that came back would make the
//! next. Both ends together say which it is: the near end alone may have its port in common with others.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::leg::Leg;
use crate::error::Error;
use pillion_model::{Direction, Reason};

/// What is open now, as hashes with a random key: a few bytes each, however many there are.
static OPEN: LazyLock<Open> = LazyLock::new(Open::default);

/// Rules that are wrong are wrong for every connection.
const TELL_EVERY: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Open {
    hashes: Mutex<HashSet<u64>>,
    key: RandomState,
}

impl Open {
    /// Addresses without what only one side of a connection knows of them (scope, flow).
    fn hash(&self, direction: Direction, near: SocketAddr, far: SocketAddr) -> u64 {
        let is_inbound = matches!(direction, Direction::Inbound);
        self.key.hash_one((is_inbound, near.ip(), near.port(), far.ip(), far.port()))
    }

    fn contains(&self, direction: Direction, near: SocketAddr, far: SocketAddr) -> bool {
        let hash = self.hash(direction, near, far);
        self.hashes.lock().contains(&hash)
    }
}

/// A connection of our own, known while it is open.
#[derive(Debug)]
pub struct Noted(u64);

impl Noted {
    pub fn new(leg: Leg, near: SocketAddr, far: SocketAddr) -> Self {
        let hash = OPEN.hash(leg.direction(), near, far);
        OPEN.hashes.lock().insert(hash);
        Self(hash)
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        OPEN.hashes.lock().remove(&self.0);
    }
}

/// Whether a client of this side is the sidecar itself, on a way that has no end. `to`: where it was going.
///
/// What goes out may come in: an application calls itself. Nothing of ours may go out once more.
pub fn is_loop(side: Direction, from: SocketAddr, to: Option<SocketAddr>) -> bool {
    let Some(to) = to else { return false };
    match side {
        Direction::Inbound => OPEN.contains(Direction::Inbound, from, to),
        Direction::Outbound => {
            OPEN.contains(Direction::Outbound, from, to) || OPEN.contains(Direction::Inbound, from, to)
        }
    }
}

/// How it is refused; told in the log once in a while.
pub fn loop_detected(from: SocketAddr, to: Option<SocketAddr>) -> Error {
    const WHY: &str = "the sidecar's own connection was redirected to it: the rules do not leave out its user, \
                       or what it sends from 127.0.0.6 and ::6";
    static TOLD: Mutex<Option<Instant>> = Mutex::new(None);
    let mut told = TOLD.lock();
    if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
        *told = Some(Instant::now());
        tracing::warn!(%from, ?to, "{WHY}");
    }
    Error::new(Reason::LoopDetected, WHY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    #[test]
    fn a_connection_of_our_own_is_known_by_both_ends_while_it_is_open() {
        let (near, far) = (at("192.0.2.1:40000"), at("192.0.2.2:80"));
        let open = Noted::new(Leg::Outbound, near, far);
        assert!(is_loop(Direction::Outbound, near, Some(far)));
        assert!(!is_loop(Direction::Inbound, near, Some(far)), "an application calls itself");
        assert!(
            !is_loop(Direction::Outbound, near, Some(at("192.0.2.2:81"))),
            "another's, from the same port"
        );
        assert!(!is_loop(Direction::Outbound, near, None));
        drop(open);
        assert!(!is_loop(Direction::Outbound, near, Some(far)));
    }

    #[test]
    fn what_goes_to_the_application_comes_back_to_neither_side() {
        let (near, far) = (at("[fd00::1]:40001"), at("[fd00::1]:80"));
        let _open = Noted::new(Leg::InboundFor(near.ip()), near, far);
        assert!(is_loop(Direction::Inbound, near, Some(far)));
        assert!(is_loop(Direction::Outbound, near, Some(far)));
    }
}
